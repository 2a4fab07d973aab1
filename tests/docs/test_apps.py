"""docs/examples/apps: each is started as its page says, and does what it says."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import asyncpg
import httpx
import pytest
from PIL import Image

from tests.conftest import TestDatabase
from tests.contrib.service import until
from tests.docs.examples import EXAMPLES, ROOT, running_process

APPS = EXAMPLES / "apps"


def started(
    database: TestDatabase, *words: str, **env: str
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    return running_process(sys.executable, *words, cwd=APPS, DATABASE_URL=database.admin_dsn, **env)


async def ended(process: asyncio.subprocess.Process) -> str:
    said, log = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 0, log.decode()
    return said.decode()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


async def count(database: TestDatabase, query: str) -> int:
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


async def test_mailer(database: TestDatabase) -> None:
    port = free_port()
    async with started(database, "mailer.py", PORT=port, SMTP_PORT=free_port()) as process:
        async with httpx.AsyncClient(trust_env=False) as client:
            for number in range(10):
                url = f"http://127.0.0.1:{port}/orders?address=a{number}@example.org"

                async def posted(url: str = url) -> bool:
                    try:
                        return (await client.post(url)).status_code == 201
                    except httpx.TransportError:
                        assert process.returncode is None
                        return False

                await until(posted, "the application does not listen")

        async def all_sent() -> bool:
            return await count(database, "SELECT count(*) FROM mail WHERE sent_at IS NOT NULL") == 10

        await until(all_sent, "not all mails are sent")
        process.send_signal(signal.SIGTERM)
        said, _ = await process.communicate()
    accepted = re.findall(r"accepted <mail-(\d+)@shop\.example\.org> for a\d@example\.org", said.decode())
    assert sorted(accepted, key=int) == [str(number) for number in range(1, 11)], said.decode()
    assert await count(database, "SELECT count(*) FROM sent JOIN mail ON mail.id = mail AND message_id = '<mail-' || id || '@shop.example.org>'") == 10  # fmt: skip


async def test_thumbnails(database: TestDatabase, tmp_path: Path) -> None:
    for number in range(6):
        Image.effect_mandelbrot((640, 400 + number), (-2, -1, 1, 1), 20 + number).save(
            tmp_path / f"image{number}.png"
        )
    (tmp_path / "notes.txt").write_text("no image")
    async with started(database, "thumbnails.py", str(tmp_path)) as process:
        assert await ended(process) == "6 made\n1 not an image\n"
    made = sorted((tmp_path / "thumbnails").iterdir())
    assert [path.name for path in made] == [f"image{number}.jpg" for number in range(6)]
    with Image.open(made[0]) as small:
        assert small.size == (160, 100)
    assert (
        await count(database, "SELECT count(*) FROM image WHERE width = 160 AND height BETWEEN 100 AND 102")
        == 6
    )


async def test_on_a_server_of_its_own(tmp_path: Path) -> None:
    Image.new("RGB", (640, 400)).save(tmp_path / "image.png")
    async with running_process(
        sys.executable, "thumbnails.py", str(tmp_path), cwd=APPS, DATABASE_URL=""
    ) as process:
        assert await ended(process) == "1 made\n"


async def test_webhooks(database: TestDatabase) -> None:
    async with started(database, "webhooks.py") as process:
        said = await ended(process)
    assert re.sub(r"at most [12] at once", "at most 2", said).splitlines() == [
        "flaky: 15 delivered, at most 2",
        "gone: 15 refused, at most 2",
        "slow: 15 delivered, at most 2",
        "steady: 15 delivered, at most 2",
        "0 were accepted twice",
    ]


async def test_nightly(database: TestDatabase) -> None:
    async with started(database, "nightly.py", "1s") as process:

        async def reported() -> bool:
            try:
                return await count(database, "SELECT count(*) FROM report") >= 2
            except asyncpg.UndefinedTableError:
                return False

        await until(reported, "there are no reports")
        process.send_signal(signal.SIGTERM)
        said = await ended(process)
    reports = await count(database, "SELECT count(*) FROM report WHERE (sales, total) = (100, 5050)")
    assert reports == len(re.findall("reported on what was sold until", said)) >= 2


@pytest.mark.parametrize("app", sorted({path.name for path in APPS.glob("*.py")} - {"throwaway.py"}))
def test_its_page_names_it(app: str) -> None:
    page = (ROOT / "docs" / "how-to" / "examples.md").read_text()
    assert f"`python {app}" in page
