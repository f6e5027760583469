"""Keys of LangChain models with a network in this process cover its weights and settings, and not its device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import LLM
from support.fake_networks import Llama

from langchain_layered_cache import LayeredCache, cached

RUNS: list[str] = []


class LlamaCpp(LLM):
    """The fields of langchain-community's class of this name."""

    client: Any = None
    model_path: str
    temperature: float = 0.8
    n_ctx: int = 512
    n_threads: int | None = None
    n_gpu_layers: int | None = None

    def model_post_init(self, context: Any) -> None:
        self.client = Llama(self.model_path, n_ctx=self.n_ctx)

    @property
    def _llm_type(self) -> str:
        return "llamacpp"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_path": self.model_path, "temperature": self.temperature}

    def _call(self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any) -> str:
        RUNS.append(prompt)
        return f"answer {len(RUNS)}"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF one")
    return path


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


def test_local_llm_on_another_device_shares_answers(weights: Path) -> None:
    with LayeredCache("memory://") as cache:
        for options in ({}, {"n_threads": 4}, {"n_gpu_layers": 32}):
            cached(LlamaCpp(model_path=str(weights), **options), cache).invoke("q")
    assert len(RUNS) == 1


def test_local_llm_with_other_weights_or_settings_asks_again(weights: Path) -> None:
    with LayeredCache("memory://") as cache:
        cached(LlamaCpp(model_path=str(weights)), cache).invoke("q")
        cached(LlamaCpp(model_path=str(weights), temperature=0.1), cache).invoke("q")
        cached(LlamaCpp(model_path=str(weights), n_ctx=1024), cache).invoke("q")
        weights.write_bytes(b"GGUF two")
        cached(LlamaCpp(model_path=str(weights)), cache).invoke("q")
    assert len(RUNS) == 4


def test_local_llm_with_an_adapter_that_is_loaded_later_asks_again(weights: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.gguf"
    adapter.write_bytes(b"GGUF lora")
    with LayeredCache("memory://") as cache:
        model = cached(LlamaCpp(model_path=str(weights)), cache)
        for _ in range(2):
            model.invoke("q")
        assert len(RUNS) == 1
        model.client.lora_path = str(adapter)
        for _ in range(2):
            model.invoke("q")
        assert len(RUNS) == 2


def test_local_llm_with_key_extra_does_not_read_its_network(weights: Path) -> None:
    with LayeredCache("memory://") as cache:
        for _ in range(2):
            cached(LlamaCpp(model_path=str(weights)), cache, key_extra="llama/v1").invoke("q")
            weights.write_bytes(b"GGUF two")
    assert len(RUNS) == 1
