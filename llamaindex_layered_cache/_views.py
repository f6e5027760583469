"""LlamaIndex's models, which are pydantic objects, as objects of another class: as copies, or as views of the very same state."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from pydantic import BaseModel

T = TypeVar("T", bound=BaseModel)

_STATE = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")  # of a pydantic object: all of it


class Held:
    """Holds a view, but for comparisons, copies and pickles of what it is held in: these must not go round in circles."""

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
    """Return *model* as an object of *cls*: what it notes of itself in a call (a client, say), both have.

    It is held in *state*, a part of the model's own, by its *name*, and so lives as long: its class may close a client when one of its
    objects goes.
    """
    held = cast("Held", state[name]).view
    if held is not None and held.__dict__ is model.__dict__:
        return cast("T", held)
    view = cls.__new__(cls)
    for part in _STATE:
        object.__setattr__(view, part, getattr(model, part))
    state[name] = Held(view)  # in its place: others may be reading the state, which must not grow then
    return view
