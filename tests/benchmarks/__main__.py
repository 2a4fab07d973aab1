"""Measure: `python -m tests.benchmarks [--quick] [--json] [SUBJECT ..]`. An interrupted run tells what it has.

Rounds are interleaved, cell by cell; what counts is the ratio within a round, and the spread beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

import asyncpg

from tests.benchmarks.ground import Ground, durable_server
from tests.benchmarks.measuring import measure
from tests.benchmarks.subjects import SUBJECTS, Subject
from tests.benchmarks.summary import Results, markdown, plain


async def run(
    dsn_of: Ground, results: Results, subjects: dict[str, Subject], rounds: int, seconds: float
) -> None:
    """Adds to the results what it measures, so that they are there when it is interrupted."""
    for name, subject in subjects.items():
        print(f"{subject.title}, {rounds} rounds", end="", file=sys.stderr, flush=True)
        for _ in range(rounds):
            for cell_name, cell in subject.cells.items():
                results.add(name, cell_name, await measure(dsn_of, cell, seconds * subject.seconds))
                print(".", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="session-lock bench", description=__doc__)
    parser.add_argument(
        "subjects", nargs="*", metavar="SUBJECT", help=f"of {', '.join(SUBJECTS)}; default: all"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under three minutes")
    parser.add_argument("--json", action="store_true", help="all figures of all rounds, instead of tables")
    parser.add_argument("--rounds", type=int, help="5 unless told, 3 with --quick")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.subjects if name not in SUBJECTS]:
        parser.error(f"{unknown[0]} is no subject: choose of {', '.join(SUBJECTS)}")
    chosen = {
        name: subject
        for name, subject in SUBJECTS.items()
        if name in asked.subjects or (not asked.subjects and (subject.quick or not asked.quick))
    }
    results = Results()

    async def all_of_it(dsn: str, ground: Ground) -> None:
        results.conditions = await ground.conditions()
        await run(
            ground, results, chosen, asked.rounds or (3 if asked.quick else 5), 0.5 if asked.quick else 1.0
        )

    async def with_server() -> None:
        with durable_server() as server:
            admin = await asyncpg.connect(server.dsn)
            await all_of_it(server.dsn, Ground(server, admin))
            await admin.close()

    code = 0
    try:
        asyncio.run(with_server())
    except KeyboardInterrupt:
        results.conditions.append("interrupted: not all rounds were made")
        code = 130
    print(json.dumps(plain(results)) if asked.json else markdown(results, chosen))
    return code


if __name__ == "__main__":
    sys.exit(main())
