"""Turns: a bound on the calls of taskers that several Runners share, and who of them has the next one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any


class Turns:
    """At most `most` calls at once over all who take part. A place that is free is for whoever was served longest ago.

    Who has nothing to begin is passed over, so none stays free in vain; and how many slots of a Runner wait makes no
    difference. (`anyio.CapacityLimiter` serves waiters in the order in which they came: ten slots would have ten turns.) A
    place is taken in the same step as the tasks that it is for, and nobody waits holding either.
    """

    def __init__(self, most: float = math.inf) -> None:
        self._free = most
        self._round: dict[Turn, None] = {}  # who was served longest ago stands first

    def join(
        self, may_begin: Callable[[], bool], wake: Callable[[], object], tell_free: Callable[[], object]
    ) -> Turn:
        """Take part, until `Turn.leave()`: `may_begin` says whether there is something to begin, `wake` wakes the slots, and
        `tell_free` is called when a place is left for who has nothing to begin.
        """
        turn = Turn(self, may_begin, wake, tell_free)
        self._round[turn] = None
        return turn

    def _take(self, turn: Turn) -> bool:
        left = self._free
        for other in self._round:
            if other is turn:
                break
            left -= other.is_wanted
        if left < 1:
            return False
        self._free -= 1
        del self._round[turn]
        self._round[turn] = None
        return True

    def _give(self) -> None:
        self._free += 1
        self._offer()

    def _offer(self) -> None:
        """Wake those whose turn it is."""
        left = self._free
        for turn in self._round:
            if left < 1:
                return
            if turn.is_wanted:
                left -= 1
                turn.wake()
        if left >= 1:
            for turn in self._round:
                turn.tell_free()

    def _leave(self, turn: Turn) -> None:
        self._round.pop(turn, None)
        self._offer()


class Turn:
    """The part of one lease in it."""

    def __init__(
        self,
        turns: Turns,
        may_begin: Callable[[], bool],
        wake: Callable[[], object],
        tell_free: Callable[[], object],
    ) -> None:
        self._turns = turns
        self._may_begin = may_begin
        self.wake = wake
        self.tell_free = tell_free
        self.waiting = 0
        """Slots that wait for tasks, or for their turn."""

    @property
    def is_wanted(self) -> bool:
        return self.waiting > 0 and self._may_begin()

    @property
    def places(self) -> float:
        """For calls that could begin now, whoever's turn it is."""
        return max(0, self._turns._free)  # noqa: SLF001 (one matter, as below)

    def take(self) -> bool:
        """A place for one call, if it is this one's turn. If not, it is woken when it is."""
        return self._turns._take(self)  # noqa: SLF001

    def give(self) -> None:
        """The call has ended."""
        self._turns._give()  # noqa: SLF001

    def pass_on(self) -> None:
        """A slot that may have been woken for its turn has nothing to begin (any more)."""
        self._turns._offer()  # noqa: SLF001

    def keep_for(self, call: asyncio.Task[Any]) -> None:
        """The call goes on when its slot is given up: a place is its own until it ends."""
        self._turns._free -= 1  # noqa: SLF001
        call.add_done_callback(lambda _: self.give())

    def leave(self) -> None:
        """No call begins here any more."""
        self._turns._leave(self)  # noqa: SLF001
