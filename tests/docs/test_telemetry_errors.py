"""docs/reference/telemetry.md: what is told of calls that PostgreSQL refuses, to a real SDK."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import asyncpg
import psycopg
import pytest
from opentelemetry.trace import StatusCode

from session_lock import PostgresDatabase, Retry, Runner, SchemaError, Settings, TaskTable, each
from session_lock.migrations import install
from tests.conftest import TestDatabase
from tests.docs.pages import Page
from tests.unit.scenes import do_all
from tests.unit.test_metrics import Meters
from tests.unit.test_telemetry import Spans, nothing

MAILS = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])

ROWS = re.findall(
    r"^\| (`(?:messaging|db|server|error|session_lock)\.[^|]*) \| [^|]* \|$",
    Page("telemetry.md", folder="reference").text,
    re.MULTILINE,
)
LISTED = {name for row in ROWS for name in re.findall(r"`([\w.]+)`", row)}
"""The attributes of spans, by the page's table of them."""

STATUS = "db.response.status_code"


@pytest.fixture
async def admin(database: TestDatabase) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.execute("CREATE TABLE mail (id bigint PRIMARY KEY, address text, sent_at timestamptz)")
    await install(connection, MAILS)
    yield connection
    await connection.close()


@pytest.fixture
def spans() -> Iterator[Spans]:
    collected = Spans()
    yield collected
    assert {name for span in collected.all() for name in span.attributes} <= LISTED
    collected.provider.shutdown()


@pytest.fixture
def meters() -> Iterator[Meters]:
    measured = Meters()
    yield measured
    measured.provider.shutdown()


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.05)


def told_of(attributes: Iterable[Any]) -> set[tuple[str, str]]:
    """The types and SQLSTATEs of errors; either comes with the other."""
    return {(each["error.type"], each[STATUS]) for each in attributes if {"error.type", STATUS} & {*each}}


async def test_a_finish_that_a_trigger_refuses_is_told_with_what_it_raises(
    database: TestDatabase, admin: asyncpg.Connection, spans: Spans, meters: Meters
) -> None:
    """By the SQLSTATE that all of a call have in common, if they have."""
    await admin.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.address <> '' AND NEW.sent_at IS NOT NULL THEN "
        "RAISE EXCEPTION 'no' USING ERRCODE = NEW.address; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER no BEFORE UPDATE ON mail FOR EACH ROW EXECUTE FUNCTION no()"
    )
    failed, config = "session_lock.tasks.failed", Settings(start_jitter=0, poll_interval=0.2, retry=Retry(delay=100))  # fmt: skip
    async with PostgresDatabase(database.admin_dsn, MAILS, listen=False) as mails:
        runner = Runner(mails, do_all, config, tracer_provider=spans.provider, meter_provider=meters.provider)
        async with runner:
            for refused, values in (2, "(1, 'P0001'), (2, ''), (3, 'P0001')"), (4, "(4, '23505'), (5, 'P0001')"):  # fmt: skip
                await admin.execute(f"INSERT INTO mail VALUES {values}")
                await until(lambda: meters.value(failed, error__type="RowRefusedError") == refused)  # noqa: B023
            said = runner.health().last_error
    errors = [span.attributes for span in spans.all() if span.status.status_code is StatusCode.ERROR]
    told = [(each["messaging.operation.name"], each["error.type"], each["session_lock.refused"], each.get(STATUS)) for each in errors]  # fmt: skip
    assert told == [("finish", "RowRefusedError", 2, "P0001"), ("finish", "RowRefusedError", 2, None)]
    assert meters.value(failed) == 4
    assert re.fullmatch(
        r"task Task\(key=\d, .*\) cannot be recorded: \w+ \((P0001|23505)\), PL/pgSQL function public.no\(\) line 1 at RAISE",
        said,
    )


async def test_a_finish_in_a_transaction_is_told_by_the_function_that_it_calls(
    database: TestDatabase, admin: asyncpg.Connection, spans: Spans, meters: Meters
) -> None:
    """1: in one of ours. 2: in one of the tasker's. 3: in one of a thread. 4: of what somebody has closed meanwhile."""
    await admin.execute("INSERT INTO mail SELECT generate_series(1, 4)")
    pool = await asyncpg.create_pool(database.admin_dsn, min_size=1)

    def in_thread(task: Any) -> None:
        with psycopg.connect(database.admin_dsn) as connection:
            task.finish_in_sync(connection)

    async def tasker(task: Any) -> None:
        match task.key:
            case 1:
                async with task.transaction():
                    pass
            case 2:
                async with pool.acquire() as connection, connection.transaction():
                    await task.finish_in(connection)
            case 3:
                await asyncio.to_thread(in_thread, task)
            case 4:
                await admin.execute("UPDATE mail SET sent_at = now() WHERE id = 4")
                async with task.transaction():
                    pass

    config = Settings(start_jitter=0, poll_interval=0.2)
    async with PostgresDatabase(database.admin_dsn, MAILS, listen=False) as mails, pool:
        runner = Runner(
            mails, each(tasker), config, tracer_provider=spans.provider, meter_provider=meters.provider
        )
        async with runner:
            await until(lambda: len(spans.of("process")) == 4)
    processes = {span.context.span_id: span.attributes.get("error.type") for span in spans.of("process")}
    fences = [span for span in spans.of("finish") if span.attributes["db.operation.name"] == "finish_in"]
    assert sorted((span.status.status_code.name, *(span.attributes.get(name) for name in ("error.type", STATUS))) for span in fences) == [("ERROR", "TaskLost", "SL002"), *[("UNSET", None, None)] * 3]  # fmt: skip
    assert {span.parent.span_id: span.attributes.get("error.type") for span in fences} == processes
    took = "messaging.client.operation.duration"
    assert meters.value(took, db__operation__name="finish_in", messaging__operation__type="settle") == 4
    assert meters.value(took, db__operation__name="finish_in", error__type="TaskLost") == 1


async def test_the_sqlstate_is_told_of_a_call_that_failed(
    database: TestDatabase, admin: asyncpg.Connection, spans: Spans, meters: Meters
) -> None:
    told = {"tracer_provider": spans.provider, "meter_provider": meters.provider}
    config = Settings(start_jitter=0, keepalive_interval=0.2)
    async with PostgresDatabase(database.admin_dsn, MAILS, listen=False) as mails:
        runner = Runner(mails, each(nothing), config, **told)
        async with runner:
            await until(lambda: runner.ready)
            await admin.execute("DELETE FROM session_lock.session")
            await until(lambda: len(spans.of("start")) == 2)
        with pytest.raises(SchemaError):
            async with Runner(mails, each(nothing), config, **told):
                await admin.execute("ALTER TABLE mail RENAME sent_at TO gone_at")
                await until(lambda: spans.of("receive")[-1].attributes.get(STATUS) == "42703")
    errors = {("SessionLost", "SL001"), ("SchemaError", "42703")}
    assert told_of(span.attributes for span in spans.all()) == errors
    durations = meters.read()
    of_looks, of_sessions = (told_of(point.attributes for point in durations[f"{each}.client.operation.duration"]) for each in ("messaging", "db"))  # fmt: skip
    assert of_looks | of_sessions == errors
    assert ("SchemaError", "42703") in of_looks & of_sessions
