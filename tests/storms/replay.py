"""An hour, played from its seed and judged."""

from __future__ import annotations

from dataclasses import dataclass

from tests.storms.history import History
from tests.storms.log import Log
from tests.storms.promises import PROMISES
from tests.storms.scripts import script_of
from tests.storms.world import play


@dataclass(frozen=True)
class Hour:
    """What was seen of it, and what is wrong with that, by promise."""

    log: Log
    wrong: dict[str, list[str]]

    def __str__(self) -> str:
        """All that there is to say of it; what is wrong stands last."""
        return "\n".join(
            [
                *map(str, self.log.script.steps),
                *map(str, self.log.events),
                *(f"task {task} is {standing}" for task, standing in self.log.standing.items()),
                *(f"{promise}: {each}" for promise, found in self.wrong.items() for each in found),
                f"python -m tests.storms {self.log.script.seed}: {len(self.wrong)} promises are broken",
            ]
        )


def replay(seed: int) -> Hour:
    log = play(script_of(seed))
    history = History(log)
    wrong = {promise.__name__: [*promise(history)] for promise in PROMISES}
    return Hour(log, {promise: found for promise, found in wrong.items() if found})
