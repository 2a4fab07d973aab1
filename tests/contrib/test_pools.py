"""`PostgresDatabase(pool=)`: finishing transactions on pools of every driver and layer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import psycopg
import psycopg_pool
import pytest
import sqlalchemy
from sqlalchemy.ext import asyncio as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from session_lock import PostgresDatabase, Runner, Settings, each
from session_lock.database import Outcome
from session_lock.errors import DatabaseError, RowRefusedError, SettingsError, TaskLost
from tests.conftest import TestDatabase
from tests.contrib.kinds import asyncpg_write, psycopg_async_write, sa_async_write, url
from tests.database.conftest import FORBIDDEN, PostgresHarness, Suite, decode
from tests.support import EMAILS


class Base(DeclarativeBase):
    pass


class Effect(Base):
    __tablename__ = "effect"
    note: Mapped[str] = mapped_column(primary_key=True)


@dataclass(frozen=True)
class Kind:
    name: str
    open: Callable[[str], AbstractAsyncContextManager[Any]]
    yields: type
    write: Callable[[Any, str], Any]

    def __str__(self) -> str:
        return self.name


@asynccontextmanager
async def asyncpg_pool(dsn: str) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        yield pool


@asynccontextmanager
async def psycopg_async_pool(dsn: str) -> AsyncIterator[Any]:
    options = {"autocommit": True, "cursor_factory": psycopg.AsyncRawCursor}
    async with psycopg_pool.AsyncConnectionPool(
        dsn, min_size=1, max_size=1, kwargs=options, timeout=0.2
    ) as pool:
        yield pool


def engine(driver: str, level: str) -> Callable[[str], AbstractAsyncContextManager[Any]]:
    @asynccontextmanager
    async def opened(dsn: str) -> AsyncIterator[Any]:
        options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.2, "isolation_level": level}
        engine = sa.create_async_engine(url(dsn, driver), **options)
        try:
            yield engine
        finally:
            await engine.dispose()

    return opened


@asynccontextmanager
async def sessionmaker(dsn: str) -> AsyncIterator[Any]:
    async with engine("asyncpg", "SERIALIZABLE")(dsn) as bound:
        yield sa.async_sessionmaker(bound)


async def orm_write(session: Any, note: str) -> None:
    session.add(Effect(note=note))  # written when the block ends


KINDS = [
    Kind("asyncpg", asyncpg_pool, asyncpg.pool.PoolConnectionProxy, asyncpg_write),
    Kind("psycopg", psycopg_async_pool, psycopg.AsyncConnection, psycopg_async_write),
    Kind("SQLAlchemy asyncpg", engine("asyncpg", "AUTOCOMMIT"), sa.AsyncConnection, sa_async_write),
    Kind("SQLAlchemy psycopg", engine("psycopg", "SERIALIZABLE"), sa.AsyncConnection, sa_async_write),
    Kind("SQLAlchemy session", sessionmaker, sa.AsyncSession, orm_write),
]


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
async def pool(kind: Kind, database: TestDatabase) -> AsyncIterator[Any]:
    async with kind.open(database.app_dsn) as pool:
        yield pool


@pytest.fixture
async def suite(database: TestDatabase, pool: Any) -> AsyncIterator[Suite]:
    async with PostgresHarness.opened(database) as harness:
        await harness._admin.execute("CREATE UNIQUE INDEX ON effect (note)")
        async with PostgresDatabase(database.app_dsn, EMAILS, pool=pool, decode=decode) as harness.database:
            yield Suite(harness)


async def isolation(suite: Suite, connection: Any) -> str:
    return await told(connection, "SELECT current_setting('transaction_isolation')")


async def told(connection: Any, query: str) -> Any:
    match connection:
        case sa.AsyncSession() | sa.AsyncConnection():
            return await connection.scalar(sqlalchemy.text(query))
        case psycopg.AsyncConnection():
            return (await (await connection.execute(query)).fetchone())[0]
        case _:
            return await connection.fetchval(query)


class OwnError(Exception):
    pass


async def test_both_or_neither(suite: Suite, kind: Kind, pool: Any):
    added = await suite.add(2)
    lease = await suite.start()
    claims = await suite.claim(lease)
    with pytest.raises(OwnError):
        async with suite.database.transaction(lease, claims) as connection:
            assert isinstance(connection, kind.yields)
            assert await isolation(suite, connection) == "read committed"
            await kind.write(connection, "never")
            raise OwnError
    assert [await suite.status(key) for key in added] == ["pending", "pending"]
    assert await suite.written() == []

    async with suite.database.transaction(lease, claims) as connection:
        await kind.write(connection, "sent")
        assert await suite.written() == []
    assert [await suite.status(key) for key in added] == ["finished", "finished"]
    assert await suite.written() == ["sent"]


async def test_the_pool_gets_back_what_it_gave(suite: Suite, kind: Kind, pool: Any):
    """After each end of a transaction, and as it was: with the isolation of its own."""

    async def own_isolation() -> str:
        match pool:
            case sa.AsyncEngine():
                async with pool.connect() as connection:
                    return await isolation(suite, connection)
            case sa.async_sessionmaker():
                async with pool() as session:
                    return await isolation(suite, session)
            case psycopg_pool.AsyncConnectionPool():
                async with pool.connection() as connection:
                    assert connection.isolation_level is None
                    assert connection.autocommit
                    return await isolation(suite, connection)
            case _:
                async with pool.acquire() as connection:
                    return await isolation(suite, connection)

    before = await own_isolation()
    lost, mine, forbidden = (*await suite.add(2), *await suite.add(address=FORBIDDEN))
    lease = await suite.start()
    stale, good, refused = await suite.claim(lease)
    assert (stale.key, refused.key) == (lost, forbidden)
    await suite.close(lost)

    with pytest.raises(TaskLost):
        async with suite.database.transaction(lease, [stale, good]):
            pytest.fail("it was entered")
    with pytest.raises(RowRefusedError, match="email_check"):
        async with suite.database.transaction(lease, [refused]):
            pytest.fail("it was entered")
    async with suite.database.transaction(lease, []) as connection:
        await kind.write(connection, "once")
    with pytest.raises(Exception, match="effect_note_idx") as caught:  # the user's own error stays the user's
        async with suite.database.transaction(lease, [good]) as connection:
            await kind.write(connection, "once")
    assert not isinstance(caught.value, RowRefusedError)
    assert caught.value.__cause__ or not kind.name.startswith("SQLAlchemy")  # all of it
    assert await suite.status(mine) == "pending"

    with pytest.raises(DatabaseError):
        async with suite.database.transaction(lease, [good]) as connection:
            if kind.name != "asyncpg":  # whose pool waits
                with pytest.raises(DatabaseError):  # it has one connection, which is taken
                    async with suite.database.transaction(lease, [good]):
                        pytest.fail("it was entered")
            await suite._admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()"
                " AND datname = current_database()"
            )
    assert await suite.status(mine) == "pending"
    async with suite.database.transaction(lease, [good]):
        pass
    assert await suite.status(mine) == "finished"
    assert await own_isolation() == before


async def test_a_runner_on_it(suite: Suite, kind: Kind):
    added = await suite.add(6)

    async def tasker(task):
        async with task.transaction() as connection:
            await kind.write(connection, f"{task.key}")

    settings = Settings(concurrency=2, start_jitter=0, poll_interval=0.05)
    async with Runner(suite.database, each(tasker), settings):
        while len(await suite.written()) < len(added):
            pass
    assert sorted(map(int, await suite.written())) == added
    assert {await suite.status(key) for key in added} == {"finished"}


async def test_an_error_that_the_block_swallows_is_told_at_its_end(suite: Suite):
    """PostgreSQL answers the COMMIT with ROLLBACK then, and no driver says so."""
    (key,) = await suite.add()
    lease = await suite.start()
    claims = await suite.claim(lease)
    with pytest.raises(DatabaseError, match="was not committed: an error in it that is caught"):
        async with suite.database.transaction(lease, claims) as connection:
            with suppress(Exception):
                await told(connection, "SELECT 1 / 0")
    assert await suite.status(key) == "pending"
    async with suite.database.transaction(lease, claims):
        pass
    assert await suite.status(key) == "finished"


async def test_one_that_is_caught_around_a_savepoint_is_nobodys(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    async with suite.database.transaction(lease, await suite.claim(lease)) as connection:
        layered = isinstance(connection, sa.AsyncSession | sa.AsyncConnection)
        with suppress(Exception):
            async with connection.begin_nested() if layered else connection.transaction():
                await told(connection, "SELECT 1 / 0")
    assert await suite.status(key) == "finished"


@pytest.mark.parametrize("kind", [KINDS[1]], ids=str)
async def test_a_rollback_of_psycopg_is_no_commit(suite: Suite, kind: Kind):
    (key,) = await suite.add()
    lease = await suite.start()
    claims = await suite.claim(lease)
    with pytest.raises(psycopg.Rollback):
        async with suite.database.transaction(lease, claims):
            raise psycopg.Rollback
    assert await suite.status(key) == "pending"


@asynccontextmanager
async def ascii_pool(dsn: str) -> AsyncIterator[Any]:
    options = {"client_encoding": "SQL_ASCII"}  # text comes as bytes
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=1, kwargs=options) as pool:
        yield pool


@pytest.mark.parametrize("kind", [Kind("psycopg", ascii_pool, psycopg.AsyncConnection, psycopg_async_write)])
async def test_whatever_the_driver_makes_of_text(suite: Suite, kind: Kind):
    (key,) = await suite.add()
    lease = await suite.start()
    async with suite.database.transaction(lease, await suite.claim(lease)):
        pass
    assert await suite.status(key) == "finished"


@pytest.mark.parametrize("kind", KINDS[2:], ids=str)
@pytest.mark.parametrize(("end", "status"), [("rollback", "pending"), ("commit", "finished")])
async def test_a_transaction_that_the_block_ends_itself(suite: Suite, kind: Kind, end: str, status: str):
    (key,) = await suite.add()
    lease = await suite.start()
    claims = await suite.claim(lease)
    with pytest.raises(DatabaseError, match="was ended within its block: leave"):
        async with suite.database.transaction(lease, claims) as connection:
            await getattr(connection, end)()
    assert await suite.status(key) == status
    assert await suite.finish(lease, *claims) in (Outcome.FINISHED, Outcome.ALREADY_YOURS)


@pytest.mark.parametrize("pool", [object(), sqlalchemy.create_engine("sqlite://"), "postgresql://app@db/app"])
def test_what_is_no_pool(pool: Any):
    with pytest.raises(SettingsError, match="pool= takes a pool of asyncpg, .* not (object|Engine of|str)"):
        PostgresDatabase("postgresql://app@db/app", EMAILS, pool=pool)
