"""docs/tutorial/testing.md, followed to the letter; and its fixtures under the plugins that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import Page
from tests.faults.test_tutorial import pytest_in, write

ASYNC = """
import asyncio
import pytest
from jobs import mails, send
from session_lock import PostgresDatabase, each
from session_lock.testing import run_until_idle
from test_jobs import TABLES

{mark}
@pytest.mark.parametrize("number", range(3))
async def test_it(task_database, number):
    async with task_database(TABLES, mails) as dsn, PostgresDatabase(dsn, mails) as database:
        assert await run_until_idle(database, each(send)) == 2
"""


@pytest.mark.timeout(180)
def test_the_tutorial(tmp_path: Path) -> None:
    page = Page("testing.md", folder="tutorial")
    for block in page.blocks:
        write(tmp_path, block)
    said = pytest_in(tmp_path, "-p", "no:xdist")
    assert "\n3 passed" in said, said
    assert "```text\n3 passed\n```" in page.text
    (tmp_path / "test_anyio.py").write_text(ASYNC.format(mark="@pytest.mark.anyio"))
    (tmp_path / "test_asyncio.py").write_text(ASYNC.format(mark="@pytest.mark.asyncio"))
    (tmp_path / "conftest.py").write_text(
        "import pytest\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    )
    said = pytest_in(tmp_path, "-n2", "-p", "anyio", "-p", "pytest_asyncio")
    assert "\n9 passed" in said, said
