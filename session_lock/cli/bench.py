"""`session-lock bench`: how fast it is on this machine, beside what PostgreSQL can do. The measurements are in the repository."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from session_lock.cli.common import Commands, refuse_if

ROOT = Path(__file__).parents[2]


def add_parser(commands: Commands) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure, on a PostgreSQL that is started for it (in a checkout of the repository)",
        add_help=False,
    )
    bench.add_argument("rest", nargs=argparse.REMAINDER)
    bench.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    refuse_if(
        not (ROOT / "tests" / "benchmarks" / "__main__.py").is_file(),
        "the benchmarks are no part of the installed package: clone the repository, and run `uv run session-lock bench` there",
    )
    # In place of this process, so that Ctrl-C is for it alone, which then tells what it has.
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "tests.benchmarks", *arguments.rest])  # noqa: S606 (our own)
