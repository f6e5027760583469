"""What is said to Redis and what it says: commands as bytes, replies as values, and which of them mean trouble. No I/O.

RESP2: it needs no greeting, and nothing comes that was not asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeAlias, cast

from layered_cache.errors import MissingClientError, TierError, TierTimeoutError, TierUnavailableError
from layered_cache.tiers._redis_address import Command

Reply: TypeAlias = "bytes | int | Exception | list[Reply] | None"

# a server that says so will not serve this connection any more, or is not the one to talk to
_BAD_COMPANY = frozenset({"READONLY", "NOAUTH", "WRONGPASS", "LOADING", "MASTERDOWN", "MOVED", "ASK", "CLUSTERDOWN"})
_MEANINGS = {
    "OOM": "it is full",
    "READONLY": "it is a replica",
    "LOADING": "it is loading its data",
    "NOAUTH": "it asks for a password",
    "WRONGPASS": "it does not take the password",
    "NOPERM": "this user may not do that; see the ACL in the README",
    "MISCONF": "it cannot write to its disk",
    "NOREPLICAS": "it has too few replicas",
    "MOVED": "it is a cluster: use redis+cluster://",
    "CLUSTERDOWN": "the cluster is down",
}
_BY_CLASS = {  # redis-py takes the code off the text
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
    """What came is no answer to what was asked: the connection is out of step and must not be used any more."""


def load_hiredis() -> ModuleType:
    """Return the library that reads replies.

    Raises:
        MissingClientError: It is not installed.
    """
    try:
        import hiredis  # noqa: PLC0415 - lazy, as all clients
    except ImportError as error:
        msg = "redis:// needs hiredis"
        raise MissingClientError(msg, "redis") from error
    return hiredis


class Wire:
    """Packs commands and makes readers of replies."""

    def __init__(self) -> None:
        hiredis: Any = load_hiredis()
        self._pack = hiredis.pack_command
        self._reader = hiredis.Reader
        self.malformed: type[Exception] = hiredis.ProtocolError

    def pack(self, commands: Sequence[Command]) -> bytes:
        """Return *commands* as they go over the wire, one after the other."""
        if len(commands) == 1:
            return self._pack(commands[0])
        return b"".join(map(self._pack, commands))

    def reader(self) -> Any:  # noqa: ANN401 - of a library without types
        """Return what is fed with bytes and gives replies; `NOTHING` if there is no whole one."""
        return self._reader(notEnoughData=NOTHING)


NOTHING = object()


def scanned(reply: object) -> tuple[int, list[bytes]]:
    """Return what the reply to a SCAN holds: where to go on (0: nowhere) and names. redis-py has read it already, or not.

    Raises:
        OutOfStepError: It is no such reply.
    """
    try:
        cursor, names = cast("tuple[object, list[bytes]]", reply)
        if isinstance(cursor, dict):  # of a cluster: by server
            cursor = next(iter(cast("dict[str, int]", cursor).values()))
        return int(cast("int", cursor)), list(names)
    except (TypeError, ValueError, StopIteration) as error:
        raise OutOfStepError from error


def code_of(error: Exception) -> str:
    """Return the word by which Redis names *error*."""
    if named := _BY_CLASS.get(type(error).__name__):
        return named
    word = str(error).partition(" ")[0]
    return word if word.isascii() and word.isupper() else type(error).__name__


def is_bad_company(error: Exception) -> bool:
    """Whether the connection on which *error* came should be given up."""
    return code_of(error) in _BAD_COMPANY


def refused(tier: str, operation: str, error: Exception) -> TierError:
    """Return what *error*, a reply of Redis, is to the engine. Its text is not told: it may repeat what was sent."""
    code = code_of(error)
    # too large, or of a wrong type, stays so; everything else may be over in a moment
    lasting = code in {"ERR", "WRONGTYPE", "NOPERM"}
    return TierUnavailableError(tier, operation, _MEANINGS.get(code, f"it answered {code}"), retryable=not lasting)


def unreachable(tier: str, operation: str, error: BaseException) -> TierError:
    """Return what *error*, of a connection, is to the engine."""
    if isinstance(error, TierError):
        return error
    if isinstance(error, TimeoutError):
        return TierTimeoutError(tier, operation, "took longer than its budget")
    if isinstance(error, Exception) and type(error).__name__ == "ReplyError":  # to the greeting
        return refused(tier, operation, error)
    if isinstance(error, OutOfStepError):
        return TierUnavailableError(tier, operation, "the connection was out of step and is dropped")
    if isinstance(error, ConnectionRefusedError):
        return TierUnavailableError(tier, operation, "the connection was refused")
    return TierUnavailableError(tier, operation, f"the connection failed: {type(error).__name__}")
