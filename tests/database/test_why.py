"""`why`: each thing that can keep a task waiting is made, and told by its name. The asking role may execute the functions, and no more."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import asyncpg
import pytest

from session_lock import DatabaseError, Limit, PostgresDatabase, PostgresDuties, Rate, SettingsError
from session_lock.asking import why as ask
from session_lock.database import Handback
from session_lock.duties import DUTIES
from session_lock.migrations import install
from tests.conftest import APP_ROLE, TestDatabase
from tests.sql.schedule import open_lab
from tests.support import EMAILS

from .conftest import NEEDS, Suite, under

CLAIMABLE = "it is claimable now: the next look takes it"


@pytest.fixture
def implementation(database: TestDatabase) -> str:
    """Of one that it is for: a `MemoryDatabase` is its test's own, and shows all that it has."""
    return "postgres"


async def told(suite: Suite, key: object) -> tuple[str, str]:
    found = await suite.database.why(key)
    return found.state, found.why


async def add_one(suite: Suite, **options: object) -> int:
    [key] = await suite.add(**options)
    return key


@asynccontextmanager
async def stranger(suite: Suite, statement: str, *, role: str = "admin", name: str = "psql"):
    """A transaction of somebody's, in which the statement was executed."""
    connection = await asyncpg.connect(
        getattr(suite._dsns, f"{role}_dsn"), server_settings={"application_name": name}
    )
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield connection
    finally:
        await connection.close()


# The row -------------------------------------------------------------------------------------------------


async def test_a_task_that_nothing_is_in_the_way_of(suite: Suite):
    first, second, third = await suite.add(3)
    await suite.start()
    assert await told(suite, first) == ("claimable", CLAIMABLE)
    assert await told(suite, second) == ("claimable", "it is claimable now, behind 1 other")
    found = await suite.database.why(third)
    assert (found.why, found.in_front, found.also) == ("it is claimable now, behind 2 others", 2, [])
    assert (found.attempts, found.token, found.session, found.locked, found.needs) == (
        0,
        None,
        None,
        False,
        None,
    )
    assert (found.key, found.lockers, found.failures, found.limits) == (str(third), (), [], [])
    assert found.due_in <= 0


async def test_there_is_no_such_task(suite: Suite):
    key = await add_one(suite)
    assert await told(suite, key + 1) == ("unknown", "there is no such task in public.email")
    session = await suite.start()
    [claim] = await suite.claim(session)
    await suite.database.release_tasks(session, [Handback(claim, after=0, error="ValueError: no")])
    await suite.remove(key)
    found = await suite.database.why(key)
    assert (found.state, len(found.failures)) == ("unknown", 1)
    assert found.also == ["it was there: what went wrong with it is still kept"]


async def test_which_part_of_pending_says_that_it_is_not(suite: Suite):
    key = await add_one(suite)
    await suite.close(key)
    found = await suite.database.why(key)
    assert (found.state, found.why) == ("closed", "it is not pending: sent_at IS NULL is false")
    assert [(each.text, each.holds) for each in found.conditions] == [
        ("sent_at IS NULL", False),
        ("failed_at IS NULL", True),
    ]


AS_DJANGO_WRITES = replace(EMAILS, pending="((sent_at IS NULL AND NOT (failed_at IS NOT NULL)))")


async def test_parentheses_around_all_of_pending_count_for_nothing(database: TestDatabase):
    async with open_lab(database, table=AS_DJANGO_WRITES) as lab:
        [key] = await lab.add(1)
        await lab.admin.execute("UPDATE public.email SET failed_at = now()")
        async with PostgresDatabase(database.app_dsn, AS_DJANGO_WRITES) as ours:
            found = await ours.why(key)
            assert found.why == "it is not pending: NOT (failed_at IS NOT NULL) is false"
            assert [each.holds for each in found.conditions] == [True, False]


UNSAFE = replace(
    EMAILS,
    pending="sent_at IS NULL -- not sent, AND\n AND address ~ '^[0-9]+$' AND address::integer BETWEEN 1 AND 10",
)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("11", "address::integer BETWEEN 1 AND 10 is false"),
        (
            "ann",
            "sent_at IS NULL -- not sent, AND AND address ~ '^[0-9]+$' AND address::integer BETWEEN 1 AND 10 is false",
        ),
    ],
)
async def test_a_part_of_pending_that_cannot_be_asked_alone(database: TestDatabase, address: str, why: str):
    async with open_lab(database, table=UNSAFE) as lab:
        [key] = await lab.add(1)
        await lab.admin.execute("UPDATE public.email SET address = $1", address)
        async with PostgresDatabase(database.app_dsn, UNSAFE) as ours:
            assert (await ours.why(key)).why == f"it is not pending: {why}"


async def test_a_row_that_is_due_since_ever(suite: Suite):
    key, _ = await add_one(suite), await suite.start()
    await suite._admin.execute("UPDATE public.email SET available_at = '-infinity'")
    assert (await told(suite, key)) == ("claimable", CLAIMABLE)


async def test_one_that_was_closed_while_a_session_had_it(suite: Suite):
    key, session = await add_one(suite), await suite.start(label="web-1")
    await suite.claim(session)
    await suite.close(key)
    found = await suite.database.why(key)
    assert (found.state, found.also) == (
        "closed",
        [f"it still names session {session.id} (web-1), which had it when it was closed"],
    )


async def test_it_is_not_due_yet_and_what_is_in_its_way_besides(suite: Suite):
    key = await add_one(suite, after=400)
    found = await suite.database.why(key)
    assert (found.state, found.why) == ("scheduled", "it is not due yet: it is available in 6 minutes")
    assert found.also == ["no session is live: no Runner of this mapping runs"]
    assert 390 < found.due_in <= 400
    await suite.advance(400)
    await suite.start()
    assert await told(suite, key) == ("claimable", CLAIMABLE)


async def test_it_is_parked_and_what_went_wrong(suite: Suite):
    key, session = await add_one(suite), await suite.start(ttl=600)
    for error in ("ValueError: one\nfrom KeyError: 1", "ValueError: two"):
        [claim] = await suite.claim(session)
        await suite.database.release_tasks(session, [Handback(claim, after=0, error=error)])
        await suite.advance(60)
    [claim] = await suite.claim(session)
    await suite.database.release_tasks(
        session, [Handback(claim, after=float("inf"), error="TypeError: three")]
    )
    await suite.advance(7)
    found = await suite.database.why(key)
    assert (found.state, found.why) == ("parked", "it is parked: nobody takes it before session-lock retry")
    assert (found.attempts, found.due_in) == (3, None)
    assert [(each.attempt, round(each.ago), each.session) for each in found.failures] == [
        (3, 7, session.id),
        (2, 67, session.id),
        (1, 127, session.id),
    ]
    assert {each.error for each in found.failures} == {None}  # the service's role may not read them
    found = await ask(suite._admin, suite.database._table, str(key))
    assert [each.error for each in found.failures] == [
        "TypeError: three",
        "ValueError: two",
        "ValueError: one\nfrom KeyError: 1",
    ]


# Who has it ----------------------------------------------------------------------------------------------


async def test_a_session_has_it(suite: Suite):
    key, session = await add_one(suite), await suite.start(label="web-1:7", version="2.3")
    [claim] = await suite.claim(session)
    await suite.advance(5)
    await suite.bump(session)
    await suite.advance(2)
    found = await suite.database.why(key)
    assert (found.state, found.why) == (
        "held",
        f"session {session.id} (web-1:7) has it, in attempt 1: its last keepalive was 2 seconds ago, its lease runs for 28 seconds more",
    )
    assert (found.token, found.attempts, found.session.id, found.session.app_version) == (
        claim.token,
        1,
        session.id,
        "2.3",
    )
    assert found.session.state == "live"
    assert (round(found.session.beat_ago), round(found.session.left)) == (2, 28)
    await suite.database.cancel(key)
    assert (await suite.database.why(key)).why.endswith("; it is asked to cancel the task")
    await suite.ask_to_drain(session)
    found = await suite.database.why(key)
    assert (found.state, found.session.state) == ("held", "draining")
    assert found.why.endswith("; it is draining")


async def test_before_its_first_keepalive_a_session_beats_since_it_has_started(suite: Suite):
    key, session = await add_one(suite), await suite.start()
    await suite.claim(session)
    await suite.advance(3)
    assert round((await suite.database.why(key)).session.beat_ago) == 3


async def test_the_lease_of_its_session_has_run_out(suite: Suite):
    key, session = await add_one(suite), await suite.start(label="web-1")
    await suite.claim(session)
    await suite.advance(34)
    still = f"it still names session {session.id} (web-1), whose lease ran out 4 seconds ago"
    found = await suite.database.why(key)
    assert (found.state, found.why, found.also) == (
        "waiting",
        "no session is live: no Runner of this mapping runs",
        [still],
    )
    await suite.start()
    found = await suite.database.why(key)
    assert (found.state, found.why, found.also) == ("claimable", CLAIMABLE, [still])


async def test_its_session_has_ended_or_was_deleted_or_is_another_mapping_s(suite: Suite):
    key, dead, session = await add_one(suite), await suite.start(label="web-1"), await suite.start()
    await suite.claim(dead)
    await suite.end(dead)  # which does not say that it has it
    found = await suite.database.why(key)
    assert (found.why, found.also) == (
        CLAIMABLE,
        [f"it still names session {dead.id} (web-1), which has ended"],
    )
    await suite._admin.execute("UPDATE session_lock.session SET name = 'other' WHERE id = $1", dead.id)
    found = await suite.database.why(key)
    assert found.state == "waiting"
    assert found.why == (
        f"it names session {dead.id} (web-1), which is of another mapping, so no session of this one can take it: "
        "clear that column of the row"
    )
    assert await suite.claim(session) == []
    await suite._admin.execute("DELETE FROM session_lock.session WHERE id = $1", dead.id)
    found = await suite.database.why(key)
    assert (found.why, found.also) == (
        CLAIMABLE,
        [f"it still names session {dead.id}, of which there is no record"],
    )
    assert found.session.state == "gone"


# What is in the way of all -------------------------------------------------------------------------------


async def test_nobody_is_there_or_all_are_draining_or_it_is_paused(suite: Suite):
    key = await add_one(suite)
    assert await told(suite, key) == ("waiting", "no session is live: no Runner of this mapping runs")
    session = await suite.start()
    await suite.ask_to_drain(session)  # it may not have heard so yet
    assert await told(suite, key) == ("waiting", "all sessions that live are draining")
    session = await suite.start()
    await suite.bump(session, draining=True)
    assert await told(suite, key) == ("waiting", "all sessions that live are draining")
    await suite.start()
    assert await told(suite, key) == ("claimable", CLAIMABLE)
    await suite.pause()
    await suite.advance(7)
    assert await told(suite, key) == ("waiting", "the mapping is paused, for 7 seconds now")
    await suite.expire(session)
    await suite.resume()


async def test_the_database_is_a_copy(suite: Suite):
    key, _ = await add_one(suite), await suite.start()
    await suite._admin.execute("UPDATE session_lock.origin SET system = 7, database = 'shop'")
    assert await told(suite, key) == (
        "waiting",
        "this database is a copy of database shop of server 7, in which no session starts before session-lock adopt",
    )


@under(accepts=NEEDS)
async def test_a_version_that_nobody_has(limited: Suite):
    key, odd = await add_one(limited, address="needs 2.4"), await add_one(limited, address="needs abc")
    await limited.start(version="2.3")
    await limited.start(version="2.3.9")
    found = await limited.database.why(key)
    assert (found.state, found.needs) == ("waiting", "2.4")
    assert found.why == (
        "it needs app_version '2.4' (accepts), which no session that takes work has: there is '2.3', '2.3.9'"
    )
    assert "it needs app_version 'abc'" in (await limited.database.why(odd)).why
    await limited.start(version="2.10")
    found = await limited.database.why(key)
    assert (found.state, found.in_front) == ("claimable", None)
    assert (
        found.why == "it is claimable now, in its turn among those that are for the same sessions (accepts)"
    )
    assert (await told(limited, odd))[0] == "waiting"


async def test_a_version_of_the_mapping_that_nobody_runs(suite: Suite):
    """By theirs the row may not be pending: that their next look takes it would be a guess."""
    key = await add_one(suite)
    await suite.start()
    assert await told(suite, key) == ("claimable", CLAIMABLE)
    await suite._admin.execute("UPDATE session_lock.session SET functions = 'email_00000000'")
    assert await told(suite, key) == (
        "claimable",
        (
            "it is claimable now by this version of the mapping, which no session that takes work runs: they run email_00000000, and "
            "take it if it is pending by that"
        ),
    )
    await suite.start()
    assert await told(suite, key) == ("claimable", CLAIMABLE)
    await suite._admin.execute(
        "UPDATE session_lock.session SET draining = true WHERE functions <> 'email_00000000'"
    )
    assert "they run email_00000000" in (await told(suite, key))[1]
    await suite._admin.execute(
        "UPDATE session_lock.session SET functions = ''"
    )  # told by a library that wrote none
    await suite._admin.execute("UPDATE session_lock.session SET draining = false")
    assert await told(suite, key) == ("claimable", CLAIMABLE)


# Whose transaction it is ---------------------------------------------------------------------------------

LOCKED = "SELECT FROM public.email WHERE id = {} FOR UPDATE"


async def test_somebody_s_transaction_has_the_row(suite: Suite):
    key, other, another = await suite.add(3)
    await suite.start()
    async with stranger(suite, LOCKED.format(another)), stranger(suite, LOCKED.format(key)) as connection:
        found = await suite.database.why(key)
        assert (found.state, found.locked) == ("waiting", True)
        [locker] = found.lockers
        assert (locker.pid, locker.sure, locker.application_name) == (
            connection.get_server_pid(),
            True,
            "psql",
        )
        assert locker.since is None  # the role `app` may not see that of others
        assert found.why == f"its row is locked, by pid {locker.pid} (psql, role {locker.role})"
        found = await ask(suite._admin, suite.database._table, str(key))
        assert found.lockers[0].since >= 0
        assert found.why.endswith(", in a transaction for 0 seconds")
        assert (await told(suite, other))[0] == "claimable"
    assert (await told(suite, key))[0] == "claimable"


async def test_those_who_share_it_and_who_has_it_since_a_savepoint(suite: Suite):
    key, other = await suite.add(2)
    await suite.start()
    share = f"SELECT FROM public.email WHERE id = {key} FOR SHARE"
    async with stranger(suite, share, name="one") as one, stranger(suite, share, name="two") as two:
        async with stranger(suite, LOCKED.format(other)):
            found = await suite.database.why(key)
        assert {each.pid for each in found.lockers} == {one.get_server_pid(), two.get_server_pid()}
        assert " or pid " in found.why
    async with stranger(suite, "SELECT") as connection:
        async with connection.transaction():
            await connection.execute(LOCKED.format(key))
        await connection.execute(
            "UPDATE public.email SET body = 'new' WHERE id = $1", other
        )  # another lock of the table
        [locker] = (await suite.database.why(key)).lockers
        assert (locker.pid, locker.sure) == (connection.get_server_pid(), False)


async def test_who_only_refers_to_it_is_in_nobody_s_way(suite: Suite):
    key = await add_one(suite)
    await suite.start()
    async with stranger(suite, f"SELECT FROM public.email WHERE id = {key} FOR KEY SHARE"):
        assert await told(suite, key) == ("claimable", CLAIMABLE)


async def test_a_session_s_own_finishing_transaction(suite: Suite):
    key, session = await add_one(suite), await suite.start()
    claims = await suite.claim(session)
    async with suite.database.transaction(session, claims):
        found = await suite.database.why(key)
        assert (found.state, found.locked) == ("held", True)
        assert found.also[0].startswith("its row is locked, by pid ")
    assert (await told(suite, key))[0] == "closed"


async def test_the_whole_table_is_locked(suite: Suite):
    key = await add_one(suite)
    await suite.database.why(key)
    async with stranger(suite, "LOCK TABLE public.email") as connection:
        match = rf"^nothing can be told of public.email: the whole table is locked by pid {connection.get_server_pid()} \(psql, "
        with pytest.raises(DatabaseError, match=match):
            await suite.database.why(key)


async def test_where_it_may_not_see_who_is_connected_the_rest_is_told(suite: Suite):
    key = await add_one(suite)
    await suite.start()
    views = "pg_catalog.pg_stat_activity, pg_catalog.pg_locks, pg_catalog.pg_prepared_xacts"
    await suite._admin.execute(f"REVOKE SELECT ON {views} FROM PUBLIC")
    async with stranger(suite, LOCKED.format(key)):
        found = await suite.database.why(key)
        assert (found.state, found.locked, found.lockers) == ("waiting", True, ())
        assert found.attempts == 0
        left_out, _, grant = found.why.partition(", this role may not see it: ")
        assert left_out == "its row is locked, and by whom is left out"
    async with stranger(suite, "LOCK TABLE public.email"):
        with pytest.raises(DatabaseError, match="the whole table is locked by somebody's transaction"):
            await suite.database.why(key)
    async with stranger(suite, LOCKED.format(key)):
        await suite._admin.execute(grant.replace("TO it", f"TO {APP_ROLE}"))
        assert "by pid" in (await suite.database.why(key)).why


async def test_nothing_is_changed_and_no_lock_stays(suite: Suite):
    key, session = await add_one(suite), await suite.start()
    await suite.claim(session)
    everything = "SELECT to_jsonb(t) FROM (SELECT * FROM public.email, session_lock.session) AS t"
    before = await suite._admin.fetch(everything)
    await suite.database.why(key)
    assert await suite._admin.fetch(everything) == before
    async with stranger(suite, LOCKED.format(key) + " NOWAIT"):
        pass


async def test_where_nothing_may_be_written_locks_are_not_tried(suite: Suite):
    key = await add_one(suite)
    await suite.start()
    await suite._admin.execute("SET default_transaction_read_only = on")
    found = await ask(suite._admin, suite.database._table, str(key))
    assert (found.state, found.locked) == ("claimable", None)
    await suite._admin.execute("SET default_transaction_read_only = off")


# Limits --------------------------------------------------------------------------------------------------


@under(Limit(2))
async def test_a_limit_of_the_mapping(limited: Suite):
    *_, key = await limited.add(3)
    session = await limited.start()
    assert (await told(limited, key))[0] == "claimable"
    await limited.claim(session)
    assert await told(limited, key) == (
        "waiting",
        "a limit holds it back: as many tasks of the mapping are held as may be (2)",
    )
    await limited.expire(session)  # what it has counts no more, as it will be ended by whoever looks
    await limited.start()
    assert (await told(limited, key))[0] == "claimable"


@under(Limit(1, by="address"))
async def test_a_limit_of_each_value(limited: Suite):
    first, second = await limited.add(2, address="ann")
    other = await add_one(limited, address="bo")
    session = await limited.start()
    await limited.claim(session, 1)
    assert await told(limited, second) == (
        "waiting",
        "a limit holds it back: as many tasks of its address are held as may be (1)",
    )
    found = await limited.database.why(other)
    assert found.state == "claimable"
    assert [(each.by, each.most, each.used, each.per) for each in found.limits] == [("address", 1, 0, None)]


@under(Limit(1, by="address", ordered=True), order_by=("id",))
async def test_a_task_comes_before_it(limited: Suite):
    first, second = await limited.add(2, address="ann")
    session = await limited.start()
    before = f"task {first} of the same address comes before it in order, and "
    assert await told(limited, second) == ("waiting", f"{before}that is not done yet")
    assert await told(limited, first) == ("claimable", CLAIMABLE)
    [claim] = await limited.claim(session)
    assert await told(limited, second) == ("waiting", f"{before}a session has that")
    await limited.database.release_tasks(session, [Handback(claim, after=60)])
    assert await told(limited, second) == ("waiting", f"{before}that is not due yet")
    await limited._admin.execute("UPDATE public.email SET available_at = 'infinity' WHERE id = $1", first)
    assert await told(limited, second) == ("waiting", f"{before}that is parked")


@under(Rate(1, per=60), Rate(2, per=600, by="address"))
async def test_rates(limited: Suite):
    *_, last = await limited.add(4)
    session = await limited.start(ttl=3600)
    await limited.claim(session)
    await limited.advance(20)
    assert await told(limited, last) == (
        "waiting",
        "a rate holds it back: as many tasks of the mapping were started within 60 s as may be (1), the next one may start in 40 seconds",
    )
    [group, each] = (await limited.database.why(last)).limits
    assert (group.used, each.used) == (1, 1)
    await limited.advance(41)
    assert (await told(limited, last))[0] == "claimable"
    await limited.claim(session, held=[])
    await limited.advance(61)
    found = await limited.database.why(last)
    assert found.why == (
        "a rate holds it back: as many tasks of its address were started within 600 s as may be (2), the next one may start in 7 minutes"
    )
    assert [(each.by, each.used, each.per) for each in found.limits] == [(None, 0, 60), ("address", 2, 600)]


@under(fair_by="address")
async def test_turns(limited: Suite):
    _, key = await limited.add(2)
    await limited.start()
    assert await told(limited, key) == (
        "claimable",
        "it is claimable now: the next look takes it, when its address has its turn (fair_by)",
    )


async def test_all_sessions_are_full_or_have_their_share(suite: Suite):
    *_, key = await suite.add(3)
    first = await suite.start(capacity=2)
    await suite.claim(first, 2)
    assert await told(suite, key) == (
        "waiting",
        "the sessions that may take it hold as many tasks as they can (2)",
    )
    await suite.start(capacity=10)
    assert (await told(suite, key))[0] == "claimable"


@under(accepts=NEEDS)
async def test_the_only_session_that_may_take_it_has_its_share(limited: Suite):
    await limited.add(2)
    session = await limited.start(version="2")
    await limited.claim(session)
    await limited.start(version="1")
    key = await add_one(limited, address="needs 2")
    assert await told(limited, key) == (
        "waiting",
        (
            "the sessions that may take it hold their shares of the tasks that are due (2): one with nothing to do goes beyond its "
            "share after its patience"
        ),
    )


# Keys, and mappings of other kinds -----------------------------------------------------------------------


@pytest.mark.parametrize("key", ["seven", 2**63, "1.5", "4\0"])
async def test_what_can_be_no_key(suite: Suite, key: object):
    with pytest.raises(SettingsError, match=r"can be no key of public\.email: its keys are of type bigint$"):
        await suite.database.why(key)


async def test_what_is_no_key_at_all(suite: Suite):
    with pytest.raises(SettingsError, match="is an int, a str or a UUID, not float"):
        await suite.database.why(1.5)


async def test_keys_of_all_types(suite_of_key_type: Suite):
    key = await add_one(suite_of_key_type)
    await suite_of_key_type.start()
    assert await told(suite_of_key_type, key) == ("claimable", CLAIMABLE)


async def test_a_run_of_a_duty(database: TestDatabase):
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await install(admin, DUTIES, grant_to=APP_ROLE)
        key = await admin.fetchval(
            "INSERT INTO session_lock.duty_run (name, due_at, schedule) VALUES ('nightly', now(), 'every 86400s') RETURNING id"
        )
        async with PostgresDuties(database.app_dsn) as duties:
            lease = await duties.start_session(capacity=1, ttl=30)
            found = await duties.why(key)
            assert (found.state, found.why, found.needs) == (
                "waiting",
                "no session that takes work has declared its duty",
                None,
            )
            await admin.execute(
                "INSERT INTO session_lock.duty_declaration (name, session, rank, schedule, declared_at)"
                " VALUES ('nightly', $1, 1, 'every 86400s', now())",
                lease.id,
            )
            assert (await duties.why(key)).state == "claimable"
    finally:
        await admin.close()


async def test_functions_by_hand(suite: Suite):
    """Of which only what is around the task is known."""
    key, session = await add_one(suite), await suite.start()
    [claim] = await suite.claim(session)
    await suite.database.release_tasks(session, [Handback(claim, after=0, error="ValueError: no")])
    await suite._admin.execute("GRANT EXECUTE ON FUNCTION session_lock.around_task TO app")
    functions = await suite._admin.fetchval("SELECT functions FROM session_lock.session LIMIT 1")
    await suite._admin.execute("UPDATE session_lock.failure SET name = $1", functions)
    async with PostgresDatabase(suite._dsns.app_dsn, functions=functions, key=int) as database:
        found = await database.why(key)
        assert (found.state, found.why) == ("unseen", "no session is live: no Runner of this mapping runs")
        assert found.also == ["its functions are written by hand: what its row says is not known here"]
        assert len(found.failures) == 1


# And get_work agrees -------------------------------------------------------------------------------------

MAPPINGS = [
    {},
    {"accepts": NEEDS},
    {"limits": (Limit(2, by="address"),)},
    {"limits": (Limit(1, by="address", ordered=True),), "order_by": ("id",)},
    {"limits": (Limit(14), Rate(2, per=60, by="address"))},
    {"fair_by": "address"},
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limited", MAPPINGS, indirect=True, ids=range(len(MAPPINGS)))
async def test_what_is_claimable_is_what_a_look_takes(limited: Suite, seed: int):
    random = Random(seed)
    holder, dead = await limited.start(capacity=5, version="9"), await limited.start(version="9")
    for _ in range(14):
        await add_one(limited, address=random.choice(["ann", "bo", "needs 2", "needs 9"]))
    await limited.claim(holder, 2)
    await limited.claim(dead, 2)
    await limited.end(dead)
    for what in (
        "sent_at = now()",
        "available_at = now() + '1 h'",
        "available_at = 'infinity'",
        "failed_at = now()",
    ):
        await limited._admin.execute(f"UPDATE public.email SET {what} WHERE id = $1", random.randint(1, 14))
    await limited.bump(holder, draining=True)  # it keeps what it has
    looker = await limited.start(capacity=100, version="2")
    states = {key: (await limited.database.why(key)).state for key in range(1, 15)}
    claimable = {key for key, state in states.items() if state == "claimable"}
    taken = {claim.key for claim in await limited.claim(looker, 100)}
    assert taken  # or nothing was tried
    assert taken <= claimable, states
    # Each by itself might be taken: of those of a value a limit lets some through.
    rows = await limited._admin.fetch(
        "SELECT id, address FROM public.email WHERE id = ANY ($1)", sorted(claimable)
    )
    address = {row["id"]: row["address"] for row in rows}
    if limited.database._table.limits:
        assert {address[key] for key in taken} == set(address.values()), states
    else:
        assert taken == claimable, states
