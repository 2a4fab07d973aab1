"""The conversations: one message at a time and in order in each, and the judge sees when it is not so."""

from __future__ import annotations

from session_lock.cli.demo.scenario import Wish
from session_lock.cli.demo.scenarios.serial import Serial
from tests.scenarios.judging import Court, court

FIGURES = "conversations said overlaps out_of_order"

AT = "'2026-01-01Z'::timestamptz + {} * interval '1 s'"

SESSION = f"""
INSERT INTO demo.session (id, name, label, capacity, started_at, expires_at, ended_at) OVERRIDING SYSTEM VALUE
VALUES (9, 'message', 'here:1', 1, now(), now(), {AT.format(0.95)})
"""


def test_serial(play):
    result = play("serial", FIGURES, "--runners", "2", "--tasks", "80", "--seconds", "1.5")
    assert result["tasks"] == result["finished"] == result["said"] == 80
    assert (result["killed"], result["frozen"]) == (1, 0)
    assert result["reruns"] > 0


async def note(
    talks: Court, message: int, what: str, second: float, *, token: int = 1, session: int = 1
) -> None:
    """By hand, what runners and trigger would have noted."""
    at = AT.format(second)
    match what:
        case "runs":
            await talks.execute(
                f"INSERT INTO demo.run (task, token, session, at) VALUES ({message}, {token}, {session}, {at})"
            )
        case "says":
            await talks.execute(
                f"INSERT INTO demo.said (message, token, at) VALUES ({message}, {token}, {at})"
            )
        case _:
            await talks.execute(
                f"INSERT INTO demo.event (task, token, session, what, at) VALUES ({message}, {token}, {session}, '{what}', {at})"
            )


async def test_their_judge_sees_what_is_wrong(database):
    async with court(Serial(Wish(runners=1, tasks=4)), database) as talks:
        await talks.execute(
            "UPDATE demo.message SET conversation = id / 4, claim_token = 1, finished_at = now()"
        )
        await talks.execute("DELETE FROM demo.event")
        for message, second in ((1, 1), (2, 2), (3, 3), (4, 2)):  # the last one is of another conversation
            for what, after in (("claimed", 0.1), ("runs", 0.2), ("says", 0.8), ("finished", 0.9)):
                await note(talks, message, what, second + after)
        assert (await talks.judge()).good

        await note(talks, 2, "says", 2.85, token=2)
        verdict = await talks.judge()
        assert (verdict.said, verdict.good) == (5, False)
        await talks.execute("DELETE FROM demo.said WHERE token = 2")
        assert (await talks.judge()).good

        await talks.execute("UPDATE demo.said SET at = at + interval '1.2 s' WHERE message = 1")
        verdict = await talks.judge()
        assert (verdict.overlaps, verdict.out_of_order, verdict.good) == (1, 1, False)
        await talks.execute("UPDATE demo.said SET at = at - interval '1.2 s' WHERE message = 1")
        assert (await talks.judge()).good

        # Killed: what it held is over when its session has ended, and not before.
        await talks.execute(SESSION)
        await note(talks, 1, "claimed", 0.5, token=0, session=9)
        await note(talks, 1, "runs", 0.6, token=0, session=9)
        assert (await talks.judge()).good
        await talks.execute(f"UPDATE demo.session SET ended_at = {AT.format(1.15)} WHERE id = 9")
        assert (await talks.judge()).overlaps == 1
        await talks.execute("UPDATE demo.session SET ended_at = NULL WHERE id = 9")
        assert (await talks.judge()).overlaps == 3
