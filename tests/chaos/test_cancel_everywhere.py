"""Cancel `run()` between any two steps of the loop, over a real PostgreSQL: see tests/simulation for the whole sweep in virtual time.

Here it is about what memory has not: connections, transactions, and statements whose answer nobody waits for any more.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from session_lock import PostgresDatabase, Runner, Settings, each
from tests.chaos.scene import AT_NIGHT
from tests.conftest import APP_ROLE, TestDatabase
from tests.stepping import SteppingLoop
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping

SECONDS = math.inf if AT_NIGHT else 18.0
"""For the sweep: as many points as fit, spread evenly over the scenario; at night all."""

CONFIG = Settings(
    concurrency=2, start_jitter=0, poll_interval=0.05, keepalive_interval=0.05, lease_ttl=8, cancel_grace=1, call_timeout=2,
    drain_timeout=1, shutdown_timeout=3,
)  # fmt: skip


async def tasker(task: Any) -> None:
    await asyncio.sleep(0.01)
    match task.key % 4:
        case 0 if task.attempt == 1:
            raise RuntimeError
        case 1:
            async with task.transaction() as connection:
                await connection.execute("SELECT 1")
        case _:
            pass


async def one_run(database: TestDatabase, stop_at: int) -> tuple[bool, int]:
    """Cancel it there; (whether that step was reached, how many steps the run had)."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteppingLoop)
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute("UPDATE public.email SET available_at = now() WHERE sent_at IS NULL")
    keys = await add_emails(admin, 6)
    before = asyncio.all_tasks()
    emails = PostgresDatabase(database.app_dsn, EMAILS)
    run = asyncio.create_task(Runner(emails, each(tasker), CONFIG).run())
    loop.begin({stop_at: run.cancel})
    end = loop.call_later(0.12, run.cancel)
    await asyncio.wait({run})
    steps, loop.steps = loop.steps, -1
    end.cancel()
    reached = stop_at <= steps
    where = f"cancelled at step {stop_at} of {steps}"

    assert run.cancelled(), where
    for _ in range(20):
        await asyncio.sleep(0)
    # asyncpg's own tasks, for cancel requests of connections that were given up, may take a moment more
    await _until(lambda: _none(asyncio.all_tasks() - before), where)
    await _until(lambda: _nothing_in_use(admin), where)
    assert await admin.fetchval("SELECT count(*) FROM session_lock.session WHERE ended_at IS NULL") == 0, (
        where
    )
    held = await admin.fetch(
        "SELECT e.id FROM public.email AS e JOIN session_lock.session AS s ON s.id = e.session_id "
        "WHERE s.ended_at IS NULL AND e.sent_at IS NULL"
    )
    assert held == [], where
    assert await admin.fetchval("SELECT count(*) FROM public.email WHERE id = ANY ($1)", keys) == 6, where

    await emails.close()
    await _until(lambda: _no_connection(admin), where)
    await admin.close()
    return reached, steps


async def _none(things: Any) -> bool:
    return not [task for task in things if not task.done()]


async def _nothing_in_use(admin: asyncpg.Connection[Any]) -> bool:
    states = await admin.fetch(
        "SELECT state FROM pg_stat_activity WHERE usename = $1 AND datname = current_database()", APP_ROLE
    )
    assert not any(row["state"].startswith("idle in transaction") for row in states if row["state"])
    return all(row["state"] == "idle" for row in states)


async def _no_connection(admin: asyncpg.Connection[Any]) -> bool:
    found = "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = $1 AND datname = current_database()"
    return bool(await admin.fetchval(found, APP_ROLE))


async def _until(condition: Callable[[], Any], where: str) -> None:
    give_up = asyncio.get_running_loop().time() + 3
    while not await condition():
        assert asyncio.get_running_loop().time() < give_up, f"{where}: {condition}"
        await asyncio.sleep(0.01)


async def prepare(database: TestDatabase) -> None:
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(EMAIL_TABLE)
    await apply_mapping(admin, EMAILS, grant_to=APP_ROLE)
    await admin.close()


async def finish_the_rest(database: TestDatabase) -> None:
    """Whatever was cancelled where: the next Runner does what is left, and each row is finished once."""
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute("UPDATE public.email SET available_at = now() WHERE sent_at IS NULL")
    emails = PostgresDatabase(database.app_dsn, EMAILS)

    async def do_it(_: Any) -> None:
        pass

    runner = Runner(emails, each(do_it), CONFIG)
    async with runner:

        async def none_left() -> bool:
            return await admin.fetchval("SELECT count(*) FROM public.email WHERE sent_at IS NULL") == 0

        await _until(none_left, "the rest")
    await emails.close()
    await admin.close()


@pytest.mark.fault("P10")
@pytest.mark.timeout(1800 if AT_NIGHT else 90)
def test_cancelled_at_steps_all_over_the_run(database: TestDatabase, caplog: Any, injected: Any) -> None:
    def on_a_loop(work: Any) -> Any:
        complained: list[str] = []
        with asyncio.Runner(loop_factory=SteppingLoop) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: complained.append(str(context)))
            answer = runner.run(work)
        assert complained == []
        return answer

    began = time.monotonic()  # noqa: TID251
    on_a_loop(prepare(database))
    _, steps = on_a_loop(one_run(database, 10**9))
    step, swept = 1, 0
    points = list(range(1, steps + 20))
    random.Random(5).shuffle(points)
    for step in points:
        if time.monotonic() - began > SECONDS:  # noqa: TID251
            break
        on_a_loop(one_run(database, step))
        swept += 1
    on_a_loop(finish_the_rest(database))
    print(f"{swept} of {steps} points")
    injected("P10", swept)
    assert swept == len(points) if AT_NIGHT else swept > 20
    asyncio_warnings = [
        r.getMessage() for r in caplog.records if r.name == "asyncio" and r.levelno >= logging.WARNING
    ]
    assert asyncio_warnings == []
