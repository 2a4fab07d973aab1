"""How work is looked for: when, how much, and where."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from session_lock import Batch, DatabaseError, Limit, Runner, SchemaError, Settings, each
from session_lock.testing import MemoryDatabase
from tests.unit.faults import Faulty
from tests.unit.scenes import CANARY, Sleeper, assert_free, do_all, rows, running, settings, table
from tests.unit.virtual import now, until, virtual

# When ----------------------------------------------------------------------------------------------------


@virtual
async def test_it_works_until_none_is_left_before_it_sleeps() -> None:
    database = table(1500)
    async with running(Runner(database, do_all, settings(poll_interval=1000, batch_size=10, concurrency=2))):
        took = await until(lambda: len(database.finished) == 1500)
    assert took < 1
    assert len(database.times("get_work")) >= 1500 / 30


@virtual
async def test_between_looks_that_bring_nothing_lies_a_poll_interval_with_a_fifth_of_jitter() -> None:
    database = table(0)
    async with running(Runner(database, do_all, settings(poll_interval=10))):
        await asyncio.sleep(2000)
    looks = database.times("get_work")
    gaps = [later - earlier for earlier, later in zip(looks, looks[1:], strict=False)]
    assert 8 <= min(gaps) < 8.4
    assert 11.6 < max(gaps) <= 12.01


@virtual
async def test_runners_that_start_together_begin_apart_within_a_poll_interval() -> None:
    database = table(0)
    for jitter, most in ((None, 2.0), (30.0, 30.0), (0.0, 0.0)):
        began, first = now(), len(database.sessions)
        runners = [
            Runner(database, do_all, Settings(poll_interval=2, start_jitter=jitter)) for _ in range(20)
        ]
        tasks = [asyncio.create_task(runner.run()) for runner in runners]
        await until(lambda: len(database.sessions) == first + 20)  # noqa: B023
        starts = [at - began for at in database.times("start_session")[first:]]
        assert max(starts) <= most + 0.01
        assert max(starts) - min(starts) >= most / 3
        for runner in runners:
            runner.stop()
        await asyncio.wait(tasks)


@virtual
async def test_a_task_that_comes_due_before_the_next_poll_is_begun_in_time() -> None:
    database, tasker = table(0), Sleeper(0)
    async with running(Runner(database, tasker, settings(poll_interval=60))):
        database.add(1, CANARY, after=7.25)
        database.add(2, CANARY, after=20.5)
        await until(lambda: len(database.finished) == 2)
    assert [at for at, _ in tasker.begun] == [pytest.approx(7.25, abs=0.01), pytest.approx(20.5, abs=0.01)]
    assert database.count("get_work") <= 8


@virtual
async def test_wake_looks_at_once() -> None:
    database = table(0)
    runner = Runner(database, do_all, settings(poll_interval=1000))
    runner.wake()  # before it runs: nothing to be woken
    async with running(runner):
        await asyncio.sleep(100)
        database.add(1, CANARY)
        runner.wake()
        assert await until(lambda: database.finished) < 100.1
    runner.wake()


@virtual
async def test_wake_during_a_look_is_not_lost() -> None:
    """The row may have been committed after the look began to read."""
    database = table(0)
    runner = Runner(database, do_all, settings(poll_interval=1000))
    async with running(runner):
        await asyncio.sleep(10)
        database.delay("get_work", 1, committed=True, times=1)
        runner.wake()
        await asyncio.sleep(0.5)
        database.add(1, CANARY)
        runner.wake()
        await until(lambda: database.finished, within=3)


@virtual
async def test_an_idle_runner_makes_one_call_a_poll_and_one_a_keepalive() -> None:
    database = table(0)
    async with running(Runner(database, do_all, settings(poll_interval=5))):
        await asyncio.sleep(500)
        assert len(database.calls) <= 500 / 4 + 500 / 4.5


# How much ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "capacity", "each_one"),
    [
        ({}, 1100, False),
        ({}, 50, True),
        ({"tasks_per_session": 12}, 12, False),
        ({"tasks_per_session": 12}, 12, True),
    ],
)
@virtual
async def test_it_never_holds_more_than_its_capacity(changes: Any, capacity: int, each_one: bool) -> None:
    database = table(3000)
    most = 0

    async def slow(task: Any) -> None:
        await asyncio.sleep(random.random())

    async def tasker(batch: Batch[str]) -> Any:
        await asyncio.sleep(random.random())
        return list(batch)

    async with running(Runner(database, each(slow) if each_one else tasker, settings(**changes))):
        for _ in range(120):
            await asyncio.sleep(0.05)
            most = max(most, sum(row.session_id is not None for row in database._tasks.values()))
    assert capacity - 2 <= most <= capacity
    assert database.arguments("start_session")[0]["capacity"] == capacity
    assert all(
        len(call["held"]) - len(call["finished"]) + call["limit"] <= capacity
        for call in database.arguments("get_work")
    )


@virtual
async def test_the_next_batch_is_there_when_the_one_before_it_ends() -> None:
    database, tasker = table(60), Sleeper(1)
    database.delay("get_work", 0.5)
    async with running(Runner(database, tasker, settings(batch_size=10, concurrency=1))):
        took = await until(lambda: len(database.finished) == 60)
    starts = [at for at, _ in tasker.begun]
    assert [len(keys) for _, keys in tasker.begun] == [10] * 6
    assert starts == [pytest.approx(0.5 + number, abs=0.01) for number in range(6)]
    assert took == pytest.approx(6.5, abs=0.05)


@virtual
async def test_prefetched_tasks_are_refilled_in_lots_not_one_by_one() -> None:
    database = table(400)

    async def tasker(task: Any) -> None:
        await asyncio.sleep(0.1)

    async with running(Runner(database, each(tasker), settings(concurrency=20))):
        await until(lambda: len(database.finished) == 400)
    assert database.count("get_work") <= 400 / 10 + 5


@virtual
async def test_two_sessions_share_what_there_is() -> None:
    database = table(0)
    taskers = [Sleeper(3), Sleeper(3)]
    first, second = (
        Runner(database, tasker, settings(batch_size=1, concurrency=10, patience=10)) for tasker in taskers
    )
    async with running(first), running(second):
        await asyncio.sleep(1.5)
        for key in range(10):
            database.add(key, CANARY)
        await until(lambda: len(database.finished) == 10)
    assert [len(tasker.begun) for tasker in taskers] == [5, 5]


@virtual
async def test_free_slots_take_more_than_their_share_after_patience_if_the_others_do_not_come_for_theirs() -> (
    None
):
    database = table(4)
    await database.start_session(capacity=10, ttl=1000, label="looks for nothing", app_version="")
    tasker = Sleeper(0)
    async with running(
        Runner(
            database,
            tasker,
            settings(batch_size=1, concurrency=10, tasks_per_session=10, poll_interval=100, patience=4),
        )
    ):
        took = await until(lambda: len(database.finished) == 4, within=30)
    assert 3.9 < took < 8.1
    assert [call["over_share"] for call in database.arguments("get_work")].count(True) == 1
    # Its share of 4, and then, as it is done with these at once, of the 2 that are left.
    assert len([at for at, _ in tasker.begun if at < 1]) == 3


class Dear(Faulty):
    """Where each look from the start takes long."""

    async def get_work(self, lease: Any, **options: Any) -> Any:
        work = await super().get_work(lease, **options)
        return work if work.walked is None else replace(work, walked=0.1)


@virtual
async def test_where_looks_from_the_start_take_long_it_takes_its_part_from_a_position_and_the_rest_after_its_patience() -> (
    None
):
    database, tasker = Dear(MemoryDatabase(rows(0))), Sleeper(0)
    async with with_a_position(database, tasker, poll_interval=10, patience=4):
        tasker.seconds, came = 60, now()
        for key in range(100, 110):
            database.add(key, CANARY)
        await asyncio.sleep(3.5)
        began = [at - came for at, keys in tasker.begun if keys[0] >= 100]
        assert (len(began), max(began) < 0.1) == (5, True)
        await asyncio.sleep(3)
    began = [at - came for at, keys in tasker.begun if keys[0] >= 100]
    assert (len(began), max(began)) == (10, pytest.approx(4, abs=0.1))
    assert all(call["position"] for call in database.arguments("get_work")[-3:])


async def by_and_by(database: Faulty, tasks: int = 60) -> None:
    """So that sessions have positions, and others of a while ago."""
    for key in range(tasks):
        database.add(key, CANARY)
        await asyncio.sleep(0.5)


@asynccontextmanager
async def with_a_position(
    database: Faulty, tasker: Sleeper, slots: int = 10, **changes: Any
) -> AsyncIterator[None]:
    """A Runner that has one, beside a session for as many tasks that looks for nothing."""
    await database.start_session(capacity=slots, ttl=10_000, label="looks for nothing", app_version="")
    config = settings(batch_size=1, concurrency=slots, tasks_per_session=slots, **changes)
    async with running(Runner(database, tasker, config)):
        await by_and_by(database)
        yield


@virtual
async def test_bursts_are_shared_from_a_position_on_and_nobody_looks_again_and_again_for_the_part_of_others() -> (
    None
):
    database = Dear(MemoryDatabase(rows(0)))
    taskers = [Sleeper(0), Sleeper(0)]
    first, second = (Runner(database, tasker, settings(batch_size=1, concurrency=10)) for tasker in taskers)
    async with running(first), running(second):
        await by_and_by(database, 120)
        for tasker in taskers:
            tasker.seconds = 100
        looked = database.count("get_work")
        for burst in range(1, 4):
            for key in range(4):
                database.add(1000 * burst + key, CANARY)
            await asyncio.sleep(3)
        await asyncio.sleep(20)
        assert database.count("get_work") - looked < 100
        # One look from the start may go over the share that the one before it was told of, a minute ago.
        assert min(sum(keys[0] >= 1000 for _, keys in tasker.begun) for tasker in taskers) >= 4


@pytest.mark.parametrize(("running_there", "longest"), [(0, 1.0), (10, 0.0)])
@virtual
async def test_free_slots_beside_full_sessions_wait_for_their_patience_at_most_from_a_position_on(
    running_there: int, longest: float
) -> None:
    """And not at all if these have said at their last keepalives that they are full. Each task that ends is a look for another one."""
    database = Dear(MemoryDatabase(rows(0)))
    for _ in range(4):
        lease = await database.start_session(capacity=10, ttl=10_000, label="full", app_version="")
        database.inner._sessions[lease.id].running = running_there
    tasker, came = Sleeper(0), {}
    config = settings(batch_size=1, concurrency=10, tasks_per_session=10)
    async with running(Runner(database, tasker, config)):
        await by_and_by(database)
        tasker.seconds = 0.5
        for burst in range(1, 9):
            for key in range(1000 * burst, 1000 * burst + 8):
                database.add(key, CANARY)
                came[key] = now()
            await asyncio.sleep(2)
        await asyncio.sleep(5)
    waited = [at - came[key] for at, (key,) in tasker.begun if key in came]
    assert (len(waited), max(waited)) == (64, pytest.approx(longest, abs=0.05))


@virtual
async def test_what_a_look_from_the_start_has_left_to_others_is_taken_by_one_in_a_minute_if_these_do_not_come_for_it() -> (
    None
):
    """Looks from the position, which do not see it, do not make it forget that. (There are no pieces: the order has no ends.)"""

    class Endless(Dear):
        async def get_work(self, lease: Any, **options: Any) -> Any:
            work = await super().get_work(lease, **{**options, "until": None})
            return replace(work, walked=0.001) if options["until"] is not None else work

    database, tasker = Endless(MemoryDatabase(rows(0))), Sleeper(0)
    async with with_a_position(database, tasker):
        tasker.seconds = 10_000
        for key in range(1000, 1005):
            database.add(key, CANARY)
        await asyncio.sleep(30)
        came = now()
        for key in range(2000, 2004):
            database.add(key, CANARY, available_at=0.0)
        await asyncio.sleep(130)
    began = [at - came for at, (key,) in tasker.begun if key >= 2000]
    assert len(began) == 4
    assert max(began) < 121


@virtual
async def test_a_wake_up_during_a_look_that_brings_its_part_is_not_lost() -> None:
    class Late(Dear):
        async def get_work(self, lease: Any, **options: Any) -> Any:
            work = await super().get_work(lease, **options)
            await asyncio.sleep(0.01)
            return work

    database, tasker = Late(MemoryDatabase(rows(0))), Sleeper(0)
    async with with_a_position(database, tasker, slots=30, poll_interval=60, patience=30):
        tasker.seconds, came = 100, now()
        for key in (1000, 1001):
            database.add(key, CANARY)
        await asyncio.sleep(0.005)
        database.add(1002, CANARY)
        await asyncio.sleep(1)
        assert [keys[0] for at, keys in tasker.begun if at >= came] == [1000, 1001]


@virtual
async def test_a_session_that_was_idle_for_long_keeps_to_its_share_of_what_comes() -> None:
    database = table(0)
    shares: list[int] = []
    for seed in range(10):
        random.seed(seed)
        taskers = [Sleeper(0.5), Sleeper(0.5)]
        first, second = (
            Runner(database, tasker, settings(batch_size=1, concurrency=10, patience=3)) for tasker in taskers
        )
        async with running(first), running(second):
            await asyncio.sleep(20 + random.random())
            done = len(database.finished)
            for key in range(10):
                database.add(100 * seed + key, CANARY)
            await until(lambda: len(database.finished) == done + 10)  # noqa: B023
        shares += [len(tasker.begun) for tasker in taskers]
    assert shares.count(5) > len(shares) / 2


@virtual
async def test_over_share_is_never_asked_for_by_a_session_that_is_alone() -> None:
    database = table(0)
    async with running(Runner(database, do_all, settings(poll_interval=1, patience=5))):
        await asyncio.sleep(60)
        assert not any(call["over_share"] for call in database.arguments("get_work"))


@virtual
async def test_what_lies_before_the_position_is_found_within_a_poll_interval_though_there_is_plenty_behind_it() -> (
    None
):
    database = table(3000)
    tasker = Sleeper(0.1)
    async with running(Runner(database, tasker, settings(batch_size=5, concurrency=2, poll_interval=2))):
        await asyncio.sleep(5.05)
        database.inner._wake = lambda: None
        database.add(0, "committed late", available_at=-math.inf)
        late = now()
        took = await until(lambda: 0 in database.finished) - late
        assert len(database.finished) < 3000
    assert took < 2 + 0.5  # what was fetched already runs first
    positions = [call["position"] for call in database.arguments("get_work")]
    assert positions[0] is None
    assert sum(position is not None for position in positions) > len(positions) / 2


@virtual
async def test_what_others_give_back_is_found_at_the_next_look_though_there_is_plenty_behind_it() -> None:
    database = table(3000)
    quick = settings(batch_size=5, concurrency=2, poll_interval=3600)
    leaver = Runner(database, Sleeper(60), replace(quick, prefetch=40, drain_timeout=1000))
    async with running(leaver), running(Runner(database, Sleeper(0.1), quick)):
        await asyncio.sleep(5.05)
        given = [row.key for row in database._tasks.values() if row.pending and row.session_id == 1][10:]
        leaver.stop()
        took = await until(lambda: all(database[key].session_id != 1 for key in given))
        await until(lambda: set(given) <= set(database.finished))
        assert len(given) == 40
        assert now() - took < 40 / 100 + 0.5  # before all that is behind them
        assert len(database.finished) < 3000


@virtual
async def test_of_many_wake_ups_few_lead_to_a_look_from_the_start() -> None:
    database = table(3000)
    async with running(Runner(database, Sleeper(0.01), settings(batch_size=1, concurrency=2, prefetch=0))):
        await asyncio.sleep(1)
        looks = len(database.arguments("get_work"))
        while now() < 2:
            database.inner._wake()
            await asyncio.sleep(0.001)
        positions = [call["position"] for call in database.arguments("get_work")][looks:]
    assert len(positions) >= 100
    assert 5 <= positions.count(None) <= 25


# Where ---------------------------------------------------------------------------------------------------


class Finder:
    def __init__(self, database: Any) -> None:
        self.database = database
        self.asked = 0

    async def __call__(self) -> Any:
        self.asked += 1
        if isinstance(self.database, Exception):
            raise self.database
        if self.database == "hang":
            await asyncio.get_running_loop().create_future()
        return self.database


@virtual
async def test_the_finder_is_asked_in_each_cycle_and_the_same_object_changes_nothing() -> None:
    database = table(5)
    finder = Finder(database)
    async with running(Runner(finder, do_all, settings())):
        await asyncio.sleep(10)
    assert finder.asked >= database.count("get_work")
    assert database.count("identity") == 1  # when the session was started
    assert len(database.sessions) == 1
    assert len(database.finished) == 5


@virtual
async def test_another_object_for_the_same_database_is_used_from_then_on_by_the_same_session() -> None:
    old = table(3)
    new = Faulty(old.inner)
    finder = Finder(old)
    async with running(Runner(finder, do_all, settings())):
        await until(lambda: len(old.finished) == 3)
        finder.database = new
        old.fail("get_work")
        old.fail("finish_tasks")
        old.fail("bump_session")
        old.add(4, CANARY)
        await until(lambda: len(old.finished) == 4, within=5)
        await asyncio.sleep(60)
    assert len(old.sessions) == 1
    assert new.count("bump_session") > 5
    assert old.count("end_session") == 0
    assert new.count("end_session") == 1
    assert_free(new)


@virtual
async def test_another_database_ends_the_session_here_and_starts_one_there_and_nothing_is_lost() -> None:
    here, there = table(6), Faulty(MemoryDatabase(rows(3)))
    finder, tasker = Finder(here), Sleeper(5)
    async with running(Runner(finder, tasker, settings(batch_size=1, concurrency=2, poll_interval=1))):
        await until(lambda: len(tasker.begun) == 2)
        # looks stop while all is full, so room is needed for the finder to be asked
        finder.database = there
        tasker.seconds = 0.5
        await until(lambda: len(there.finished) == 3, within=30)
        assert len(here.finished) >= 2
        assert_free(here)
        assert here.failures == {}
        assert [row.attempts for row in here._tasks.values() if row.pending] == [0] * (6 - len(here.finished))
        assert here.count("end_session") == 1
        assert all(at <= here.times("end_session")[0] for at in here.times("get_work"))
    assert_free(there)


@virtual
async def test_a_full_runner_notices_a_move_when_it_has_room_again() -> None:
    here, there = table(1), table(1)
    finder = Finder(here)
    tasker = Sleeper(8)
    async with running(Runner(finder, tasker, settings())):
        await until(lambda: tasker.begun)
        finder.database = there
        tasker.seconds = 0
        await until(lambda: there.finished, within=20)
    assert here.finished == [1]
    assert here.sessions[0].ended


@pytest.mark.parametrize(
    "answer",
    [
        OSError("dns"),
        DatabaseError("x", retryable=False),
        SchemaError("y"),
        None,
        "postgresql://u:secret@h",
        3,
        "hang",
    ],
    ids=repr,
)
@virtual
async def test_a_finder_that_fails_is_a_database_that_is_away(answer: Any, caplog: Any) -> None:
    database = table(2)
    finder = Finder(answer)
    async with running(Runner(finder, do_all, settings())) as run:
        await asyncio.sleep(30)
        assert not run.done()
        assert 3 <= finder.asked <= 30
        finder.database = database
        await until(lambda: len(database.finished) == 2, within=15)
        # And in mid-course: the session stays where it is, and works on.
        finder.database = answer
        database.add(3, CANARY)
        await until(lambda: len(database.finished) == 3, within=15)
        await asyncio.sleep(60)
        assert not run.done()
        assert len(database.sessions) == 1
    assert "secret" not in caplog.text


@virtual
async def test_a_new_object_that_cannot_tell_its_identity_is_not_used() -> None:
    old, new = table(1), table(1)
    new.fail("identity")
    finder = Finder(old)
    async with running(Runner(finder, do_all, settings())) as run:
        await until(lambda: old.finished)
        finder.database = new
        await asyncio.sleep(60)
        assert not run.done()
        assert new.finished == []
        new.heal()
        await until(lambda: new.finished, within=15)
    assert old.sessions[0].ended


# Several -------------------------------------------------------------------------------------------------


@virtual
async def test_runners_of_one_process_share_a_database_and_each_task_is_finished_once() -> None:
    database = table(500)

    async def tasker(batch: Batch[str]) -> Any:
        await asyncio.sleep(random.random() / 10)
        return list(batch)

    runners = [Runner(database, tasker, settings(batch_size=7, concurrency=2)) for _ in range(4)]
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    await until(lambda: len(database.finished) == 500)
    for runner in runners:
        runner.stop()
    await asyncio.wait(tasks)
    assert sorted(database.finished) == list(range(1, 501))
    assert_free(database)


@virtual
async def test_a_finish_that_is_recorded_while_a_look_is_under_way_is_not_forgotten() -> None:
    """That look was held back by a limit, and has not seen the room that the finish has made."""

    class Slow(MemoryDatabase[str]):
        async def get_work(self, *args: Any, **kwargs: Any) -> Any:
            work = await super().get_work(*args, **kwargs)
            await asyncio.sleep(0.5)  # the answer is on its way
            return work if now() > 2.2 else replace(work, limited=False)  # nothing else was due before

    database = Slow(rows(1), limits=(Limit(1),))
    done: list[float] = []

    async def tasker(task: Any) -> None:
        await asyncio.sleep(2)
        done.append(now())

    async with running(Runner(database, each(tasker), settings(poll_interval=600))):
        await asyncio.sleep(2.2)
        assert done == []
        database.add(2, CANARY)  # which wakes: a look begins
        await until(lambda: len(done) == 2, within=30)
        assert 2.2 < done[0] < 2.7, "the first was done while that look was under way"


# What is finished goes along ---------------------------------------------------------------------------------


@virtual
async def test_what_is_finished_goes_along_with_a_look_unless_others_share() -> None:
    """Two that have finished some in the transaction of their claim could wait for each other."""
    database = table(2000)
    quick = settings(batch_size=5, concurrency=2, prefetch=0)
    async with running(Runner(database, Sleeper(0.01), quick)):
        await until(lambda: len(database.finished) >= 200)
        alone = [bool(call["finished"]) for call in database.arguments("get_work")]
        async with running(Runner(database, Sleeper(0.01), quick)):
            await asyncio.sleep(0.1)
            looks = len(database.arguments("get_work"))
            await until(lambda: len(database.finished) >= 600)
            shared = [bool(call["finished"]) for call in database.arguments("get_work")][looks:]
    assert alone.count(True) > len(alone) / 2
    assert not any(shared)


@virtual
async def test_what_is_finished_does_not_wait_for_a_look_that_takes_long() -> None:
    class Walking(Faulty):
        async def get_work(self, *args: Any, **options: Any) -> Any:
            work = await super().get_work(*args, **options)
            return work if work.walked is None else replace(work, walked=0.006)

    database = Walking(MemoryDatabase((key, CANARY) for key in range(2000)))
    async with running(Runner(database, Sleeper(0.05), settings(batch_size=5, concurrency=2, prefetch=0))):
        await until(lambda: len(database.finished) == 2000)
    looks = database.arguments("get_work")
    from_start = [call for call in looks if call["position"] is call["until"] is None]
    assert 3 <= len(from_start) < len(looks) / 10
    assert not any(call["finished"] for call in from_start[2:])  # known from two of them on
