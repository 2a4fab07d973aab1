"""Taskers that note when they are called, and that do not give up in time."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable
from typing import Any, Generic, TypeAlias, TypeVar

from session_lock import Batch, SessionLost, Task, TaskLost
from session_lock.cli.demo.access import Pool
from session_lock.cli.demo.part import Backstage
from session_lock.cli.demo.stage import SCHEMA

T = TypeVar("T")
Row: TypeAlias = dict[str, Any]

LOG_RUN = f"INSERT INTO {SCHEMA}.run (task, token, session) VALUES ($1, $2, $3)"


async def log_run(pool: Pool, *tasks: Task[Any]) -> None:
    """Before anything else is done, in a transaction of its own."""
    await pool.executemany(LOG_RUN, [(task.key, task.token, task.session_id) for task in tasks])


class StubbornTasker(ABC, Generic[T]):
    """Prepares a batch of tasks, and writes what came of them in the transaction that finishes them: too late as well."""

    def __init__(self, backstage: Backstage) -> None:
        self._pool = backstage.pool
        self._pause = backstage.part.pause
        self._report = backstage.report

    @abstractmethod
    async def prepare(self, batch: Batch[Row]) -> dict[Task[Row], T]:
        """What is to be written for each task."""

    @abstractmethod
    async def write(self, connection: Any, prepared: dict[Task[Row], T]) -> None: ...

    async def __call__(self, batch: Batch[Row]) -> Iterable[Task[Row]]:
        await log_run(self._pool, *batch)
        prepared = await self.prepare(batch)
        try:
            # Prepared, not finished: this is where a freeze most likely finds us.
            await asyncio.sleep(self._pause)
            async with batch.transaction() as connection:
                await self.write(connection, prepared)
        except BaseException:
            if batch.lease_left() <= 0:
                await _deaf_to_cancellation(self._try_too_late(prepared))
            raise
        return batch

    async def _try_too_late(self, prepared: dict[Task[Row], T]) -> None:
        """We were frozen for longer than the lease, and others have the tasks by now. A tasker should give up here.

        This one goes on, to show what protects the rows from a process that cannot know. The library does know already:
        it cancels the call of the tasker (hence a task of our own), and `transaction()` refuses without asking
        anybody. But `finish_in`, on a connection of the tasker's own, always asks the database, and what refuses then is
        the fence.
        """
        for task, value in prepared.items():
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    await task.finish_in(connection)
                    await self.write(connection, {task: value})
            except (SessionLost, TaskLost):
                self._report.refused += 1


async def _deaf_to_cancellation(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            continue
    task.result()
