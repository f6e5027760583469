"""The options `ignore` and `normalize` of one wrapped model.

The model has them beside its private attributes, so that its copies have them too and LangChain does not write them out. While the model is
called, the cache finds them in the context.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from langchain_core.language_models.base import BaseLanguageModel
from layered_cache.key_rules import KeyOptions

KEY_OPTIONS = "_layered_cache_key_options"

current_key_options: ContextVar[KeyOptions | None] = ContextVar("layered_cache_key_options", default=None)


def key_options_of(model: BaseLanguageModel[Any]) -> KeyOptions | None:
    """Return the options of *model*; None if it has none."""
    private = model.__pydantic_private__
    return None if private is None else private.get(KEY_OPTIONS)


@contextmanager
def known_key_options(model: BaseLanguageModel[Any]) -> Generator[None]:
    """Have the cache use the options of *model* inside the block."""
    token = current_key_options.set(key_options_of(model))
    try:
        yield
    finally:
        current_key_options.reset(token)
