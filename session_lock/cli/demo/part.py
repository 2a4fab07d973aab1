"""What a runner process is told, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from session_lock.cli.demo.access import Pool

CONCURRENCY = 2
"""Calls of the tasker at once, in each process."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a runner process is told."""

    scenario: str
    name: str
    dsns: dict[str, str]
    """Of the databases, by their names."""

    pause: float
    """Seconds that a call of the tasker takes longer than it needs to."""

    batch_size: int

    own: dict[str, Any] = field(default_factory=dict)
    """What only this one is told, and only in its scenario."""


@dataclass(slots=True)
class Report:
    """What a runner process tells about itself; what the table shows is not asked of it."""

    shares: dict[str, int | None] = field(default_factory=dict)
    """By the database. None: no bound, as there is plenty."""

    refused: int = 0
    """Finishes that came too late, and that the database refused."""


@dataclass(frozen=True, slots=True)
class Backstage:
    """What a runner process has at hand for one database."""

    part: Part
    database: str
    pool: Pool
    report: Report

    @property
    def dsn(self) -> str:
        return self.part.dsns[self.database]
