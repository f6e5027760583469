"""The edge at which errors of MongoDB's client become those of a tier.

A reason says the kind of an error and its code, never its text: that may hold documents, or a URL.
"""

from __future__ import annotations

from bson.errors import BSONError
from pymongo import errors

from layered_cache.errors import ConfigurationError, TierError, TierTimeoutError, TierUnavailableError
from layered_cache.redaction import redacted_text

TOO_LARGE = "larger than a document may be"

_DUPLICATE = 11000  # two who insert one key at once
_REFUSED_READ_CONCERN = frozenset({72, 123, 148, 10107})  # what says that a linearizable read is none of this server's business
# what another try will not change: not allowed, not understood, too large
_LASTING = frozenset({2, 9, 13, 14, 18, 20, 33, 51, 52, 53, 54, 57, 73, 121, 10334, 17280, 17419, 17420})
_LASTING_KINDS = (
    BSONError, OverflowError, errors.DocumentTooLarge, errors.ConfigurationError, errors.InvalidOperation, errors.InvalidName,
)  # fmt: skip


def translated(error: Exception, tier: str, operation: str, seconds: float) -> TierError:
    """Return what *error* means, which ended an *operation* that had *seconds*."""
    if isinstance(error, TierError):
        return error
    if timed_out(error):
        return TierTimeoutError(tier, operation, f"took longer than {seconds * 1000:.0f} ms")
    if isinstance(error, errors.DocumentTooLarge):
        return TierUnavailableError(tier, operation, TOO_LARGE, retryable=False)
    code = code_of(error)
    lasting = isinstance(error, _LASTING_KINDS) or code in _LASTING
    return TierUnavailableError(tier, operation, described(error), retryable=not lasting)


def described(error: BaseException) -> str:
    """Return the kind of *error*, and its code where it has one."""
    code = code_of(error)
    return type(error).__qualname__ if code is None else f"{type(error).__qualname__} {code}"


def code_of(error: BaseException) -> int | None:
    """Return the server's code for *error*; of a batch, the first one."""
    if isinstance(error, errors.BulkWriteError):
        details = error.details
        failures = [*(details.get("writeErrors") or ()), *(details.get("writeConcernErrors") or ())]
        code = failures[0].get("code") if failures else None
    else:
        code = getattr(error, "code", None)
    return code if isinstance(code, int) else None


def timed_out(error: BaseException) -> bool:
    """Whether *error* says that the time was over, and not that there was no server."""
    if isinstance(error, errors.ServerSelectionTimeoutError):
        return False
    return error.timeout if isinstance(error, errors.PyMongoError) else isinstance(error, TimeoutError)


def is_passing(error: BaseException) -> bool:
    """Whether the same call may succeed right now: a connection was lost, another server is the primary, two inserted one key."""
    if timed_out(error):
        return False
    return isinstance(error, errors.ConnectionFailure) or code_of(error) == _DUPLICATE


def refuses_linearizable(error: BaseException) -> bool:
    """Whether the server is none that could read so: it is alone, or too old."""
    return isinstance(error, errors.OperationFailure) and code_of(error) in _REFUSED_READ_CONCERN


def misspelt(error: Exception, url: str) -> ConfigurationError:
    """Return the error for a *url* that the client does not take. What the client says may hold a part of a misspelt password."""
    scheme, _, rest = url.partition("://")
    if "@" in rest and isinstance(error, errors.InvalidURI):
        return ConfigurationError(f"the URL of {scheme}:// cannot be read: are name and password percent-encoded?")
    return ConfigurationError(f"the URL of {scheme}:// cannot be read: {redacted_text(str(error))}")
