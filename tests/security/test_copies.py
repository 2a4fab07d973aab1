"""T15: a copy of a database runs no task before somebody says so; a standby that takes over is no copy (docs/adr/0013)."""

from __future__ import annotations

import subprocess
from urllib.parse import urlsplit

import asyncpg
import pytest

from session_lock import PostgresDatabase, Runner, SchemaError, SessionLost, each
from session_lock.database import Claim, Handback
from session_lock.embedded import find_bin_dir, temp_postgres
from session_lock.migrations import adopt, check
from session_lock.session import Lease
from tests.chaos.standby import make_synchronous, standby_of
from tests.conftest import APP_ROLE, TestDatabase, fresh_database, prepare_template
from tests.docs.examples import ROOT
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping, connected

ROWS = (
    "SELECT t::text FROM public.email AS t UNION ALL SELECT s::text FROM session_lock.session AS s"
    " UNION ALL SELECT o::text FROM session_lock.origin AS o"
)


async def start(database: PostgresDatabase) -> Lease:
    return await database.start_session(capacity=10, ttl=30, label="", app_version="")


async def fill(database: TestDatabase, *, role: str | None = APP_ROLE) -> None:
    async with connected(database.admin_dsn) as admin:
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, EMAILS, grant_to=role)
        await add_emails(admin, 5)


async def claim_some(dsn: str) -> Lease:
    """A session that lives on, with two of the tasks."""
    async with PostgresDatabase(dsn, EMAILS) as tasks:
        lease = await start(tasks)
        assert len((await tasks.get_work(lease, limit=2)).tasks) == 2
        return lease


async def stands_still(copy: TestDatabase, original: TestDatabase) -> None:
    """Whoever starts an instance on the copy hears the same, and no row of it changes."""
    async with connected(copy.admin_dsn) as admin:
        before = await admin.fetch(ROWS)
        async with PostgresDatabase(copy.app_dsn, EMAILS) as tasks:
            with pytest.raises(SchemaError) as refused:
                await start(tasks)
            with pytest.raises(SchemaError):
                await Runner(tasks, each(pytest.fail)).run()
        assert await admin.fetch(ROWS) == before
        told = [each.text for each in await check(admin, EMAILS)][0]
    text = str(refused.value)
    assert "\n" not in text
    assert f"database {copy.name} of server " in text
    assert f"is a copy of database {original.name} of server " in text
    assert (
        "and no task is run in it before its owner says so`" in (ROOT / "docs/how-to/copies.md").read_text()
    )
    assert text.endswith(
        "no task is run in it before its owner says so: session-lock adopt MODULE:ATTRIBUTE, or SELECT session_lock.adopt()"
    )
    assert told.startswith(f"this is a copy of database {original.name} of server ")


@pytest.mark.fault("D29")
async def test_a_copy_within_the_server_stands_still_until_it_is_adopted(server_dsn, database):
    await fill(database)
    lease = await claim_some(database.app_dsn)
    async with fresh_database(server_dsn, database.name) as copy:
        await stands_still(copy, database)
        async with PostgresDatabase(database.app_dsn, EMAILS) as tasks:  # the original goes on
            await tasks.bump_session(lease, ttl=30, draining=False)
            await start(tasks)
        async with connected(copy.admin_dsn) as admin:
            assert await adopt(admin, EMAILS)
            assert not await adopt(admin, EMAILS)
            assert not [each for each in await check(admin, EMAILS) if not each.note]
        async with PostgresDatabase(copy.app_dsn, EMAILS) as tasks:
            mine = await start(tasks)
            # What the sessions of the original hold here waits for their leases to run out, as ever.
            assert len((await tasks.get_work(mine, limit=10, over_share=True)).tasks) == 3


@pytest.mark.fault("D29")
async def test_a_session_that_lives_does_not_go_along_into_a_copy(server_dsn, database):
    """Whoever is led there while it runs starts anew, and hears what others hear."""
    await fill(database)
    where = database.app_dsn

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(where)

    async with PostgresDatabase(connect, EMAILS) as tasks:
        lease = await start(tasks)
    async with fresh_database(server_dsn, database.name) as copy:
        where = copy.app_dsn
        async with tasks:
            for call in (
                tasks.bump_session(lease, ttl=30, draining=False), tasks.get_work(lease, limit=1),
                tasks.finish_tasks(lease, [Claim(1, 1)]), tasks.release_tasks(lease, [Handback(Claim(1, 1))]),
                tasks.end_session(lease),
            ):  # fmt: skip
                with pytest.raises(SessionLost, match=f"leads to database {copy.name} now"):
                    await call
            with pytest.raises(SessionLost, match="leads to database"):
                async with tasks.transaction(lease, [Claim(1, 1)]):
                    pytest.fail("its effect would be the copy's")
            with pytest.raises(SchemaError, match="is a copy of database"):
                await start(tasks)


async def test_a_copy_of_what_was_installed_and_never_ran_belongs_to_whoever_starts_first(
    server_dsn, database
):
    """As of a template that a test suite clones."""
    await fill(database)
    async with fresh_database(server_dsn, database.name) as copy:
        for each_one in (copy, database):
            await claim_some(each_one.app_dsn)


@pytest.mark.fault("D29")
async def test_a_dump_restored_in_another_server_stands_still_though_its_name_is_the_same(database):
    """As after pg_upgrade, which makes a server of another identity too."""
    await fill(database)
    await claim_some(database.app_dsn)
    with temp_postgres() as server:
        copy = TestDatabase(server.dsn.removesuffix("/postgres") + f"/{database.name}", database.name)
        async with connected(server.dsn) as admin:
            await admin.execute(f"CREATE DATABASE {database.name}")
        await prepare_template(copy.admin_dsn)
        programs = find_bin_dir()
        dump = subprocess.run(
            [programs / "pg_dump", "--dbname", database.admin_dsn], check=True, capture_output=True
        ).stdout
        restore = [programs / "psql", "-q", "-v", "ON_ERROR_STOP=1", "--dbname", copy.admin_dsn]
        subprocess.run(restore, input=dump, check=True, capture_output=True)
        await stands_still(copy, database)
        async with connected(copy.admin_dsn) as admin:
            assert await adopt(admin, EMAILS)
        async with PostgresDatabase(copy.app_dsn, EMAILS) as tasks:
            await start(tasks)


async def test_a_standby_that_takes_over_is_no_copy():
    with temp_postgres() as server:
        primary = TestDatabase(server.dsn, urlsplit(server.dsn).path[1:])
        await fill(primary, role=None)
        await claim_some(server.dsn)
        with standby_of(server) as dsn:
            async with connected(server.dsn) as admin:
                await make_synchronous(admin)
                await add_emails(admin, 1)
            server.stop("immediate")
            async with connected(dsn) as admin:
                await admin.execute("SELECT pg_promote()")
                await admin.execute("ALTER SYSTEM RESET synchronous_standby_names; ")
                await admin.execute("SELECT pg_reload_conf()")
                assert not [each for each in await check(admin, EMAILS) if not each.note]
            assert (await claim_some(dsn)).left > 0
