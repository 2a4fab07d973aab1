"""What a runner process is told, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import asyncpg

Pool: TypeAlias = "asyncpg.Pool[Any]"

CONCURRENCY = 2
"""Calls of the tasker at once, in each process."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a runner process is told."""

    scenario: str
    name: str
    dsn: str
    pause: float
    """Seconds that a call of the tasker takes longer than it needs to."""

    batch_size: int

    own: dict[str, Any] = field(default_factory=dict)
    """What only this one is told, and only in its scenario."""


@dataclass(slots=True)
class Report:
    """What a runner process tells about itself; what the table shows is not asked of it."""

    share: int | None = None
    """None: no bound, as there is plenty."""

    refused: int = 0
    """Finishes that came too late, and that the database refused."""


@dataclass(frozen=True, slots=True)
class Backstage:
    """What a runner process has at hand."""

    part: Part
    pool: Pool
    report: Report
