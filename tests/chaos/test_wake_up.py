"""Wake-ups on a real PostgreSQL: the Runners here poll each hour, so whatever starts was woken for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from session_lock import PostgresDatabase, Runner, Settings, SettingsError, TaskTable, each, listener
from session_lock.catalog import read_shape
from session_lock.fetch import SETTLED_AFTER
from session_lock.schema import render
from session_lock.table import ClaimColumns
from tests.conftest import APP_ROLE, TestDatabase
from tests.proxy import proxy
from tests.stepping import SteppingLoop
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping

HOURLY = Settings(poll_interval=3600, start_jitter=0, concurrency=2, tasks_per_session=2)
WITHIN = 10.0
"""Seconds: more than any of this takes, and far less than the poll interval."""

LETTERS = replace(
    EMAILS,
    name="letters",
    claim_columns=ClaimColumns(
        session_id="l_session", claim_token="l_token", attempts="l_attempts", available_at="l_at"
    ),
)
"""A second mapping on the same table."""


class Watched(PostgresDatabase[Any]):
    """One that counts looks."""

    begun = ended = 0

    async def get_work(self, *args: Any, **kwargs: Any) -> Any:
        self.begun += 1
        try:
            return await super().get_work(*args, **kwargs)
        finally:
            self.ended += 1


class Service:
    """Runners in this process, and what they have started."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.started: asyncio.Queue[Any] = asyncio.Queue()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.databases: list[Watched] = []
        self.runners: list[Runner[Any]] = []

    async def tasker(self, task: Any) -> None:
        self.started.put_nowait(task.key)
        await self.go_on.wait()

    @asynccontextmanager
    async def running(
        self, *tables: TaskTable, settings: Settings = HOURLY, heard: bool = True, **options: Any
    ) -> AsyncIterator[None]:
        """One Runner and one database for each of the tables; as soon as they hear of wake-ups, and sleep."""
        async with AsyncExitStack() as stack:
            woken = []
            for table in tables or (EMAILS,):
                database = await stack.enter_async_context(Watched(self.dsn, table, **options))
                runner = Runner(database, each(self.tasker), settings)
                if heard:
                    woken.append(asyncio.Event())
                    await stack.enter_async_context(database.listening(woken[-1].set))
                self.databases.append(database)
                self.runners.append(await stack.enter_async_context(runner))
            for event in woken:
                await event.wait()
            await self.sleep()
            try:
                yield
            finally:
                self.go_on.set()

    async def sleep(self) -> None:
        """Until no Runner holds a task, looks, or is about to."""
        seen: list[int] = []

        async def asleep() -> bool:
            before, seen[:] = seen[:], [database.begun for database in self.databases]
            holds = [runner._hold for runner in self.runners]
            busy = any(hold is None or hold.held or hold.asked.is_set() for hold in holds)
            looking = any(database.begun != database.ended for database in self.databases)
            return before == seen and 0 not in seen and not busy and not looking

        await until(asleep)
        await asyncio.sleep(2 * SETTLED_AFTER)  # one that has become idle looks once more
        await until(asleep)

    async def next_started(self) -> Any:
        async with asyncio.timeout(WITHIN):
            return await self.started.get()


async def until(holds: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(WITHIN):
        while not (found := await holds()):
            await asyncio.sleep(0.005)
        return found


async def listening_backends(admin: asyncpg.Connection) -> list[int]:
    rows = await admin.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'session_lock listener' AND datname = current_database()"
    )
    return [row["pid"] for row in rows]


@pytest.fixture
async def admin(database: TestDatabase) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.execute(EMAIL_TABLE)
    await apply_mapping(connection, EMAILS, grant_to=APP_ROLE)
    await connection.execute(f"GRANT SELECT, INSERT ON public.email TO {APP_ROLE}")
    try:
        yield connection
    finally:
        connection.terminate()


@pytest.fixture
def service(database: TestDatabase) -> Service:
    return Service(database.app_dsn)


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PROBE_INTERVAL", 0.05)
    monkeypatch.setattr(listener, "TIMEOUT", 0.5)
    monkeypatch.setattr(listener, "ECHO", 0.3)
    monkeypatch.setattr(listener, "LONGEST_PAUSE", 0.1)


async def add_trigger(
    admin: asyncpg.Connection, table: TaskTable, *, quiet: bool = False, down: bool = False
) -> None:
    shape = await read_shape(admin, table)
    await admin.execute(render(f"tasks.trigger{'.down' if down else ''}.sql", table, shape, quiet=quiet))


# A task starts at once ---------------------------------------------------------------------------------


async def test_a_call_in_the_inserting_transaction_starts_the_tasker(admin, service, database):
    async with service.running():
        inserter = await asyncpg.connect(database.app_dsn)  # the service's own role may call it
        async with inserter.transaction():
            key = await inserter.fetchval("INSERT INTO public.email (address) VALUES ('a') RETURNING id")
            await inserter.execute("SELECT session_lock.wake('email')")
            await inserter.execute("SELECT session_lock.wake('email')")  # as good as once
        assert await service.next_started() == key
        await inserter.close()


async def test_nothing_is_told_of_what_is_rolled_back_or_of_another_mapping(admin, service):
    woken: list[str] = []
    async with service.running():
        [database] = service.databases
        async with database.listening(lambda: woken.append("email")):
            transaction = admin.transaction()
            await transaction.start()
            await add_emails(admin, 1)
            await admin.execute("SELECT session_lock.wake('email')")
            await transaction.rollback()
            await admin.execute("SELECT session_lock.wake('letters')")
            [key] = await add_emails(admin, 1)
            await admin.execute("SELECT session_lock.wake('email')")
            assert await service.next_started() == key
            assert woken == ["email"]


async def test_the_trigger_starts_the_tasker_whoever_inserts(admin, service):
    await admin.execute("CREATE ROLE stranger_to_us; GRANT INSERT ON public.email TO stranger_to_us")
    try:
        await add_trigger(admin, EMAILS)
        async with service.running():
            await admin.execute("SET ROLE stranger_to_us")  # who may not call wake, and need not
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await admin.execute("SELECT session_lock.wake('email')")
            await admin.execute("INSERT INTO public.email (address) VALUES ('a')")
            await admin.execute("RESET ROLE")
            await service.next_started()
            await service.sleep()
            await admin.copy_records_to_table("email", records=[("b",), ("c",)], columns=["address"])
            assert await service.next_started() != await service.next_started()
            await service.sleep()
            await add_trigger(admin, EMAILS, down=True)
            looks = service.databases[0].begun
            await add_emails(admin, 1)
            await admin.execute("SELECT session_lock.wake('nobody')")
            await asyncio.sleep(0.05)
            assert service.databases[0].begun == looks
    finally:
        await admin.execute("DROP OWNED BY stranger_to_us; DROP ROLE stranger_to_us")


@pytest.mark.parametrize("name", ["a  b", "o'clock\\n", 'say "hi"', "line\nend", "ü" * 31])
async def test_odd_names(database, name):
    mapping = replace(EMAILS, name=name, schema="od\"d Sche'ma\\")
    admin = await asyncpg.connect(database.admin_dsn)
    service = Service(database.app_dsn)
    try:
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, mapping, grant_to=APP_ROLE)
        for quiet in (False, True):
            await add_trigger(admin, mapping, quiet=quiet)
            async with service.running(mapping):
                [key] = await add_emails(admin, 1)
                assert await service.next_started() == key
            service.runners.clear()
            service.databases.clear()
    finally:
        await admin.close()


async def test_a_wake_up_for_nobody_in_particular_is_refused(admin):
    with pytest.raises(asyncpg.NullValueNotAllowedError, match="the name of a mapping"):
        await admin.execute("SELECT session_lock.wake(NULL)")


async def test_a_task_for_later_starts_when_it_is_due_and_not_by_polling(admin, service):
    async with service.running():
        [database] = service.databases
        looks = database.begun
        due = await admin.fetchval(
            "INSERT INTO public.email (address, available_at) VALUES ('a', clock_timestamp() + interval '300 ms')"
            " RETURNING available_at"
        )
        await admin.execute("SELECT session_lock.wake('email')")
        await service.next_started()
        late = await admin.fetchval("SELECT clock_timestamp() - $1::timestamptz", due)
        print(f"late by {late.total_seconds() * 1000:.1f} ms")
        await service.sleep()
        # woken, due, the look behind a find, and one when there is room again
        assert database.begun <= looks + 4


# Quiet -------------------------------------------------------------------------------------------------


class Heard:
    """What a connection of the test's own hears on the channel. In the order of commits, so a marker says that it was all."""

    def __init__(self) -> None:
        self.payloads: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        self.payloads.put_nowait(payload)

    async def up_to_now(self, admin: asyncpg.Connection) -> list[str]:
        await admin.execute("SELECT session_lock.wake('marker')")
        heard = []
        while (payload := await asyncio.wait_for(self.payloads.get(), WITHIN)) != "marker":
            heard.append(payload)
        return heard


@pytest.mark.fault("N8")
@pytest.mark.parametrize("by", ["call", "trigger"])
async def test_quiet_is_silent_until_a_session_is_idle(admin, service, database, by):
    spy = await asyncpg.connect(database.admin_dsn)
    heard = Heard()
    await spy.add_listener("session_lock", heard)
    if by == "trigger":
        await add_trigger(admin, EMAILS, quiet=True)

    async def add(count: int) -> None:
        await add_emails(admin, count)
        if by == "call":
            await admin.execute("SELECT session_lock.wake('email', p_quiet => true)")

    try:
        await add(1)
        assert await heard.up_to_now(admin) == []  # there is nobody
        async with service.running():
            await service.next_started()
            await service.sleep()
            service.go_on.clear()
            await add(1)
            assert await heard.up_to_now(admin) == ["email"]  # one of its two slots is free, or both
            await service.next_started()
            await add(3)
            await service.next_started()
            await until(
                lambda: admin.fetchval("SELECT NOT idle FROM session_lock.session WHERE ended_at IS NULL")
            )
            await heard.up_to_now(admin)
            await add(3)
            assert await heard.up_to_now(admin) == []  # it is at its limit
            await admin.execute("SELECT session_lock.wake('email')")
            assert await heard.up_to_now(admin) == ["email"]
            service.go_on.set()
            for _ in range(5):
                await service.next_started()
            await until(
                lambda: admin.fetchval("SELECT idle FROM session_lock.session WHERE ended_at IS NULL")
            )
            await service.sleep()
            await heard.up_to_now(admin)
            await add(1)
            assert await heard.up_to_now(admin) == ["email"]
            await service.next_started()
        await heard.up_to_now(admin)  # its end, which all are told
        await add(1)
        assert await heard.up_to_now(admin) == []  # it has ended
    finally:
        await spy.close()


async def test_idle_is_written_when_it_changes_and_never_waited_for(admin, database):
    emails = PostgresDatabase(database.app_dsn, EMAILS)
    other = await asyncpg.connect(database.admin_dsn)

    async def row() -> Any:
        return await admin.fetchrow("SELECT idle, xmin FROM session_lock.session WHERE id = $1", lease.id)

    try:
        lease = await emails.start_session(capacity=2, ttl=30)
        assert (await row())["idle"] is False
        await emails.get_work(lease, limit=2)
        assert (await row())["idle"] is True
        await emails.get_work(lease, limit=2)  # and once more, from when on that is to be seen
        before = await row()
        assert before["idle"] is True
        for _ in range(3):
            await emails.get_work(lease, limit=2)
        assert await row() == before

        await add_emails(admin, 2)
        async with other.transaction():  # a keepalive that stands still
            await other.execute("SELECT FROM session_lock.session WHERE id = $1 FOR NO KEY UPDATE", lease.id)
            work = await emails.get_work(lease, limit=2)
            assert len(work.tasks) == 2
        assert await row() == before  # not noted this time
        await emails.get_work(lease, limit=0, held=[task.claim.key for task in work.tasks])
        assert (await row())["idle"] is False

        await admin.execute("INSERT INTO session_lock.pause (name) VALUES ('email')")
        await emails.get_work(lease, limit=2)
        assert (await row())["idle"] is False  # a paused one has no use for tasks
    finally:
        await other.close()
        await emails.close()


# One connection ----------------------------------------------------------------------------------------


async def test_all_runners_of_a_database_share_one_connection(admin, service):
    await apply_mapping(admin, LETTERS, grant_to=APP_ROLE)
    async with service.running(EMAILS, EMAILS, LETTERS, LETTERS):
        assert len(await listening_backends(admin)) == 1
        for mapping in (EMAILS, LETTERS):
            await add_trigger(admin, mapping)
        service.go_on.clear()  # else it is done before the other mapping has seen it
        await add_emails(admin, 1)
        assert (
            await service.next_started() == await service.next_started()
        )  # as a task of each of the mappings
        service.go_on.set()
        service.runners[0].stop()
        await asyncio.wait({service.runners[0]._engine})
        assert len(await listening_backends(admin)) == 1
    assert listener._listeners == {}
    await until(lambda: _none(listening_backends(admin)))


async def _none(found: Awaitable[list[int]]) -> bool:
    return not await found


async def test_no_connection_if_none_is_wanted(admin, service):
    async with service.running(heard=False, listen=False):
        assert await listening_backends(admin) == []
        assert listener._listeners == {}
        [key] = await add_emails(admin, 1)
        service.runners[0].wake()
        assert await service.next_started() == key


async def test_connections_by_an_async_function(admin, database):
    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(
            database.app_dsn, server_settings={"application_name": "session_lock listener"}
        )

    service = Service(database.app_dsn)
    async with service.running(EMAILS, EMAILS, listen=connect):
        assert len(await listening_backends(admin)) == 1
        [key] = await add_emails(admin, 1)
        await admin.execute("SELECT session_lock.wake('email')")
        assert await service.next_started() == key


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        (True, "listen is a DSN or an async function that connects, .* not True"),
        (5432, "not 5432"),
        ("", "the DSN in listen= is not understood: write postgresql://"),
        ("localhost:5432", "the DSN in listen= is not understood"),
        (
            "postgresql+asyncpg://nowhere",
            r"the DSN in listen= begins with postgresql\+asyncpg://, which names a driver",
        ),
        (asyncpg.Connection, "an async function"),
    ],
)
def test_listen_that_makes_no_sense(listen, expected):
    with pytest.raises(SettingsError, match=expected):
        PostgresDatabase("postgresql://nowhere", EMAILS, listen=listen)


# When it breaks ----------------------------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "session_lock.listener" and record.levelno >= level
    ]


@pytest.mark.fault("N7", "N13")
async def test_a_lost_connection_is_replaced_and_all_are_woken_once(admin, service, caplog, monkeypatch):
    monkeypatch.setattr(listener, "PROBE_INTERVAL", 3600)
    async with service.running():
        [backend] = await listening_backends(admin)
        await add_emails(admin, 1)  # and nobody says so
        await admin.execute("SELECT pg_terminate_backend($1)", backend)
        await service.next_started()
        assert [backend] != await listening_backends(admin)
        await service.sleep()
        [key] = await add_emails(admin, 1)
        await admin.execute("SELECT session_lock.wake('email')")
        assert await service.next_started() == key
    assert len(told(caplog)) == 1
    assert "new tasks wait for the next poll" in told(caplog)[0]


@pytest.mark.fault("N2", "N7")
async def test_a_black_hole_is_noticed_and_replaced_and_polling_goes_on(
    admin, service, database, caplog, quick_probes
):
    often = replace(HOURLY, poll_interval=0.02)
    async with proxy(database.app_dsn) as hole, service.running(settings=often, listen=hole.dsn):
        [deaf] = await listening_backends(admin)
        assert hole.accepted == 1
        hole.swallow()
        for _ in range(3):
            [key] = await add_emails(admin, 1)
            assert await service.next_started() == key
        woken = asyncio.Event()
        async with service.databases[0].listening(woken.set):
            async with asyncio.timeout(WITHIN):
                await woken.wait()  # when it is lost, for what may be missed from here on
                while hole.accepted < 2:
                    await asyncio.sleep(0.005)
        await until(
            lambda: _all_but(listening_backends(admin), deaf)
        )  # the old one's backend does not linger
    assert len(told(caplog)) == 1
    assert "no answer within" in told(caplog)[0]


async def _all_but(found: Awaitable[list[int]], gone: int) -> bool:
    pids = await found
    return len(pids) == 1 and gone not in pids


@pytest.mark.fault("N2", "N7")
async def test_a_black_hole_does_not_hold_up_who_leaves(admin, service, database, caplog, monkeypatch):
    monkeypatch.setattr(listener, "PROBE_INTERVAL", 0.01)
    monkeypatch.setattr(listener, "GOODBYE", 0.05)
    monkeypatch.setattr(listener, "TIMEOUT", 3600)
    async with proxy(database.app_dsn) as hole, asyncio.timeout(WITHIN), service.running(listen=hole.dsn):
        hole.swallow()
        await asyncio.sleep(0.05)
    assert listener._listeners == {}
    assert told(caplog) == []


async def test_who_cannot_connect_polls(admin, service, caplog, quick_probes):
    caplog.set_level(logging.DEBUG, "session_lock.listener")
    async with asyncio.timeout(WITHIN):
        async with service.running(
            settings=replace(HOURLY, poll_interval=0.02),
            heard=False,
            listen="postgresql://127.0.0.1:1/nowhere",
        ):
            while len(told(caplog, logging.DEBUG)) < 5:
                [key] = await add_emails(admin, 1)
                assert await service.next_started() == key
    assert len(told(caplog)) in {3, 4}  # the 1st, 2nd, 4th, 8th
    assert listener._listeners == {}


def test_left_or_cancelled_between_any_two_steps_nothing_stays(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two who share a connection, which is lost once on the way, are cancelled."""
    monkeypatch.setattr(listener, "PROBE_INTERVAL", 0.002)
    monkeypatch.setattr(listener, "LONGEST_PAUSE", 0.002)

    async def listen() -> None:
        async with listener.listening(database.app_dsn, "session_lock", {"email": lambda: None}):
            await asyncio.Event().wait()

    async def one_run(stop_at: int) -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SteppingLoop)
        admin = await asyncpg.connect(database.admin_dsn)
        before = asyncio.all_tasks()
        both = [asyncio.create_task(listen()), asyncio.create_task(listen())]

        def cancel() -> None:
            for task in both:
                task.cancel()

        loop.begin({stop_at: cancel})
        end = loop.call_later(0.06, cancel)
        await asyncio.sleep(0.03)
        for backend in await listening_backends(admin):
            await admin.execute("SELECT pg_terminate_backend($1)", backend)
        await asyncio.wait(both)
        steps, loop.steps = loop.steps, -1
        end.cancel()
        assert all(task.cancelled() for task in both)
        assert listener._listeners == {}
        await until(lambda: _none(listening_backends(admin)))
        await admin.close()
        for _ in range(20):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() - before == set(), f"cancelled at step {stop_at} of {steps}"
        return steps

    def on_a_loop(stop_at: int) -> int:
        complained: list[str] = []
        with asyncio.Runner(loop_factory=SteppingLoop) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: complained.append(str(context)))
            steps = runner.run(one_run(stop_at))
        assert complained == [], f"cancelled at step {stop_at}"
        return steps

    steps = on_a_loop(10**9)
    for stop_at in range(1, steps, max(1, steps // 30)):
        on_a_loop(stop_at)
    told = {record.name for record in caplog.records if record.levelno >= logging.WARNING}
    assert told <= {"session_lock.listener"}  # the connection that was lost; asyncio has no complaint
