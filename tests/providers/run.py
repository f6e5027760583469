"""Run the wire oracle in one environment for each group of `environments.toml`, and write `results.json` and the page.

    python tests/providers/run.py                    # all groups
    python tests/providers/run.py langchain-cohere   # one group
    python tests/providers/run.py langchain -k Groq  # arguments of pytest for a part of it
    python tests/providers/run.py --page             # the page only

An environment is made on demand in `.venv-providers/` and is kept. It is made anew if the packages of its group change.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

from providers.page import DATA, PAGE, Results, rendered  # noqa: E402 - the folder of the tests comes first

ENVIRONMENTS = ROOT / ".venv-providers"
PROJECT = ["--editable", ".[all]", "pytest>=8.3", "pytest-asyncio"]


def groups() -> dict[str, dict[str, Any]]:
    """Return the groups of packages, by their names."""
    return tomllib.loads((HERE / "environments.toml").read_text(encoding="utf-8"))


def environment(name: str, packages: list[str]) -> Path:
    """Return the Python of the environment of a group. Make the environment if there is none, or if *packages* have changed."""
    place = ENVIRONMENTS / name
    python, stamp = place / "bin" / "python", place / "installed.txt"
    wanted = "\n".join([*PROJECT, *packages])
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"installing the packages of {name} ...", flush=True)  # noqa: T201 - a program for the terminal
        venv.create(place, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PROJECT, *packages], cwd=ROOT, check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def write_page() -> None:
    """Write the page of the results."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(rendered(Results.read(DATA).classes), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Run the groups that *arguments* name, or all, and return 1 if one of them fails."""
    known, failed = groups(), False
    names = [name for name in arguments if name in known] or [*known]
    rest = [argument for argument in arguments if argument not in known]
    for name in names if rest != ["--page"] else ():
        python = environment(name, known[name]["packages"])
        tests = [str(HERE / test) for test in known[name]["tests"]]
        ended = subprocess.run(
            [python, "-m", "pytest", "-m", "providers", *tests, *rest],
            cwd=ROOT,
            env={**os.environ, "PROVIDERS_RESULTS": str(DATA)},
            check=False,
        )
        failed = failed or ended.returncode not in {0, 5}  # 5: `-k` selects no test of this group
    write_page()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
