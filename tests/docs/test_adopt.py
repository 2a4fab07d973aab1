"""docs/how-to/adopt.md: its commands, in its order, on a table that others write to; and docs/reference/adoption.md has what a run measured."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import asyncpg
import pytest

from session_lock.embedded import find_bin_dir
from tests.benchmarks.adoption_load import PACE
from tests.conftest import TestDatabase
from tests.docs.examples import ROOT
from tests.docs.test_migrations import schema

PAGE = (ROOT / "docs/how-to/adopt.md").read_text(encoding="utf-8")
FIGURES = (ROOT / "docs/reference/adoption.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"(?ms)^( *)```{language}\n(.*?)^ *```$", PAGE)
    return [dedent(text) for _, text in found]


async def shell(folder: Path, block: str, dsn: str, status: int = 0) -> str:
    path = f"{Path(sys.executable).parent}:{find_bin_dir()}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "DATABASE_URL": dsn}
    env.pop("SESSION_LOCK_DSN", None)
    process = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", block, cwd=folder, env=env,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == status, said.decode()
    return said.decode()


@pytest.mark.timeout(120)
async def test_the_steps(database: TestDatabase, write_jobs: Callable[[str], None], tmp_path: Path) -> None:
    (mapping,) = blocks("python")
    write_jobs(mapping)
    admin = await asyncpg.connect(database.admin_dsn)
    writer = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute(re.search(r"# (CREATE TABLE .*)", mapping)[1])
        await admin.execute(
            "INSERT INTO mail (address, sent_at) SELECT 'a', now() FROM generate_series(1, 2000)"
        )
        before = await schema(database)
        check, install, again, patiently, copy, down = blocks("sh")
        assert check == again

        async def run(block: str, status: int = 0) -> str:
            return await shell(tmp_path, block, database.admin_dsn, status)

        assert "the column mail.session_id is missing" in await run(check, 1)
        assert await schema(database) == before

        writing = writer.transaction()
        await writing.start()
        await writer.execute("INSERT INTO mail (address) VALUES ('b')")
        at_once = patiently.replace("=30min", "=1s")
        assert "the table was not changed; wait for their end, and run this again" in await run(at_once, 2)
        running = asyncio.create_task(run(install))
        await asyncio.sleep(1)
        assert not running.done()
        await writing.commit()
        await running
        (progress,) = blocks("sql")
        assert await admin.fetch(progress) == []
        assert "is installed as it should be" in await run(again)
        assert "Everything was there already" in await run(patiently)
        for _ in range(2):
            await run(down)
            assert await schema(database) == before
            await run(copy.replace("mkdir ", "rm -rf migrations && mkdir "))
            assert "is installed as it should be" in await run(again)
        await run(down)
        assert await schema(database) == before
    finally:
        await writer.close()
        await admin.close()


def test_what_it_says_when_it_gives_up_is_what_it_says() -> None:
    text = (ROOT / "sql/tasks.lock.sql").read_text(encoding="utf-8")
    told, longest = (
        re.search(r"'(%s was in use .*?)',\n", text)[1],
        re.search(r"'(, at last by )'", text)[1] + re.search(r"'(that of the server process )'", text)[1],
    )
    for word in ('"public"."mail"', "228", "180", "", f"{longest}4711"):
        told = told.replace("%s", word, 1)
    assert f"`{told}`" in PAGE
    assert "'50'" not in text
    assert "THEN 25 ELSE 50 END" in text
    assert "ours waits for 50 ms" in PAGE
    assert "'3 min')" in text
    assert "up to 3 minutes" in PAGE


def test_the_figures_are_those_of_a_run_on_ten_million_rows() -> None:
    assert "The table: 10,000,000 rows" in FIGURES
    assert "`pg_dump --schema-only` printed the same before and after" in FIGURES
    for kind, (connections, rate) in PACE.items():
        assert f"{rate:,} {kind}s a second over {connections} connections" in FIGURES
    waited = dict(re.findall(r"^\| (.*?) \| [\d.]+ \| [\d.]* \| (\d+) ms \|", FIGURES, flags=re.MULTILINE))
    compared = [name for name in waited if name.startswith("for comparison")]
    assert len(waited) == 8
    assert all(int(waited[name]) > 1000 for name in compared)
    assert all(int(ms) <= 100 for name, ms in waited.items() if name not in compared)
