"""What every measurement stands on: a durable server, fresh databases, and what was used while something ran."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import psutil

from session_lock import TaskTable
from session_lock.embedded import Server, temp_postgres
from tests.support import EMAIL_TABLE, apply_mapping

MAILS = TaskTable(
    "public.email",
    key="id",
    pending="sent_at IS NULL",
    finish="sent_at = clock_timestamp()",
    columns=("address",),
)
"""What is measured. The time of a finish is the server's, and tells what was done within any time."""

DURABLE = {
    "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "shared_buffers": "1GB", "max_wal_size": "4GB",
    "checkpoint_timeout": "30min", "max_connections": 200, "shared_preload_libraries": "pg_stat_statements",
}  # fmt: skip


@contextmanager
def durable_server() -> Iterator[Server]:
    """Its data lies on a disk, since that is what a commit waits for."""
    with temp_postgres(data_in_memory=False, **DURABLE) as server:
        yield server


@dataclass(frozen=True, slots=True)
class Used:
    """What the server had used at one time: differences tell."""

    at: Any
    """By the server's clock."""
    cpu: float
    """Seconds, of all its processes."""
    wal: int
    """Bytes."""
    calls: int
    """Statements that clients have sent."""


class Ground:
    """A server and one connection to it, beside what is measured."""

    def __init__(self, server: Server, admin: asyncpg.Connection) -> None:
        self._server = server
        self._admin = admin
        self._templates: dict[tuple[int, int], str] = {}
        self._number = 0

    def dsn(self, database: str) -> str:
        return self._server.dsn.rpartition("/")[0] + f"/{database}"

    async def used(self) -> Used:
        at, wal, calls = await self._admin.fetchrow(
            "SELECT clock_timestamp(), pg_current_wal_insert_lsn() - '0/0'::pg_lsn, 0"
        )
        return Used(at, cpu_of(self._server.pid), int(wal), calls)

    async def fresh(self, pending: int, finished: int = 0) -> str:
        """A database with so many pending tasks, as a vacuum leaves it; the first one is made, the others are its copies."""
        if (pending, finished) not in self._templates:
            self._templates[pending, finished] = await self._made(
                f"ready_{pending}_{finished}", pending, finished
            )
        self._number += 1
        name = f"cell_{self._number}"
        await self._admin.execute(
            f"CREATE DATABASE {name} TEMPLATE {self._templates[pending, finished]} STRATEGY file_copy"
        )
        await self._admin.execute("CHECKPOINT")
        return name

    async def _made(self, name: str, pending: int, finished: int) -> str:
        await self._admin.execute(f"CREATE DATABASE {name}")
        connection = await asyncpg.connect(self.dsn(name))
        try:
            await connection.execute(EMAIL_TABLE)
            await connection.execute("ALTER TABLE public.email SET (fillfactor = 50)")
            await apply_mapping(connection, MAILS)
            await connection.execute(
                "INSERT INTO public.email (address, sent_at) SELECT 'somebody@example.org', now() - interval '1 day'"
                f" FROM generate_series(1, {finished})"
            )
            await connection.execute(
                f"INSERT INTO public.email (address) SELECT 'somebody@example.org' FROM generate_series(1, {pending})"
            )
            await connection.execute("VACUUM (ANALYZE, FREEZE) public.email")
        finally:
            await connection.close()
        return name

    async def drop(self, name: str) -> None:
        await self._admin.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def conditions(self) -> list[str]:
        """What the figures depend on, and what makes them worthless."""
        said = [
            f"PostgreSQL {await self._admin.fetchval('SHOW server_version')}", f"Python {platform.python_version()}",
            f"{os.cpu_count()} cores", f"load {os.getloadavg()[0]:.1f} at the beginning",
        ]  # fmt: skip
        if await self._admin.fetchval("SHOW fsync") == "off":
            said.append(
                "fsync is off: commits are not durable, and the figures of small batches are worth nothing"
            )
        if await self._admin.fetchval("SHOW debug_assertions") == "on":
            said.append("a debug build of PostgreSQL: no figure is worth anything")
        return said


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
