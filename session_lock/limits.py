"""`Limit`, `Rate` and fair turns: how many tasks of a mapping, or of one value of a column, may run or start."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from session_lock.errors import SettingsError
from session_lock.names import check_name

MOST = 1_000_000
"""No limit is higher: it would be none, and its count would be long."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `n` tasks held at once, over all sessions of the mapping.

    Held is what a session has claimed and not given back or finished, whether its tasker has begun or not. What a
    dead instance held counts until its session is ended (it may still be at it), and not after.

    ```python
    TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", limits=[Limit(100), Limit(2, by="address")])
    ```
    """

    n: int
    """From 1 on."""

    by: str | None = None
    """A column: `n` for each of its values, NULL being one of them. Defaults to None: `n` in all."""

    ordered: bool = False
    """With `n=1` and `by`: the tasks of a value one after the other in the mapping's order. One that has failed, waits for
    its retry or is parked holds up those behind it until it is finished or discarded."""

    def __post_init__(self) -> None:
        _check_number(self, self.n)
        _check_column(self, self.by)
        if not isinstance(self.ordered, bool):
            raise SettingsError(f"ordered of a Limit is True or False, not {self.ordered!r}")
        if self.ordered and self.by is None:
            raise SettingsError(f"{self}: an ordered limit needs by=, the column whose values are in order")
        if self.ordered and self.n != 1:
            raise SettingsError(f"{self}: an ordered limit is one at a time, n=1")


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `n` tasks started (claimed) within any `per` seconds, over all sessions of the mapping.

    ```python
    TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", limits=[Rate(50, per=1), Limit(20)])
    ```
    """

    n: int
    """From 1 on."""

    per: float
    """Seconds."""

    by: str | None = None
    """A column: `n` for each of its values, NULL being one of them. Defaults to None: `n` in all."""

    def __post_init__(self) -> None:
        _check_number(self, self.n)
        _check_column(self, self.by)
        number = isinstance(self.per, int | float) and not isinstance(self.per, bool)
        if not number or not 0.001 <= self.per <= 366 * 86400 or math.isnan(self.per):
            raise SettingsError(
                f"per of a Rate is a number of seconds, from 0.001 to a year, not {self.per!r}"
            )


AnyLimit: TypeAlias = Limit | Rate


def _check_number(limit: AnyLimit, n: Any) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MOST:
        raise SettingsError(f"n of a {type(limit).__name__} is a whole number from 1 to {MOST:,}, not {n!r}")


def _check_column(limit: AnyLimit, by: Any) -> None:
    if by is not None:
        if not isinstance(by, str):
            raise SettingsError(
                f"by of a {type(limit).__name__} is the name of a column (or of a model's attribute) as text, not a {type(by).__name__}"
            )
        check_name(by, f"{type(limit).__name__} by= column")


@dataclass(frozen=True, slots=True)
class Rules:
    """All limits of a mapping, each in its place."""

    column: str | None = None
    """The one that `by` and `fair_by` name."""

    fair: bool = False
    ordered: bool = False
    group: Limit | None = None
    each: Limit | None = None
    group_rate: Rate | None = None
    each_rate: Rate | None = None

    @property
    def any(self) -> bool:
        return self.column is not None or self.group is not None or self.group_rate is not None

    @property
    def counts_held(self) -> bool:
        """Whether held tasks are counted, for which there is an index."""
        return self.group is not None or self.each is not None


def as_limits(limits: Any) -> tuple[AnyLimit, ...]:
    """What was given as `limits`; `SettingsError` if it is anything but a sequence of them."""
    if isinstance(limits, Limit | Rate):
        raise SettingsError(f"limits is a sequence; write limits=({limits},)")
    if isinstance(limits, str) or not isinstance(limits, Iterable):
        raise SettingsError(f"limits is a sequence of Limit and Rate, not {limits!r}")
    made: tuple[AnyLimit, ...] = tuple(limits)
    for limit in made:
        if not isinstance(limit, Limit | Rate):
            raise SettingsError(f"limits is a sequence of Limit and Rate, and {limit!r} is neither")
    return made


def rules_of(limits: Sequence[AnyLimit], fair_by: str | None) -> Rules:
    """The rules that `limits` and `fair_by` make; `SettingsError` if they do not go together."""
    found: dict[str, Any] = {}
    columns = [] if fair_by is None else [fair_by]
    for limit in limits:
        place = ("group" if limit.by is None else "each") + ("_rate" if isinstance(limit, Rate) else "")
        if place in found and found[place].by == limit.by:
            raise SettingsError(f"limits names {found[place]} and {limit}: leave one of the two out")
        found[place] = limit
        columns += [] if limit.by is None else [limit.by]
    if len(set(columns)) > 1:
        raise SettingsError(
            f"limits and fair_by name different columns ({', '.join(dict.fromkeys(columns))}): "
            "one mapping counts by one column"
        )
    ordered = any(isinstance(limit, Limit) and limit.ordered for limit in limits)
    return Rules(columns[0] if columns else None, fair_by is not None, ordered, **found)
