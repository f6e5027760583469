"""Every embedding class of LangChain's that is installed obeys the law of keys."""

from __future__ import annotations

import pytest
from providers.langchain_embeddings import SUBJECTS
from providers.oracle import Subject
from providers.page import Results
from providers.recorder import Recorder
from providers.report import Oracle

pytestmark = [pytest.mark.providers, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.title)
def test_requests_that_differ_have_different_keys(subject: Subject, recorder: Recorder, results: Results) -> None:
    pytest.importorskip(subject.module, reason=f"{subject.distribution} is not installed")
    oracle = Oracle(subject, recorder)
    outcomes = [*oracle.outcomes()]
    results.classes[subject.title] = oracle.summary(outcomes)
    if found := oracle.breaches(outcomes):
        pytest.fail("\n".join(found))  # the comparison of long lists takes minutes
