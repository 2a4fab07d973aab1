"""A live table is adopted, and given back: `python -m tests.benchmarks.adoption [--rows 10_000_000] [--page]` (`nox -s adoption`).

It makes the table on a durable server of its own, and installs a mapping on it while others insert, read and change rows; kills the
installation in the middle of its index, installs again, and removes it. It prints what docs/reference/adoption.md holds, and `--page` writes it there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import asyncpg

from session_lock.embedded import Server
from session_lock.migrations import check, install, remove, validate
from session_lock.schema import render
from tests.benchmarks.adoption_load import EVERY, LONG, PACE, WATCH_EVERY
from tests.benchmarks.ground import ROOT, conditions, durable_server
from tests.support import EMAIL_TABLE, EMAILS

PAGE = ROOT / "docs" / "reference" / "adoption.md"
QUIET = 20.0
"""Seconds of the phases in which nothing is done."""
PENDING = 100
"""One row in so many is pending when it begins."""
BOUND = 100
"""Milliseconds."""


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    begun: float
    ended: float


class Adoption:
    def __init__(self, server: Server, rows: int) -> None:
        self.server = server
        self.rows = rows
        self.phases: list[Phase] = []
        self.notes: list[str] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        print(f"{name} ..", flush=True)
        begun = perf_counter()
        yield
        self.phases.append(Phase(name, begun, perf_counter()))

    async def make_table(self, admin: asyncpg.Connection) -> None:
        await admin.execute(EMAIL_TABLE)
        step = 1_000_000
        for first in range(0, self.rows, step):
            await admin.execute(
                "INSERT INTO public.email (address, body, sent_at)"
                f" SELECT g || '@example.org', repeat('x', 100), CASE WHEN g % {PENDING} <> 0 THEN now() END"
                f" FROM generate_series({first + 1}, {min(first + step, self.rows)}) AS g",
                timeout=600,
            )
        await admin.execute("VACUUM (ANALYZE, FREEZE) public.email", timeout=600)
        await admin.execute("CHECKPOINT", timeout=600)
        size = await admin.fetchval("SELECT pg_size_pretty(pg_total_relation_size('public.email'))")
        self.notes.append(f"{self.rows:,} rows, {size} with its primary key, one of {PENDING} pending")

    def schema(self) -> str:
        """As it is dumped."""
        command = [self.server.bin_dir / "pg_dump", "--schema-only", self.server.dsn]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return re.sub(r"(?m)^\\(un)?restrict .*\n", "", text)

    async def ours(self) -> asyncpg.Connection:
        return await asyncpg.connect(
            self.server.dsn, server_settings={"application_name": "adoption"}, statement_cache_size=0
        )

    async def run(self, admin: asyncpg.Connection) -> None:
        before = self.schema()
        with self.phase("before"):
            await asyncio.sleep(QUIET)
        await self._long_begins(admin)
        with self.phase("for comparison: a plain `ALTER TABLE`"):
            await self._plainly()
        await self._undo_plainly(admin)
        await self._long_begins(admin)
        with self.phase("`install`, killed within the build of the index"):
            await self._killed(admin)
        with self.phase("an invalid index is there"):
            await asyncio.sleep(QUIET / 2)
        await self._long_begins(admin)
        with self.phase("`install`, again"):
            connection = await self.ours()
            done = await install(connection, EMAILS)
            await connection.close()
        assert any(text.startswith("built the index") for text in done), done
        assert [each for each in await check(admin, EMAILS) if not each.note] == []
        with self.phase("adopted"):
            await asyncio.sleep(QUIET)
        await self._long_begins(admin)
        with self.phase("`remove`"):
            connection = await self.ours()
            await remove(connection, EMAILS)
            await connection.close()
        with self.phase("after"):
            await asyncio.sleep(QUIET)
        await admin.execute(render("sessions.down.sql", EMAILS, await validate(admin, EMAILS)))
        assert self.schema() == before, "pg_dump shows a difference"
        self.notes.append("`pg_dump --schema-only` printed the same before and after")

    async def _long_begins(self, admin: asyncpg.Connection) -> None:
        """Until a long transaction has just begun: what comes now meets it."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
        for wanted in (0, 1):
            while await admin.fetchval(query) != wanted:
                await asyncio.sleep(0.01)

    async def _plainly(self) -> None:
        """What a migration does that knows nothing of this: it waits for the end of the other's transaction."""
        connection = await self.ours()
        await connection.execute("ALTER TABLE public.email ADD COLUMN plain integer")
        await connection.close()

    async def _undo_plainly(self, admin: asyncpg.Connection) -> None:
        await admin.execute("SET lock_timeout = '50ms'")
        for _ in range(100):
            try:
                await admin.execute("ALTER TABLE public.email DROP COLUMN plain")
                break
            except asyncpg.LockNotAvailableError:
                await asyncio.sleep(0.5)
        await admin.execute("RESET lock_timeout")

    async def _killed(self, admin: asyncpg.Connection) -> None:
        connection = await self.ours()
        installing = asyncio.create_task(install(connection, EMAILS))
        half = "SELECT blocks_total > 0 AND blocks_done > blocks_total / 2 FROM pg_stat_progress_create_index WHERE phase LIKE 'building index%'"
        while not await admin.fetchval(half):
            assert not installing.done(), "it was too quick to be killed: take more rows"
            await asyncio.sleep(0.002)
        await admin.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
        await asyncio.wait([installing])
        assert installing.exception()
        left = "SELECT count(*) FROM pg_index WHERE indrelid = 'public.email'::regclass AND NOT indisvalid"
        assert await admin.fetchval(left) == 1


@asynccontextmanager
async def beside(what: str, dsn: str, rows: int) -> AsyncIterator[dict[str, Any]]:
    """A process of the other module; what it has seen is there when the block has ended."""
    seen: dict[str, Any] = {}
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "tests.benchmarks.adoption_load", what, dsn, str(rows), file.name]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=asyncio.subprocess.PIPE)
        try:
            yield seen
        finally:
            process.stdin.close()
            await process.wait()
        assert process.returncode == 0
        seen |= json.loads(Path(file.name).read_text())


# What has been seen, in words --------------------------------------------------------------------------------


def tables(phases: list[Phase], load: dict[str, Any], watch: dict[str, Any]) -> Iterator[str]:
    yield f"| phase | s | of them building | longest wait for us | {' | '.join(f'{kind}: p50, p99.9, longest' for kind in PACE)} | inserts a second |"
    yield f"|{' --- |' * (5 + len(PACE))}"
    for phase in phases:
        cells = [phase.name, f"{phase.ended - phase.begun:.1f}"]
        looks = [built for at, built in watch["looks"] if phase.begun <= at < phase.ended]
        share = sum(looks) / max(1, len(looks))
        cells.append(f"{share * (phase.ended - phase.begun):.1f}" if share else "")
        cells.append(f"{longest(phase, watch):.0f} ms")
        for kind in PACE:
            times = sorted(1000 * took for at, took in load["samples"][kind] if touches(phase, at, took))
            cells.append(
                ", ".join(f"{times[int(q * (len(times) - 1))]:.1f}" for q in (0.5, 0.999, 1)) + " ms"
                if times
                else ""
            )
        inserts = sum(phase.begun <= at + took < phase.ended for at, took in load["samples"]["insert"])
        cells.append(f"{inserts / (phase.ended - phase.begun):.0f}")
        yield f"| {' | '.join(cells)} |"


def touches(phase: Phase, at: float, took: float) -> bool:
    return at < phase.ended and at + took >= phase.begun


def longest(phase: Phase, watch: dict[str, Any]) -> float:
    """Milliseconds that somebody had waited for a lock that is ours, or for our turn to be over, when it was looked at last."""
    return max(
        (ms for at, ms, for_us, _ in watch["waits"] if for_us and phase.begun <= at < phase.ended),
        default=0.0,
    )


HEAD = """\
# A live table is adopted: what was measured

Written by `python -m tests.benchmarks.adoption --page` (`uv run nox -s adoption -- --page`); do not edit. How to do it is told [here](../how-to/adopt.md). Conditions:
{conditions}.

The table: {notes}. Load: {load}; and every {every:.0f} s somebody writes a row and commits {long:.0f} s later. It stops nowhere, from before the first phase until
after the last.

*The longest wait for us* is what counts: how long a statement of others had waited for a lock that `install` or `remove` held, or stood in line for,
directly or behind another one that did; looked at every {watch:.0f} ms (median; p99 {worst:.0f} ms), so it may have been longer by that. Wanted: {bound} ms at most. The times of the
statements, from when they were sent to when they were answered, are those of a busy machine, on which server and clients and the disk are shared: compare them
with those of the phases in which nothing was done. `install` and `remove` begin when one of the transactions of 2 s has just begun. The phase for comparison shows what there is to see where a migration waits without a limit.

"""


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.name}")
    arguments = parser.parse_args()
    with durable_server() as server:
        admin = await asyncpg.connect(server.dsn)
        said = await conditions(admin)
        adoption = Adoption(server, arguments.rows)
        with adoption.phase("the table is made"):
            await adoption.make_table(admin)
        adoption.phases.clear()
        async with (
            beside("watch", server.dsn, 0) as watch,
            beside("load", server.dsn, arguments.rows) as load,
        ):
            await asyncio.sleep(3)
            await adoption.run(admin)
        await admin.close()
    looked = [at for at, _ in watch["looks"]]
    gaps = sorted(1000 * (later - sooner) for sooner, later in zip(looked, looked[1:], strict=False))
    text = HEAD.format(
        conditions="; ".join(said),
        notes="; ".join(adoption.notes),
        load=", ".join(f"{rate:,} {kind}s a second over {n} connections" for kind, (n, rate) in PACE.items()),
        every=EVERY, long=LONG, watch=gaps[len(gaps) // 2], worst=gaps[int(0.99 * len(gaps))], bound=BOUND,
    )  # fmt: skip
    text += "\n".join(tables(adoption.phases, load, watch)) + "\n"
    print(text)
    print(f"(looks every {1000 * WATCH_EVERY:.0f} ms wanted; longest gap {gaps[-1]:.0f} ms)")
    if arguments.page:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
