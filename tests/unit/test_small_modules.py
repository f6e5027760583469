"""The small pure modules: units, redaction, policy, tickets, stats."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from layered_cache import Answer, ConfigurationError, Policy, Request, Ticket, Usage
from layered_cache._engine import miss_positions as tickets_module
from layered_cache._engine.caller_id import this_task
from layered_cache._engine.miss_positions import GOOD_FOR, Tickets
from layered_cache._engine.refresh_guard import Refreshes
from layered_cache._storage import envelope
from layered_cache._storage.redaction import REDACTED, _redacted_params, redacted, redacted_request
from layered_cache._util.durations import parse_duration, parse_size, seconds
from layered_cache.keys.setting_names import is_credential, is_secret_name
from layered_cache.policy import FOR_EVER
from layered_cache.testing import FakeClock
from layered_cache.testing._sync_async import an_entry


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("7d", 604800.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        ("2w", 1209600.0),
        ("30", 30.0),
        (" 5m ", 300.0),
    ],
)
def test_durations(text: str, expected: float) -> None:
    """In the words that people use."""
    assert parse_duration(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "soon", "5 minutes", "1h 30m", "-5s", "h", "5m5", "inf s", "nan"])
def test_what_is_no_duration(text: str) -> None:
    """It says what one looks like."""
    with pytest.raises(ConfigurationError, match=r"ttl must be a (duration such as|number of seconds)"):
        parse_duration(text, "ttl")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("64MiB", 2**26), ("1GiB", 2**30), ("512KiB", 2**19), ("10MB", 10**7), ("100", 100), ("1.5 KiB", 1536), ("2gib", 2**31)],
)
def test_sizes(text: str, expected: int) -> None:
    """Binary and decimal."""
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "big", "1TB2", "-1MiB", "MiB"])
def test_what_is_no_size(text: str) -> None:
    """It says what one looks like."""
    with pytest.raises(ConfigurationError, match="max_bytes must be a size such as"):
        parse_size(text, "max_bytes")


def test_seconds_takes_timedeltas_and_texts() -> None:
    assert seconds(timedelta(minutes=1)) == seconds("1m") == 60.0
    for wrong in ("soon", "-1s", -1, float("nan"), True, None):
        with pytest.raises(ConfigurationError, match="keep_for must be"):
            seconds(wrong, "keep_for")  # type: ignore[arg-type]


# --- redaction


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Authorization",
        "api_key",
        "openai_api_key",
        "X-API-Key",
        "accessToken",
        "aws_secret_access_key",
        "password",
        "cookie",
        "Set-Cookie",
        "token",
    ],
)
def test_secret_names(name: str) -> None:
    """However they are spelled."""
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["max_tokens", "tokens", "prompt", "keyword", "temperature", "model", "authors", "token_usage", "max_completion_tokens"]
)
def test_names_that_are_no_secrets(name: str) -> None:
    """An operator has to see what was asked."""
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["api_key", "openai_api_key", "X-API-Key", "aws_access_key_id", "azure_ad_token", "sessionToken", "cookies", "signature"]
)
def test_every_credential_is_a_secret(name: str) -> None:
    assert is_credential(name)
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["mcp_servers", "stop_token", "query_key", "lookahead_tokens", "my_secret"])
def test_a_secret_that_may_change_answers_is_no_credential(name: str) -> None:
    assert not is_credential(name)


def test_large_parameters_are_not_remembered() -> None:
    """What is redacted once for many requests takes little memory, however large parameters are."""
    for size in (100, 100_000):
        _redacted_params.cache_clear()
        request = Request("q", params={"api_key": "canary", "user": "x" * size})
        assert redacted_request(an_entry(request=request))["params"] == {"api_key": REDACTED, "user": "x" * size}
        assert _redacted_params.cache_info().currsize == (size == 100)


def test_redaction() -> None:
    """In headers every value, elsewhere by name, in texts by shape; the rest stays."""
    value = {
        "default_headers": {"Authorization": "Bearer canary-1", "X-Team": "canary-2"},
        "model_kwargs": {"nested": [{"api_key": "canary-3"}], "user": "me"},
        "base_url": "https://user:canary-4@host:8/v1?api-version=3&sig=canary-5",
        "note": "use Bearer canary-6-canary and sk-canary7canary7canary7",
        "slash": "redis://user:pa/canary-8@host/0",
        "shown": ["text", "Connection(host='h', password='canary-9', api_key = \"canary-10\", token: canary-11)"],
        "pairs": [["api_key", "canary-12"], ["x", 1]],
        "cookies": {"session": "canary-13"},
        "default_query": {"sig": "canary-14", "Signature": "canary-15"},
        "max_tokens": 5,
        "password": None,
        "n": [1, 2.5, True],
    }
    safe = redacted(value)

    assert "canary" not in str(safe)
    assert safe == {
        "default_headers": {"Authorization": REDACTED, "X-Team": REDACTED},
        "model_kwargs": {"nested": [{"api_key": REDACTED}], "user": "me"},
        "base_url": f"https://{REDACTED}@host:8/v1?api-version=3&sig={REDACTED}",
        "note": f"use {REDACTED} and {REDACTED}",
        "slash": f"redis://{REDACTED}@host/0",
        "shown": ["text", f"Connection(host='h', password={REDACTED}, api_key = {REDACTED}, token: {REDACTED})"],
        "pairs": [["api_key", REDACTED], ["x", 1]],
        "cookies": REDACTED,
        "default_query": {"sig": REDACTED, "Signature": REDACTED},
        "max_tokens": 5,
        "password": None,
        "n": [1, 2.5, True],
    }
    assert value["base_url"].count("canary") == 2


# --- policy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_for": -1}, "keep_for must be"),
        ({"keep_for": "soon"}, "keep_for must be a duration such as"),
        ({"keep_for": 10, "fresh_for": 20}, "fresh_for .* must not be longer than keep_for"),
        ({"write": "trough"}, "Did you mean 'through'"),
        ({"store_requests": "no"}, "Allowed: full, hash"),
        ({"max_entry_bytes": 0}, "max_entry_bytes must be"),
        ({"queue_bytes": 1.5}, "queue_bytes must be"),
        ({"single_flight": "yes"}, "single_flight must be True or False"),
        ({"max_entry_bytes": 2**27}, "max_entry_bytes must not be more than"),
    ],
)
def test_wrong_policies(options: dict[str, Any], message: str) -> None:
    """The error names the option."""
    with pytest.raises(ConfigurationError, match=message):
        Policy(**options)


def test_an_answers_clocks() -> None:
    """They run from the end of the computation; the answer's own keep_for wins, and caps its freshness."""
    policy = Policy(keep_for=timedelta(hours=1), fresh_for=600)
    request = Request("q", model="m")

    def entry(answer: Answer) -> Any:
        return policy.entry(request, answer, key="k", namespace="n", born=Ticket(1, 0), started=1000.0, now=1030.0)

    usual, short = entry(Answer(value=b"x")), entry(Answer(value=b"x", keep_for=timedelta(seconds=60)))
    assert (usual.created_at, usual.fresh_until, usual.keep_until, usual.compute_seconds) == (1000.0, 1630.0, 4630.0, 30.0)
    assert (short.fresh_until, short.keep_until) == (1090.0, 1090.0)
    assert usual.request == request
    assert usual.is_fresh(1629.9)
    assert not usual.is_fresh(1630.0)
    assert usual.is_live(4629.9)
    assert not usual.is_live(4630.0)


def test_requests_may_be_kept_out_of_stores() -> None:
    """For those who may not keep prompts."""
    policy = Policy(store_requests="hash")
    entry = policy.entry(Request("q"), Answer(value=b"x", response="r"), key="k", namespace="n", born=Ticket(1, 0), started=0.0, now=0.0)

    assert entry.request is None
    assert entry.response is None
    assert entry.prompt_digest != bytes(16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value": "x"}, "must be bytes"),
        ({"value": b"x", "finish": "stopp"}, "Did you mean 'stop'"),
        ({"value": b"x", "tags": "red"}, "tags must be"),
        ({"value": b"x", "keep_for": -1}, "keep_for"),
        ({"value": b"x", "cost_usd": "0.1"}, "cost_usd must be a number"),
        ({"value": b"x", "usage": {"input_tokens": 1}}, "usage must be a layered_cache.Usage"),
        ({"value": b"x", "model": 5}, "model must be a text"),
    ],
)
def test_wrong_answers(options: dict[str, Any], message: str) -> None:
    """The error names the option."""
    with pytest.raises(ConfigurationError, match=message):
        Answer(**options)


def test_capping() -> None:
    """Only ever shorter."""
    entry = an_entry(fresh_until=100.0, keep_until=200.0)

    assert entry.capped(300.0) is entry
    assert (entry.capped(150.0).fresh_until, entry.capped(150.0).keep_until) == (100.0, 150.0)
    assert (entry.capped(50.0).fresh_until, entry.capped(50.0).keep_until) == (50.0, 50.0)


def test_usage_is_whole_numbers() -> None:
    """Costs are any number, for price lists have Decimals."""
    for wrong in ((1.5, 2), (None, 2), (1, -2), (True, 1)):
        with pytest.raises(ConfigurationError, match="must be a whole number"):
            Usage(*wrong)  # type: ignore[arg-type]
    assert Answer(value=b"x", cost_usd=Decimal("0.01")).cost_usd == 0.01  # type: ignore[arg-type]


@pytest.mark.parametrize("keep_for", [math.inf, 1e13, timedelta.max])
def test_what_is_kept_for_ever(keep_for: float | timedelta) -> None:
    """Has an end that every store can hold."""
    for policy, answer in ((Policy(keep_for=keep_for), Answer(value=b"x")), (Policy(), Answer(value=b"x", keep_for=keep_for))):
        entry = policy.entry(Request("q"), answer, key="k", namespace="n", born=Ticket(1, 0), started=0.0, now=1.8e9)
        assert entry.keep_until == FOR_EVER
        assert envelope.decode(envelope.encode(entry), "k") == entry


def test_a_rule_of_the_user_that_raises() -> None:
    """Costs the entry, not the answer."""

    def rule(request: Request, answer: Answer) -> bool:
        raise KeyError

    assert Policy(cacheable=rule).refuses(Request("q"), Answer(value=b"x")) == "policy failed"


# --- tickets


def test_a_callers_own_ticket_the_latest_first(clock: FakeClock) -> None:
    """Calls nest. Then the oldest of others; then none."""
    tickets = Tickets(clock)
    for seq, caller in enumerate(("me", "you", "me")):
        tickets.leave("k", caller, Ticket(1, seq))
        clock.advance(1)

    assert tickets.take("k", "me") == (Ticket(1, 2), 1.0)
    assert tickets.take("other", "me") is None
    assert tickets.take("k", "me") == (Ticket(1, 0), 3.0)
    assert tickets.take("k", "me") == (Ticket(1, 1), 2.0)
    assert tickets.take("k", "me") is None


def test_a_stranger_borrows_a_ticket(clock: FakeClock) -> None:
    """Its owner finds it where he left it."""
    tickets = Tickets(clock)
    for seq in range(2):
        tickets.leave("k", "me", Ticket(1, seq))

    assert [tickets.take("k", "stranger") for _ in range(3)] == [(Ticket(1, 0), 0.0), (Ticket(1, 1), 0.0), None]
    assert [tickets.take("k", "me") for _ in range(3)] == [(Ticket(1, 1), 0.0), (Ticket(1, 0), 0.0), None]


def test_one_key_that_is_missed_again_and_again(clock: FakeClock) -> None:
    """It takes no more room than many, and the oldest tickets leave."""
    tickets = Tickets(clock, most=10)
    for seq in range(35):
        tickets.leave("k", "me", Ticket(1, seq))

    assert [tickets.take("k", "me") for _ in range(11)] == [(Ticket(1, seq), 0.0) for seq in (*range(34, 24, -1), 0)]


def test_tickets_age_out(clock: FakeClock) -> None:
    """After an hour."""
    tickets = Tickets(clock)
    tickets.leave("k", "me", Ticket(1, 5))
    clock.advance(GOOD_FOR + 1)

    assert tickets.take("k", "me") is None
    tickets.leave("a", "me", Ticket(1, 5))
    clock.advance(GOOD_FOR + 1)
    tickets.leave("b", "me", Ticket(1, 6))
    assert list(tickets._by_key) == ["b"]


def test_a_ticket_that_was_dropped_for_room_is_remembered(clock: FakeClock) -> None:
    """Whoever has none takes the oldest that was dropped, for as long as it would have been good."""
    tickets = Tickets(clock, most=3)
    for number in range(5):
        tickets.leave(str(number), "me", Ticket(1, 10 + number))

    assert tickets.take("0", "me") == (Ticket(1, 10), 0.0)
    assert tickets.take("1", "me") == (Ticket(1, 10), 0.0)
    assert tickets.take("4", "me") == (Ticket(1, 14), 0.0)
    clock.advance(GOOD_FOR + 1)
    assert tickets.take("0", "me") is None
    assert tickets_module.MOST > 1000


def test_this_task_differs_from_every_ended_task() -> None:
    """The `id` of a task that has ended is given to a later one."""

    async def twice() -> object:
        first = this_task()
        await asyncio.sleep(0)
        assert this_task() == first
        return first

    with asyncio.Runner() as loop:
        tasks = [loop.run(twice()) for _ in range(20)]

    assert all(one != other for number, one in enumerate(tasks) for other in tasks[:number])


def test_a_refresh_at_a_time(clock: FakeClock) -> None:
    """And after a failure not at once."""
    refreshes = Refreshes(clock)

    assert refreshes.begin("k")
    assert not refreshes.begin("k")
    assert refreshes.begin("l")
    refreshes.end("k", failed=False)
    assert refreshes.begin("k")
    refreshes.end("k", failed=True)
    assert not refreshes.begin("k")
    clock.advance(31)
    assert refreshes.begin("k")
