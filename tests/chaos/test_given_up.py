"""A call that was given up is not carried out behind the back of the next one."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import asyncpg
import pytest

from session_lock import PostgresDatabase, Runner, Settings, each
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping


async def test_a_backend_that_stood_still_does_not_claim_what_the_session_runs(database) -> None:
    """SIGSTOP of the backends that get work, for longer than the call timeout: no task of the live session runs twice."""
    admin = await asyncpg.connect(database.admin_dsn)
    runs: list[int] = []

    async def send(task) -> None:
        runs.append(task.key)
        await asyncio.sleep(0.5)

    try:
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, EMAILS, grant_to="app")
        settings = Settings(
            start_jitter=0,
            poll_interval=0.05,
            call_timeout=0.4,
            keepalive_interval=1,
            concurrency=20,
            lease_ttl=30,
        )
        async with PostgresDatabase(database.app_dsn, EMAILS) as emails, Runner(emails, each(send), settings):
            for round_ in range(1, 4):
                pids: list[int] = []
                while not pids:
                    pids = await backends(admin, "%get_work_email%")
                if not all(runs_here(pid) for pid in pids):
                    pytest.skip("the server runs on another machine")
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP)
                try:
                    await add_emails(admin, 10)
                    await asyncio.sleep(0.9)
                finally:
                    for pid in pids:
                        os.kill(pid, signal.SIGCONT)
                async with asyncio.timeout(10):
                    while await admin.fetchval("SELECT count(sent_at) FROM email") < 10 * round_:
                        await asyncio.sleep(0.02)
        assert sorted(runs) == sorted(set(runs))
        assert await backends(admin, "%") == []
    finally:
        await admin.close()


async def backends(admin: asyncpg.Connection, query: str) -> list[int]:
    rows = await admin.fetch(
        "SELECT pid FROM pg_stat_activity WHERE query LIKE $1 AND usename = 'app' AND datname = current_database()",
        query,
    )
    return [row["pid"] for row in rows]


def runs_here(pid: int) -> bool:
    try:
        return "postgres" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
