"""The tasks that a session holds, from their claim until their outcomes are recorded."""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Generic, TypeVar

from session_lock.breaker import Breaker
from session_lock.database import Claim, ClaimedTask
from session_lock.errors import SessionLost, TaskLost
from session_lock.health import State
from session_lock.outbox import Outbox
from session_lock.pace import Pace
from session_lock.scarcity import Scarcity
from session_lock.session import Lease, Session
from session_lock.settings import Settings
from session_lock.tasks import (
    Batch,
    Discard,
    Failure,
    HandOver,
    Holder,
    Park,
    Release,
    Task,
    TaskKey,
    Verdict,
)
from session_lock.telemetry import Telemetry
from session_lock.turns import Turn, Turns
from session_lock.waiting import wait_for
from session_lock.wording import describe, placed

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("session_lock.runner")

CANCELLED = Discard("cancelled on request")

LOST = (SessionLost, TaskLost)
"""Says nothing of the instance: the task may have been finished by a call that failed after that."""


class HeldTasks(Holder, Generic[T]):
    """Each is ready, then running, then settled with a verdict, and leaves when that is recorded."""

    telemetry: Telemetry

    def __init__(
        self, lease: Lease, settings: Settings, *, breaker: Breaker, pace: Pace, turns: Turns, capacity: int
    ) -> None:
        self.session: Session = Session(lease)
        self._about: dict[str, object] = {"session_id": lease.id}
        self.settings = settings
        self.breaker = breaker
        self.pace = pace
        self.scarcity: Scarcity = Scarcity(settings.poll_interval)
        self.capacity = capacity
        self.busy: int = 0  # slots that have a batch
        self.limited = False  # the last look was held back by a limit, so a finish may let more through
        self.is_alone = False  # no other session was given work at the last look
        self.held: dict[TaskKey, Task[T]] = {}  # claimed and not yet recorded, in claim order
        self.ready: deque[Task[T]] = deque()  # of these: not begun
        self.running: dict[asyncio.Task[Any], Batch[T]] = {}  # of these: in a call of the tasker
        self.outbox: Outbox[T] = Outbox()  # of these: to be recorded
        self.abandoned: set[TaskKey] = set()  # of these: in a call that ignores its cancellation
        self.lone: Task[T] | None = None  # of these: to be run with nothing beside it
        self._begun: set[Task[T]] = set()  # in a call that has not ended, settled ones included
        self._settled: set[Task[T]] = set()  # that have a verdict, while they are held or begun
        self.overdue: set[asyncio.Task[Any]] = set()  # calls that go on after their time limit
        self.last_recording: asyncio.Event = asyncio.Event()  # no more outcomes will come
        self.ready_or_ending: asyncio.Event = asyncio.Event()
        self.room: asyncio.Event = asyncio.Event()  # there may be room for more tasks
        self.may_begin: asyncio.Event = asyncio.Event()  # that is, for such as could begin at once
        self.healed: asyncio.Event = asyncio.Event()  # the breaker has closed
        self._most_attempts = settings.retry.most_attempts
        self._decode_failed = False
        self._wary = False  # a task was run alone: claims come one by one, until one brings a usual task
        self._lone_until = 0.0  # a lone task waits no longer for records of the others
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self.turn: Turn = turns.join(self._may_begin, self.ready_or_ending.set, self._place_is_free)
        # With an open breaker: no look before.
        self.try_again_at: float = self._loop.time() + (breaker.pause() if breaker.open else 0.0)

    @property
    def lease(self) -> Lease:
        return self.session.lease

    def about(self, state: State | None = None) -> dict[str, object]:
        """What a line in the log has in its fields; `state` is the one that begins with it."""
        return self._about if state is None else {**self._about, "state": state}

    @abstractmethod
    def may_run(self) -> bool:
        """Whether another call of the tasker may begin."""

    # Tasks come in -----------------------------------------------------------------------------------------

    def _place_is_free(self) -> None:
        """In the group, whoever had it."""
        if self.scarcity.others_wait:
            self._has_room()

    def _has_room(self) -> None:
        self.room.set()
        self.may_begin.set()

    def take(self, work: Sequence[ClaimedTask[T]]) -> None:
        """Claimed tasks enter. If one of them is to be run alone, the others go back: they shall lose no attempt by it."""
        for claimed in work:
            self._take(claimed)
        if work:
            self._wary = self.lone is not None
        if self.ready:
            self.ready_or_ending.set()
        if self.lone is not None:
            self._lone_until = self._loop.time() + self.settings.call_timeout
            for task in [task for task in self.ready if task is not self.lone]:
                self.ready.remove(task)
                self.keep(task, HandOver())
        if self.breaker.open:  # since these were asked for, perhaps
            self.give_back(len(self.ready) - (self._loop.time() >= self.try_again_at))

    def _take(self, claimed: ClaimedTask[T]) -> None:
        """A key that is here already was freed meanwhile: its older claim is over."""
        claim = claimed.claim
        data: Any = claimed.data
        task = Task(claim.key, data, claimed.attempt, claim.token, self.lease.id, self, claimed.traceparent)
        if (older := self.held.get(claim.key)) is not None and older in self.ready:
            self.ready.remove(older)
        self.held[claim.key] = task
        if claimed.cancelled:
            self.keep(task, CANCELLED)
        elif claimed.attempt > self._most_attempts:
            # The last one was no failure, or it would have been given up: who had it died. That may not be its fault.
            told = f"given up after {claimed.attempt - 1} attempts, the last of which ended with its session"
            self.keep(task, Park(told))
        elif claimed.error is not None:
            logger.log(
                logging.DEBUG if self._decode_failed else logging.WARNING,
                "session %d of %s cannot decode a row: %s; what that says is kept with the failure (session-lock why KEY)",
                self.lease.id, self._about.get("mapping"), placed(claimed.error), extra=self.about(),
            )  # fmt: skip
            self._decode_failed = True  # said once: it may be every row
            self.failed(task, f"decode failed: {describe(claimed.error)}", claimed.error)
        else:
            self.ready.append(task)
            if claimed.alone and self.lone is None:
                self.lone = task

    # are begun ---------------------------------------------------------------------------------------------

    async def next_batch(self, most: int) -> Batch[T] | None:
        """Up to `most` tasks to begin; None when the lease comes to its end."""
        while self.may_run():
            if not self._may_begin():
                self.turn.pass_on()
            elif self.turn.take():
                batch = Batch([self.ready.popleft() for _ in range(min(most, len(self.ready)))], self)
                self._begun.update(batch)
                self.busy += 1
                self.room.set()  # in front of the slots
                return batch
            self.ready_or_ending.clear()
            left = self._lone_until - self._loop.time()
            self.turn.waiting += 1
            try:
                await wait_for(self.ready_or_ending, left if self.lone is not None and left > 0 else None)
            finally:
                self.turn.waiting -= 1
        self.turn.pass_on()
        return None

    def _may_begin(self) -> bool:
        """Whether there is a task to begin. A lone one waits until nothing else runs, and what has ended is recorded."""
        if self.lone is None or self.lone not in self.ready:
            return bool(self.ready)
        recorded = len(self.held) == 1 or self._loop.time() >= self._lone_until
        return recorded and not self.running.keys() - self.overdue

    def give_back(self, count: int | None = None) -> None:
        """Release tasks that were not begun, the latest first (default: all of them), attempts included."""
        for _ in range(len(self.ready) if count is None else min(count, len(self.ready))):
            self.keep(self.ready.pop(), HandOver())

    def left_overdue(self, call: asyncio.Task[Any], batch: Batch[T]) -> None:
        """The call goes on after its time limit: nothing waits for it any more but its own slot."""
        self.overdue.add(call)
        self._not_lone(batch)

    def _not_lone(self, tasks: Iterable[Task[Any]]) -> None:
        if any(task is self.lone for task in tasks):
            self.lone = None
            self._has_room()
        self.ready_or_ending.set()  # one that waits to be alone may be so now

    # and are settled ---------------------------------------------------------------------------------------

    def settle(self, task: Task[Any], verdict: Verdict) -> None:
        """The tasker's verdict on a task; it may come from a thread."""
        if self.keep(task, verdict) and not isinstance(verdict, Release):
            self._succeeded()

    def accomplished(self, tasks: Collection[Task[Any]]) -> None:
        """The tasker's verdict on tasks of one batch that has begun: they are finished, but those that have a verdict already."""
        if fresh := [task for task in tasks if task not in self._settled]:
            self._settled.update(fresh)
            self.outbox.put_finished(fresh)
            self._tell(self.outbox.filled)
            self._succeeded()

    def failed(self, task: Task[T], story: str, error: BaseException | None = None) -> None:
        """The task has failed, unless there is a verdict on it already."""
        if not self.keep(task, self.after_failure(task, story, error)) or isinstance(error, LOST):
            return
        self.telemetry.failed(error)
        if opened := self.breaker.failed(task.key):
            logger.error(
                "%d different tasks of session %d in a row have failed: from now on it takes one at a time, until one succeeds",
                self.settings.breaker_failures, self.lease.id, extra=self.about("sick"),
            )  # fmt: skip
            self.give_back()
        # A call that had begun before then is no try of its own.
        if opened or (self.breaker.open and self._loop.time() >= self.try_again_at):
            self.try_again_at = self._loop.time() + self.breaker.pause()

    def after_failure(
        self, task: Task[T], story: str, error: BaseException | None = None
    ) -> Failure | Discard:
        """What becomes of a task that has failed: another attempt later, or none."""
        policy = self.settings.retry.policy(error)
        if policy.gives_up(task.attempt):
            logger.warning(
                "session %d gives a task up at its attempt %d", self.lease.id, task.attempt, extra=self.about(),
            )  # fmt: skip
            return Discard(story)
        return Failure(story, policy.pause(task.attempt))

    def _succeeded(self) -> None:
        if self.breaker.succeeded():
            logger.warning(
                "session %d has accomplished a task, and goes on as usual", self.lease.id, extra=self.about("running"),
            )  # fmt: skip
            self._tell(self.healed)

    def keep(self, task: Task[Any], verdict: Verdict) -> bool:
        """Put the verdict before the finish phase. The first one on a task stands; whether it was this one is returned."""
        if task in self._settled or not (task in self._begun or self.held.get(task.key) is task):
            return False  # it has one, or was done with long ago
        if task not in self._begun:
            self._not_lone((task,))
        self._settled.add(task)
        self.outbox.put(task, verdict)
        self._tell(self.outbox.filled)
        return True

    def _tell(self, event: asyncio.Event) -> None:
        """Set an event, in whatever thread this is."""
        if threading.get_ident() == self._thread:
            event.set()
        else:
            self._loop.call_soon_threadsafe(event.set)

    def is_settled(self, task: Task[Any]) -> bool:
        return task in self._settled

    def call_ended(self, batch: Batch[T]) -> None:
        """The tasker is done with a batch, whose tasks all have their verdicts."""
        self.busy -= 1
        self._has_room()
        self._not_lone(batch)
        # A lone task that waits shall find these recorded.
        self._lone_until = self._loop.time() + self.settings.call_timeout
        self._begun.difference_update(task for task in batch if task.key not in self.abandoned)
        self._settled.difference_update(task for task in batch if self.held.get(task.key) is not task)

    def recorded(self, tasks: Collection[Task[T]]) -> None:
        """The database knows: the tasks leave."""
        for task in tasks:
            if self.held.get(task.key) is task:
                del self.held[task.key]
            if task not in self._begun:
                self._settled.discard(task)
        self.telemetry.forget(tasks)
        self._has_room()
        self.ready_or_ending.set()

    def stop_recording(self) -> None:
        """No more outcomes will come."""
        self.last_recording.set()
        self.outbox.filled.set()


def claims_of(tasks: Iterable[Task[Any]]) -> list[Claim]:
    return [Claim(task.key, task.token) for task in tasks]
