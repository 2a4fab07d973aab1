"""Oban for Python."""

from __future__ import annotations

import asyncio

from oban import Oban, worker
from oban.schema import install
from protocol import Adapter, ran, serve


@worker()
class NoOp:
    async def process(self, _job: object) -> None:
        ran()


class ForOban(Adapter):
    async def open(self) -> None:
        self.pool = await Oban.create_pool(self.dsn, max_size=self.settings["pool"])
        self.oban = Oban(pool=self.pool, queues={"default": self.settings["limit"]})

    async def prepare(self) -> None:
        await install(self.pool)

    async def enqueue(self, tasks: int) -> None:
        for first in range(0, tasks, self.settings["enqueue_batch"]):
            count = min(self.settings["enqueue_batch"], tasks - first)
            await self.oban.enqueue_many(NoOp.new() for _ in range(count))

    async def enqueue_one(self) -> None:
        await self.oban.enqueue(NoOp.new())

    async def work(self) -> None:
        async with self.oban:
            await asyncio.Event().wait()

    async def unfinished(self) -> bool:
        query = (
            "SELECT EXISTS (SELECT FROM oban_jobs "
            "WHERE state IN ('available', 'scheduled', 'executing', 'retryable'))"
        )
        async with self.pool.connection() as connection:
            return bool((await (await connection.execute(query)).fetchone())[0])


if __name__ == "__main__":
    serve(ForOban)
