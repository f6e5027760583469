"""The invalidation log in Redis: three keys without expiry, changed by one atomic script.

A hash holds the position of the log and the sizes of the other two keys. A sorted set holds the
rules by sequence number, and a hash holds the floors. If one key is evicted or lost, the sizes no
longer match. The lost rules are unknown, so the log gets a new epoch.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import cast

from layered_cache._storage.rules import MAX_FLOORS, MAX_LOG_BYTES, MAX_RULES, LogState, Rule, Scope
from layered_cache.entry import Ticket
from layered_cache.errors import ConfigurationError, TierUnavailableError
from layered_cache.tiers.redis.resp import OutOfStepError, Reply
from layered_cache.tiers.redis.url import Command

# No namespace has this form, so no key of an entry does. The braces keep the three keys on one
# server of a cluster.
_PREFIX = "lc1:{log}:"
KEYS = (_PREFIX + "head", _PREFIX + "rules", _PREFIX + "floors")
LOG_ID_KEY = _PREFIX + "id"

# The sequence number stays below 2^53 until the year 2255, so Lua stores it exactly. Epochs are
# larger, so they stay texts.
_SCRIPT = """
local head, rules, floors = KEYS[1], KEYS[2], KEYS[3]
local nonce, what, seen_epoch, seen_seq, fresh = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local old = redis.call('HMGET', head, 'epoch', 'seq', 'bytes', 'rules', 'floors')
local epoch, seq, bytes = old[1], tonumber(old[2] or 0), tonumber(old[3] or 0)

local function text(number) return string.format('%.0f', number) end
local function save()
  redis.call('HSET', head, 'epoch', epoch, 'seq', text(seq), 'bytes', text(bytes),
    'rules', redis.call('ZCARD', rules), 'floors', redis.call('HLEN', floors))
end
local function begin(at)
  redis.call('DEL', rules, floors)
  epoch, seq, bytes = fresh, at, 0
  save()
end
local function raise_floor(name, at)
  if at > tonumber(redis.call('HGET', floors, name) or 0) then redis.call('HSET', floors, name, text(at)) end
end

local torn = epoch and (tonumber(old[4]) ~= redis.call('ZCARD', rules) or tonumber(old[5]) ~= redis.call('HLEN', floors))
local older = epoch and epoch == seen_epoch and seq < seen_seq
if torn or (older and (what == 'restart' or what == 'append')) then
  begin(math.max(seq, epoch == seen_epoch and seen_seq or 0) + 1)
elseif not epoch and (what == 'open' or what == 'append') then
  begin(0)
end

if what == 'append' then
  local namespace, scope, before = ARGV[6], ARGV[7], tonumber(ARGV[8])
  local most_rules, most_bytes, most_floors = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
  local now = redis.call('TIME')
  seq = math.max(seq + 1, now[1] * 1000000 + now[2])
  if scope ~= '' then
    redis.call('ZADD', rules, text(seq), text(seq) .. ' ' .. #namespace .. ' ' .. namespace .. scope)
    bytes = bytes + #scope
  else
    raise_floor(namespace, seq)
  end
  while true do  -- what has to leave raises the floor of its namespace
    local oldest = redis.call('ZRANGE', rules, 0, 0, 'WITHSCORES')
    if not oldest[1] then break end
    if redis.call('ZCARD', rules) <= most_rules and bytes <= most_bytes and tonumber(oldest[2]) >= before then break end
    local at, size, rest = string.match(oldest[1], '^(%d+) (%d+) (.*)$')
    redis.call('ZREM', rules, oldest[1])
    bytes = bytes - (#rest - size)
    raise_floor(string.sub(rest, 1, size), tonumber(at))
  end
  if redis.call('HLEN', floors) > most_floors then  -- the oldest are folded into everyone's
    local all, named = redis.call('HGETALL', floors), {}
    for i = 1, #all, 2 do named[#named + 1] = {all[i], tonumber(all[i + 1])} end
    table.sort(named, function(a, b) return a[2] > b[2] end)
    local half = math.floor(most_floors / 2)
    for i = half + 1, #named do
      if named[i][1] ~= '' then redis.call('HDEL', floors, named[i][1]) end
    end
    raise_floor('', named[half + 1][2])
  end
  save()
end

if not epoch then return {nonce, '0', '0', {}, {}} end
local same = epoch == seen_epoch
if same and seq == seen_seq then return {nonce, epoch, text(seq), {}, {}} end
local since = same and '(' .. text(seen_seq) or '-inf'
return {nonce, epoch, text(seq), redis.call('HGETALL', floors), redis.call('ZRANGEBYSCORE', rules, since, '+inf')}
"""


def command(what: str, seen: Ticket, namespace: str = "", scope: Scope | None = None, before: int = 0) -> tuple[Command, bytes]:
    """Return the command for *what* (`read`, `open`, `append`, `restart`) and its token.

    The reply to the command must begin with the token.
    """
    nonce = secrets.token_bytes(8)
    arguments: list[bytes | str | int] = [nonce, what, str(seen.epoch), seen.seq, str(secrets.randbits(62) + 1)]
    if what == "append":
        name = namespace.encode("utf-8", "surrogatepass")
        arguments += [name, "" if scope is None else scope.to_json(), before, MAX_RULES, MAX_LOG_BYTES, MAX_FLOORS]
    return ("EVAL", _SCRIPT, len(KEYS), *KEYS, *arguments), nonce


def state(reply: Reply, nonce: bytes, tier: str) -> LogState:
    """Return the state of the log in *reply*.

    Raises:
        OutOfStepError: If this is the reply to a different command.
        TierUnavailableError: If it contains a rule that this release cannot read. The entries that
            the rule may void must not be served.
    """
    # the length of the script's reply
    if not isinstance(reply, list) or len(reply) != 5 or reply[0] != nonce:  # noqa: PLR2004
        raise OutOfStepError
    try:
        _, epoch, seq, floors, rules = cast("tuple[bytes, bytes, bytes, list[bytes], list[bytes]]", tuple(reply))
        return LogState(
            int(epoch),
            int(seq),
            {_text(name): int(at) for name, at in zip(floors[::2], floors[1::2], strict=True)},
            tuple(_rule(member) for member in rules),
        )
    except (ValueError, ConfigurationError) as error:
        raise TierUnavailableError(tier, "read the log", str(error), retryable=False) from error


def _rule(member: bytes) -> Rule:
    seq, size, rest = member.split(b" ", 2)
    return Rule(int(seq), _text(rest[: int(size)]), Scope.from_json(rest[int(size) :].decode()))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def is_replica(replies: Sequence[object]) -> bool:
    """Return True if *replies*, the replies to a `ROLE`, show a replica.

    Without a reply, or if the user has no permission for `ROLE`, the result is False.
    """
    role = replies[0] if replies else None
    return isinstance(role, list) and cast("list[object]", role)[:1] not in ([], [b"master"], ["master"])


def is_durable(info: object) -> bool:
    """Return True if Redis persists acknowledged writes, according to `INFO persistence`."""
    # parsed by redis-py
    if isinstance(info, dict):
        read = cast("dict[str, object]", info)
        return read.get("aof_enabled") == 1 and read.get("aof_last_write_status", "ok") == "ok"
    if not isinstance(info, bytes):
        return False
    facts = info.split(b"\r\n")
    return b"aof_enabled:1" in facts and b"aof_last_write_status:err" not in facts
