"""An idle Runner that is told of what comes does not poll; and finds, within a poll, whatever it is not told of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from session_lock import PostgresDatabase, Runner, Settings, TaskTable, each, enqueue
from session_lock.database import Handback, Work
from session_lock.migrations import install
from session_lock.queue_table import queue
from tests.chaos.scene import Scene
from tests.chaos.test_wake_up import LETTERS, add_trigger
from tests.support import EMAILS, apply_mapping

BUSY = Settings(poll_interval=0.1, idle_poll_interval=3600, start_jitter=0, concurrency=2)
"""A look each tenth of a second, or none at all."""


class Watched(PostgresDatabase[Any]):
    """One that notes what looks have brought."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.found: list[Work[Any]] = []

    async def get_work(self, *args: Any, **kwargs: Any) -> Any:
        work = await super().get_work(*args, **kwargs)
        self.found.append(work)
        return work

    async def until_told(self) -> None:
        """Until a look says that it will be told of what comes."""
        async with asyncio.timeout(40):
            while not (self.found and self.found[-1].heard):
                await asyncio.sleep(0.01)

    async def polls(self) -> None:
        """It makes look after look, of which each says that it will not be told."""
        seen = len(self.found)
        async with asyncio.timeout(40):
            while len(self.found) < seen + 8:
                await asyncio.sleep(0.01)
        assert not any(work.heard for work in self.found[seen + 1 :])

    async def sleeps(self) -> bool:
        """Whether it makes no look within many polls, after the last ones that were under way."""
        await asyncio.sleep(5 * BUSY.poll_interval)
        seen = len(self.found)
        await asyncio.sleep(20 * BUSY.poll_interval)
        return len(self.found) == seen

    async def until_asleep(self) -> None:
        """Until it sleeps: a machine that stands still for a while may make the last look late, but one that polls never sleeps."""
        async with asyncio.timeout(40):
            while not await self.sleeps():
                pass


@asynccontextmanager
async def idle(
    scene: Scene, table: TaskTable = EMAILS, tasker: Any = None, **options: Any
) -> AsyncIterator[Watched]:
    async with (
        Watched(scene.dsn, table, **options) as database,
        Runner(database, each(tasker or scene.send), BUSY),
    ):
        yield database


async def test_who_is_told_of_what_comes_does_not_poll_and_has_it_at_once(scene: Scene) -> None:
    await add_trigger(scene.admin, EMAILS)
    async with idle(scene) as database:
        await database.until_told()
        await database.until_asleep()
        for _ in range(3):
            await scene.add(5)
            await scene.until_finished()
        await database.until_told()
        await database.until_asleep()


async def test_a_quiet_trigger_is_enough_once_all_transactions_have_seen_that_it_has_room(
    scene: Scene, database: Any
) -> None:
    """One that is under way since before may have inserted, and told nobody."""
    await add_trigger(scene.admin, EMAILS, quiet=True)
    other = await asyncpg.connect(database.admin_dsn)
    before = other.transaction()
    await before.start()
    await other.execute("INSERT INTO email (address) VALUES ('a')")  # nobody is idle
    async with idle(scene) as watched:
        await watched.polls()
        await before.commit()
        await scene.until_finished()
        await watched.until_told()
        async with other.transaction():  # one that has begun since then is heard of
            await other.execute("INSERT INTO email (address) VALUES ('b')")
            await watched.until_asleep()
        await scene.until_finished()
    await other.close()


async def test_without_a_trigger_it_polls(scene: Scene) -> None:
    async with idle(scene) as database:
        await database.polls()
        await add_trigger(scene.admin, EMAILS)
        await database.until_told()
        await scene.admin.execute("ALTER TABLE email DISABLE TRIGGER USER")
        await scene.admin.execute("SELECT session_lock.wake('email')")
        await database.polls()


async def test_who_cannot_listen_polls(scene: Scene) -> None:
    await add_trigger(scene.admin, EMAILS)
    async with idle(scene, listen=False) as database:
        await database.until_told()
        assert not await database.sleeps()


async def test_what_others_hold_may_come_free_unheard_so_it_polls(scene: Scene) -> None:
    await add_trigger(scene.admin, EMAILS)
    go_on = asyncio.Event()

    async def tasker(_: Any) -> None:
        await go_on.wait()

    async with PostgresDatabase(scene.dsn, EMAILS) as other:
        lease = await other.start_session(capacity=1, ttl=3600)
        await scene.add(1)
        (task,) = (await other.get_work(lease, limit=1, over_share=True)).tasks
        async with idle(scene, tasker=tasker) as database:
            await database.polls()
            await other.finish_tasks(lease, [task.claim])
            await database.until_told()
            await scene.add(1)
            await scene.until("EXISTS (SELECT FROM email WHERE session_id <> 1)")
            await database.until_told()  # what it runs itself keeps nobody awake
            go_on.set()


async def test_a_row_that_was_locked_at_the_look_is_not_told_of(scene: Scene, database: Any) -> None:
    await add_trigger(scene.admin, EMAILS)
    other = await asyncpg.connect(database.admin_dsn)
    async with idle(scene) as watched:
        await watched.until_told()
        await scene.admin.execute(
            "INSERT INTO email (address, available_at) VALUES ('a', now() + interval '2 seconds')"
        )
        async with other.transaction():
            await other.execute("SELECT FROM email FOR UPDATE")
            await scene.until("NOT EXISTS (SELECT FROM email WHERE available_at > now())")
            await watched.polls()
        await scene.until_finished()
    await other.close()


async def test_it_wakes_for_what_falls_due_and_for_what_others_release_for_later(scene: Scene) -> None:
    await add_trigger(scene.admin, EMAILS)
    async with PostgresDatabase(scene.dsn, EMAILS) as other, idle(scene) as database:
        await database.until_told()
        await scene.admin.execute(
            "INSERT INTO email (address, available_at) VALUES ('a', now() + interval '1 second')"
        )
        await scene.until_finished()
        await database.until_told()
        await scene.admin.execute(
            "ALTER TABLE email DISABLE TRIGGER USER"
        )  # as if somebody else had been quicker
        lease = await other.start_session(capacity=1, ttl=3600)
        await scene.add(1)
        (task,) = (await other.get_work(lease, limit=1, over_share=True)).tasks
        await scene.admin.execute("ALTER TABLE email ENABLE TRIGGER USER")
        await database.until_asleep()
        await other.release_tasks(lease, [Handback(task.claim, after=1.0)])
        await scene.until_finished()


async def test_a_connection_that_is_lost_is_polled_for(scene: Scene) -> None:
    await add_trigger(scene.admin, EMAILS)
    async with idle(scene) as database:
        await database.until_told()
        await database.until_asleep()
        here = await scene.admin.fetchval(
            "SELECT quote_ident(current_database())"
        )  # others are tested on this server
        await scene.admin.execute(f"ALTER DATABASE {here} CONNECTION LIMIT 0")
        try:
            seen = len(database.found)
            await scene.ask(
                "count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name = 'session_lock listener' AND datname = current_database()"
            )
            async with asyncio.timeout(10):
                while len(database.found) < seen + 8:
                    await asyncio.sleep(0.01)
        finally:
            await scene.admin.execute(f"ALTER DATABASE {here} CONNECTION LIMIT -1")
        await database.until_asleep()


async def test_the_queue_of_this_library_wakes_by_itself(scene: Scene) -> None:
    jobs = queue("public.job")
    await install(scene.admin, jobs, grant_to="app")
    async with idle(scene, jobs) as database:
        await database.until_told()
        await database.until_asleep()
        await enqueue(scene.admin, jobs, {"a": 1})
        await scene.until("NOT EXISTS (SELECT FROM job WHERE finished_at IS NULL)")


@pytest.mark.parametrize("quiet", [False, True])
async def test_two_mappings_of_a_table_each_need_their_trigger(scene: Scene, quiet: bool) -> None:
    await apply_mapping(scene.admin, LETTERS, grant_to="app")
    await add_trigger(scene.admin, EMAILS, quiet=quiet)
    async with idle(scene, LETTERS) as letters:
        await letters.polls()
