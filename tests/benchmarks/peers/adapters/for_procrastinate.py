"""Procrastinate, on its psycopg connector."""

from __future__ import annotations

from procrastinate import App, PsycopgConnector
from protocol import Adapter, ran, serve


class ForProcrastinate(Adapter):
    async def open(self) -> None:
        pool = self.settings["pool"]
        self.app = App(connector=PsycopgConnector(conninfo=self.dsn, min_size=pool, max_size=pool))

        @self.app.task(name="task")
        async def task() -> None:
            ran()

        self.task = task
        await self.app.open_async()

    async def prepare(self) -> None:
        await self.app.schema_manager.apply_schema_async()

    async def enqueue(self, tasks: int) -> None:
        for first in range(0, tasks, self.settings["enqueue_batch"]):
            count = min(self.settings["enqueue_batch"], tasks - first)
            await self.task.batch_defer_async(*[{}] * count)

    async def enqueue_one(self) -> None:
        await self.task.defer_async()

    async def work(self) -> None:
        await self.app.run_worker_async(
            concurrency=self.settings["concurrency"],
            delete_jobs=self.settings["delete_jobs"],
            install_signal_handlers=False,
        )

    async def unfinished(self) -> bool:
        query = "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing')) AS any"
        return bool((await self.app.connector.execute_query_one_async(query))["any"])


if __name__ == "__main__":
    serve(ForProcrastinate)
