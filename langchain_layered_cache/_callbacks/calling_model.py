"""The model that looks into the cache, where LangChain hands over no more than two texts.

Neither the texts nor the callbacks show all settings of a model: LangChain writes a model out once, at its first use, and a copy or an
attribute that is changed later does not show. Of a plain LLM even the arguments of the call are missing. But a lookup is made by a method
of the model itself, so the frame of the caller has the model. Only frames of LangChain's own code are read, and nothing is changed in them.

A lookup outside of a call of LangChain (in a test, for example) has no model. `_call` decides how it is handled.
LangChain can call another cache, which calls this one.
A lookup is `UNREADABLE` if its model or its arguments cannot be read, and has no key then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

from langchain_core.language_models import BaseChatModel, BaseLLM, llms
from langchain_core.language_models.base import BaseLanguageModel

_DEEPEST = 12  # frames of caches between LangChain and this one
_MODELS_WORK = frozenset({"_generate", "_agenerate", "_call", "_acall", "_stream", "_astream"})  # a lookup in it is another one


class Asking(NamedTuple):
    """The model that looks up.

    Attributes:
        model: The model; None if it cannot be read.
        text: Its text with the arguments of the call; None if LangChain's text has them.
        plain: True if the model completes a text.
    """

    model: BaseLanguageModel[Any] | None
    text: str | None
    plain: bool


UNREADABLE = Asking(None, None, plain=True)


def asking() -> Asking | None:
    """Return the model that made the lookup in progress; None if LangChain has not called it."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - there is no other way to a frame
    for _ in range(_DEEPEST):
        if frame is None or frame.f_code.co_name in _MODELS_WORK:
            return None
        if frame.f_code in _CHAT:
            return Asking(frame.f_locals["self"], None, False)  # noqa: FBT003 - in their order
        if frame.f_code in _PROMPTS:
            return _of_plain_model(frame)
        frame = frame.f_back
    return None


def _of_plain_model(frame: FrameType) -> Asking:
    caller = frame.f_back
    if caller is None or caller.f_code not in _PLAIN:
        return UNREADABLE
    found = caller.f_locals
    if not (arguments := found["kwargs"]):
        return Asking(found["self"], None, plain=True)
    try:
        text = str(sorted({**frame.f_locals["params"], **arguments}.items()))
    except Exception:  # noqa: BLE001 - an argument may fail in any way when it is written out
        return UNREADABLE
    return Asking(found["self"], text, plain=True)


def _codes(*functions: Callable[..., Any]) -> frozenset[CodeType]:
    return frozenset(code for function in functions for code in _codes_of(function))


def _codes_of(function: object) -> Iterator[CodeType]:
    """Yield the code of *function*, and of the functions in it if it was decorated."""
    while function is not None:
        if isinstance(code := getattr(function, "__code__", None), CodeType):
            yield code
        function = getattr(function, "__wrapped__", None)


_CHAT = _codes(BaseChatModel._generate_with_cache, BaseChatModel._agenerate_with_cache)  # noqa: SLF001
_PROMPTS = _codes(llms.get_prompts, llms.aget_prompts)
_PLAIN = _codes(BaseLLM.generate, BaseLLM.agenerate)
