"""How many do how much, how long it shall take, and what befalls them."""

from __future__ import annotations

from dataclasses import dataclass

from session_lock.cli.demo.part import CONCURRENCY

A_CALL = 0.3
"""Seconds that a call of the tasker should take, about: long enough to be struck in, short enough to see things move."""

LONGEST_CALL = 10.0
"""Seconds: for fewer tasks than there are slots."""

FIRST_BLOWS = 0.25
LAST_BLOWS = 0.75
"""Of the work: between them lie all rounds."""


@dataclass(slots=True)
class Plan:
    runners: int
    tasks: int
    """So far, where they are added by and by."""

    seconds: float
    kill: bool
    freeze: bool
    rounds: int = 1
    """How often one is killed and one is frozen."""

    runs: int | None = None
    """Of the tasker on a task, where one a task is not enough. They are one task a call then."""

    @property
    def kills(self) -> bool:
        return self.kill and self.runners >= 2

    @property
    def freezes(self) -> bool:
        return self.freeze and self.runners - self.kills >= 2

    @property
    def blows_at(self) -> list[float]:
        """How much of the work is done when each round begins."""
        return [FIRST_BLOWS + (LAST_BLOWS - FIRST_BLOWS) * n / self.rounds for n in range(self.rounds)]

    @property
    def batch_size(self) -> int:
        return 1 if self.runs else min(100, max(1, round(A_CALL / self._seconds_a_task)))

    @property
    def pause(self) -> float:
        return min(LONGEST_CALL, self.batch_size * self._seconds_a_task)

    @property
    def _seconds_a_task(self) -> float:
        """What a task may take in one slot, if all slots together shall take `seconds`."""
        return self.seconds * self.runners * CONCURRENCY / (self.runs or self.tasks)

    def left_out(self) -> list[str]:
        """What was wanted and is not possible: one runner must stay unharmed."""
        missing = [
            word
            for word, wanted, possible in (
                ("killed", self.kill, self.kills),
                ("frozen", self.freeze, self.freezes),
            )
            if wanted and not possible
        ]
        if not missing:
            return []
        runners = "one runner" if self.runners == 1 else f"{self.runners} runners"
        enough = 1 + self.kill + self.freeze
        both = " for both" if enough == 3 else ""
        return [
            f"With {runners} none is {' or '.join(missing)}: one has to stay unharmed, so it takes --runners {enough}{both}."
        ]
