"""What the log says of a Runner: a line for each change of its state, with fields, and none for a task that is well."""

from __future__ import annotations

import ast
import asyncio
import logging
import re
from pathlib import Path
from typing import Any, get_args

import pytest

import session_lock
from session_lock import Retry, Runner, SchemaError, each
from session_lock.health import State
from tests.docs.pages import Page
from tests.unit.scenes import Sleeper, do_all, run_for, running, settings, table
from tests.unit.virtual import until, virtual

FOLDER = Path(session_lock.__file__).parent
REFERENCE = Page("logs.md", folder="reference").text
LOGGERS = re.findall(r"^\| `(session_lock\.\w+)` \|", REFERENCE, flags=re.MULTILINE)
STATES = dict(re.findall(r"^\| `(\w+)` \| ([A-Z]+)\b[^|]* \| [^|]+ \|$", REFERENCE, flags=re.MULTILINE))
"""And their levels."""


def changes(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """State and level of each line that has a state."""
    return [(record.state, record.levelname) for record in caplog.records if hasattr(record, "state")]


def with_levels(*states: str) -> list[tuple[str, str]]:
    """As the reference has them."""
    return [(state, STATES[state]) for state in states]


@virtual
async def test_a_life_without_trouble_is_three_lines_however_many_its_tasks(caplog: Any) -> None:
    database = table(2000)
    async with running(Runner(database, do_all, settings(), name="mails")):
        await until(lambda: len(database.finished) == 2000)
        await asyncio.sleep(300)
    said = [
        record
        for record in caplog.records
        if record.name.startswith("session_lock") and record.levelno >= logging.INFO
    ]
    assert [record.getMessage() for record in said] == [
        "session 1 of mails started", "session 1 drains: the Runner stops", "the Runner of mails has stopped",
    ]  # fmt: skip
    assert changes(caplog) == with_levels("running", "draining", "stopped")
    assert [record.mapping for record in said] == ["tasks", "tasks", "mails"]
    assert [getattr(record, "session_id", None) for record in said] == [1, 1, None]


@virtual
async def test_one_that_never_had_a_session_says_of_what_it_is(caplog: Any) -> None:
    async def find() -> Any:
        raise AssertionError("it is stopped before that")

    for database in (table(0), find):
        runner = Runner(database, do_all, settings())
        runner.stop()
        await runner.run()
    said = [record.getMessage() for record in caplog.records if record.name.startswith("session_lock")]
    assert said == ["the Runner of tasks has stopped", "the Runner of an unknown mapping has stopped"]


@virtual
async def test_a_pause_and_a_drain_from_outside(caplog: Any) -> None:
    database = table(0)
    async with running(Runner(database, do_all, settings())) as run:
        await asyncio.sleep(1)
        await database.pause()
        await asyncio.sleep(60)
        await database.resume()
        await asyncio.sleep(60)
        await database.drain(1)
        await run
    assert changes(caplog) == with_levels("running", "paused", "running", "draining", "stopped")
    assert "session 1 is paused, as its mapping is" in caplog.text
    assert "session 1 is resumed" in caplog.text
    assert "session 1 drains: it is asked to" in caplog.text


@virtual
async def test_a_lost_session_and_the_next_one(caplog: Any) -> None:
    database, tasker = table(1), Sleeper(1000)
    async with running(Runner(database, tasker, settings())):
        await until(lambda: tasker.begun)
        database.partition()
        await asyncio.sleep(100)
        database.heal()
        await asyncio.sleep(30)
        tasker.seconds = 0
    seen = changes(caplog)
    waits = [change for change in seen if change[0] == "starting"]
    assert [change for change in seen if change[0] != "starting"] == with_levels(
        "running", "lost", "running", "draining", "stopped"
    )
    assert waits[0] == ("starting", STATES["starting"])
    assert [level for _, level in waits].count(
        "WARNING"
    ) <= 5  # of a hundred seconds: it is said ever more rarely


@virtual
async def test_a_sick_one_is_said_and_that_it_is_well_again(caplog: Any) -> None:
    sick = True

    async def tasker(task: Any) -> None:
        if sick:
            raise ConnectionError("no route")

    config = settings(breaker_failures=3, retry=Retry(delay=1, longest=1, jitter=0))
    runner = Runner(table(20), each(tasker), config)
    async with running(runner):
        await until(lambda: runner.health().state == "sick")
        sick = False
        await until(lambda: runner.health().state == "running")
    assert changes(caplog) == [
        *with_levels("running", "sick"), ("running", "WARNING"), *with_levels("draining", "stopped"),
    ]  # fmt: skip


@pytest.mark.parametrize("block", [True, False])
@virtual
async def test_one_that_dies_is_said_in_a_block_and_raised_by_run(caplog: Any, block: bool) -> None:
    database = table(0)
    database.fail("get_work", SchemaError("run this"), skip=3)
    runner = Runner(database, do_all, settings())
    if block:
        with pytest.raises(SchemaError):
            async with runner:
                await until(lambda: runner.failed)
                await asyncio.sleep(1)
    else:
        with pytest.raises(SchemaError):
            await runner.run()
    assert changes(caplog) == with_levels("running", "draining", *(["failed"] if block else []))


@virtual
async def test_the_states_in_the_log_are_those_of_its_health(caplog: Any) -> None:
    """Whatever comes in between: who reads the log knows what the probes have said."""
    database = table(1)
    runner = Runner(database, Sleeper(35), settings())
    seen = ["running"]

    def note() -> None:
        if (state := runner.health().state) != seen[-1]:
            seen.append(state)

    async with running(runner) as run:
        await until(lambda: runner.ready)
        for act in (database.pause, database.resume, lambda: database.drain(1)):
            await act()
            for _ in range(1000):
                note()
                await asyncio.sleep(0.01)
        await run
        note()
    assert (
        [state for state, _ in changes(caplog)]
        == seen
        == ["running", "paused", "running", "draining", "stopped"]
    )


@virtual
async def test_a_task_that_fails_is_no_line_at_info(caplog: Any) -> None:
    async def tasker(task: Any) -> None:
        raise ValueError("its own")

    await run_for(5, table(3), each(tasker), settings(retry=Retry(delay=100, jitter=0)))
    told = [record for record in caplog.records if "failed on" in record.getMessage()]
    assert [record.levelname for record in told] == ["WARNING"] * 3
    assert {(record.name, record.session_id, record.mapping) for record in told} == {
        ("session_lock.execute", 1, "tasks")
    }


# All lines that there are ---------------------------------------------------------------------------------


def lines() -> list[tuple[Path, ast.Call]]:
    """Each call of a logger in the library; the commands print, and what is for tests says nothing."""
    found = []
    for path in sorted(FOLDER.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "logger"
            ):
                found.append((path, node))
    return found


def test_what_is_said_of_a_session_has_its_fields() -> None:
    assert len(lines()) > 25
    for path, call in lines():
        text = next(each.value for each in call.args if isinstance(each, ast.Constant))
        if re.search(r"\bsession %d\b|\btask %r\b", text):
            assert [keyword.arg for keyword in call.keywords] == ["extra"], f"{path.name}:{call.lineno}"


def test_the_loggers_are_those_of_the_reference() -> None:
    named = {
        name.strip('"')
        for path in FOLDER.rglob("*.py")
        for name in re.findall(r"getLogger\((.+?)\)", path.read_text())
    }
    assert named == set(LOGGERS)
    assert all(name.startswith("session_lock.") for name in named)


def test_the_states_are_all_in_the_reference() -> None:
    assert list(STATES) == list(get_args(State))
