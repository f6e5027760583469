"""`ignore` and `normalize`: the parts of requests that count for keys."""

from __future__ import annotations

import itertools
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layered_cache import ConfigurationError, Normalize, Request, UncacheableRequestError
from layered_cache.keys.key_rules import ASPECTS, NO_RULES, NORMALIZED, KeyRules, digests, key_rules, without
from layered_cache.keys.keys import make_key, prompt_digest

SETTINGS = [
    Normalize(aspects, also=also)
    for count in range(1, 4)
    for aspects in itertools.combinations(ASPECTS, count)
    for also in ((), ("code",), ("system", "assistant", "tool"))
]
settings = st.sampled_from(SETTINGS)
# with many characters that the aspects and fences concern
texts = st.text(st.sampled_from("aAeéEÉßſKK\u0301\u0345\u0327ΐΣςİ`~ \t\n\r\x0b\u00a0\u2003ﬁ\u1fef")) | st.text()
fenced = st.lists(st.sampled_from(["```", "~~~", "```py\n", "\n```\n", "\n~~~~\n", "  ``` x `\n", "a B\n", "  C  d", "\n\n", "É"])).map(
    "".join
)


def key(rules: KeyRules, prompt: object, **params: Any) -> str:
    return make_key(rules.request(prompt, model="m", params=rules.kept(params), framework="f"), "n")


def rules_of(setting: Normalize) -> KeyRules:
    return key_rules(None, setting)


# --- texts


@given(settings, texts | fenced)
def test_normalize_is_idempotent(setting: Normalize, text: str) -> None:
    once = setting.text(text)
    assert setting.text(once) == once


CHANGING = [
    character for character in map(chr, range(sys.maxunicode + 1)) if unicodedata.normalize("NFD", character).casefold() != character
]


@pytest.mark.parametrize("setting", [Normalize("case"), Normalize(("case", "unicode")), Normalize(ASPECTS)], ids=str)
def test_normalize_is_idempotent_for_every_character(setting: Normalize) -> None:
    """Alone, and with marks that casefolding turns into letters."""
    for character in CHANGING:
        for text in (character, f"{character}\u0345\u0301"):
            once = setting.text(text)
            assert setting.text(once) == once, hex(ord(character))


@given(texts)
def test_default_keys_do_not_change(text: str) -> None:
    """Without options there is nothing but the request."""
    messages = [{"role": "user", "content": text}]
    for prompt in (text, messages):
        assert NO_RULES.request(prompt, model="m", params={"a": 1}, framework="f") == Request(
            prompt, model="m", params={"a": 1}, framework="f"
        )
    request = Request(messages)
    assert NO_RULES.applied(request) is request
    assert key_rules(None, None) is key_rules((), ()) is NO_RULES


def other_spaces(text: str) -> str:
    return "  " + text.replace(" ", " \n\t").replace("\t", "\u00a0") + "\r\n"


DIFFERENCES = {"unicode": lambda text: unicodedata.normalize("NFD", text), "whitespace": other_spaces, "case": str.casefold}


@given(settings, st.text(st.characters(exclude_characters="`~\u1fef")), st.data())
def test_texts_that_differ_in_the_aspects_alone_share_a_key(setting: Normalize, text: str, data: st.DataObject) -> None:
    other = text
    for aspect in data.draw(st.lists(st.sampled_from(setting.aspects))):
        # folding before the marks are in order is another text, to Unicode too
        other = DIFFERENCES[aspect](unicodedata.normalize("NFD", other) if "unicode" in setting.aspects else other)
    rules = rules_of(setting)
    assert key(rules, text) == key(rules, other)


def exactly(setting: Normalize, text: str) -> str:
    """Return *text* normalised by the definition of the aspects, in another way than the code does it."""
    if "case" in setting.aspects:
        text = (unicodedata.normalize("NFD", text) if "unicode" in setting.aspects else text).casefold()
    if "unicode" in setting.aspects:
        text = unicodedata.normalize("NFD", text)
    if "whitespace" in setting.aspects:
        text = " ".join(text.split())
    return text


@given(settings, texts | fenced, texts | fenced)
def test_texts_that_differ_otherwise_have_different_keys(setting: Normalize, text: str, other: str) -> None:
    rules = rules_of(setting)
    if exactly(setting, text) != exactly(setting, other):
        assert key(rules, text) != key(rules, other)


@given(settings, fenced, st.sampled_from(["```", "~~~~"]), st.text())
def test_fenced_code_stays_byte_for_byte(setting: Normalize, before: str, fence: str, code: str) -> None:
    """It is a part of the key as it is."""
    code = code.replace("`", "").replace("~", "").replace("\u1fef", "")
    block = f"{fence}Py\n{code}\n{fence}"
    if "code" in setting.also:
        return
    for text in (block, f"A  b\n{block}", f"{block}\nA  b", f"A\n{block}\n\n{block}\nB"):
        assert block in setting.text(text)
    assert setting.text(f"\n {block}") != setting.text(f"\n {block.replace('Py', 'py')}")


FENCES = [
    ("Look:\n```py\nX  = 1\n```\nThanks  A LOT", "look:\n```py\nX  = 1\n```\nthanks a lot"),
    ("   ```\nX\n```", "   ```\nX\n```"),
    ("- in a list:\n      ```\n      X\n      ```\nEnd", "- in a list:\n      ```\n      X\n      ```\nend"),
    ("~~~\nX\n```\nY\n~~~\nZ", "~~~\nX\n```\nY\n~~~\nz"),
    ("````\nX\n```\nY\n`````\nZ", "````\nX\n```\nY\n`````\nz"),
    ("A\n```\nnever  Closed\n", "a\n```\nnever  Closed\n"),
    ("```Not a fence``` But  inline", "```not a fence``` but inline"),
    ("A ```\nB", "a ``` b"),
    ("```\r\nX\r\n```\r\nY", "```\r\nX\r\n```\r\ny"),
    ("\u1fef\u1fef\u1fef\nX", "\u1fef\u1fef\u1fef\nX"),
    ("A\r```\rX  Y\r```\rZ", "a\n```\rX  Y\r```\nz"),
    ("- ```py\n  X\n    Y\n  ```\nZ", "- ```py\n  X\n    Y\n  ```\nz"),
    ("2. ```\n   X  Y\n   ```\nZ", "2. ```\n   X  Y\n   ```\nz"),
    ("> ```\n> X\n>   Y\n> ```\nZ", "> ```\n> X\n>   Y\n> ```\nz"),
    ("```\n> ```\nX  Y\n- ```\n```\nZ", "```\n> ```\nX  Y\n- ```\n```\nz"),
]


@pytest.mark.parametrize(("text", "normalized"), FENCES)
def test_fences_are_those_of_markdown(text: str, normalized: str) -> None:
    assert Normalize(ASPECTS).text(text) == normalized


def test_casefolding_keeps_canonical_equivalence() -> None:
    """Marks in another order are the same text to Unicode, and casefolding makes letters of some."""
    text, other = "\u03b1\u0345\u0301", "\u03b1\u0301\u0345"
    assert unicodedata.normalize("NFC", text) == unicodedata.normalize("NFC", other)
    rules = key_rules(None, ["unicode", "case"])
    assert key(rules, text) == key(rules, other)


def test_what_is_x_has_one_key() -> None:
    rules = key_rules(None, ["whitespace", "case"])
    assert key(rules, "What is X?") == key(rules, "  what is x? ") != key(rules, "what is y?")
    assert key(rules, "What is X?") != key(NO_RULES, "What is X?")
    assert key(rules, "what is x?") != key(NO_RULES, "what is x?")


def test_settings_share_entries_only_if_they_normalise_alike() -> None:
    """The order of aspects and their number do not count."""
    keys = {key(rules_of(setting), "abc") for setting in SETTINGS}
    assert len(keys) == len(SETTINGS)
    alike = [["unicode", "case"], ("case", "unicode", "case"), {"unicode", "case"}, Normalize(["case", "unicode"])]
    assert len({key(key_rules(None, setting), "abc") for setting in alike}) == 1  # type: ignore[arg-type]


# --- messages

USER = {"role": "user", "content": "A  b"}


@pytest.mark.parametrize(
    ("message", "normalized"),
    [
        (USER, {"role": "user", "content": "a b"}),
        ({"type": "human", "content": "A  b", "name": "Ann"}, {"type": "human", "content": "a b", "name": "Ann"}),
        (
            {"type": "human", "content": [{"type": "text", "text": "A  b", "id": "X"}, "C  d", {"type": "image_url", "image_url": "HTTP://A"}]},
            {"type": "human", "content": [{"type": "text", "text": "a b", "id": "X"}, "c d", {"type": "image_url", "image_url": "HTTP://A"}]},
        ),
        ({"type": "human", "content": [{"type": "tool_result", "text": "A  b"}]}, None),
        (
            {"role": "user", "content": "A", "blocks": ["A", {"block_type": "image", "text": "A"}], "more": {"text": "A"}},
            {"role": "user", "content": "a", "blocks": ["a", {"block_type": "image", "text": "A"}], "more": {"text": "A"}},
        ),
        ({"role": "system", "content": "A  b"}, None),
        ({"type": "ai", "content": "A", "tool_calls": [{"name": "F", "args": {"text": "A"}}]}, None),
        ({"role": "tool", "content": "A  b", "tool_call_id": "call 0"}, None),
        ({"type": ["my", "Message"], "content": "A"}, None),
        ({"type": "ChatMessage", "role": "Critic", "content": "A"}, None),
        ("A  b", None),
    ],
)  # fmt: skip
def test_user_texts_alone_are_normalised(message: Any, normalized: Any) -> None:
    setting = Normalize(ASPECTS)
    assert setting.prompt([message]) == [message if normalized is None else normalized]


def test_also_names_what_else_is_normalised() -> None:
    """Arguments of tools are never."""
    messages = [
        {"role": "system", "content": "A"},
        {"type": "ai", "content": "A", "tool_calls": [{"args": {"text": "A"}}]},
        {"role": "tool", "content": "A"},
        {"role": "user", "content": "A\n```\nB\n```"},
    ]
    low: list[Any] = [{**message, "content": "a"} for message in messages]
    for at, part in ((0, "system"), (1, "assistant"), (2, "tool")):
        expected = [*messages[:3], {"role": "user", "content": "a\n```\nB\n```"}]
        expected[at] = low[at]
        assert Normalize("case", also=part).prompt(messages) == expected  # type: ignore[arg-type]
    assert Normalize("case", also="code").prompt(messages)[3]["content"] == "a\n```\nb\n```"  # type: ignore[index]


@pytest.mark.parametrize("prompt", [None, 1, {"role": "user", "content": "A"}, ("A",)])
def test_other_prompts_stay(prompt: object) -> None:
    assert Normalize("case").prompt(prompt) is prompt


# --- functions


def shout(text: str) -> str:
    return text.upper()


def test_a_function_normalises_what_is_no_code() -> None:
    rules = key_rules(None, shout)
    assert key(rules, "what?\n```\nx\n```") == key(rules, "WHAT?\n```\nx\n```") != key(rules, "WHAT?\n```\nX\n```")
    assert key(rules, "x") != key(key_rules(None, Normalize(shout, name="shout")), "x") != key(key_rules(None, "case"), "x")


def test_a_function_that_nothing_names_is_refused() -> None:
    for function in (lambda text: text, type("C", (), {"__call__": lambda self, text: text})()):
        with pytest.raises(ConfigurationError, match="normalize must be a function with a name"):
            key_rules(None, function)
        assert key_rules(None, Normalize(function, name="mine")).normalize


def test_normalize_function_with_other_code_of_the_same_name_has_another_key() -> None:
    def named(source: str) -> Any:
        scope: dict[str, Any] = {"__name__": "__main__"}
        exec(f"PREFIX = 'a'\ndef tidy(text):\n    return {source}", scope)
        return scope["tidy"]

    keys = {key(key_rules(None, named(source)), "x") for source in ("text.strip()", "text.strip('?')", "PREFIX + text")}
    assert len(keys) == 3
    assert key(key_rules(None, named("text.strip()")), "x") in keys


def test_normalize_function_whose_code_has_no_identity_is_refused() -> None:
    scope: dict[str, Any] = {"__name__": "__main__", "client": iter("x")}
    exec("def tidy(text):\n    return client.tidy(text)", scope)
    with pytest.raises(ConfigurationError, match="normalize must be a function with readable code, got 'tidy'"):
        key_rules(None, scope["tidy"])
    assert key_rules(None, Normalize(scope["tidy"], name="mine")).normalize


@pytest.mark.parametrize("function", [lambda text: None, lambda text: 1 / 0])
def test_a_function_that_fails_makes_no_key(function: Any) -> None:
    """Only the class of its error is shown: the text of the error can contain the prompt."""
    rules = key_rules(None, Normalize(function, name="mine"))
    with pytest.raises(UncacheableRequestError, match=r"the function 'mine' of normalize (raised ZeroDivisionError|returned no text)"):
        key(rules, "secret")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("upper", "unknown normalize 'upper'"),
        (["case", 1], "unknown normalize '1'"),
        (1, "normalize must be one or several of unicode, whitespace, case, got 1"),
    ],
)
def test_wrong_settings_are_refused(given: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        key_rules(None, given)
    with pytest.raises(ConfigurationError, match=r"unknown also 'user'\. Allowed: assistant, code, system, tool"):
        Normalize("case", also="user")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="name must be"):
        Normalize("case", name="x")
    with pytest.raises(ConfigurationError, match="name must be"):
        Normalize(shout, name="")


# --- invalidate(prompt=...)


@given(settings, texts | fenced, st.booleans())
def test_digests_find_a_prompt_by_the_original_and_by_the_normalised_text(setting: Normalize, text: str, plain: bool) -> None:
    request = rules_of(setting).request(text if plain else [{"role": "user", "content": text}], model=None, params={}, framework="f")
    for known in (text, setting.text(text)):
        assert request.prompt_digest in digests(known, ())
    assert request.prompt_digest != prompt_digest(setting.text(text))


def test_digests_of_a_prompt_are_few() -> None:
    """Each is a rule in the log."""
    assert len(digests("  What is  X?\n```\nA  B\n```", ())) == 1
    assert digests("What is X?", ()) == digests("what is x? ", ()) != digests("What is Y?", ())


def test_digests_of_functions_need_the_function() -> None:
    setting = Normalize(lambda text: text.replace("please", ""), name="polite")
    request = rules_of(setting).request("x please", model=None, params={}, framework="f")
    assert request.prompt_digest not in digests("x please", ())
    assert request.prompt_digest in digests("x please", [setting])
    assert request.prompt_digest in digests("x", ())


def test_a_prompt_without_a_user_has_no_digest() -> None:
    request = rules_of(Normalize("case")).request([{"role": "system", "content": "A"}], model=None, params={}, framework="f")
    assert request.prompt_digest == bytes(16)


# --- ignore

PARAMS: dict[str, Any] = {
    "user": "ann",
    "metadata": {"trace": 1},
    "temperature": 0.5,
    "model_kwargs": {"user": "ann", "extra_body": {"metadata": {}}},
    "extra_body": {"user": "ann", "keep": {"user": "ann"}},
    "additional_kwargs": {},
    "tools": [{"name": "user", "parameters": {"user": {"type": "string"}}}],
}


def test_ignored_parameters_are_left_out() -> None:
    """At the top and in additional parameters, but not inside of others, such as schemas of tools."""
    assert without(PARAMS, frozenset({"user", "metadata"})) == {
        "temperature": 0.5,
        "extra_body": {"keep": {"user": "ann"}},
        "additional_kwargs": {},
        "tools": [{"name": "user", "parameters": {"user": {"type": "string"}}}],
    }
    assert NO_RULES.kept(PARAMS) is PARAMS


REFUSED = [
    "model", "model_name", "modelName", "messages", "prompt", "tools", "tool_choice", "functions", "temperature", "topP", "top_k",
    "max_tokens", "maxOutputTokens", "stop", "stop_sequences", "seed", "n", "response_format", "responseMimeType", "reasoning_effort",
    "thinking_budget", "system", "systemInstruction", "model_kwargs", "extra_body", "additional_kwargs", "previous_response_id", "base_url",
    "guided_json", "logit_bias", "mcp_servers", "safety_settings", "_type",
    "random_seed", "model_version", "base_model_id", "additional_model_request_fields", "search_parameters",
]  # fmt: skip
CREDENTIALS = ["api_key", "apiKey", "openai_api_key", "authorization", "password", "access_token", "client_secret"]
ALLOWED = [
    "user", "metadata", "trace_id", "request_id", "prompt_cache_key", "safety_identifier", "labels", "service_tier", "end_user_id",
    "extra_headers", "userId",
]  # fmt: skip


@pytest.mark.parametrize("name", [*REFUSED, *CREDENTIALS])
def test_what_changes_answers_cannot_be_ignored(name: str) -> None:
    words = "that are no credentials" if name in CREDENTIALS else "that change no answer"
    with pytest.raises(ConfigurationError, match=f"ignore must be names of parameters {words}, got {name!r}. Leave it out"):
        key_rules(("user", name), None)


@pytest.mark.parametrize("given", [1, [1], [""], [None], b"user"])
def test_wrong_names_are_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="ignore must be names of parameters, got"):
        key_rules(given, None)


def test_any_other_name_can_be_ignored() -> None:
    assert key_rules(ALLOWED, None).ignore == frozenset(ALLOWED)
    assert key_rules("user", None).ignore == {"user"}


@given(st.dictionaries(st.sampled_from(["a", "b", "model_kwargs"]), st.integers() | st.dictionaries(st.sampled_from("ab"), st.integers())))
def test_ignored_parameters_are_no_difference_and_others_are(params: dict[str, Any]) -> None:
    rules = key_rules("a", None)
    assert key(rules, "x", **params) == key(rules, "x", **{**params, "a": 1}) == key(NO_RULES, "x", **without(params, frozenset("a")))
    if params.get("b") != 7:
        assert key(rules, "x", **params) != key(rules, "x", **{**params, "b": 7})


# --- both


def test_options_that_are_not_given_are_inherited() -> None:
    above = key_rules("user", "case")
    assert key_rules(None, None, above) == above
    assert key_rules("metadata", None, above) == KeyRules(frozenset({"metadata"}), Normalize("case"))
    assert key_rules((), (), above) is NO_RULES


def test_a_normalised_request_stays_as_it_is() -> None:
    """A cache that normalises below an adapter that does."""
    rules, other = rules_of(Normalize("case")), rules_of(Normalize("whitespace"))
    request = rules.request("A  b", model="m", params={}, framework="f")
    assert other.applied(request) == request
    assert request.params == {NORMALIZED: ["case"]}
