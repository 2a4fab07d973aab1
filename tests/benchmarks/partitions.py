"""What partitions cost a claim: `python -m tests.benchmarks.partitions`."""

from __future__ import annotations

import asyncio
from statistics import median
from time import perf_counter

import asyncpg

from session_lock import PostgresDatabase, TaskTable
from session_lock.database import Claim
from session_lock.embedded import temp_postgres
from tests.support import apply_mapping

PARTITIONS = (0, 8, 32, 128)
BATCHES = (1, 100)
TASKS, CALLS, WARM_UP, REPETITIONS = 100_000, 200, 20, 5

EVENTS = TaskTable(
    "public.event", key="id", pending="done_at IS NULL", finish="done_at = now()", columns=("id", "body")
)
COLUMNS = "id bigint PRIMARY KEY, body text, done_at timestamptz"
ROOM = "WITH (fillfactor = 50)"


async def make_table(dsn: str, partitions: int) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "DROP TABLE IF EXISTS public.event; DROP SCHEMA IF EXISTS session_lock CASCADE;"
        f"CREATE TABLE public.event ({COLUMNS}) {'PARTITION BY HASH (id)' if partitions else ROOM}"
    )
    for number in range(partitions):
        await connection.execute(
            f"CREATE TABLE public.event_{number} PARTITION OF public.event "
            f"FOR VALUES WITH (modulus {partitions}, remainder {number}) {ROOM}"
        )
    await apply_mapping(connection, EVENTS)
    await connection.execute(f"INSERT INTO public.event SELECT g, 'x' FROM generate_series(1, {TASKS}) AS g")
    await connection.execute("VACUUM ANALYZE public.event")
    await connection.close()


async def milliseconds_of_a_call(dsn: str, batch: int) -> float:
    """Claims so many and finishes those of the call before."""
    async with PostgresDatabase(dsn, EVENTS) as database:
        lease = await database.start_session(capacity=1000, ttl=600, label="", app_version="")
        times: list[float] = []
        claims: list[Claim] = []
        position = None
        for _ in range(CALLS):
            begun = perf_counter()
            work = await database.get_work(lease, limit=batch, finished=claims, position=position)
            times.append(1000 * (perf_counter() - begun))
            position, claims = work.position, [task.claim for task in work.tasks]
        return median(times[WARM_UP:])


async def main() -> None:
    found: dict[tuple[int, int], list[float]] = {}
    with temp_postgres(max_locks_per_transaction=256) as server:
        for _ in range(
            REPETITIONS
        ):  # outermost, so that a busy minute of the machine is not one case's alone
            for batch in BATCHES:
                for partitions in PARTITIONS:
                    await make_table(server.dsn, partitions)
                    times = found.setdefault((batch, partitions), [])
                    times.append(await milliseconds_of_a_call(server.dsn, batch))
    for (batch, partitions), times in found.items():
        spread = f"{median(times):.1f} ({min(times):.1f} to {max(times):.1f})"
        print(f"{batch:3} tasks a call, {partitions:3} partitions: {spread} ms")


if __name__ == "__main__":
    asyncio.run(main())
