"""The account of a model: its API keys. They are passed on for a fingerprint, and never shown or stored."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models.base import BaseLanguageModel
from pydantic import SecretStr


def account_of(model: BaseLanguageModel[Any]) -> str | None:
    """Return the secrets of *model*, in the order of their names, as one text; None if it has none."""
    secrets = [value for _, value in sorted(vars(model).items()) if isinstance(value, SecretStr)]
    return "\n".join(secret.get_secret_value() for secret in secrets) or None
