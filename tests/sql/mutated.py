"""A pytest plugin (`-p tests.sql.mutated`): the tests of the SQL as shipped, on the mutant that SESSION_LOCK_MUTANT names."""

from __future__ import annotations

import os

import pytest

from session_lock import schema
from tests.sql import schedule
from tests.sql.mutants import mutants

if name := os.environ.get("SESSION_LOCK_MUTANT"):
    schema.source = schedule.source = mutants()[name].source


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without those that put in a fault of their own, or have no SQL."""
    items[:] = [
        item
        for item in items
        if not (params := getattr(getattr(item, "callspec", None), "params", {})).get("lab")
        and "memory" not in map(str, params.values())
    ]
