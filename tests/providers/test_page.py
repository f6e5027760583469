"""The page of providers, and the data that it is made of."""

from __future__ import annotations

from typing import Any

from providers.oracle import BASE, Outcome, Seen, Sent, Variation, Verdict
from providers.page import DATA, PAGE, Results, rendered
from providers.report import condensed
from providers.run import groups

CLASS: dict[str, Any] = {
    "release": "a-package 1.0",
    "breaches": [],
    "entries": {"global invoke": {"DIFFERENT": 2}, "cached invoke": {"NOT_CACHED": 2}},
    "in_key": ["bound a tool", "model", "prompt an image", "temperature"],
    "without_effect": [],
    "not_cached": [],
    "impossible": [],
    "misses": {"a reason": ["seed"]},
    "not_varied": {"another reason": ["client"]},
}


def test_page_is_rendered_from_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == rendered(Results.read(DATA).classes), "run `python tests/providers/run.py --page`"


def test_results_have_no_breach() -> None:
    assert {name: one["breaches"] for name, one in Results.read(DATA).classes.items() if one.get("breaches")} == {}


def test_page_lists_entry_points_settings_and_reasons() -> None:
    text = rendered({"A class": CLASS})
    assert "| [A class](#a-class) | a-package 1.0 | yes | no, with a warning | - |" in text
    assert "- **In the key:** `model`, `temperature`\n" in text
    assert "- **Content in the key:** 2 pairs of prompts, tools and schemas\n" in text
    assert "- **Equal requests that miss (a reason):** `seed`\n" in text
    assert "- **Not varied (another reason):** `client`\n" in text


def test_page_names_a_class_that_cannot_run() -> None:
    text = rendered({"A class": {"cannot_run": "it needs a GPU"}})
    assert "| not tested | not tested | not tested |" in text
    assert "This class was not tested: it needs a GPU." in text


def test_condensed_results_name_settings_by_their_verdicts() -> None:
    seen = Seen((Sent("POST", "h", "/", (), (), ""),), "k", (), repeats=True)
    verdicts = {"a": Verdict.DIFFERENT, "b": Verdict.EQUAL, "c": Verdict.MISS, "d": Verdict.IMPOSSIBLE, "e": Verdict.NOT_CACHED}
    outcomes = [Outcome(Variation(what, "given", BASE, BASE), "invoke", verdict, seen, seen) for what, verdict in verdicts.items()]
    found = condensed(outcomes, lambda _: "a reason")
    assert found == {
        "entries": {"invoke": {"DIFFERENT": 1, "EQUAL": 1, "IMPOSSIBLE": 1, "MISS": 1, "NOT_CACHED": 1}},
        "in_key": ["a"],
        "without_effect": ["b"],
        "not_cached": ["e"],
        "impossible": ["d"],
        "misses": {"a reason": ["c"]},
    }


def test_each_group_of_packages_has_tests() -> None:
    assert all(group["packages"] == sorted(group["packages"]) and group["tests"] for group in groups().values())
