"""Where one server ends, and what PgBouncer and shards give: `python -m tests.benchmarks.scale [rounds]`.

No-op tasks are drained by processes of one Runner for each database, which are there and idle when the tasks come; the time goes from
the insert's commit to the last finish, by the server's clock. Commits are durable. Server and processes share the machine, so with few
cores it is the cores that end first: read the ratios within a round, and the spread beside them.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from statistics import median
from typing import Any

import asyncpg

from session_lock import Batch, PostgresDatabase, Runner, RunnerGroup, Settings, Task, each
from session_lock.embedded import temp_postgres
from tests.chaos.pgbouncer import pgbouncer
from tests.support import EMAIL_TABLE, EMAILS, apply_mapping, connected

TASKS = 60_000

DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}

PROCESS = """
import asyncio, json, sys
from tests.benchmarks.scale import work
asyncio.run(work(**json.loads(sys.argv[1])))
"""


async def work(dsns: list[str], batch_size: int) -> None:
    """One process: a Runner for each of the databases, until its stdin ends."""

    async def batches(batch: Batch[Any]) -> list[Task[Any]]:
        return list(batch)

    async def one(_task: Task[Any]) -> None:
        pass

    settings = Settings(start_jitter=0, poll_interval=0.1, batch_size=max(batch_size, 2), concurrency=10)

    async def connect(dsn: str) -> Any:
        return await asyncpg.connect(dsn, statement_cache_size=0 if "bouncer" in dsn else 100)

    databases = [PostgresDatabase(lambda dsn=dsn: connect(dsn), EMAILS, listen=False) for dsn in dsns]  # type: ignore[misc]
    tasker: Any = batches if batch_size > 1 else each(one)
    group = RunnerGroup(
        *(Runner(database, tasker, settings) for database in databases), concurrency=10 * len(dsns)
    )
    async with group:
        await asyncio.to_thread(sys.stdin.read)
    for database in databases:
        await database.close()


async def prepare(dsn: str) -> None:
    async with connected(dsn) as connection:
        await connection.execute(
            "DROP TABLE IF EXISTS public.email; DROP SCHEMA IF EXISTS session_lock CASCADE"
        )
        await connection.execute(EMAIL_TABLE)
        await connection.execute("ALTER TABLE public.email SET (fillfactor = 50)")
        await apply_mapping(connection, EMAILS)


async def seconds(dsn: str, tasks: int, processes: int) -> float:
    """From the insert to the last finish on one server."""
    async with connected(dsn) as connection:
        while await connection.fetchval("SELECT count(*) FROM session_lock.session") < processes:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        await connection.execute(
            "INSERT INTO public.email (address) SELECT 'a' FROM generate_series(1, $1::int)", tasks
        )
        begun = await connection.fetchval("SELECT clock_timestamp()")
        while await connection.fetchval("SELECT EXISTS (SELECT FROM public.email WHERE sent_at IS NULL)"):
            await asyncio.sleep(0.02)
        return (await connection.fetchval("SELECT max(sent_at) FROM public.email") - begun).total_seconds()


async def drain(dsns: list[str], processes: int, batch_size: int, through: list[str] | None = None) -> float:
    """Tasks a second."""
    for dsn in dsns:
        await prepare(dsn)
    arguments = json.dumps({"dsns": through or dsns, "batch_size": batch_size})
    running = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROCESS, arguments, stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(processes)
    ]
    tasks = TASKS if batch_size > 1 else TASKS // 6
    try:
        async with asyncio.timeout(120):
            longest = max(
                await asyncio.gather(*(seconds(dsn, tasks // len(dsns), processes) for dsn in dsns))
            )
            for process in running:
                _, errors = await process.communicate(b"")
                if process.returncode:
                    raise RuntimeError(errors.decode())
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
    return tasks / longest


async def main(rounds: int) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(temp_postgres(**DURABLE)) for _ in range(3)]
        dsns = [server.dsn for server in servers]
        bouncer = stack.enter_context(pgbouncer(dsns[0], size=4)) + "?application_name=bouncer"
        cases: dict[str, Any] = {}
        for batch_size, kind in ((100, "batches of 100"), (1, "one by one")):
            for processes in (1, 2, 4, 8):
                cases[f"{kind}, {processes} processes"] = (dsns[:1], processes, batch_size)
            cases[f"{kind}, 4 processes, PgBouncer with 4 backends"] = (dsns[:1], 4, batch_size, [bouncer])
            for shards in (2, 3):
                cases[f"{kind}, 4 processes, {shards} shards"] = (dsns[:shards], 4, batch_size)
        found: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(rounds):
            for case, arguments in cases.items():
                found[case].append(await drain(*arguments))
    base = found["batches of 100, 1 processes"]
    print(
        f"{rounds} rounds, {os.cpu_count()} cores: tasks a second, median (least to most), and of the first"
    )
    for case, rates in found.items():
        ratios = [rate / one for rate, one in zip(rates, base, strict=True)]
        print(
            f"{case:56} {median(rates):7.0f} ({min(rates):.0f} to {max(rates):.0f})"
            f"  {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
