"""All peers by themselves: `python -m tests.benchmarks.peers [--quick]` prints a table of them, also of what there is when it is stopped.

The server is one that is started for it, and durable. Rounds are interleaved, so that a busy minute of the machine is not one peer's
alone; read the spread beside the medians. A peer that does not install, or fails, is named with the reason, and left out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from dataclasses import replace

from session_lock.embedded import temp_postgres
from tests.benchmarks.peers import PEERS
from tests.benchmarks.peers.measuring import SERVER, measure, table
from tests.benchmarks.peers.processes import PeerError


async def run(server_dsn: str, rounds: int, samples: int, part: int) -> None:
    peers = []
    for peer in PEERS:
        try:
            await peer.install()
        except PeerError as error:
            print(f"left out: {error}")
        else:
            peers.append(replace(peer, tasks=peer.tasks // part))
    found: dict[str, list[dict[str, float]]] = {f"{peer.name} {peer.version}": [] for peer in peers}
    try:
        for _ in range(rounds):
            for peer in list(peers):
                try:
                    figures = await measure(peer, server_dsn, samples)
                except PeerError as error:
                    print(f"left out from here on: {error}")
                    peers.remove(peer)
                else:
                    found[f"{peer.name} {peer.version}"].append(figures)
    finally:
        print("\n".join(table(found)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three short rounds, of some minutes in all")
    quick = parser.parse_args(arguments).quick
    print(f"one process of each, {os.cpu_count()} cores shared with the server; median (least-most)")
    try:
        with temp_postgres(**SERVER) as server:
            asyncio.run(run(server.dsn, *((3, 40, 5) if quick else (5, 200, 1))))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
