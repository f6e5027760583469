"""Fingerprints of neural networks that are loaded in this process, for the keys of their answers.

A name does not identify a network: a branch of a model hub moves, and the files of a folder are replaced. The fingerprint covers:

- the class, the configuration, and the settings that change its output (prompts, pooling, input length, generation defaults);
- every weight of a PyTorch model, adapters included; the files of a model that runs elsewhere (llama.cpp, ONNX);
- the tokenizer.

Devices, threads and batch sizes are not part of it. Files are read once per loaded network, since the network does not change with them.
A later call compares only the settings and PyTorch's version counters of the weights, and returns the known fingerprint.

No library is imported here: an object of a library's class shows that it is loaded.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from layered_cache.errors import UncacheableRequestError
from layered_cache.keys.keys import canonical

DEVICE_SETTINGS = frozenset({
    "batch_size", "cache_dir", "cache_folder", "cuda", "device", "device_id", "device_ids", "device_map", "flash_attn", "lazy_load",
    "local_files_only", "low_cpu_mem_usage", "main_gpu", "max_memory", "n_batch", "n_gpu_layers", "n_threads",
    "n_threads_batch", "n_ubatch", "numa", "offload_folder", "offload_kqv", "op_offload", "parallel", "parallel_process", "providers",
    "show_progress", "show_progress_bar", "split_mode", "target_devices", "tensor_split", "threads", "use_mlock", "use_mmap", "verbose",
})  # fmt: skip
"""The names of settings of local models that do not change their output."""

_SCALARS = (str, int, float, bool, type(None))
_SAMPLES = 64  # elements of a tensor, beside the sum of all of them
_WHOLE = 64 << 20  # bytes: a larger file is sampled
_HEAD, _BLOCK, _BLOCKS = 16 << 20, 16 << 10, 256
_MODEL_FILES = frozenset({".bin", ".gguf", ".json", ".model", ".npy", ".onnx", ".onnx_data", ".pt", ".safetensors", ".txt", ".xml"})
_FILES = 256
# these differ between machines, releases and uses of one model
_VOLATILE = frozenset({
    "_attn_implementation", "_commit_hash", "_from_model_config", "_name_or_path", "_original_object_hash", "architectures", "auto_map",
    "base_model_name_or_path", "dtype", "inference_mode", "revision", "torch_dtype", "transformers_version",
})  # fmt: skip
_TOKENIZER = (
    "chat_template", "padding_side", "truncation_side", "model_max_length", "special_tokens_map", "add_bos_token", "add_eos_token",
    "add_prefix_space", "clean_up_tokenization_spaces", "split_special_tokens", "do_lower_case",
)  # fmt: skip
_ONNX_ASIDE = DEVICE_SETTINGS | {"_embedding_size", "_extra_session_options", "_local_files_only", "_model_dir", "_specific_model_path"}
_LLAMA = ("model_path", "lora_path", "lora_base", "lora_scale", "_seed", "last_n_tokens_size", "spm_infill", "chat_format", "_logits_all")
_LLAMA_CONTEXT = (
    "n_ctx", "rope_scaling_type", "pooling_type", "attention_type", "rope_freq_base", "rope_freq_scale", "yarn_ext_factor",
    "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_orig_ctx", "embeddings", "type_k", "type_v",
)  # fmt: skip


def is_loaded(thing: object) -> bool:
    """Return True if *thing* is a network, or a part of one, of a library that is known here."""
    return _kind_of(type(thing)) is not None


def fingerprint_of(thing: object) -> str | None:
    """Return the fingerprint of the loaded network *thing*; None if it is not one.

    Raises:
        UncacheableRequestError: If a part of it cannot be read.
    """
    if (kind := _kind_of(type(thing))) is None:
        return None
    known = _known.get(thing)
    if known is not None and known.facts == known.facts_of(kind, thing):
        return known.digest
    found = _Known({} if known is None else known.files)
    watched = copy.deepcopy(kind.watch(thing))
    said = kind.describe(thing, watched, found)
    found.digest = hashlib.sha256(canonical([kind.name, said], "a setting of the loaded model")).hexdigest()
    found.facts = copy.deepcopy(found.facts_of(kind, thing))
    found.facts[0] = watched
    _known[thing] = found
    return found.digest


def plain_settings(value: object, what: str = "a setting") -> object:
    """Return *value*, settings of a local model, as plain data without the settings of devices.

    Raises:
        UncacheableRequestError: If it holds an object that has no lasting text; the message names *what*.
    """
    if isinstance(value, str | int | float | type(None)):
        return value
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(name): plain_settings(item, what) for name, item in items if str(name).strip("_") not in DEVICE_SETTINGS}
    if isinstance(value, list | tuple):
        return [plain_settings(item, what) for item in cast("Iterable[object]", value)]
    if isinstance(value, set | frozenset):
        return sorted((plain_settings(item, what) for item in cast("Iterable[object]", value)), key=repr)
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain_settings({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, what)
    cls = type(value)
    if (cls.__module__, cls.__name__) == ("torch", "dtype"):
        return str(value)
    described = cast("Callable[[], object] | None", getattr(value, "to_diff_dict", None) or getattr(value, "to_dict", None))
    if described is not None and not _roots(cls).isdisjoint({"peft", "transformers"}):  # a configuration
        found = cast("dict[str, object]", described())
        return [cls.__name__, plain_settings({name: item for name, item in found.items() if name not in _VOLATILE}, what)]
    msg = f"{what} holds a {cls.__qualname__}, which has no lasting text"
    raise UncacheableRequestError(msg)


def file_fingerprint(path: str | Path) -> str:
    """Return a fingerprint of the content of the file at *path*: of all of it, or of samples and its size if it is large.

    Raises:
        UncacheableRequestError: If it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            digest.update(size.to_bytes(8, "big"))
            places = [(0, size)] if size <= _WHOLE else [(0, _HEAD), *((size * part // _BLOCKS, _BLOCK) for part in range(1, _BLOCKS))]
            for start, length in [*places, (max(0, size - _BLOCK), _BLOCK)]:
                file.seek(start)
                digest.update(file.read(length))
    except OSError:
        msg = "a file of the model cannot be read"
        raise UncacheableRequestError(msg) from None
    return digest.hexdigest()


# --- kinds of networks


@dataclasses.dataclass(frozen=True)
class _Kind:
    name: str
    watch: Callable[[Any], object]
    """Returns the settings that a program may change later: read with each call."""
    describe: Callable[[Any, Any, _Known], object]
    """Returns plain data of all that identifies it, given the watched settings."""


class _Known:
    """The fingerprint of a network, and the facts that reveal a change."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files
        self.tensors: list[Any] = []
        self.adapted: list[Any] = []
        self.facts: list[object] = []
        self.digest = ""

    def facts_of(self, kind: _Kind, thing: object) -> list[object]:
        tensors = [(tensor._version, tensor.data_ptr()) for tensor in self.tensors]  # noqa: SLF001 - the counter of in-place changes
        parts = [id(part) for part in _modules(thing)]
        return [kind.watch(thing), tensors, parts, [_adapter_state(layer) for layer in self.adapted]]

    def file(self, path: str | Path) -> str:
        """Return the fingerprint of the file as it was when the network was first seen."""
        if (found := self.files.get(str(path))) is None:
            found = self.files[str(path)] = file_fingerprint(path)
        return found

    def folder(self, path: str | Path) -> dict[str, str]:
        """Return the fingerprints of the model files below *path*."""
        root = Path(path)
        files = sorted(file for file in root.rglob("*") if file.suffix in _MODEL_FILES and file.is_file())
        if not 0 < len(files) <= _FILES:
            msg = f"the folder of the model must hold 1 to {_FILES} model files, got {len(files)}"
            raise UncacheableRequestError(msg)
        return {file.relative_to(root).as_posix(): self.file(file) for file in files}


_known: weakref.WeakKeyDictionary[object, _Known] = weakref.WeakKeyDictionary()


def _class_of(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _attributes(thing: object) -> dict[str, Any]:
    return dict(vars(thing))


def _modules(thing: object) -> list[Any]:
    """Return the direct parts of a PyTorch module."""
    return list(cast("dict[str, Any]", getattr(thing, "_modules", {})).values())


@lru_cache(maxsize=1024)
def _roots(cls: type) -> frozenset[str]:
    return frozenset(base.__module__.partition(".")[0] for base in cls.__mro__)


def _has_root(thing: object, name: str) -> bool:
    """Return True if the class of *thing* is of the library *name*."""
    return name in _roots(type(thing))


@lru_cache(maxsize=4096)
def _kind_of(cls: type) -> _Kind | None:
    for base in cls.__mro__:
        if (kind := _KINDS.get((base.__module__.partition(".")[0], base.__name__))) is not None:
            return kind
    return None


# --- PyTorch


def _watch_transformer(model: Any) -> object:  # noqa: ANN401 - of a library that may be missing, as all below
    config, generation = getattr(model, "config", None), getattr(model, "generation_config", None)
    adapters = cast("dict[str, Any]", getattr(model, "peft_config", None) or {})
    settings: dict[str, object] = {str(name): item.to_dict() for name, item in adapters.items()}
    return [None if config is None else _attributes(config), None if generation is None else _attributes(generation), settings]


def _describe_transformer(model: Any, watched: Any, found: _Known) -> object:  # noqa: ANN401
    return [_transformer(model, watched[2]), _weights(model, found)]


def _transformer(model: Any, adapters: object) -> list[object]:  # noqa: ANN401
    """Return all that identifies a model of transformers or PEFT, without its weights."""
    settings = plain_settings([getattr(model, "config", None), getattr(model, "generation_config", None)])
    kept = [
        [name, {key: value for key, value in cast("dict[str, object]", config).items() if key not in _VOLATILE}]
        for name, config in sorted(cast("dict[str, object]", adapters).items())
    ]
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return [_class_of(base), settings, plain_settings(kept)]


def _watch_sentence_transformer(model: Any) -> object:  # noqa: ANN401
    own = {name: getattr(model, name, None) for name in ("prompts", "default_prompt_name", "truncate_dim")}
    return [own, [_module_settings(module) for module in _modules(model)]]


def _module_settings(module: Any) -> list[object]:  # noqa: ANN401
    """Return the plain public attributes of *module*, and the settings of the transformer and the tokenizer in it."""
    plain = (*_SCALARS, dict, list, set, tuple)
    own = {name: value for name, value in _attributes(module).items() if name[0] != "_" and type(value) in plain and name != "training"}
    inner, tokenizer = getattr(module, "auto_model", None), getattr(module, "tokenizer", None)
    return [
        own,
        getattr(module, "max_seq_length", None),
        None if inner is None else _watch_transformer(inner),
        _watch_tokenizer(tokenizer) if _is_tokenizer(tokenizer) else None,
    ]


def _describe_sentence_transformer(model: Any, watched: Any, found: _Known) -> object:  # noqa: ANN401
    parts: list[object] = [plain_settings(watched[0])]
    for module in list(model.modules()):
        if module is model or not (_has_root(module, "sentence_transformers") or module in _modules(model)):
            continue
        if type(module).__module__ == "__main__":
            msg = f"it holds a {type(module).__qualname__}, a class of the main program"
            raise UncacheableRequestError(msg)
        own, longest, inner, _ = cast("list[Any]", _module_settings(module))
        said = module.get_config_dict() if hasattr(module, "get_config_dict") else None
        parts.append([_class_of(module), plain_settings([said, own, longest], f"a {type(module).__qualname__}")])
        if inner is not None:
            parts.append(_transformer(module.auto_model, inner[2]))
            if not hasattr(module.auto_model, "state_dict"):  # it runs in another library, such as ONNX
                parts.append(_source(module.auto_model, found))
        if (tokenizer := getattr(module, "tokenizer", None)) is not None:
            parts.append(_tokenizer_of(tokenizer))
    return [parts, _weights(model, found)]


def _weights(model: Any, found: _Known) -> list[object]:  # noqa: ANN401
    """Return the shape and the checksum of each weight of *model*; where its weights are elsewhere, its source."""
    state = cast("dict[str, Any]", model.state_dict(keep_vars=True))
    found.adapted = [module for module in model.modules() if hasattr(module, "_disable_adapters")]
    found.tensors = [tensor for tensor in state.values() if hasattr(tensor, "_version")]
    if any(getattr(tensor, "is_meta", False) for tensor in state.values()):
        return [_source(model, found), [_adapter_state(layer) for layer in found.adapted]]
    said = [[name, _checksum(tensor)] for name, tensor in state.items()]
    return [said, [_adapter_state(layer) for layer in found.adapted]]


def _checksum(tensor: Any) -> list[object]:  # noqa: ANN401
    """Return shape, type and sums of *tensor*. Sums of integers are the same on every device."""
    torch: Any = sys.modules["torch"]
    if not hasattr(tensor, "detach"):
        return [plain_settings(tensor, "the state of the model")]
    flat = tensor.detach().flatten()
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(flat.element_size())
    samples = flat[:: max(1, flat.numel() // _SAMPLES)].clone()
    bits = flat.contiguous().view(whole) if whole is not None and not flat.is_complex() else None
    total = None if bits is None else int(bits.sum(dtype=torch.int64))
    return [list(tensor.shape), str(tensor.dtype), total, samples.view(torch.uint8).tolist()]


def _adapter_state(layer: Any) -> list[object]:  # noqa: ANN401
    names = ("_disable_adapters", "active_adapters", "merged_adapters", "scaling")
    return [copy.copy(getattr(layer, name, None)) for name in names]


def _source(model: Any, found: _Known) -> object:  # noqa: ANN401
    """Return the commit or the files that *model* was loaded from."""
    config = getattr(model, "config", None)
    name = getattr(config, "_name_or_path", None)
    if isinstance(commit := getattr(config, "_commit_hash", None), str):
        return [name, commit]
    for path in (getattr(model, "model_save_dir", None), name):
        if isinstance(path, str | Path) and path and Path(path).is_dir():
            return found.folder(path)
    msg = "the weights of the loaded model are not in memory, and neither its commit nor its folder is known"
    raise UncacheableRequestError(msg)


# --- tokenizers


def _is_tokenizer(thing: object) -> bool:
    kind = _kind_of(type(thing))
    return kind is not None and kind.name == "tokenizer"


def _watch_tokenizer(tokenizer: Any) -> object:  # noqa: ANN401
    return [{name: getattr(tokenizer, name, None) for name in _TOKENIZER}, len(tokenizer)]


def _describe_tokenizer(tokenizer: Any, watched: Any, _: _Known) -> object:  # noqa: ANN401
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        text = cast("str", backend.to_str())
        text = text[text.index('"added_tokens"') :]  # before it is the truncation of the last use
    else:
        text = repr(sorted(tokenizer.get_vocab().items()))
    return [plain_settings(watched), hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()]


def _tokenizer_of(tokenizer: object) -> str:
    if (found := fingerprint_of(tokenizer)) is not None:
        return found
    if (read := cast("Callable[[], Any] | None", getattr(tokenizer, "get_vocab", None))) is not None:
        return hashlib.sha256(repr(sorted(read())).encode("utf-8", "surrogatepass")).hexdigest()
    msg = f"its tokenizer, a {type(tokenizer).__qualname__}, cannot be read"
    raise UncacheableRequestError(msg)


# --- llama.cpp and ONNX


def _watch_llama(model: Any) -> object:  # noqa: ANN401
    own = {name: getattr(model, name, None) for name in _LLAMA}
    context = getattr(model, "context_params", None)
    parts = {name: type(part).__qualname__ for name in ("chat_handler", "draft_model") if (part := getattr(model, name, None)) is not None}
    return [own, dict(getattr(model, "kv_overrides", None) or {}), {name: getattr(context, name, None) for name in _LLAMA_CONTEXT}, parts]


def _describe_llama(_: Any, watched: Any, found: _Known) -> object:  # noqa: ANN401
    own, overrides, context, parts = watched
    files: dict[str, object] = {}
    for name in ("model_path", "lora_path", "lora_base"):
        if (path := own.pop(name)) is not None:
            files[name] = [found.file(part) for part in _shards(Path(path))]
    return plain_settings([own, overrides, context, parts, files])


def _shards(path: Path) -> list[Path]:
    """Return the files of the model at *path*: llama.cpp is given the first of several."""
    head, mark, tail = path.name.rpartition("-00001-of-")
    return sorted(path.parent.glob(f"{head}-?????-of-{tail}")) if mark else [path]


def _watch_grammar(grammar: Any) -> object:  # noqa: ANN401
    return [getattr(grammar, "_grammar", None), getattr(grammar, "_root", None)]


def _watch_text_embedding(model: Any) -> object:  # noqa: ANN401
    inner = model.model
    kept = {name: value for name, value in _attributes(inner).items() if type(value) in _SCALARS and name not in _ONNX_ASIDE}
    return [_class_of(inner), kept, {name: str(getattr(inner, name)) for name in ("_pooling", "_model_dir") if hasattr(inner, name)}]


def _describe_text_embedding(model: Any, watched: Any, found: _Known) -> object:  # noqa: ANN401
    name, kept, more = watched
    files = getattr(model.model, "model_description", None)
    said = [getattr(files, part, None) for part in ("model_file", "additional_files", "tasks")]
    return [name, plain_settings([kept, said]), more.get("_pooling"), found.folder(model.model._model_dir)]  # noqa: SLF001


def _describe_watched(_: Any, watched: Any, __: _Known) -> object:  # noqa: ANN401
    return plain_settings(watched)


_TRANSFORMER = _Kind("transformer", _watch_transformer, _describe_transformer)
_KINDS: dict[tuple[str, str], _Kind] = {
    ("sentence_transformers", "SentenceTransformer"): _Kind(
        "sentence transformer", _watch_sentence_transformer, _describe_sentence_transformer
    ),
    ("transformers", "PreTrainedModel"): _TRANSFORMER,
    ("peft", "PeftModel"): _TRANSFORMER,
    ("transformers", "PreTrainedTokenizerBase"): _Kind("tokenizer", _watch_tokenizer, _describe_tokenizer),
    ("llama_cpp", "Llama"): _Kind("llama.cpp", _watch_llama, _describe_llama),
    ("llama_cpp", "LlamaGrammar"): _Kind("llama.cpp grammar", _watch_grammar, _describe_watched),
    ("fastembed", "TextEmbedding"): _Kind("fastembed", _watch_text_embedding, _describe_text_embedding),
}
