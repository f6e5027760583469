"""Attributes of a package that are imported at their first use.

A library that is not installed becomes an error with the command that installs it, also for `import
*`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from layered_cache.errors import MissingClientError

# a library that is not installed, and the command that installs it
_COMMANDS = {
    "langchain": "pip install langchain",
    "langchain_core": "pip install 'layered-cache[langchain]'",
    "langgraph": "pip install langgraph",
    "llama_index": "pip install 'layered-cache[llamaindex]'",
    "msgspec": "pip install 'layered-cache[langchain]' or 'layered-cache[llamaindex]'",
    "orjson": "pip install 'layered-cache[langchain]' or 'layered-cache[llamaindex]'",
    "genai_prices": "pip install 'layered-cache[langchain]' or 'layered-cache[llamaindex]'",
}


def attribute(package: str, name: str, modules: Mapping[str, str]) -> object:
    """Return the attribute *name* of *package*; *modules* has the module of each name.

    Raises:
        AttributeError: If the package has no such attribute.
        MissingClientError: If a library that the attribute needs is not installed.
    """
    if name == "__version__":
        return importlib.import_module("layered_cache._version").__version__
    if name not in modules:
        msg = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        return getattr(importlib.import_module(modules[name], package), name)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _COMMANDS:
            raise
        what = f"{package}.{name} needs {library}"
        raise MissingClientError(what, command=_COMMANDS[library]) from error
