"""All exceptions of this package.

    CacheError
    ├── ConfigurationError (ValueError)     an option is wrong; raised before any I/O
    │   └── MissingClientError (ImportError) a library is not installed; the message has the command
    ├── TierError                           a tier failed; .tier .operation .retryable
    │   ├── TierUnavailableError            refused, reset, locked, full, not writable
    │   └── TierTimeoutError (TimeoutError) longer than the tier's timeout
    ├── DeletionError                       entries may still be served after an invalidation; .failures
    ├── CacheMiss (LookupError)             a call with mode="only_cached", without an entry
    ├── TenantRequiredError (ValueError)    a call without a tenant, although the policy requires one
    ├── EncodeError                         a value that would not be equal when read back
    └── UncacheableRequestError             a request that cannot have an exact key

No message contains a prompt, an answer, or the password of a URL. Keys are hashes and may be shown.

Reads and writes raise no `TierError` unless `Policy(fail_open=False)`. `delete`, `invalidate` and
`clear` always raise their errors, because their caller must know the outcome. Errors of a `compute`
function are raised unchanged.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class CacheError(Exception):
    """The base class of all errors of this package."""


class ConfigurationError(CacheError, ValueError):
    """An option is unknown or has an invalid value."""

    @classmethod
    def unknown(cls, *, what: str, name: str, allowed: Iterable[str]) -> ConfigurationError:
        """Return the error for *name*, which is not in *allowed*, with the most similar name."""
        known = sorted(allowed)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return cls(f"unknown {what} {name!r}.{hint} Allowed: {', '.join(known) or 'none'}")


class MissingClientError(ConfigurationError, ImportError):
    """A library is not installed. The message contains the command to install it.

    Args:
        what: The part that needs the library.
        extra: The extra of layered-cache with the library.
        command: The command, if no extra has the library.
    """

    def __init__(self, what: str, extra: str = "", *, command: str = "") -> None:
        install = command or f"pip install 'layered-cache[{extra}]'"
        super().__init__(f"{what}: {install}")


class TierError(CacheError):
    """A tier failed. The client's error is `__cause__` unless its text may contain stored data."""

    def __init__(self, tier: str, operation: str, reason: str, *, retryable: bool = True) -> None:
        super().__init__(f"{tier}: {operation}: {reason}")
        self.tier = tier
        self.operation = operation
        self.reason = reason
        self.retryable = retryable


class TierUnavailableError(TierError):
    """The tier is unavailable: no connection, locked, full, read-only, not a database."""


class TierTimeoutError(TierError, TimeoutError):
    """The tier exceeded its timeout."""


class DeletionError(CacheError):
    """An invalidation could not be recorded, so its entries may still be served."""

    def __init__(self, message: str, failures: tuple[TierError, ...] = ()) -> None:
        super().__init__(message)
        self.failures = failures


# requested by the caller, so it is not an error
class CacheMiss(CacheError, LookupError):  # noqa: N818
    """The cache has no entry, and the call has `mode="only_cached"`."""


class TenantRequiredError(CacheError, ValueError):
    """A call has no tenant, although `Policy.tenant_required` is set."""


class EncodeError(CacheError, TypeError):
    """The codec cannot write a value so that it is equal when read back."""


class UncacheableRequestError(CacheError, TypeError):
    """A request contains an object that has no exact, lasting text for a key."""
