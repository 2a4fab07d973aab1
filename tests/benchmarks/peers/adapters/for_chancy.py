"""Chancy: its executor for coroutines, and a queue that asks for more as soon as a task is done."""

from __future__ import annotations

import logging

from chancy import Chancy, Job, Queue, Worker
from chancy.plugins.leadership import Leadership
from chancy.plugins.pruner import Pruner
from chancy.plugins.recovery import Recovery
from protocol import Adapter, ran, serve


async def task() -> None:
    ran()


class ForChancy(Adapter):
    async def open(self) -> None:
        if self.settings["plugins"] == "all":
            plugins = {}
        else:  # what makes it safe, and no metrics
            plugins = {"plugins": [Leadership(), Pruner(), Recovery()], "no_default_plugins": True}
        # Its own logger tells of every task.
        self.chancy = Chancy(self.dsn, log=logging.getLogger("quiet"), **plugins)
        await self.chancy.pool.open()

    async def prepare(self) -> None:
        await self.chancy.migrate()
        await self.chancy.declare(
            Queue(
                "default",  # any other would run beside the default one, and its pool of processes
                executor=Chancy.Executor.Async,
                concurrency=self.settings["concurrency"],
                polling_interval=1,
                eager_polling=True,
            )
        )

    async def enqueue(self, tasks: int) -> None:
        jobs = [self._job()] * tasks
        async for _ in self.chancy.push_many(jobs, batch_size=self.settings["enqueue_batch"]):
            pass

    async def enqueue_one(self) -> None:
        await self.chancy.push(self._job())

    def _job(self) -> Job:
        return Job.from_func(task)

    async def work(self) -> None:
        worker = Worker(self.chancy, register_signal_handlers=False)
        worker.send_outgoing_interval = self.settings["send_outgoing_interval"]
        async with worker:
            await worker.wait_for_shutdown()

    async def unfinished(self) -> bool:
        query = (
            "SELECT EXISTS (SELECT FROM chancy_jobs "
            "WHERE queue = 'default' AND state IN ('pending', 'running', 'retrying'))"
        )
        async with self.chancy.pool.connection() as connection:
            return bool((await (await connection.execute(query)).fetchone())[0])


if __name__ == "__main__":
    serve(ForChancy)
