"""`RunnerGroup(concurrency=)`: a bound over all Runners, taken by turns, with no place lost and none free in vain."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

from session_lock import Batch, Runner, RunnerGroup, SchemaError, SettingsError, Task, each
from session_lock.hold import Ending
from session_lock.turns import Turn, Turns
from tests.unit.faults import Faulty
from tests.unit.scenes import CANARY, Sleeper, assert_free, settings, table
from tests.unit.virtual import now, until, virtual


class Calls:
    """Taskers that note how many of them are under way at once, and whose turn it was."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.under_way = self.most = 0
        self.order: list[str] = []

    def tasker(self, name: str) -> Any:
        async def call(batch: Batch[str]) -> list[Task[str]]:
            self.order.append(name)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            try:
                await asyncio.sleep(self.seconds)
            finally:
                self.under_way -= 1
            return list(batch)

        return call


def shards(
    calls: Any, databases: list[Any], concurrency: int | None, slots: tuple[int, ...] = (), **changes: Any
) -> RunnerGroup:
    return RunnerGroup(
        *(
            Runner(
                database,
                calls.tasker(name),
                settings(batch_size=1, concurrency=each_slots, **changes),
            )
            for database, name, each_slots in zip(
                databases, "abcdef", slots or [10] * len(databases), strict=False
            )
        ),
        concurrency=concurrency,
    )


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "3", True, float("inf")], ids=repr)
def test_a_concurrency_that_is_none(wrong: Any) -> None:
    with pytest.raises(SettingsError, match=r"concurrency=.* of a RunnerGroup must be a whole number of at"):
        RunnerGroup(concurrency=wrong)


@virtual
async def test_no_more_calls_than_that_over_all_and_no_fewer() -> None:
    calls, databases = Calls(), [table(10), table(10), table(10)]
    async with shards(calls, databases, 4):
        took = await until(lambda: sum(len(each.finished) for each in databases) == 30)
    assert calls.most == 4
    assert took == pytest.approx(8, abs=0.2)  # 30 calls of a second, 4 at once
    for database in databases:
        assert_free(database)


@virtual
async def test_ten_slots_have_no_more_turns_than_one() -> None:
    """Round robin by Runner, as long as each has tasks; then those that have some get it all."""
    calls, databases = Calls(), [table(100), table(8), table(8)]
    async with shards(calls, databases, 1, (10, 1, 1)):
        await until(lambda: len(calls.order) == 40)
    turns = calls.order[2:]
    assert sorted(turns[:21]) == [*"a" * 7, *"b" * 7, *"c" * 7]
    assert all(set(turns[at : at + 3]) == set("abc") for at in range(0, 18, 3))
    assert turns[-10:] == ["a"] * 10


@virtual
async def test_one_with_nothing_to_do_keeps_no_place_and_has_the_next_when_it_has_something() -> None:
    calls, databases = Calls(), [table(100), table(0)]
    async with shards(calls, databases, 3) as group:
        await until(lambda: len(calls.order) == 9)
        assert calls.order == ["a"] * 9
        databases[1].add(1, CANARY)
        group.wake()
        await until(lambda: databases[1].finished, within=2.1)
    assert calls.most == 3


@virtual
async def test_what_waits_for_a_place_is_not_begun_and_is_given_back_when_asked_for() -> None:
    calls, databases = Calls(1000), [table(1), table(5)]
    async with shards(calls, databases, 1, drain_timeout=0) as group:
        await until(lambda: calls.order == ["a"])
        waiting = databases[1]
        await until(lambda: all(row.session_id for row in waiting._tasks.values()))
        waiting.ask_to_give_back(1, 3)
        await until(lambda: sum(row.session_id is None for row in waiting._tasks.values()) == 3)
        assert [row.attempts for row in waiting._tasks.values()] == [1, 1, 0, 0, 0]
        at = now()
        await group.remove(group._runners[1])
        assert now() == pytest.approx(at, abs=0.01)  # it waits for no place to stop
        assert_free(waiting)
        assert [row.attempts for row in waiting._tasks.values()] == [0] * 5
    assert calls.order == ["a"]


@virtual
async def test_who_was_asked_takes_a_place_that_comes_free_elsewhere_in_the_group() -> None:
    calls, databases = Calls(50), [table(1), table(3)]
    async with shards(calls, databases, 1, poll_interval=3600):
        await until(lambda: calls.order == ["a"])
        waiting = databases[1]
        await until(lambda: all(row.session_id for row in waiting._tasks.values()))
        waiting.ask_to_give_back(1, 3)
        await until(lambda: all(row.session_id is None for row in waiting._tasks.values()))
        await until(lambda: calls.order == ["a", "b"], within=60)


@virtual
async def test_a_shard_where_work_is_scarce_has_its_turn_beside_one_with_plenty() -> None:
    """Though no place is free when it looks: what it claims waits for the next one."""
    calls, databases = Calls(0.05), [table(4000), table(1)]
    one_call = settings(batch_size=1, concurrency=1, prefetch=1, drain_timeout=0)
    hung = Runner(databases[1], Sleeper(10_000), one_call)  # it has a share, and does nothing
    await hung.__aenter__()
    await until(lambda: databases[1][1].session_id == 1)
    async with shards(calls, databases, 1, poll_interval=5):
        waited = []
        for key in range(2, 50):
            await asyncio.sleep(0.2)
            databases[1].add(key, CANARY)
            added = now()
            waited.append(await until(lambda key=key: key in databases[1].finished) - added)
        assert max(waited) < 0.3
    await hung.__aexit__(None, None, None)
    assert len(databases[0].finished) > 100


@virtual
async def test_a_call_that_ignores_its_time_limit_keeps_its_place_until_it_ends() -> None:
    stuck, quick = Sleeper(1000, stubborn=True), Calls()
    databases = [table(1), table(5)]
    group = RunnerGroup(
        Runner(databases[0], stuck, settings(task_timeout=2, cancel_grace=1)),
        Runner(databases[1], quick.tasker("b"), settings(batch_size=1)),
        concurrency=2,
    )
    async with group:
        took = await until(lambda: len(databases[1].finished) == 5)
        assert took == pytest.approx(5, abs=0.5)
        assert quick.most == 1
        stuck.thaw.set()
        await until(lambda: stuck.ended)
        for key in (6, 7):
            databases[1].add(key, CANARY)
        group.wake()
        await until(lambda: quick.most == 2)


@virtual
async def test_a_call_that_was_abandoned_keeps_its_place_until_it_ends() -> None:
    stuck, quick = Sleeper(1000, stubborn=True), Calls()
    databases = [table(1), table(5)]
    leaving = Runner(databases[0], stuck, settings(drain_timeout=1, cancel_grace=1))
    group = RunnerGroup(
        leaving, Runner(databases[1], quick.tasker("b"), settings(batch_size=1)), concurrency=2
    )
    async with group:
        await until(lambda: stuck.begun)
        await group.remove(leaving)
        assert not stuck.ended
        await until(lambda: len(databases[1].finished) == 5)
        assert quick.most == 1
        stuck.thaw.set()
        for key in (6, 7):
            databases[1].add(key, CANARY)
        group.wake()
        await until(lambda: quick.most == 2)


@pytest.mark.parametrize("stubborn", [False, True])
@virtual
async def test_a_lease_that_is_torn_down_leaves_its_places(stubborn: bool) -> None:
    """By an error of ours: its calls are cancelled, and who waits gets their places, when they have ended."""
    broken, quick = Sleeper(100, stubborn=stubborn), Calls()
    databases = [table(3), table(20)]
    group = RunnerGroup(
        Runner(databases[0], broken, settings(batch_size=1)),
        Runner(databases[1], quick.tasker("b"), settings(batch_size=1)),
        concurrency=2,
    )
    with pytest.raises(ZeroDivisionError):
        async with group:
            await until(lambda: broken.begun and quick.under_way)
            hold = group._runners[0]._hold
            assert hold is not None
            hold.session = SimpleNamespace(  # type: ignore[assignment]
                lease=hold.lease, left=lambda: 1 / 0, extend=lambda **_: None, lost=False, deadline=0.0
            )
            await until(lambda: group.failed)
            await until(lambda: len(databases[1].finished) == 20)
            assert quick.most == (1 if stubborn else 2)
            broken.thaw.set()
            for key in (21, 22):
                databases[1].add(key, CANARY)
            group.wake()
            await until(lambda: quick.most == 2)


@virtual
async def test_a_turn_that_comes_as_its_runner_begins_to_stop_is_passed_on() -> None:
    long, quick = Sleeper(10), Calls()
    databases = [table(2), table(1), table(1)]
    databases[1].delay("finish_tasks", 5)  # or its slots look again, and pass it on
    group = RunnerGroup(
        Runner(databases[0], long, settings(batch_size=1, concurrency=2)),
        Runner(databases[1], quick.tasker("b"), settings()),
        concurrency=2,
    )
    async with group:
        await until(lambda: long.begun and quick.order)
        group.add(Runner(databases[2], quick.tasker("c"), settings()))
        hold = group._runners[0]._hold
        assert hold is not None
        soon = asyncio.get_running_loop().call_soon
        hold.turn.wake = lambda: (soon(hold.end, Ending.STOPPED), hold.ready_or_ending.set())
        took = await until(lambda: databases[2].finished)
        assert took == pytest.approx(2, abs=0.2)
        assert not long.ended


@virtual
async def test_runners_that_die_and_come_leave_no_place_behind() -> None:
    calls = Calls(0.3)
    choose = random.Random(5)
    group = RunnerGroup(concurrency=3)
    databases: list[Faulty] = []
    with pytest.raises(SchemaError):
        async with group:
            for number in range(60):
                database = table(choose.randrange(0, 12))
                databases.append(database)
                if choose.random() < 0.3:
                    verb = choose.choice(["get_work", "finish_tasks", "bump_session"])
                    database.fail(verb, SchemaError("gone"), skip=choose.randrange(3))
                changes = {"batch_size": choose.choice([1, 3]), "concurrency": choose.choice([1, 2, 7])}
                tasker = calls.tasker(str(number))
                group.add(Runner(database, tasker, settings(drain_timeout=0.2, cancel_grace=0.2, **changes)))
                await asyncio.sleep(choose.random())
                if choose.random() < 0.4 and group._runners:
                    await group.remove(choose.choice(group._runners))
                if choose.random() < 0.2:
                    choose.choice(databases).expire(1)
            for runner in list(group._runners):
                await group.remove(runner)
            assert group._turns is not None
            assert (group._turns._free, group._turns._round) == (3, {})
            assert calls.most == 3
            last = table(3)
            group.add(Runner(last, each(one), settings()))
            await until(lambda: len(last.finished) == 3)


async def one(task: Task[str]) -> None:
    await asyncio.sleep(0.1)


@virtual
async def test_without_a_bound_nothing_is_shared() -> None:
    calls, databases = Calls(), [table(10), table(10)]
    async with shards(calls, databases, None):
        await until(lambda: all(len(each.finished) == 10 for each in databases))
    assert calls.most == 20


# The arithmetic alone --------------------------------------------------------------------------------------


class Party:
    """Slots that take tasks as a Runner's do, in an order that a test chooses."""

    def __init__(self, turns: Turns, slots: int) -> None:
        self.ready = 0
        self.idle = slots
        self.woken = False
        self.turn: Turn = turns.join(lambda: self.ready > 0, self.wake, lambda: None)
        self.turn.waiting = slots

    def wake(self) -> None:
        self.woken = True

    def step(self) -> int:
        """Each slot that waits looks once; returns how many calls begin."""
        self.woken = False
        begun = 0
        for _ in range(self.idle):
            self.turn.waiting -= 1
            if not self.ready:
                self.turn.pass_on()
            elif self.turn.take():
                self.ready -= 1
                self.idle -= 1
                begun += 1
                continue
            self.turn.waiting += 1
        return begun


@pytest.mark.parametrize("seed", range(30))
def test_no_place_is_free_in_vain_and_no_wake_up_is_lost(seed: int) -> None:
    choose = random.Random(seed)
    places = choose.randint(1, 4)
    turns = Turns(places)
    parties = [Party(turns, choose.randint(1, 4)) for _ in range(choose.randint(1, 5))]
    running: list[Party] = []
    for _ in range(400):
        party = choose.choice(parties)
        action = choose.random()
        if action < 0.4:
            party.ready += choose.randint(1, 3)
            party.wake()
        elif action < 0.55:
            party.ready = 0  # given back: it is woken only if it comes to its end
        elif running:
            ended = running.pop(choose.randrange(len(running)))
            ended.idle += 1
            ended.turn.waiting += 1
            ended.woken = True  # this slot looks again at once
            ended.turn.give()
        if choose.random() < 0.5:
            continue
        while woken := [party for party in parties if party.woken]:
            party = choose.choice(woken)
            running += [party] * party.step()
            assert len(running) <= places
        waiting = [party for party in parties if party.turn.is_wanted]
        assert len(running) == places or not waiting
