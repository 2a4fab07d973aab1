"""A time of Python's in an expression: that of the start of the process, or a fixed one."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from session_lock.errors import SettingsError

A_MOMENT = timedelta(minutes=1)
"""A time that is no further from now was not written by hand."""


def refuse_now(name: str, given: Any, now: str) -> None:
    """With the time of its start each process would have a mapping of its own. `now` is how the server's time is written."""
    if _is_now(given):
        raise SettingsError(
            f"an expression of {name} has the time at which this was declared in it, which is another one in each process: let available_at say "
            f"when a row is due; finish and discard take {now}, and a fixed time can be written as text"
        )


def _is_now(given: Any) -> bool:
    utc = datetime.now(UTC)
    if not isinstance(given, datetime):
        return isinstance(given, date) and given in {utc.date(), utc.astimezone().date()}
    if given.tzinfo is not None:
        return abs(utc - given) < A_MOMENT
    return any(abs(each.replace(tzinfo=None) - given) < A_MOMENT for each in (utc, utc.astimezone()))
