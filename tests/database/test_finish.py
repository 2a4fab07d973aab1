"""finish_tasks: the outcomes, and the fences."""

from __future__ import annotations

from dataclasses import replace

import asyncpg
import pytest

from session_lock import PostgresDatabase
from session_lock.database import Claim, Handback, Outcome
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping

from .conftest import FORBIDDEN, STUBBORN, Suite, finished, keys


async def test_a_held_task_is_finished(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    assert await suite.finish(lease, claim) is Outcome.FINISHED
    row = await suite.row(key)
    assert (row.status, row.session_id, row.token, row.attempts) == ("finished", None, 1, 1)
    assert keys(await suite.work(lease)) == []


async def test_asking_again_says_already_yours(suite: Suite):
    await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    assert [await suite.finish(lease, claim) for _ in range(3)] == [
        Outcome.FINISHED,
        *[Outcome.ALREADY_YOURS] * 2,
    ]


async def test_the_same_claim_twice_in_one_call_is_finished_once(suite: Suite):
    key, other = await suite.add(2)
    lease = await suite.start()
    claim, second = await suite.claim(lease)
    settled = await suite.database.finish_tasks(lease, [claim, claim, second])
    assert {each.outcome for each in settled} <= {Outcome.FINISHED, Outcome.ALREADY_YOURS}
    assert finished(settled) == {key, other}


async def test_nothing_to_finish(suite: Suite):
    assert list(await suite.database.finish_tasks(await suite.start(), [])) == []


@pytest.mark.fault("D22")
async def test_a_task_that_is_gone_is_unknown(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    await suite.remove(key)
    assert await suite.finish(lease, claim, Claim(999, 1)) == [Outcome.UNKNOWN, Outcome.UNKNOWN]


async def test_a_token_of_an_earlier_claim_is_lost(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (old,) = await suite.claim(lease)
    (new,) = await suite.claim(lease)
    assert await suite.finish(lease, old) is Outcome.LOST
    assert await suite.status(key) == "pending"
    assert await suite.finish(lease, new) is Outcome.FINISHED
    assert await suite.finish(lease, old) is Outcome.LOST


async def test_a_token_from_the_future_is_lost(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    await suite.claim(lease)
    assert await suite.finish(lease, Claim(key, 2)) is Outcome.LOST
    assert await suite.status(key) == "pending"


async def test_a_task_of_another_session_is_lost(suite: Suite):
    (key,) = await suite.add()
    holder, other = await suite.start(), await suite.start()
    (claim,) = await suite.claim(holder)
    assert await suite.finish(other, claim) is Outcome.LOST
    assert (await suite.row(key)).session_id == holder.id
    assert await suite.finish(holder, claim) is Outcome.FINISHED


async def test_a_task_that_was_given_back_is_lost(suite: Suite):
    await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    await suite.database.release_tasks(lease, [Handback(claim)])
    assert await suite.finish(lease, claim) is Outcome.LOST


@pytest.mark.fault("D22")
async def test_a_row_closed_by_the_application_is_lost_and_cleared(suite: Suite):
    (key,) = await suite.add()
    lease, other = await suite.start(), await suite.start()
    (claim,) = await suite.claim(lease)
    await suite.close(key)
    assert await suite.finish(lease, claim) is Outcome.LOST
    row = await suite.row(key)
    assert (row.status, row.session_id) == ("closed", None)
    await suite.reopen(key)
    assert keys(await suite.work(other)) == [key]


async def test_a_row_closed_and_opened_again_unnoticed_is_still_held(suite: Suite):
    (key,) = await suite.add()
    lease, other = await suite.start(), await suite.start()
    (claim,) = await suite.claim(lease)
    await suite.close(key)
    await suite.reopen(key)
    assert keys(await suite.work(other)) == []
    assert await suite.finish(lease, claim) is Outcome.FINISHED


async def test_a_finished_row_that_was_opened_again_is_not_finished_by_the_old_claim(suite: Suite):
    (key,) = await suite.add()
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    await suite.finish(lease, claim)
    await suite.reopen(key)
    assert await suite.finish(lease, claim) is Outcome.LOST
    assert await suite.status(key) == "pending"


@pytest.mark.fault("D13")
async def test_a_locked_row_is_told_and_holds_up_no_other(suite: Suite):
    locked, *others = await suite.add(4)
    lease = await suite.start()
    claims = await suite.claim(lease)
    async with suite.lock(locked):
        assert await suite.finish(lease, *claims) == [Outcome.LOCKED, *[Outcome.FINISHED] * 3]
    assert (await suite.row(locked)).session_id == lease.id
    assert await suite.finish(lease, claims[0]) is Outcome.FINISHED


@pytest.mark.parametrize("address", [FORBIDDEN, STUBBORN])
async def test_a_row_that_refuses_holds_up_none_of_99_others(suite: Suite, address: str):
    good = await suite.add(50) + await suite.add(49)
    (bad,) = await suite.add(address=address)
    lease = await suite.start(capacity=100)
    claims = await suite.claim(lease, 100)
    assert len(claims) == 100
    settled = await suite.database.finish_tasks(lease, claims)
    assert finished(settled) == set(good)
    (refused,) = [each for each in settled if each.outcome is not Outcome.FINISHED]
    assert (refused.key, refused.outcome) == (bad, Outcome.REFUSED)
    assert refused.error and address not in refused.error
    row = await suite.row(bad)
    assert (row.status, row.session_id) == ("pending", lease.id)


async def test_a_row_that_refuses_does_not_hold_up_the_claim_of_the_same_call(suite: Suite):
    (bad,) = await suite.add(address=FORBIDDEN, after=-60)
    good, following = await suite.add(2)
    lease = await suite.start()
    claims = await suite.claim(lease, 2)
    assert keys(claims) == [bad, good]
    work = await suite.work(lease, 2, held=[bad], finished=claims)
    assert {each.key: each.outcome for each in work.settled} == {bad: Outcome.REFUSED, good: Outcome.FINISHED}
    assert keys(work) == [following]


async def test_a_row_that_refused_can_be_given_back(suite: Suite):
    await suite.add(address=FORBIDDEN)
    lease = await suite.start()
    (claim,) = await suite.claim(lease)
    assert await suite.finish(lease, claim) is Outcome.REFUSED
    (settled,) = await suite.database.release_tasks(lease, [Handback(claim, discard=True)])
    assert settled.outcome is Outcome.DISCARDED


async def test_all_outcomes_in_one_call(suite: Suite):
    mine, already, stale, gone, closed, locked = await suite.add(6)
    lease = await suite.start()
    claims = {claim.key: claim for claim in await suite.claim(lease)}
    await suite.finish(lease, claims[already])
    await suite.remove(gone)
    await suite.close(closed)
    asked = [claims[mine], claims[already], Claim(stale, 7), claims[gone], claims[closed], claims[locked]]
    async with suite.lock(locked):
        assert await suite.finish(lease, *asked) == [
            Outcome.FINISHED,
            Outcome.ALREADY_YOURS,
            Outcome.LOST,
            Outcome.UNKNOWN,
            Outcome.LOST,
            Outcome.LOCKED,
        ]


async def test_a_trigger_that_raises_what_it_likes_is_its_rows_matter(database) -> None:
    """Its own SQLSTATE, and a table that it does not find under the pinned search_path: neither is an outage."""
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, EMAILS, grant_to="app")
        await admin.execute(
            """
            CREATE FUNCTION public.check_email() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
              IF new.sent_at IS NOT NULL AND new.id = 2 THEN RAISE EXCEPTION 'no' USING ERRCODE = 'MY001'; END IF;
              IF new.sent_at IS NOT NULL AND new.id = 4 THEN PERFORM FROM not_found_here; END IF;
              RETURN new;
            END $$;
            CREATE TRIGGER check_email BEFORE UPDATE ON public.email FOR EACH ROW EXECUTE FUNCTION public.check_email();
            """
        )
        await add_emails(admin, 6)
        async with PostgresDatabase(database.app_dsn, EMAILS) as emails:
            lease = await emails.start_session(capacity=10, ttl=30)
            work = await emails.get_work(lease, limit=10)
            settled = await emails.finish_tasks(lease, [task.claim for task in work.tasks])
        assert {each.key for each in settled if each.outcome is Outcome.FINISHED} == {1, 3, 5, 6}
        assert {each.key for each in settled if each.outcome is Outcome.REFUSED} == {2, 4}
    finally:
        await admin.close()


@pytest.mark.fault("D26")
async def test_a_value_that_the_driver_cannot_read_fails_its_own_task_alone(database) -> None:
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute(EMAIL_TABLE + "; ALTER TABLE public.email ADD COLUMN due timestamptz")
        table = replace(EMAILS, columns=("id", "due"))
        await apply_mapping(admin, table, grant_to="app")
        await add_emails(admin, 6)
        await admin.execute("UPDATE public.email SET due = '20000-01-01' WHERE id IN (2, 5)")
        async with PostgresDatabase(database.app_dsn, table) as emails:
            lease = await emails.start_session(capacity=10, ttl=30)
            held: dict[int, bool] = {}
            for _ in range(7):  # a call for each of the unreadable ones, and for what lies before it
                work = await emails.get_work(lease, limit=10, held=list(held))
                held |= {task.claim.key: task.error is None for task in work.tasks}
        assert held == {1: True, 2: False, 3: True, 4: True, 5: False, 6: True}
        assert await admin.fetchval("SELECT max(attempts) FROM public.email") == 1
    finally:
        await admin.close()
