"""Each scenario of the demo as a user runs it, and its check, which must see what is wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from session_lock.cli.demo.access import Access, Connection
from session_lock.cli.demo.cast import Cast
from session_lock.cli.demo.part import Part
from session_lock.cli.demo.scenario import Scenario, Wish
from session_lock.cli.demo.scenarios import SCENARIOS
from session_lock.cli.demo.scenarios.bank import Bank
from session_lock.cli.demo.stage import demo_schema
from session_lock.cli.demo.verdict import Verdict
from session_lock.cli.demo.watch import Watch
from tests.cli.demo_process import Demo

COURSE = (
    "tasks finished runs reruns finished_twice killed frozen refused takeover_seconds seconds tasks_per_second "
    "per_runner"
)


@pytest.fixture
def play(demo: Callable[..., Demo], database: Any) -> Callable[..., dict[str, Any]]:
    """Run a scenario in a database of its own; returns what --json says."""

    def run(scenario: str, *words: str) -> dict[str, Any]:
        process = demo("--scenario", scenario, "--json", "--dsn", database.admin_dsn, *words)
        status, out, err = process.wait()
        assert (status, err) == (0, "")
        result: dict[str, Any] = json.loads(out)
        assert result["scenario"] == scenario
        assert result["good"] is True
        return result

    return run


@asynccontextmanager
async def judged(database: Any, scenario: Scenario) -> AsyncIterator[tuple[Connection, Callable[[], Any]]]:
    """The scenario's tables, as nobody has worked on them, and its judge."""
    access = Access(database.admin_dsn)
    async with (
        demo_schema(access, scenario) as connection,
        Watch(access, scenario.table) as watch,
        Cast(Part("", "", "", 0, 1)) as cast,
    ):

        async def judge() -> Verdict:
            return await scenario.judge(connection, cast, watch)

        yield connection, judge


def test_options_that_a_scenario_does_not_have(demo):
    status, out, err = demo("--scenario", "bank", "--dir", "/tmp").wait()
    assert (status, out) == (2, "")
    assert err == "session-lock: the scenario bank has no --dir: leave it out\n"
    status, _, err = demo("--scenario", "casino").wait()
    assert status == 2
    assert all(name in err for name in SCENARIOS)


# bank ----------------------------------------------------------------------------------------------


def test_bank(play):
    result = play("bank", "--tasks", "150", "--seconds", "3")
    figures = "scenario good sum_before sum_after wrong_balances ledger_lines_missing ledger_lines_too_many"
    assert list(result) == [*figures.split(), *COURSE.split()]
    assert result["sum_before"] == result["sum_after"] == "1000000.00"
    assert result["tasks"] == result["finished"] == 150
    assert result["killed"] == result["frozen"] == 1
    assert result["reruns"] > 0


async def test_the_judge_of_the_bank_sees_what_is_wrong(database):
    scenario = Bank(Wish(runners=1, tasks=3))
    first, second, third = scenario.transfers
    async with judged(database, scenario) as (connection, judge):

        async def move(account: int, amount: Any) -> None:
            change = "UPDATE session_lock_demo.account SET balance = balance + $2 WHERE id = $1"
            await connection.execute(change, account, amount)

        async def make(transfer: Any) -> None:
            source, target, amount = transfer
            await move(source, -amount)
            await move(target, amount)
            await connection.execute("INSERT INTO session_lock_demo.ledger VALUES ($1, $2, $3)", *transfer)

        await make(first)
        await make(second)
        verdict = await judge()
        assert not verdict.good
        assert verdict.course.finished == 0
        await connection.execute("UPDATE session_lock_demo.transfer SET claim_token = 1, finished_at = now()")
        verdict = await judge()
        assert (verdict.ledger_lines_missing, verdict.good) == (1, False)
        assert "THIS IS WRONG" in verdict.sentences()[0]
        await make(third)
        assert (await judge()).good

        await make(first)  # twice
        verdict = await judge()
        assert verdict.sum_after == verdict.sum_before
        assert (verdict.wrong_balances, verdict.ledger_lines_too_many, verdict.good) == (2, 1, False)
        await connection.execute(
            "DELETE FROM session_lock_demo.ledger WHERE ctid = (SELECT max(ctid) FROM session_lock_demo.ledger)"
        )
        await move(first[0], first[2])  # and taken back by half
        verdict = await judge()
        assert verdict.sum_after != verdict.sum_before
        assert (verdict.wrong_balances, verdict.ledger_lines_too_many, verdict.good) == (1, 0, False)
