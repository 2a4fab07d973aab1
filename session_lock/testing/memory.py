"""`MemoryDatabase`: a `Database` in the memory of one process, for tests.

It does what the functions in `sql/` do, and passes the same suite. Its clock is the running event loop's, so it works in virtual time. Several Runners of
one process share one object. What it leaves out: it forgets nothing, so there is no sweep of ended sessions, and its data is what you gave it, not a copy.
It does not say that sessions are told of all that comes, so Runners poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import uuid4

from session_lock.database import (
    ALONE_AFTER,
    SESSION_EXPIRED,
    STILL_HELD,
    Beat,
    Claim,
    ClaimedTask,
    Handback,
    Identity,
    Settled,
    Work,
    check_capacity,
)
from session_lock.errors import DatabaseError, RowRefusedError, SessionLost, TaskLost
from session_lock.limits import AnyLimit
from session_lock.session import Lease
from session_lock.tasks import TaskKey
from session_lock.testing.accepting import MemoryAccepts
from session_lock.testing.limits import MemoryLimits, Picked
from session_lock.testing.rows import Closed, MemoryFailure, MemorySession, MemoryTask
from session_lock.testing.sharing import MemoryShares
from session_lock.testing.transaction import MemoryTransaction, in_loop

T = TypeVar("T")

LOCK_POLL = 0.01
LOCK_TIMEOUT = 2.0
"""Seconds that `end_session` waits for an open transaction of its own session."""


class MemoryDatabase(MemoryShares[T]):
    """A table of tasks in memory, and the sessions that share it.

    `rows` are keys and data, due since ever. An exception in place of the data stands for a row that `decode` cannot read. `refuse(key, data)` says why a
    row cannot be finished, or None; `refuse_discard` why it cannot be discarded. `discards=False` is a mapping without `discard`: what is given up is parked.
    `limits` and `fair_by` are those of a `TaskTable`, over items or attributes of the data, or over what `value(key, data)` returns; with an ordered limit
    tasks come in the order of their keys. `accepts(key, data)` is that of a `TaskTable`: the least `app_version`, or None.

    ```python
    database = MemoryDatabase({1: "ann@example.org", 2: "bob@example.org"})
    assert await run_until_idle(database, each(send)) == 2
    ```
    """

    def __init__(
        self,
        rows: Mapping[Any, T] | Iterable[tuple[TaskKey, T]] = (),
        name: str = "tasks",
        *,
        refuse: Callable[[TaskKey, T], str | None] | None = None,
        refuse_discard: Callable[[TaskKey, T], str | None] | None = None,
        discards: bool = True,
        limits: Sequence[AnyLimit] = (),
        fair_by: str | None = None,
        value: Callable[[TaskKey, T], Any] | None = None,
        accepts: Callable[[TaskKey, T], str | None] | None = None,
    ) -> None:
        self._accepts: MemoryAccepts[T] = MemoryAccepts(accepts)
        self._limits: MemoryLimits[T] = MemoryLimits(limits, fair_by, value)
        super().__init__(rows, refuse=refuse, refuse_discard=refuse_discard, discards=discards)
        self.mapping_name = name
        self._identity = Identity("memory", str(uuid4()), name)

    # The verbs ----------------------------------------------------------------------------------------------

    async def identity(self) -> Identity:
        async with self._round_trip():
            return self._identity

    async def start_session(self, *, capacity: int, ttl: float, label: str, app_version: str) -> Lease:
        self._accepts.check(app_version, self._identity.mapping)
        check_capacity(capacity)
        async with self._round_trip() as now:
            session = MemorySession(len(self._sessions) + 1, uuid4(), capacity, now + ttl, label, app_version)
            self._sessions[session.id] = session
        return Lease(session.id, session.nonce, ttl)

    async def bump_session(self, lease: Lease, *, ttl: float, draining: bool, running: int = 0) -> Beat:
        home = self._loop
        if home is not None and home.is_running() and home is not asyncio.get_running_loop():
            # From the thread for keepalives: nothing here is meant for two threads.
            bump = self.bump_session(lease, ttl=ttl, draining=draining, running=running)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(bump, home))
        async with self._round_trip() as now:
            session = self._hold(lease, now)
            session.expires_at = max(session.expires_at, now + ttl)
            session.running = running
            if draining and not session.draining:
                session.draining = True
                self._wake()
            beat = Beat(
                left=session.expires_at - now,
                give_back=session.give_back,
                pause=self._paused,
                drain=session.drain_requested,
                cancel=session.cancel_keys,
            )
            session.give_back = 0
        return beat

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
    ) -> Work[T]:
        async with self._round_trip() as now:
            session = self._hold(lease, now)
            settled = [self._finish(session, claim) for claim in finished]
            holds = max(len(held) - sum(each.outcome not in STILL_HELD for each in settled), 0)
            self._end_expired(now)
            mine = self._accepts.of(session, self._open.values())
            due = [row for row in mine if row.available_at <= now]
            sharing = self._sharing(now)
            end = None if self._limits.rules.any else until
            onward = self._between(due, position, end)
            want, share = self._room(
                session, limit, holds, due, sharing, onward=onward, now=now, at_once=at_once, over_share=over_share or end is not None,
            )  # fmt: skip
            free = self._in_order(row for row in due if self._is_free(row, session, held)) if want else []
            onward = self._between(free, position, end)
            picked = Picked([row for row in (free if onward is None else onward) if not row.locked][:want])
            if self._limits.rules.any and want == 0 and share is not None and share <= holds:
                # All that the limits let it hold: are there tasks that they hold back?
                picked = Picked([], limited=self._limits.possible(due) < len(due))
            elif self._limits.rules.any and want > 0:
                taken = self._taken()
                # In order, what it may not be given is in the way all the same.
                pending = self._in_order(self._open.values() if self._limits.rules.ordered else mine)
                picked = self._limits.pick(
                    session.id, want, free=free, onward=onward, pending=pending, held=taken, now=now
                )
            rows = picked.rows
            tasks = [self._claim(row, session, now) for row in rows]
            if session.cancel_keys:
                # What it holds without knowing it (the answer was lost) is still to be cancelled.
                own = [row.key for row in self._open.values() if row.session_id == session.id]
                session.forget_cancelled({*held, *own})
            session.idle = session.id in sharing and len(rows) < limit
            whole = onward is None or picked.from_start
            # Where a limit has cut the look short, not all that others hold was seen.
            walked = self._limits.rules.counts_held or not picked.limited
            if want > 0 and not rows and at_once and walked and whole:
                self._ask_for_tasks(session, holds, sharing, now)
            next_due = picked.next_due(self._next_due(mine, now), now) if len(rows) < want and whole else None
            return Work(
                left=session.expires_at - now,
                tasks=tasks,
                settled=settled,
                position=self._position(rows[0 if self._limits.rules.any else -1]) if rows else None,
                next_due=next_due,
                share=share,
                limited=picked.limited,
                walked=0.0 if whole or end is not None else None,
                sharing=len(sharing),
            )

    async def finish_tasks(self, lease: Lease, claims: Sequence[Claim]) -> Sequence[Settled]:
        async with self._round_trip() as now:
            session = self._hold(lease, now)
            return [self._finish(session, claim) for claim in claims]

    async def release_tasks(
        self, lease: Lease, handbacks: Sequence[Handback], *, wake: bool = False
    ) -> Sequence[Settled]:
        async with self._round_trip() as now:
            session = self._hold(lease, now)
            settled = [self._release(session, handback, now) for handback in handbacks]
            if wake:
                self._wake()
            return settled

    async def end_session(self, lease: Lease, claims: Sequence[Claim]) -> None:
        await self._until_free(lease)
        async with self._round_trip() as now:
            session = self._sessions.get(lease.id)
            if session is None or session.nonce != lease.nonce or session.ended:
                return
            for claim in claims:
                match self._standing(session, claim):
                    case "held" if str(claim.key) not in session.cancel_keys:
                        self._tasks[claim.key].session_id = None
                        self._tasks[claim.key].take_attempt_back()
                    case "closed":
                        self._tasks[claim.key].session_id = None
            session.ended, session.expired = True, session.expires_at <= now
            if claims:
                self._wake()
            else:
                self._wake_idle(now)

    async def finish_in(self, connection: MemoryTransaction, lease: Lease, claims: Sequence[Claim]) -> None:
        """As the protocol says; `connection` is a `MemoryTransaction`."""
        if not connection.open:
            raise DatabaseError("the transaction has failed before: it can only be rolled back")
        try:
            while True:  # it waits for rows that others have locked, as long as the lease lasts
                async with self._round_trip() as now:
                    session = self._hold(lease, now)
                    rows = [self._tasks[claim.key] for claim in claims if claim.key in self._tasks]
                    if not any(row.locked and row.locked_by is not connection for row in rows):
                        self._finish_later(connection, session, claims)
                        return
                await asyncio.sleep(LOCK_POLL)
        except BaseException:
            connection.fail()
            raise

    def finish_in_sync(self, connection: MemoryTransaction, lease: Lease, claims: Sequence[Claim]) -> None:
        """As `finish_in`, from another thread than the loop's."""
        assert self._loop is not None  # there is a lease
        in_loop(self._loop, self.finish_in(connection, lease, claims))

    @asynccontextmanager
    async def transaction(self, lease: Lease, claims: Sequence[Claim]) -> AsyncIterator[MemoryTransaction]:
        async with MemoryTransaction() as connection:
            await self.finish_in(connection, lease, claims)
            yield connection
            connection.check()

    # What they are made of ----------------------------------------------------------------------------------

    def _hold(self, lease: Lease, now: float) -> MemorySession:
        session = self._sessions.get(lease.id)
        if session is None or session.nonce != lease.nonce or not session.live(now):
            raise SessionLost(f"session {lease.id} is not live")
        return session

    def _is_free(self, row: MemoryTask[T], session: MemorySession, held: Collection[TaskKey]) -> bool:
        if row.session_id == session.id:
            return row.key not in held  # claimed by a call whose answer was lost
        return row.session_id is None or self._sessions[row.session_id].ended

    def _claim(self, row: MemoryTask[T], session: MemorySession, now: float) -> ClaimedTask[T]:
        rescued = row.session_id is not None and self._sessions[row.session_id].expired
        if rescued:
            row.note(MemoryFailure(row.attempts, now, row.session_id, SESSION_EXPIRED))
        cancelled = self._was_to_be_cancelled(row)
        if cancelled:
            session.cancel_keys += (str(row.key),)
        # A claim whose answer was lost was never begun: it is not counted again.
        row.attempts += row.session_id != session.id
        row.session_id, row.token = session.id, row.token + 1
        data, error = (None, row.data) if isinstance(row.data, Exception) else (row.data, None)
        alone = row.attempts > ALONE_AFTER and row.suspect
        return ClaimedTask(
            Claim(row.key, row.token), row.attempts, data, error, alone, cancelled,
            data.get("traceparent") if isinstance(data, Mapping) else None, rescued,
        )  # fmt: skip

    def _place(self, row: MemoryTask[T]) -> tuple[float, Any]:
        return (0.0, row.key) if self._limits.rules.ordered else row.order  # a retry moves available_at

    def _finish_later(
        self, connection: MemoryTransaction, session: MemorySession, claims: Sequence[Claim]
    ) -> None:
        """Fence now, and lock; finish when the transaction commits."""
        lost = [claim for claim in claims if self._standing(session, claim) != "held"]
        if lost:
            raise TaskLost(
                f"{len(lost)} of {len(claims)} tasks of {self._identity.mapping} are not held by session {session.id}"
            )
        expires_at = session.expires_at
        connection.limit(lambda: self.clock() >= expires_at)
        session.transactions.append(connection)
        for row in [self._tasks[claim.key] for claim in claims]:
            if error := row.refusal(self._refuse):
                raise RowRefusedError(error)
            row.locked_by = connection
            connection.write(lambda row=row: self._close(row, Closed.FINISHED))  # type: ignore[misc]

    async def _until_free(self, lease: Lease) -> None:
        """To end a session is to wait for its open transactions."""
        give_up = self.clock() + LOCK_TIMEOUT
        session = self._sessions.get(lease.id)
        while session is not None and session.nonce == lease.nonce and session.in_transaction:
            if self.clock() >= give_up:
                raise DatabaseError(f"session {lease.id} is in an open transaction")
            await asyncio.sleep(LOCK_POLL)
