"""A task that kills each process that runs it: it is isolated, and parked in the end; the others lose two attempts at most."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from session_lock.database import ALONE_AFTER, SESSION_EXPIRED
from tests.chaos.forks import forks
from tests.chaos.poison import MOST_ATTEMPTS
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping


@pytest.mark.fault("P13")
async def test_a_task_that_kills_its_process_again_and_again(database):
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, EMAILS, grant_to="app")
        keys = await add_emails(admin, 30)
        poison = keys[12]
        await admin.execute("UPDATE public.email SET body = 'poison' WHERE id = $1", poison)

        async def is_parked() -> bool:
            return await admin.fetchval(
                "SELECT available_at = 'infinity' FROM public.email WHERE id = $1", poison
            )

        deaths = 0
        async with forks("tests.chaos.poison") as processes, asyncio.timeout(45):
            await processes.start(dsn=database.app_dsn)
            while not await is_parked():
                if await processes.has_ended(processes.alive[0]):
                    deaths += 1
                    await processes.start(dsn=database.app_dsn)
                await asyncio.sleep(0.01)
            while await admin.fetchval("SELECT count(*) FROM public.email WHERE sent_at IS NULL") > 1:
                await asyncio.sleep(0.02)

        rows = {row["id"]: row for row in await admin.fetch("SELECT * FROM public.email")}
        failures = await admin.fetch(
            "SELECT * FROM session_lock.failure WHERE task_key = $1 ORDER BY id", str(poison)
        )
        assert deaths == MOST_ATTEMPTS
        assert [failure["error"] for failure in failures[:-1]] == [SESSION_EXPIRED] * MOST_ATTEMPTS
        assert failures[-1]["error"].startswith(f"given up after {MOST_ATTEMPTS} attempts")
        assert rows[poison]["failed_at"] is None, "parked, not discarded"
        others = [row for key, row in rows.items() if key != poison]
        assert all(row["sent_at"] is not None for row in others)
        # Two processes took all with them that they held; from then on the task died alone.
        assert max(row["attempts"] for row in others) <= ALONE_AFTER + 1
    finally:
        await admin.close()
