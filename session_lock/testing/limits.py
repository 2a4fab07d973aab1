"""The limits of a `MemoryDatabase`, as `sql/tasks.limits.alwaysup.sql` keeps them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Generic, TypeVar

from session_lock.errors import SettingsError
from session_lock.limits import MOST, AnyLimit, Rate, Rules, as_limits, rules_of
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
    from_start: bool = False
    """Whether the look began there, though it was given a position."""

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
        self.rules: Rules = rules_of(as_limits(limits), fair_by)
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
        onward: Sequence[MemoryTask[T]] | None,
        pending: Sequence[MemoryTask[T]],
        held: Collection[MemoryTask[T]],
        now: float,
    ) -> Picked[T]:
        """`free` and `pending` are in claim order, `onward` is what is free from an earlier position on. Rows that are locked are
        passed over only here. What the caller holds without knowing it is free, and counts as held.
        """
        in_order = free
        unknown = [row for row in free if row.session_id == session_id and self.rules.counts_held]
        rows = [row for row in unknown if onward is None and not row.locked][:want]
        want -= len(rows)
        room, allowed, allowed_at = self._room_in_group(held, now)
        not_before = max(math.inf if room == 0 else -math.inf, allowed_at if allowed <= 0 else -math.inf)
        cut = min(room, allowed) < want
        want = max(0, min(want, room, allowed))
        limited, heads, counts = cut and want == 0, self._heads(pending), Counter(map(self.value_of, held))
        known: dict[str, Any] = {"cut": cut, "heads": heads, "held": counts, "now": now}
        free = [row for row in free if row not in unknown]
        picked: list[MemoryTask[T]] = []
        if onward is not None and not self.rules.fair:
            some = [row for row in onward if row not in unknown]
            picked, held_back = self._fill(some, want, again=False, **known)
            limited = limited or held_back
        from_start = self.rules.fair or len(picked) < want
        if len(picked) < want:
            picked, held_back = self._fill(free, want, again=True, **known)
            limited = limited or held_back
        for row in picked:
            value = self.value_of(row)
            self._turn = self._numbers.get(value, 0)
            self._started.setdefault(None, []).append(now)
            self._started.setdefault(("value", value), []).append(now)
        if picked and len(picked) >= allowed:
            not_before = max(not_before, allowed_at)
        next_at = math.inf
        if limited and len(picked) < want:
            counts.update(map(self.value_of, picked))
            next_at = self._next_at(pending, heads, set(map(self.value_of, free)), counts, now)
        rows += picked
        if self.rules.column is not None and not self.rules.fair:
            keys = {row.key for row in rows}
            rows = [row for row in in_order if row.key in keys]
        return Picked(rows, limited, next_at, not_before, from_start)

    def _fill(
        self,
        free: Sequence[MemoryTask[T]],
        want: int,
        *,
        cut: bool,
        heads: Mapping[Any, MemoryTask[T]],
        held: Counter[Any],
        now: float,
        again: bool,
    ) -> tuple[list[MemoryTask[T]], bool]:
        """Up to so many, and whether a limit holds some back. With `again` those values are passed by, in a look that follows, that
        have given too few, since their rows are locked.
        """
        rows: dict[TaskKey, MemoryTask[T]] = {}
        limited = False
        passed: set[Any] = set()
        while (more := want - len(rows)) > 0:
            offer = [
                row
                for row in self._in_turns(free)
                if row.key not in rows and self.value_of(row) not in passed
            ]
            picked = Counter(map(self.value_of, rows.values()))
            let_through = self._let_through(offer, heads, held, picked, now)[:more]
            limited = limited or (cut and len(offer) > more) or len(let_through) < min(len(offer), more)
            quota = Counter(map(self.value_of, let_through))
            found: dict[Any, list[MemoryTask[T]]] = {value: [] for value in quota}
            for row in let_through if self.rules.ordered else free:
                value = self.value_of(row)
                if not row.locked and row.key not in rows and len(found.get(value, ())) < quota[value]:
                    found[value].append(row)
            rows |= {row.key: row for rank in zip_longest(*found.values()) for row in rank if row is not None}
            short = {value for value, number in quota.items() if len(found[value]) < number}
            if not short or not again:
                break
            passed |= short
        return [*rows.values()], limited

    def _let_through(
        self,
        offer: Sequence[MemoryTask[T]],
        heads: Mapping[Any, MemoryTask[T]],
        held: Counter[Any],
        picked: Counter[Any],
        now: float,
    ) -> list[MemoryTask[T]]:
        """What the limit of each value allows beside what is picked."""
        number = picked.copy()
        through: list[MemoryTask[T]] = []
        for row in offer:
            value = self.value_of(row)
            number[value] += 1
            if number[value] <= self._room_of(value, held, now) and (
                not self.rules.ordered or heads[value] is row
            ):
                through.append(row)
        return through

    def _room_in_group(self, held: Collection[MemoryTask[T]], now: float) -> tuple[int, int, float]:
        """How many more the group has room for, how many more may start, and when one more after these."""
        group, rate = self.rules.group, self.rules.group_rate
        room = MOST if group is None else max(0, group.n - len(held))
        if rate is None:
            return room, MOST, -math.inf
        started = self._lately(rate, None, now)
        return room, rate.n - len(started), min(started, default=now) + rate.per

    def _room_of(self, value: Any, held: Counter[Any], now: float) -> int:
        limit, rate = self.rules.each, self.rules.each_rate
        return min(
            MOST if limit is None else limit.n - held[value],
            MOST if rate is None else rate.n - len(self._lately(rate, ("value", value), now)),
        )

    def _lately(self, rate: Rate, which: Any, now: float) -> list[float]:
        return [at for at in self._started.get(which, ()) if at > now - rate.per]

    def _heads(self, pending: Sequence[MemoryTask[T]]) -> dict[Any, MemoryTask[T]]:
        return {self.value_of(row): row for row in reversed(pending)}

    def _next_at(
        self,
        pending: Sequence[MemoryTask[T]],
        heads: Mapping[Any, MemoryTask[T]],
        values: Collection[Any],
        held: Counter[Any],
        now: float,
    ) -> float:
        """When one of these values may go on whose rate is used up, or a task comes due that no limit holds back."""
        limit, rate = self.rules.each, self.rules.each_rate
        started = {value: self._lately(rate, ("value", value), now) if rate else [] for value in values}
        spent = {value: min(at) + rate.per for value, at in started.items() if rate and len(at) >= rate.n}
        if self.rules.ordered:
            later = [heads[value] for value in values]
        else:
            later = [
                row
                for row in pending
                if (value := self.value_of(row)) not in spent and (limit is None or held[value] < limit.n)
            ]
        due = [row.available_at for row in later if row.available_at > now]
        return min([*due, *spent.values()], default=math.inf)

    def _in_turns(self, rows: Sequence[MemoryTask[T]]) -> Sequence[MemoryTask[T]]:
        """One of each value, then the second of each; whose turn was last comes last."""
        if not self.rules.fair:
            return rows
        ranks: Counter[Any] = Counter()
        places: list[tuple[int, bool, int]] = []
        for row in rows:
            value = self.value_of(row)
            number = self._numbers.setdefault(value, len(self._numbers))
            places.append((ranks[value], number <= self._turn, number))
            ranks[value] += 1
        return [row for _, row in sorted(zip(places, rows, strict=True), key=lambda each: each[0])]
