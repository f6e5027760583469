"""The one connection of an event loop: who speaks first is answered first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from layered_cache.tiers.redis.asyncio_connection import Line
from layered_cache.tiers.redis.resp import Wire


class _Recorder(asyncio.Transport):
    """Writes down what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said = b""

    def write(self, data: Any) -> None:
        self.said += data

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        pass


@pytest.mark.parametrize("early", [1, 3])
async def test_what_is_said_when_the_connection_comes_up_stands_behind_what_was_said_before(early: int) -> None:
    """Also in the very turn of the loop in which it comes up: replies are handed out in that order."""
    transport = _Recorder()
    line = Line(asyncio.get_running_loop(), Wire())
    line.connection_made(transport)
    waiting = [line.say(b"%d" % number, 1, 1.0) for number in range(early)]
    await asyncio.sleep(0)

    await line.greet(b"", 0)
    waiting += [line.say(b"%d" % number, 1, 1.0) for number in range(early, early + 2)]
    await asyncio.sleep(0)
    waiting.append(line.say(b"%d" % (early + 2), 1, 1.0))

    assert transport.said == b"".join(b"%d" % number for number in range(early + 3))
    line.hang_up()
    assert all(isinstance(future.exception(), ConnectionResetError) for future in waiting)
