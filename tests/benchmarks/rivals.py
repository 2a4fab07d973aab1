"""The peers, measured in turn with us on the same server."""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmarks.ground import Ground
from tests.benchmarks.measuring import Figures, of_latencies, per_task
from tests.benchmarks.peers.driver import Peer
from tests.benchmarks.peers.measuring import settle
from tests.conftest import fresh_database


@dataclass(frozen=True, slots=True)
class Drain:
    peer: Peer

    async def measure(self, ground: Ground) -> Figures:
        peer = self.peer
        async with fresh_database(ground.server_dsn, "template1") as database:
            await peer.prepare(database.admin_dsn)
            enqueueing = await peer.enqueue(database.admin_dsn, peer.tasks)
            await settle(database.admin_dsn)
            async with peer.drain(database.admin_dsn, peer.tasks) as go:
                first = await ground.used()
                drained = await go()
                last = await ground.used()
        return {
            "rate": peer.tasks / drained.seconds,
            **per_task(first, last, drained.client_cpu, peer.tasks),
            "memory": drained.rss_bytes,
            "enqueued": peer.tasks / enqueueing,
        }


@dataclass(frozen=True, slots=True)
class Latency:
    peer: Peer
    samples: int

    async def measure(self, ground: Ground) -> Figures:
        async with fresh_database(ground.server_dsn, "template1") as database:
            await self.peer.prepare(database.admin_dsn)
            return of_latencies(await self.peer.latency(database.admin_dsn, self.samples))
