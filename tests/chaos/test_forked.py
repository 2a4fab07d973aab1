"""A process that is forked off one with a running Runner has connections of its own, and leaves those of its parent alone."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Any

import asyncpg
import pytest

from session_lock import PostgresDatabase, Runner, Settings, each
from tests.conftest import APP_ROLE
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping

SETTINGS = Settings(poll_interval=0.05, start_jitter=0, keepalive_interval=0.1, lease_ttl=20)


def in_a_child(emails: PostgresDatabase[Any]) -> int:
    """Asks the same database from a loop of its own, as a pool of processes would have it; returns what it exits with."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.events._set_running_loop(None)
            assert len(asyncio.run(emails.shares())) == 1
            gc.collect()  # what it has inherited and does not use
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.fault("P14")
async def test_a_fork_of_a_process_at_work(database: Any) -> None:
    admin = await asyncpg.connect(database.admin_dsn)
    done: list[int] = []

    async def send(task: Any) -> None:
        done.append(task.key)

    try:
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, EMAILS, grant_to=APP_ROLE)
        async with PostgresDatabase(database.app_dsn, EMAILS) as emails, Runner(emails, each(send), SETTINGS):
            for _ in range(3):
                keys = await add_emails(admin, 5)
                async with asyncio.timeout(20):
                    while not {*keys} <= {*done}:
                        await asyncio.sleep(0.01)
                assert in_a_child(emails) == 0
        assert sorted(done) == sorted({*done})
        assert await admin.fetchval("SELECT count(*) FROM session_lock.session") == 1
    finally:
        await admin.close()
