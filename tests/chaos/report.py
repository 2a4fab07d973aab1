"""What the records of runs come to: the page docs/reference/faults.md."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from session_lock.embedded import find_bin_dir
from tests.chaos.catalogue import CHECKERS, FAULTS, FIGURES, MOST_TAKE_OVER, NEVER, TAKE_OVER, Fault

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "faults.md"

HEAD = """\
# Faults, and what was seen under them

Written by `python -m tests.chaos report` from what a run of the tests has recorded ({dates}; {versions}); do not edit.
`uv run nox -s chaos` makes such a run. Seeds: {seeds}.
"""


def page(lines: Iterable[str]) -> str:
    records = [json.loads(line) for line in lines]
    head = HEAD.format(
        dates=_span(record["date"] for record in records), versions=", ".join(versions()),
        seeds=", ".join(map(str, sorted({r["seed"] for r in records if r["seed"] is not None}))) or "none",
    )  # fmt: skip
    parts = [
        head,
        "## Figures",
        *_figures(records),
        "## Faults",
        _faults(records),
        "## Checkers",
        _checkers(),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _figures(records: Sequence[dict[str, Any]]) -> list[str]:
    times = _sum(records, "times")
    rows = []
    for figure in FIGURES:
        wrong = sum(
            record["outcome"] == "failed" for record in records if record["times"].keys() & {*figure.counted}
        )
        reached = sum(times[one] for one in figure.counted)
        rows.append([figure.what, f"{figure.by_default:,}", f"{figure.at_night:,}", f"{reached:,}", wrong])
    found, looked = _sum(records, "found"), Counter(one for record in records for one in record["found"])
    nevers = [
        [what, checker, 0, found[checker] if looked[checker] else "not looked", looked[checker]]
        for checker, what in NEVER.items()
    ]
    measured = sorted(one for record in records for one in record["measured"].get(TAKE_OVER, ()))
    took = (
        f"Take-over after SIGKILL, with a lease of 5 s: {len(measured)} times, median {_at(measured, 0.5):.2f} s, "
        f"p99 {_at(measured, 0.99):.2f} s, longest {measured[-1]:.2f} s; wanted: p99 of at most {MOST_TAKE_OVER:g} s."
        if measured
        else "Take-over after SIGKILL: not measured."
    )
    return [
        _table(["figure", "wanted", "at night", "reached", "runs that failed"], rows),
        _table(["what shall never be", "checker", "wanted", "found", "runs that looked"], nevers),
        took,
    ]


def _faults(records: Sequence[dict[str, Any]]) -> str:
    return _table(
        ["", "fault", "required", "checkers", "injected", "result", "by"],
        [_row(fault, [r for r in records if fault.id in r["times"]]) for fault in FAULTS],
    )


def _row(fault: Fault, records: Sequence[dict[str, Any]]) -> list[object]:
    times = sum(record["times"][fault.id] for record in records)
    failed = sum(record["outcome"] == "failed" for record in records)
    if failed:
        result = f"broken in {failed} of {len(records)} runs"
    elif times:
        result = "held"
    else:
        result = fault.not_here or "not injected"
    # The tests by their files, since some have many parameters.
    files = sorted({record["node"].partition("::")[0].removeprefix("tests/") for record in records})
    return [fault.id, fault.what, fault.required, fault.checkers, f"{times:,}", result, ", ".join(files)]


def _checkers() -> str:
    return _table(["", "what is checked"], CHECKERS.items())


def _sum(records: Iterable[dict[str, Any]], what: str) -> Counter[str]:
    total = Counter[str]()
    for record in records:
        total.update(record[what])
    return total


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]


def _span(dates: Iterable[str]) -> str:
    ordered = sorted({*dates})
    return " to ".join(ordered[:: max(1, len(ordered) - 1)]) or "no run"


def _table(head: Sequence[object], rows: Iterable[Iterable[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def versions() -> list[str]:
    """Of what a run on this machine has to do with."""
    programs = [str(find_bin_dir() / "postgres")]
    pgbouncer = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    programs += [pgbouncer] if pgbouncer else []
    said = [
        subprocess.run([program, "--version"], capture_output=True, text=True).stdout for program in programs
    ]
    return [
        *(re.sub(r"[()]|postgres ", "", one.splitlines()[0]).strip() for one in said),
        f"Python {platform.python_version()}",
        f"asyncpg {version('asyncpg')}",
        f"{platform.system()} {platform.release()}",
    ]
