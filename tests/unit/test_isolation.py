"""Poison isolation: one bad row sinks no others, and what may kill processes is run alone."""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import ExitStack
from typing import Any

import pytest

from session_lock import Batch, Discard, Retry, Runner, each
from session_lock.database import SESSION_EXPIRED, Outcome, Settled
from session_lock.testing import MemoryTransaction
from session_lock.testing.rows import MemoryFailure
from session_lock.waiting import wait_for
from tests.unit.faults import Faulty
from tests.unit.scenes import CANARY, assert_free, run_for, running, settings, table
from tests.unit.virtual import now, until, virtual

ONCE = Retry(delay=3600, longest=3600, jitter=0)
"""What has failed does not come again in these tests."""


class Fragile:
    """A batch tasker that raises over some keys, once it has looked at all before them."""

    def __init__(self, *bad: Any, takes: float = 0.0) -> None:
        self.bad = bad
        self.takes = takes
        self.calls: list[list[Any]] = []
        self.attempts: list[int] = []

    async def __call__(self, batch: Batch[str]) -> Any:
        self.calls.append([task.key for task in batch])
        self.attempts += [task.attempt for task in batch]
        await asyncio.sleep(self.takes)
        for task in batch:
            if task.key in self.bad:
                raise ValueError(f"bad: {task.key}")
        return batch


def sizes(tasker: Fragile) -> list[int]:
    return [len(call) for call in tasker.calls]


def errors(database: Any, key: int) -> list[str]:
    return [failure.error for failure in database.failures.get(key, [])]


# Splitting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [1, 2, 37, 50, 51, 99, 100])
@virtual
async def test_one_bad_row_sinks_none_of_the_99_others(bad: int) -> None:
    database = table(100)
    tasker = Fragile(bad)
    await run_for(0.4, database, tasker, settings(retry=ONCE))
    assert sorted(database.finished) == [key for key in range(1, 101) if key != bad]
    assert {key: errors(database, key) for key in database.failures} == {bad: [f"ValueError: bad: {bad}"]}
    assert len(tasker.calls) <= 2 * math.ceil(math.log2(100)) + 1
    assert set(tasker.attempts) == {1}
    assert [row.attempts for row in database._tasks.values()] == [1] * 100
    assert_free(database)


@pytest.mark.parametrize("bad", [(1, 2), (1, 100), (50, 51), (33, 34)])
@virtual
async def test_two_bad_rows_sink_none_of_the_others(bad: tuple[int, int]) -> None:
    database = table(100)
    tasker = Fragile(*bad)
    await run_for(0.4, database, tasker, settings(retry=ONCE))
    assert len(database.finished) == 98
    assert sorted(database.failures) == sorted(bad)
    assert len(tasker.calls) <= 4 * math.ceil(math.log2(100)) + 1


@virtual
async def test_where_all_are_bad_each_has_its_own_failure() -> None:
    database = table(16)
    tasker = Fragile(*range(1, 17))
    await run_for(0.4, database, tasker, settings(retry=ONCE, breaker_failures=None))
    assert {key: errors(database, key) for key in range(1, 17)} == {
        key: [f"ValueError: bad: {key}"] for key in range(1, 17)
    }
    assert sorted(sizes(tasker)) == [1] * 16 + [2] * 8 + [4] * 4 + [8] * 2 + [16]


@virtual
async def test_a_half_is_tried_in_the_order_of_the_batch_and_right_after_the_other() -> None:
    database = table(8)
    tasker = Fragile(3)
    await run_for(0.4, database, tasker, settings(retry=ONCE))
    assert tasker.calls == [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4], [1, 2], [3, 4], [3], [4], [5, 6, 7, 8]]
    assert database.finished == [1, 2, 4, 5, 6, 7, 8]


@virtual
async def test_what_was_settled_before_the_raise_is_not_run_again() -> None:
    database = table(8)
    calls: list[list[Any]] = []

    async def tasker(batch: Any) -> Any:
        calls.append([task.key for task in batch])
        for task in batch:
            match task.key:
                case 1:
                    batch.finish(task)
                case 2:
                    batch.release(task, after=100)
                case 3:
                    batch.discard(task, "spam")
                case 6:
                    raise ValueError
        return batch

    await run_for(0.4, database, tasker, settings(retry=ONCE))
    assert calls == [[1, 2, 3, 4, 5, 6, 7, 8], [4, 5], [6, 7, 8], [6], [7, 8]]
    assert sorted(database.finished) == [1, 4, 5, 7, 8]
    assert database.discarded == [3]
    assert database[2].attempts == 0
    assert sorted(database.failures) == [3, 6]


@virtual
async def test_what_is_settled_while_the_other_half_is_tried_is_not_run_again() -> None:
    database = table(4)
    calls: list[list[Any]] = []
    first: list[Any] = []

    async def tasker(batch: Any) -> Any:
        calls.append([task.key for task in batch])
        first.append(batch)
        if len(batch) == 4:
            raise ValueError
        first[0].finish(first[0][3])  # perhaps by a task of its own that went on
        return batch

    await run_for(0.4, database, tasker, settings(retry=ONCE))
    assert calls == [[1, 2, 3, 4], [1, 2], [3]]
    assert sorted(database.finished) == [1, 2, 3, 4]
    assert database.failures == {}


@virtual
async def test_a_verdict_on_a_task_that_is_done_with_is_nothing() -> None:
    database = table(2)
    kept: list[Any] = []

    async def tasker(batch: Any) -> Any:
        kept.append(batch)
        return batch

    async with running(Runner(database, tasker, settings(batch_size=1))):
        await until(lambda: len(database.finished) == 2)
        await asyncio.sleep(1)
        calls = len(database.calls)
        for batch in kept:
            batch.discard(batch[0], "too late")
        await asyncio.sleep(0.1)
        assert [call for call in database.calls[calls:] if call[0] != "get_work"] == []
    assert (database.discarded, database.failures) == ([], {})


@virtual
async def test_a_return_of_nothing_usable_is_the_taskers_error_and_is_not_split() -> None:
    database = table(8)
    calls: list[int] = []

    async def tasker(batch: Any) -> Any:
        calls.append(len(batch))

    await run_for(0.4, database, tasker, settings(retry=ONCE))
    assert calls == [8]
    assert len(database.failures) == 8


@pytest.mark.parametrize("in_generator", [False, True])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
@virtual
async def test_an_exit_is_not_split_and_ends_the_runner(error: BaseException, in_generator: bool) -> None:
    database = table(8)
    calls: list[int] = []

    async def tasker(batch: Any) -> Any:
        def accomplished() -> Any:
            yield batch[0]
            raise error

        calls.append(len(batch))
        if in_generator:
            return accomplished()
        batch.finish(batch[0])
        raise error

    caught: list[BaseException] = []
    try:
        await Runner(database, tasker, settings(retry=ONCE)).run()
    except BaseException as raised:
        caught.append(raised)
    assert caught == [error]
    assert calls == [8]
    assert database.finished == [1]
    assert sorted(database.failures) == [2, 3, 4, 5, 6, 7, 8]
    assert_free(database)


@virtual
async def test_whatever_a_generator_raises_is_a_failure_of_what_it_did_not_give() -> None:
    for error in (GeneratorExit(), asyncio.CancelledError(), BaseException("b"), StopAsyncIteration()):
        database = table(3)

        async def tasker(batch: Any, error: BaseException = error) -> Any:
            def accomplished() -> Any:
                for task in batch:
                    if task.key == 2:
                        raise error
                    yield task

            return accomplished()

        await run_for(0.4, database, tasker, settings(retry=ONCE))
        assert sorted(database.finished) == [1, 3]
        assert sorted(database.failures) == [2]


@virtual
async def test_halves_take_one_slot() -> None:
    database = table(40)
    at_once = most = 0

    async def tasker(batch: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.1)
        at_once -= 1
        if any(task.key % 10 == 3 for task in batch):
            raise ValueError
        return batch

    config = settings(retry=ONCE, batch_size=10, concurrency=2)
    await run_for(5, database, tasker, config)
    assert most == 2
    assert len(database.finished) == 36


@pytest.mark.parametrize("end", ["stop", "cancel", "cancel twice", "lost", "lease"])
@virtual
async def test_an_end_in_the_midst_of_splitting_makes_no_further_calls(end: str) -> None:
    """What had no call of its own goes back with its attempt; what was accomplished is recorded."""
    database = table(16)
    tasker = Fragile(1, 2, 3, 4, takes=1.0)
    runner = Runner(database, tasker, settings(retry=ONCE, batch_size=16, breaker_failures=None))
    run = asyncio.create_task(runner.run())
    await until(lambda: sizes(tasker) == [16, 8, 4, 2, 1])
    await asyncio.sleep(0.5)
    match end:
        case "stop":
            runner.stop()
        case "cancel":
            run.cancel()
        case "cancel twice":
            run.cancel()
            await asyncio.sleep(0.1)
            run.cancel()
        case "lost":
            database.expire(1)
            runner.wake()
            await until(lambda: runner._hold is None or runner._hold.ending)
            runner.stop()
        case "lease":
            database.fail("bump_session")
            database.fail("get_work")
            runner.stop()
    calls = len(tasker.calls)
    await asyncio.wait({run})
    assert len(tasker.calls) == calls
    if end == "lost":
        assert database.failures == {}
        return
    assert sorted(database.failures) == ([] if end == "cancel twice" else [1])
    assert [row.attempts for row in database._tasks.values()] == [int(end != "cancel twice"), *[0] * 15]
    assert_free(database)


@pytest.mark.parametrize("where", ["in the half that runs", "in the half that waits"])
@virtual
async def test_a_task_can_be_cancelled_while_its_batch_is_split(where: str) -> None:
    database = table(8)
    tasker = Fragile(1, takes=6.0)
    async with running(Runner(database, tasker, settings(retry=ONCE, batch_size=8))):
        await until(lambda: sizes(tasker) == [8, 4])
        key = 3 if where == "in the half that runs" else 7
        await database.cancel(key)
        await until(lambda: len(database.finished) >= 4)
        await until(lambda: database.discarded == [key])
        assert errors(database, key) == ["cancelled on request"]
        if where == "in the half that waits":
            assert [5, 6, 8] in tasker.calls
        await until(lambda: len(database.finished) == 6)
    assert_free(database)


@virtual
async def test_to_cancel_what_is_accomplished_already_stops_nothing() -> None:
    database = table(2)
    calls: list[int] = []

    async def tasker(batch: Any) -> Any:
        calls.append(len(batch))
        batch.finish(batch[0])
        await asyncio.sleep(20)
        return batch

    async with running(Runner(database, tasker, settings(retry=ONCE))) as run:
        await until(lambda: database.finished == [1])
        database.sessions[0].cancel_keys = ("1",)  # asked for just before
        await until(lambda: len(database.finished) == 2 or run.done())
    assert calls == [2]
    assert database.discarded == []


@virtual
async def test_random_rows_fail_and_each_other_is_done_once() -> None:
    choose = random.Random(5)
    for _ in range(15):
        count = choose.randrange(1, 60)
        bad = [key for key in range(1, count + 1) if choose.random() < choose.choice([0.02, 0.2, 0.7])]
        database = table(count)
        tasker = Fragile(*bad, takes=0.01)
        config = settings(
            retry=ONCE, batch_size=choose.randrange(1, 40), concurrency=2, breaker_failures=None
        )
        await run_for(5, database, tasker, config)
        assert sorted(database.finished) == [key for key in range(1, count + 1) if key not in bad]
        assert sorted(database.failures) == bad
        assert all(len(errors(database, key)) == 1 for key in bad)
        assert_free(database)


# Alone -----------------------------------------------------------------------------------------------------


def suspect(database: Faulty, *keys: int) -> None:
    """Two sessions have expired under them."""
    for key in keys:
        row = database[key]
        row.attempts = 2
        row.failures += [MemoryFailure(attempt, 0.0, None, SESSION_EXPIRED) for attempt in (1, 2)]


class Watched:
    """A tasker under each that notes what ran beside what."""

    def __init__(self, database: Faulty, takes: float = 0.5, **each_takes: float) -> None:
        self.database = database
        self.takes = takes
        self.each_takes = {int(key[1:]): seconds for key, seconds in each_takes.items()}
        self.now_running: set[Any] = set()
        self.beside: dict[Any, set[Any]] = {}
        self.held: dict[Any, list[Any]] = {}
        self.begun: list[tuple[float, Any, int]] = []

    async def __call__(self, task: Any) -> None:
        self.begun.append((now(), task.key, task.attempt))
        self.now_running.add(task.key)
        for key in self.now_running:
            self.beside.setdefault(key, set()).update(self.now_running - {key})
        self.beside[task.key] |= self.now_running - {task.key}
        mine = task.session_id
        self.held[task.key] = [
            row.key for row in self.database._tasks.values() if row.session_id == mine and row.pending
        ]
        try:
            await asyncio.sleep(self.each_takes.get(task.key, self.takes))
        finally:
            self.now_running.discard(task.key)

    def order(self) -> list[Any]:
        return [key for _, key, _ in self.begun]


@virtual
async def test_a_suspect_runs_with_nothing_beside_it_and_nothing_else_held() -> None:
    database = table(30)
    suspect(database, 4)
    tasker = Watched(database)
    async with running(
        Runner(database, each(tasker), settings(retry=ONCE, concurrency=3, tasks_per_session=10))
    ):
        await until(lambda: len(database.finished) == 30)
    assert tasker.beside[4] == set()
    assert tasker.held[4] == [4]
    assert max(len(beside) for beside in tasker.beside.values()) == 2, "the others run together again"
    assert {row.attempts for row in database._tasks.values() if row.key != 4} == {1}
    assert database[4].attempts == 3
    assert len(tasker.begun) == 30
    assert_free(database)


@virtual
async def test_what_runs_when_a_suspect_is_claimed_is_awaited_and_recorded_first() -> None:
    database = table(3)
    tasker = Watched(database, takes=1, k1=50, k2=60)
    async with running(Runner(database, each(tasker), settings(retry=ONCE, concurrency=3))):
        await until(lambda: len(database.finished) == 1)
        database.add(4, CANARY)
        suspect(database, 4)
        await asyncio.sleep(30)
        database.add(5, CANARY)
        await until(lambda: len(database.finished) == 5)
    assert tasker.beside[4] == set()
    assert tasker.held[4] == [4]
    assert tasker.order() == [1, 2, 3, 4, 5]


@virtual
async def test_a_suspect_begins_when_the_call_beside_it_ends_though_nothing_is_recorded_then() -> None:
    database = table(1)
    begun: list[float] = []

    async def tasker(batch: Any) -> Any:
        if batch[0].key == 1:
            batch.finish(batch[0])
            await asyncio.sleep(50)
        else:
            begun.append(now())
        return batch

    async with running(Runner(database, tasker, settings(retry=ONCE, batch_size=1))):
        await until(lambda: database.finished == [1])
        database.add(2, CANARY)
        suspect(database, 2)
        await until(lambda: begun)
    assert begun == [pytest.approx(50)]


@virtual
async def test_a_suspect_waits_for_the_record_of_a_call_that_ends_late() -> None:
    """Counted from the call's end, not from the claim: its record is under way only then."""
    database = table(1)
    database.delay("finish_tasks", 1.0, times=1)
    tasker = Watched(database, takes=0.1, k1=20)
    async with running(Runner(database, each(tasker), settings(retry=ONCE, concurrency=2))):
        await until(lambda: tasker.begun)
        database.add(2, CANARY)
        suspect(database, 2)
        await until(lambda: 2 in database.finished)
    assert tasker.held[2] == [2]
    assert database.finished == [1, 2]


@virtual
async def test_several_suspects_run_one_by_one_and_then_all_is_usual_again() -> None:
    database = table(40)
    suspect(database, 2, 3, 4, 20, 21)
    tasker = Watched(database)
    async with running(Runner(database, each(tasker), settings(retry=ONCE, concurrency=4))):
        await until(lambda: len(database.finished) == 40)
    for key in (2, 3, 4, 20, 21):
        assert tasker.beside[key] == set()
        assert tasker.held[key] == [key]
    assert len(tasker.begun) == 40
    assert tasker.begun[-1][0] < 15, "the usual ones have not run one by one"


@virtual
async def test_after_suspects_claims_are_single_until_a_usual_task_comes() -> None:
    database = table(1)
    suspect(database, 1)
    tasker = Watched(database)
    config = settings(retry=ONCE, concurrency=4, prefetch=4)
    async with running(Runner(database, each(tasker), config)):
        await until(lambda: database.finished == [1])
        await asyncio.sleep(3)  # looks in vain say nothing of what comes
        for key in (2, 3, 4):
            database.add(key, CANARY)
        suspect(database, 2)
        await until(lambda: len(database.finished) == 4)
    limits = [call["limit"] for call in database.arguments("get_work")]
    assert limits[0] == 8
    assert set(limits[1:5]) == {1}
    assert limits[-1] > 1
    given_back = [h for call in database.arguments("release_tasks") for h in call["args"][1]]
    assert given_back == [], "nothing was claimed beside a suspect"


@pytest.mark.parametrize("stuck", ["locked", "refused"])
@virtual
async def test_a_record_that_is_stuck_does_not_hold_up_a_suspect_for_ever(stuck: str) -> None:
    database = table(3)
    suspect(database, 2)
    tasker = Watched(database, takes=0.1)
    with ExitStack() as locks:

        async def call(task: Any) -> Any:
            if task.key == 1:
                if stuck == "refused":
                    database.inner._release = _refuse(database.inner._release)
                else:
                    locks.enter_context(database.lock(1))
            await tasker(task)
            return Discard("x") if task.key == 1 else None

        config = settings(retry=ONCE, concurrency=2, tasks_per_session=6)
        database[2].available_at = 0.5
        database[3].available_at = 0.6
        async with running(Runner(database, each(call), config)):
            took = await until(lambda: 2 in database.finished)
            assert took <= 1.8 + config.call_timeout
            await until(lambda: 3 in database.finished, within=10)
            locks.close()
    assert tasker.beside[2] == set()


def _refuse(release: Any) -> Any:
    def refusing(session: Any, handback: Any, at: float) -> Any:
        if handback.claim.key == 1:
            return Settled(1, Outcome.REFUSED, "a trigger")
        return release(session, handback, at)

    return refusing


@virtual
async def test_a_suspect_that_is_cancelled_before_it_begins_makes_room_for_others() -> None:
    database = table(1)
    tasker = Watched(database, takes=1, k1=100)
    async with running(Runner(database, each(tasker), settings(retry=ONCE, concurrency=2))):
        await until(lambda: tasker.begun)
        database.add(2, CANARY)
        suspect(database, 2)
        await until(lambda: database[2].session_id)
        await database.cancel(2)
        await until(lambda: database.discarded == [2])
        database.add(3, CANARY)
        await until(lambda: 3 in database.finished, within=5)
    assert tasker.order() == [1, 3]


@pytest.mark.parametrize("when", ["waits", "runs"])
@pytest.mark.parametrize("how", ["stop", "cancel", "lost", "give back", "pause"])
@virtual
async def test_whatever_happens_while_a_suspect_waits_or_runs_it_comes_to_its_turn(
    when: str, how: str
) -> None:
    database = table(1)
    tasker = Watched(database, takes=8, k1=20)
    runner = Runner(database, each(tasker), settings(retry=ONCE, concurrency=2))
    run = asyncio.create_task(runner.run())
    await until(lambda: tasker.begun)
    database.add(2, CANARY)
    suspect(database, 2)
    await until(lambda: database[2].session_id)
    if when == "runs":
        await until(lambda: len(tasker.begun) == 2)
    match how:
        case "stop":
            runner.stop()
        case "cancel":
            run.cancel()
        case "lost":
            database.expire(1)
        case "give back":
            database.ask_to_give_back(1, 5)
        case "pause":
            await database.pause()
            await asyncio.sleep(12)
            await database.resume()
    if how in {"stop", "cancel"}:
        await asyncio.wait({run})
        assert_free(database)
        assert database[2].attempts == (3 if when == "runs" else 2)
        runner = Runner(database, each(tasker), settings(retry=ONCE, concurrency=2))
        run = asyncio.create_task(runner.run())
    database.add(3, CANARY)
    await until(lambda: sorted(database.finished) == [1, 2, 3])
    runner.stop()
    await run
    assert 3 not in tasker.beside[2]
    assert_free(database)


async def stubbornly(thaw: asyncio.Event) -> None:
    """Wait for it, whoever cancels that."""
    while not thaw.is_set():
        try:
            await thaw.wait()
        except asyncio.CancelledError:
            pass


@virtual
async def test_a_suspect_that_is_late_holds_up_the_others_no_longer() -> None:
    database = table(6)
    suspect(database, 1)
    tasker = Watched(database, takes=0.2)
    thaw = asyncio.Event()

    async def call(task: Any) -> None:
        if task.key == 1:
            await stubbornly(thaw)
        await tasker(task)

    config = settings(retry=ONCE, concurrency=2, task_timeout=1, cancel_grace=1)
    async with running(Runner(database, each(call), config)):
        took = await until(lambda: len(database.finished) == 5)
        assert took < 6
        thaw.set()
        await until(lambda: len(database.finished) == 6)


@virtual
async def test_an_overdue_call_does_not_hold_up_a_suspect() -> None:
    database = table(1)
    tasker = Watched(database, takes=0.2)
    thaw = asyncio.Event()

    async def call(task: Any) -> None:
        if task.key == 1:
            await stubbornly(thaw)
        await tasker(task)

    config = settings(retry=ONCE, concurrency=2, task_timeout=1, cancel_grace=1)
    async with running(Runner(database, each(call), config)):
        await asyncio.sleep(0.1)
        for key in (2, 3, 4, 5):
            database.add(key, CANARY)
        suspect(database, 2, 3)
        await until(lambda: sorted(database.finished) == [2, 3, 4, 5], within=20)
        thaw.set()
        await until(lambda: 1 in database.finished)


@virtual
async def test_a_suspect_that_fails_is_a_failure_like_any_other() -> None:
    database = table(5)
    suspect(database, 1)

    async def fail(task: Any) -> None:
        if task.key == 1:
            raise RuntimeError

    await run_for(20, database, each(fail), settings(retry=Retry(max_attempts=4, delay=1, jitter=0)))
    assert errors(database, 1)[2:] == ["RuntimeError: ", "RuntimeError: "]
    assert database.discarded == [1]
    assert sorted(database.finished) == [2, 3, 4, 5]


@virtual
async def test_a_suspect_of_a_batch_tasker_is_a_batch_of_its_own() -> None:
    database = table(50)
    suspect(database, 10, 40)
    tasker = Fragile(takes=0.1)
    await run_for(20, database, tasker, settings(retry=ONCE, batch_size=20, concurrency=2))
    assert len(database.finished) == 50
    assert [10] in tasker.calls
    assert [40] in tasker.calls


@pytest.mark.fault("P13")
@virtual
async def test_a_task_that_kills_its_process_does_so_alone_in_the_end() -> None:
    """Who is a neighbour of it at first loses an attempt, but not a third one."""
    database = table(20)
    config = settings(
        retry=Retry(max_attempts=5), concurrency=5, lease_ttl=6, keepalive_interval=1, cancel_grace=1,
        call_timeout=1,
    )  # fmt: skip
    killed = asyncio.Event()
    neighbours: list[set[Any]] = []

    for life in range(12):
        tasker = Watched(database, takes=0.2)

        async def call(task: Any, tasker: Watched = tasker) -> None:
            if task.key == 3:
                database.expire(task.session_id)
                neighbours.append(
                    {row.key for row in database._tasks.values() if row.session_id == task.session_id} - {3}
                )
                killed.set()
            await tasker(task)

        killed.clear()
        runner = Runner(database, each(call), config)
        run = asyncio.create_task(runner.run())
        await wait_for(killed, 30)
        if runner._hold is not None:
            runner._hold.lose("killed")
        runner.stop()
        await run
        if database.parked or life == 11:
            break
    assert neighbours[0]
    assert all(not beside for beside in neighbours[2:]), neighbours
    assert len(neighbours) == 5
    assert database.parked == [3]
    assert sorted(database.finished) == [key for key in range(1, 21) if key != 3]


@pytest.mark.parametrize("seed", range(12))
@virtual
async def test_no_order_of_things_is_a_deadlock(seed: int) -> None:
    """Random suspects, durations, failures, stuck records, time limits and lost sessions: all is done in the end."""
    choose = random.Random(seed)
    random.seed(seed)
    count = choose.randrange(10, 60)
    database = table(count)
    suspects = [key for key in range(1, count + 1) if choose.random() < choose.choice([0.05, 0.3, 0.8])]
    suspect(database, *suspects)
    running_now: set[Any] = set()
    company: list[Any] = []
    failing = {key for key in range(1, count + 1) if choose.random() < 0.2}
    for verb in ("get_work", "finish_tasks", "release_tasks"):
        for skip in (3, 9):
            database.fail(verb, times=1, skip=skip, committed=choose.random() < 0.5)
    refused: set[Any] = set()

    def refuse(key: Any, data: Any) -> str | None:
        if key % 7 or key in refused:
            return None
        refused.add(key)
        return "not the first time"

    database.inner._refuse = refuse

    async def tasker(batch: Any) -> Any:
        running_now.update(task.key for task in batch)
        alone = [task.key for task in batch if task.key in suspects]
        if alone and running_now != set(alone):
            company.append((alone, set(running_now)))
        try:
            await asyncio.sleep(choose.choice([0, 0.01, 0.5, 4]))
        finally:
            running_now.difference_update(task.key for task in batch)
        if choose.random() < 0.03:
            database.expire(batch[0].session_id)
        if any(task.key in failing for task in batch):
            failing.difference_update([batch[0].key])
            raise ValueError("x")
        return batch

    config = settings(
        retry=Retry(max_attempts=None, delay=1, factor=1), concurrency=choose.randrange(1, 5), batch_size=choose.choice([1, 5]),
        breaker_failures=choose.choice([None, 2, 10]), task_timeout=choose.choice([None, 2]),
    )  # fmt: skip
    async with running(Runner(database, tasker, config)):
        await until(lambda: len(database.finished) == count, within=2500)
    assert company == []
    assert_free(database)


@virtual
async def test_a_bad_row_behind_rows_that_were_finished_one_by_one_opens_no_breaker(caplog: Any) -> None:
    """Those are lost when the halves are run, since they are finished: that is no failure of the instance."""
    database = table(40)

    async def tasker(batch: Any) -> Any:
        for task in batch:
            if task.key == 30:
                raise ValueError("bad row")
            async with MemoryTransaction() as connection:
                await task.finish_in(connection)
        return batch

    async with running(Runner(database, tasker, settings(concurrency=1, breaker_failures=5))) as runner_task:
        await until(lambda: len(database.finished) == 39)
        await asyncio.sleep(0.1)
        assert not runner_task.done()
    assert "in a row have failed" not in caplog.text
    assert set(database.failures) == {30}
