"""enqueue and its siblings on connections of every driver and layer: what is added, refused, and in whose transaction."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import session_lock
from session_lock import (
    DatabaseError,
    Enqueued,
    NewTask,
    PostgresDatabase,
    Runner,
    SchemaError,
    Settings,
    SettingsError,
    each,
    enqueue,
    enqueue_many,
    queue,
)
from session_lock.enqueuing import COPY_FROM
from session_lock.migrations import check, install, prune, validate
from session_lock.queue_table import SHAPE
from tests.conftest import APP_ROLE, TestDatabase
from tests.contrib.kinds import KINDS, Hand, Kind
from tests.support import EMAILS, until_waited_for

JOBS = queue("jobs")

# What JSON, SQL, COPY and the drivers each find special.
ODD = {
    "text": "a\tb\\n\n\r\"'%s $1 {} \\N \\. ü € 😀",
    "nested": [1, 2.5, True, None, {"a": []}],
    "big": 10**30,
}


@pytest.fixture
async def admin(database: TestDatabase) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        await install(connection, JOBS, grant_to=APP_ROLE)
        yield connection
    finally:
        connection.terminate()


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


def call(hand: Hand, name: str, *arguments: Any, **options: Any) -> Any:
    function = getattr(session_lock, f"{name}_sync" if hand.kind.sync else name)
    return hand.call(lambda: function(hand.connection, JOBS, *arguments, **options))


async def rows(admin: asyncpg.Connection) -> list[asyncpg.Record]:
    return await admin.fetch(
        "SELECT *, extract(epoch FROM available_at - created_at)::float8 AS wait FROM jobs ORDER BY id"
    )


async def heard_by_a_session(admin: asyncpg.Connection, *, idle: bool) -> asyncio.Queue[str]:
    """What is told of, while one of the mapping lives; an idle one is told of all."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    await admin.execute(
        "INSERT INTO session_lock.session (name, capacity, started_at, expires_at, idle)"
        " VALUES ('jobs', 1, now(), now() + interval '1 hour', $1)",
        idle,
    )
    await admin.add_listener("session_lock", lambda *told: heard.put_nowait(told[-1]))
    return heard


# On every kind -------------------------------------------------------------------------------------------


async def test_what_is_added_and_in_whose_transaction(
    admin: asyncpg.Connection, database: TestDatabase, kind: Kind
):
    heard = await heard_by_a_session(admin, idle=True)
    many = [NewTask(ODD, priority=-3, after=60), *range(COPY_FROM)]
    async with kind.connect(database.app_dsn) as hand:
        with pytest.raises(ZeroDivisionError):
            async with hand.begin():
                await call(hand, "enqueue", 1, dedup_key="once")
                await call(hand, "enqueue_many", many)
                raise ZeroDivisionError
        assert await rows(admin) == []

        async with hand.begin():
            one = await call(hand, "enqueue", ODD, priority=5, after=1.5, dedup_key="é", traceparent=PARENT)
            again = await call(hand, "enqueue", 2, dedup_key="é")
            few = await call(hand, "enqueue_many", [NewTask(3, dedup_key="é"), 4, NewTask(5, dedup_key="b")])
            copied = await call(hand, "enqueue_many", many)
            assert await rows(admin) == []
    assert (one.duplicate, again) == (False, Enqueued(key=one.key, duplicate=True))
    assert [each.duplicate for each in few] == [True, False, False]
    assert few[0].key == one.key
    found = {row["id"]: row for row in await rows(admin)}
    added = [one, *few[1:], *copied]
    assert list(found) == [each.key for each in added]
    assert [json.loads(row["payload"]) for row in found.values()] == [ODD, 4, 5, ODD, *range(COPY_FROM)]
    first, copy = found[one.key], found[copied[0].key]
    assert (first["priority"], first["wait"], first["dedup_key"]) == (5, 1.5, "é")
    assert (copy["priority"], copy["wait"], copy["dedup_key"]) == (-3, 60, None)
    assert (first["traceparent"], copy["traceparent"]) == (PARENT, None)
    async with asyncio.timeout(10):
        assert await heard.get() == "jobs"


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_without_a_transaction(admin: asyncpg.Connection, database: TestDatabase, kind: Kind):
    due = datetime(2200, 1, 1, 12, 30, 0, 250, tzinfo=UTC)
    async with kind.connect(database.app_dsn, autocommit=True) as hand:
        await call(hand, "enqueue", None, available_at=due)
        await call(hand, "enqueue_many", [NewTask("é", available_at=due)] * COPY_FROM)
        with pytest.raises(SettingsError, match=r"enqueue(_sync)? takes an? a?synchronous connection"):
            if kind.sync:
                await enqueue(hand.connection, JOBS, 1)
            session_lock.enqueue_sync(hand.connection, JOBS, 1)
    found = await rows(admin)
    assert len(found) == COPY_FROM + 1
    assert {row["available_at"] for row in found} == {due}


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_who_has_become_idle_since_its_snapshot_is_told(
    admin: asyncpg.Connection, database: TestDatabase, isolation: str
):
    heard = await heard_by_a_session(admin, idle=False)
    connection = await asyncpg.connect(database.app_dsn)
    try:
        async with connection.transaction(isolation=isolation):
            await connection.fetchval("SELECT count(*) FROM pg_class")
            await admin.execute("UPDATE session_lock.session SET idle = true")
            await enqueue(connection, JOBS, 1)
        async with asyncio.timeout(10):
            assert await heard.get() == "jobs"
    finally:
        await connection.close()


# Duplicates ----------------------------------------------------------------------------------------------


@pytest.fixture
async def two(
    admin: asyncpg.Connection, database: TestDatabase
) -> AsyncIterator[tuple[asyncpg.Connection, asyncpg.Connection]]:
    first, second = [await asyncpg.connect(database.app_dsn) for _ in range(2)]
    try:
        yield first, second
    finally:
        first.terminate()
        second.terminate()


@pytest.mark.parametrize("commits", [True, False])
async def test_two_at_once(admin: asyncpg.Connection, two: Any, commits: bool):
    first, second = two
    transaction = first.transaction()
    await transaction.start()
    one = await enqueue(first, JOBS, 1, dedup_key="k")
    other = asyncio.create_task(enqueue(second, JOBS, 2, dedup_key="k"))
    await until_waited_for(first)
    await (transaction.commit() if commits else transaction.rollback())
    result = await other
    assert result.duplicate is commits
    assert (result.key == one.key) is commits
    assert [row["payload"] for row in await rows(admin)] == ["1" if commits else "2"]


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read"])
async def test_one_that_is_finished_meanwhile_is_no_duplicate(
    admin: asyncpg.Connection, two: Any, isolation: str
):
    first, second = two
    one = await enqueue(first, JOBS, 1, dedup_key="k")
    finishing = admin.transaction()
    await finishing.start()
    await admin.execute("UPDATE jobs SET finished_at = now()")

    async def again() -> Enqueued:
        async with second.transaction(isolation=isolation):
            await second.fetchval("SELECT 1")
            return await enqueue(second, JOBS, 2, dedup_key="k")

    other = asyncio.create_task(again())
    await until_waited_for(admin)
    await finishing.commit()
    result = await other
    assert not result.duplicate
    assert result.key > one.key


async def test_one_that_is_finished_when_it_was_found_to_be_pending_is_no_duplicate(
    admin: asyncpg.Connection, two: Any
):
    """It is asked for again, and what was added beside it is not added again."""
    first, second = two
    await enqueue(first, JOBS, 1, dedup_key="k")
    await admin.execute(
        "CREATE FUNCTION public.gate() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END';"
        "CREATE TRIGGER gate AFTER INSERT ON jobs FOR EACH STATEMENT EXECUTE FUNCTION public.gate()"
    )
    async with admin.transaction():
        await admin.execute("SELECT pg_advisory_xact_lock(7)")
        other = asyncio.create_task(enqueue_many(second, JOBS, [NewTask(2, dedup_key="k"), 3]))
        await until_waited_for(admin)
        await admin.execute("UPDATE jobs SET finished_at = now()")
    result, free = await other
    assert (result.duplicate, free.duplicate) == (False, False)
    assert [row["payload"] for row in await rows(admin)] == ["1", "2", "3"]


async def test_a_snapshot_from_before_the_finish(admin: asyncpg.Connection, two: Any):
    first, second = two
    one = await enqueue(first, JOBS, 1, dedup_key="k")
    async with second.transaction(isolation="repeatable_read"):
        await second.fetchval("SELECT 1")
        await admin.execute("UPDATE jobs SET finished_at = now()")
        result, free = await enqueue_many(second, JOBS, [NewTask(2, dedup_key="k"), 3])
    assert (result.duplicate, free.duplicate) == (False, False)
    assert result.key > one.key
    with pytest.raises(DatabaseError) as caught:
        async with second.transaction(isolation="repeatable_read"):
            await second.fetchval("SELECT 1")
            await enqueue(first, JOBS, 1, dedup_key="unseen")
            await enqueue(second, JOBS, 1, dedup_key="unseen")
    assert caught.value.retryable


@pytest.mark.fault("D12")
async def test_the_same_keys_in_two_orders(admin: asyncpg.Connection, two: Any):
    keys = [f"k{i:03}" for i in range(300)]
    stranger = admin.transaction()
    await stranger.start()
    await enqueue(admin, JOBS, 0, dedup_key="k150")  # in the middle: both have begun when they go on
    both = [
        asyncio.create_task(enqueue_many(connection, JOBS, [NewTask(1, dedup_key=key) for key in order]))
        for connection, order in zip(two, (keys, keys[::-1]), strict=True)
    ]
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'enqueue_jobs'"
        " AND datname = current_database()"
    )
    async with asyncio.timeout(10):
        while await admin.fetchval(f"SELECT pg_stat_clear_snapshot()::text || ({waiting})") != "2":
            await asyncio.sleep(0.01)
    await stranger.rollback()
    results = await asyncio.gather(*both)
    found = {row["dedup_key"]: row["id"] for row in await rows(admin)}
    assert [each.key for each in results[0]] == [found[key] for key in keys]
    assert [each.key for each in results[1]] == [found[key] for key in reversed(keys)]
    assert sum(each.duplicate for result in results for each in result) == 300
    assert [each.duplicate for each in await enqueue_many(two[0], JOBS, [NewTask(1, dedup_key="x")] * 3)] == [
        False, True, True
    ]  # fmt: skip


async def test_it_is_due_from_when_it_is_added_and_not_from_when_its_transaction_began(
    admin: asyncpg.Connection,
):
    for add in (lambda: enqueue(admin, JOBS, 1), lambda: enqueue_many(admin, JOBS, [2] * COPY_FROM)):
        async with admin.transaction():
            await admin.execute("SELECT now()")
            await add()
            late = "SELECT bool_and(created_at > now() AND available_at > now()) FROM jobs WHERE xmin = pg_current_xact_id()::xid"
            assert await admin.fetchval(late)


async def test_who_has_room_is_woken_by_one_that_is_new_and_by_no_duplicate(admin: asyncpg.Connection):
    heard: asyncio.Queue[str] = asyncio.Queue()
    await admin.execute(
        "INSERT INTO session_lock.session (name, capacity, started_at, expires_at, idle)"
        " VALUES ('jobs', 1, now(), now() + interval '1 hour', true)"
    )
    await admin.add_listener("session_lock", lambda *told: heard.put_nowait(told[-1]))
    await enqueue(admin, JOBS, 1, dedup_key="k")
    assert await asyncio.wait_for(heard.get(), 10) == "jobs"
    await enqueue(admin, JOBS, 1, dedup_key="k")
    await admin.execute("SELECT")
    assert heard.empty()


async def test_discarded_is_not_pending(admin: asyncpg.Connection, two: Any):
    one = await enqueue(two[0], JOBS, 1, dedup_key="k")
    await admin.execute("UPDATE jobs SET discarded_at = now()")
    other = await enqueue(two[0], JOBS, 1, dedup_key="k")
    assert other != one
    assert await enqueue(two[0], JOBS, 1, dedup_key="k") == Enqueued(key=other.key, duplicate=True)


async def test_a_trigger_that_keeps_tasks_out_is_told_of(admin: asyncpg.Connection, two: Any):
    await admin.execute(
        "CREATE FUNCTION public.out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER out BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION public.out()"
    )
    with pytest.raises(session_lock.RowRefusedError, match="does a trigger of the table keep them out"):
        await enqueue(two[0], JOBS, 1, dedup_key="k")


# What is refused -----------------------------------------------------------------------------------------

CYCLE: list[Any] = []
CYCLE.append(CYCLE)
DEEP: Any = []
for _ in range(100_000):
    DEEP = [DEEP]

REFUSED = [
    ({"payload": math.nan}, "not JSON .NaN, an infinity"),
    ({"payload": {"a": [math.inf]}}, "not JSON .NaN, an infinity"),
    ({"payload": {1, 2}}, "not JSON .Object of type set"),
    ({"payload": b"bytes"}, "not JSON .Object of type bytes"),
    ({"payload": {(1, 2): 3}}, "not JSON .keys must be"),
    ({"payload": datetime.now(UTC)}, "not JSON .Object of type datetime"),
    ({"payload": CYCLE}, "not JSON .it contains itself"),
    ({"payload": DEEP}, "nested too deeply"),
    ({"payload": 10**5000}, "not JSON .*a number too long"),
    ({"payload": "\ud800"}, "half of a surrogate pair"),
    ({"payload": {"\udc00": 1}}, "half of a surrogate pair"),
    ({"payload": ["\0"]}, "NUL"),
    ({"payload": "\\\0"}, "NUL"),
    ({"payload": 1, "after": -0.1}, "after is a number of seconds"),
    ({"payload": 1, "after": math.inf}, "after is a number of seconds"),
    ({"payload": 1, "after": math.nan}, "after is a number of seconds"),
    ({"payload": 1, "after": True}, "after is a number of seconds"),
    ({"payload": 1, "after": timedelta(1)}, "after is a number of seconds"),
    ({"payload": 1, "after": 10**400}, "after is a number of seconds"),
    ({"payload": 1, "after": 1, "available_at": datetime.now(UTC)}, "not both"),
    (
        {"payload": 1, "available_at": datetime(2030, 1, 1, tzinfo=UTC).replace(tzinfo=None)},
        "a datetime with a time zone",
    ),
    ({"payload": 1, "available_at": "2030-01-01"}, "a datetime with a time zone"),
    ({"payload": 1, "dedup_key": ""}, "dedup_key is text"),
    ({"payload": 1, "dedup_key": 7}, "dedup_key is text"),
    ({"payload": 1, "dedup_key": "a\0"}, "dedup_key is text"),
    ({"payload": 1, "dedup_key": "x" * 1001}, "dedup_key is text"),
    ({"payload": 1, "priority": 32768}, "priority is a whole number"),
    ({"payload": 1, "priority": True}, "priority is a whole number"),
    ({"payload": 1, "priority": 1.0}, "priority is a whole number"),
    ({"payload": 1, "traceparent": "nonsense"}, "W3C trace context"),
]


async def test_what_is_refused_and_nothing_is_written(admin: asyncpg.Connection, two: Any):
    connection, _ = two
    async with connection.transaction():
        for options, words in REFUSED:
            with pytest.raises(SettingsError, match=f"^enqueue: .*{words}"):
                await enqueue(connection, JOBS, **options)
            with pytest.raises(SettingsError, match=f"^enqueue_many: task 2: .*{words}"):
                await enqueue_many(connection, JOBS, [1, NewTask(2), NewTask(**options), 3])
        for no_list in ("text", b"", {"a": 1}, 5, None):
            with pytest.raises(SettingsError, match="rows is a list of payloads or NewTasks"):
                await enqueue_many(connection, JOBS, no_list)
        for mapping in (EMAILS, "jobs", None):
            with pytest.raises(SettingsError, match="takes a mapping that queue"):
                await enqueue(connection, mapping, 1)  # type: ignore[arg-type]
        assert await enqueue_many(connection, JOBS, []) == []
    assert await rows(admin) == []
    with pytest.raises(SettingsError, match="takes a connection of asyncpg"):
        await enqueue(object(), JOBS, 1)


@pytest.mark.fault("D26")
async def test_what_can_be_stored_is_stored(admin: asyncpg.Connection, two: Any):
    payloads = [
        "\\u0000",
        "\\\\u0000",
        "\x01\x7f",
        "\\ud800",
        -0.0,
        0.1,
        2**70,
        "",
        [],
        {},
        False,
        None,
    ]
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    payloads.append(deep)
    edge = datetime(1, 1, 1, tzinfo=UTC)
    await enqueue_many(
        two[0], JOBS, [NewTask(each, dedup_key="d" * 1000 if each == "" else None) for each in payloads]
    )
    await enqueue_many(two[0], JOBS, payloads * 10)
    await enqueue(two[0], JOBS, 1, available_at=edge)
    await enqueue(two[0], JOBS, 1, after=100 * 365 * 86400, priority=-32768)
    read = [json.loads(row["payload"]) for row in await rows(admin)]
    assert read == [*payloads * 11, 1, 1]


async def test_before_the_installation_and_without_rights(database: TestDatabase):
    connection = await asyncpg.connect(database.app_dsn)
    owner = await asyncpg.connect(database.admin_dsn)
    try:
        for call in (enqueue(connection, JOBS, 1), enqueue_many(connection, JOBS, [1] * COPY_FROM)):
            with pytest.raises(SchemaError, match="run: session-lock install"):
                await call
        await install(owner, JOBS)
        await owner.execute(f"GRANT USAGE ON SCHEMA session_lock TO {APP_ROLE}")
        with pytest.raises(SchemaError, match="--grant-to ROLE"):
            await enqueue(connection, JOBS, 1)
        await install(owner, JOBS, grant_to=APP_ROLE)
        await owner.execute(f"REVOKE INSERT (payload) ON jobs FROM {APP_ROLE}")
        assert [str(each) for each in await check(owner, JOBS, role=APP_ROLE) if not each.note] == [
            'the role \'app\' may not insert into "public"."jobs": run session-lock install --grant-to app'
        ]
        with pytest.raises(SchemaError, match="--grant-to ROLE"):
            await enqueue_many(connection, JOBS, [1] * COPY_FROM)
        assert await install(owner, JOBS, grant_to=APP_ROLE) == ["let the role 'app' execute them"]
        await enqueue_many(connection, JOBS, [1] * COPY_FROM)
    finally:
        connection.terminate()
        await owner.close()


# What the Runner makes of it -----------------------------------------------------------------------------


async def test_a_runner_end_to_end(admin: asyncpg.Connection, database: TestDatabase, two: Any):
    connection, _ = two
    span = TracerProvider().get_tracer("here").start_span("request")
    with trace.use_span(span):
        await enqueue(connection, JOBS, {"n": "second"})
        assert (
            await enqueue(connection, JOBS, {"n": "first"}, priority=-1, dedup_key="k")
        ).duplicate is False
        assert (await enqueue(connection, JOBS, {"n": "never"}, dedup_key="k")).duplicate is True
        await enqueue(connection, JOBS, {"n": "third"}, priority=1)
        await enqueue(connection, JOBS, "delayed", priority=-2, after=2)
    done: list[Any] = []
    ended = asyncio.Event()

    async def tasker(task):
        done.append(task.data)
        if len(done) == 5:
            ended.set()

    settings = Settings(batch_size=1, concurrency=1, tasks_per_session=1, start_jitter=0, poll_interval=3600)
    heard = asyncio.Event()
    async with (
        PostgresDatabase(database.app_dsn, JOBS) as jobs,
        jobs.listening(heard.set),
        Runner(jobs, each(tasker), settings),
        asyncio.timeout(20),
    ):
        await heard.wait()
        while len(done) < 4:
            await asyncio.sleep(0.01)
        await enqueue(connection, JOBS, "woken")
        await ended.wait()
    assert [data["payload"] for data in done][:3] == [{"n": "first"}, {"n": "second"}, {"n": "third"}]
    assert {data["payload"] for data in done[3:]} == {"delayed", "woken"}
    expected = f"{span.get_span_context().trace_id:032x}-{span.get_span_context().span_id:016x}"
    assert {data["traceparent"][3:52] for data in done if data["payload"] != "woken"} == {expected}
    assert done[-1].keys() == {"payload", "priority", "dedup_key", "traceparent", "created_at"}
    assert await admin.fetchval("SELECT count(*) FROM jobs WHERE finished_at IS NULL") == 0
    assert not (await enqueue(connection, JOBS, 1, dedup_key="k")).duplicate


@pytest.mark.fault("D26")
async def test_a_payload_that_cannot_be_read_fails_alone(admin: asyncpg.Connection, database: TestDatabase):
    await admin.execute("INSERT INTO jobs (payload) VALUES (repeat('9', 5000)::jsonb), ('\"fine\"')")

    async def with_codec() -> asyncpg.Connection:
        connection = await asyncpg.connect(database.app_dsn)
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
        return connection

    async with PostgresDatabase(with_codec, JOBS, decode=lambda **row: row["payload"]) as jobs:
        lease = await jobs.start_session(capacity=5, ttl=30)
        work = await jobs.get_work(lease, limit=5)
        assert [(task.data, type(task.error)) for task in work.tasks] == [
            (None, ValueError),
            ("fine", type(None)),
        ]


# How it is brought into the database ---------------------------------------------------------------------


async def test_the_shape_is_the_catalogs(admin: asyncpg.Connection):
    assert await validate(admin, JOBS) == SHAPE
    assert await install(admin, JOBS, grant_to=APP_ROLE) == []
    assert await prune(admin, JOBS) == []
    notes = [str(each) for each in await check(admin, JOBS, role=APP_ROLE)]
    assert [text for text in notes if "order_by" not in text and "superuser" not in text] == []
    await admin.execute(f"DROP INDEX {await admin.fetchval(DUE)}")
    [missing] = [each for each in await check(admin, JOBS, role=APP_ROLE) if not each.note]
    assert "the index public.due_jobs_" in str(missing)
    assert "run session-lock install" in str(missing)
    [built] = await install(admin, JOBS)
    assert "built the index due_jobs_" in built


DUE = "SELECT indexname FROM pg_indexes WHERE indexname ~ '^due_jobs'"
