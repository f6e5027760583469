"""Which modules are libraries: their code is identified by module and name."""

from __future__ import annotations

import functools
import importlib.metadata
import site
import sys
import sysconfig
from pathlib import Path

_OURS = frozenset({"layered_cache", "langchain_layered_cache", "llamaindex_layered_cache"})
_SCRIPTS = frozenset({"__main__", "__mp_main__"})
_FOLDERS = frozenset({"site-packages", "dist-packages"})


@functools.lru_cache(maxsize=4_096)
def is_library(module: str) -> bool:
    """Return True if *module* belongs to the standard library or to an installed package."""
    if module in _SCRIPTS:
        return False
    top = module.partition(".")[0]
    if top in _OURS or getattr(sys, "frozen", False):  # the modules of a frozen program have no folders of their own
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return top in sys.stdlib_module_names
    path = Path(file).absolute()
    if not _FOLDERS.isdisjoint(path.parts) or any(path.is_relative_to(folder) for folder in _library_folders()):
        return True
    # `pip install --target` puts packages beside the program
    beside = path.parents[module.count(".") + (path.stem == "__init__")]
    return any(beside.glob("*.dist-info")) and top in importlib.metadata.packages_distributions()


@functools.cache
def _library_folders() -> tuple[str, ...]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return (*sorted(paths), site.getusersitepackages())
