"""The settings of a model as they are at the moment of a call: everything that it may send, and nothing that only concerns transport.

A model that LangChain writes out as JSON is written out anew: the text that LangChain keeps is as old as the first use of the model.
Fields that this text leaves out count too: excluded ones, secrets that are no credentials (by their fingerprint), objects that can be read.
Of any other model the declared fields count. Nulls, credentials, clients, and settings that only concern transport do not count.

- In a class of a library every field counts.
- A class of the user's own may count its calls or collect them. So a whole number that a call assigns does not count, and neither does a
  collection that a call adds to. A method that no call runs is a setter, and its attributes count. Private attributes count if they are
  plain and no call changes them.
- The code of a class of the user's own counts (`user_code`), since another program can define the same name.
- A model is refused if it holds an object that cannot be read, because that object may be the model. `key_extra` identifies it then.

Every call compares the settings with those of the call before. That is done by comparing objects, which takes two microseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from langchain_core.language_models.base import BaseLanguageModel
from langchain_core.load import dumpd
from langchain_core.load.serializable import Serializable
from layered_cache import UncacheableRequestError
from layered_cache.adapters.identity.local_models import DEVICE_SETTINGS, fingerprint_of, is_loaded
from layered_cache.adapters.identity.snapshots import Reader, Snapshot, content, plain_reader
from layered_cache.keys.keys import canonical
from layered_cache.keys.setting_names import is_credential
from layered_cache.options import fingerprint
from pydantic import BaseModel, SecretBytes, SecretStr

from langchain_layered_cache._keys.client_settings import Clients, ClientStates, clients_of
from langchain_layered_cache._keys.field_plans import OF_MODELS, Plan, owner_of, plain_class, plan_of
from langchain_layered_cache._keys.lru import Memo
from langchain_layered_cache._keys.repr_parser import schema_of
from langchain_layered_cache._keys.user_code import code_of_class, has_code

T = TypeVar("T")

_OURS = "_layered_cache"
KEY_EXTRA = f"{_OURS}_key_extra"
"""The private attribute in which a model that was wrapped keeps `key_extra`."""

_NAMES = (
    "model_name", "model", "model_id", "azure_deployment", "deployment_name", "repo_id", "endpoint_url", "endpoint_name", "model_path",
    "model_url", "inference_server_url",
)  # fmt: skip
_SCALARS = (str, int, float, bool)
_COLLECTIONS = (list, dict, set)
# objects that keep threads and tasks in order: no model is one of these
_SYNCHRONISATION = frozenset({"threading", "_thread", "asyncio", "_asyncio", "queue", "_queue", "concurrent", "_contextvars", "logging"})
_FAKES = "langchain_core.language_models.fake"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one model at one moment.

    `head` is the model as LangChain would write it out now; empty if it does not. `fields` are those that count beside it; of these,
    `defaults` have the value that the class declares. `class_name` and `code`, a digest, identify a class of the user's own.
    `name` is that of the model. `clients` are the settings of its clients. `refusal` is the reason why it has no key. `digest` is of
    all this. `kind` is the class; `is_fake`: it is one of LangChain's own, for tests.
    """

    kind: str
    is_fake: bool
    head: dict[str, Any]
    fields: dict[str, object]
    defaults: frozenset[str]
    class_name: str | None
    name: str | None
    clients: Clients
    key_extra: object
    refusal: str | None
    digest: bytes
    code: str | None = None

    def difference(self, other: Settings) -> list[str]:
        """Return the names of the fields that differ between two moments."""
        places = [{**one.head.get("kwargs", {}), **one.fields} for one in (self, other)]
        names = sorted({*places[0], *places[1]})
        return [name for name in names if places[0].get(name) != places[1].get(name)]


def settings_of(model: BaseLanguageModel[Any], key_extra: object = None) -> Settings:
    """Return the settings of *model* now. It raises nothing: a model that cannot be read has a `refusal`.

    Args:
        model: The model.
        key_extra: Identifies what cannot be read of it; if None, what `cached` was given for it.
    """
    place = id(vars(model))
    try:
        if (known := _known.get(place)) is None or not known.is_of(model, key_extra):
            known = _Known(model, key_extra)
            _known.put(place, known)
    except Exception as error:  # noqa: BLE001 - whatever a setting does when it is looked at, the model answers
        return _unreadable(model, error)
    return known.settings


class _Known:
    """Settings, and a snapshot of the attributes that they were read from."""

    def __init__(self, model: BaseLanguageModel[Any], key_extra: object) -> None:
        plan = plan_of(plain_class(type(model)))
        self._class = type(model)
        self._plan = plan
        self._beside = _beside_fields(model, plan)
        self._key_extra = key_extra
        self._fields = Snapshot(
            model.__dict__,
            plan.looked_at,
            is_opaque=lambda name, value: name in plan.clients and not is_loaded(value),
            reader=_reader,
            immutable=(SecretStr, SecretBytes),
        )
        self._clients = ClientStates(model)
        self.settings = _read(model, plan, key_extra)

    def is_of(self, model: BaseLanguageModel[Any], key_extra: object) -> bool:
        """Return True if *model* is made of the same objects, with the same content."""
        if type(model) is not self._class or key_extra is not self._key_extra or not self._fields.is_of(model.__dict__):
            return False
        if not self._clients.are_of(model) or not has_code(plain_class(self._class), self.settings.code):
            return False
        if not (model.__pydantic_private__ or model.__pydantic_extra__ or self._beside):  # most models
            return True
        return _beside_fields(model, self._plan) == self._beside


_known: Memo[int, _Known] = Memo(1024)


def _reader(value: object) -> Reader:
    if isinstance(value, BaseLanguageModel):
        return lambda model: settings_of(model).digest
    if is_loaded(value):
        return fingerprint_of
    return plain_reader(value) or _content


def _content(value: object) -> object:
    """Return the content of *value*, with that of the secrets and objects in it."""
    if isinstance(value, SecretStr | SecretBytes):
        return value
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return [(_content(key), _content(item)) for key, item in items]
    if isinstance(value, list | tuple):
        return [_content(item) for item in cast("list[object]", value)]
    if isinstance(value, BaseLanguageModel):
        return settings_of(cast("BaseLanguageModel[Any]", value)).digest
    if isinstance(value, BaseModel):  # its repr may leave out fields, and hides secrets
        parts = (value.__dict__, value.__pydantic_extra__, value.__pydantic_private__)
        return [type(value), code_of_class(type(value), lenient=True), *map(_content, parts)]
    return content(value)


def _beside_fields(model: BaseLanguageModel[Any], plan: Plan) -> list[tuple[str, object]]:
    """Return the private and extra attributes that can be settings, with their types: to Python, 1 is True."""
    private = (model.__pydantic_private__ or {}).items()
    found: list[tuple[str, object]] = [
        (name, (type(value), value)) for name, value in private if type(value) in _SCALARS or name == KEY_EXTRA
    ]
    if plan.is_users:
        found += [(name, (type(value), _content(value))) for name, value in private if _is_private_collection(name, value)]
    if extra := model.__pydantic_extra__:
        found += [(name, (type(value), _content(value))) for name, value in extra.items()]
    return found


def _is_private_collection(name: str, value: object) -> bool:
    return type(value) in _COLLECTIONS and not name.startswith(_OURS)


# --- reading


def _unreadable(model: BaseLanguageModel[Any], error: Exception) -> Settings:
    kind = plain_class(type(model)).__qualname__
    refusal = f"the settings of a {kind} cannot be read ({type(error).__name__})"
    return Settings(kind, False, {}, {}, frozenset(), None, None, Clients(None, {}), None, refusal, b"")  # noqa: FBT003 - in their order


UNREADABLE_SETTINGS = Settings(
    kind="model",
    is_fake=False,
    head={},
    fields={},
    defaults=frozenset(),
    class_name=None,
    name=None,
    clients=Clients(None, {}),
    key_extra=None,
    refusal="the model or the arguments of a call cannot be read. Wrap the model: cached(model, cache)",
    digest=b"unreadable",
)
"""Of a call of LangChain's with an unknown model."""


def _read(model: BaseLanguageModel[Any], plan: Plan, key_extra: object) -> Settings:
    cls = plain_class(type(model))
    class_name = f"{cls.__module__}.{cls.__qualname__}"
    if key_extra is None:
        key_extra = (model.__pydantic_private__ or {}).get(KEY_EXTRA)
    head: dict[str, Any] = {}
    fields: dict[str, object] = {}
    refusal = code = None
    try:
        code = code_of_class(cls, lenient=key_extra is not None)
        if plan.is_written:
            head = _written(model, plan, lenient=key_extra is not None)
        fields = dict(_fields(model, plan, head, lenient=key_extra is not None))
    except UncacheableRequestError as error:
        refusal = f"nothing identifies a {cls.__qualname__} ({error}). Identify it: cached(model, key_extra='name/and-settings')"
    name = next((value for one in _NAMES if isinstance(value := getattr(model, one, None), str) and value), None)
    clients = clients_of(model)
    known = [class_name, head, fields, clients.addresses, clients.added, key_extra, refusal]
    if code is not None:
        known.append(code)
    return Settings(
        kind=cls.__qualname__,
        is_fake=any(one.__module__.startswith(_FAKES) for one in cls.__mro__),
        head=head,
        fields=fields,
        defaults=frozenset(name for name in fields if _is_default(plan, name, fields[name])),
        class_name=class_name if plan.is_users else None,
        name=name,
        clients=clients,
        key_extra=key_extra,
        refusal=refusal,
        digest=hashlib.sha256(canonical(known)).digest(),
        code=code,
    )


def _written(model: BaseLanguageModel[Any], plan: Plan, *, lenient: bool) -> dict[str, Any]:
    """Return *model* as LangChain writes it out, with objects that LangChain leaves out.

    Raises:
        UncacheableRequestError: An object cannot be read.
    """
    head = cast("dict[str, Any]", dumpd(model))
    kwargs: dict[str, Any] = {}
    for name, value in cast("dict[str, Any]", head.get("kwargs", {})).items():
        if _is_note(model, plan, name):
            continue
        if not _is_object_left_out(value):
            kwargs[name] = value
        elif name not in OF_MODELS and (read := _read_field(model, plan, name, lenient=lenient)) is not None:
            kwargs[name] = read
    return {"id": head.get("id"), "kwargs": kwargs}


def _fields(model: BaseLanguageModel[Any], plan: Plan, head: Mapping[str, Any], *, lenient: bool) -> Iterator[tuple[str, object]]:
    """Yield the fields that count and are not in *head*.

    Raises:
        UncacheableRequestError: An object cannot be read.
    """
    written = head.get("kwargs", {})
    local = not lenient and any(map(is_loaded, model.__dict__.values()))
    for name in plan.looked_at:
        if local and name in DEVICE_SETTINGS:
            continue
        if head and not (plan.fields[name].exclude or is_secret(written.get(name))):
            continue
        read = None if _is_note(model, plan, name) else _read_field(model, plan, name, lenient=lenient)
        if read is not None and not (head and _is_default(plan, name, read)):
            yield name, read
    for name, value in (model.__pydantic_extra__ or {}).items():
        if value is not None and not is_credential(name):
            yield name, plain(value)
    for name, value in (model.__pydantic_private__ or {}).items() if plan.is_users else ():
        if name in plan.changed or is_credential(name) or name.startswith(_OURS):
            continue
        if type(value) in _SCALARS:
            yield name, value
        elif value and _is_private_collection(name, value):
            with suppress(UncacheableRequestError):  # objects in it are parts of the model's work, as other private objects are
                yield name, plain(value)


def _is_note(model: BaseLanguageModel[Any], plan: Plan, name: str) -> bool:
    """Return True if calls of a user's class note something in the field."""
    if name not in plan.users:
        return plan.fields.get(name) is not None and name == "i" and owner_of(plain_class(type(model)), name).__module__.startswith(_FAKES)
    value = model.__dict__.get(name)
    return name in plan.changed and (type(value) is int or isinstance(value, _COLLECTIONS))


def _read_field(model: BaseLanguageModel[Any], plan: Plan, name: str, *, lenient: bool) -> object:
    """Return the value of a field as plain data; None if it does not count.

    Raises:
        UncacheableRequestError: It holds an object that cannot be read.
    """
    value = model.__dict__.get(name)
    if value is None or is_credential(name):
        return None
    if not lenient and (network := fingerprint_of(value)) is not None:
        return network
    if name in plan.clients and type(value) not in _SCALARS:
        return None
    try:
        read = plain(value)
        return fingerprint(canonical(read).hex()) if name in model.lc_secrets else read
    except UncacheableRequestError as error:
        if lenient or _may_be_left_out(model, plan, name):
            return None
        msg = f"its field {name!r} holds {error}"
        raise UncacheableRequestError(msg) from None


def _may_be_left_out(model: BaseLanguageModel[Any], plan: Plan, name: str) -> bool:
    """Return True if an object in the field *name* that cannot be read is not the model."""
    field = plan.fields[name]
    if name not in plan.users:
        return bool(field.exclude) or owner_of(plain_class(type(model)), name).__module__.startswith(_FAKES)
    return name not in model.model_fields_set or bool(cast("Any", model)._identifying_params)  # noqa: SLF001 - the identity that a class declares


def _is_default(plan: Plan, name: str, value: object) -> bool:
    field = plan.fields.get(name)
    if field is None or field.default_factory is not None:
        return False
    try:
        return canonical(plain(field.default)) == canonical(value)
    except UncacheableRequestError:
        return False


def is_secret(written: object) -> bool:
    """Return True if LangChain has written a secret out by its name alone."""
    return isinstance(written, dict) and cast("dict[str, object]", written).get("type") == "secret" and "lc" in written


def _is_object_left_out(written: object) -> bool:
    """Return True if LangChain has written no more than the class of an object somewhere in *written*."""
    if isinstance(written, dict):
        fields = cast("dict[str, object]", written)
        return (fields.get("lc") == 1 and fields.get("type") == "not_implemented") or any(map(_is_object_left_out, fields.values()))
    return isinstance(written, list) and any(map(_is_object_left_out, cast("list[object]", written)))


def plain(value: object) -> object:  # noqa: PLR0911 - one for each kind of value
    """Return *value* as plain data for a key; secrets as their fingerprints.

    Raises:
        UncacheableRequestError: It holds an object that cannot be read. The message begins with the kind of object.
    """
    if value is None or type(value) in _SCALARS:
        return value
    if _is_synchronisation(value):
        return None
    if isinstance(value, SecretStr | SecretBytes):
        return fingerprint(str(value.get_secret_value()))
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in cast("Mapping[object, object]", value).items() if not _is_synchronisation(item)}
    if isinstance(value, list | tuple):
        items = [plain(item) for item in cast("list[object]", value) if not _is_synchronisation(item)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, BaseLanguageModel):
        return _model_as_plain(cast("BaseLanguageModel[Any]", value))
    if isinstance(value, type) and issubclass(value, BaseModel) and (schema := schema_of(value)) is not None:
        return {"schema": schema}
    if isinstance(value, BaseModel):
        return _object_as_plain(value)
    kind = type(cast("object", value))
    try:
        canonical(cast("object", value))
    except UncacheableRequestError:
        msg = f"a {kind.__qualname__}, which cannot be read"
        raise UncacheableRequestError(msg) from None
    return cast("object", value)


def _is_synchronisation(value: object) -> bool:
    return type(value).__module__.partition(".")[0] in _SYNCHRONISATION


def _model_as_plain(model: BaseLanguageModel[Any]) -> object:
    settings = settings_of(model)
    if settings.refusal is not None:
        msg = f"a model of which {settings.refusal}"
        raise UncacheableRequestError(msg)
    return {"model": settings.digest}


def _object_as_plain(value: BaseModel) -> object:
    cls = type(value)
    code = code_of_class(cls, lenient=False)
    of_user = {} if code is None else {"code": code}
    if isinstance(value, Serializable) and value.is_lc_serializable() and not _is_object_left_out(written := dumpd(value)):
        return {**written, **of_user}
    held = {**value.__dict__, **(value.__pydantic_extra__ or {}), **(value.__pydantic_private__ or {})}
    return {"class": f"{cls.__module__}.{cls.__qualname__}", "fields": {name: plain(item) for name, item in held.items()}, **of_user}
