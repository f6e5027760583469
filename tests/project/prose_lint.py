"""Check the language of docstrings, comments and pages: `python tests/project/prose_lint.py PATH...`.

A sentence is marked if it has a word or a construction that `docs/development/style.md` rules out. A file fails if
more than 5 % of its sentences are marked, if it has a word that is never allowed, or if a heading is marked.
Folders are searched for Python files and Markdown pages.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LIMIT = 0.05
SHORTEST = 5  # words: shorter pieces are names and labels

# each pattern with the reason that the report prints
MARKS = {
    r"\b(?:he|his|him|himself)\b": "a pronoun for a program or a reader",
    r"\bwhose\b": "a clause as a noun",
    r"(?:^|[.;:,(]\s*|\b(?:of|for|by|than|and) )(?:who|whoever|whom)\b": "a clause as a noun",
    r"\bwhat (?:is|was|are|were|has|have|had|an?|the|it|they|one|nobody|would|will|may|can|must|this|that|these)\b": ("a clause as a noun"),
    r"\b(?:of|by|in|from|under|to|for|with|beside) what\b": "a clause as a noun",
    r"\b(?:of|by|in|from|under|to|for|with|beside) whom\b": "a clause as a noun",
    r"\b(?:nobody|somebody|everybody|anybody|everyone|others|another one)\b": "a pronoun instead of a name",
    r"\b(?:stands?|stood)\b": "a metaphor",
    r"\b(?:says?|said|tells?|told)\b": "a program that speaks",
    r", say\b": "a word of speech",
    r"\b(?:under way|in vain|at hand|all the same|hence|of its own|for ever|shall|lest)\b": "old-fashioned English",
    r"\b(?:goes?|went) (?:by|on|to)\b": "a metaphor",
}
NEVER = r"\b(?:he|his|whoever|nobody)\b"
# code, parameters, links and quotations in a text have their own language
_NOT_PROSE = re.compile(r"```.*?```|`[^`\n]*`|\*\w+\*|\]\([^)]*\)|\"[^\"\n]{0,80}\"", re.DOTALL)
_SENTENCE_ENDS = re.compile(r"(?<=[.!?;])\s+|\n\s*\n|\n\s*[-*|] ")


@dataclass
class Findings:
    """The sentences of one file that are marked, and the number of all sentences."""

    sentences: int = 0
    marked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    forbidden: list[str] = field(default_factory=list[str])
    headings: list[str] = field(default_factory=list[str])

    @property
    def fails(self) -> bool:
        """True if the file has more marks than are allowed."""
        return len(self.marked) > LIMIT * self.sentences or bool(self.forbidden or self.headings)


def texts(path: Path) -> Iterator[str]:
    """Yield the docstrings and comments of a Python file, or the text of a page."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield source
        return
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and (docstring := ast.get_docstring(node)):
            yield docstring
    comments: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if comments and token.start[0] > last + 1:  # consecutive lines are one text
                yield "\n".join(comments)
                comments = []
            comments.append(token.string.lstrip("# "))
            last = token.start[0]
    yield "\n".join(comments)


def check(path: Path) -> Findings:
    """Return the findings in *path*."""
    found = Findings()
    for text in texts(path):
        prose = _NOT_PROSE.sub("x", text)
        if path.suffix == ".md":
            found.headings += [line for line in prose.splitlines() if line.startswith("#") and reason(line)]
        for sentence in _SENTENCE_ENDS.split(prose):
            if re.search(NEVER, sentence, re.IGNORECASE):
                found.forbidden.append(" ".join(sentence.split()))
            if len(sentence.split()) < SHORTEST:
                continue
            found.sentences += 1
            if why := reason(sentence):
                found.marked.append((why, " ".join(sentence.split())))
    return found


def reason(sentence: str) -> str | None:
    """Return why *sentence* is marked; None if it is not."""
    return next((why for mark, why in MARKS.items() if re.search(mark, sentence, re.IGNORECASE)), None)


def files(paths: list[str]) -> Iterator[Path]:
    """Yield the files of *paths*; a folder means the Python files and pages below it."""
    for path in map(Path, paths):
        yield from sorted(file for kind in ("*.py", "*.md") for file in path.rglob(kind)) if path.is_dir() else [path]


def main(arguments: list[str]) -> int:
    """Print the findings of each file that fails, or of each file with `--all`. Return 1 if one fails."""
    everything = "--all" in arguments
    sentences = marked = failed = 0
    for path in files([argument for argument in arguments if not argument.startswith("--")]):
        found = check(path)
        sentences += found.sentences
        marked += len(found.marked)
        failed += found.fails
        if found.fails or (everything and found.marked):
            print(f"{path}: {len(found.marked)} of {found.sentences} sentences are marked")
            for why, sentence in found.marked:
                print(f"    {why}: {sentence}")
            for sentence in found.forbidden:
                print(f"    never allowed: {sentence}")
            for heading in found.headings:
                print(f"    heading: {heading}")
    print(f"prose: {marked} of {sentences} sentences are marked, {failed} files fail")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
