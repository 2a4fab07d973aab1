"""`Duties`: what is due by a schedule, once per due time in the whole group of instances."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, cast, get_args

import anyio

from session_lock import session
from session_lock.connections import Connect
from session_lock.database import Beat, Claim, Database, Work
from session_lock.duty_table import DUTIES, PostgresDuties, duty_table
from session_lock.errors import DatabaseError, SessionLost, SettingsError
from session_lock.names import check_name
from session_lock.planning import Due, DutyDatabase, Missed, Plan, Standing, plan
from session_lock.runner import Runner
from session_lock.schedules import Schedule, cron, every
from session_lock.session import Lease
from session_lock.settings import Settings
from session_lock.tasker import awaitable, check, each, in_thread, is_synchronous
from session_lock.tasks import Discard, Release, Task, TaskKey
from session_lock.telemetry import MeterProvider, TracerProvider

__all__ = ["DUTIES", "Due", "Duties", "Duty", "PostgresDuties", "cron", "duty_table", "every"]

logger: logging.Logger = logging.getLogger("session_lock.duties")

Outcome: TypeAlias = Release | Discard | None
DutyFunction: TypeAlias = Callable[[Task[Due]], Awaitable[Outcome] | Outcome]

PLANNED_WITHIN = 0.5
"""Seconds that planning may add to a keepalive."""

ROUNDS = 5
"""Answers that may be overtaken before the next look for work tries again."""


@dataclass(frozen=True, slots=True)
class Duty:
    """Something to be done at the due times of a schedule. `SettingsError` says what cannot be.

    `async def report(task)` (or, called in a thread, `def report(task)`) gets a `Task[Due]` and has the outcomes of a tasker
    under `each`: it returns None when it is done, or `Release(after=)`, or `Discard(reason)`; what it raises is a failure, and
    the run is tried again later.

    ```python
    async def report(task):
        async with task.transaction() as connection:  # the report and its run: both, or neither
            await connection.execute("INSERT INTO report VALUES ($1)", task.data.due_at)

    Duty("nightly-report", cron("30 3 * * *", tz="Europe/Berlin"), report, missed="all")
    ```
    """

    name: str
    """Stable: by it the instances, and the versions of the service, know that they mean the same duty."""
    schedule: Schedule
    function: DutyFunction = field(repr=False)
    missed: Missed = "once"
    """What is done about due times that passed while no session with this duty was live: one run for the latest of
    them ("once"), one for each, oldest first, up to the latest 100 ("all"), or none ("skip"). Defaults to "once"."""

    def __post_init__(self) -> None:
        check_name(self.name, "duty")
        if not self.name.strip():
            raise SettingsError(f"duty name {self.name!r} is blank: give it a name that stays")
        if not isinstance(self.schedule, Schedule):
            raise SettingsError(
                f'the schedule of duty {self.name!r} is cron("..") or every(".."), not {self.schedule!r}'
            )
        check(self.function, f"duty {self.name!r}", "a task")
        if self.missed not in get_args(Missed):
            raise SettingsError(
                f'missed={self.missed!r} of duty {self.name!r} must be "once", "all" or "skip"'
            )


class Duties(Runner[Due]):
    """Runs duties, each once per due time in the whole group, fenced; a `Runner`, so it runs alone or in a `RunnerGroup`.

    `database` is a DSN or an async callable that connects, a `PostgresDuties`, or in tests a `MemoryDuties`. The other arguments
    are `Runner`'s. `settings.concurrency` runs (defaults to 10) take place at once; `batch_size` is not used.

    ```python
    async with Duties(dsn, Duty("nightly-report", cron("30 3 * * *"), report), Duty("ping", every("5m"), ping)):
        await serve()
    ```
    """

    def __init__(
        self,
        database: Connect | DutyDatabase,
        *duties: Duty,
        settings: Settings | None = None,
        name: str = "",
        app_version: str = "",
        on_failure: Callable[[BaseException], object] | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        idle_spans: bool = True,
    ) -> None:
        for duty in duties:
            if not isinstance(duty, Duty):
                raise SettingsError(f"Duties(database, *duties): each is a Duty, not {type(duty).__name__}")
        if not duties:
            raise SettingsError("Duties(database, *duties) needs at least one Duty")
        self._calls: dict[str, Any] = {
            duty.name: in_thread(duty.function) if is_synchronous(duty.function) else duty.function
            for duty in duties
        }
        if len(self._calls) < len(duties):
            names = [duty.name for duty in duties]
            twice = next(name for name in names if names.count(name) > 1)
            raise SettingsError(f"two duties are called {twice!r}: a name says which is which for ever")
        self._own: PostgresDuties | None = None
        planned: Any = database
        if not hasattr(database, "plan_duties"):
            planned = self._own = PostgresDuties(planned)
        self._planned = _Planned(planned, duties)
        if settings is None or (isinstance(settings, Settings) and settings.tasks_per_session is None):
            # No prefetch: a run that waits here could be under way elsewhere.
            settings = settings or Settings()
            settings = replace(settings, tasks_per_session=settings.concurrency)
        super().__init__(
            cast("Database[Due]", self._planned), each(self._do), settings,
            name=name, app_version=app_version, on_failure=on_failure, tracer_provider=tracer_provider, meter_provider=meter_provider, idle_spans=idle_spans,
        )  # fmt: skip

    async def run(self) -> None:
        """As `Runner.run()`."""
        try:
            await super().run()
        finally:
            if self._own is not None:
                with anyio.CancelScope(shield=True):
                    await self._own.close()

    async def _do(self, task: Task[Due]) -> Outcome:
        return cast("Outcome", await awaitable(self._calls[task.data.name](task)))


class _Planned:
    """A `DutyDatabase` that plans what is to be planned before it gives work; and after a keepalive, when there is room for none."""

    def __init__(self, database: DutyDatabase, duties: Sequence[Duty]) -> None:
        self.database = database
        self._duties = {duty.name: duty for duty in duties}
        self._rank: int | None = None  # the id of the first session of this process
        self._lease: Lease | None = None
        self._to_ask_at = 0.0  # the loop's time
        self._clock: tuple[datetime, float] | None = None  # the database's time, when it was asked

    def __getattr__(self, verb: str) -> Any:
        return getattr(self.database, verb)

    async def get_work(
        self,
        lease: Lease,
        *,
        limit: int,
        held: Collection[TaskKey] = (),
        position: str | None = None,
        until: str | None = None,
        over_share: bool = False,
        at_once: int | None = None,
        finished: Sequence[Claim] = (),
    ) -> Work[Due]:
        if lease is not self._lease or self._is_to_ask():
            await self._plan(lease)
        work = await self.database.get_work(
            lease,
            limit=limit,
            held=held,
            position=position,
            until=until,
            over_share=over_share,
            at_once=at_once,
            finished=finished,
        )
        if (
            work.tasks or work.next_due is None
        ):  # the last that was planned may have fallen due, on whatever clock
            self._to_ask_at = 0.0
        now = self._now()
        tasks = [
            task._replace(data=replace(task.data, late=(now - task.data.due_at).total_seconds()))
            if task.data
            else task
            for task in work.tasks
        ]
        return replace(work, tasks=tasks)

    async def bump_session(self, lease: Lease, *, ttl: float, draining: bool, running: int = 0) -> Beat:
        beat = await self.database.bump_session(lease, ttl=ttl, draining=draining, running=running)
        if lease is self._lease and not draining and self._is_to_ask():
            # Nobody looks while all slots are taken; and what is not planned when another schedule comes is lost.
            with suppress(DatabaseError, SessionLost, TimeoutError):
                async with asyncio.timeout(PLANNED_WITHIN):
                    await self._plan(lease)
        return beat

    def _is_to_ask(self) -> bool:
        return asyncio.get_running_loop().time() >= self._to_ask_at

    async def _plan(self, lease: Lease) -> None:
        """Declare, and plan until nothing is lacking for now."""
        self._rank = self._rank or lease.id
        plans = [Plan(duty.name, duty.schedule.text) for duty in self._duties.values()]
        found: dict[str, Standing] = {}
        for _ in range(ROUNDS):
            sent_at = session.lease_clock()
            standings = await self.database.plan_duties(lease, self._rank, plans)
            self._clock = standings[0].at, sent_at
            found |= {standing.name: standing for standing in standings}
            plans = [lacking for standing in standings if (lacking := self._lacks(standing))]
            if not plans:
                break
        self._lease = lease
        next_due = [each.last_due for each in found.values() if each.in_force and each.last_due]
        if plans or len(next_due) < len(
            found
        ):  # another version's schedule counts, and that may end at any time
            self._to_ask_at = 0.0
        else:
            left = (min(next_due) - self._now()).total_seconds()
            self._to_ask_at = asyncio.get_running_loop().time() + max(0.0, left)

    def _lacks(self, standing: Standing) -> Plan | None:
        duty = self._duties[standing.name]
        lacking = plan(standing, duty.schedule, duty.missed)
        if lacking and standing.lapsed and (missed := sum(due <= standing.at for due in lacking.due)):
            logger.info("duty %s gets %d runs for what was missed", duty.name, missed)
        return lacking

    def _now(self) -> datetime:
        """The database's clock, by ours since it was asked."""
        if self._clock is None:
            return datetime.now(UTC)
        at, sent_at = self._clock
        return at + timedelta(seconds=session.lease_clock() - sent_at)
