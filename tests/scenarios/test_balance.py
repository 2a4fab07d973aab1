"""Shares of the work: each session does its part, and the judge sees when one does not, or when slots stood still."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from session_lock.cli.demo.scenario import Wish
from session_lock.cli.demo.scenarios.balance import Balance, Round, greedy, ideal
from session_lock.cli.demo.verdict import jain
from tests.scenarios.judging import court

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

SESSION = """
INSERT INTO demo.session (id, name, label, capacity, started_at, expires_at) OVERRIDING SYSTEM VALUE
VALUES ($1, 'job', 'here:7', $2, now(), now())
"""
TASK = "INSERT INTO demo.job (id, seconds, finished_at) OVERRIDING SYSTEM VALUE VALUES ($1, $2, now())"
FINISH = "INSERT INTO demo.event (task, session, token, what, at) VALUES ($1, $2, 1, 'finished', $3)"


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_balance(demo):
    """In a few seconds the last tasks weigh too much, and the machine is another matter: here it is judged what is right."""
    words = ("--scenario", "balance", "--json", "--seconds", "4", "--seed", "7", "--runners", "2")
    status, out, err = demo(*words).wait()
    result = json.loads(out)
    assert (err, status) == ("", 0 if result["good"] else 1)
    assert result["seed"] == 7
    assert result["tasks"] == result["finished"] == result["runs"] == 3 * (3 + 10 + 40)
    assert result["reruns"] == result["finished_twice"] == 0
    rounds = result["rounds"]
    assert [(each["sessions"], each["slots"]) for each in rounds] == [(2, 3), (8, 10), (32, 40)]
    assert [each["tasks"] for each in rounds] == [3 * 3, 3 * 10, 3 * 40]
    assert all(each["times"] > 1 <= each["greedy"] for each in rounds)
    assert all(0.5 < each["fairness"] <= 1 for each in rounds)
    # Sessions of each round, in two processes of its own.
    assert [len(each["sessions"]) for each in result["per_runner"]] == [1, 1, 4, 4, 16, 16]
    assert sum(each["finished"] for each in result["per_runner"]) == result["tasks"]


def test_the_lengths_are_those_of_the_seed():
    first, same, other = (Balance(Wish(runners=4, seed=seed)).lengths for seed in (1, 1, 2))
    assert first == same != other
    for sessions, mean in ((2, 0.3), (8, 0.4), (32, 0.7)):
        lengths = first[sessions]
        assert sum(lengths) / len(lengths) == pytest.approx(mean, rel=0.2)
        assert max(lengths) > 2 * mean
    assert Balance(Wish(runners=4)).seed != Balance(Wish(runners=4)).seed


def test_fairness_is_that_of_jain():
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(1 / 4)
    assert jain([0.0, 0.0]) == 0


def test_the_ideal_is_no_shorter_than_the_longest_task():
    assert ideal([3.0, 1.0, 1.0, 1.0], 2) == 3
    assert ideal([4.0, 1.0, 1.0], 2) == 4
    assert ideal([1.0], 2) == 1


def test_greedy_begins_the_next_one_in_the_first_free_slot():
    assert greedy([3.0, 1.0, 1.0, 1.0, 2.0], 2) == 5
    assert greedy([3.0, 1.0], 2) == 3


async def test_its_judge_sees_what_is_wrong(database):
    """By hand: 11 tasks of a second, for a session with one slot and one with two; the ideal takes 11/3 of a second."""
    scenario = Balance(Wish(runners=1, seed=1))
    keys = list(range(1, 12))
    scenario.rounds = [Round(3, [1, 2], keys, [1.0] * 11, at(0))]
    async with court(scenario, database) as balance:
        await balance.execute(SESSION, 1, 2)
        await balance.execute(SESSION, 2, 4)
        for key in keys:
            await balance.execute(TASK, key, 1.0)
            await balance.execute(FINISH, key, 1 if key <= 4 else 2, at(4))
        verdict = await balance.judge()
        [only] = verdict.rounds
        assert (only.sessions, only.slots, only.tasks) == (2, 3, 11)
        assert (only.ideal_seconds, only.seconds) == (pytest.approx(11 / 3), 4)
        assert only.times == only.greedy == pytest.approx(12 / 11)
        assert only.fairness == pytest.approx(0.9956, abs=0.0001)
        assert verdict.good

        for harm, mend, figures in (
            ("UPDATE demo.event SET at = at + interval '40 ms' WHERE task = 3", "UPDATE demo.event SET at = at - interval '40 ms' WHERE task = 3", {"seconds": 4.04, "times": pytest.approx(1.1018, abs=0.0001)}),
            ("UPDATE demo.event SET session = 1 WHERE task = 5", "UPDATE demo.event SET session = 2 WHERE task = 5", {"fairness": pytest.approx(0.9412, abs=0.0001)}),
            ("DELETE FROM demo.event WHERE task = 11", f"INSERT INTO demo.event (task, session, token, what, at) VALUES (11, 2, 1, 'finished', '{at(4)}')", {"seconds": None, "times": None}),
        ):  # fmt: skip
            await balance.execute(harm)
            verdict = await balance.judge()
            assert {name: getattr(verdict.rounds[0], name) for name in figures} == figures
            assert not verdict.good
            await balance.execute(mend)
            assert (await balance.judge()).good

        await balance.execute("INSERT INTO demo.run (task, token, session) VALUES (1, 1, 1), (1, 2, 2)")
        verdict = await balance.judge()
        assert (verdict.course.reruns, verdict.good) == (1, False)
        await balance.execute("DELETE FROM demo.run")
        await balance.execute("UPDATE demo.job SET finished_at = NULL WHERE id = 5")
        assert not (await balance.judge()).good
