"""Schedules of what people ask for: `cancel_task`, `retry_tasks`; and of the index of due times. See `schedule.py`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from session_lock.catalog import read_shape
from session_lock.schema import render
from tests.sql.schedule import TASKS, fault, open_lab, seen_to_fail
from tests.support import EMAILS


@pytest.fixture
async def lab(request, database):
    async with open_lab(database, getattr(request, "param", ())) as lab:
        yield lab


async def cancel(lab, actor, key):
    return await actor.connection.fetchval(f"SELECT session_lock.cancel_task_{lab.functions}($1)", key)


@asynccontextmanager
async def asking_while_locked(lab, people, holder, key):
    """`cancel` waits for the holder's row until the block has ended: what is done in the block it has not seen before."""
    async with lab.admin.transaction():
        await lab.admin.execute("SELECT FROM session_lock.session WHERE id = $1 FOR UPDATE", holder.id)
        waits, call = await lab.begin(people, cancel(lab, people, key))
        assert waits
        yield call


NOT_ASKED_AGAIN = fault(
    "cancel believes what it read before it had the lock", TASKS,
    (
        "        CONTINUE WHEN NOT EXISTS (SELECT FROM __table__ AS t WHERE t.__key__ = my.key AND t.__session_id__ = my.holder);\n",
        "",
    ),
)  # fmt: skip
ROBS = fault(
    "cancel takes the row from whoever has it now", TASKS,
    ("t.__key__ = my.key AND t.__session_id__ IS NOT DISTINCT FROM my.holder AND", "t.__key__ = my.key AND"),
)  # fmt: skip
ENDED_IS_ASKED = fault(
    "cancel asks a session that has ended", TASKS,
    (" WHERE s.id = my.holder AND s.ended_at IS NULL\n         FOR NO KEY UPDATE", " WHERE s.id = my.holder\n         FOR NO KEY UPDATE"),
)  # fmt: skip


@seen_to_fail(NOT_ASKED_AGAIN)
async def test_a_task_that_its_holder_gives_back_meanwhile_is_discarded_all_the_same(lab):
    [key] = await lab.add(1)
    holder, people = await lab.runner(), await lab.runner()
    await holder.get_work()
    async with asking_while_locked(lab, people, holder, key) as call:
        await lab.admin.execute("UPDATE public.email SET session_id = NULL WHERE id = $1", key)
    answer = await call
    assert (answer == "discarded") is lab.shipped
    assert ((await lab.row(key))["failed_at"] is not None) is lab.shipped


@seen_to_fail(ROBS)
async def test_a_task_that_another_session_has_taken_over_meanwhile_is_asked_for_not_robbed(lab):
    [key] = await lab.add(1)
    dead, other, people = await lab.runner(), await lab.runner(), await lab.runner()
    await dead.get_work()
    async with asking_while_locked(lab, people, dead, key) as call:
        await lab.admin.execute("UPDATE session_lock.session SET ended_at = now() WHERE id = $1", dead.id)
        await lab.admin.execute(
            "UPDATE public.email SET session_id = $2, claim_token = 2 WHERE id = $1", key, other.id
        )
    assert (await call == "asked") is lab.shipped
    assert ((await lab.row(key))["failed_at"] is None) is lab.shipped


RELEASE_IN_THE_DARK = fault(
    "a release does not wait for who is asking", TASKS,
    (" WHERE s.id = p_id AND s.nonce = p_nonce AND s.ended_at IS NULL\n     FOR NO KEY UPDATE", " WHERE s.id = p_id AND s.nonce = p_nonce AND s.ended_at IS NULL"),
)  # fmt: skip


@seen_to_fail(RELEASE_IN_THE_DARK)
async def test_a_release_that_begins_before_the_request_is_committed_heeds_it(lab):
    [key] = await lab.add(1)
    holder, people = await lab.runner(), await lab.runner()
    claims = (await holder.get_work()).claims
    async with people.connection.transaction():
        assert await cancel(lab, people, key) == "asked"
        waits, release = await lab.begin(holder, holder.release(claims, after=60))
        assert waits is lab.shipped
    assert (await release)[key] == ("discarded" if lab.shipped else "released")


@seen_to_fail(RELEASE_IN_THE_DARK)
async def test_who_asks_while_the_holder_releases_finds_the_task_free(lab):
    [key] = await lab.add(1)
    holder, people = await lab.runner(), await lab.runner()
    claims = (await holder.get_work()).claims
    async with holder.connection.transaction():
        await holder.release(claims, after=60)
        waits, call = await lab.begin(people, cancel(lab, people, key))
        assert waits is lab.shipped
    assert await call == ("discarded" if lab.shipped else "asked")


@seen_to_fail(ENDED_IS_ASKED)
async def test_the_task_of_a_session_that_ends_meanwhile_is_discarded(lab):
    [key] = await lab.add(1)
    holder, people = await lab.runner(), await lab.runner()
    await holder.get_work()
    async with asking_while_locked(lab, people, holder, key) as call:
        await lab.admin.execute("UPDATE session_lock.session SET ended_at = now() WHERE id = $1", holder.id)
    assert (await call == "discarded") is lab.shipped


async def test_who_is_in_a_finishing_transaction_after_its_lease_is_not_robbed(lab):
    await lab.own_clock()
    [key] = await lab.add(1)
    holder, people = await lab.runner(ttl=30), await lab.runner(ttl=300)
    claims = (await holder.get_work()).claims
    async with holder.connection.transaction():
        await holder.finish_in(claims)
        await lab.advance(31)
        assert await cancel(lab, people, key) == "locked"
    assert (await lab.row(key))["sent_at"] is not None


async def test_keepalives_and_finishes_go_through_beside_a_request(lab):
    """The order of locks is everybody's: session, then task."""
    keys = await lab.add(2)
    holder, people = await lab.runner(), await lab.runner()
    claims = (await holder.get_work()).claims
    async with people.connection.transaction():
        assert await cancel(lab, people, keys[0]) == "asked"
        assert await holder.finish({keys[1]: claims[keys[1]]}) == {keys[1]: "finished"}
        waits, bump = await lab.begin(holder, holder.bump())
        assert waits
    assert (await bump)["cancel_keys"] == [str(keys[0])]


async def test_a_locked_row_is_not_tried_again_and_holds_up_no_other(lab):
    first, second = await lab.add(2)
    await lab.admin.execute("UPDATE public.email SET available_at = 'infinity'")
    people = await lab.runner()
    query = f"SELECT array_agg(k) FROM session_lock.retry_tasks_{lab.functions}(NULL) AS k"
    async with lab.admin.transaction():
        await lab.admin.execute("SELECT FROM public.email WHERE id = $1 FOR UPDATE", first)
        assert await people.connection.fetchval(query) == [second]
    assert await people.connection.fetchval(query) == [first]


# When the next one is due ------------------------------------------------------------------------------------


async def test_the_next_due_time_is_known_by_an_index_of_its_own_where_the_order_begins_with_something_else(
    database,
):
    by_address = replace(EMAILS, order_by=("address",))
    async with open_lab(database, table=by_address) as lab:
        await lab.add(2)
        await lab.admin.execute(
            "UPDATE public.email SET available_at = now() + CASE id WHEN 1 THEN '7 s' ELSE '1 h' END::interval"
        )
        runner = await lab.runner()
        assert (await runner.get_work()).next_due is None
        await lab.admin.execute(
            render("tasks.due.index.sql", by_address, await read_shape(lab.admin, by_address))
        )
        assert (await runner.get_work()).next_due == pytest.approx(7, abs=2)
        await lab.admin.execute(render("tasks.down.sql", by_address, await read_shape(lab.admin, by_address)))
        assert await lab.admin.fetchval("SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'due_%'") == 0


async def test_a_task_that_is_closed_when_its_session_ends_meanwhile_stays_as_it_is(lab):
    [key] = await lab.add(1)
    holder, people = await lab.runner(), await lab.runner()
    await holder.get_work()
    async with asking_while_locked(lab, people, holder, key) as call:
        await lab.admin.execute("UPDATE session_lock.session SET ended_at = now() WHERE id = $1", holder.id)
        await lab.admin.execute("UPDATE public.email SET sent_at = now() WHERE id = $1", key)
    assert await call == "closed"
    assert (await lab.row(key))["failed_at"] is None


async def test_who_cancels_a_locked_task_is_told_so_and_does_not_wait(lab):
    [key] = await lab.add(1)
    people = await lab.runner()
    async with lab.admin.transaction():
        await lab.admin.execute("SELECT FROM public.email FOR NO KEY UPDATE")
        waits, call = await lab.begin(people, cancel(lab, people, key))
        assert not waits
        assert await call == "locked"


# What is asked of a mapping, and noted of its tasks -------------------------------------------------------------


async def test_what_is_asked_of_one_mapping_is_not_asked_of_another(lab):
    await lab.own_clock()
    mine, other = await lab.runner(), await lab.runner(name="other")
    ask = lab.admin.fetchval
    assert not await ask("SELECT session_lock.drain_session('email', $1)", other.id)
    assert not (await other.bump())["drain"]
    assert await ask("SELECT session_lock.pause_mapping('email')")
    assert not await ask("SELECT session_lock.resume_mapping('other')")
    assert (await mine.bump())["pause"]
    assert await ask("SELECT session_lock.resume_mapping('email')")


async def test_the_clock_of_leases_says_who_can_be_asked_and_when_that_was(lab):
    await lab.own_clock()
    gone = await lab.runner(ttl=30)
    await lab.advance(60)
    assert not await lab.admin.fetchval("SELECT session_lock.drain_session('email', $1)", gone.id)
    await lab.admin.execute("SELECT session_lock.pause_mapping('email')")
    assert await lab.admin.fetchval("SELECT at > now() + interval '50 seconds' FROM session_lock.pause")


async def note_expired(lab, name, key, times):
    for attempt in range(1, times + 1):
        await lab.admin.execute(
            "SELECT session_lock.note_expired($1, ARRAY[$2], ARRAY[$3::integer], ARRAY[7::bigint], now())",
            name,
            key,
            attempt,
        )


async def test_of_each_task_its_own_newest_failures_are_kept_and_count(lab):
    for name, key, times in (("other", "1", 3), ("email", "2", 2), ("email", "1", 25), ("other", "1", 3)):
        await note_expired(lab, name, key, times)
    await note_expired(lab, "email", "1", 1)
    await note_expired(lab, "email", "2", 4)
    rows = await lab.admin.fetch(
        "SELECT name, task_key, count(*) FROM session_lock.failure GROUP BY 1, 2 ORDER BY 1, 2"
    )
    assert [tuple(row) for row in rows] == [("email", "1", 20), ("email", "2", 6), ("other", "1", 6)]
    await lab.admin.execute("UPDATE session_lock.failure SET error = 'it failed' WHERE name = 'email'")
    for name, key, suspect in (("email", "1", False), ("other", "1", True), ("other", "2", False)):
        assert await lab.admin.fetchval("SELECT session_lock.is_suspect($1, $2)", name, key) is suspect
