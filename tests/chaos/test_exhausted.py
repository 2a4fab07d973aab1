"""An instance that can open no more files works on with what is open, and loses its session in time when that is gone. One that has no
memory for a while goes on when there is some."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.chaos.forks import forks
from tests.conftest import APP_ROLE
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping


@pytest.mark.fault("P18")
async def test_no_file_can_be_opened(database: Any) -> None:
    admin = await asyncpg.connect(database.admin_dsn)

    async def until(fact: str) -> None:
        async with asyncio.timeout(20):
            while not await admin.fetchval(f"SELECT {fact}"):
                await asyncio.sleep(0.02)

    try:
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, EMAILS, grant_to=APP_ROLE)
        async with forks("tests.chaos.exhausted") as processes:
            await add_emails(admin, 5)
            pid = await processes.start(dsn=database.app_dsn, sick="files")
            await until("bool_and(sent_at IS NOT NULL) FROM public.email")
            born = await admin.fetchval("SELECT expires_at FROM session_lock.session")
            await add_emails(admin, 5)
            await until("bool_and(sent_at IS NOT NULL) FROM public.email")
            # Beyond its first lease: the keepalives went on.
            await until(f"clock_timestamp() > '{born}'::timestamptz + interval '0.2 s'")
            assert await admin.fetchval(
                "SELECT bool_and(expires_at > clock_timestamp()) FROM session_lock.session"
            )

            gone = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1 AND datname = current_database()"
            assert await admin.fetchval(gone, APP_ROLE) > 0
            await add_emails(admin, 5)
            await processes.start(dsn=database.app_dsn, sick="")
            await until("bool_and(sent_at IS NOT NULL) FROM public.email")
            await until("count(*) = 1 FROM session_lock.session WHERE expires_at <= clock_timestamp()")
            assert not await processes.has_ended(pid)
    finally:
        await admin.close()


@pytest.mark.fault("P18")
async def test_no_memory_is_to_be_had(database: Any) -> None:
    """While a task has it all, for longer than a lease. What the process holds goes to another one at the latest when its lease is over."""
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, EMAILS, grant_to=APP_ROLE)
        async with forks("tests.chaos.exhausted") as processes:
            await add_emails(admin, 5)
            pid = await processes.start(dsn=database.app_dsn, sick="memory")
            async with asyncio.timeout(30):
                while not await admin.fetchval(
                    "SELECT EXISTS (SELECT FROM email WHERE session_id IS NOT NULL)"
                ):
                    await asyncio.sleep(0.02)
                await asyncio.sleep(1)
                await processes.start(dsn=database.app_dsn, sick="")
                while not await admin.fetchval("SELECT bool_and(sent_at IS NOT NULL) FROM public.email"):
                    await asyncio.sleep(0.02)
            assert not await processes.has_ended(pid)
            # None is counted where its own deadline has cancelled the tasker, which frees the memory for giving the task back in time.
            failures = await admin.fetch("SELECT task_key, error FROM session_lock.failure")
            assert {row["task_key"] for row in failures} <= {"1"}, failures
            assert {row["error"] for row in failures} <= {"its session expired", "MemoryError"}, failures
    finally:
        await admin.close()
