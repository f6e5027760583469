"""Fingerprints of loaded networks: fakes with the attributes of the real classes. The real ones: `tests/providers`."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from layered_cache import UncacheableRequestError
from layered_cache.adapters.identity import local_models
from layered_cache.adapters.identity.local_models import file_fingerprint, fingerprint_of, is_loaded, plain_settings
from support.fake_networks import Llama, PreTrained, TextEmbedding


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF weights")
    return path


def test_fingerprint_of_other_objects_is_none() -> None:
    assert [fingerprint_of(thing) for thing in (None, "a", object(), {"a": 1})] == [None] * 4
    assert not is_loaded(object())


def test_llama_counts_by_the_content_of_its_file(gguf: Path, tmp_path: Path) -> None:
    copy, other = tmp_path / "copy.gguf", tmp_path / "other.gguf"
    copy.write_bytes(gguf.read_bytes())
    other.write_bytes(b"GGUF weightz")
    one, same, different = (fingerprint_of(Llama(str(path))) for path in (gguf, copy, other))
    assert one == same != different


def test_llama_keeps_the_fingerprint_of_the_file_it_loaded(gguf: Path) -> None:
    """The network in memory does not change with the file, also if a setting changes after that."""
    llama = Llama(str(gguf))
    before = fingerprint_of(llama)
    gguf.write_bytes(b"GGUF others")
    assert fingerprint_of(llama) == before
    llama.lora_scale = 0.5
    assert fingerprint_of(llama) != before
    llama.lora_scale = 1.0
    assert fingerprint_of(llama) == before != fingerprint_of(Llama(str(gguf)))


def test_llama_counts_all_shards(tmp_path: Path) -> None:
    shards = [tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    for shard in shards:
        shard.write_bytes(b"GGUF")
    before = fingerprint_of(Llama(str(shards[0])))
    shards[1].write_bytes(b"GGUf")
    assert fingerprint_of(Llama(str(shards[0]))) != before


def test_llama_settings_and_adapters_count(gguf: Path, tmp_path: Path) -> None:
    lora = tmp_path / "lora.gguf"
    lora.write_bytes(b"adapter")
    settings: list[dict[str, Any]] = [
        {}, {"n_ctx": 1024}, {"rope_freq_base": 5.0}, {"_seed": 7}, {"chat_format": "chatml"}, {"kv_overrides": {"a": 1}},
        {"lora_path": str(lora)}, {"lora_path": str(lora), "lora_scale": 0.5}, {"chat_handler": object()},
    ]  # fmt: skip
    found = [fingerprint_of(Llama(str(gguf), **one)) for one in settings]
    assert len({*found}) == len(settings)
    assert fingerprint_of(Llama(str(gguf), n_threads=7, n_batch=3, verbose=True)) == found[0]
    lora.write_bytes(b"another")
    assert fingerprint_of(Llama(str(gguf), lora_path=str(lora))) not in found


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UncacheableRequestError, match="cannot be read"):
        fingerprint_of(Llama(str(tmp_path / "gone.gguf")))


def test_onnx_model_counts_by_its_folder(tmp_path: Path) -> None:
    for name in ("model.onnx", "config.json", "notes.lock"):
        (tmp_path / name).write_text(name)
    one = fingerprint_of(TextEmbedding(tmp_path))
    assert one == fingerprint_of(TextEmbedding(tmp_path, threads=3, cache_dir="/tmp", _embedding_size=8))
    assert one != fingerprint_of(TextEmbedding(tmp_path, _normalization=True))
    (tmp_path / "notes.lock").write_text("other")
    assert one == fingerprint_of(TextEmbedding(tmp_path))
    (tmp_path / "config.json").write_text("other")
    assert one != fingerprint_of(TextEmbedding(tmp_path))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UncacheableRequestError, match="1 to 256 model files, got 0"):
        fingerprint_of(TextEmbedding(tmp_path))


def test_tokenizer_settings_are_read_again() -> None:
    tokenizer, same = PreTrained({"a": 0}), PreTrained({"a": 0})
    before = fingerprint_of(tokenizer)
    assert before == fingerprint_of(same) != fingerprint_of(PreTrained({"b": 0}))
    tokenizer.chat_template = "{{ messages }}"
    assert fingerprint_of(tokenizer) != before
    tokenizer.chat_template = None
    tokenizer.vocabulary["b"] = 1
    assert fingerprint_of(tokenizer) != before


def test_fingerprints_are_freed_with_their_networks(gguf: Path) -> None:
    llama = Llama(str(gguf))
    fingerprint_of(llama)
    kept = len(local_models._known)
    del llama
    gc.collect()
    assert len(local_models._known) == kept - 1


def test_large_files_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retrained network differs everywhere, and another quantization in the header."""
    for name, value in (("_WHOLE", 1000), ("_HEAD", 300), ("_BLOCK", 10), ("_BLOCKS", 16)):
        monkeypatch.setattr(local_models, name, value)
    path = tmp_path / "large"
    data = bytearray(4000)

    def fingerprint(change: Callable[[bytearray], object] | None = None) -> str:
        changed = bytearray(data)
        if change is not None:
            change(changed)
        path.write_bytes(changed)
        return file_fingerprint(path)

    assert fingerprint() == fingerprint()
    changes: list[Callable[[bytearray], object]] = [
        lambda data: data.__setitem__(250, 1),
        lambda data: data.__setitem__(-1, 1),
        lambda data: data.extend(b"\0"),
        lambda data: data.__setitem__(slice(1000, 3000), b"\1" * 2000),
    ]
    assert len({fingerprint(), *map(fingerprint, changes)}) == 5


def test_plain_settings_have_no_devices() -> None:
    dtype = type("dtype", (), {"__module__": "torch", "__repr__": lambda _: "torch.float16"})()
    config = type("BitsAndBytesConfig", (), {"__module__": "transformers.utils", "to_dict": lambda _: {"bits": 4, "_commit_hash": "x"}})()
    given = {"device": "cuda", "a": [1, {"n_threads": 2, "b": Path("c")}], "torch_dtype": dtype, "quantization_config": config, "s": {2, 1}}
    assert plain_settings(given) == {
        "a": [1, {"b": "c"}],
        "torch_dtype": "torch.float16",
        "quantization_config": ["BitsAndBytesConfig", {"bits": 4}],
        "s": [1, 2],
    }
    with pytest.raises(UncacheableRequestError, match="the setting 'a' holds a object"):
        plain_settings({"b": object()}, "the setting 'a'")
