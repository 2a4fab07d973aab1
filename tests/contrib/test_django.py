"""`fresh_connections`: a thread whose connection is lost goes on with another one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import asyncpg
import pytest

from session_lock import SettingsError
from session_lock.contrib.django import fresh_connections
from tests.conftest import TestDatabase
from tests.contrib import kinds
from tests.contrib.kinds import django_connection, django_databases, set_up_django


def backend(connection: object) -> int:
    """Outside of any transaction, as most ORM code is."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


async def in_a_thread_that_loses_it(database: TestDatabase, call: Callable[[object], int]) -> list[object]:
    """What three calls come to after the server has closed the connection of the first one."""
    loop = asyncio.get_running_loop()
    admin = await asyncpg.connect(database.admin_dsn)

    def close(pid: int) -> None:
        query = admin.execute("SELECT pg_terminate_backend($1, 5000)", pid)
        asyncio.run_coroutine_threadsafe(query, loop).result()

    def calls() -> list[object]:
        set_up_django()
        with django_connection(database.app_dsn) as connection:
            close(call(connection))
            outcomes: list[object] = []
            for _ in range(3):
                try:
                    outcomes.append(call(connection))
                except Exception as error:
                    outcomes.append(type(error).__name__)
            return outcomes

    try:
        return await asyncio.to_thread(calls)
    finally:
        await admin.close()


async def test_a_lost_connection_fails_one_call(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(  # one that is well is kept
        kinds, "django_databases", lambda dsn: {**django_databases(dsn), "CONN_MAX_AGE": None}
    )
    outcomes = await in_a_thread_that_loses_it(database, fresh_connections(backend))
    assert outcomes[0] == "OperationalError"
    assert type(outcomes[1]) is int
    assert outcomes[1:] == [outcomes[1]] * 2


def test_it_is_for_what_runs_in_a_thread() -> None:
    async def send(task: object) -> None:
        pass

    with pytest.raises(SettingsError, match="is for a plain def"):
        fresh_connections(send)


def test_a_missing_django_is_said_in_a_sentence() -> None:
    code = "import sys; sys.modules['django'] = None; import session_lock.contrib.django"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr.splitlines()[-1] == (
        "session_lock.errors.SettingsError: session_lock.contrib.django needs Django 4.2 or later: pip install 'session-lock[django]'"
    )
