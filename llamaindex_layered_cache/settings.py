"""`configure(cache)`: cache the models of LlamaIndex's `Settings` until it is undone."""

from __future__ import annotations

import threading
import weakref
from typing import Any, Self

from layered_cache import ConfigurationError, TieredCache
from layered_cache.adapters.common import engine_of
from layered_cache.config import default_tiers
from llama_index.core import Settings

from llamaindex_layered_cache.cached_llm import OF_EMBEDDINGS, cached

_lock = threading.Lock()
_in_use: weakref.WeakSet[Configured] = weakref.WeakSet()
"""The results that can still be undone. `Settings` are global to the process."""


class Configured:
    """The result of `configure`. As a context manager it is undone at the end of the block.

    Args:
        cache: The tiers, or an adapter over them.
    """

    def __init__(self, cache: TieredCache) -> None:
        self.cache = cache
        self._changes: dict[str, tuple[object, object]] = {}

    def apply(self, name: str, how: dict[str, Any]) -> None:
        """Replace the model that `Settings` hold as *name* by a cached one, unless it is a default that LlamaIndex cannot make."""
        before: object = getattr(Settings, f"_{name}")
        try:
            thing: object = getattr(Settings, name)
        except (ImportError, ValueError):  # it is not set, and the package of the default provider or its API key is missing
            return
        setattr(Settings, name, cached(thing, self.cache, **how))
        self._changes[name] = before, getattr(Settings, f"_{name}")

    def undo(self) -> None:
        """Restore the earlier models of `Settings`, except one that was replaced after `configure`. A second call does nothing.

        If a later `configure` is still in use, its models stay, and it restores the earlier ones when it is undone.
        """
        with _lock:
            _in_use.discard(self)
            for name, (before, ours) in self._changes.items():
                if getattr(Settings, f"_{name}") is ours:
                    setattr(Settings, f"_{name}", before)
                for later in _in_use:
                    later.forget(name, ours, before)
            self._changes.clear()

    def forget(self, name: str, removed: object, before: object) -> None:
        """Restore *before* instead of *removed* when this is undone."""
        if name in self._changes and self._changes[name][0] is removed:
            self._changes[name] = before, self._changes[name][1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def configure(
    cache: TieredCache | None = None,
    *,
    llm: bool = True,
    embed_model: bool = True,
    llm_key_extra: object = None,
    embed_key_extra: object = None,
    **how: Any,  # noqa: ANN401 - as `cached` has them
) -> Configured:
    """Replace `Settings.llm` and `Settings.embed_model` by cached ones, from now on or inside a block.

        with configure(cache):
            VectorStoreIndex.from_documents(documents).as_query_engine().query(...)

    A model that is set later is not cached, nor is an object that took its model before. *cache* is not closed with the block.
    `Settings` belong to the process: to separate tenants, use `cache_options(namespace=...)` around calls.

    Args:
        cache: The tiers, or an adapter over them; memory and a file in the user's cache folder, unless given.
        llm: Whether `Settings.llm` is replaced.
        embed_model: Whether `Settings.embed_model` is replaced.
        llm_key_extra: The `key_extra` of the LLM: plain data that identifies it where its settings do not.
        embed_key_extra: The `key_extra` of the embedding model.
        how: The other options of `cached`. Embeddings take `ttl`, `namespace` and `tags` of them.

    Raises:
        ConfigurationError: Before any I/O, if an argument is wrong or a model cannot be identified. `Settings` are unchanged then.
    """
    wanted = {"llm": llm, "embed_model": embed_model}
    for name, value in wanted.items():
        if type(value) is not bool:
            msg = f"{name} must be True or False, got {value!r}. Set Settings.{name} to choose the model."
            raise ConfigurationError(msg)
    if not (llm or embed_model):
        msg = "llm and embed_model must not both be False. Leave out one of them."
        raise ConfigurationError(msg)
    if "key_extra" in how:
        msg = "key_extra must be given for one model. Use llm_key_extra= or embed_key_extra=."
        raise ConfigurationError(msg)
    options = {
        "llm": {**how, "key_extra": llm_key_extra},
        "embed_model": {name: how[name] for name in how if name in OF_EMBEDDINGS or not llm} | {"key_extra": embed_key_extra},
    }
    if cache is None:
        cache = TieredCache(*default_tiers("llamaindex"))
    engine_of(cache)  # it is a cache, or an error
    done = Configured(cache)  # not its engine, which has no `normalize`
    with _lock:
        _in_use.add(done)
    try:
        for name in (name for name in wanted if wanted[name]):
            done.apply(name, options[name])
    except BaseException:
        done.undo()
        raise
    return done
