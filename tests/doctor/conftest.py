"""A patient: a mapping that is as it should be, on a server of its own that is so too, since the faults are made in both."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import asyncpg
import pytest

from session_lock import Finding, PostgresDatabase, TaskTable
from session_lock.connections import Connect
from session_lock.doctor import doctor
from session_lock.embedded import find_bin_dir, temp_postgres
from session_lock.migrations import install, tune
from session_lock.names import quote_name
from session_lock.server import Wanted
from tests.conftest import APP_ROLE, TestDatabase, _dsn, fresh_database, prepare_template
from tests.support import EMAIL_TABLE, EMAILS

SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "max_connections": 40,
    "max_prepared_transactions": 5,
    "timezone": "Australia/Lord_Howe",
}


@cache
def version() -> int:
    printed = subprocess.run(
        [find_bin_dir() / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    return int(printed.stdout.split()[2].split(".")[0])


@dataclass
class Patient:
    admin: asyncpg.Connection
    """The superuser's."""

    owner: asyncpg.Connection
    """Of the table and the functions: it looks."""

    name: str
    """Of the database."""

    admin_dsn: str
    app_dsn: str
    table: TaskTable = EMAILS
    ways: dict[str, Connect | None] = field(default_factory=dict)

    async def found(
        self, *, connection: asyncpg.Connection | None = None, **options: Any
    ) -> Sequence[Finding]:
        wanted = Wanted(self.table.name, quote_name(self.table.schema), self.table, "")
        ways = {"connect": self.app_dsn, "listen": self.app_dsn} | self.ways
        return await doctor(connection or self.owner, wanted, **ways, **options)

    async def told(self, **options: Any) -> list[tuple[str, str]]:
        return [(each.look, each.severity) for each in await self.found(**options)]

    async def finding(self, look: str, severity: str, **options: Any) -> Finding:
        """The one thing that is found, and it alone."""
        found = await self.found(**options)
        assert [(each.look, each.severity) for each in found] == [(look, severity)], found
        return found[0]

    async def until_found(self) -> Sequence[Finding]:
        """Some of what a server tells of itself takes a moment."""
        await self._flush()
        async with asyncio.timeout(20):
            while not (found := await self.found()):
                await asyncio.sleep(0.05)
        return found

    async def is_well(self) -> bool:
        await self._flush()
        async with asyncio.timeout(20):
            while await self.told():
                await asyncio.sleep(0.05)
        return True

    async def _flush(self) -> None:
        """A connection tells of what it has done at the end of a later statement, unless it is hurried."""
        hurry = "pg_stat_force_next_flush()" if version() >= 15 else "pg_sleep(0.6)"
        await self.admin.execute(f"SELECT {hurry}")

    async def connect(self, dsn: str | None = None) -> asyncpg.Connection:
        return await asyncpg.connect(dsn or self.app_dsn)

    @asynccontextmanager
    async def transaction(self, *statements: str, name: str = "report") -> AsyncIterator[asyncpg.Connection]:
        """Somebody's, that stays open."""
        connection = await asyncpg.connect(self.app_dsn, server_settings={"application_name": name})
        try:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            for statement in ("SELECT 1", *statements):
                await connection.execute(statement)
            yield connection
        finally:
            with suppress(
                asyncpg.PostgresError, asyncpg.InterfaceError, OSError
            ):  # it may have been the remedy
                await connection.close()


@pytest.fixture(scope="session")
def doctored() -> Iterator[str]:
    """The DSN of its superuser."""
    few = {"max_notify_queue_pages": 64} if version() >= 17 else {}
    with temp_postgres(**SETTINGS, **few) as server:
        yield server.dsn


@pytest.fixture(scope="session")
async def wards(doctored: str) -> str:
    """The template of its databases, with the roles."""
    admin = await asyncpg.connect(doctored)
    await admin.execute("CREATE DATABASE ward")
    await admin.execute("CREATE ROLE surgeon LOGIN PASSWORD 'scalpel'; GRANT pg_read_all_stats TO surgeon")
    await admin.close()
    await prepare_template(_dsn(doctored, database="ward"))
    return "ward"


@pytest.fixture
async def bed(doctored: str, wards: str) -> AsyncIterator[TestDatabase]:
    async with fresh_database(doctored, wards) as database:
        yield database


@pytest.fixture
async def patient(bed: TestDatabase) -> AsyncIterator[Patient]:
    admin = await asyncpg.connect(bed.admin_dsn)
    await admin.execute(
        f"GRANT CREATE ON DATABASE {bed.name} TO surgeon; GRANT CREATE ON SCHEMA public TO surgeon"
    )
    owner = await asyncpg.connect(_dsn(bed.admin_dsn, user="surgeon:scalpel"))
    try:
        await owner.execute(EMAIL_TABLE)
        await install(owner, EMAILS, grant_to=APP_ROLE)
        await tune(owner, EMAILS)
        async with PostgresDatabase(bed.app_dsn, EMAILS) as emails:
            await emails.start_session(capacity=10, ttl=3600, label="web-1:1")
        yield Patient(admin, owner, bed.name, bed.admin_dsn, bed.app_dsn)
    finally:
        await owner.close()
        await admin.close()
