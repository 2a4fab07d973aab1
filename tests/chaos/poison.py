"""One process whose tasker is killed by one of its tasks: `python -m tests.chaos.poison` forks them."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from session_lock import PostgresDatabase, Retry, Runner, Settings
from tests.chaos.forks import be_mother
from tests.support import EMAILS

MOST_ATTEMPTS = 5

SETTINGS = Settings(
    lease_ttl=0.9, keepalive_interval=0.1, call_timeout=0.4, cancel_grace=0.1, guard=0.05, poll_interval=0.05,
    patience=0.1, start_jitter=0, batch_size=5, concurrency=2, retry=Retry(max_attempts=MOST_ATTEMPTS),
)  # fmt: skip


async def tasker(batch: Any) -> Any:
    await asyncio.sleep(0.02)
    if any(task.data["body"] == "poison" for task in batch):
        os.kill(os.getpid(), signal.SIGKILL)
    return batch


async def main(dsn: str) -> None:
    await Runner(PostgresDatabase(dsn, EMAILS), tasker, SETTINGS).run()


if __name__ == "__main__":
    be_mother(main)
