"""`configure(cache)`: what `Settings` of LlamaIndex holds is cached, until that is undone."""

from __future__ import annotations

from typing import Any, Self

from layered_cache import TieredCache
from layered_cache.adapting import engine_of
from layered_cache.config import default_tiers
from llama_index.core import Settings

from llamaindex_layered_cache._cached import OF_EMBEDDINGS, cached

_NAMES = ("llm", "embed_model")


class Configured:
    """What `configure` has done. A context: at its end it is undone.

    Args:
        cache: The tiers, or an adapter over them.
    """

    def __init__(self, cache: TieredCache) -> None:
        self.cache = cache
        self._before: dict[str, tuple[object, object]] = {}

    def apply(self, name: str, how: dict[str, Any]) -> None:
        """Have what `Settings` holds as *name* be cached; what LlamaIndex cannot make of its defaults is left alone."""
        before: object = getattr(Settings, f"_{name}")
        try:
            thing: object = getattr(Settings, name)
        except (ImportError, ValueError):  # nobody has set it, and its provider is not installed, or lacks a key
            return
        setattr(Settings, name, cached(thing, self.cache, **how))
        self._before[name] = before, getattr(Settings, f"_{name}")

    def undo(self) -> None:
        """Have `Settings` hold what it held before, but for what somebody else has set since. More than once is no error."""
        for name, (before, ours) in self._before.items():
            if getattr(Settings, f"_{name}") is ours:
                setattr(Settings, f"_{name}", before)
        self._before.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def configure(cache: TieredCache | None = None, **how: Any) -> Configured:  # noqa: ANN401 - as `cached` has them
    """Have `Settings.llm` and `Settings.embed_model` be asked through *cache*, from now on, or inside a block.

        with configure(cache):
            VectorStoreIndex.from_documents(documents).as_query_engine().query(...)

    What is set later is not cached, nor is anything that took an LLM before. *cache* is not closed with the block.

    Args:
        cache: The tiers, or an adapter over them; memory and a file in the user's cache folder, unless given.
        how: The options of `cached`; to embeddings, those count that they know: `ttl`, `namespace`, `tags`, `key_extra`.

    Raises:
        ConfigurationError: Before any I/O, if an argument is wrong, or nothing says which model it is; `Settings` are as they were then.
    """
    if cache is None:
        cache = TieredCache(*default_tiers("llamaindex"))
    engine_of(cache)  # it is a cache, or an error
    done = Configured(cache)  # not its engine, which has no `normalize`
    try:
        for name in _NAMES:
            done.apply(name, how if name == "llm" else {option: how[option] for option in OF_EMBEDDINGS if option in how})
    except BaseException:
        done.undo()
        raise
    return done
