"""A FAQ bot: the same questions without a cache, with one, and again in a new process.

    make demo
    make demo QUESTIONS=questions.csv COLUMN=text DRAWS=10000

It talks to a local server with OpenAI's API, through the real client. With --real (and OPENAI_API_KEY) it asks OpenAI itself, which
costs money. The last line that it prints is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import genai_prices
import httpx
from langchain_core.globals import set_llm_cache
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from layered_cache import Stats
from layered_cache.testing import OpenAIServer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from langchain_layered_cache import LayeredCache

MODEL = "gpt-4o-mini"
LATENCY = 0.02  # seconds, of the local model: a real one takes a hundred times as long
SYSTEM = SystemMessage("You are the help desk of a small software company. Answer in one sentence.")
PHASES = {"no_cache": "no cache", "first_process": "first process", "second_process": "second process"}


@dataclass
class Outcome:
    """How one phase went."""

    model_calls: int
    seconds: float
    tokens: int
    dollars: float
    stats: dict[str, Any]


def draw(distinct: list[str], draws: int | None) -> list[str]:
    """Return *draws* questions in random order: each once, if there is room, the rest by Zipf's law, as people repeat themselves."""
    rnd = random.Random(2026)  # noqa: S311 - the same questions each time
    ranked = rnd.sample(distinct, len(distinct))
    draws = draws or 5 * len(ranked)
    asked = ranked[:draws]
    asked += rnd.choices(ranked, [1 / rank for rank in range(1, len(ranked) + 1)], k=draws - len(asked))
    rnd.shuffle(asked)
    return asked


def read_questions(file: Path, column: str | None) -> list[str]:
    """Return the distinct questions in a text file (one a line) or in a column of a CSV file."""
    with file.open(encoding="utf-8", newline="") as lines:
        if file.suffix.lower() != ".csv":
            texts: Iterable[str] = (line.strip() for line in lines)
        else:
            rows = csv.DictReader(lines)
            names = rows.fieldnames or []
            column = column or names[0]
            if column not in names:
                sys.exit(f"{file} has no column {column!r}; it has: {', '.join(names)}")
            texts = [row[column] for row in rows]
        return list(dict.fromkeys(text for text in texts if text))


def ask_all(questions: list[str], url: str | None, cache: LayeredCache | None, told: str) -> Outcome:
    """Ask one question after the other, and count what goes over the wire."""
    calls = [0]

    def count(_request: httpx.Request) -> None:
        calls[0] += 1

    client = httpx.Client(event_hooks={"request": [count]})
    options: dict[str, Any] = {} if url is None else {"base_url": url, "api_key": "none"}
    model = ChatOpenAI(model=MODEL, temperature=0, http_client=client, **options)
    set_llm_cache(cache)
    spent = {"input": 0, "output": 0}
    started = time.perf_counter()
    for question in progress(questions, told):
        before = calls[0]
        answer = model.invoke([SYSTEM, HumanMessage(question)])
        if calls[0] > before and answer.usage_metadata:
            spent["input"] += answer.usage_metadata["input_tokens"]
            spent["output"] += answer.usage_metadata["output_tokens"]
    seconds = time.perf_counter() - started
    set_llm_cache(None)
    client.close()
    stats = Stats() if cache is None else cache.stats()
    tokens = genai_prices.Usage(input_tokens=spent["input"], output_tokens=spent["output"])
    dollars = float(genai_prices.calc_price(tokens, model_ref=MODEL).total_price)
    return Outcome(calls[0], seconds, sum(spent.values()), dollars, {"hits": dict(stats.hits_by_tier), "misses": stats.misses})


def progress(questions: list[str], told: str) -> Iterator[str]:
    """Yield *questions* behind a bar that moves."""
    columns = (TextColumn("{task.description:14}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(questions, description=told)


def with_cache(questions: list[str], url: str | None, file: str, phase: str) -> Outcome:
    """Ask with a cache in memory and in a file."""
    cache = LayeredCache("memory://", f"sqlite:///{file}", namespace="faq-bot")
    outcome = ask_all(questions, url, cache, PHASES[phase])
    cache.close()
    return outcome


def in_a_new_process(questions: list[str], url: str | None, file: str) -> Outcome:
    """Do the same in a process that knows nothing but the file."""
    command = [sys.executable, __file__, "--again", file, *(["--url", url] if url else [])]
    done = subprocess.run(command, input=json.dumps(questions), stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - ourselves
    return Outcome(**json.loads(done.stdout))


def show(outcomes: dict[str, Outcome], asked: int, distinct: int, names: dict[str, str] = PHASES) -> None:
    """Print the table, with these *names* of phases, and the line for machines."""
    table = Table(title=f"{asked:,} questions, {distinct:,} of them distinct")
    for name in ("", "model calls", "seconds", "tokens", "dollars", "hits by tier"):
        table.add_column(name, justify="left" if name in {"", "hits by tier"} else "right")
    for phase, outcome in outcomes.items():
        lookups = sum(outcome.stats["hits"].values()) + outcome.stats["misses"]
        hits = ", ".join(f"{tier} {count / lookups:.1%}" for tier, count in outcome.stats["hits"].items()) or "-"
        table.add_row(
            names[phase], f"{outcome.model_calls:,}", f"{outcome.seconds:.2f}", f"{outcome.tokens:,}", f"{outcome.dollars:.4f}", hits
        )
    Console().print(table)
    summary = {
        "questions": asked,
        "model_calls": {phase: outcome.model_calls for phase, outcome in outcomes.items()},
        "seconds": {phase: round(outcome.seconds, 3) for phase, outcome in outcomes.items()},
    }
    print(json.dumps(summary))


def main() -> None:
    """Run the three phases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, default=Path(__file__).with_name("questions.txt"), help="a text or CSV file")
    parser.add_argument("--column", help="of a CSV file; the first one, unless given")
    parser.add_argument("--draws", type=int, help="how many to ask; five times as many as there are, unless given")
    parser.add_argument("--latency", type=float, default=LATENCY, help="seconds that the local model takes")
    parser.add_argument("--real", action="store_true", help="ask OpenAI itself; costs money, needs OPENAI_API_KEY")
    parser.add_argument("--again", metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.again:
        print(json.dumps(asdict(with_cache(json.load(sys.stdin), options.url, options.again, "second_process"))))
        return
    if options.real and not os.environ.get("OPENAI_API_KEY"):
        parser.error("--real needs OPENAI_API_KEY")
    distinct = read_questions(options.questions, options.column)
    if not distinct:
        parser.error(f"{options.questions} holds no questions")
    questions = draw(distinct, options.draws)
    with ExitStack() as stack:
        url = None if options.real else stack.enter_context(OpenAIServer(latency=options.latency)).url
        file = str(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "answers.db")
        outcomes = {
            "no_cache": ask_all(questions, url, None, PHASES["no_cache"]),
            "first_process": with_cache(questions, url, file, "first_process"),
            "second_process": in_a_new_process(questions, url, file),
        }
    show(outcomes, len(questions), len(set(questions)))


if __name__ == "__main__":
    main()
