"""Finding entries in a Redis by their namespace: SCAN with the prefix of its keys, step by step, each within the tier's budget.

A server goes through all keys of all its users for that, so it is for those who clear, count or list a namespace. A key may come twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from layered_cache.entry import Entry
from layered_cache.errors import TierError
from layered_cache.invalidation import Scope
from layered_cache.keys import key_prefix, namespace_of
from layered_cache.tiers._redis_address import Command
from layered_cache.tiers._redis_drivers import Driver
from layered_cache.tiers._redis_wire import OutOfStepError, Reply, refused, scanned, unreachable
from layered_cache.tiers._tier import Page
from layered_cache.wire import decode_facts

_BATCH = 500
_BEGINNING = 4096  # bytes of an envelope that are enough to tell what it is
_OPERATION = "search"  # for errors


class Search:
    """The searches of one tier.

    Args:
        tier: The name to report errors under.
        driver: Carries out commands.
        timeout: The budget of a step, in seconds.
    """

    def __init__(self, tier: str, driver: Driver, timeout: float) -> None:
        self._tier = tier
        self._driver = driver
        self._timeout = timeout

    def batches(self, namespace: str, scope: Scope) -> Iterator[list[str]]:
        """Yield keys of *namespace* that *scope* may match; with a `/` behind it, also of those below it."""
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
        """Return what is held for *keys*, without values."""
        if not keys:
            return []
        commands: list[Command] = [("GETRANGE", key.encode("utf-8", "surrogatepass"), 0, _BEGINNING - 1) for key in keys]
        replies = self._driver.run(_OPERATION, commands, self._timeout)
        entries = (decode_facts(reply, key) for key, reply in zip(keys, replies, strict=True) if isinstance(reply, bytes))
        return [entry for entry in entries if entry is not None]

    # --- a page is one step of one server's; `after` names both

    def page(self, namespace: str, after: str | None) -> Page:
        """See Listable.list_keys."""
        number, cursor = _place(after)
        servers = self._driver.servers(self._timeout)
        if number >= len(servers):  # there were more when the listing began
            return [], None
        reply = self._driver.run_on(servers[number], _OPERATION, _scan(cursor, key_prefix(namespace)), self._timeout)
        return self._page(reply, namespace, number, len(servers))

    async def apage(self, namespace: str, after: str | None) -> Page:
        """See page: of the one server that there is."""
        _, cursor = _place(after)
        (reply,) = await self._driver.arun(_OPERATION, [_scan(cursor, key_prefix(namespace))], self._timeout)
        return self._page(reply, namespace, 0, 1)

    def _page(self, reply: Reply, namespace: str, number: int, servers: int) -> Page:
        cursor, keys = self._scanned(reply)
        number += not cursor
        return [key for key in keys if namespace_of(key) == namespace], f"{number} {cursor}" if number < servers else None

    def _scanned(self, reply: Reply) -> tuple[int, list[str]]:
        if isinstance(reply, Exception):
            raise refused(self._tier, _OPERATION, reply) from None  # its text may repeat what was sent
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
    except UnicodeDecodeError:  # no text, so no key of ours
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
