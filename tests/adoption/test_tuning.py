"""How little a task writes, and the storage parameters that let it: what is advised, set on request, and left alone."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace

import asyncpg
import pytest

from session_lock import Limit
from session_lock.embedded import temp_postgres
from session_lock.errors import SessionLockError
from session_lock.migrations import install, tune
from session_lock.queue_table import queue
from session_lock.schema import render, source
from tests.adoption.test_partitions import BY_RANGE, EVENTS, NAMES
from tests.sql.test_migrations import differences, functions_of, notes, start, work_once
from tests.support import EMAIL_TABLE, EMAILS, add_emails, connected

ADVISED = dict(re.findall(r"\('(\w+)', '([\d.]+)'\)", source("tasks.tune.sql")))


async def parameters(connection: asyncpg.Connection, table: str = "public.email") -> dict[str, str]:
    rows = await connection.fetch(
        "SELECT o.option_name, o.option_value FROM pg_class AS c, pg_options_to_table(c.reloptions) AS o WHERE c.oid = $1::text::regclass",
        table,
    )
    return dict(rows)


async def advice(connection: asyncpg.Connection, table=EMAILS) -> list[str]:
    return [text for text in await notes(connection, table) if "is advised" in text]


# Parameters ------------------------------------------------------------------------------------------


def test_the_files_have_the_same_values():
    assert ADVISED == {
        "fillfactor": "50",
        "autovacuum_vacuum_scale_factor": "0.05",
        "autovacuum_vacuum_cost_delay": "1",
    }
    assert dict(re.findall(r"\('(\w+)', '([\d.]+)'\)", source("tasks.tune.down.sql"))) == ADVISED
    assert f"WITH ({', '.join(f'{name} = {value}' for name, value in ADVISED.items())})" in source(
        "queue.up.sql"
    )


async def test_what_nobody_has_set_is_advised_and_set_once(admin):
    await install(admin, EMAILS)
    told = await advice(admin)
    assert [re.match(r"(\S+) of public\.email is (\S+), (\S+) is advised \(.*\): run session-lock install --tune$", text).groups() for text in told] == [
        ("fillfactor", "100", "50"), ("autovacuum_vacuum_scale_factor", "0.2", "0.05"), ("autovacuum_vacuum_cost_delay", "2", "1"),
    ]  # fmt: skip
    assert await tune(admin, EMAILS) == [
        "set fillfactor of public.email to 50, for pages written from now on",
        "set autovacuum_vacuum_scale_factor of public.email to 0.05",
        "set autovacuum_vacuum_cost_delay of public.email to 1",
    ]
    assert await parameters(admin) == ADVISED
    assert await tune(admin, EMAILS) == []
    assert await advice(admin) == []
    assert await differences(admin, EMAILS) == []


async def test_what_somebody_has_set_stays(admin):
    """Also when it is taken back: what has another value is not ours."""
    theirs = {"fillfactor": "90", "autovacuum_vacuum_cost_delay": "0", "autovacuum_enabled": "false"}
    await admin.execute(
        f"ALTER TABLE public.email SET ({', '.join(f'{name} = {value}' for name, value in theirs.items())})"
    )
    await install(admin, EMAILS)
    assert [text.rpartition(": ")[2] for text in await advice(admin)] == [
        "somebody has set it, so install --tune leaves it",
        "run session-lock install --tune",
    ]
    left = "left fillfactor of public.email at 90, as somebody has set it: 50 is advised"
    assert await tune(admin, EMAILS) == [left, "set autovacuum_vacuum_scale_factor of public.email to 0.05"]
    assert await tune(admin, EMAILS) == [left]
    assert await parameters(admin) == theirs | {"autovacuum_vacuum_scale_factor": "0.05"}
    await admin.execute(render("tasks.tune.down.sql", EMAILS, None))
    assert await parameters(admin) == theirs


@pytest.mark.parametrize("name", ["tasks.tune.sql", "tasks.tune.down.sql"])
async def test_the_settings_of_who_runs_it_stay_and_nothing_of_others_is_called(admin, name):
    """A `format` that fits better than PostgreSQL's own was called as whoever tunes."""
    if name == "tasks.tune.down.sql":
        await tune(admin, EMAILS)
    await admin.execute(
        "CREATE FUNCTION public.format(text, text, text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END';"
        "SET lock_timeout = '7s'; SET search_path = public, pg_catalog"
    )
    settings = "SELECT array[current_setting('lock_timeout'), current_setting('search_path')]"
    await admin.execute(render(name, EMAILS, None))
    assert await admin.fetchval(settings) == ["7s", "public, pg_catalog"]
    async with admin.transaction():
        await admin.execute("SET LOCAL lock_timeout = '8s'")
        await admin.execute(render(name, EMAILS, None))
        assert await admin.fetchval(settings) == ["8s", "public, pg_catalog"]
    assert await parameters(admin) == (ADVISED if name == "tasks.tune.sql" else {})


@pytest.mark.parametrize("name", ["tasks.tune.sql", "tasks.tune.down.sql"])
async def test_it_waits_for_5_s_and_no_longer(database, admin, name):
    if name == "tasks.tune.down.sql":
        await tune(admin, EMAILS)
    before = await parameters(admin)
    async with connected(database.admin_dsn) as other, other.transaction():
        await other.execute("LOCK TABLE public.email IN SHARE UPDATE EXCLUSIVE MODE")
        async with asyncio.timeout(9):
            with pytest.raises(asyncpg.LockNotAvailableError):
                await admin.execute(render(name, EMAILS, None))
    assert await admin.fetchval("SHOW lock_timeout") == "0"
    assert await parameters(admin) == before


async def test_a_server_that_is_as_eager_already_is_followed():
    with temp_postgres(autovacuum_vacuum_scale_factor=0.01, autovacuum_vacuum_cost_delay=-1) as server:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute(EMAIL_TABLE)
        await install(connection, EMAILS)
        assert [text.split()[0] for text in await advice(connection)] == ["fillfactor"]
        await tune(connection, EMAILS)
        assert await parameters(connection) == {"fillfactor": "50"}
        await connection.close()


async def test_partitions_have_them_each_for_itself(admin):
    await admin.execute(BY_RANGE)
    await admin.execute("ALTER TABLE public.event_0 SET (fillfactor = 60)")
    await install(admin, EVENTS)
    assert [text.partition(", ")[0] for text in await advice(admin, EVENTS)] == [
        'fillfactor of old."Event 2" and 3 more partitions is 100',
        "fillfactor of public.event_0 is 60",
        'autovacuum_vacuum_scale_factor of old."Event 2" and 4 more partitions is 0.2',
        'autovacuum_vacuum_cost_delay of old."Event 2" and 4 more partitions is 2',
    ]
    await tune(admin, EVENTS)
    assert {name: await parameters(admin, name) for name in NAMES} == {
        name: ADVISED | ({"fillfactor": "60"} if name == "public.event_0" else {}) for name in NAMES
    }
    await admin.execute(
        "CREATE TABLE public.event_3 PARTITION OF public.event FOR VALUES FROM (300) TO (400)"
    )
    assert "fillfactor of public.event_3 is 100" in "\n".join(await advice(admin, EVENTS))
    assert "set fillfactor of public.event_3 to 50, for pages written from now on" in await tune(
        admin, EVENTS
    )


async def test_the_ready_made_table_has_them_from_the_start(admin):
    jobs = queue("public.jobs")
    await install(admin, jobs)
    assert await advice(admin, jobs) == []
    assert await tune(admin, jobs) == []


async def test_who_does_not_own_the_table_is_refused(database, admin):
    await install(admin, EMAILS, grant_to="app")
    app = await asyncpg.connect(database.app_dsn)
    with pytest.raises(SessionLockError) as refused:
        await tune(app, EMAILS)
    await app.close()
    assert (
        str(refused.value)
        == "public.email was not tuned: must be owner of table email: connect as the role that owns the table"
    )
    assert await parameters(admin) == {}


# What a task writes ----------------------------------------------------------------------------------


async def counted(connection: asyncpg.Connection) -> asyncpg.Record:
    """Updates of the table that the server has not yet added up elsewhere, and how many of them were HOT."""
    return await connection.fetchrow(
        "SELECT n_tup_upd AS all, n_tup_hot_upd AS hot FROM pg_stat_xact_user_tables WHERE relid = 'public.email'::regclass"
    )


async def rows(connection: asyncpg.Connection) -> list[dict[str, object]]:
    found = await connection.fetch("SELECT to_jsonb(t)::text AS row FROM public.email AS t ORDER BY id")
    return [json.loads(row["row"]) for row in found]


async def written(
    connection: asyncpg.Connection, query: str, *arguments: object
) -> tuple[int, int, set[str]]:
    """What a call writes to the table: rows, how many of them by a HOT update, and which columns it changes."""
    before = await rows(connection)
    async with connection.transaction():
        start = await counted(connection)
        await connection.execute(query, *arguments)
        end = await counted(connection)
    pairs = zip(before, await rows(connection), strict=True)
    changed = {column for old, new in pairs for column in new if old[column] != new[column]}
    return end["all"] - start["all"], end["hot"] - start["hot"], changed


@pytest.mark.parametrize(("tuned", "hot"), [(True, 10), (False, 0)])
async def test_a_task_is_written_twice_and_its_claim_is_hot_where_there_is_room(admin, tuned, hot):
    """What makes a row non-pending writes a column of the index of what is pending, and so can never be HOT."""
    await install(admin, EMAILS)
    if tuned:
        await tune(admin, EMAILS)
    await add_emails(admin, 1000)  # several pages, of which all but the last are as full as they may be
    functions = await functions_of(admin, EMAILS)
    session = await start(admin, EMAILS, functions)
    lease = session["id"], session["nonce"]
    claim = f"SELECT session_lock.get_work_{functions}($1, $2, 10, '{{}}', NULL, NULL, false, NULL, '{{}}', '{{}}')"
    assert await written(admin, claim, *lease) == (10, hot, {"session_id", "claim_token", "attempts"})
    finish = (
        f"SELECT session_lock.finish_tasks_{functions}($1, $2, array_agg(t.id), array_agg(t.claim_token))"
        " FROM public.email AS t WHERE t.session_id = $1"
    )
    assert await written(admin, finish, *lease) == (10, 0, {"session_id", "sent_at"})


async def indexes(connection: asyncpg.Connection) -> set[str]:
    found = await connection.fetch(
        "SELECT indexrelid::regclass::text AS name FROM pg_index WHERE indrelid = 'public.email'::regclass"
    )
    return {row["name"] for row in found}


async def test_a_mapping_adds_one_index(admin):
    before = await indexes(admin)
    await install(admin, EMAILS)
    assert await indexes(admin) - before == {f"pending_{await functions_of(admin, EMAILS)}"}


@pytest.mark.parametrize(
    ("limits", "shares", "claims"),
    [
        # Half of them, less what finds no room since somebody's snapshot, of an ANALYZE say, keeps what has died.
        ((), range(30, 51), "a claim is where its page has room"),
        ((Limit(100),), range(1), "nor under a Limit a claim"),
    ],
)
async def test_check_tells_how_many_updates_were_hot(database, admin, limits, shares, claims):
    """Of a thousand or more: it tries finish and discard on a row itself, and takes that back, which the server counts too."""
    table = replace(EMAILS, limits=limits)
    await install(admin, table)
    await tune(admin, table)
    await tune(admin, table)
    await add_emails(admin, 500)
    other = await asyncpg.connect(database.admin_dsn)
    for number in range(5):
        assert not [text for text in await notes(admin, table) if "HOT" in text], number
        assert len(await work_once(other, table, limit=100)) == 100
    await other.close()
    async with asyncio.timeout(20):  # the server adds them up in its own time
        while not (found := [text for text in await notes(admin, table) if "HOT" in text]):
            await asyncio.sleep(0.1)
    said = r"(\d+)% of 1,\d{3} updates of public\.email were HOT: a finish never is, (.*)"
    percent, what_of_claims = re.fullmatch(said, found[0]).groups()
    assert int(percent) in shares
    assert what_of_claims == claims
