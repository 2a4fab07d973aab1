"""What others ask for: that a task is cancelled, that what was parked is tried again."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from session_lock import RowRefusedError, SettingsError
from session_lock.database import SESSION_EXPIRED, Cancellation, Handback, Outcome

from .conftest import KEPT, Suite, keys

# Cancel ----------------------------------------------------------------------------------------------------


async def test_a_pending_task_is_discarded(suite: Suite):
    key, other = await suite.add(2)
    assert await suite.database.cancel(key) is Cancellation.DISCARDED
    assert await suite.status(key) == "discarded"
    assert keys(await suite.work(await suite.start())) == [other]
    (failure,) = await suite.failures(key)
    assert (failure.attempt, failure.session_id, failure.error) == (0, None, "cancelled on request")


async def test_one_that_is_not_due_yet_too(suite: Suite):
    (key,) = await suite.add(after=600)
    assert await suite.database.cancel(key) is Cancellation.DISCARDED


async def test_without_a_discard_it_is_parked(suite_without_discard: Suite):
    suite = suite_without_discard
    (key,) = await suite.add()
    assert await suite.database.cancel(key) is Cancellation.PARKED
    assert (await suite.row(key)).due == math.inf


async def test_of_one_that_is_held_its_holder_is_asked_once(suite: Suite):
    (key,) = await suite.add()
    holder, other = await suite.start(), await suite.start()
    (claim,) = await suite.claim(holder)
    for _ in range(2):
        assert await suite.database.cancel(key) is Cancellation.ASKED
    assert (await suite.bump(other)).cancel == ()
    assert (await suite.bump(holder)).cancel == (str(key),)
    assert await suite.finish(holder, claim) is Outcome.FINISHED  # it was asked, not forced


@pytest.mark.parametrize("how", ["expired", "ended"])
async def test_one_that_the_dead_held_is_discarded(suite: Suite, how: str):
    (key,) = await suite.add()
    dead = await suite.start()
    (claim,) = await suite.claim(dead)
    await (suite.expire(dead) if how == "expired" else suite.end(dead))
    assert await suite.database.cancel(key) is Cancellation.DISCARDED
    assert (await suite.row(key)).session_id is None
    assert keys(await suite.work(await suite.start())) == []


async def test_one_that_is_done_or_gone_is_told(suite: Suite):
    finished, closed, gone = await suite.add(3)
    lease = await suite.start()
    claims = await suite.claim(lease)
    await suite.finish(lease, claims[0])
    await suite.close(closed)
    await suite.remove(gone)
    assert [await suite.database.cancel(key) for key in (finished, closed, gone)] == [
        Cancellation.CLOSED, Cancellation.CLOSED, Cancellation.UNKNOWN,
    ]  # fmt: skip
    assert (await suite.bump(lease)).cancel == ()


async def test_a_locked_one_is_left_alone(suite: Suite):
    (key,) = await suite.add()
    async with suite.lock(key):
        assert await suite.database.cancel(key) is Cancellation.LOCKED
    assert await suite.status(key) == "pending"


async def test_an_expired_holder_in_its_finishing_transaction_is_not_robbed(suite: Suite):
    (key,) = await suite.add()
    holder = await suite.start(ttl=300)
    (claim,) = await suite.claim(holder)
    async with suite.begin() as connection:
        await suite.database.finish_in(connection, holder, [claim])
        assert await suite.database.cancel(key) in {Cancellation.ASKED, Cancellation.LOCKED}
    assert await suite.status(key) == "finished"


async def test_a_row_that_refuses_its_discard_says_so_and_stays(suite: Suite):
    (key,) = await suite.add(address=KEPT)
    with pytest.raises(RowRefusedError):
        await suite.database.cancel(key)
    assert await suite.status(key) == "pending"


async def test_cancel_and_claim_at_once_have_one_winner(suite: Suite):
    """Each of the tasks is either cancelled or claimed, never both, and none is left out."""
    for _ in range(5):
        added = await suite.add(8)
        lease = await suite.start(capacity=100)
        claimed, *cancelled = await asyncio.gather(
            suite.claim(lease, 100), *(suite.database.cancel(key) for key in added)
        )
        held = {claim.key for claim in claimed}
        for key, outcome in zip(added, cancelled, strict=True):
            assert (outcome is Cancellation.DISCARDED) == (await suite.status(key) == "discarded")
            assert outcome in {Cancellation.DISCARDED, Cancellation.ASKED, Cancellation.LOCKED}
            assert key not in held or outcome is not Cancellation.DISCARDED
        await suite.end(lease, *claimed)


@pytest.mark.parametrize("how", ["expired", "ended", "ended with its claims"])
async def test_what_the_dead_were_asked_to_cancel_is_done_by_nobody(suite: Suite, how: str):
    key, other = await suite.add(2)
    dead = await suite.start()
    claims = await suite.claim(dead)
    assert await suite.database.cancel(key) is Cancellation.ASKED
    match how:
        case "expired":
            await suite.expire(dead)
        case "ended":
            await suite.end(dead)
        case _:
            await suite.end(dead, *claims)
    heir = await suite.start()
    work = await suite.work(heir)
    assert {task.claim.key: task.cancelled for task in work.tasks} == {key: True, other: False}
    await suite.expire(heir)  # before it has said so
    work = await suite.work(await suite.start())
    assert {task.claim.key: task.cancelled for task in work.tasks} == {key: True, other: False}


async def test_a_request_stands_until_the_task_is_settled(suite: Suite):
    """An answer may be lost."""
    (key,) = await suite.add()
    holder = await suite.start()
    (claim,) = await suite.claim(holder)
    await suite.database.cancel(key)
    for _ in range(2):
        assert (await suite.bump(holder)).cancel == (str(key),)
        await suite.work(holder, held=[key])
    await suite.finish(holder, claim)
    await suite.work(holder)
    assert (await suite.bump(holder)).cancel == ()


@pytest.mark.parametrize(
    ("handback", "error"),
    [({}, "cancelled on request"), ({"after": 600, "error": "it failed"}, "it failed"),
     ({"give_back_attempt": True}, "cancelled on request")],
)  # fmt: skip
async def test_one_that_its_holder_gives_back_before_it_hears_is_discarded(
    suite: Suite, handback: dict[str, Any], error: str
):
    asked, other = await suite.add(2)
    holder = await suite.start()
    claims = await suite.claim(holder)
    await suite.database.cancel(asked)
    settled = await suite.database.release_tasks(holder, [Handback(claim, **handback) for claim in claims])
    assert {each.key: each.outcome for each in settled} == {
        asked: Outcome.DISCARDED, other: Outcome.RELEASED,
    }  # fmt: skip
    assert await suite.status(asked) == "discarded"
    assert [failure.error for failure in await suite.failures(asked)] == [error]
    assert (await suite.bump(holder)).cancel == ()


async def test_without_a_discard_it_is_parked_and_can_be_retried_by_the_same_session(
    suite_without_discard: Suite,
):
    suite = suite_without_discard
    (key,) = await suite.add()
    holder = await suite.start()
    (claim,) = await suite.claim(holder)
    await suite.database.cancel(key)
    (settled,) = await suite.database.release_tasks(holder, [Handback(claim, after=0, error="it failed")])
    assert settled.outcome is Outcome.PARKED
    assert await suite.database.retry(all_parked=True) == [key]
    (claim,) = await suite.claim(holder)
    assert (await suite.bump(holder)).cancel == ()


async def test_a_parked_one_that_was_to_be_cancelled_stays_parked(suite: Suite):
    (key,) = await suite.add(address=KEPT)
    holder = await suite.start()
    (claim,) = await suite.claim(holder)
    await suite.database.cancel(key)
    (settled,) = await suite.database.release_tasks(
        holder, [Handback(claim, after=math.inf, error="it refuses")]
    )
    assert settled.outcome is Outcome.PARKED


# Retry -------------------------------------------------------------------------------------------------------


async def parked(suite: Suite, count: int) -> list[object]:
    lease = await suite.start()
    added = await suite.add(count)
    claims = await suite.claim(lease, held=[])
    await suite.database.release_tasks(lease, [Handback(claim, after=math.inf) for claim in claims])
    await suite.end(lease)
    return added


async def test_what_was_parked_runs_again_with_all_its_attempts(suite: Suite):
    first, second = await parked(suite, 2)
    (scheduled,) = await suite.add(after=600)
    assert await suite.database.retry(first, scheduled) == [first]
    row = await suite.row(first)
    assert (row.attempts, row.due) == (0, pytest.approx(0, abs=1))
    work = await suite.work(await suite.start())
    assert [(task.claim.key, task.attempt) for task in work.tasks] == [(first, 1)]
    assert (await suite.row(second)).due == math.inf


async def test_all_that_was_parked(suite: Suite):
    added = await parked(suite, 3)
    for wrong in (suite.database.retry(), suite.database.retry(*added, all_parked=True)):
        with pytest.raises(SettingsError, match="give the keys of parked tasks, or all_parked=True"):
            await wrong
    assert (await suite.row(added[0])).due == math.inf
    assert sorted(await suite.database.retry(all_parked=True), key=str) == sorted(added, key=str)
    assert sorted(await suite.database.retry(all_parked=True), key=str) == []


# A task whose session expired ---------------------------------------------------------------------------------


async def expire_under(suite: Suite, times: int) -> None:
    for _ in range(times):
        dead = await suite.start()
        await suite.claim(dead)
        await suite.expire(dead)


async def test_an_attempt_that_ended_with_its_session_is_a_failure(suite: Suite):
    first, second = await suite.add(2)
    dead, live = await suite.start(), await suite.start()
    await suite.claim(dead, 1)
    await suite.expire(dead)
    await suite.claim(live)
    (failure,) = await suite.failures(first)
    assert (failure.attempt, failure.session_id, failure.error) == (1, dead.id, SESSION_EXPIRED)
    assert await suite.failures(second) == []


async def test_one_that_ended_in_good_order_is_none(suite: Suite):
    (key,) = await suite.add()
    ended = await suite.start()
    await suite.claim(ended)
    await suite.end(ended)  # without knowing that it holds it
    await suite.claim(await suite.start())
    assert await suite.failures(key) == []


@pytest.mark.parametrize(("times", "alone"), [(1, False), (2, True), (3, True)])
async def test_after_two_of_them_it_is_to_be_run_alone(suite: Suite, times: int, alone: bool):
    await suite.add()
    await expire_under(suite, times)
    (other,) = await suite.add()
    work = await suite.work(await suite.start())
    assert {task.claim.key != other: task.alone for task in work.tasks} == {True: alone, False: False}


async def test_and_stays_so_after_a_failure_of_another_kind(suite: Suite):
    await suite.add()
    await expire_under(suite, 2)
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    await suite.database.release_tasks(lease, [Handback(claim, after=0, error="other")])
    (task,) = (await suite.work(lease)).tasks
    assert task.alone


async def test_failures_that_were_told_make_nobody_suspect(suite: Suite):
    await suite.add()
    lease = await suite.start()
    for _ in range(4):
        (task,) = (await suite.work(lease)).tasks
        assert not task.alone
        await suite.database.release_tasks(lease, [Handback(task.claim, after=0, error="it failed")])


# Keys that are none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["postgres"], indirect=True)
async def test_what_can_be_no_key_is_refused(suite_of_key_type: Suite):
    suite = suite_of_key_type
    (first,) = await suite.add()
    wrong = 1 if isinstance(first, str) else "one"
    for key in (None, 1.5, True, [1], 2**70, wrong):
        for ask in (suite.database.cancel, suite.database.retry):
            with pytest.raises(SettingsError, match="key of '"):
                await ask(key)
    assert await suite.status(first) == "pending"


async def test_what_is_held_unknowingly_stays_to_be_cancelled(suite: Suite):
    """The answer to its claim was lost; a look that does not bring it again forgets nothing."""
    (key,) = await suite.add()
    holder = await suite.start()
    await suite.work(holder)
    assert await suite.database.cancel(key) is Cancellation.ASKED
    await suite.work(holder, limit=0)
    assert (await suite.bump(holder)).cancel == (str(key),)
