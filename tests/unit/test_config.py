"""Environment and files: argument, environment, file, default; and every mistake is told of by name."""

from __future__ import annotations

import subprocess
import sys
import traceback
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from layered_cache import ConfigurationError, MemoryTier, MissingClientError, NullTier, SQLiteTier, TieredCache
from layered_cache.config import load_settings
from layered_cache.tiers import _open
from layered_cache.tiers._url_options import TierOptions


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiers, namespace and every option of the policy, in text."""
    for name, value in {
        "TIERS": "memory://#max_bytes=1MiB  sqlite:///a.db#ttl=7d",
        "NAMESPACE": "faq",
        "KEEP_FOR": "2d",
        "FRESH_FOR": "1h30m",
        "WRITE": "behind",
        "SINGLE_FLIGHT": "false",
        "MAX_ENTRY_BYTES": "2MiB",
        "STRICT_INVALIDATION": "true",
        "MAX_WAIT": "5",
        "STORE_REQUESTS": "hash",
    }.items():
        monkeypatch.setenv(f"LAYERED_CACHE_{name}", value)

    cache = TieredCache.from_env()

    memory, sqlite = cache.tiers
    assert isinstance(memory, MemoryTier)
    assert isinstance(sqlite, SQLiteTier)
    assert (memory.max_bytes, sqlite.ttl, cache.name) == (2**20, 604800.0, "faq")
    policy = cache.policy
    assert (policy.keep_for, policy.fresh_for, policy.write, policy.single_flight) == (172800.0, 5400.0, "behind", False)
    assert (policy.max_entry_bytes, policy.strict_invalidation, policy.max_wait, policy.store_requests) == (2**21, True, 5.0, "hash")


FILE = """
[layered-cache]
namespace = "from file"
keep_for = "30d"
fail_open = false
[[layered-cache.tiers]]
url = "memory://"
max_bytes = "2MiB"
[[layered-cache.tiers]]
url = "sqlite:///${FOLDER}/b.db#timeout=1s"
ttl = 60
timeout = "250ms"
"""


def test_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Options beside a URL win over those in it; variables are filled in."""
    (tmp_path / "layered-cache.toml").write_text(FILE)
    monkeypatch.setenv("FOLDER", "sub")

    cache = TieredCache.from_env()

    memory, sqlite = cache.tiers
    assert isinstance(memory, MemoryTier)
    assert isinstance(sqlite, SQLiteTier)
    assert (memory.max_bytes, sqlite.timeout, sqlite.ttl) == (2**21, 0.25, 60.0)
    assert sqlite.path == tmp_path / "sub" / "b.db"
    assert (cache.name, cache.policy.fail_open) == ("from file", False)


def test_the_environment_comes_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Option by option."""
    (tmp_path / "layered-cache.toml").write_text(FILE)
    monkeypatch.setenv("LAYERED_CACHE_NAMESPACE", "from environment")
    monkeypatch.setenv("LAYERED_CACHE_TIERS", "null://")

    cache = TieredCache.from_env()

    assert (cache.name, cache.policy.keep_for) == ("from environment", 30 * 86400.0)
    assert [type(tier) for tier in cache.tiers] == [NullTier]


def test_files_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An argument, a variable, `layered-cache.toml`, `pyproject.toml`; tables may be left out in a file of its own."""
    (tmp_path / "pyproject.toml").write_text('[tool.layered-cache]\nnamespace = "project"')
    assert load_settings().namespace == "project"
    (tmp_path / "layered-cache.toml").write_text('namespace = "own"')
    assert load_settings().namespace == "own"
    (tmp_path / "third.toml").write_text('namespace = "third"')
    monkeypatch.setenv("LAYERED_CACHE_CONFIG", "third.toml")
    assert load_settings().namespace == "third"
    assert load_settings(tmp_path / "layered-cache.toml").namespace == "own"


def test_without_anything_there_are_no_tiers() -> None:
    """And a cache needs some."""
    assert load_settings().tiers == ()
    with pytest.raises(ConfigurationError, match="must have tiers"):
        TieredCache.from_env()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('namespce = "x"', "Did you mean 'namespace'"),
        ('keep_for = "soon"', "keep_for must be a duration"),
        ("keep_for = -1", "keep_for must be"),
        ('write = "later"', "Allowed: behind, through"),
        ('single_flight = "perhaps"', "single_flight"),
        ('cacheable = "x"', "unknown option 'cacheable'"),
        ('[[tiers]]\nmax_bytes = "1MiB"', "a tier must have a url"),
        ('[[tiers]]\nurl = "memory://"\nmax_byte = "1MiB"', "Did you mean 'max_bytes'"),
        ('[[tiers]]\nurl = "sqlite:///${NOT_SET}.db"', "variable NOT_SET"),
        ("this is = = no TOML", "is not TOML"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    """By name, with the nearest spelling."""
    (tmp_path / "layered-cache.toml").write_text(text)

    with pytest.raises(ConfigurationError, match=message):
        TieredCache.from_env()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LAYERED_CACHE_NAMESPCE", "x", "Did you mean 'LAYERED_CACHE_NAMESPACE'"),
        ("LAYERED_CACHE_KEEP_FOR", "soon", "keep_for must be a duration"),
        ("LAYERED_CACHE_FAIL_OPEN", "perhaps", "fail_open"),
        ("LAYERED_CACHE_CONFIG", "absent.toml", r"no configuration file absent\.toml"),
    ],
)
def test_mistakes_in_the_environment(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    """By name, with the nearest spelling."""
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=message):
        TieredCache.from_env()


def test_a_password_in_a_url_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with it."""
    for tier in (
        "reddis://user:canary@host/0",
        "rediss://user:canary@host:x/0",
        "redis://user:canary@host/x",
        "redis://user:canary@host,other/0",
        "redis://user:canary@host/0?nonsense=1",
        "redis+sentinel://user:canary@host",
        "redis://user:pa#canary@host/0",
        "redis://user:pa?canary=1@host/0",
        "redis://user:pa?canary@host/0",
        "mongodb://user:pa#canary@host/db",
        "redis+cluster://user:canary@host/1",
        "memory://user:canary@host",
        "sqlite://u:canary@h",
        "memory://#password=canary&x",
        "redis//u:canary@h",
    ):
        with pytest.raises(ConfigurationError) as raised:
            TieredCache(tier)
        assert "canary" not in "".join(traceback.format_exception(raised.value)).replace(tier, "")
    (tmp_path / "layered-cache.toml").write_text('[[tiers]]\nurl = "sqlite://u:canary@h/${NOT_SET}"')
    with pytest.raises(ConfigurationError) as raised:
        TieredCache.from_env()
    assert "canary" not in str(raised.value)


def test_what_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """That installs it."""
    monkeypatch.setitem(sys.modules, "pydantic_settings", None)

    with pytest.raises(MissingClientError, match=r"pip install 'layered-cache\[config\]'"):
        TieredCache.from_env()


# --- tiers of others


class ShelfTier(NullTier):
    """Somebody else's."""

    @classmethod
    def from_url(cls, url: str, options: TierOptions) -> ShelfTier:
        assert url == "shelf://here?theirs=1"
        return cls(name=options.text("name", "shelf"))


def claim(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    found = EntryPoints(EntryPoint(name, value, _open.GROUP) for name, value in points)
    monkeypatch.setattr(_open.importlib.metadata, "entry_points", lambda group: found)


def test_a_third_partys_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row in its package. Left of # is its own, right of it is ours."""
    claim(monkeypatch, ("shelf", f"{__name__}:ShelfTier.from_url"))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])

    tier = TieredCache("shelf://here?theirs=1#name=mine").tiers[0]

    assert isinstance(tier, ShelfTier)
    assert tier.name == "mine"


def test_two_claims_of_one_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are named."""
    claim(monkeypatch, ("shelf", "one:Tier"), ("shelf", "two:Tier"))

    with pytest.raises(ConfigurationError, match="one:Tier, two:Tier"):
        TieredCache("shelf://")


def test_an_unknown_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours and others' are named."""
    claim(monkeypatch, ("shelf", "one:Tier"))

    with pytest.raises(ConfigurationError, match="Did you mean 'shelf'"):
        TieredCache("shelv://")


def test_options_are_asked_for_by_kind() -> None:
    """What is not asked for is an error; so is what is no pair."""
    options = TierOptions("x://#a=1m&b=on&c=2KiB", {"d": 5})
    assert options.duration("a", 0.0) == 60.0
    assert options.text("b", "off") == "on"
    assert options.size("c", 0) == 2048
    assert options.duration("d", 0.0) == 5.0
    assert options.duration("e", None) is None
    options.finish()
    with pytest.raises(ConfigurationError, match="name=value"):
        TierOptions("x://#nonsense")
    with pytest.raises(ConfigurationError, match=r"option of x://"):
        TierOptions("x://#f=1").finish()


def test_settings_are_read_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never behind one's back."""
    monkeypatch.setenv("LAYERED_CACHE_NAMESPACE", "from environment")
    program = "import layered_cache, sys; c = layered_cache.TieredCache('memory://'); print(c.name, 'pydantic' in sys.modules)"

    done: Any = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["default", "False"]
