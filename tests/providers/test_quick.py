"""A few variations of one class, for the ordinary suite. The oracle reports breaches if the identity code is broken."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from layered_cache.keys.setting_names import is_credential
from providers.langchain_classes import OPENAI
from providers.langchain_entries import Agent, Global, Wrapped
from providers.oracle import Subject
from providers.recorder import Recorder
from providers.report import Oracle
from pydantic import SecretStr

from langchain_layered_cache._keys import model_params, model_settings
from langchain_layered_cache._keys.client_settings import Clients
from langchain_layered_cache._keys.lru import Memo
from langchain_layered_cache._keys.model_settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore")

ENTRIES = (Global("invoke"), Wrapped("invoke"), Wrapped("stream"), Agent("invoke"))


class Sharing(ChatOpenAI):
    """A model with a secret that is a part of its requests."""

    shared_with: SecretStr = SecretStr("")

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The fields that LangChain writes by their names alone."""
        return {**super().lc_secrets, "shared_with": "SHARED_WITH"}

    def _get_request_payload(self, input_: Any, *, stop: Any = None, **kwargs: Any) -> dict[str, Any]:
        payload = super()._get_request_payload(input_, stop=stop, **kwargs)
        return {**payload, "user": self.shared_with.get_secret_value()}


SUBJECT = replace(
    OPENAI,
    name="Sharing",
    module=__name__,
    fields=("temperature", "shared_with"),
    prompts={name: OPENAI.prompts[name] for name in ("plain", "another text")},
    bound={name: OPENAI.bound[name] for name in ("stop", "another stop")},
    calls={"temperature": (0.25, 0.75)},
    addresses={"OPENAI_BASE_URL": "{url}/v1"},
    entries=ENTRIES,
)


def breaches(subject: Subject, recorder: Recorder) -> list[str]:
    oracle = Oracle(subject, recorder)
    return oracle.breaches([*oracle.outcomes()])


def test_few_variations_have_no_breach(recorder: Recorder) -> None:
    assert not is_credential("shared_with")
    assert breaches(SUBJECT, recorder) == []


# --- five ways to break the code


def settings_are_empty(patch: pytest.MonkeyPatch) -> None:
    def emptied(real: Callable[..., Settings], *arguments: Any) -> Settings:
        return dataclasses.replace(real(*arguments), head={}, fields={}, clients=Clients(None, {}), digest=b"")

    from langchain_layered_cache import _call

    patch.setattr(_call, "settings_of", partial(emptied, _call.settings_of))


def addresses_are_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model_params, "address_params", lambda *_: {})


def secrets_are_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model_settings, "fingerprint", lambda _: "a secret")


def arguments_of_calls_are_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model_params.Reader, "params", lambda *_: {})


def changes_are_not_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model_settings._Known, "is_of", lambda self, model, key_extra: type(model) is self._class)


@pytest.mark.parametrize(
    ("broken", "noticed"),
    [
        (settings_are_empty, "temperature (assigned)"),
        (addresses_are_dropped, "OPENAI_BASE_URL (environment)"),
        (secrets_are_dropped, "shared_with (other)"),
        (arguments_of_calls_are_dropped, "call temperature (call)"),
        (changes_are_not_seen, "temperature (assigned)"),
    ],
)
def test_broken_identity_code_is_noticed(
    broken: Callable[[pytest.MonkeyPatch], None], noticed: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_settings, "_known", Memo(1024))  # settings that other tests have read
    broken(monkeypatch)
    found = breaches(SUBJECT, recorder)
    assert any(breach.startswith(f"{noticed} by ") and breach.endswith("the keys are equal") for breach in found), found
