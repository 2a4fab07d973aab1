"""What was seen of a script's play."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from tests.storms.scripts import Instance, Script


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, at the loop's time; what does not apply is -1, or empty."""

    at: float
    what: str
    """Of the database: started, renewed, ended (sessions), claimed, finished, released, parked, discarded (tasks), stepped
    (its clock), effect (of a transaction that has committed).
    Of an instance: joined, stops, killed, frozen, thawed, left, harmed (a call of the database).
    Of its tasker: begun, over, undone (the call has failed after it), checked, wrote, refused (by the resource outside).
    """
    who: int = -1
    session: int = -1
    task: int = -1
    token: int = -1
    run: int = -1
    call: int = -1
    """Of the tasker, in which the run is."""
    until: float = 0.0
    how: str = ""

    def __str__(self) -> str:
        numbers = (
            ("instance", self.who),
            ("session", self.session),
            ("task", self.task),
            ("token", self.token),
            ("run", self.run),
        )
        told = [
            f"{self.at:10.3f}",
            self.what,
            *(f"{name} {number}" for name, number in numbers if number >= 0),
        ]
        if self.until:
            told.append(f"until {self.until:.3f}")
        return " ".join([*told, self.how]).rstrip()


@dataclass
class Log:
    """The events in their order, and what is left in the end."""

    script: Script
    events: list[Event] = field(default_factory=list)
    instances: dict[int, Instance] = field(default_factory=dict)
    standing: dict[int, str] = field(default_factory=dict)
    """By task: finished, discarded, parked, or pending."""
    left_behind: list[str] = field(default_factory=list)
    """What was not ended of instances that have left."""
    runs: Iterator[int] = field(default_factory=count)
    calls: Iterator[int] = field(default_factory=count)

    def note(self, what: str, **of: float | str) -> None:
        self.events.append(Event(asyncio.get_running_loop().time(), what, **of))  # type: ignore[arg-type]
