"""docs/explanation/promise.md: its words, its figures, and that what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

from session_lock import Retry, Settings
from session_lock.database import ALONE_AFTER
from tests.docs.examples import ROOT
from tests.docs.test_readme import PROMISE

TEXT = (ROOT / "docs" / "explanation" / "promise.md").read_text()
FAULTS = (ROOT / "docs" / "reference" / "faults.md").read_text()


def rows(title: str) -> list[list[str]]:
    """Of the table under a title, without its head."""
    part = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_it_is_the_promise() -> None:
    assert PROMISE in " ".join(TEXT.split())


def test_who_looks_for_it_is_there_and_has_found_nothing() -> None:
    checkers = dict(re.findall(r"(?m)^\| (C\d+) \| (.*) \|$", FAULTS))
    named = [row[2] for row in rows("What never happens")]
    assert {"C2", "C3", "C4", "C5", "C6", "C13", "C14"} == set(named) - {"`tests/security`"}
    assert set(named) - {"`tests/security`"} <= checkers.keys()
    assert (ROOT / "tests" / "security").is_dir()
    used = re.findall(r"(?m)^\| \w+ \| .* \| ((?:C\d+ ?)+) \| [\d,]+ \| held \|", FAULTS)
    assert {name for line in used for name in line.split()} >= set(named) - {"`tests/security`"}
    assert not re.search(r"\| (failed|broken) \|", FAULTS)


def test_the_figures_are_the_defaults() -> None:
    settings = re.findall(r"`(\w+)` \((\d+) s\)|`(\w+)`, (\d+) s", TEXT)
    quoted = {a or c: float(b or d) for a, b, c, d in settings}
    assert quoted.keys() == {
        "lease_ttl",
        "poll_interval",
        "drain_timeout",
        "cancel_grace",
        "shutdown_timeout",
        "patience",
    }
    assert quoted == {name: getattr(Settings(), name) for name in quoted}
    assert f"at its {Retry().max_attempts}th attempt" in TEXT
    assert ALONE_AFTER == 2
    assert "after two sessions that have expired under it" in TEXT


def test_the_sessions_of_nox_are_there() -> None:
    known = re.findall(r"(?m)^def (\w+)\(", Path(ROOT / "noxfile.py").read_text())
    named = re.findall(r"nox -s (\w+)", TEXT)
    assert named
    assert set(named) <= set(known)
