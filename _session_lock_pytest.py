"""The fixtures of the pytest plugin, which is there wherever session_lock is installed; `-p no:session_lock` leaves it out.

pytest imports this at each of its starts, also where no test asks for one of them: so it stands beside the package, and that is
imported by the first fixture which is used. None of them is a coroutine: they serve under pytest-asyncio, under anyio's plugin, in
a plain `asyncio.run`, and each process of pytest-xdist has its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

FAULTS = ["killed", "frozen", "partitioned", "expired", "reply-lost"]


def _kit() -> Any:
    return importlib.import_module("session_lock.testing.kit")


# A database, and a Runner ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The DSN of a superuser on a PostgreSQL server for tests: that of the environment's SESSION_LOCK_TEST_DSN, or one that
    is started for this run (`pip install 'session-lock[demo]'`).
    """
    with _kit().postgres_server() as dsn:
        yield dsn


@pytest.fixture
def task_database(postgres_server: str) -> Callable[..., Any]:
    """A database of a block's own, with tables of yours and mappings installed.

    async with task_database("CREATE TABLE ..", mails) as dsn: ..
    async with task_database("", queue("jobs")) as dsn: ..  # which makes its own table
    """
    make: Callable[..., Any] = _kit().task_database(postgres_server)
    return make


@pytest.fixture
def runner() -> Callable[..., Any]:
    """Makes a Runner for a test, `runner(database, tasker, settings)`: it begins at once, looks 50 times a second, and
    cancels its tasker at once if its block fails.
    """
    make: Callable[..., Any] = _kit().runner
    return make


# Faults ------------------------------------------------------------------------------------------------------


@pytest.fixture
def session_lock_faults() -> Iterator[Callable[[Any], Any]]:
    """`session_lock_faults(database)` makes the `Faults` of this test, which fails if one asked for has not happened."""
    with _kit().session_lock_faults() as make:
        yield make


@pytest.fixture(params=FAULTS)
def session_lock_fault(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """The test runs once for each fault; `session_lock_fault(instance)` lets it happen when that one is about to finish a task."""
    fault: Callable[[Any], Any] = _kit().session_lock_fault(request.param)
    return fault
