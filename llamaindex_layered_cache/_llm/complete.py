"""Calls that do not stream: a memory hit returns at once, the engine handles the rest with one request for equal calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from layered_cache import Answer, Entry
from layered_cache.adapters.cached_call import Ask, check_only_cached, note_failure
from layered_cache.adapters.refusals import removals

from llamaindex_layered_cache._llm.call import Call
from llamaindex_layered_cache._llm.hit_events import listener
from llamaindex_layered_cache._llm.refusals import note
from llamaindex_layered_cache._llm.response_codec import Response, decode


def answered(call: Call, method: str, live: Callable[[], Response]) -> Response:
    """Return the cached result of *live*, the model's own *method*, or call it.

    Raises:
        CacheMiss: If there is no entry and the caller allows no request.
    """
    if call.request is None:
        check_only_cached(call.options)
        return live()
    if removals.pending and call.key is not None:
        removals.settle(call.key)
    if (response := _at_hand(call)) is None:
        ask = _Ask(call, live=live)
        response = ask.answered()
        if ask.is_live:
            note(call, response)
            return response
    note(call, response)
    if (hit := listener(call, method)) is not None:
        hit.whole(response)
    return response


async def aanswered(call: Call, method: str, live: Callable[[], Awaitable[Response]]) -> Response:
    """See answered."""
    if call.request is None:
        check_only_cached(call.options)
        return await live()
    if removals.pending and call.key is not None:
        await removals.asettle(call.key)
    if (response := _at_hand(call)) is None:
        ask = _Ask(call, alive=live)
        response = await ask.aanswered()
        if ask.is_live:
            note(call, response)
            return response
    note(call, response)
    if (hit := listener(call, method)) is not None:
        hit.whole(response)
    return response


def _at_hand(call: Call) -> Response | None:
    """Return the answer from memory; None if there is none."""
    if call.key is None or not call.options.looks:
        return None
    try:
        if (value := call.cache.peek(call.key)) is None:
            return None
        return decode(value, call.keeper.how.raw)
    except ValueError as error:
        call.unreadable(call.key, error)
    except Exception as error:  # noqa: BLE001 - the model is called in any case
        note_failure(call.cache, "lookup", error)
    return None


class _Ask(Ask[Response]):
    """A call of a model. `is_live` is True once the model was called for this caller."""

    def __init__(
        self, call: Call, *, live: Callable[[], Response] | None = None, alive: Callable[[], Awaitable[Response]] | None = None
    ) -> None:
        assert call.request is not None  # noqa: S101 - for the type checker: a call without a request is not cached
        super().__init__(call.cache, call.options, call.request)
        self._call = call
        self._live = live
        self._alive = alive
        self.is_live = False

    def compute(self) -> Response:
        self.is_live = True
        assert self._live is not None  # noqa: S101 - for the type checker: threads have it
        return self._live()

    async def acompute(self) -> Response:
        self.is_live = True
        assert self._alive is not None  # noqa: S101 - for the type checker: tasks have it
        return await self._alive()

    def compute_alone(self) -> Response:
        assert self._live is not None  # noqa: S101 - see compute
        self._call.starts()
        return self._live()

    async def acompute_alone(self) -> Response:
        assert self._alive is not None  # noqa: S101 - see acompute
        self._call.starts()
        return await self._alive()

    def written(self, result: Response) -> Answer | None:
        return self._call.answer([result])

    def read(self, entry: Entry) -> Response:
        return decode(entry.value, self._call.keeper.how.raw)
