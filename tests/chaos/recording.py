"""A pytest plugin that counts which faults were injected: the marker `fault`, the fixture `injected`, `--faults-record FILE`.

FILE gets a line of JSON for each test with the marker, so a run may be made in parts; `python -m tests.chaos report` reads it.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.catalogue import BY_ID, COUNTED


class Injected:
    """`injected("N13", 20)`: the fault took place so often, in a test that is marked with it."""

    def __init__(self, ids: Iterable[str]) -> None:
        self.times = Counter[str]()
        self.found = Counter[str]()
        self.measured: defaultdict[str, list[float]] = defaultdict(list)
        self._ids = {*ids} | COUNTED

    def __call__(self, what: str, times: int = 1) -> None:
        assert what in self._ids, f"this test is not marked with {what}"
        self.times[what] += times

    def wrong(self, checker: str, times: int) -> None:
        """What a checker has found; 0 says that it has looked."""
        self.found[checker] += times

    def measure(self, what: str, *values: float) -> None:
        self.measured[what] += values


@pytest.fixture
def seed() -> int:
    """Of the test's dice. It is printed; SESSION_LOCK_TEST_SEED throws the same ones again."""
    number = int(os.environ.get("SESSION_LOCK_TEST_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"SESSION_LOCK_TEST_SEED={number}")
    return number


@pytest.fixture
def injected(request: pytest.FixtureRequest) -> Injected:
    request.node.stash[INJECTED] = Injected(faults_of(request.node))
    return request.node.stash[INJECTED]


INJECTED = pytest.StashKey[Injected]()


def faults_of(item: pytest.Item) -> list[str]:
    return sorted({one for mark in item.iter_markers("fault") for one in mark.args})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-record", metavar="FILE", help="add what faults were injected to this file")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(*ids): injects these faults of tests/chaos/catalogue.py")
    path = config.getoption("--faults-record")
    if path and not hasattr(config, "workerinput"):  # under pytest-xdist the controller hears of all
        config.pluginmanager.register(Record(Path(path)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if unknown := [one for one in faults_of(item) if one not in BY_ID]:
            raise pytest.UsageError(f"{item.nodeid}: {', '.join(unknown)} is not in the catalogue of faults")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    ids = faults_of(item)
    if ids and (call.when == "call" or (call.when == "setup" and report.failed)):
        told = item.stash.get(INJECTED, Injected(ids))
        facts = {
            # Whoever does not count has injected it once, if it got through.
            "times": dict.fromkeys(ids, int(report.passed)) | dict(told.times),
            "found": dict(told.found),
            "measured": dict(told.measured),
            "seed": getattr(item, "funcargs", {}).get("seed"),
        }
        report.user_properties.append(("faults", facts))
    return report


class Record:
    """Writes a line when a test is over, whichever process it ran in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reports: defaultdict[str, list[pytest.TestReport]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reports = self._reports[report.nodeid]
        reports.append(report)
        if report.when != "teardown":
            return
        del self._reports[report.nodeid]
        facts = [value for one in reports for name, value in one.user_properties if name == "faults"]
        if facts and not any(one.skipped for one in reports):
            line = {
                "node": report.nodeid,
                "outcome": "failed" if any(one.failed for one in reports) else "passed",
                "seconds": round(sum(one.duration for one in reports), 2),
                "date": f"{datetime.now(UTC):%Y-%m-%d}",
                **facts[0],
            }
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
