"""What the adapters of all peers share: they are asked in one line of JSON on stdin, and answer in lines of JSON on stdout.

    {"verb": "prepare", "dsn": .., "settings": ..}                  ->  {}
    {"verb": "enqueue", .., "tasks": 10000}                         ->  {"seconds": ..}
    {"verb": "drain", .., "tasks": 10000}                           ->  {}, and after a line "go":
                                                                        {"seconds": .., "cpu": .., "rss": ..}
    {"verb": "latency", .., "samples": 1000}                        ->  {"milliseconds": [..]}

An adapter runs in the environment of its peer, which has nothing of ours: there is only the standard library here. It serves one
request, and ends at once when its stdin does, so that none outlives the one who asks, however that one ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from pathlib import Path
from time import perf_counter
from typing import Any

LOOK = 0.005
"""Seconds between looks whether all is durably finished, after the last task has run."""

IDLE = 1.0
"""Seconds after which a peer that was started listens, and has found nothing to do."""

WARM_UP = 20


class Adapter(ABC):
    """One peer, in one process that enqueues and works."""

    def __init__(self, dsn: str, settings: dict[str, Any]) -> None:
        self.dsn = dsn
        self.settings = settings

    @abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def prepare(self) -> None:
        """Make what the peer needs in an empty database."""

    @abstractmethod
    async def enqueue(self, tasks: int) -> None:
        """By the fastest documented way; all are committed when it returns."""

    @abstractmethod
    async def enqueue_one(self) -> None: ...

    @abstractmethod
    async def work(self) -> None:
        """Run tasks, of which each calls `ran()`, until it is cancelled."""

    @abstractmethod
    async def unfinished(self) -> bool:
        """Whether there are tasks that are not durably finished."""


class Ran:
    """The body of all tasks."""

    def __init__(self) -> None:
        self.at = 0.0
        self._count = 0
        self._enough = sys.maxsize
        self._reached = asyncio.Event()

    def __call__(self) -> None:
        self.at = perf_counter()
        self._count += 1
        if self._count >= self._enough:
            self._reached.set()

    def expect(self, more: int) -> None:
        self._enough = self._count + more
        self._reached.clear()

    async def reached(self, work: asyncio.Task[None]) -> None:
        """All that are expected have run. Raises what `work` ended with, if it did before."""
        waiting = asyncio.ensure_future(self._reached.wait())
        await asyncio.wait({waiting, work}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            await work
            raise RuntimeError("it stopped working before all tasks had run")


ran = Ran()


# The request ---------------------------------------------------------------------------------------


def serve(kind: type[Adapter]) -> None:
    """Serve the one request that is on stdin."""
    request = json.loads(sys.stdin.readline())
    adapter = kind(request["dsn"], request["settings"])
    if request["settings"].get("uvloop"):
        import uvloop

        uvloop.run(_serve(adapter, request))
    else:
        asyncio.run(_serve(adapter, request))


async def _serve(adapter: Adapter, request: dict[str, Any]) -> None:
    go = asyncio.Event()
    threading.Thread(target=_read, args=(asyncio.get_running_loop(), go), daemon=True).start()
    try:
        await adapter.open()
        match request["verb"]:
            case "prepare":
                await adapter.prepare()
                _say({})
            case "enqueue":
                begun = perf_counter()
                await adapter.enqueue(request["tasks"])
                _say({"seconds": perf_counter() - begun})
            case "drain":
                await _drain(adapter, request["tasks"], go)
            case "latency":
                _say({"milliseconds": await latency(adapter, request["samples"])})
    except BaseException as error:
        traceback.print_exc()
        print(f"error: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        os._exit(1)
    # Without a goodbye to the peer, which may take its time: all that is wanted is committed, and said.
    os._exit(0)


def _read(loop: asyncio.AbstractEventLoop, go: asyncio.Event) -> None:
    while line := sys.stdin.readline():
        if line.strip() == "go":
            loop.call_soon_threadsafe(go.set)
    os._exit(1)


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


async def _drain(adapter: Adapter, tasks: int, go: asyncio.Event) -> None:
    ran.expect(tasks)
    _say({})
    await go.wait()
    begun, cpu = perf_counter(), _cpu()
    work = asyncio.create_task(adapter.work())
    await ran.reached(work)
    while await adapter.unfinished():
        await asyncio.sleep(LOOK)
    taken = {"seconds": perf_counter() - begun, "cpu": _cpu() - cpu}
    _say(taken | {"rss": peak_memory()})


def peak_memory() -> int:
    """The most bytes that this process has had."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not by getrusage, which tells the most of this process and of the one that has started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


async def latency(adapter: Adapter, samples: int) -> list[float]:
    """Milliseconds from before a task is enqueued to the start of its body, on an idle system."""
    work = asyncio.create_task(adapter.work())
    await asyncio.sleep(IDLE)
    taken = []
    for _ in range(WARM_UP + samples):
        await asyncio.sleep(random.uniform(0.02, 0.08))
        ran.expect(1)
        before = perf_counter()
        await adapter.enqueue_one()
        await ran.reached(work)
        taken.append((ran.at - before) * 1000)
    work.cancel()
    return taken[WARM_UP:]
