"""What a tasker may do, and what comes of it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
import math
import operator
import re
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec

import pytest

from session_lock import Discard, Duty, Release, Runner, SettingsError, each, every
from session_lock.database import Claim, ClaimedTask
from session_lock.tasks import Task
from session_lock.testing import MemoryDatabase
from tests.unit.faults import Faulty
from tests.unit.scenes import CANARY, assert_free, do_all, rows, run_for, running, settings, table
from tests.unit.virtual import until, virtual


def errors(database: Any, key: int) -> list[str]:
    return [failure.error for failure in database.failures.get(key, [])]


# What it returns -----------------------------------------------------------------------------------------


@virtual
async def test_what_a_batch_tasker_returns_is_finished() -> None:
    database = table(250)
    await run_for(1, database, do_all)
    assert sorted(database.finished) == list(range(1, 251))
    assert_free(database)


@virtual
async def test_what_it_returns_of_a_batch_is_finished_and_the_rest_has_failed_and_comes_again_later() -> None:
    database = table(4)

    async def odd_ones(batch: Any) -> Any:
        return [task for task in batch if task.key % 2 or task.attempt > 1]

    await run_for(0.4, database, odd_ones)
    assert sorted(database.finished) == [1, 3]
    assert errors(database, 2) == errors(database, 4) == ["the tasker did not return it"]
    assert database[2].available_at >= 0.5
    assert database[2].attempts == 1
    await run_for(2, database, odd_ones)
    assert sorted(database.finished) == [1, 2, 3, 4]
    assert database[2].attempts == 2


@virtual
async def test_a_generator_counts_up_to_where_it_raises() -> None:
    database = table(3)

    async def tasker(batch: Any) -> Any:
        def accomplished() -> Any:
            yield batch[0]
            yield batch[1]
            raise RuntimeError("midway")

        return accomplished()

    await run_for(0.4, database, tasker)
    assert database.finished == [1, 2]
    assert errors(database, 3) == ["RuntimeError: midway"]


@virtual
async def test_a_generator_that_ends_well_counts_whole() -> None:
    database = table(3)

    async def tasker(batch: Any) -> Any:
        return (task for task in batch)

    await run_for(0.4, database, tasker)
    assert database.finished == [1, 2, 3]


@pytest.mark.fault("P11")
@virtual
async def test_none_is_an_error_that_is_said_before_anything_is_claimed_again(caplog: Any) -> None:
    database = table(3)
    said_before: list[bool] = []
    work = database.inner.get_work

    async def get_work(*args: Any, **kwargs: Any) -> Any:
        said_before.append("accomplished, not NoneType" in caplog.text)
        return await work(*args, **kwargs)

    database.inner.get_work = get_work
    calls = 0

    async def tasker(batch: Any) -> Any:
        nonlocal calls
        calls += 1

    await run_for(30, database, tasker, settings(tasks_per_session=10))
    assert database.finished == []
    assert "a tasker returns the tasks that it has accomplished, not NoneType" in errors(database, 1)[0]
    # The first look brings them; the second finds the rest of the room empty, maybe before the tasker has begun.
    assert said_before[0] is False
    assert said_before[2:] and all(said_before[2:])
    assert calls <= 3 * 6


@pytest.mark.fault("P11")
@virtual
async def test_foreign_unknown_and_repeated_tasks_are_refused_one_by_one_and_the_rest_counts(
    caplog: Any,
) -> None:
    database, other = table(4), table(1)
    foreign: list[Any] = []

    async def steal(batch: Any) -> Any:
        foreign.extend(batch)
        return batch

    await run_for(0.1, other, steal)

    async def tasker(batch: Any) -> Any:
        first, second, *_ = batch
        twin = Task(batch[2].key, "twin", 1, batch[2].token, batch[2].session_id, batch[2]._holder)
        return [first, foreign[0], 4, "4", None, first, twin, object(), CANARY, second]

    await run_for(0.4, database, tasker)
    assert sorted(database.finished) == [1, 2]
    assert errors(database, 3) == errors(database, 4) == ["the tasker did not return it"]
    assert (
        "returned 7 things that are no tasks of its batch (it returns Task objects, not keys), and 1 tasks again"
        in caplog.text
    )


@pytest.mark.fault("P11")
@pytest.mark.parametrize("nonsense", [42, True, object(), each, 0])
@virtual
async def test_what_is_no_iterable_is_a_failure_of_the_batch(nonsense: Any) -> None:
    database = table(2)

    async def tasker(batch: Any) -> Any:
        return nonsense

    await run_for(0.4, database, tasker)
    assert database.finished == []
    assert errors(database, 1)[0].startswith("TaskerError: a tasker returns the tasks")


@virtual
async def test_a_tasker_that_is_not_async_fails_its_tasks_and_nothing_else() -> None:
    database = table(2)
    await run_for(0.4, database, lambda batch: list(batch))
    assert database.finished == []
    assert errors(database, 1)[0].startswith(
        "TaskerError: a tasker that is a lambda, or wraps an async function, must give something to await"
    )


def test_what_can_be_seen_to_be_no_tasker_is_refused_at_once() -> None:
    async def generator(batch: Any) -> Any:
        yield batch

    for tasker in (None, 3, generator, each):
        with pytest.raises(
            SettingsError, match=r"the tasker must be a function \(async def, or def for a thread\)"
        ):
            Runner(MemoryDatabase(), tasker)  # type: ignore[arg-type]
    for function in (None, 3, generator, dict, each(print)):
        with pytest.raises(SettingsError, match=r"a function under each\(\) must be a function"):
            each(function)  # type: ignore[arg-type]


class Called:
    """Functions for one argument, and for others, as methods and as what is called itself."""

    def __call__(self, batch: Any) -> Any:
        return batch

    def method(self, batch: Any) -> Any:
        return batch

    async def of_two(self, batch: Any, client: Any) -> Any:
        return batch

    @staticmethod
    def of_none() -> None:
        pass


def of_two(client: Any, batch: Any, dsn: str = "secret") -> Any:
    return batch


def given_a_client(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(batch: Any) -> Any:
        return function("client", batch)

    return wrapper


def of_any(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **named: Any) -> Any:
        return function(*args, **named)

    return wrapper


def told_by_hand() -> Any:
    def function(batch: Any) -> Any:
        return batch

    function.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
    return function


class ToldByHand(Called):
    __signature__ = inspect.Signature()


WRONG = [
    (lambda: None, r"<lambda>\(\): too many positional arguments"),
    (lambda a, b: None, r"<lambda>\(a, b\): missing a required argument: 'b'"),
    (lambda *, batch: None, r"<lambda>\(\*, batch\): .*"),
    (of_two, r"of_two\(client, batch, dsn\): missing a required argument: 'batch'"),
    (Called().of_two, r"of_two\(batch, client\): missing a required argument: 'client'"),
    (Called.of_none, r"of_none\(\): too many positional arguments"),
    (functools.partial(of_two, 1, 2, 3), r"of_two\(\): too many positional arguments"),
]


@pytest.mark.parametrize(("function", "said"), WRONG)
def test_a_function_that_does_not_take_one_argument_is_refused(function: Any, said: str) -> None:
    for make, takes in (
        (lambda: Runner(MemoryDatabase(), function), "the tasker .* a batch"),
        (lambda: each(function), r"a function under each\(\) .* a task"),
        (lambda: Duty("ping", every("5m"), function), "duty 'ping' .* a task"),
    ):
        with pytest.raises(SettingsError, match=f"^{takes} alone, not {said}$"):
            make()


@pytest.mark.parametrize(
    "function",
    [
        lambda batch: batch, lambda *batch: batch, lambda batch=None, *, more=None: batch, Called(), Called().method, print,
        functools.partial(of_two, "client"), functools.partial(given_a_client(of_two)), given_a_client(of_two), of_any(of_two),
        functools.lru_cache(Called().method), functools.singledispatch(Called().method),
        Mock(), MagicMock(), AsyncMock(), AsyncMock(spec=Called().method), create_autospec(Called().method),
        told_by_hand(), ToldByHand(), functools.partial(told_by_hand()), operator.itemgetter(0)
    ],
)  # fmt: skip
def test_what_may_take_one_argument_is_taken(function: Any) -> None:
    Runner(MemoryDatabase(), function)
    Runner(MemoryDatabase(), each(function))
    Duty("ping", every("5m"), function)


@virtual
async def test_the_log_says_where_a_tasker_failed_and_nothing_of_the_row(caplog: Any) -> None:
    async def send(batch: Any) -> Any:
        raise ValueError(batch[0].data)

    await run_for(0.4, table(2), send)
    assert re.search(r"failed on 2 tasks: ValueError at \S+test_tasker.py:\d+ in send", caplog.text)
    assert CANARY not in caplog.text


@pytest.mark.parametrize("how", [each, lambda send: send])
@virtual
async def test_and_what_it_called_when_that_was_elsewhere(caplog: Any, how: Any) -> None:
    def send(task: Any) -> Any:
        return json.loads("{" + CANARY)

    await run_for(0.4, table(1), how(send))
    assert re.search(
        r"failed on 1 tasks: JSONDecodeError at \S+decoder.py:\d+ in \w+, from \S+test_tasker.py:\d+ in send$",
        caplog.text,
        re.MULTILINE,
    )
    assert CANARY not in caplog.text


def test_what_can_be_seen_to_be_no_database_is_refused_without_being_told() -> None:
    with pytest.raises(SettingsError, match="not str") as raised:
        Runner("postgresql://u:secret@h/d", do_all)  # type: ignore[arg-type]
    assert "secret" not in str(raised.value)


# What it raises ------------------------------------------------------------------------------------------


def raisers() -> list[BaseException]:
    return [
        Exception("e"),
        RuntimeError("r"),
        asyncio.CancelledError(),
        TimeoutError(),
        ExceptionGroup("g", [ValueError("v"), KeyError("k")]),
        BaseExceptionGroup("b", [asyncio.CancelledError(), ValueError("v")]),
        StopAsyncIteration(),
        GeneratorExit(),
        BaseException("base"),
    ]


@pytest.mark.fault("P9")
@pytest.mark.parametrize("each_one", [False, True], ids=["batch", "each"])
@pytest.mark.parametrize("number", range(len(raisers())), ids=lambda n: type(raisers()[n]).__name__)
@virtual
async def test_what_a_tasker_raises_fails_its_own_tasks_and_the_others_go_on(
    number: int, each_one: bool
) -> None:
    database = table(3)

    async def one(task: Any) -> None:
        await asyncio.sleep(0.01)
        if task.key == 2:
            raise raisers()[number]

    async def batch_of_one(batch: Any) -> Any:
        await one(batch[0])
        return batch

    await run_for(0.4, database, each(one) if each_one else batch_of_one, settings(batch_size=1))
    assert sorted(database.finished) == [1, 3]
    assert [text.partition(":")[0] for text in errors(database, 2)] == [type(raisers()[number]).__name__]
    assert database[2].available_at >= 0.5
    assert_free(database)


@virtual
async def test_awaiting_a_task_that_was_cancelled_is_a_failure_not_an_end() -> None:
    database = table(2)

    async def tasker(task: Any) -> None:
        if task.key == 1:
            inner = asyncio.create_task(asyncio.sleep(5))
            inner.cancel()
            await inner

    await run_for(0.3, database, each(tasker))
    assert database.finished == [2]
    assert errors(database, 1) == ["CancelledError: "]


@pytest.mark.fault("P9")
@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"]
)
@virtual
async def test_an_exit_stops_the_runner_cleanly_and_is_raised_when_all_is_recorded(
    error: BaseException,
) -> None:
    database = table(6)
    caught: list[BaseException] = []

    async def tasker(batch: Any) -> Any:
        (task,) = batch
        await asyncio.sleep(0.5 if task.key == 1 else 1)  # the others are under way when this one exits
        if task.key == 1:
            raise error
        return batch

    try:
        await Runner(database, tasker, settings(batch_size=1, concurrency=3)).run()
    except BaseException as raised:
        caught.append(raised)
    assert caught == [error]
    assert sorted(database.finished) == [2, 3]
    assert errors(database, 1) == [f"{type(error).__name__}: {error}"]
    assert database[4].attempts == 0
    assert_free(database)
    assert database.calls[-1][0] == "end_session"


@virtual
async def test_an_error_whose_text_cannot_be_had_or_stored_is_recorded_all_the_same() -> None:
    database = table(3)

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    async def tasker(task: Any) -> None:
        raise {1: Mute(), 2: ValueError("a\0b\ud800c"), 3: ValueError("x" * 10**6)}[task.key]

    await run_for(0.4, database, each(tasker))
    assert errors(database, 1) == ["Mute"]
    assert errors(database, 2) == ["ValueError: a\\0b\\ud800c"]
    assert [len(text) for text in errors(database, 3)] == [4000]
    sent = [handback.error for call in database.arguments("release_tasks") for handback in call["args"][1]]
    assert all(len(text) <= 4100 for text in sent if text)


# What it settles -------------------------------------------------------------------------------------------


@pytest.mark.fault("P9")
@virtual
async def test_what_was_finished_is_kept_whatever_the_tasker_raises() -> None:
    database = table(5)

    async def tasker(batch: Any) -> Any:
        first, second, third, fourth, _ = batch
        batch.finish(first)
        batch.release(second, after=100)
        batch.discard(third, "no such address")
        await asyncio.sleep(0.1)
        batch.finish(fourth)
        raise RuntimeError("all the same")

    await run_for(0.4, database, tasker)
    assert database.finished == [1, 4]
    assert (database[2].attempts, 100 <= database[2].available_at <= 101) == (0, True)
    assert database.discarded == [3]
    assert errors(database, 3) == ["no such address"]
    assert errors(database, 5) == ["RuntimeError: all the same"]
    assert errors(database, 1) == errors(database, 4) == errors(database, 2) == []


@virtual
async def test_what_is_finished_early_is_recorded_while_the_tasker_works_on_the_others() -> None:
    database = table(2)

    async def tasker(batch: Any) -> Any:
        batch.finish(batch[0])
        await asyncio.sleep(0.2)
        assert database.finished == [1]
        return [batch[1]]

    await run_for(1, database, tasker)
    assert database.finished == [1, 2]


@virtual
async def test_the_first_verdict_on_a_task_stands() -> None:
    database = table(3)

    async def tasker(batch: Any) -> Any:
        batch.release(batch[0], after=50)
        batch.finish(batch[0])
        batch.discard(batch[1])
        return batch

    await run_for(0.4, database, tasker)
    assert database.finished == [3]
    assert database.discarded == [2]
    assert database[1].available_at >= 50


@virtual
async def test_a_task_can_be_settled_by_its_own_batch_only() -> None:
    database = table(2)
    seen: list[Any] = []

    async def tasker(batch: Any) -> Any:
        for settle in (batch.finish, batch.release, batch.discard):
            for stranger in seen:
                with pytest.raises(ValueError, match="is not a task of this batch"):
                    settle(stranger)
        seen.extend(batch)
        return batch

    await run_for(0.4, database, tasker, settings(batch_size=1, concurrency=1))
    assert sorted(database.finished) == [1, 2]
    assert len(seen) == 2


@pytest.mark.parametrize("after", [-1, math.nan, "soon"])
@virtual
async def test_a_release_after_no_number_of_seconds_is_the_taskers_error(after: Any) -> None:
    database = table(2)

    async def tasker(task: Any) -> Any:
        return Release(after) if task.key == 1 else None

    await run_for(0.4, database, each(tasker))
    assert database.finished == [2]
    assert errors(database, 1) == [
        "SettingsError: a task is released after a number of seconds, from 0 on, or None"
    ]


# Under each ------------------------------------------------------------------------------------------------


@virtual
async def test_each_takes_none_release_and_discard_and_nothing_else() -> None:
    database = table(6)

    async def tasker(task: Any) -> Any:
        match task.key:
            case 1:
                return None
            case 2:
                return Release(after=30)
            case 3:
                return Discard("for good")
            case 4:
                return task
            case 5:
                return [task]
        raise LookupError("six")

    await run_for(0.4, database, each(tasker))
    assert database.finished == [1]
    assert (database[2].attempts, database[2].available_at >= 30) == (0, True)
    assert database.discarded == [3]
    assert errors(database, 4)[0].startswith("TaskerError: a tasker under each() returns None, Release")
    assert errors(database, 5)[0].endswith("not list")
    assert errors(database, 6) == ["LookupError: six"]


@virtual
async def test_a_slot_under_each_refills_as_soon_as_it_is_free() -> None:
    database = table(12)
    at_once, most = 0, 0

    async def tasker(task: Any) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(4.0 if task.key == 1 else 0.5)
        at_once -= 1

    async with running(Runner(database, each(tasker), settings(concurrency=2))):
        took = await until(lambda: len(database.finished) == 12)
    assert most == 2
    assert took < 6


@virtual
async def test_a_discard_is_parked_where_the_mapping_has_none() -> None:
    database = table(1, discards=False)

    async def tasker(task: Any) -> Any:
        return Discard("no")

    await run_for(0.4, database, each(tasker))
    assert database.parked == [1]


# What it is never given --------------------------------------------------------------------------------------


@virtual
async def test_a_tasker_is_never_called_with_an_empty_batch() -> None:
    database = table(0)
    sizes: list[int] = []

    async def tasker(batch: Any) -> Any:
        sizes.append(len(batch))
        return batch

    async with running(Runner(database, tasker, settings(batch_size=3))):
        for key in range(1, 30):
            database.add(key, CANARY)
            await asyncio.sleep(0.05 * (key % 7))
        await until(lambda: len(database.finished) == 29)
        database.expire(1)
        await asyncio.sleep(60)
    assert min(sizes) >= 1
    assert max(sizes) <= 3


@virtual
async def test_a_row_that_cannot_be_decoded_has_failed_before_it_began() -> None:
    database = Faulty(MemoryDatabase({**rows(3), 2: ValueError("not json")}))  # type: ignore[dict-item]
    seen: list[Any] = []

    async def tasker(batch: Any) -> Any:
        seen.extend(task.key for task in batch)
        return batch

    await run_for(0.4, database, tasker)
    assert seen == [1, 3]
    assert errors(database, 2) == ["decode failed: ValueError: not json"]
    assert database[2].available_at >= 0.5


@virtual
async def test_the_log_says_where_a_row_could_not_be_decoded_and_where_the_reason_is_kept(
    caplog: Any,
) -> None:
    def decode(row: str) -> Any:
        return json.loads(row)

    try:
        decode(CANARY)
    except ValueError as error:
        await run_for(0.4, MemoryDatabase({1: error}), do_all)  # type: ignore[dict-item]
    [line] = [record.getMessage() for record in caplog.records if "cannot decode" in record.getMessage()]
    assert re.fullmatch(
        r"session \d+ of tasks cannot decode a row: JSONDecodeError at \S+decoder.py:\d+ in raw_decode, from \S+test_tasker.py:\d+ in "
        r"test_\w+; what that says is kept with the failure \(session-lock why KEY\)",
        line,
    )
    assert CANARY not in line


@virtual
async def test_a_task_that_was_freed_by_hand_and_claimed_again_is_run_once_under_its_newest_claim() -> None:
    database = table(3)
    tokens: list[tuple[int, int]] = []

    async def tasker(task: Any) -> None:
        tokens.append((task.key, task.token))
        await asyncio.sleep(1)

    async with running(Runner(database, each(tasker), settings(concurrency=1, tasks_per_session=4))):
        await until(lambda: tokens)
        database[3].session_id = None  # somebody frees a row that we hold, but have not begun
        await until(lambda: database[3].token == 2)
        await until(lambda: len(database.finished) == 3)
        await asyncio.sleep(3)
    assert tokens == [(1, 1), (2, 1), (3, 2)]


# No hot loops ------------------------------------------------------------------------------------------------


@pytest.mark.fault("P12")
@pytest.mark.parametrize("answer", [[], None, "raise"])
@virtual
async def test_a_tasker_that_accomplishes_nothing_makes_no_hot_loop(answer: Any) -> None:
    database = table(5)
    calls = 0

    async def tasker(batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if answer == "raise":
            raise RuntimeError
        return answer

    await run_for(60, database, tasker)
    # Each task is tried after about 1, 2, 4, 8, 16, 32 seconds: 6 or 7 times, in batches or alone; and halves of batches.
    assert 5 <= calls <= 5 * 8 * (2 if answer == "raise" else 1)
    assert database.count("get_work") <= 60 / 0.8 + 3 * calls
    assert database.count("release_tasks") <= calls


@virtual
async def test_attempts_are_counted() -> None:
    database = table(1)
    attempts: list[int] = []

    async def tasker(task: Any) -> None:
        attempts.append(task.attempt)
        if task.attempt < 4:
            raise RuntimeError

    async with running(Runner(database, each(tasker), settings())):
        await until(lambda: database.finished)
    assert attempts == [1, 2, 3, 4]


@virtual
async def test_failures_are_logged_by_their_type_alone(caplog: Any) -> None:
    database = table(1)

    async def tasker(task: Any) -> None:
        raise RuntimeError(task.data)

    await run_for(0.4, database, each(tasker))
    assert any(
        r.levelno == logging.WARNING and "failed on 1 tasks: RuntimeError" in r.getMessage()
        for r in caplog.records
    )
    assert CANARY not in repr(ClaimedTask(Claim(1, 1), 1, CANARY))
