"""What a session looks through for tasks: from where it found the last ones on, or what lies before that."""

from __future__ import annotations

import math

from session_lock.database import Work
from session_lock.pieces import FOUND_WITHIN, LATELY, LEAST, WALK, WHOLE, Pieces, Stretch

LOOK_BACK_AFTER = 0.05
"""Seconds between two looks back where others say again and again that there are tasks, and there is plenty ahead."""

SELDOM = 1000
"""After a look back that is not cheap, at least so many times as long passes until the next: it is not one of a hundred looks."""


class _LookBack:
    """Looks from one and the same distance behind the position on."""

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
    Where it is not, such looks are seldom, and between them come short looks back, to where the session was a short while ago,
    as most of what comes late stands there; and looks through one piece after another of all that is older.
    """

    def __init__(self, poll_interval: float) -> None:
        self._poll_interval = poll_interval
        self._position: str | None = None
        self._whole, self._short, self._pieces = _LookBack(), _LookBack(), Pieces(poll_interval)
        self._in_pieces = True  # as far as is known, a look ends where it is to end
        self._looked_back_at = -math.inf
        self._due_at = math.inf  # when the next task is due, as far as that is known
        self._due = False  # it has become due, and was not looked for from the start
        self._sure = True  # the last look was for something
        self._plenty = False  # it brought all that there was room for
        self._too_little: list[_LookBack] = []  # it did not, and these would see more
        # Something may stand before the position: so it was said since the last look back.
        self._behind = False
        self._seen_end = True  # the last look was not through a piece
        self._end_at = -math.inf  # when the last one began that was not
        # From where the last look back has taken the position, and until when that is sure to be ahead of it.
        self._ahead: str | None = None
        self._ahead_until, self._ahead_of_piece = -math.inf, False
        self._failed: tuple[Stretch, float] | None = None  # a look back, after so many seconds
        # Seconds that the last two looks from the position took, with the way to the server.
        self._onward = (0.0, 0.0)

    def begin(self, now: float, *, asked: bool, sure: int = 1) -> Stretch:
        """What a look that begins now is to look through. `asked` if somebody says that there are tasks; it is for `sure` tasks at least."""
        if now >= self._due_at:
            self._due, self._due_at = True, math.inf
        self._behind = self._behind or asked
        if self._position is None:
            return self._back(WHOLE, self._whole, now)
        if self._failed:  # why a look back has failed, one from the position tells
            return Stretch(self._position)
        if self._plenty:
            self._begin_round()
        # A piece does not see what comes: no two without a look between them that goes to the end.
        piece = self._seen_end and not asked and sure > 0 and now >= self._pieces.again_at
        pause = (LOOK_BACK_AFTER if self._behind else self._poll_interval) if self._plenty else 0.0
        if now >= self._looked_back_at + pause:
            if now >= self._whole.again_at(due=self._due):
                return self._back(WHOLE, self._whole, now)
            lately = self._lately(now)
            if (
                lately
                and now >= self._short.again_at(due=self._due)
                and not (piece and self._pieces.at < self._short.at)
            ):
                return self._back(Stretch(lately), self._short, now)
        return self._pieces.next(now) if piece else Stretch(self._position)

    def _back(self, stretch: Stretch, look: _LookBack, now: float) -> Stretch:
        look.at = self._looked_back_at = now
        self._behind = False
        return stretch

    def walks(self, stretch: Stretch) -> bool:
        """A look through that takes long."""
        return stretch.end is None and stretch.start != self._position and self._look_back(stretch).walk > 0

    def _look_back(self, stretch: Stretch) -> _LookBack:
        return self._whole if stretch == WHOLE else self._short

    def _lately(self, now: float) -> str | None:
        """Where a short look back begins, if it would see more."""
        lately = self._pieces.lately(now)
        return lately if lately != self._position else None

    def found(
        self, work: Work[object], stretch: Stretch, room: tuple[int, int], now: float, took: float
    ) -> None:
        """What a look through that has brought which was for so many at least, and at most; and the seconds that it took."""
        least, most = room
        self._sure = least > 0 or bool(work.tasks)
        if not self._sure:  # it may have looked for nothing
            self._plenty, self._too_little = False, [] if stretch == WHOLE else [self._whole]
            self._failed = None
            return
        if stretch.end is not None:
            self._found_in_piece(work, stretch, now, full=len(work.tasks) >= least)
            return
        full = len(work.tasks) == most
        if work.walked is not None and stretch != WHOLE:  # under limits it goes on from the start by itself
            stretch, self._whole.at = WHOLE, now - took
        onward = stretch == Stretch(self._position) != WHOLE
        if onward:
            self._went_onward(now, took)
        else:
            self._look_back(stretch).took(took - min(self._onward) if work.walked is None else work.walked)
        self._failed, self._seen_end, self._end_at = None, True, now
        self._plenty, self._too_little = full, []
        if stretch == WHOLE:
            self._seen_whole(now, math.inf if work.next_due is None else now + work.next_due)
        elif not full:
            self._look_behind(now, onward=onward)
        if onward:
            self._go_on(work.position, now)
        elif full or self._position is None:
            self._go_back(work.position, stretch, now)
        if self._position is not None:
            self._pieces.mark(self._position, now)

    def _found_in_piece(self, work: Work[object], stretch: Stretch, now: float, *, full: bool) -> None:
        self._failed, self._seen_end = None, False
        self._pieces.took(work.walked or 0.0, now)
        if work.walked is None and not work.tasks:
            self._in_pieces = False
            self._pieces.end_round()
        if full:
            self._plenty, self._too_little = full, []
            self._go_back(work.position, stretch, now)

    def _go_on(self, position: str | None, now: float) -> None:
        if position is not None:
            self._position = position
        elif self._ahead is not None:  # nothing is left up to there
            if now < self._ahead_until:
                self._position = self._ahead
            self._ahead = None

    def _go_back(self, position: str | None, stretch: Stretch, now: float) -> None:
        """What little a look back has found may stand far back, and what it walked over lies between: so only if it was full."""
        if position is not None:
            # A piece has taken it far back: looks back that follow find the tasks of that piece.
            if self._ahead is None or not self._ahead_of_piece or now >= self._ahead_until:
                self._ahead, self._ahead_of_piece = self._position, stretch.end is not None
                self._ahead_until = now + (FOUND_WITHIN if self._ahead_of_piece else LATELY)
            self._pieces.gone_back(stretch.start, now)
            self._position = position

    def _went_onward(self, now: float, took: float) -> None:
        self._onward = (self._onward[1], took)
        if self._failed:  # not the server, nor the way to it: the walk
            stretch, seconds = self._failed
            if stretch.end is not None:
                self._pieces.failed(seconds, now)
                return
            look = self._look_back(stretch)
            look.took(seconds)
            look.took(seconds)
            self._pieces.seen_whole(self._whole.walk, now)

    def _seen_whole(self, now: float, due_at: float) -> None:
        self._due, self._due_at = False, due_at
        if self._whole.walk:
            self._pieces.seen_whole(self._whole.walk, now)
        else:  # nothing before the position is worth a piece
            self._pieces.clear()

    def _look_behind(self, now: float, *, onward: bool) -> None:
        """A look to the end has brought too little, and was not from the start."""
        self._too_little = [self._whole]
        if onward and self._lately(now) is not None:
            self._too_little.append(self._short)
        self._begin_round()

    def _begin_round(self) -> None:
        if self._whole.walk and self._in_pieces:
            self._pieces.begin_round()

    def failed(self, stretch: Stretch, took: float) -> None:
        """A look has failed, after so many seconds: they have gone into a walk if the next look, from the position, succeeds."""
        self._plenty, self._too_little, self._failed = False, [], None
        if stretch != Stretch(self._position) and took > WALK:
            self._failed = stretch, took

    @property
    def again_at(self) -> float:
        """When another look may find more than the last one, which has found nothing, if nobody says so before."""
        if self._plenty:  # behind a piece
            return -math.inf
        moments = [self._due_at, *(look.again_at(due=self._due) for look in self._too_little)]
        if self._sure:  # else no piece is looked through
            moments.append(self._pieces.again_at)
            if not self._seen_end:
                moments.append(self._end_at + self._poll_interval)
        return min(moments)
