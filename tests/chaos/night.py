"""A night of faults, in parts of some minutes each, of which those that are done are not done again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.report import ROOT

RECORDS = ROOT / ".chaos"


@dataclass(frozen=True)
class Part:
    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


STORM = "tests/chaos/test_storm.py"

AGAIN = {
    f"{STORM}::test_a_storm": 23,
    f"{STORM}::test_a_fail_over_that_loses_commits": 10,
    "tests/chaos/test_take_over.py::test_the_tasks_of_the_killed_are_taken_over": 19,
}
"""How often each takes place, with dice of its own: the storms, and what a percentile is to be computed from."""


def parts() -> Iterator[Part]:
    at_night = {"SESSION_LOCK_STORM": "night"}
    for test, times in AGAIN.items():
        for seed in range(1, times + 1):
            environment = {**at_night, "SESSION_LOCK_TEST_SEED": str(seed)}
            yield Part(f"{test.partition('::')[2]}-{seed}", ("-n0", test), environment)
    # All else that injects faults, once: a folder at a time, and of this one a file.
    files = sorted([*(ROOT / "tests").glob("*/test_*.py"), *(ROOT / "tests").glob("test_*.py")])
    for path in dict.fromkeys(
        file if file.parent.name in {"tests", "chaos"} else file.parent for file in files
    ):
        here = str(path.relative_to(ROOT))
        if here != STORM:
            yield Part(path.stem, ("-m", "fault", "--timeout=1800", here), at_night)


def night(*, resume: bool) -> int:
    """Run the parts; returns how many of them failed."""
    RECORDS.mkdir(exist_ok=True)
    if not resume:
        shutil.rmtree(RECORDS)
        RECORDS.mkdir()
    failed = 0
    for part in parts():
        done = RECORDS / f"{part.name}.jsonl"
        if done.exists():
            continue
        begin = time.perf_counter()
        code = _run(part, unfinished := done.with_suffix(".part"))
        took = f"{time.perf_counter() - begin:.0f} s"
        if code not in {0, 1, NOTHING_THERE}:  # interrupted, or worse: to be done again
            print(f"{part.name}: given up after {took}", flush=True)
            return failed + 1
        failed += code == 1
        if code != 1:  # else what its processes have written is still wanted
            shutil.rmtree(RECORDS / part.name, ignore_errors=True)
        print(f"{part.name}: {'failed' if code == 1 else 'passed'} in {took}", flush=True)
        unfinished.touch()
        unfinished.rename(done)
    return failed


NOTHING_THERE = 5  # as pytest ends that has found no test


def _run(part: Part, record: Path) -> int:
    record.unlink(missing_ok=True)
    options = [f"--faults-record={record}", f"--basetemp={RECORDS / part.name}"]
    command = [sys.executable, "-m", "pytest", "-q", *part.arguments, *options]
    environment = {**os.environ, **part.environment}
    with (RECORDS / f"{part.name}.log").open("wb") as log:
        return subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log).returncode
