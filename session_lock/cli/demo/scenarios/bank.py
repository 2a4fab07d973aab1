"""Transfers between the accounts of a bank: while runners are killed and frozen, no cent is lost and none appears."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, TypeAlias

from session_lock import Batch, Task, Tasker, TaskTable
from session_lock.cli.demo.access import Connection
from session_lock.cli.demo.cast import Cast
from session_lock.cli.demo.part import Backstage
from session_lock.cli.demo.plan import Plan
from session_lock.cli.demo.scenario import Scenario, Wish
from session_lock.cli.demo.stage import SCHEMA, Stage
from session_lock.cli.demo.tasker import Row, StubbornTasker
from session_lock.cli.demo.verdict import Verdict, as_it_should_be, recount

ACCOUNTS = 1000
OPENING = Decimal("1000.00")
A_ROUND = 5.0
"""Seconds of work for each time that one is killed and one is frozen."""

HALFWAY = 0.05
"""Seconds between what is taken from accounts and what is added: long enough to be killed in."""


Transfer: TypeAlias = tuple[int, int, Decimal]
"""From, to, how much."""


class Bank(Scenario):
    about = "transfers between accounts: the sum and each balance are right to the cent"

    def __init__(self, wish: Wish) -> None:
        tasks, seconds = wish.tasks or 1000, wish.seconds or 10.0
        rounds = max(1, int(seconds / A_ROUND))
        self.plan: Plan = Plan(
            wish.runners, tasks, seconds, kill=wish.kill, freeze=wish.freeze, rounds=rounds
        )
        self.transfers: list[Transfer] = [_any_transfer() for _ in range(tasks)]

    def opening(self) -> str:
        return (
            f"{self.plan.tasks} transfers between {ACCOUNTS} accounts of {OPENING} each: {self.plan.runners} processes make "
            f"them, in about {self.plan.seconds:.0f} seconds."
        )

    table: ClassVar[TaskTable] = TaskTable(
        f"{SCHEMA}.transfer",
        key="id",
        pending="finished_at IS NULL",
        finish="finished_at = now()",
        columns=("source", "target", "amount"),
        schema=SCHEMA,
    )

    # Nothing here keeps a transfer from being made twice, or by halves.
    tables = f"""
    CREATE TABLE {SCHEMA}.account (id integer PRIMARY KEY, balance numeric(12, 2) NOT NULL);
    CREATE TABLE {SCHEMA}.transfer (
      id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      source      integer NOT NULL,
      target      integer NOT NULL,
      amount      numeric(12, 2) NOT NULL,
      finished_at timestamptz
    ) WITH (fillfactor = 50);
    CREATE TABLE {SCHEMA}.ledger (source integer NOT NULL, target integer NOT NULL, amount numeric(12, 2) NOT NULL);
    """

    grants = f"""
    GRANT SELECT, UPDATE (balance) ON {SCHEMA}.account TO {{role}};
    GRANT INSERT ON {SCHEMA}.ledger TO {{role}};
    """

    async def fill(self, connection: Connection) -> None:
        await connection.copy_records_to_table(
            "account", schema_name=SCHEMA, records=[(number, OPENING) for number in range(ACCOUNTS)]
        )
        await connection.copy_records_to_table(
            "transfer", schema_name=SCHEMA, columns=["source", "target", "amount"], records=self.transfers
        )

    @classmethod
    def tasker(cls, backstage: Backstage) -> Tasker[Row]:
        return Teller(backstage)

    async def judge(self, stage: Stage, cast: Cast) -> BankVerdict:
        expected = dict.fromkeys(range(ACCOUNTS), OPENING)
        for source, target, amount in self.transfers:
            expected[source] -= amount
            expected[target] += amount
        accounts = await stage.pool.fetch(f"SELECT id, balance FROM {SCHEMA}.account")
        balances = {row["id"]: row["balance"] for row in accounts}
        lines = Counter(
            map(tuple, await stage.pool.fetch(f"SELECT source, target, amount FROM {SCHEMA}.ledger"))
        )
        wanted = Counter(self.transfers)
        return BankVerdict(
            await recount(stage, self.table, cast),
            sum_before=str(OPENING * ACCOUNTS),
            sum_after=str(sum(balances.values())),
            wrong_balances=sum(balances.get(number) != balance for number, balance in expected.items()),
            ledger_lines_missing=(wanted - lines).total(),
            ledger_lines_too_many=(lines - wanted).total(),
        )


def _any_transfer() -> Transfer:
    source, target = random.sample(range(ACCOUNTS), 2)
    return source, target, Decimal(random.randrange(1, 50_000)) / 100


class Teller(StubbornTasker[None]):
    async def prepare(self, batch: Batch[Row]) -> dict[Task[Row], None]:
        return dict.fromkeys(batch)

    async def write(self, connection: Any, prepared: dict[Task[Row], None]) -> None:
        rows = [task.data for task in prepared]
        # In the order of the accounts, so that no two transactions wait for each other.
        accounts = sorted({account for row in rows for account in (row["source"], row["target"])})
        await connection.executemany(
            f"SELECT FROM {SCHEMA}.account WHERE id = $1 FOR UPDATE", [(a,) for a in accounts]
        )
        change = f"UPDATE {SCHEMA}.account SET balance = balance + $2 WHERE id = $1"
        await connection.executemany(change, [(row["source"], -row["amount"]) for row in rows])
        await asyncio.sleep(HALFWAY)
        await connection.executemany(change, [(row["target"], row["amount"]) for row in rows])
        await connection.executemany(
            f"INSERT INTO {SCHEMA}.ledger VALUES ($1, $2, $3)",
            [(row["source"], row["target"], row["amount"]) for row in rows],
        )


@dataclass(frozen=True, slots=True)
class BankVerdict(Verdict):
    scenario: ClassVar[str] = "bank"
    sum_before: str
    """Of all balances, to the cent."""

    sum_after: str
    wrong_balances: int
    """Of accounts, by the transfers that were ordered."""

    ledger_lines_missing: int
    ledger_lines_too_many: int

    @property
    def good(self) -> bool:
        wrong = self.wrong_balances + self.ledger_lines_missing + self.ledger_lines_too_many
        return self.course.complete and self.sum_after == self.sum_before and wrong == 0

    def sentences(self) -> list[str]:
        course = self.course
        result = (
            f"{course.finished} of {course.tasks} transfers are made, {course.finished_twice or 'none'} of them twice. The sum was "
            f"{self.sum_before} and is {self.sum_after}; {self.wrong_balances or 'none'} of {ACCOUNTS} balances "
            f"are wrong; {self.ledger_lines_missing or 'no'} lines of the ledger are missing and "
            f"{self.ledger_lines_too_many or 'none'} too many: {as_it_should_be(self.good)}."
        )
        return [result, *course.sentences(lease_ttl=Bank.base_settings["lease_ttl"])]
