"""How faults are put into words, and how loudly they are said."""

from __future__ import annotations

import logging


def level_of(failures: int) -> int:
    """An outage is said at its 1st, 2nd, 4th, 8th .. failure in a row, so neither once for ever nor each time."""
    return logging.WARNING if failures & (failures - 1) == 0 else logging.DEBUG


def describe(error: BaseException) -> str:
    """An exception as text, whatever its own `__str__` does."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 (the user's)
        return type(error).__name__
