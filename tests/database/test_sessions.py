"""A session lives while it is kept alive, ends once, and hears what others ask of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from session_lock.database import Cancellation, Claim, Handback, Outcome
from session_lock.errors import SessionLost, SettingsError
from session_lock.session import Lease

from .conftest import Suite, keys


async def test_a_session_lasts_for_its_ttl(suite: Suite):
    lease = await suite.start(ttl=30)
    assert lease.left == pytest.approx(30)
    await suite.advance(29)
    await suite.bump(lease)
    await suite.advance(31)
    with pytest.raises(SessionLost):
        await suite.bump(lease)


async def test_what_is_said_of_a_session_is_kept(suite: Suite):
    lease = await suite.start(capacity=7, label="host:42")
    session = await suite.session(lease)
    assert (session.capacity, session.label, session.app_version) == (7, "host:42", "1")
    assert not session.ended and not session.draining


async def test_sessions_are_told_apart(suite: Suite):
    leases = await asyncio.gather(*(suite.start() for _ in range(5)))
    assert len({lease.id for lease in leases}) == len({lease.nonce for lease in leases}) == 5


@pytest.mark.fault("P15")
async def test_a_restart_under_the_same_name_is_another_session(suite: Suite):
    (key,) = await suite.add()
    before = await suite.start(label="host:42")
    (claim,) = await suite.claim(before)
    after = await suite.start(label="host:42")
    assert await suite.claim(after) == []
    assert await suite.finish(after, claim) is Outcome.LOST
    await suite.expire(before)
    (again,) = await suite.claim(after)
    assert (again.key, again.token > claim.token) == (key, True)


async def test_the_identity_is_that_of_database_and_mapping(suite: Suite):
    identity = await suite.database.identity()
    assert identity.mapping == "email"
    assert identity == await suite.database.identity()


async def test_a_nonce_is_not_shown():
    lease = Lease(1, uuid4())
    assert str(lease.nonce) not in repr(lease)


async def test_a_keepalive_extends_the_lease(suite: Suite):
    lease = await suite.start(ttl=30)
    await suite.advance(20)
    beat = await suite.bump(lease, ttl=30)
    assert beat.left == pytest.approx(30, abs=1)
    await suite.advance(20)
    assert (await suite.work(lease)).left == pytest.approx(10, abs=1)


@pytest.mark.fault("D7")
async def test_a_keepalive_never_shortens_the_lease(suite: Suite):
    lease = await suite.start(ttl=30)
    assert (await suite.bump(lease, ttl=5)).left == pytest.approx(30, abs=1)


async def test_an_expired_session_is_never_revived(suite: Suite):
    lease = await suite.start()
    await suite.expire(lease)
    with pytest.raises(SessionLost):
        await suite.bump(lease)
    assert not (await suite.session(lease)).ended  # nobody has noticed yet: it is lost all the same


async def test_whoever_looks_for_work_ends_the_expired(suite: Suite):
    dead, live = await suite.start(), await suite.start()
    await suite.expire(dead)
    await suite.work(live)
    assert (await suite.session(dead)).ended
    assert not (await suite.session(live)).ended


@pytest.mark.parametrize("loss", ["expired", "ended", "forged"])
async def test_every_verb_of_a_lost_session_says_so(suite: Suite, loss: str):
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    if loss == "expired":
        await suite.expire(lease)
    elif loss == "ended":
        await suite.end(lease)
    else:
        lease = Lease(lease.id, uuid4())

    with pytest.raises(SessionLost):
        await suite.bump(lease)
    with pytest.raises(SessionLost):
        await suite.work(lease)
    with pytest.raises(SessionLost):
        await suite.work(lease, finished=[claim])
    with pytest.raises(SessionLost):
        await suite.finish(lease, claim)
    with pytest.raises(SessionLost):
        await suite.database.release_tasks(lease, [Handback(claim, discard=True)])
    with pytest.raises(SessionLost):
        async with suite.database.transaction(lease, [claim]):
            pass
    with pytest.raises(SessionLost):
        async with suite.begin() as connection:
            await suite.database.finish_in(connection, lease, [claim])
    assert await suite.status(key) == "pending"


async def test_a_forged_lease_ends_no_session(suite: Suite):
    lease = await suite.start()
    await suite.end(Lease(lease.id, uuid4()))
    assert not (await suite.session(lease)).ended
    await suite.bump(lease)


async def test_a_session_that_never_was_is_lost(suite: Suite):
    await suite.database.identity()
    lease = Lease(4711, uuid4())
    with pytest.raises(SessionLost):
        await suite.work(lease)
    await suite.end(lease)


# What others ask -----------------------------------------------------------------------------------------


async def test_a_quiet_keepalive_asks_for_nothing(suite: Suite):
    beat = await suite.bump(await suite.start())
    assert (beat.give_back, beat.pause, beat.drain, beat.cancel) == (0, False, False, ())


async def test_tasks_to_give_back_are_asked_for_once(suite: Suite):
    lease = await suite.start()
    await suite.ask_to_give_back(lease, 3)
    assert [(await suite.bump(lease)).give_back for _ in range(2)] == [3, 0]


async def test_a_cancel_is_told_to_the_holder_alone_and_until_the_task_is_settled(suite: Suite):
    key, _ = await suite.add(2)
    holder, other = await suite.start(), await suite.start()
    await suite.claim(holder, 1)
    assert await suite.database.cancel(key) is Cancellation.ASKED
    assert (await suite.bump(other)).cancel == ()
    assert [(await suite.bump(holder)).cancel for _ in range(2)] == [(str(key),)] * 2


async def test_a_request_to_drain_stays(suite: Suite):
    lease, other = await suite.start(), await suite.start()
    assert [await suite.ask_to_drain(lease) for _ in range(2)] == [True, True]
    assert [(await suite.bump(lease)).drain for _ in range(2)] == [True, True]
    assert not (await suite.bump(other)).drain


@pytest.mark.parametrize("how", ["expired", "ended"])
async def test_who_is_gone_is_not_asked_to_drain(suite: Suite, how: str):
    lease, other = await suite.start(), await suite.start()
    await (suite.expire(lease) if how == "expired" else suite.end(lease))
    assert not await suite.ask_to_drain(lease)
    assert not await suite.ask_to_drain(replace(other, id=other.id + 1000))
    assert not (await suite.bump(other)).drain


async def test_a_pause_is_told_as_long_as_it_lasts(suite: Suite):
    lease = await suite.start()
    assert [await suite.pause() for _ in range(2)] == [True, False]
    assert [(await suite.bump(lease)).pause for _ in range(2)] == [True, True]
    assert [await suite.resume() for _ in range(2)] == [True, False]
    assert not (await suite.bump(lease)).pause


async def test_all_sessions_are_told_of_a_pause_and_one_of_its_drain(suite: Suite):
    one, two = await suite.start(), await suite.start()
    woken = [asyncio.Event(), asyncio.Event()]
    told: list[int] = []
    async with (
        suite.database.listening(woken[0].set, lease=one, asked=lambda: told.append(1)),
        suite.database.listening(woken[1].set, lease=two, asked=lambda: told.append(2)),
    ):
        await suite.until_heard(*woken)
        told.clear()  # of what may have been missed before

        async def heard() -> list[int]:
            async with asyncio.timeout(20):
                while not told:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            found = sorted(told)
            told.clear()
            return found

        await suite.pause()
        assert await heard() == [1, 2]
        await suite.resume()
        assert await heard() == [1, 2]
        await suite.ask_to_drain(two)
        assert await heard() == [2]


async def test_draining_is_kept(suite: Suite):
    lease = await suite.start()
    await suite.bump(lease, draining=True)
    await suite.bump(lease, draining=False)
    assert (await suite.session(lease)).draining


# The end -------------------------------------------------------------------------------------------------


async def test_an_ended_session_gives_its_tasks_and_attempts_back(suite: Suite):
    added = await suite.add(3)
    lease, other = await suite.start(), await suite.start()
    claims = await suite.claim(lease)
    await suite.end(lease, *claims)
    for key in added:
        row = await suite.row(key)
        assert (row.session_id, row.attempts) == (None, 0)
    work = await suite.work(other)
    assert keys(work) == added
    assert [(task.attempt, task.claim.token) for task in work.tasks] == [(1, 2)] * 3


async def test_what_it_does_not_know_is_free_at_once_and_its_attempt_counts(suite: Suite):
    known, unknown = await suite.add(2)
    lease, other = await suite.start(), await suite.start()
    claims = await suite.claim(lease)
    await suite.end(lease, claims[0])
    assert {t.claim.key: t.attempt for t in (await suite.work(other)).tasks} == {known: 1, unknown: 2}


async def test_a_locked_row_does_not_hold_up_the_end(suite: Suite):
    locked, free = await suite.add(2)
    lease, other = await suite.start(), await suite.start()
    claims = await suite.claim(lease)
    async with suite.lock(locked):
        await suite.end(lease, *claims)
    assert (await suite.row(free)).session_id is None
    assert keys(await suite.work(other)) == [locked, free]


async def test_a_stale_claim_is_not_given_back_at_the_end(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (old,) = await suite.claim(lease)
    (new,) = await suite.claim(lease)
    await suite.end(lease, old)
    row = await suite.row(key)
    assert (row.session_id, row.attempts, row.token) == (lease.id, 1, new.token)


async def test_ending_twice_changes_nothing(suite: Suite):
    (key,) = await suite.add()
    lease, other = await suite.start(), await suite.start()
    claims = await suite.claim(lease)
    await suite.end(lease, *claims)
    (claim,) = await suite.claim(other)
    await suite.end(lease, *claims)
    assert await suite.finish(other, claim) is Outcome.FINISHED
    assert (await suite.row(key)).attempts == 1


async def test_a_row_closed_by_the_application_is_cleared_at_the_end(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    claims = await suite.claim(lease)
    await suite.close(key)
    await suite.end(lease, *claims)
    row = await suite.row(key)
    assert (row.status, row.session_id, row.attempts) == ("closed", None, 1)


async def test_unknown_keys_do_not_hold_up_the_end(suite: Suite):
    lease = await suite.start()
    await suite.end(lease, Claim(999, 1))
    assert (await suite.session(lease)).ended


async def test_an_expired_session_may_still_end_in_good_order(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    claims = await suite.claim(lease)
    await suite.expire(lease)
    await suite.end(lease, *claims)
    row = await suite.row(key)
    assert (row.session_id, row.attempts) == (None, 0)


async def test_a_lease_of_a_thousand_years_is_no_error(suite: Suite):
    """Where what is left of it bounds something, that is an integer of milliseconds: 24 days."""
    first, second = await suite.add(2)
    lease = await suite.start(ttl=3e10)
    (claim, other) = await suite.claim(lease)
    async with suite.begin() as connection:
        await suite.database.finish_in(connection, lease, [claim])
    assert await suite.finish(lease, other) is Outcome.FINISHED
    assert [await suite.status(key) for key in (first, second)] == ["finished", "finished"]


@pytest.mark.parametrize("capacity", [0, -1, 1.5, True])
async def test_a_session_that_could_hold_nothing_is_refused(suite: Suite, capacity):
    with pytest.raises(SettingsError, match="the capacity of a session is a whole number from 1 on, not"):
        await suite.start(capacity=capacity)
