"""What a Runner claims ahead, and what it gives back when others have nothing to do."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from session_lock import Runner, Settings, each
from session_lock.database import SESSION_EXPIRED
from session_lock.pace import Pace
from session_lock.testing import MemoryDatabase
from session_lock.testing.rows import MemoryFailure
from tests.unit.faults import Faulty
from tests.unit.virtual import now, until, virtual


class Sleeping:
    """A tasker under `each`: it takes so many seconds, and notes who began what, and when."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun: dict[Any, float] = {}

    async def __call__(self, task: Any) -> None:
        assert task.key not in self.begun
        self.begun[task.key] = now()
        await asyncio.sleep(self.seconds)


def settings(**changes: Any) -> Settings:
    return Settings(
        **{"start_jitter": 0, "concurrency": 2, "prefetch": 2, "keepalive_interval": 5, **changes}
    )


def held(database: MemoryDatabase[Any]) -> dict[int | None, int]:
    counts: dict[int | None, int] = {}
    for row in database._tasks.values():
        if row.pending:
            counts[row.session_id] = counts.get(row.session_id, 0) + 1
    return counts


# How far ahead ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "seconds", "most", "expected"),
    [
        (None, 1.0, 10, 0),  # nobody knows yet
        (None, math.inf, 10, 10),
        (60.0, math.inf, 10, 10),
        (60.0, 1.0, 10, 0),
        (0.0, 1.0, 10, 10),
        (0.001, 1.0, 10, 10),
        (0.5, 1.0, 10, 10),  # 4 slots begin 8 calls of 5 tasks
        (2.0, 1.0, 50, 10),  # 2 calls
        (0.5, 1.0, 40, 40),
        (0.5, 0.0, 40, 0),
    ],
)
@virtual
async def test_what_is_begun_within_a_time(
    mean: float | None, seconds: float, most: int, expected: int
) -> None:
    pace = Pace(4, 5)
    if mean is not None:
        await calls(pace, mean)
    assert pace.begun_within(seconds, most) == expected


async def calls(pace: Pace, *durations: float) -> None:
    for seconds in durations:
        with pace.call():
            await asyncio.sleep(seconds)


@virtual
async def test_newer_calls_weigh_more() -> None:
    pace = Pace(1, 1)
    await calls(pace, 100.0, *[0.001] * 40)
    assert pace.begun_within(1.0, 10) == 10
    await calls(pace, 100.0)
    assert pace.begun_within(1.0, 10) == 0


@virtual
async def test_a_slot_whose_call_takes_longer_than_usual_begins_nothing_soon() -> None:
    pace = Pace(2, 1)
    await calls(pace, *[0.1] * 3)
    assert pace.begun_within(0.5, 10) == 10
    with pace.call():
        await asyncio.sleep(0.4)
        assert pace.begun_within(0.5, 10) == 10
        await asyncio.sleep(0.2)
        assert pace.begun_within(0.5, 10) == 5  # by the other one
        with pace.call():
            await asyncio.sleep(0.6)
            assert pace.begun_within(0.5, 10) == 0


@virtual
async def test_of_long_tasks_none_is_claimed_ahead_and_of_short_ones_as_many_as_are_allowed() -> None:
    for seconds, expected in ((60.0, 2), (0.01, 4)):
        database = MemoryDatabase(dict.fromkeys(range(200), "a"))
        most = 0
        async with Runner(database, each(Sleeping(seconds)), settings()):
            for _ in range(100):
                await asyncio.sleep(0.005)
                most = max(most, held(database).get(1, 0))
        assert most == expected


@virtual
async def test_prefetch_says_how_many_at_most() -> None:
    for prefetch in (0, 7):
        database, most = MemoryDatabase(dict.fromkeys(range(400), "a")), 0
        async with Runner(database, each(Sleeping(0.01)), settings(prefetch=prefetch)):
            for _ in range(100):
                await asyncio.sleep(0.005)
                most = max(most, held(database).get(1, 0))
        assert max(2, prefetch) <= most <= 2 + prefetch


# Hand-over -------------------------------------------------------------------------------------------------


async def a_hoarder(seconds: float, tasks: int = 8, **changes: Any) -> Any:
    """A Runner that was alone, and holds eight tasks, of which it runs two."""
    database = Faulty(MemoryDatabase(dict.fromkeys(range(tasks), "a")))
    tasker = Sleeping(seconds)
    hoarder = Runner(database, each(tasker), settings(prefetch=6, prefetch_time=math.inf, **changes))
    await hoarder.__aenter__()
    await until(lambda: held(database.inner).get(1) == tasks)
    return database, tasker, hoarder


@pytest.mark.fault("B2", "B3")
@virtual
async def test_a_joiner_with_nothing_to_do_is_given_what_others_have_not_begun() -> None:
    database, first, hoarder = await a_hoarder(60)
    second = Sleeping(60)
    await asyncio.sleep(10)
    joined = now()
    async with Runner(database, each(second), settings()):
        await until(lambda: len(second.begun) == 2)
        assert now() - joined < 0.1  # it is told, and does not wait for a keepalive
        assert set(first.begun).isdisjoint(second.begun)
        await asyncio.sleep(20)
        # Of 8 tasks the share of the one with 8 of 12 is 5: it has kept 2 running, and what is above its share is gone.
        assert held(database.inner)[1] == 5
        await until(lambda: not database.inner.pending, within=400)
    await hoarder.__aexit__(None, None, None)
    assert len(first.begun) + len(second.begun) == 8  # each was begun once
    assert all(row.attempts == 1 for row in database.inner._tasks.values())


@virtual
async def test_without_being_told_it_hears_at_its_next_keepalive() -> None:
    database, _, hoarder = await a_hoarder(60)
    database.inner._tell = lambda _: None
    second = Sleeping(60)
    await asyncio.sleep(11.6)  # after its second keepalive
    joined = now()
    async with Runner(database, each(second), settings()):
        await until(lambda: len(second.begun) == 2)
        assert 0.5 < now() - joined < 6.7  # a keepalive, and the joiner's poll
    await hoarder.__aexit__(None, None, None)


@virtual
async def test_what_will_be_begun_at_once_is_kept() -> None:
    database, first, hoarder = await a_hoarder(0.04)
    await until(lambda: len(database.inner.finished) == 2)
    async with Runner(database, each(Sleeping(0.04)), settings()):
        await until(lambda: not database.inner.pending)
    await hoarder.__aexit__(None, None, None)
    assert not database.count("release_tasks")
    assert len(first.begun) == 8


@pytest.mark.fault("B1")
@virtual
async def test_what_is_running_is_never_moved() -> None:
    database = Faulty(MemoryDatabase(dict.fromkeys(range(2), "a")))
    first, second = Sleeping(30), Sleeping(30)
    async with Runner(database, each(first), settings()):
        await until(lambda: len(first.begun) == 2)
        async with Runner(database, each(second), settings()):
            await asyncio.sleep(20)
    assert (len(first.begun), len(second.begun)) == (2, 0)
    assert sorted(database.inner.finished) == [0, 1]
    assert not database.count("release_tasks")


@virtual
async def test_where_work_is_scarce_a_free_slot_looks_at_once() -> None:
    """Nothing is claimed ahead there; so a slot that comes free finds its next task without a poll."""
    database = MemoryDatabase(dict.fromkeys(range(12), "a"))
    taskers = [Sleeping(1), Sleeping(1)]
    hourly = settings(poll_interval=3600)
    async with Runner(database, each(taskers[0]), hourly), Runner(database, each(taskers[1]), hourly):
        await until(lambda: not database.pending)
        assert now() == pytest.approx(3, abs=0.1)
    assert [len(tasker.begun) for tasker in taskers] == [6, 6]


@virtual
async def test_where_work_is_scarce_nobody_looks_without_a_free_slot_until_the_next_poll() -> None:
    """Whatever wakes it. Many sessions that look in vain, at each task that one gives back, keep the database from those who are free."""
    database = Faulty(MemoryDatabase(dict.fromkeys(range(4), "a")))
    ahead = settings(prefetch_time=math.inf, poll_interval=10)
    runners = [Runner(database, each(Sleeping(60)), ahead) for _ in range(2)]
    async with runners[0], runners[1]:
        await until(lambda: held(database.inner) == {1: 2, 2: 2})
        await asyncio.sleep(1)
        looks = database.count("get_work")
        for _ in range(20):
            for runner in runners:
                runner.wake()
            await asyncio.sleep(0.1)
        assert database.count("get_work") == looks
        for key in range(10, 50):
            database.add(key, "a")
        await until(lambda: held(database.inner)[2] == 4, within=10)


@virtual
async def test_a_look_that_brings_more_than_can_begin_ends_the_scarcity() -> None:
    """Else nothing would be claimed ahead of a backlog before the next poll."""
    database = Faulty(MemoryDatabase(dict.fromkeys(range(4), "a")))
    runners = [
        Runner(database, each(Sleeping(0.5)), settings(prefetch_time=math.inf, poll_interval=3600))
        for _ in range(2)
    ]
    async with runners[0], runners[1]:
        await until(lambda: held(database.inner) == {1: 2, 2: 2})
        for key in range(10, 110):
            database.add(key, "a")
        await until(lambda: held(database.inner).get(1) == held(database.inner).get(2) == 4)
        assert now() < 1


@virtual
async def test_what_was_to_begin_soon_and_did_not_is_given_after_all() -> None:
    database = MemoryDatabase({1: 0.02, 2: 0.02, 3: 0.02, 4: 0.02, **dict.fromkeys(range(5, 12), 30.0)})
    begun: dict[int, float] = {}

    async def take(task: Any) -> None:
        begun[task.key] = now()
        await asyncio.sleep(task.data)

    slow = settings(poll_interval=3600, prefetch=6, prefetch_time=math.inf)
    async with Runner(database, each(take), slow):
        await until(lambda: len(begun) == 6)  # the first of the long ones have just begun, after quick ones
        async with Runner(database, each(take), slow):
            await until(lambda: len(begun) == 8, within=1)


@virtual
async def test_a_task_that_waits_to_be_alone_is_given_to_who_could_run_it() -> None:
    database = MemoryDatabase({1: 100.0, 2: 0.01, 3: 0.01, 4: 0.01})
    row = database[4]
    row.attempts, row.failures = 3, [MemoryFailure(n, 0.0, n, SESSION_EXPIRED) for n in (1, 2)]
    begun: dict[int, float] = {}

    async def take(task: Any) -> None:
        begun[task.key] = now()
        await asyncio.sleep(task.data)

    async with Runner(database, each(take), settings(drain_timeout=200)):
        await until(lambda: row.session_id == 1)
        assert 1 in begun and 4 not in begun
        async with Runner(database, each(take), settings()):
            await until(lambda: 4 in begun, within=5)


@virtual
async def test_a_stop_hands_over_what_was_not_begun_at_once() -> None:
    database, first, hoarder = await a_hoarder(60, drain_timeout=100)
    second = Sleeping(60)
    async with Runner(database, each(second), settings(concurrency=8, poll_interval=3600)):
        await asyncio.sleep(1)
        before = len(second.begun)
        hoarder.stop()
        stopped = now()
        await until(lambda: len(second.begun) == 6)
        assert now() - stopped < 0.1
        assert before < 6
        await hoarder.__aexit__(None, None, None)
    assert len(first.begun) == 2


@virtual
async def test_who_was_asked_claims_nothing_ahead_for_a_while() -> None:
    """Else it would take again what it has given, if there is plenty by its own measure."""
    database = MemoryDatabase(dict.fromkeys(range(40), "a"))
    async with Runner(
        database, each(Sleeping(60)), settings(prefetch=6, prefetch_time=math.inf, poll_interval=10)
    ):
        await until(lambda: held(database).get(1) == 8)
        database.ask_to_give_back(1, 6)
        await until(lambda: held(database)[1] == 2)
        await asyncio.sleep(9)
        assert held(database)[1] == 2
        await until(lambda: held(database)[1] > 4)  # from the next call that ends on
