"""The model of a lookup is found behind other caches and decorators; a lookup that cannot be read is not cached."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from langchain_core.caches import BaseCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import LLM
from langchain_core.outputs import Generation

from langchain_layered_cache import LayeredCache


class Echo(LLM):
    setting: str = "default"

    @property
    def _llm_type(self) -> str:
        return "echo"

    def _call(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
        return f"{self.setting} {sorted(kwargs)} {[repr(value) for value in kwargs.values() if type(value) is int]}"


class Outer(BaseCache):
    def __init__(self) -> None:
        self.inner = LayeredCache("memory://")

    def lookup(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        return self._looked_up(prompt, llm_string)

    def _looked_up(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        return self.inner.lookup(prompt, llm_string)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        self.inner.update(prompt, llm_string, return_val)

    def clear(self, **kwargs: Any) -> None:
        self.inner.clear(**kwargs)


class NoText:
    def __repr__(self) -> str:
        msg = "no text"
        raise RuntimeError(msg)


@pytest.fixture
def use() -> Iterator[Callable[[BaseCache], None]]:
    yield set_llm_cache
    set_llm_cache(None)


def test_plain_model_behind_another_cache_is_found(use: Callable[[BaseCache], None]) -> None:
    use(Outer())
    answers = [Echo().invoke("q", temperature=0), Echo().invoke("q", temperature=1), *(Echo(setting=one).invoke("q") for one in "ab")]
    assert len(set(answers)) == 4


def test_argument_without_a_text_does_not_raise(use: Callable[[BaseCache], None], caplog: pytest.LogCaptureFixture) -> None:
    use(LayeredCache("memory://"))
    assert Echo().invoke("q", tool=NoText()) == "default ['tool'] []"
    assert "cannot be read" in caplog.text


DECORATED = """
import functools
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseLLM, LLM

original = BaseLLM.generate

@functools.wraps(original)
def traced(self, *args, **kwargs):
    return original(self, *args, **kwargs)

BaseLLM.generate = traced
from langchain_layered_cache import LayeredCache

class Echo(LLM):
    setting: str = "default"
    _llm_type = "echo"
    def _call(self, prompt, stop=None, run_manager=None, **kwargs):
        return f"{self.setting} {kwargs}"

set_llm_cache(LayeredCache("memory://"))
answers = [Echo().invoke("q", temperature=0), Echo().invoke("q", temperature=1), *(Echo(setting=one).invoke("q") for one in "ab")]
assert len(set(answers)) == 4, answers
"""


def test_decorated_generate_is_recognised() -> None:
    done = subprocess.run([sys.executable, "-c", DECORATED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
