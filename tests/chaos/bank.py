"""A bank, and one process that works for it: `python -m tests.chaos.bank` forks them.

A transfer moves money from one account to another, or in, or out, and leaves a line in the ledger. Nothing in the tables
keeps a transfer from being made twice or by halves: that is left to the finishing transaction.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import asyncpg

from session_lock import Batch, PostgresDatabase, Runner, Settings, Task, TaskTable, each
from tests.chaos.forks import be_mother

TABLES = """
CREATE TABLE public.account (id integer PRIMARY KEY, balance numeric(12, 2) NOT NULL);

CREATE TABLE public.transfer (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  source  integer,        -- NULL: paid in
  target  integer,        -- NULL: paid out
  amount  numeric(12, 2) NOT NULL,
  made_at timestamptz
);

CREATE TABLE public.ledger (transfer bigint NOT NULL, amount numeric(12, 2) NOT NULL);

-- A commit takes its time, so that it can be killed in.
CREATE FUNCTION public.dawdle() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pg_sleep(0.01 * random());
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON public.ledger
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.dawdle();

GRANT SELECT, UPDATE ON public.account TO app;
GRANT INSERT ON public.ledger TO app;
"""

TRANSFERS = TaskTable(
    "public.transfer",
    key="id",
    pending="made_at IS NULL",
    finish="made_at = now()",
    columns=("source", "target", "amount"),
)

SETTINGS = Settings(
    lease_ttl=1.5, keepalive_interval=0.2, call_timeout=0.5, cancel_grace=0.2, guard=0.1,
    poll_interval=0.05, patience=0.2, start_jitter=0, batch_size=3, concurrency=4,
)  # fmt: skip
"""A lease that is soon over."""

Pool = Any
Transfer = Task[dict[str, Any]]


async def make(connection: Any, transfers: Sequence[Transfer]) -> None:
    """Write the effect of transfers; accounts in their order, so that no two processes wait for each other."""
    await move(connection, transfers)
    await connection.executemany(
        "INSERT INTO public.ledger VALUES ($1, $2)", [(task.key, task.data["amount"]) for task in transfers]
    )


async def move(connection: Any, transfers: Sequence[Transfer]) -> None:
    changes = [(task.data["source"], -task.data["amount"]) for task in transfers]
    changes += [(task.data["target"], task.data["amount"]) for task in transfers]
    for account, change in sorted(change for change in changes if change[0] is not None):
        await connection.execute(
            "UPDATE public.account SET balance = balance + $2 WHERE id = $1", account, change
        )
        await asyncio.sleep(0.002 * random.random())


# The ways to make transfers exactly once -----------------------------------------------------------------


async def in_the_transaction_of_the_task(_: Pool, task: Transfer) -> None:
    async with task.transaction() as connection:
        await make(connection, [task])


async def in_the_transaction_of_the_batch(_: Pool, batch: Batch[dict[str, Any]]) -> Batch[dict[str, Any]]:
    async with batch.transaction() as connection:
        await make(connection, batch)
    return batch


async def in_a_transaction_of_its_own(pool: Pool, task: Transfer) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await task.finish_in(connection)
        await make(connection, [task])


# And one that does not ---------------------------------------------------------------------------------------


async def in_two_transactions(pool: Pool, task: Transfer) -> None:
    """The effect is one transaction, the finish, which the Runner records, is another."""
    async with pool.acquire() as connection, connection.transaction():
        await make(connection, [task])


WAYS: dict[str, Callable[[Pool], Callable[..., Awaitable[Any]]]] = {
    "task": lambda pool: each(partial(in_the_transaction_of_the_task, pool)),
    "batch": lambda pool: partial(in_the_transaction_of_the_batch, pool),
    "own": lambda pool: each(partial(in_a_transaction_of_its_own, pool)),
    "apart": lambda pool: each(partial(in_two_transactions, pool)),
}


def name_of(pid: int) -> str:
    """What the server knows the transactions of a process by."""
    return f"bank {pid}"


async def main(dsn: str, way: str) -> None:
    name = {"application_name": name_of(os.getpid())}
    async with (
        asyncpg.create_pool(dsn, min_size=0, max_size=4, server_settings=name) as pool,
        PostgresDatabase(dsn, TRANSFERS, pool=pool) as database,
    ):
        await Runner(database, WAYS[way](pool), SETTINGS).run()


if __name__ == "__main__":
    be_mother(main)
