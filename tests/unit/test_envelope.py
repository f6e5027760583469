"""Never an exception, never another key's answer; and what was written once can be read for ever."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import zstandard
from golden import vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from layered_cache import Entry, Refused, Request, Ticket, Usage
from layered_cache._storage import envelope
from layered_cache._storage.envelope import decode, decode_facts, decode_request, encode
from layered_cache.testing._sync_async import an_entry

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", vectors.entries())
def test_golden_envelopes_can_be_read(name: str) -> None:
    """Of every version ever released; and this release writes what it wrote (compressed payloads may differ in their bytes)."""
    entry = vectors.entries()[name]
    data = vectors.envelope(name)

    assert decode(data, entry.key) == entry
    request = decode_request(data)
    if entry.request is None:
        assert request is None
    else:
        assert request == {
            "framework": "f",
            "model": "m",
            "sample": 0,
            "prompt": [{"role": "user", "content": "größe"}],
            "params": {"api_key": "[redacted]", "temperature": 0},
            "response": "answer",
        }
    if name != "long":
        assert encode(entry, with_request=True) == data


def beginning_of(data: bytes) -> int:
    """Return the length of the shortest beginning of an envelope that tells its facts."""
    return next(size for size in range(len(data)) if decode_facts(data[:size], "k") is not None)


@pytest.mark.parametrize("names", [{}, {"model": "m", "tags": ("a", "b"), "namespace": "n"}])
def test_decode_facts_of_a_beginning_returns_all_but_the_value(names: dict[str, Any]) -> None:
    entry = an_entry("k", b"value", **names)
    data = encode(entry)
    size = beginning_of(data)

    assert size <= len(data) - len(b"value")
    for length in (size, size + 1, len(data)):
        assert decode_facts(data[:length], "k") == dataclasses.replace(entry, value=b"")
    assert decode_facts(data[: size - 1], "k") is None


def test_decode_facts_of_anything_else_returns_none() -> None:
    data = encode(an_entry("k", b"value", tags=("a",)))
    size = beginning_of(data)

    assert decode_facts(data, "another key") is None
    for length in range(size):
        assert decode_facts(data[:length], "k") is None
    for place in range(4):  # magic and version
        for changed in (data[place] - 1, data[place] + 1):
            assert decode_facts(data[:place] + bytes([changed]) + data[place + 1 :], "k") is None
    flags = int.from_bytes(data[4:6], "little")
    for unknown in (flags | envelope.FLAG_ENCRYPTED, flags | envelope.FLAG_AUTHENTICATED):
        for order in ("little", "big"):
            assert decode_facts(data[:4] + unknown.to_bytes(2, order) + data[6:], "k") is None


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_decode_facts_of_changed_bytes_raises_nothing(chance: st.DataObject) -> None:
    data = bytearray(encode(an_entry("k", b"value", tags=("a", "é"), model="m")))
    for _ in range(chance.draw(st.integers(1, 3))):
        data[chance.draw(st.integers(0, len(data) - 1))] = chance.draw(st.integers(0, 255))

    found = decode_facts(bytes(data), "k")

    assert found is None or found.key == "k"


def test_long_values_are_compressed_when_that_helps() -> None:
    """And only then."""
    zeros, noise = an_entry(value=bytes(100_000)), an_entry(value=os.urandom(100_000))

    assert len(encode(zeros)) < 1_000
    assert 100_000 < len(encode(noise)) < 100_500
    assert len(encode(zeros, compress=False)) > 100_000
    for entry in (zeros, noise):
        assert decode(encode(entry), "k") == entry


texts = st.text(max_size=20)
clocks = st.integers(0, 2**32 * 10**6).map(lambda number: number / 1e6)
entries = st.builds(
    Entry,
    key=texts,
    value=st.binary(max_size=100) | st.binary(min_size=1, max_size=3).map(lambda part: part * 3000),
    codec=texts,
    namespace=texts,
    model=st.none() | texts,
    tags=st.lists(texts, max_size=3).map(tuple),
    prompt_digest=st.binary(min_size=16, max_size=16),
    created_at=clocks,
    fresh_until=clocks,
    keep_until=clocks,
    born=st.builds(Ticket, st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63 - 1)),
    finish=st.sampled_from([None, "stop", "length", "filter", "tool"]),
    usage=st.none() | st.builds(Usage, st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)),
    cost_usd=st.none() | st.floats(0, 1e6),
    compute_seconds=st.none() | st.floats(0, 1e6),
)


@settings(max_examples=500, deadline=None)
@given(entries)
def test_any_entry_comes_back(entry: Entry) -> None:
    """Every field, to the microsecond."""
    assert decode(encode(entry), entry.key) == entry


def test_an_entry_that_was_read_is_one_like_any_other() -> None:
    """Though it is made on a shorter way: nobody changes it, and it can be copied, pickled, compared and told from others."""
    made = an_entry(model=None, tags=())
    read = decode(encode(made), made.key)

    assert isinstance(read, Entry)
    assert type(read) is Entry
    assert (read, hash(read), repr(read)) == (made, hash(made), repr(made))
    assert pickle.loads(pickle.dumps(read)) == copy.deepcopy(read) == made
    assert (read.request, read.response, dataclasses.replace(read, cost_usd=1.0).cost_usd) == (None, None, 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.value = b""  # type: ignore[misc]


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=400) | st.binary(max_size=300).map(lambda rest: b"\xc1lc\x01" + rest))
def test_any_bytes_are_refused(data: bytes) -> None:
    """Without an exception."""
    assert isinstance(decode(data, "k"), Refused)
    assert decode_request(data) is None


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 2**16 - 1), st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4))
def test_any_parts_under_a_good_checksum_are_refused_or_read(rest: bytes, flags: int, sizes: list[int]) -> None:
    """Whoever can compute a checksum can still break nothing."""
    data = (
        envelope._HEAD.pack(envelope.MAGIC, 1, flags, envelope.digest_of("k"))
        + bytes(envelope.FACTS_BYTES)
        + struct.pack("<IIII", *sizes)
        + rest
    )
    data += struct.pack("<I", zlib.crc32(data))

    assert isinstance(decode(data, "k"), Entry | Refused)
    decode_request(data)


@pytest.mark.parametrize("value", [b"short", b"the same again " * 1000])
def test_every_byte_flipped_is_a_miss(value: bytes) -> None:
    """Each in turn, by one bit and by all; never an exception, never an answer. What is certainly worthless may be erased."""
    entry = an_entry(value=value, request=Request("q"))
    data = encode(entry, with_request=True)

    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            flipped = bytearray(data)
            flipped[at] ^= mask
            refused = decode(bytes(flipped), "k")
            assert isinstance(refused, Refused), at
            assert refused.erase is (at > 3)
            assert decode_request(bytes(flipped)) is None
    assert decode(data, "k") == entry


def test_every_truncation_is_a_miss() -> None:
    """And everything that is too long."""
    data = encode(an_entry())

    for size in range(len(data)):
        assert isinstance(decode(data[:size], "k"), Refused)
    assert isinstance(decode(data + b"\x00", "k"), Refused)


def test_an_entry_that_was_moved_to_another_key_is_refused() -> None:
    """It says for which key it was written."""
    data = encode(an_entry("k"))

    assert isinstance(decode(data, "k"), Entry)
    assert decode(data, "l") == Refused("it belongs to another key", erase=True)


def resealed(data: bytearray) -> bytes:
    """Return *data* with a checksum that fits."""
    data[-4:] = struct.pack("<I", zlib.crc32(data[:-4]))
    return bytes(data)


@pytest.mark.parametrize(("at", "value"), [(3, 2), (3, 0), (3, 255), (5, 0x01), (5, 0x02), (4, 0x80)])
def test_an_unknown_version_or_flag_is_a_miss_and_left_alone(at: int, value: int) -> None:
    """It may be a newer release's."""
    data = bytearray(encode(an_entry()))
    data[at] = value

    refused = decode(resealed(data), "k")

    assert isinstance(refused, Refused)
    assert not refused.erase
    assert "unknown" in refused.reason


def test_a_bomb_is_refused_without_the_memory() -> None:
    """6 KB that say they are 200 MB, 6 KB that do not say it, and 6 KB that lie."""
    program = f"""
import resource, struct, sys, zlib
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import zstandard
from layered_cache import Refused
from layered_cache._storage import envelope as wire
from layered_cache.testing._sync_async import an_entry

def envelope(payload, size):
    entry = an_entry(value=b"")
    texts = wire._pack_texts((entry.namespace, entry.codec, entry.model))
    body = wire._HEAD.pack(wire.MAGIC, 1, wire.FLAG_ZSTD | wire.FLAG_MODEL, wire.digest_of("k")) + wire.pack_facts(entry)
    body += struct.pack("<IIII", len(texts), 0, len(payload), size) + texts + payload
    return body + struct.pack("<I", zlib.crc32(body))

big = bytes(200_000_000)
honest = zstandard.ZstdCompressor(level=19).compress(big)
unsized = zstandard.ZstdCompressor(level=19, write_content_size=False).compress(big)
del big
assert len(honest) < 20_000, len(honest)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (sys.maxsize, sys.maxsize))
for payload, size in ((honest, 200_000_000), (honest, 1000), (unsized, 1000), (unsized, 200_000_000), (honest, 60_000_000)):
    refused = wire.decode(envelope(payload, size), "k")
    assert isinstance(refused, Refused), size
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert int(done.stdout) < 5_000


def test_a_value_beyond_the_cap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored or expanded."""
    monkeypatch.setattr(envelope, "MAX_VALUE", 50_000)
    assert isinstance(decode(encode(an_entry(value=bytes(50_001))), "k"), Refused)
    assert isinstance(decode(encode(an_entry(value=bytes(50_000))), "k"), Entry)
    monkeypatch.setattr(envelope, "MAX_STORED", 100)
    assert isinstance(decode(encode(an_entry()), "k"), Refused)


def test_without_zstandard_nothing_is_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others compressed is a miss, and left alone."""
    compressed = encode(an_entry(value=bytes(10_000)))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    envelope._zstd.cache_clear()
    try:
        plain = encode(an_entry(value=bytes(10_000)))
        assert len(plain) > 10_000
        assert isinstance(decode(plain, "k"), Entry)
        refused = decode(compressed, "k")
        assert isinstance(refused, Refused)
        assert not refused.erase
        assert decode_request(encode(an_entry(request=Request("q")), with_request=True)) is not None
    finally:
        monkeypatch.undo()
        envelope._zstd.cache_clear()


def test_tokens_and_costs_at_their_ends() -> None:
    """What does not fit is capped; what is not known stays so."""
    entry = an_entry(usage=Usage(2**40, 0), cost_usd=None, compute_seconds=None)
    got: Any = decode(encode(entry), "k")

    assert got.usage == Usage(2**31 - 1, 0)
    assert (got.cost_usd, got.compute_seconds) == (None, None)
    assert got.savings.cost_usd == 0.0
    assert envelope.savings(envelope.pack_facts(entry)) == (2**31 - 1, 0.0, 0.0)
    known = an_entry()
    assert envelope.savings(envelope.pack_facts(known)) == known.savings == (7, 0.25, 1.5)
    assert envelope.savings(envelope.pack_facts(an_entry(usage=None))) == (0, 0.25, 1.5)


def test_the_request_is_readable_and_redacted() -> None:
    """For tiers that nobody can query."""
    request = Request(
        "a long question " * 1000, params={"headers": {"Authorization": "Bearer abcdefgh"}, "base_url": "https://u:p@host/v1"}
    )
    data = encode(an_entry(request=request, response="text"), with_request=True)

    read = decode_request(data)
    assert read is not None
    assert read["prompt"] == request.prompt
    assert "abcdefgh" not in json.dumps(read)
    assert "u:p" not in json.dumps(read)
    assert decode_request(encode(an_entry(request=request))) is None


def test_zstd_declares_its_size() -> None:
    """Or this release could not read what it wrote."""
    assert zstandard.frame_content_size(envelope._squeezed(bytes(5000), compress=True)[0]) == 5000


def sealed(
    *, texts: bytes | None = None, request: bytes = b"", payload: bytes = b"value", size: int = 5, flags: int = envelope.FLAG_MODEL
) -> bytes:
    """Return the envelope of an entry with such parts, and a checksum that fits."""
    entry = an_entry()
    texts = envelope._pack_texts(("app", "test", "model-1", "a", "b")) if texts is None else texts
    head = envelope._HEAD.pack(envelope.MAGIC, 1, flags, envelope.digest_of("k")) + envelope.pack_facts(entry)
    return resealed(
        bytearray(head + struct.pack("<IIII", len(texts), len(request), len(payload), size) + texts + request + payload + b"crc_")
    )


def frame(value: bytes) -> bytes:
    """Return *value* as zstd has it."""
    return zstandard.ZstdCompressor(level=1).compress(value)


def test_parts_that_make_an_entry() -> None:
    """The tests below break one of them each."""
    for data in (sealed(), sealed(payload=frame(b"value"), flags=envelope.FLAG_MODEL | envelope.FLAG_ZSTD)):
        entry = decode(data, "k")
        assert isinstance(entry, Entry)
        assert (entry.value, entry.namespace, entry.codec, entry.model, entry.tags) == (b"value", "app", "test", "model-1", ("a", "b"))
    without = decode(sealed(flags=0), "k")
    assert isinstance(without, Entry)
    assert (without.model, without.tags) == (None, ("model-1", "a", "b"))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"size": 4}, "value has another size"),
        ({"size": 6}, "value has another size"),
        ({"texts": b""}, "not a valid entry"),
        ({"texts": envelope._pack_texts(("app",))}, "not a valid entry"),
        ({"texts": envelope._pack_texts(("app", "test"))}, "not a valid entry"),
        ({"texts": envelope._pack_texts(("app", "test", "m")) + b"\x02\x00\x00\x00x"}, "not a valid entry"),
        ({"texts": envelope._pack_texts(("app", "test", "m")) + b"\x00\x00"}, "not a valid entry"),
        ({"texts": b"\x01\x00\x00\x00\xff" * 3}, "not a valid entry"),
        ({"payload": b"no frame", "flags": envelope.FLAG_ZSTD}, "cannot be expanded"),
        ({"payload": frame(b"value"), "size": 6, "flags": envelope.FLAG_ZSTD}, "frame declares another size"),
        ({"payload": frame(b"value"), "size": 4, "flags": envelope.FLAG_ZSTD}, "frame declares another size"),
        ({"payload": frame(b"value")[:-1], "flags": envelope.FLAG_ZSTD}, "cannot be expanded"),
    ],
)
def test_what_a_known_version_wrote_wrongly_is_worthless(parts: dict[str, Any], reason: str) -> None:
    """Though its checksum fits: it can be erased."""
    refused = decode(sealed(**parts), "k")

    assert isinstance(refused, Refused)
    assert reason in refused.reason
    assert refused.erase


def test_parts_that_are_more_or_less_than_all_are_worthless() -> None:
    """Though the checksum fits."""
    for data in (sealed() + b"x", sealed()[:-1]):
        assert decode(resealed(bytearray(data)), "k") == Refused("the sizes of its parts are wrong", erase=True)
    for size in range(8, len(sealed())):
        assert isinstance(decode(resealed(bytearray(sealed()[:size])), "k"), Refused)


def test_what_may_be_somebody_elses_is_left_alone() -> None:
    """What is no envelope, or larger than this release takes."""
    text: Any = "not even bytes"
    for data in (text, b"", b"\xc1lc", b"another format", bytes(200), bytes(envelope.MAX_STORED + 1), sealed(size=envelope.MAX_VALUE + 1)):
        refused = decode(data, "k")
        assert isinstance(refused, Refused)
        assert not refused.erase, refused


def test_what_is_cut_short_is_worthless_as_soon_as_it_says_its_version() -> None:
    """Before that, it may be anybody's."""
    data = sealed()

    for size in range(len(data)):
        refused = decode(data[:size], "k")
        assert isinstance(refused, Refused)
        assert refused.erase is (size > 3), size


def test_a_value_may_have_64_mib() -> None:
    """And no byte more, also if it is stored without compression."""
    for compress in (True, False):
        largest = encode(an_entry(value=bytes(64 * 2**20)), compress=compress)
        assert isinstance(decode(largest, "k"), Entry)
    refused = decode(encode(an_entry(value=bytes(64 * 2**20 + 1))), "k")
    assert isinstance(refused, Refused)
    assert "value is larger than the limit" in refused.reason

    for size, reason in ((80 * 2**20, "not an envelope"), (80 * 2**20 + 1, "larger than the limit of an envelope")):
        refused = decode(bytes(size), "k")
        assert isinstance(refused, Refused)
        assert reason in refused.reason


def test_values_are_compressed_from_4_kib_on() -> None:
    """Of shorter ones too little is saved."""
    assert len(encode(an_entry(value=bytes(4095)))) > 4095
    assert len(encode(an_entry(value=bytes(4096)))) < 400


def test_a_tier_may_have_shorter_values_compressed() -> None:
    """Or only longer ones; whoever reads need not know."""
    for value, least, small in ((bytes(999), 1_000, False), (bytes(1_000), 1_000, True), (bytes(5_000), 5_001, False)):
        entry = an_entry(value=value)
        data = encode(entry, compress_from=least)
        assert bool(data[4] & envelope.FLAG_ZSTD) is small
        assert decode(data, "k") == entry


def test_requests_are_compressed_from_512_bytes_on() -> None:
    """No hit has to expand them, but each has to fetch them."""
    for letters in (200, 2_000):
        entry = an_entry(request=Request("a" * letters), response="text")
        data = encode(entry, with_request=True)
        assert bool(data[4] & envelope.FLAG_REQUEST_ZSTD) is (letters == 2_000)
        assert decode_request(data) == decode_request(encode(entry, with_request=True, compress=False))


def test_a_value_is_compressed_where_that_saves_a_tenth() -> None:
    """Else it would cost time at every hit, for nothing."""
    for noise, small in ((8_500, True), (9_500, False), (10_000, False)):
        data = encode(an_entry(value=os.urandom(noise) + bytes(10_000 - noise)))
        assert bool(data[4] & envelope.FLAG_ZSTD) is small


def test_requests_that_cannot_be_expanded_are_none() -> None:
    """Whatever they say of themselves."""
    entry = an_entry(request=Request("a long question " * 1000), response="text")
    squeezed, plain = encode(entry, with_request=True), encode(entry, with_request=True, compress=False)
    assert len(squeezed) < 2_000 < 16_000 < len(plain)
    assert decode_request(squeezed) == decode_request(plain)

    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b'{"a":1}')
    for request in (b"", b"no frame", frame(b""), frame(bytes(100))[:-1], unsized):
        assert decode_request(sealed(request=request, flags=envelope.FLAG_REQUEST_ZSTD)) is None
    assert decode_request(sealed()) is None
    assert decode_request(sealed(request=frame(b'{"a":1}'), flags=envelope.FLAG_REQUEST_ZSTD)) == {"a": 1}
    assert decode_request(sealed(request=b'{"a":1}')) == {"a": 1}


def test_times_are_kept_to_the_nearest_microsecond() -> None:
    """Not to the one below."""
    entry = an_entry(created_at=1.0000006, fresh_until=2.0000014, keep_until=3.0000006)
    got = decode(encode(entry), "k")

    assert isinstance(got, Entry)
    assert (got.created_at, got.fresh_until, got.keep_until) == (1.000001, 2.000001, 3.000001)


def test_what_a_hit_saves_is_told_from_the_facts_alone() -> None:
    """For any of them that is known."""
    for facts in ({"usage": Usage(5, 0)}, {"usage": Usage(0, 6)}, {"usage": None}, {"cost_usd": None}, {"compute_seconds": None}):
        entry = an_entry(**facts)
        assert envelope.savings(envelope.pack_facts(entry)) == entry.savings


def test_a_tier_loads_the_compressor_when_it_is_made() -> None:
    """And nobody before: an import in a background thread would stay locked in the child of a fork."""
    program = (
        "import sys; from layered_cache._storage import envelope; print('zstandard' in sys.modules); "
        "envelope.load(); print('zstandard' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "True"]


def test_no_two_keys_share_an_envelope() -> None:
    """Whichever digest is the larger."""
    for written in "abcdef":
        data = encode(an_entry(written))
        assert [asked for asked in "abcdef" if isinstance(decode(data, asked), Entry)] == [written]


def test_what_is_no_bytes_is_refused() -> None:
    """Some client may give back anything, or nothing."""
    for given_back in (None, 5, "text", [], bytearray(encode(an_entry())), memoryview(encode(an_entry()))):
        refused = decode(given_back, "k")  # type: ignore[arg-type]
        assert isinstance(refused, Refused)
        assert not refused.erase


def test_a_value_for_which_there_is_no_memory_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no exception; it stays, since another process may have the memory."""

    class Full:
        def decompress(self, *_: object, **__: object) -> bytes:
            raise MemoryError

    data = encode(an_entry(value=bytes(10_000)))
    monkeypatch.setattr(envelope._local, "decompressor", Full(), raising=False)

    assert decode(data, "k") == Refused("there is no memory to expand it", erase=False)


@pytest.mark.parametrize("section", [b"5", b"{", b"\xff", b"[" * 100_000])
def test_a_request_that_is_none_is_none(section: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote it under a good checksum."""
    monkeypatch.setattr(envelope, "write_json", lambda value: section)
    data = encode(an_entry(request=Request("x")), with_request=True, compress=False)

    assert decode_request(data) is None
