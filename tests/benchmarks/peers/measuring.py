"""One round of one peer, in a database of its own, and the table of many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from statistics import median, quantiles
from typing import Any

import asyncpg

from tests.benchmarks.peers.driver import Peer
from tests.benchmarks.scale import DURABLE
from tests.conftest import fresh_database

SERVER: dict[str, Any] = {**DURABLE, "max_wal_size": "4GB", "data_in_memory": False}
"""Of `temp_postgres`."""

Rounds = Mapping[str, list[dict[str, float]]]
"""By the name of the row: of each round the figures, by their columns."""


async def measure(peer: Peer, server_dsn: str, samples: int = 0) -> dict[str, float]:
    async with fresh_database(server_dsn, "template1") as database:
        await peer.prepare(database.admin_dsn)
        enqueueing = await peer.enqueue(database.admin_dsn, peer.tasks)
        await settle(database.admin_dsn)
        async with peer.drain(database.admin_dsn, peer.tasks) as go:
            drained = await go()
    figures = {
        "drain, tasks/s": peer.tasks / drained.seconds,
        "client CPU, s/10k": drained.client_cpu / peer.tasks * 10_000,
        "RSS, MB": drained.rss_bytes / 1e6,
        "enqueue, tasks/s": peer.tasks / enqueueing,
    }
    if samples:
        async with fresh_database(server_dsn, "template1") as database:
            await peer.prepare(database.admin_dsn)
            taken = await peer.latency(database.admin_dsn, samples)
        figures |= {"latency p50, ms": median(taken), "latency p99, ms": quantiles(taken, n=100)[98]}
    return figures


async def settle(dsn: str) -> None:
    """What is there is known to the planner, and none of it has to be written in what follows."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")
    await connection.close()


def table(rounds: Rounds) -> Iterator[str]:
    """In markdown: of each figure the median, and from the least to the most."""
    columns = next((list(each[0]) for each in rounds.values() if each), [])
    yield _row(["", "rounds", *columns])
    yield _row(["---"] * (len(columns) + 2))
    for name, each in rounds.items():
        yield _row([name, str(len(each)), *(_spread([of[column] for of in each]) for column in columns)])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    digits = 0 if median(values) >= 100 else 2
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"
