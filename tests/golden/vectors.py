"""What is written down for ever: requests and their keys, entries and their envelopes. It needs Python only.

python vectors.py       print the keys that this Python makes, and whether it reads and writes the envelopes, as JSON
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import sys
from pathlib import Path

from layered_cache import Entry, Request
from layered_cache._storage.envelope import decode, encode
from layered_cache.entry import Ticket, Usage
from layered_cache.keys.keys import make_key

FOLDER = Path(__file__).parent
KEYS = FOLDER / "keys.json"


def requests() -> list[Request]:
    """Return the requests whose keys are written down."""
    return [
        Request("hello"),
        Request("hello", model="gpt-4o-mini", params={"temperature": 0.0, "stop": None, "top_p": 1}),
        Request([{"role": "user", "content": "größe 🙂"}], model="m", framework="langchain", params={"b": [1, 2.5], "a": {"x": None}}),
        Request("hello", sample=3),
        Request({"t": (1, 2), "s": {3, 1, 2}, 7: b"\x00\xff", "f": 1e-7, "n": math.nan, "big": 2**80}, params={"d": dt.date(2026, 1, 31)}),
    ]


def keys() -> list[str]:
    """Return the keys that this process makes of them."""
    return [make_key(request, namespace) for request in requests() for namespace in ("default", "app/tenant 7:x")]


def entries() -> dict[str, Entry]:
    """Return the entries whose envelopes are written down."""
    request = Request([{"role": "user", "content": "größe"}], model="m", params={"api_key": "x", "temperature": 0}, framework="f")
    full = Entry(
        key="lc1:app:" + "A" * 43,
        value=b"value \x00\xff",
        codec="codec-1",
        namespace="app",
        model="gpt-4o-mini",
        tags=("a", "тег"),
        prompt_digest=bytes(range(16)),
        created_at=1_700_000_000.123456,
        fresh_until=1_700_000_001.5,
        keep_until=1_800_000_000.000001,
        born=Ticket(2**62 + 1, 1_700_000_000_000_000),
        finish="length",
        usage=Usage(7, 2**31 - 1),
        cost_usd=0.000123,
        compute_seconds=1.25,
        request=request,
        response="answer",
    )
    bare = Entry(key="any key", value=b"", created_at=0.0, fresh_until=0.0, keep_until=1.0, born=Ticket(1, 0))
    long = dataclasses.replace(full, value=b"the same again " * 1000, finish="tool", model=None, tags=())
    return {"full": full, "bare": bare, "long": long}


def envelope(name: str) -> bytes:
    """Return the bytes that are written down for that entry."""
    return (FOLDER / f"envelope-1-{name}.bin").read_bytes()


def main() -> None:
    """Print what this Python makes of them; compressed envelopes need a library, and are left out."""
    plain = {name: entry for name, entry in entries().items() if name != "long"}
    read = {name: decode(envelope(name), entry.key) == entry for name, entry in plain.items()}
    written = {name: encode(entry, with_request=entry.request is not None) == envelope(name) for name, entry in plain.items()}
    json.dump({"keys": keys(), "read": read, "written": written}, sys.stdout)


if __name__ == "__main__":
    main()
