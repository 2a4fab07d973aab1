"""`doctor`: each fault is made on a real server, is found, alone, with its evidence, and goes away by the remedy that is named."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from urllib.parse import quote

import asyncpg
import pytest

from session_lock.asking import why
from session_lock.doctor import server
from session_lock.embedded import temp_postgres
from session_lock.findings import Finding
from session_lock.migrations import install
from session_lock.overview import overview
from tests.chaos.standby import standby_of
from tests.conftest import _dsn
from tests.support import EMAIL_TABLE, EMAILS, add_emails

from .conftest import Patient, version


async def test_a_patient_that_is_well(patient: Patient):
    await add_emails(patient.admin, 50)
    assert await patient.found() == []


# What is set, stored or left behind: made by a statement, mended by the remedy ---------------------------

ROLE = "ALTER ROLE app IN DATABASE {db} SET"
ONE_TASK = "INSERT INTO public.email (address) VALUES ('a@example.org');"
CLOCK = (
    "CREATE OR REPLACE FUNCTION session_lock.clock() RETURNS timestamptz LANGUAGE sql VOLATILE"
    " AS $function$ SELECT clock_timestamp(){} $function$"
)

FAULTS = {
    "read only": (f"{ROLE} default_transaction_read_only = on", "service", "error", r"default_transaction_read_only of the role app is on: no task can be claimed"),
    "isolation": (f"{ROLE} default_transaction_isolation = 'serializable'", "service", "note", r"is serializable: each call takes three round trips"),
    "commits that are lost": (f"{ROLE} synchronous_commit = off", "service", "warning", r"a crash of the server takes back the last claims"),
    "statement timeout": (f"{ROLE} statement_timeout = '1s'", "service", "warning", r"statement_timeout of the role app is 1000 ms: a call that waits its 2 s"),
    "idle session timeout": (f"{ROLE} idle_session_timeout = '5s'", "service", "warning", r"is 5000 ms: connections are closed between two keepalives"),
    "who is connected": ("REVOKE SELECT ON pg_catalog.pg_stat_activity FROM PUBLIC; GRANT SELECT ON pg_catalog.pg_stat_activity TO surgeon", "service", "warning", r"the role app may not read pg_stat_activity: a call that was given up, as it did not answer, cannot be ended"),
    "autovacuum off for the table": ("ALTER TABLE public.email SET (autovacuum_enabled = off)", "vacuum", "warning", r"autovacuum is off for public\.email"),
    "never analyzed": ("ALTER TABLE public.email ALTER body SET STORAGE EXTERNAL;INSERT INTO public.email (address, sent_at) SELECT 'a', now() FROM generate_series(1, 12000)", "vacuum", "warning", r"public\.email has 12,000 rows and was never analyzed"),
    "dead rows": ("INSERT INTO public.email (address) SELECT 'a' FROM generate_series(1, 12000); DELETE FROM public.email", "vacuum", "warning", r"public\.email has 12,000 dead rows beside 0 that live"),
    "paused": ("INSERT INTO session_lock.pause (name, at) VALUES ('email', now() - interval '3 hours')", "sessions", "warning", r"the mapping is paused, for 3 hours now: no task is claimed"),
    "a foreign claim": ((f"{ONE_TASK} INSERT INTO session_lock.session (name, capacity, started_at, expires_at) VALUES ('others', 1, now(), now() + '1 hour');"
                        "UPDATE public.email SET session_id = 2"), "claims", "error", r"pending tasks \(1\) name session 2, which is of the mapping 'others': nobody takes them over"),
    "a claim of nobody": (f"{ONE_TASK} UPDATE public.email SET session_id = 77", "claims", "warning", r"pending tasks \(1\) name session 77, of which there is no record"),
    "a slot that nobody reads": ("SELECT pg_create_physical_replication_slot('away_{db}', true); SELECT pg_switch_wal(); CHECKPOINT", "replication slots", "warning", r"nobody reads from the replication slot 'away_\w+': the server keeps [\d,]+ MB"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_that_its_remedy_mends(patient: Patient, fault: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "KEPT", 1)
    statement, look, severity, text = FAULTS[fault]
    await patient.admin.execute(statement.replace("{db}", patient.name))
    found = await patient.until_found()
    assert [(each.look, each.severity) for each in found] == [(look, severity)]
    assert re.search(text, found[0].text), found[0].text
    assert found[0].evidence
    await patient.admin.execute(found[0].remedy)
    assert await patient.is_well()


@pytest.mark.skipif(version() < 17, reason="PostgreSQL 17 has it")
async def test_a_transaction_timeout(patient: Patient):
    await patient.admin.execute(f"ALTER ROLE app IN DATABASE {patient.name} SET transaction_timeout = '1s'")
    found = await patient.finding("service", "warning")
    assert found.text.startswith("transaction_timeout of the role app is 1000 ms")
    await patient.admin.execute(found.remedy)
    assert await patient.is_well()


@pytest.mark.parametrize("name", ["autovacuum", "track_counts"])
async def test_settings_of_the_server(patient: Patient, name: str):
    await patient.admin.execute(f"ALTER SYSTEM SET {name} = off")
    try:
        await patient.admin.execute("SELECT pg_reload_conf()")
        found = await patient.until_found()
        assert [(each.look, each.severity) for each in found] == [("server", "warning")]
        assert found[0].text == f"{name} of the server is off: {server.WRONG[name, 'off']}"
        for statement in found[0].remedy.split("; "):
            await patient.admin.execute(statement)
        assert await patient.is_well()
    finally:
        await patient.admin.execute(f"ALTER SYSTEM RESET {name}")
        await patient.admin.execute("SELECT pg_reload_conf()")


async def test_a_server_that_a_crash_destroys(patient: Patient):
    """One as it is started for tests. There is nothing of ours in it either, which is said too."""
    with temp_postgres() as bare:
        patient.ways = {"connect": bare.dsn, "listen": bare.dsn}
        connection = await patient.connect(bare.dsn)
        found = await patient.found(connection=connection)
        await connection.close()
    assert [each.text for each in found if each.look == "server"] == [
        f"{name} of the server is off: {server.WRONG[name, 'off']}" for name in ("fsync", "full_page_writes")
    ]
    errors = {each.look: each.text for each in found if each.severity == "error"}
    assert errors.keys() == {"service", "installation"}
    assert errors["service"].startswith('no Runner starts: database postgres has no schema "session_lock"')
    assert (
        errors["installation"]
        == "there is no table public.email: create it first, or correct the mapping's `table`"
    )


async def test_few_connections_are_left(patient: Patient):
    async with AsyncExitStack() as stack:
        for _ in range(32):
            stack.push_async_callback((await patient.connect()).close)
        found = await patient.finding("server", "warning")
        assert re.match(r"3\d of 37 connections are in use", found.text)
    assert await patient.is_well()


# What others do -------------------------------------------------------------------------------------------


async def test_a_transaction_that_is_open_for_long(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    async with patient.transaction() as connection:
        assert await patient.found() == []
        monkeypatch.setattr(server, "OLD", 0.0)
        found = await patient.finding("snapshots", "warning")
        pid = connection.get_server_pid()
        assert re.fullmatch(
            rf"pid {pid} \(report, role app\), in a transaction for \d+ seconds?: no row that has died in the last [\d,]+ transactions "
            r"can go \([\d,]+ dead ones are in the tables of the mapping\)",
            found.text,
        )
        assert (found.evidence["pid"], found.evidence["state"]) == (pid, "idle in transaction")
        await patient.admin.execute(found.remedy)
        assert await patient.is_well()


MAY_NOT = " -- surgeon may not: run it as "


@pytest.mark.parametrize(
    "right, whose, told",
    [
        (None, "app", f"{MAY_NOT}app or as a superuser, or GRANT pg_signal_backend TO surgeon"),
        (None, "postgres", f"{MAY_NOT}a superuser, which postgres is"),
        ("pg_signal_backend", "app", ""),
        ("pg_signal_backend", "postgres", f"{MAY_NOT}a superuser, which postgres is"),
        ("app", "app", ""),
    ],
)
async def test_who_may_end_it(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, right: str | None, whose: str, told: str
):
    monkeypatch.setattr(server, "OLD", 0.0)
    connection = await patient.connect(patient.admin_dsn if whose == "postgres" else patient.app_dsn)
    command = f"SELECT pg_terminate_backend({connection.get_server_pid()})"
    try:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.execute("SELECT 1")
        if right:
            await patient.admin.execute(f"GRANT {right} TO surgeon")
        assert (await patient.finding("snapshots", "warning", connection=patient.admin)).remedy == command
        found = await patient.finding("snapshots", "warning")
        assert found.remedy == f"{command}{told}"
        if told:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await patient.owner.execute(found.remedy)
            await patient.admin.execute(found.remedy)
        else:
            await patient.owner.execute(found.remedy)
        assert await patient.is_well()
    finally:
        connection.terminate()
        if right:
            await patient.admin.execute(f"REVOKE {right} FROM surgeon")


@pytest.mark.parametrize(
    "whose, is_member, told", [("app", True, True), ("postgres", False, True), ("surgeon", False, False)]
)
async def test_who_may_roll_back_what_is_prepared(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, whose: str, is_member: bool, told: bool
):
    """Only who has prepared it, or a superuser: PostgreSQL does not let a member of that role do it."""
    monkeypatch.setattr(server, "OLD", 0.0)
    command = "ROLLBACK PREPARED 'it''s\n' -- or COMMIT PREPARED, if whoever prepared it says so"
    await patient.admin.execute(f"GRANT {whose} TO surgeon" if is_member else "SELECT")
    connection = (
        patient.owner
        if whose == "surgeon"
        else await patient.connect(patient.admin_dsn if whose == "postgres" else patient.app_dsn)
    )
    try:
        await connection.execute("BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'it''s\n'")
        assert (
            await patient.finding("prepared transactions", "warning", connection=patient.admin)
        ).remedy == command
        found = await patient.finding("prepared transactions", "warning")
        assert found.remedy == command + (
            f"; surgeon may not: run it as {whose} or as a superuser" if told else ""
        )
        if told:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await patient.owner.execute(found.remedy)
        await (patient.admin if told else patient.owner).execute(found.remedy)
        assert await patient.is_well()
    finally:
        if connection is not patient.owner:
            await connection.close()
        if is_member:
            await patient.admin.execute(f"REVOKE {whose} FROM surgeon")


@pytest.mark.parametrize("may", [False, True])
async def test_who_may_drop_a_slot(patient: Patient, monkeypatch: pytest.MonkeyPatch, may: bool):
    monkeypatch.setattr(server, "KEPT", 1)
    name = f"away_{patient.name}"
    command = f"SELECT pg_drop_replication_slot('{name}') -- if its reader does not come back"
    await patient.admin.execute(
        f"SELECT pg_create_physical_replication_slot('{name}', true); SELECT pg_switch_wal(); CHECKPOINT"
    )
    await patient.admin.execute(f"ALTER ROLE surgeon {'REPLICATION' if may else 'NOREPLICATION'}")
    try:
        assert (
            await patient.finding("replication slots", "warning", connection=patient.admin)
        ).remedy == command
        found = await patient.finding("replication slots", "warning")
        assert found.remedy == command + (
            "" if may else "; surgeon may not: run it as a superuser or a role with REPLICATION"
        )
        if not may:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await patient.owner.execute(found.remedy)
        await (patient.owner if may else patient.admin).execute(found.remedy)
        assert await patient.is_well()
    finally:
        await patient.admin.execute("ALTER ROLE surgeon NOREPLICATION")


async def test_the_name_of_a_role_is_no_command(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    """What stands behind a line break would be run along with the remedy."""
    monkeypatch.setattr(server, "OLD", 0.0)
    name = "x\nDROP TABLE public.email;--"
    await patient.admin.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'x'")
    connection = await patient.connect(_dsn(patient.admin_dsn, user=f"{quote(name)}:x"))
    try:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.execute("SELECT 1")
        found = await patient.finding("snapshots", "warning")
        assert 'run it as "x DROP TABLE public.email;--" or as a superuser' in found.remedy
    finally:
        await connection.close()
        await patient.admin.execute(f'DROP ROLE "{name}"')


async def test_one_that_has_rows_of_the_table(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "OLD", 0.0)
    await patient.admin.execute(f"{ONE_TASK} GRANT SELECT, UPDATE ON public.email TO app")
    try:
        async with patient.transaction("SELECT FROM public.email FOR UPDATE"):
            assert (await patient.finding("snapshots", "warning")).text.endswith(
                ", and tasks whose rows it has locked are passed over"
            )
    finally:
        await patient.admin.execute("REVOKE ALL ON public.email FROM app")


async def test_of_other_databases_no_transaction_matters(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "OLD", 0.0)
    elsewhere = await asyncpg.connect(_dsn(patient.app_dsn, database="postgres"))
    async with elsewhere.transaction(isolation="repeatable_read"):
        await elsewhere.execute("SELECT 1")
        assert await patient.found() == []
    await elsewhere.close()


async def test_a_vacuum_that_takes_long_is_in_nobodys_way(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    """It has a snapshot, for which no other VACUUM waits."""
    monkeypatch.setattr(server, "OLD", 0.0)
    await patient.admin.execute(
        "INSERT INTO public.email (address, body) SELECT 'a', repeat('x', 1500) FROM generate_series(1, 500); DELETE FROM public.email"
    )
    cleaner = await patient.connect(_dsn(patient.admin_dsn, user="surgeon:scalpel"))
    try:
        await cleaner.execute("SET vacuum_cost_delay = '100ms'; SET vacuum_cost_limit = 1")
        vacuum = asyncio.create_task(cleaner.execute("VACUUM public.email"))
        query = """
            SELECT count(*) FROM pg_stat_progress_vacuum AS v JOIN pg_stat_activity AS a USING (pid)
             WHERE v.pid = $1 AND a.backend_xmin IS NOT NULL AND a.xact_start < clock_timestamp() - interval '50 ms'
            """
        pid = cleaner.get_server_pid()
        async with asyncio.timeout(20):
            while not await patient.admin.fetchval(query, pid):
                await asyncio.sleep(0.01)
        assert [each for each in await patient.found() if each.look == "snapshots"] == []
        assert (await overview(patient.owner, EMAILS, old=0)).holders == []
        assert await patient.admin.fetchval(query, pid), "it has ended too soon to say anything"
    finally:
        await patient.admin.execute("SELECT pg_terminate_backend($1)", cleaner.get_server_pid())
        await asyncio.gather(vacuum, return_exceptions=True)
        await cleaner.close()


async def test_who_may_not_see_transactions_is_told_what_to_grant(patient: Patient):
    await patient.admin.execute("REVOKE pg_read_all_stats FROM surgeon")
    try:
        found = await patient.finding("snapshots", "unseen")
        assert found.text == "since when transactions of other roles are open is not shown to surgeon"
    finally:
        await patient.admin.execute(found.remedy)
    assert await patient.is_well()


@pytest.mark.parametrize("savepoint", [False, True])
async def test_why_names_a_prepared_transaction_that_has_locked_the_row(patient: Patient, savepoint: bool):
    key = await patient.admin.fetchval("INSERT INTO public.email (address) VALUES ('a') RETURNING id")
    lock = f"SELECT FROM public.email WHERE id = {key} FOR UPDATE"
    if savepoint:
        lock = f"SAVEPOINT a; {lock}; RELEASE SAVEPOINT a"
    await patient.admin.execute(f"BEGIN; {lock}; PREPARE TRANSACTION 'it''s'")
    try:
        found = await why(patient.owner, EMAILS, str(key))
    finally:
        await patient.admin.execute("ROLLBACK PREPARED 'it''s'")
    (locker,) = found.lockers
    assert (locker.pid, locker.prepared, locker.sure) == (None, "it's", not savepoint)
    assert 'the prepared transaction "it\'s" (role postgres, for ' in " ".join([found.why, *found.also])
    assert (await why(patient.owner, EMAILS, str(key))).lockers == ()


async def test_a_transaction_that_is_prepared_for_long(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    await patient.admin.execute("BEGIN; CREATE TABLE public.other (); PREPARE TRANSACTION 'it''s'")
    try:
        assert await patient.found() == []
        monkeypatch.setattr(server, "OLD", 0.0)
        found = await patient.finding("prepared transactions", "warning")
        assert found.text.startswith("the transaction 'it''s' of postgres is prepared for ")
        (holder,) = (await overview(patient.owner, EMAILS, old=0)).holders
        assert (holder.kind, holder.name) == ("prepared", "it's")
        assert 0 <= holder.since < 60
    finally:
        await patient.admin.execute("ROLLBACK PREPARED 'it''s'")
    assert found.remedy.startswith("ROLLBACK PREPARED 'it''s' -- or ")
    assert await patient.is_well()


async def test_a_standby_and_what_it_leaves_behind(patient: Patient):
    settings = {
        "primary_slot_name": "away",
        "hot_standby_feedback": "on",
        "wal_receiver_status_interval": "1s",
    }
    with temp_postgres(**settings) as primary:
        connection = await patient.connect(primary.dsn)
        await connection.execute("SELECT pg_create_physical_replication_slot('away')")
        await connection.close()
        with standby_of(primary) as standby:
            patient.ways = {"connect": standby, "listen": None}
            connection = await patient.connect(standby)
            found = await patient.found(connection=connection)
            await connection.close()
            assert found[0].look == "service"
            assert found[0].text.startswith(
                "no Runner starts: database postgres is a standby, which cannot be written"
            )
            connection = await patient.connect(primary.dsn)
            async with asyncio.timeout(20):
                while not await connection.fetchval(
                    "SELECT bool_and(xmin IS NOT NULL) FROM pg_replication_slots"
                ):
                    await asyncio.sleep(0.1)
        patient.ways = {"connect": primary.dsn, "listen": None}
        async with asyncio.timeout(20):
            while not (
                found := [
                    each
                    for each in await patient.found(connection=connection)
                    if each.look == "replication slots"
                ]
            ):
                await asyncio.sleep(0.1)
        await connection.execute(EMAIL_TABLE)
        await install(connection, EMAILS)
        (holder,) = (await overview(connection, EMAILS)).holders
        assert (holder.kind, holder.name, holder.since) == ("slot", "away", None)
        await connection.close()
    assert re.fullmatch(
        r"nobody reads from the replication slot 'away': no row that has died in the last [\d,]+ transactions can go",
        found[0].text,
    )


@pytest.mark.parametrize("slot", [True, False])
async def test_what_a_standby_reads(patient: Patient, monkeypatch: pytest.MonkeyPatch, slot: bool):
    """It is told to the primary by hot_standby_feedback: kept in a slot, or by the connection."""
    settings = {"hot_standby_feedback": "on", "wal_receiver_status_interval": "1s"}
    with temp_postgres(**settings, **({"primary_slot_name": "away"} if slot else {})) as primary:
        if slot:
            connection = await patient.connect(primary.dsn)
            await connection.execute("SELECT pg_create_physical_replication_slot('away')")
            await connection.close()
        with standby_of(primary) as standby:
            patient.ways = {"connect": primary.dsn, "listen": None}
            connection, there = [await patient.connect(dsn) for dsn in (primary.dsn, standby)]
            await connection.execute(EMAIL_TABLE)
            await install(connection, EMAILS)

            async def found() -> list[Finding]:
                return [
                    each for each in await patient.found(connection=connection) if each.look == "standbys"
                ]

            async def until(count: int) -> list[Finding]:
                async with asyncio.timeout(20):
                    while len(told := await found()) != count:
                        await asyncio.sleep(0.1)
                    return told

            async def transactions(count: int) -> None:
                for _ in range(count):
                    await connection.execute("INSERT INTO email (address) VALUES ('a')")

            held = "SELECT max(age(xmin)) FROM {}".format(
                "pg_replication_slots"
                if slot
                else "(SELECT backend_xmin FROM pg_stat_replication) AS s (xmin)"
            )
            await transactions(3)
            async with asyncio.timeout(20):
                while await connection.fetchval(held) != 0:
                    await asyncio.sleep(0.1)
            with monkeypatch.context() as patched:
                patched.setattr(server, "OLD", 0.0)
                await connection.execute("CHECKPOINT")
                await until(0)  # all that it has told of is newer
                await transactions(3)
                await connection.execute("CHECKPOINT")
                await until(0)  # and soon again

                # What runs on the primary is the primary's.
                other = await patient.connect(primary.dsn)
                await other.execute("BEGIN; INSERT INTO email (address) VALUES ('a')")
                await transactions(3)
                await connection.execute("CHECKPOINT")
                await asyncio.sleep(2)
                assert await connection.fetchval(held) > 3
                assert await found() == []
                await other.close()
                await until(0)

            await there.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await there.execute("SELECT 1")
            await transactions(300)
            await connection.execute("CHECKPOINT")
            async with asyncio.timeout(20):
                while await connection.fetchval(held) < 300:
                    await asyncio.sleep(0.1)
            assert await found() == []  # that is not for long, and not many
            assert (await overview(connection, EMAILS)).holders == []
            with monkeypatch.context() as patched:
                patched.setattr(server, "STANDBYS", server.STANDBYS.replace("1000000", "300"))
                (told,) = await found()
                assert (told.evidence["since"], told.evidence["transactions"] >= 300) == (None, True)
            with monkeypatch.context() as patched:
                patched.setattr(server, "OLD", 0.0)
                patched.setattr("session_lock.overview.OLD_THERE", 0.0)
                (told,) = await found()
                (holder,) = (await overview(connection, EMAILS, old=0)).holders
                end = ", replication slot away" if slot else ""
                assert re.fullmatch(
                    rf"a standby, pid \d+ \(walreceiver, 127\.0\.0\.1{end}\), has something open for \d+ seconds? at least, or is behind, and has "
                    r"hot_standby_feedback: no row that has died in the last 3\d\d transactions can go \([\d,]+ dead ones are in the tables of the mapping\)",
                    told.text,
                )
                assert (holder.kind, holder.name in told.text) == ("standby", True)
                assert (holder.since >= 0, holder.transactions >= 300) == (True, True)
                (row,) = await there.fetch(re.findall(r"\((SELECT .*? xact_start)\)", told.remedy)[0])
                assert row["pid"] == there.get_server_pid()
                await there.close()
                await until(0)
                assert (await overview(connection, EMAILS, old=0)).holders == []
            await connection.close()


async def test_the_table_is_locked(patient: Patient):
    await patient.admin.execute("GRANT ALL ON public.email TO app")
    try:
        async with patient.transaction("LOCK TABLE public.email IN ACCESS EXCLUSIVE MODE") as connection:
            found = await patient.found()
            assert (found[0].look, found[0].severity) == ("locks", "error")
            assert re.match(
                rf"the whole table public\.email is locked by pid {connection.get_server_pid()} \(report, role app\), in a transaction for ",
                found[0].text,
            )
            # What cannot be seen behind it is said, and the rest goes on.
            assert {(each.look, each.severity) for each in found[1:]} <= {
                (look, "unseen") for look in ("installation", "plan", "sessions", "backlog", "claims")
            }
            assert (
                "could not be looked at: public.email could not be examined: it is locked by another"
                in found[1].text
            )
            await patient.admin.execute(found[0].remedy)
    finally:
        await patient.admin.execute("REVOKE ALL ON public.email FROM app")
    assert await patient.is_well()


async def test_a_prepared_transaction_has_locked_the_table(patient: Patient):
    """It has no connection that could be ended."""
    await patient.admin.execute(
        "BEGIN; LOCK TABLE public.email IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'it''s'"
    )
    try:
        found = await patient.found()
        assert (found[0].look, found[0].severity) == ("locks", "error")
        assert 'is locked by the prepared transaction "it\'s" (role postgres, ' in found[0].text
        assert found[0].evidence["prepared"] == "it's"
    finally:
        await patient.admin.execute("ROLLBACK PREPARED 'it''s'")
    assert found[0].remedy.startswith("ROLLBACK PREPARED 'it''s' -- or ")
    assert await patient.is_well()


# How work is found ------------------------------------------------------------------------------------------

WIDE = "INSERT INTO public.email (address, body) SELECT 'a', repeat('x', 1800) FROM generate_series(1, 6000)"


async def test_a_plan_without_the_index(patient: Patient):
    await patient.admin.execute(f"{WIDE}; ANALYZE public.email")
    assert await patient.found() == []
    off = [f"SET enable_{name} = off" for name in ("indexscan", "bitmapscan", "indexonlyscan")]
    await patient.admin.execute(
        "; ".join(f"ALTER ROLE app IN DATABASE {patient.name} {each}" for each in off)
    )
    found = await patient.finding("plan", "warning")
    assert re.match(
        r"a look for work reads [1-9],\d{3} pages for 100 tasks, and not by the index pending_email_\w{8} but by Seq Scan; set are enable_bitmapscan = off, ",
        found.text,
    )
    assert found.evidence["settings"]["enable_indexscan"] == "off"
    await patient.admin.execute(f"ALTER ROLE app IN DATABASE {patient.name} RESET ALL")
    assert await patient.is_well()
