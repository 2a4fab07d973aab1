"""The shards: each task once, and the judge sees when it is not so, when one is preferred, and when others are slowed or stand still."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from session_lock.cli.demo.scenario import Wish
from session_lock.cli.demo.scenarios.shards import Outage, Shards
from tests.scenarios.judging import Court, court

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

EVENT = "INSERT INTO demo.event (task, session, token, what, at) VALUES ($1, 1, $2, $3, $4)"


def at(second: float) -> datetime:
    return NOON + timedelta(seconds=second)


def test_shards(demo):
    """How fast it went is the machine's matter too: here it is judged what is right."""
    status, out, err = demo("--scenario", "shards", "--json", "--seconds", "5").wait()
    result = json.loads(out)
    assert (err, status) == ("", 0 if result["good"] else 1)
    assert (result["crashed"], [each["server"] for each in result["per_server"]]) == ("C", ["A", "B", "C"])
    assert result["tasks"] == result["finished"] == 300
    assert result["finished_twice"] == result["reruns_of_others"] == 0
    assert result["outage_seconds"] >= 1.5
    assert result["per_server"][2]["longest_gap_ms"] >= 1500
    assert result["return_seconds"] is not None
    assert result["fairness"] > 0.9
    assert [each["fate"] for each in result["per_runner"]] == ["stopped"] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_while_a_server_is_stopped(demo, number):
    run = demo("--scenario", "shards", "--seconds", "4")
    run.read_until("R1 R2 start")
    run.remember()
    assert len(run.folders) == 3
    run.read_until("server C is stopped")
    os.killpg(run.process.pid, number)
    status, _, err = run.wait()
    if number is signal.SIGINT:
        assert (status, err) == (130, "session-lock: interrupted: runners, tables and server are gone\n")
    run.assert_nothing_is_left()


def test_no_server_that_is_there(demo):
    status, out, err = demo("--scenario", "shards", "--dsn", "postgresql://u@127.0.0.1:1/x").wait()
    assert (status, out) == (2, "")
    assert err == (
        "session-lock: the scenario shards takes 3 servers, which it starts and stops itself: leave out --dsn\n"
    )


UP = [0.5, 1.5, 2.5, 3.5, 4.5, 5, 5.5, 6, 6.5, 7, 7.5, 7.9, 8.5, 9.5, 10.5, 11.5, 12.5]
CRASHED = [0.5, 1.5, 2.5, 3.5, 8.75, 9.5, 10.5, 11.5, 12.5]


async def finish(shards: Court, seconds: list[float], *, at_place: int) -> None:
    """By hand: as many tasks, each claimed, run and finished once."""
    await shards.execute("DELETE FROM demo.job WHERE id > $1", len(seconds), at=at_place)
    await shards.execute("UPDATE demo.job SET claim_token = 2, finished_at = now()", at=at_place)
    await shards.execute("DELETE FROM demo.event", at=at_place)
    for task, second in enumerate(seconds, 1):
        await shards.execute(EVENT, task, 2, "claimed", at(second - 0.3), at=at_place)
        await shards.execute(EVENT, task, 2, "finished", at(second), at=at_place)
    await shards.execute("INSERT INTO demo.run SELECT id, 2, 1 FROM demo.job", at=at_place)


async def test_their_judge_sees_what_is_wrong(database, elsewhere):
    """The second of two servers is down from second 4 to 8. Each finishes a task a second, the one that is up two meanwhile."""
    scenario = Shards(Wish(runners=1, seconds=1))
    async with court(scenario, database, elsewhere) as shards:
        scenario.outage = Outage(shards.stage.places[1], at(0), at(4), at(4.1), at(8), at(10))
        await finish(shards, UP, at_place=0)
        await finish(shards, CRASHED, at_place=1)
        await shards.execute(EVENT, 5, 1, "claimed", at(3.9), at=1)  # held when it went down
        await shards.execute("INSERT INTO demo.run VALUES (5, 1, 1)", at=1)
        good = await shards.judge()
        assert good.good
        assert (good.course.tasks, good.course.reruns, good.held, good.reruns_of_others) == (26, 1, 1, 0)
        assert (good.fairness, good.least_times, good.longest_gap_ms, good.return_seconds) == (
            1,
            2,
            500,
            0.75,
        )
        assert [each.finished_while_all_up for each in good.per_server] == [6, 6]

        later = "UPDATE demo.event SET at = at + interval '20 s' WHERE what = 'finished' AND task"
        sooner = "UPDATE demo.event SET at = at - interval '20 s' WHERE what = 'finished' AND task"
        for place, harm, mend, figures in (
            (0, "INSERT INTO demo.run VALUES (4, 1, 1)", "DELETE FROM demo.run WHERE token = 1", {"reruns_of_others": 1}),
            (1, "INSERT INTO demo.run VALUES (4, 1, 1)", "DELETE FROM demo.run WHERE task = 4 AND token = 1", {"reruns_of_others": 1}),
            (1, f"{later} IN (7, 8)", f"{sooner} IN (7, 8)", {"fairness": pytest.approx(0.9615, abs=0.0001)}),
            (0, f"{later} IN (5, 7, 9, 11, 12)", f"{sooner} IN (5, 7, 9, 11, 12)", {"least_times": 0.75, "longest_gap_ms": 1000}),
            (0, f"{later} IN (6, 7)", f"{sooner} IN (6, 7)", {"least_times": 1.5, "longest_gap_ms": 1500}),
            (1, f"{later} BETWEEN 5 AND 9", f"{sooner} BETWEEN 5 AND 9", {"return_seconds": 20.75}),
        ):  # fmt: skip
            await shards.execute(harm, at=place)
            verdict = await shards.judge()
            assert {name: getattr(verdict, name) for name in figures} == figures
            assert not verdict.good
            await shards.execute(mend, at=place)
            assert (await shards.judge()).good, harm

        for figures in ({"fairness": 0.979}, {"least_times": 0.89}, {"longest_gap_ms": 1001}, {"return_seconds": 5.01}, {"return_seconds": None}):  # fmt: skip
            assert not replace(good, **figures).good
            assert "THIS IS WRONG" in replace(good, **figures).sentences()[0]

        await shards.execute("UPDATE demo.job SET finished_at = NULL WHERE id = 3", at=1)
        verdict = await shards.judge()
        assert (verdict.course.finished, verdict.good) == (25, False)
        await shards.execute("UPDATE demo.job SET finished_at = now() WHERE id = 3", at=1)
        verdict = await shards.judge()
        assert (verdict.course.finished, verdict.course.finished_twice, verdict.good) == (26, 1, False)
