"""T3, T4, T5 over every function that there is: who may call it, as whom it runs, what a caller can put in its way, and what odd
arguments do. The forgeries of single verbs are in tests/sql/test_schedules.py.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from session_lock import queue
from session_lock.duties import DUTIES
from session_lock.limits import Limit, Rate
from session_lock.migrations import install
from session_lock.schema import source
from tests.conftest import TestDatabase
from tests.sql.schedule import SESSIONS, TASKS, Actor, Lab, fault, open_lab, seen_to_fail, sqlstate
from tests.support import EMAIL_TABLE, EMAILS, add_emails

LIMITED = replace(EMAILS, limits=(Limit(50), Limit(50, by="address"), Rate(500, per=60)), fair_by="address")
MAPPINGS = (EMAILS, replace(LIMITED, name="limited", table="public.limited"), queue("jobs"), DUTIES)

FOR_SERVICES = {
    "schema_version", "start_session", "bump_session", "wake", "get_work", "finish_tasks", "finish_in", "release_tasks", "end_session",
    "cancel_task", "retry_tasks", "backlog", "shares", "why", "enqueue", "enqueue_keys", "plan_duties",
}  # fmt: skip
"""What a service's role is given, by the beginning of the name."""

OF_NO_ACCOUNT = {
    "clock",
    "whereabouts",
    "version_numbers",
    "may_take",
    "limit_transaction",
    "share",
    "shares",
    "standing",
    "possible",
    "pick",
}
"""What runs with the rights of the caller, and so gives none; all others are definers."""


# Every function ------------------------------------------------------------------------------------------


@pytest.fixture
async def functions(database: TestDatabase) -> AsyncIterator[list[asyncpg.Record]]:
    """Of all kinds of mappings, installed by a role of its own that is no superuser."""
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute("CREATE ROLE migrator")
    try:
        await admin.execute(
            f'GRANT CREATE ON DATABASE "{database.name}" TO migrator; GRANT ALL ON SCHEMA public TO migrator'
        )
        await admin.execute("SET ROLE migrator")
        await admin.execute(f"{EMAIL_TABLE}; {EMAIL_TABLE.replace('public.email', 'public.limited')}")
        for table in MAPPINGS:
            await install(admin, table, grant_to="app")
        await admin.execute("RESET ROLE")
        yield await admin.fetch(
            """
            SELECT regexp_replace(p.proname, '_(email|limited|jobs|duty_run|duties?)_[0-9a-f]{8}$', '') AS name, p.prosecdef AS definer,
                   coalesce(p.proconfig, '{}') AS settings, pg_get_userbyid(p.proowner) AS owner, p.prosrc AS body,
                   has_function_privilege('app', p.oid, 'EXECUTE') AS for_app,
                   EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a WHERE a.grantee = 0) AS for_all
              FROM pg_proc AS p WHERE p.pronamespace = 'session_lock'::regnamespace
            """
        )
    finally:
        await admin.execute("RESET ROLE; DROP OWNED BY migrator CASCADE; DROP ROLE migrator")
        await admin.close()


async def test_t4_t5_each_function_is_a_definer_s_with_a_pinned_path_or_gives_no_rights(functions):
    assert len(functions) > 50
    assert {each["owner"] for each in functions} == {"migrator"}
    for each in functions:
        if each["definer"]:
            assert "search_path=pg_catalog, pg_temp" in each["settings"], each["name"]
            assert not each["for_all"], each["name"]
        else:
            assert each["name"] in OF_NO_ACCOUNT | {"schema_version", "adopt"}, each["name"]
        assert "EXECUTE format" not in each["body"], each["name"]  # nothing is put together there


async def test_t5_a_service_may_call_what_it_needs_and_nothing_else(functions):
    given = {each["name"] for each in functions if each["for_app"] and not each["for_all"]}
    assert given == FOR_SERVICES - {"schema_version"}
    for_all = {each["name"] for each in functions if each["for_all"]}
    assert for_all <= OF_NO_ACCOUNT | {"schema_version"}, for_all
    assert not {"adopt", "pause_mapping", "resume_mapping", "drain_session"} & (given | for_all)


async def test_t5_why_tells_a_service_nothing_of_a_row_and_not_what_its_taskers_raised(lab):
    [key] = await lab.add(1)
    await lab.admin.execute("UPDATE public.email SET address = 's3cret', body = 's3cret'")
    runner = await lab.runner()
    await runner.release((await runner.get_work()).claims, after=0, error="s3cret")
    query = f"SELECT session_lock.why_{lab.functions}($1, true)::text"
    told = await runner.connection.fetchval(query, key)
    assert '"attempt": 1' in told
    assert "s3cret" not in told
    assert str(runner.nonce) not in told
    assert (await lab.admin.fetchval(query, key)).count("s3cret") == 1  # the owner is told the error


# What a caller puts in the way ---------------------------------------------------------------------------


@pytest.fixture
async def lab(request, database) -> AsyncIterator[Lab]:
    async with open_lab(database, getattr(request, "param", ()), LIMITED) as lab:
        yield lab


SHADOWS = """
CREATE FUNCTION evil.trap(what text) RETURNS void LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'trapped by %%, as %%', what, current_user USING ERRCODE = 'TRAP1'; END $$;
DO $do$
DECLARE
  each record;
BEGIN
  FOR each IN
    SELECT o.oprname AS name, o.oprleft::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS result, o.oid
      FROM pg_catalog.pg_operator AS o
     WHERE o.oprkind = 'b' AND o.oprnamespace = 'pg_catalog'::regnamespace
       AND o.oprleft = ANY (%(types)s::regtype[]) AND o.oprright = ANY (%(types)s::regtype[])
  LOOP
    EXECUTE format('CREATE FUNCTION evil.op_%%s(%%s, %%s) RETURNS %%s LANGUAGE plpgsql AS $f$ BEGIN PERFORM evil.trap(%%L); RETURN NULL; END $f$',
                   each.oid, each.l, each.r, each.result, each.name);
    EXECUTE format('CREATE OPERATOR evil.%%s (LEFTARG = %%s, RIGHTARG = %%s, FUNCTION = evil.op_%%s)', each.name, each.l, each.r, each.oid);
  END LOOP;
  FOR each IN
    SELECT p.proname AS name, pg_get_function_identity_arguments(p.oid) AS arguments, p.prorettype::regtype AS result, p.proretset AS is_set
      FROM pg_catalog.pg_proc AS p
     WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.proname = ANY (%(names)s)
       AND p.prorettype NOT IN ('internal'::regtype, 'record'::regtype, 'trigger'::regtype) AND p.provariadic = 0
       AND NOT p.proargtypes::oid[] && ARRAY['internal', '"any"', 'cstring']::regtype[]::oid[] AND p.proargmodes IS NULL
  LOOP
    EXECUTE format('CREATE FUNCTION evil.%%I(%%s) RETURNS %%s %%s LANGUAGE plpgsql AS $f$ BEGIN PERFORM evil.trap(%%L); END $f$',
                   each.name, each.arguments, CASE WHEN each.is_set THEN 'SETOF' ELSE '' END, each.result, each.name);
  END LOOP;
END
$do$;
CREATE TABLE evil.session (LIKE evil.pattern); CREATE TABLE evil.failure (LIKE evil.pattern); CREATE TABLE evil.email (LIKE evil.pattern);
CREATE TABLE evil.started (LIKE evil.pattern); CREATE TABLE evil.pause (LIKE evil.pattern); CREATE TABLE evil.origin (LIKE evil.pattern);
CREATE TEMPORARY TABLE session (trap integer); CREATE TEMPORARY TABLE failure (trap integer); CREATE TEMPORARY TABLE email (trap integer);
CREATE TEMPORARY TABLE pg_proc (trap integer); CREATE TEMPORARY TABLE pg_class (trap integer);
CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (VALUE IS NULL);
CREATE DOMAIN pg_temp.uuid AS pg_catalog.uuid CHECK (VALUE IS NULL);
CREATE DOMAIN evil.int8 AS pg_catalog.int8 CHECK (VALUE IS NULL);
SET search_path = evil, pg_temp, public, session_lock, pg_catalog;
"""
TYPES = (
    "bigint integer smallint text uuid timestamptz interval boolean numeric double bigint[] text[] integer[]"
)


def shadows() -> str:
    """Everything that our functions name, by names of the attacker's: each raises when it is called."""
    bodies = "".join(source(name) for name in (SESSIONS, TASKS, "tasks.limits.alwaysup.sql"))
    names = sorted(set(re.findall(r"\b([a-z_]+)\(", bodies)))
    types = TYPES.replace("double", "double-precision").split()
    return SHADOWS % {
        "names": "ARRAY[" + ", ".join(f"'{name}'" for name in names) + "]::name[]",
        "types": "ARRAY[" + ", ".join(f"'{name.replace('-', ' ')}'" for name in types) + "]",
    }


PINNED = " SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
UNPINNED = tuple(
    fault(f"no search_path is pinned in {file}", file, (PINNED, " SECURITY DEFINER"), everywhere=True)
    for file in (SESSIONS, TASKS)
)


@seen_to_fail(UNPINNED)
async def test_t4_no_operator_function_table_or_type_of_the_caller_s_is_ever_used(lab):
    """All of what `evil` has comes before PostgreSQL's own in the caller's path, and some of it is temporary."""
    await add_emails(lab.admin, 12)
    await lab.admin.execute(
        "CREATE SCHEMA evil; CREATE TABLE evil.pattern (trap integer); GRANT ALL ON SCHEMA evil TO app"
    )
    await lab.admin.execute("GRANT SELECT ON evil.pattern TO app")
    connection = await lab.connect()

    async def life() -> None:
        row = await connection.fetchrow(
            "SELECT * FROM session_lock.start_session('email'::pg_catalog.text, $1, 9, 30, 'l', '1', '1')",
            lab.functions,
        )
        actor = Actor(connection, lab.functions, row["id"], row["nonce"])
        await actor.bump()
        claims = (await actor.get_work(6, at_once=2)).claims
        a, b, c, *_ = claims
        assert (await actor.get_work(1, held=list(claims), finished={a: claims[a]})).outcomes == {
            a: "finished"
        }
        assert (await actor.finish({b: claims[b]})) == {b: "finished"}
        await actor.release({c: claims[c]}, after=5, error="e")
        async with connection.transaction():
            await actor.finish_in(dict(list(claims.items())[3:4]))
        for call in (
            "cancel_task_{0}(12)",
            "retry_tasks_{0}(NULL)",
            "backlog_{0}(1)",
            "shares_{0}()",
            "why_{0}(1, true)",
            "why_{0}(9, true)",
        ):
            await connection.fetch(f"SELECT session_lock.{call.format(lab.functions)}")
        await connection.execute("SELECT session_lock.wake('email'::pg_catalog.text)")
        assert await actor.end(dict(list(claims.items())[4:]))

    await life()  # once before, in which the driver asks for types, by names that are not qualified
    await connection.execute(shadows())
    for use in (
        "SELECT 1::pg_catalog.int8 = 1::pg_catalog.int8",
        "SELECT make_interval(0, 0, 0, 0, 0, 0, 1)",
        "SELECT id FROM email",
    ):
        assert await sqlstate(connection.fetch(use)) in {"TRAP1", "42703", "42883"}, (
            use
        )  # the caller itself is caught
    if lab.shipped:
        await life()
    else:
        with pytest.raises(asyncpg.PostgresError, match="trapped by .*, as postgres"):
            await life()


# Odd arguments -------------------------------------------------------------------------------------------

OTHER = replace(EMAILS, name="other", table="public.other")


async def test_t3_a_session_of_one_mapping_does_nothing_to_the_tasks_of_another(lab):
    """Its role may execute both sets, and it knows its nonce: even so."""
    await add_emails(lab.admin, 2)
    await lab.admin.execute(EMAIL_TABLE.replace("public.email", "public.other"))
    await lab.admin.execute("INSERT INTO public.other (address) SELECT 'a' FROM generate_series(1, 3)")
    await install(lab.admin, OTHER, grant_to="app")
    theirs_set = await lab.admin.fetchval(
        "SELECT substring(proname FROM 10) FROM pg_proc WHERE proname ~ '^get_work_other_'"
    )
    owner = replace(await lab.runner(name="other"), functions=theirs_set)
    theirs = (await owner.get_work(2)).claims
    assert len(theirs) == 2
    stranger = replace(await lab.runner(), functions=theirs_set)
    held = "SELECT id, session_id, claim_token, attempts, available_at, sent_at, failed_at FROM public.other WHERE session_id = $1 ORDER BY id"
    before = await lab.admin.fetch(held, owner.id)
    assert set((await stranger.finish(theirs)).values()) == {"lost"}
    assert set((await stranger.release(theirs, discard=True)).values()) == {"lost"}
    assert await sqlstate(stranger.finish_in(theirs)) == "SL002"
    assert (
        await sqlstate(stranger.get_work(5)) == "SL001"
    )  # what it claimed, nobody would find when it has ended
    assert (
        await lab.admin.fetchval("SELECT count(*) FROM public.other WHERE session_id = $1", stranger.id) == 0
    )
    assert await stranger.end(theirs)
    assert await lab.admin.fetch(held, owner.id) == before


ODD = [
    "NULL",
    "'NaN'",
    "'Infinity'",
    "'-Infinity'",
    "-1",
    "0",
    "2147483647",
    "'{}'",
    "'{NULL}'",
    "'{1,2,3}'",
    "'{-1}'",
    "true",
    "''",
    "repeat('x', 100000)",
]


async def test_t3_odd_arguments_touch_nothing_of_others(lab):
    """Each argument of each function that a service may call, in turn: refused, or of no consequence to anybody else."""
    await add_emails(lab.admin, 6)
    owner, stranger = await lab.runner(), await lab.runner()
    claims = (await owner.get_work(3)).claims
    others = "SELECT t::text FROM public.email AS t WHERE session_id = $1 UNION ALL SELECT s::text FROM session_lock.session AS s WHERE id = $1"
    before = await lab.admin.fetch(others, owner.id)
    held, tokens = f"'{{{','.join(map(str, claims))}}}'", f"'{{{','.join(map(str, claims.values()))}}}'"
    me = [str(stranger.id), f"'{stranger.nonce}'"]
    f = lab.functions
    calls = {
        "start_session": ["'email'", f"'{f}'", "5", "30", "'l'", "'1'", "'1'"],
        "bump_session": [*me, "30", "false", "0"],
        f"get_work_{f}": [*me, "0", held, "NULL", "NULL", "false", "1", held, tokens],
        f"finish_tasks_{f}": [*me, held, tokens],
        f"finish_in_{f}": [*me, held, tokens],
        f"release_tasks_{f}": [
            *me,
            held,
            tokens,
            "'{1,1,1}'",
            "'{t,t,t}'",
            "'{t,t,t}'",
            "'{a,b,c}'",
            "false",
        ],
        f"end_session_{f}": [*me, held, tokens],
    }
    states = set()
    for name, arguments in calls.items():
        for place in range(len(arguments)):
            for odd in ODD:
                given = [*arguments[:place], odd, *arguments[place + 1 :]]
                statement = f"SELECT * FROM session_lock.{name}({', '.join(given)})"
                transaction = stranger.connection.transaction()
                await transaction.start()
                states.add(await sqlstate(stranger.connection.fetch(statement)))
                seen = await lab.admin.fetch(others, owner.id)
                await transaction.rollback()
                assert seen == before, statement
    assert {None, "SL001", "SL002", "22P02"} <= states
    assert not {state for state in states if state and state[:2] in {"XX", "58", "53"}}, states
