"""The errands: each ran as often as planned, and the judge sees when it did not."""

from __future__ import annotations

from session_lock.cli.demo.scenario import Wish
from session_lock.cli.demo.scenarios.retries import FATES, Retries
from tests.scenarios.judging import court

FIGURES = "planned_runs given_up wrong_ends wrong_runs wrong_attempts wrong_failures too_soon"

RUN = "INSERT INTO demo.run (task, token, session, at) VALUES ($1, 1, 1, '2026-01-01Z'::timestamptz + $2 * interval '1 s')"
FAILURE = (
    "INSERT INTO demo.failure (name, task_key, attempt, at, session, error)"
    " VALUES ('errand', $1::bigint::text, $2, now(), 1, '')"
)
CLOSE = (
    "UPDATE demo.errand SET attempts = $2, given_up = $3, claim_token = 1, finished_at = now() WHERE id = $1"
)


def test_retries(play):
    result = play("retries", FIGURES, "--runners", "2", "--tasks", "36", "--seconds", "1")
    assert result["tasks"] == result["finished"] == 36
    assert result["runs"] == result["planned_runs"] == 4 * 25
    assert result["given_up"] == 4 * 3


async def test_their_judge_sees_what_is_wrong(database):
    async with court(Retries(Wish(runners=1, tasks=len(FATES))), database) as errands:
        for number, fate in enumerate(FATES.values(), 1):
            assert not (await errands.judge()).good
            for run in range(len(fate.pauses) + 1):
                await errands.execute(RUN, number, sum(fate.pauses[:run]))
            for attempt in range(1, fate.failures + 1):
                await errands.execute(FAILURE, number, attempt)
            await errands.execute(CLOSE, number, fate.attempts, fate.given_up)
        assert (await errands.judge()).good

        second_run = "WHERE task = 2 AND at > '2026-01-01Z'"
        for harm, mend, what in (
            ("INSERT INTO demo.run (task, token, session) VALUES (1, 9, 1)", "DELETE FROM demo.run WHERE token = 9", "wrong_runs"),
            (f"UPDATE demo.run SET at = at - interval '10 ms' {second_run}", f"UPDATE demo.run SET at = at + interval '10 ms' {second_run}", "too_soon"),
            ("UPDATE demo.errand SET attempts = attempts + 1 WHERE id = 3", "UPDATE demo.errand SET attempts = attempts - 1 WHERE id = 3", "wrong_attempts"),
            ("UPDATE demo.errand SET given_up = NOT given_up WHERE id = 4", "UPDATE demo.errand SET given_up = NOT given_up WHERE id = 4", "wrong_ends"),
            ("UPDATE demo.failure SET attempt = 9 WHERE task_key = '2'", "UPDATE demo.failure SET attempt = 1 WHERE task_key = '2'", "wrong_failures"),
        ):  # fmt: skip
            await errands.execute(harm)
            verdict = await errands.judge()
            assert (getattr(verdict, what), verdict.good) == (1, False), what
            await errands.execute(mend)
            assert (await errands.judge()).good, what
