"""A bank, and one process that works for it: `python -m tests.chaos.bank` forks them.

A transfer moves money from one account to another, or in, or out, and leaves a line in the ledger. Nothing in the tables
keeps a transfer from being made twice or by halves: that is left to the finishing transaction.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import sqlalchemy

from session_lock import Batch, PostgresDatabase, Runner, Settings, Task, TaskTable, each
from tests.chaos.forks import be_mother
from tests.contrib import kinds
from tests.contrib.kinds import KINDS, Hand, Kind

TABLES = """
CREATE TABLE public.account (id integer PRIMARY KEY, balance numeric(12, 2) NOT NULL);

CREATE TABLE public.transfer (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  source  integer,        -- NULL: paid in
  target  integer,        -- NULL: paid out
  amount  numeric(12, 2) NOT NULL,
  made_at timestamptz
);

CREATE TABLE public.ledger (
  transfer bigint NOT NULL,
  amount   numeric(12, 2) NOT NULL,
  made_by  text NOT NULL DEFAULT current_setting('application_name')
);

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
    lease_ttl=1.2, keepalive_interval=0.15, call_timeout=0.5, cancel_grace=0.15, guard=0.1,
    poll_interval=0.05, patience=0.2, start_jitter=0, batch_size=4, concurrency=2,
)  # fmt: skip
"""A lease that is soon over."""

Row = dict[str, Any]
Execute = Callable[[str], Awaitable[Any]]


async def make(execute: Execute, *transfers: Task[Row]) -> None:
    """Write the effect of transfers; accounts in their order, so that no two processes wait for each other.

    Numbers are all that stands in the statements, so they are the same for all drivers.
    """
    await execute(f"SET LOCAL application_name = '{name_of(os.getpid())}'")
    changes = [(task.data["source"], -task.data["amount"]) for task in transfers]
    changes += [(task.data["target"], task.data["amount"]) for task in transfers]
    for account, change in sorted(change for change in changes if change[0] is not None):
        await execute(f"UPDATE public.account SET balance = balance + ({change}) WHERE id = {account}")
        await asyncio.sleep(0.002 * random.random())
    for task in transfers:
        await execute(f"INSERT INTO public.ledger VALUES ({task.key}, {task.data['amount']})")


def name_of(pid: int) -> str:
    """What the server knows the transactions of a process by."""
    return f"bank {pid}"


# The ways to make transfers exactly once: all of these taskers ---------------------------------------------


async def in_the_transaction_of_the_task(task: Task[Row]) -> None:
    async with task.transaction() as connection:
        await make(connection.execute, task)


async def in_the_transaction_of_the_batch(batch: Batch[Row]) -> Batch[Row]:
    async with batch.transaction() as connection:
        await make(connection.execute, *batch)
    return batch


class InATransactionOfItsOwn:
    """On connections of some kind: of asyncpg, psycopg, SQLAlchemy, Django."""

    def __init__(self, dsn: str, kind: Kind) -> None:
        self.dsn, self.kind = dsn, kind
        self.idle: list[Hand] = []
        self.stack = AsyncExitStack()  # never left: the process is killed

    async def __call__(self, task: Task[Row]) -> None:
        hand = (
            self.idle.pop()
            if self.idle
            else await self.stack.enter_async_context(self.kind.connect(self.dsn))
        )

        async def execute(statement: str) -> None:
            await hand.call(EXECUTE[self.kind.insert], hand.connection, statement)

        async with hand.begin():
            await hand.finish_in(task)
            await make(execute, task)
        self.idle.append(hand)


def execute_on_cursor(connection: Any, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


EXECUTE: dict[Callable[..., Any], Callable[..., Any]] = {
    kinds.asyncpg_write: lambda connection, statement: connection.execute(statement),
    kinds.psycopg_async_write: lambda connection, statement: connection.execute(statement),
    kinds.sa_async_write: lambda connection, statement: connection.execute(sqlalchemy.text(statement)),
    kinds.sa_sync_write: lambda connection, statement: connection.execute(sqlalchemy.text(statement)),
    kinds.dbapi_write: execute_on_cursor,
}


# And one that is none --------------------------------------------------------------------------------------


class InTwoTransactions:
    """The effect is one transaction, the finish, which the Runner records, is another."""

    def __init__(self, dsn: str) -> None:
        self.pool = asyncpg.create_pool(dsn, min_size=0, max_size=4)

    async def __call__(self, task: Task[Row]) -> None:
        await self.pool  # opened with the first one
        async with self.pool.acquire() as connection, connection.transaction():
            await make(connection.execute, task)


def way(name: str, dsn: str) -> Any:
    """A tasker."""
    match name:
        case "task":
            return each(in_the_transaction_of_the_task)
        case "batch":
            return in_the_transaction_of_the_batch
        case "apart":
            return each(InTwoTransactions(dsn))
        case kind:
            return each(InATransactionOfItsOwn(dsn, next(one for one in KINDS if one.name == kind)))


RIGHT_WAYS = [
    "task",
    "batch",
    "asyncpg of a pool",
    "psycopg AsyncConnection",
    "SQLAlchemy async session asyncpg",
    "psycopg Connection",
    "SQLAlchemy session psycopg",
    "Django",
]


async def main(dsn: str, name: str) -> None:
    logging.disable(logging.INFO)  # SQLAlchemy tells each statement
    async with PostgresDatabase(dsn, TRANSFERS, listen=False) as database:
        await Runner(database, way(name, dsn), SETTINGS).run()


if __name__ == "__main__":
    kinds.set_up_django()
    be_mother(main)
