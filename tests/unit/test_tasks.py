"""`Task`, `Batch` and `each` by themselves, over a holder that notes what it is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from session_lock import Batch, Discard, Release, SettingsError, Task, each
from session_lock.database import Claim, ClaimedTask
from session_lock.tasks import Finish
from session_lock.testing import run_virtual
from tests.unit.scenes import CANARY


class Notes:
    """A Holder."""

    def __init__(self) -> None:
        self.verdicts: dict[Any, Any] = {}
        self.asked: list[tuple[str, list[Any]]] = []

    def lease_left(self) -> float:
        return 12.5

    def assert_held(self, tasks: Sequence[Task[Any]]) -> None:
        self.asked.append(("assert_held", [task.key for task in tasks]))

    async def finish_in(self, connection: Any, tasks: Sequence[Task[Any]]) -> None:
        self.asked.append((connection, [task.key for task in tasks]))

    def finish_in_sync(self, connection: Any, tasks: Sequence[Task[Any]]) -> None:
        self.asked.append((f"{connection}, in a thread", [task.key for task in tasks]))

    def transaction(self, tasks: Sequence[Task[Any]]) -> Any:
        self.asked.append(("transaction", [task.key for task in tasks]))

    def settle(self, task: Task[Any], verdict: Any) -> None:
        self.verdicts[task.key] = verdict

    def is_settled(self, task: Task[Any]) -> bool:
        return task.key in self.verdicts


def batch_of(count: int) -> tuple[Batch[str], Notes]:
    notes = Notes()
    return Batch([Task(key, f"{CANARY}-{key}", 1, 1, 5, notes) for key in range(1, count + 1)], notes), notes


def test_a_batch_is_a_sequence_of_its_tasks() -> None:
    batch, _ = batch_of(3)
    assert len(batch) == 3
    assert [task.key for task in batch] == [1, 2, 3]
    assert batch[-1].key == 3
    assert [task.key for task in batch[1:]] == [2, 3]
    assert batch[1] in batch
    assert list(reversed(batch))[0] is batch[2]


def test_no_representation_shows_data_or_who_holds_it() -> None:
    batch, _ = batch_of(2)
    shown = f"{batch!r} {batch} {batch[0]!r} {batch[:]!r} {ClaimedTask(Claim(1, 2), 1, CANARY)!r}"
    assert CANARY not in shown
    assert "Notes" not in shown
    assert repr(batch) == "Batch(2 tasks)"
    assert repr(batch[0]) == "Task(key=1, attempt=1, token=1, session_id=5)"


def test_two_claims_of_one_row_are_two_tasks() -> None:
    first, second = (Task(1, "x", 1, 1, 1, Notes()) for _ in range(2))
    assert first != second
    assert len({first, second}) == 2


def test_finish_release_and_discard_are_verdicts_on_one_task() -> None:
    batch, notes = batch_of(4)
    batch.finish(batch[0])
    batch.release(batch[1], after=3)
    batch.release(batch[2])
    batch.discard(batch[3], "why")
    assert notes.verdicts == {1: Finish(), 2: Release(3), 3: Release(None), 4: Discard("why")}


def test_what_is_said_of_all_means_those_that_are_not_settled() -> None:
    batch, notes = batch_of(3)
    batch.finish(batch[1])
    batch.assert_held()
    batch.transaction()
    run_virtual(batch.finish_in("connection"))
    batch.finish_in_sync("connection")
    assert notes.asked == [
        ("assert_held", [1, 3]),
        ("transaction", [1, 3]),
        ("connection", [1, 3]),
        ("connection, in a thread", [1, 3]),
    ]


def test_what_is_said_of_some_means_those() -> None:
    batch, notes = batch_of(3)
    batch.assert_held(batch[2])
    batch.transaction(batch[0], batch[2])
    run_virtual(batch.finish_in("connection", batch[1]))
    batch.finish_in_sync("connection", batch[2])
    assert notes.asked == [
        ("assert_held", [3]),
        ("transaction", [1, 3]),
        ("connection", [2]),
        ("connection, in a thread", [3]),
    ]


def test_a_task_speaks_for_itself() -> None:
    batch, notes = batch_of(2)
    batch[1].assert_held()
    batch[1].transaction()
    run_virtual(batch[1].finish_in("connection"))
    batch[1].finish_in_sync("connection")
    assert notes.asked == [
        ("assert_held", [2]),
        ("transaction", [2]),
        ("connection", [2]),
        ("connection, in a thread", [2]),
    ]
    assert batch.lease_left() == batch[0].lease_left() == 12.5


@pytest.mark.parametrize("verb", ["finish", "release", "discard", "transaction"])
@pytest.mark.parametrize("stranger", [Task(1, "x", 1, 1, 5, Notes()), 1, None], ids=["twin", "key", "none"])
def test_a_foreign_task_is_refused_and_nothing_is_settled(verb: str, stranger: Any) -> None:
    batch, notes = batch_of(2)
    with pytest.raises(ValueError, match="is not a task of this batch"):
        getattr(batch, verb)(stranger)
    with pytest.raises(ValueError, match="is not a task of this batch"):
        run_virtual(batch.finish_in("connection", batch[0], stranger))
    assert notes.verdicts == {}
    assert notes.asked == []


@pytest.mark.parametrize(
    ("answer", "returned", "verdicts"),
    [
        (None, [1], {}),
        (Release(), [], {1: Release()}),
        (Release(after=9), [], {1: Release(9)}),
        (Discard("x"), [], {1: Discard("x")}),
    ],
)
def test_each_turns_the_answer_into_a_verdict(answer: Any, returned: list[int], verdicts: Any) -> None:
    batch, notes = batch_of(1)

    async def tasker(task: Task[str]) -> Any:
        assert task is batch[0]
        return answer

    assert [task.key for task in run_virtual(each(tasker)(batch))] == returned
    assert notes.verdicts == verdicts


@pytest.mark.parametrize("after", [-1, math.nan, "5m", timedelta(minutes=5)])
def test_a_release_after_no_number_of_seconds_is_refused_where_it_is_made(after: Any) -> None:
    with pytest.raises(SettingsError, match="after a number of seconds"):
        Release(after=after)


@pytest.mark.parametrize("answer", [True, 0, "done", (), Finish()])
def test_each_takes_no_other_answer(answer: Any) -> None:
    batch, notes = batch_of(1)

    async def tasker(task: Task[str]) -> Any:
        return answer

    with pytest.raises(TypeError, match=f"not {type(answer).__name__}"):
        run_virtual(each(tasker)(batch))
    assert notes.verdicts == {}
