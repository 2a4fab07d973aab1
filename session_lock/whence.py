"""From where in the order a session looks for tasks: from the start, or from where it found the last ones."""

from __future__ import annotations

import math

from session_lock.database import Work

LOOK_BACK_AFTER = 0.05
"""Seconds between two looks from the start where others say again and again that there are tasks, and there is plenty ahead."""

WALK = 0.005
"""Seconds: a look from the start that takes no longer on the server is cheap."""

WALK_PAUSE = 20
"""A look from the start that is not cheap is not made again before this many times as long: at most 5 % of the time goes to them."""


class Whence:
    """A position is where a session found its last tasks. What is behind it, and old snapshots let no vacuum take away, is not
    walked over again by each of its looks.

    What has come to stand before it (late commits, retries, what others gave back, tasks of the dead) is found by looks from the
    start. Where these are cheap they are made whenever a look from the position has brought too little, or a poll interval
    has passed; where they are not, no more often than `WALK_PAUSE` allows.
    """

    def __init__(self, poll_interval: float) -> None:
        self._poll_interval = poll_interval
        self._position: str | None = None
        self._from_start_at = -math.inf
        self._walks = (0.0, 0.0)  # seconds that the last two looks from the start took on the server
        self._due_at = math.inf  # when the next task is due, as far as that is known
        self._plenty = False  # the last look brought all that there was room for
        self._too_little = False  # it did not, and it began at a position
        self._behind = (
            False  # something may stand before the position: that was said since the last look from the start
        )

    def begin(self, now: float, *, asked: bool) -> str | None:
        """The position for a look that begins now; None: from the start. `asked` if somebody says that there are tasks."""
        if now >= self._due_at:  # it is looked for now, or by the next look from the start
            self._due_at = math.inf
        self._behind = self._behind or asked
        if self._position is not None and now < self._from_start_again_at():
            return self._position
        self._from_start_at = now
        self._behind = False
        return None

    def _from_start_again_at(self) -> float:
        """The next look from the start may be made then."""
        pause = 0.0
        if self._plenty:
            pause = LOOK_BACK_AFTER if self._behind else self._poll_interval
        return self._from_start_at + max(pause, self.walk * WALK_PAUSE)

    @property
    def walk(self) -> float:
        """Seconds that a look from the start takes, if that is not cheap."""
        walk = min(self._walks)  # one that took long once had to wait for the processor
        return walk if walk > WALK else 0.0

    def found(self, work: Work[object], position: str | None, room: int, now: float) -> None:
        """What a look from there has brought that had room for so many."""
        self._plenty = len(work.tasks) == room
        self._too_little = not self._plenty and position is not None
        if work.walked is not None:
            self._walks = (self._walks[1], work.walked)
        if position is None:
            self._due_at = math.inf if work.next_due is None else now + work.next_due
        # What little a look from the start has found may stand far back, and what it walked over lies between.
        if work.position is not None and (self._plenty or self._too_little or self._position is None):
            self._position = work.position

    def failed(self, position: str | None, took: float) -> None:
        """A look from there has failed, after so many seconds: they may have gone into a walk, if those from a position succeed."""
        self._plenty = self._too_little = False
        self._walks = (self._walks[1], took) if position is None else (0.0, 0.0)

    @property
    def again_at(self) -> float:
        """When another look may find more than the last one, which has found nothing, if nobody says so before."""
        return min(self._due_at, self._from_start_again_at() if self._too_little else math.inf)
