"""The bells: each due time once, and the judge sees when it is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from session_lock.cli.demo.scenario import Wish
from session_lock.cli.demo.scenarios.cron import BELLS, Cron, due_times
from tests.scenarios.judging import court

FIGURES = "due_times rung missed too_often at_other_times too_soon latest_seconds"

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

RING = "INSERT INTO demo.ring (bell, due_at, at) VALUES ($1, $2, $3)"


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_cron(play):
    result = play("cron", FIGURES, "--runners", "2", "--seconds", "3")
    assert result["rung"] >= result["due_times"] >= 3
    assert result["killed"] == 1


def test_due_times():
    due = due_times(after(1), after(4.5))
    assert {(bell, (at - NOON).total_seconds()) for bell, at in due} == {
        ("treble", 1), ("treble", 2), ("treble", 3), ("treble", 4), ("tenor", 2), ("tenor", 4), ("bourdon", 3),
    }  # fmt: skip


async def test_their_judge_sees_what_is_wrong(database):
    scenario = Cron(Wish(runners=1))
    scenario.until = after(4.5)
    async with court(scenario, database) as bells:
        assert not (await bells.judge()).good  # nothing was rung
        for bell, at in due_times(after(1), after(4)):
            await bells.execute(RING, bell, at, at + timedelta(seconds=0.5))
        await bells.execute(RING, "treble", after(5), after(6.5))  # what came due at the end
        verdict = await bells.judge()
        assert (verdict.due_times, verdict.rung, verdict.latest_seconds, verdict.good) == (7, 8, 1.5, True)

        for bell, due, at, what in (
            ("tenor", 4, 4.6, "too_often"),
            ("bourdon", 5, 5.5, "at_other_times"),
            ("treble", 6, 5.9, "too_soon"),
        ):
            await bells.execute(RING, bell, after(due), after(at))
            verdict = await bells.judge()
            assert (getattr(verdict, what), verdict.good) == (1, False), what
            await bells.execute("DELETE FROM demo.ring WHERE at = $1", after(at))
            assert (await bells.judge()).good

        await bells.execute("DELETE FROM demo.ring WHERE bell = 'bourdon'")
        verdict = await bells.judge()
        assert (verdict.missed, verdict.good) == (1, False)
        assert len(BELLS) == 3
