"""An instance of the service that is soaked: `python -m tests.chaos.soak.instance` forks them."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

from session_lock import PostgresDatabase, Runner, Settings, each
from session_lock.database import Work
from tests.chaos.forks import be_mother
from tests.support import EMAILS

SETTINGS = Settings(
    lease_ttl=3, keepalive_interval=0.5, call_timeout=0.8, cancel_grace=0.3, guard=0.2, poll_interval=0.5, patience=0.2,
    start_jitter=0, batch_size=20, concurrency=4,
)  # fmt: skip


class Timed(PostgresDatabase[Any]):
    """Keeps how long its looks took."""

    looks: list[float]

    async def get_work(self, *args: Any, **options: Any) -> Work[Any]:
        begin = time.perf_counter()  # noqa: TID251 (a measurement)
        try:
            return await super().get_work(*args, **options)
        finally:
            self.looks.append(time.perf_counter() - begin)  # noqa: TID251


async def in_batches(batch: Any) -> Any:
    await asyncio.sleep(0.01)
    return batch


async def in_transactions(task: Any) -> None:
    async with task.transaction() as connection:
        await connection.execute("INSERT INTO public.effect VALUES ($1)", task.key)


def resident() -> int:
    """Bytes of memory that this process has."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


async def main(dsn: str, transactions: bool, told: str | None) -> None:
    """One with `told` lives through it all, and tells there every second of its looks and its memory."""
    async with Timed(dsn, EMAILS) as database:
        database.looks = []
        runner = Runner(database, each(in_transactions) if transactions else in_batches, SETTINGS)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, runner.stop)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(runner.run())
            if told:
                with Path(told).open("w", buffering=1) as file:
                    while not running.done():
                        await asyncio.sleep(1)
                        looks, database.looks = database.looks, []
                        print(json.dumps({"looks": looks, "resident": resident()}), file=file)


if __name__ == "__main__":
    be_mother(main)
