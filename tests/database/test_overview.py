"""`overview` on PostgreSQL: what one look tells, and to whom; and `Throughput`, made of looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest

from session_lock import PostgresDatabase, SchemaError
from session_lock.database import Handback
from session_lock.overview import Backlog, Overview, TableState, Throughput, overview
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping, connected


@pytest.fixture
async def admin(database) -> AsyncIterator[asyncpg.Connection]:
    async with connected(database.admin_dsn) as connection:
        await connection.execute(EMAIL_TABLE)
        await apply_mapping(connection, EMAILS, grant_to="app")
        yield connection


@pytest.fixture
async def emails(database, admin) -> AsyncIterator[PostgresDatabase[Any]]:
    async with PostgresDatabase(database.app_dsn, EMAILS) as emails:
        yield emails


@pytest.fixture
async def app(database, admin) -> AsyncIterator[asyncpg.Connection]:
    async with connected(database.app_dsn) as connection:
        yield connection


async def until_told(
    admin: asyncpg.Connection, updated: int, say: Callable[[], Awaitable[Any]] | None = None
) -> Overview:
    """What connections have counted reaches the server with a later statement of theirs (`say`), after a second."""
    async with asyncio.timeout(20):
        while (look := await overview(admin, EMAILS)).state.updated < updated:
            await (say() if say else asyncio.sleep(0.05))
    return look


async def test_one_story(admin, emails):
    look = await overview(admin, EMAILS)
    assert (look.name, look.table, look.left_out) == ("email", "public.email", ())
    assert abs(look.at - datetime.now(UTC)) < timedelta(minutes=1)
    assert (look.paused, look.paused_since) == (False, None)
    assert (look.sessions, look.failures, look.holders) == ([], [], [])
    assert look.backlog == Backlog(tasks=0, more=False, oldest=None)

    keys = await add_emails(admin, 5)
    await admin.execute(
        "UPDATE public.email SET available_at = now() - interval '90 seconds' WHERE id = $1", keys[1]
    )
    lease = await emails.start_session(capacity=2, ttl=30, label="web-1:212", app_version="2.4")
    work = await emails.get_work(lease, limit=2)
    await emails.bump_session(lease, ttl=30, draining=False, running=1)
    look = await overview(admin, EMAILS)
    assert look.backlog.tasks == 3
    assert look.backlog.oldest == pytest.approx(0, abs=20)  # the oldest is claimed first
    (session,) = look.sessions
    assert (session.session, session.label, session.app_version) == (lease.id, "web-1:212", "2.4")
    assert (session.state, session.capacity, session.target) == ("live", 2, 2)
    assert (session.held, session.running) == (2, 1)
    assert session.why == "it holds all that its capacity allows"
    assert 0 <= session.beat_age < 10
    assert 20 < session.lease_left <= 30

    await emails.release_tasks(lease, [Handback(work.tasks[0].claim, after=60, error="no route")])
    look = await overview(admin, EMAILS)
    (failure,) = look.failures
    assert (failure.key, failure.attempt) == (str(work.tasks[0].claim.key), 1)
    assert (failure.session, failure.error) == (lease.id, "no route")
    assert look.at - failure.at < timedelta(seconds=20)

    await admin.execute("SELECT session_lock.pause_mapping('email')")
    look = await overview(admin, EMAILS)
    assert look.paused
    assert look.at - look.paused_since < timedelta(seconds=20)
    assert look.sessions[0].why == "the mapping is paused"
    await admin.execute(
        "SELECT session_lock.resume_mapping('email'), session_lock.drain_session('email', $1)", lease.id
    )
    (session,) = (await overview(admin, EMAILS)).sessions
    assert (session.state, session.why) == ("draining", "it is asked to drain")


# What is not told ------------------------------------------------------------------------------------


async def test_a_service_sees_sessions_and_backlog_and_is_told_what_the_rest_takes(app, emails, admin):
    await add_emails(admin, 3)
    await emails.start_session(capacity=2, ttl=30)
    look = await overview(app, EMAILS)
    assert look.backlog.tasks == 3
    (session,) = look.sessions
    assert (session.state, session.target) == ("live", 2)
    assert (session.beat_age, session.lease_left, look.paused_since, look.failures) == (None,) * 4
    assert (look.connections.ours, look.holders) == (1, [])
    for kind, text in zip(
        ("since when", "keepalives", "failures", "old transactions"), look.left_out, strict=True
    ):
        assert text.startswith(kind)
        await admin.execute(text[text.index("GRANT") :])
    try:
        look = await overview(app, EMAILS)
    finally:
        await admin.execute("REVOKE pg_read_all_stats FROM app")
    assert (look.left_out, look.failures) == ((), [])
    assert look.sessions[0].lease_left > 20


async def test_a_pause_is_seen_by_who_may_not_see_since_when(app, emails, admin):
    await emails.start_session(capacity=2, ttl=30)
    await admin.execute("SELECT session_lock.pause_mapping('email')")
    look = await overview(app, EMAILS)
    assert (look.paused, look.paused_since) == (True, None)


async def test_who_has_no_right_at_all_is_told_of_each_part(admin, app):
    await admin.execute("REVOKE ALL ON SCHEMA session_lock FROM app")
    await admin.execute(
        "REVOKE SELECT ON pg_catalog.pg_stat_all_tables, pg_catalog.pg_stat_activity, pg_catalog.pg_stat_database FROM PUBLIC"
    )
    look = await overview(app, EMAILS)
    assert (look.sessions, look.backlog, look.failures, look.connections, look.state, look.holders) == (
        None,
    ) * 6
    assert [text.split(" left out")[0] for text in look.left_out] == [
        "sessions", "since when it is paused", "keepalives and leases", "backlog", "failures", "connections", "the table's rows",
        "what holds vacuum",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "kept", ["SELECT ON pg_catalog.pg_stat_progress_vacuum, pg_catalog.pg_prepared_xacts, pg_catalog.pg_replication_slots, pg_catalog.pg_stat_activity",
             "EXECUTE ON FUNCTION pg_catalog.pg_control_checkpoint()"],
)  # fmt: skip
async def test_what_would_show_what_holds_vacuum(admin, app, emails, kept: str):
    """On a server that keeps from all what all may see elsewhere."""
    await admin.execute(f"REVOKE {kept} FROM PUBLIC")
    look = await overview(app, EMAILS)
    assert look.holders is None
    (text,) = [text for text in look.left_out if text.startswith("what holds vacuum")]
    await admin.execute(text[text.index("GRANT") :])
    assert (await overview(app, EMAILS)).holders == []


async def test_where_no_session_lives_the_table_is_asked(admin, app):
    await add_emails(admin, 3)
    await admin.execute(
        "UPDATE public.email SET available_at = available_at - interval '90 seconds' WHERE id = 2"
    )
    look = await overview(admin, EMAILS)
    assert (look.backlog.tasks, look.backlog.more) == (3, False)
    assert look.backlog.oldest == pytest.approx(90, abs=20)
    look = await overview(app, EMAILS)
    assert look.backlog is None
    (text,) = [text for text in look.left_out if text.startswith("backlog")]
    await admin.execute(text[text.index("GRANT") :])
    assert (await overview(app, EMAILS)).backlog.tasks == 3


@pytest.mark.parametrize("lives", [False, True])
async def test_counting_ends_somewhere(admin, emails, lives: bool):
    if lives:
        await emails.start_session(capacity=2, ttl=30)
    await add_emails(admin, 10_001)
    look = await overview(admin, EMAILS)
    assert (look.backlog.tasks, look.backlog.more) == (10_000, True)


async def test_where_sessions_are_unknown_what_their_functions_leave_is_not_made_up_of_the_table(
    admin, emails
):
    await add_emails(admin, 3)
    lease = await emails.start_session(capacity=2, ttl=30)
    await emails.get_work(lease, limit=2)
    (name,) = await admin.fetchrow(
        "SELECT p.oid::regprocedure::text FROM pg_proc AS p WHERE p.proname LIKE 'shares\\_%'"
    )
    await admin.execute(
        f"CREATE ROLE looker; GRANT USAGE ON SCHEMA session_lock TO looker; GRANT ALL ON ALL TABLES IN SCHEMA session_lock, public TO looker; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA session_lock TO looker; REVOKE ALL ON FUNCTION {name} FROM looker, PUBLIC; SET ROLE looker"
    )
    try:
        look = await overview(admin, EMAILS)
    finally:
        await admin.execute("RESET ROLE; DROP OWNED BY looker; DROP ROLE looker")
    assert (look.sessions, look.backlog) == (None, None)
    assert [text for text in look.left_out if text.startswith("backlog left out, no session is known")]


async def test_a_locked_table_is_no_reason_to_wait(admin, app, emails):
    await emails.start_session(capacity=2, ttl=30)
    async with admin.transaction():
        await admin.execute("LOCK TABLE public.email IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(5):  # three parts wait for it
            look = await overview(app, EMAILS)
    assert (
        look.left_out[0]
        == "sessions left out, the table is locked by another transaction: end that, or wait for it"
    )


async def test_what_is_slow_ends_with_the_look_and_not_each_part_by_itself(admin, monkeypatch):
    monkeypatch.setattr("session_lock.overview.LOOK", 1.0)
    for verb, given in (("shares", ""), ("backlog", "bigint")):
        name = await admin.fetchval("SELECT proname FROM pg_proc WHERE proname LIKE $1", f"{verb}\\_%")
        await admin.execute(
            f"DROP FUNCTION session_lock.{name}; CREATE FUNCTION session_lock.{name}({given}) RETURNS TABLE (slept text) LANGUAGE sql AS 'SELECT pg_sleep(30)::text'"
        )
    async with asyncio.timeout(3):
        look = await overview(admin, EMAILS)
    assert look.left_out[0].startswith("sessions left out, it took too long")
    assert (look.sessions, look.backlog, look.failures) == (None, None, None)
    assert len(look.left_out) == 8


async def test_one_row_of_which_pending_cannot_be_told_takes_away_no_more_than_what_asks_for_it(admin):
    odd = replace(EMAILS, name="odd", pending="sent_at IS NULL AND address::int > 0")
    await admin.execute("TRUNCATE public.email")
    await apply_mapping(admin, odd)
    await admin.execute("SET session_replication_role = replica")
    for name in await admin.fetch(
        "SELECT indexrelid::regclass::text AS name FROM pg_index WHERE indrelid = 'public.email'::regclass AND NOT indisprimary"
    ):
        await admin.execute(f"DROP INDEX {name['name']}")
    await admin.execute("INSERT INTO public.email (address) VALUES ('secret of a row')")
    look = await overview(admin, odd)
    assert (look.sessions, look.backlog, look.failures) == (None, None, [])
    assert look.left_out[0].startswith("sessions left out, some row ")
    assert "(22P02)" in look.left_out[0]
    assert look.left_out[1].startswith("backlog left out")
    assert len(look.left_out) == 2
    assert "secret" not in "".join(look.left_out)
    assert look.state is not None


async def test_what_is_not_installed_is_said(admin):
    with pytest.raises(SchemaError, match=r"does not exist; run: session-lock install"):
        await overview(admin, replace(EMAILS, order_by=("address",)))
    with pytest.raises(SchemaError, match="there is no table public.emial; did you mean 'public.email'"):
        await overview(admin, replace(EMAILS, table="public.emial"))


# What the server counts --------------------------------------------------------------------------------


async def test_what_the_server_counts_of_the_table(admin):
    await add_emails(admin, 20)
    await admin.execute(
        "UPDATE public.email SET body = 'x' WHERE id <= 10; DELETE FROM public.email WHERE id > 15"
    )
    look = await until_told(admin, 10)
    assert (look.state.updated, look.state.deleted, look.state.dead, look.state.live) == (10, 5, 15, 15)
    assert look.state.size_bytes == await admin.fetchval("SELECT pg_total_relation_size('public.email')")
    assert look.state.last_autovacuum is None
    assert 0 < look.connections.used < look.connections.most


async def test_without_counters_nothing_is_made_up(admin, database):
    await admin.execute("SET track_counts = off")
    look = await overview(admin, EMAILS)
    assert look.state is None
    assert "track_counts of the server is off" in look.left_out[0]


async def test_who_holds_vacuum(admin, database):
    options = {"server_settings": {"application_name": "report"}}
    reader = await asyncpg.connect(database.admin_dsn, **options)
    try:
        await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM pg_class")
        assert (await overview(admin, EMAILS)).holders == []
        (holder,) = (await overview(admin, EMAILS, old=0)).holders
        assert holder.kind == "transaction"
        assert holder.name.startswith(f"pid {reader.get_server_pid()} (report, role ")
        assert 0 <= holder.since < 60
        before = holder.transactions
        for _ in range(3):
            await add_emails(admin, 1)
        (holder,) = (await overview(admin, EMAILS, old=0)).holders
        assert holder.transactions >= before + 3
    finally:
        await reader.close()


# Throughput --------------------------------------------------------------------------------------------


def at(seconds: float, updated: int | None, *, late: float = 0.0) -> Overview:
    """`late`: so long after the look began its counters were read."""
    state = None if updated is None else TableState(
        at=datetime(2026, 11, 29, tzinfo=UTC) + timedelta(seconds=seconds + late), dead=0, live=0, size_bytes=0, last_autovacuum=None, updated=updated, deleted=0
    )  # fmt: skip
    return Overview(
        at=datetime(2026, 11, 29, tzinfo=UTC) + timedelta(seconds=seconds), name="email", table="public.email", paused=False,
        paused_since=None, sessions=(), backlog=None, failures=None, connections=None, state=state, holders=None, left_out=(),
    )  # fmt: skip


def test_two_updates_are_a_task_and_the_mean_is_of_some_seconds():
    throughput = Throughput(over=2)
    told = [
        throughput.see(at(second, updated)) for second, updated in enumerate((100, 110, 150, 150, 150, 152))
    ]
    assert told == [None, 5, 12.5, 10, 0, 0.5]
    assert throughput.now == 0.5


def test_it_is_unknown_after_a_reset_and_without_counters_and_where_no_time_has_passed():
    throughput = Throughput(keep=6)
    told = [
        throughput.see(at(*each))
        for each in ((0, 100), (1, 200), (2, 10), (3, 20), (4, None), (5, 30), (5, 40), (7, 50))
    ]
    assert told == [None, 50, None, 5, None, None, None, 5]
    assert throughput.values == (None, 5, None, None, None, 5)


def test_the_time_is_that_at_which_the_counters_were_read():
    throughput = Throughput()
    throughput.see(at(0, 100, late=4))
    assert throughput.see(at(5, 110, late=0)) == 5


def test_a_look_that_failed_is_a_gap():
    throughput = Throughput(keep=5)
    throughput.see(at(0, 100))
    throughput.see(at(1, 110))
    throughput.miss()
    assert throughput.now is None
    assert throughput.see(at(3, 120)) is not None
    assert throughput.values == (None, 5, None, pytest.approx(20 / 2 / 3))


def test_nothing_was_seen_yet():
    assert (Throughput().now, Throughput().values) == (None, ())


async def test_of_real_tasks(admin, emails):
    throughput = Throughput(over=60)
    await add_emails(admin, 10)
    throughput.see(await overview(admin, EMAILS))
    lease = await emails.start_session(capacity=10, ttl=30)
    work = await emails.get_work(lease, limit=10)
    claims = [task.claim for task in work.tasks]
    await emails.finish_tasks(lease, claims)
    look = await until_told(admin, 20, partial(emails.finish_tasks, lease, claims))
    assert throughput.see(look) > 0
    assert look.state.updated == 20
