"""The fixtures of the pytest plugin, which is there wherever session_lock is installed; `-p no:session_lock` leaves it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from session_lock.testing.faults import AT_FINISH, Faults, Instance
from session_lock.testing.faulty import Fault


@pytest.fixture
def session_lock_faults() -> Iterator[Callable[[Any], Faults[Any]]]:
    """`session_lock_faults(database)` makes the `Faults` of this test, which fails if one asked for has not happened."""
    made: list[Faults[Any]] = []

    def make(database: Any) -> Faults[Any]:
        made.append(Faults(database))
        return made[-1]

    yield make
    for faults in made:
        faults.assert_all_happened()


@pytest.fixture(params=list(AT_FINISH.values()), ids=list(AT_FINISH))
def session_lock_fault(request: pytest.FixtureRequest) -> Callable[[Instance[Any]], Fault]:
    """The test runs once for each fault; `session_lock_fault(instance)` lets it happen when that one is about to finish a task."""
    fault: Callable[[Instance[Any]], Fault] = request.param
    return fault
