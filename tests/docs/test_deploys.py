"""docs/how-to/deploys.md: a process that gets SIGTERM ends as the page says; old and new instances do what each may; its numbers are right."""

from __future__ import annotations

import asyncio
import re
import signal
import sys

import asyncpg
import pytest

from session_lock import PostgresDatabase, Runner, Settings, each
from session_lock.migrations import check, install
from session_lock.testing import MemoryDatabase, run_virtual
from tests.conftest import APP_ROLE, TestDatabase
from tests.docs.pages import Page

HOLDING = ("# CREATE TABLE job", "with_refunds =", "by_column =")
QUICK = Settings(start_jitter=0, poll_interval=0.05, concurrency=2)

PROCESS = """
import asyncio, sys
from session_lock import Settings
from tests.docs.pages import Page

page = Page("deploys.md")
page.run()

async def do(task):
    print("begun", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

asyncio.run(page["serve"](sys.argv[1], page["jobs"], do, Settings(start_jitter=0, concurrency=1, keepalive_interval=0.1, prefetch_time=float("inf"))))
"""


@pytest.fixture
def page() -> Page:
    page = Page("deploys.md")
    for part in HOLDING:
        page.run(holding=part)
    assert page.done
    return page


@pytest.fixture
async def admin(database: TestDatabase, page: Page):
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.execute(re.search(r"# (CREATE TABLE .*)", page.blocks[0])[1])
    yield connection
    await connection.close()


async def until(connection: asyncpg.Connection, condition: str) -> None:
    async with asyncio.timeout(20):
        while not await connection.fetchval(f"SELECT {condition}"):
            await asyncio.sleep(0.01)


async def test_sigterm(database: TestDatabase, page: Page, admin: asyncpg.Connection) -> None:
    await install(admin, page["jobs"], grant_to=APP_ROLE)
    await admin.execute("INSERT INTO job (kind) VALUES ('mail'), ('mail')")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROCESS, database.app_dsn,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"begun\n"
            await until(admin, "count(session_id) = 2 FROM job")  # one runs, and one is prefetched
            process.send_signal(signal.SIGTERM)
            await until(admin, "count(session_id) = 1 FROM job")
            assert await admin.fetchval("SELECT attempts FROM job WHERE session_id IS NULL") == 0
            await until(admin, "draining FROM session_lock.session")
            assert process.returncode is None
            assert (
                await admin.fetchval("SELECT count(*) FROM session_lock.session WHERE ended_at IS NULL") == 1
            )
            process.stdin.write(b"\n")
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert await admin.fetchval("SELECT count(*) FROM job WHERE done_at IS NOT NULL") == 1
    assert await admin.fetchval("SELECT count(*) FROM session_lock.session WHERE ended_at IS NULL") == 0


@pytest.mark.fault("D30")
@pytest.mark.parametrize("mapping", ["with_refunds", "by_column"])
async def test_old_and_new_instances_side_by_side(
    database: TestDatabase, page: Page, admin: asyncpg.Connection, mapping: str
) -> None:
    await install(admin, page["jobs"], grant_to=APP_ROLE)
    new_mapping = page[mapping]
    did: dict[str, list[tuple[int, str]]] = {"old": [], "new": []}

    def runner(who: str, database: PostgresDatabase, **options: str) -> Runner:
        async def do(task):
            did[who].append((task.key, task.data["kind"]))

        return Runner(database, each(do), QUICK, **options)

    async with (
        PostgresDatabase(database.app_dsn, page["jobs"]) as old_database,
        PostgresDatabase(database.app_dsn, new_mapping) as new_database,
        runner("old", old_database),
    ):
        await until(admin, "count(*) = 1 FROM session_lock.session")
        # The database first, while the old instance works.
        if mapping == "by_column":
            await admin.execute(re.search(r"# (ALTER TABLE .*)", page.blocks[2])[1])
        await install(admin, new_mapping, grant_to=APP_ROLE)
        assert [each for each in await check(admin, new_mapping, role=APP_ROLE) if not each.note] == []
        refund = (
            ("kind", "'refund'") if mapping == "with_refunds" else ("kind, needs_version", "'refund', '2.4'")
        )
        await admin.execute("INSERT INTO job ({}) SELECT {} FROM generate_series(1, 40)".format(*refund))
        await admin.execute("INSERT INTO job (kind) SELECT 'mail' FROM generate_series(1, 40)")
        await until(admin, "count(*) = 0 FROM job WHERE kind = 'mail' AND done_at IS NULL")
        assert (
            await admin.fetchval("SELECT count(*) FROM job WHERE kind = 'refund' AND claim_token IS NOT NULL")
            == 0
        )

        async with runner("new", new_database, app_version="v2.4.0-rc1"):
            await until(admin, "count(*) = 0 FROM job WHERE done_at IS NULL")
            # Both go on with what both may do.
            await admin.execute("INSERT INTO job (kind) SELECT 'mail' FROM generate_series(1, 400)")
            await until(admin, "count(*) = 0 FROM job WHERE done_at IS NULL")
    assert {kind for _, kind in did["old"]} == {"mail"}
    assert {kind for _, kind in did["new"]} == {"mail", "refund"}
    keys = [key for key, _ in did["old"] + did["new"]]
    assert len(keys) == len(set(keys)) == 480


def test_the_database_for_tests(page: Page) -> None:
    rows = {1: {"kind": "refund"}, 2: {"kind": "mail"}}
    database = eval(
        re.search(r"`(MemoryDatabase\(.*?\))`", page.text)[1],
        {"rows": rows, "MemoryDatabase": MemoryDatabase},
    )

    async def run() -> None:
        async def do(task):
            runner.stop()

        runner = Runner(database, each(do), Settings(start_jitter=0), app_version="2.3")
        await runner.run()

    run_virtual(run())
    assert database.finished == [2]


def test_the_numbers_of_the_page(page: Page) -> None:
    settings = Settings()
    parts = settings.drain_timeout, settings.cancel_grace, settings.shutdown_timeout
    assert f"{' + '.join(f'{part:g}' for part in parts)} = {sum(parts):g} seconds" in page.text
    assert f"`lease_ttl` ({settings.lease_ttl:g} s)" in page.text
    for name in ("drain_timeout", "cancel_grace", "shutdown_timeout"):
        assert f"`{name}` ({getattr(settings, name):g} s)" in page.text
