"""A group of instances that share duties: in memory, and in PostgreSQL where they are installed; and a hand on its clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from session_lock.database import Outcome
from session_lock.duties import DUTIES, Duty, PostgresDuties, _Planned
from session_lock.migrations import install
from session_lock.testing import MemoryDuties
from tests.conftest import APP_ROLE, TestDatabase, fresh_database
from tests.support import connected


@pytest.fixture(scope="session")
async def template(server_dsn: str, template: str) -> AsyncIterator[str]:
    """The prepared database, with duties in it."""
    async with fresh_database(server_dsn, template) as made:
        async with connected(made.admin_dsn) as connection:
            await install(connection, DUTIES, grant_to=APP_ROLE)
        yield made.name


@pytest.fixture
async def admin(database: TestDatabase) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture(params=["memory", "postgres"])
def implementation(request: pytest.FixtureRequest) -> str:
    if request.param == "postgres":
        request.getfixturevalue("admin")
    return request.param


START = datetime(2026, 6, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FOR_EVER = 10.0**9


class MemoryGroup:
    """What the instances share, and a hand on its clock."""

    def __init__(self) -> None:
        group = self

        class Database(MemoryDuties):
            def clock(self) -> float:
                return super().clock() + group.ahead

        self.ahead = 0.0
        self.database = Database()
        self.ahead = (START - self.database.now()).total_seconds()

    async def at(self, moment: datetime) -> None:
        self.ahead += (moment - self.database.now()).total_seconds()

    async def expire(self, lease: Any) -> None:
        self.database.expire(lease.id)

    async def pending(self) -> set[Any]:
        return {run.key for run in self.database.runs if run.pending}

    async def runs(self) -> dict[str, list[datetime]]:
        """The due times of what is planned, or done, of each duty."""
        found: dict[str, list[datetime]] = {}
        for run in self.database.runs:
            found.setdefault(run.data.name, []).append(run.data.due_at)
        return found


class PostgresGroup:
    database: PostgresDuties

    def __init__(self, admin: asyncpg.Connection, dsn: str) -> None:
        self._admin = admin
        self.database = PostgresDuties(dsn)

    async def at(self, moment: datetime) -> None:
        ahead = await self._admin.fetchval("SELECT $1 - clock_timestamp()", moment)
        await self._admin.execute(
            "CREATE OR REPLACE FUNCTION session_lock.clock() RETURNS timestamptz LANGUAGE sql VOLATILE"
            f" AS $$ SELECT clock_timestamp() + interval '{ahead.total_seconds()} seconds' $$"
        )

    async def expire(self, lease: Any) -> None:
        await self._admin.execute(
            "UPDATE session_lock.session SET expires_at = session_lock.clock() WHERE id = $1", lease.id
        )

    async def pending(self) -> set[Any]:
        query = "SELECT id FROM session_lock.duty_run WHERE finished_at IS NULL AND failed_at IS NULL"
        return {row["id"] for row in await self._admin.fetch(query)}

    async def runs(self) -> dict[str, list[datetime]]:
        rows = await self._admin.fetch(
            "SELECT name, array_agg(due_at ORDER BY due_at) AS due FROM session_lock.duty_run GROUP BY name"
        )
        return {row["name"]: row["due"] for row in rows}


@pytest.fixture
async def group(request: pytest.FixtureRequest, implementation: str) -> AsyncIterator[Any]:
    if implementation == "memory":
        yield MemoryGroup()
        return
    group = PostgresGroup(request.getfixturevalue("admin"), request.getfixturevalue("database").app_dsn)
    await group.at(START)
    async with group.database:
        yield group


async def nothing(task: Any) -> None:
    pass


def duty(schedule: Any, name: str = "report", missed: Any = "once") -> Duty:
    return Duty(name, schedule, nothing, missed)


class Instance:
    """A process of the service, a step at a time: what a Runner asks of its database."""

    def __init__(self, group: Any, *duties: Duty) -> None:
        self.group = group
        self.database = _Planned(group.database, duties)
        self.lease: Any = None

    async def start(self) -> Instance:
        self.lease = await self.group.database.start_session(
            capacity=500, ttl=FOR_EVER, label="", app_version=""
        )
        return self

    async def claim(self) -> list[Any]:
        return list((await self.database.get_work(self.lease, limit=500, over_share=True)).tasks)

    async def finish(self, tasks: list[Any]) -> None:
        claims = [task.claim for task in tasks]
        while claims:
            done = await self.group.database.finish_tasks(self.lease, claims)
            # A look that others have under way may have locked a row that it then finds taken: it is asked again.
            again = {each.key for each in done if each.outcome is Outcome.LOCKED}
            assert {each.outcome for each in done if each.key not in again} <= {Outcome.FINISHED}
            claims = [claim for claim in claims if claim.key in again]

    async def look(self) -> list[datetime]:
        """Do what is due; returns the due times in the order in which they came."""
        self.database._to_ask_at = 0.0  # its timer is the loop's, and the tests move the database's clock
        found = []
        while tasks := await self.claim():
            await self.finish(tasks)
            found += [task.data.due_at for task in tasks]
        return found

    async def end(self) -> None:
        await self.group.database.end_session(self.lease, ())
