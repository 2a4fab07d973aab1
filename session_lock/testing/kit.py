"""What the fixtures of the pytest plugin make (`_session_lock_pytest.py`), which is imported when a test asks for one of them."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from session_lock.dsn import describe, why_not_connected
from session_lock.embedded import find_bin_dir, temp_postgres
from session_lock.errors import DatabaseError, SessionLockError, SettingsError
from session_lock.migrations import install
from session_lock.runner import Runner
from session_lock.settings import Settings
from session_lock.table import TaskTable
from session_lock.tasker import Tasker
from session_lock.testing.fault import Fault
from session_lock.testing.faults import Faults
from session_lock.testing.idle import BriefRunner, quick
from session_lock.testing.instance import AT_FINISH, Instance

VARIABLE = "SESSION_LOCK_TEST_DSN"

CONNECT_TIMEOUT = 10.0
"""Seconds."""

# A database, and a Runner ------------------------------------------------------------------------------------


@contextmanager
def postgres_server() -> Iterator[str]:
    if dsn := os.environ.get(VARIABLE):
        describe(dsn, VARIABLE)  # or says what is wrong with it
        yield dsn
        return
    try:
        find_bin_dir()
    except SessionLockError as error:
        raise SessionLockError(
            f"{error}; or {VARIABLE} to the DSN of a superuser on a server for tests"
        ) from None
    with temp_postgres() as server:
        yield server.dsn


def task_database(postgres_server: str) -> Callable[..., AbstractAsyncContextManager[str]]:
    @asynccontextmanager
    async def fresh(sql: str = "", *tables: TaskTable) -> AsyncIterator[str]:
        for given, kind in [(sql, str), *((table, TaskTable) for table in tables)]:
            if not isinstance(given, kind):
                raise SettingsError(
                    "task_database takes SQL, then mappings: task_database('CREATE TABLE ..', mails, letters), "
                    f"not a {type(given).__name__} in place of {'the SQL' if kind is str else 'a mapping'}"
                )
        name = f"session_lock_test_{secrets.token_hex(6)}"
        dsn = urlsplit(postgres_server)._replace(path=f"/{name}").geturl()
        await _create(postgres_server, name)
        try:
            connection: Any = await asyncpg.connect(dsn)
            try:
                if sql.strip():  # asyncpg fails at nothing
                    await connection.execute(sql)
                for table in tables:
                    await install(connection, table)
            finally:
                await connection.close()
            yield dsn
        finally:
            await _execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")

    return fresh


async def _create(dsn: str, name: str) -> None:
    """Make a database; if that cannot be, an error that names where the DSN is from."""
    source = VARIABLE if dsn == os.environ.get(VARIABLE) else "the fixture postgres_server"
    where = describe(dsn, f"the DSN of {source}")
    try:
        connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError, OverflowError) as error:
        why = why_not_connected(error, where, CONNECT_TIMEOUT)
        raise DatabaseError(f"{source}: {why}", retryable=False) from error
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseError(
            f"{source}: its role may not create databases at {where}: let it be a superuser's DSN",
            retryable=False,
        ) from error
    finally:
        await connection.close()


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def runner(
    database: Any, tasker: Tasker[Any], settings: Settings | None = None, **options: Any
) -> Runner[Any]:
    return BriefRunner(database, tasker, quick(settings), **options)


# Faults ------------------------------------------------------------------------------------------------------


@contextmanager
def session_lock_faults() -> Iterator[Callable[[Any], Faults[Any]]]:
    made: list[Faults[Any]] = []

    def make(database: Any) -> Faults[Any]:
        made.append(Faults(database))
        return made[-1]

    yield make
    for faults in made:
        faults.assert_all_happened()


def session_lock_fault(name: str) -> Callable[[Instance[Any]], Fault]:
    return AT_FINISH[name]
