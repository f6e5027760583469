"""The FAQ bot on Redis and MongoDB: two processes that share them, then Redis is stopped, then MongoDB too.

    make demo-servers

It starts servers of its own, and a local one with OpenAI's API. The last line that it prints is one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from faq_bot import LATENCY, Outcome, ask_all, draw, read_questions, show
from layered_cache.testing import OpenAIServer
from support.servers import MongoServer, RedisServer

from langchain_layered_cache import LayeredCache

PHASES = {
    "no_cache": "no cache",
    "first_process": "first process",
    "second_process": "second process",
    "redis_stopped": "Redis is stopped",
    "both_stopped": "MongoDB too",
}
NAMESPACE = "faq-bot"


def with_cache(questions: list[str], url: str, tiers: list[str], told: str) -> Outcome:
    """Ask with a cache in memory, Redis and MongoDB."""
    cache = LayeredCache("memory://", *tiers, namespace=NAMESPACE)
    outcome = ask_all(questions, url, cache, told)
    cache.close()
    return outcome


def in_a_new_process(questions: list[str], url: str, tiers: list[str], told: str) -> Outcome:
    """Do the same in a process whose memory is empty."""
    command = [sys.executable, __file__, "--again", told, url, *tiers]
    done = subprocess.run(command, input=json.dumps(questions), stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - ourselves
    return Outcome(**json.loads(done.stdout))


def main() -> None:
    """Run the phases."""
    if sys.argv[1:2] == ["--again"]:
        told, url, *tiers = sys.argv[2:]
        print(json.dumps(asdict(with_cache(json.load(sys.stdin), url, tiers, told))))
        return
    distinct = read_questions(Path(__file__).with_name("questions.txt"), None)
    questions = draw(distinct, None)
    few = distinct[:10]  # while nothing answers, each asks the model, and each waits for the budgets of both
    with ExitStack() as stack:
        url = stack.enter_context(OpenAIServer(latency=LATENCY)).url
        redis, mongodb = stack.enter_context(RedisServer()), stack.enter_context(MongoServer())
        tiers = [redis.url, f"{mongodb.url}llm"]
        outcomes = {"no_cache": ask_all(questions, url, None, PHASES["no_cache"])}
        for phase in ("first_process", "second_process"):
            outcomes[phase] = in_a_new_process(questions, url, tiers, PHASES[phase])
        redis.stop()
        outcomes["redis_stopped"] = in_a_new_process(questions, url, tiers, PHASES["redis_stopped"])
        mongodb.stop()
        outcomes["both_stopped"] = in_a_new_process(few, url, tiers, PHASES["both_stopped"])
    show(outcomes, len(questions), len(set(questions)), PHASES)


if __name__ == "__main__":
    main()
