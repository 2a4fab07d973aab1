"""What all clients share that are measured: the word to begin, the one to stop, and the count of what is done in between."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

WARM_UP = 0.3
"""Seconds that are not counted."""


class Client:
    """What it is told to do, and what it tells in the end. `options` are those of its kind."""

    def __init__(self, dsn: str, *, connections: int = 1, batch: int = 1, **options: Any) -> None:
        self.dsn, self.connections, self.batch, self.options = dsn, connections, batch, options
        self.done = 0
        self.stopped = asyncio.Event()
        self.told: dict[str, Any] = {}

    async def begin(self) -> None:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        self._watching = asyncio.create_task(self._stop())
        asyncio.get_running_loop().call_later(WARM_UP, self._count_from_here)

    def asks_again(self) -> None:
        """A call was refused, by a lock timeout or a deadlock."""
        self.told["asked again"] = self.told.get("asked again", 0) + 1

    def _count_from_here(self) -> None:
        self._from = clock(), self.done

    async def _stop(self) -> None:
        await asyncio.to_thread(sys.stdin.read)
        begun, done = self._from
        self.told["rate"] = (self.done - done) / (clock() - begun)
        self.stopped.set()


def clock() -> float:
    return time.perf_counter()
