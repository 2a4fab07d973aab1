"""A table that the library ships: one more mapping, which is made before it is examined."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from session_lock import schema
from session_lock.cli import main
from session_lock.errors import SchemaError
from session_lock.migrations import check, install, peek, pending_summary, prune, validate
from session_lock.postgres import PostgresDatabase
from session_lock.schema import render, sql_root
from session_lock.table import Shape, TaskTable
from tests.conftest import APP_ROLE
from tests.sql.test_migrations import everything, work_once
from tests.support import EMAIL_TABLE, EMAILS

SHELF = TaskTable(
    "public.shelf", key="id", pending="read_at IS NULL", finish="read_at = now()", columns=("id", "title"), made_by="shelf"
)  # fmt: skip

FILES = {
    "shelf.up.sql": """
CREATE TABLE IF NOT EXISTS __table__ (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  title text NOT NULL,
  read_at timestamptz,
  UNIQUE (title)
) WITH (fillfactor = 50);
""",
    "shelf.alwaysup.sql": """
CREATE OR REPLACE FUNCTION session_lock.put__set__(p_title text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$ INSERT INTO __table__ (title) VALUES (p_title) RETURNING id $function$;

REVOKE ALL ON FUNCTION
  session_lock.put__set__(text)
FROM PUBLIC;
""",
    "shelf.grants.sql": """
GRANT EXECUTE ON FUNCTION
  session_lock.put__set__(text)
TO __role__;
""",
    "shelf.down.sql": """
DROP FUNCTION IF EXISTS session_lock.put__set__(text);
DROP TABLE IF EXISTS __table__;
""",
}


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch):
    """The library's own files, and those of one more table."""
    folder = tmp_path / "sql"
    shutil.copytree(str(sql_root()), folder)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(schema, "sql_root", lambda: folder)
    schema.source.cache_clear()
    yield folder
    schema.source.cache_clear()


@pytest.fixture
async def admin(database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def differences(connection, table=SHELF, **options) -> list[str]:
    return [str(each) for each in await check(connection, table, **options) if not each.note]


async def test_it_is_examined_before_it_is_there_and_nothing_stays(admin):
    before = await everything(admin)
    shape = await validate(admin, SHELF)
    assert shape == Shape(
        "bigint",
        {"id": "bigint", "title": "text", "available_at": "timestamp with time zone"},
        frozenset({"id", "title", "available_at"}),
    )
    assert (
        await validate(admin, replace(SHELF, table="session_lock.shelf")) == shape
    )  # in a schema that is not there
    assert str(await pending_summary(admin, SHELF)) == "0 rows of public.shelf are pending"
    assert await peek(admin, SHELF) == []
    assert await differences(admin) == ["the table public.shelf is missing: run session-lock install"]
    with pytest.raises(SchemaError, match="run session-lock install"):
        await prune(admin, SHELF)
    assert await everything(admin) == before


async def test_a_name_that_it_cannot_have_is_refused(admin):
    await admin.execute("CREATE TABLE public.shelf (id bigint PRIMARY KEY)")
    with pytest.raises(SchemaError, match="has no column 'title'"):
        await install(admin, SHELF)
    with pytest.raises(SchemaError, match='schema "nowhere" does not exist'):
        await install(admin, replace(SHELF, table="nowhere.shelf"))


async def test_install_makes_it_and_is_idle_the_second_time(admin, database):
    done = await install(admin, SHELF, grant_to=APP_ROLE)
    assert "made the table public.shelf" in done
    assert await install(admin, SHELF, grant_to=APP_ROLE) == []
    assert await differences(admin, role=APP_ROLE) == []
    await admin.execute("INSERT INTO public.shelf (title) VALUES ('Emma')")
    assert [row["title"] for row in await work_once(admin, SHELF)] == ["Emma"]
    await validate(
        admin, replace(SHELF, table="public.other", name="other")
    )  # beside sessions that are there
    async with PostgresDatabase(database.app_dsn, SHELF) as service:
        assert (await service.identity()).mapping == "shelf"


async def test_check_and_install_see_what_is_missing(admin):
    slim = replace(SHELF, columns=("id",))
    await install(admin, slim, grant_to=APP_ROLE)
    await admin.execute("ALTER TABLE public.shelf DROP COLUMN title")
    assert await differences(admin) == ["public.shelf has no column 'title' (named by columns=)"]
    assert await differences(admin, slim) == [
        'the column "public"."shelf".title is missing: run session-lock install'
    ]
    await admin.execute("ALTER TABLE public.shelf ADD COLUMN title text NOT NULL DEFAULT ''")
    put = await admin.fetchval(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE proname ~ '^put_' ORDER BY oid DESC LIMIT 1"
    )
    await admin.execute(f"REVOKE ALL ON FUNCTION {put} FROM {APP_ROLE}")
    assert [text for text in await differences(admin, slim, role=APP_ROLE) if "put_" in text] == [
        f"the role 'app' may not execute {put}: run session-lock install --grant-to app"
    ]
    await admin.execute(f"DROP FUNCTION {put}")
    assert any("put_" in text and "is missing" in text for text in await differences(admin, slim))
    assert "made the functions of public.shelf" in await install(admin, slim)


async def test_a_service_before_the_installation_is_told_what_to_run(admin, database):
    await admin.execute(EMAIL_TABLE)
    await install(admin, EMAILS, grant_to=APP_ROLE)
    async with PostgresDatabase(database.app_dsn, SHELF) as service:
        with pytest.raises(SchemaError, match="run session-lock install"):
            await service.identity()


async def test_up_down_up_with_the_printed_sql_of_each_part(admin, database, tmp_path, monkeypatch, capsys):
    (tmp_path / "shelf_jobs.py").write_text(
        "from session_lock.table import TaskTable\n"
        "shelf = TaskTable('public.shelf', key='id', pending='read_at IS NULL', finish='read_at = now()',"
        " columns=('id', 'title'), made_by='shelf')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    async def printed(*words: str) -> str:
        command = ["sql", *words, "shelf_jobs:shelf", "--dsn", database.admin_dsn]
        assert await asyncio.to_thread(main, command) == 0
        return capsys.readouterr().out

    before = {each.split(" ", 3)[-1] for each in await everything(admin)}
    for _ in range(2):
        for part in ("up", "index", "always"):
            await admin.execute(await printed(part))
        await admin.execute(await printed("always", "--grant-to", APP_ROLE))
        assert await differences(admin, role=APP_ROLE) == []
        down = await printed("down", "--sessions")
        await admin.execute(down)
        assert {each.split(" ", 3)[-1] for each in await everything(admin)} == before

    (tmp_path / "migrations").mkdir()
    written = (await printed("copy", "migrations", "--start", "1", "--grant-to", APP_ROLE)).split()
    for path in written:
        if path.endswith(".up.sql"):
            await admin.execute((tmp_path / path).read_text())
    assert await differences(admin, role=APP_ROLE) == []
    for path in reversed(written):
        if path.endswith(".down.sql"):
            await admin.execute((tmp_path / path).read_text())
    assert {each.split(" ", 3)[-1] for each in await everything(admin)} == before


def test_only_names_fill_what_makes_it():
    text = render("shelf.up.sql", replace(SHELF, table='odd."T""x"'), None)
    assert 'CREATE TABLE IF NOT EXISTS "odd"."T""x" (' in text
