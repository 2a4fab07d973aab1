"""What the settings of a peer are chosen by: `python -m tests.benchmarks.peers.sweep PEER [SETTING ..] [--rounds 3]`.

One setting after the other takes each of its values in `swept`, with the others as they are in `PEERS`, and a table is printed for it.
Rounds are interleaved. Who changes a setting there sweeps the others again.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace
from typing import Any

from session_lock.embedded import temp_postgres
from tests.benchmarks.peers import PEERS
from tests.benchmarks.peers.driver import Peer
from tests.benchmarks.peers.measuring import SERVER, measure, table
from tests.benchmarks.peers.processes import PeerError


async def sweep(peer: Peer, setting: str, server_dsn: str, rounds: int, samples: int) -> None:
    candidates: dict[str, Any] = {
        f"{setting}={value}": replace(peer, settings={**peer.settings, setting: value}, when_idle={})
        for value in peer.swept[setting]
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in candidates}
    try:
        for _ in range(rounds):
            for name, candidate in candidates.items():
                found[name].append(await measure(candidate, server_dsn, samples))
    finally:
        print("\n".join(table(found)), flush=True)


async def run(peer: Peer, settings: list[str], server_dsn: str, rounds: int, samples: int) -> None:
    await peer.install()
    print(f"{peer.name} {peer.version}, {peer.tasks} tasks; {dict(peer.settings)}")
    for setting in settings:
        await sweep(peer, setting, server_dsn, rounds, samples)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers.sweep", description=__doc__)
    parser.add_argument("peer", choices=[peer.name for peer in PEERS])
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="all, unless some are named")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, help="of each drain")
    parser.add_argument(
        "--samples", type=int, default=0, help="of the latency, which is left out unless asked for"
    )
    asked = parser.parse_args(arguments)
    (peer,) = (peer for peer in PEERS if peer.name == asked.peer)
    peer = replace(peer, tasks=asked.tasks or peer.tasks)
    settings = asked.settings or list(peer.swept)
    try:
        with temp_postgres(**SERVER) as server:
            asyncio.run(run(peer, settings, server.dsn, asked.rounds, asked.samples))
    except PeerError as error:
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
