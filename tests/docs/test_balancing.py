"""docs/explanation/balancing.md: its table is what the SQL says, its play ends as it says on both databases, its numbers are the code's."""

from __future__ import annotations

import re
from ast import literal_eval

import asyncpg
import pytest

from session_lock import PostgresDatabase, Settings, TaskTable
from session_lock.explaining import Facts, explain
from session_lock.migrations import install
from session_lock.room import SOON
from session_lock.schema import source
from session_lock.testing import MemoryDatabase
from tests.conftest import TestDatabase
from tests.docs.pages import Page

JOBS = TaskTable("job", key="id", pending="done_at IS NULL", finish="done_at = now()")
PAGE = Page("balancing.md", folder="explanation")
FLAT = " ".join(PAGE.text.split())
ROWS = [
    [int(cell) for cell in row.split("|")]
    for row in re.findall(r"^\| (\d+ \| \d+ \| \d+ \| \d+) \|$", PAGE.text, flags=re.MULTILINE)
]


@pytest.fixture
async def admin(database: TestDatabase):
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.execute("CREATE TABLE job (id int PRIMARY KEY, done_at timestamptz)")
    await install(connection, JOBS)
    yield connection
    await connection.close()


async def test_the_table_is_what_the_sql_says(admin: asyncpg.Connection) -> None:
    (query,) = re.findall(r"^```sql\n(.*?)^```$", PAGE.text, flags=re.MULTILINE | re.DOTALL)
    assert len(ROWS) == 7
    asked = 0
    for tasks, *parts in ROWS:
        rows = await admin.fetch(query.replace("p_tasks => 7", f"p_tasks => {tasks}"))
        assert [row["share"] for row in sorted(rows)] == parts
        assert sum(parts) == tasks
        one = "SELECT session_lock.share($1, '{1, 2, 3}', '{10, 10, 20}', $2)"
        assert [await admin.fetchval(one, id_, tasks) for id_ in (1, 2, 3)] == parts
        asked += "p_tasks => 7" in query and tasks == 7
    assert asked == 1  # the query as it stands is a row of the table
    capacities = [int(number) for number in re.search(r"p_capacities => '\{(.*?)\}'", query)[1].split(",")]
    assert ROWS[-1] == [sum(capacities), *capacities]  # "With 40 each has what it may hold"
    assert f"With {sum(capacities)} each has" in FLAT


@pytest.mark.parametrize("kind", ["memory", "postgres"])
async def test_the_play_ends_as_the_page_says(
    database: TestDatabase, admin: asyncpg.Connection, kind: str
) -> None:
    page = Page("balancing.md", folder="explanation")
    page.run(holding="async def play(database):")
    assert page.done
    said = re.search(r"With (\d+) tasks in the table it returns `(.*?)`:", FLAT)
    count, expected = int(said[1]), literal_eval(said[2])
    if kind == "memory":
        assert await page["play"](MemoryDatabase(dict.fromkeys(range(count)))) == expected
    else:
        await admin.execute("INSERT INTO job SELECT generate_series(1, $1::int)", count)
        async with PostgresDatabase(database.admin_dsn, JOBS) as tasks:
            assert await page["play"](tasks) == expected
    shares = "SELECT array_agg(share ORDER BY id) FROM session_lock.shares('{1, 2}', '{20, 10}', $1)"
    mine, theirs = await admin.fetchval(shares, count)
    assert expected == (count, 0, count - mine, theirs, [(mine, mine), (theirs, theirs)])
    assert f"{count} tasks on capacities of 20 and 10 are {mine} and {theirs}" in FLAT
    diagram = PAGE.text.split("```mermaid")[2].partition("```")[0]
    for text in (
        f"A holds {count}",
        f"its share is {mine}",
        f"give back {theirs}",
        f"release {theirs} ",
        f"B: {theirs} tasks",
    ):
        assert text in diagram


def test_the_numbers() -> None:
    settings = Settings()
    for name in ("patience", "prefetch_time", "poll_interval", "keepalive_interval", "lease_ttl"):
        assert f"`{name}` ({getattr(settings, name):g} s)" in FLAT, name
    assert f"within {SOON:g} s" in FLAT
    sessions, tasks = source("sessions.alwaysup.sql"), source("tasks.alwaysup.sql")
    soonest, later = re.search(
        r"THEN interval '([\d.]+) seconds' ELSE interval '(\d+) second'", sessions
    ).groups()
    assert f"not again within {soonest} s" in FLAT
    assert f"not within {later} s if it ran all" in FLAT
    one, all_ = re.search(
        r"my.tasks > (\d+) AND my.from_start\) OR \(my.tasks = my.total AND my.total > (\d+)\)", tasks
    ).groups()
    assert f"more than {one} is counted by one session" in FLAT
    assert f"where that is more than {all_};" in FLAT


def test_what_it_quotes_is_said() -> None:
    facts = {"label": "", "app_version": "", "state": "live", "capacity": 20, "tasks": 12}
    facts["age"] = 60
    facts |= dict.fromkeys(("limited", "unfit", "paused", "free", "other_version", "idle"), False)

    a = Facts(**facts, session=1, target=8, held=12, running=12)
    b = Facts(**facts, session=2, target=4, held=0, running=0)
    assert f"*{explain([a, b])[1].why}*" in FLAT
