"""The protocol of Redis, without I/O: commands as bytes, replies as values, meaning of errors.

The version is RESP2. It needs no handshake, and the server sends nothing without a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeAlias, cast

from layered_cache.errors import MissingClientError, TierError, TierTimeoutError, TierUnavailableError
from layered_cache.tiers.redis.url import Command

Reply: TypeAlias = "bytes | int | Exception | list[Reply] | None"

# After one of these errors the server does not serve the connection any more, or it is the wrong
# server.
_BAD_COMPANY = frozenset({"READONLY", "NOAUTH", "WRONGPASS", "LOADING", "MASTERDOWN", "MOVED", "ASK", "CLUSTERDOWN"})
_MEANINGS = {
    "OOM": "Redis is full",
    "READONLY": "the server is a replica",
    "LOADING": "the server is loading its data",
    "NOAUTH": "the server requires a password",
    "WRONGPASS": "the server rejected the password",
    "NOPERM": "the user lacks a permission. See the ACL in the documentation",
    "MISCONF": "the server cannot write to its disk",
    "NOREPLICAS": "the server has too few replicas",
    "MOVED": "the server is part of a cluster. Use redis+cluster://",
    "CLUSTERDOWN": "the cluster is down",
}
# redis-py removes the code from the text
_BY_CLASS = {
    "AuthenticationError": "WRONGPASS",
    "AuthenticationWrongNumberOfArgsError": "WRONGPASS",
    "BusyLoadingError": "LOADING",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
}


class OutOfStepError(Exception):
    """The reply does not belong to the request, so the connection must not be used any more."""


def load_hiredis() -> ModuleType:
    """Return the module that parses replies.

    Raises:
        MissingClientError: If hiredis is not installed.
    """
    try:
        import hiredis  # noqa: PLC0415 - lazy, like all client libraries
    except ImportError as error:
        msg = "redis:// needs hiredis"
        raise MissingClientError(msg, "redis") from error
    return hiredis


class Wire:
    """Packs commands and creates parsers of replies."""

    def __init__(self) -> None:
        hiredis: Any = load_hiredis()
        self._pack = hiredis.pack_command
        self._reader = hiredis.Reader
        self.malformed: type[Exception] = hiredis.ProtocolError

    def pack(self, commands: Sequence[Command]) -> bytes:
        """Return *commands* as bytes, one after the other."""
        if len(commands) == 1:
            return self._pack(commands[0])
        return b"".join(map(self._pack, commands))

    def reader(self) -> Any:  # noqa: ANN401 - the library has no types
        """Return a parser of replies. It returns `NOTHING` if the reply is incomplete."""
        return self._reader(notEnoughData=NOTHING)


NOTHING = object()


def scanned(reply: object) -> tuple[int, list[bytes]]:
    """Return the cursor and the names in the reply to a SCAN. Cursor 0 means the end.

    redis-py has already parsed the reply, hiredis has not.

    Raises:
        OutOfStepError: If it is not the reply to a SCAN.
    """
    try:
        cursor, names = cast("tuple[object, list[bytes]]", reply)
        # the reply of a cluster, by server
        if isinstance(cursor, dict):
            cursor = next(iter(cast("dict[str, int]", cursor).values()))
        return int(cast("int", cursor)), list(names)
    except (TypeError, ValueError, StopIteration) as error:
        raise OutOfStepError from error


def code_of(error: Exception) -> str:
    """Return the code of a Redis error."""
    if named := _BY_CLASS.get(type(error).__name__):
        return named
    word = str(error).partition(" ")[0]
    return word if word.isascii() and word.isupper() else type(error).__name__


def is_bad_company(error: Exception) -> bool:
    """Return True if the connection must be closed after *error*."""
    return code_of(error) in _BAD_COMPANY


def refused(tier: str, operation: str, error: Exception) -> TierError:
    """Return the tier error for *error*, an error reply.

    The text of *error* is left out, because it may repeat the command.
    """
    code = code_of(error)
    # these errors are permanent; all other errors may be temporary
    lasting = code in {"ERR", "WRONGTYPE", "NOPERM"}
    return TierUnavailableError(tier, operation, _MEANINGS.get(code, f"the server returned {code}"), retryable=not lasting)


def unreachable(tier: str, operation: str, error: BaseException) -> TierError:
    """Return the tier error for *error*, an error of the connection."""
    if isinstance(error, TierError):
        return error
    if isinstance(error, TimeoutError):
        return TierTimeoutError(tier, operation, "took longer than its budget")
    # an error reply to the greeting
    if isinstance(error, Exception) and type(error).__name__ == "ReplyError":
        return refused(tier, operation, error)
    if isinstance(error, OutOfStepError):
        return TierUnavailableError(tier, operation, "the connection was out of step and was dropped")
    if isinstance(error, ConnectionRefusedError):
        return TierUnavailableError(tier, operation, "the connection was refused")
    return TierUnavailableError(tier, operation, f"the connection failed: {type(error).__name__}")
