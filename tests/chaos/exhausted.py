"""A process that can open no more files from its first task on, or has no memory for a while: `python -m tests.chaos.exhausted` forks them."""

from __future__ import annotations

import asyncio
import os
import resource
import time
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


async def open_all() -> None:
    """What is open stays open, and what is closed is taken at once."""
    most = len(list(Path("/proc/self/fd").iterdir())) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    while True:
        with suppress(OSError):
            while True:
                os.dup(2)
        await asyncio.sleep(0.001)


async def take_all() -> None:
    """All memory that may be had, down to small pieces, for a while that is longer than a lease."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (32 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    taken = []
    for size in (1 << 20, 1 << 14, 1 << 10, 1 << 8):
        with suppress(MemoryError):
            while True:
                taken.append(bytearray(size))
    until = time.monotonic() + 1.5 * SETTINGS.lease_ttl  # noqa: TID251
    while time.monotonic() < until:  # noqa: TID251
        with suppress(MemoryError):
            await asyncio.sleep(0.01)
    taken.clear()
    raise MemoryError


async def main(dsn: str, sick: str) -> None:
    hungry: list[asyncio.Task[None]] = []
    began = False

    async def send(task: Any) -> None:
        nonlocal began
        if not sick or began:
            return
        began = True
        await asyncio.sleep(
            3 * SETTINGS.keepalive_interval
        )  # the connection of the keepalives is open by then
        if sick == "files":
            hungry.append(asyncio.create_task(open_all()))
        else:
            await take_all()

    await Runner(PostgresDatabase(dsn, EMAILS, listen=False), each(send), SETTINGS).run()


if __name__ == "__main__":
    be_mother(main)
