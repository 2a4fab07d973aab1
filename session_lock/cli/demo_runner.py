"""One runner process of the demo: `python -m session_lock.cli.demo_runner`, started by `demo_cast`.

What it needs comes in the environment variable SESSION_LOCK_DEMO_RUNNER, as JSON. Each line that it prints is a JSON object
about it. It stops gracefully when its stdin is closed, which is also what happens when its parent dies.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Coroutine, Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import asyncpg

from session_lock import Batch, PostgresDatabase, Runner, SessionLost, Settings, Task, TaskLost
from session_lock.cli.demo_table import FILES, SCHEMA, digest
from session_lock.database import Work

Pool: TypeAlias = "asyncpg.Pool[Any]"
File: TypeAlias = dict[str, Any]

VARIABLE = "SESSION_LOCK_DEMO_RUNNER"
REPORT_EVERY = 0.2
STOP_WITHIN = 5.0
CONCURRENCY = 2

LEASE_TTL = 5.0
"""Short, so that take-overs can be watched. The rest follows from it."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a runner process is told."""

    name: str
    dsn: str
    pause: float
    """Seconds that a call of the tasker takes longer than it needs to."""

    batch_size: int

    def settings(self) -> Settings:
        return Settings(
            lease_ttl=LEASE_TTL, keepalive_interval=0.8, call_timeout=1, cancel_grace=0.5, guard=0.5,
            poll_interval=0.25, start_jitter=0, drain_timeout=2, shutdown_timeout=1,
            batch_size=self.batch_size, concurrency=CONCURRENCY,
        )  # fmt: skip


@dataclass(slots=True)
class Report:
    """What a runner process tells about itself; what the table shows is not asked of it."""

    share: int | None = None
    """None: no bound, as there is plenty."""

    refused: int = 0
    """Finishes that came too late, and that the database refused."""


class Hasher:
    """The tasker: computes the digests of a batch of files, and stores them in the transaction that finishes them."""

    def __init__(self, pool: Pool, part: Part, report: Report) -> None:
        self._pool = pool
        self._pause = part.pause
        self._report = report
        self.late: set[asyncio.Task[None]] = set()

    async def __call__(self, batch: Batch[File]) -> Iterable[Task[File]]:
        await self._log_run(batch)
        digests = {task: await asyncio.to_thread(digest, task.data["path"]) for task in batch}
        try:
            # Computed, not finished: this is where a freeze most likely finds us.
            await asyncio.sleep(self._pause)
            async with batch.transaction() as connection:
                for task, value in digests.items():
                    await self._store(connection, task, value)
        except BaseException:
            if batch.lease_left() <= 0:
                await _deaf_to_cancellation(self._try_too_late(digests))
            raise
        return batch

    async def _log_run(self, batch: Batch[File]) -> None:
        claims = [(task.key, task.token, task.session_id) for task in batch]
        await self._pool.execute(
            f"INSERT INTO {SCHEMA}.run (file, token, session) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])",
            *map(list, zip(*claims, strict=True)),
        )

    async def _store(self, connection: Any, task: Task[File], value: str | None) -> None:
        await connection.execute(f"UPDATE {SCHEMA}.file SET digest = $2 WHERE id = $1", task.key, value)

    async def _try_too_late(self, digests: dict[Task[File], str | None]) -> None:
        """We were frozen for longer than the lease, and others have the tasks by now. A tasker should give up here.

        This one goes on, to show what protects the rows from a process that cannot know. The library does know already:
        it cancels the call of the tasker (hence a task of our own), and `transaction()` refuses without asking
        anybody. But `finish_in`, on a connection of the tasker's own, always asks the database, and what refuses then is
        the fence.
        """
        for task, value in digests.items():
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    await task.finish_in(connection)
                    await self._store(connection, task, value)
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


class ObservedDatabase(PostgresDatabase[File]):
    """Notes the share that the database gives with the work."""

    report: Report

    async def get_work(self, *args: Any, **options: Any) -> Work[File]:
        work = await super().get_work(*args, **options)
        self.report.share = work.share
        return work


# The process ---------------------------------------------------------------------------------------


async def main(part: Part) -> None:
    report = Report()
    async with asyncpg.create_pool(part.dsn, min_size=1, max_size=2 * CONCURRENCY) as pool:
        database = ObservedDatabase(part.dsn, FILES, pool=pool)
        database.report = report
        hasher = Hasher(pool, part, report)
        runner = Runner(database, hasher, part.settings(), name=part.name)
        beside = [asyncio.create_task(_report(report)), asyncio.create_task(_stop_when_told(runner))]
        try:
            await runner.run()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*hasher.late)
            await database.close()
            _say(report)


async def _report(report: Report) -> None:
    while True:
        _say(report)
        await asyncio.sleep(REPORT_EVERY)


def _say(report: Report) -> None:
    try:
        print(json.dumps(asdict(report)), flush=True)  # noqa: T201 (to the parent)
    except BrokenPipeError:
        os._exit(1)  # the parent is gone, and with it whatever there was to do


async def _stop_when_told(runner: Runner[File]) -> None:
    """Stop at the end of stdin: the parent has closed it, or is no more."""
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    await stdin.read()
    runner.stop()
    loop.call_later(STOP_WITHIN, os._exit, 1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    asyncio.run(main(Part(**json.loads(os.environ.pop(VARIABLE)))))
