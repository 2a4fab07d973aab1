"""Whether there is plenty of work for all sessions, as far as one of them knows."""

from __future__ import annotations

import asyncio


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
