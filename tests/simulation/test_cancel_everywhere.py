"""Cancel `run()` between any two steps of the loop: whatever was under way, nothing is left and nothing is lost.

The n-th step of a `Stepper` is any point between two awaits of the engine, its phases, the taskers or the database.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from typing import Any

import pytest

from session_lock import Batch, DatabaseError, Discard, Release, Retry, Runner, RunnerGroup, Settings, each
from session_lock import session as sessions
from session_lock.database import SESSION_EXPIRED
from session_lock.tasker import in_thread
from session_lock.testing import MemoryDatabase, VirtualTimeLoop
from session_lock.testing.rows import MemoryFailure
from tests.stepping import SteppingLoop
from tests.unit.faults import Faulty
from tests.unit.scenes import rows, table
from tests.unit.virtual import complaints, left_tasks


class Stepper(SteppingLoop, VirtualTimeLoop):
    def __init__(self) -> None:
        super().__init__(limit=4000)


# Scenarios -------------------------------------------------------------------------------------------------

FEW = Settings(
    concurrency=2, tasks_per_session=3, start_jitter=0, keepalive_interval=0.4, lease_ttl=6, cancel_grace=1, call_timeout=1,
    drain_timeout=2, shutdown_timeout=2, poll_interval=0.3,
)  # fmt: skip


def batches() -> tuple[Faulty, Runner[Any]]:
    """Tasks that are finished, returned, released, discarded, not returned, or raised over; a transaction; keepalives."""
    database = Faulty(MemoryDatabase(rows(9)))

    async def tasker(batch: Batch[str]) -> Any:
        await asyncio.sleep(0.3)
        done = []
        for task in batch:
            match task.key:
                case 2:
                    batch.finish(task)
                case 3:
                    batch.release(task, after=0.5 if task.attempt == 1 and task.token < 3 else 1000)
                case 4:
                    batch.discard(task, "no")
                case 5 if task.attempt == 1:
                    pass
                case 6 if task.attempt == 1:
                    raise RuntimeError
                case 7:
                    async with task.transaction():
                        await asyncio.sleep(0.01)
                case _:
                    done.append(task)
        await asyncio.sleep(0.3)
        return done

    config = Settings(
        batch_size=2, concurrency=2, tasks_per_session=6, start_jitter=0.1, keepalive_interval=0.4, lease_ttl=6, cancel_grace=1,
        call_timeout=1, drain_timeout=2, shutdown_timeout=2, poll_interval=0.3,
    )  # fmt: skip
    return database, Runner(database, tasker, config)


def one_by_one() -> tuple[Faulty, Runner[Any]]:
    """Under each; an answer that is lost, an error, a locked row, and a session that is lost midway."""
    database = Faulty(MemoryDatabase(rows(8), refuse=lambda key, data: "no" if key == 8 else None))
    database.fail("get_work", times=1, skip=1, committed=True)
    database.fail("finish_tasks", times=1, committed=True)
    database.fail("bump_session", DatabaseError("away"), times=1, skip=1)

    async def tasker(task: Any) -> Any:
        try:
            await asyncio.sleep(0.2)
            if task.key == 1 and task.session_id == 1:
                database.expire(1)
        finally:
            await asyncio.sleep(0.1)  # cleans up
        return {2: Release(after=500), 3: Discard("x")}.get(task.key)

    config = Settings(
        concurrency=2, start_jitter=0, keepalive_interval=0.4, lease_ttl=6, cancel_grace=1, call_timeout=1, drain_timeout=2,
        shutdown_timeout=2, poll_interval=0.3,
    )  # fmt: skip
    return database, Runner(database, each(tasker), config)


def isolating() -> tuple[Faulty, Runner[Any]]:
    """Halves of batches, in a thread; a suspect that waits to be alone; a breaker that opens and closes; a call that is late."""
    database = Faulty(MemoryDatabase(rows(8)))
    database[6].attempts = 2
    database[6].failures += [MemoryFailure(attempt, 0.0, None, SESSION_EXPIRED) for attempt in (1, 2)]
    database[6].available_at = database[7].available_at = 0.2

    in_a_thread = in_thread(list)

    async def tasker(batch: Batch[str]) -> Any:
        if any(task.key == 7 and task.attempt == 1 for task in batch):
            await asyncio.sleep(10)
        await asyncio.sleep(0.05)
        if any(task.key <= 3 and task.attempt == 1 for task in batch):
            raise ValueError
        return await in_a_thread(batch) if len(batch) == 1 else batch

    config = Settings(
        batch_size=4, concurrency=2, start_jitter=0, keepalive_interval=0.4, lease_ttl=6, cancel_grace=1, call_timeout=1,
        drain_timeout=2, shutdown_timeout=2, poll_interval=0.3, task_timeout=0.5, breaker_failures=3,
        retry=Retry(max_attempts=3, delay=0.1),
    )  # fmt: skip
    return database, Runner(database, tasker, config)


def moving() -> tuple[Faulty, Runner[Any]]:
    """A finder whose database moves, so that one session ends and another starts."""
    here, there = MemoryDatabase(rows(4)), MemoryDatabase(rows(3))
    database = Faulty(here)
    new = Faulty(there)
    asked = 0

    async def finder() -> Any:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return database if asked < 6 else new

    database.others = [new]  # type: ignore[attr-defined]

    async def tasker(task: Any) -> None:
        await asyncio.sleep(0.2)

    return database, Runner(finder, each(tasker), FEW)


def grouped() -> tuple[Faulty, RunnerGroup]:
    """Shards that share two calls at once, and one that has fewer tasks than slots."""
    database, second, third = Faulty(MemoryDatabase(rows(4))), Faulty(MemoryDatabase(rows(3))), table(1)
    database.others = [second, third]  # type: ignore[attr-defined]

    async def tasker(task: Any) -> None:
        await asyncio.sleep(0.15)

    return database, RunnerGroup(
        *(Runner(each_one, each(tasker), FEW) for each_one in (database, second, third)), concurrency=2
    )


# The sweep -------------------------------------------------------------------------------------------------


def ended_and_free(database: Any) -> str | None:
    """What is wrong, if anything: a row that is held by a session that has neither ended nor expired, a live session."""
    for part in (database, *getattr(database, "others", ())):
        for row in part.inner._tasks.values():
            if row.session_id is not None and not part.sessions[row.session_id - 1].ended:
                owner = part.sessions[row.session_id - 1]
                if owner.live(part.clock()):
                    return f"{row} is held"
        if any(session.live(part.clock()) for session in part.sessions):
            return "a session is live"
        doubles = [key for key in part.finished if part.finished.count(key) > 1]
        if doubles:
            return f"{doubles} were finished twice"
    return None


def cancelled_at(
    scenario: Any, *steps: int, length: float, how: str = "run", seed: int = 7
) -> tuple[bool, int]:
    """Run the scenario and cancel it at these steps; (whether the first of them was reached, steps in all)."""
    random.seed(seed)
    real = sessions.lease_clock
    reached = []
    with complaints() as complained, asyncio.Runner(loop_factory=Stepper) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Stepper)
        sessions.lease_clock = loop.time
        loop.set_exception_handler(lambda _, context: complained.append(str(context)))

        async def main() -> None:
            database, service = scenario()

            async def block() -> None:
                async with service:
                    await asyncio.sleep(1000)

            run = asyncio.create_task(service.run() if how == "run" else block())

            def cancel() -> None:
                reached.append(loop.steps)
                run.cancel()

            loop.begin(dict.fromkeys(steps, cancel))
            loop.call_later(length, lambda: None if run.done() else run.cancel())  # the scenario's own end
            await asyncio.wait({run})
            loop.at.clear()
            assert run.cancelled(), run
            left = await left_tasks()
            assert not left, f"cancelled at {steps}: {left}"
            wrong = ended_and_free(database)
            assert wrong is None, f"cancelled at {steps}: {wrong}"
            # Whatever is not finished can be done by the next Runner: at once, since nothing is held.
            open_keys = {row.key for row in database.inner._tasks.values() if row.pending}
            assert open_keys | set(database.finished) | set(database.discarded) == set(database.inner._tasks)
            lease = await database.inner.start_session(capacity=100, ttl=10, label="", app_version="")
            await asyncio.sleep(1001)  # backed-off ones come due
            lease = await database.inner.start_session(capacity=100, ttl=10, label="", app_version="")
            work = await database.inner.get_work(lease, limit=100)
            claimed = {task.claim.key for task in work.tasks}
            assert claimed == open_keys - set(database.parked), (
                f"cancelled at {steps}: {open_keys - claimed} cannot be claimed"
            )

        try:
            runner.run(main())
        finally:
            sessions.lease_clock = real
        steps_in_all = loop.steps
    if not steps or steps[0] % 20 == 0:
        gc.collect()
    assert complained == [], f"cancelled at {steps}: {complained}"
    return bool(reached), steps_in_all


SCENARIOS = [
    pytest.param(batches, 2.2, "run", id="batches"),
    pytest.param(batches, 2.2, "block", id="batches in a block"),
    pytest.param(one_by_one, 2.2, "run", id="one by one"),
    pytest.param(isolating, 1.4, "run", id="isolating"),
    pytest.param(moving, 1.8, "run", id="moving"),
    pytest.param(grouped, 0.8, "run", id="grouped"),
]


@pytest.fixture(autouse=True)
def silent(caplog: Any) -> Any:
    """Thousands of runs: their logs are not what this is about."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.fault("P10")
@pytest.mark.parametrize(("scenario", "length", "how"), SCENARIOS)
def test_cancelled_once_at_each_step(scenario: Any, length: float, how: str, injected: Any) -> None:
    swept = 0
    while cancelled_at(scenario, swept + 1, length=length, how=how)[0]:
        swept += 1
    print(f"{swept} points")
    injected("P10", swept)
    assert swept > 200


@pytest.mark.fault("P10")
@pytest.mark.parametrize(("scenario", "length", "how"), SCENARIOS)
def test_cancelled_twice_at_some_pairs_of_steps(
    scenario: Any, length: float, how: str, injected: Any
) -> None:
    _, steps = cancelled_at(scenario, length=length, how=how)
    choose = random.Random(1)
    for _ in range(60):
        first = choose.randrange(1, steps)
        second = first + choose.choice([1, 2, 3, 5, 8, 13, 40, 100])
        cancelled_at(scenario, first, second, length=length, how=how)
        injected("P10", 2)
