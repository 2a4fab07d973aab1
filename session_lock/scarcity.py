"""Whether there is plenty of work for all sessions, as far as one of them knows."""

from __future__ import annotations

import asyncio
import math


class Scarcity:
    """Where work is scarce a session without a free slot looks no more often than once in a poll: nothing would be claimed."""

    def __init__(self, poll_interval: float) -> None:
        self._poll_interval = poll_interval
        self._until = 0.0
        self._asked_until = 0.0

    def found(self) -> None:
        """A look was told of a share."""
        self._until = asyncio.get_running_loop().time() + self._poll_interval

    def ended(self) -> None:
        """A look brought tasks, and was told of no share."""
        self._until = 0.0

    def asked(self) -> None:
        """Others, who have nothing to do, ask for tasks."""
        self.found()
        self._asked_until = self._until

    @property
    def others_wait(self) -> bool:
        """Others have just asked: they could begin at once what would wait here."""
        return asyncio.get_running_loop().time() < self._asked_until

    def left(self) -> float | None:
        """For how many seconds, or None where there is plenty."""
        left = self._until - asyncio.get_running_loop().time()
        return left if left > 0 else None


class Patience:
    """How long free slots have had nothing, since a share lets them have none, before a look goes over that.

    Looks from the start and looks from a position reckon with different tasks: what one of them leaves to others, the other may not see.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = {True: math.inf, False: math.inf}  # by whether looks from the start are meant

    def forget(self) -> None:
        self._until = dict.fromkeys(self._until, math.inf)

    def is_over(self, now: float, *, whole: bool) -> bool:
        """For a look that is made now."""
        return now >= self._until[whole]

    def looked(self, now: float, *, whole: bool, held_back: bool) -> None:
        """A look to the end has left tasks to others beside free slots, or has not."""
        if held_back:
            self._until[whole] = min(self._until[whole], now + self._seconds)
        else:  # one from the start has seen all
            self._until |= {False: math.inf, whole: math.inf}

    def ends_at(self, now: float) -> float:
        """When that is worth another look, which it is once."""
        return min((until for until in self._until.values() if until > now), default=math.inf)

    @property
    def counts(self) -> bool:
        return min(self._until.values()) < math.inf
