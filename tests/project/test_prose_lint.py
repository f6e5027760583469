"""The lint of the language: marked sentences are counted, code and short labels are not."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

PLAIN = "The cache reads the entry from the first tier. " * 20


@pytest.fixture(scope="module")
def lint() -> ModuleType:
    spec = util.spec_from_file_location("prose_lint", Path(__file__).with_name("prose_lint.py"))
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def page(tmp_path: Path, text: str, name: str = "page.md") -> Path:
    file = tmp_path / name
    file.write_text(text)
    return file


def test_prose_lint_plain_page_passes(lint: ModuleType, tmp_path: Path) -> None:
    found = lint.check(page(tmp_path, PLAIN))
    assert (found.sentences, found.marked, found.fails) == (20, [], False)


def test_prose_lint_one_mark_in_twenty_passes_two_fail(lint: ModuleType, tmp_path: Path) -> None:
    mark = "A tier keeps only what the caller wrote before. "
    assert not lint.check(page(tmp_path, PLAIN + mark)).fails
    assert lint.check(page(tmp_path, PLAIN + mark + mark)).fails


def test_prose_lint_forbidden_pronoun_fails_at_once(lint: ModuleType, tmp_path: Path) -> None:
    assert lint.check(page(tmp_path, PLAIN + "Nobody waits.")).fails


def test_prose_lint_marked_heading_fails(lint: ModuleType, tmp_path: Path) -> None:
    assert lint.check(page(tmp_path, "# What is stored\n\n" + PLAIN)).fails


def test_prose_lint_code_and_quotations_are_not_prose(lint: ModuleType, tmp_path: Path) -> None:
    text = PLAIN + '\n```python\nwhose = "he"\n```\nThe option `nobody` and the text "nobody" are read as they are.'
    assert not lint.check(page(tmp_path, text)).fails


def test_prose_lint_reads_docstrings_and_comments_only(lint: ModuleType, tmp_path: Path) -> None:
    source = (
        '"""The module holds one function for the test."""\n\n# the caller whose key is\n# stored in the first tier\nnobody = "he said"\n'
    )
    found = lint.check(page(tmp_path, source, "module.py"))
    assert (found.sentences, len(found.marked), found.forbidden) == (2, 1, [])


def test_prose_lint_program_names_files_and_returns_one(lint: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page(tmp_path, "Nobody waits.")
    assert lint.main([str(tmp_path)]) == 1
    assert "page.md" in capsys.readouterr().out
