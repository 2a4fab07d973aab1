"""What every measurement stands on: a durable server, databases with as many tasks as wanted, and what was used in the meantime."""

from __future__ import annotations

import os
import platform
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from session_lock import TaskTable, queue
from session_lock.embedded import Server, temp_postgres
from session_lock.migrations.installation import install
from tests.support import EMAIL_TABLE

ROOT = Path(__file__).parents[2]

MAILS = TaskTable(
    "public.email",
    key="id",
    pending="sent_at IS NULL",
    finish="sent_at = clock_timestamp()",
    columns=("address",),
)
"""What is measured. The time of a finish is the server's, and tells what was done within any time."""

JOBS = queue("jobs")
"""What is enqueued into."""

DURABLE = {
    "dynamic_shared_memory_type": "posix", "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "shared_buffers": "1GB", "max_wal_size": "8GB",
    "checkpoint_timeout": "30min", "max_connections": 500, "shared_preload_libraries": "pg_stat_statements",
}  # fmt: skip

PENDING_INDEX = """
SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'public.email'::regclass AND indpred IS NOT NULL
"""


@contextmanager
def durable_server() -> Iterator[Server]:
    """Its data lies on a disk, since that is what a commit waits for."""
    with temp_postgres(data_in_memory=False, **DURABLE) as server:
        yield server


@dataclass(frozen=True, slots=True)
class Rows:
    """What is in the table when a measurement begins."""

    pending: int = 0
    finished: int = 0
    scheduled: int = 0
    """Pending ones that are due in a day."""
    kept: bool = False
    """They are too many to be copied for each measurement: it leaves about as many, and they are vacuumed after it."""

    @property
    def name(self) -> str:
        return f"rows_{self.pending}_{self.finished}_{self.scheduled}"


@dataclass(frozen=True, slots=True)
class Used:
    """What the server had used at one time: differences tell."""

    at: Any
    """By the server's clock."""
    cpu: float
    """Seconds, of all its processes."""
    wal: int
    """Bytes."""
    dirtied: int
    """Buffers, by clients' statements."""


class Ground:
    """A server and one connection to it, beside what is measured."""

    def __init__(self, server_dsn: str, pid: int, admin: asyncpg.Connection) -> None:
        self.server_dsn = server_dsn
        self._pid = pid
        self._admin = admin
        self._made: set[str] = set()

    def dsn(self, database: str) -> str:
        return self.server_dsn.rpartition("/")[0] + f"/{database}"

    async def used(self) -> Used:
        row = await self._admin.fetchrow(
            "SELECT clock_timestamp(), (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint,"
            " (SELECT coalesce(sum(shared_blks_dirtied), 0)::bigint FROM pg_stat_statements(false))"
        )
        return Used(row[0], cpu_of(self._pid), row[1], row[2])

    @asynccontextmanager
    async def database(self, rows: Rows) -> AsyncIterator[str]:
        """The DSN of one with these rows, as a vacuum leaves them; it is made once, and then copied."""
        if rows.name not in self._made:
            await self._make(rows)
        if rows.kept:
            yield self.dsn(rows.name)
            await self._execute(rows.name, "VACUUM public.email")
            return
        await self._admin.execute(f"CREATE DATABASE cell TEMPLATE {rows.name} STRATEGY file_copy")
        try:
            await self._admin.execute("CHECKPOINT")
            yield self.dsn("cell")
        finally:
            await self._admin.execute("DROP DATABASE cell WITH (FORCE)")

    async def _make(self, rows: Rows) -> None:
        await self._admin.execute(f"CREATE DATABASE {rows.name}")
        connection = await asyncpg.connect(self.dsn(rows.name))
        try:
            await connection.execute(EMAIL_TABLE)
            await connection.execute("ALTER TABLE public.email SET (fillfactor = 50)")
            await install(connection, JOBS)
            await install(connection, MAILS)
            (index,) = await connection.fetchrow(PENDING_INDEX)
            await connection.execute(f"DROP INDEX {index}")  # it is sooner built of all rows at once
            for count, sent, due in (
                (rows.finished, "now() - interval '1 day'", "now()"),
                (rows.pending, "NULL", "now()"),
                (rows.scheduled, "NULL", "now() + interval '1 day'"),
            ):
                await connection.execute(
                    "INSERT INTO public.email (address, sent_at, available_at)"
                    f" SELECT 'somebody@example.org', {sent}, {due} FROM generate_series(1, {count})",
                    timeout=600,
                )
            await install(connection, MAILS)
            await connection.execute("VACUUM (ANALYZE, FREEZE) public.email", timeout=600)
        finally:
            await connection.close()
        await self._admin.execute("CHECKPOINT")
        self._made.add(rows.name)

    async def _execute(self, database: str, statement: str) -> None:
        connection = await asyncpg.connect(self.dsn(database))
        try:
            await connection.execute(statement, timeout=600)
        finally:
            await connection.close()


async def conditions(admin: asyncpg.Connection) -> list[str]:
    """What the figures depend on, and what makes them worthless."""
    said = [
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"PostgreSQL {(await admin.fetchval('SHOW server_version')).split()[0]}",
        f"Python {platform.python_version()}",
        f"asyncpg {version('asyncpg')}",
        _event_loop(),
        f"{platform.system()} {platform.release()}",
        f"{os.cpu_count()} cores, shared by server and clients",
        f"a load of {os.getloadavg()[0]:.1f} before it began",
    ]
    if await admin.fetchval("SHOW fsync") == "off":
        said.append(
            "fsync is off: commits are not durable, and the figures of small batches are worth nothing"
        )
    if await admin.fetchval("SHOW debug_assertions") == "on":
        said.append("a debug build of PostgreSQL: no figure is worth anything")
    return said


def _event_loop() -> str:
    try:
        return f"uvloop {version('uvloop')}"
    except PackageNotFoundError:
        return "asyncio's own event loop, since uvloop is not installed"


def cpu_of(postmaster: int) -> float:
    """Seconds that a server has used: of its processes, and of those that have ended."""
    main = psutil.Process(postmaster)
    times = main.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in main.children():
        try:
            used = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
    return total
