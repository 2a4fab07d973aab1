"""A mapping comes into a table that is in use, and goes again: nobody waits for it for longer than an instant, and it gives up in one sentence.

That nobody waits is asked of the server: the others have a `lock_timeout`, ten times what they may wait and a fraction of what they
would wait behind one that waits for its lock as long as that takes.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from session_lock import PostgresDatabase, queue
from session_lock.catalog import read_shape
from session_lock.cli.sql import files_of
from session_lock.duty_table import DUTIES
from session_lock.embedded import find_bin_dir, temp_postgres
from session_lock.errors import DatabaseError, SchemaError
from session_lock.indexes import index_steps
from session_lock.limits import Limit
from session_lock.locks import LOCK
from session_lock.migrations import check, install, prune, remove, validate
from session_lock.schema import mapping_files, render
from session_lock.table import TaskTable
from tests.conftest import APP_ROLE, TestDatabase
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping, connected, until_waited_for

HELD = 2.0
"""Seconds for which somebody's transaction is open: several times the others' `lock_timeout`."""

LIMITED = replace(EMAILS, limits=(Limit(3), Limit(1, by="address")))

Work = Callable[[asyncpg.Connection], Awaitable[Any]]


async def up(connection: asyncpg.Connection, table: TaskTable = EMAILS) -> None:
    await connection.execute(render("tasks.up.sql", table, await read_shape(connection, table)))


async def down(connection: asyncpg.Connection, table: TaskTable = EMAILS) -> None:
    shape = await read_shape(connection, table)
    for name in mapping_files(table, "down"):
        await connection.execute(render(name, table, shape))


async def trigger(connection: asyncpg.Connection) -> None:
    await connection.execute(render("tasks.trigger.sql", EMAILS, await read_shape(connection, EMAILS)))


async def trigger_down(connection: asyncpg.Connection) -> None:
    await connection.execute(render("tasks.trigger.down.sql", EMAILS, await read_shape(connection, EMAILS)))


@asynccontextmanager
async def open_transaction(database: TestDatabase, table: str = "email") -> AsyncIterator[asyncpg.Connection]:
    """Somebody has written and does not commit."""
    async with connected(database.admin_dsn) as holder:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute(f"UPDATE public.{table} SET body = 'x'")
        yield holder
        await transaction.commit()


async def others(database: TestDatabase, until: asyncio.Event, rows: str, patience: str) -> tuple[int, int]:
    """Insert and read until then; how often, and how often it would have waited for longer than this."""
    done = refused = 0
    async with connected(database.admin_dsn) as connection:
        await connection.execute(f"SET lock_timeout = '{patience}'")
        while not until.is_set():
            try:
                await connection.execute(rows)
                await connection.fetchval("SELECT count(*) FROM public.email WHERE id = 1")
                done += 1
            except asyncpg.LockNotAvailableError:
                refused += 1
            await asyncio.sleep(0.002)
    return done, refused


async def waits_of(database: TestDatabase, pid: int, until: asyncio.Event) -> int:
    """How often it began to wait for a lock on a table."""
    began = set()
    query = "SELECT waitstart FROM pg_locks WHERE pid = $1 AND NOT granted AND locktype = 'relation' AND waitstart IS NOT NULL"
    async with connected(database.admin_dsn) as connection:
        while not until.is_set():
            began |= {row["waitstart"] for row in await connection.fetch(query, pid)}
            await asyncio.sleep(0.002)
    return len(began)


async def beside(
    database: TestDatabase,
    holding: AbstractAsyncContextManager[Any],
    work: Work,
    *rows: str,
    patience: str = "500ms",
    missed: int = 0,
) -> None:
    """The work succeeds once what is held has been let go, after several tries; and those who came meanwhile have not waited."""
    until = asyncio.Event()
    async with connected(database.admin_dsn) as worker:
        async with holding:
            writing = [asyncio.create_task(others(database, until, each, patience)) for each in rows]
            waiting = asyncio.create_task(waits_of(database, worker.get_server_pid(), until))
            working = asyncio.ensure_future(work(worker))
            await asyncio.sleep(HELD)
            assert not working.done(), await working
            until.set()
            for done, refused in await asyncio.gather(*writing):
                assert done > 10
                assert refused <= missed
            assert await waiting > 1
        await working


INSERT = "INSERT INTO public.email (address) VALUES ('a')"


async def beside_a_long_transaction(database: TestDatabase, work: Work) -> None:
    await beside(database, open_transaction(database), work, INSERT, INSERT)


@asynccontextmanager
async def reading(database: TestDatabase, table: str) -> AsyncIterator[None]:
    """Somebody has read it and does not end his transaction."""
    async with connected(database.admin_dsn) as reader, reader.transaction():
        await reader.fetch(f"SELECT FROM {table}")
        yield


# Nobody waits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("work", [up, install])
async def test_who_writes_and_who_reads_goes_on_while_the_columns_wait_for_a_long_transaction(
    database, admin, work
):
    await add_emails(admin, 3)
    await beside_a_long_transaction(database, lambda worker: work(worker, EMAILS))
    assert await admin.fetchval("SELECT attempts FROM public.email WHERE id = 1") == 0


@pytest.mark.parametrize("work", [down, remove])
@pytest.mark.parametrize("table", [EMAILS, LIMITED], ids=["plain", "limits"])
async def test_and_while_the_way_back_does(database, admin, work, table):
    await install(admin, table)
    await add_emails(admin, 3)
    await beside_a_long_transaction(database, lambda worker: work(worker, table))
    assert [each async for each in columns(admin)] == ["id", "address", "body", "sent_at", "failed_at"]


async def columns(admin: asyncpg.Connection) -> AsyncIterator[str]:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = 'public.email'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    for (name,) in await admin.fetch(query):
        yield name


@pytest.mark.parametrize("work", [trigger, trigger_down])
async def test_and_while_the_trigger_that_wakes_does(database, admin, work):
    await install(admin, EMAILS)
    if work is trigger_down:
        await trigger(admin)
    await add_emails(admin, 3)
    await beside_a_long_transaction(database, work)
    triggers = (
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.email'::regclass AND tgname ~ '^wake_'"
    )
    assert await admin.fetchval(triggers) == (1 if work is trigger else 0)


async def test_and_while_all_versions_are_removed(database, admin):
    before = schema(database)
    await install(admin, EMAILS)
    changed = replace(EMAILS, order_by=("id",))
    await install(admin, changed)
    await add_emails(admin, 3)
    await beside_a_long_transaction(database, lambda worker: remove(worker, changed))
    await admin.execute(render("sessions.down.sql", EMAILS, await read_shape(admin, EMAILS)))
    assert schema(database) == before


PARTS = 20


def partitioned(parts: int) -> str:
    return (
        "CREATE TABLE public.event (id bigint PRIMARY KEY, body text, done_at timestamptz) PARTITION BY HASH (id);"
        + "".join(
            f"CREATE TABLE public.event_{n} PARTITION OF public.event FOR VALUES WITH (modulus {parts}, remainder {n});"
            for n in range(parts)
        )
    )


EVENTS = TaskTable(
    "public.event", key="id", pending="done_at IS NULL", finish="done_at = now()", columns=("body",)
)


async def whole(connection: asyncpg.Connection) -> None:
    *_, last = index_steps("tasks.index.sql", EVENTS, await read_shape(connection, EVENTS)).values()
    await connection.execute(last)


async def beside_a_long_transaction_in_one_partition(database: TestDatabase, work: Work) -> None:
    """In the last one, when all others are locked already."""
    rows = "INSERT INTO public.event SELECT 1000 + random() * 1e9"
    held = open_transaction(database, f"event_{PARTS - 1}")
    # One miss is a moment in which the machine did something else.
    await beside(database, held, work, rows, patience="45ms", missed=1)


async def test_those_of_a_partitioned_table_are_waited_for_no_longer_in_all(database, admin):
    """Whoever waits for 50 ms in each, while the others are locked, may be in the way for a second."""
    await admin.execute(partitioned(PARTS))
    await admin.execute("INSERT INTO public.event SELECT g, 'x' FROM generate_series(1, 200) AS g")
    await beside_a_long_transaction_in_one_partition(database, lambda worker: up(worker, EVENTS))
    for step in [*index_steps("tasks.index.sql", EVENTS, await read_shape(admin, EVENTS)).values()][:-1]:
        await admin.execute(step)
    await beside_a_long_transaction_in_one_partition(database, whole)
    await install(admin, EVENTS)
    changed = replace(EVENTS, order_by=("id",))
    await install(admin, changed)
    await beside_a_long_transaction_in_one_partition(database, lambda worker: prune(worker, changed))
    wholes = "SELECT count(*) FROM pg_class WHERE relkind = 'I' AND relname ~ '^pending_'"
    assert await admin.fetchval(wholes) == 1


async def test_a_partitioned_table_is_had_between_short_transactions_however_many_parts_it_has(
    database, admin
):
    """For the whole of it there is more time than for each of the parts: with 1 ms for all of 60 not one of 33 attempts had it."""
    await admin.execute(partitioned(PARTS))
    await admin.execute("SET session_lock.patience = '15 s'")
    until = asyncio.Event()

    async def write() -> None:
        async with connected(database.admin_dsn) as connection:
            while not until.is_set():
                async with connection.transaction():
                    await connection.execute("INSERT INTO public.event SELECT (random() * 1e15)::bigint")
                    await asyncio.sleep(0.015)

    writing = [asyncio.create_task(write()) for _ in range(16)]
    try:
        await asyncio.sleep(0.5)
        await up(admin, EVENTS)
    finally:
        until.set()
        await asyncio.gather(*writing)


async def test_parts_that_others_leave_one_by_one_are_not_waited_for_one_by_one(database, admin):
    """With a time for each of 400 the whole would be kept from all for as long as that takes, 0.2 s or more."""
    await admin.execute(partitioned(400))
    until = asyncio.Event()
    parts = await admin.fetch(
        "SELECT relid::regclass::text AS name FROM pg_partition_tree('public.event') WHERE isleaf ORDER BY relid DESC"
    )
    async with connected(database.admin_dsn) as worker, connected(database.admin_dsn) as holder:
        for number, part in enumerate(parts):
            locked = f"SAVEPOINT s{number}; LOCK TABLE ONLY {part['name']} IN ROW SHARE MODE"
            await holder.execute(f"BEGIN; {locked}" if number == 0 else locked)
        rows = "INSERT INTO public.event SELECT (random() * 1e15)::bigint"
        writing = asyncio.create_task(others(database, until, rows, "100ms"))
        working = asyncio.create_task(worker.execute(render(LOCK, EVENTS, None)))
        one = "SELECT count(*) FROM generate_series(1, 3000); ROLLBACK TO s{};"  # half a millisecond, in which nobody sleeps
        leaving = "".join(one.format(number) for number in reversed(range(400)))
        await until_waited_for(holder)
        await holder.execute(leaving)
        await holder.execute("ROLLBACK")
        await working
        until.set()
        done, refused = await writing
    assert done > 10
    assert refused <= 1  # a moment in which the machine did something else


async def test_what_is_there_takes_no_lock(database, admin):
    await install(admin, EMAILS)
    await add_emails(admin, 1)
    async with open_transaction(database):
        await admin.execute("SET session_lock.patience = '0'")
        await up(admin)


async def test_the_row_that_a_finish_is_tried_on_is_free_before_a_discard_is(database, admin):
    await add_emails(admin, 5)
    await admin.execute(
        "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN IF new.failed_at IS NOT NULL THEN PERFORM pg_sleep(1); END IF; RETURN new; END';"
        "CREATE TRIGGER slow BEFORE UPDATE ON public.email FOR EACH ROW EXECUTE FUNCTION public.slow()"
    )
    async with connected(database.admin_dsn) as worker:
        validating = asyncio.create_task(validate(worker, EMAILS))
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'"
        async with asyncio.timeout(10):
            while not await admin.fetchval(sleeping, worker.get_server_pid()):
                await asyncio.sleep(0.01)
        free = "SELECT count(*) FROM (SELECT FROM public.email FOR UPDATE SKIP LOCKED) AS row"
        assert await admin.fetchval(free) == 4
        await validating


async def test_where_there_is_no_trigger_the_way_back_takes_no_lock(database, admin):
    await install(admin, EMAILS)
    await add_emails(admin, 1)
    down = render("tasks.trigger.down.sql", EMAILS, await read_shape(admin, EMAILS))
    async with open_transaction(database):
        await admin.execute("SET session_lock.patience = '0'")
        await admin.execute(down)
    await admin.execute("DROP TABLE public.email")
    await admin.execute(down)


async def test_a_schema_that_is_there_is_made_again_without_a_lock_that_keepalives_would_wait_for(admin):
    """Until the end of the transaction that it is in, in which a table may be waited for."""
    await install(admin, EMAILS)
    locked = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND mode !~ '^(Access|Row)Share' AND relation IN (SELECT oid FROM pg_class WHERE relnamespace = 'session_lock'::regnamespace)"
    async with admin.transaction():
        await admin.execute(render("sessions.up.sql", EMAILS, await read_shape(admin, EMAILS)))
        assert await admin.fetchval(locked) == 0


async def test_and_so_is_a_table_that_the_library_ships(database, admin):
    """`session-lock sql queue jobs` may be run again, also in a transaction."""
    jobs = queue("jobs")
    await install(admin, jobs)
    shape = await read_shape(admin, jobs)
    async with connected(database.admin_dsn) as adder, adder.transaction():
        await adder.execute("INSERT INTO jobs (payload) VALUES ('1')")
        await admin.execute("SET lock_timeout = '1s'")
        for name in ("queue.up.sql", "tasks.up.sql", "queue.index.sql"):
            await admin.execute(render(name, jobs, shape))


async def test_the_table_of_the_sessions_is_waited_for_patiently_too(database, admin):
    """Who waits for it makes all keepalives wait."""
    await install(admin, EMAILS)
    await admin.execute(
        "ALTER TABLE session_lock.session DROP COLUMN idle_from; SET session_lock.patience = '1 s'"
    )
    text = render("sessions.up.sql", EMAILS, await read_shape(admin, EMAILS))
    async with connected(database.admin_dsn) as reader, reader.transaction():
        await reader.fetch("SELECT FROM session_lock.session")
        told = f"^session_lock.session was in use .* by that of the server process {reader.get_server_pid()}: the table was not changed"
        with pytest.raises(asyncpg.LockNotAvailableError, match=told):
            await admin.execute(text)
    await admin.execute(text)
    assert [str(each) for each in await check(admin, EMAILS) if not each.note] == []


@pytest.mark.parametrize(
    ("table", "held"),
    [
        (EMAILS, "public.email"),
        (EMAILS, "session_lock.session"),
        (DUTIES, "session_lock.duty_run"),
        (DUTIES, "session_lock.duty"),
    ],
)
async def test_all_is_taken_down_in_one_transaction_and_nobody_waits(database, admin, table, held):
    """What has the one table may not keep it from everybody while it waits for the other, nor be in line for that."""
    await install(admin, table)
    await add_emails(admin, 3)
    shape = await read_shape(admin, table)
    text = "\n".join(render(name, table, shape) for name in files_of("down.all", table))
    beats = "INSERT INTO session_lock.session (name, capacity, started_at, expires_at) VALUES ('other', 1, now(), now())"
    await beside(
        database, reading(database, held), lambda worker: worker.execute(text), INSERT, INSERT, beats, beats
    )
    assert await admin.fetchval("SELECT to_regnamespace('session_lock')") is None


@pytest.mark.parametrize(
    "lacks",
    [
        "DROP COLUMN idle_from",
        "DROP COLUMN beat_at",
        "session_unswept",
        "failure_of_task",
        "started_name_value_at",
    ],
)
@pytest.mark.parametrize("by", ["the file", "install"])
async def test_what_is_new_for_the_sessions_and_a_table_comes_in_one_transaction_and_no_keepalive_waits(
    database, admin, lacks, by
):
    for name in ("sessions.up.sql", "sessions.alwaysup.sql"):
        await admin.execute(render(name, EMAILS, None))
    await admin.execute(
        f"ALTER TABLE session_lock.session {lacks}" if " " in lacks else f"DROP INDEX session_lock.{lacks}"
    )
    shape = await read_shape(admin, EMAILS)
    text = "\n".join(render(name, EMAILS, shape) for name in files_of("up", EMAILS))

    async def work(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await (connection.execute(text) if by == "the file" else install(connection, EMAILS))

    beats = "INSERT INTO session_lock.session (name, capacity, started_at, expires_at) VALUES ('other', 1, now(), now()); INSERT INTO session_lock.failure (name, task_key, attempt, at, error) VALUES ('other', '1', 1, now(), ''); INSERT INTO session_lock.started VALUES ('other', 1, now(), 1)"
    await beside(database, reading(database, "public.email"), work, beats)
    await install(admin, EMAILS)
    assert [str(each) for each in await check(admin, EMAILS) if not each.note] == []


async def test_a_mapping_that_is_installed_while_the_sessions_are_waited_for_keeps_them(database, admin):
    await admin.execute(render("sessions.up.sql", EMAILS, None))
    await admin.execute(render("sessions.alwaysup.sql", EMAILS, None))
    async with connected(database.admin_dsn) as worker, connected(database.admin_dsn) as reader:
        async with reader.transaction():
            await reader.fetch("SELECT FROM session_lock.session")
            removing = asyncio.create_task(worker.execute(render("sessions.down.sql", EMAILS, None)))
            await asyncio.sleep(0.3)
            await up(admin)
            await admin.execute(render("tasks.alwaysup.sql", EMAILS, await read_shape(admin, EMAILS)))
        with pytest.raises(asyncpg.RaiseError, match="^mappings are still installed"):
            await removing
    await install(admin, EMAILS)
    assert [str(each) for each in await check(admin, EMAILS) if not each.note] == []


async def test_the_tables_of_duties_are_waited_for_patiently_too(database, admin):
    await install(admin, DUTIES)
    await admin.execute("SET session_lock.patience = '1 s'")
    async with connected(database.admin_dsn) as reader, reader.transaction():
        await reader.fetch("SELECT FROM session_lock.duty")
        told = r"session_lock\.duty was in use by other transactions at each of [2-9]"
        with pytest.raises(DatabaseError, match=told):
            await remove(admin, DUTIES)
    await remove(admin, DUTIES)
    assert await admin.fetchval("SELECT to_regclass('session_lock.duty_run')") is None


async def test_an_index_of_the_sessions_that_is_missing_is_waited_for_patiently_too(database, admin):
    await install(admin, EMAILS)
    await admin.execute("DROP INDEX session_lock.failure_of_task; SET session_lock.patience = '1 s'")
    text = render("sessions.up.sql", EMAILS, None)
    async with connected(database.admin_dsn) as writer, writer.transaction():
        await writer.execute("DELETE FROM session_lock.failure")
        with pytest.raises(
            asyncpg.LockNotAvailableError, match=r"session_lock\.failure was in use .* at each of [2-9]"
        ):
            await admin.execute(text)
    await admin.execute(text)
    assert await admin.fetchval("SELECT to_regclass('session_lock.failure_of_task') IS NOT NULL")


# What has come meanwhile ------------------------------------------------------------------------------


async def test_a_task_that_is_committed_while_the_table_is_waited_for_keeps_it_there(database, admin):
    jobs = queue("jobs")
    await install(admin, jobs)
    async with connected(database.admin_dsn) as adder, connected(database.admin_dsn) as worker:
        transaction = adder.transaction()
        await transaction.start()
        await adder.execute("INSERT INTO jobs (payload) VALUES ('1')")
        removing = asyncio.create_task(remove(worker, jobs))
        await asyncio.sleep(0.5)
        assert not removing.done(), await removing
        await transaction.commit()
        with pytest.raises(SchemaError, match="^'jobs' was not removed: tasks are pending in jobs: "):
            await removing
    assert [str(each) for each in await check(admin, jobs) if not each.note] == []
    assert await admin.fetchval("SELECT count(*) FROM jobs") == 1


@pytest.mark.parametrize("versions", [1, 2])
async def test_a_session_that_starts_while_the_table_is_waited_for_keeps_it_as_it_is(
    database, admin, versions
):
    await install(admin, EMAILS)
    removed = EMAILS
    if versions == 2:
        removed = replace(EMAILS, order_by=("id",))
        await install(admin, removed)
    await add_emails(admin, 1)
    async with (
        PostgresDatabase(database.admin_dsn, removed) as emails,
        connected(database.admin_dsn) as worker,
    ):
        async with open_transaction(database):
            removing = asyncio.create_task(remove(worker, removed))
            await asyncio.sleep(0.5)
            assert not removing.done(), await removing
            lease = await emails.start_session(capacity=1, ttl=30, label="", app_version="")
        with pytest.raises(
            SchemaError, match="a session of it has started meanwhile: stop the Runners first"
        ):
            await removing
        assert [str(each) for each in await check(admin, removed) if not each.note] == []
        await emails.end_session(lease, [])
        await remove(worker, removed)


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_a_transaction_that_would_not_see_what_has_come_is_refused(admin, isolation):
    await install(admin, EMAILS)
    level = isolation.replace("_", " ").upper()
    async with admin.transaction(isolation=isolation):
        told = (
            f"'email' was not removed: in a transaction that is {level} it would not see what others commit meanwhile: "
            "begin it as READ COMMITTED, or remove it outside of a transaction"
        )
        with pytest.raises(SchemaError, match=f"^{told}$"):
            await remove(admin, EMAILS)
        assert await admin.fetchval("SELECT 1") == 1  # it is refused before the transaction would fail
    assert [str(each) for each in await check(admin, EMAILS) if not each.note] == []
    async with admin.transaction(isolation="read_committed"):
        await remove(admin, EMAILS)


async def test_outside_of_one_it_sees_it_whatever_the_role_begins_with(database, admin):
    jobs = queue("jobs")
    await install(admin, jobs)
    async with connected(database.admin_dsn) as adder, connected(database.admin_dsn) as worker:
        await worker.execute("SET default_transaction_isolation = 'repeatable read'")
        async with adder.transaction():
            await adder.execute("INSERT INTO jobs (payload) VALUES ('1')")
            removing = asyncio.create_task(remove(worker, jobs))
            await asyncio.sleep(0.5)
            assert not removing.done(), await removing
        with pytest.raises(SchemaError, match="^'jobs' was not removed: tasks are pending in jobs: "):
            await removing
        assert await worker.fetchval("SHOW default_transaction_isolation") == "repeatable read"
    assert await admin.fetchval("SELECT count(*) FROM jobs") == 1


@pytest.mark.parametrize("name", ["queue.down.sql", "sessions.down.sql"])
async def test_nor_do_the_files_of_the_way_back_run_in_one(admin, name):
    jobs = queue("jobs")
    await install(admin, jobs)
    text = render(name, jobs, await read_shape(admin, jobs))
    with pytest.raises(asyncpg.InvalidTransactionStateError, match="needs READ COMMITTED, not SERIALIZABLE$"):
        async with admin.transaction(isolation="serializable"):
            await admin.execute(text)


# Vacuum ----------------------------------------------------------------------------------------------


async def test_an_automatic_vacuum_gives_way():
    """It would go on for hours, and does not give way to who waits for 50 ms."""
    slow = {
        "autovacuum_naptime": "1s", "autovacuum_vacuum_cost_delay": "100ms", "autovacuum_vacuum_cost_limit": 1,
        "autovacuum_vacuum_threshold": 1, "autovacuum_vacuum_scale_factor": 0,
    }  # fmt: skip
    server = temp_postgres(**slow)
    running = await asyncio.to_thread(server.__enter__)
    try:
        async with connected(running.dsn) as admin:
            await admin.execute(EMAIL_TABLE)
            await add_emails(admin, 50_000)
            await admin.execute("DELETE FROM public.email WHERE id % 2 = 0")
            busy = "SELECT count(*) FROM pg_stat_progress_vacuum WHERE relid = 'public.email'::regclass AND heap_blks_scanned > 0"
            async with asyncio.timeout(30):
                while not await admin.fetchval(busy):
                    await asyncio.sleep(0.05)
            await admin.execute("CREATE ROLE plain; ALTER TABLE public.email OWNER TO plain; SET ROLE plain")
            await admin.execute("SET session_lock.patience = '20 s'")
            await up(admin)
        assert "canceling autovacuum task" in running.log.read_text()
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


# It gives up -----------------------------------------------------------------------------------------


async def test_when_its_patience_is_over_it_says_so_in_a_sentence_and_nothing_has_changed(database, admin):
    await admin.execute(render("sessions.up.sql", EMAILS, await read_shape(admin, EMAILS)))
    await add_emails(admin, 1)
    before = schema(database)
    await admin.execute("SET session_lock.patience = '1 s'; SET lock_timeout = '4s'")
    async with open_transaction(database) as holder:
        told = (
            r'"public"\."email" was in use by other transactions at each of \d+ attempts in \d s, at last by that of the server process '
            rf"{holder.get_server_pid()}: the table was not changed; wait for their end, and run this again"
        )
        with pytest.raises(asyncpg.LockNotAvailableError, match=f"^{told}$"):
            await up(admin)
        assert schema(database) == before
        assert await admin.fetchval("SHOW lock_timeout") == "4s"
        with pytest.raises(
            DatabaseError, match=rf"^the installation of 'email' stopped half-way \(run it again\): {told}$"
        ):
            await install(admin, EMAILS)
    assert await install(admin, EMAILS)
    installed = schema(database)
    async with open_transaction(database):
        with pytest.raises(
            DatabaseError, match="^'email' was not removed: .* the table was not changed; wait"
        ):
            await remove(admin, EMAILS)
    assert schema(database) == installed
    await remove(admin, EMAILS)


async def test_its_patience_is_set_by_one_name_whatever_the_schema_is(database, admin):
    await add_emails(admin, 1)
    await admin.execute("SET session_lock.patience = '0'")
    async with open_transaction(database), asyncio.timeout(20):
        with pytest.raises(asyncpg.LockNotAvailableError, match="at each of 1 attempts in 0 s"):
            await up(admin, replace(EMAILS, schema="other"))


async def test_a_statement_that_may_not_take_so_long_gives_up_before_it_is_cut_off(database, admin):
    await add_emails(admin, 1)
    await admin.execute("SET statement_timeout = '5s'")
    async with open_transaction(database):
        told = r"attempts in \d s \(statement_timeout or transaction_timeout leave no more\), at last by .*: the table was not changed"
        with pytest.raises(asyncpg.LockNotAvailableError, match=told):
            await up(admin)


async def test_a_transaction_that_was_prepared_and_forgotten_is_named():
    server = temp_postgres(max_prepared_transactions=1)
    running = await asyncio.to_thread(server.__enter__)
    try:
        async with connected(running.dsn) as admin:
            await admin.execute(EMAIL_TABLE)
            await admin.execute(
                "BEGIN; INSERT INTO public.email (address) VALUES ('a'); PREPARE TRANSACTION 'forgotten'"
            )
            await admin.execute("SET session_lock.patience = '0'")
            told = r"at last by a prepared one \(pg_prepared_xacts\): the table was not changed"
            with pytest.raises(asyncpg.LockNotAvailableError, match=told):
                await up(admin)
            await admin.execute("ROLLBACK PREPARED 'forgotten'")
            await up(admin)
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


async def test_in_a_transaction_of_the_callers_its_settings_are_as_they_were(database, admin):
    async with admin.transaction():
        await admin.execute("SET LOCAL lock_timeout = '4s'")
        await up(admin)
        assert await admin.fetchval("SHOW lock_timeout") == "4s"
        await trigger_down(admin)
        assert await admin.fetchval("SHOW lock_timeout") == "4s"


async def test_it_does_not_wait_for_a_build_that_would_wait_for_it(database, admin):
    await add_emails(admin, 3)
    await admin.execute(f"ALTER TABLE public.email OWNER TO {APP_ROLE}; SET ROLE {APP_ROLE}")
    await admin.execute("SET session_lock.patience = '10 s'")
    async with connected(database.admin_dsn) as builder:
        async with open_transaction(database) as holder:
            building = asyncio.create_task(
                builder.execute("CREATE INDEX CONCURRENTLY mine ON public.email (body)")
            )
            await until_waited_for(holder)
            told = f"the server process {builder.get_server_pid()} builds an index of .* the table was not changed; run this again"
            with pytest.raises(asyncpg.LockNotAvailableError, match=told):
                await up(admin)
        await building
    await up(admin)


async def test_it_calls_nothing_that_others_have_made(database, admin):
    """Files are run under whatever search_path there is, and what fits better than PostgreSQL's own is taken before it."""
    await add_emails(admin, 1)
    for signature in (
        "cardinality(oid[])", "pg_sleep(numeric)", "col_description(oid, smallint)", "starts_with(name, text)",
        "format(text, text, integer, numeric, text, text)", "times(numeric, integer)",
    ):  # fmt: skip
        await admin.execute(
            f"CREATE FUNCTION public.{signature} RETURNS integer LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END'"
        )
    await admin.execute(
        "CREATE OPERATOR public.* (FUNCTION = public.times, LEFTARG = numeric, RIGHTARG = integer)"
    )
    await admin.execute("SET session_lock.patience = '500 ms'; SET search_path = public")
    async with open_transaction(database):
        with pytest.raises(asyncpg.LockNotAvailableError, match="was in use by other transactions"):
            await up(admin)
    await up(admin)
    await up(admin)
    assert await admin.fetchval("SHOW search_path") == "public"
    async with admin.transaction():
        await down(admin)
        assert await admin.fetchval("SHOW search_path") == "public"


# It is run again -------------------------------------------------------------------------------------


async def killed_in_the_build(database: TestDatabase, admin: asyncpg.Connection, work: Work) -> None:
    await add_emails(admin, 3)
    async with connected(database.admin_dsn) as worker, open_transaction(database) as holder:
        async with asyncio.timeout(20):
            working = asyncio.create_task(work(worker))
            while not await admin.fetchval("SELECT count(*) FROM pg_stat_progress_create_index"):
                await asyncio.sleep(0.01)
        await until_waited_for(holder)
        await admin.execute("SELECT pg_terminate_backend($1)", worker.get_server_pid())
        await asyncio.wait([working])
        assert working.exception() is not None
    assert await admin.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1


async def test_an_installation_that_was_killed_in_the_build_of_its_index_is_run_again(database, admin):
    before = schema(database)
    await up(admin)  # so that it is the build that waits
    await killed_in_the_build(database, admin, lambda worker: install(worker, EMAILS))
    await install(admin, EMAILS)
    assert [str(each) for each in await check(admin, EMAILS) if not each.note] == []
    await remove(admin, EMAILS)
    await admin.execute(render("sessions.down.sql", EMAILS, await read_shape(admin, EMAILS)))
    assert schema(database) == before


@pytest.mark.parametrize("table", [EMAILS, LIMITED], ids=["plain", "limits"])
async def test_and_so_are_the_files(database, admin, table):
    before = schema(database)
    shape = await read_shape(admin, table)
    await up(admin, table)
    last = render(mapping_files(table, "index")[-1], table, shape)
    await killed_in_the_build(database, admin, lambda worker: worker.execute(last))
    await apply_mapping(admin, table)
    assert [str(each) for each in await check(admin, table) if not each.note] == []
    await down(admin, table)
    await admin.execute(render("sessions.down.sql", table, shape))
    assert schema(database) == before


async def test_a_role_with_a_lock_timeout_builds_its_index_all_the_same(database, admin):
    """To wait for old transactions holds up nobody, and to give up would leave an invalid index."""
    await add_emails(admin, 3)
    await up(admin)
    async with connected(database.admin_dsn) as worker:
        await worker.execute("SET lock_timeout = '100ms'")
        async with open_transaction(database) as holder:
            installing = asyncio.create_task(install(worker, EMAILS))
            await until_waited_for(holder)
            await asyncio.sleep(0.3)
            assert not installing.done()
        await installing
        assert await worker.fetchval("SHOW lock_timeout") == "100ms"


@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
async def test_and_so_is_the_index_of_an_earlier_version_dropped(database, admin, setting):
    await install(admin, EMAILS)
    changed = replace(EMAILS, order_by=("id",))
    await install(admin, changed)
    await add_emails(admin, 3)
    async with connected(database.admin_dsn) as worker:
        await worker.execute(f"SET {setting} = '200ms'; SET search_path = nowhere")
        async with open_transaction(database) as holder:
            pruning = asyncio.create_task(prune(worker, changed))
            await until_waited_for(holder)
            await asyncio.sleep(0.4)
            assert not pruning.done(), await pruning
        assert [each.split()[0] for each in await pruning] == ["dropped", "dropped"]
        assert await worker.fetchval(f"SHOW {setting}") == "200ms"
        assert await worker.fetchval("SHOW search_path") == "nowhere"
    assert await admin.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0


def schema(database: TestDatabase) -> str:
    """As it is dumped."""
    command = [str(find_bin_dir() / "pg_dump"), "--schema-only", database.admin_dsn]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return re.sub(r"(?m)^\\(un)?restrict .*\n", "", done.stdout)
