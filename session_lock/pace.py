"""How fast a Runner's calls go, and so how far ahead of them tasks are claimed."""

from __future__ import annotations

import asyncio
import math

WEIGHT = 0.2
"""Of the last call in the mean."""


class Pace:
    """The mean time that a call of the tasker takes, newer calls weighing more, and which calls take longer than that.

    It bounds what is claimed and not begun by time: of tasks that take a minute each nothing is claimed ahead, so that whoever
    has a free slot gets them; of those that take a millisecond, as many as are allowed. Before the first call has ended nobody
    knows, and nothing is claimed ahead.
    """

    def __init__(self, slots: int, tasks_per_call: int) -> None:
        self._slots = slots
        self.tasks_per_call = tasks_per_call
        self._mean: float | None = None
        self._running: dict[object, float] = {}  # when each call was begun, the oldest first

    def call(self) -> _Call:
        """Within the block a call runs."""
        return _Call(self)

    def begins(self, call: _Call, now: float) -> None:
        self._running[call] = now

    def ends(self, call: _Call, now: float) -> None:
        seconds = now - self._running.pop(call)
        self._mean = seconds if self._mean is None else self._mean + WEIGHT * (seconds - self._mean)

    def begun_within(self, seconds: float, most: int) -> int:
        """How many tasks all slots together begin in so many seconds, in whole calls, and no more than `most`.

        A slot whose call has taken longer than both this time and the mean is not counted: nobody knows when it will end.
        """
        if self._mean is None or seconds == math.inf:
            return most if seconds == math.inf else 0
        slots = self._slots - self._slow(max(seconds, self._mean))
        if self._mean * most <= seconds * slots:  # also if it is 0, as in virtual time
            return most if slots else 0
        return min(most, int(seconds * slots / self._mean) * self.tasks_per_call)

    def _slow(self, seconds: float) -> int:
        """How many calls have taken longer than that, and have not ended."""
        if not self._running:
            return 0
        begun_before = asyncio.get_running_loop().time() - seconds
        count = 0
        for begun in self._running.values():
            if begun >= begun_before:
                break
            count += 1
        return count


class _Call:
    """A class and no generator, since there is one for each call of the tasker."""

    __slots__ = ("_clock", "_pace")

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._clock = asyncio.get_running_loop().time

    def __enter__(self) -> None:
        self._pace.begins(self, self._clock())

    def __exit__(self, *_: object) -> None:
        self._pace.ends(self, self._clock())
