"""`RunnerGroup`: several Runners that start and stop together."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import anyio
import pytest

from session_lock import (
    DatabaseError,
    PostgresDatabase,
    Runner,
    RunnerGroup,
    SchemaError,
    SettingsError,
    TaskTable,
)
from tests.unit.faults import Faulty
from tests.unit.scenes import CANARY, Sleeper, assert_free, do_all, running, settings, table
from tests.unit.virtual import now, until, virtual


def pair(seconds: float = 0.0, **options: Any) -> tuple[Any, Any, list[Sleeper], RunnerGroup]:
    first, second = table(1), table(1)
    taskers = [Sleeper(seconds), Sleeper(seconds)]
    runners = [
        Runner(database, tasker, settings())
        for database, tasker in zip((first, second), taskers, strict=True)
    ]
    return first, second, taskers, RunnerGroup(*runners, **options)


@virtual
async def test_they_run_and_stop_together() -> None:
    first, second, taskers, group = pair(5)
    async with running(group):
        await until(lambda: all(tasker.begun for tasker in taskers))
    assert first.finished == second.finished == [1]
    assert now() == pytest.approx(5, abs=0.1)
    assert_free(first)
    assert_free(second)


@virtual
async def test_if_one_dies_the_others_go_on_and_its_error_is_raised_when_all_have_ended(caplog: Any) -> None:
    told: list[BaseException] = []
    first, second, _, group = pair(5, on_failure=told.append)
    error = SchemaError("run this")
    run = asyncio.create_task(group.run())
    await until(lambda: group.ready)
    first.fail("get_work", error)
    await until(lambda: group.failed)
    assert group.failed is error
    assert told == [error]
    assert not group.ready
    assert [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"] == [
        f"the Runner 'tasks' at database {(await first.identity()).database!r} of the group has died: SchemaError: run this"
    ]
    second.add(2, CANARY)
    await until(lambda: second.finished == [1, 2])
    await asyncio.sleep(600)
    assert not run.done()
    group.stop()
    with pytest.raises(SchemaError) as raised:
        await run
    assert raised.value is error
    assert told == [error]
    assert_free(second)


@virtual
async def test_on_failure_may_stop_all() -> None:
    first, second, _, group = pair(5, on_failure=lambda _: group.stop())
    error = SchemaError("run this")
    first.fail("get_work", error)
    with pytest.raises(SchemaError) as raised:
        await group.run()
    assert raised.value is error
    assert second.finished == [1]
    assert now() < 10
    assert_free(second)


@virtual
async def test_if_all_die_it_ends_at_once_and_raises_the_first_error(caplog: Any) -> None:
    first, second, _, group = pair()
    second.delay("start_session", 1)
    second.fail("start_session", DatabaseError("two", retryable=False))
    first.fail("start_session", SchemaError("one"))
    with pytest.raises(SchemaError, match="one"):
        await group.run()
    assert now() == pytest.approx(1, abs=0.1)
    assert "of the group has died: DatabaseError: two" in caplog.text
    with pytest.raises(RuntimeError, match="was stopped, or has ended"):
        group.add(Runner(table(0), do_all, settings()))


@virtual
async def test_a_process_that_is_to_end_ends_with_all_of_it() -> None:
    """`sys.exit()` in a tasker is no matter of one Runner; the others stop gracefully."""
    first, second = table(1), table(1)

    async def leave(batch: Any) -> Any:
        await asyncio.sleep(1)
        raise SystemExit(3)

    group = RunnerGroup(Runner(first, leave, settings()), Runner(second, Sleeper(5), settings()))
    with pytest.raises(SystemExit):
        await group.run()
    assert second.finished == [1]
    assert_free(second)


@virtual
async def test_cancelled_once_all_stop_gracefully_and_twice_now() -> None:
    for times in (1, 2):
        first, second, taskers, group = pair(1000 if times == 2 else 5)
        run = asyncio.create_task(group.run())
        await until(lambda: all(tasker.begun for tasker in taskers))  # noqa: B023
        for _ in range(times):
            run.cancel()
            await asyncio.sleep(1)
        with pytest.raises(asyncio.CancelledError):
            await run
        assert [tasker.ended[0][1] for tasker in taskers] == ["done" if times == 1 else "cancelled"] * 2
        assert_free(first)
        assert_free(second)


@virtual
async def test_a_failure_while_it_is_being_cancelled_is_logged(caplog: Any) -> None:
    first, _, taskers, group = pair(5)
    first.fail("finish_tasks", SchemaError("gone"))
    run = asyncio.create_task(group.run())
    await until(lambda: all(tasker.begun for tasker in taskers))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert "SchemaError: gone" in caplog.text


@virtual
async def test_in_a_cancelled_anyio_scope_it_is_one_cancellation() -> None:
    first, second, _, group = pair(10)
    with anyio.move_on_after(2):
        await group.run()
    assert first.finished == second.finished == [1]


@virtual
async def test_it_runs_once_and_a_second_run_leaves_the_first_alone() -> None:
    first, second, _, group = pair(5)
    async with running(group) as run:
        await asyncio.sleep(1)
        with pytest.raises(RuntimeError, match="a RunnerGroup runs once"):
            await group.run()
        await asyncio.sleep(1)
        assert not run.done()
    assert first.finished == second.finished == [1]


@virtual
async def test_as_a_block() -> None:
    first, second, _, group = pair(1)
    async with group:
        await until(lambda: first.finished and second.finished)
    assert_free(first)
    assert_free(second)


@virtual
async def test_a_death_in_its_block_is_critical_and_raised_by_leaving(caplog: Any) -> None:
    told: list[BaseException] = []
    first, second, _, group = pair(3, on_failure=told.append)
    with pytest.raises(SchemaError):
        async with group:
            await until(lambda: first.count("get_work"))
            first.fail("get_work", SchemaError("gone"))
            await until(lambda: group.failed)
    assert [type(error) for error in told] == [SchemaError]
    (record,) = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert record.getMessage().endswith("of the group has died: SchemaError: gone")
    assert second.finished == [1]


@virtual
async def test_wake_wakes_all() -> None:
    databases = [table(0), table(0)]
    group = RunnerGroup(*(Runner(database, do_all, settings(poll_interval=900)) for database in databases))
    async with running(group):
        await asyncio.sleep(1)
        for database in databases:
            database.add(1, "x")
        group.wake()
        await until(lambda: all(database.finished for database in databases), within=1)


@virtual
async def test_of_none_it_waits_for_some_until_it_is_stopped() -> None:
    async with running(RunnerGroup()) as run:
        await asyncio.sleep(100)
        assert not run.done()
    async with RunnerGroup() as group:
        await asyncio.sleep(1)
        database = table(1)
        group.add(Runner(database, do_all, settings()))
        await until(lambda: database.finished)
    assert_free(database)


# They come and go ----------------------------------------------------------------------------------------


@virtual
async def test_runners_come_and_go_while_it_runs() -> None:
    first, second, taskers, group = pair(5)
    third = table(1)
    (one, _) = group._runners
    async with running(group) as run:
        await until(lambda: taskers[0].begun)
        added = Runner(third, do_all, settings())
        group.add(added)
        await until(lambda: third.finished)
        await group.remove(one)
        assert now() == pytest.approx(5, abs=0.2)  # its task may end
        assert first.finished == [1]
        assert_free(first)
        await until(lambda: group.ready)
        second.add(2, CANARY)
        third.add(2, CANARY)
        await until(lambda: second.finished == third.finished == [1, 2])
        await group.remove(added)
        await group.remove(group._runners[0])
        assert_free(second)
        await asyncio.sleep(100)
        assert not run.done()  # they may come again
        group.add(Runner(first, do_all, settings()))
        first.add(2, CANARY)
        await until(lambda: first.finished == [1, 2])
    assert_free(first)


@virtual
async def test_one_that_has_died_can_be_replaced() -> None:
    broken, whole = table(1), table(1)
    broken.fail("start_session", SchemaError("install me"))
    dead = Runner(broken, do_all, settings())
    group = RunnerGroup(dead, Runner(whole, do_all, settings()))
    with pytest.raises(SchemaError, match="install me"):
        async with group:
            await until(lambda: group.failed)
            broken.heal()
            await group.remove(dead)
            group.add(Runner(broken, do_all, settings()))
            await until(lambda: broken.finished and group.ready)
    assert_free(broken)


@virtual
async def test_a_removal_that_is_waited_for_no_longer_goes_on() -> None:
    first, _, taskers, group = pair(8)
    runner = group._runners[0]
    async with running(group):
        await until(lambda: taskers[0].begun)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await group.remove(runner)
        assert group.ready  # one that is leaving does not count
        await asyncio.gather(group.remove(runner), group.remove(runner))  # and can be waited for again
        assert first.finished == [1]
        with pytest.raises(SettingsError, match="not in the RunnerGroup"):
            await group.remove(runner)


@virtual
async def test_before_it_runs_they_come_and_go_as_well() -> None:
    first, second, _, group = pair()
    runner = group._runners[0]
    await group.remove(runner)
    assert not group.ready
    async with group:
        await until(lambda: second.finished)
        assert first.finished == []
        group.add(runner)  # it was not begun
        await until(lambda: first.finished)


@virtual
async def test_what_cannot_be_added_or_removed() -> None:
    _, _, _, group = pair()
    runner = group._runners[0]
    with pytest.raises(SettingsError, match="each is a Runner, not str"):
        group.add("postgresql://u:secret@h")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="the same Runner twice"):
        group.add(runner)
    with pytest.raises(SettingsError, match="this Runner is not in the RunnerGroup"):
        await group.remove(Runner(table(0), do_all, settings()))
    async with running(group):
        await until(lambda: group.ready)
        await group.remove(runner)
        with pytest.raises(RuntimeError, match="a Runner runs once"):
            group.add(runner)
        group.stop()
        with pytest.raises(RuntimeError, match="was stopped, or has ended"):
            group.add(Runner(table(0), do_all, settings()))
        assert not group.ready


@virtual
async def test_stopped_from_another_thread_and_before_it_runs() -> None:
    first, _, taskers, group = pair(3)
    async with running(group) as run:
        await until(lambda: taskers[0].begun)
        thread = threading.Thread(target=group.stop)
        thread.start()
        thread.join()
        await run
    assert first.finished == [1]
    _, _, _, group = pair()
    group.stop()
    await group.run()


# The same one twice --------------------------------------------------------------------------------------


def test_the_same_runner_twice_is_refused() -> None:
    runner = Runner(table(0), do_all, settings())
    with pytest.raises(SettingsError, match="the same Runner twice"):
        RunnerGroup(runner, runner)


def test_the_same_shard_twice_is_refused_where_it_can_be_seen() -> None:
    mails = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()")
    notes = replace(mails, name="notes")
    secret = "postgresql://u:secret@h/one"

    def group(*databases: Any, concurrency: int | None = 2) -> RunnerGroup:
        return RunnerGroup(*(Runner(each, do_all) for each in databases), concurrency=concurrency)

    database = table(0)
    for twice in (
        (database, database),
        (PostgresDatabase(secret, mails), PostgresDatabase(secret, mails)),
        (PostgresDatabase(secret, mails), PostgresDatabase(secret, replace(mails, columns=("id", "body")))),
        (PostgresDatabase(secret, functions="f"), PostgresDatabase(secret, functions="f")),
    ):
        with pytest.raises(SettingsError, match="was given the same shard twice, .*: give each") as raised:
            group(*twice)
        assert "secret" not in str(raised.value)
        group(*twice, concurrency=None)  # to run several on one is nothing new
    group(PostgresDatabase(secret, mails), PostgresDatabase(secret, notes))
    group(PostgresDatabase(secret, mails), PostgresDatabase(secret, replace(mails, schema="other")))
    group(PostgresDatabase(secret, mails), PostgresDatabase("postgresql:///two", mails))
    with pytest.raises(SettingsError, match="same shard twice"):
        group(database).add(Runner(database, do_all))


@virtual
async def test_a_shard_that_turns_out_to_be_another_one_is_not_run_and_the_others_go_on() -> None:
    database, other = table(3), table(1)
    again = Faulty(database.inner)  # by another address
    again.delay("identity", 1)
    told: list[BaseException] = []
    group = RunnerGroup(
        *(Runner(each, do_all, settings()) for each in (database, again, other)),
        concurrency=2,
        on_failure=told.append,
    )
    async with running(group) as run:
        await until(lambda: group.failed)
        name = (await database.identity()).database
        assert [str(error) for error in told] == [
            f"database {name!r} with the mapping 'tasks' is in the group twice: give each Runner a database of its own"
        ]
        assert isinstance(group.failed, SettingsError)
        database.add(4, CANARY)
        await until(lambda: database.finished == [1, 2, 3, 4] and other.finished == [1])
        assert again.count("start_session") == 0
        group.stop()
        with pytest.raises(SettingsError):
            await run


@virtual
async def test_shards_that_change_places_wait_for_each_other() -> None:
    here, there = table(1), table(1)
    places = [here, there]

    def finder(number: int) -> Any:
        async def find() -> Any:
            return places[number]

        return find

    taskers = [Sleeper(0), Sleeper(0)]
    group = RunnerGroup(
        *(Runner(finder(number), taskers[number], settings()) for number in range(2)), concurrency=2
    )
    async with group:
        await until(lambda: here.finished and there.finished)
        taskers[0].seconds = 5
        here.add(2, CANARY)
        await until(lambda: len(taskers[0].begun) == 2)
        places.reverse()
        await until(lambda: len(here.sessions) == len(there.sessions) == 2 and group.ready, within=60)
        here.add(3, CANARY)
        there.add(3, CANARY)
        await until(lambda: here.finished == [1, 2, 3] and there.finished == [1, 3])
    assert group.failed is None
    assert [keys for _, keys in taskers[1].begun] == [[1], [3]]


@virtual
async def test_shards_that_change_places_while_they_are_down_do_not_wait_for_each_other_for_ever() -> None:
    here, there = table(0), table(0)
    places = [here, there]

    def finder(number: int) -> Any:
        async def find() -> Any:
            return places[number]

        return find

    group = RunnerGroup(*(Runner(finder(number), do_all, settings()) for number in range(2)), concurrency=2)
    async with group:
        await until(lambda: group.ready)
        for database in (here, there):
            database.expire(1)
            database.fail("start_session")
        await until(lambda: here.count("start_session") > 3 and there.count("start_session") > 3)
        places.reverse()
        for database in (here, there):
            database.heal()
            database.add(1, CANARY)
        await until(lambda: here.finished == there.finished == [1] and group.ready)
    assert group.failed is None


# One that is down ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["hangs", "refuses", "resets"])
@virtual
async def test_one_that_is_down_does_not_slow_the_others(how: str) -> None:
    databases = [table(20), table(20), table(20)]
    taskers = [Sleeper(0.5), Sleeper(0.5), Sleeper(0.5)]
    group = RunnerGroup(
        *(
            Runner(database, tasker, settings(batch_size=1, concurrency=3, prefetch=3))
            for database, tasker in zip(databases, taskers, strict=True)
        ),
        concurrency=3,
    )
    down = databases[0]
    if how == "resets":  # a session that is under way
        down.fail("*", DatabaseError("connection reset"), skip=4)
    elif how == "hangs":
        down.hang("*")
    else:
        down.fail("*")
    async with group:
        took = await until(lambda: len(databases[1].finished) == len(databases[2].finished) == 20)
        of_the_one = len(taskers[0].begun)
        assert took == pytest.approx((40 + of_the_one) * 0.5 / 3, abs=1)
        assert of_the_one <= (0 if how != "resets" else 6)
        assert group.ready is (how == "resets")  # its lease lasts for a while
        down.heal()
        await until(lambda: len(down.finished) == 20 and group.ready, within=60)
    assert group.failed is None
