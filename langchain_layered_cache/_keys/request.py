"""Conversion of LangChain's `prompt` and `llm_string` to a `Request` with exactly the parts that decide the answer.

LangChain passes two texts to a cache: the messages (or the prompt of a completion model), and the model with its parameters. The texts
change with message ids, token counts of earlier turns, timeouts and releases, so a conversation would never hit. They also lack the address
of the requests. `messages` reads the first text, and `model_params` the second.
"""

from __future__ import annotations

from layered_cache import Request, UncacheableRequestError
from layered_cache.keys.key_rules import NO_RULES, KeyRules

from langchain_layered_cache._keys.messages import canonical_prompt, holds_messages
from langchain_layered_cache._keys.model_params import Model

FRAMEWORK = "langchain"


def to_request(
    prompt: str, model: Model, rules: KeyRules = NO_RULES, *, sample: int = 0, account: str | None = None, plain: bool = False
) -> Request:
    """Return the request for *prompt* and *model*.

    Args:
        prompt: Messages as LangChain serializes them, or the text for a plain LLM.
        model: Its identity.
        rules: The rules for its key.
        sample: See `Request`.
        account: The account's fingerprint, if accounts are separate.
        plain: Whether *prompt* is a text even if it looks like messages.

    Raises:
        UncacheableRequestError: No lasting key can be made of it.
    """
    if model.refusal is not None:
        raise UncacheableRequestError(model.refusal)
    params = model.params
    if at := model.at:
        params = {**params, "environment": at}
    if account is not None:
        params = {**params, "account": account}
    looks_like_messages = holds_messages(prompt)
    asked = prompt if plain and looks_like_messages else canonical_prompt(prompt, keep_ids=model.keeps_ids, sends=model.sends)
    if asked is prompt and looks_like_messages and not plain:  # it cannot be read, so its user texts are unknown
        rules = NO_RULES
    return rules.request(asked, model=model.name, params=params, framework=FRAMEWORK, sample=sample)
