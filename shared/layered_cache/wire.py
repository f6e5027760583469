"""The envelope: how an entry looks in a tier that holds bytes. Versioned; read for ever.

    magic 3 | version 1 | flags 2 | digest of the key 32 | facts 81 | four sizes 16 | texts | request | payload | crc32 4

All numbers are little-endian. *facts* are the fixed part of an entry (clocks, `born`, usage, prompt digest); *texts* are
namespace, codec, model and tags; *request* is the redacted request as JSON, for tiers that nobody can query (optional);
*payload* is the adapter's value, compressed from 4 KiB on when that helps, or from the size that a tier is told.

Laws:
- `decode` never raises and never answers with another key's entry: it returns an `Entry` or a `Refused`.
- What a known version wrote and what fails its checksum is worthless and may be erased. An unknown magic, version or flag may
  be another release's: a miss, and left alone.
- Sizes are checked before memory is taken. python-zstandard ignores `max_output_size` when the frame declares its size, so
  the declared size is checked first, and a frame that declares none is refused.

Flags for encryption and authentication are reserved: a release that knows them may come.
"""

from __future__ import annotations

import functools
import json
import math
import struct
import threading
import zlib
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from layered_cache.entry import FINISHES, Entry, Finish, Refused, Savings, Ticket, Usage, entry_of
from layered_cache.keys import digest_of, is_digest_of, write_json
from layered_cache.redaction import redacted_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import ModuleType

MAGIC = b"\xc1lc"  # 0xC1 starts no UTF-8 text, no msgpack value, no pickle
VERSION = 1

FLAG_ZSTD = 1 << 0
FLAG_REQUEST_ZSTD = 1 << 1
FLAG_MODEL = 1 << 2
FLAG_ENCRYPTED = 1 << 8  # reserved
FLAG_AUTHENTICATED = 1 << 9  # reserved
_KNOWN_FLAGS = FLAG_ZSTD | FLAG_REQUEST_ZSTD | FLAG_MODEL

COMPRESS_FROM = 4 * 1024
_COMPRESS_REQUESTS_FROM = 512  # no hit has to expand them
MAX_VALUE = 64 * 1024 * 1024
MAX_STORED = MAX_VALUE + 16 * 1024 * 1024  # the value, and the rest of an envelope

_HEAD = struct.Struct("<3sBH32s")
_FACTS = struct.Struct("<16sqqqqqiiddB")
_SIZES = struct.Struct("<IIII")  # texts, request, payload as stored, payload as it was
_TEXT = struct.Struct("<I")
_CHECKSUM = struct.Struct("<I")
_BEGINNING = struct.Struct(f"{_HEAD.format}{_FACTS.size}s{_SIZES.format[1:]}")  # all of them, at once
_BODY = _BEGINNING.size
_SEALED = 0x2144DF1C  # the checksum of anything that has its checksum behind it
_MAX_TOKENS = 2**31 - 1
_UNKNOWN_TOKENS = -1

_FINISH_OF: dict[int, Finish] = dict(enumerate(FINISHES, start=1))

FACTS_BYTES = _FACTS.size
FOREIGN = Refused("it was written for another key", erase=True)


# --- facts: also what the memory tier keeps beside a value


def pack_facts(entry: Entry) -> bytes:
    """Return the fixed part of *entry* in 81 bytes."""
    usage, cost, compute = entry.usage, entry.cost_usd, entry.compute_seconds
    return _FACTS.pack(
        entry.prompt_digest,
        round(entry.created_at * 1e6),
        round(entry.fresh_until * 1e6),
        round(entry.keep_until * 1e6),
        entry.born.epoch,
        entry.born.seq,
        min(usage.input_tokens, _MAX_TOKENS) if usage else _UNKNOWN_TOKENS,
        min(usage.output_tokens, _MAX_TOKENS) if usage else _UNKNOWN_TOKENS,
        math.nan if cost is None else cost,
        math.nan if compute is None else compute,
        FINISHES.index(entry.finish) + 1 if entry.finish else 0,
    )


class Texts(NamedTuple):
    """The variable part of an entry."""

    namespace: str
    codec: str
    model: str | None
    tags: tuple[str, ...]


def unpack_facts(facts: bytes, *, key: str, value: bytes, texts: Texts) -> Entry:
    """Return the entry that *facts*, *texts* and *value* make up under *key*."""
    prompt, created, fresh, keep, epoch, seq, tokens_in, tokens_out, cost, compute, finish = _FACTS.unpack(facts)
    namespace, codec, model, tags = texts
    return entry_of(
        key,
        value,
        codec,
        namespace,
        model,
        tags,
        prompt,
        created / 1e6,
        fresh / 1e6,
        keep / 1e6,
        Ticket(epoch, seq),
        _FINISH_OF.get(finish),
        None if tokens_in == _UNKNOWN_TOKENS else Usage(tokens_in, tokens_out),
        None if cost != cost else cost,  # noqa: PLR0124 - not equal to itself: NaN
        None if compute != compute else compute,  # noqa: PLR0124
    )


def savings(facts: bytes) -> Savings:
    """Return what a hit on an entry with *facts* saves, as `Entry.savings` does."""
    *_, tokens_in, tokens_out, cost, compute, _finish = _FACTS.unpack(facts)
    return Savings(max(tokens_in, 0) + max(tokens_out, 0), 0.0 if cost != cost else cost, 0.0 if compute != compute else compute)  # noqa: PLR0124


# --- the envelope


def encode(entry: Entry, *, with_request: bool = False, compress: bool = True, compress_from: int = COMPRESS_FROM) -> bytes:
    """Return *entry* as bytes that `decode` takes.

    Args:
        entry: What to write.
        with_request: Whether its redacted request is written too.
        compress: Whether to compress what gains by it.
        compress_from: The least bytes of a value that are worth it.
    """
    flags = 0
    texts = _pack_texts((entry.namespace, entry.codec, *(() if entry.model is None else (entry.model,)), *entry.tags))
    if entry.model is not None:
        flags |= FLAG_MODEL
    request = b""
    if with_request and entry.request is not None:
        request, squeezed = _squeezed(write_json(redacted_request(entry)), compress=compress, least=_COMPRESS_REQUESTS_FROM)
        flags |= FLAG_REQUEST_ZSTD if squeezed else 0
    payload, squeezed = _squeezed(entry.value, compress=compress, least=compress_from)
    flags |= FLAG_ZSTD if squeezed else 0
    if len(texts) + len(request) + len(payload) > MAX_STORED - _BODY - _CHECKSUM.size:  # no reader would take it
        request, flags = b"", flags & ~FLAG_REQUEST_ZSTD
    body = b"".join((
        _HEAD.pack(MAGIC, VERSION, flags, digest_of(entry.key)),
        pack_facts(entry),
        _SIZES.pack(len(texts), len(request), len(payload), len(entry.value)),
        texts,
        request,
        payload,
    ))  # fmt: skip
    return body + _CHECKSUM.pack(zlib.crc32(body))


def decode(data: bytes, key: str) -> Entry | Refused:
    """Return the entry that *data* holds for *key*, or why it holds none. It never raises."""
    if type(data) is not bytes:
        return Refused("it is not even bytes", erase=False)
    opened = _open(data)
    if isinstance(opened, Refused):
        return opened
    flags, digest, facts, texts_end, request_end, value_size = opened
    if not is_digest_of(digest, key):
        return FOREIGN
    try:
        texts = _unpack_texts(data[_BODY:texts_end], flags & FLAG_MODEL)
        value: bytes | Refused = data[request_end : -_CHECKSUM.size]
        if flags & FLAG_ZSTD:
            value = _expanded(value, value_size)
            if isinstance(value, Refused):
                return value
        if len(value) != value_size:
            return Refused("its value has another size than it says", erase=True)
        return unpack_facts(facts, key=key, value=value, texts=texts)
    except (ValueError, IndexError, struct.error):  # it passed its checksum, so somebody wrote it so
        return Refused("its parts make no entry", erase=True)


def decode_facts(beginning: bytes, key: str) -> Entry | None:
    """Return what the first bytes of an envelope tell of the entry of *key*, without its value; None where they tell nothing.

    For a search, which need not have the values sent. Nothing vouches for it: the checksum stands at the end.
    """
    if len(beginning) < _BODY or beginning[:3] != MAGIC or beginning[3] != VERSION:
        return None
    _magic, _version, flags, digest, facts, texts_size, _request, _payload, _value = _BEGINNING.unpack_from(beginning)
    texts = beginning[_BODY : _BODY + texts_size]
    if flags & ~_KNOWN_FLAGS or not is_digest_of(digest, key) or len(texts) < texts_size:
        return None
    try:
        return unpack_facts(facts, key=key, value=b"", texts=_unpack_texts(texts, flags & FLAG_MODEL))
    except (ValueError, IndexError, struct.error):
        return None


def decode_request(data: bytes) -> Mapping[str, object] | None:
    """Return the redacted request in the envelope *data*; None where there is none or where it cannot be read."""
    opened = _open(data)
    if isinstance(opened, Refused):
        return None
    flags, _digest, _facts, texts_end, request_end, _size = opened
    section: bytes | Refused = data[texts_end:request_end]
    if flags & FLAG_REQUEST_ZSTD:
        section = _expanded(section, None)
    if isinstance(section, Refused) or not section:
        return None
    try:
        found: object = json.loads(section.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, object]", found) if isinstance(found, dict) else None


_Opened: TypeAlias = tuple[int, bytes, bytes, int, int, int]
"""Flags, digest of the key, facts, where the texts end, where the request ends, size of the value."""


def _open(data: bytes) -> _Opened | Refused:
    """Check everything about *data* that needs no key and takes no memory."""
    if len(data) > MAX_STORED:
        return Refused("it is larger than an envelope may be", erase=False)
    if data[:3] != MAGIC:
        return Refused("it is no envelope", erase=False)
    if len(data) <= _BODY + _CHECKSUM.size or data[3] != VERSION:
        known = len(data) > len(MAGIC) and data[3] == VERSION
        return Refused("it is cut short" if known else "it has an unknown version", erase=known)
    if zlib.crc32(data) != _SEALED:
        return Refused("its checksum does not fit", erase=True)
    _magic, _version, flags, digest, facts, texts, request, payload, value_size = _BEGINNING.unpack_from(data)
    if flags & ~_KNOWN_FLAGS:
        return Refused("it has an unknown flag", erase=False)
    if _BODY + texts + request + payload + _CHECKSUM.size != len(data):
        return Refused("its parts do not add up", erase=True)
    if value_size > MAX_VALUE:
        return Refused("its value is larger than a value may be", erase=False)
    return flags, digest, facts, _BODY + texts, _BODY + texts + request, value_size


def _pack_texts(texts: Iterable[str]) -> bytes:
    parts: list[bytes] = []
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        parts += (_TEXT.pack(len(data)), data)
    return b"".join(parts)


@functools.lru_cache(maxsize=1024)  # most entries of a process have the same ones
def _unpack_texts(data: bytes, has_model: int) -> Texts:
    texts: list[str] = []
    at = 0
    while at < len(data):
        (size,) = _TEXT.unpack_from(data, at)
        at += _TEXT.size
        if at + size > len(data):
            msg = "a text is cut short"
            raise ValueError(msg)
        texts.append(data[at : at + size].decode("utf-8", "surrogatepass"))
        at += size
    namespace, codec, *rest = texts
    return Texts(namespace, codec, rest.pop(0) if has_model else None, tuple(rest))


# --- compression


def load() -> None:
    """Import what is needed here: for the constructors of tiers.

    Else a background thread would, and if another one forked meanwhile, the lock of that import would stay locked in the child.
    """
    _zstd()


@functools.cache
def _zstd() -> ModuleType | None:
    """Return python-zstandard, or None where it is not installed: then nothing is compressed."""
    try:
        import zstandard  # noqa: PLC0415 - lazy: the package itself loads no third-party module
    except ImportError:
        return None
    return zstandard


_local = threading.local()  # (de)compressors are costly to make and must not be shared by threads


def stored_bytes(value: bytes) -> int:
    """Return how many bytes *value* takes in an envelope."""
    return len(_squeezed(value, compress=True)[0])


def _squeezed(data: bytes, *, compress: bool, least: int = COMPRESS_FROM) -> tuple[bytes, bool]:
    """Return *data*, compressed if it has *least* bytes and that saves a tenth, and whether it is."""
    zstd = _zstd()
    if not compress or len(data) < least or zstd is None:
        return data, False
    try:
        compressor = _local.compressor
    except AttributeError:
        compressor = _local.compressor = zstd.ZstdCompressor(level=1, write_content_size=True)
    small: bytes = compressor.compress(data)
    return (small, True) if len(small) < len(data) * 0.9 else (data, False)


def _expanded(data: bytes, size: int | None) -> bytes | Refused:
    """Return what the zstd frame *data* holds, which must declare its *size* (any up to the cap, if None)."""
    zstd = _zstd()
    if zstd is None:
        return Refused("it is compressed and zstandard is not installed", erase=False)
    try:
        declared: int = zstd.frame_content_size(data)
        if not 0 <= declared <= MAX_VALUE or (size is not None and declared != size):
            return Refused("its frame declares another size", erase=True)
        try:
            decompressor = _local.decompressor
        except AttributeError:
            decompressor = _local.decompressor = zstd.ZstdDecompressor()
        expanded: bytes = decompressor.decompress(data, max_output_size=declared)
    except MemoryError:
        return Refused("there is no memory to expand it", erase=False)  # another process may have it
    except zstd.ZstdError:
        return Refused("its frame cannot be expanded", erase=True)
    return expanded
