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
from layered_cache import ConfigurationError, UncacheableRequestError
from layered_cache.keys.key_rules import KeyOptions
from layered_cache.keys.keys import canonical

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


def check_key_extra(key_extra: object) -> None:
    """Refuse what cannot be a part of a key.

    Raises:
        ConfigurationError: It holds an object that has no lasting text.
    """
    try:
        canonical(key_extra, "key_extra")
    except UncacheableRequestError as error:
        msg = f"key_extra must be plain data, such as 'name/and-settings', got a {type(key_extra).__qualname__}. {error}"
        raise ConfigurationError(msg) from None
