"""Blocks of shell, SQL and Python that no other test of their page runs: each as it stands, but for what it leaves open."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import asyncpg
import pytest

from session_lock import PostgresDatabase, Retry, Settings, TaskTable, each
from session_lock.cli import main
from session_lock.migrations import install
from session_lock.testing import MemoryDatabase, run_until_idle
from tests.chaos.pgbouncer import pgbouncer
from tests.conftest import APP_ROLE, TestDatabase, fresh_database
from tests.docs.pages import Page
from tests.docs.test_operate import JOBS
from tests.support import apply_mapping, connected

MAILS = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()")


@pytest.fixture
async def mailing(
    database: TestDatabase, write_jobs: Callable[[str], None]
) -> AsyncIterator[asyncpg.Connection]:
    """Mails 17 to 20 are due, in a database in which the mapping `jobs:mails` is installed."""
    write_jobs(JOBS)
    async with connected(database.admin_dsn) as admin:
        await admin.execute("CREATE TABLE mail (id bigint PRIMARY KEY, sent_at timestamptz)")
        await install(admin, MAILS, grant_to=APP_ROLE)
        await admin.execute("INSERT INTO mail SELECT generate_series(17, 20)")
        yield admin


def commands(page: Page) -> list[list[str]]:
    """Of its blocks of shell, without the comments."""
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```$", page.text)
    return [line.partition(" #")[0].split() for block in blocks for line in block.splitlines()]


async def output(capsys: pytest.CaptureFixture[str], words: list[str], *more: str, status: int = 0) -> str:
    assert words[0] == "session-lock"
    code = await asyncio.to_thread(main, [*words[1:], *more])
    said = capsys.readouterr()
    assert code == status, said.out + said.err
    return said.out


async def test_retries(
    database: TestDatabase, mailing: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    parked, retry, cancel = commands(Page("retries.md"))
    quick = Settings(retry=Retry(delay=0, max_attempts=1), start_jitter=0)

    async def fail(task):
        raise ConnectionError("nobody answers")

    async with PostgresDatabase(database.app_dsn, MAILS) as tasks:
        await run_until_idle(tasks, each(fail), quick)
    said = await output(capsys, parked, "--dsn", database.admin_dsn)
    assert said.count("nobody answers") == 4, said
    await output(capsys, retry, "--dsn", database.admin_dsn)
    due = "SELECT id FROM mail WHERE available_at <= now() AND attempts = 0 ORDER BY id"
    assert [row["id"] for row in await mailing.fetch(due)] == [17, 18]
    await output(capsys, retry[:3], "--all", "--dsn", database.admin_dsn)
    assert [row["id"] for row in await mailing.fetch(due)] == [17, 18, 19, 20]
    await output(capsys, cancel, "--dsn", database.admin_dsn)
    assert [row["id"] for row in await mailing.fetch(due)] == [17, 18, 20]


async def test_copies(
    server_dsn: str, database: TestDatabase, mailing: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    peek, adopt = (words[:-1] for words in commands(Page("copies.md")))
    assert peek[-1] == adopt[-1] == "--dsn"
    async with PostgresDatabase(database.app_dsn, MAILS) as tasks:
        lease = await tasks.start_session(capacity=1, ttl=30)
        await tasks.end_session(lease)
    await mailing.close()  # a database that others are in is not copied
    async with fresh_database(server_dsn, database.name) as copy:
        said = await output(capsys, peek, copy.admin_dsn)
        assert all(re.search(rf"\b{key}\b", said) for key in (17, 18, 19, 20)), said
        said = await output(capsys, adopt, copy.admin_dsn, "--yes")
        assert f"This is a copy of database {database.name} " in said
        async with PostgresDatabase(copy.app_dsn, MAILS) as tasks:
            assert await run_until_idle(tasks, each(lambda _: asyncio.sleep(0))) == 4


async def test_pgbouncer(
    database: TestDatabase, mailing: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    (doctor,) = commands(Page("pgbouncer.md"))
    with pgbouncer(database.app_dsn) as pooler:
        told = "--dsn", database.admin_dsn, "--service", pooler, "--listen", pooler
        said = await output(capsys, doctor, *told, status=2)
    assert "pooler" in said, said


async def test_exactly_once(database: TestDatabase) -> None:
    page = Page("exactly-once.md")
    page.run(holding="TaskTable(")
    (block,) = re.findall(r"(?ms)^```sql\n(.*?)^```$", page.text)
    async with connected(database.admin_dsn) as admin:
        for statement in re.findall(r"# (CREATE TABLE .*)", page.blocks[0]):
            await admin.execute(statement)
        functions = await apply_mapping(admin, page["sales"], grant_to=APP_ROLE)
        await admin.execute("INSERT INTO sale (amount) VALUES (1), (2)")
        async with (
            PostgresDatabase(database.app_dsn, page["sales"]) as tasks,
            connected(database.app_dsn) as client,
        ):
            lease = await tasks.start_session(capacity=2, ttl=30)
            claims = [task.claim for task in (await tasks.get_work(lease, limit=2)).tasks]
            keys, tokens = zip(*sorted(claims), strict=True)
            given = {
                "sale_0123abcd": functions,
                "17,": f"{lease.id},",
                "5bb3c1d6-7f0e-4c3a-a9a0-1f6f0f9c1b52": str(lease.nonce),
                "{1, 2}": f"{{{keys[0]}, {keys[1]}}}",
                "{4, 1}": f"{{{tokens[0]}, {tokens[1]}}}",
            }
            for left_open, value in given.items():
                assert block.count(left_open) == 1, left_open
                block = block.replace(left_open, value)
            async with client.transaction():
                await client.execute(block)
            assert await admin.fetchval("SELECT count(*) FROM sale WHERE done_at IS NOT NULL") == 2
            with pytest.raises(asyncpg.PostgresError) as refused:
                await client.execute(block.replace(str(lease.nonce), "00000000-0000-0000-0000-000000000000"))
            assert refused.value.sqlstate == "SL001"


async def test_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page("cancellation.md", folder="explanation")
    page.run(holding="async def send(task):")
    assert page.done
    closed = []

    class Writer:
        def close(self) -> None:
            closed.append(self)

    async def connect(host: str, port: int) -> tuple[None, Writer]:
        assert (host, port) == ("mail.example.org", 25)
        return None, Writer()

    monkeypatch.setattr(asyncio, "open_connection", connect)
    database = MemoryDatabase({1: {"host": "mail.example.org"}})
    assert await run_until_idle(database, each(page["send"])) == 1
    assert (database.finished, len(closed)) == ([1], 1)


async def test_what_the_decision_about_decode_shows() -> None:
    page = Page("0005-decode-takes-keywords.md", folder="adr")
    emails = TaskTable("email", key="id", pending="p", finish="f", columns=["id", "address", "body"])
    seen = []

    def database(*words: object, decode: Callable[..., object]) -> PostgresDatabase[object]:
        seen.append(decode(id=1, address="ann@example.org", body=None))
        return PostgresDatabase(*words, decode=decode)

    page.names |= {"dataclass": dataclass, "dsn": "postgresql://nowhere", "emails": emails}
    page.names["PostgresDatabase"] = database
    page.run(holding="decode=Email")
    assert seen[0].address == "ann@example.org"
