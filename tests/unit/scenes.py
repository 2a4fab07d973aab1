"""The words that the tests of the Runner are written in."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from session_lock import Batch, Runner, Settings, Task
from session_lock.testing import MemoryDatabase
from tests.unit.faults import Faulty

CANARY = "CANARY-in-the-row"
"""In every row's data: it may appear in no log, span or exception."""


def rows(count: int) -> dict[int, str]:
    return {key: f"{CANARY}-{key}" for key in range(1, count + 1)}


def table(count: int = 0, **options: Any) -> Faulty:
    return Faulty(MemoryDatabase(rows(count), **options))


def settings(**changes: Any) -> Settings:
    """Without jitter at the start, and with tasks claimed ahead however long the calls take."""
    return Settings(**{"start_jitter": 0, "prefetch_time": math.inf, **changes})


async def do_all(batch: Batch[str]) -> list[Task[str]]:
    """The tasker that accomplishes all it is given."""
    return list(batch)


class Sleeper:
    """A tasker (for batches) that takes its time, and notes what becomes of it."""

    def __init__(self, seconds: float = 1.0, *, stubborn: bool = False) -> None:
        self.seconds = seconds
        self.stubborn = stubborn
        self.begun: list[tuple[float, list[Any]]] = []
        self.ended: list[tuple[float, str]] = []
        self.thaw = asyncio.Event()

    async def __call__(self, batch: Batch[str]) -> list[Task[str]]:
        clock = asyncio.get_running_loop().time
        self.begun.append((clock(), [task.key for task in batch]))
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            if not self.stubborn:
                self.ended.append((clock(), "cancelled"))
                raise
            await self.thaw.wait()
        self.ended.append((clock(), "done"))
        return list(batch)


@asynccontextmanager
async def running(runner: Any) -> AsyncIterator[asyncio.Task[None]]:
    """`run()` in a task of its own; the block's end stops it and waits for it, unless it has ended."""
    task = asyncio.create_task(runner.run())
    try:
        yield task
    finally:
        if not task.done():
            runner.stop()
            await task


async def run_for(
    seconds: float, database: Any, tasker: Any, config: Settings | None = None, **options: Any
) -> None:
    async with running(Runner(database, tasker, config or settings(), **options)) as task:
        await asyncio.wait({task}, timeout=seconds)
    task.result()


def assert_free(database: Any) -> None:
    """No row is held and no session is live."""
    assert [row.key for row in database._tasks.values() if row.session_id is not None] == []
    assert all(session.ended for session in database.sessions)
