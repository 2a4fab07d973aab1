"""What a scenario consists of; those that there are stand in `scenarios`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from session_lock import PostgresDatabase, Runner, Settings, Tasker, TaskTable
from session_lock.block import RunningBlock
from session_lock.cli.demo.access import Connection
from session_lock.cli.demo.cast import Cast
from session_lock.cli.demo.director import Say, play
from session_lock.cli.demo.part import CONCURRENCY, Backstage, Part
from session_lock.cli.demo.plan import Plan
from session_lock.cli.demo.verdict import Verdict
from session_lock.cli.demo.watch import Watch

SHORT_LEASE: Mapping[str, Any] = {
    "lease_ttl": 2.0, "keepalive_interval": 0.3, "call_timeout": 0.5, "cancel_grace": 0.25, "guard": 0.25,
    "poll_interval": 0.25, "start_jitter": 0, "drain_timeout": 2, "shutdown_timeout": 1, "concurrency": CONCURRENCY,
}  # fmt: skip
"""So that take-overs can be watched."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for. None: as the scenario has it."""

    runners: int
    tasks: int | None = None
    seconds: float | None = None
    directory: Path | None = None
    kill: bool = True
    freeze: bool = True


class Scenario(ABC):
    """A demo, from its table to its verdict. One is made in the demo's process; a runner's process needs the class alone."""

    about: ClassVar[str]
    """What it shows, for --help."""

    options: ClassVar[frozenset[str]] = frozenset({"tasks", "seconds", "no-kill", "no-freeze"})
    """Those that it has, of those that not all have."""

    plan: Plan

    @abstractmethod
    def __init__(self, wish: Wish) -> None: ...

    @abstractmethod
    def opening(self) -> str:
        """What it is going to do."""

    # The table -----------------------------------------------------------------------------------------------

    table: ClassVar[TaskTable]
    """In the demo's schema, with the key `id` and the column `finished_at`, which becomes a value when a task is done."""

    tables: ClassVar[str]
    """SQL that makes it, and what its tasker writes."""

    grants: ClassVar[str]
    """SQL that gives `{role}`, which the runners have where the server is ours, what its tasker needs and no more."""

    @abstractmethod
    async def fill(self, connection: Connection) -> None:
        """Insert the rows."""

    # In a runner's process -----------------------------------------------------------------------------------

    lease: ClassVar[Mapping[str, Any]] = SHORT_LEASE
    """The settings that all of its runners have."""

    @classmethod
    @abstractmethod
    def tasker(cls, backstage: Backstage) -> Tasker[Any]: ...

    @classmethod
    def settings(cls, part: Part) -> Settings:
        return Settings(**cls.lease, batch_size=part.batch_size)

    @classmethod
    def runner(cls, database: PostgresDatabase[Any], backstage: Backstage) -> RunningBlock:
        part = backstage.part
        return Runner(database, cls.tasker(backstage), cls.settings(part), name=part.name)

    # What happens, and what came of it -----------------------------------------------------------------------

    async def play(self, cast: Cast, watch: Watch, say: Say) -> None:
        """From the start of the runners until all work is done and they have ended."""
        await play(self.plan, cast, watch, say)

    @abstractmethod
    async def judge(self, connection: Connection, cast: Cast, watch: Watch) -> Verdict:
        """By the tables: nothing is believed because a runner says so."""
