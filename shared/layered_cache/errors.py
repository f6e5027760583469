"""Every exception of this package, in one tree.

    CacheError
    ├── ConfigurationError (ValueError)     an option is wrong; raised before any I/O
    │   └── MissingClientError (ImportError) a library is not installed; the message has the command
    ├── TierError                           a tier could not serve; .tier .operation .retryable
    │   ├── TierUnavailableError            refused, reset, locked, full, not writable
    │   └── TierTimeoutError (TimeoutError) longer than the tier's budget
    ├── DeletionError                       what was asked to be removed may still be served; .failures
    ├── CacheMiss (LookupError)             a call that may only be answered from the cache, and is not
    ├── TenantRequiredError (ValueError)    a call that names no tenant, where the policy requires one
    ├── EncodeError                         a value that would not come back equal
    └── UncacheableRequestError             a request from which no exact key can be made

Law: no message holds a prompt, an answer, or the password of a URL. Keys are hashes and may be shown.

Reads and writes raise no `TierError` unless `Policy(fail_open=False)`. `delete`, `invalidate` and `clear` always report:
who asked for removal must know. Errors of a `compute` function pass through unchanged.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class CacheError(Exception):
    """Base of all errors that this package raises."""


class ConfigurationError(CacheError, ValueError):
    """An option is unknown or has a value that is not allowed."""

    @classmethod
    def unknown(cls, *, what: str, name: str, allowed: Iterable[str]) -> ConfigurationError:
        """Return the error for *name*, which is not one of *allowed*, with the nearest spelling."""
        known = sorted(allowed)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return cls(f"unknown {what} {name!r}.{hint} Allowed: {', '.join(known) or 'none'}")


class MissingClientError(ConfigurationError, ImportError):
    """A library is not installed. The message has the command that installs it.

    Args:
        what: The part that needs the library.
        extra: The extra of layered-cache with the library.
        command: The command, where no extra has the library.
    """

    def __init__(self, what: str, extra: str = "", *, command: str = "") -> None:
        install = command or f"pip install 'layered-cache[{extra}]'"
        super().__init__(f"{what}: {install}")


class TierError(CacheError):
    """A tier could not serve a request. The client's own error is `__cause__`, where its text holds nothing that was stored."""

    def __init__(self, tier: str, operation: str, reason: str, *, retryable: bool = True) -> None:
        super().__init__(f"{tier}: {operation}: {reason}")
        self.tier = tier
        self.operation = operation
        self.reason = reason
        self.retryable = retryable


class TierUnavailableError(TierError):
    """The tier refused: no connection, locked, full, read-only, not a database."""


class TierTimeoutError(TierError, TimeoutError):
    """The tier took longer than its budget."""


class DeletionError(CacheError):
    """A removal could not be recorded: what was to be removed may still be served."""

    def __init__(self, message: str, failures: tuple[TierError, ...] = ()) -> None:
        super().__init__(message)
        self.failures = failures


class CacheMiss(CacheError, LookupError):  # noqa: N818 - no error: it is what was asked for
    """The cache has no answer, and the call said `mode="only_cached"`."""


class TenantRequiredError(CacheError, ValueError):
    """A call names no tenant, and `Policy.tenant_required` says that it must."""


class EncodeError(CacheError, TypeError):
    """A value that the codec cannot write so that it comes back equal."""


class UncacheableRequestError(CacheError, TypeError):
    """A request holds something from which no exact, lasting key can be made."""
