"""`doctor`: how the service reaches the database. A PgBouncer is in between, wake-ups go astray, clocks and time zones differ."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from session_lock import DatabaseError, PostgresDatabase, listener
from session_lock.connections import open_connection
from session_lock.migrations import install, tune
from tests.chaos.pgbouncer import pgbouncer
from tests.conftest import APP_ROLE, _dsn
from tests.support import EMAIL_TABLE, EMAILS

from .conftest import Patient, version

CLOCK = (
    "CREATE OR REPLACE FUNCTION session_lock.clock() RETURNS timestamptz LANGUAGE sql VOLATILE"
    " AS $function$ SELECT clock_timestamp() {} $function$"
)


def unnamed(dsn: str) -> partial[object]:
    """As one connects behind a pooler."""
    return partial(open_connection, dsn, statement_cache_size=0)


@pytest.fixture
def pooled(patient: Patient, request: pytest.FixtureRequest) -> Iterator[str]:
    """The DSN of the service through a PgBouncer in the mode that the test names."""
    with ExitStack() as stack:
        yield stack.enter_context(pgbouncer(patient.app_dsn, mode=request.param, size=4))


in_mode = partial(pytest.mark.parametrize, "pooled", indirect=True)


# Through a pooler ------------------------------------------------------------------------------------------


@in_mode(argvalues=["transaction"])
async def test_a_transaction_pooler_that_is_known_of(patient: Patient, pooled: str):
    patient.ways = {"connect": unnamed(pooled), "listen": patient.app_dsn}
    found = await patient.finding("pooler", "note")
    assert found.text == "a transaction pooler is in between: another statement may go to another backend"
    assert found.evidence["mode"] == "transaction"


@pytest.mark.parametrize("size", [1, 5])
async def test_a_transaction_pooler_of_few_or_many_backends(patient: Patient, size: int):
    with pgbouncer(patient.app_dsn, size=size) as dsn:
        patient.ways = {"connect": unnamed(dsn), "listen": patient.app_dsn}
        assert (await patient.finding("pooler", "note")).evidence["mode"] == "transaction"


@in_mode(argvalues=["transaction"])
async def test_prepared_statements_behind_a_pooler(patient: Patient, pooled: str):
    patient.ways = {"connect": pooled, "listen": patient.app_dsn}
    found = await patient.finding("pooler", "error")
    assert "a prepared statement is not known to the next backend: calls fail" in found.text
    assert found.evidence == {"mode": "transaction", "sqlstate": "26000"}
    assert "statement_cache_size=0" in found.remedy
    async with PostgresDatabase(
        pooled, EMAILS, listen=patient.app_dsn
    ) as emails:  # as a service that does so is told
        assert ("pooler", "error") in [(each.look, each.severity) for each in await emails.doctor()]


@in_mode(argvalues=["session"])
async def test_a_session_pooler_is_in_nobodys_way(patient: Patient, pooled: str):
    patient.ways = {"connect": pooled, "listen": pooled}
    assert await patient.found() == []


@in_mode(argvalues=["statement"])
async def test_a_statement_pooler(patient: Patient, pooled: str):
    patient.ways = {"connect": unnamed(pooled), "listen": patient.app_dsn}
    found = await patient.finding("pooler", "error")
    assert re.match(r"a pooler is in between, in which no transaction can be begun \(.+\)", found.text)
    assert found.remedy == "set pool_mode = transaction, or session, in PgBouncer"


# Wake-ups --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2])
async def test_wake_ups_that_a_pooler_keeps(patient: Patient, size: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(listener, "ECHO", 0.2)
    with pgbouncer(patient.app_dsn, size=size) as dsn:
        patient.ways = {"connect": unnamed(dsn), "listen": unnamed(dsn)}
        found = await patient.found()
    assert [(each.look, each.severity) for each in found] == [("wake-ups", "warning"), ("pooler", "note")]
    assert found[0].text.startswith(
        "no wake-up is heard, so new tasks wait for the next poll: nothing is heard on a "
    )
    assert found[0].remedy == "give PostgresDatabase(listen=) the DSN of the server itself"


async def test_wake_ups_of_another_database(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(listener, "ECHO", 0.2)
    patient.ways = {"listen": _dsn(patient.app_dsn, database="postgres")}
    found = await patient.finding("wake-ups", "warning")
    assert "is not heard where it listens; do both lead to one database? No echo within 0.2 s" in found.text


async def test_there_is_nothing_to_listen_to(patient: Patient):
    patient.ways = {"listen": "postgresql://app:secret@127.0.0.1:1/postgres"}
    found = await patient.finding("wake-ups", "warning")
    assert "ConnectionRefusedError" in found.text
    assert "secret" not in found.text
    patient.ways = {"listen": None}  # nobody listens, and that is wanted
    assert await patient.found() == []


@pytest.mark.skipif(version() < 17, reason="before PostgreSQL 17 the room is 8 GB")
async def test_the_room_for_notifications_runs_out(patient: Patient):
    text = "x" * 7900
    async with patient.transaction() as idle:
        await patient.admin.execute("LISTEN anything")
        for statement in ("COMMIT", "LISTEN anything", "BEGIN", "SELECT 1"):
            await idle.execute(statement)
        for _ in range(20):
            await patient.admin.execute(f"NOTIFY anything, '{text}'")
        found = await patient.finding("wake-ups", "warning")
        assert re.match(r"[1-5]\d% of the server's room for notifications is used", found.text)
        query = found.remedy.removeprefix("end that transaction: ")
        assert idle.get_server_pid() in [row["pid"] for row in await patient.admin.fetch(query)]
    await patient.admin.execute("UNLISTEN anything; NOTIFY anything")
    assert await patient.is_well()


# Clocks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"), [("+ interval '50 min'", "in front of"), ("- interval '50 min'", "behind")]
)
async def test_the_servers_clock_is_not_ours(patient: Patient, change: str, said: str):
    await patient.owner.execute("UPDATE session_lock.session SET started_at = now() - interval '9 h'")
    await patient.owner.execute(CLOCK.format(change))
    found = {each.look: each for each in await patient.found()}
    assert found.keys() == {"clock", "installation"}  # which has seen how this was done
    assert found["clock"].severity == "warning"
    assert re.match(
        rf"the server's clock is (50|49) minutes {said} that of this machine", found["clock"].text
    )
    assert 2990 < abs(found["clock"].evidence["seconds"]) < 3010
    await install(patient.owner, EMAILS)
    assert await patient.is_well()


async def test_the_servers_clock_was_put_back(patient: Patient):
    await patient.owner.execute(
        "UPDATE session_lock.session SET beat_at = now() + interval '40 min', expires_at = now() + interval '41 min'"
    )
    found = await patient.finding("sessions", "warning")
    assert re.match(r"a keepalive was (40|39) minutes from now: the server's clock was put back", found.text)


async def of_letters(patient: Patient, **changes: Any) -> None:
    """A mapping whose columns have no time zone."""
    table = replace(EMAILS, table="public.letter", name="letter", **changes)
    await patient.owner.execute(
        EMAIL_TABLE.replace("email", "letter")
        .replace("timestamptz", "timestamp")
        .replace("body      text", "body text, seen_at timestamp")
    )
    await install(patient.owner, table, grant_to=APP_ROLE)
    await tune(patient.owner, table)
    patient.table = table


async def test_columns_without_a_time_zone(patient: Patient):
    await of_letters(patient)
    found = await patient.found()
    assert [(each.look, each.severity, each.evidence["column"]) for each in found] == [
        ("time zone", "warning", "sent_at"),
        ("time zone", "warning", "failed_at"),
    ]
    assert found[0].text.startswith(
        "public.letter.sent_at has no time zone, and that of the service's connections is Australia/Lord_Howe: what now() writes"
    )
    await patient.admin.execute(f"ALTER ROLE app IN DATABASE {patient.name} SET timezone = 'UTC'")
    assert await patient.found() == []


UTC = {
    "finish": "body = concat(now(), ', sent_at = '), sent_at = (now() AT TIME ZONE 'utc')",
    "discard": "failed_at = timezone('utc', now()), \"seen_at\"=NULL",
}


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        (UTC, []),
        (UTC | {"finish": "body = coalesce(body, 'AT TIME ZONE'), \"sent_at\" = localtimestamp"}, ["sent_at"]),
        (UTC | {"discard": "(body, failed_at) = (SELECT 'a', now())"}, ["failed_at"]),
        (UTC | {"order_by": ("seen_at",)}, ["seen_at"]),
        (UTC | {"pending": "(sent_at) IS NULL AND failed_at ISNULL AND (seen_at IS NOT NULL OR body <> 'seen_at')"}, []),
        (UTC | {"pending": "sent_at IS NULL AND failed_at IS NULL AND (seen_at IS NULL OR seen_at > '2030-01-31')"}, ["seen_at"]),
    ],
)  # fmt: skip
async def test_a_time_zone_on_which_nothing_depends(
    patient: Patient, changes: dict[str, Any], columns: list[str]
):
    await of_letters(patient, **changes)
    found = [each for each in await patient.found() if each.look == "time zone"]
    assert [each.evidence["column"] for each in found] == columns


# What does not let us look ---------------------------------------------------------------------------------


async def test_a_service_that_cannot_connect(patient: Patient):
    async def no_credentials() -> None:
        raise RuntimeError("the vault is sealed")

    patient.ways = {"connect": no_credentials}
    with pytest.raises(DatabaseError, match=r"connect\(\) failed: RuntimeError: the vault is sealed"):
        await patient.found()


async def test_one_that_hangs(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("session_lock.doctor.CONNECT_TIMEOUT", 0.1)
    patient.ways = {"connect": asyncio.Event().wait}
    with pytest.raises(DatabaseError, match=r"no connection within 0\.1 s"):
        await patient.found()
