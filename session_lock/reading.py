"""What a mapping's functions have answered, as values: rows as claimed tasks, words as outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, cast

from session_lock.database import Claim, ClaimedTask, Outcome, Settled, Work
from session_lock.models.decoding import by_attributes
from session_lock.queue_table import parsed, selected
from session_lock.schema import ENVELOPE
from session_lock.table import TaskTable
from session_lock.tasks import TaskKey

T = TypeVar("T")

Row: TypeAlias = Any
"""A record of the driver: by name, by number, and in slices."""

TRACEPARENT = "traceparent"
"""The column whose value is told of each task, if the mapping names it."""

OUTCOMES = {str(outcome): outcome for outcome in Outcome}
"""A look into a dict, since a thousand of them are read at once."""


class Reader(Generic[T]):
    """Reads the rows of one mapping. `key` and `decode` are the user's, if given: what they make of a row's key and columns."""

    def __init__(
        self, table: TaskTable | None, decode: Callable[..., T], key: Callable[[Any], TaskKey] | None
    ) -> None:
        self._table = table
        self._decode = by_attributes(decode, table.columns if table else ())
        self._key = key
        self.columns: str = selected(table, ENVELOPE)
        """What to read of `get_work`."""

    def key(self, key: Any) -> TaskKey:
        return self._key(key) if self._key else cast("TaskKey", key)

    def settled(self, outcomes: Iterable[Iterable[Any]]) -> list[Settled]:
        """Of rows of a key and a word."""
        return [Settled(self.key(key), OUTCOMES[outcome]) for key, outcome in outcomes]

    def work(self, rows: Sequence[Row], settled: Sequence[Settled] = ()) -> Work[T]:
        """The answer to `get_work`; `settled` if the outcomes were told by another call."""
        state = rows[-1]
        claimed = [row for row in rows if row["kind"] == "task"]
        return Work(
            left=state["lease_left"],
            tasks=self._tasks(claimed),
            settled=settled or self._settled(rows),
            position=(claimed[-1]["task_position"] or claimed[0]["task_position"]) if claimed else None,
            next_due=state["next_due"],
            share=state["task_share"],
            limited=state["outcome"] is not None,
            walked=state["walked"],
            heard=bool(state["heard"]),
            sharing=state["sharing"],
        )

    def unreadable(self, rows: Sequence[Row], error: Exception) -> Work[T]:
        """The one task whose row the driver cannot read, as one that has failed before it began."""
        tasks: list[ClaimedTask[T]] = [
            self._failed(row, self._claim(row), error) for row in rows if row["kind"] == "task"
        ]
        state = rows[-1]
        return Work(
            left=state["lease_left"], tasks=tasks, settled=self._settled(rows), share=state["task_share"]
        )

    def _settled(self, rows: Sequence[Row]) -> list[Settled]:
        return self.settled((row["task_key"], row["outcome"]) for row in rows if row["kind"] == "outcome")

    def _tasks(self, rows: Sequence[Row]) -> list[ClaimedTask[T]]:
        if not rows:
            return []
        begin = len(ENVELOPE)
        names = self._table.columns if self._table else tuple(rows[0].keys())[begin:]
        as_they_are = self._decode is cast("object", dict)  # the commonest: the columns are the data
        traced = TRACEPARENT in names
        tasks: list[ClaimedTask[T]] = []
        for row in rows:
            claim = self._claim(row)
            try:
                columns = parsed(self._table, dict(zip(names, row[begin:], strict=True)))
                data = cast("T", columns) if as_they_are else self._decode(**columns)
            except Exception as error:  # noqa: BLE001 (the user's: it is this task's failure, not the batch's)
                tasks.append(self._failed(row, claim, error))
                continue
            cancelled, rescued = row["outcome"] == "cancelled", row["outcome"] == "rescued"
            alone = bool(row["task_alone"])
            parent = columns[TRACEPARENT] if traced else None
            tasks.append(
                ClaimedTask(claim, row["task_attempt"], data, None, alone, cancelled, parent, rescued)
            )
        return tasks

    def _claim(self, row: Row) -> Claim:
        return Claim(self.key(row["task_key"]), row["task_token"])

    def _failed(self, row: Row, claim: Claim, error: Exception) -> ClaimedTask[T]:
        return ClaimedTask(claim, row["task_attempt"], None, error, cancelled=row["outcome"] == "cancelled")
