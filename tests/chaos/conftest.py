"""The scene of tests of single faults."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.chaos.scene import Scene, scene_in
from tests.conftest import TestDatabase


@pytest.fixture
async def scene(database: TestDatabase) -> AsyncIterator[Scene]:
    async with scene_in(database.admin_dsn, database.app_dsn) as it:
        yield it
