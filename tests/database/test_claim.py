"""get_work: which tasks are claimable, in which order, and what a claim is."""

from __future__ import annotations

import asyncio

import pytest

from session_lock.database import Claim, Handback, Outcome

from .conftest import UNREADABLE, Suite, keys


@pytest.mark.fault("B7")
async def test_nothing_to_do(suite: Suite):
    lease = await suite.start()
    work = await suite.work(lease)
    assert (list(work.tasks), list(work.settled), work.position, work.next_due, work.share) == (
        [],
        [],
        None,
        None,
        None,
    )
    assert work.left == pytest.approx(30, abs=1)


async def test_a_claimed_task_is_its_row(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (task,) = (await suite.work(lease)).tasks
    assert (task.claim, task.attempt, task.error) == (Claim(key, 1), 1, None)
    assert task.data == {"id": key, "address": "ann@example.org"}
    row = await suite.row(key)
    assert (row.status, row.session_id, row.token, row.attempts) == ("pending", lease.id, 1, 1)


async def test_first_come_first_served(suite: Suite):
    later = await suite.add(2, after=0)
    earlier = await suite.add(2, after=-60)
    lease = await suite.start()
    assert keys(await suite.work(lease)) == [*earlier, *later]


async def test_what_is_not_due_is_not_claimed(suite: Suite):
    due, not_due = *await suite.add(), *await suite.add(after=60)
    lease = await suite.start(ttl=300)
    assert keys(await suite.work(lease)) == [due]
    await suite.advance(61)
    assert keys(await suite.work(lease, held=[due])) == [not_due]


async def test_what_is_held_by_a_live_session_is_not_claimed(suite: Suite):
    await suite.add(3)
    holder, other = await suite.start(), await suite.start()
    await suite.claim(holder)
    assert keys(await suite.work(other)) == []


async def test_what_is_closed_is_not_claimed(suite: Suite):
    closed, open_ = await suite.add(2)
    await suite.close(closed)
    assert keys(await suite.work(await suite.start())) == [open_]


async def test_a_reopened_row_is_claimable_at_once(suite: Suite):
    (key,) = await suite.add()
    lease, other = await suite.start(), await suite.start()
    (claim,) = await suite.claim(lease)
    assert await suite.finish(lease, claim) is Outcome.FINISHED
    await suite.reopen(key)
    (again,) = await suite.claim(other)
    assert again == Claim(key, 2)


@pytest.mark.fault("B5")
async def test_the_tasks_of_an_expired_session_are_claimable(suite: Suite):
    added = await suite.add(3)
    dead, live = await suite.start(), await suite.start()
    await suite.claim(dead)
    await suite.expire(dead)
    work = await suite.work(live)
    assert keys(work) == added
    assert [(task.attempt, task.claim.token) for task in work.tasks] == [
        (2, 2)
    ] * 3  # killed or frozen: it counts
    assert [task.rescued for task in work.tasks] == [True] * 3


async def test_what_was_given_back_or_left_by_one_that_ended_is_not_rescued(suite: Suite):
    await suite.add(2)
    dead, leaver, live = await suite.start(), await suite.start(), await suite.start()
    (given_back,) = await suite.claim(dead, 1)
    await suite.database.release_tasks(dead, [Handback(given_back)])
    await suite.claim(leaver, 1)
    await suite.end(leaver)
    await suite.expire(dead)
    assert [task.rescued for task in (await suite.work(live)).tasks] == [False] * 2


async def test_a_row_of_the_dead_that_was_closed_and_reopened_is_found(suite: Suite):
    (key,) = await suite.add()
    dead, live = await suite.start(), await suite.start()
    await suite.claim(dead)
    await suite.close(key)
    await suite.expire(dead)
    assert keys(await suite.work(live)) == []
    await suite.reopen(key)
    found = [
        keys(await suite.work(live)) for _ in range(2)
    ]  # its session may have left the list: then it returns
    assert [key] in found


@pytest.mark.fault("D13")
async def test_a_locked_row_is_passed_over(suite: Suite):
    locked, *good = await suite.add(5)
    lease = await suite.start()
    async with suite.lock(locked):
        assert keys(await suite.work(lease, 4)) == good
    assert keys(await suite.work(lease, held=good)) == [locked]


async def test_a_claim_whose_answer_was_lost_is_claimed_again(suite: Suite):
    first, second, third = await suite.add(3)
    lease = await suite.start()
    lost = await suite.claim(lease, 3)
    work = await suite.work(lease, held=[first])
    assert [(task.claim, task.attempt) for task in work.tasks] == [
        (Claim(second, 2), 1),  # its first claim was never begun: not counted
        (Claim(third, 2), 1),
    ]
    assert await suite.finish(lease, *lost) == [Outcome.FINISHED, Outcome.LOST, Outcome.LOST]


async def test_what_it_holds_is_not_claimed_again(suite: Suite):
    added = await suite.add(3)
    lease = await suite.start()
    await suite.claim(lease)
    assert keys(await suite.work(lease, held=added)) == []


async def test_sessions_never_claim_the_same_task(suite: Suite):
    added = await suite.add(60)
    leases = [await suite.start(capacity=60) for _ in range(3)]
    works = await asyncio.gather(*(suite.work(lease, 10) for lease in leases for _ in range(1)))
    claimed = [key for work in works for key in keys(work)]
    assert len(claimed) == len(set(claimed)) == 30
    assert set(claimed) <= set(added)


async def test_the_token_grows_with_every_claim_and_is_never_reset(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    for token in (1, 2, 3):
        (claim,) = await suite.claim(lease)
        assert claim.token == token
        await suite.database.release_tasks(lease, [Handback(claim, give_back_attempt=True)])
    (claim,) = await suite.claim(lease)
    await suite.finish(lease, claim)
    assert (await suite.row(key)).token == 4
    assert (await suite.row(key)).session_id is None


@pytest.mark.fault("D26")
async def test_a_row_that_cannot_be_decoded_is_held(suite: Suite):
    bad, good = *await suite.add(address=UNREADABLE), *await suite.add()
    lease = await suite.start()
    work = await suite.work(lease)
    tasks = {task.claim.key: task for task in work.tasks}
    assert tasks[bad].data is None and isinstance(tasks[bad].error, ValueError)
    assert tasks[good].error is None
    assert (await suite.row(bad)).session_id == lease.id


async def test_data_is_not_shown(suite: Suite):
    await suite.add()
    (task,) = (await suite.work(await suite.start())).tasks
    assert "ann@" not in repr(task)


# How many ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "capacity", "held", "expected"),
    [(3, 10, 0, 3), (10, 4, 0, 4), (10, 4, 3, 1), (10, 4, 4, 0), (0, 4, 0, 0)],
)
async def test_the_limit_is_cut_to_the_capacity(
    suite: Suite, limit: int, capacity: int, held: int, expected: int
):
    await suite.add(10)
    lease = await suite.start(capacity=capacity)
    mine = keys(await suite.work(lease, held)) if held else []
    assert len((await suite.work(lease, limit, held=mine)).tasks) == expected


async def test_the_capacity_binds_over_the_share_too(suite: Suite):
    await suite.add(10)
    lease = await suite.start(capacity=4)
    assert len((await suite.work(lease, 10)).tasks) == 4


# When next -----------------------------------------------------------------------------------------------


async def test_next_due_is_when_the_next_task_falls_due(suite: Suite):
    await suite.add(after=50)
    await suite.add(after=20)
    work = await suite.work(await suite.start())
    assert work.next_due == pytest.approx(20, abs=1)


async def test_next_due_is_told_with_tasks_if_there_was_room_for_more(suite: Suite):
    await suite.add(1)
    await suite.add(after=20)
    lease = await suite.start()
    assert (await suite.work(lease, 2)).next_due == pytest.approx(20, abs=1)


@pytest.mark.parametrize("limit", [0, 1])
async def test_next_due_is_unknown_without_room_for_more(suite: Suite, limit: int):
    await suite.add(1)
    await suite.add(after=20)
    lease = await suite.start()
    assert (await suite.work(lease, limit)).next_due is None


async def test_what_is_parked_or_closed_is_never_next(suite: Suite):
    await suite.add()
    (closed,) = await suite.add(after=20)
    await suite.close(closed)
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    await suite.database.release_tasks(lease, [Handback(claim, after=float("inf"))])
    work = await suite.work(lease)
    assert (keys(work), work.next_due) == ([], None)


# Where from ----------------------------------------------------------------------------------------------


async def test_from_a_position_on_nothing_before_it_is_found_and_from_the_start_all_is(suite: Suite):
    added = await suite.add(6)
    lease = await suite.start()
    first = await suite.work(lease, 2)
    second = await suite.work(lease, 2, held=keys(first), position=first.position)
    assert keys(second) == added[2:4]
    await suite.database.release_tasks(lease, [Handback(task.claim) for task in first.tasks])
    third = await suite.work(lease, 3, held=keys(second), position=second.position)
    assert keys(third) == added[4:]
    held = [*keys(second), *keys(third)]
    assert keys(await suite.work(lease, 3, held=held, position=third.position)) == []
    assert keys(await suite.work(lease, 3, held=held)) == added[:2]


async def test_only_a_look_from_the_start_says_what_is_to_come_and_how_long_it_took(suite: Suite):
    await suite.add(2)
    await suite.add(1, after=30)
    lease = await suite.start()
    first = await suite.work(lease, 2)
    onward = await suite.work(lease, 2, held=keys(first), position=first.position)
    assert (onward.walked, onward.next_due) == (None, None)
    again = await suite.work(lease, 2, held=keys(first))
    assert again.walked is not None
    assert again.walked >= 0
    assert again.next_due == pytest.approx(30, abs=5)


async def test_a_look_to_a_position_leaves_what_is_behind_it_and_says_how_long_it_took(suite: Suite):
    added = await suite.add(6)
    lease = await suite.start()
    first = await suite.work(lease, 2)
    second = await suite.work(lease, 2, held=keys(first))
    await suite.database.release_tasks(
        lease, [Handback(task.claim) for task in (*first.tasks, *second.tasks)]
    )
    piece = await suite.work(lease, 6, position=first.position, until=second.position)
    assert (keys(piece), piece.next_due, piece.share) == (added[1:4], None, None)
    assert piece.walked is not None
    assert keys(await suite.work(lease, 6, held=keys(piece), until=second.position)) == added[:1]


async def test_where_too_few_are_counted_from_a_position_on_its_part_of_what_is_free_is_given(suite: Suite):
    added = await suite.add(10)
    mine, _ = await suite.start(capacity=8), await suite.start(capacity=8)
    first = await suite.work(mine, 1)
    assert keys(first) == added[:1]
    # Half of nine, rounded up, whatever it holds; and then of the four that are left.
    onward = await suite.work(mine, 7, held=keys(first), position=first.position, at_once=7, over_share=False)
    assert (keys(onward), onward.share) == (added[1:6], 6)
    held = [*keys(first), *keys(onward)]
    again = await suite.work(mine, 2, held=held, position=first.position, at_once=2, over_share=False)
    assert (keys(again), again.share) == (added[6:8], 8)


@pytest.mark.parametrize(
    ("running", "expected"),
    [(0, 4), (5, 6), (6, 7), (8, 8), (100, 8)],  # of 8, as it holds one; with 8 none are left to others
)
async def test_what_others_ran_at_their_last_keepalives_counts_from_a_position_on(
    suite: Suite, running: int, expected: int
):
    added = await suite.add(9)
    mine, other = await suite.start(capacity=16), await suite.start(capacity=16)
    first = await suite.work(mine, 1)
    await suite.database.bump_session(other, ttl=30, draining=False, running=running)
    onward = await suite.work(
        mine, 15, held=keys(first), position=first.position, at_once=15, over_share=False
    )
    share = None if expected == 8 else 1 + expected
    assert (keys(onward), onward.share) == (added[1 : 1 + expected], share)


async def test_what_others_hold_from_a_position_on_is_not_counted_twice_and_that_of_the_ended_is_free(
    suite: Suite,
):
    await suite.add(10)
    mine, other, third = [await suite.start(capacity=16) for _ in range(3)]
    first = await suite.work(mine, 1)
    of_other = await suite.work(other, 2)
    await suite.work(third, 3)
    await suite.database.bump_session(other, ttl=30, draining=False, running=2)
    await suite.database.end_session(third, [])
    # 7 are free, and of all 10 the other one holds 2.
    onward = await suite.work(
        mine, 15, held=keys(first), position=first.position, at_once=15, over_share=False
    )
    assert (len(of_other.tasks), len(onward.tasks), onward.share) == (2, 4, 5)


async def test_nothing_is_told_of_a_part_where_from_a_position_on_there_is_only_what_it_holds(suite: Suite):
    await suite.add(2)
    mine, _ = await suite.start(capacity=8), await suite.start(capacity=8)
    first = await suite.work(mine, 2)
    onward = await suite.work(mine, 6, held=keys(first), position=first.position, at_once=3, over_share=False)
    assert (keys(onward), onward.share) == ([], None)


async def test_after_its_patience_the_part_does_not_bind_a_session(suite: Suite):
    added = await suite.add(8)
    mine, _ = await suite.start(capacity=8), await suite.start(capacity=8)
    first = await suite.work(mine, 1)
    onward = await suite.work(mine, 7, held=keys(first), position=first.position, at_once=6, over_share=True)
    assert (keys(onward), onward.share) == (added[1:7], None)


async def test_a_call_that_claims_nothing_has_no_position(suite: Suite):
    await suite.add(1)
    lease = await suite.start()
    work = await suite.work(lease)
    assert work.position is not None
    again = await suite.work(lease, held=keys(work), position=work.position)
    assert (again.position, list(again.tasks)) == (None, [])


# Finishing in the same call ------------------------------------------------------------------------------


async def test_what_a_look_could_not_finish_keeps_its_room(suite: Suite):
    added = await suite.add(4)
    lease = await suite.start(capacity=2)
    first = await suite.work(lease, 2)
    async with suite.lock(added[0]):
        again = await suite.work(lease, 2, held=keys(first), finished=[task.claim for task in first.tasks])
    assert {each.key: each.outcome for each in again.settled} == {
        added[0]: Outcome.LOCKED,
        added[1]: Outcome.FINISHED,
    }
    assert keys(again) == added[2:3]


async def test_get_work_finishes_and_claims_in_one_call(suite: Suite):
    first, second = await suite.add(2)
    lease = await suite.start(capacity=1)
    (claim,) = await suite.claim(lease)
    work = await suite.work(lease, 1, finished=[claim])
    assert [(each.key, each.outcome) for each in work.settled] == [(first, Outcome.FINISHED)]
    assert keys(work) == [second]
    assert await suite.status(first) == "finished"


async def test_get_work_tells_each_outcome(suite: Suite):
    mine, closed, gone = await suite.add(3)
    lease = await suite.start()
    claims = await suite.claim(lease)
    await suite.close(closed)
    await suite.remove(gone)
    work = await suite.work(lease, 0, finished=claims, held=[])
    assert {each.key: each.outcome for each in work.settled} == {
        mine: Outcome.FINISHED,
        closed: Outcome.LOST,
        gone: Outcome.UNKNOWN,
    }


async def test_a_row_that_was_put_in_anew_has_greater_tokens_than_the_one_that_is_held_under_its_key(
    suite: Suite,
):
    (key,) = await suite.add()
    lease = await suite.start()
    (stale,) = await suite.claim(lease)
    await suite.replace(key)
    work = await suite.work(lease, held=[key])
    assert keys(work) == [key]
    assert work.tasks[0].claim.token > stale.token
    assert await suite.finish(lease, stale) is Outcome.LOST
    assert await suite.status(key) == "pending"
    assert await suite.finish(lease, work.tasks[0].claim) is Outcome.FINISHED
