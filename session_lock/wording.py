"""How faults and times are put into words, and how loudly they are said."""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path

OUR_FOLDER = str(Path(__file__).parent) + os.sep


def level_of(failures: int) -> int:
    """An outage is said at its 1st, 2nd, 4th, 8th .. failure in a row, so neither once for ever nor each time."""
    return logging.WARNING if failures & (failures - 1) == 0 else logging.DEBUG


def describe(error: BaseException) -> str:
    """An exception as text, whatever its own `__str__` does."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 (the user's)
        return type(error).__name__


def placed(error: BaseException) -> str:
    """What the log says of an error: its type, its place, and where in the user's code that is. Its text may hold what the row held."""
    places = [
        (frame.f_code.co_filename, f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}")
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    told = type(error).__name__
    if places:
        told += f" at {places[-1][1]}"
        user = next((place for file, place in places if not file.startswith(OUR_FOLDER)), places[-1][1])
        if user != places[-1][1]:
            told += f", from {user}"
    return told


def text_of(value: object) -> str:
    """What a user gave as a text, which may be an exception with a `__str__` of its own."""
    try:
        return str(value)
    except BaseException:  # noqa: BLE001 (the user's)
        return type(value).__name__


def span(seconds: float) -> str:
    """A length of time, for people: of its largest unit two at least."""
    number = max(round(seconds), 0)
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if number >= 2 * length:
            return f"{number // length} {unit}s"
    return f"{number} second{'' if number == 1 else 's'}"


NOT_COMMITTED = (
    "the transaction in which it was finished was not committed: an error in it that is caught takes all of it back, unless it is "
    "caught around a savepoint"
)
"""PostgreSQL answers a COMMIT after an error with ROLLBACK, and drivers say nothing of it."""


LONGEST_STORY = 20
"""Exceptions that a story is made of, at most."""


def story(error: BaseException) -> str:
    """An exception with those that it came of and those that it is made of, a line each."""
    lines: list[str] = []
    _tell(error, "", lines, set())
    return "\n".join(lines[:LONGEST_STORY])


def _tell(error: BaseException, link: str, lines: list[str], told: set[int]) -> None:
    if id(error) in told or len(lines) >= LONGEST_STORY:  # causes may run in a circle
        return
    told.add(id(error))
    lines.append(f"{link}{describe(error)}")
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            _tell(part, "- ", lines, told)
    cause = (
        error.__context__ if error.__cause__ is None and not error.__suppress_context__ else error.__cause__
    )
    if cause is not None:  # an exception may be falsy
        _tell(cause, "from ", lines, told)
