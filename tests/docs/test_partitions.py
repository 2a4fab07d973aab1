"""docs/how-to/partitions.md: its table is served by its commands and by the files that they write, its numbers are those of the benchmark."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from session_lock.cli import main
from session_lock.migrations import check
from tests.benchmarks.partitions import BATCHES, PARTITIONS
from tests.conftest import TestDatabase
from tests.docs.pages import Page

COMMANDS = ["install jobs:events --yes", "check jobs:events", "sql copy migrations --start 1 jobs:events"]


@pytest.fixture
def page() -> Page:
    page = Page("partitions.md")
    for part in ("# CREATE TABLE event", "def bound("):
        page.run(holding=part)
    assert page.done
    return page


@pytest.fixture
async def admin(
    page: Page,
    database: TestDatabase,
    write_jobs: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> asyncpg.Connection:
    write_jobs(page.blocks[0])
    (tmp_path / "migrations").mkdir()
    monkeypatch.setenv("DATABASE_URL", database.admin_dsn)
    admin = await asyncpg.connect(database.admin_dsn)
    if admin.get_server_version().major < 18:
        await admin.execute(
            "CREATE FUNCTION uuidv7() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()'"
        )
    for statement in re.findall(r"# (CREATE TABLE .*);", page.blocks[0]):
        await admin.execute(statement)
    await admin.execute("INSERT INTO event (body) SELECT 'x' FROM generate_series(1, 5)")
    yield admin
    await admin.close()


async def run(command: str) -> int:
    return await asyncio.to_thread(main, command.split())


def test_the_bounds_are_those_of_the_months(page: Page) -> None:
    first, second = page["bound"](2026, 1), page["bound"](2026, 2)
    assert f"FROM ('{first}') TO ('{second}')" in page.text
    assert datetime.fromtimestamp((first.int >> 80) / 1000, UTC) == datetime(2026, 1, 1, tzinfo=UTC)


async def test_the_commands(page: Page, admin: asyncpg.Connection) -> None:
    commands = re.findall(r"^session-lock (.*)", page.text, flags=re.MULTILINE)
    assert commands == COMMANDS
    assert [await run(command) for command in commands] == [0, 0, 0]
    await attach(page, admin)
    assert await run(commands[1]) == 0


async def attach(page: Page, admin: asyncpg.Connection) -> None:
    [block] = re.findall(r"^```sql\n(.*?)^```$", page.text, flags=re.MULTILINE | re.DOTALL)
    make, ask = (part.strip() for part in re.sub(r"--.*\n", "", block).split(";")[:2])
    await admin.execute(make)
    [(build,)] = await admin.fetch(ask)
    await admin.execute(
        re.sub(r"CONCURRENTLY \S+ ON (ONLY )?\S+", "CONCURRENTLY mine ON event_2026_02", build)
    )
    bounds = page["bound"](2026, 2), page["bound"](2026, 3)
    await admin.execute(
        f"ALTER TABLE event ATTACH PARTITION event_2026_02 FOR VALUES FROM ('{bounds[0]}') TO ('{bounds[1]}')"
    )
    assert await admin.fetchval("SELECT relispartition FROM pg_class WHERE relname = 'mine'")


async def test_the_files_bring_it_all_in_run_one_by_one_and_twice(
    page: Page, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    assert await run(COMMANDS[2]) == 0
    files = sorted((tmp_path / "migrations").glob("*.up.sql"))
    assert [path.name[18:-7] for path in files] == [
        "sessions", "sessions_always", "event", "event_index_part_1", "event_index_part_2", "event_index_whole", "event_always",
    ]  # fmt: skip
    for path in (*files, *files):
        await admin.execute(path.read_text())
    assert [each for each in await check(admin, page["events"]) if not each.note] == []
    assert (
        await admin.fetchval("SELECT count(*) FROM pg_class WHERE relname ~ '^pending_' AND relispartition")
        == 2
    )
    for path in sorted((tmp_path / "migrations").glob("*.down.sql"), reverse=True):
        await admin.execute(path.read_text())
    assert await admin.fetchval("SELECT count(*) FROM pg_class WHERE relname ~ '^pending_'") == 0


def test_the_numbers_are_those_of_the_benchmark(page: Page) -> None:
    assert f"| tasks a call | no partitions | {' | '.join(map(str, PARTITIONS[1:]))} |" in page.text
    for batch in BATCHES:
        assert re.search(
            rf"^\| {batch} \|( [0-9.]+ \([0-9.]+ to [0-9.]+\) \|){{{len(PARTITIONS)}}}$",
            page.text,
            flags=re.MULTILINE,
        )
