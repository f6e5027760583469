"""What is written for people runs: README, notebooks, the demo, the package itself."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import certifi
import nbformat
import pytest
import redis
from layered_cache.config import load_settings
from layered_cache.testing import OpenAIServer
from layered_cache.tiers._open import open_tier
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
QUESTIONS = ROOT.parent / "shared" / "data" / "banking77_test.csv"


def blocks(language: str) -> list[str]:
    """Return the README's blocks in *language*."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


# by words that stand in a program: how often the model is called, and what is printed
OUTCOMES = {
    "from the cache, {stats.saved_tokens}": (1, "1 of 2 from the cache"),
    '"only_cached"}': (5, "the model was not called"),
    "another form of the question": (1, "1 hit for another form of the question"),
    "usage_callback": (1, "'hit': True"),
    "astream": (2, "1 answer for 100 who stream"),
    "LayeredCacheMiddleware": (2, "6 of 9 from the cache"),
    "only_cached=True": (3, "1 of 4 from the cache"),
    "configure(": (2, "2 answers from the cache"),
    "SentenceSplitter(), embed_model": (1, "20 True"),
    "import_sqlite": (0, "Imported(imported=1, skipped={})"),
}


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.split("\n")[0])
def test_the_readmes_programs_run(block: str, server: OpenAIServer, tmp_path: Path) -> None:
    """Word for word, each by itself, warnings being errors; where they ask a model it is a local one."""
    with closing(sqlite3.connect(tmp_path / ".langchain.db")) as other, other:  # what langchain-community's cache has left
        other.execute("CREATE TABLE full_llm_cache (prompt TEXT, llm TEXT, idx INTEGER, response TEXT)")
        other.execute("INSERT INTO full_llm_cache VALUES ('prompt', 'llm', 0, 'answer')")
    ours = {"OPENAI_BASE_URL": server.url, "OPENAI_API_BASE": server.url, "OPENAI_API_KEY": "none"}  # LlamaIndex knows the second
    environment = {**os.environ, **ours, "LAYERED_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-W", "error::UserWarning:__main__", "-c", block]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for words, (calls, printed) in OUTCOMES.items():
        if words in block:
            assert server.calls == calls
            assert printed in done.stdout


def test_the_readmes_configuration_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there."""
    (block,) = blocks("toml")
    (tmp_path / "layered-cache.toml").write_text(block)
    monkeypatch.chdir(tmp_path)

    settings = load_settings()

    assert (settings.namespace, settings.policy.write) == ("shop", "behind")
    assert [tier.name for tier in settings.open_tiers()] == ["memory", "sqlite"]


URLS = re.findall(r"((?:redis|rediss|mongodb)(?:\+\w+)?://[^\s`\"]+)", README)


@pytest.mark.parametrize("url", sorted(set(URLS)))
def test_the_readmes_urls_are_understood(url: str) -> None:
    """Each of them; nothing is connected to."""
    bare = url if "host" not in url or "/" in url.partition("://")[2] else f"{url}/0"
    tier = open_tier(bare.replace("/etc/ssl/ca.pem", certifi.where()))

    assert tier.name in {"redis", "mongodb"}
    tier.close()


@pytest.mark.slow
def test_the_readmes_program_for_production(redis_url: str, mongodb_url: str, server: OpenAIServer, tmp_path: Path) -> None:
    """On real servers: a second process has the answer from Redis, a third one, whose Redis is empty, from MongoDB."""
    (block,) = [block for block in blocks("python") if "mongodb://localhost" in block]
    block = block.replace("redis://localhost:6379/0", redis_url).replace("mongodb://localhost:27017/llm", mongodb_url)
    program = f"""{block}
from langchain_openai import ChatOpenAI
print(ChatOpenAI(model="gpt-4o-mini").invoke("Why is the sky blue?").content)
print(*cache.stats().hits_by_tier)
cache.close()
"""
    environment = {**os.environ, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "none"}
    told: list[str] = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60)
        told.append(done.stdout.splitlines()[-1])
        if len(told) == 2:
            with redis.Redis.from_url(redis_url) as client:
                client.flushdb()

    assert told == ["", "redis", "mongodb"]
    assert server.calls == 1


def test_the_readme_names_what_is_there() -> None:
    """Files, targets, and no more tests than there are."""
    for path in re.findall(r"`((?:tests|examples|notebooks|shared)/[\w./]+)`", README) + re.findall(r"\]\((\w+\.md)\)", README):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:`|^    )make ([a-z]+)", README, re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert f"\n{target}:" in makefile, target


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_notebooks_run_and_keep_their_outputs(path: Path, tmp_path: Path) -> None:
    """The outputs are those of a run from top to bottom."""
    notebook: Any = nbformat.read(path, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kept = [{output.output_type for output in cell.outputs} for cell in code]  # what is printed may come in several pieces

    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()

    assert [{output.output_type for output in cell.outputs} for cell in code] == kept


def demo(*arguments: str) -> dict[str, Any]:
    """Run the demo and return its last line."""
    command = [sys.executable, str(ROOT / "examples" / "faq_bot.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().split("\n")[-1])


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    """One call for each distinct question, none in the second process; any file of questions will do."""
    file = tmp_path / "questions.csv"
    file.write_text('number,text\n1,"a, or b?"\n2,what?\n3,what?\n4,"more\nlines"\n5,\n')

    outcome = demo("--questions", str(file), "--column", "text", "--draws", "20", "--latency", "0")

    assert outcome["questions"] == 20
    assert outcome["model_calls"] == {"no_cache": 20, "first_process": 3, "second_process": 0}
    assert outcome["seconds"].keys() == outcome["model_calls"].keys() == {"no_cache", "first_process", "second_process"}


@pytest.mark.nightly
@pytest.mark.skipif(not QUESTIONS.exists(), reason="the questions of real customers are not here")
def test_the_demo_on_real_questions() -> None:
    """10,000 draws: the first process makes one call for each distinct question, the second none."""
    import csv

    with QUESTIONS.open(encoding="utf-8", newline="") as lines:
        distinct = {row["text"] for row in csv.DictReader(lines)}

    outcome = demo("--questions", str(QUESTIONS), "--column", "text", "--draws", "10000", "--latency", "0")

    assert outcome["model_calls"] == {"no_cache": 10_000, "first_process": len(distinct), "second_process": 0}


@pytest.mark.slow
def test_the_wheel_holds_what_it_shall(tmp_path: Path) -> None:
    """The packages with their marks for type checkers, and nothing else; installed alone, it works."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()

    packages = {"langchain_layered_cache", "llamaindex_layered_cache", "layered_cache"}
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == packages
    assert {f"{name}/py.typed" for name in packages} <= set(names)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    program = "from layered_cache import *; print(TieredCache('memory://').get_or_compute(Request('q'), lambda: b'x').value)"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "b'x'\n"


def test_nothing_names_this_machine() -> None:
    """No path of a home, no address of a package index, no lock file in what is kept."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout")
    for name in listed.stdout.split("\n"):
        path = ROOT / name
        assert path.name != "uv.lock"
        if path.suffix in {".py", ".toml", ".md", ".ipynb", ".txt", ""} and path.is_file():
            text = path.read_text("utf-8")
            assert not re.search(r"/(root|work|home/(?!somebody))/|index-url|/simple\b", text) or path == Path(__file__), name
