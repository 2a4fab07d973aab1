"""A process whose tasker gets stuck in a way of its own: `python -m tests.chaos.stuck WAY SETTINGS`, the DSN in DSN."""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import sys
import time
from typing import Any

import asyncpg

from session_lock import PostgresDatabase, Runner, Settings, each
from tests.support import EMAILS

LEASE: dict[str, Any] = {
    "lease_ttl": 3, "keepalive_interval": 0.3, "call_timeout": 0.4, "cancel_grace": 0.2, "guard": 1.0,
    "poll_interval": 0.1, "patience": 0.1, "start_jitter": 0, "concurrency": 1, "prefetch": 0,
}  # fmt: skip

connections: list[asyncpg.Connection] = []
away = False


async def connect() -> asyncpg.Connection:
    if away:
        raise ConnectionRefusedError("the database is away")
    connections.append(await asyncpg.connect(os.environ["DSN"]))
    return connections[-1]


def go_away() -> None:
    """The database, for this process."""
    global away
    away = True
    for connection in connections:
        connection.terminate()


def wait_in_the_loop(seconds: float) -> None:
    time.sleep(seconds)


async def stubborn(_: Any) -> None:
    go_away()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass


def stubborn_in_a_thread(_: Any) -> None:
    go_away()
    time.sleep(60)


async def blocking(_: Any) -> None:
    wait_in_the_loop(60)


async def blocking_for_a_while(_: Any) -> None:
    wait_in_the_loop(4.5)  # a lease and a half


async def computing(_: Any) -> None:
    while True:
        pass


async def holding_the_lock(_: Any) -> None:
    ctypes.PyDLL(None).sleep(60)  # of the interpreter: no other thread gets a turn


async def waiting(_: Any) -> None:
    await asyncio.sleep(60)


async def quick(_: Any) -> None:
    pass


async def main(way: Any, settings: Settings) -> None:
    def told(task: Any) -> Any:
        print("begun", task.key, flush=True)
        return way(task)

    told.__wrapped__ = way  # type: ignore[attr-defined]
    await Runner(PostgresDatabase(connect, EMAILS, listen=False), each(told), settings).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(globals()[sys.argv[1]], Settings(**LEASE, **json.loads(sys.argv[2]))))
