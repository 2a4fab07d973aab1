"""The sessions of a `MemoryDatabase`, and what people ask of them and of single tasks."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from session_lock.database import Cancellation, keys_to_retry
from session_lock.errors import RowRefusedError
from session_lock.tasks import TaskKey
from session_lock.testing.rows import MemorySession, MemoryTask
from session_lock.testing.table import MemoryTable

T = TypeVar("T")


class MemorySessions(MemoryTable[T]):
    """A table of tasks and the sessions that share it, seen from outside. See `MemoryDatabase` for the arguments."""

    def __init__(
        self,
        rows: Mapping[Any, T] | Iterable[tuple[TaskKey, T]],
        *,
        refuse: Callable[[TaskKey, T], str | None] | None,
        refuse_discard: Callable[[TaskKey, T], str | None] | None,
        discards: bool,
    ) -> None:
        super().__init__(rows, refuse=refuse, refuse_discard=refuse_discard, discards=discards)
        self._sessions: dict[int, MemorySession] = {}
        self._paused = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def sessions(self) -> list[MemorySession]:
        """All that were ever started, oldest first."""
        return list(self._sessions.values())

    def expire(self, session_id: int) -> None:
        """The session's lease runs out now."""
        self._sessions[session_id].expires_at = -math.inf

    async def pause(self) -> bool:
        """As `PostgresDatabase.pause`."""
        return await self._pause(True)

    async def resume(self) -> bool:
        """As `PostgresDatabase.resume`."""
        return await self._pause(False)

    async def _pause(self, paused: bool) -> bool:
        async with self._round_trip():
            is_new, self._paused = self._paused is not paused, paused
            for session in self._sessions.values():
                self._tell(session.id)
            return is_new

    async def drain(self, session: int) -> bool:
        """As `PostgresDatabase.drain`."""
        async with self._round_trip() as now:
            found = self._sessions.get(session)
            if found is None or not found.live(now):
                return False
            found.drain_requested = True
            self._tell(session)
            return True

    def ask_to_give_back(self, session_id: int, count: int) -> None:
        """Ask the session to release `count` unstarted tasks: it hears so at its next keepalive."""
        self._sessions[session_id].give_back = count
        self._tell(session_id)

    async def cancel(self, key: TaskKey) -> Cancellation:
        """As `PostgresDatabase.cancel`."""
        async with self._round_trip() as now:
            ended = self._end_expired(now)
            row = self._tasks.get(key)
            if row is None:
                return Cancellation.UNKNOWN
            if not row.pending:
                return Cancellation.CLOSED
            holder = None if row.session_id is None else self._sessions[row.session_id]
            if holder is not None and holder.live(now):
                holder.cancel_keys = (*(each for each in holder.cancel_keys if each != str(key)), str(key))
                self._tell(holder.id)
                return Cancellation.ASKED
            if row.locked or (holder is not None and not holder.ended):
                return Cancellation.LOCKED
            try:
                return self._discard(row, now, "cancelled on request")
            except RowRefusedError:  # what was done in the call is undone
                for session in ended:
                    session.ended = session.expired = False
                raise

    async def retry(self, *keys: TaskKey, all_parked: bool = False) -> Sequence[TaskKey]:
        """As `PostgresDatabase.retry`."""
        wanted = keys_to_retry(keys, all_parked)
        async with self._round_trip() as now:
            parked = [key for key in self.parked if wanted is None or key in wanted]
            chosen = [
                row
                for row in map(self._tasks.__getitem__, parked)
                if row.session_id is None and not row.locked
            ]
            for row in chosen:
                row.attempts, row.available_at = 0, now
            if chosen:
                self._wake()
            return [row.key for row in chosen]

    # What they are made of ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _round_trip(self) -> AsyncIterator[float]:
        """What happens in the block happens at once, and may be cancelled before and after: the answer is lost then."""
        self._loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        yield self.clock()
        await asyncio.sleep(0)

    def _was_to_be_cancelled(self, row: MemoryTask[T]) -> bool:
        """Whether a session that has ended was asked to cancel it."""
        holder = None if row.session_id is None else self._sessions[row.session_id]
        return holder is not None and holder.ended and str(row.key) in holder.cancel_keys

    def _wake_idle(self, now: float) -> None:
        """A quiet wake-up: for nobody, unless there is a session that has room."""
        if any(each.idle and each.live(now) and not each.draining for each in self._sessions.values()):
            self._wake()

    def _end_expired(self, now: float) -> list[MemorySession]:
        """Whoever looks for work ends the sessions that have expired, unless they are in a finishing transaction."""
        expired = [
            session
            for session in self._sessions.values()
            if not session.ended and session.expires_at <= now and not session.in_transaction
        ]
        for session in expired:
            session.ended = session.expired = True
            self._wake()
        return expired
