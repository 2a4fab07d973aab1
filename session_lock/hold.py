"""What one lease holds, from the claim of a task until its outcome is recorded: the state that its phases share.

`Record -> get_work -> Task` fetch · `Task -> Batch -> tasker -> outcome` execute · `outcome -> finish_tasks` finish:
each phase takes from here what the one before it has put.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import Enum
from typing import Any, TypeVar

from session_lock.breaker import Breaker
from session_lock.database import Beat, ClaimedTask, Database, Identity
from session_lock.errors import DatabaseError, SessionLost, TaskLost
from session_lock.facts import Backlog
from session_lock.health import State, Vitals
from session_lock.held import CANCELLED, claims_of
from session_lock.pace import Pace
from session_lock.room import Room
from session_lock.session import Lease, lease_clock
from session_lock.settings import Settings
from session_lock.tasks import Task
from session_lock.telemetry import Telemetry, words
from session_lock.turns import Turns
from session_lock.waiting import Waiters
from session_lock.watch import Guard

T = TypeVar("T")
R = TypeVar("R")

logger: logging.Logger = logging.getLogger("session_lock.runner")


class Ending(Enum):
    """Why a lease comes to its end."""

    STOPPED = "the Runner stops"
    ASKED = "it is asked to"
    MOVED = "the database has moved"
    FAILED = "the database needs a person"
    LOST = "the session is lost"


class Hold(Room[T]):
    """One session, until its end, and the tasks that it holds. It stands behind each `Task` (`tasks.Holder`)."""

    def __init__(
        self,
        lease: Lease,
        database: Database[T],
        settings: Settings,
        telemetry: Telemetry,
        *,
        identity: Identity,
        breaker: Breaker,
        pace: Pace,
        capacity: int,
        turns: Turns,
        guard: Guard,
        vitals: Vitals,
        sent_at: float,
    ) -> None:
        super().__init__(lease, settings, breaker=breaker, pace=pace, turns=turns, capacity=capacity)
        self.telemetry = telemetry
        self.database = database
        self.identity = identity
        self._about["mapping"] = identity.mapping
        self.guard = guard
        self.vitals = vitals
        self.renewed(sent_at, lease.left)
        self.ending: Ending | None = None
        self.drain_until: float = 0.0  # with an ending: the loop's time at which running calls are cancelled
        self.failure: BaseException | None = None  # what run() raises when the lease has ended
        self.paused: bool = False
        self.share: int | None = None  # as the last look was told
        self.backlog: Backlog | None = None  # if this session is told
        self.woken_at: float | None = None  # the loop's time of a wake-up since when no look has begun
        self.begins_since: float | None = None  # and of one that has led to tasks, of which none was begun
        self.freed = False  # something was recorded since the last look began
        self.failed_looks = 0  # calls of get_work in a row that failed
        self.asked: asyncio.Event = asyncio.Event()  # somebody asks for a look at once
        self.hears: Callable[[], bool] | None = None  # whether wake-ups come through; None: nobody knows
        self.beat_now: asyncio.Event = asyncio.Event()
        self.replaced: asyncio.Event = asyncio.Event()  # another object stands for the database now
        self.in_doubt: asyncio.Event = asyncio.Event()  # the database has not answered: it may be elsewhere
        self.failed_finds = 0  # questions to the finder in a row that failed
        self.cancelling: set[asyncio.Task[Any]] = set()  # calls that we have cancelled
        self.cancel_keys: set[str] = set()  # tasks whose cancellation was asked for
        self.call_name: str = f"session_lock tasker, session {lease.id}"
        self.slots: Waiters = Waiters()  # wait for calls; in the end no longer
        self._is_ending_calls = False

    # The lease -------------------------------------------------------------------------------------------

    def renewed(self, sent_at: float, left: float) -> None:
        """The server has answered a call sent at `sent_at` that the lease lasts `left` more seconds."""
        self.session.extend(
            sent_at=sent_at, left=left, ttl=self.settings.lease_ttl, guard=self.settings.guard
        )
        self.guard.extend(self.session.deadline)

    def heard(self, beat: Beat) -> None:
        """What the answer to a keepalive asks of this session."""
        if beat.pause is not self.paused:
            self._be_paused(beat.pause)
        if beat.drain:
            self.end(Ending.ASKED)
        if beat.give_back:
            self.hand_over(beat.give_back)
        if beat.cancel:
            self.cancel_tasks(beat.cancel)

    def _be_paused(self, paused: bool) -> None:
        self.paused = paused
        told = "paused, as its mapping is" if paused else "resumed"
        logger.info(
            "session %d is %s", self.lease.id, told, extra=self.about("paused" if paused else "running")
        )
        if paused:
            self.give_back()
        else:
            self.look()

    def take(self, work: Sequence[ClaimedTask[T]]) -> None:
        """What a look has brought."""
        self.vitals.looked()
        super().take(work)
        if self.paused:  # since it was sent
            self.give_back()

    async def call(self, what: str, verb: Coroutine[Any, Any, R]) -> R:
        """A verb of the database within the call timeout. The connection of one that is late is given up."""
        try:
            return await self.in_time(what, verb)
        except DatabaseError:
            self.in_doubt.set()
            raise

    async def in_time(self, what: str, verb: Coroutine[Any, Any, R]) -> R:
        """Within the call timeout, whatever is asked."""
        try:
            async with asyncio.timeout(self.settings.call_timeout):
                return await verb
        except TimeoutError as error:
            late = DatabaseError(
                f"{what} did not answer within call_timeout={self.settings.call_timeout:g} seconds"
            )
            self.vitals.went_wrong(late)
            raise late from error
        except DatabaseError as error:
            self.vitals.went_wrong(error)
            raise

    @property
    def state(self) -> State:
        if self.ending is not None:
            return "lost" if self.ending is Ending.LOST else "draining"
        if self.breaker.open:
            return "sick"
        return "paused" if self.paused else "running"

    def margin(self) -> float:
        """Seconds until the session is lost, if it is not renewed."""
        return max(0.0, self.session.left() - self.settings.cancel_grace)

    def count_running(self) -> int:
        """Tasks in calls of the tasker; for any thread, hence the copy."""
        return sum(map(len, [*self.running.values()]))

    def may_run(self) -> bool:
        """Whether another call of the tasker may begin. A process that stood still may find that it is too late for one."""
        if self.ending is None and self.session.left() <= self.settings.cancel_grace:
            self.lose("its lease ran out while this process stood still")
        return self.ending is None

    def end(self, ending: Ending, failure: BaseException | None = None) -> None:
        """Begin to end the lease: no more claims, no more calls of the tasker. The first reason stands, but LOST."""
        self.failure = self.failure or failure
        if self.ending is None and ending is not Ending.LOST:
            logger.info("session %d drains: %s", self.lease.id, ending.value, extra=self.about("draining"))
        if self.ending is None or (ending is Ending.LOST and self.ending is not Ending.LOST):
            if ending is Ending.LOST:
                self.telemetry.count(words.LEASES_LOST, 1)
            self.telemetry.event(
                words.LEASE_LOST if ending is Ending.LOST else words.DRAIN, reason=ending.value
            )
            self.ending = ending
            self.drain_until = asyncio.get_running_loop().time() + self.settings.drain_timeout
            self.look()
            for event in (self.ready_or_ending, self.healed, self.beat_now):
                event.set()
            self.give_back()
        if ending is Ending.LOST:
            self.cancel_running()

    def lost(self, error: SessionLost) -> None:
        """The server says that the session is gone."""
        self.gone()
        self.lose(str(error))

    def gone(self) -> None:
        """The deadline is now, for the server says so; who is cancelled has his grace all the same. From any thread."""
        self.session.lost = True
        self.guard.end_by(lease_clock() + self.settings.cancel_grace)

    def lose(self, reason: str) -> None:
        """Nothing may be done for the session any more, but to try to record what is accomplished."""
        if self.ending is not Ending.LOST:
            self.vitals.went_wrong(f"session {self.lease.id} is lost: {reason}")
            logger.warning("session %d is lost: %s", self.lease.id, reason, extra=self.about("lost"))
        self.end(Ending.LOST)

    def cancel_running(self, calls: Iterable[asyncio.Task[Any]] | None = None) -> None:
        """Cancel calls of the tasker (default: all); after `cancel_grace` the phases wait for them no longer."""
        fresh = [call for call in (self.running if calls is None else calls) if call not in self.cancelling]
        for call in fresh:
            self.cancelling.add(call)
            call.cancel()
        if calls is None and not self._is_ending_calls:
            self._is_ending_calls = True
            self._loop.call_later(self.settings.cancel_grace, self.slots.give_up)

    def cancel_tasks(self, keys: Iterable[str]) -> None:
        """Cancel the calls that run tasks of these keys (as text), and discard those that were not begun."""
        self.cancel_keys.update(keys)
        self.cancel_running(
            [call for call, batch in self.running.items() if any(map(self._is_to_be_cancelled, batch))]
        )
        for task in filter(self._is_to_be_cancelled, list(self.ready)):
            self.ready.remove(task)
            self.keep(task, CANCELLED)
        # What waits in the half of a batch is of these, too.
        self.cancel_keys.intersection_update(str(task.key) for task in self._begun - self._settled)

    def _is_to_be_cancelled(self, task: Task[Any]) -> bool:
        return str(task.key) in self.cancel_keys and task not in self._settled

    def woken(self) -> None:
        """The database says that there may be new tasks."""
        if self.woken_at is None:
            self.woken_at = self._loop.time()
        self.look()

    def call_begins(self) -> None:
        """Of the tasker."""
        if self.begins_since is not None:
            self.telemetry.record(words.WAKE_UP_DURATION, self._loop.time() - self.begins_since)
            self.begins_since = None

    def look(self) -> None:
        """Fetch now, whatever the poll interval says."""
        self.asked.set()
        self._has_room()

    # What a Task can ask (tasks.Holder) ------------------------------------------------------------------------

    def lease_left(self) -> float:
        return self.session.left()

    def assert_held(self, tasks: Sequence[Task[Any]]) -> None:
        if self.ending is Ending.LOST:
            raise SessionLost(f"session {self.lease.id} is lost: its tasks may be running elsewhere")
        self.session.assert_held()
        for task in tasks:
            if self.held.get(task.key) is not task:
                raise TaskLost(f"{task!r} is no longer held by session {self.lease.id}")

    async def finish_in(self, connection: Any, tasks: Sequence[Task[Any]]) -> None:
        with self.telemetry.finishing(tasks, self.lease.id):
            await self.database.finish_in(connection, self.lease, claims_of(tasks))
        self.outbox.in_transactions.update(tasks)

    def finish_in_sync(self, connection: Any, tasks: Sequence[Task[Any]]) -> None:
        with self.telemetry.finishing(tasks, self.lease.id):
            self.database.finish_in_sync(connection, self.lease, claims_of(tasks))
        self.outbox.in_transactions.update(tasks)

    @asynccontextmanager
    async def transaction(self, tasks: Sequence[Task[Any]]) -> AsyncIterator[Any]:
        self.assert_held(tasks)
        async with AsyncExitStack() as stack:
            with self.telemetry.finishing(tasks, self.lease.id):
                try:
                    async with asyncio.timeout(self.session.left()):
                        entry = self.database.transaction(self.lease, claims_of(tasks))
                        connection = await stack.enter_async_context(entry)
                except TimeoutError as error:
                    raise DatabaseError(
                        "no finishing transaction could be opened: all connections for them are in use"
                    ) from error
            yield connection
        unsettled = [task for task in tasks if task not in self._settled]
        self._settled.update(unsettled)
        self.recorded(unsettled)  # committed: nothing is left to record
        self.telemetry.settled("finished", len(unsettled))
        self._succeeded()
