"""A program for `start`, run as a file: it asks a model whose cache has the answer.

It takes `floor`, or `layered` and URLs, or `community` and a file. It prints how long the import of our package took, and when the
answer was there: two times on the clock, then the same on the processor.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult


class Model(BaseChatModel):
    """A chat model whose answer is always the same."""

    @property
    def _llm_type(self) -> str:
        return "cold"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:  # noqa: ANN401 - as LangChain has it
        return ChatResult(generations=[ChatGeneration(message=AIMessage("an answer"))])


def cache_of(kind: str, *where: str) -> BaseCache:
    """Return the cache that is meant by *kind*; what its import takes counts."""
    if kind == "floor":
        return InMemoryCache()
    if kind == "community":
        return importlib.import_module("langchain_community.cache").SQLiteCache(*where)
    return importlib.import_module("langchain_layered_cache").LayeredCache(*where)


if __name__ == "__main__":
    began, cpu = time.monotonic(), time.process_time()
    if "layered" in sys.argv:
        importlib.import_module("layered_cache")
    imported, imported_cpu = time.monotonic() - began, time.process_time() - cpu
    Model(cache=cache_of(*sys.argv[1:])).invoke("a question")
    print(imported, time.monotonic(), imported_cpu, time.process_time())
