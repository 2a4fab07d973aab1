"""Measure, on a PostgreSQL that is started for it, and tell each figure to reach beside what was wanted.

Rounds are interleaved, cell by cell; what counts is the ratio within a round, and the spread beside it. An interrupted run tells what it has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import asyncpg

from tests.benchmarks.ground import Ground, conditions, durable_server
from tests.benchmarks.page import PAGE, write_page
from tests.benchmarks.peers import PEERS
from tests.benchmarks.peers.driver import Peer
from tests.benchmarks.peers.processes import PeerError
from tests.benchmarks.results import RECORDS, Results
from tests.benchmarks.subjects import BESIDE_PEERS, Subject, subjects
from tests.benchmarks.summary import plain, text

QUICK = 168.0
"""Seconds after which a quick run of everything measures no more, whatever else the machine does."""


async def run(ground: Ground, results: Results, name: str, subject: Subject, until: float) -> None:
    """Adds to the results what it measures, so that it is there when it is interrupted."""
    cells = dict(subject.cells)
    rounds = results.rounds[name] = []
    begun = before = time.perf_counter()
    took = 0.0
    while len(rounds) < subject.rounds and before - begun + took < subject.seconds:
        rounds.append({})
        for cell_name, cell in list(cells.items()):
            if time.perf_counter() > until:
                left = [each for each in cells if each not in rounds[-1]]
                results.notes.append(f"no time was left for {name}: {', '.join(left)}")
                return
            print(
                f"{name}, round {len(rounds)} of {subject.rounds}: {cell_name}", file=sys.stderr, flush=True
            )
            try:
                rounds[-1][cell_name] = await cell.measure(ground)
            except (PeerError, RuntimeError, TimeoutError) as error:
                del cells[cell_name]
                results.notes.append(
                    f"left out of {name} from round {len(rounds)} on: {cell_name}: {error or 'no answer'}"
                )
        took, before = time.perf_counter() - before, time.perf_counter()


async def measure(
    server_dsn: str,
    pid: int,
    results: Results,
    chosen: Mapping[str, Subject],
    *,
    folder: Path | None = None,
    seconds: float = math.inf,
) -> None:
    until = time.perf_counter() + seconds
    admin = await asyncpg.connect(server_dsn)
    try:
        await admin.execute("CREATE EXTENSION pg_stat_statements")
        results.add(await conditions(admin), results.conditions)
        ground = Ground(server_dsn, pid, admin)
        for name, subject in chosen.items():
            await run(ground, results, name, subject, until)
            if folder:
                results.save(name, folder)
    finally:
        admin.terminate()


async def find_peers(results: Results, *, install: bool) -> list[Peer]:
    """Those that are installed; who is not is named."""
    found = []
    for peer in PEERS:
        try:
            if install:
                await peer.install()
        except PeerError as error:
            results.notes.append(f"left out: {error}")
            continue
        if not peer.installed:
            results.notes.append(f"left out: {peer.name} is not installed, and `nox -s bench` does that")
            continue
        results.versions[peer.name] = peer.version
        found.append(peer)
    return found


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = list(subjects(quick=False))
    parser = argparse.ArgumentParser(prog="session-lock bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each: under three minutes")
    parser.add_argument("--json", action="store_true", help="all figures of all rounds, instead of tables")
    parser.add_argument(
        "--subject", nargs="+", metavar="NAME",
        help=f"some of {', '.join(names)}, or what their names begin with; all unless told",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, help="so many of each subject, unless its time is over before")
    parser.add_argument(
        "--resume", action="store_true", help="leave out the subjects that have been measured"
    )
    parser.add_argument(
        "--page", type=Path, nargs="?", const=PAGE.parent, metavar="FOLDER",
        help="write performance.md and its plots, of all that has been measured (default: docs/explanation)",
    )  # fmt: skip
    parser.add_argument(
        "--install", action="store_true", help="install the peers that are not, each for itself"
    )
    asked = parser.parse_args(arguments)
    asked.seconds = QUICK if asked.quick and not asked.subject else math.inf
    chosen = names if asked.subject is None else []
    for word in asked.subject or ():
        found = [word] if word in names else [name for name in names if name.startswith(word)]
        if not found:
            parser.error(f"no subject is called {word}: choose of {', '.join(names)}")
        chosen += found
    asked.subject = [name for name in names if name in chosen]
    if asked.rounds is not None and asked.rounds < 1:
        parser.error(f"--rounds={asked.rounds}: at least one")
    if asked.quick and asked.resume:
        parser.error(
            "--resume is for full runs, since nothing is kept of a quick one: leave out one of the two"
        )
    if asked.quick and asked.page == PAGE.parent:
        parser.error(
            f"--quick is not for {PAGE.parent}: name another folder with --page, or leave out --quick"
        )
    return asked


def _measure(asked: argparse.Namespace, results: Results, names: Sequence[str]) -> None:
    peers = ()
    if BESIDE_PEERS.intersection(names):
        peers = asyncio.run(find_peers(results, install=asked.install))
    known = subjects(quick=asked.quick, peers=peers)
    rounds = asked.rounds or (1 if asked.quick else None)
    chosen = {name: replace(known[name], rounds=rounds or known[name].rounds) for name in names}
    folder = None if asked.quick else RECORDS
    with durable_server() as server:
        asyncio.run(measure(server.dsn, server.pid, results, chosen, folder=folder, seconds=asked.seconds))


def main(arguments: Sequence[str] | None = None) -> int:
    asked = parsed(arguments)
    results = Results()
    names = [name for name in asked.subject if not (asked.resume and results.load(name, RECORDS))]
    code = 0
    try:
        if names:
            _measure(asked, results, names)
    except KeyboardInterrupt:
        results.notes.append("interrupted: not all rounds were made")
        code = 130
    known = subjects(quick=asked.quick)
    print(json.dumps(plain(results)) if asked.json else text(results, known))
    if asked.page and not code:
        for name in known:
            if name not in results.rounds and not asked.quick:
                results.load(name, RECORDS)
        write_page(asked.page, results, known)
    return code


if __name__ == "__main__":
    sys.exit(main())
