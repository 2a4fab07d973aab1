"""What goes on in a live table while it is adopted: a process of its own that inserts, reads and changes rows, and one that watches who waits for whom.

Both write down what they have seen when their stdin closes, as JSON. All times are those of CLOCK_MONOTONIC, which processes share.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from time import perf_counter

import asyncpg

INSERT = "INSERT INTO public.email (address, body) VALUES ($1, repeat('x', 100))"
READ = "SELECT address, body FROM public.email WHERE id = $1"
CHANGE = "UPDATE public.email SET body = $2 WHERE id = $1"

PACE = {"insert": (8, 1000), "read": (2, 300), "change": (2, 100)}
"""Of each kind: over how many connections, and how many a second in all."""

LONG, EVERY = 2.0, 5.0
"""Beside them, seconds: how long a transaction that has written stays open, and how often one begins."""

WATCH_EVERY = 0.01

WAITS = """
SELECT l.pid, pg_blocking_pids(l.pid) AS by, 1000 * extract(epoch FROM clock_timestamp() - min(l.waitstart)) AS ms,
       string_agg(l.locktype || ' ' || l.mode, ', ') AS lock
  FROM pg_locks AS l WHERE NOT l.granted GROUP BY l.pid
"""
OURS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'adoption'"
BUILDS = "SELECT count(*) FROM pg_stat_progress_create_index"


class Load:
    def __init__(self, dsn: str, rows: int) -> None:
        self._dsn = dsn
        self._rows = rows
        self.samples: dict[str, list[tuple[float, float]]] = {kind: [] for kind in PACE}
        self.long: list[tuple[float, float]] = []

    async def run(self, until: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            for kind, (connections, rate) in PACE.items():
                for number in range(connections):
                    group.create_task(self._paced(kind, connections / rate, number / rate, until))
            group.create_task(self._long(until))

    async def _paced(self, kind: str, interval: float, shift: float, until: asyncio.Event) -> None:
        """One statement after the other, each at its turn or, when it is late, at once: the pace is kept, however long one has taken."""
        connection = await asyncpg.connect(self._dsn)
        samples, due = self.samples[kind], perf_counter() + shift
        try:
            while not until.is_set():
                due += interval
                await asyncio.sleep(due - perf_counter())
                begun = perf_counter()
                match kind:
                    case "insert":
                        await connection.execute(INSERT, f"{random.random()}@example.org")
                    case "read":
                        await connection.fetchrow(READ, random.randint(1, self._rows))
                    case _:
                        await connection.execute(CHANGE, random.randint(1, self._rows), str(random.random()))
                samples.append((begun, perf_counter() - begun))
        finally:
            connection.terminate()

    async def _long(self, until: asyncio.Event) -> None:
        connection = await asyncpg.connect(self._dsn)
        try:
            while not until.is_set():
                begun = perf_counter()
                async with connection.transaction():
                    await connection.execute(INSERT, "long@example.org")
                    await asyncio.sleep(LONG)
                self.long.append((begun, perf_counter() - begun))
                await asyncio.sleep(EVERY - LONG)
        finally:
            connection.terminate()


class Watch:
    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.waits: list[tuple[float, float, bool, str]] = []
        """When seen, for how many ms it had lasted, whether for one of ours, directly or not, and for what."""
        self.looks: list[tuple[float, bool]] = []
        """When, and whether an index was being built."""

    async def run(self, until: asyncio.Event) -> None:
        connection = await asyncpg.connect(self._dsn)
        try:
            while not until.is_set():
                at = perf_counter()
                ours = {row["pid"] for row in await connection.fetch(OURS)}
                rows = await connection.fetch(WAITS)
                self.looks.append((at, bool(await connection.fetchval(BUILDS))))
                behind = set(ours)
                while more := {row["pid"] for row in rows if behind & {*row["by"]}} - behind:
                    behind |= more
                self.waits += [
                    (at, float(row["ms"]), row["pid"] in behind, row["lock"])
                    for row in rows
                    if row["pid"] not in ours and row["ms"] is not None
                ]
                await asyncio.sleep(WATCH_EVERY - (perf_counter() - at))
        finally:
            connection.terminate()


async def main(what: str, dsn: str, rows: str, file: str) -> None:
    until = asyncio.Event()
    end = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    end.add_done_callback(lambda _: until.set())
    if what == "load":
        load = Load(dsn, int(rows))
        await load.run(until)
        seen = {"samples": load.samples, "long": load.long}
    else:
        watch = Watch(dsn)
        await watch.run(until)
        seen = {"waits": watch.waits, "looks": watch.looks}
    Path(file).write_text(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
