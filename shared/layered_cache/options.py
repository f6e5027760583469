"""What one call may decide for itself, and how it says so.

    with cache_options(namespace="tenant-7", ttl="5m", tags=["prices"]):
        chain.invoke(...)

Options are values; the contexts nest, and what is said inside counts more (tags add up). Adapters read them with `current_options`, at the
moment of the call, in the thread or task of the caller: they follow `contextvars`, into tasks and into threads that copy the context.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, cast, get_args

from layered_cache.entry import checked_tags
from layered_cache.errors import ConfigurationError
from layered_cache.units import Duration, seconds

Mode = Literal["default", "refresh", "bypass", "only_cached", "read_only"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """The options of one call. None: as the cache's policy says.

    Args:
        ttl: How long its answer may be served: seconds, a `timedelta`, or a text such as `"5m"`.
        tags: Labels of its answer, for `invalidate(tag=...)`.
        namespace: The name of a child namespace, a tenant say: what is stored there is found there only.
        mode: `"refresh"` asks the model and stores; `"bypass"` leaves the cache out; `"only_cached"` raises `CacheMiss` instead of asking
            the model; `"read_only"` stores nothing.
        sample: Which of several answers to one request is meant: 0, 1, 2 ... Each has its own entry.
        single_flight: Whether it may wait for an equal call that is under way, and others for it.
        account: On whose behalf it is made; a part of the key. Kept as a fingerprint. Not in metadata, which is shown to tracers.

    Raises:
        ConfigurationError: A value is not allowed; the message names the option.
    """

    ttl: Duration | None = None
    tags: Iterable[str] = ()
    namespace: str | None = None
    mode: Mode = "default"
    sample: int = 0
    single_flight: bool | None = None
    account: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.ttl is not None:
            object.__setattr__(self, "ttl", seconds(self.ttl, "ttl"))
        object.__setattr__(self, "tags", checked_tags((self.tags,) if isinstance(self.tags, str) else self.tags))
        for name in ("namespace", "account"):
            value = cast("object", getattr(self, name))
            if value is not None and not (isinstance(value, str) and value):
                msg = f"{name} must be a text that is not empty, not a {type(value).__qualname__}"
                raise ConfigurationError(msg)
        if self.mode not in MODES:
            raise ConfigurationError.unknown(what="mode", name=str(self.mode), allowed=MODES)
        if type(self.sample) is not int or self.sample < 0:
            msg = f"sample must be a whole number >= 0, not {self.sample!r}"
            raise ConfigurationError(msg)
        if self.single_flight is not None and type(self.single_flight) is not bool:
            msg = f"single_flight must be True or False, not {self.single_flight!r}"
            raise ConfigurationError(msg)

    @property
    def keep_for(self) -> float | None:
        """The ttl in seconds."""
        return cast("float | None", self.ttl)

    @property
    def labels(self) -> tuple[str, ...]:
        """The tags, each once."""
        return cast("tuple[str, ...]", self.tags)

    @property
    def looks(self) -> bool:
        """Whether it may be answered from the cache."""
        return self.mode not in {"refresh", "bypass"}

    @property
    def stores(self) -> bool:
        """Whether its answer may be stored."""
        return self.mode in {"default", "refresh"}

    def with_(self, said: Mapping[str, object]) -> CallOptions:
        """Return these options with what is *said* by name counting more; tags add up.

        Raises:
            ConfigurationError: A name or a value is not allowed.
        """
        for name in said:
            if name not in OPTIONS:
                raise ConfigurationError.unknown(what="option of a call", name=str(name), allowed=OPTIONS)
        given = {name: value for name, value in said.items() if value is not None}
        found = dataclasses.replace(self, **given)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - it checks them
        return dataclasses.replace(found, tags=(*self.labels, *found.labels)) if self.labels and "tags" in given else found


OPTIONS = tuple(field.name for field in dataclasses.fields(CallOptions))
NO_OPTIONS = CallOptions()

_current: ContextVar[CallOptions] = ContextVar("layered_cache_options", default=NO_OPTIONS)


def current_options() -> CallOptions:
    """Return what the contexts around the caller say."""
    return _current.get()


@contextmanager
def cache_options(
    *,
    ttl: Duration | None = None,
    tags: Iterable[str] | None = None,
    namespace: str | None = None,
    mode: Mode | None = None,
    sample: int | None = None,
    single_flight: bool | None = None,
    account: str | None = None,
) -> Generator[CallOptions]:
    """Have every call inside the block go by these options: see `CallOptions`. What is None is as outside.

    Not around a `yield`: a generator runs in the context of whoever asks it for the next item, so that the block may be left before it is
    over (a web framework asks in other threads), or go on for its caller. Enter it where the whole is consumed.

    Raises:
        ConfigurationError: A value is not allowed.
    """
    said = {
        "ttl": ttl,
        "tags": tags,
        "namespace": namespace,
        "mode": mode,
        "sample": sample,
        "single_flight": single_flight,
        "account": account,
    }
    token = _current.set(_current.get().with_(said))
    try:
        yield _current.get()
    finally:
        with suppress(ValueError):  # a generator that was begun in one context and is closed in another: that one never had them
            _current.reset(token)


def fingerprint(account: str) -> str:
    """Return what stands for *account*, which may be a secret, in keys: it is the same everywhere, and does not tell the account."""
    return hmac.new(b"layered-cache account", account.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]
