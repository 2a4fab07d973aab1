"""release_tasks: giving back, discarding, parking."""

from __future__ import annotations

import math

import pytest

from session_lock.database import Claim, Handback, Outcome

from .conftest import KEPT, Suite, keys, outcomes


async def release(suite: Suite, lease, *handbacks: Handback):
    settled = await suite.database.release_tasks(lease, handbacks)
    return outcomes(settled, [handback.claim for handback in handbacks])


async def test_a_released_task_keeps_its_place(suite: Suite):
    first, second, third = await suite.add(3)
    lease = await suite.start()
    claim, _ = await suite.claim(lease, 2)
    assert await release(suite, lease, Handback(claim)) is Outcome.RELEASED
    row = await suite.row(first)
    assert (row.session_id, row.attempts, row.token) == (None, 1, 1)
    assert keys(await suite.work(lease, 2, held=[second])) == [first, third]


async def test_after_zero_seconds_it_goes_to_the_end(suite: Suite):
    first, second, third = await suite.add(3)
    lease = await suite.start()
    (claim,) = await suite.claim(lease, 1)
    assert await release(suite, lease, Handback(claim, after=0)) is Outcome.RELEASED
    assert keys(await suite.work(lease)) == [second, third, first]


async def test_after_some_seconds_it_waits(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    assert await release(suite, lease, Handback(claim, after=5)) is Outcome.RELEASED
    work = await suite.work(lease)
    assert keys(work) == []
    assert work.next_due == pytest.approx(5, abs=1)
    await suite.advance(6)
    assert keys(await suite.work(lease)) == [key]


async def test_after_for_ever_it_is_parked(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    assert await release(suite, lease, Handback(claim, after=math.inf)) is Outcome.PARKED
    row = await suite.row(key)
    assert (row.status, row.session_id, row.due) == ("pending", None, math.inf)
    await suite.advance(1e6)
    assert keys(await suite.work(await suite.start())) == []


@pytest.mark.parametrize(("give_back", "attempts"), [(False, 1), (True, 0)])
async def test_an_attempt_counts_unless_it_is_given_back(suite: Suite, give_back: bool, attempts: int):
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    await release(suite, lease, Handback(claim, give_back_attempt=give_back))
    assert (await suite.row(key)).attempts == attempts
    (task,) = (await suite.work(lease)).tasks
    assert (task.attempt, task.claim.token) == (attempts + 1, 2)


async def test_a_discarded_task_is_closed_in_the_tables_words(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    assert await release(suite, lease, Handback(claim, discard=True)) is Outcome.DISCARDED
    row = await suite.row(key)
    assert (row.status, row.session_id, row.attempts) == ("discarded", None, 1)


async def test_without_such_words_it_is_parked(suite_without_discard: Suite):
    suite = suite_without_discard
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    assert await release(suite, lease, Handback(claim, discard=True, error="poison")) is Outcome.PARKED
    row = await suite.row(key)
    assert (row.status, row.session_id, row.due) == ("pending", None, math.inf)
    assert [each.error for each in await suite.failures(key)] == ["poison"]


async def test_each_task_in_its_own_way(suite: Suite):
    kept, waits, parked, discarded, failed = await suite.add(5)
    lease = await suite.start()
    claims = {claim.key: claim for claim in await suite.claim(lease)}
    handbacks = [
        Handback(claims[kept]),
        Handback(claims[waits], after=50, give_back_attempt=True),
        Handback(claims[parked], after=math.inf),
        Handback(claims[discarded], discard=True),
        Handback(claims[failed], after=10, error="no"),
    ]
    assert await release(suite, lease, *handbacks) == [
        Outcome.RELEASED,
        Outcome.RELEASED,
        Outcome.PARKED,
        Outcome.DISCARDED,
        Outcome.RELEASED,
    ]
    rows = {key: await suite.row(key) for key in claims}
    assert [rows[key].attempts for key in (kept, waits, parked, discarded, failed)] == [1, 0, 1, 1, 1]
    assert rows[kept].due < 1
    assert rows[waits].due == pytest.approx(50, abs=1)
    assert rows[failed].due == pytest.approx(10, abs=1)
    assert all(row.session_id is None for row in rows.values())


# What went wrong -----------------------------------------------------------------------------------------


async def test_an_error_is_kept(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    for error in ("first", None, "third"):
        (claim,) = await suite.claim(lease)
        await release(suite, lease, Handback(claim, error=error))
    failures = await suite.failures(key)
    assert [(each.attempt, each.session_id, each.error) for each in failures] == [
        (1, lease.id, "first"),
        (3, lease.id, "third"),
    ]


@pytest.mark.parametrize(
    "how", [{"give_back_attempt": True}, {"discard": True}, {"discard": True, "give_back_attempt": True}]
)
async def test_an_error_is_kept_with_the_number_of_its_attempt(suite: Suite, how):
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    await release(suite, lease, Handback(claim, error="no", **how))
    assert [each.attempt for each in await suite.failures(key)] == [1]


async def test_the_newest_twenty_errors_are_kept(suite: Suite):
    key, other = await suite.add(2)
    lease = await suite.start()
    for number in range(23):
        claims = {claim.key: claim for claim in await suite.claim(lease)}
        await release(suite, lease, Handback(claims[key], error=f"error {number}"), Handback(claims[other]))
    assert [each.error for each in await suite.failures(key)] == [
        f"error {number}" for number in range(3, 23)
    ]
    assert await suite.failures(other) == []


async def test_a_long_error_is_cut(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    await release(suite, lease, Handback(claim, error="x" * 5000))
    assert [each.error for each in await suite.failures(key)] == ["x" * 4000]


async def test_no_error_is_kept_for_a_task_that_is_not_held(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (old,) = await suite.claim(lease)
    await suite.claim(lease)
    assert await release(suite, lease, Handback(old, error="late")) is Outcome.LOST
    assert await suite.failures(key) == []


# Fences --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"after": 5}, {"after": math.inf}, {"discard": True}])
async def test_asking_again_says_already_yours_and_changes_nothing(suite: Suite, how):
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    handback = Handback(claim, give_back_attempt=True, error="no", **how)
    await release(suite, lease, handback)
    before = await suite.row(key)
    assert await release(suite, lease, handback) is Outcome.ALREADY_YOURS
    after = await suite.row(key)
    assert (after.status, after.attempts, after.token) == (before.status, before.attempts, before.token)
    assert len(await suite.failures(key)) == 1


async def test_a_finished_task_is_not_given_back(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    await suite.finish(lease, claim)
    assert await release(suite, lease, Handback(claim)) is Outcome.ALREADY_YOURS
    assert await suite.status(key) == "finished"


async def test_a_stale_token_gives_nothing_back(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (old,) = await suite.claim(lease)
    await suite.claim(lease)
    for handback in (Handback(old), Handback(old, discard=True), Handback(old, after=math.inf)):
        assert await release(suite, lease, handback) is Outcome.LOST
    row = await suite.row(key)
    assert (row.status, row.session_id, row.attempts) == ("pending", lease.id, 1)
    assert row.due < 1


async def test_a_stale_handback_does_not_leak_into_a_good_one(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (old,) = await suite.claim(lease)
    (new,) = await suite.claim(lease)
    stale = [Handback(old, after=math.inf, give_back_attempt=True, error="old"), Handback(old, discard=True)]
    for order in (1, -1):
        settled = await suite.database.release_tasks(lease, [*stale, Handback(new, after=5)][::order])
        assert sorted(each.outcome for each in settled) == [Outcome.LOST, Outcome.LOST, Outcome.RELEASED]
        row = await suite.row(key)
        assert (row.status, row.attempts) == ("pending", new.token - 1)
        assert row.due == pytest.approx(5, abs=1)
        await suite.advance(6)
        (new,) = await suite.claim(lease)
    assert await suite.failures(key) == []


async def test_another_sessions_task_is_not_given_back(suite: Suite):
    (key,) = await suite.add()
    holder, other = await suite.start(), await suite.start()
    (claim,) = await suite.claim(holder)
    assert await release(suite, other, Handback(claim)) is Outcome.LOST
    assert (await suite.row(key)).session_id == holder.id


async def test_a_row_closed_by_the_application_is_lost_and_cleared(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    await suite.close(key)
    assert await release(suite, lease, Handback(claim, after=5, error="no")) is Outcome.LOST
    row = await suite.row(key)
    assert (row.status, row.session_id, row.attempts) == ("closed", None, 1)
    assert await suite.failures(key) == []


async def test_locked_and_unknown_rows_hold_up_no_other(suite: Suite):
    locked, gone, good = await suite.add(3)
    lease = await suite.start()
    claims = await suite.claim(lease)
    await suite.remove(gone)
    async with suite.lock(locked):
        handbacks = [Handback(claim, error="no") for claim in claims]
        assert await release(suite, lease, *handbacks) == [Outcome.LOCKED, Outcome.UNKNOWN, Outcome.RELEASED]
    assert (await suite.row(locked)).session_id == lease.id
    assert await suite.failures(locked) == []
    assert len(await suite.failures(good)) == 1
    assert await release(suite, lease, Handback(Claim(999, 1))) is Outcome.UNKNOWN


async def test_a_row_that_refuses_its_discard_holds_up_no_other(suite: Suite):
    (bad,) = await suite.add(address=KEPT)
    good = await suite.add(5)
    lease = await suite.start()
    claims = await suite.claim(lease)
    settled = await suite.database.release_tasks(
        lease, [Handback(claim, discard=True, error="no") for claim in claims]
    )
    found = {each.key: each.outcome for each in settled}
    assert found == {bad: Outcome.REFUSED} | dict.fromkeys(good, Outcome.DISCARDED)
    row = await suite.row(bad)
    assert (row.status, row.session_id) == ("pending", lease.id)
    assert await suite.failures(bad) == []


async def test_nothing_to_release(suite: Suite):
    assert list(await suite.database.release_tasks(await suite.start(), [])) == []
