"""Options of a single call, and the context manager that sets them.

    with cache_options(namespace="tenant-7", ttl="5m", tags=["prices"]):
        chain.invoke(...)

Options are immutable values. The contexts nest, and inner options override outer ones, except that
tags add up. Adapters read them with `current_options` at the time of the call, in the thread or
task of the caller. They follow `contextvars` into tasks, and into threads that copy the context.
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

from layered_cache._util.durations import Duration, seconds
from layered_cache.entry import checked_tags
from layered_cache.errors import ConfigurationError

Mode = Literal["default", "refresh", "bypass", "only_cached", "read_only"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """The options of one call. None: the policy of the cache applies.

    Args:
        ttl: The lifetime of the answer: seconds, a `timedelta`, or a text such as `"5m"`.
        tags: Tags of the answer, for `invalidate(tag=...)`.
        namespace: The name of a child namespace, for example a tenant. Its entries are found only
            there.
        mode: `"refresh"` calls the model and stores; `"bypass"` does not use the cache;
            `"only_cached"` raises `CacheMiss` instead of calling the model; `"read_only"` stores
            nothing.
        sample: The number of one of several answers to a request: 0, 1, 2 ... Each has a separate
            entry.
        single_flight: Equal concurrent calls may share one computation.
        account: The account of the call, which becomes a part of the key. Only a fingerprint is
            stored. It cannot be set in metadata, which tracers can read.

    Raises:
        ConfigurationError: If a value is invalid. The message names the option.
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
                msg = f"{name} must be a text that is not empty, got a {type(value).__qualname__}"
                raise ConfigurationError(msg)
        if self.mode not in MODES:
            raise ConfigurationError.unknown(what="mode", name=str(self.mode), allowed=MODES)
        if type(self.sample) is not int or self.sample < 0:
            msg = f"sample must be a whole number >= 0, got {self.sample!r}"
            raise ConfigurationError(msg)
        if self.single_flight is not None and type(self.single_flight) is not bool:
            msg = f"single_flight must be True or False, got {self.single_flight!r}"
            raise ConfigurationError(msg)

    @property
    def keep_for(self) -> float | None:
        """The ttl in seconds."""
        return cast("float | None", self.ttl)

    @property
    def labels(self) -> tuple[str, ...]:
        """The tags, without duplicates."""
        return cast("tuple[str, ...]", self.tags)

    @property
    def looks(self) -> bool:
        """True if the call may be answered from the cache."""
        return self.mode not in {"refresh", "bypass"}

    @property
    def stores(self) -> bool:
        """True if the answer may be stored."""
        return self.mode in {"default", "refresh"}

    def with_(self, said: Mapping[str, object]) -> CallOptions:
        """Return these options, overridden by the given ones. Tags add up.

        Raises:
            ConfigurationError: If a name or a value is invalid.
        """
        for name in said:
            if name not in OPTIONS:
                raise ConfigurationError.unknown(what="option of a call", name=str(name), allowed=OPTIONS)
        given = {name: value for name, value in said.items() if value is not None}
        # replace checks the values
        found = dataclasses.replace(self, **given)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        return dataclasses.replace(found, tags=(*self.labels, *found.labels)) if self.labels and "tags" in given else found


OPTIONS = tuple(field.name for field in dataclasses.fields(CallOptions))
NO_OPTIONS = CallOptions()

_current: ContextVar[CallOptions] = ContextVar("layered_cache_options", default=NO_OPTIONS)


def current_options() -> CallOptions:
    """Return the options of the enclosing contexts."""
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
    """Set options for every call in the block: see `CallOptions`. None: the outer value applies.

    Do not use it around a `yield`. A generator runs in the context of the caller that requests the
    next item. So the options may be lost before the block ends (a web framework may use other
    threads), or leak to the caller. Enter the block where the whole stream is consumed.

    Raises:
        ConfigurationError: If a value is invalid.
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
        # a generator that was started in one context and is closed in another, where they were
        # never set
        with suppress(ValueError):
            _current.reset(token)


def fingerprint(account: str) -> str:
    """Return the fingerprint of *account*, which may be a secret, for keys.

    It is the same in every process and does not reveal the account.
    """
    return hmac.new(b"layered-cache account", account.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]
