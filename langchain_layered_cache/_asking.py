"""The model that looks into the cache, where LangChain hands over no more than two texts.

Neither the texts nor the callbacks show all settings of a model: LangChain writes a model out once, at its first use, and a copy or an
attribute that is changed later does not show. Of a plain LLM even the arguments of the call are missing. But a lookup is made by a method
of the model itself, so the frame of the caller has the model. Only frames of LangChain's own code are read, and nothing is changed in them.

A lookup from another frame (a test, another cache in between) has no model. `_calls` decides how it is handled.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple, cast

from langchain_core.language_models import BaseChatModel, BaseLLM, llms
from langchain_core.language_models.base import BaseLanguageModel

_THROUGH_CACHES = frozenset({"lookup", "alookup", "_asked"})  # a user's class may hand a lookup on


class Asking(NamedTuple):
    """The model that looks up, and its text with the arguments of the call; None: the text has them. `plain` is of a plain LLM."""

    model: BaseLanguageModel[Any]
    text: str | None
    plain: bool


def asking() -> Asking | None:
    """Return the model that made the lookup in progress; None if LangChain has not called it."""
    frame = sys._getframe(1)  # noqa: SLF001 - there is no other way to a frame
    while frame.f_code.co_name in _THROUGH_CACHES and frame.f_back is not None:
        frame = frame.f_back
    if frame.f_code in _CHAT:
        return Asking(frame.f_locals["self"], None, False)  # noqa: FBT003 - in their order
    if frame.f_code in _PROMPTS and (caller := frame.f_back) is not None and caller.f_code in _PLAIN:
        found = caller.f_locals
        if arguments := found["kwargs"]:
            return Asking(found["self"], str(sorted({**frame.f_locals["params"], **arguments}.items())), True)  # noqa: FBT003
        return Asking(found["self"], None, True)  # noqa: FBT003
    return None


def _codes(*functions: Callable[..., Any]) -> frozenset[CodeType]:
    return frozenset(cast("CodeType", code) for function in functions if (code := getattr(function, "__code__", None)) is not None)


_CHAT = _codes(BaseChatModel._generate_with_cache, BaseChatModel._agenerate_with_cache)  # noqa: SLF001
_PROMPTS = _codes(llms.get_prompts, llms.aget_prompts)
_PLAIN = _codes(BaseLLM.generate, BaseLLM.agenerate)
