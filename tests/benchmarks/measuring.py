"""One measurement: clients at work for some seconds, on a database of their own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from subprocess import PIPE
from typing import Any

import asyncpg
import psutil

from tests.benchmarks.ground import Ground

WARM_UP = 0.3
"""Seconds that are not counted."""

PATIENCE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is measured: a kind of client, how many processes of it, and what they find."""

    kind: str
    processes: int = 1
    pending: int = 400_000
    finished: int = 0
    options: Mapping[str, Any] | None = None


async def measure(ground: Ground, cell: Cell, seconds: float) -> dict[str, float]:
    """Its figures, each by its name: "rate" is finished tasks (or calls) a second."""
    name = await ground.fresh(cell.pending, cell.finished)
    try:
        async with clients(ground.dsn(name), cell) as running:
            await asyncio.sleep(WARM_UP)
            first, clients_first = await ground.used(), cpu_of(running)
            await asyncio.sleep(seconds)
            last, clients_last = await ground.used(), cpu_of(running)
            told = [await ended(process) for process in running]
        took = (last.at - first.at).total_seconds()
        calls = sum((one["seconds"] for one in told), [])
        if cell.kind in {"select", "update"}:
            tasks = len(calls) * took / (took + WARM_UP)
        else:
            tasks = await finished_between(ground.dsn(name), first.at, last.at)
    finally:
        await ground.drop(name)
    if not tasks:
        return {"rate": 0.0}
    return {
        "rate": tasks / took,
        "server cpu": 1e6 * (last.cpu - first.cpu) / tasks,
        "client cpu": 1e6 * (clients_last - clients_first) / tasks,
        "wal": (last.wal - first.wal) / tasks,
        "memory": max(one["peak"] for one in told),
    }


@asynccontextmanager
async def clients(dsn: str, cell: Cell) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """All at work at once; at the end they are gone."""
    what = json.dumps({"kind": cell.kind, "dsn": dsn, **(cell.options or {})})
    running = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.benchmarks.clients", what, stdin=PIPE, stdout=PIPE, limit=1 << 26
        )
        for _ in range(cell.processes)
    ]
    try:
        async with asyncio.timeout(PATIENCE):
            for process in running:
                if await process.stdout.readline() != b"ready\n":  # type: ignore[union-attr]
                    raise RuntimeError(f"a client did not begin: {what}")
            for process in running:
                process.stdin.write(b"go\n")  # type: ignore[union-attr]
        yield running
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def ended(process: asyncio.subprocess.Process) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        told, _ = await process.communicate(b"")
    if process.returncode:
        raise RuntimeError("a client failed")
    return json.loads(told)  # type: ignore[no-any-return]


def cpu_of(running: list[asyncio.subprocess.Process]) -> float:
    times = [psutil.Process(process.pid).cpu_times() for process in running]
    return sum(each.user + each.system for each in times)


async def finished_between(dsn: str, begin: Any, end: Any) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(
            "SELECT count(*) FROM public.email WHERE sent_at >= $1 AND sent_at < $2", begin, end
        )
    finally:
        await connection.close()
