"""Schedules of two and three connections over the SQL functions; see `schedule.py` for how they are made.

R1 to R9, T3, T4 and D.. are the findings, threats and defects of the same names in the project's papers: faults that were
seen in other libraries or in a trial of our own. Each is put back here as a mutant and must be caught.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from session_lock.table import TaskTable
from tests.sql.schedule import SESSIONS, TASKS, Actor, fault, open_lab, seen_to_fail, sqlstate
from tests.support import EMAILS, apply_mapping

NOT_LIVE, NOT_HELD, LEFT_PENDING = "SL001", "SL002", "SL003"


@pytest.fixture
async def lab(request, database):
    async with open_lab(database, getattr(request, "param", ())) as lab:
        yield lab


async def found_by(actor, calls=3):
    """What a session is given by its next calls, all of it held from then on."""
    found: list[int] = []
    for _ in range(calls):
        found += (await actor.get_work(held=found)).keys
    return found


# Clocks: R1, R4, D7, D8 ----------------------------------------------------------------------------

BUMP_READS_CLOCK_FIRST = fault(
    "bump reads the clock before it waits", SESSIONS,
    ("  v_now      timestamptz;\n", "  v_now      timestamptz := session_lock.clock();\n"),
    ("  v_now := session_lock.clock();  -- after the wait for the lock, not before it\n", ""),
)  # fmt: skip
HOLD_READS_CLOCK_FIRST = fault(
    "hold_session reads the clock before it waits", SESSIONS,
    (
        "BEGIN\n  SELECT s.name, s.capacity, s.expires_at INTO",
        "BEGIN\n  at := session_lock.clock();\n  SELECT s.name, s.capacity, s.expires_at INTO",
    ),
    ("  at := session_lock.clock();  -- after the wait for the lock, not before it\n", ""),
)  # fmt: skip
CLOCK_OF_TRANSACTION = fault("now() is the clock", SESSIONS, ("SELECT clock_timestamp()", "SELECT now()"))


@seen_to_fail(BUMP_READS_CLOCK_FIRST)
async def test_r1_a_session_that_expires_while_its_keepalive_waits_is_not_revived(lab):
    await lab.own_clock()
    runner = await lab.runner(ttl=30)
    async with lab.admin.transaction():
        await lab.admin.execute("SELECT FROM session_lock.session FOR UPDATE")
        waits, bump = await lab.begin(runner, sqlstate(runner.bump()))
        assert waits
        await lab.advance(31)
    assert (await bump == NOT_LIVE) is lab.shipped


@seen_to_fail(HOLD_READS_CLOCK_FIRST)
@pytest.mark.parametrize("verb", ["get_work", "finish", "finish_in", "release"])
async def test_r1_a_session_that_expires_while_a_call_waits_for_it_does_nothing(lab, verb):
    await lab.own_clock()
    [done, _] = await lab.add(2)
    runner = await lab.runner(ttl=30)
    claims = (await runner.get_work(1)).claims
    assert list(claims) == [done]
    call = runner.get_work(1, held=[done]) if verb == "get_work" else getattr(runner, verb)(claims)
    async with lab.admin.transaction():
        await lab.admin.execute("SELECT FROM session_lock.session FOR UPDATE")
        waits, call = await lab.begin(runner, sqlstate(call))
        assert waits
        await lab.advance(31)
    # finish_in looks again after it has its rows, and release waits before it holds, so there the fault alone does no harm
    assert (await call == NOT_LIVE) is (lab.shipped or verb in {"finish_in", "release"})


@seen_to_fail(CLOCK_OF_TRANSACTION)
async def test_r1_by_the_real_clock_too(lab):
    await lab.add(2)
    runner = await lab.runner(ttl=1)
    async with lab.admin.transaction():
        expires = await lab.admin.fetchval("SELECT expires_at FROM session_lock.session FOR UPDATE")
        waits, call = await lab.begin(runner, sqlstate(runner.get_work()))
        assert waits
        await lab.admin.execute("SELECT pg_sleep(0.01 + extract(epoch FROM $1 - clock_timestamp()))", expires)
    assert (await call == NOT_LIVE) is lab.shipped


@seen_to_fail(CLOCK_OF_TRANSACTION)
async def test_r4_a_transaction_that_is_open_for_long_gets_a_lease_of_full_length(lab):
    runner = await lab.runner(ttl=1)
    async with lab.admin.transaction():
        actor = replace(runner, connection=lab.admin)
        await lab.admin.execute("SELECT pg_sleep(0.05)")
        before = await lab.admin.fetchval("SELECT clock_timestamp()")
        await actor.bump(ttl=60)
        is_full = await lab.admin.fetchval(
            "SELECT expires_at >= $1::timestamptz + interval '60 seconds' FROM session_lock.session", before
        )
    assert is_full is lab.shipped


@seen_to_fail(
    fault(
        "finish_in does not look at the clock again",
        TASKS,
        ("IF session_lock.clock() >= my.expires THEN", "IF false THEN"),
    )
)
async def test_a_lease_that_runs_out_while_finish_in_waits_for_a_row_finishes_nothing(lab):
    await lab.own_clock()
    [key] = await lab.add(1)
    runner = await lab.runner(ttl=30)
    claims = (await runner.get_work()).claims
    async with lab.admin.transaction():
        await lab.admin.execute("SELECT FROM public.email FOR UPDATE")
        waits, call = await lab.begin(runner, sqlstate(runner.finish_in(claims)))
        assert waits
        await lab.advance(31)
    assert (await call == NOT_LIVE) is lab.shipped
    assert ((await lab.row(key))["sent_at"] is None) is lab.shipped


@pytest.mark.fault("D7")
@seen_to_fail(
    fault(
        "a keepalive may shorten a lease",
        SESSIONS,
        ("greatest(v_expires, v_now +", "greatest(v_now, v_now +"),
    )
)
async def test_a_keepalive_never_shortens_a_lease(lab):
    runner = await lab.runner(ttl=60)
    before = (await lab.session(runner))["expires_at"]
    left = (await runner.bump(ttl=1))["left"]
    assert ((await lab.session(runner))["expires_at"] == before and left > 50) is lab.shipped


@pytest.mark.fault("D9")
@seen_to_fail(
    fault(
        "leases end at a time without a zone",
        "sessions.up.sql",
        ("expires_at      timestamptz NOT", "expires_at      timestamp NOT"),
    )
)
async def test_d8_runners_in_other_time_zones_agree_on_who_is_live(lab):
    await lab.add(1)
    west, east = await lab.connect(), await lab.connect()
    await west.execute("SET timezone = 'Pacific/Honolulu'")
    await east.execute("SET timezone = 'Pacific/Kiritimati'")  # 24 hours ahead
    holder, other = await lab.start_session(west), await lab.start_session(east)
    assert len((await holder.get_work()).keys) == 1
    assert ((await other.get_work()).keys == []) is lab.shipped


DUE_IN_DAYS = fault(
    "a day of the calendar is taken for 24 hours", TASKS,
    ("ELSE my.clock + make_interval(secs => r.after)", "ELSE my.clock + make_interval(days => (r.after / 86400)::integer)"),
)  # fmt: skip


@pytest.mark.fault("D9")
@seen_to_fail(DUE_IN_DAYS)
async def test_a_change_of_summer_time_moves_no_lease_and_no_due_time(lab):
    await lab.own_clock()
    [key] = await lab.add(1)
    connection = await lab.connect()
    await connection.execute("SET timezone = 'America/New_York'")
    # Five seconds before clocks there go from 2 to 3 o'clock.
    await lab.admin.execute(
        "UPDATE public.test_clock SET ahead = extract(epoch FROM timestamptz '2027-03-14 06:59:55+00' - clock_timestamp())"
    )
    runner = await lab.start_session(connection, ttl=30)
    await lab.advance(10)
    assert (await lab.session(runner))["ended_at"] is None
    assert 10 < (await runner.bump(ttl=15))["left"] <= 20
    await lab.advance(-10)  # back to the winter's side of it
    claims = (await runner.get_work()).claims
    await runner.release(claims, after=86400)
    await lab.advance(86400 - 3600)
    late_enough = await lab.admin.fetchval(
        "SELECT available_at > session_lock.clock() FROM public.email WHERE id = $1", key
    )
    await lab.advance(3600 + 1)
    due = await lab.admin.fetchval(
        "SELECT available_at < session_lock.clock() FROM public.email WHERE id = $1", key
    )
    assert due
    in_a_day = await lab.admin.fetchval(
        "SELECT abs(extract(epoch FROM session_lock.clock() - available_at)) < 3000 FROM public.email WHERE id = $1",
        key,
    )
    assert (late_enough and in_a_day) is lab.shipped


# The fence: R2, D1, T3 -----------------------------------------------------------------------------

NO_TOKEN = ("           WHEN task.token IS DISTINCT FROM claim.token THEN 'lost'\n", "")
NO_HOLDER = ("WHEN task.holder = p_id AND task.pending THEN 'held'", "WHEN task.pending THEN 'held'")
NO_SESSION = (
    "BEGIN\n  PERFORM session_lock.hold_session(p_id, p_nonce);\n  SELECT array_agg(s.task_key), array_agg(s.standing),\n         array_agg",
    "BEGIN\n  SELECT array_agg(s.task_key), array_agg(s.standing),\n         array_agg",
)


@seen_to_fail(fault("finish(ids), as the seed has it", TASKS, NO_TOKEN, NO_HOLDER, NO_SESSION))
async def test_r2_an_expired_session_does_not_finish_what_another_owns(lab):
    await lab.own_clock()
    [key] = await lab.add(1)
    first, second = await lab.runner(ttl=30), await lab.runner(ttl=300)
    claims = (await first.get_work()).claims
    await lab.advance(31)
    assert (await second.get_work()).claims == {key: 2}
    assert (await sqlstate(first.finish(claims)) == NOT_LIVE) is lab.shipped
    assert ((await lab.row(key))["session_id"] == second.id) is lab.shipped


@seen_to_fail(fault("finish does not ask for the session", TASKS, NO_SESSION))
async def test_r2_an_expired_session_does_not_finish_its_own_either(lab):
    await lab.own_clock()
    [key] = await lab.add(1)
    runner = await lab.runner(ttl=30)
    claims = (await runner.get_work()).claims
    await lab.advance(31)
    assert (await sqlstate(runner.finish(claims)) == NOT_LIVE) is lab.shipped
    assert ((await lab.row(key))["sent_at"] is None) is lab.shipped


@seen_to_fail(fault("finish does not ask for the token", TASKS, NO_TOKEN))
async def test_a_claim_that_was_claimed_again_by_its_own_session_is_over(lab):
    [key] = await lab.add(1)
    runner = await lab.runner()
    old = (await runner.get_work()).claims
    new = (await runner.get_work(held=[])).claims
    assert new == {key: old[key] + 1}
    assert (await runner.finish(old) == {key: "lost"}) is lab.shipped


@pytest.mark.fault("D22")
@seen_to_fail(fault("finish does not ask for the holder", TASKS, NO_HOLDER))
async def test_a_row_that_was_deleted_and_inserted_again_is_another_task(lab):
    """Its token begins at 1 again, so here the session alone tells the two claims apart."""
    [key] = await lab.add(1)
    first, second = await lab.runner(), await lab.runner()
    old = (await first.get_work()).claims
    await lab.admin.execute("DELETE FROM public.email")
    await lab.admin.execute(
        "INSERT INTO public.email (id, address) OVERRIDING SYSTEM VALUE VALUES ($1, 'a')", key
    )
    assert (await second.get_work()).claims == old
    assert (await first.finish(old) == {key: "lost"}) is lab.shipped


VERBS = ("bump", "get_work", "finish", "finish_in", "release", "end")
NO_NONCE = {
    "bump": ("WHERE s.id = p_id AND s.nonce = p_nonce AND s.ended_at IS NULL\n     FOR NO", "WHERE s.id = p_id AND s.ended_at IS NULL\n     FOR NO"),
    "hold": ("WHERE s.id = p_id AND s.nonce = p_nonce AND s.ended_at IS NULL\n     FOR KEY", "WHERE s.id = p_id AND s.ended_at IS NULL\n     FOR KEY"),
    "end": ("WHERE s.id = p_id AND s.nonce = p_nonce AND s.ended_at IS NULL FOR", "WHERE s.id = p_id AND s.ended_at IS NULL FOR"),
}  # fmt: skip
NONCE_IS_NOT_READ = (
    fault("the nonce is not read", SESSIONS, NO_NONCE["bump"], NO_NONCE["hold"]),
    fault("the nonce is not read in end_session", TASKS, NO_NONCE["end"]),
)


@pytest.mark.parametrize("verb", VERBS)
@seen_to_fail(NONCE_IS_NOT_READ)
async def test_t3_who_knows_the_id_and_not_the_nonce_changes_nothing(lab, verb):
    await lab.add(3)
    runner = await lab.runner()
    claims = (await runner.get_work(2)).claims
    stranger = replace(await lab.again(runner), nonce=uuid4())
    before = await lab.everything()
    if verb == "end":
        refused = await stranger.end(claims) is False
    else:
        refused = await sqlstate(_call(stranger, verb, claims)) == NOT_LIVE
    assert refused is lab.shipped
    assert (await lab.everything() == before) is lab.shipped


@pytest.mark.parametrize("forgery", ["another's id", "no such id", "no nonce", "ended"])
async def test_t3_a_forged_session_changes_nothing(lab, forgery):
    await lab.add(3)
    runner, stranger = await lab.runner(), await lab.runner()
    claims = (await runner.get_work(2)).claims
    forged = {
        "another's id": replace(stranger, id=runner.id),
        "no such id": replace(stranger, id=stranger.id + 1000),
        "no nonce": replace(stranger, id=runner.id, nonce=None),
        "ended": stranger,
    }[forgery]
    if forgery == "ended":
        assert await stranger.end()
    before = await lab.everything()
    for verb in VERBS:
        if verb == "end":
            assert await forged.end(claims) is False
        else:
            assert await sqlstate(_call(forged, verb, claims)) == NOT_LIVE
    assert await lab.everything() == before


@pytest.mark.parametrize(
    "forgery", ["token too low", "token too high", "no token", "another's task", "no such task"]
)
async def test_t3_a_forged_claim_changes_nothing(lab, forgery):
    await lab.add(3)
    other, runner = await lab.runner(), await lab.runner()
    [theirs] = (await other.get_work(1)).claims.items()
    [mine] = (await runner.get_work(1)).claims.items()
    key, token = {
        "token too low": (mine[0], mine[1] - 1),
        "token too high": (mine[0], mine[1] + 1),
        "no token": (mine[0], None),
        "another's task": theirs,
        "no such task": (1000, 1),
    }[forgery]
    rows = await lab.admin.fetch("SELECT * FROM public.email ORDER BY id")
    refused = {key: "unknown" if forgery == "no such task" else "lost"}
    assert await runner.finish({key: token}) == refused
    assert await runner.release({key: token}, discard=True) == refused
    assert (await runner.get_work(0, held=[mine[0]], finished={key: token})).outcomes == refused
    assert await sqlstate(runner.finish_in({key: token})) == NOT_HELD
    if key != mine[0]:
        assert await sqlstate(runner.finish_in(dict([mine, (key, token)]))) == NOT_HELD  # all or nothing
    assert await runner.end({key: token}) is True
    assert await lab.admin.fetch("SELECT * FROM public.email ORDER BY id") == rows


def _call(actor, verb, claims):
    match verb:
        case "bump":
            return actor.bump(ttl=1000)
        case "get_work":
            return actor.get_work(finished=claims)
        case _:
            return getattr(actor, verb)(claims)


# Ending a session: R3, R6, R8, R9 ------------------------------------------------------------------

LEASE_TEST_IN_A_SUBSELECT = fault(
    "finish_in tests the lease in a sub-select", TASKS,
    (
        "SELECT h.expires_at, h.at INTO my.expires, my.clock FROM session_lock.hold_session(p_id, p_nonce) AS h;",
        "SELECT s.expires_at, session_lock.clock() INTO my.expires, my.clock FROM session_lock.session AS s WHERE s.id = p_id;",
    ),
    (
        "     WHERE t.__key__ = ANY ((SELECT my.keys)::__key_type__[])\n     ORDER BY t.__key__\n       FOR NO KEY UPDATE\n  )",
        ("     WHERE t.__key__ = ANY ((SELECT my.keys)::__key_type__[])\n"
        "       AND EXISTS (SELECT FROM session_lock.session AS s WHERE s.id = p_id AND s.nonce = p_nonce\n"
        "                      AND s.ended_at IS NULL AND s.expires_at > session_lock.clock())\n"
        "     ORDER BY t.__key__\n       FOR NO KEY UPDATE\n  )"),
    ),
)  # fmt: skip


@pytest.mark.fault("D14")
@seen_to_fail(LEASE_TEST_IN_A_SUBSELECT)
async def test_r3_a_session_does_not_end_beneath_a_finish_that_waits_for_a_row(lab):
    [key] = await lab.add(1)
    runner = await lab.runner()
    claims = (await runner.get_work()).claims
    second = await lab.again(runner)
    locker = lab.admin.transaction()
    await locker.start()
    await lab.admin.execute("SELECT FROM public.email FOR UPDATE")
    waits, finish = await lab.begin(runner, sqlstate(runner.finish_in(claims)))
    assert waits
    end_waits, end = await lab.begin(second, second.end())
    assert end_waits is lab.shipped
    ended_before_the_finish = end.done() and await end
    await locker.rollback()
    assert await finish is None
    assert await end is True
    assert (await lab.row(key))["sent_at"] is not None
    assert ended_before_the_finish is not lab.shipped


@seen_to_fail(
    fault("sessions are held FOR SHARE", SESSIONS, ("     FOR KEY SHARE;", "     FOR SHARE;")),
    fault("sessions are held FOR UPDATE", SESSIONS, ("     FOR KEY SHARE;", "     FOR UPDATE;")),
)
async def test_r6_an_open_finish_does_not_keep_the_keepalive_waiting(lab):
    await lab.add(1)
    runner = await lab.runner()
    keepalive = await lab.again(runner)
    claims = (await runner.get_work()).claims
    async with runner.connection.transaction():
        await runner.finish_in(claims)
        waits, bump = await lab.begin(keepalive, keepalive.bump())
        assert waits is not lab.shipped
    assert (await bump)["left"] > 29


@pytest.mark.fault("D31")
@seen_to_fail(
    (
        fault(
            "sessions are not locked by their calls",
            SESSIONS,
            ("s.ended_at IS NULL\n     FOR KEY SHARE;", "s.ended_at IS NULL;"),
        ),
    ),
    fault(
        "who ends an expired session takes a weak lock",
        SESSIONS,
        ("FOR UPDATE SKIP LOCKED", "FOR NO KEY UPDATE SKIP LOCKED"),
    ),
    fault("who ends an expired session takes no lock", SESSIONS, ("         FOR UPDATE SKIP LOCKED\n", "")),
)
async def test_r9_an_expired_session_is_not_ended_beneath_its_open_finish(lab):
    await lab.own_clock()
    [key] = await lab.add(1)
    runner, other = await lab.runner(ttl=30), await lab.runner(ttl=300)
    claims = (await runner.get_work()).claims
    async with runner.connection.transaction():
        await runner.finish_in(claims)
        await lab.advance(31)
        waits, work = await lab.begin(other, other.get_work())
        assert not waits
        assert (await work).keys == []
        assert ((await lab.session(runner))["ended_at"] is None) is lab.shipped
    assert (await lab.row(key))["sent_at"] is not None
    await other.get_work()
    assert (await lab.session(runner))["ended_at"] is not None


@seen_to_fail(
    fault(
        "end_session does not lock its row", TASKS, ("s.ended_at IS NULL FOR UPDATE;", "s.ended_at IS NULL;")
    )
)
async def test_r9_a_session_that_ends_itself_waits_for_its_open_finish(lab):
    [key] = await lab.add(1)
    runner = await lab.runner()
    second = await lab.again(runner)
    claims = (await runner.get_work()).claims
    async with runner.connection.transaction():
        await runner.finish_in(claims)
        waits, end = await lab.begin(second, second.end(claims))
        assert waits is lab.shipped
    assert await end is True
    assert (await lab.row(key))["sent_at"] is not None


END_AND_FREE_AT_ONCE = (
    (
        "       ORDER BY s.id LIMIT 100\n         FOR UPDATE SKIP LOCKED\n    )\n"
        "    UPDATE session_lock.session AS s SET ended_at = p_now FROM expired WHERE s.id = expired.id;"
    ),
    (
        "       ORDER BY s.id LIMIT 100\n         FOR UPDATE\n    ), ended AS (\n"
        "      UPDATE session_lock.session AS s SET ended_at = p_now, swept_at = p_now FROM expired WHERE s.id = expired.id RETURNING s.id\n"
        "    )\n"
        "    UPDATE public.email AS t SET session_id = NULL FROM ended WHERE t.session_id = ended.id;"
    ),
)
SWEPT_FOR_EVER = ("SET swept_at = NULL FROM back", "SET swept_at = s.swept_at FROM back")


@pytest.mark.fault("D31")
@seen_to_fail(fault("ended and freed in one statement", SESSIONS, END_AND_FREE_AT_ONCE, SWEPT_FOR_EVER))
async def test_r8_a_claim_that_commits_late_is_found_after_its_session_has_ended(lab):
    await lab.own_clock()
    keys = await lab.add(2)
    runner, other = await lab.runner(ttl=30), await lab.runner(ttl=300)
    claim = runner.connection.transaction()
    await claim.start()
    assert (await runner.get_work()).keys == keys
    await lab.advance(31)
    waits, work = await lab.begin(other, other.get_work())
    assert waits is not lab.shipped  # the mutant waits here with a snapshot that does not show the two claims
    await claim.commit()
    assert (await work).keys == []
    found = await found_by(other, calls=3)
    assert (found == keys) is lab.shipped


@pytest.mark.fault("D31")
@seen_to_fail(
    fault(
        "ended without a lock, and swept for ever",
        SESSIONS,
        ("         FOR UPDATE SKIP LOCKED\n", ""),
        SWEPT_FOR_EVER,
    )
)
async def test_r8_nor_is_it_lost_to_an_early_sweep(lab):
    await lab.own_clock()
    runner, other = await lab.runner(ttl=30), await lab.runner(ttl=300)
    for _ in range(2):  # that it is idle is noted, so the look below writes nothing into the session's row
        await runner.get_work()
    keys = await lab.add(2)
    async with runner.connection.transaction():
        assert (await runner.get_work()).keys == keys
        await lab.advance(31)
        assert (await other.get_work()).keys == []
    found = await found_by(other, calls=3)
    assert (found == keys) is lab.shipped


async def test_end_session_gives_back_what_it_knows_and_frees_what_it_does_not(lab):
    known, unknown, locked, free = await lab.add(4)
    runner, other = await lab.runner(), await lab.runner()
    claims = (await runner.get_work(3)).claims
    async with lab.admin.transaction():
        await lab.admin.execute("SELECT FROM public.email WHERE id = $1 FOR UPDATE", locked)
        waits, end = await lab.begin(runner, runner.end({key: claims[key] for key in (known, locked)}))
        assert not waits
        assert await end is True
        work = await other.get_work()
        assert (work.keys, list(work.attempts.values())) == ([known, unknown, free], [1, 2, 1])
    assert (await other.get_work(held=work.keys)).keys == [locked]
    assert await runner.end() is False


# Theft, and what heals -----------------------------------------------------------------------------

NOT_AMONG_THE_LIVE = fault(
    "claimable is what none of the live ones holds", TASKS,
    ("OR t.__session_id__ = ANY (my.ended)\n", "OR (t.__session_id__ <> ALL (my.sharing) AND t.__session_id__ <> my.id)\n"),
)  # fmt: skip


@pytest.mark.fault("D31")
@seen_to_fail(NOT_AMONG_THE_LIVE)
async def test_a_session_that_started_after_the_sessions_were_read_is_not_robbed(lab):
    [key] = await lab.add(1)
    robber = await lab.runner()
    async with lab.admin.transaction():
        # The lock stops get_work between its reading of the sessions and its claim.
        await lab.admin.execute("LOCK TABLE public.email IN ACCESS EXCLUSIVE MODE")
        waits, work = await lab.begin(robber, robber.get_work())
        assert waits
        newcomer = await lab.start_session(lab.admin)
        assert (await newcomer.get_work()).keys == [key]
    assert ((await work).keys == []) is lab.shipped
    assert ((await lab.row(key))["session_id"] == newcomer.id) is lab.shipped


@seen_to_fail(
    fault(
        "a session does not find what it does not know",
        TASKS,
        ("\n                  OR (t.__session_id__ = my.id AND t.__key__ <> ALL (my.held)))", ")"),
    )  # fmt: skip
)
async def test_a_claim_that_commits_after_its_caller_gave_up_heals_at_the_next_get_work(lab):
    keys = await lab.add(2)
    runner, other = await lab.runner(), await lab.runner()
    second = await lab.again(runner)
    async with runner.connection.transaction():
        late = await runner.get_work()  # the caller never sees this
        assert late.keys == keys
        assert (await second.get_work()).keys == []  # it asks again too early: the rows are still locked
    assert (await other.get_work()).keys == []
    healed = await second.get_work()
    assert (healed.claims == dict.fromkeys(keys, 2)) is lab.shipped
    if lab.shipped:
        assert await second.finish(late.claims) == dict.fromkeys(keys, "lost")
        assert await second.finish(healed.claims) == dict.fromkeys(keys, "finished")


@seen_to_fail(fault("a session is given what it holds", TASKS, (" AND t.__key__ <> ALL (my.held)))", "))")))
async def test_d4_what_a_session_says_it_holds_is_not_given_again(lab):
    first, second = await lab.add(2)
    runner = await lab.runner()
    assert (await runner.get_work(1)).keys == [first]
    assert ((await runner.get_work(held=[first])).keys == [second]) is lab.shipped


@pytest.mark.fault("D13")
@seen_to_fail(
    fault(
        "a claim waits for locked rows",
        TASKS,
        (
            "           LIMIT my.want\n             FOR NO KEY UPDATE SKIP LOCKED",
            "           LIMIT my.want\n             FOR NO KEY UPDATE",
        ),
    )  # fmt: skip
)
async def test_a_task_that_somebody_has_locked_while_its_session_is_dead_stops_nothing(lab):
    await lab.own_clock()
    locked, *others = keys = await lab.add(3)
    runner, other = await lab.runner(ttl=30), await lab.runner(ttl=300)
    assert (await runner.get_work()).keys == keys
    await lab.advance(31)
    async with lab.admin.transaction():
        await lab.admin.execute("SELECT FROM public.email WHERE id = $1 FOR UPDATE", locked)
        waits, work = await lab.begin(other, other.get_work())
        assert waits is not lab.shipped
        if lab.shipped:
            assert (await work).keys == others
            assert (await lab.session(runner))["swept_at"] is None  # a task names it still
    if lab.shipped:
        assert (await other.get_work(held=others)).keys == [locked]
    else:
        await work


SWEPT_UNSEEN = (" AND s.id <> ALL (p_named) AND s.swept_at IS NULL", " AND s.swept_at IS NULL")


@seen_to_fail(fault("swept although a task names it, and for ever", SESSIONS, SWEPT_UNSEEN, SWEPT_FOR_EVER))
async def test_an_ended_session_leaves_the_list_when_a_full_walk_finds_none_of_its_tasks(lab):
    first, second = await lab.add(2)
    runner, other = await lab.runner(), await lab.runner()
    await runner.get_work()
    assert await runner.end()
    async with lab.admin.transaction():
        await lab.admin.execute("SELECT FROM public.email WHERE id = $1 FOR UPDATE", second)
        await other.get_work(1)  # no full walk: there was no room for more
        assert (await lab.session(runner))["swept_at"] is None
        await other.get_work(held=[first])  # a full walk that cannot take the last of its tasks
        assert ((await lab.session(runner))["swept_at"] is None) is lab.shipped
    assert ((await other.get_work(held=[first])).keys == [second]) is lab.shipped
    await other.get_work(held=[first, second])
    assert (await lab.session(runner))["swept_at"] is not None


@pytest.mark.fault("D22")
@seen_to_fail(
    fault(
        "finish keeps the session",
        TASKS,
        ("SET __session_id__ = NULL, __finish__ = DEFAULT", "SET __finish__ = DEFAULT"),
        everywhere=True,
    )
)
@pytest.mark.parametrize("verb", ["finish", "finish_in"])
async def test_a_finished_row_that_is_opened_again_by_hand_is_claimable_at_once(lab, verb):
    [key] = await lab.add(1)
    runner, other = await lab.runner(), await lab.runner()
    await getattr(runner, verb)((await runner.get_work()).claims)
    await lab.admin.execute("UPDATE public.email SET sent_at = NULL")
    assert ((await other.get_work()).claims == {key: 2}) is lab.shipped


async def swept_beside_what_is_closed(lab) -> tuple[Actor, Actor]:
    """A session whose tasks were all closed by hand, so that they still name it when it is swept; and the other, which has done that."""
    await lab.own_clock()
    runner, other = await lab.runner(ttl=30), await lab.runner(ttl=300)
    await runner.get_work()
    await lab.advance(31)
    await lab.admin.execute("UPDATE public.email SET sent_at = now()")
    assert (await other.get_work()).keys == []
    assert (await lab.session(runner))["swept_at"] is not None
    return runner, other


@pytest.mark.fault("D22")
@seen_to_fail(fault("a swept session never comes back", SESSIONS, SWEPT_FOR_EVER))
async def test_a_row_that_was_closed_by_hand_when_its_session_was_swept_is_found_when_opened_again(lab):
    [key] = await lab.add(1)
    _, other = await swept_beside_what_is_closed(lab)
    await lab.admin.execute("UPDATE public.email SET sent_at = NULL")
    found = await found_by(other, calls=2)  # the first call puts it on the list again
    assert (found == [key]) is lab.shipped


@pytest.mark.fault("D23")
@seen_to_fail(
    fault(
        "rows of sessions that are gone are left",
        TASKS,
        ("IF cardinality(my.gone) > 0 THEN", "IF false THEN"),
        everywhere=True,
    )
)
async def test_d14_tasks_of_a_session_whose_row_was_deleted_are_found(lab):
    keys = await lab.add(2)
    runner, other = await lab.runner(), await lab.runner()
    await runner.get_work()
    await lab.admin.execute("DELETE FROM session_lock.session WHERE id = $1", runner.id)
    assert await sqlstate(runner.bump()) == NOT_LIVE
    found = await found_by(other, calls=2)  # the first call clears them
    assert (found == keys) is lab.shipped


@pytest.mark.fault("D22")
@pytest.mark.fault("D23")
@seen_to_fail(
    fault(
        "under a backlog nobody asks whom tasks name",
        TASKS,
        (
            "ELSIF my.want > 0 AND my.from_start THEN\n    SELECT array_agg",
            "ELSIF false THEN\n    SELECT array_agg",
        ),
    )
)
@pytest.mark.parametrize("deleted", [False, True])
async def test_under_a_backlog_a_row_that_is_opened_again_does_not_wait_for_all_others(lab, deleted):
    key, closed, later = await lab.add(3)
    runner, other = await swept_beside_what_is_closed(lab)
    if deleted:
        await lab.admin.execute("DELETE FROM session_lock.session WHERE id = $1", runner.id)
    await lab.admin.execute(
        f"UPDATE public.email SET sent_at = NULL, available_at = now() + '1 hour' WHERE id = {later}"
    )
    held: list[int] = []
    if deleted:
        await other.connection.execute("SET enable_indexscan = off; SET enable_bitmapscan = off")

    async def look() -> None:
        waits, work = await lab.begin(other, other.get_work(1, held=held))
        assert not waits
        held.extend((await work).keys)

    await lab.add(10)
    await look()
    far = (await lab.add(150))[-1]
    await lab.admin.execute("UPDATE public.email SET session_id = $1 WHERE id = $2", runner.id, far)
    await look()
    # What is closed, not due, or far behind is nobody's business yet.
    unasked = [closed, later, far]
    assert deleted or (await lab.session(runner))["swept_at"] is not None
    assert [(await lab.row(each))["session_id"] for each in unasked] == [runner.id] * 3
    await lab.admin.execute(f"UPDATE public.email SET sent_at = NULL WHERE id = {key}")
    if deleted:  # it is the first in the order, and the last in the table
        await lab.admin.execute(
            "WITH it AS (DELETE FROM public.email WHERE id = $1 RETURNING *) INSERT INTO public.email OVERRIDING SYSTEM VALUE SELECT * FROM it",
            key,
        )
    async with lab.admin.transaction():
        await lab.admin.execute("SELECT FROM public.email WHERE id = $1 FOR SHARE", key)
        await look()
    await look()  # puts it on the list again, or clears the row
    await look()
    assert (key in held) is lab.shipped
    assert [(await lab.row(each))["session_id"] for each in unasked] == [runner.id] * 3


@pytest.mark.fault("D22")
async def test_a_row_that_its_application_closed_is_lost_and_free_when_opened_again(lab):
    [key] = await lab.add(1)
    runner, other = await lab.runner(), await lab.runner()
    claims = (await runner.get_work()).claims
    await lab.admin.execute("UPDATE public.email SET failed_at = now()")
    assert await runner.finish(claims) == {key: "lost"}
    row = await lab.row(key)
    assert (row["session_id"], row["claim_token"], row["sent_at"]) == (None, 1, None)
    await lab.admin.execute("UPDATE public.email SET failed_at = NULL")
    assert (await other.get_work()).keys == [key]


CLOSED_IS_HELD = fault(
    "finish_in does not ask whether the row is pending", TASKS,
    ("   WHERE task.holder = p_id AND task.pending;", "   WHERE task.holder = p_id;"),
)  # fmt: skip


@seen_to_fail(CLOSED_IS_HELD)
async def test_a_row_that_its_application_closes_while_finish_in_waits_for_it_is_not_finished(lab):
    [key] = await lab.add(1)
    runner = await lab.runner()
    claims = (await runner.get_work()).claims
    async with lab.admin.transaction():
        await lab.admin.execute("UPDATE public.email SET failed_at = now()")
        waits, finish = await lab.begin(runner, sqlstate(runner.finish_in(claims)))
        assert waits
    assert (await finish == NOT_HELD) is lab.shipped
    assert ((await lab.row(key))["sent_at"] is None) is lab.shipped


# Tokens and outcomes -------------------------------------------------------------------------------


@seen_to_fail(
    fault(
        "finish clears the token",
        TASKS,
        (
            "SET __session_id__ = NULL, __finish__ = DEFAULT",
            "SET __session_id__ = NULL, __claim_token__ = NULL, __finish__ = DEFAULT",
        ),
        everywhere=True,
    )  # fmt: skip
)
async def test_a_token_is_never_used_twice(lab):
    await lab.own_clock()
    [key] = await lab.add(1)
    runner = await lab.runner(ttl=30)
    tokens = []

    async def claim(actor):
        claims = (await actor.get_work()).claims
        tokens.append(claims[key])
        return claims

    await runner.finish(await claim(runner))
    await lab.admin.execute("UPDATE public.email SET sent_at = NULL")
    await runner.release(await claim(runner))
    await runner.release(await claim(runner), discard=True)
    await lab.admin.execute("UPDATE public.email SET failed_at = NULL")
    await claim(runner)
    await lab.advance(31)
    other = await lab.runner()
    await other.end(await claim(other))
    last = await lab.runner()
    async with last.connection.transaction():
        await last.finish_in(await claim(last))
    await lab.admin.execute("UPDATE public.email SET sent_at = NULL")
    await claim(last)
    assert (tokens == [1, 2, 3, 4, 5, 6, 7]) is lab.shipped


async def test_the_same_claim_twice_in_one_call_is_one_claim(lab):
    keys = await lab.add(3)
    runner = await lab.runner()
    await runner.get_work()

    async def twice(verb, key, more=""):
        call = f"session_lock.{verb}_{lab.functions}({runner.id}, '{runner.nonce}', '{{{key},{key}}}', '{{1,1}}'{more})"
        return {
            row["outcome"]
            for row in await runner.connection.fetch(f"SELECT * FROM {call} AS c (key, outcome)")
        }

    assert await twice("finish_tasks", keys[0]) == {"finished"}
    assert await twice(
        "release_tasks", keys[1], ", '{NULL,NULL}', '{t,t}', '{t,t}', '{NULL,NULL}', false"
    ) == {"discarded"}
    await runner.execute(
        f"SELECT session_lock.finish_in_{lab.functions}({runner.id}, '{runner.nonce}', '{{{keys[2]},{keys[2]}}}', '{{1,1}}')"
    )
    assert (await lab.row(keys[2]))["sent_at"] is not None


async def test_every_outcome_is_told_once_and_again(lab):
    finished, other_s, reclosed, locked = await lab.add(4)
    runner, other = await lab.runner(), await lab.runner()
    claims = (await runner.get_work(4)).claims
    await runner.release({other_s: claims[other_s]})
    assert (await other.get_work()).keys == [other_s]
    await lab.admin.execute("UPDATE public.email SET failed_at = now() WHERE id = $1", reclosed)
    asked = {**claims, 1000: 1}
    async with lab.admin.transaction():
        await lab.admin.execute("SELECT FROM public.email WHERE id = $1 FOR UPDATE", locked)
        waits, finish = await lab.begin(runner, runner.finish(asked))
        assert not waits
        assert await finish == {
            finished: "finished",
            other_s: "lost",
            reclosed: "lost",
            locked: "locked",
            1000: "unknown",
        }
    again = {
        finished: "already yours",
        other_s: "lost",
        reclosed: "already yours",
        locked: "finished",
        1000: "unknown",
    }
    assert await runner.finish(asked) | {reclosed: "already yours"} == again
    assert await runner.finish(asked) | {reclosed: "already yours"} == again | {locked: "already yours"}


@pytest.mark.parametrize("verb", ["finish", "finish_in", "get_work"])
async def test_a_row_that_a_check_refuses_fails_the_whole_call_and_changes_nothing(lab, verb):
    """Which row it was is found by halving, which is Python's."""
    keys = await lab.add(100)
    await lab.admin.execute("UPDATE public.email SET address = 'forbidden' WHERE id = $1", keys[57])
    runner = await lab.runner()
    claims = (await runner.get_work(99)).claims
    before = await lab.everything()
    call = (
        runner.get_work(1, held=[], finished=claims) if verb == "get_work" else getattr(runner, verb)(claims)
    )
    assert await sqlstate(call) == "23514"
    assert await lab.everything() == before
    del claims[keys[57]]
    assert set((await runner.finish(claims)).values()) == {"finished"}


LEAVES_PENDING = "IF my.pending > 0 OR my.updated < cardinality(my.held) THEN"


@seen_to_fail(
    fault(
        "finish does not look at what it left",
        TASKS,
        (LEAVES_PENDING, "IF false THEN"),
        (
            "IF my.pending > 0 OR my.held < (SELECT count(DISTINCT k) FROM unnest(p_keys) AS k) THEN",
            "IF false THEN",
        ),
    )  # fmt: skip
)
@pytest.mark.parametrize("verb", ["finish", "finish_in"])
@pytest.mark.parametrize("trigger", ["new.sent_at := NULL; RETURN new", "RETURN NULL"])
async def test_a_finish_that_leaves_its_row_pending_is_refused(lab, verb, trigger):
    await lab.add(1)
    runner = await lab.runner()
    claims = (await runner.get_work()).claims
    await lab.admin.execute(
        f"""
        CREATE FUNCTION public.meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {trigger}; END $$;
        CREATE TRIGGER meddle BEFORE UPDATE ON public.email FOR EACH ROW EXECUTE FUNCTION public.meddle();
        """
    )
    before = await lab.everything()
    refused = await sqlstate(getattr(runner, verb)(claims)) == LEFT_PENDING
    assert refused is lab.shipped
    if lab.shipped:
        assert await lab.everything() == before


# Claims beside each other: D15 ---------------------------------------------------------------------


LOCKED_ROWS_PASSED = "           LIMIT my.want\n             FOR NO KEY UPDATE SKIP LOCKED\n"


@seen_to_fail(
    fault("a claim does not lock what it takes", TASKS, (LOCKED_ROWS_PASSED, "           LIMIT my.want\n"))
)
async def test_two_that_claim_at_once_get_no_row_twice(lab):
    keys = await lab.add(6)
    first, second = await lab.runner(), await lab.runner()
    async with first.connection.transaction():
        mine = (await first.get_work(3)).keys
        _, work = await lab.begin(second, second.get_work(3))
    theirs = (await work).keys
    assert ((mine, theirs) == (keys[:3], keys[3:])) is lab.shipped


@seen_to_fail(
    fault(
        "a claim waits for the claims of others", TASKS,
        (LOCKED_ROWS_PASSED, LOCKED_ROWS_PASSED.replace(" SKIP LOCKED", "")),
    )
)  # fmt: skip
async def test_two_that_claim_at_once_do_not_wait_for_each_other(lab):
    keys = await lab.add(6)
    first, second = await lab.runner(), await lab.runner()
    async with first.connection.transaction():
        assert (await first.get_work(3)).keys == keys[:3]
        waits, work = await lab.begin(second, second.get_work(3))
        assert waits is not lab.shipped
    assert (await work).keys == keys[3:]


SUBSELECT_IN_THE_UPDATE = fault(
    "the claim is one UPDATE over a sub-select", TASKS,
    ("    my.keys := ARRAY(\n      -- for each part of the order\n      SELECT task.key\n        FROM (\n",
     "    WITH claimed AS (UPDATE __table__ AS o SET __session_id__ = my.id WHERE o.__key__ IN (\n"),
    ("        ) AS task\n      -- as far as here\n       LIMIT my.want\n    );\n",
     "    ) RETURNING o.__key__ AS key) SELECT array_agg(c.key) INTO my.keys FROM claimed AS c;\n"),
)  # fmt: skip


@pytest.mark.fault("D15")
@seen_to_fail(SUBSELECT_IN_THE_UPDATE)
async def test_d15_the_limit_is_kept_whatever_the_plan_and_whoever_updates_the_rows(lab):
    keys = await lab.add(9)
    runner = await lab.runner()
    # What is left is a nested loop that runs the sub-select again for each row, with the index for its order.
    for node in ("hashjoin", "mergejoin", "material", "memoize", "hashagg", "sort"):
        await runner.execute(f"SET enable_{node} = off")
    async with lab.admin.transaction():
        await lab.admin.execute("UPDATE public.email SET body = 'new' WHERE id = ANY ($1)", keys[:2])
        claimed = (await runner.get_work(3)).keys
    assert (claimed == keys[2:5]) is lab.shipped
    held = await lab.admin.fetchval("SELECT count(*) FROM public.email WHERE session_id = $1", runner.id)
    assert (held == 3) is lab.shipped
    if lab.shipped:
        assert (await runner.get_work(3, held=claimed)).keys == [*keys[:2], keys[5]]


async def test_many_at_once_share_out_every_row_once(lab):
    keys = await lab.add(300)
    runners = [await lab.runner(capacity=1000) for _ in range(6)]
    got: list[int] = []

    async def drain(runner):
        held: list[int] = []
        while work := (await runner.get_work(7, held=held)).keys:
            held += work
        got.extend(held)

    await asyncio.gather(*[drain(runner) for runner in runners])
    assert sorted(got) == keys


async def test_get_work_keeps_to_the_capacity(lab):
    keys = await lab.add(5)
    runner = await lab.runner(capacity=3)
    assert (await runner.get_work(2)).keys == keys[:2]
    assert (await runner.get_work(2, held=keys[:2])).keys == keys[2:3]
    assert (await runner.get_work(2, held=keys[:3])).keys == []


# Frozen clients ------------------------------------------------------------------------------------


@pytest.mark.fault("D11")
@seen_to_fail(
    fault(
        "a finishing transaction has no limit",
        TASKS,
        ("  PERFORM session_lock.limit_transaction(my.expires - my.clock);\n", ""),
    )
)
async def test_a_client_that_freezes_in_its_finishing_transaction_loses_it_with_its_lease(lab):
    [key] = await lab.add(1)
    runner, other = await lab.runner(ttl=0.8), await lab.runner(ttl=300)
    claims = (await runner.get_work()).claims
    await runner.execute("BEGIN")
    await runner.finish_in(claims)  # and silence
    over = "clock_timestamp() > (SELECT expires_at + interval '0.3 seconds' FROM session_lock.session WHERE id = $1)"
    there = "EXISTS (SELECT FROM pg_stat_activity WHERE pid = $2)"
    until = f"NOT {there}" if lab.shipped else over
    while not await lab.admin.fetchval(
        f"SELECT {until}, {over}, {there}, pg_sleep(0.01)", runner.id, runner.pid
    ):
        pass
    assert (
        await lab.admin.fetchval(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", runner.pid
        )
        is lab.shipped
    )
    assert ((await other.get_work()).claims == {key: 2}) is lab.shipped


async def test_a_limit_of_the_user_s_that_is_shorter_stays(lab):
    await lab.add(1)
    runner = await lab.runner(ttl=30)
    claims = (await runner.get_work()).claims
    show = "SELECT current_setting('idle_in_transaction_session_timeout')"
    async with runner.connection.transaction():
        await runner.execute("SET LOCAL idle_in_transaction_session_timeout = '5s'")
        await runner.finish_in({})
        assert await runner.connection.fetchval(show) == "5s"
        await runner.execute("SET LOCAL idle_in_transaction_session_timeout = '5min'")
        await runner.finish_in(claims)
        assert await runner.connection.fetchval(f"{show}::interval BETWEEN '29 seconds' AND '30 seconds'")
    assert await runner.connection.fetchval(show) == "0"  # LOCAL: gone with the transaction


# Isolation: D16, D31 -------------------------------------------------------------------------------


@pytest.mark.fault("D16")
@seen_to_fail(
    fault(
        "get_work takes any isolation",
        TASKS,
        ("IF current_setting('transaction_isolation') <> 'read committed' THEN", "IF false THEN"),
    )
)
@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_d16_get_work_refuses_an_isolation_under_which_it_would_not_be_sound(lab, isolation):
    await lab.add(1)
    runner = await lab.runner()
    async with runner.connection.transaction(isolation=isolation):
        assert (await sqlstate(runner.connection.fetch("SELECT 1")) is None) is True
        refused = False
        try:
            async with runner.connection.transaction():
                await runner.get_work()
        except asyncpg.InvalidTransactionStateError as error:
            refused = "needs READ COMMITTED" in str(error)
    assert refused is lab.shipped


@pytest.mark.fault("D16")
@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_finish_in_works_under_any_isolation_or_fails_cleanly(lab, isolation):
    first, second = await lab.add(2)
    runner = await lab.runner()
    claims = (await runner.get_work()).claims
    async with runner.connection.transaction(isolation=isolation):
        await runner.finish_in({first: claims[first]})
    assert (await lab.row(first))["sent_at"] is not None

    # A row that was claimed again after the snapshot: refused by the server, since it cannot show the new claim.
    keepalive = await lab.again(runner)
    attempt = runner.connection.transaction(isolation=isolation)
    await attempt.start()
    await runner.connection.fetch("SELECT 1")
    assert (await keepalive.get_work(held=[first])).claims == {second: 2}
    assert await sqlstate(runner.finish_in({second: claims[second]})) == "40001"
    await attempt.rollback()
    assert (await lab.row(second))["sent_at"] is None


# Rights: T3, T4, T5 --------------------------------------------------------------------------------


async def test_t5_a_role_with_execute_alone_reads_and_writes_no_table(lab):
    runner = await lab.runner()
    for table in ("session_lock.session", "session_lock.failure", "session_lock.pause", "public.email"):
        for statement in ("SELECT * FROM", "SELECT FROM", "DELETE FROM", "TRUNCATE", "INSERT INTO"):
            text = f"{statement} {table}{' DEFAULT VALUES' if statement == 'INSERT INTO' else ''}"
            assert await sqlstate(runner.execute(text)) == "42501", text
        assert await sqlstate(runner.execute(f"SELECT FROM {table} FOR KEY SHARE")) == "42501"


INTERNAL = (
    "hold_session(1, NULL)",
    "sessions_of('email', now())",
    "sweep_sessions('{{1}}', '{{}}', now())",
    "trim_failures('email', '{{1}}')",
    "standing_{functions}(1, '{{1}}', '{{1}}')",
)
GRANTED = (("\nREVOKE ALL ON FUNCTION\n", "\nGRANT ALL ON FUNCTION\n"), (")\nFROM PUBLIC;", ")\nTO PUBLIC;"))


@seen_to_fail(
    (
        fault("internal functions are for everybody", SESSIONS, *GRANTED),
        fault("internal functions are for everybody, here too", TASKS, *GRANTED),
    )
)
async def test_t5_a_role_with_execute_alone_cannot_call_what_is_internal(lab):
    runner = await lab.runner()
    calls = [f"SELECT FROM session_lock.{call.format(functions=lab.functions)}" for call in INTERNAL]
    refused = [await sqlstate(runner.connection.fetch(call)) for call in calls]
    # `standing` is no DEFINER, so without the REVOKE it is the table that refuses.
    assert (refused == ["42501"] * 5) is lab.shipped
    for statement in (
        "CREATE FUNCTION session_lock.evil() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION session_lock.clock() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()'",
        "DROP FUNCTION session_lock.clock()",
        "CREATE TABLE session_lock.evil ()",
    ):
        assert await sqlstate(runner.execute(statement)) == "42501"


PINNED = " SECURITY DEFINER SET search_path = pg_catalog, pg_temp"


@seen_to_fail(fault("no search_path is pinned", SESSIONS, (PINNED, " SECURITY DEFINER"), everywhere=True))
async def test_t4_a_function_of_the_caller_s_own_never_runs_with_our_rights(lab):
    """`make_interval` of the caller's, before the real one in its path: it would run as the owner, here a superuser."""
    await lab.admin.execute("CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO app")
    runner = await lab.runner()
    await runner.execute(
        """
        CREATE TABLE evil.caught (who text);
        GRANT ALL ON evil.caught TO PUBLIC;
        CREATE FUNCTION evil.make_interval(secs double precision) RETURNS interval LANGUAGE plpgsql AS $$
        BEGIN
          INSERT INTO evil.caught VALUES (current_user);
          RETURN pg_catalog.make_interval(secs => secs);
        END $$;
        SET search_path = evil, pg_catalog;
        """
    )
    fresh = await lab.start_session(runner.connection)
    await fresh.bump()
    caught = {row["who"] for row in await lab.admin.fetch("SELECT * FROM evil.caught")}
    assert (caught <= {"app"}) is lab.shipped


@seen_to_fail(
    fault(
        "pg_temp is not last, so it is first",
        TASKS,
        (PINNED, " SECURITY DEFINER SET search_path = pg_catalog"),
        everywhere=True,
    )
)
async def test_t4_nor_does_anything_temporary(lab):
    """A temporary type named `text` and tables named as ours: what is not said to be looked up last is looked up first."""
    [key] = await lab.add(1)
    runner = await lab.runner()
    assert (await runner.get_work()).claims == {key: 1}
    await runner.execute(
        """
        CREATE TEMP TABLE caught (who text);
        GRANT ALL ON pg_temp.caught TO PUBLIC;
        CREATE TEMP TABLE session (id bigint, nonce uuid);
        CREATE TEMP TABLE email (id bigint, session_id bigint, sent_at timestamptz);
        CREATE FUNCTION pg_temp.catch(value pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
          INSERT INTO pg_temp.caught VALUES (current_user);
          RETURN true;
        END $$;
        CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.catch(VALUE));
        """
    )
    await runner.execute(
        f"SELECT session_lock.finish_tasks_{lab.functions}({runner.id}, '{runner.nonce}', '{{{key}}}', '{{1}}')"
    )
    assert (
        await runner.connection.fetchval("SELECT count(*) FROM caught WHERE who <> 'app'") == 0
    ) is lab.shipped
    assert (await lab.row(key))["sent_at"] is not None


# Shares: D16 to D20 --------------------------------------------------------------------------------


def model_of_shares(capacities: list[int], tasks: int) -> list[int]:
    """Largest remainder in whole numbers; ties to the first."""
    total = sum(capacities)
    shares = [tasks * capacity // total for capacity in capacities]
    by_remainder = sorted(range(len(capacities)), key=lambda i: (-(tasks * capacities[i] % total), i))
    for i in by_remainder[: tasks - sum(shares)]:
        shares[i] += 1
    return shares


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    capacities=st.lists(st.integers(1, 12) | st.integers(1, 2**31 - 1), min_size=1, max_size=8),
    tasks=st.integers(0, 60) | st.integers(0, 10**6),
)
async def test_shares_are_those_of_the_model_and_add_up(lab, capacities, tasks):
    ids = list(range(10, 10 + len(capacities)))
    shares = await lab.admin.fetch(
        "SELECT session_lock.share(id, $1, $2, $3) AS share FROM unnest($1::bigint[]) AS id",
        ids,
        capacities,
        tasks,
    )
    assert [row["share"] for row in shares] == model_of_shares(capacities, tasks)
    assert sum(row["share"] for row in shares) == tasks


@pytest.mark.fault("B7")
@pytest.mark.parametrize(
    ("capacities", "tasks", "shares"),
    [
        ([], 5, []), ([7], 5, [5]), ([1, 1, 1], 4, [2, 1, 1]), ([1, 1, 10], 1, [0, 0, 1]), ([1, 2, 1], 2, [1, 1, 0]),
        ([10, 10, 10], 0, [0, 0, 0]), ([3, 1], 4, [3, 1]), ([1, 1], 3, [2, 1]), ([3, 3, 3], 10, [4, 3, 3]),
    ],
)  # fmt: skip
async def test_shares_by_example(lab, capacities, tasks, shares):
    ids = list(range(1, len(capacities) + 1))
    share = "SELECT session_lock.share($1, $2, $3, $4)"
    assert [await lab.admin.fetchval(share, i, ids, capacities, tasks) for i in ids] == shares
    assert await lab.admin.fetchval(share, 1000, ids, capacities, tasks) is None


@pytest.mark.fault("B2")
async def test_d18_four_tasks_on_three_sessions_are_two_one_one(lab):
    keys = await lab.add(4)
    runners = [await lab.runner() for _ in range(3)]
    works = [await runner.get_work(over_share=False) for runner in runners]
    assert [work.keys for work in works] == [keys[:2], keys[2:3], keys[3:]]
    assert [work.share for work in works] == [2, 1, 1]


@seen_to_fail(
    fault(
        "shares by the order of ids alone", SESSIONS, ("ORDER BY remainder DESC, part.id", "ORDER BY part.id")
    )
)
async def test_shares_follow_the_capacities_and_draining_ones_have_none(lab):
    await lab.add(8)
    small, large, draining = await lab.runner(capacity=10), await lab.runner(capacity=60), await lab.runner()
    await draining.bump(draining=True)
    assert (
        (await small.get_work(over_share=False)).share,
        (await large.get_work(over_share=False)).share,
    ) == ((1, 7) if lab.shipped else (2, 6))


async def test_the_share_binds_only_while_work_is_scarce_and_patience_lasts(lab):
    keys = await lab.add(5)
    first, _ = await lab.runner(capacity=3), await lab.runner(capacity=3)
    scarce = await first.get_work(over_share=False)
    assert (scarce.keys, scarce.share) == (keys[:3], 3)
    await first.release(scarce.claims)
    await lab.admin.execute("DELETE FROM public.email WHERE id = $1", keys[4])
    scarce = await first.get_work(over_share=False)
    assert (scarce.keys, scarce.share) == (keys[:2], 2)
    assert (await first.get_work(held=scarce.keys, over_share=False)).keys == []
    assert (await first.get_work(held=scarce.keys, over_share=True)).keys == [keys[2]]


@seen_to_fail(
    fault(
        "sessions of all names share",
        SESSIONS,
        ("WHERE s.name = p_name AND s.swept_at IS NULL;", "WHERE s.swept_at IS NULL;"),
    )
)
async def test_d19_sessions_of_another_mapping_are_not_counted(lab):
    keys = await lab.add(4)
    runner = await lab.runner()
    for _ in range(3):
        await lab.runner(name="letter")
    work = await runner.get_work(over_share=False)
    assert ((work.keys, work.share) == (keys, None)) is lab.shipped


# The position and the plan -------------------------------------------------------------------------


@pytest.mark.fault("D24")
@seen_to_fail(
    fault(
        "a position is of no account",
        TASKS,
        (
            "AND __from_position__ AND __until_position__\n           ORDER",
            "AND __until_position__\n           ORDER",
        ),
    )
)
async def test_rows_before_the_position_are_left_to_a_look_from_the_start(lab):
    keys = await lab.add(6)
    runner = await lab.runner()
    await runner.get_work(2)
    later = await runner.get_work(2, held=keys[:2])
    assert later.keys == keys[2:4]
    await lab.admin.execute("UPDATE public.email SET session_id = NULL WHERE id = $1", keys[0])
    held = keys[1:4]
    near = await runner.get_work(2, held=held, position=later.position)
    assert (near.keys == keys[4:]) is lab.shipped
    if lab.shipped:
        held += near.keys
        assert (await runner.get_work(2, held=held, position=near.position)).keys == []
        assert (await runner.get_work(2, held=held)).keys == keys[:1]


NO_INDEX = fault(
    "the index is for other rows",
    "tasks.index.sql",
    ("WHERE (__pending__)", "WHERE (__pending__) IS NOT TRUE"),
)
CLOCK_IN_THE_CONDITION = fault(
    "the clock is read in the condition", TASKS,
    ("my.clock\n             AND (t.__session_id__ IS NULL OR t.__session_id__ = ANY (my.ended)",
     "session_lock.clock()\n             AND (t.__session_id__ IS NULL OR t.__session_id__ = ANY (my.ended)"),
)  # fmt: skip


@pytest.mark.fault("D27")
@seen_to_fail(NO_INDEX, CLOCK_IN_THE_CONDITION)
async def test_a_claim_walks_the_partial_index_and_no_further_than_what_is_due(lab):
    await lab.admin.execute(
        """
        INSERT INTO public.email (address, sent_at, available_at)
        SELECT 'a', CASE WHEN g % 2 = 0 THEN now() END, now() + make_interval(secs => g - 1000)
          FROM generate_series(1, 20000) AS g;
        ANALYZE public.email;
        """
    )
    told: list[str] = []
    lab.admin.add_log_listener(lambda _, message: told.append(message.message))
    await lab.admin.execute(
        "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on;"
        "SET auto_explain.log_level = notice; SET plan_cache_mode = force_generic_plan; SET client_min_messages = notice"
    )
    runner = await lab.start_session(lab.admin)
    assert len((await runner.get_work(10)).keys) == 10
    [plan] = [
        text
        for text in told
        if "ANY (my.ended)" in text or "my.ended" in text.split("Query Text:")[-1].split("Limit")[0]
    ]
    [asking] = [text for text in told if "task.holder <> ALL (my.sharing)" in text]
    index = f"Index Scan using pending_{lab.functions} on email"
    assert (index in asking and "Seq Scan" not in asking) is (lab.shipped or index in plan)
    condition = next((line for line in plan.splitlines() if "Index Cond:" in line), "")
    assert (index in plan and "Seq Scan" not in plan and "(available_at <= " in condition) is lab.shipped


AS_PARAMETERS = [
    fault(f"the keys of {what} are a parameter", TASKS, (text, text.replace("ANY ((SELECT my.", "ANY (my.").replace(")::__key_type__[])", ")")))
    for what, text in {
        "a claim": "ANY ((SELECT my.keys)::__key_type__[])\n      RETURNING t.",
        "a finish": "ANY ((SELECT my.held)::__key_type__[])\n      RETURNING (",
        "what stands": "ANY ((SELECT my.keys)::__key_type__[])\n     ORDER BY t.__key__\n       FOR NO KEY UPDATE SKIP",
        "a transaction": "ANY ((SELECT my.keys)::__key_type__[])\n     ORDER BY t.__key__\n       FOR NO KEY UPDATE\n",
    }.items()
]  # fmt: skip


@seen_to_fail(*AS_PARAMETERS)
async def test_no_statement_of_a_call_is_planned_anew(lab):
    """One that is shows the values that it was planned for. PostgreSQL does so five times, and goes on where it takes that for cheaper."""
    await lab.admin.execute(
        "ALTER TABLE public.email ALTER id RESTART WITH 4711000001;"
        "ALTER TABLE session_lock.session ALTER id RESTART WITH 8150000001"
    )
    await lab.add(20_000)  # in many pages
    await lab.admin.execute("ANALYZE public.email")
    told: list[str] = []
    lab.admin.add_log_listener(lambda _, message: told.append(message.message))
    await lab.admin.execute(
        "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on;"
        "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'auto_explain.log_parameter_max_length';"  # from 16 on
        "SET auto_explain.log_level = notice; SET client_min_messages = notice"
    )
    runner, position = await lab.start_session(lab.admin), None
    for _ in range(10):
        told.clear()
        for start in (None, position):
            work = await runner.get_work(1, held=[], position=start)
            position = work.position
            assert set((await runner.finish(work.claims)).values()) == {"finished"}
        work = await runner.get_work(1, held=[])
        async with lab.admin.transaction():
            await runner.finish_in(work.claims)
    plans = [text.partition("Query Text:")[2] for text in told if "Query Text:" in text]
    assert len(plans) > 30
    anew = [text for text in plans if re.search(r"4711000\d+|8150000\d+", text)]
    assert (anew == []) is lab.shipped, anew


async def test_two_mappings_of_one_table_stay_apart(lab):
    """Other columns, another name: each has its own claims on the same rows."""
    twin = replace(
        EMAILS,
        name="twin",
        claim_columns={"session_id": "s2", "claim_token": "t2", "attempts": "n2", "available_at": "at2"},
    )
    functions = await apply_mapping(lab.admin, twin, grant_to="app")
    keys = await lab.add(2)
    runner = await lab.runner()
    other = replace(await lab.runner(name="twin"), functions=functions)
    assert (await runner.get_work()).keys == (await other.get_work()).keys == keys
    assert (await runner.get_work(held=keys)).keys == []


@pytest.mark.fault("D25")
@pytest.mark.parametrize(
    ("key_type", "keys"),
    [
        ("smallint", [-32768, 0, 32767]),
        ("integer", [-(2**31), 0, 2**31 - 1]),
        ("bigint", [-(2**63), 0, 2**63 - 1]),
        ("uuid", [UUID(int=0), UUID(int=5), UUID(int=2**128 - 1)]),
        ("text", ["", "a'b\"c\\", "é, {x}"]),
    ],
)
async def test_d11_keys_of_each_type(database, key_type, keys):
    table = TaskTable("public.thing", key="k", pending="NOT done", finish="done = true")
    ddl = f"CREATE TABLE public.thing (k {key_type} PRIMARY KEY, done boolean NOT NULL DEFAULT false)"
    async with open_lab(database, table=table, ddl=ddl) as lab:
        await lab.admin.executemany(
            "INSERT INTO public.thing (k, available_at) VALUES ($1, '2000-01-01')", [(k,) for k in keys]
        )
        runner = await lab.runner(name="thing")
        first = await runner.get_work(1)
        rest = await runner.get_work(held=first.keys, position=first.position)
        assert [*first.keys, *rest.keys] == keys
        assert await runner.release({keys[2]: 1}) == {keys[2]: "released"}
        work = await runner.get_work(held=keys[:2], finished={keys[0]: 1})
        assert (work.claims, work.outcomes) == ({keys[2]: 2}, {keys[0]: "finished"})
        assert await runner.finish({keys[1]: 1, keys[2]: 1}) == {keys[1]: "finished", keys[2]: "lost"}
        async with runner.connection.transaction():
            await runner.finish_in({keys[2]: 2})
        assert await lab.admin.fetchval("SELECT bool_and(done) FROM public.thing")


@pytest.mark.fault("B6")
async def test_d22_tasks_come_in_the_order_of_the_mapping(database):
    table = replace(EMAILS, order_by=("body DESC", "available_at"))
    async with open_lab(database, table=table) as lab:
        keys = await lab.add(4)
        await lab.admin.execute(
            "UPDATE public.email SET body = (ARRAY['low', 'urgent', 'low', 'urgent'])[id]"
        )
        runner = await lab.runner()
        assert (await runner.get_work(3)).keys == [keys[1], keys[3], keys[0]]


@seen_to_fail(
    fault(
        "who is brought tasks asks for more",
        TASKS,
        ("p_at_once > 0 AND cardinality(my.keys) = 0", "p_at_once > 0"),
    )
)
async def test_a_reader_that_freezes_keeps_nobody_else_from_renewing_its_lease(lab):
    """Its transaction is open until the whole reply is read: it must have no lock on the rows of other sessions."""
    await lab.add(6)
    holder, reader = await lab.runner(capacity=10), await lab.runner(capacity=10)
    await holder.get_work(5)
    transaction = reader.connection.transaction()
    await transaction.start()
    assert len((await reader.get_work(10, over_share=False, at_once=10)).claims) == 1
    renewed = True
    try:
        await holder.execute("SET lock_timeout = '200ms'")
        await holder.bump()
    except asyncpg.LockNotAvailableError:
        renewed = False
    finally:
        await transaction.rollback()
    assert renewed is lab.shipped


# What a mutant of the SQL needed to be seen (tests/sql/hunt.py) ----------------------------------------------


async def test_a_session_that_drains_lends_its_capacity_to_nobody(lab):
    """It has the lowest id, so that who counted it would take its capacity for that of the next."""
    await lab.add(12)
    draining, small, large = [await lab.runner(capacity=capacity) for capacity in (100, 10, 50)]
    await draining.bump(draining=True)
    shares = [(await runner.get_work(over_share=False)).share for runner in (small, large)]
    assert shares == [2, 10]


async def test_a_look_ends_at_most_a_hundred_that_have_expired(lab):
    await lab.own_clock()
    await lab.admin.execute(
        "INSERT INTO session_lock.session (name, capacity, started_at, expires_at)"
        " SELECT 'email', 1, now(), now() FROM generate_series(1, 150)"
    )
    runner = await lab.runner()
    await runner.get_work()
    ended = "SELECT count(*) FROM session_lock.session WHERE ended_at IS NOT NULL"
    assert await lab.admin.fetchval(ended) == 100
    await runner.get_work()
    assert await lab.admin.fetchval(ended) == 150


async def test_finish_in_waits_for_its_own_rows_alone_and_in_the_order_of_keys(lab):
    first, second, other = await lab.add(3)
    runner = await lab.runner()
    claims = (await runner.get_work()).claims
    await lab.admin.execute(
        "UPDATE public.email SET body = 'moved' WHERE id = $1", first
    )  # now it is the last in the table
    for scan in ("indexscan", "indexonlyscan", "bitmapscan"):
        await runner.execute(f"SET enable_{scan} = off")
    async with lab.admin.transaction():
        await lab.admin.execute("SELECT FROM public.email WHERE id = ANY ($1) FOR UPDATE", [first, other])
        waits, call = await lab.begin(runner, runner.finish_in({first: 1, second: 1}))
        assert waits
        free = await lab.admin.fetch("SELECT FROM public.email WHERE id = $1 FOR UPDATE SKIP LOCKED", second)
        assert len(free) == 1  # it waits for the first, and has not locked the second
    await call
    async with lab.admin.transaction():
        await lab.admin.execute("SELECT FROM public.email WHERE id = $1 FOR UPDATE", second)
        waits, call = await lab.begin(runner, runner.finish_in({other: claims[other]}))
        assert not waits


async def test_who_reads_a_reply_has_as_long_as_its_lease_is_and_no_longer(lab):
    runner = await lab.runner(ttl=30)
    async with runner.connection.transaction():
        await runner.get_work()
        left = await runner.connection.fetchval(
            "SELECT setting::integer FROM pg_settings WHERE name = 'tcp_user_timeout'"
        )
        assert 25_000 < left <= 30_000
    assert (
        await runner.connection.fetchval(
            "SELECT setting::integer FROM pg_settings WHERE name = 'tcp_user_timeout'"
        )
        == 0
    )


async def test_two_that_sweep_the_same_session_do_not_wait_for_each_other(lab):
    dead, first, second = [await lab.runner() for _ in range(3)]
    assert await dead.end()
    async with first.connection.transaction():
        await first.get_work()
        waits, work = await lab.begin(second, second.get_work())
        assert not waits
    await work
    assert (await lab.session(dead))["swept_at"] is not None


@pytest.mark.parametrize("verb", ["finish", "release"])
async def test_who_settles_a_task_locks_no_other(lab, verb):
    first, second = await lab.add(2)
    runner, other = await lab.runner(), await lab.runner()
    claims = (await runner.get_work(1)).claims
    async with runner.connection.transaction():
        assert list(await getattr(runner, verb)(claims)) == [first]
        assert (await other.get_work()).keys == [second]


async def test_tasks_come_in_their_order_whatever_the_plan(lab):
    keys = await lab.add(3)
    await lab.admin.execute("UPDATE public.email SET body = 'moved' WHERE id = $1", keys[0])
    runner = await lab.runner()
    for scan in ("indexscan", "indexonlyscan", "bitmapscan"):
        await runner.execute(f"SET enable_{scan} = off")
    assert (await runner.get_work(2)).keys == keys[:2]
