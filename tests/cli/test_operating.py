"""`pause`, `resume` and `drain`, and what two Runners on the server make of them within a keepalive."""

# ruff: noqa: F811 (fixtures of another file)

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from session_lock import PostgresDatabase, Runner, SchemaError, Settings, SettingsError, each, shares
from session_lock.cli import main
from tests.cli.test_cli import admin, cli  # noqa: F401 (fixtures)
from tests.support import EMAILS, add_emails

SETTINGS = Settings(
    start_jitter=0, concurrency=2, tasks_per_session=6, prefetch_time=100, keepalive_interval=0.5, poll_interval=0.2, patience=0.1,
)  # fmt: skip


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + 20
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.02)


class Service:
    """Two instances, whose taskers end when they are let."""

    def __init__(self, listen: bool) -> None:
        self.listen = listen
        self.begun: list[tuple[int, int]] = []
        """Session and key."""
        self.let = asyncio.Event()
        self.runners: list[Runner[Any]] = []
        self.databases: list[PostgresDatabase[Any]] = []
        self.runs: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def running(self, dsn: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                database = PostgresDatabase(dsn, EMAILS, listen=None if self.listen else False)
                self.databases.append(await stack.enter_async_context(database))
                self.runners.append(Runner(database, each(self._send), SETTINGS))
            self.runs = [asyncio.create_task(runner.run()) for runner in self.runners]
            try:
                await until(lambda: all(runner.ready for runner in self.runners), "they do not start")
                yield
            finally:
                self.let.set()
                for runner in self.runners:
                    runner.stop()
                await asyncio.gather(*self.runs)

    async def _send(self, task: Any) -> None:
        self.begun.append((task.session_id, task.key))
        await self.let.wait()

    def states(self) -> list[str]:
        return [runner.health().state for runner in self.runners]


@pytest.mark.parametrize("listen", [True, False], ids=["told", "by keepalives"])
async def test_a_pause_reaches_both_within_a_keepalive_and_is_taken_back(cli, admin, database, listen: bool):
    await cli("install", "MAPPING", "--yes", "--grant-to", "app")
    service = Service(listen)
    async with service.running(database.app_dsn):
        keys = await add_emails(admin, 30)
        await until(lambda: len(service.begun) == 4, "four slots begin")
        assert await cli("pause", "MAPPING") == 0
        assert cli.out == "It is paused: no session begins a task until session-lock resume.\n"
        await until(lambda: service.states() == ["paused", "paused"], "they do not hear of it")
        service.let.set()

        await asyncio.sleep(1)  # what runs ends, and whoever began more would have begun it by now
        assert len(service.begun) == 4
        assert await admin.fetchval("SELECT count(*) FROM public.email WHERE sent_at IS NOT NULL") == 4
        assert await admin.fetchval("SELECT max(attempts) FROM public.email WHERE sent_at IS NULL") == 0
        assert [runner.ready for runner in service.runners] == [True, True]
        assert {each.why for each in await shares(service.databases[0])} == {"the mapping is paused"}
        assert await cli("why", "MAPPING", str(keys[-1])) == 0
        assert cli.out.startswith("The mapping is paused, for ")
        assert await cli("pause", "MAPPING") == 0
        assert cli.out == "It was paused already.\n"

        assert await cli("resume", "MAPPING") == 0
        assert cli.out == "It is resumed.\n"
        await until(lambda: service.states() == ["running", "running"], "they do not go on")
        await until(lambda: len(service.begun) == 30, "they do not do the rest")
        assert await cli("resume", "MAPPING") == 0
        assert cli.out == "It was not paused.\n"


@pytest.mark.parametrize("listen", [True, False], ids=["told", "by keepalives"])
async def test_a_drain_ends_one_of_them_and_the_other_does_the_rest(cli, admin, database, listen: bool):
    await cli("install", "MAPPING", "--yes", "--grant-to", "app")
    service = Service(listen)
    async with service.running(database.app_dsn):
        await add_emails(admin, 20)
        await until(lambda: len(service.begun) == 4, "four slots begin")
        leaving, staying = service.runners
        session, other = leaving.health().session, staying.health().session
        assert await cli("drain", "MAPPING", str(session)) == 0
        assert (
            cli.out
            == f"Session {session} is asked to drain: it takes no more tasks, and ends when those that run have ended.\n"
        )
        await until(lambda: service.states() == ["draining", "running"], "it does not hear of it")
        key = next(key for holder, key in service.begun if holder == session)
        assert await cli("why", "MAPPING", str(key)) == 0
        assert "; it is draining." in cli.out
        assert not service.runs[0].done()
        service.let.set()
        await until(lambda: service.runs[0].done(), "it does not end")
        await until(lambda: len(service.begun) == 20, "the other one does not do the rest")
        assert len([each for each in service.begun if each[0] == session]) == 2
        assert service.states() == ["stopped", "running"]
        assert not leaving.ready
        for gone in (session, 10**9, 2**63 - 1):
            assert await cli("drain", "MAPPING", str(gone)) == 1
            assert cli.out == f"No session {gone} of this mapping lives.\n"
        assert await cli("drain", "MAPPING", str(other), attribute="other_name") == 1


async def test_a_database_asks_as_well_and_a_service_has_no_right_to(cli, admin, database):
    await cli("install", "MAPPING", "--yes", "--grant-to", "app")
    async with (
        PostgresDatabase(database.admin_dsn, EMAILS) as owner,
        PostgresDatabase(database.app_dsn, EMAILS) as app,
    ):
        lease = await app.start_session(capacity=1, ttl=30)
        for ask, function in (
            (app.pause, "pause_mapping"), (app.resume, "resume_mapping"), (lambda: app.drain(lease.id), "drain_session"),
        ):  # fmt: skip
            with pytest.raises(SchemaError) as caught:
                await ask()
            assert str(caught.value).endswith(
                f'permission denied for function {function}; grant the role what it needs: GRANT EXECUTE ON FUNCTION "session_lock".{function}'
                " TO ROLE, as the owner of the schema"
            )
        assert [await owner.pause(), await owner.pause()] == [True, False]
        assert (await app.bump_session(lease, ttl=30, draining=False)).pause
        assert [await owner.resume(), await owner.resume()] == [True, False]
        assert await owner.drain(lease.id)
        assert (await app.bump_session(lease, ttl=30, draining=False)).drain
        for wrong in (None, "1", 1.5, True, 0, -1, 2**63):
            with pytest.raises(SettingsError, match="drain takes the id of a session, a whole number, not"):
                await owner.drain(wrong)
        for function in ("pause_mapping", "resume_mapping", "drain_session"):
            await admin.execute(f"GRANT EXECUTE ON FUNCTION session_lock.{function} TO app")
        assert [await app.pause(), await app.resume(), await app.drain(lease.id)] == [True, True, True]


async def test_another_mapping_is_left_alone(cli, admin):
    await cli("install", "MAPPING", "--yes")
    start = "SELECT id FROM session_lock.start_session($1, '', 1, 30, '', '', '')"
    ours = await admin.fetchval(start, "email")
    await admin.fetchval(start, "other")
    heard: list[str] = []
    await admin.add_listener("session_lock", lambda *message: heard.append(message[-1]))
    await admin.execute("INSERT INTO session_lock.pause (name) VALUES ('other')")
    for command in ("pause", "resume"):
        assert await cli(command, "MAPPING") == 0
        await admin.execute("SELECT")
        assert heard == [f"\t{ours}"]
        heard.clear()
    assert await admin.fetchval("SELECT array_agg(name) FROM session_lock.pause") == ["other"]


async def test_what_is_wrong_is_said(cli, admin, database):
    for command in (["pause", "MAPPING"], ["resume", "MAPPING"], ["drain", "MAPPING", "1"]):
        assert await cli(*command) == 2
        assert re.search(r"run: session-lock install \w+:emails$", cli.err)
    await cli("install", "MAPPING", "--yes", "--grant-to", "app")
    assert await cli("pause", "MAPPING", dsn=database.app_dsn) == 2
    assert "GRANT EXECUTE ON FUNCTION" in cli.err


@pytest.mark.parametrize("wrong", ["x", "0", "-1", "1.5", str(2**63), "²"])
def test_what_is_no_session_is_refused(capsys, wrong: str):
    assert main(["drain", "jobs:mails", "--", wrong]) == 2
    assert f"{wrong!r} is no id of a session: session-lock sessions shows them" in capsys.readouterr().err
