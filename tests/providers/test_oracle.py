"""The oracle's own rules."""

from __future__ import annotations

from typing import Any

import pytest
from providers.oracle import Raw, Seen, Sent, Verdict, judge, sent

A, B = (Sent("POST", "h", "/v1", (), (), body) for body in ("a", "b"))


def seen(wire: Sent, key: str | None, *warnings: str, repeats: bool = True) -> Seen:
    return Seen((wire,), key, warnings, repeats=repeats)


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (seen(A, "k"), seen(B, "l"), Verdict.DIFFERENT),
        (seen(A, "k"), seen(A, "k"), Verdict.EQUAL),
        (seen(A, "k"), seen(A, "l"), Verdict.MISS),
        (seen(A, "k"), seen(B, "k"), Verdict.WRONG),
        (seen(A, None, "why"), seen(B, None, "why"), Verdict.NOT_CACHED),
        (seen(A, "k"), seen(B, None, "why"), Verdict.NOT_CACHED),
        (seen(A, None), seen(B, None), Verdict.SILENT),
        (seen(A, None, "why", "again"), seen(B, None, "why"), Verdict.SILENT),
        (seen(A, "k", repeats=False), seen(A, "k"), Verdict.FORGETFUL),
        (seen(A, "k"), Seen(error="no such field"), Verdict.IMPOSSIBLE),
    ],
)
def test_verdict_follows_from_wires_and_keys(one: Seen, other: Seen, verdict: Verdict) -> None:
    assert judge(one, other) is verdict
    assert judge(other, one) is verdict


def raw(path: str = "/v1/chat", body: bytes = b'{"model": "m"}', **headers: str) -> Raw:
    return Raw("POST", path, {"Host": "h", **headers}, body)


@pytest.mark.parametrize(
    "other",
    [
        raw(Authorization="Bearer x"),
        raw(**{"User-Agent": "a", "X-Stainless-Retry-Count": "1", "x-request-id": "7"}),
        raw(body=b'{"model": "m", "seed": null}'),
        raw(body=b'{"stream": true, "stream_options": {}, "model": "m"}'),
        raw("/v1/chat?alt=sse&key=secret"),
    ],
)
def test_requests_that_ask_the_same_are_equal(other: Raw) -> None:
    assert sent(other) == sent(raw())


@pytest.mark.parametrize(
    "other",
    [
        raw("/v2/chat"),
        raw("/v1/chat?a=1"),
        raw(Host="other"),
        raw(**{"X-Tenant": "a"}),
        raw(body=b'{"model": "n"}'),
        raw(body=b'{"model": "m", "a": {"b": null}}'),
    ],
)
def test_requests_that_ask_something_else_differ(other: Raw) -> None:
    assert sent(other) != sent(raw())


def test_streaming_path_is_that_of_a_whole_answer() -> None:
    for stream, whole in (("/a:streamGenerateContent", "/a:generateContent"), ("/m/converse-stream", "/m/converse")):
        assert sent(raw(stream)) == sent(raw(whole))


def bodies(*values: Any) -> set[str]:
    return {sent(raw(body=value)).body for value in values}


def test_order_of_names_in_a_body_does_not_count() -> None:
    assert len(bodies(b'{"a": 1, "b": {"c": 2, "d": 3}}', b'{"b": {"d": 3, "c": 2}, "a": 1}')) == 1
