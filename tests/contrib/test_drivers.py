"""finish_in and finish_in_sync on connections of every driver and layer: the same promise, the same errors."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import sqlalchemy
from sqlalchemy.ext import asyncio as sa

from session_lock import Runner, Settings
from session_lock.database import Outcome
from session_lock.errors import (
    DatabaseError,
    RowRefusedError,
    SchemaError,
    SessionLost,
    SettingsError,
    TaskLost,
)
from tests.conftest import TestDatabase
from tests.contrib.kinds import KINDS, Hand, Kind, django_connection, django_databases, set_up_django
from tests.database.conftest import FORBIDDEN, PostgresHarness, Suite


class OwnError(Exception):
    pass


@pytest.fixture
async def suite(database: TestDatabase) -> AsyncIterator[Suite]:
    async with PostgresHarness.opened(database) as harness:
        yield Suite(harness)


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
async def hand(kind: Kind, database: TestDatabase) -> AsyncIterator[Hand]:
    async with kind.connect(database.app_dsn) as hand:
        yield hand


# The promise ---------------------------------------------------------------------------------------------


async def test_both_or_neither(suite: Suite, hand: Hand):
    added = await suite.add(2)
    lease = await suite.start()
    claims = await suite.claim(lease)
    with pytest.raises(OwnError):
        async with hand.begin():
            await hand.finish_in(suite.database, lease, claims)
            await hand.write("never")
            raise OwnError
    assert [await suite.status(key) for key in added] == ["pending", "pending"]
    assert await suite.written() == []

    async with hand.begin():
        await hand.finish_in(suite.database, lease, claims)
        await hand.write("sent")
        assert [await suite.status(key) for key in added] == ["pending", "pending"]
    assert [await suite.status(key) for key in added] == ["finished", "finished"]
    assert await suite.written() == ["sent"]
    assert await suite.finish(lease, *claims) == [Outcome.ALREADY_YOURS] * 2


async def lost_task(suite: Suite, hand: Hand, caplog) -> None:
    mine, other = await suite.add(2)
    lease = await suite.start()
    claims = await suite.claim(lease)
    await suite.close(other)
    with pytest.raises(TaskLost) as caught:
        async with hand.begin():
            await hand.write("never")
            await hand.finish_in(suite.database, lease, claims)
    assert str(caught.value) == f"1 of 2 tasks of email are not held by session {lease.id}"
    assert await suite.status(mine) == "pending"

    # No nonce, in what the layers log (echo=True, DEBUG=True) and in what they raise.
    chain, error = [], caught.value
    while error is not None:
        chain.append(f"{error} {error!r}")
        error = error.__cause__ or error.__context__
    if hand.kind.name == "Django":
        chain.append(str(await hand.call(lambda: hand.connection.queries)))
        assert "never" in chain[-1]
    shown = caplog.text + "\n".join(chain)
    assert str(lease.nonce) not in shown
    assert lease.nonce.hex not in shown

    async with hand.begin():  # swallowed by the caller
        await hand.write("never")
        with pytest.raises(TaskLost):
            await hand.finish_in(suite.database, lease, claims)
    assert await suite.status(mine) == "pending"
    await suite.remove(mine)


async def lost_session(suite: Suite, hand: Hand) -> None:
    (key,) = await suite.add()
    lease = await suite.start()
    claims = await suite.claim(lease)
    await suite.expire(lease)
    with pytest.raises(SessionLost, match=f"session {lease.id} is not live"):
        async with hand.begin():
            await hand.write("never")
            await hand.finish_in(suite.database, lease, claims)
    assert await suite.status(key) == "pending"
    await suite.remove(key)


async def row_that_refuses(suite: Suite, hand: Hand) -> None:
    (key,) = await suite.add(address=FORBIDDEN)
    lease = await suite.start()
    claims = await suite.claim(lease)
    with pytest.raises(RowRefusedError, match="email_check") as caught:
        async with hand.begin():
            await hand.write("never")
            await hand.finish_in(suite.database, lease, claims)
    assert FORBIDDEN not in str(caught.value)
    assert await suite.status(key) == "pending"
    await suite.remove(key)


async def no_right(suite: Suite, hand: Hand) -> None:
    lease = await suite.start()
    function = f'session_lock."finish_in_{suite.database._server.functions}"'
    await suite._admin.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM app")
    with pytest.raises(SchemaError, match="--grant-to ROLE"):
        async with hand.begin():
            await hand.write("never")
            await hand.finish_in(suite.database, lease, [])
    await suite._admin.execute(f"GRANT EXECUTE ON FUNCTION {function} TO app")


async def test_an_error_keeps_nothing_and_breaks_nothing(suite: Suite, hand: Hand, caplog):
    """Each on the connection that the one before was raised on."""
    caplog.set_level(logging.DEBUG)
    await lost_task(suite, hand, caplog)
    await lost_session(suite, hand)
    await row_that_refuses(suite, hand)
    await no_right(suite, hand)
    assert await suite.written() == []

    (key,) = await suite.add()
    lease = await suite.start()
    claims = await suite.claim(lease)
    async with hand.begin():
        await hand.finish_in(suite.database, lease, claims)
        await hand.write("afterwards")
    assert await suite.status(key) == "finished"
    assert await suite.written() == ["afterwards"]


async def test_a_connection_that_is_dead(suite: Suite, kind: Kind, database: TestDatabase):
    (key,) = await suite.add()
    lease = await suite.start()
    claims = await suite.claim(lease)
    with pytest.raises(Exception) as caught:
        async with kind.connect(database.app_dsn) as hand, hand.begin():
            await hand.write("never")
            await suite._admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()"
                " AND datname = current_database()"
            )
            try:
                await hand.finish_in(suite.database, lease, claims)
            except Exception as error:
                assert isinstance(error, DatabaseError)
                assert error.retryable
                assert str(lease.nonce) not in str(error)
                raise
    assert caught.type is DatabaseError or not kind.name.startswith("SQLAlchemy")
    assert await suite.status(key) == "pending"
    assert await suite.written() == []


# What is refused -----------------------------------------------------------------------------------------


async def test_a_connection_that_will_not_do(suite: Suite, kind: Kind, database: TestDatabase):
    (key,) = await suite.add()
    lease = await suite.start()
    claims = await suite.claim(lease)
    async with kind.connect(database.app_dsn, autocommit=True) as hand:
        with pytest.raises(SettingsError, match="needs an open transaction: ") as caught:
            await hand.finish_in(suite.database, lease, claims)
        assert str(caught.value).startswith("finish_in_sync(" if kind.sync else "finish_in(")
        if kind.sync:
            with pytest.raises(SettingsError, match="call finish_in_sync with it"):
                await suite.database.finish_in(hand.connection, lease, claims)
        else:
            with pytest.raises(
                SettingsError, match="takes a synchronous connection.*await finish_in with it"
            ):
                suite.database.finish_in_sync(hand.connection, lease, claims)
    assert await suite.status(key) == "pending"


async def test_what_is_no_connection(suite: Suite, database: TestDatabase):
    lease = await suite.start()
    engine = sqlalchemy.create_engine("sqlite://")
    for thing, name in ((None, "NoneType"), (object(), "object"), (engine, "Engine of sqlalchemy")):
        with pytest.raises(SettingsError, match=f"AsyncSession or AsyncConnection of SQLAlchemy, not {name}"):
            await suite.database.finish_in(thing, lease, [])
        with pytest.raises(SettingsError, match=f"Session or Connection of SQLAlchemy, not {name}"):
            suite.database.finish_in_sync(thing, lease, [])
    with (
        engine.connect() as connection,
        pytest.raises(SettingsError, match="needs PostgreSQL by asyncpg or psycopg, not sqlite"),
    ):
        suite.database.finish_in_sync(connection, lease, [])
    engine.dispose()


def test_django_on_another_database() -> None:
    set_up_django()
    from django.db.backends.sqlite3.base import DatabaseWrapper

    from session_lock.drivers import Statement, fetch_sync

    with pytest.raises(SettingsError, match="needs a database of PostgreSQL, not sqlite"):
        fetch_sync(DatabaseWrapper({"NAME": ":memory:"}), Statement("finish_in_sync", "SELECT", ()))


# In what people write ------------------------------------------------------------------------------------


async def test_runners_whose_tasker_writes_by_it(suite: Suite, kind: Kind, database: TestDatabase):
    added = await suite.add(6)

    async def tasker(batch):
        async with kind.connect(database.app_dsn) as hand:
            for task in batch:
                async with hand.begin():
                    await hand.finish_in(task)
                    await hand.write(f"{task.key}")
            async with hand.begin():
                with pytest.raises(TaskLost):
                    await hand.finish_in(batch)  # done before
        if len(await suite.written()) == len(added):
            runner.stop()
        return batch

    settings = Settings(batch_size=3, concurrency=2, start_jitter=0, poll_interval=0.05)
    runner = Runner(suite.database, tasker, settings)
    await runner.run()
    assert sorted(map(int, await suite.written())) == added
    assert {await suite.status(key) for key in added} == {"finished"}


async def test_sqlalchemy_begins_by_itself(suite: Suite, database: TestDatabase):
    """As with every other use of a connection: no begin(), and a commit at the end."""
    (key,) = await suite.add()
    lease = await suite.start()
    claims = await suite.claim(lease)
    engine = sa.create_async_engine(database.app_dsn.replace("postgresql:", "postgresql+asyncpg:", 1))
    async with engine.connect() as connection:
        await suite.database.finish_in(connection, lease, claims)
        await connection.rollback()
        assert await suite.status(key) == "pending"
        await suite.database.finish_in(connection, lease, claims)
        await connection.commit()
    await engine.dispose()
    assert await suite.status(key) == "finished"


async def test_a_pool_of_sqlalchemy_gets_no_broken_connection(suite: Suite, database: TestDatabase):
    engine = sa.create_async_engine(
        database.app_dsn.replace("postgresql:", "postgresql+asyncpg:", 1), pool_size=1, max_overflow=0
    )
    lease = await suite.start()
    for _ in range(2):
        with pytest.raises(DatabaseError):
            async with engine.begin() as connection:
                await connection.execute(sqlalchemy.text("SELECT 1"))
                await suite._admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()"
                    " AND datname = current_database()"
                )
                await suite.database.finish_in(connection, lease, [])
    async with engine.begin() as connection:
        await suite.database.finish_in(connection, lease, [])
    await engine.dispose()


def test_django_says_so_when_the_error_was_swallowed(database: TestDatabase, suite: Suite):
    """It would commit what the server has given up, without a word."""
    from django.db import transaction

    from session_lock.drivers import Statement, fetch_sync

    wrong = Statement("finish_in_sync", "SELECT 1 / $1::integer", (0,))
    with django_connection(database.app_dsn) as connection:
        with transaction.atomic():
            with pytest.raises(Exception, match="division by zero"):
                fetch_sync(connection, wrong)
            with pytest.raises(transaction.TransactionManagementError), connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1")


WITH_PSYCOPG2 = """
import json, sys
sys.modules["psycopg"] = None  # Django takes psycopg 3 where there is one
import django.conf
from uuid import uuid4
from session_lock.drivers import Statement, fetch_sync
from session_lock.sqlstate import translate

django.conf.settings.configure(DATABASES={"default": json.loads(sys.argv[1])})
from django.db import connection, transaction

assert connection.Database.__name__ == "psycopg2"
with transaction.atomic():
    try:
        fetch_sync(connection, Statement("finish_in_sync", sys.argv[2], (999, str(uuid4()), ["1"], [1])))
    except Exception as error:
        print(repr(translate(error, "finish_in_sync", "")))
"""


async def test_django_over_psycopg2(suite: Suite, database: TestDatabase):
    await suite.start()
    function = f"session_lock.finish_in_{suite.database._server.functions}"
    query = f"SELECT {function}($1::bigint, $2::text::uuid, $3::text[]::bigint[], $4::bigint[])"
    settings = json.dumps(django_databases(database.app_dsn))
    command = [sys.executable, "-c", WITH_PSYCOPG2, settings, query]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
    assert done.stdout == "SessionLost('session 999 is not live')\n", done.stderr
