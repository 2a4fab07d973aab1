"""The bank: right to the cent, and the judge sees when it is not."""

from __future__ import annotations

from session_lock.cli.demo.scenario import Wish
from session_lock.cli.demo.scenarios.bank import Bank
from tests.scenarios.judging import court

FIGURES = "sum_before sum_after wrong_balances ledger_lines_missing ledger_lines_too_many"


def test_bank(play):
    result = play("bank", FIGURES, "--tasks", "100", "--seconds", "2")
    assert result["sum_before"] == result["sum_after"] == "1000000.00"
    assert result["tasks"] == result["finished"] == 100
    assert result["killed"] == result["frozen"] == 1
    assert result["reruns"] > 0


async def test_its_judge_sees_what_is_wrong(database):
    scenario = Bank(Wish(runners=1, tasks=3))
    first, second, third = scenario.transfers
    async with court(scenario, database) as bank:

        async def move(account, amount):
            await bank.execute(
                "UPDATE demo.account SET balance = balance + $2 WHERE id = $1", account, amount
            )

        async def make(transfer):
            source, target, amount = transfer
            await move(source, -amount)
            await move(target, amount)
            await bank.execute("INSERT INTO demo.ledger VALUES ($1, $2, $3)", *transfer)

        await make(first)
        await make(second)
        verdict = await bank.judge()
        assert (verdict.course.finished, verdict.good) == (0, False)
        await bank.execute("UPDATE demo.transfer SET claim_token = 1, finished_at = now()")
        verdict = await bank.judge()
        assert (verdict.course.finished, verdict.ledger_lines_missing, verdict.good) == (3, 1, False)
        await make(third)
        assert (await bank.judge()).good

        await make(first)  # twice
        verdict = await bank.judge()
        assert verdict.sum_after == verdict.sum_before
        assert (verdict.wrong_balances, verdict.ledger_lines_too_many, verdict.good) == (2, 1, False)
        await bank.execute("DELETE FROM demo.ledger WHERE ctid = (SELECT max(ctid) FROM demo.ledger)")
        await move(first[0], first[2])  # and taken back by half
        verdict = await bank.judge()
        assert verdict.sum_after != verdict.sum_before
        assert (verdict.wrong_balances, verdict.ledger_lines_too_many, verdict.good) == (1, 0, False)
