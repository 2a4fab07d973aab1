"""The small tenant: not behind the big one, and the judge sees when it is."""

from __future__ import annotations

from session_lock.cli.demo.scenario import Wish
from session_lock.cli.demo.scenarios.tenants import Tenants
from tests.scenarios.judging import court

FIGURES = "small big seconds_alone seconds_behind times big_finished_meanwhile big_left"

ADD = (
    "INSERT INTO demo.job (tenant, lot, added_at) SELECT $1, $2, to_timestamp($4) FROM generate_series(1, $3)"
)

FINISH = """
INSERT INTO demo.event (task, token, session, what, at)
SELECT j.id, 1, 1, 'finished', to_timestamp($3)
  FROM demo.job AS j
 WHERE j.lot = $1 AND NOT EXISTS (SELECT FROM demo.event AS e WHERE e.task = j.id)
 LIMIT $2
"""


def test_tenants(play):
    result = play("tenants", FIGURES, "--runners", "2", "--tasks", "10000", "--seconds", "1")
    assert (result["small"], result["big"]) == (100, 10_000)
    assert 0 < result["times"] <= 3
    assert result["big_finished_meanwhile"] > 0
    assert 9000 < result["big_left"] < 10_000


async def test_its_judge_sees_what_is_wrong(database):
    """By hand: a second alone, then some seconds behind the big tenant, of whose tasks one is done beside."""
    async with court(Tenants(Wish(runners=1, tasks=50)), database) as jobs:
        await jobs.execute(ADD, "small", "alone", 100, 10)
        await jobs.execute(FINISH, "alone", 100, 11)
        await jobs.execute(ADD, "big", "big", 50, 20)
        await jobs.execute(ADD, "small", "behind", 100, 30)
        await jobs.execute(FINISH, "behind", 99, 31)
        verdict = await jobs.judge()
        assert (verdict.seconds_alone, verdict.times, verdict.good) == (1, None, False)
        await jobs.execute(FINISH, "behind", 1, 33)
        verdict = await jobs.judge()
        assert (verdict.times, verdict.big_finished_meanwhile, verdict.good) == (3, 0, False)  # it starves
        await jobs.execute(FINISH, "big", 1, 32)
        assert (await jobs.judge()).good
        await jobs.execute("UPDATE demo.event SET at = at + interval '20 ms' WHERE at = to_timestamp(33)")
        verdict = await jobs.judge()
        assert (verdict.times, verdict.good) == (3.02, False)
