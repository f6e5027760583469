"""Break a module in one small way, see whether a test fails, and so on for every way there is: `make mutants`.

    python tests/mutation_testing/run.py                         every module
    python tests/mutation_testing/run.py keys wire               some
    python tests/mutation_testing/run.py keys --only Negate:3    some mutants of one, with what the tests said

The mutants are those of cosmic-ray and four kinds of our own; README.md beside this says which are left out. All happens in a copy of
what git knows or would: the checkout is only read. It fails where fewer than 85 % are killed, or where one survives that README.md
does not give a reason for.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import hypothesis  # noqa: F401 - here, so that it need not be imported for each mutant; the same for the next three
import langchain_openai  # noqa: F401
import orjson  # noqa: F401
import pytest
import zstandard  # noqa: F401
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator
from parso.python.tree import Keyword

ROOT = Path(__file__).parents[2]
KNOWN = Path(__file__).with_name("README.md")
WANTED = 0.85
PYTEST = ["-x", "-q", "-p", "pytest_asyncio.plugin", "-p", "fastest_first", "-p", "no:cacheprovider", "-m", "not slow and not nightly"]


@dataclass(frozen=True)
class Target:
    """A module and the tests that shall kill its mutants, the quick ones first."""

    module: str
    tests: tuple[str, ...]

    @property
    def path(self) -> str:
        return "shared/" + self.module.replace(".", "/") + ".py"


TARGETS = {
    "flights": Target("layered_cache._engine.in_flight", ("tests/engine/test_single_flight.py", "tests/invariants/test_schedules.py")),
    "invalidation": Target("layered_cache._storage.rules", ("tests/engine/test_invalidation.py",)),
    "wire": Target("layered_cache._storage.envelope", ("tests/unit/test_envelope.py",)),
    "keys": Target("layered_cache.keys.keys", ("tests/unit/test_keys.py", "tests/langchain/test_requests.py")),
}


# --- which mutants there are


class Ours(Operator):
    """A kind of mutant that cosmic-ray has not: each spot in a node is replaced by another text."""

    def spots(self, node: Any) -> list[Any]:
        raise NotImplementedError

    def instead(self, code: str) -> str:
        raise NotImplementedError

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        yield from ((spot.start_pos, spot.end_pos) for spot in self.spots(node))

    def mutate(self, node: Any, index: int) -> Any:
        spot = self.spots(node)[index]
        siblings = spot.parent.children
        code = self.instead(spot.get_code(include_prefix=False))
        siblings[siblings.index(spot)] = Keyword(code, spot.start_pos, prefix=spot.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class DropStatement(Ours):
    """`self.land(flight)` becomes `pass`: calls, changes of attributes and items, del, raise, return."""

    _KINDS = ("expr_stmt", "atom_expr", "await", "yield_expr", "del_stmt", "raise_stmt", "return_stmt")

    def spots(self, node: Any) -> list[Any]:
        statement = node.children[0] if node.type == "simple_stmt" else node
        return [statement] if statement is not node and statement.type in self._KINDS and not self._makes_a_name(statement) else []

    @staticmethod
    def _makes_a_name(statement: Any) -> bool:  # without it there is a NameError, which proves nothing
        first, second = statement.children[:2]
        return statement.type == "expr_stmt" and first.type in {"name", "testlist_star_expr"} and second != "+="

    def instead(self, code: str) -> str:
        return "pass"


class SwapIn(Ours):
    """`in` becomes `not in`, and the other way round."""

    def spots(self, node: Any) -> list[Any]:
        signs = node.children[1::2] if node.type == "comparison" else []
        return [sign for sign in signs if sign.get_code(include_prefix=False) in {"in", "not in"}]

    def instead(self, code: str) -> str:
        return "not in" if code == "in" else "in"


class Negate(Ours):
    """`if x` becomes `if not (x)`; comparisons have opposites of their own."""

    _AT: ClassVar = {"if_stmt": 1, "while_stmt": 1, "comp_if": 1, "test": 2}  # "test" is `a if x else b`

    def spots(self, node: Any) -> list[Any]:
        conditions = [node.children[self._AT[node.type]]] if node.type in self._AT else []
        return [condition for condition in conditions if condition.type not in {"comparison", "not_test"}]

    def instead(self, code: str) -> str:
        return f"not ({code})"


class CatchOther(Ours):
    """`except ValueError` becomes `except SyntaxError`, which nobody raises."""

    def spots(self, node: Any) -> list[Any]:
        caught = node.children[1] if node.type == "except_clause" else None
        return [] if caught is None else caught.children[1].children[::2] if caught.type == "atom" else [caught]

    def instead(self, code: str) -> str:
        return "SyntaxError"


def operators() -> dict[str, Operator]:
    """Return one opposite of each sign; of comparisons those two that imply the others, and the negation."""
    pairs = "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Div Mod_Mul Pow_Mul LShift_RShift RShift_LShift BitOr_BitAnd BitAnd_BitOr"
    compared = {
        "Lt": "LtE NotEq GtE", "LtE": "Lt Eq Gt", "Gt": "GtE NotEq LtE", "GtE": "Gt Eq Lt",
        "Eq": "NotEq LtE GtE", "NotEq": "Eq Lt Gt", "Is": "IsNot", "IsNot": "Is",
    }  # fmt: skip
    names = [
        *("ReplaceBinaryOperator_" + pair for pair in pairs.split()),
        *(f"ReplaceComparisonOperator_{one}_{other}" for one, others in compared.items() for other in others.split()),
        *("ReplaceUnaryOperator_Delete_" + sign for sign in ("Not", "USub", "Invert")),
        *("ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "NumberReplacer"),
        *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop", "RemoveDecorator"),
    ]
    ours: list[type[Ours]] = [DropStatement, SwapIn, Negate, CatchOther]
    return {name: get_operator("core/" + name)() for name in names} | {kind.__name__: kind() for kind in ours}


def for_readers_only(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where there is nothing that runs: annotations, types of casts, what only type checkers import, docstrings."""
    nodes: list[Any] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.arg() | ast.AnnAssign():
                nodes.append(node.annotation)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                nodes.append(node.returns)
            case ast.Call(func=ast.Name("cast"), args=[kind, *_]) | ast.Expr(value=ast.Constant() as kind):
                nodes.append(kind)
            case ast.If(test=ast.Name("TYPE_CHECKING")):
                nodes.append(node)
            case _:
                pass
    return [((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)) for node in nodes if node]


@dataclass(frozen=True)
class Mutant:
    """One way to break a module; `what` is how README.md names it."""

    id: str
    what: str
    code: str


def mutants(name: str, source: str) -> Iterator[Mutant]:
    """Yield every mutant of *source*, the module *name*, in the order of its lines."""
    idle = for_readers_only(source)
    found: list[tuple[tuple[int, int], str, Operator, int]] = []
    tree = get_ast(source)
    for operator_name, operator in operators().items():
        positions = [(node, start) for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node)]
        for occurrence, (node, start) in enumerate(positions):
            is_mark = node.type == "operator" and node.parent.type == "parameters"  # the star in `def f(a, *, b)`
            if not is_mark and not any(first <= start < last for first, last in idle):
                found.append((start, operator_name, operator, occurrence))
    for start, operator_name, operator, occurrence in sorted(found, key=lambda one: (one[0], one[1], one[3])):
        code = mutate_code(source, operator, occurrence)
        assert code is not None
        compile(code, name, "exec")
        yield Mutant(f"{operator_name}:{occurrence}", f"{name}.{_around(source, start[0])}: {_change(source, code)}", code)


def _around(source: str, line: int) -> str:
    """Return the qualified name of what *line* is in."""
    names: list[str] = []
    body: Any = ast.parse(source).body
    while body:
        inner = [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
        body = None
        for node in inner:
            if min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) <= line <= (node.end_lineno or 0):
                names.append(node.name)
                body = node.body
    return ".".join(names) or "module"


def _change(before: str, after: str) -> str:
    """Return the line that *after* has instead of *before*."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    gone, come = ([line[2:].strip() for line in lines if line.startswith(sign)] for sign in "-+")
    lost = next(filter(None, gone))
    return f"without `{lost}`" if not come or come[0].split()[:1] == ["pass"] else f"`{come[0]}`"


# --- what becomes of them


def copied(to: Path) -> Path:
    """Copy what git knows or would, and nothing else."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for file in filter(None, files.split("\0")):
        if (ROOT / file).is_file():
            (to / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, to / file)
    return to


def tested(target: Target, limit: float) -> tuple[str, str, float]:
    """Return whether the tests noticed what is in the copy, what they said, and how long they took.

    They run in a fork, which has already imported all that is not ours.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as said:
        if (child := os.fork()) == 0:
            code = 1
            try:
                os.setsid()
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                code = int(pytest.main([*PYTEST, *target.tests]))
                sys.stdout.flush()
            finally:
                os._exit(code)
        word = _ended(child, started + limit)
        said.seek(0)
        return word, said.read().decode(errors="replace"), time.monotonic() - started


def _ended(child: int, until: float) -> str:
    word = ""
    while not word:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            word = "killed" if status else "survived"
        elif time.monotonic() > until:
            word = "timeout"
        else:
            time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # with whatever it has left behind
    if word == "timeout":
        os.waitpid(child, 0)
    return word


def examined(name: str, copy: Path, only: list[str]) -> tuple[int, int, int, list[str]]:
    """Return how many mutants of the module *name* there are, how many were killed, how many of them by time, and who survived."""
    target = TARGETS[name]
    module = copy / target.path
    source = module.read_text()
    where = [sys.executable, "-c", f"import {target.module} as module; print(module.__file__)"]
    assert Path(subprocess.check_output(where, text=True).strip()).samefile(module), "the tests would not see the mutants"
    word, said, seconds = tested(target, math.inf)
    assert word == "survived", said
    sys.dont_write_bytecode = True  # of mutants, which may be as long and as old as what they come from
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for compiled in module.parent.glob(f"__pycache__/{module.stem}.*"):
        compiled.unlink()
    print(f"# {name}: the tests pass in {seconds:.0f} s", flush=True)
    everyone = [mutant for mutant in mutants(name, source) if not only or mutant.id in only]
    assert everyone, "there is no such mutant"
    words: dict[str, int] = {"killed": 0, "timeout": 0, "survived": 0}
    survivors: list[str] = []
    limit = 10 + 4 * seconds  # a mutant that takes longer hangs, and is killed by that
    for mutant in everyone:
        module.write_text(mutant.code)
        word, said, seconds = tested(target, limit)
        words[word] += 1
        by = [line.split()[1].rpartition("::")[2] for line in said.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        print(f"{word:8} {seconds:5.1f} s  {mutant.id}  {mutant.what}  {' '.join(by)}", flush=True)
        if word == "survived":
            survivors.append(mutant.what)
        if only:
            print(said)
    module.write_text(source)
    word, said, _ = tested(target, math.inf)
    assert word == "survived", f"the tests kill by chance: {said}"
    return len(everyone), words["killed"] + words["timeout"], words["timeout"], survivors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(TARGETS)}; all, if none is given")
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="only these mutants, and what the tests said to each")
    arguments = parser.parse_args()
    known = " ".join(KNOWN.read_text().split())
    good = True
    summary: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder).resolve())
        os.chdir(copy)
        path = [str(copy / "shared"), str(copy), str(copy / "tests" / "mutation_testing")]
        sys.path[:0] = path
        os.environ |= {
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONHASHSEED": "0",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # plugins that nobody needs take longer than most mutants
        }
        for name in arguments.modules or TARGETS:
            total, killed, late, survivors = examined(name, copy, arguments.only)
            summary += ["", f"{name}: {killed} of {total} killed ({killed / total:.1%}), {late} of them by time"]
            new = [what for what in survivors if f"- {' '.join(what.split())} - " not in known]
            summary += [f"    {'NEW  ' if what in new else 'known'} {what}" for what in survivors]
            good &= killed >= WANTED * total and not new
    print("\n".join(summary))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
