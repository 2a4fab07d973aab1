"""One suite, two implementations: `harness` gives each test a database, and a hand on its rows and its time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol
from uuid import uuid4

import asyncpg
import pytest

from session_lock.database import Claim, ClaimedTask, Database, Outcome, Settled, Work
from session_lock.limits import Limit, Rate
from session_lock.postgres import PostgresDatabase
from session_lock.session import Lease
from session_lock.tasks import TaskKey
from session_lock.testing import Closed, MemoryDatabase, MemoryTransaction
from tests.chaos.pgbouncer import pgbouncer, unnamed
from tests.conftest import APP_ROLE, TestDatabase
from tests.support import EMAIL_TABLE, EMAILS, apply_mapping

GOOD, FORBIDDEN, STUBBORN, KEPT, UNREADABLE = "ann@example.org", "forbidden", "stubborn", "kept", "unreadable"
"""Addresses: finishes well · a CHECK refuses its finish · a trigger undoes its finish · a CHECK refuses its discard · `decode` raises."""


THROUGH_A_POOLER = os.environ.get("SESSION_LOCK_TEST_POOLER") == "1"
"""PgBouncer, in transaction mode: `nox -s pooler` lets all calls of the suite go through it."""

NEEDS = "substring(address FROM '^needs (.*)$')"
"""`accepts` of a mapping: a task with the address "needs 2.4" is for Runners of that version, or a later one."""


@dataclass(frozen=True)
class Row:
    """One task, as the application sees it."""

    status: str
    """pending, finished, discarded, or closed (by the application)."""
    session_id: int | None
    token: int
    attempts: int
    due: float
    """Seconds until it is due; infinity: parked."""


@dataclass(frozen=True)
class SessionRow:
    capacity: int
    ended: bool
    draining: bool
    label: str
    app_version: str


@dataclass(frozen=True)
class FailureRow:
    attempt: int
    session_id: int
    error: str


class Harness(Protocol):
    """What a test does to a database behind the library's back."""

    database: Database[Any]

    async def add(self, count: int = 1, *, after: float | None = None, address: str = GOOD) -> list[Any]: ...
    async def close(self, key: TaskKey) -> None: ...
    async def reopen(self, key: TaskKey) -> None: ...
    async def remove(self, key: TaskKey) -> None: ...
    async def replace(self, key: TaskKey) -> None:
        """Delete it, and put another one in under its key."""

    async def row(self, key: TaskKey) -> Row: ...
    async def session(self, lease: Lease) -> SessionRow: ...
    async def failures(self, key: TaskKey) -> list[FailureRow]: ...
    def lock(self, key: TaskKey) -> AbstractAsyncContextManager[None]: ...
    async def wake(self) -> None:
        """Say that there may be new tasks, where adding one does not say it."""
        ...

    async def until_heard(self, *woken: asyncio.Event) -> None:
        """Wait until those who have just begun to listen are told of what comes from now on."""
        ...

    async def advance(self, seconds: float) -> None: ...
    async def expire(self, lease: Lease, *, after: float = 0) -> None: ...
    async def pause(self) -> bool: ...
    async def resume(self) -> bool: ...
    async def ask_to_drain(self, lease: Lease) -> bool: ...
    async def ask_to_give_back(self, lease: Lease, count: int) -> None: ...
    def begin(self) -> AbstractAsyncContextManager[Any]:
        """A transaction on a connection of the caller's own."""
        ...

    async def write(self, connection: Any, note: str) -> None: ...
    async def written(self) -> list[str]: ...


class Suite:
    """A harness with the words that tests are written in."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.database = harness.database

    def __getattr__(self, name: str) -> Any:
        return getattr(self.harness, name)

    async def start(
        self, *, capacity: int = 10, ttl: float = 30.0, label: str = "test", version: str = "1"
    ) -> Lease:
        return await self.database.start_session(capacity=capacity, ttl=ttl, label=label, app_version=version)

    async def bump(self, lease: Lease, *, ttl: float = 30.0, draining: bool = False) -> Any:
        return await self.database.bump_session(lease, ttl=ttl, draining=draining)

    async def work(
        self, lease: Lease, limit: int = 10, *, over_share: bool = True, **arguments: Any
    ) -> Work[Any]:
        """get_work; only tests of the share let it bind."""
        return await self.database.get_work(lease, limit=limit, over_share=over_share, **arguments)

    async def claim(self, lease: Lease, limit: int = 10, **arguments: Any) -> list[Claim]:
        return [task.claim for task in (await self.work(lease, limit, **arguments)).tasks]

    async def finish(self, lease: Lease, *claims: Claim) -> Any:
        """The outcome of one claim, or the list of those of several, in the order of the claims."""
        return outcomes(await self.database.finish_tasks(lease, claims), claims)

    async def end(self, lease: Lease, *claims: Claim) -> None:
        await self.database.end_session(lease, claims)

    async def status(self, key: TaskKey) -> str:
        return (await self.harness.row(key)).status


def outcomes(settled: Sequence[Settled], claims: Sequence[Claim]) -> Any:
    assert sorted(str(each.key) for each in settled) == sorted(str(claim.key) for claim in claims)
    found = {each.key: each.outcome for each in settled}
    in_order = [found[claim.key] for claim in claims]
    return in_order[0] if len(in_order) == 1 else in_order


def keys(tasks: Sequence[Claim] | Work[Any]) -> list[TaskKey]:
    return [
        each.claim.key if isinstance(each, ClaimedTask) else each.key
        for each in getattr(tasks, "tasks", tasks)
    ]


def finished(settled: Sequence[Settled]) -> set[TaskKey]:
    return {each.key for each in settled if each.outcome is Outcome.FINISHED}


# In memory -----------------------------------------------------------------------------------------------


class MovableMemoryDatabase(MemoryDatabase[Any]):
    """One whose time can be moved while the loop's is real."""

    ahead = 0.0

    def clock(self) -> float:
        return super().clock() + self.ahead


def needed(_: TaskKey, data: Any) -> str | None:
    """What `NEEDS` says in SQL."""
    address = data["address"]
    return address.removeprefix("needs ") if address.startswith("needs ") else None


class MemoryHarness:
    def __init__(self, *, discard: bool, key_type: str, limits: Mapping[str, Any]) -> None:
        self.database = MovableMemoryDatabase(
            **{name: value for name, value in limits.items() if name not in {"order_by", "accepts"}},
            accepts=needed if "accepts" in limits else None,
            name="email",
            refuse=lambda _, data: "it is so" if data["address"] in {FORBIDDEN, STUBBORN} else None,
            refuse_discard=lambda _, data: "it is so" if data["address"] == KEPT else None,
            discards=discard,
        )
        numbers = count(1)
        self._new_key: Callable[[], TaskKey] = {
            "uuid": uuid4,
            "text": lambda: str(uuid4()),
        }.get(key_type, lambda: next(numbers))
        self._written: list[str] = []

    async def add(self, count: int = 1, *, after: float | None = None, address: str = GOOD) -> list[TaskKey]:
        added = sorted(self._new_key() for _ in range(count))
        for key in added:
            data = ValueError("no such address") if address == UNREADABLE else {"id": key, "address": address}
            self.database.add(key, data, after=after)
        return added

    async def close(self, key: TaskKey) -> None:
        self.database.close_row(key)

    async def reopen(self, key: TaskKey) -> None:
        self.database.reopen_row(key)

    async def remove(self, key: TaskKey) -> None:
        self.database.remove_row(key)

    async def replace(self, key: TaskKey) -> None:
        self.database.remove_row(key)
        self.database.add(key, {"address": GOOD})

    async def row(self, key: TaskKey) -> Row:
        row = self.database[key]
        status = {None: "pending", Closed.BY_APPLICATION: "closed"}.get(row.closed, row.closed)
        return Row(
            str(status), row.session_id, row.token, row.attempts, row.available_at - self.database.clock()
        )

    async def session(self, lease: Lease) -> SessionRow:
        (row,) = [each for each in self.database.sessions if each.id == lease.id]
        return SessionRow(row.capacity, row.ended, row.draining, row.label, row.app_version)

    async def failures(self, key: TaskKey) -> list[FailureRow]:
        return [
            FailureRow(each.attempt, each.session_id, each.error)
            for each in self.database.failures.get(key, ())
        ]

    @asynccontextmanager
    async def lock(self, key: TaskKey) -> AsyncIterator[None]:
        with self.database.lock(key):
            yield

    async def wake(self) -> None:
        pass

    async def until_heard(self, *woken: asyncio.Event) -> None:
        pass

    async def advance(self, seconds: float) -> None:
        self.database.ahead += seconds

    async def expire(self, lease: Lease, *, after: float = 0) -> None:
        self.database.expire(lease.id)
        if after:
            self.database.sessions[lease.id - 1].expires_at = self.database.clock() + after

    async def pause(self) -> bool:
        return await self.database.pause()

    async def resume(self) -> bool:
        return await self.database.resume()

    async def ask_to_drain(self, lease: Lease) -> bool:
        return await self.database.drain(lease.id)

    async def ask_to_give_back(self, lease: Lease, count: int) -> None:
        self.database.ask_to_give_back(lease.id, count)

    def begin(self) -> AbstractAsyncContextManager[MemoryTransaction]:
        return MemoryTransaction()

    async def write(self, connection: MemoryTransaction, note: str) -> None:
        connection.write(lambda: self._written.append(note))

    async def written(self) -> list[str]:
        return self._written


# In PostgreSQL -------------------------------------------------------------------------------------------

KEYS = {"uuid": "uuid DEFAULT gen_random_uuid()", "text": "text DEFAULT gen_random_uuid()::text"}

MORE = f"""
ALTER TABLE public.email ADD CHECK (address <> '{KEPT}' OR failed_at IS NULL);
CREATE FUNCTION public.stay_pending() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.sent_at := NULL; RETURN NEW; END';
CREATE TRIGGER stay_pending BEFORE UPDATE ON public.email FOR EACH ROW WHEN (new.address = '{STUBBORN}')
  EXECUTE FUNCTION public.stay_pending();
CREATE TABLE public.effect (note text NOT NULL);
GRANT INSERT ON public.effect TO {APP_ROLE};
"""


def decode(**columns: Any) -> dict[str, Any]:
    if columns["address"] == UNREADABLE:
        raise ValueError("no such address")
    return {"id": columns["id"], "address": columns["address"]}


class PostgresHarness:
    """The library is the role `app`, which has EXECUTE and its own rights on `effect`; the harness is the owner."""

    database: PostgresDatabase[Any]
    _owner: PostgresDatabase[Any]

    def __init__(self, admin: asyncpg.Connection, test_database: TestDatabase) -> None:
        self._admin = admin
        self._dsns = test_database
        self._ahead = 0.0

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        test_database: TestDatabase,
        *,
        discard: bool = True,
        key_type: str = "bigint",
        limits: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[PostgresHarness]:
        mapping = replace(EMAILS, **(limits or {})) if discard else replace(EMAILS, discard=None)
        key = KEYS.get(key_type, f"{key_type} GENERATED ALWAYS AS IDENTITY")
        table = EMAIL_TABLE.replace("bigint GENERATED ALWAYS AS IDENTITY", key)
        async with AsyncExitStack() as stack:
            admin = await asyncpg.connect(test_database.admin_dsn)
            stack.push_async_callback(admin.close)
            await admin.execute(table + ";" + MORE)
            await apply_mapping(admin, mapping, grant_to=APP_ROLE)
            harness = cls(admin, test_database)
            connect = (
                unnamed(stack.enter_context(pgbouncer(test_database.app_dsn, size=10)))
                if THROUGH_A_POOLER
                else test_database.app_dsn
            )
            harness.database = PostgresDatabase(connect, mapping, decode=decode, listen=test_database.app_dsn)
            stack.push_async_callback(harness.database.close)
            harness._owner = PostgresDatabase(
                test_database.admin_dsn, mapping
            )  # who may operate, as no service may
            stack.push_async_callback(harness._owner.close)
            yield harness

    async def add(self, count: int = 1, *, after: float | None = None, address: str = GOOD) -> list[TaskKey]:
        rows = await self._admin.fetch(
            "INSERT INTO public.email (address, available_at) SELECT $1, at FROM generate_series(1, $2),"
            " (SELECT session_lock.clock() + make_interval(secs => $3) OFFSET 0) AS due (at) RETURNING id",
            address,
            count,
            after or 0,
        )
        return sorted(row["id"] for row in rows)

    async def close(self, key: TaskKey) -> None:
        await self._admin.execute("UPDATE public.email SET sent_at = 'epoch' WHERE id = $1", key)

    async def reopen(self, key: TaskKey) -> None:
        await self._admin.execute(
            "UPDATE public.email SET sent_at = NULL, failed_at = NULL WHERE id = $1", key
        )

    async def remove(self, key: TaskKey) -> None:
        await self._admin.execute("DELETE FROM public.email WHERE id = $1", key)

    async def replace(self, key: TaskKey) -> None:
        await self.remove(key)
        insert = "INSERT INTO public.email (id, address, available_at) OVERRIDING SYSTEM VALUE VALUES ($1, $2, session_lock.clock())"
        await self._admin.execute(insert, key, GOOD)

    async def row(self, key: TaskKey) -> Row:
        row = await self._admin.fetchrow(
            "SELECT CASE WHEN failed_at IS NOT NULL THEN 'discarded' WHEN sent_at = 'epoch' THEN 'closed'"
            " WHEN sent_at IS NOT NULL THEN 'finished' ELSE 'pending' END AS status, session_id,"
            " coalesce(claim_token, 0) AS token, attempts, CASE WHEN available_at = 'infinity' THEN 'infinity'"
            " ELSE extract(epoch FROM available_at - session_lock.clock()) END::float8 AS due FROM public.email WHERE id = $1",
            key,
        )
        return Row(**row)

    async def session(self, lease: Lease) -> SessionRow:
        row = await self._admin.fetchrow(
            "SELECT capacity, ended_at IS NOT NULL AS ended, draining, label, app_version FROM session_lock.session WHERE id = $1",
            lease.id,
        )
        return SessionRow(**row)

    async def failures(self, key: TaskKey) -> list[FailureRow]:
        rows = await self._admin.fetch(
            "SELECT attempt, session AS session_id, error FROM session_lock.failure WHERE name = 'email' AND task_key = $1 ORDER BY id",
            str(key),
        )
        return [FailureRow(**row) for row in rows]

    @asynccontextmanager
    async def lock(self, key: TaskKey) -> AsyncIterator[None]:
        stranger = await asyncpg.connect(self._dsns.admin_dsn)
        try:
            async with stranger.transaction():
                await stranger.execute("SELECT FROM public.email WHERE id = $1 FOR UPDATE", key)
                yield
        finally:
            await stranger.close()

    async def wake(self) -> None:
        await self._admin.execute("SELECT session_lock.wake('email')")

    async def until_heard(self, *woken: asyncio.Event) -> None:
        for event in woken:  # all are woken once when the connection begins to listen
            await event.wait()
            event.clear()

    async def advance(self, seconds: float) -> None:
        self._ahead += seconds
        await self._admin.execute(
            "CREATE OR REPLACE FUNCTION session_lock.clock() RETURNS timestamptz LANGUAGE sql VOLATILE"
            f" AS $$ SELECT clock_timestamp() + interval '{self._ahead} seconds' $$"
        )

    async def expire(self, lease: Lease, *, after: float = 0) -> None:
        await self._set(lease, f"expires_at = session_lock.clock() + interval '{after} seconds'")

    async def pause(self) -> bool:
        return await self._owner.pause()

    async def resume(self) -> bool:
        return await self._owner.resume()

    async def ask_to_drain(self, lease: Lease) -> bool:
        return await self._owner.drain(lease.id)

    async def ask_to_give_back(self, lease: Lease, count: int) -> None:
        await self._set(lease, f"give_back = {count}")

    async def _set(self, lease: Lease, what: str) -> None:
        await self._admin.execute(f"UPDATE session_lock.session SET {what} WHERE id = $1", lease.id)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self._dsns.app_dsn)
        try:
            async with connection.transaction():
                yield connection
        finally:
            await connection.close()

    async def write(self, connection: asyncpg.Connection, note: str) -> None:
        await connection.execute("INSERT INTO public.effect VALUES ($1)", note)

    async def written(self) -> list[str]:
        return [
            row["note"] for row in await self._admin.fetch("SELECT note FROM public.effect ORDER BY ctid")
        ]


# Fixtures ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(
    request: pytest.FixtureRequest,
    implementation: str,
    *,
    discard: bool = True,
    key_type: str = "bigint",
    limits: Mapping[str, Any] | None = None,
) -> AsyncIterator[Suite]:
    if implementation == "memory":
        yield Suite(MemoryHarness(discard=discard, key_type=key_type, limits=limits or {}))
        return
    async with PostgresHarness.opened(
        request.getfixturevalue("database"), discard=discard, key_type=key_type, limits=limits
    ) as harness:
        yield Suite(harness)


@pytest.fixture(params=["memory", "postgres"])
def implementation(request: pytest.FixtureRequest) -> str:
    if request.param == "postgres":
        request.getfixturevalue("database")
    return request.param


@pytest.fixture
async def suite(request: pytest.FixtureRequest, implementation: str) -> AsyncIterator[Suite]:
    async with opened(request, implementation) as suite:
        yield suite


@pytest.fixture
async def suite_without_discard(request: pytest.FixtureRequest, implementation: str) -> AsyncIterator[Suite]:
    """The mapping has no `discard`."""
    async with opened(request, implementation, discard=False) as suite:
        yield suite


@pytest.fixture(params=["smallint", "integer", "bigint", "uuid", "text"])
async def suite_of_key_type(request: pytest.FixtureRequest, implementation: str) -> AsyncIterator[Suite]:
    async with opened(request, implementation, key_type=request.param) as suite:
        yield suite


@pytest.fixture
async def limited(request: pytest.FixtureRequest, implementation: str) -> AsyncIterator[Suite]:
    """The mapping has the limits of the test's `under`."""
    async with opened(request, implementation, limits=request.param) as suite:
        yield suite


def under(*limits: Limit | Rate, **more: Any) -> pytest.MarkDecorator:
    """Under these limits, and `fair_by=`, `order_by=` or `accepts=NEEDS`."""
    return pytest.mark.parametrize("limited", [{"limits": limits, **more}], indirect=True, ids=["limited"])


async def is_waiting(task: asyncio.Task[Any]) -> bool:
    """Whether it is still not done after a moment."""
    await asyncio.wait([task], timeout=0.1)
    return not task.done()
