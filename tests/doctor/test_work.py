"""`doctor`: what is installed, how work is found, who does it, and what goes wrong. And what a role sees that may see less."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from session_lock import Limit, PostgresDatabase
from session_lock.catalog import read_shape
from session_lock.doctor import LOOKS, plan
from session_lock.migrations import install, tune
from session_lock.objects import function_set
from session_lock.schema import source
from session_lock.session import Lease
from tests.adoption.test_partitions import ADD, BY_RANGE, EVENTS
from tests.conftest import APP_ROLE
from tests.support import EMAILS, add_emails

from .conftest import Patient


async def functions_of(patient: Patient) -> str:
    return function_set(patient.table, await read_shape(patient.owner, patient.table))


# What is installed -----------------------------------------------------------------------------------------


async def test_what_check_finds_is_found(patient: Patient):
    await patient.owner.execute(f"DROP INDEX public.pending_{await functions_of(patient)}")
    found = await patient.finding("installation", "error")
    assert (found.text, found.remedy) == (
        f"the index public.pending_{await functions_of(patient)} is missing",
        "run session-lock install",
    )
    await install(patient.owner, EMAILS)
    await patient.owner.execute("ALTER TABLE public.email RESET (fillfactor)")
    found = await patient.finding("installation", "note")
    assert found.text.startswith("fillfactor of public.email is 100, 50 is advised (")
    assert found.remedy == "run session-lock install --tune"


async def test_what_the_service_may_not_do_is_said_of_its_role(patient: Patient):
    await patient.owner.execute(f"REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA session_lock FROM {APP_ROLE}")
    found = await patient.found()
    assert found[0].look == "service"
    assert found[0].text.startswith("no Runner starts: ")
    assert {each.look for each in found if each.severity == "error"} == {"service", "installation"}
    assert [each for each in found if each.look == "installation"][
        0
    ].remedy == "run session-lock install --grant-to app"
    await install(patient.owner, EMAILS, grant_to=APP_ROLE)
    assert await patient.is_well()


async def test_the_role_may_be_named(patient: Patient):
    await patient.admin.execute("DROP ROLE IF EXISTS stranger; CREATE ROLE stranger")
    texts = [each.text for each in await patient.found(role="stranger")]
    assert texts == ["the role 'stranger' may not use the schema 'session_lock'"]


VERSION = (
    "CREATE OR REPLACE FUNCTION session_lock.schema_version(OUT version integer, OUT serves integer)"
    " LANGUAGE sql IMMUTABLE AS 'SELECT {}, {}'"
)


@pytest.mark.parametrize(
    ("statement", "looks", "text"),
    [
        (VERSION.format(1, 1), {"service", "installation"}, "of version 1, this library needs"),
        (VERSION.format(99, 99), {"service", "installation"}, "serves libraries from version 99 on"),
        (
            "UPDATE session_lock.origin SET database = 'shop'",
            {"installation"},
            "this is a copy of database shop of server",
        ),
    ],
    ids=["too old", "too new", "a copy"],
)
async def test_it_is_not_for_this_library_or_not_for_here(
    patient: Patient, statement: str, looks: set[str], text: str
):
    await patient.owner.execute(statement)
    found = await patient.found()
    assert {each.look for each in found if each.severity == "error"} == looks
    assert text in found[0].text


# How work is found -----------------------------------------------------------------------------------------


async def test_dead_rows_that_a_look_walks_past(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    """They cannot go while somebody may still see them."""
    monkeypatch.setattr(plan, "PAGES", 300)
    await patient.owner.execute("ALTER TABLE public.email SET (autovacuum_enabled = off)")
    await patient.admin.execute(
        "INSERT INTO public.email (address, body) SELECT 'a', repeat('x', 900) FROM generate_series(1, 4000)"
    )
    await add_emails(patient.admin, 10)
    await patient.admin.execute("ANALYZE public.email")
    async with patient.transaction():
        await patient.admin.execute("UPDATE public.email SET sent_at = now() WHERE body IS NOT NULL")
        found = [each for each in await patient.found() if each.look == "plan"]
        index = f"pending_{await functions_of(patient)}"
        assert [each.severity for each in found] == ["warning"]
        assert found[0].evidence["indexes"] == [index]
        assert found[0].text == (
            f"a look for work reads {found[0].evidence['pages']:,} pages for 10 tasks, by the index {index}: it walks past rows that are dead, "
            "held or not due"
        )
    await patient.admin.execute(found[0].remedy.partition(",")[0])
    assert [each for each in await patient.found() if each.look == "plan"] == []


async def test_another_index_in_the_same_order(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    """The table's own key, past all that is done."""
    monkeypatch.setattr(plan, "PAGES", 100)
    first = f"pending_{await functions_of(patient)}"
    patient.table = replace(EMAILS, order_by=("id",))
    await install(patient.owner, patient.table, grant_to=APP_ROLE)
    await patient.admin.execute(
        "INSERT INTO public.email (address, body, sent_at) SELECT 'a', repeat('x', 900), now() FROM generate_series(1, 4000)"
    )
    await add_emails(patient.admin, 10)
    await patient.admin.execute(
        f"ANALYZE public.email; DROP INDEX public.{first}, public.pending_{await functions_of(patient)}"
    )
    await patient.admin.execute(f"ALTER ROLE app IN DATABASE {patient.name} SET enable_seqscan = off")
    found = [each for each in await patient.found() if each.look == "plan"]
    assert [each.evidence["indexes"] for each in found] == [["email_pkey"]]
    assert (
        "but by the index email_pkey; set are enable_seqscan = off; order_by does not begin with available_at"
        in found[0].text
    )
    assert found[0].remedy.endswith("; if that changes nothing, let order_by begin with available_at")
    await install(patient.owner, patient.table)
    assert [each for each in await patient.found() if each.look == "plan"] == []


async def test_a_bitmap_of_its_own_index(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    """As long as the server knows nothing of the rows. It is by the index, and all the same reads what it would not have to."""
    monkeypatch.setattr(plan, "PAGES", 100)
    await patient.owner.execute("ALTER TABLE public.email SET (autovacuum_enabled = off)")
    patient.table = replace(EMAILS, pending="sent_at IS NULL", discard=None)
    await install(patient.owner, patient.table, grant_to=APP_ROLE)
    await add_emails(patient.admin, 50_000)
    [found] = [each for each in await patient.found() if each.look == "plan"]
    index = f"pending_{await functions_of(patient)}"
    assert found.text.endswith(f"for 100 tasks: of the index {index} it reads all that is due, and sorts it")
    await patient.admin.execute(found.remedy)
    assert [each for each in await patient.found() if each.look == "plan"] == []


@pytest.mark.parametrize(
    "table",
    [
        EVENTS,
        replace(EMAILS, limits=(Limit(3, by="address"),), accepts="body"),
        replace(EMAILS, order_by=("address", "id")),
        replace(EMAILS, order_by=("id DESC", "available_at")),
    ],
    ids=["partitions", "limits", "order", "parts"],
)
async def test_the_plans_of_other_mappings(patient: Patient, table, monkeypatch: pytest.MonkeyPatch):
    """Their looks go by their index, and are understood."""
    monkeypatch.setattr(plan, "PAGES", 0)
    patient.table = table
    if table is EVENTS:
        await patient.owner.execute(f"{BY_RANGE}; GRANT CREATE ON SCHEMA old TO surgeon")
    await install(patient.owner, table, grant_to=APP_ROLE)
    await tune(patient.owner, table)
    if table is EVENTS:
        await patient.admin.execute(ADD, 0, 299, 1)
    else:
        await add_emails(patient.admin, 5000)
    await patient.admin.execute(f"ANALYZE {table.table}")
    await patient.admin.execute(f"ALTER ROLE app IN DATABASE {patient.name} SET enable_seqscan = off")
    [found] = [each for each in await patient.found() if each.look == "plan"]
    assert ", by the index pending_" in found.text, found
    assert found.evidence["tasks"] == 100


# Who does it -----------------------------------------------------------------------------------------------


async def test_nobody_does_it(patient: Patient):
    await patient.owner.execute("UPDATE session_lock.session SET ended_at = now()")
    assert await patient.found() == []  # as there is nothing to do
    await add_emails(patient.admin, 3)
    found = await patient.finding("sessions", "error")
    assert found.text.startswith(
        "no session is live: no Runner of this mapping runs, and 3 rows of public.email are pending, the oldest due for "
    )
    assert found.evidence["pending"] == 3
    async with PostgresDatabase(patient.app_dsn, EMAILS) as emails:
        await emails.start_session(capacity=1, ttl=60)
    assert await patient.is_well()


async def test_all_are_draining(patient: Patient):
    await patient.owner.execute("UPDATE session_lock.session SET draining = true")
    found = await patient.finding("sessions", "warning")
    assert found.text == "all sessions that live are draining: no task is claimed"


async def test_sessions_of_an_earlier_version(patient: Patient):
    await patient.owner.execute("UPDATE session_lock.session SET functions = 'email_00000000'")
    found = await patient.finding("sessions", "note")
    assert found.text.startswith(
        "live sessions use another version of the mapping (email_00000000) than this one, email_"
    )
    await add_emails(patient.admin, 3)  # which may be pending by this version alone
    found = await patient.finding("sessions", "warning")
    assert re.fullmatch(
        r"all live sessions use another version of the mapping \(email_00000000\) than this one, email_\w{8}, by which 3 rows of public\.email are "
        r"pending, the oldest due for .*: a task that is not pending by theirs is not done",
        found.text,
    )
    assert found.evidence["pending"] == 3
    async with PostgresDatabase(patient.app_dsn, EMAILS) as emails:
        await emails.start_session(capacity=1, ttl=60)
    assert (await patient.finding("sessions", "note")).text.startswith("live sessions use another version")


# What goes wrong -------------------------------------------------------------------------------------------

FAILED = (
    "INSERT INTO session_lock.failure (name, task_key, attempt, at, error)"
    " SELECT $1, g::text, 1, clock_timestamp() - make_interval(secs => $3), $4 FROM generate_series(1, $2) AS g"
)


async def test_failures_that_grow(patient: Patient):
    await patient.owner.execute(FAILED, "email", 240, 7200, "OSError: before")
    await patient.owner.execute(FAILED, "email", 99, 60, "TimeoutError: of ann@example.org")
    await patient.owner.execute(FAILED, "other", 500, 60, "KeyError: not ours")
    assert await patient.found() == []  # few
    await patient.owner.execute(FAILED, "email", 1, 60, "ValueError: bob@example.org\nfrom KeyError: 1")
    assert await patient.found() == []  # as many as before
    await patient.owner.execute(FAILED, "email", 1, 60, "TimeoutError: of bob@example.org")
    found = await patient.finding("failures", "warning")
    assert found.text == (
        "101 attempts have failed in the last hour, and 240 in the day before it: mostly of 'TimeoutError'"
    )


async def test_what_is_kept_for_too_long(patient: Patient):
    await patient.owner.execute(FAILED, "email", 7, 31 * 86_400, "OSError")
    await patient.owner.execute(
        "INSERT INTO session_lock.session (name, capacity, started_at, expires_at, ended_at, swept_at)"
        " SELECT 'email', 1, t, t, t, t FROM (SELECT now() - interval '8 days') AS ago (t)"
    )
    found = await patient.finding("failures", "note")
    assert found.text == (
        "failures older than 30 days (7) and sessions that ended more than 7 days ago (1) are still kept"
    )
    assert found.remedy == "session-lock prune MODULE:ATTRIBUTE"


# What a role sees that may see less ------------------------------------------------------------------------


async def test_the_services_own_role_is_told_what_it_may_not_see(patient: Patient):
    await patient.admin.execute("INSERT INTO session_lock.pause (name) VALUES ('email')")
    await patient.admin.execute(f"ALTER ROLE app IN DATABASE {patient.name} SET synchronous_commit = off")
    async with PostgresDatabase(patient.app_dsn, EMAILS) as emails:
        found = await emails.doctor()
    assert [(each.look, each.severity) for each in found] == [
        ("service", "warning"),
        *(
            (look, "unseen")
            for look in ("snapshots", "installation", "plan", "sessions", "claims", "failures")
        ),
    ]
    assert found[1].remedy == "GRANT pg_read_all_stats TO app"
    assert all(
        "permission denied" in each.text and "connect as the role that owns the table" in each.text
        for each in found[2:]
    )


async def test_functions_that_are_written_by_hand(patient: Patient):
    await patient.admin.execute(source("by_hand/example.sql"))
    await patient.admin.execute("UPDATE session_lock.session SET draining = true, name = 'packing'")
    async with PostgresDatabase(patient.admin_dsn, functions="packing") as orders:
        found = await orders.doctor()
    assert [(each.look, each.severity) for each in found] == [
        ("sessions", "warning"),
        ("installation", "unseen"),
    ]
    assert "written by hand" in found[1].text


async def test_what_breaks_ends_it(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    async def cut(case):
        await patient.admin.execute("SELECT pg_terminate_backend($1)", case.connection.get_server_pid())
        await case.connection.fetch("SELECT 1")
        yield

    monkeypatch.setitem(LOOKS, "clock", cut)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
        await patient.found(connection=await patient.connect())


# What is due and not taken -----------------------------------------------------------------------------------


async def waits(patient: Patient, *, minutes: int) -> None:
    await patient.admin.execute(
        "INSERT INTO public.email (address, body, available_at) SELECT 'a', '2', now() - make_interval(mins => $1) FROM generate_series(1, 3)",
        minutes,
    )


@asynccontextmanager
async def session(
    patient: Patient, *, version: str = "1", age: int = 600
) -> AsyncIterator[tuple[PostgresDatabase[Any], Lease]]:
    async with PostgresDatabase(patient.app_dsn, patient.table) as database:
        lease = await database.start_session(capacity=2, ttl=30, label="web-1:7", app_version=version)
        await patient.admin.execute("UPDATE session_lock.session SET draining = id <> $1", lease.id)
        await patient.admin.execute(
            "UPDATE session_lock.session SET started_at = started_at - make_interval(secs => $1)", age
        )
        yield database, lease


async def test_room_and_free_tasks_and_none_is_taken(patient: Patient):
    await waits(patient, minutes=3)
    async with session(patient) as (database, lease):
        found = await patient.finding("backlog", "error")
        assert (
            found.text
            == "tasks are free, the oldest due for 3 minutes, and sessions with room take none: 2 (web-1:7)"
        )
        assert [each["session"] for each in found.evidence["sessions"]] == [2]
        [own] = [each for each in await database.doctor() if each.look == "backlog"]
        assert own.text == found.text  # which the service may see of itself
        await database.get_work(lease, limit=2)
        await database.bump_session(lease, ttl=30, draining=False, running=2)
        assert await patient.is_well()  # it is busy, and none has waited for long
        await patient.admin.execute("UPDATE public.email SET available_at = now() - interval '1 hour'")
        found = await patient.finding("backlog", "warning")
        assert (
            found.text == "tasks are free, the oldest due for 60 minutes, and all sessions are busy, with 2"
        )


async def test_who_has_just_started_may_still_look(patient: Patient):
    await waits(patient, minutes=3)
    async with session(patient, age=10):
        assert await patient.is_well()


async def test_what_limits_hold_back_is_no_fault(patient: Patient):
    patient.table = replace(EMAILS, limits=(Limit(1),))
    await install(patient.owner, patient.table, grant_to=APP_ROLE)
    await tune(patient.owner, patient.table)
    await waits(patient, minutes=60)
    async with session(patient) as (database, lease):
        await database.get_work(lease, limit=2)
        await database.bump_session(lease, ttl=30, draining=False, running=1)
        assert [each for each in await patient.found() if each.look == "backlog"] == []


async def test_what_no_session_may_be_given(patient: Patient):
    patient.table = replace(EMAILS, accepts="body")
    await install(patient.owner, patient.table, grant_to=APP_ROLE)
    await tune(patient.owner, patient.table)
    await waits(patient, minutes=3)
    async with session(patient):
        [found] = [each for each in await patient.found() if each.look == "backlog"]
        assert (found.severity, found.text) == (
            "warning",
            "tasks are free, the oldest due for 3 minutes, and no session that takes work may be given them (accepts)",
        )
    async with session(patient, version="2") as (database, lease):
        await database.get_work(lease, limit=3)
        assert [each for each in await patient.found() if each.look == "backlog"] == []
