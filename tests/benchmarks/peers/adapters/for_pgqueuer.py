"""PgQueuer: managers on connections of their own, as its documentation asks for; its tables are durable, as by default."""

from __future__ import annotations

import asyncio

import asyncpg
from pgqueuer import AsyncpgDriver, Queries, QueueManager
from protocol import Adapter, ran, serve


class ForPgQueuer(Adapter):
    async def open(self) -> None:
        self.connection = await asyncpg.connect(self.dsn)
        self.queries = Queries(AsyncpgDriver(self.connection))
        self.managers = [await self._manager() for _ in range(self.settings["managers"])]

    async def _manager(self) -> QueueManager:
        manager = QueueManager(Queries(AsyncpgDriver(await asyncpg.connect(self.dsn))))

        @manager.entrypoint("task")
        async def task(_job: object) -> None:
            ran()

        return manager

    async def prepare(self) -> None:
        await self.queries.install()
        await self.queries.optimize_autovacuum()

    async def enqueue(self, tasks: int) -> None:
        for first in range(0, tasks, self.settings["enqueue_batch"]):
            count = min(self.settings["enqueue_batch"], tasks - first)
            await self.queries.enqueue(["task"] * count, [None] * count, [0] * count)

    async def enqueue_one(self) -> None:
        await self.queries.enqueue("task", None)

    async def work(self) -> None:
        batch_size = self.settings["batch_size"]
        await asyncio.gather(*(manager.run(batch_size=batch_size) for manager in self.managers))

    async def unfinished(self) -> bool:
        return bool(await self.connection.fetchval("SELECT EXISTS (SELECT FROM pgqueuer)"))


if __name__ == "__main__":
    serve(ForPgQueuer)
