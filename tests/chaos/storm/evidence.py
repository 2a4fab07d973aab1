"""What is known of a storm when it is over: what was done to it, and what it has done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.storm.ledger import Pause, Run
from tests.chaos.storm.tables import Change


@dataclass(frozen=True)
class Event:
    """What the nemesis did to a process."""

    kind: str
    pid: int
    at: float
    until: float = float("inf")


@dataclass
class Evidence:
    """All times are of the clock of the ledger."""

    runs: Sequence[Run] = ()
    pauses: Sequence[Pause] = ()
    left: Mapping[int, int] = field(default_factory=dict)
    """What the processes that ended by themselves have left behind."""
    to_end: frozenset[int] = frozenset()
    """The processes that were asked to end."""
    events: Sequence[Event] = ()
    changes: Sequence[Change] = ()
    ended: Mapping[int, float] = field(default_factory=dict)
    """The sessions that have ended, and when."""
    accepted: Sequence[tuple[int, int]] = ()
    """What the resource took: task and token."""
    effects: Mapping[int, int] = field(default_factory=dict)
    """How often each task's effect stands in the table."""
    total: int = 0
    """Of the accounts."""
    fed: frozenset[int] = frozenset()
    """The tasks that were inserted, as far as the database has said so."""
    pending: Sequence[int] = ()
    """The tasks that are not finished, when they should be."""
    lossy: bool = False
    """Commits were lost: what the ledger has and the audit has not was no fault of ours."""
    shares: Sequence[Mapping[int, int]] = ()
    """Tasks held by each session, one look after another, while nothing is done to them."""
    batch: int = 50
    lease: float = 1.0
    poll: float = 0.1
    backends: Sequence[str] = ()
    """Those that are still there when all processes have ended."""
    health: Mapping[str, float] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)
    """Of the processes, by their names; of the server: `server`."""
    secrets: frozenset[str] = frozenset()
