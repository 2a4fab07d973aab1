"""docs/how-to/observe.md: its commands answer, and what it names is there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import asyncpg
import pytest

from session_lock import TaskTable
from session_lock.cli import main
from session_lock.migrations import install, tune
from session_lock.telemetry.words import METRICS
from tests.conftest import TestDatabase
from tests.docs.pages import Page
from tests.docs.test_operate import JOBS

PAGE = Page("observe.md")
COMMANDS = re.findall(r"^session-lock (.*)$", PAGE.text, flags=re.MULTILINE)


async def test_its_commands_answer(
    database: TestDatabase, write_jobs: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_jobs(JOBS)
    names: dict[str, TaskTable] = {}
    exec(JOBS, names)
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute("CREATE TABLE mail (id bigint PRIMARY KEY, sent_at timestamptz)")
    await install(admin, names["mails"])
    await tune(admin, names["mails"])
    await admin.execute("INSERT INTO mail SELECT generate_series(1, 5)")
    await admin.close()
    assert [command.split()[0] for command in COMMANDS] == ["doctor", "sessions", "peek", "why", "parked"]
    for command in COMMANDS:
        code = await asyncio.to_thread(main, [*command.split(), "--dsn", database.admin_dsn])
        assert code == (2 if command.startswith("doctor") else 0), (
            command
        )  # tasks are due, and there is no session
        assert capsys.readouterr().out, command


def test_what_it_names() -> None:
    (metric,) = re.findall(r"`(session_lock\.[a-z.]+\.age)`", PAGE.text)
    assert metric in {each.name for each in METRICS}
