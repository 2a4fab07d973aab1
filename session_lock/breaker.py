"""`Breaker`: one sick instance shall not eat the attempts of the whole backlog."""

from __future__ import annotations

import random

from session_lock.tasks import TaskKey

LONGEST_PAUSE = 60.0
"""Seconds between two tries of a Runner that cannot do anything right."""


class Breaker:
    """Opens when so many different tasks in a row have failed, without a success between; closes at the next success.

    While it is open a Runner takes one task at a time, with a growing pause after each failure. It outlives sessions: a new
    lease heals no instance.
    """

    def __init__(self, failures: int | None, first_pause: float) -> None:
        self._most = failures
        self._first_pause = first_pause
        self._failed: set[TaskKey] = set()
        self._tries = 0

    @property
    def open(self) -> bool:
        return self._most is not None and len(self._failed) >= self._most

    def succeeded(self) -> bool:
        """A task was accomplished, or given up on purpose. True if that closes the breaker."""
        closes = self.open
        self._failed.clear()
        self._tries = 0
        return closes

    def failed(self, key: TaskKey) -> bool:
        """A task has failed. True if that opens the breaker."""
        if self.open:
            return False
        self._failed.add(key)
        return self.open

    def pause(self) -> float:
        """Seconds before the next task is tried while it is open: more each time."""
        longest = min(LONGEST_PAUSE, self._first_pause * 2.0 ** min(self._tries, 16))
        self._tries += 1
        return longest * random.uniform(0.5, 1.0)
