"""The code of models that an application defines: their module and name do not identify them (`code_identity`)."""

from __future__ import annotations

from layered_cache import UncacheableRequestError
from layered_cache.adapters.identity.code_identity import code_identity


def code_of_class(cls: type, *, lenient: bool) -> str | None:
    """Return the digest of the code of *cls*; None if its module and name identify it.

    Args:
        cls: The class of a model.
        lenient: Return None for code without an identity: `key_extra` identifies the model.

    Raises:
        UncacheableRequestError: The code uses a value that has no identity, and *lenient* is False.
    """
    try:
        return code_identity(cls)
    except UncacheableRequestError:
        if lenient:
            return None
        raise


def has_code(cls: type, digest: str | None) -> bool:
    """Return True if *digest* is still that of the code of *cls*. None stays valid: a module and a name do not change."""
    if digest is None:
        return True
    try:
        return code_identity(cls) == digest
    except UncacheableRequestError:
        return False
