"""`Database`: what a Runner needs of a database. Six verbs, over small frozen values; durations are seconds.

`PostgresDatabase` and `testing.MemoryDatabase` keep this contract and pass one suite. Every verb of a session raises `SessionLost` if the session is not live, and
`DatabaseError` (or `SchemaError`) if the database did not do it or its answer was lost: whether it was done is unknown then, and asking again is
safe. A call may be cancelled at any moment, with the same meaning. A key stands in a call at most once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from session_lock.errors import SettingsError
from session_lock.session import Lease
from session_lock.tasks import TaskKey

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Claim(NamedTuple):
    """One claim of one task: who holds this key under this token may finish it."""

    key: TaskKey
    token: int
    """The fencing token: the task's own counter, one more at each claim, never reset."""


class ClaimedTask(NamedTuple, Generic[T_co]):
    """A task as `get_work` hands it out."""

    claim: Claim
    attempt: int
    """How often the task was claimed, this time included, less the attempts that were given back. From 1."""
    data: T_co | None
    """The row as `decode` made it; None if that failed."""
    error: Exception | None = None
    """What `decode` raised. The task is held all the same: it has failed before it began."""
    alone: bool = False
    """Whether its session expired under it so often that it may be what kills processes: to be run with nothing beside it."""
    cancelled: bool = False
    """Whether it is to be discarded and not run: a session that has ended was asked to cancel it."""
    traceparent: str | None = None
    """W3C trace context of whoever has put it in, if the mapping has a column `traceparent`."""
    rescued: bool = False
    """Whether the session that had it has expired."""

    def __repr__(self) -> str:  # without the row, which is nobody's business
        return f"ClaimedTask({self.claim}, attempt={self.attempt})"


SESSION_EXPIRED = "its session expired"
"""What `failure` says of an attempt whose session died or froze: the process may have died of the task."""

ALONE_AFTER = 2
"""Attempts of a task that ended so, after which it is run alone."""


class Outcome(StrEnum):
    """What became of a claim that was to be finished or released."""

    FINISHED = "finished"
    RELEASED = "released"
    DISCARDED = "discarded"
    PARKED = "parked"
    ALREADY_YOURS = "already yours"
    """An earlier call under the same claim did it; its answer was lost. (So too when that call found the row closed.)"""
    LOST = "lost"
    """The claim is over: others have the task, or the application closed the row meanwhile."""
    UNKNOWN = "unknown"
    """There is no such task (any more)."""
    LOCKED = "locked"
    """Somebody's transaction has the row locked: nothing was done, ask again."""
    REFUSED = "refused"
    """The row itself refuses (a CHECK, a unique index, a trigger, a finish that leaves it pending): still held."""


STILL_HELD = frozenset({Outcome.LOCKED, Outcome.REFUSED})
"""The outcomes after which the task is held as before."""


class Cancellation(StrEnum):
    """What became of the request to cancel a task.

    ```python
    assert await database.cancel(4711) is Cancellation.UNKNOWN  # there is no such mail
    ```
    """

    DISCARDED = "discarded"
    PARKED = "parked"
    """As it is done where the mapping has no `discard`."""
    ASKED = "asked"
    """A live session holds it. It hears so at once, or at its next keepalive, cancels the run and discards the task; unless it finishes
    it before. If it gives the task back, or dies, the task is discarded all the same and not run again."""
    CLOSED = "closed"
    """It was not pending: finished, discarded, or closed by the application."""
    UNKNOWN = "unknown"
    """There is no such task."""
    LOCKED = "locked"
    """Somebody's transaction has the row locked: nothing was done, ask again."""


class Settled(NamedTuple):
    """The outcome of one claim."""

    key: TaskKey
    outcome: Outcome
    error: str | None = None
    """With `REFUSED`: what the database said, without values of the row; and what it calls that, where it told."""
    sqlstate: str | None = None


@dataclass(frozen=True, slots=True)
class Handback:
    """One task that is given back, and how."""

    claim: Claim
    after: float | None = None
    """Seconds until it may be claimed again. None: at once, in its old place of the order. `inf`: parked."""
    give_back_attempt: bool = False
    """Whether this attempt does not count."""
    discard: bool = False
    """Whether it is given up in the table's own words (parked, where the mapping has none)."""
    error: str | None = None
    """What went wrong, kept in the table `failure`; None if nothing did."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a keepalive: how long the lease lasts, and what others ask of this session."""

    left: float
    """Seconds of lease left at the server when it answered."""
    give_back: int = 0
    """So many unstarted tasks it should release."""
    pause: bool = False
    """Whether its mapping is paused: it should claim nothing."""
    drain: bool = False
    """Whether it should drain, as if `stop()` had been called."""
    cancel: tuple[str, ...] = ()
    """Keys, as text, of running tasks that it should cancel; told until they are settled."""


@dataclass(frozen=True, slots=True)
class Work(Generic[T_co]):
    """The answer to `get_work`."""

    left: float
    """Seconds of lease left at the server when it answered."""
    tasks: Sequence[ClaimedTask[T_co]] = ()
    """The tasks that were claimed, in claim order."""
    settled: Sequence[Settled] = ()
    """The outcomes of what was to be finished."""
    position: str | None = None
    """Where these tasks lie in the order: a hint for the next call, opaque. None: there is none."""
    next_due: float | None = None
    """Seconds until the next task that is not due yet; None if unknown or if there was no room for more."""
    share: int | None = None
    """How many tasks the session may hold while work is scarce; None where the share was not worked out."""
    limited: bool = False
    """Whether a limit of the mapping has held tasks back: there may be more as soon as one is finished."""
    walked: float | None = None
    """Seconds that it took to look through all that is due, or as far as `until`; None if the look began at a position and went to the end."""
    heard: bool = False
    """Whether until `next_due` whatever comes to be claimable wakes those who listen: who does need not look for it."""
    sharing: int | None = None
    """How many sessions there are that may be given work; None: unknown."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which database and mapping a `Database` talks to. Equal identities see the same sessions."""

    system: str
    """PostgreSQL: the cluster's system identifier."""
    database: str
    mapping: str
    schema: str = ""
    """PostgreSQL: where its sessions live."""
    server: tuple[str, int] | None = field(default=None, compare=False)  # host and port, if known


class Database(Protocol[T_co]):
    """What a Runner talks to. See the module's docstring for what all verbs have in common.

    ```python
    lease = await database.start_session(capacity=10, ttl=30, label="by hand", app_version="")
    work = await database.get_work(lease, limit=10)
    await database.end_session(lease, [task.claim for task in work.tasks])
    ```
    """

    async def identity(self) -> Identity:
        """Which database this is; asked before a session starts, and cheap after that."""
        ...

    async def start_session(self, *, capacity: int, ttl: float, label: str, app_version: str) -> Lease:
        """Start a session that lives for `ttl` seconds and may hold `capacity` tasks. `label` is for people.

        Not idempotent: a session whose answer was lost holds nothing and expires. `app_version` is told, and compared where the mapping has
        `accepts`: `SettingsError` then if it cannot be read.
        """
        ...

    async def bump_session(self, lease: Lease, *, ttl: float, draining: bool, running: int = 0) -> Beat:
        """Keepalive: the lease ends `ttl` seconds from now, or later if it did. `draining` takes it out of the shares.

        `running` is how many tasks are in calls of the tasker, for people who look. A session that has expired is lost, also if nobody has
        noticed yet. Under `Settings.keepalive="thread"` it is called in another thread, and event loop, than all the others.
        """
        ...

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
    ) -> Work[T_co]:
        """Finish `finished` (which are among `held`), then claim up to `limit` more tasks: pending, due, and free.

        Free is a task that nobody holds, that an ended session held, or that this session holds without knowing it (it is not in `held`: a claim whose
        answer was lost). A task that is locked by somebody is passed over. `limit` is cut to the session's capacity and, unless `over_share`, to its
        share; to nothing while the session drains or its mapping is paused. One call at a time per session.

        `position` is that of an earlier answer: nothing before it is looked at, so a look from the start (None) must follow now and then, and after too little.
        `until` is another one: what lies behind that need not be looked at. A database that goes to the end all the same leaves `walked` None.

        `at_once` is how many of these the tasker could begin at once. Where work is scarce, that is where a share is worked out, there are no more: what
        is not begun stays for others. If there are fewer, those that hold more than their share are asked to release what they have not begun.
        """
        ...

    async def finish_tasks(self, lease: Lease, claims: Sequence[Claim]) -> Sequence[Settled]:
        """Flag tasks as finished: FINISHED, ALREADY_YOURS, LOST, UNKNOWN, LOCKED or REFUSED for each, in any order. One that refuses holds up no other."""
        ...

    async def release_tasks(
        self, lease: Lease, handbacks: Sequence[Handback], *, wake: bool = False
    ) -> Sequence[Settled]:
        """Give tasks back, with `wake` for the others to have them at once: RELEASED, DISCARDED, PARKED, ALREADY_YOURS, LOST, UNKNOWN, LOCKED or REFUSED for each."""
        ...

    async def end_session(self, lease: Lease, claims: Sequence[Claim]) -> None:
        """End the session and give back what it still holds, attempts included. Nothing happens if it has ended."""
        ...

    async def finish_in(self, connection: Any, lease: Lease, claims: Sequence[Claim]) -> None:
        """Fence and finish in the caller's transaction on its own `connection`: all of them, or `TaskLost`."""
        ...

    def finish_in_sync(self, connection: Any, lease: Lease, claims: Sequence[Claim]) -> None:
        """As `finish_in`, on a synchronous connection, in the thread of a synchronous tasker."""
        ...

    def listening(
        self, wake: Callable[[], None], *, lease: Lease | None = None, asked: Callable[[], None] | None = None
    ) -> AbstractAsyncContextManager[Callable[[], bool] | None]:
        """Within the block `wake` is called, in the event loop, when there may be new tasks. A hint: looking is the truth.

        What it yields tells whether wake-ups come through now, as far as that was proven lately (None: nobody knows); `wake` is called when that begins and
        when it ends. `asked` is called when something is asked of `lease`; the answer to a keepalive says what. Entering does not wait, and raises nothing.
        """
        ...

    def transaction(self, lease: Lease, claims: Sequence[Claim]) -> AbstractAsyncContextManager[Any]:
        """A transaction of the database's own, fenced and finished on entry: yields its connection."""
        ...


DatabaseFinder = Callable[[], Awaitable[Database[T]]]
"""Asked in each cycle for the current database, so that a database can move: `Runner(find, each(send))`.

```python
async def find() -> Database[dict[str, str]]:
    return shards["eu"]  # wherever that is now
```
"""


def check_capacity(capacity: int) -> None:
    """Before a session starts that could hold nothing, and would weigh nothing in the shares."""
    if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
        raise SettingsError(f"the capacity of a session is a whole number from 1 on, not {capacity!r}")


def keys_to_retry(keys: Sequence[TaskKey], all_parked: bool) -> list[TaskKey] | None:
    """What `retry` is asked for; None is all that is parked. No key is no such wish: a selection may come out empty."""
    if bool(keys) == all_parked:
        raise SettingsError("retry: give the keys of parked tasks, or all_parked=True")
    return None if all_parked else list(keys)
