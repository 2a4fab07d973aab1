"""The limits of a `MemoryDatabase`, as `sql/tasks.limits.alwaysup.sql` keeps them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from session_lock.errors import SettingsError
from session_lock.limits import AnyLimit, Rate, as_limits, rules_of
from session_lock.tasks import TaskKey
from session_lock.testing.rows import MemoryTask

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Picked(Generic[T]):
    """What may be claimed, and what is known of the rest."""

    rows: list[MemoryTask[T]]
    limited: bool = False
    next_at: float = math.inf
    not_before: float = -math.inf

    def next_due(self, scheduled: float | None, now: float) -> float | None:
        """Seconds until there may be more, with what is known of the schedule; None: unknown."""
        seconds = self.next_at - now
        if scheduled is not None and not self.limited:
            seconds = min(seconds, scheduled)
        if seconds == math.inf and self.not_before > -math.inf:
            seconds = self.not_before - now
        seconds = max(seconds, self.not_before - now)
        return None if seconds == math.inf else seconds


class MemoryLimits(Generic[T]):
    """`limits` and `fair_by`; a row's value is what `value(key, data)` says, or the data's item or attribute of that name."""

    def __init__(
        self,
        limits: Sequence[AnyLimit],
        fair_by: str | None,
        value: Callable[[TaskKey, T], Any] | None,
    ) -> None:
        self.rules = rules_of(as_limits(limits), fair_by)
        self._value = value
        self._turn = 0  # in which order values came last: those after this number come first
        self._numbers: dict[Any, int] = {}
        self._started: dict[
            Any, list[float]
        ] = {}  # of the group (None) and of each value: when tasks were claimed

    def value_of(self, row: MemoryTask[T]) -> Any:
        column = self.rules.column
        if column is None or isinstance(row.data, Exception):
            return None
        if self._value is not None:
            return self._value(row.key, row.data)
        if isinstance(row.data, Mapping) and column in row.data:
            return row.data[column]
        if hasattr(row.data, column):
            return getattr(row.data, column)
        raise SettingsError(f"the data of task {row.key!r} has no {column!r}: give MemoryDatabase value=")

    def possible(self, due: Collection[MemoryTask[T]]) -> int:
        """How many of the tasks that are due could be held at once."""
        rules = self.rules
        each = rules.each.n if rules.each else len(due)
        number = sum(min(each, count) for count in Counter(map(self.value_of, due)).values())
        return min(number, rules.group.n) if rules.group else number

    def pick(
        self,
        session_id: int,
        want: int,
        *,
        free: Sequence[MemoryTask[T]],
        pending: Sequence[MemoryTask[T]],
        held: Collection[MemoryTask[T]],
        now: float,
    ) -> Picked[T]:
        """`free` and `pending` are in claim order. What the caller holds without knowing it is free, and counts as held."""
        unknown = [row for row in free if row.session_id == session_id and self.rules.counts_held]
        free = [row for row in free if row not in unknown]
        rows = unknown[:want]
        want -= len(rows)
        room, not_before = self._room_in_group(len(free), held, now)
        limited = room < want and (room <= 0 or len(free) > room)
        want = min(want, room)

        taken, heads = Counter(map(self.value_of, held)), self._heads(pending)
        full: set[Any] = set()
        for row in self._in_turns(free):
            if want <= 0:
                break
            value = self.value_of(row)
            if self._is_full(value, taken, now) or (self.rules.ordered and heads[value] is not row):
                limited = True
                full.add(value)
                continue
            rows.append(row)
            taken[value] += 1
            want -= 1
            self._turn = self._numbers.get(value, 0)
            self._started.setdefault(None, []).append(now)
            self._started.setdefault(("value", value), []).append(now)
        return Picked(rows, limited, self._next_at(pending, heads, full, taken, now), not_before)

    def _room_in_group(self, free: int, held: Collection[MemoryTask[T]], now: float) -> tuple[int, float]:
        """How many more the group lets through, and when there may be more than these."""
        room, not_before = free + 1, -math.inf
        if self.rules.group is not None:
            room = min(room, max(0, self.rules.group.n - len(held)))
            not_before = math.inf if room == 0 else not_before
        if (rate := self.rules.group_rate) is not None:
            started = self._lately(rate, None, now)
            if rate.n - len(started) <= min(room, free):
                room = max(0, rate.n - len(started))
                not_before = max(not_before, min(started, default=now) + rate.per)
        return room, not_before

    def _is_full(self, value: Any, taken: Counter[Any], now: float) -> bool:
        limit, rate = self.rules.each, self.rules.each_rate
        return (limit is not None and taken[value] >= limit.n) or (
            rate is not None and len(self._lately(rate, ("value", value), now)) >= rate.n
        )

    def _lately(self, rate: Rate, which: Any, now: float) -> list[float]:
        return [at for at in self._started.get(which, ()) if at > now - rate.per]

    def _heads(self, pending: Sequence[MemoryTask[T]]) -> dict[Any, MemoryTask[T]]:
        return {self.value_of(row): row for row in reversed(pending)}

    def _next_at(
        self,
        pending: Sequence[MemoryTask[T]],
        heads: Mapping[Any, MemoryTask[T]],
        full: Collection[Any],
        taken: Counter[Any],
        now: float,
    ) -> float:
        """When a value that is full may go on, or a task comes due of one that is not."""
        later = [row for row in pending if not self._is_full(self.value_of(row), taken, now)]
        if self.rules.ordered:
            later = [heads[value] for value in full]
        times = [row.available_at for row in later if row.available_at > now]
        if (rate := self.rules.each_rate) is not None:
            for value in full:
                started = self._lately(rate, ("value", value), now)
                times += [min(started) + rate.per] if len(started) >= rate.n else []
        return min(times, default=math.inf)

    def _in_turns(self, rows: Sequence[MemoryTask[T]]) -> Sequence[MemoryTask[T]]:
        """One of each value, then the second of each; whose turn was last comes last."""
        if not self.rules.fair:
            return rows
        ranks: Counter[Any] = Counter()
        places = []
        for row in rows:
            value = self.value_of(row)
            number = self._numbers.setdefault(value, len(self._numbers))
            places.append((ranks[value], number <= self._turn, number))
            ranks[value] += 1
        return [row for _, row in sorted(zip(places, rows, strict=True), key=lambda each: each[0])]
