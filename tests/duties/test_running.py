"""`Duties` as a service runs them: in virtual time over months' nights, and on a real PostgreSQL with real deaths."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from session_lock import (
    DatabaseError,
    Discard,
    Due,
    Duties,
    Duty,
    PostgresDuties,
    Release,
    Runner,
    RunnerGroup,
    SchemaError,
    Settings,
    SettingsError,
    Task,
    cron,
    every,
)
from session_lock.duties import DUTIES
from session_lock.testing import MemoryDatabase, MemoryDuties, run_virtual
from tests.conftest import APP_ROLE
from tests.duties.conftest import DAY, HOUR, nothing

SLOW = Settings(start_jitter=0, poll_interval=600, keepalive_interval=600, lease_ttl=3600)
"""For tests of days: virtual time costs nothing, what happens in it does."""

MIDNIGHT = datetime(2026, 3, 28, tzinfo=UTC)


class Log:
    """A duty that notes what it was called for."""

    def __init__(self, takes: float = 0) -> None:
        self.takes = takes
        self.begun: list[Task[Due]] = []
        self.done: list[datetime] = []

    async def __call__(self, task: Task[Due]) -> None:
        self.begun.append(task)
        await asyncio.sleep(self.takes)
        self.done.append(task.data.due_at)


# In virtual time ------------------------------------------------------------------------------------------


def test_what_falls_due_while_all_slots_are_taken_is_not_lost_to_a_new_schedule():
    """An instance that has no room does not look for work, but it goes on planning; then a version with another schedule comes."""
    hourly, other = Log(takes=5.2 * 3600), Log()

    async def main() -> None:
        database = MemoryDuties(MIDNIGHT)
        busy = replace(SLOW, concurrency=1)
        async with Duties(database, Duty("bells", every("1h"), hourly, missed="all"), settings=busy):
            await asyncio.sleep(6 * 3600)  # the run of 1:00 takes until 6:12
            assert [task.data.due_at.hour for task in hourly.begun] == [1]
            hourly.takes = 0
            async with Duties(database, Duty("bells", every("1d"), other, missed="all"), settings=SLOW):
                await asyncio.sleep(3600)
        assert sorted(due.hour for due in hourly.done + other.done) == [1, 2, 3, 4, 5, 6]

    run_virtual(main(), limit=30 * 3600)


@pytest.mark.fault("D9")
@pytest.mark.parametrize("day", [datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)])
def test_a_group_over_the_night_on_which_the_clock_changes(day):
    daily, hourly = Log(), Log()

    async def main() -> None:
        database = MemoryDuties(day)
        duties = (
            Duty("daily", cron("30 2 * * *", tz="Europe/Berlin"), daily),
            Duty("hourly", cron("0 * * * *", tz="Europe/Berlin"), hourly),
        )
        async with RunnerGroup(*[Duties(database, *duties, settings=SLOW) for _ in range(3)]):
            await asyncio.sleep(2.5 * DAY.total_seconds() + 60)
        assert database.failures == {}

    run_virtual(main(), limit=10**6)
    hour = {3: 1, 10: 0}[day.month]  # 3:00 of summer and 2:30 of summer, in UTC
    second = day + DAY + (HOUR if hour else HOUR / 2)
    assert daily.done == [
        day + (1.5 * HOUR if hour else HOUR / 2),
        second,
        day + 2 * DAY + (HOUR / 2 if hour else 1.5 * HOUR),
    ]
    assert hourly.done == [day + each * HOUR for each in range(1, 61)]
    assert max(task.data.late for task in (*daily.begun, *hourly.begun)) < 0.05


def test_the_death_of_one_is_survived_in_the_middle_of_a_run():
    log = Log(takes=2000)  # longer than it takes the first to hear that it is dead

    async def main() -> None:
        database = MemoryDuties(MIDNIGHT)
        first, second = [Duties(database, Duty("report", every("6h"), log), settings=SLOW) for _ in range(2)]
        async with RunnerGroup(first, second):
            while not log.begun:
                await asyncio.sleep(10)
            database.expire(log.begun[0].session_id)
            await asyncio.sleep(DAY.total_seconds() * 0.9)

    run_virtual(main(), limit=10**6)
    assert log.done == [MIDNIGHT + each * 6 * HOUR for each in (1, 2, 3, 4)]
    assert [task.attempt for task in log.begun] == [1, 2, 1, 1, 1]


@pytest.mark.parametrize(("missed", "expected"), [("once", [3]), ("all", [1, 2, 3]), ("skip", [])])
def test_missed(missed, expected):
    log = Log()

    async def main() -> None:
        database = MemoryDuties(MIDNIGHT)
        duty = Duty("report", every("1d"), log, missed)
        async with Duties(database, duty, settings=SLOW):
            await asyncio.sleep(HOUR.total_seconds())
        await asyncio.sleep(3.5 * DAY.total_seconds())
        async with Duties(database, duty, settings=SLOW):
            await asyncio.sleep(DAY.total_seconds())

    run_virtual(main(), limit=10**6)
    assert log.done == [MIDNIGHT + each * DAY for each in (*expected, 4)]


def test_the_outcomes_are_those_of_a_tasker_under_each():
    seen: list[tuple[str, int]] = []

    async def do(task: Task[Due]) -> Release | Discard | None:
        seen.append((task.data.name, task.attempt))
        match task.data.name, seen.count((task.data.name, task.attempt)):
            case "later", 1:
                return Release(after=60)
            case "never", _:
                return Discard("no use")
            case "fails", 1 if task.attempt == 1:
                raise ValueError("not yet")
        return None

    async def main() -> MemoryDuties:
        database = MemoryDuties(MIDNIGHT)
        duties = [Duty(name, every("1d"), do) for name in ("well", "later", "never", "fails")]
        async with Duties(database, *duties, settings=SLOW):
            await asyncio.sleep(1.2 * DAY.total_seconds())
        return database

    database = run_virtual(main(), limit=10**6)
    assert sorted(seen) == [("fails", 1), ("fails", 2), ("later", 1), ("later", 1), ("never", 1), ("well", 1)]
    assert len(database.finished) == 3
    assert len(database.discarded) == 1
    assert len(database.failures) == 2


def test_a_plain_function_is_called_in_a_thread():
    threads: list[str] = []

    def report(task: Task[Due]) -> Release | None:
        threads.append(threading.current_thread().name)
        return Release(after=60) if len(threads) == 1 else None

    async def main() -> MemoryDuties:
        database = MemoryDuties(MIDNIGHT)
        async with Duties(database, Duty("report", every("1d"), report), settings=SLOW):
            await asyncio.sleep(1.2 * DAY.total_seconds())
        return database

    assert len(run_virtual(main(), limit=10**6).finished) == 1
    assert len(threads) == 2
    assert all(name.startswith("session_lock tasker") for name in threads)


def test_each_version_does_the_duties_that_it_knows():
    ours, theirs = Log(), Log()

    async def main() -> None:
        database = MemoryDuties(MIDNIGHT)
        quick = Settings(start_jitter=0, poll_interval=1)
        group = RunnerGroup(
            Duties(database, Duty("both", every("1m"), ours), settings=quick),
            Duties(
                database, Duty("both", every("1m"), theirs), Duty("new", every("1m"), theirs), settings=quick
            ),
        )
        async with group:
            await asyncio.sleep(600)
        assert all(run.attempts == 1 for run in database.runs if not run.pending)

    run_virtual(main())
    both = sorted(task.data.due_at for task in (*ours.begun, *theirs.begun) if task.data.name == "both")
    assert both == [MIDNIGHT + timedelta(minutes=each) for each in range(1, len(both) + 1)]
    assert len(both) >= 9
    assert "new" not in {task.data.name for task in ours.begun}
    new = [task.data for task in theirs.begun if task.data.name == "new"]
    assert sorted(due.due_at for due in new) == both
    assert max(due.late for due in new) < 2


def test_a_database_that_is_away_is_planned_in_later():
    log, patient = Log(), replace(SLOW, poll_interval=60)

    class Away(MemoryDuties):
        calls = 0

        async def plan_duties(self, *arguments: Any) -> Any:
            self.calls += 1
            if self.calls % 4 == 1:
                raise DatabaseError("away")
            return await super().plan_duties(*arguments)

    async def main() -> None:
        async with Duties(Away(MIDNIGHT), Duty("report", every("1h"), log), settings=patient):
            await asyncio.sleep(5.5 * HOUR.total_seconds())

    run_virtual(main(), limit=10**6)
    assert log.done == [MIDNIGHT + each * HOUR for each in range(1, 6)]


def test_beside_a_runner_in_a_group_and_one_outlives_the_other():
    log = Log()
    failed: list[BaseException] = []

    class Broken(MemoryDuties):
        async def plan_duties(self, *arguments: Any) -> Any:
            if log.done:
                raise SchemaError("run session-lock install")
            return await super().plan_duties(*arguments)

    async def main() -> None:
        tasks = MemoryDatabase({1: "a"})

        async def do_all(batch: Any) -> Any:
            return list(batch)

        group = RunnerGroup(
            Runner(tasks, do_all, settings=SLOW), Duties(Broken(MIDNIGHT), Duty("report", every("1h"), log), settings=SLOW),
            on_failure=failed.append,
        )  # fmt: skip
        with pytest.raises(SchemaError):
            async with group:
                await asyncio.sleep(5 * HOUR.total_seconds())
                tasks.add(2, "b")
                await asyncio.sleep(HOUR.total_seconds())
        assert tasks.finished == [1, 2]
        assert [str(error) for error in failed] == ["run session-lock install"] == [str(group.failed)]

    run_virtual(main(), limit=10**6)
    assert log.done == [MIDNIGHT + HOUR]


def test_wake_and_stop_are_a_runners():
    async def main() -> None:
        duties = Duties(MemoryDuties(MIDNIGHT), Duty("report", every("1h"), nothing), settings=SLOW)
        duties.stop()
        await duties.run()
        duties.wake()

    run_virtual(main())


# What cannot be -------------------------------------------------------------------------------------------------


def plain(task: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Duty("", every("5m"), nothing), "duty name '' must have 1 to 63 bytes"),
        (lambda: Duty("  ", every("5m"), nothing), "is blank"),
        (lambda: Duty(7, every("5m"), nothing), "duty name 7"),
        (lambda: Duty("x" * 64, every("5m"), nothing), "1 to 63 bytes"),
        (lambda: Duty("ping", "5m", nothing), "the schedule of duty 'ping'"),
        (lambda: Duty("ping", every("5m"), None), "duty 'ping' must be"),
        (lambda: Duty("ping", every("5m"), nothing, "never"), "missed='never' of duty 'ping'"),
        (lambda: Duties(MemoryDuties()), "at least one Duty"),
        (lambda: Duties(MemoryDuties(), nothing), "each is a Duty, not function"),
        (lambda: Duties(MemoryDuties(), *[Duty("ping", every("5m"), nothing)] * 2), "two duties are called 'ping'"),
        (lambda: Duties(7, Duty("ping", every("5m"), nothing)), "a DSN or an async function"),
        (lambda: Duties(MemoryDuties(), Duty("ping", every("5m"), nothing), settings=7), "settings is a Settings"),
        (lambda: MemoryDuties("2026-01-01"), "such as datetime(2026, 1, 1, tzinfo=UTC), not '2026-01-01'"),
        (lambda: MemoryDuties(date(2026, 1, 1)), "not datetime.date(2026, 1, 1)"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_at_once(make, complaint):
    with pytest.raises(SettingsError) as raised:
        make()
    assert complaint in str(raised.value)


# On PostgreSQL --------------------------------------------------------------------------------------------------

QUICK = Settings(
    start_jitter=0,
    poll_interval=0.2,
    keepalive_interval=0.3,
    call_timeout=1,
    cancel_grace=0.1,
    guard=0.1,
    lease_ttl=2.2,
)


async def test_each_due_time_has_its_effect_exactly_once(admin, database):
    """Three instances, a second apart; some runs fail before they write, some after; the effects are what counts."""
    await admin.execute(
        f"CREATE TABLE public.effect (due_at timestamptz NOT NULL); GRANT INSERT ON public.effect TO {APP_ROLE}"
    )
    enough = asyncio.Event()

    async def report(task: Task[Due]) -> None:
        async with task.transaction() as connection:
            await connection.execute("INSERT INTO public.effect VALUES ($1)", task.data.due_at)
            if task.attempt == 1 and task.data.due_at.second % 2:
                raise ValueError("before the commit: undone, and tried again")
        if task.data.due_at >= first + timedelta(seconds=3):
            enough.set()
        raise ValueError("after it: too late to matter")

    first = await admin.fetchval("SELECT date_trunc('second', clock_timestamp()) + interval '1 second'")
    async with RunnerGroup(
        *[Duties(database.app_dsn, Duty("report", every("1s"), report), settings=QUICK) for _ in range(3)]
    ):
        await enough.wait()
        while await admin.fetchval(
            "SELECT EXISTS (SELECT FROM session_lock.duty_run WHERE finished_at IS NULL AND due_at < $1)",
            first + timedelta(seconds=3),
        ):
            await asyncio.sleep(0.05)
    effects = [row["due_at"] for row in await admin.fetch("SELECT due_at FROM public.effect ORDER BY 1")]
    assert len(effects) >= 3
    assert all(other - one == timedelta(seconds=1) for one, other in pairwise(effects[:3]))
    assert len(set(effects)) == len(effects)
    finished = await admin.fetch(
        "SELECT due_at FROM session_lock.duty_run WHERE finished_at IS NOT NULL ORDER BY 1"
    )
    assert [row["due_at"] for row in finished] == effects
    left = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND datname = current_database()"
    for _ in range(100):  # a connection that was closed is gone in a moment
        if not await admin.fetchval(left):
            break
        await asyncio.sleep(0.02)
    assert not await admin.fetchval(left), "a Duties that was given a DSN closes what it opened"


VICTIM = """
import asyncio, sys
from session_lock import Duties, Duty, Settings, every

async def report(task):
    print(task.key, flush=True)
    await asyncio.sleep(60)

settings = Settings(start_jitter=0, keepalive_interval=0.3, call_timeout=1, cancel_grace=0.1, guard=0.1, lease_ttl=2.2)
asyncio.run(Duties(sys.argv[1], Duty("report", every("1s"), report), settings=settings).run())
"""


async def test_a_killed_process_is_followed_by_another(admin, database):
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, database.app_dsn, stdout=asyncio.subprocess.PIPE
    )
    try:
        begun = int(await victim.stdout.readline())
    finally:
        os.kill(victim.pid, signal.SIGKILL)
        await victim.wait()
    rescued = asyncio.Event()
    runs: list[tuple[int, int]] = []

    async def report(task: Task[Due]) -> None:
        runs.append((task.key, task.attempt))
        if task.key == begun:
            rescued.set()

    async with Duties(database.app_dsn, Duty("report", every("1s"), report), settings=QUICK):
        await rescued.wait()
    assert (begun, 2) in runs
    assert len({key for key, _ in runs}) == len(runs)


async def test_a_service_that_is_not_installed_ends_and_says_what_to_run(admin, database):
    await admin.execute("DROP FUNCTION session_lock.plan_duties; DROP TABLE session_lock.duty_run CASCADE")
    with pytest.raises(SchemaError, match="run session-lock install session_lock.duties:DUTIES"):
        await Duties(database.app_dsn, Duty("report", every("1s"), nothing), settings=QUICK).run()
    await admin.execute("DROP SCHEMA session_lock CASCADE")
    with pytest.raises(SchemaError, match="run: session-lock install session_lock.duties:DUTIES --grant-to"):
        await Duties(database.app_dsn, Duty("report", every("1s"), nothing), settings=QUICK).run()


async def test_another_schema_is_another_group(database, admin):
    from session_lock.duties import duty_table
    from session_lock.migrations import check, install

    owner = await asyncpg.connect(database.admin_dsn)
    try:
        table = duty_table("billing.x")
        await install(owner, table, grant_to=APP_ROLE)
        assert [str(each) for each in await check(owner, table, role=APP_ROLE) if not each.note] == []
        assert [str(each) for each in await check(owner, DUTIES, role=APP_ROLE) if not each.note] == []
        done = asyncio.Event()

        async def ping(task: Task[Due]) -> None:
            done.set()

        async with PostgresDuties(database.app_dsn, schema="billing.x") as service:
            async with Duties(service, Duty("ping", every("1s"), ping), settings=QUICK):
                await done.wait()
            assert (await service.identity()).mapping == "duties", "it is the user's, and still open"
        assert await owner.fetchval('SELECT count(*) FROM "billing.x".duty_run') >= 1
        assert await owner.fetchval("SELECT count(*) FROM session_lock.duty_run") == 0
    finally:
        await owner.close()
