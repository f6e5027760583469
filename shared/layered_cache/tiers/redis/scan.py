"""Search of entries in a Redis by namespace: SCAN with the prefix of the keys.

Each step has the timeout of the tier. The server walks through all its keys, so this is only for
clearing, counting or listing a namespace. A key may be found twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from layered_cache._storage.envelope import decode_facts
from layered_cache._storage.rules import Scope
from layered_cache.entry import Entry
from layered_cache.errors import TierError
from layered_cache.keys.keys import key_prefix, namespace_of
from layered_cache.tiers.base import Page
from layered_cache.tiers.redis.resp import OutOfStepError, Reply, refused, scanned, unreachable
from layered_cache.tiers.redis.transports import Driver
from layered_cache.tiers.redis.url import Command

_BATCH = 500
# size of the part of an envelope that contains its facts
_BEGINNING = 4096
# for errors
_OPERATION = "search"


class Search:
    """The searches of one tier.

    Args:
        tier: The tier name in errors.
        driver: Executes the commands.
        timeout: The time limit of a step in seconds.
    """

    def __init__(self, tier: str, driver: Driver, timeout: float) -> None:
        self._tier = tier
        self._driver = driver
        self._timeout = timeout

    def batches(self, namespace: str, scope: Scope) -> Iterator[list[str]]:
        """Yield keys of *namespace* that *scope* may match.

        If *namespace* ends with `/`, the namespaces below it are included.
        """
        if scope.keys:
            yield [key for key in scope.keys if _within(namespace_of(key), namespace)]
            return
        for prefix in (
            key_prefix(namespace.removesuffix("/")),
            *([key_prefix(namespace).removesuffix(":")] if namespace.endswith("/") else []),
        ):
            for server in self._driver.servers(self._timeout):
                cursor = 0
                while True:
                    cursor, keys = self._scanned(self._driver.run_on(server, _OPERATION, _scan(cursor, prefix), self._timeout))
                    yield [key for key in keys if _within(namespace_of(key), namespace)]
                    if not cursor:
                        break

    def facts(self, keys: Sequence[str]) -> list[Entry]:
        """Return the entries of *keys* without their values."""
        if not keys:
            return []
        commands: list[Command] = [("GETRANGE", key.encode("utf-8", "surrogatepass"), 0, _BEGINNING - 1) for key in keys]
        replies = self._driver.run(_OPERATION, commands, self._timeout)
        entries = (decode_facts(reply, key) for key, reply in zip(keys, replies, strict=True) if isinstance(reply, bytes))
        return [entry for entry in entries if entry is not None]

    # --- a page is one step on one server; `after` names server and cursor

    def page(self, namespace: str, after: str | None) -> Page:
        """Return a page of keys (see `Listable.list_keys`)."""
        number, cursor = _place(after)
        servers = self._driver.servers(self._timeout)
        # there were more servers when the listing began
        if number >= len(servers):
            return [], None
        reply = self._driver.run_on(servers[number], _OPERATION, _scan(cursor, key_prefix(namespace)), self._timeout)
        return self._page(reply, namespace, number, len(servers))

    async def apage(self, namespace: str, after: str | None) -> Page:
        """Return a page of the keys of the only server."""
        _, cursor = _place(after)
        (reply,) = await self._driver.arun(_OPERATION, [_scan(cursor, key_prefix(namespace))], self._timeout)
        return self._page(reply, namespace, 0, 1)

    def _page(self, reply: Reply, namespace: str, number: int, servers: int) -> Page:
        cursor, keys = self._scanned(reply)
        number += not cursor
        return [key for key in keys if namespace_of(key) == namespace], f"{number} {cursor}" if number < servers else None

    def _scanned(self, reply: Reply) -> tuple[int, list[str]]:
        if isinstance(reply, Exception):
            # the text of the error may repeat the command
            raise refused(self._tier, _OPERATION, reply) from None
        try:
            cursor, names = scanned(reply)
        except OutOfStepError:
            raise self._out_of_step() from None
        return cursor, [text for name in names if (text := _text_of(name)) is not None]

    def _out_of_step(self) -> TierError:
        self._driver.drop()
        return unreachable(self._tier, _OPERATION, OutOfStepError())


def _text_of(name: bytes) -> str | None:
    try:
        return name.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        # not a text, so not a key of this cache
        return None


def _place(after: str | None) -> tuple[int, int]:
    number, _, cursor = (after or "0 0").partition(" ")
    return int(number), int(cursor)


def _scan(cursor: int, prefix: str) -> Command:
    return ("SCAN", cursor, "MATCH", _escaped(prefix) + "*", "COUNT", _BATCH)


def _within(namespace: str, where: str) -> bool:
    return namespace == where or (where.endswith("/") and (namespace == where[:-1] or namespace.startswith(where)))


def _escaped(prefix: str) -> str:
    return "".join("\\" + character if character in "\\*?[]^-" else character for character in prefix)
