"""One measurement: clients at work on a database of their own, and what they and the server have used in the meantime."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import asyncpg
import psutil

from session_lock.catalog import read_shape
from session_lock.schema import render
from tests.benchmarks.client import WARM_UP
from tests.benchmarks.ground import MAILS, ROOT, Ground, Rows, Used
from tests.benchmarks.peers.processes import Process, running
from tests.support import connected

Figures = dict[str, Any]
"""Of one measurement, each by its name: "rate" is tasks (or calls) a second, "wal" bytes of a task .."""

PATIENCE = 120.0
"""Seconds for a client to begin, and to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is measured: a kind of client with its options, how many processes of it, and what they find."""

    kind: str
    rows: Rows = Rows()
    processes: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 1.0
    offered: int = 0
    """Tasks a second that somebody inserts beside them."""
    snapshot: bool = False
    """Whether somebody holds an old one."""
    settled: float = 0.0
    """Seconds that idle sessions are left alone before they are measured."""

    async def measure(self, ground: Ground) -> Figures:
        # The clients start while the database is copied.
        async with _processes(self) as clients, ground.database(self.rows) as dsn, AsyncExitStack() as stack:
            connection = await stack.enter_async_context(connected(dsn))
            if self.snapshot:
                holder = await stack.enter_async_context(connected(dsn))
                await holder.execute(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM public.email LIMIT 1"
                )
            await _connect(self, dsn, clients)
            return await MEASURES.get(self.kind, _work)(self, ground, clients, connection)


async def _work(
    cell: Cell, ground: Ground, clients: Sequence[Process], connection: asyncpg.Connection
) -> Figures:
    """Tasks that were finished within some seconds."""
    first_key = await connection.fetchval(FIRST_KEY)
    await _go(clients)
    async with asyncio.timeout(PATIENCE):
        while await connection.fetchval(FIRST_KEY) == first_key:  # nothing is finished
            await asyncio.sleep(0.02)
    await asyncio.sleep(WARM_UP)
    measured = clients[: cell.processes]
    first, clients_first = await ground.used(), _cpu(measured)
    await asyncio.sleep(cell.seconds)
    last, clients_last = await ground.used(), _cpu(measured)
    told = [await _ended(client) for client in clients][: cell.processes]
    last_key = await connection.fetchval(FIRST_KEY)
    seconds = await connection.fetch(FINISHED, first.at, last.at, first_key or 0, last_key)
    tasks = sum(each["tasks"] for each in seconds)
    if not tasks:
        raise RuntimeError(f"nothing was finished: {cell}")
    whole = seconds[: int(cell.seconds)] if last_key else seconds[:-1]
    # What was done before nothing was left, if it came to that.
    took = (last.at if last_key else seconds[-1]["last"]) - first.at
    return {
        "rate": tasks / took.total_seconds(),
        **per_task(first, last, clients_last - clients_first, tasks),
        "memory": max(each["peak"] for each in told),
        "asked again": sum(each.get("asked again", 0) for each in told),
        "by second": [[each["tasks"], each["lag"]] for each in whole],
    }


MARGIN = 100_000
"""Keys of tasks may be claimed by so many out of their order."""

FIRST_KEY = "SELECT id FROM public.email WHERE sent_at IS NULL ORDER BY available_at, id LIMIT 1"

FINISHED = f"""
SELECT floor(extract(epoch FROM t.sent_at - $1)) AS second, count(*) AS tasks, max(t.sent_at) AS last,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM t.sent_at - t.available_at))::double precision AS lag
  FROM public.email AS t
 WHERE t.sent_at >= $1 AND t.sent_at < $2 AND t.id >= $3
   AND ($4::bigint IS NULL OR t.id < $4 + {MARGIN})
 GROUP BY 1 ORDER BY 1
"""
"""Of each second, within the keys that may have been finished in them: the table may have many more."""


async def _count(cell: Cell, ground: Ground, clients: Sequence[Process], _: asyncpg.Connection) -> Figures:
    """Calls, or tasks, that the clients have counted themselves."""
    await _go(clients)
    await asyncio.sleep(WARM_UP)
    first, clients_first = await ground.used(), _cpu(clients)
    await asyncio.sleep(cell.seconds)
    last, clients_last = await ground.used(), _cpu(clients)
    told = [await _ended(client) for client in clients]
    rate = sum(each["rate"] for each in told)
    done = rate * (last.at - first.at).total_seconds()
    return {"rate": rate, **per_task(first, last, clients_last - clients_first, done)}


async def _idle(
    cell: Cell, ground: Ground, clients: Sequence[Process], connection: asyncpg.Connection
) -> Figures:
    """What a thousand sessions use that have nothing to do; who is not told of what comes polls."""
    if cell.options["told"]:
        await connection.execute(render("tasks.trigger.sql", MAILS, await read_shape(connection, MAILS)))
    await _go(clients)
    sessions = cell.processes * cell.options["connections"] * cell.options["sessions"]
    async with asyncio.timeout(PATIENCE):
        while await connection.fetchval("SELECT count(*) FROM session_lock.session") < sessions:
            await asyncio.sleep(0.1)
    await asyncio.sleep(cell.settled)
    first, clients_first, calls_first = await ground.used(), _cpu(clients), await connection.fetchval(CALLS)
    await asyncio.sleep(cell.seconds)
    last, clients_last, calls_last = await ground.used(), _cpu(clients), await connection.fetchval(CALLS)
    of_a_thousand = 1000 / sessions / (last.at - first.at).total_seconds()
    return {
        "sessions": sessions,
        "server core": (last.cpu - first.cpu) * of_a_thousand,
        "client core": (clients_last - clients_first) * of_a_thousand,
        "calls": (calls_last - calls_first) * of_a_thousand,
    }


CALLS = (
    "SELECT sum(xact_commit + xact_rollback)::bigint FROM pg_stat_database WHERE datname = current_database()"
)


async def _ask(_cell: Cell, _ground: Ground, clients: Sequence[Process], _: asyncpg.Connection) -> Figures:
    """What the client tells when it has come to its end."""
    (client,) = clients
    await _go(clients)
    async with asyncio.timeout(PATIENCE):
        told = json.loads(await client.answer())
    if "milliseconds" in told:
        return of_latencies(told["milliseconds"])
    return {"seconds": told["seconds"]}


def of_latencies(milliseconds: Sequence[float]) -> Figures:
    hundredths = quantiles(milliseconds, n=100, method="inclusive")
    return {"p50": median(milliseconds), "p99": hundredths[98], "milliseconds": [*milliseconds]}


MEASURES = {
    **dict.fromkeys(("select", "update", "insert", "enqueueing"), _count),
    **dict.fromkeys(("waiting_runner", "waiting_loop", "take_over"), _ask),
    "idle": _idle,
}


def per_task(first: Used, last: Used, clients_cpu: float, tasks: float) -> Figures:
    server_cpu = last.cpu - first.cpu
    return {
        "server cpu": 1e6 * server_cpu / tasks,
        "client cpu": 1e6 * clients_cpu / tasks,
        "cpu": 1e6 * (server_cpu + clients_cpu) / tasks,
        "wal": (last.wal - first.wal) / tasks,
        "dirtied": (last.dirtied - first.dirtied) / tasks,
    }


@asynccontextmanager
async def _processes(cell: Cell) -> AsyncIterator[list[Process]]:
    """Whatever ends the block ends them."""
    command = (sys.executable, "-m", "tests.benchmarks.clients")
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running(*command, cwd=ROOT, env=os.environ))
            for _ in range(cell.processes + (cell.offered > 0))
        ]


async def _connect(cell: Cell, dsn: str, clients: Sequence[Process]) -> None:
    requests = [{"kind": cell.kind, "dsn": dsn, **cell.options}] * cell.processes
    if cell.offered:
        requests.append({"kind": "feeder", "dsn": dsn, "offered": cell.offered})
    async with asyncio.timeout(PATIENCE):
        for client, request in zip(clients, requests, strict=True):
            await client.tell(json.dumps(request))
        for client in clients:
            await client.answer()


async def _go(clients: Sequence[Process]) -> None:
    """All begin at once."""
    for client in clients:
        await client.tell("go")


async def _ended(client: Process) -> Any:
    async with asyncio.timeout(PATIENCE):
        client.no_more()
        return json.loads(await client.answer())


def _cpu(clients: Sequence[Process]) -> float:
    times = [psutil.Process(client.pid).cpu_times() for client in clients]
    return sum(each.user + each.system for each in times)
