"""The options `ignore` and `normalize`: parameters that keys leave out, and texts that keys hold in a normalised form. Pure.

Both change the key and nothing else: the request is sent as it is.

*Normalising* applies to the texts of user messages and to prompts that are one text. Fenced code in a text stays byte for byte, and so do
all other messages, tool calls and schemas, unless `Normalize(also=...)` names them. The setting is part of the key. So requests with
different settings never share an entry, and a request without the option has the key that it always had.

The order in which aspects are given does not count, so that settings with the same aspects share entries.

The `prompt_digest` of a normalised request is of a separate kind. It is the same for all texts that differ in no more than the three
aspects, so that `invalidate(prompt=...)` finds the entry by each of these texts, in every process (see `digests`).
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, cast, get_args

from layered_cache.adapters.identity.code_identity import code_identity
from layered_cache.entry import NO_PROMPT, Request, last_question
from layered_cache.errors import ConfigurationError, UncacheableRequestError
from layered_cache.keys.keys import PROMPT_DIGEST_BYTES
from layered_cache.keys.setting_names import is_secret_name

Aspect: TypeAlias = Literal["unicode", "whitespace", "case"]
Part: TypeAlias = Literal["code", "system", "assistant", "tool"]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)
PARTS: tuple[Part, ...] = get_args(Part)

NORMALIZED = "layered_cache.normalize"
"""The parameter of a request under which its key holds the setting."""

_ROLES = {
    "user": "user", "human": "user",
    "system": "system", "developer": "system",
    "assistant": "assistant", "ai": "assistant",
    "tool": "tool", "function": "tool",
}  # fmt: skip
_TEXT_BLOCKS = frozenset({"text", "input_text", "output_text"})
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
# a line that opens or closes fenced code, which may be in a quote or a list
_FENCE = re.compile(r"(?P<lead>(?:[\s>]|[-*+](?=\s)|\d{1,9}[.)](?=\s))*)(?P<fence>`{3,}|~{3,})(?P<info>.*)", re.DOTALL)
_BACKTICK_TOO = "\u1fef"  # in NFC


# --- normalize


@dataclass(frozen=True, slots=True)
class Normalize:
    """How texts are normalised in keys.

    Args:
        how: One or several of `"unicode"` (NFC), `"whitespace"` (runs become one space, none at the ends) and `"case"` (casefold). Or a
            function that returns the normalised text.
        also: More parts to normalise: `"code"` (fenced code), and the texts of `"system"`, `"assistant"` and
            `"tool"` messages.
        name: Identifies the function in keys. Give another name when the function returns something else than before.

    Raises:
        ConfigurationError: A value is not allowed, or a function has neither a name nor code that identifies it.
    """

    how: Aspect | Iterable[Aspect] | Callable[[str], str]
    also: Part | Iterable[Part] = ()
    name: str | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "also", _several("also", self.also, PARTS))
        if self.name is not None and (not isinstance(self.name, str) or not self.name):  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
            msg = f"name must be a text that is not empty, got {self.name!r}. Leave it out, or name the function."
            raise ConfigurationError(msg)
        if not callable(self.how):
            put(self, "how", _several("normalize", self.how, ASPECTS))
            if self.name is not None:
                msg = f"name must be that of a function, got {self.name!r} with aspects. Leave it out."
                raise ConfigurationError(msg)
        elif self.name is None:
            put(self, "name", _identity(self.how))

    @property
    def aspects(self) -> tuple[Aspect, ...]:
        """The aspects; none if there is a function."""
        return () if callable(self.how) else cast("tuple[Aspect, ...]", self.how)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts in `also`."""
        return cast("tuple[Part, ...]", self.also)

    @property
    def label(self) -> object:
        """The setting as plain data, for keys."""
        how: object = {"function": self.name} if callable(self.how) else list(self.aspects)
        return {"how": how, "also": list(self.parts)} if self.parts else how

    def text(self, text: str) -> str:
        """Return *text* normalised, but for the fenced code in it.

        Raises:
            UncacheableRequestError: The function raised, or returned no text.
        """
        if "code" in self.parts:
            return self._normalized(text)
        parts = [part if is_code else self._normalized(part) for is_code, part in _split(text)]
        if not callable(self.how) and "whitespace" not in self.aspects:
            return "".join(parts)
        return "\n".join(part for part in parts if part)  # a fence begins a line, so that the parts stay distinct

    def prompt(self, prompt: object) -> object:
        """Return *prompt*, a text or messages as plain data, with its texts normalised."""
        if isinstance(prompt, str):
            return self.text(prompt)
        if isinstance(prompt, list):
            return [self._message(message) for message in cast("list[object]", prompt)]
        return prompt

    def _message(self, message: object) -> object:
        if not isinstance(message, Mapping):
            return message
        fields = cast("Mapping[str, object]", message)
        role = fields.get("role") or fields.get("type")
        kind = _ROLES.get(role) if isinstance(role, str) else None
        if kind is None or (kind != "user" and kind not in self.parts):
            return cast("object", message)
        return {name: self._content(value) if name in {"content", "blocks"} else value for name, value in fields.items()}

    def _content(self, content: object) -> object:
        if isinstance(content, str):
            return self.text(content)
        if isinstance(content, list):
            return [self._block(block) for block in cast("list[object]", content)]
        return content

    def _block(self, block: object) -> object:
        if isinstance(block, str):
            return self.text(block)
        if isinstance(block, Mapping):
            fields = cast("Mapping[str, object]", block)
            text, kind = fields.get("text"), fields.get("type") or fields.get("block_type")
            if isinstance(text, str) and kind in _TEXT_BLOCKS:
                return {**fields, "text": self.text(text)}
        return cast("object", block)

    def _normalized(self, text: str) -> str:
        if not callable(self.how):
            return _applied(self.aspects, text)
        try:
            found = cast("object", self.how(text))
        except Exception as error:
            msg = f"the function {self.name!r} of normalize raised {type(error).__name__}"
            raise UncacheableRequestError(msg) from error
        if not isinstance(found, str):
            msg = f"the function {self.name!r} of normalize returned no text, but a {type(found).__qualname__}"
            raise UncacheableRequestError(msg)
        return found


NormalizeOption: TypeAlias = "Aspect | Iterable[Aspect] | Callable[[str], str] | Normalize | None"


def _applied(aspects: Iterable[Aspect], text: str) -> str:
    if "case" in aspects:
        # as Unicode defines caseless matching: folding may change the order of combining marks, unless they are in order before
        text = unicodedata.normalize("NFD", text).casefold() if "unicode" in aspects else text.casefold()
    if "unicode" in aspects:
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split()) if "whitespace" in aspects else text


def _split(text: str) -> list[tuple[bool, str]]:
    """Return the parts of *text* in their order: whether one is fenced code, and its text."""
    if "```" not in text and "~~~" not in text and _BACKTICK_TOO not in text:
        return [(False, text)]
    parts: list[tuple[bool, str]] = []
    start, at, opened, is_quoted = 0, 0, "", False
    for line in _LINE.findall(text):
        match = _FENCE.match(line.replace(_BACKTICK_TOO, "`"))
        lead, fence, info = match.groups() if match else ("", "", "")
        if not opened and fence and (fence[0] == "~" or "`" not in info):
            parts.append((False, text[start:at]))
            start, opened, is_quoted = at, fence, ">" in lead
        elif opened and fence[:1] == opened[0] and len(fence) >= len(opened) and not info.strip() and _closes(lead, is_quoted=is_quoted):
            end = at + len(line[:-1] if line.endswith(("\r", "\n")) else line)
            parts.append((True, text[start:end]))
            start, opened = end, ""
        at += len(line)
    parts.append((bool(opened), text[start:]))
    return [part for part in parts if part[1]]


def _closes(lead: str, *, is_quoted: bool) -> bool:
    """Return True if a fence after *lead* can close fenced code: a quote ends only within a quote, and no list item begins."""
    return not lead.strip(" \t>" if is_quoted else " \t")


def _several(option: str, given: object, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Return *given*, one name or several, each once and in the order of *allowed*."""
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, Iterable):
        msg = f"{option} must be one or several of {', '.join(allowed)}, got {given!r}. Name them in a list."
        raise ConfigurationError(msg)
    found = set(cast("Iterable[object]", names))
    for name in found:
        if name not in allowed:
            raise ConfigurationError.unknown(what=option, name=str(name), allowed=allowed)
    return tuple(name for name in allowed if name in found)


_CODE_DIGITS = 32  # hexadecimal digits of the digest, 128 bits


def _identity(function: Callable[[str], str]) -> str:
    """Return a text that identifies *function*: its module and name, and the digest of its code if it is user code.

    Raises:
        ConfigurationError: If it has no name, or its code has no identity.
    """
    name = getattr(function, "__qualname__", "<lambda>")
    if "<" in name or (module := getattr(function, "__module__", None)) is None:
        msg = f"normalize must be a function with a name, got {name!r}. Name it: Normalize(function, name='what it does')."
        raise ConfigurationError(msg)
    try:
        code = code_identity(function)
    except UncacheableRequestError as error:
        msg = f"normalize must be a function with readable code, got {name!r} ({error}). Name it: Normalize(function, name='what it does')."
        raise ConfigurationError(msg) from None
    return f"{module}.{name}" if code is None else f"{module}.{name} {code[:_CODE_DIGITS]}"


# --- invalidation by prompt

_EVERYTHING = Normalize(ASPECTS, also="code")
_CHOICES = [aspects for count in range(len(ASPECTS) + 1) for aspects in itertools.combinations(ASPECTS, count)]
_SETTINGS = (*map(Normalize, _CHOICES), *(Normalize(aspects, also="code") for aspects in _CHOICES))


def _digest(prompt: object) -> bytes:
    """Return the `prompt_digest` of a request with *prompt*, which is normalised."""
    question = last_question(_EVERYTHING.prompt(prompt))
    return question if question == NO_PROMPT else hashlib.sha256(b"normalized" + question).digest()[:PROMPT_DIGEST_BYTES]


def digests(prompt: str, functions: Iterable[Normalize]) -> list[bytes]:
    """Return the digests that entries of normalised requests can have, if their last user message is *prompt*.

    Args:
        prompt: The original text, or a normalised one.
        functions: The settings with functions that are in use. Nothing else could apply them.
    """
    found: dict[bytes, None] = {}
    for setting in (*_SETTINGS, *functions):
        try:
            found[_digest(setting.text(prompt))] = None
        except UncacheableRequestError:  # the function does not take it, so no entry came of it
            continue
    return list(found)


# --- ignore

_ENTRIES = frozenset({"model_kwargs", "extra_body", "additional_kwargs"})  # parameters that are sent along, entry by entry
_ANSWERS = frozenset({
    # the model, and where it runs
    "model", "models", "model_name", "model_id", "engine", "deployment", "deployment_id", "deployment_name", "azure_deployment", "provider",
    "providers", "base_url", "api_base", "endpoint", "endpoint_name", "endpoint_url", "url", "host", "region", "region_name", "location",
    "project", "api_version", "revision", "adapter", "adapter_id", "lora", "type", "class_name", "context_window", "num_ctx",
    # the prompt
    "messages", "prompt", "prompts", "input", "inputs", "query", "question", "text", "texts", "content", "contents", "instructions",
    "history", "chat_history", "context", "documents", "images", "audio", "files", "attachments", "modalities", "prefix", "suffix",
    "prefill", "prediction", "template", "messages_to_prompt", "completion_to_prompt", "query_wrapper_prompt", "variables", "echo",
    # tools and formats
    "parallel_tool_calls", "allow_parallel_tool_calls", "allowed_tools", "mcp_servers", "skills", "plugins", "web_search_options", "format",
    "schema", "json_schema", "json_mode", "strict", "grammar", "structured_outputs",
    # sampling
    "temperature", "typical_p", "tfs_z", "seed", "n", "best_of", "candidate_count", "num_beams", "num_predict", "n_predict",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "repeat_penalty", "repeat_last_n", "length_penalty", "logit_bias",
    "logprobs", "do_sample", "sampling_params", "verbosity", "effort", "think", "enable_thinking", "include_thoughts", "budget_tokens",
    # state of the provider
    "previous_response_id", "use_previous_response_id", "conversation", "container", "cached_content", "assistant_id", "store", "include",
    "truncation", "context_management", "betas",
    # groups of such parameters: name the entry
    "options", "config", "generation_config", "generate_kwargs", "chat_template_kwargs", "configurable", "kwargs", *_ENTRIES,
    "safety_settings", "safe_prompt", "moderation",
})  # fmt: skip
_NO_SECRETS = frozenset({"prompt_cache_key"})
_ANSWER = re.compile(
    r"(?:model|base_model|custom_model|additional_model|random|search|lora|adapter|inference|guided|guardrail|thinking|reasoning|max|min|stop"
    r"|top|tool|function|response|output|system|mirostat)s?(?:_|$)"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def _ignored(names: str | Iterable[str]) -> frozenset[str]:
    """Return *names* as a set.

    Raises:
        ConfigurationError: One is no name, or it is that of a parameter which changes answers or lets its holder in.
    """
    given = (names,) if isinstance(names, str) else names
    each = tuple(given) if isinstance(given, Iterable) else None  # pyright: ignore[reportUnnecessaryIsInstance] - the caller may be untyped
    if each is None or not all(isinstance(name, str) and name for name in each):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"ignore must be names of parameters, got {names!r}. Name them in a tuple: ignore=('user', 'metadata')."
        raise ConfigurationError(msg)
    for name in each:
        flat = _CAMEL.sub("_", name).lower().replace("-", "_").strip("_")
        if is_secret_name(name) and flat not in _NO_SECRETS:
            msg = f"ignore must be names of parameters that are no credentials, got {name!r}. Leave it out."
            raise ConfigurationError(msg)
        if flat in _ANSWERS or _ANSWER.match(flat):
            msg = f"ignore must be names of parameters that change no answer, got {name!r}. Leave it out."
            raise ConfigurationError(msg)
    return frozenset(each)


def without(params: Mapping[str, object], names: frozenset[str]) -> dict[str, object]:
    """Return *params* without *names*, which are also left out of the parameters that are sent along entry by entry."""
    kept: dict[str, object] = {}
    for name, value in params.items():
        if name in names:
            continue
        if name in _ENTRIES and isinstance(value, Mapping) and value:
            entries = without(cast("Mapping[str, object]", value), names)
            if not entries:
                continue
            kept[name] = entries
        else:
            kept[name] = value
    return kept


# --- both


@dataclass(frozen=True, slots=True)
class KeyRules:
    """The rules for the keys of one cache, wrapper or middleware."""

    ignore: frozenset[str] = frozenset()
    normalize: Normalize | None = None

    def kept(self, params: Mapping[str, object]) -> Mapping[str, object]:
        """Return *params* without those that are ignored."""
        return without(params, self.ignore) if self.ignore else params

    def counted(self, name: str, value: object) -> object:
        """Return the part of *value*, the setting *name*, that is in keys; None if it is ignored."""
        return without({name: value}, self.ignore).get(name) if self.ignore else value

    def request(self, prompt: object, *, model: str | None, params: Mapping[str, object], framework: str, sample: int = 0) -> Request:
        """Return the normalised request of *prompt* and *params*. `ignore` does not change *params* here: see `kept`.

        Raises:
            UncacheableRequestError: No key can be made of it.
        """
        setting = self.normalize
        if setting is None or NORMALIZED in params:
            return Request(prompt, model=model, params=params, framework=framework, sample=sample)
        evened = setting.prompt(prompt)
        labelled = {**params, NORMALIZED: setting.label}
        request = Request(evened, model=model, params=labelled, framework=framework, sample=sample)
        return request.with_prompt_digest(_digest(evened))

    def applied(self, request: Request) -> Request:
        """Return *request* by these rules."""
        if self.normalize is None:
            return request
        return self.request(request.prompt, model=request.model, params=request.params, framework=request.framework, sample=request.sample)


NO_RULES = KeyRules()


class KeyOptions(NamedTuple):
    """The options as they were given, checked. None: not given. A `normalize` without aspects turns normalising off."""

    ignore: frozenset[str] | None = None
    normalize: Normalize | None = None

    def over(self, rules: KeyRules) -> KeyRules:
        """Return the rules of these options; those of *rules* where an option was not given."""
        names = rules.ignore if self.ignore is None else self.ignore
        setting = rules.normalize if self.normalize is None else self.normalize if self.normalize.how else None
        return KeyRules(names, setting) if names or setting else NO_RULES


def key_options(ignore: str | Iterable[str] | None, normalize: NormalizeOption) -> KeyOptions:
    """Return the options.

    Raises:
        ConfigurationError: One is not allowed.
    """
    setting = normalize if normalize is None or isinstance(normalize, Normalize) else Normalize(normalize)
    return KeyOptions(None if ignore is None else _ignored(ignore), setting)


def key_rules(ignore: str | Iterable[str] | None, normalize: NormalizeOption, inherited: KeyRules = NO_RULES) -> KeyRules:
    """Return the rules of these options. None: as *inherited*.

    Raises:
        ConfigurationError: An option is not allowed.
    """
    return key_options(ignore, normalize).over(inherited)
