"""docs/how-to/retries.md and taskers.md: their code runs, their commands exist, their numbers are the library's own."""

from __future__ import annotations

import asyncio
import re
from typing import get_args

import pytest

from session_lock import Retry, Runner, Settings, each
from session_lock.cli import main
from session_lock.migrations.pruning import FAILURES_KEPT
from session_lock.settings import OnStuck
from session_lock.testing import MemoryDatabase, run_virtual
from session_lock.testing import rows as memory_rows
from session_lock.watch import EX_TEMPFAIL
from tests.docs.pages import Page


async def run_until_settled(database: MemoryDatabase, runner: Runner) -> None:
    run = asyncio.create_task(runner.run())
    while database.pending:
        await asyncio.sleep(0.05)
    runner.stop()
    await run


def test_the_policy_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page("retries.md")
    page.run(holding="patient = Retry(")
    assert page.done
    database = MemoryDatabase({1: "limited", 2: "nowhere", 3: "broken", 4: "good"})
    attempts: dict[str, list[float]] = {}

    async def send(task):
        attempts.setdefault(task.data, []).append(asyncio.get_running_loop().time())
        error = {"limited": page["RateLimited"], "nowhere": page["NoSuchAddress"], "broken": KeyError}.get(
            task.data
        )
        if error and not (task.data == "limited" and task.attempt == 3):
            raise error

    monkeypatch.setattr("random.uniform", lambda least, most: most)
    runner = page["make_runner"](database, send)
    run_virtual(run_until_settled(database, runner))
    assert database.finished == [4, 1]
    assert database.discarded == [2, 3]
    assert {data: len(times) for data, times in attempts.items()} == {
        "limited": 3,
        "nowhere": 1,
        "broken": 8,
        "good": 1,
    }
    first, second, third = attempts["limited"]
    assert 59.9 <= second - first <= 62
    assert 59.9 <= third - second <= 62


def test_the_numbers_of_the_pages() -> None:
    flat = " ".join(Page("retries.md").text.split())
    assert Retry().max_attempts == 25
    assert "given up at its 25th attempt" in flat
    assert (Retry().delay, Retry().factor, Retry().longest) == (1, 2, 3600)
    assert f"the newest {memory_rows.FAILURES_KEPT} of each task, and for {FAILURES_KEPT.days} days" in flat
    assert f"If {Settings().breaker_failures} different tasks in a row fail" in flat


def test_one_bad_row_among_a_hundred_costs_what_the_page_says() -> None:
    database = MemoryDatabase({key: key for key in range(100)})
    calls: list[int] = []

    async def tasker(batch):
        calls.append(len(batch))
        if any(task.key == 41 and task.attempt == 1 for task in batch):
            raise ValueError
        return batch

    run_virtual(run_until_settled(database, Runner(database, tasker, Settings(start_jitter=0))))
    first_attempts = calls[:-1]  # the last one is the bad row's second attempt
    assert 13 <= len(first_attempts) - 1 <= 15
    assert all(database[key].attempts == 1 for key in range(100) if key != 41)


def test_the_taskers_of_the_page() -> None:
    page = Page("taskers.md")
    page.run(holding="task_timeout=20")
    page.run(holding="def resize(task)")
    database = MemoryDatabase({1: {"bytes": 0}, 2: {"bytes": 7}})
    run_virtual(run_until_settled(database, page["make_runner"](database)))
    assert (database.finished, database.discarded) == ([2], [1])


def test_the_numbers_and_words_of_the_page_are_the_settings() -> None:
    text = Page("taskers.md").text
    settings = Settings()
    assert (
        f"`loop_stall` lets it: one that has given no turn for that long ({settings.loop_stall:g} s)"
        in " ".join(text.split())
    )
    assert f"`guard` ({settings.guard:g} s)" in text
    assert f"status {EX_TEMPFAIL}" in text
    assert re.findall(r'^\| `"(\w+)"` \|', text, flags=re.MULTILINE) == [*get_args(OnStuck)]


async def test_the_process_pool_of_the_page() -> None:
    page = Page("taskers.md")
    for part in ("task_timeout=20", "def resize(task)", "ProcessPoolExecutor", "on_stuck"):
        page.run(holding=part)
    assert page.done
    database = MemoryDatabase({key: {"number": 1000 + key} for key in range(4)})
    try:
        await run_until_settled(database, Runner(database, each(page["factor"]), Settings(start_jitter=0)))
    finally:
        page["pool"].shutdown()
    assert sorted(database.finished) == [0, 1, 2, 3]


def test_the_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^session-lock (\w+)", Page("retries.md").text, flags=re.MULTILINE)
    assert commands == ["parked", "retry", "cancel"]
    for command in commands:
        assert main([command, "--help"]) == 0
        assert f"usage: session-lock {command}" in capsys.readouterr().out
