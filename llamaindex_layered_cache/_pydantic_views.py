"""Objects of pydantic as objects of another class: as copies, or as views that share the state."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from pydantic import BaseModel

T = TypeVar("T", bound=BaseModel)

# the complete state of a pydantic object
_STATE = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


class Held:
    """A reference to a view that comparisons, copies and pickles ignore, so that they do not recurse."""

    def __init__(self, view: BaseModel | None = None) -> None:
        self.view = view

    def __reduce__(self) -> tuple[type[Held], tuple[()]]:
        return Held, ()


def copied(model: T, cls: type[T]) -> T:
    """Return a shallow copy of *model* as an object of *cls*: they share clients and handlers."""
    copy = cls.__new__(cls)
    for part in _STATE:
        value: Any = getattr(model, part)
        object.__setattr__(copy, part, None if value is None else value.copy())
    return copy


def view_of(model: BaseModel, cls: type[T], state: dict[str, Any], name: str) -> T:
    """Return a view of *model* as an object of *cls*. Both share attributes that a call sets, such as a client.

    The view is stored under *name* in *state*, a part of the model's state, and lives as long as the model: its class may
    close a client when one of its objects is collected.
    """
    held = cast("Held", state[name]).view
    if held is not None and held.__dict__ is model.__dict__:
        return cast("T", held)
    view = cls.__new__(cls)
    for part in _STATE:
        object.__setattr__(view, part, getattr(model, part))
    # the name exists already: another thread may iterate over the state, which must not grow
    state[name] = Held(view)
    return view
