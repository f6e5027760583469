"""Refused answers: find the answers of the cache that a failed run of LangChain depends on, and remove them.

Callbacks announce the runs of chains: sequences, parsers, functions, graph nodes. A run has the answers of the model calls inside of it,
and the answers of the runs inside of it that have ended. If it fails with an error about a wrong value, its latest answers are removed, so
that the next call asks the model. An answer is *latest* until another model call begins in the run.

- A parser that fails refuses the latest answers of the runs around it, also if the error is caught (`include_raw=True`).
- A parser of a stream that ends without a result refuses them too: in streams, parsers skip values that do not fit.
- One error refuses once, even if it passes through many runs.
- Errors of models and of connections refuse nothing.
- A retry (LangChain tags its run `retry:attempt:2`) asks the model, unless the attempt before failed with such an error.
- Answers of one graph node are not refused by the failure of another node.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables.config import var_child_runnable_config
from layered_cache import TieredCache
from layered_cache.adapters.refusals import is_refusal, removals

if TYPE_CHECKING:
    from langchain_layered_cache._callbacks.model_runs import Run

_MOST_CHAINS = 10_000  # a run that is cancelled may never end
_MOST_ANSWERS = 64
_DEEPEST = 32
_AGENTS_NODE = "model"  # the node of create_agent: its middleware may call the model several times
_MARK = "_layered_cache_refusal"  # an attribute of errors: one of the next two
_ANSWER, _ELSEWHERE = "answer", "elsewhere"


class Place:
    """The position of a model call: the run around it, and whether it is a branch of a `RunnableParallel`."""

    __slots__ = ("is_branch", "parent")

    def __init__(self, parent: UUID | None, tags: list[str] | None) -> None:
        self.parent = parent
        self.is_branch = _has(tags, "map:key:")


@dataclass(slots=True, eq=False)
class Given:
    """The answer of one call: its entry, and the call's run, if it is known."""

    cache: TieredCache
    key: str
    run: Run | None

    @property
    def is_over(self) -> bool:
        """Whether the call has its answer."""
        return self.run is None or not self.run.live


class _Chain:
    """One run of a chain."""

    __slots__ = ("answers", "asks_again", "before", "failure", "is_agent", "is_branch", "is_node", "is_parser", "is_stream", "parent")

    def __init__(self, parent: UUID | None, tags: list[str] | None, name: object, kind: object) -> None:
        outer = None if parent is None else open_chains.get(parent)
        self.parent = parent
        self.is_parser = kind == "parser"
        self.is_branch = _has(tags, "map:key:")
        self.is_node = _has(tags, "graph:step:")
        self.is_agent = self.is_node and name == _AGENTS_NODE
        self.asks_again = outer is not None and outer.failure == _ANSWER and _has(tags, "retry:attempt:")
        self.failure: str | None = None  # the kind of the last failure of a run inside of it
        self.answers: list[Given] = []
        self.before = () if outer is None else tuple(outer.answers)
        self.is_stream = self.is_parser and any(not one.is_over for one in _refused(self))


open_chains: dict[UUID, _Chain] = {}
"""The runs that have begun and not ended, the oldest first."""


def _has(tags: list[str] | None, start: str) -> bool:
    return tags is not None and any(tag.startswith(start) for tag in tags)


def place_here() -> Place:
    """Return the place of a call that LangChain does not announce. Plain LLMs read the cache before their callbacks."""
    config = var_child_runnable_config.get()
    callbacks: Any = config.get("callbacks") if config else None
    return Place(getattr(callbacks, "parent_run_id", None), getattr(callbacks, "tags", None))


def note(place: Place, given: Given) -> bool:
    """Note that a call at *place* is *given* an answer; return True if the model must be asked for it."""
    chain = None if place.parent is None else open_chains.get(place.parent)
    if chain is None:
        return False
    again = chain.is_agent and any(one.key == given.key and one.is_over for one in chain.answers)
    if not place.is_branch:
        chain.answers = [one for one in chain.answers if not one.is_over]
    chain.answers.append(given)
    del chain.answers[:-_MOST_ANSWERS]
    return again or any(one.asks_again for one in _upwards(chain))


def of_a_model(error: BaseException) -> None:
    """Note that a model raised *error*: it refuses no answer."""
    _mark(error, _ELSEWHERE)


def _mark(error: BaseException, mark: str) -> None:
    with suppress(Exception):  # an error of a class that does not allow it is taken for a new one by each run
        setattr(error, _MARK, mark)


def _mark_of(error: BaseException) -> str | None:
    mark = getattr(error, _MARK, None)
    if mark is None and error.__cause__ is not None and getattr(error.__cause__, _MARK, None) == _ELSEWHERE:
        return _ELSEWHERE
    return mark


def _upwards(chain: _Chain) -> Iterator[_Chain]:
    """Yield *chain*, and the runs that it is inside of."""
    at: _Chain | None = chain
    for _ in range(_DEEPEST):
        if at is None:
            return
        yield at
        at = None if at.parent is None else open_chains.get(at.parent)


def _refused(chain: _Chain) -> list[Given]:
    """Return the answers that *chain* refuses if it fails: a list that may be changed."""
    if not chain.is_parser:
        return chain.answers
    for around in _upwards(chain):
        if around.answers or around.is_node:
            return around.answers
    return []


class ChainListener(BaseCallbackHandler):
    """Receives the events of all chains, in the thread or task of their caller."""

    run_inline = True
    ignore_retriever = ignore_agent = ignore_custom_event = True  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride] - properties there

    def on_chain_start(
        self,
        serialized: object,  # noqa: ARG002 - LangChain's signature
        inputs: object,  # noqa: ARG002
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Note the run."""
        open_chains[run_id] = _Chain(parent_run_id, tags, kwargs.get("name"), kwargs.get("run_type"))
        if len(open_chains) > _MOST_CHAINS:
            with suppress(RuntimeError, StopIteration):  # another thread has changed it
                open_chains.pop(next(iter(open_chains)), None)

    def on_chain_end(self, outputs: object, *, run_id: UUID, **_: Any) -> None:  # noqa: ANN401 - LangChain's signature
        """Hand the answers on to the run around it."""
        if (chain := open_chains.pop(run_id, None)) is None:
            return
        if chain.is_stream and (outputs is None or outputs == []):
            _remove(_refused(chain))
        if not chain.answers or chain.is_node or chain.parent is None:
            return
        if (outer := open_chains.get(chain.parent)) is not None:
            kept = outer.answers if chain.is_branch else [one for one in outer.answers if one not in chain.before]
            outer.answers = [*kept, *chain.answers][-_MOST_ANSWERS:]

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:  # noqa: ANN401 - LangChain's signature
        """Remove the answers that the run refuses."""
        if (chain := open_chains.pop(run_id, None)) is None:
            return
        mark = _mark_of(error)
        if mark is None and is_refusal(error, of_parser=chain.is_parser) and (refused := _refused(chain)):
            _mark(error, mark := _ANSWER)
            _remove(refused)
        if chain.parent is not None and (outer := open_chains.get(chain.parent)) is not None:
            outer.failure = mark or (_ELSEWHERE if isinstance(error, OSError) else _ANSWER)


def _remove(answers: list[Given]) -> None:
    """Remove *answers* from the cache, and from the list."""
    for given in [*answers]:
        removals.remove(given.cache, given.key)
    answers.clear()
