"""Tiers and policy from the environment and a TOML file. They are read only on request.

    LAYERED_CACHE_TIERS="memory:// sqlite:///answers.db"    tiers, fastest first, separated by white space
    LAYERED_CACHE_NAMESPACE="faq"
    LAYERED_CACHE_KEEP_FOR="30d"                            and every other option of Policy, by its name

    [layered-cache]                                         in layered-cache.toml; in pyproject.toml: [tool.layered-cache]
    namespace = "faq"
    keep_for = "30d"
    [[layered-cache.tiers]]
    url = "memory://"
    max_bytes = "256MiB"
    [[layered-cache.tiers]]
    url = "${CACHE_URL}"

Precedence: argument, environment, file, default. An unknown name is an error that contains the most
similar name. The parser is pydantic-settings, which is imported at the first use.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, cast

from layered_cache._storage.redaction import redacted_text
from layered_cache._util.durations import parse_duration, parse_size
from layered_cache.errors import ConfigurationError, MissingClientError
from layered_cache.policy import Policy
from layered_cache.tiers._open import open_tier
from layered_cache.tiers.base import Tier

PREFIX = "LAYERED_CACHE_"
FILE = "layered-cache.toml"
TABLE = "layered-cache"

_DURATIONS = ("keep_for", "fresh_for", "max_wait", "max_staleness", "max_unverified")
_SIZES = ("max_entry_bytes", "queue_bytes")
_NOT_IN_TEXT = "cacheable"
# Read elsewhere: LAYERED_CACHE_DIR by `default_tiers`, the rest by this project's tests.
_NOT_OURS = re.compile(r"LAYERED_CACHE_(DIR|CONFIG|REQUIRE_SERVERS|TEST_\w+)")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of environment and file. None and the empty tuple: not set."""

    tiers: tuple[str | Mapping[str, object], ...] = ()
    namespace: str | None = None
    policy: Policy = field(default_factory=Policy)

    def open_tiers(self) -> list[Tier]:
        """Return the configured tiers. No I/O is done."""
        return [open_tier(*_url_and_options(tier)) for tier in self.tiers]


def default_tiers(extra: str) -> tuple[str, str]:
    """Return the default tiers of adapters: memory, and a file in the user's cache folder.

    The variable `LAYERED_CACHE_DIR` overrides the folder.

    Args:
        extra: The extra of this package with the required libraries.
    """
    if not (folder := os.environ.get(PREFIX + "DIR")):
        try:
            import platformdirs  # noqa: PLC0415 - lazy, like all client libraries
        except ImportError as error:
            msg = "the default tiers need platformdirs"
            raise MissingClientError(msg, extra) from error
        folder = platformdirs.user_cache_path("layered-cache")
    path = Path(folder).expanduser().absolute() / "cache.sqlite3"
    return "memory://", f"sqlite:///{path}"


def load_settings(file: str | PathLike[str] | None = None) -> Settings:
    """Return the settings of the environment and of *file*.

    Without *file*, `layered-cache.toml` or `pyproject.toml` in the current folder is read.

    Raises:
        ConfigurationError: If a name or value is invalid, or if *file* cannot be read.
    """
    in_file = _read_file(file)
    _check_names(in_file)
    found = _merged(in_file)
    tiers: object = found.pop("tiers", None) or ()
    namespace = found.pop("namespace", None)
    return Settings(
        tiers=tuple(tiers.split()) if isinstance(tiers, str) else tuple(cast("list[str]", tiers)),
        namespace=cast("str | None", namespace),
        policy=Policy(**cast("dict[str, Any]", found)),
    )


def _options() -> dict[str, str]:
    """Return the options of the policy that a text can express, with the kind of text."""
    names = (option.name for option in fields(Policy) if option.name != _NOT_IN_TEXT)
    kinds = {**dict.fromkeys(_DURATIONS, "duration"), **dict.fromkeys(_SIZES, "size")}
    return {name: kinds.get(name, "plain") for name in names}


def _check_names(in_file: Mapping[str, object]) -> None:
    allowed = {"tiers", "namespace", *_options()}
    for name in in_file:
        if name not in allowed:
            raise ConfigurationError.unknown(what="option", name=name, allowed=allowed)
    for name in os.environ:
        if name.startswith(PREFIX) and not _NOT_OURS.fullmatch(name) and name.removeprefix(PREFIX).lower() not in allowed:
            raise ConfigurationError.unknown(what="variable", name=name, allowed=(PREFIX + option.upper() for option in allowed))


def _merged(in_file: Mapping[str, object]) -> dict[str, object]:
    """Return the parsed settings. The environment overrides the file."""
    try:
        # lazy, like all client libraries
        from pydantic import BeforeValidator, ValidationError, create_model  # noqa: PLC0415
        from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, PydanticBaseSettingsSource  # noqa: PLC0415
    except ImportError as error:
        msg = "configuration by environment and file needs pydantic-settings"
        raise MissingClientError(msg, "config") from error
    from typing import Annotated  # noqa: PLC0415

    class Base(BaseSettings, env_prefix=PREFIX, extra="forbid"):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return env_settings, InitSettingsSource(settings_cls, dict(in_file))

    hints = {option.name: option.type for option in fields(Policy)}
    plain: dict[str, Any] = {"bool": bool, "int": int, "Write": str, "StoreRequests": str}
    model: dict[str, Any] = {"tiers": (Annotated[Any, NoDecode], None), "namespace": (str | None, None)}
    for name, kind in _options().items():
        if kind == "plain":
            model[name] = (plain[str(hints[name])] | None, None)
        else:
            model[name] = (Annotated[Any, NoDecode, BeforeValidator(_parser(name, kind))], None)
    try:
        settings = create_model("Settings", __base__=Base, **model)()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        msg = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ConfigurationError(msg) from None
    return {name: value for name, value in settings.model_dump().items() if value is not None}


def _parser(name: str, kind: str) -> Any:  # noqa: ANN401 - the type is pydantic's
    parse = parse_duration if kind == "duration" else parse_size

    def parsed(value: object) -> object:
        return parse(value, name) if isinstance(value, str) else value

    return parsed


def _read_file(file: str | PathLike[str] | None) -> Mapping[str, object]:
    named = file or os.environ.get(PREFIX + "CONFIG")
    for path in (Path(named),) if named else (Path(FILE), Path("pyproject.toml")):
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            if not named:
                continue
            msg = f"there is no configuration file {path}"
            raise ConfigurationError(msg) from None
        except (OSError, UnicodeDecodeError) as error:
            msg = f"the configuration file {path} cannot be read: {error}"
            raise ConfigurationError(msg) from error
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            msg = f"{path} is not TOML: {error}"
            raise ConfigurationError(msg) from error
        table = content.get("tool", {}).get(TABLE) if path.name == "pyproject.toml" else content.get(TABLE, content)
        if table is not None:
            return cast("Mapping[str, object]", table)
    return {}


def _url_and_options(tier: str | Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
    options = {"url": tier} if isinstance(tier, str) else dict(tier)
    url = options.pop("url", None)
    if not isinstance(url, str):
        msg = f"a tier must have a url, got only: {', '.join(options) or 'nothing'}"
        raise ConfigurationError(msg)
    return _VARIABLE.sub(_variable, url), options


def _variable(match: re.Match[str]) -> str:
    try:
        return os.environ[match[1]]
    except KeyError:
        msg = f"the variable {match[1]} in {redacted_text(match.string)!r} is not set"
        raise ConfigurationError(msg) from None
