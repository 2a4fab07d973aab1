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
from session_lock.cli.demo.stage import Stage
from session_lock.cli.demo.verdict import Verdict
from session_lock.cli.demo.watch import LOOK_EVERY, Watch
from session_lock.database import Work

QUICK: Mapping[str, Any] = {
    "poll_interval": 0.25, "start_jitter": 0, "drain_timeout": 2, "shutdown_timeout": 1, "concurrency": CONCURRENCY,
}  # fmt: skip
"""So that nobody waits at the beginning and at the end."""

SHORT_LEASE: Mapping[str, Any] = {
    **QUICK, "lease_ttl": 2.0, "keepalive_interval": 0.3, "call_timeout": 0.5, "cancel_grace": 0.25, "guard": 0.25,
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
    seed: int | None = None


class ObservedDatabase(PostgresDatabase[dict[str, Any]]):
    """Notes the share that the database gives with the work."""

    def __init__(self, backstage: Backstage, table: TaskTable) -> None:
        super().__init__(backstage.dsn, table, pool=backstage.pool)
        self._backstage = backstage

    async def get_work(self, *args: Any, **options: Any) -> Work[dict[str, Any]]:
        work = await super().get_work(*args, **options)
        self._backstage.report.shares[self._backstage.database] = work.share
        return work


class Scenario(ABC):
    """A demo, from its table to its verdict. One is made in the demo's process; a runner's process needs the class alone."""

    about: ClassVar[str]
    """What it shows, for --help."""

    options: ClassVar[frozenset[str]] = frozenset({"tasks", "seconds", "no-kill", "no-freeze"})
    """Those that it has, of those that not all have."""

    runners: ClassVar[int] = 3
    """Processes, where the command line does not say."""

    servers: ClassVar[int] = 1
    """More than one are always its own."""

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

    grants: ClassVar[str] = ""
    """SQL that gives `{role}`, which the runners have where the server is ours, what its tasker needs and no more."""

    @abstractmethod
    async def fill(self, connection: Connection) -> None:
        """Insert the rows of one database."""

    look_every: ClassVar[float] = LOOK_EVERY
    """Seconds; a look reads the whole table."""

    # In a runner's process -----------------------------------------------------------------------------------

    base_settings: ClassVar[Mapping[str, Any]] = SHORT_LEASE
    """Of all of its runners; `QUICK` where none is struck, so that no lease is lost because a machine is slow."""

    @classmethod
    def tasker(cls, backstage: Backstage) -> Tasker[Any]:
        """What its runners do; one that has none overrides `runner`."""
        raise NotImplementedError

    @classmethod
    def settings(cls, part: Part) -> Settings:
        return Settings(**cls.base_settings, batch_size=part.batch_size)

    @classmethod
    def database(cls, backstage: Backstage) -> PostgresDatabase[Any]:
        return ObservedDatabase(backstage, cls.table)

    @classmethod
    def runner(cls, database: PostgresDatabase[Any], backstage: Backstage) -> RunningBlock:
        part = backstage.part
        return Runner(database, cls.tasker(backstage), cls.settings(part), name=part.name)

    @classmethod
    def together(cls, *runners: Any) -> RunningBlock:
        """Those of all databases, as the one thing that a process runs."""
        only: RunningBlock
        (only,) = runners
        return only

    # What happens, and what came of it -----------------------------------------------------------------------

    async def play(self, stage: Stage, cast: Cast, watch: Watch, say: Say) -> None:
        """From the start of the runners until all work is done and they have ended."""
        await play(self.plan, stage, cast, watch, say)

    @abstractmethod
    async def judge(self, stage: Stage, cast: Cast) -> Verdict:
        """By the tables: nothing is believed because a runner says so."""
