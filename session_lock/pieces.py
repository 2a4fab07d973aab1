"""What stands before the position, cut at positions of former times into pieces that are looked through one by one."""

from __future__ import annotations

import math
from bisect import bisect_right
from operator import attrgetter
from typing import NamedTuple

WALK = 0.005
"""Seconds: a look back that takes no longer on the server is cheap."""

REST = 100
"""After a piece so many times as long passes as it took: 1 % of the time goes there."""

LEAST = 20
"""Nor less than so many times as long, whatever else may be wanted: at most 5 % of the time goes to looks back."""

FOUND_WITHIN = 60
"""Seconds: no more than these pass, so that what stands before the position is found within them."""

MARK_EVERY = 1.0
"""Seconds between two positions that are kept; of older ones twice as many, again and again, when there would be too many."""

MOST_MARKS = 1000

LATELY = 10
"""A short look back begins where the session was so many seconds ago."""


class Stretch(NamedTuple):
    """What a look is to look through, from one position to another."""

    start: str | None = None
    """None: from the start of the order."""
    end: str | None = None
    """None: to its end."""


WHOLE = Stretch()


class _Mark(NamedTuple):
    at: float
    position: str


class Pieces:
    """Rounds of looks through what stands before the position, from what was claimed last back to the start.

    What they walk over are dead entries of an index, and nobody knows how many until they have been walked over. So the pieces
    grow as long as they are cheap, and shrink when they are not.
    """

    def __init__(self, poll_interval: float) -> None:
        self._poll_interval = poll_interval
        self.at: float = -math.inf  # when the last one began
        self._round_at = -math.inf  # when the last round began
        self._rests_until = -math.inf
        self._took = 0.0  # seconds: the last one
        self.clear()

    def clear(self) -> None:
        """Nothing before the position is worth a piece."""
        self._marks: list[_Mark] = []
        self._every = MARK_EVERY  # between two of the older ones
        self._stride = 1  # marks from the beginning of a piece to its end
        self._next: int | None = None  # the mark at which the next piece ends; None: the round is over
        # Since when, and until when, positions were kept that may be in front of that of now.
        self._doubtful_since = self._doubtful_until = -math.inf

    # The positions ------------------------------------------------------------------------------------------

    def mark(self, position: str, now: float) -> None:
        """Looks have come as far as this."""
        if self._marks and (now < self._marks[-1].at + MARK_EVERY or position == self._marks[-1].position):
            return
        self._marks.append(_Mark(now, position))
        if len(self._marks) > MOST_MARKS:
            self._thin_out(now)

    def _thin_out(self, now: float) -> None:
        """Few of the old ones are kept, and all of a short while ago, from where a short look back begins."""
        self._next = None
        while len(self._marks) > MOST_MARKS * 3 / 4:
            kept: list[_Mark] = []
            for mark in self._marks:
                if not kept or mark.at >= kept[-1].at + self._every or mark.at > now - 2 * LATELY:
                    kept.append(mark)
            if len(kept) > MOST_MARKS * 3 / 4:
                self._every *= 2
            self._marks = kept

    def lately(self, now: float) -> str | None:
        """The position of a short while ago, as far as it stands before that of now."""
        moment = now - LATELY
        if self._doubtful_since < moment < self._doubtful_until:
            moment = self._doubtful_since
            if moment < now - 3 * LATELY:  # what was before that is no short while ago
                return None
        number = bisect_right(self._marks, moment, key=attrgetter("at"))
        return self._marks[number - 1].position if number else None

    def gone_back(self, position: str | None, now: float) -> None:
        """To somewhere behind this one (None: the start), so that those kept later may stand in front of what comes now.

        The pieces go from each position to the next all the same: together they leave out nothing, though one may be empty, and
        two may overlap.
        """
        since = next((mark.at for mark in reversed(self._marks) if mark.position == position), -math.inf)
        if since < self._doubtful_until:
            since = min(since, self._doubtful_since)
        self._doubtful_since, self._doubtful_until = since, now

    # The rounds ---------------------------------------------------------------------------------------------

    def begin_round(self) -> None:
        """There is a reason to look for what stands before the position. A round that is under way goes on."""
        if self._next is None and self._marks:
            self._next = len(self._marks) - 1
            self._rests_until = max(self._rests_until, self._round_at + self._poll_interval)

    @property
    def again_at(self) -> float:
        """When the next piece may be looked through."""
        return math.inf if self._next is None else self._rests_until

    def next(self, now: float) -> Stretch:
        """That piece; `again_at` is not later than now."""
        self.at = now
        end = len(self._marks) - 1 if self._next is None else self._next
        if end == len(self._marks) - 1:
            self._round_at = now
        begin = end - self._stride
        return Stretch(self._marks[begin].position if begin >= 0 else None, self._marks[end].position)

    def took(self, seconds: float, now: float) -> None:
        """It was walked over in so long."""
        walk, self._took = min(self._took, seconds), max(seconds, 0.0)
        self._next = None if self._next is None or self._next < self._stride else self._next - self._stride
        # One that took long may have had to wait for the processor, and is worth a long rest only if the last one was.
        self._rests_until = now + max(self._took * LEAST, min(max(walk, 0.0) * REST, FOUND_WITHIN))
        if walk > WALK:
            self._stride = max(self._stride // 2, 1)
        elif seconds < WALK / 2:
            self._stride = min(self._stride * 2, len(self._marks))

    def failed(self, seconds: float, now: float) -> None:
        """It could not be looked through, in so long; nor can it be made smaller if it has gone from one position to the next."""
        if self._stride == 1:
            self._next = self._next - 1 if self._next else None
        self._stride = 1
        self._rest(seconds, now)

    def seen_whole(self, walk: float, now: float) -> None:
        """All of them were looked through at once, which has taken so long."""
        self.end_round()
        if len(self._marks) < 2:  # a piece would be the same again
            self._rest(walk, now)

    def end_round(self) -> None:
        self._next = None

    def _rest(self, walk: float, now: float) -> None:
        self._rests_until = now + max(walk * LEAST, min(walk * REST, FOUND_WITHIN))
