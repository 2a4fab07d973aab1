"""When a duty is due: `cron("30 3 * * *", tz="Europe/Berlin")`, `every("5m")`.

A schedule is a set of instants that its text determines, so that every instance of a service knows the same ones.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, takewhile
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from session_lock.errors import SettingsError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHORTEST = timedelta(seconds=1)
LONGEST = timedelta(days=366)


class Schedule(ABC):
    """The due times of a duty, made by `cron()` or `every()`. Two of equal text are the same schedule.

    ```python
    schedule = every("15m")
    assert schedule.after(datetime(2026, 6, 1, 12, 20, tzinfo=UTC)) == datetime(2026, 6, 1, 12, 30, tzinfo=UTC)
    ```
    """

    text: str

    @abstractmethod
    def due_times(self, moment: datetime) -> Iterator[datetime]:
        """All after this moment, in their order, in UTC."""

    def after(self, moment: datetime) -> datetime:
        """The first due time after this moment."""
        return next(self.due_times(moment))

    def latest(self, moment: datetime, until: datetime, most: int) -> list[datetime]:
        """Of the due times after `moment` and not after `until` the latest ones, up to `most` of them, in their order."""
        span = timedelta(hours=1)
        while True:  # looked for in a span before `until` that grows: there may be a year of minutes
            start = max(moment, until - span)
            found = deque(takewhile(lambda due: due <= until, self.due_times(start)), maxlen=most)
            if len(found) == most or start == moment:
                return list(found)
            span *= 2

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<{self.text}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


# Intervals ----------------------------------------------------------------------------------------------


def every(interval: str | float | timedelta) -> Schedule:
    """Due at each whole multiple of `interval`, counted from 1970-01-01 00:00 UTC: `every("1h")` at each full hour.

    `interval` is text ("90s", "5m", "1h30m", "2h", "1d"), a number of seconds or a timedelta; from a second to 366 days.
    It knows no time zones: what is due by the wall clock is a `cron`. `SettingsError` says what it cannot be.

    ```python
    assert every("1h30m") == every(5400) == every(timedelta(minutes=90))
    ```
    """
    length = _duration(interval)
    if not SHORTEST <= length <= LONGEST:
        raise SettingsError(f"every({interval!r}): an interval is from 1 second to 366 days")
    return _Every(length)


class _Every(Schedule):
    def __init__(self, length: timedelta) -> None:
        self._length = length
        self.text = f"every {length.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"

    def due_times(self, moment: datetime) -> Iterator[datetime]:
        first = (moment - EPOCH) // self._length + 1
        return (EPOCH + number * self._length for number in count(first))


def _duration(interval: str | float | timedelta) -> timedelta:
    if isinstance(interval, timedelta):
        return interval
    if isinstance(interval, int | float) and not isinstance(interval, bool):
        try:
            return timedelta(seconds=interval)
        except (OverflowError, ValueError):
            raise SettingsError(f"every({interval!r}): an interval is from 1 second to 366 days") from None
    units = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
    match = re.fullmatch(
        r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?", str(interval)
    )
    if not isinstance(interval, str) or not match or not any(match.groups()):
        raise SettingsError(
            f'every({interval!r}): write an interval as "90s", "5m", "1h30m" or "1d", as a number of seconds or a timedelta'
        )
    return timedelta(
        **{unit: int(number or 0) for unit, number in zip(units.values(), match.groups(), strict=True)}
    )


# Cron ---------------------------------------------------------------------------------------------------


def cron(expression: str, *, tz: str = "UTC") -> Schedule:
    """Due by the wall clock of a time zone, as Debian's cron reads the five fields: minute, hour, day, month, weekday.

    Where the clock changes: an expression with a fixed minute and hour (`30 2 * * *`) is due once on each day that it names:
    at the first minute after a gap that would swallow it, and at the first of two times of one name. One whose minute or
    hour begins with `*` follows the clock: what the gap swallows is left out, what comes twice is due twice.

    Needs the extra `cron` (pip install "session-lock[cron]"). `SettingsError` says what is wrong with the expression or zone.

    ```python
    nightly = cron("30 3 * * *", tz="Europe/Berlin")
    assert nightly.after(datetime(2026, 6, 1, 12, tzinfo=UTC)) == datetime(2026, 6, 2, 1, 30, tzinfo=UTC)
    ```
    """
    return _Cron(expression, tz)


class _Cron(Schedule):
    def __init__(self, expression: str, tz: str) -> None:
        try:
            self._library: Any = importlib.import_module("cronsim")
        except ModuleNotFoundError:
            raise SettingsError(
                'cron() needs a parser: pip install "session-lock[cron]" (or use every())'
            ) from None
        where = f"cron({expression!r})"
        if not isinstance(expression, str) or len(expression.split()) != 5:
            raise SettingsError(f'{where}: write five fields, such as "30 3 * * *" for 3:30 each day')
        self._zone = _zone(tz)
        self._expression = " ".join(expression.split()).upper()
        self.text = f"cron {self._expression} {tz}"
        try:
            self.after(datetime(2026, 1, 1, tzinfo=UTC))
        except self._library.CronSimError as error:
            raise SettingsError(
                f"{where}: {str(error)[:1].lower()}{str(error)[1:]}: correct the expression"
            ) from None
        except StopIteration:
            raise SettingsError(f"{where} is not due once in 50 years: correct the expression") from None

    def due_times(self, moment: datetime) -> Iterator[datetime]:
        times = self._library.CronSim(self._expression, moment.astimezone(self._zone))
        in_utc = (each.astimezone(UTC) for each in times)
        # Within an hour that comes twice the parser begins at the first of the two.
        return (each for each in in_utc if each > moment)


def _zone(tz: str) -> ZoneInfo:
    try:
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise SettingsError(
            f'there is no time zone {tz!r}: write a name of the tz database, such as "Europe/Berlin"'
        ) from None
