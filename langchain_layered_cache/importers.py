"""Import of the entries of other LangChain caches: `import_sqlite`, `import_mongodb`.

The source must store LangChain's two texts, prompt and model. The texts are read as in a lookup, so the keys are those of the application.
Caches that store digests of the texts (all in Redis) cannot be imported: use `LayeredCache(..., legacy=...)`. The laws:

- An answer is imported exactly, or skipped with a reason in the report.
- Only LangChain's generations and messages are created from stored data.
- The source is read page by page and never written, so an application that uses it does not wait.
- Entries that are removed from the cache during an import stay removed: all imported answers are born at its start.

In a coroutine, use `await asyncio.to_thread(import_sqlite, cache, file)`.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, cast

from langchain_core.load.load import load
from langchain_core.outputs import ChatGeneration, Generation
from layered_cache import Answer, ConfigurationError, Request, TieredCache, TierUnavailableError

from langchain_layered_cache._call import Call, Calls
from langchain_layered_cache._generation_codec import KNOWN_CLASSES
from langchain_layered_cache._keys.messages import is_written_out_model
from langchain_layered_cache._legacy_cache import is_written_out
from langchain_layered_cache.cache import LayeredCache

if TYPE_CHECKING:
    from pymongo.collection import Collection

OnError: TypeAlias = Callable[[str, str, str], object]

_BATCH = 200  # answers
_PAGE = 500  # rows
_PATIENCE = 60.0  # seconds for overdue writes

_UNREADABLE, _UNCACHEABLE, _NOT_ENCODABLE = "unreadable", "uncacheable", "not encodable"


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import: the number of imported answers, and of skipped ones by reason.

    The reasons: `unreadable` (damaged, incomplete, or with objects that LangChain did not serialize), `uncacheable` (the request has no
    exact key), `not encodable` (the decoded answer would not be equal), those of the policy (`empty`, `length`, `filter` ...), and
    `invalidated` (during the import).
    """

    imported: int
    skipped: Mapping[str, int]


class Connectable(Protocol):
    """The used part of SQLAlchemy's `Engine`."""

    @property
    def dialect(self) -> Any: ...  # noqa: ANN401, D102 - SQLAlchemy's own

    def connect(self) -> Any: ...  # noqa: ANN401, D102 - SQLAlchemy's own


def import_sqlite(
    cache: LayeredCache,
    source: str | os.PathLike[str] | Connectable,
    *,
    table: str = "full_llm_cache",
    dry_run: bool = False,
    on_error: OnError | None = None,
) -> Imported:
    """Import the entries of langchain-community's `SQLiteCache` or `SQLAlchemyCache`. They replace entries of the same requests.

    Run it in the environment of the application: `OPENAI_BASE_URL` and the classes of structured output are parts of the keys.

    Args:
        cache: The target.
        source: The file's path, a database URL, or an SQLAlchemy engine. All but SQLite's files need SQLAlchemy, and standard SQL.
        table: The name of the table, if it differs (`SQLAlchemyMd5Cache`: `"full_md5_llm_cache"`).
        dry_run: Read and report only, without a write.
        on_error: A function that gets the reason, prompt and model text of each skipped answer. An error that it raises ends the import.

    Raises:
        ConfigurationError: If the file does not exist, or a library is missing.
        TierUnavailableError: If the tiers do not accept writes. Imported answers stay, and another import replaces them.
    """
    with _opened(source) as ask:
        return _import(cache, _by_request(_rows(ask, table)), dry_run=dry_run, on_error=on_error)


def import_mongodb(cache: LayeredCache, collection: Collection[Any], *, dry_run: bool = False, on_error: OnError | None = None) -> Imported:
    """Import the entries of a `langchain_mongodb.MongoDBCache`. They replace entries of the same requests.

    Run it in the environment of the application: `OPENAI_BASE_URL` and the classes of structured output are parts of the keys.

    Args:
        cache: The target.
        collection: pymongo's, for instance `MongoDBCache(...).collection`.
        dry_run: Read and report only, without a write.
        on_error: A function that gets the reason, prompt and model text of each skipped answer. An error that it raises ends the import.

    Raises:
        TierUnavailableError: If the tiers do not accept writes. Imported answers stay, and another import replaces them.
    """
    fields = {"_id": False, "prompt": True, "llm": True, "return_val": True}
    with collection.find({}, fields, batch_size=_BATCH) as documents:
        return _import(cache, map(_of_document, documents), dry_run=dry_run, on_error=on_error)


# --- from any source to the cache


class _Stored(NamedTuple):
    """LangChain's two texts, and the generations of the answer as they were stored: as a rule, texts."""

    prompt: object
    llm: object
    responses: Sequence[object]


class _Skipped(Exception):  # noqa: N818 - an outcome
    """The answer is skipped; the text has the reason."""


def _import(cache: LayeredCache, stored: Iterator[_Stored], *, dry_run: bool, on_error: OnError | None) -> Imported:
    if not isinstance(cache, LayeredCache):  # pyright: ignore[reportUnnecessaryIsInstance] - users without a type checker
        msg = f"an import goes into a LayeredCache, not into a {type(cache).__name__}"
        raise ConfigurationError(msg)
    calls = cache._calls  # noqa: SLF001 - the maker of keys
    call = calls.begin(None)  # the calls of these answers have ended
    engine, imported, skipped = call.cache, 0, Counter[str]()
    born = engine.ticket()
    if born.epoch <= 0:
        raise TierUnavailableError(engine.tiers[-1].name, "import", "its invalidation log cannot be read, so that nothing would last")

    def skip(reason: str, one: _Stored) -> None:
        skipped[reason] += 1
        if on_error is not None:
            on_error(reason, str(one.prompt), str(one.llm))

    while batch := list(itertools.islice(stored, _BATCH)):
        answers: dict[Request, Answer] = {}
        asked: list[tuple[Request, _Stored]] = []
        for one in batch:
            try:
                request, answer = _translated(calls, call, one)
            except _Skipped as reason:
                skip(str(reason), one)
            else:
                answers[request] = answer
                asked.append((request, one))
        refused = {request: reason for request, answer in answers.items() if (reason := engine.policy.refuses(request, answer))}
        held = answers.keys() - refused.keys() if dry_run else engine.set_many(answers, born=born).keys()
        for request, one in asked:
            if request in held:
                imported += 1
            else:
                skip(refused.get(request, "invalidated"), one)
        _wait_for_tiers(engine)
    return Imported(imported, dict(skipped))


def _translated(calls: Calls, call: Call, one: _Stored) -> tuple[Request, Answer]:
    """Return *one* as the request and answer of a call.

    Raises:
        _Skipped: If it cannot be imported.
    """
    prompt, llm, responses = one
    if not isinstance(prompt, str) or not isinstance(llm, str):
        raise _Skipped(_UNREADABLE)
    generations = _read(responses)
    of_chat_model = is_written_out_model(llm) or any(isinstance(generation, ChatGeneration) for generation in generations)
    if (found := calls.answer(call._replace(plain=not of_chat_model), prompt, llm, generations)) is None:
        raise _Skipped(_UNCACHEABLE)
    request, answer = found
    if answer is None:
        raise _Skipped(_NOT_ENCODABLE)
    return request, answer


def _wait_for_tiers(engine: TieredCache) -> None:
    """Wait for overdue writes, so that the bounded queue drops none."""
    deadline = time.monotonic() + _PATIENCE
    while (queued := engine.stats().queued) >= _BATCH:
        if time.monotonic() > deadline:
            reason = f"{queued} writes have been waiting for {_PATIENCE:.0f} s: import again when all tiers are there"
            raise TierUnavailableError(engine.tiers[-1].name, "import", reason)
        time.sleep(0.05)


# --- answers


def _read(responses: Sequence[object]) -> list[Generation]:
    """Return the generations of an answer: written out by LangChain, or, as its first releases stored them, their bare texts."""
    texts = [text for text in responses if isinstance(text, str)]
    if not texts or len(texts) < len(responses):
        raise _Skipped(_UNREADABLE)
    if not any(map(is_written_out, texts)):
        return [Generation(text=text) for text in texts]
    try:
        return [_generation(text) for text in texts]
    except Exception:  # noqa: BLE001 - constructors and validators raise any error, with the value in its text
        raise _Skipped(_UNREADABLE) from None


def _generation(text: str) -> Generation:
    fields = cast("dict[str, Any]", json.loads(text))
    message: dict[str, Any] | None = fields["kwargs"].get("message")
    if message is not None:
        usage: dict[str, Any] | None = message["kwargs"].get("usage_metadata")
        if usage and "total_cost" in usage:  # LangChain adds it to hits, and cannot read it back without other usage
            message["kwargs"]["usage_metadata"] = {name: usage[name] for name in usage if name != "total_cost"} or None
    # stored data names the classes to create: only these, and no secrets
    generation = load(fields, allowed_objects=KNOWN_CLASSES, secrets_from_env=False)
    if not isinstance(generation, Generation):
        raise TypeError
    return generation


# --- sources


def _of_document(document: Mapping[str, Any]) -> _Stored:
    """Return the answer in a document. Its `return_val` is a JSON list of serialized generations."""
    try:
        responses = [text if is_written_out(text) else None for text in json.loads(document["return_val"])]
    except (KeyError, TypeError, ValueError, RecursionError):
        responses = []
    return _Stored(document.get("prompt"), document.get("llm"), responses)


_Row: TypeAlias = tuple[str, str, int, object]  # prompt, llm, idx, response


def _by_request(rows: Iterable[_Row]) -> Iterator[_Stored]:
    """Yield the rows of each request together, without rows of an answer that is incomplete."""
    for (prompt, llm), group in itertools.groupby(rows, key=lambda row: row[:2]):
        _, _, places, responses = zip(*group, strict=True)
        yield _Stored(prompt, llm, responses if places == tuple(range(len(places))) else ())


_Ask: TypeAlias = Callable[[str, dict[str, object]], list[_Row]]


@contextmanager
def _opened(source: str | os.PathLike[str] | Connectable) -> Generator[_Ask]:
    """Yield a function that queries *source*, and close a connection that was opened here."""
    if not isinstance(source, str | os.PathLike):
        if not hasattr(source, "dialect"):
            msg = f"source must be the path of a file, a database URL or an SQLAlchemy engine, not a {type(source).__name__}"
            raise ConfigurationError(msg)
        yield _asking_engine(source)
        return
    place = os.fspath(source)
    if place.startswith("sqlite:///"):
        place = place.removeprefix("sqlite:///").partition("?")[0]
    if "://" not in place:
        with closing(_open_file(Path(place))) as connection:
            yield lambda statement, values: connection.execute(statement, values).fetchall()
        return
    engine = _sqlalchemy().create_engine(place)
    try:
        yield _asking_engine(engine)
    finally:
        engine.dispose()


def _open_file(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        msg = f"there is no file {path}: give the path of the other cache's file, a database URL, or an SQLAlchemy engine"
        raise ConfigurationError(msg)
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    connection.text_factory = _text
    return connection


def _text(data: bytes) -> str | bytes:
    """Return the decoded text, since the error of sqlite3 would contain it."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _sqlalchemy() -> Any:  # noqa: ANN401 - it need not be installed
    try:
        return importlib.import_module("sqlalchemy")
    except ImportError as error:
        msg = "databases other than SQLite's files are read through SQLAlchemy: pip install sqlalchemy"
        raise ConfigurationError(msg) from error


def _asking_engine(engine: Connectable) -> _Ask:
    sqlalchemy = _sqlalchemy()

    def ask(statement: str, values: dict[str, object]) -> list[_Row]:
        try:
            with engine.connect() as connection:
                return [tuple(row) for row in connection.execute(sqlalchemy.text(statement), values)]
        except sqlalchemy.exc.StatementError as error:
            error.hide_parameters = True  # parameters are prompts
            raise

    return ask


def _rows(ask: _Ask, table: str) -> Iterator[_Row]:
    """Yield all rows in the order of prompt, model and place.

    Each page is a separate read that begins after the last row. Other processes may write in between.
    """
    name = table.replace('"', '""')
    statement = (
        f'SELECT prompt, llm, idx, response FROM "{name}" '  # noqa: S608 - quoted
        "WHERE (prompt, llm, idx) > (:prompt, :llm, :idx) ORDER BY prompt, llm, idx LIMIT :rows"
    )
    prompt, llm, idx = "", "", -1
    while page := ask(statement, {"prompt": prompt, "llm": llm, "idx": idx, "rows": _PAGE}):
        yield from page
        prompt, llm, idx, _ = page[-1]
        if not isinstance(prompt, str) or not isinstance(llm, str):  # pyright: ignore[reportUnnecessaryIsInstance] - see _text
            msg = "a prompt or a model in this file is no text: import a copy that `sqlite3 file .recover` has mended"
            raise sqlite3.DataError(msg)
