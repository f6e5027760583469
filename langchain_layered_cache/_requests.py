"""From LangChain's `prompt` and `llm_string` to a `Request`: what decides the answer, and nothing that does not.

LangChain hands a cache two texts: the messages (or the prompt of a plain LLM), and the model with its parameters. Taken as they are,
they change with message ids, token counts of earlier turns, time-outs and releases, so that a conversation never hits; and they
leave out where the requests go. `_messages` reads the one, `_models` the other.
"""

from __future__ import annotations

import os

from layered_cache import Request, UncacheableRequestError

from langchain_layered_cache._messages import canonical_prompt
from langchain_layered_cache._models import Model

FRAMEWORK = "langchain"


def to_request(prompt: str, model: Model, *, sample: int = 0, account: str | None = None) -> Request:
    """Return what *prompt* asks of *model*, on behalf of *account*, if accounts are told apart.

    Raises:
        UncacheableRequestError: No lasting key can be made of it.
    """
    if model.refusal is not None:
        raise UncacheableRequestError(model.refusal)
    params = model.params
    if model.environment and (at := {name: os.environ[name] for name in model.environment if os.environ.get(name)}):
        params = {**params, "environment": at}
    if account is not None:
        params = {**params, "account": account}
    return Request(
        canonical_prompt(prompt, keep_ids=model.keeps_ids),
        model=model.name,
        params=params,
        framework=FRAMEWORK,
        sample=sample,
    )
