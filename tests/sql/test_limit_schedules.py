"""Schedules over the limits of a mapping: sessions at once, dead ones, lost replies, and what a claim may cost.

As in `test_schedules.py` each danger is also tried on a mutant, where the bad thing must be seen to happen.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from session_lock import Limit, Rate
from tests.sql.schedule import SESSIONS, TASKS, fault, open_lab, seen_to_fail, sqlstate
from tests.support import EMAILS

LIMITS = "tasks.limits.alwaysup.sql"


@pytest.fixture
async def lab(request, database, changes):
    async with open_lab(database, getattr(request, "param", ()), replace(EMAILS, **changes)) as lab:
        yield lab


def under(*limits: Limit | Rate, **more: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("changes", [{"limits": limits, **more}], ids=["limited"])


@pytest.fixture
async def stranger(database):
    """A connection of somebody who is no session."""
    connection = await asyncpg.connect(database.admin_dsn)
    yield connection
    await connection.close()


async def add(lab, *addresses: str) -> list[int]:
    """One pending row for each, in this order."""
    return [
        await lab.admin.fetchval("INSERT INTO public.email (address) VALUES ($1) RETURNING id", address)
        for address in addresses
    ]


# At once -------------------------------------------------------------------------------------------

GROUP_LOCK = "      PERFORM pg_advisory_xact_lock(hashtextextended('session_lock limit of __title__', 0));\n"
VALUE_LOCK = "            PERFORM pg_advisory_xact_lock(hashtextextended('session_lock limit of __title__ by value', my.value));\n"
NO_GROUP_LOCK = fault("no lock of the group", LIMITS, (GROUP_LOCK, "      NULL;\n"))
NO_VALUE_LOCK = fault("no lock of the value", LIMITS, (VALUE_LOCK, "            NULL;\n"))
COUNTED_BEFORE = fault(
    "the group is counted before its lock", LIMITS,
    (GROUP_LOCK, "      NULL;\n"),
    (
        "      IF my.room = 0 THEN\n",
        "      PERFORM pg_advisory_xact_lock(hashtextextended('session_lock limit of __title__', 0));\n      IF my.room = 0 THEN\n",
    ),
)  # fmt: skip
COUNTED_ONCE = fault("a value is not counted again", LIMITS, ("EXIT WHEN v_look = 2 OR", "EXIT WHEN v_look = 2 OR v_look = 2 OR"), (
    "        my.waits := false;\n        my.now := session_lock.clock();\n      END LOOP;",
    "        my.waits := false;\n        EXIT;\n      END LOOP;",
))  # fmt: skip


async def second_claim_while_the_first_is_open(lab):
    """The first session's claim is not committed yet when the second one asks, and others come first now, so that the locks
    of rows are no help. Returns what each was given.
    """
    first, second = await lab.runner(), await lab.runner()
    async with first.connection.transaction():
        one = await first.get_work()
        await lab.admin.execute(
            "INSERT INTO public.email (address, available_at) SELECT address, '-infinity' FROM public.email"
        )
        _, call = await lab.begin(second, second.get_work())
    return one.keys, (await call).keys


@under(Limit(2))
@seen_to_fail(NO_GROUP_LOCK, COUNTED_BEFORE)
async def test_two_sessions_at_once_keep_to_the_limit_of_the_group(lab):
    added = await lab.add(5)
    one, two = await second_claim_while_the_first_is_open(lab)
    assert one == added[:2]
    assert (two == []) is lab.shipped


@under(Limit(2, by="address"))
@seen_to_fail(NO_VALUE_LOCK, COUNTED_ONCE)
async def test_two_sessions_at_once_keep_to_the_limit_of_a_value(lab):
    added = await add(lab, "a", "a", "a", "a", "b")
    one, two = await second_claim_while_the_first_is_open(lab)
    assert one == [*added[:2], added[4]]
    assert (len(two) == 1) is lab.shipped  # a second "b"


@under(Limit(1, by="address", ordered=True), order_by=("id",))
@seen_to_fail(NO_VALUE_LOCK)
async def test_two_sessions_at_once_keep_the_order(lab):
    """Without the lock the second one is kept from the head by its row's lock alone, and not from what follows."""
    added = await add(lab, "a", "a")
    first, second = await lab.runner(), await lab.runner()
    async with first.connection.transaction():
        claims = (await first.get_work()).claims
        await first.finish(claims)
        waits, call = await lab.begin(second, second.get_work())
    assert waits is lab.shipped
    await call
    assert (await lab.row(added[0]))["sent_at"] is not None


@under(Rate(3, per=60))
@seen_to_fail(NO_GROUP_LOCK)
async def test_two_sessions_at_once_keep_to_the_rate(lab):
    added = await lab.add(10)
    one, two = await second_claim_while_the_first_is_open(lab)
    assert one == added[:3]
    assert (two == []) is lab.shipped


@under(Rate(3, per=60, by="address"))
@seen_to_fail(NO_VALUE_LOCK)
async def test_two_sessions_at_once_keep_to_the_rate_of_a_value(lab):
    added = await add(lab, *"aaaaaaa")
    one, two = await second_claim_while_the_first_is_open(lab)
    assert one == added[:3]
    assert (two == []) is lab.shipped


@under(Rate(2, per=10))
@seen_to_fail(fault("a start is dated before the wait", LIMITS, (
    "    my.now := session_lock.clock();  -- after the wait for the lock, not before it\n", "",
)))  # fmt: skip
async def test_a_start_counts_from_when_it_took_place(lab):
    await lab.own_clock()
    await lab.add(10)
    first, second = await lab.runner(ttl=300), await lab.runner(ttl=300)
    async with first.connection.transaction():
        await first.get_work(1)
        waits, call = await lab.begin(second, second.get_work(1))
        assert waits
        await lab.advance(9)
    assert len((await call).keys) == 1
    await lab.advance(2)  # the first start is 11 s old, the second one 2 s
    assert (len((await first.get_work()).keys) == 1) is lab.shipped


# Nobody waits for ever -----------------------------------------------------------------------------


async def value_of(lab, address: str) -> int:
    return await lab.admin.fetchval("SELECT hash_record_extended(ROW($1::text), 0)", address)


LOCK_OF_VALUE = "pg_advisory_xact_lock(hashtextextended('session_lock limit of email by value', $1))"


@pytest.mark.fault("D12")
@under(Limit(1, by="address"))
@seen_to_fail(fault("each session has an order of its own", LIMITS,
    ("DISTINCT v.value FROM unnest(my.offer_of)", "v.value FROM unnest(my.offer_of)"),
    ("ORDER BY v.value) LOOP", "ORDER BY v.value * (1 - 2 * (my.id % 2))) LOOP"),
))  # fmt: skip
async def test_locks_are_waited_for_in_one_order(lab):
    await add(lab, *"aabb")
    first, second = await lab.runner(), await lab.runner()
    async with lab.admin.transaction():
        for address in "ab":
            await lab.admin.execute(f"SELECT {LOCK_OF_VALUE}", await value_of(lab, address))
        calls = []
        for actor in (first, second):
            waits, call = await lab.begin(actor, sqlstate(actor.get_work()))
            assert waits
            calls.append(call)
    assert (set(await asyncio.gather(*calls)) == {None}) is lab.shipped


@under(Limit(5))
@seen_to_fail(
    fault("who has finished tasks waits too", TASKS, ("coalesce(cardinality(p_finished), 0) = 0", "true"))
)
async def test_who_has_finished_tasks_in_the_same_call_waits_for_nobody(lab):
    [key, *_] = await lab.add(5)
    runner, other = await lab.runner(), await lab.runner()
    claims = (await runner.get_work(1)).claims
    async with other.connection.transaction():
        await other.get_work(1)
        waits, call = await lab.begin(runner, runner.get_work(1, finished=claims))
        assert waits is not lab.shipped
        if lab.shipped:
            assert (await call).outcomes == {key: "finished"}
    await call


@pytest.mark.fault("D13")
@under(Limit(5))
@seen_to_fail(
    fault("a call owns its session's row", SESSIONS, ("     FOR KEY SHARE;\n", "     FOR NO KEY UPDATE;\n"))
)
async def test_a_claim_that_waits_for_a_limit_holds_up_no_keepalive(lab):
    await lab.add(5)
    runner, other = await lab.runner(), await lab.runner()
    async with other.connection.transaction():
        await other.get_work(1)
        waits, call = await lab.begin(runner, runner.get_work(1))
        assert waits
        again = await lab.again(runner)
        waits, bump = await lab.begin(again, again.bump())
        assert waits is not lab.shipped
    await asyncio.gather(call, bump)


# The dead, and lost replies ------------------------------------------------------------------------


@under(Limit(1000))
async def test_a_client_that_stops_reading_its_reply_holds_the_limit_up_until_its_lease_is_over(lab):
    if not await lab.admin.fetchval("SELECT inet_server_addr() IS NOT NULL AND version() LIKE '%linux%'"):
        pytest.skip("the server cannot time out a write to this socket")
    added = await lab.add(500)
    await lab.admin.execute("UPDATE public.email SET body = repeat('x', 65536)")
    frozen, live = await lab.runner(capacity=500, ttl=1), await lab.runner()
    assert (await frozen.get_work(1)).keys == added[:1]  # which prepares the statement
    frozen.connection._transport.pause_reading()
    call = asyncio.ensure_future(frozen.get_work(499, held=added[:1]))
    writing = "SELECT wait_event = 'ClientWrite' FROM pg_stat_activity WHERE pid = $1"
    async with asyncio.timeout(20):
        while not await lab.admin.fetchval(writing, frozen.pid):
            await asyncio.sleep(0.01)
        # Until its backend is gone: before that it may hold its session still, which cannot be ended then.
        while await lab.admin.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", frozen.pid
        ):
            await asyncio.sleep(0.01)
        work = await live.get_work(3)
    assert work.keys == added[:3]
    frozen.connection._transport.resume_reading()
    with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
        await call


@under(Limit(2))
@seen_to_fail(
    fault(
        "only live sessions hold",
        LIMITS,
        (
            "t.__session_id__ <> ALL (my.ended)\n               LIMIT __most__",
            "EXISTS (SELECT FROM session_lock.session AS s WHERE s.id = t.__session_id__ AND s.expires_at > my.clock)\n               LIMIT __most__",
        ),
    )
)
async def test_what_an_expired_session_holds_counts_until_it_is_ended(lab):
    """It cannot be ended while it is in its finishing transaction: it may still be at its tasks."""
    await lab.own_clock()
    added = await lab.add(4)
    frozen, live = await lab.runner(ttl=30), await lab.runner(ttl=300)
    claims = (await frozen.get_work()).claims
    async with frozen.connection.transaction():
        await frozen.finish_in({added[0]: claims[added[0]]})
        await lab.advance(31)
        assert ((await live.get_work()).keys == []) is lab.shipped


@under(Limit(2))
@seen_to_fail(fault("the dead hold for ever", LIMITS, (
    "t.__session_id__ <> ALL (my.ended)\n               LIMIT __most__", "true\n               LIMIT __most__",
)))  # fmt: skip
async def test_what_an_ended_session_held_counts_no_more(lab):
    await lab.own_clock()
    added = await lab.add(4)
    dead, live = await lab.runner(ttl=30), await lab.runner(ttl=300)
    await dead.get_work()
    await lab.advance(31)
    assert ((await live.get_work()).keys == added[:2]) is lab.shipped


@pytest.mark.fault("D23")
@under(Limit(1, by="address"))
async def test_a_task_of_a_session_that_no_longer_exists_blocks_its_value_for_one_look(lab):
    added = await add(lab, "a", "a")
    gone, live = await lab.runner(), await lab.runner()
    await gone.get_work()
    await lab.admin.execute("DELETE FROM session_lock.session WHERE id = $1", gone.id)
    assert (await live.get_work()).keys == []
    assert (await live.get_work()).keys == added[:1]


@pytest.mark.fault("N3")
@under(Limit(2))
@seen_to_fail(
    fault(
        "a limit stands before the caller's own",
        LIMITS,
        ("IF __counts_held__ AND p_start IS NULL THEN", "IF false THEN"),
    )
)
async def test_a_claim_whose_reply_was_lost_heals_though_the_limit_is_full_of_it(lab):
    added = await lab.add(4)
    runner = await lab.runner()
    assert (await runner.get_work()).keys == added[:2]
    assert ((await runner.get_work()).keys == added[:2]) is lab.shipped


@under(Limit(1, by="address", ordered=True), order_by=("id",))
@seen_to_fail(
    fault(
        "the head is the first that is due",
        LIMITS,
        (
            "WHERE (__pending__) AND __value__ = f.value ORDER BY",
            "WHERE (__pending__) AND t.__available_at__ <= my.clock AND __value__ = f.value ORDER BY",
        ),
    )
)
async def test_a_retry_is_not_overtaken(lab):
    await add(lab, "a", "a")
    runner = await lab.runner()
    await runner.release((await runner.get_work()).claims, after=60, error="no")
    assert ((await runner.get_work()).keys == []) is lab.shipped


@under(Limit(1, by="body"))
async def test_null_is_a_value_of_its_own(lab):
    added = await lab.add(3)
    await lab.admin.execute("UPDATE public.email SET body = 'x' WHERE id = $1", added[2])
    assert (await (await lab.runner()).get_work()).keys == [added[0], added[2]]


@under(Limit(1, by="address"))
async def test_a_row_that_gets_another_value_meanwhile_is_not_claimed_under_the_old_one(lab, stranger):
    added = await add(lab, "a", "b")
    runner = await lab.runner()
    async with stranger.transaction():
        await stranger.execute(f"SELECT {LOCK_OF_VALUE}", await value_of(lab, "b"))
        waits, call = await lab.begin(runner, runner.get_work())
        assert waits
        await lab.admin.execute("UPDATE public.email SET address = 'b' WHERE id = $1", added[0])
    assert (await call).keys == [
        added[0]
    ]  # it is the first "b" now, and the one that the lock of "b" lets through


# What it costs -------------------------------------------------------------------------------------


async def rows_read(lab, actor, call) -> int:
    """How many rows of the table a call has looked at."""
    looked = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'email'"
    async with lab.admin.transaction():
        before = await lab.admin.fetchval(looked)
        work = await call(replace(actor, connection=lab.admin))
        return work, await lab.admin.fetchval(looked) - before


BIG = 20_000


@pytest.fixture
async def crowded(lab):
    """20,000 rows of one value before a few of others, and statistics that are fresh."""
    await lab.admin.execute(f"INSERT INTO public.email (address) SELECT 'big' FROM generate_series(1, {BIG})")
    await add(lab, "a", "a", "b")
    await lab.admin.execute("ANALYZE public.email")
    return lab


FEW = 1500


@pytest.mark.parametrize(
    "changes",
    [
        {"limits": (Limit(3),)},
        {"limits": (Limit(3, by="address"),)},
        {"limits": (Limit(1, by="address", ordered=True),), "order_by": ("id",)},
        {"limits": (Rate(3, per=60),)},
        {"limits": (Rate(3, per=60, by="address"),)},
        {"limits": (Limit(3, by="address"),), "fair_by": "address"},
        {"fair_by": "address"},
    ],
    ids=["in all", "each", "ordered", "rate", "rate of each", "fair and each", "fair"],
)
@pytest.mark.parametrize("over_share", [True, False], ids=["alone", "sharing"])
async def test_a_claim_looks_at_few_rows_however_many_are_in_the_way(crowded, changes, over_share):
    runner, other = await crowded.runner(), await crowded.runner()
    for actor in (runner, other, runner):
        work, number = await rows_read(
            crowded, actor, lambda actor: actor.get_work(50, held=[], over_share=over_share)
        )
        assert number < FEW
        assert len(work.keys) <= 50


@under(Limit(1, by="address"))
@seen_to_fail(
    fault(
        "held ones are found by walking",
        "tasks.held.index.sql",
        ("AND __session_id__ IS NOT NULL", "AND __session_id__ = -1"),
    )
)
async def test_held_tasks_are_counted_by_their_own_index(crowded):
    runner = await crowded.runner()
    await rows_read(crowded, runner, lambda actor: actor.get_work(50))
    _, number = await rows_read(crowded, runner, lambda actor: actor.get_work(50))
    assert (number < FEW) is crowded.shipped


@under(fair_by="address")
async def test_many_values_are_visited_up_to_a_bound(lab):
    await lab.admin.execute(
        "INSERT INTO public.email (address) SELECT 'a' || g FROM generate_series(1, 5000) AS g"
    )
    await lab.admin.execute("ANALYZE public.email")
    runner = await lab.runner()
    work, number = await rows_read(lab, runner, lambda actor: actor.get_work(10))
    assert len(work.keys) == 10
    assert number < 200


@pytest.mark.fault("B6")
@under(fair_by="address")
@seen_to_fail(fault("nobody takes turns", LIMITS, ("IF my.step = 'values' OR (__fair__ AND NOT my.all_seen) THEN", "IF my.step = 'values' THEN"), (
    "    ELSIF __fair__ THEN\n", "    ELSIF false THEN\n",
)))  # fmt: skip
async def test_the_few_of_one_value_do_not_wait_for_the_many_of_another(crowded):
    """100 tasks behind 20,000 take twice the looks that they would take alone, while the big one gets the other half."""
    await add(crowded, *["small"] * 100)
    runner, position, looks = await crowded.runner(), None, 0
    left = "SELECT count(*) FROM public.email WHERE address = 'small' AND sent_at IS NULL"
    while looks < 30 and await crowded.admin.fetchval(left):
        work = await runner.get_work(10, position=position)
        assert len(work.keys) == 10
        position, looks = work.position, looks + 1
        await runner.finish(work.claims)
    assert (looks < 30) is crowded.shipped


# Under stress --------------------------------------------------------------------------------------


@under(Limit(7), Limit(2, by="address"), fair_by="address")
@seen_to_fail(NO_GROUP_LOCK)
async def test_never_more_than_the_limits_at_once(lab, stranger):
    """Sessions that claim and finish as fast as they can, one that dies again and again, and one that looks on.

    Which of them meet is chance: without the lock they are let loose until they have.
    """
    over = []
    connections = [await lab.connect() for _ in range(7)]

    async def run(connection, *, dies: bool):
        runner = await lab.start_session(connection)
        while await looks(lab.admin):
            work = await runner.get_work(5, held=[])
            if dies and work.keys:
                await runner.end()
                runner = await lab.start_session(connection)
            else:
                await runner.finish(work.claims)
        await runner.end()

    one_at_a_time = asyncio.Lock()

    async def looks(admin) -> bool:
        """Whether there is anything to do; and what is held, by whom it counts for."""
        async with one_at_a_time:
            row = await admin.fetchrow(
                """
                SELECT coalesce(sum(held), 0) AS all, coalesce(max(held), 0) AS each, coalesce(sum(pending), 0) AS pending
                  FROM (SELECT count(s.id) FILTER (WHERE s.ended_at IS NULL) AS held, count(*) AS pending
                          FROM public.email AS e LEFT JOIN session_lock.session AS s ON s.id = e.session_id
                         WHERE e.sent_at IS NULL GROUP BY e.address) AS v
                """
            )
        if row["all"] > 7 or row["each"] > 2:
            over.append(dict(row))
        return row["pending"] > 0

    for _ in range(1 if lab.shipped else 30):
        await add(lab, *("abcdefgh"[i % 8] for i in range(400)))
        async with asyncio.timeout(60):
            await asyncio.gather(*(run(each, dies=each is connections[0]) for each in connections))
        if over:
            break
    assert (over == []) is lab.shipped


# Claims at once do not get into each other's way ---------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"fair_by": "address"},
        {"limits": (Limit(500),)},
        {"limits": (Rate(500, per=60, by="body"),)},
        {"fair_by": "address", "limits": (Limit(500),)},
    ],
    ids=["fair", "limit", "rate of each", "fair and limit"],
)
async def test_rows_that_others_have_locked_are_replaced_by_the_next_ones(lab, stranger, changes):
    """A claim under way, or somebody's transaction: as without limits, what is locked is passed over for what is free."""
    await add(lab, *("ab" * 200))
    runner = await lab.runner()
    async with stranger.transaction():
        await stranger.execute("SELECT FROM public.email WHERE id <= 200 FOR UPDATE")
        work = await runner.get_work(20)
    assert len(work.keys) == 20
    assert min(work.keys) > 200


@pytest.mark.parametrize(
    "changes",
    [
        {"limits": (Limit(1, by="address"),)},
        {"limits": (Limit(1, by="address", ordered=True),), "order_by": ("id",)},
        {"limits": (Rate(1, per=60, by="address"),)},
        {"fair_by": "address"},
        {"limits": (Limit(1, by="address"),), "fair_by": "address"},
    ],
    ids=["each", "ordered", "rate of each", "fair", "fair and each"],
)
@seen_to_fail(
    fault("the locked keep from the others", LIMITS, ("my.number < my.tried AND my.start IS NULL", "false"))
)
async def test_values_whose_rows_are_locked_keep_nobody_from_the_others(lab, stranger, changes):
    """With room for one: also if it is their turn."""
    *locked, free = await add(lab, *"abcdefghij", "z")
    turn = str(await value_of(lab, "z")) if "fair_by" in changes else None  # the others' before it
    runner = await lab.runner()
    async with stranger.transaction():
        await stranger.execute("SELECT FROM public.email WHERE id = ANY ($1) FOR UPDATE", locked)
        work = await runner.get_work(1, position=turn)
    assert (work.keys == [free]) is lab.shipped
    if lab.shipped:  # they were not counted
        assert sorted((await runner.get_work(20, held=[free])).keys) == locked


@under(Limit(1, by="address", ordered=True), order_by=("id",))
async def test_a_locked_row_before_many_of_its_value_is_passed_by_in_few_looks(crowded, stranger):
    runner = await crowded.runner()
    async with stranger.transaction():
        await stranger.execute("SELECT FROM public.email WHERE id = 1 FOR UPDATE")
        work, number = await rows_read(crowded, runner, lambda actor: actor.get_work(50))
    assert work.keys == [BIG + 1, BIG + 3]
    assert number < FEW
