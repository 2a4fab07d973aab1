"""Whether an event loop still turns, as seen from another thread."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from session_lock.session import lease_clock

REMEMBERED = 10.0
"""Seconds for which the longest wait for a turn counts."""


class Pulse:
    """Asks a loop for a turn now and then, and knows how long it has been waiting for one.

    The loop needs no timer for this, so it sleeps as before; and one that is blocked gives no answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked_at: float | None = None
        self._longest = (0.0, 0.0)  # seconds, and when that was over

    def ask(self) -> None:
        """Ask for a turn, unless one is awaited."""
        if self._asked_at is None:
            self._asked_at = lease_clock()
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        if (waited := self.silence()) >= self._remembered():
            self._longest = (waited, lease_clock())
        self._asked_at = None

    def _remembered(self) -> float:
        waited, at = self._longest
        return waited if lease_clock() - at < REMEMBERED else 0.0

    def lag(self) -> float:
        """Seconds that it took the loop to answer, or has taken until now: the most within the last ten."""
        return max(self._remembered(), self.silence())

    def silence(self) -> float:
        """Seconds for which the loop has given no answer; 0 if it owes none."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else lease_clock() - asked_at

    def reset(self) -> None:
        """Count from now on: nothing could answer until now."""
        self._asked_at = None
        self.ask()
