"""Translation of errors of MongoDB's client to errors of the tier.

A reason contains the type of an error and its code, but never its text. The text may contain
documents or a URL.
"""

from __future__ import annotations

from bson.errors import BSONError
from pymongo import errors

from layered_cache._storage.redaction import redacted_text
from layered_cache.errors import ConfigurationError, TierError, TierTimeoutError, TierUnavailableError

TOO_LARGE = "larger than a document may be"

# two concurrent inserts of one key
_DUPLICATE = 11000
# errors of a server that cannot do a linearizable read
_REFUSED_READ_CONCERN = frozenset({72, 123, 148, 10107})
# permanent errors: not allowed, not understood, too large
_LASTING = frozenset({2, 9, 13, 14, 18, 20, 33, 51, 52, 53, 54, 57, 73, 121, 10334, 17280, 17419, 17420})
_LASTING_KINDS = (
    BSONError, OverflowError, errors.DocumentTooLarge, errors.ConfigurationError, errors.InvalidOperation, errors.InvalidName,
)  # fmt: skip


def translated(error: Exception, tier: str, operation: str, seconds: float) -> TierError:
    """Return the tier error for *error*, which ended an *operation* with a limit of *seconds*."""
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
    """Return the type of *error*, with its code if it has one."""
    code = code_of(error)
    return type(error).__qualname__ if code is None else f"{type(error).__qualname__} {code}"


def code_of(error: BaseException) -> int | None:
    """Return the server's code of *error*, or the first code of a batch."""
    if isinstance(error, errors.BulkWriteError):
        details = error.details
        failures = [*(details.get("writeErrors") or ()), *(details.get("writeConcernErrors") or ())]
        code = failures[0].get("code") if failures else None
    else:
        code = getattr(error, "code", None)
    return code if isinstance(code, int) else None


def timed_out(error: BaseException) -> bool:
    """Return True if *error* is a timeout, but not if no server was found."""
    if isinstance(error, errors.ServerSelectionTimeoutError):
        return False
    return error.timeout if isinstance(error, errors.PyMongoError) else isinstance(error, TimeoutError)


def is_passing(error: BaseException) -> bool:
    """Return True if a retry may succeed at once.

    That is the case if a connection was lost, if the primary changed, or if two callers inserted
    the same key.
    """
    if timed_out(error):
        return False
    return isinstance(error, errors.ConnectionFailure) or code_of(error) == _DUPLICATE


def refuses_linearizable(error: BaseException) -> bool:
    """Return True if the server does not support a linearizable read.

    It is a single server or too old.
    """
    return isinstance(error, errors.OperationFailure) and code_of(error) in _REFUSED_READ_CONCERN


def misspelt(error: Exception, url: str) -> ConfigurationError:
    """Return the error for a *url* that the client rejects.

    The text of the client may contain a part of a misspelt password.
    """
    scheme, _, rest = url.partition("://")
    if "@" in rest and isinstance(error, errors.InvalidURI):
        return ConfigurationError(f"the URL of {scheme}:// cannot be read. Percent-encode the name and the password")
    return ConfigurationError(f"the URL of {scheme}:// cannot be read: {redacted_text(str(error))}")
