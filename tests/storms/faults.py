"""Faults of the product, each a patch of one rule; every one must be found, by the promise that it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from session_lock import Runner, keepalive, lease, session
from session_lock.database import Beat
from session_lock.errors import DatabaseError
from session_lock.held import HeldTasks
from session_lock.hold import Ending, Hold
from session_lock.outbox import Outbox
from session_lock.session import Session
from session_lock.tasks import Finish
from session_lock.testing import MemoryDatabase, MemoryTransaction
from session_lock.testing.rows import Closed, MemorySession
from session_lock.testing.table import MemoryTable
from session_lock.waiting import Waiters, wait_for

Patch = pytest.MonkeyPatch

Fault = Callable[[Patch], None]


# Of the Runner ------------------------------------------------------------------------------------------------


def the_deadline_counts_from_the_reply(patch: Patch) -> None:
    def extend(self: Session, *, sent_at: float, left: float, ttl: float, guard: float) -> None:
        self.deadline = max(self.deadline, session.lease_clock() + min(left, ttl) - guard)

    patch.setattr(Session, "extend", extend)


def nobody_fences_itself(patch: Patch) -> None:
    async def never(hold: Hold[Any]) -> None:
        await asyncio.get_running_loop().create_future()

    patch.setattr(lease, "watch_deadline", never)


def a_lost_session_still_holds(patch: Patch) -> None:
    patch.setattr(Hold, "assert_held", lambda *_: None)


def a_loss_cancels_nobody(patch: Patch) -> None:
    cancel_running = Hold.cancel_running

    def unless_lost(hold: Hold[Any], calls: Any = None) -> None:
        if hold.ending is not Ending.LOST:
            cancel_running(hold, calls)

    patch.setattr(Hold, "cancel_running", unless_lost)


def a_finish_is_tried_once(patch: Patch) -> None:
    patch.setattr(Outbox, "put_back", lambda *_: None)


def no_keepalive_while_it_drains(patch: Patch) -> None:
    renew = keepalive.keepalive

    async def until_it_ends(hold: Hold[Any], stop: Callable[[], None]) -> None:
        renewing = asyncio.ensure_future(renew(hold, stop))
        while hold.ending is None and not renewing.done():
            await asyncio.sleep(1)
        renewing.cancel()

    patch.setattr(lease, "keepalive", until_it_ends)


def a_keepalive_that_fails_is_the_last(patch: Patch) -> None:
    in_time = Hold.in_time

    async def no_more(hold: Hold[Any], what: str, verb: Any) -> Any:
        try:
            return await in_time(hold, what, verb)
        except DatabaseError:
            if what == "bump_session":
                await asyncio.sleep(1000)
            raise

    patch.setattr(Hold, "in_time", no_more)


def the_abandoned_are_given_away(patch: Patch) -> None:
    end = lease._end

    async def as_if_all_had_ended(hold: Hold[Any], deadline: float) -> None:
        hold.abandoned.clear()
        await end(hold, deadline)

    patch.setattr(lease, "_end", as_if_all_had_ended)


def a_stop_waits_for_the_stubborn(patch: Patch) -> None:
    patch.setattr(Waiters, "give_up", lambda _: None)


def who_stops_keeps_its_session(patch: Patch) -> None:
    renew = keepalive.keepalive

    async def unbound(hold: Hold[Any], stop: Callable[[], None]) -> None:
        await asyncio.shield(renew(hold, stop))

    async def never(*_: Any) -> None:
        pass

    patch.setattr(lease, "keepalive", unbound)
    patch.setattr(lease, "_end", never)


def who_loses_its_session_takes_its_time(patch: Patch) -> None:
    start_session = Runner._start_session

    async def late(runner: Runner[Any]) -> Any:
        if runner._has_begun:
            await wait_for(runner._stopping, 500)
        return await start_session(runner)

    patch.setattr(Runner, "_start_session", late)


def what_fails_is_finished(patch: Patch) -> None:
    patch.setattr(HeldTasks, "after_failure", lambda *_: Finish())


# Of the database ------------------------------------------------------------------------------------------------


def a_finish_without_the_token(patch: Patch) -> None:
    standing = MemoryTable._standing

    def of_the_key(table: MemoryTable[Any], holder: MemorySession, claim: Any) -> str:
        row = table._tasks[claim.key]
        if row.pending and row.session_id is not None and not row.locked:
            return "held"
        return standing(table, holder, claim)

    patch.setattr(MemoryTable, "_standing", of_the_key)


def the_expired_live_until_they_are_ended(patch: Patch) -> None:
    patch.setattr(MemorySession, "live", lambda self, now: not self.ended)


def a_draining_session_is_not_renewed(patch: Patch) -> None:
    bump = MemoryDatabase.bump_session

    async def in_words_only(self: Any, holder: Any, *, ttl: float, draining: bool, running: int = 0) -> Beat:
        beat = await bump(self, holder, ttl=0.0 if draining else ttl, draining=draining, running=running)
        return replace(beat, left=ttl)

    patch.setattr(MemoryDatabase, "bump_session", in_words_only)


def the_dead_are_not_ended(patch: Patch) -> None:
    patch.setattr(MemoryDatabase, "_end_expired", lambda *_: None)


def the_dead_keep_their_tasks(patch: Patch) -> None:
    def free(self: Any, row: Any, holder: Any, held: Any) -> bool:
        return not row.locked and (
            row.session_id is None or (row.session_id == holder.id and row.key not in held)
        )

    patch.setattr(MemoryDatabase, "_is_free", free)


def who_shows_no_life_for_a_while_is_dead(patch: Patch) -> None:
    is_free = MemoryDatabase._is_free

    def free(self: Any, row: Any, holder: Any, held: Any) -> bool:
        other = self._sessions.get(row.session_id)
        silent = other is not None and other is not holder and other.expires_at - self.clock() < 50
        return is_free(self, row, holder, held) or (silent and not row.locked)

    patch.setattr(MemoryDatabase, "_is_free", free)


def what_is_held_is_claimed_again(patch: Patch) -> None:
    is_free = MemoryDatabase._is_free
    patch.setattr(MemoryDatabase, "_is_free", lambda self, row, holder, held: is_free(self, row, holder, ()))


def a_claim_whose_answer_was_lost_is_lost(patch: Patch) -> None:
    is_free = MemoryDatabase._is_free

    def free(self: Any, row: Any, holder: Any, held: Any) -> bool:
        return row.session_id != holder.id and is_free(self, row, holder, held)

    patch.setattr(MemoryDatabase, "_is_free", free)


def tokens_go_back(patch: Patch) -> None:
    claim = MemoryDatabase._claim

    def back(self: Any, row: Any, holder: Any, now: float) -> Any:
        row.token -= 2
        return claim(self, row, holder, now)

    patch.setattr(MemoryDatabase, "_claim", back)


def a_finished_task_stays_open(patch: Patch) -> None:
    close = MemoryTable._close

    def left_open(self: Any, row: Any, how: Closed) -> None:
        close(self, row, how)
        if row.key % 5 == 0:
            self.reopen_row(row.key)

    patch.setattr(MemoryTable, "_close", left_open)


def effects_do_not_wait_for_the_commit(patch: Patch) -> None:
    patch.setattr(MemoryTransaction, "write", lambda _, effect: effect())


def a_rollback_of_the_finish_alone(patch: Patch) -> None:
    later = MemoryDatabase._finish_later

    def not_together(
        self: Any, connection: MemoryTransaction, holder: MemorySession, claims: Sequence[Any]
    ) -> None:
        later(self, MemoryTransaction(), holder, claims)

    patch.setattr(MemoryDatabase, "_finish_later", not_together)
