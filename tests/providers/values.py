"""Two valid values of a field, found by its type; and the variations that come of them."""

from __future__ import annotations

import enum
import itertools
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

from layered_cache.keys.setting_names import is_credential
from providers.oracle import BASE, Situation, Subject, Variation
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

Pair = tuple[Any, Any]

Make = Callable[[dict[str, Any]], object]


def pairs(annotation: Any) -> Iterator[Pair]:
    """Yield pairs of different values that *annotation* may allow, the likeliest first."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {typing.Union, types.UnionType}:
        for one in arguments:
            if one is not type(None):
                yield from pairs(one)
    elif origin is typing.Annotated:
        yield from pairs(arguments[0])
    elif origin is Literal:
        if len(arguments) > 1:
            yield arguments[0], arguments[1]
    elif annotation is bool:
        yield True, False
    elif annotation is int:
        yield from ((3, 4), (1, 2), (1024, 2048), (0, 1))
    elif annotation is float:
        yield from ((0.25, 0.75), (1.5, 2.5))
    elif annotation is str:
        yield from (("one", "two"), ("low", "high"))
    elif annotation is SecretStr:
        yield SecretStr("one"), SecretStr("two")
    elif isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        members = [*annotation]
        if len(members) > 1:
            yield members[0], members[1]
    elif origin in {list, Sequence, set, frozenset, tuple} or annotation in {list, tuple, set}:
        kind = {Sequence: list}.get(origin or annotation, origin or annotation)
        for one, other in pairs(arguments[0] if arguments else str):
            yield kind([one]), kind([other])
    elif origin in {dict, Mapping} or annotation is dict or typing.is_typeddict(annotation):
        for one, other in pairs(arguments[1] if len(arguments) > 1 else str):
            yield {"one": one}, {"one": other}
    elif annotation is Any:
        yield from (({"one": 1}, {"one": 2}), ("one", "two"))


def variations_of(subject: Subject, cls: type[BaseModel], url: str) -> tuple[list[Variation], dict[str, str]]:
    """Return all variations of *subject*, and its fields that are not varied, each with the reason."""
    variations: list[Variation] = []
    left = dict(subject.not_varied)
    for name, field in cls.model_fields.items():
        if name in left or (subject.fields is not None and name not in subject.fields):
            continue
        argument = _argument(cls, name, field)
        pair = subject.values.get(name) or _valid_pair(field, argument, lambda fields: cls(**subject.arguments(BASE, url) | fields))
        if pair is None:
            left[name] = f"no two values of {_shown(field.annotation)} are known"
        else:
            hidden = argument in subject.needs or field.is_required() or is_credential(name)
            before = None if hidden else {name: field.get_default(call_default_factory=True)}
            variations += _of_field(name, argument, pair, before)
    for name, values in subject.made_with.items():
        one, other = (Situation(label=f"made with {name}={_text(value)}", fields={name: value}) for value in values)
        variations += [Variation(name, "given", BASE, one), Variation(name, "other", one, other)]
    for name, values in subject.private.items():
        one, other = (_changed(BASE, "set", {name: value}) for value in values)
        variations += [Variation(name, "assigned", BASE, one), Variation(name, "other", one, other)]
    variations += _in_environment(subject.addresses, subject.address)
    variations += _in_calls(subject.calls)
    variations += _along("prompt", [name for name in subject.prompts if name != "plain"])
    variations += _along("bound", [*subject.bound])
    return variations, left


def _argument(cls: type[BaseModel], name: str, field: FieldInfo) -> str:
    """Return the constructor's name of a field."""
    if field.alias is None or cls.model_config.get("populate_by_name") or cls.model_config.get("validate_by_name"):
        return name
    return field.alias


def _valid_pair(field: FieldInfo, argument: str, make: Make) -> Pair | None:
    for pair in pairs(field.annotation):
        try:
            one, other = make({argument: pair[0]}), make({argument: pair[1]})
        except Exception:  # noqa: BLE001 - each class has its own error for a value that is not allowed
            continue
        if one is not None and other is not None:
            return pair
    return None


def _of_field(name: str, argument: str, pair: Pair, before: dict[str, Any] | None) -> Iterator[Variation]:
    one, other = (Situation(label=f"{name}={_text(value)}", fields={argument: value}) for value in pair)
    yield Variation(name, "given", BASE, one)
    yield Variation(name, "other", one, other)
    yield Variation(name, "assigned", one, _changed(one, "set", {name: pair[1]}))
    yield Variation(name, "copied", one, _changed(one, "copy", {name: pair[1]}))
    if before is not None:
        back = _changed(one, "set", before)
        yield Variation(name, "taken back", one, back)
        yield Variation(name, "as before", BASE, back)


def _changed(situation: Situation, how: Literal["set", "copy"], values: Mapping[str, Any]) -> Situation:
    label = f"{situation.label}, then {how} { ({name: _text(value) for name, value in values.items()}) }"
    return Situation(label=label, fields=situation.fields, changes=((how, values),))


def _in_environment(addresses: Mapping[str, str], address: tuple[str, ...]) -> Iterator[Variation]:
    for name, url in addresses.items():
        one, other = (
            Situation(label=f"{name}={at}", without=address, environment={name: at}) for at in (url, url.replace("{url}", "{url}/other"))
        )
        yield Variation(name, "environment", one, other)


def _in_calls(values: Mapping[str, Pair]) -> Iterator[Variation]:
    for name, (one, other) in values.items():
        first = Situation(label=f"call {name}={_text(one)}", call={name: one})
        yield Variation(f"call {name}", "call", BASE, first)
        yield Variation(f"call {name}", "call", first, Situation(label=f"call {name}={_text(other)}", call={name: other}))


def _along(how: Literal["prompt", "bound"], names: Sequence[str]) -> Iterator[Variation]:
    """Yield variations from the plain call to each of *names*, and from each to the next."""
    situations = [BASE, *(replace(BASE, label=f"{how} {name}", **{how: name}) for name in names)]
    for one, other in itertools.pairwise(situations):
        yield Variation(other.label, how, BASE, other)
        if one is not BASE:
            yield Variation(f"{one.label}, {getattr(other, how)}", how, one, other)


def _text(value: Any) -> str:
    """Return a text of *value* that no other value of the field has: the labels of situations are unique."""
    return f"secret {value.get_secret_value()!r}" if isinstance(value, SecretStr) else repr(value)


def _shown(annotation: Any) -> str:
    return str(annotation).replace("typing.", "")[:80]
