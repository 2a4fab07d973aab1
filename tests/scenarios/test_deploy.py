"""The rolling restart: each task once, and the judge sees when it is not so, or when all stood still."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from session_lock.cli.demo.cast import RunnerProcess, State
from session_lock.cli.demo.scenario import Wish
from session_lock.cli.demo.scenarios.deploy import Deploy, Restart
from tests.scenarios.judging import court

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

SESSION = """
INSERT INTO demo.session (id, name, label, capacity, started_at, expires_at, app_version) OVERRIDING SYSTEM VALUE
VALUES ($1, 'job', 'here:' || $2::text, 1, now(), now(), $3)
"""
EVENT = "INSERT INTO demo.event (task, session, token, what, at) VALUES ($1, $2, $3, $4, $5)"


def at(milliseconds: float) -> datetime:
    return NOON + timedelta(milliseconds=milliseconds)


def test_deploy(demo):
    """How long nothing was finished is the machine's matter too: here it is judged what is right."""
    status, out, err = demo("--scenario", "deploy", "--json", "--runners", "2").wait()
    result = json.loads(out)
    assert (err, status) == ("", 0 if result["good"] else 1)
    assert result["restarted"] == 2
    assert result["tasks"] == result["finished"] == result["runs"] > 0
    assert result["reruns"] == result["finished_twice"] == result["new_kind_claimed_by_old"] == 0
    assert [each["fate"] for each in result["per_runner"]] == ["stopped"] * 4
    assert all(each["finished"] for each in result["per_runner"])
    assert result["longest_gap_ms"] > 0


async def test_its_judge_sees_what_is_wrong(database):
    """By hand: the old session 1 ends from 0 to 500 ms, and hands a task over to 2."""
    scenario = Deploy(Wish(runners=1))
    process: Any = SimpleNamespace(pid=7)
    old = RunnerProcess("R1", process, State.STOPPED)
    scenario.restarts = [Restart(old, at(0), at(500))]
    async with court(scenario, database) as deploy:
        await deploy.execute("UPDATE demo.job SET claim_token = 1, finished_at = now()")
        await deploy.execute("DELETE FROM demo.event")
        await deploy.execute(SESSION, 1, "7", "1.9")
        await deploy.execute(SESSION, 2, "8", "1.10")
        for task, when in enumerate((-900, -40, 200, 440, 640, 1900), 1):
            await deploy.execute(EVENT, task, 2, 1, "finished", at(when))
        for token, when in ((1, 10), (2, 300)):
            await deploy.execute(EVENT, 3, token, token, "claimed", at(when - 10))
            await deploy.execute(EVENT, 3, token, token, "given back", at(when))
        await deploy.execute(EVENT, 3, 2, 2, "claimed", at(100))
        verdict = await deploy.judge()
        assert (verdict.longest_gap_ms, verdict.handed_over, verdict.takeover_ms) == (240, 1, 90)
        assert verdict.good

        for harm, mend, figures in (
            ("UPDATE demo.event SET at = at + interval '11 ms' WHERE task = 4", "UPDATE demo.event SET at = at - interval '11 ms' WHERE task = 4", {"longest_gap_ms": 251}),
            ("UPDATE demo.event SET at = at + interval '11 ms' WHERE what = 'claimed' AND session = 2", "UPDATE demo.event SET at = at - interval '11 ms' WHERE what = 'claimed' AND session = 2", {"takeover_ms": 101}),
            ("UPDATE demo.job SET needs_version = '1.10' WHERE id = 3", "UPDATE demo.job SET needs_version = NULL", {"new_kind": 1, "new_kind_claimed_by_old": 1}),
        ):  # fmt: skip
            await deploy.execute(harm)
            verdict = await deploy.judge()
            assert {name: getattr(verdict, name) for name in figures} == figures
            assert not verdict.good
            await deploy.execute(mend)
            assert (await deploy.judge()).good

        await deploy.execute("INSERT INTO demo.run (task, token, session) VALUES (1, 1, 1), (1, 2, 2)")
        verdict = await deploy.judge()
        assert (verdict.course.reruns, verdict.good) == (1, False)
        await deploy.execute("DELETE FROM demo.run")
        await deploy.execute("UPDATE demo.job SET finished_at = NULL WHERE id = 5")
        assert not (await deploy.judge()).good
