"""What tests of what is installed begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.conftest import TestDatabase
from tests.support import EMAIL_TABLE


@pytest.fixture
async def admin(database: TestDatabase) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection to a database with the table of e-mails, and nothing of ours."""
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        await connection.execute(EMAIL_TABLE)
        yield connection
    finally:
        await connection.close()
