"""A process that can open no more files from its first task on: `python -m tests.chaos.exhausted` forks them."""

from __future__ import annotations

import asyncio
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

from session_lock import PostgresDatabase, Runner, Settings, each
from tests.chaos.forks import be_mother
from tests.support import EMAILS

SETTINGS = Settings(
    lease_ttl=2, keepalive_interval=0.2, call_timeout=0.8, cancel_grace=0.3, guard=0.1, poll_interval=0.1,
    start_jitter=0, concurrency=1, prefetch=0,
)  # fmt: skip


async def exhaust() -> None:
    """What is open stays open, and what is closed is taken at once."""
    most = len(list(Path("/proc/self/fd").iterdir())) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    while True:
        with suppress(OSError):
            while True:
                os.dup(2)
        await asyncio.sleep(0.001)


async def main(dsn: str, is_sick: bool) -> None:
    hungry: list[asyncio.Task[None]] = []

    async def send(task: Any) -> None:
        if is_sick and not hungry:
            await asyncio.sleep(
                3 * SETTINGS.keepalive_interval
            )  # the connection of the keepalives is open by then
            hungry.append(asyncio.create_task(exhaust()))

    await Runner(PostgresDatabase(dsn, EMAILS, listen=False), each(send), SETTINGS).run()


if __name__ == "__main__":
    be_mother(main)
