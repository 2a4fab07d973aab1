"""`Runner`: awaited in each instance of a service, it is given a share of the tasks and has them done."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import ExitStack
from typing import Generic, TypeVar

from session_lock import session
from session_lock.block import RunningBlock, check_on_failure, first_leaf
from session_lock.breaker import Breaker
from session_lock.database import Database, DatabaseFinder, Identity
from session_lock.errors import DatabaseError, SettingsError
from session_lock.health import Health, State, Vitals
from session_lock.hold import Ending, Hold
from session_lock.lease import live
from session_lock.pace import Pace
from session_lock.settings import Settings
from session_lock.tasker import Tasker, asynchronous, each
from session_lock.telemetry import MeterProvider, Telemetry, TracerProvider
from session_lock.turns import Turns
from session_lock.waiting import have_shield, wait_for, wait_through
from session_lock.watch import watch_over
from session_lock.watchdog import check_watchdog
from session_lock.wording import describe, level_of

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("session_lock.runner")


class Runner(RunningBlock, Generic[T]):
    """Keeps a session alive, gets its share of the work, has it done by the tasker, and records what was accomplished.

    `await runner.run()` until it is cancelled or `stop()` is called; or `async with runner:` for a block. `database` is a `Database`, or an async callable
    that returns the current one and is asked in each cycle. `name` stands in spans and logs, by default the mapping's name; `app_version` in the session's
    row. `on_failure` is called with the error if the Runner dies inside of `async with`; `idle_spans=False` leaves out the spans of polls and keepalives that
    came to nothing; `tracer_provider` and `meter_provider` default to OpenTelemetry's global ones. `SettingsError` says what of all this cannot be.

    ```python
    async with Runner(database, each(send), Settings(concurrency=50)) as runner:
        await serve()  # yours, until it is told to stop
    ```
    """

    def __init__(
        self,
        database: Database[T] | DatabaseFinder[T],
        tasker: Tasker[T],
        settings: Settings | None = None,
        *,
        name: str = "",
        app_version: str = "",
        on_failure: Callable[[BaseException], object] | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        idle_spans: bool = True,
    ) -> None:
        check_on_failure(on_failure)
        if settings is not None and not isinstance(settings, Settings):
            raise SettingsError(f"settings is a Settings, not {type(settings).__name__}")
        self.settings: Settings = settings or Settings()
        if self.settings.on_stuck == "kill":
            check_watchdog()
        if not callable(database) and not hasattr(database, "get_work"):
            raise SettingsError(
                f"a Runner needs a Database or an async function that returns one, not {type(database).__name__}"
            )
        self._database = database
        self._tasker = asynchronous(tasker)
        self._tasks_per_call = 1 if isinstance(tasker, each) else self.settings.batch_size
        self._app_version = app_version
        self._on_failure = on_failure
        self._name = name
        self._telemetry = Telemetry(name, tracer_provider, meter_provider, idle_spans=idle_spans)
        self._breaker = Breaker(self.settings.breaker_failures, self.settings.poll_interval)
        self._vitals = Vitals()
        self._pace = Pace(self.settings.concurrency, self._tasks_per_call)
        self._stopping = asyncio.Event()
        # Of a group, where it is in one: what its Runners share, and whether one of the others is at a database.
        self._turns = Turns()
        self._is_taken: Callable[[Identity], bool] = lambda _: False
        self._identity: Identity | None = None  # where its session is, or is about to start
        self._has_begun = False  # it has had a session
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hold: Hold[T] | None = None
        self._engine: asyncio.Task[BaseException | None] | None = None

    # From the outside ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until `stop()` or cancellation, both graceful: running taskers may end, outcomes are recorded.

        Cancelled a second time, it cancels the taskers at once. A database that is away does not end it. It raises one
        exception, never a group: what only a person can mend (`SchemaError`, `DatabaseError` that is not retryable).
        """
        if self._engine is not None:
            raise RuntimeError("a Runner runs once: make another one")
        have_shield()
        # The engine is a task of its own, which a cancellation from outside cannot reach: a TaskGroup that is cancelled
        # cancels all of its children at once, the finish in flight among them.
        self._loop = asyncio.get_running_loop()
        self._engine = asyncio.create_task(self._live_lease_after_lease(), name="session_lock engine")
        self._engine.add_done_callback(self._engine_ended)
        try:
            await asyncio.wait({self._engine})
        except asyncio.CancelledError:
            self.stop()
            try:
                await wait_through({self._engine}, self._abort)
            finally:
                if self._engine.done() and (error := self._failure()) is not None:
                    logger.error(
                        "a Runner that was being cancelled failed: %s",
                        describe(error),
                        extra=self._about("failed"),
                    )
            raise
        if (error := self._failure()) is not None:
            raise error

    def stop(self) -> None:
        """Stop gracefully: a plain function, idempotent, good in a signal handler, in a thread, and before `run()`."""
        if self._loop is None:
            self._stopping.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._begin_to_stop)  # which also wakes a sleeping loop

    def _begin_to_stop(self) -> None:
        self._stopping.set()
        if self._hold is not None:
            self._hold.end(Ending.STOPPED)

    @property
    def ready(self) -> bool:
        """For a readiness probe: it has a session that is not coming to its end, and its taskers do not fail one and all.

        It may be so while no look for tasks succeeds, of which `health()` tells; it is not while its breaker is open (`Settings.breaker_failures`).
        """
        hold = self._hold
        return hold is not None and hold.ending is None and not self._breaker.open

    def health(self) -> Health:
        """How it is, for probes and for people: a plain function, good in any thread, that waits for nothing."""
        hold, now = self._hold, 0.0 if self._loop is None else self._loop.time()
        looked_at, error = self._vitals.looked_at, self._vitals.error
        return Health(
            name=self.name,
            state=self._state(hold),
            ready=self.ready,
            session=None if hold is None else hold.lease.id,
            lease_margin=None if hold is None else hold.margin(),
            looked_ago=None if looked_at is None else now - looked_at,
            loop_lag=None if hold is None else hold.guard.lag(),
            last_error=None if error is None else error[0],
            last_error_ago=None if error is None else now - error[1],
        )

    def _state(self, hold: Hold[T] | None) -> State:
        if self._engine is not None and self._engine.done():
            return "stopped" if self._failure() is None else "failed"
        if hold is not None:
            return hold.state
        return "draining" if self._stopping.is_set() else "starting"

    @property
    def name(self) -> str:
        """What it is called in spans and logs: as it was given, else the mapping's name, which a `DatabaseFinder` tells with the first session."""
        return self._telemetry.name or getattr(self._database, "mapping_name", "")

    def wake(self) -> None:
        """Look for work now rather than at the next poll."""
        if self._hold is not None:
            self._hold.look()

    def _abort(self) -> None:
        """Cancel the running taskers now."""
        if self._hold is not None:
            self._hold.cancel_running()

    # The engine ------------------------------------------------------------------------------------------------

    def _failure(self) -> BaseException | None:
        """What the engine has come to: an error that it returned, or one that it raised."""
        assert self._engine is not None
        if self._engine.cancelled():
            return asyncio.CancelledError()
        return self._engine.exception() or self._engine.result()

    def _engine_ended(self, _: asyncio.Task[BaseException | None]) -> None:
        if (error := self._failure()) is None:
            logger.info("the Runner of %s has stopped", self.name or "an unknown mapping", extra=self._about("stopped"))  # fmt: skip
        else:
            self._vitals.went_wrong(error)

    def _about(self, state: State) -> dict[str, object]:
        return {"mapping": self.name, "state": state}

    async def _live_lease_after_lease(self) -> BaseException | None:
        """The engine. It returns what `run()` is to raise: a SystemExit that was raised here would end the loop."""
        jitter = (
            self.settings.poll_interval if self.settings.start_jitter is None else self.settings.start_jitter
        )
        await wait_for(self._stopping, jitter * random.random())
        while not self._stopping.is_set():
            hold = await self._start_session()
            if hold is None:
                break
            self._hold, self._has_begun = hold, True
            if self._stopping.is_set():
                hold.end(Ending.STOPPED)
            try:
                await live(hold, self._tasker, self._tasks_per_call, self._find_database, self.stop)
            except BaseExceptionGroup as group:
                raise first_leaf(group) from group
            finally:
                self._hold = None
                self._telemetry.end()
                hold.turn.leave()
                hold.guard.leave()
            if hold.failure is not None:
                return hold.failure
            self._identity = None
            if hold.ending is Ending.LOST:  # as it may be for many at once
                await wait_for(self._stopping, self.settings.poll_interval * random.random())
        return None

    async def _start_session(self) -> Hold[T] | None:
        """A new session, as soon as the database gives one; None if the Runner is stopped before that."""
        capacity = self.settings.capacity(self._tasks_per_call)
        failures = 0
        while not self._stopping.is_set():
            sent_at = session.lease_clock()
            try:
                with ExitStack() as undo:
                    guard = watch_over(self.settings.on_stuck)
                    undo.callback(guard.leave)
                    async with asyncio.timeout(self.settings.call_timeout) as limit:
                        database = await self._find_database()
                        identity = await database.identity()
                    self._telemetry.name = self._name or identity.mapping
                    self._telemetry.begin(identity)
                    self._arrive_at(identity)
                    with self._telemetry.phase("start", capacity=capacity) as phase:
                        async with asyncio.timeout_at(limit.when()):
                            lease = await database.start_session(
                                capacity=capacity, ttl=self.settings.lease_ttl,
                                label=session.own_label(), app_version=self._app_version,
                            )  # fmt: skip
                        phase.set(session_id=lease.id)
                    undo.pop_all()
            except (DatabaseError, OSError) as error:
                # A TimeoutError is an OSError, and so is what a watch says that cannot start.
                if isinstance(error, DatabaseError) and not error.retryable:
                    raise
                self._identity = None
                failures += 1
                self._vitals.went_wrong(error)
                told = str(error) or type(error).__name__
                logger.log(level_of(failures), "no session yet: %s", told, extra=self._about("starting"))
                longest = min(self.settings.poll_interval * 2 ** min(failures, 8), 10.0)
                await wait_for(self._stopping, random.uniform(0.1, 1.0) * longest)
                continue
            hold = Hold(
                lease, database, self.settings, self._telemetry, identity=identity, breaker=self._breaker,
                pace=self._pace, turns=self._turns, guard=guard, vitals=self._vitals, capacity=capacity, sent_at=sent_at,
            )  # fmt: skip
            logger.info("session %d of %s started", lease.id, self.name, extra=hold.about(hold.state))
            return hold
        return None

    def _arrive_at(self, identity: Identity) -> None:
        """Of two Runners of a group that are given the same shard, the later one does not run: unless it has only moved
        there, when it waits, for they may be changing places.
        """
        if not self._is_taken(identity):
            self._identity = identity
            return
        twice = (
            f"database {identity.database!r} with the mapping {identity.mapping!r} is in the group twice: "
            "give each Runner a database of its own"
        )
        raise DatabaseError(twice) if self._has_begun else SettingsError(twice)

    async def _find_database(self) -> Database[T]:
        """The database of this cycle. A finder that fails is a database that is away."""
        if not callable(self._database):
            return self._database
        try:
            found = await self._database()
        except Exception as error:
            raise DatabaseError(f"the database finder failed: {describe(error)}") from error
        if not hasattr(found, "get_work"):
            raise DatabaseError(
                f"the database finder returned a {type(found).__name__}, which is no Database"
            )
        return found
