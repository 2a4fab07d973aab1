"""From where in the order a session looks for tasks: from where it found the last ones, or from farther back."""

from __future__ import annotations

import math

from session_lock.database import Work

LOOK_BACK_AFTER = 0.05
"""Seconds between two looks back where others say again and again that there are tasks, and there is plenty ahead."""

LATELY = 10
"""A short look back begins where the session was so many seconds ago, up to twice as many."""

WALK = 0.005
"""Seconds: a look back that takes no longer on the server is cheap."""

SELDOM = 200
"""After one that is not, at least so many times as long passes until the next: it is not one of a hundred looks."""

FOUND_WITHIN = 60
"""Seconds: no more than these pass, so that what stands before the position is found within them."""

LEAST = 20
"""Nor less than so many times as long: at most 5 % of the time goes to looks back. It is enough where a task is known to be due."""


class _LookBack:
    """Looks from one and the same distance behind the position."""

    def __init__(self) -> None:
        self.at = -math.inf  # when the last one began
        self._walks = (0.0, 0.0)  # seconds that the last two took

    def took(self, seconds: float) -> None:
        self._walks = (self._walks[1], seconds)

    @property
    def walk(self) -> float:
        """Seconds that one takes, if that is not cheap."""
        walk = min(self._walks)  # one that took long once had to wait for the processor
        return walk if walk > WALK else 0.0

    def again_at(self, *, due: bool = False) -> float:
        """When the next one may be made; `due` if it is known that a task has become due."""
        walk = self.walk
        return self.at + max(walk * LEAST, 0 if due else min(walk * SELDOM, FOUND_WITHIN))


class Whence:
    """A position is where a session found its last tasks. What is behind it, and old snapshots let no vacuum take away, is not
    walked over again by each of its looks.

    What has come to stand before it (late commits, retries, what others gave back, tasks of the dead) is found by looks back,
    when a look from the position has brought too little, or a poll interval has passed: from the start where that is cheap.
    Where it is not, such looks are seldom, and those between them go back to where the session was a short while ago:
    most of what comes late stands there, and little that is finished lies between.
    """

    def __init__(self, poll_interval: float) -> None:
        self._poll_interval = poll_interval
        self._position: str | None = None
        self._lately: str | None = None  # the position of a short while ago
        self._mark: str | None = None  # the one that will follow it, and since when it stands there
        self._marked_at = -math.inf
        self._from_start, self._from_lately = _LookBack(), _LookBack()
        self._looked_back_at = -math.inf
        self._due_at = math.inf  # when the next task is due, as far as that is known
        self._due = False  # it has become due, and was not looked for from the start
        self._plenty = False  # the last look brought all that there was room for
        self._too_little: list[_LookBack] = []  # it did not, and these would see more
        self._behind = (
            False  # something may stand before the position: so it was said since the last look back
        )
        self._failed: tuple[_LookBack, float] | None = None  # a look back, after so many seconds
        self._onward = (
            0.0,
            0.0,
        )  # seconds that the last two looks from the position took, with the way to the server

    def begin(self, now: float, *, asked: bool) -> str | None:
        """The position for a look that begins now; None: from the start. `asked` if somebody says that there are tasks."""
        if now >= self._due_at:
            self._due, self._due_at = True, math.inf
        self._behind = self._behind or asked
        if self._position is None:
            return self._back(self._from_start, None, now)
        pause = 0.0
        if self._plenty:
            pause = LOOK_BACK_AFTER if self._behind else self._poll_interval
        # Why a look back has failed, one from the position tells.
        if self._failed or now < self._looked_back_at + pause:
            return self._position
        if now >= self._from_start.again_at(due=self._due):
            return self._back(self._from_start, None, now)
        if self._lately is not None and now >= self._from_lately.again_at(due=self._due):
            return self._back(self._from_lately, self._lately, now)
        return self._position

    def _back(self, look: _LookBack, position: str | None, now: float) -> str | None:
        look.at = self._looked_back_at = now
        self._behind = False
        return position

    def walks(self, position: str | None) -> bool:
        """A look from there takes long."""
        return position != self._position and self._look_back(position).walk > 0

    def _look_back(self, position: str | None) -> _LookBack:
        return self._from_start if position is None else self._from_lately

    def found(self, work: Work[object], position: str | None, room: int, now: float, took: float) -> None:
        """What a look from there has brought that had room for so many, and the seconds that it took."""
        onward = position is not None and position == self._position
        self._plenty = len(work.tasks) == room
        self._too_little = []
        if onward:
            self._onward = (self._onward[1], took)
            if self._failed:  # not the server, nor the way to it: the walk
                look, seconds = self._failed
                look.took(seconds)
                look.took(seconds)
        else:
            self._look_back(position).took(took - min(self._onward) if work.walked is None else work.walked)
        self._failed = None
        if position is None:
            self._due, self._due_at = False, math.inf if work.next_due is None else now + work.next_due
        elif not self._plenty:
            self._too_little.append(self._from_start)
            if onward and self._lately is not None:
                self._too_little.append(self._from_lately)
        # What little a look back has found may stand far back, and what it walked over lies between.
        if work.position is not None and (self._plenty or onward or self._position is None):
            self._position = work.position
            if position is None:  # it may stand far behind those of a short while ago
                self._lately, self._mark, self._marked_at = None, work.position, now
        if now >= self._marked_at + LATELY:
            self._lately = self._mark if self._mark != self._position else None
            self._mark, self._marked_at = self._position, now

    def failed(self, position: str | None, took: float) -> None:
        """A look from there has failed, after so many seconds: they have gone into a walk if the next look, from the position, succeeds."""
        self._plenty, self._too_little = False, []
        onward = self._position is None or position == self._position
        self._failed = None if onward or took <= WALK else (self._look_back(position), took)

    @property
    def again_at(self) -> float:
        """When another look may find more than the last one, which has found nothing, if nobody says so before."""
        return min([self._due_at, *(look.again_at(due=self._due) for look in self._too_little)])
