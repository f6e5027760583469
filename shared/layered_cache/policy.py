"""How long, how often, how much: the decisions of one cache, in one frozen object.

Vary it by `dataclasses.replace`. A duration is a number of seconds, a `timedelta` or a
text such as `7d`; a size is a number of bytes or a text such as `64MiB`. Both are read back as numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from layered_cache import wire
from layered_cache.entry import Answer, Entry, Request, Ticket, whole_microseconds
from layered_cache.errors import ConfigurationError
from layered_cache.units import Duration, Size, seconds, size

Write = Literal["through", "behind"]
StoreRequests = Literal["full", "hash"]
NotStored = Literal["empty", "length", "filter", "policy", "policy failed", "too large", "expired"]

DAY = 86_400.0
FOR_EVER = 4_294_967_295.0  # Unix seconds, in the year 2106: beyond, floats do not tell microseconds apart
_INSTANT = 1e-3  # seconds: what took less was not computed, but set

# parameters by which a request itself asks for an answer of limited length, in the spellings of the providers
_LENGTH_LIMITS = frozenset({
    "max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "max_tokens_to_sample", "maxTokens",
    "maxOutputTokens", "max_length", "num_predict", "n_predict",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a cache keeps, and what it does when things go wrong.

    Args:
        keep_for: How long an answer may be served at all.
        fresh_for: How long it is served without refreshing it; as long as it is kept, unless given.
        write: `"through"` waits for each tier within its budget; `"behind"` waits for memory only.
        single_flight: Whether concurrent callers of one request wait for one computation.
        max_wait: How long a caller waits for another one's computation before it computes by itself.
        cacheable: Replaces the default rule of admission: `(request, answer) -> bool`.
        max_entry_bytes: Larger answers are not kept, and the older answer of their key is erased. 64 MiB, which is the most.
        store_requests: `"full"` keeps redacted requests and answers readable in tiers that can be queried; `"hash"` does not.
        fail_open: Whether a failing tier counts as an empty one. If not, reads and writes raise its `TierError`: those of
            the engine, of embeddings and stores. LangChain's and LlamaIndex's models go on without the cache all the same.
        max_staleness: How long an invalidation of another process may go unnoticed.
        strict_invalidation: Whether nothing is served while the invalidation log cannot be read.
        max_unverified: How long, otherwise, the last known log is good enough.
        tenant_required: Whether adapters refuse, by a `TenantRequiredError`, calls that name no tenant (`cache_options(namespace=...)`).
        separate_accounts: Whether answers that were given to one API key are served to this key only. The key is nowhere stored.
        queue_bytes: How much may wait to be written in the background; what is older is dropped, and counted.

    Raises:
        ConfigurationError: A value is not allowed; the message names the option.
    """

    keep_for: Duration = 30 * DAY
    fresh_for: Duration | None = None
    write: Write = "through"
    single_flight: bool = True
    max_wait: Duration = 60.0
    cacheable: Callable[[Request, Answer], bool] | None = None
    max_entry_bytes: Size = wire.MAX_VALUE
    store_requests: StoreRequests = "full"
    fail_open: bool = True
    max_staleness: Duration = 2.0
    strict_invalidation: bool = False
    max_unverified: Duration = 600.0
    tenant_required: bool = False
    separate_accounts: bool = False
    queue_bytes: Size = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("keep_for", "max_wait", "max_staleness", "max_unverified"):
            object.__setattr__(self, name, seconds(cast("float", getattr(self, name)), name))
        fresh_for = self.keep_for if self.fresh_for is None else seconds(self.fresh_for, "fresh_for")
        object.__setattr__(self, "fresh_for", fresh_for)
        for name, allowed in (("write", get_args(Write)), ("store_requests", get_args(StoreRequests))):
            if getattr(self, name) not in allowed:
                raise ConfigurationError.unknown(what=name, name=str(getattr(self, name)), allowed=allowed)
        for name in ("max_entry_bytes", "queue_bytes"):
            object.__setattr__(self, name, size(cast("Size", getattr(self, name)), name))
        if cast("int", self.max_entry_bytes) > wire.MAX_VALUE:
            msg = f"max_entry_bytes must not be more than {wire.MAX_VALUE}, the largest value that can be read back"
            raise ConfigurationError(msg)
        for name in ("single_flight", "fail_open", "strict_invalidation", "tenant_required", "separate_accounts"):
            if type(getattr(self, name)) is not bool:
                msg = f"{name} must be True or False, not {getattr(self, name)!r}"
                raise ConfigurationError(msg)
        if cast("float", self.fresh_for) > cast("float", self.keep_for):
            msg = f"fresh_for ({self.fresh_for} s) must not be longer than keep_for ({self.keep_for} s)"
            raise ConfigurationError(msg)

    def refuses(self, request: Request, answer: Answer) -> NotStored | None:
        """Return why *answer* is not kept, or None.

        By default an answer is not kept that is empty, that a content filter withheld, or that was cut by a length limit
        which the request did not ask for.
        """
        if self.is_too_large(answer):
            return "too large"
        if answer.keep_for is not None and seconds(answer.keep_for) == 0:
            return "expired"
        if self.cacheable is not None:
            try:
                return None if self.cacheable(request, answer) else "policy"
            except Exception:  # noqa: BLE001 - the user's rule must not cost the answer, which is there and is paid for
                return "policy failed"
        if answer.empty:
            return "empty"
        if answer.finish == "filter":
            return "filter"
        if answer.finish == "length" and not _asks_for_length(request.params):
            return "length"
        return None

    def is_too_large(self, answer: Answer) -> bool:
        """Return True if *answer* is larger than an entry may be."""
        return len(answer.value) > cast("int", self.max_entry_bytes)

    def entry(self, request: Request, answer: Answer, *, key: str, namespace: str, born: Ticket, started: float, now: float) -> Entry:
        """Return what the tiers shall hold of *answer*, whose computation started at *started* (Unix seconds)."""
        keep_for = cast("float", self.keep_for if answer.keep_for is None else seconds(answer.keep_for))
        # by default as long as it is kept, also where the answer itself says for how long
        fresh_for = keep_for if self.fresh_for == self.keep_for else min(cast("float", self.fresh_for), keep_for)
        readable = self.store_requests == "full"
        # the clocks run from the end of the computation: a slow model must not eat up its own answer's time
        keep_until = whole_microseconds(min(now + keep_for, FOR_EVER))
        seconds_taken = now - started if answer.compute_seconds is None else answer.compute_seconds
        return Entry(
            key=key,
            value=answer.value,
            codec=answer.codec,
            namespace=namespace,
            model=request.model if answer.model is None else answer.model,
            tags=answer.tags,
            prompt_digest=request.prompt_digest,
            created_at=whole_microseconds(started),
            fresh_until=keep_until if fresh_for == keep_for else whole_microseconds(min(now + fresh_for, FOR_EVER)),
            keep_until=keep_until,
            born=born,
            finish=answer.finish,
            usage=answer.usage,
            cost_usd=answer.cost_usd,
            compute_seconds=seconds_taken if seconds_taken > _INSTANT else None,
            request=request if readable else None,
            response=answer.response if readable else None,
        )


def _asks_for_length(params: Mapping[str, object]) -> bool:
    """Whether *params* limit the length; adapters nest the parameters of the model and of the call one level down."""
    return any(
        name in _LENGTH_LIMITS or (isinstance(value, Mapping) and not _LENGTH_LIMITS.isdisjoint(cast("Mapping[str, object]", value)))
        for name, value in params.items()
    )
