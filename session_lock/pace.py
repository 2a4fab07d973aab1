"""How fast a Runner's calls go, and so how far ahead of them tasks are claimed."""

from __future__ import annotations

import math

WEIGHT = 0.2
"""Of the last call in the mean."""


class Pace:
    """The mean time that a call of the tasker takes, newer calls weighing more.

    It bounds what is claimed and not begun by time: of tasks that take a minute each nothing is claimed ahead, so that whoever
    has a free slot gets them; of those that take a millisecond, as many as are allowed. Before the first call has ended nobody
    knows, and nothing is claimed ahead.
    """

    def __init__(self, slots: int, tasks_per_call: int) -> None:
        self._slots = slots
        self.tasks_per_call = tasks_per_call
        self._mean: float | None = None

    def ended(self, seconds: float) -> None:
        """A call has taken so long."""
        self._mean = seconds if self._mean is None else self._mean + WEIGHT * (seconds - self._mean)

    def begun_within(self, seconds: float, most: int) -> int:
        """How many tasks all slots together begin in so many seconds, in whole calls, and no more than `most`."""
        if self._mean is None or seconds == math.inf:
            return most if seconds == math.inf else 0
        if self._mean * most <= seconds * self._slots:  # also if it is 0, as in virtual time
            return most
        return min(most, int(seconds * self._slots / self._mean) * self.tasks_per_call)
