"""A mapping with limits is installed, checked, changed, pruned and taken down, as any other is."""

from __future__ import annotations

from dataclasses import replace

import asyncpg
import pytest

from session_lock import Limit, Rate
from session_lock.catalog import read_shape
from session_lock.errors import SchemaError
from session_lock.migrations import check, install, prune
from session_lock.objects import function_set
from session_lock.schema import mapping_files, render
from session_lock.table import TaskTable
from tests.conftest import APP_ROLE
from tests.sql.test_migrations import work_once
from tests.support import EMAILS, add_emails

LIMITED = replace(EMAILS, limits=(Limit(5), Limit(2, by="address"), Rate(100, per=60)), fair_by="address")


async def differences(connection, table: TaskTable) -> list[str]:
    return [str(each) for each in await check(connection, table, role=APP_ROLE) if not each.note]


async def ours(connection, kind: str) -> set[str]:
    query = {
        "indexes": "SELECT relname FROM pg_class WHERE relkind = 'i' AND relname ~ '^(pending|values|held|due)_email_'",
        "functions": "SELECT proname FROM pg_proc WHERE proname ~ '_email_[0-9a-f]{8}$'",
    }[kind]
    return {row[0] for row in await connection.fetch(query)}


async def test_it_is_installed_at_once_and_works_for_a_role_that_may_only_execute(database, admin):
    done = await install(admin, LIMITED, grant_to=APP_ROLE)
    assert "built the indexes of the limits of 'email' on public.email" in done
    assert await install(admin, LIMITED, grant_to=APP_ROLE) == []
    assert await differences(admin, LIMITED) == []
    await add_emails(admin, 8)
    app = await asyncpg.connect(database.app_dsn)
    assert len(await work_once(app, LIMITED)) == 5
    await app.close()


@pytest.mark.parametrize("kind", ["values", "held"])
async def test_an_index_that_is_missing_or_another_is_told_and_built(admin, kind):
    await install(admin, LIMITED, grant_to=APP_ROLE)
    name = f"{kind}_{function_set(LIMITED, await read_shape(admin, LIMITED))}"
    await admin.execute(f"DROP INDEX public.{name}")
    [told] = await differences(admin, LIMITED)
    assert told.startswith(f"the index public.{name} is missing: run session-lock install")
    await admin.execute(f"CREATE INDEX {name} ON public.email (id)")
    [told] = await differences(admin, LIMITED)
    assert told.startswith(f"the index public.{name} has another definition: DROP INDEX CONCURRENTLY, then")
    await admin.execute(f"DROP INDEX public.{name}")
    await install(admin, LIMITED, grant_to=APP_ROLE)
    assert await differences(admin, LIMITED) == []


@pytest.mark.parametrize("kind", ["values", "held"])
async def test_an_index_whose_build_failed_is_told_and_built_again(admin, kind):
    await install(admin, LIMITED, grant_to=APP_ROLE)
    name = f"{kind}_{function_set(LIMITED, await read_shape(admin, LIMITED))}"
    await admin.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::regclass", name)
    [told] = await differences(admin, LIMITED)
    assert told.startswith(f"the index public.{name} is invalid")
    await install(admin, LIMITED, grant_to=APP_ROLE)
    assert await differences(admin, LIMITED) == []


async def test_a_number_that_is_changed_is_told_and_replaced_in_place(admin):
    await install(admin, LIMITED, grant_to=APP_ROLE)
    more = replace(LIMITED, limits=(Limit(6), *LIMITED.limits[1:]))
    before = await ours(admin, "functions")
    assert any("pick" in text for text in await differences(admin, more))
    await install(admin, more, grant_to=APP_ROLE)
    assert await differences(admin, more) == []
    assert await ours(admin, "functions") == before


async def test_limits_are_added_beside_what_runs_and_pruned_when_they_are_given_up(admin):
    await install(admin, EMAILS, grant_to=APP_ROLE)
    plain = await ours(admin, "indexes"), await ours(admin, "functions")
    await install(admin, LIMITED, grant_to=APP_ROLE)
    assert len(await ours(admin, "indexes")) == 4
    assert await differences(admin, EMAILS) == []
    await prune(admin, EMAILS)
    assert (await ours(admin, "indexes"), await ours(admin, "functions")) == plain
    assert await differences(admin, EMAILS) == []


async def test_what_down_takes_away_is_all_of_it(admin):
    await install(admin, LIMITED, grant_to=APP_ROLE)
    shape = await read_shape(admin, LIMITED)
    for _ in range(2):
        for file in mapping_files(LIMITED, "down"):
            await admin.execute(render(file, LIMITED, shape))
    assert await ours(admin, "indexes") == set()
    assert await ours(admin, "functions") == set()
    await admin.execute(render("sessions.down.sql", LIMITED, shape))
    assert not await admin.fetchval("SELECT to_regnamespace('session_lock') IS NOT NULL")


async def test_a_column_that_is_not_there_is_told(admin):
    for table, role in (
        (replace(EMAILS, fair_by="tenant"), "fair_by"),
        (replace(EMAILS, limits=(Limit(3, by="tenant"),)), "limits"),
    ):
        with pytest.raises(SchemaError, match=f"tenant.*{role}|{role}.*tenant"):
            await read_shape(admin, table)


async def test_a_column_whose_values_cannot_be_told_apart_is_refused(admin):
    await admin.execute("ALTER TABLE public.email ADD COLUMN place point")
    with pytest.raises(
        SchemaError, match="cannot tell values of 'place' apart.*name a column of another type"
    ):
        await install(admin, replace(EMAILS, fair_by="place"))


@pytest.mark.parametrize(
    "type_", ["boolean", "date", "jsonb", "integer[]", "numeric", "uuid", "inet", "varchar(9)"]
)
async def test_columns_of_many_types(admin, type_):
    await admin.execute(f'ALTER TABLE public.email ADD COLUMN "the tenant" {type_}')
    table = replace(EMAILS, limits=(Limit(2, by="the tenant"),))
    await install(admin, table, grant_to=APP_ROLE)
    assert await differences(admin, table) == []
    await add_emails(admin, 3)
    assert len(await work_once(admin, table)) == 2


async def test_prune_deletes_starts_that_no_rate_counts_any_more(admin):
    table = replace(EMAILS, limits=(Rate(3, per=86400, by="address"),))
    await install(admin, table)
    await admin.execute(
        "INSERT INTO session_lock.started (name, value, at, number) SELECT name, 7, session_lock.clock() - ago * interval '1 hour', 1"
        " FROM (VALUES ('email', 1), ('email', 47), ('email', 49), ('other', 49)) AS old (name, ago)"
    )
    assert await prune(admin, table) == ["deleted 1 old start"]
    assert await admin.fetchval("SELECT count(*) FROM session_lock.started") == 3


async def test_its_own_indexes_are_no_advice(admin):
    await install(admin, LIMITED)
    assert not [str(each) for each in await check(admin, LIMITED) if "the index" in str(each)]
