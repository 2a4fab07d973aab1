"""How many tasks a session may claim, and how many it gives back when others have nothing to do."""

from __future__ import annotations

from typing import TypeVar

from session_lock.held import HeldTasks

T = TypeVar("T")

SOON = 0.1
"""Seconds: what will be begun here within them is not worth to be handed over."""


class Room(HeldTasks[T]):
    """Held tasks with the room that is left beside them."""

    def at_once(self) -> int:
        """How many more tasks could begin at once."""
        return max(0, self._free() - len(self.ready))

    def _free(self) -> int:
        slots = self.settings.concurrency - self.busy
        if self.scarcity.others_wait:  # in the group a slot without a place is not free
            slots = int(min(slots, self.turn.places))
        return slots * self.pace.tasks_per_call

    def ahead(self) -> int:
        """How many tasks may be claimed that cannot begin at once."""
        most = max(0, self.capacity - self.settings.concurrency * self.pace.tasks_per_call)
        return self.pace.begun_within(self.settings.prefetch_time, most)

    def room_for(self) -> int:
        """How many more tasks may be claimed now."""
        if self.lone is not None or (self.scarcity.left() and self.at_once() == 0):
            return 0
        room = min(
            self.capacity - len(self.held) + self.along(), self._free() + self.ahead() - len(self.ready)
        )
        if self._wary:
            room = min(room, 1 - len(self.ready))
        if self.breaker.open:
            no_more = self._settled.union(*(self.running[call] for call in self.overdue))
            room = min(room, 1 - sum(task not in no_more for task in self.held.values()))
        return room

    def along(self) -> int:
        """How many finished tasks a look would take along, and so make room for.

        Not where a limit may be in the way: who has locked rows does not wait for it. Nor beside other sessions: SKIP LOCKED does
        wait for whoever changes a row for the second time since the statement began, so two that have finished some in the same
        transaction could wait for each other.
        """
        return self.outbox.along if self.is_alone and not self.limited else 0

    def hand_over(self, count: int) -> None:
        """Others have nothing to do and ask for so many: release as many that will not be begun here soon."""
        self.scarcity.asked()
        left = count - self._give_of_ready(count)
        if left > 0 and self.ready:  # was it begun soon?
            self._loop.call_later(SOON, self._give_of_ready, left)

    def _give_of_ready(self, count: int) -> int:
        soon = self.pace.begun_within(SOON, len(self.ready))
        if self.lone in self.ready and self.running.keys() - self.overdue:
            soon = 0  # it waits for the end of all these
        given = max(0, min(count, len(self.ready) - soon))
        self.give_back(given)
        return given
