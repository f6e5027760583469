"""Fakes of networks in this process, with the attributes of the real classes."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any


class Llama:
    """The attributes of `llama_cpp.Llama`."""

    __module__ = "llama_cpp.llama"

    def __init__(self, model_path: str, **settings: Any) -> None:
        context = {name: settings.pop(name) for name in ("n_ctx", "rope_freq_base") if name in settings}
        self.__dict__ |= {"model_path": model_path, "lora_path": None, "lora_base": None, "lora_scale": 1.0, **settings}
        self.context_params = types.SimpleNamespace(**{"n_ctx": 512, **context})


class TextEmbedding:
    """The attributes of `fastembed.TextEmbedding`."""

    __module__ = "fastembed.text.text_embedding"

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.model = types.SimpleNamespace(_model_dir=folder, **{"model_name": "m", **settings})


class Tokenizer:
    """The attributes of a tokenizer of transformers."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self.vocabulary = vocabulary
        self.chat_template: str | None = None
        self.special_tokens_map = {"pad_token": "[PAD]"}

    def __len__(self) -> int:
        return len(self.vocabulary)

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary


PreTrained = type("PreTrainedTokenizerBase", (Tokenizer,), {"__module__": "transformers.tokenization_utils_base"})
