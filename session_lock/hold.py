"""What one lease holds, from the claim of a task until its outcome is recorded: the state that its phases share.

`Record -> get_work -> Task` fetch · `Task -> Batch -> tasker -> outcome` execute · `outcome -> finish_tasks` finish:
each phase takes from here what the one before it has put.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from enum import Enum
from typing import Any, Generic, TypeVar

from session_lock.database import Claim, ClaimedTask, Database
from session_lock.errors import DatabaseError, SessionLost, TaskLost
from session_lock.session import Lease, Session
from session_lock.settings import Settings
from session_lock.tasks import Batch, Discard, Failure, Release, Task, TaskKey, Verdict
from session_lock.telemetry import Telemetry
from session_lock.wording import describe

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger("session_lock.runner")


class Ending(Enum):
    """Why a lease comes to its end."""

    STOPPED = "the Runner stops"
    MOVED = "the database has moved"
    FAILED = "the database needs a person"
    LOST = "the session is lost"


class Hold(Generic[T]):
    """One session and the tasks that it holds. Also what stands behind each `Task` (`tasks.Holder`)."""

    def __init__(
        self,
        lease: Lease,
        database: Database[T],
        settings: Settings,
        telemetry: Telemetry,
        *,
        capacity: int,
        sent_at: float,
    ) -> None:
        self.session = Session(lease)
        self.database = database
        self.settings = settings
        self.telemetry = telemetry
        self.capacity = capacity
        self.renewed(sent_at, lease.left)

        self.held: dict[TaskKey, Task[T]] = {}  # claimed and not yet recorded, in claim order
        self.ready: deque[Task[T]] = deque()  # of these: not begun
        self.running: dict[asyncio.Task[Any], Batch[T]] = {}  # of these: in a call of the tasker
        self.outcomes: deque[tuple[Task[T], Verdict]] = deque()  # of these: to be recorded
        self.abandoned: set[TaskKey] = set()  # of these: in a call that ignores its cancellation
        self._begun: set[Task[T]] = set()  # in a call that has not ended, settled ones included
        self._settled: set[Task[T]] = set()  # that have a verdict, while they are held or begun

        self.ending: Ending | None = None
        self.drain_until = 0.0  # with an ending: the loop's time at which the running calls are cancelled
        self.failure: BaseException | None = None  # what run() raises when the lease has ended
        self.paused = False
        self.failed_looks = 0  # calls of get_work in a row that failed
        self.decode_failed = False
        self.recording = True  # more outcomes may come
        self.ready_or_ending = asyncio.Event()
        self.outcome_or_end = asyncio.Event()
        self.room = asyncio.Event()  # there may be room for more tasks
        self.asked = asyncio.Event()  # somebody asks for a look at once
        self.beat_now = asyncio.Event()
        self.replaced = asyncio.Event()  # another object stands for the database now
        self.cancelling: set[asyncio.Task[Any]] = set()  # calls that we have cancelled
        self.cancel_keys: set[str] = set()  # tasks whose cancellation was asked for
        self.give_up = asyncio.get_running_loop().create_future()  # cancelled calls are waited for no longer

    # The lease -------------------------------------------------------------------------------------------

    @property
    def lease(self) -> Lease:
        return self.session.lease

    def renewed(self, sent_at: float, left: float) -> None:
        """The server has answered a call sent at `sent_at` that the lease lasts `left` more seconds."""
        self.session.extend(
            sent_at=sent_at, left=left, ttl=self.settings.lease_ttl, guard=self.settings.guard
        )

    async def call(self, what: str, verb: Coroutine[Any, Any, R]) -> R:
        """A verb of the database within the call timeout. The connection of one that is late is given up."""
        try:
            async with asyncio.timeout(self.settings.call_timeout):
                return await verb
        except TimeoutError as error:
            raise DatabaseError(
                f"{what} did not answer within call_timeout={self.settings.call_timeout:g} seconds"
            ) from error

    def end(self, ending: Ending, failure: BaseException | None = None) -> None:
        """Begin to end the lease: no more claims, no more calls of the tasker. The first reason stands, but LOST."""
        self.failure = self.failure or failure
        if self.ending is None or (ending is Ending.LOST and self.ending is not Ending.LOST):
            self.ending = ending
            self.drain_until = asyncio.get_running_loop().time() + self.settings.drain_timeout
            for event in (self.ready_or_ending, self.room, self.asked, self.beat_now):
                event.set()
            self.give_back()
        if ending is Ending.LOST:
            self.cancel_running()

    def lost(self, error: SessionLost) -> None:
        """The server says that the session is gone."""
        self.session.lost.set()
        self.lose(str(error))

    def lose(self, reason: str) -> None:
        """Nothing may be done for the session any more, but to try to record what is accomplished."""
        if self.ending is not Ending.LOST:
            logger.warning(
                "session %d is lost: %s", self.lease.id, reason, extra={"session_id": self.lease.id}
            )
        self.end(Ending.LOST)

    def cancel_running(self, calls: Iterable[asyncio.Task[Any]] | None = None) -> None:
        """Cancel calls of the tasker (default: all); after `cancel_grace` the phases wait for them no longer."""
        fresh = [call for call in (self.running if calls is None else calls) if call not in self.cancelling]
        for call in fresh:
            self.cancelling.add(call)
            call.cancel()
        if calls is None and not self.give_up.done():
            asyncio.get_running_loop().call_later(self.settings.cancel_grace, self._stop_waiting)

    def cancel_tasks(self, keys: Iterable[str]) -> None:
        """Cancel the calls that run tasks of these keys (as text), and discard those that were not begun."""
        self.cancel_keys.update(keys)
        self.cancel_running(
            [c for c, batch in self.running.items() if any(str(t.key) in self.cancel_keys for t in batch)]
        )
        for task in [task for task in self.ready if str(task.key) in self.cancel_keys]:
            self.ready.remove(task)
            self.settle(task, Discard("cancelled on request"))
        self.cancel_keys.intersection_update(
            str(task.key) for batch in self.running.values() for task in batch
        )

    def look(self) -> None:
        """Fetch now, whatever the poll interval says."""
        self.asked.set()
        self.room.set()

    def _stop_waiting(self) -> None:
        if not self.give_up.done():
            self.give_up.set_result(None)

    # Tasks come in -----------------------------------------------------------------------------------------

    def take(self, claimed: ClaimedTask[T]) -> None:
        """A claimed task enters. A key that is here already was freed meanwhile: its older claim is over."""
        claim = claimed.claim
        data: Any = claimed.data
        task = Task(claim.key, data, claimed.attempt, claim.token, self.lease.id, self)
        older = self.held.get(claim.key)
        if older is not None and older in self.ready:
            self.ready.remove(older)
        self.held[claim.key] = task
        if claimed.error is not None:
            level = logging.DEBUG if self.decode_failed else logging.WARNING
            logger.log(
                level, "session %d cannot decode a row: %s", self.lease.id, type(claimed.error).__name__
            )
            self.decode_failed = True  # said once: it may be every row
            self.settle(task, Failure(f"decode failed: {describe(claimed.error)}"))
        else:
            self.ready.append(task)
            self.ready_or_ending.set()

    async def next_batch(self, most: int) -> Batch[T] | None:
        """Up to `most` tasks to begin; None when the lease comes to its end."""
        while not self.ready and self.ending is None:
            self.ready_or_ending.clear()
            await self.ready_or_ending.wait()
        if self.ending is None and self.session.left() <= self.settings.cancel_grace:
            self.lose("its lease ran out while this process stood still")
        if self.ending is not None:
            return None
        batch = Batch([self.ready.popleft() for _ in range(min(most, len(self.ready)))], self)
        self._begun.update(batch)
        self.room.set()  # in front of the slots
        return batch

    def give_back(self, count: int | None = None) -> None:
        """Release tasks that were not begun, the latest first (default: all of them), attempts included."""
        for _ in range(len(self.ready) if count is None else min(count, len(self.ready))):
            self.settle(self.ready.pop(), Release())

    # and are settled ---------------------------------------------------------------------------------------

    def settle(self, task: Task[Any], verdict: Verdict) -> None:
        """The first verdict on a task stands; it is recorded by the finish phase."""
        if isinstance(verdict, Release) and not _is_delay(verdict.after):
            raise ValueError("a task is released after a number of seconds, from 0 on, or None")
        if task in self._settled:
            return
        self._settled.add(task)
        self.outcomes.append((task, verdict))
        self.outcome_or_end.set()

    def is_settled(self, task: Task[Any]) -> bool:
        return task in self._settled

    def call_ended(self, batch: Batch[T]) -> None:
        """The tasker is done with a batch, whose tasks all have their verdicts."""
        self._begun.difference_update(batch)
        self._settled.difference_update(task for task in batch if self.held.get(task.key) is not task)

    def recorded(self, task: Task[T]) -> None:
        """The database knows: the task leaves."""
        if self.held.get(task.key) is task:
            del self.held[task.key]
        if task not in self._begun:
            self._settled.discard(task)
        self.room.set()

    def stop_recording(self) -> None:
        """No more outcomes will come."""
        self.recording = False
        self.outcome_or_end.set()

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
        await self.database.finish_in(connection, self.lease, claims_of(tasks))

    def finish_in_sync(self, connection: Any, tasks: Sequence[Task[Any]]) -> None:
        self.database.finish_in_sync(connection, self.lease, claims_of(tasks))

    def transaction(self, tasks: Sequence[Task[Any]]) -> AbstractAsyncContextManager[Any]:
        return self._transaction(tasks)

    @asynccontextmanager
    async def _transaction(self, tasks: Sequence[Task[Any]]) -> AsyncIterator[Any]:
        self.assert_held(tasks)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self.session.left()):
                    entry = self.database.transaction(self.lease, claims_of(tasks))
                    connection = await stack.enter_async_context(entry)
            except TimeoutError as error:
                raise DatabaseError(
                    "no finishing transaction could be opened: all connections for them are in use"
                ) from error
            yield connection
        for task in tasks:  # committed: nothing is left to record
            if task not in self._settled:
                self._settled.add(task)
                self.recorded(task)


def claims_of(tasks: Iterable[Task[Any]]) -> list[Claim]:
    return [Claim(task.key, task.token) for task in tasks]


def _is_delay(after: object) -> bool:
    return after is None or (isinstance(after, int | float) and after >= 0)
