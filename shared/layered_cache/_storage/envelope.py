"""The envelope: the versioned form of an entry in a tier that stores bytes.

    magic 3 | version 1 | flags 2 | digest of the key 32 | facts 81 | four sizes 16 | texts | request | payload | crc32 4

All numbers are little-endian. *facts* are the fixed part of an entry (times, `born`, usage, prompt
digest). *texts* are namespace, codec, model and tags. *request* is the redacted request as JSON,
for tiers that cannot be queried (optional). *payload* is the value of the adapter. It is compressed
from 4 KiB or from the size that a tier sets, if that makes it smaller.

Rules:

- Every release can read the envelopes of all earlier versions.
- `decode` never raises and never returns the entry of another key. It returns an `Entry` or a
  `Refused`.
- Data of a known version that fails its checksum is worthless and may be erased. An unknown magic,
  version or flag may belong to another release: it is a miss and is not erased.
- Sizes are checked before memory is allocated. python-zstandard ignores `max_output_size` if the
  frame declares its size. So the declared size is checked first, and a frame without one is
  refused.

Flags for encryption and authentication are reserved for later releases.
"""

from __future__ import annotations

import functools
import json
import math
import struct
import threading
import zlib
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from layered_cache._storage.redaction import redacted_request
from layered_cache.entry import FINISHES, Entry, Finish, Refused, Savings, Ticket, Usage, entry_of
from layered_cache.keys.keys import digest_of, is_digest_of, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import ModuleType

# 0xC1 is the start of no UTF-8 text, no msgpack value, no pickle
MAGIC = b"\xc1lc"
VERSION = 1

FLAG_ZSTD = 1 << 0
FLAG_REQUEST_ZSTD = 1 << 1
FLAG_MODEL = 1 << 2
# reserved
FLAG_ENCRYPTED = 1 << 8
# reserved
FLAG_AUTHENTICATED = 1 << 9
_KNOWN_FLAGS = FLAG_ZSTD | FLAG_REQUEST_ZSTD | FLAG_MODEL

COMPRESS_FROM = 4 * 1024
# hits need not decompress requests
_COMPRESS_REQUESTS_FROM = 512
MAX_VALUE = 64 * 1024 * 1024
# the value and the rest of an envelope
MAX_STORED = MAX_VALUE + 16 * 1024 * 1024

_HEAD = struct.Struct("<3sBH32s")
_FACTS = struct.Struct("<16sqqqqqiiddB")
# texts, request, payload as stored, payload without compression
_SIZES = struct.Struct("<IIII")
_TEXT = struct.Struct("<I")
_CHECKSUM = struct.Struct("<I")
# all of them in one struct
_BEGINNING = struct.Struct(f"{_HEAD.format}{_FACTS.size}s{_SIZES.format[1:]}")
_BODY = _BEGINNING.size
# the checksum of any data that is followed by its checksum
_SEALED = 0x2144DF1C
_MAX_TOKENS = 2**31 - 1
_UNKNOWN_TOKENS = -1

_FINISH_OF: dict[int, Finish] = dict(enumerate(FINISHES, start=1))

FACTS_BYTES = _FACTS.size
FOREIGN = Refused("it belongs to another key", erase=True)


# --- facts: the memory tier stores them too


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
    """Return the entry of *facts*, *texts* and *value* under *key*."""
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
    """Return the savings of a hit on an entry with *facts*, like `Entry.savings`."""
    *_, tokens_in, tokens_out, cost, compute, _finish = _FACTS.unpack(facts)
    return Savings(max(tokens_in, 0) + max(tokens_out, 0), 0.0 if cost != cost else cost, 0.0 if compute != compute else compute)  # noqa: PLR0124


# --- the envelope


def encode(entry: Entry, *, with_request: bool = False, compress: bool = True, compress_from: int = COMPRESS_FROM) -> bytes:
    """Return *entry* as bytes for `decode`.

    Args:
        entry: The entry.
        with_request: Include its redacted request.
        compress: Compress the parts that become smaller.
        compress_from: The smallest value to compress, in bytes.
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
    # too large for every reader
    if len(texts) + len(request) + len(payload) > MAX_STORED - _BODY - _CHECKSUM.size:
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
    """Return the entry of *key* in *data*, or the reason why there is none. It never raises."""
    if type(data) is not bytes:
        return Refused("it is not bytes", erase=False)
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
            return Refused("its value has another size than declared", erase=True)
        return unpack_facts(facts, key=key, value=value, texts=texts)
    except (ValueError, IndexError, struct.error):
        # the checksum is correct, so it was written in this form
        return Refused("its parts are not a valid entry", erase=True)


def decode_facts(beginning: bytes, key: str) -> Entry | None:
    """Return the entry of *key* without its value, from the first bytes of an envelope.

    None: the bytes are not sufficient. It is for searches, which do not need the values. The result
    is not verified, because the checksum is at the end.
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
    """Return the redacted request in the envelope *data*, or None if there is none to read."""
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
"""Flags, digest of the key, facts, end of the texts, end of the request, size of the value."""


def _open(data: bytes) -> _Opened | Refused:
    """Make all checks of *data* that need neither the key nor memory."""
    if len(data) > MAX_STORED:
        return Refused("it is larger than the limit of an envelope", erase=False)
    if data[:3] != MAGIC:
        return Refused("it is not an envelope", erase=False)
    if len(data) <= _BODY + _CHECKSUM.size or data[3] != VERSION:
        known = len(data) > len(MAGIC) and data[3] == VERSION
        return Refused("it is cut short" if known else "it has an unknown version", erase=known)
    if zlib.crc32(data) != _SEALED:
        return Refused("its checksum is wrong", erase=True)
    _magic, _version, flags, digest, facts, texts, request, payload, value_size = _BEGINNING.unpack_from(data)
    if flags & ~_KNOWN_FLAGS:
        return Refused("it has an unknown flag", erase=False)
    if _BODY + texts + request + payload + _CHECKSUM.size != len(data):
        return Refused("the sizes of its parts are wrong", erase=True)
    if value_size > MAX_VALUE:
        return Refused("its value is larger than the limit", erase=False)
    return flags, digest, facts, _BODY + texts, _BODY + texts + request, value_size


def _pack_texts(texts: Iterable[str]) -> bytes:
    parts: list[bytes] = []
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        parts += (_TEXT.pack(len(data)), data)
    return b"".join(parts)


# most entries of a process have the same texts
@functools.lru_cache(maxsize=1024)
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
    """Import the compression library, in the constructors of tiers.

    Otherwise a background thread would import it. A fork at that moment would leave the import lock
    held in the child.
    """
    _zstd()


@functools.cache
def _zstd() -> ModuleType | None:
    """Return python-zstandard; None if it is not installed, so nothing is compressed."""
    try:
        import zstandard  # noqa: PLC0415 - lazy: the package itself loads no third-party module
    except ImportError:
        return None
    return zstandard


# (de)compressors are expensive to create and must not be shared by threads
_local = threading.local()


def stored_bytes(value: bytes) -> int:
    """Return the size of *value* in an envelope."""
    return len(_squeezed(value, compress=True)[0])


def _squeezed(data: bytes, *, compress: bool, least: int = COMPRESS_FROM) -> tuple[bytes, bool]:
    """Return *data*, and True if it was compressed.

    It is compressed if it has at least *least* bytes and that saves a tenth.
    """
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
    """Return the contents of the zstd frame *data*, which must declare its *size*.

    If *size* is None, any size up to the limit is accepted.
    """
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
        # another process may have enough memory
        return Refused("there is no memory to expand it", erase=False)
    except zstd.ZstdError:
        return Refused("its frame cannot be expanded", erase=True)
    return expanded
