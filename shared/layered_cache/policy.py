"""The settings of one cache, in one frozen object.

Use `dataclasses.replace` to vary it. A duration is a number of seconds, a `timedelta` or a text
such as `7d`. A size is a number of bytes or a text such as `64MiB`. Both are stored as numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from layered_cache._storage import envelope
from layered_cache._util.durations import Duration, Size, seconds, size
from layered_cache.entry import Answer, Entry, Request, Ticket, whole_microseconds
from layered_cache.errors import ConfigurationError

Write = Literal["through", "behind"]
StoreRequests = Literal["full", "hash"]
NotStored = Literal["empty", "length", "filter", "policy", "policy failed", "too large", "expired"]

DAY = 86_400.0
# Unix seconds, in the year 2106; for larger numbers a float cannot represent microseconds
FOR_EVER = 4_294_967_295.0
# seconds: a faster answer was not computed but set
_INSTANT = 1e-3

# names of the providers for parameters that request an answer of limited length
_LENGTH_LIMITS = frozenset({
    "max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "max_tokens_to_sample", "maxTokens",
    "maxOutputTokens", "max_length", "num_predict", "n_predict",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules for storing answers, and the behaviour on failures.

    Args:
        keep_for: The time after which an answer expires.
        fresh_for: The time after which an answer is stale and is refreshed. The default is
            `keep_for`.
        write: `"through"` waits for each tier within its timeout; `"behind"` waits for memory only.
        single_flight: Concurrent callers of one request share one computation.
        max_wait: The longest time that a caller waits for the computation of another caller. Then
            it computes alone.
        cacheable: Replaces the default rule for admission: `(request, answer) -> bool`.
        max_entry_bytes: Larger answers are not stored, and the older answer of their key is erased.
            The default and maximum is 64 MiB.
        store_requests: `"full"` stores redacted requests and answers as readable text in queryable
            tiers; `"hash"` does not.
        fail_open: A failing tier counts as an empty one. If False, reads and writes of the engine,
            of embeddings and of stores raise its `TierError`. Models of LangChain and LlamaIndex
            continue without the cache in both cases.
        max_staleness: The time after which an invalidation takes effect in other processes.
        strict_invalidation: Serve nothing while the invalidation log cannot be read.
        max_unverified: The time for which the last known log is used otherwise.
        tenant_required: Adapters raise `TenantRequiredError` for calls without a tenant
            (`cache_options(namespace=...)`).
        separate_accounts: Answers that were given to one API key are served only to this key. The
            key itself is not stored.
        queue_bytes: The limit of the background write queue. Older writes are dropped and counted.

    Raises:
        ConfigurationError: If a value is invalid. The message names the option.
    """

    keep_for: Duration = 30 * DAY
    fresh_for: Duration | None = None
    write: Write = "through"
    single_flight: bool = True
    max_wait: Duration = 60.0
    cacheable: Callable[[Request, Answer], bool] | None = None
    max_entry_bytes: Size = envelope.MAX_VALUE
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
        if cast("int", self.max_entry_bytes) > envelope.MAX_VALUE:
            msg = f"max_entry_bytes must not be more than {envelope.MAX_VALUE}, the largest value that can be read back"
            raise ConfigurationError(msg)
        for name in ("single_flight", "fail_open", "strict_invalidation", "tenant_required", "separate_accounts"):
            if type(getattr(self, name)) is not bool:
                msg = f"{name} must be True or False, got {getattr(self, name)!r}"
                raise ConfigurationError(msg)
        if cast("float", self.fresh_for) > cast("float", self.keep_for):
            msg = f"fresh_for ({self.fresh_for} s) must not be longer than keep_for ({self.keep_for} s)"
            raise ConfigurationError(msg)

    def refuses(self, request: Request, answer: Answer) -> NotStored | None:
        """Return the reason why *answer* is not stored, or None.

        By default three kinds of answers are not stored: empty ones, those that a content filter
        withheld, and those that were cut by a length limit which the request did not set.
        """
        if self.is_too_large(answer):
            return "too large"
        if answer.keep_for is not None and seconds(answer.keep_for) == 0:
            return "expired"
        if self.cacheable is not None:
            try:
                return None if self.cacheable(request, answer) else "policy"
            except Exception:  # noqa: BLE001 - an error of the user's rule must not lose the answer
                return "policy failed"
        if answer.empty:
            return "empty"
        if answer.finish == "filter":
            return "filter"
        if answer.finish == "length" and not _asks_for_length(request.params):
            return "length"
        return None

    def is_too_large(self, answer: Answer) -> bool:
        """Return True if *answer* is larger than the limit of an entry."""
        return len(answer.value) > cast("int", self.max_entry_bytes)

    def entry(self, request: Request, answer: Answer, *, key: str, namespace: str, born: Ticket, started: float, now: float) -> Entry:
        """Return the entry of *answer*. Its computation started at *started* (Unix seconds)."""
        keep_for = cast("float", self.keep_for if answer.keep_for is None else seconds(answer.keep_for))
        # The default is the lifetime, even if the answer sets it.
        fresh_for = keep_for if self.fresh_for == self.keep_for else min(cast("float", self.fresh_for), keep_for)
        readable = self.store_requests == "full"
        # The times count from the end of the computation, so that a slow model does not shorten the
        # lifetime.
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
    """Return True if *params* limit the length of the answer.

    Adapters nest the parameters of the model and of the call one level deeper.
    """
    return any(
        name in _LENGTH_LIMITS or (isinstance(value, Mapping) and not _LENGTH_LIMITS.isdisjoint(cast("Mapping[str, object]", value)))
        for name, value in params.items()
    )
