"""The shape of the code: the imports between modules, the modules that an import loads, and equal signatures of both halves."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import layered_cache
import pytest
from layered_cache import TieredCache
from layered_cache._engine.runtime import Effects
from layered_cache._engine.runtime_asyncio import Asyncio
from layered_cache._engine.runtime_threads import Blocking
from layered_cache.tiers.base import Authority, Listable, Queryable, Tier

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "shared" / "layered_cache"
ADAPTERS = [path.parent for path in ROOT.glob("*_layered_cache/__init__.py")]

PURE = {
    "_engine.arguments",
    "_engine.pending_removals",
    "_storage",
    "_util",
    "adapters.call_ids",
    "adapters.chunk_codec",
    "adapters.identity._bytecode",
    "adapters.identity._code_parts",
    "adapters.identity._libraries",
    "adapters.identity.code_identity",
    "adapters.vector_codec",
    "entry",
    "errors",
    "events",
    "keys",
    "options",
    "policy",
    "receipt",
    "stats",
}
PROTOCOLS = {"tiers.base"}
# the modules of layered_cache that a part may import
ALLOWED = {
    **dict.fromkeys(PURE, PURE),
    "_version": set[str](),
    "tiers": PURE | {"tiers"},
    "_engine": PURE | PROTOCOLS | {"_engine"},
    "config": PURE | PROTOCOLS | {"tiers._open"},
    "_pickling": PURE | PROTOCOLS | {"tiers._open", "cache"},
    "_engine.adapter_hooks": PURE | PROTOCOLS | {"_engine"},
    "cache": PURE | PROTOCOLS | {"tiers._open", "_engine", "_engine.adapter_hooks", "_pickling", "config"},
    # for adapters
    "adapters.common": PURE | {"cache"},
    "adapters.identity.clients": PURE,
    "adapters.identity.snapshots": PURE | {"adapters.identity.clients"},
    "adapters.identity.local_models": PURE,
    "adapters.msgpack_codec": PURE,
    "adapters.vector_cache": PURE | {"adapters.common", "adapters.cached_call", "cache"},
    "adapters.cached_call": PURE | {"cache"},
    "adapters.refusals": PURE | {"adapters.cached_call", "cache"},
    "adapters.cached_stream": PURE | {"adapters.cached_call", "cache", "adapters.shared_stream"},
    "adapters.shared_stream": PURE,
    "adapters.pricing": PURE,
    "adapters.log_once": PURE,
    "testing": PURE | PROTOCOLS | {"testing"},
    "__init__": PURE | PROTOCOLS | {"cache", "tiers"},
}


def imports(path: Path) -> list[str]:
    """Return the modules that *path* imports, wherever in it."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            folder = ENGINE.parent / module.replace(".", "/")
            found += [f"{module}.{alias.name}" if (folder / f"{alias.name}.py").exists() else module for alias in node.names]
    return found


def part_of(name: str) -> str:
    """Return which part of layered_cache a module is of."""
    rest = name.removeprefix("layered_cache").strip(".")
    return rest or "__init__"


def may(name: str, allowed: set[str]) -> bool:
    """Return True if the module *name*, or a folder that it is in, is one of *allowed*."""
    words = part_of(name).split(".")
    return any(".".join(words[:length]) in allowed for length in range(1, len(words) + 1))


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=lambda path: str(path.relative_to(ENGINE)))
def test_layers(path: Path) -> None:
    """Pure modules know nothing but each other; tiers know these; the engine knows these and the protocols of tiers."""
    words = path.relative_to(ENGINE).with_suffix("").parts
    if words[-1] == "__init__" and len(words) > 1:
        words = words[:-1]
    names = [".".join(words[:length]) for length in range(len(words), 0, -1)]
    part = next((name for name in names if name in ALLOWED), None)
    found = [name for name in imports(path) if name.split(".")[0] == "layered_cache"]

    assert part is not None or not found, f"{names[0]} has no row in ALLOWED"
    for name in found:
        assert may(name, ALLOWED[part or ""]), f"{part} may not import {name}"


@pytest.mark.parametrize("tier", ["memory", "null", "sqlite", "redis", "mongodb"])
def test_tiers_do_not_know_each_other(tier: str) -> None:
    """They import only their own folder and shared modules."""
    folder = ENGINE / "tiers" / tier
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]:
        for name in imports(path):
            if name.startswith("layered_cache.tiers."):
                assert name.split(".")[2] in {tier, "base", "threaded", "_url_options"}, name


def test_the_engine_knows_no_loop_and_no_thread_but_at_its_edge() -> None:
    """What decides is written once; what touches the world is in the two worlds' own files."""
    for name in ("engine", "runtime"):
        assert not {"asyncio", "threading", "time"} & {module.split(".")[0] for module in imports(ENGINE / "_engine" / f"{name}.py")}


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
def test_adapters_use_public_names(adapter: Path) -> None:
    """And never each other."""
    others = {other.name for other in ADAPTERS if other != adapter}
    for path in adapter.rglob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] not in others, f"{path.name} imports {name}"
            if name.split(".")[0] == "layered_cache":
                assert not any(word.startswith("_") for word in name.split(".")), f"{path.name} imports {name}"


def test_nobody_imports_shared() -> None:
    """It is a folder, not a package."""
    assert not (ROOT / "shared" / "__init__.py").exists()
    for path in [*ENGINE.rglob("*.py"), *(path for adapter in ADAPTERS for path in adapter.rglob("*.py")), *(ROOT / "tests").rglob("*.py")]:
        assert all(name.split(".")[0] != "shared" for name in imports(path)), path


def test_importing_loads_no_third_party_module() -> None:
    """Nor does the use of memory and SQLite without any extra."""
    program = """
import sys
before = set(sys.modules)
import layered_cache
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(loaded - set(sys.stdlib_module_names) - {"layered_cache"}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_background_threads_import_nothing(tmp_path: Path) -> None:
    """A fork in the middle of an import leaves the lock of that import to the child, locked."""
    program = f"""
import sys
from layered_cache import Policy, Request, TieredCache
cache = TieredCache("memory://", "sqlite:///{tmp_path}/a.db", policy=Policy(write="behind"))
cache.key(Request("q"))
before = set(sys.modules)
cache.set(Request("q"), bytes(10000))
cache.invalidate(tag="x")
cache.close()
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_without_any_extra_the_engine_works(tmp_path: Path) -> None:
    """All libraries are optional to it."""
    program = f"""
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in sys.stdlib_module_names | {{"layered_cache"}}:
            raise ImportError(name)
sys.meta_path.insert(0, Nothing())
from layered_cache import Answer, Request, TieredCache
with TieredCache("memory://", "sqlite:///{tmp_path}/a.db") as cache:
    entry = cache.get_or_compute(Request("q" * 10000, params={{"x": 1.5}}), lambda: b"x" * 10000)
    assert cache.get(Request("q" * 10000, params={{"x": 1.5}})) == entry
    cache.invalidate(prompt="q" * 10000)
    assert cache.get(Request("q" * 10000, params={{"x": 1.5}})) is None
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.stdout.strip() == "fine", done.stderr


PLAIN_METHODS = {"peek", "peek_hit", "nothing_to_share", "reject", "followed", "report", "key", "namespace", "stats", "from_env"}


def test_every_coroutine_has_its_plain_twin() -> None:
    """Of the same signature, but that `compute` may be awaited; and what touches a tier has a coroutine."""
    methods = {
        name: member
        for name, member in vars(TieredCache).items()
        if (not name.startswith("_") and inspect.isfunction(member)) or (isinstance(member, classmethod) and not name.startswith("_"))
    }
    for name in methods.keys() - PLAIN_METHODS:
        if inspect.iscoroutinefunction(methods[name]) or inspect.isasyncgenfunction(methods[name]):
            assert name.startswith("a")
            plain = methods[name.removeprefix("a")]
            for (parameter, mine), theirs in zip(
                inspect.signature(methods[name]).parameters.items(), inspect.signature(plain).parameters.values(), strict=True
            ):
                assert (mine.name, mine.kind, mine.default) == (theirs.name, theirs.kind, theirs.default)
                if parameter != "compute":
                    assert mine.annotation == theirs.annotation, (name, parameter)
            returned = str(inspect.signature(methods[name]).return_annotation).replace("AsyncIterator", "Iterator")
            assert returned == str(inspect.signature(plain).return_annotation)
        else:
            assert "a" + name in methods, f"{name} has no asynchronous twin"


@pytest.mark.parametrize("protocol", [Tier, Authority, Queryable, Listable])
def test_protocols_have_both_halves(protocol: type) -> None:
    """Each coroutine a plain twin of the same signature."""
    methods = {name: member for name, member in vars(protocol).items() if inspect.isfunction(member) and not name.startswith("_")}
    coroutines = {name for name, member in methods.items() if inspect.iscoroutinefunction(member)}

    assert {name.removeprefix("a") for name in coroutines} == methods.keys() - coroutines
    for name in coroutines:
        assert inspect.signature(methods[name]) == inspect.signature(methods[name.removeprefix("a")])


@pytest.mark.parametrize("world", [Blocking, Asyncio])
def test_both_worlds_have_all_effects(world: type) -> None:
    """With the same signatures."""
    effects = {name: member for name, member in vars(Effects).items() if inspect.isfunction(member) and not name.startswith("_")}

    for name, member in effects.items():
        assert list(inspect.signature(getattr(world, name)).parameters) == list(inspect.signature(member).parameters), name


def test_the_public_names() -> None:
    """Sorted, complete, and there."""
    assert layered_cache.__all__ == sorted(layered_cache.__all__, key=str.casefold) or layered_cache.__all__ == sorted(
        layered_cache.__all__
    )
    for name in layered_cache.__all__:
        assert getattr(layered_cache, name).__name__ == name or name == "Observer"
    with pytest.raises(AttributeError, match="nothing"):
        layered_cache.nothing  # noqa: B018
    assert layered_cache.__version__.count(".") == 2
