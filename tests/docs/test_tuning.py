"""docs/how-to/tuning.md: its commands work, its values are those of the SQL, its numbers are those of the benchmark."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import asyncpg
import pytest

from session_lock.cli import main
from session_lock.schema import source
from tests.benchmarks.writes import BATCHES, FILLFACTORS, HEAD, TASKS, line
from tests.conftest import TestDatabase
from tests.docs.examples import ROOT

PAGE = (ROOT / "docs/how-to/tuning.md").read_text(encoding="utf-8")

JOBS = """
from session_lock import TaskTable
mails = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])
"""


async def test_the_commands(
    database: TestDatabase,
    write_jobs: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_jobs(JOBS)
    monkeypatch.setenv("DATABASE_URL", database.admin_dsn)
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute("CREATE TABLE mail (id bigint PRIMARY KEY, address text, sent_at timestamptz)")

    async def run(command: str) -> str:
        assert await asyncio.to_thread(main, command.split()) == 0
        return capsys.readouterr().out

    install, tune, untune = re.findall(r"^session-lock (.*)", PAGE, flags=re.MULTILINE)
    options = "SELECT reloptions FROM pg_class WHERE oid = 'mail'::regclass"
    assert (install, tune, untune) == (
        "install jobs:mails --tune",
        "sql tune jobs:mails",
        "sql tune jobs:mails --down",
    )
    await run(f"{install} --yes")
    tuned = await admin.fetchval(options)
    assert "fillfactor=50" in tuned
    for command, expected in ((untune, None), (tune, tuned)):
        await admin.execute(await run(command))
        assert await admin.fetchval(options) == expected
    assert "is advised" not in await run("check jobs:mails")
    await admin.close()


def test_the_values_are_those_of_the_sql() -> None:
    told = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", PAGE, flags=re.MULTILINE)
    assert told == re.findall(r"\('(\w+)', '([\d.]+)'\)", source("tasks.tune.sql"))


def test_the_numbers_are_those_of_the_benchmark() -> None:
    assert f"{TASKS:,} tasks, medians of " in PAGE
    head = f"{line(*HEAD)}\n{line(*('---' for _ in HEAD))}\n"
    rows = PAGE.partition(head)[2].partition("\n\n")[0].splitlines()
    cells = r"\| \d+% \| \d+ \| \d+ \| \d+, \d+ \| \d+ \(\d+ to \d+\) \|"
    cases = [(batch, fillfactor) for batch in BATCHES for fillfactor in FILLFACTORS]
    assert len(rows) == len(cases)
    for row, (batch, fillfactor) in zip(rows, cases, strict=True):
        assert re.fullmatch(rf"\| {batch} \| {fillfactor} {cells}", row)
