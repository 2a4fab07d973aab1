"""`session_lock.migrations` on a real PostgreSQL: what is refused, what is installed, and what is left alone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from session_lock import Limit, PostgresDatabase, Rate, Runner, Settings, each
from session_lock.asking import why
from session_lock.catalog import read_shape
from session_lock.errors import DatabaseError, SchemaError
from session_lock.migrations import check, install, peek, pending_summary, prune, remove, validate
from session_lock.migrations.installation import _turn
from session_lock.migrations.requests import cancel, retry
from session_lock.migrations.sandbox import quiet_settings, sentences
from session_lock.names import quote_name
from session_lock.objects import function_set, index_name
from session_lock.operating import pause
from session_lock.queue_table import queue
from session_lock.schema import SCHEMA_VERSION, render
from session_lock.table import ClaimColumns, TaskTable
from tests.conftest import APP_ROLE
from tests.support import EMAILS, add_emails, apply_mapping


@pytest.fixture
async def app(database, admin) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.app_dsn)
    try:
        yield connection
    finally:
        await connection.close()


EVERYTHING = """
SELECT 'class ' || c.oid || ' ' || c.xmin || ' ' || c.relname FROM pg_class AS c WHERE c.oid > 16383
UNION ALL SELECT 'column ' || a.attrelid || ' ' || a.xmin || ' ' || a.attname FROM pg_attribute AS a WHERE a.attrelid > 16383
UNION ALL SELECT 'function ' || p.oid || ' ' || p.xmin || ' ' || p.proname FROM pg_proc AS p WHERE p.oid > 16383
UNION ALL SELECT 'schema ' || n.oid || ' ' || n.xmin || ' ' || n.nspname FROM pg_namespace AS n WHERE n.nspname !~ '^pg_(toast_)?temp'
UNION ALL SELECT 'type ' || y.oid || ' ' || y.xmin || ' ' || y.typname FROM pg_type AS y WHERE y.oid > 16383
UNION ALL SELECT 'comment ' || d.objoid || ' ' || d.objsubid || ' ' || d.xmin FROM pg_description AS d WHERE d.objoid > 16383
"""


async def everything(connection) -> set[str]:
    """Every object of the database, each with the transaction that wrote it last."""
    return {row[0] for row in await connection.fetch(EVERYTHING)}


async def differences(connection, table, **options) -> list[str]:
    return [str(each) for each in await check(connection, table, **options) if not each.note]


async def notes(connection, table, **options) -> list[str]:
    return [str(each) for each in await check(connection, table, **options) if each.note]


async def work_once(connection, table: TaskTable, *, limit: int = 10) -> list[asyncpg.Record]:
    """One round as a session of this mapping would do it: start, claim, finish, end. Returns what was claimed."""
    shape = await read_shape(connection, table)
    functions, schema = function_set(table, shape), quote_name(table.schema)
    session = await connection.fetchrow(
        f"SELECT * FROM {schema}.start_session($1, $2, 100, 30, 'test', '', '')", table.name, functions
    )
    rows = await connection.fetch(
        f"SELECT * FROM {schema}.get_work_{functions}($1, $2, $3, '{{}}', NULL, NULL, false, NULL, '{{}}', '{{}}')",
        session["id"],
        session["nonce"],
        limit,
    )
    tasks = [row for row in rows if row["kind"] == "task"]
    done = await connection.fetch(
        f"SELECT * FROM {schema}.finish_tasks_{functions}($1, $2, $3, $4)",
        session["id"],
        session["nonce"],
        [row["task_key"] for row in tasks],
        [row["task_token"] for row in tasks],
    )
    assert {row["outcome"] for row in done} <= {"finished"}
    assert len(done) == len(tasks)
    await connection.execute(
        f"SELECT {schema}.end_session_{functions}($1, $2, '{{}}', '{{}}')", session["id"], session["nonce"]
    )
    return tasks


# What is refused -----------------------------------------------------------------------------------


REFUSED = [
    ({"table": "public.emial"}, "there is no table public.emial; did you mean 'public.email'?"),
    ({"table": "nowhere.email"}, "there is no table nowhere.email: create it first, or correct the mapping's `table`"),
    ({"table": "public.email_view"}, "is a view"),
    ({"key": "ids"}, "has no column 'ids' (named by key=); did you mean 'id'?"),
    ({"key": "address"}, "is not unique"),
    ({"key": "body"}, "may be null"),
    ({"key": "sent_at", "columns": ("id",)}, "is of type timestamp with time zone"),
    ({"columns": ("id", "adress")}, "did you mean 'address'?"),
    ({"order_by": ("priority",)}, "has no column 'priority' (named by order_by=)"),
    ({"order_by": ("extra",)}, "cannot be the order of an index"),
    # pending
    ({"pending": "sent_at IS"}, "pending of 'email' does not parse"),
    ({"pending": "sent_on IS NULL"}, 'pending of \'email\' names what is not there (column "sent_on" does not exist)'),
    ({"pending": "email.sent_at IS NULL"}, "without a table's name"),
    ({"pending": "body"}, "is not a condition"),
    ({"pending": "sent_at < now()"}, "is not immutable"),
    ({"pending": "sent_at IS NULL AND random() < 0.5"}, "time belongs into available_at"),
    ({"pending": "sent_at IS NULL AND failed_at < 'now'"}, "is read once and then stands still"),
    ({"pending": "sent_at IS NULL AND failed_at < '2030-01-01'"}, "depends on the session's TimeZone or DateStyle"),
    ({"pending": "sent_at IS NULL AND NOT EXISTS (SELECT FROM public.email)"}, "is no condition over the stored columns of one row"),
    ({"pending": "count(*) = 0"}, "is no condition over the stored columns of one row"),
    ({"pending": "sent_at IS NULL) OR (true"}, "balance its parentheses"),
    ({"pending": "(sent_at IS NULL"}, "does not parse"),
    ({"pending": "sent_at IS NULL, true"}, "is not a condition"),
    ({"pending": "sent_at IS NULL; DROP TABLE public.email"}, "does not parse"),
    ({"pending": "sent_at IS NULL); DROP TABLE public.email; --"}, "does not parse"),
    ({"pending": "sent_at IS NULL); DROP TABLE public.email; SELECT (1"}, "is more than one expression"),
    ({"pending": "sent_at IS NULL /* or so"}, "does not parse"),
    ({"pending": "sent_at IS NULL AND attempts < 5"}, "names the claim column 'attempts'"),
    ({"pending": "true"}, "names no column"),
    ({"pending": "todo(sent_at)"}, "write pending='public.todo(sent_at)'"),
    ({"pending": "state = 'new'::mood"}, "write pending=\"state = 'new'::public.mood\""),
    ({"pending": "address ## 'x'"}, "OPERATOR(public.##)"),
    ({"pending": "$1 IS NULL AND sent_at IS NULL"}, "does not parse"),
    # finish and discard
    ({"finish": "sent_at = "}, "finish of 'email' does not parse"),
    ({"finish": "sent_on = now()"}, "names what is not there"),
    ({"finish": "sent_at = 5"}, "is not of its type"),
    ({"finish": "sent_at = now(); DROP TABLE public.email"}, "does not parse"),
    ({"finish": "sent_at = now() --\n; DELETE FROM public.email"}, "without a semicolon"),
    ({"finish": "sent_at = now() WHERE true --"}, "does not parse"),
    ({"finish": "sent_at = now() FROM public.email AS other"}, "does not parse"),
    ({"finish": "sent_at = now(), session_id = NULL"}, "sets the claim column 'session_id'"),
    ({"finish": "sent_at = now(), attempts = 0"}, "sets the claim column 'attempts'"),
    ({"finish": "sent_at = now(), id = 7"}, "sets the key 'id'"),
    ({"finish": "sent_at = now(), length = 7"}, "sets what cannot be set"),
    ({"finish": "body = 'done'"}, "sets no column that pending looks at (failed_at, sent_at)"),
    ({"finish": "sent_at = stamp()"}, "write finish='sent_at = public.stamp()'"),
    ({"discard": "failed_at = "}, "discard of 'email' does not parse"),
    ({"discard": "body = 'gone'"}, "discard of 'email' sets no column that pending looks at"),
    ({"discard": "available_at = 'infinity'"}, "discard of 'email' sets the claim column 'available_at'"),
]  # fmt: skip

EXTRAS = """
ALTER TABLE public.email ADD COLUMN extra json, ADD COLUMN length integer GENERATED ALWAYS AS (length(address)) STORED;
CREATE TYPE public.mood AS ENUM ('new', 'old');
ALTER TABLE public.email ADD COLUMN state public.mood;
CREATE UNIQUE INDEX ON public.email (body);
CREATE VIEW public.email_view AS SELECT * FROM public.email;
CREATE FUNCTION public.todo(timestamptz) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 IS NULL';
CREATE FUNCTION public.stamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()';
CREATE FUNCTION public.alike(text, text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 = $2';
CREATE OPERATOR public.## (LEFTARG = text, RIGHTARG = text, FUNCTION = public.alike);
"""


async def test_every_mapping_that_cannot_be_served_is_refused_in_one_sentence_before_anything_changes(admin):
    await admin.execute(EXTRAS)
    before = await everything(admin)
    for change, expected in REFUSED:
        table = replace(EMAILS, name="email", **change)
        for action in (validate, install):
            with pytest.raises(SchemaError) as refused:
                await action(admin, table)
            sentence = str(refused.value)
            assert expected in sentence, (change, sentence)
            assert "\n" not in sentence
        assert [str(each) for each in await check(admin, table)] == [sentence]
    assert await everything(admin) == before
    assert await admin.fetchval("SELECT current_setting('search_path')") == '"$user", public'


async def test_the_qualified_forms_that_refusals_give_are_accepted(admin):
    await admin.execute(EXTRAS)
    for change in (
        {"pending": "public.todo(sent_at)", "discard": None},
        {"pending": "sent_at IS NULL AND state = 'new'::public.mood", "discard": None},
        {"pending": "sent_at IS NULL AND state = 'new'", "discard": None},
        {"finish": "sent_at = public.stamp()"},
        {"pending": "sent_at IS NULL AND address OPERATOR(public.##) 'x'", "discard": None},
        {"pending": "sent_at IS NULL AND failed_at < '2030-01-01 00:00:00+00'"},
        {"pending": "sent_at IS NULL -- and nothing else", "discard": None},
        {"pending": "sent_at IS NULL /* and\nnothing else */", "discard": None},
        {"finish": "sent_at = now() -- at last"},
        {"finish": "(sent_at, body) = (SELECT now(), 'x')"},
        {"discard": None},
    ):
        await validate(admin, replace(EMAILS, **change))


@pytest.mark.parametrize("word", ["finish", "discard"])
async def test_finish_and_discard_are_tried_on_a_row_and_rolled_back(admin, word):
    await add_emails(admin, 3)
    with pytest.raises(SchemaError, match=f"{word} of 'email', tried on a row, leaves it pending"):
        await validate(admin, replace(EMAILS, **{word: "sent_at = NULL"}))
    await admin.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER keep BEFORE UPDATE ON public.email FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    with pytest.raises(SchemaError, match="look for a trigger"):
        await validate(admin, EMAILS)
    await admin.execute("DROP TRIGGER keep ON public.email")
    await validate(admin, EMAILS)
    assert (
        await admin.fetchval("SELECT count(*) FROM public.email WHERE sent_at IS NULL AND failed_at IS NULL")
        == 3
    )


async def test_a_row_that_refuses_or_is_locked_does_not_speak_against_the_mapping(database, admin):
    await admin.execute("INSERT INTO public.email (address) VALUES ('forbidden')")
    await validate(admin, EMAILS)  # its CHECK is its own affair
    other = await asyncpg.connect(database.admin_dsn)
    try:
        async with other.transaction():
            await other.execute("UPDATE public.email SET body = 'x'")
            await validate(admin, EMAILS)
    finally:
        await other.close()


@pytest.mark.parametrize("installed", [False, True])
async def test_a_locked_table_is_said_to_be_locked(database, admin, installed):
    if installed:
        await install(admin, EMAILS)
    other = await asyncpg.connect(database.admin_dsn)
    try:
        async with other.transaction():
            await other.execute("LOCK TABLE public.email")
            with pytest.raises(DatabaseError, match="locked by another transaction"):
                await validate(admin, EMAILS)
    finally:
        await other.close()


async def test_claim_columns_that_are_not_ours_are_refused_and_say_whose_they_are(admin):
    await admin.execute("ALTER TABLE public.email ADD COLUMN attempts integer")
    with pytest.raises(
        SchemaError,
        match=r"a column 'attempts' already, that is not session_lock's: .*claim_columns=\{'attempts': \.\.\}",
    ):
        await install(admin, EMAILS)
    claim = ClaimColumns(attempts="tries")
    await install(admin, replace(EMAILS, claim_columns=claim))
    with pytest.raises(SchemaError, match="of the mapping 'email': choose another name with claim_columns="):
        await validate(admin, replace(EMAILS, name="email2", claim_columns=claim))
    with pytest.raises(SchemaError, match="of the mapping 'email'"):  # a name that the other begins with
        await validate(admin, replace(EMAILS, name="ema", claim_columns=claim))
    second = replace(
        EMAILS, name="bounces", pending="failed_at IS NOT NULL AND body IS NULL", finish="body = 'seen'", discard=None,
        claim_columns=ClaimColumns(session_id="s2", claim_token="t2", attempts="a2", available_at="d2"),
    )  # fmt: skip
    await install(admin, second)
    assert await differences(admin, second) == []
    assert await differences(admin, replace(EMAILS, claim_columns=claim)) == []
    await admin.execute("ALTER TABLE public.email ALTER tries TYPE bigint")
    with pytest.raises(SchemaError, match="of type bigint and not integer"):
        await validate(admin, replace(EMAILS, claim_columns=claim))


async def test_one_name_for_two_tables_is_refused(admin):
    await install(admin, EMAILS)
    await admin.execute("CREATE SCHEMA crm; CREATE TABLE crm.email (LIKE public.email INCLUDING INDEXES)")
    await admin.execute(
        "ALTER TABLE crm.email DROP session_id, DROP claim_token, DROP attempts, DROP available_at"
    )
    refusal = (
        'the name \'email\' belongs to the mapping of "public"."email", so a mapping of "crm"."email" cannot have it: '
        "give one of the two another name="
    )
    with pytest.raises(SchemaError, match=f"^{re.escape(refusal)}$"):
        await install(admin, replace(EMAILS, table="crm.email"))
    assert [str(each) for each in await check(admin, replace(EMAILS, table="crm.email"))] == [refusal]
    await install(admin, replace(EMAILS, table="crm.email", name="crm email"))
    await admin.execute("ALTER TABLE public.email RENAME TO letter")
    await install(
        admin, replace(EMAILS, table="public.letter", name="email")
    )  # the same table under its new name


async def test_one_name_for_two_tables_is_refused_by_a_runner_too(database, admin):
    """Files that a migration tool ran were checked by nobody. It is met by a role that may not even look into the schema."""
    await admin.execute('CREATE SCHEMA "c""rm"; CREATE TABLE "c""rm".email (LIKE public.email INCLUDING ALL)')
    theirs = replace(EMAILS, table='"c""rm".email')
    await apply_mapping(admin, EMAILS, grant_to=APP_ROLE)
    changed = replace(EMAILS, columns=("id", "body"))
    await apply_mapping(admin, changed, grant_to=APP_ROLE)
    for mapping in (EMAILS, changed):  # versions of one mapping, side by side
        async with PostgresDatabase(database.app_dsn, mapping) as emails:
            assert (await emails.identity()).mapping == "email"
    await apply_mapping(admin, theirs, grant_to=APP_ROLE)
    for mapping in (EMAILS, theirs):
        async with PostgresDatabase(database.app_dsn, mapping) as emails:
            with pytest.raises(
                SchemaError, match="belongs to the mapping of .*: give one of the two another name="
            ):
                async with asyncio.timeout(20):
                    await Runner(emails, lambda batch: list(batch), Settings(start_jitter=0)).run()
    await admin.execute('ALTER TABLE "c""rm".email RENAME TO letter')
    async with PostgresDatabase(database.app_dsn, EMAILS) as emails:
        await emails.identity()


async def test_a_role_without_rights_is_refused_by_name_with_the_grant(database, admin, app):
    with pytest.raises(SchemaError, match="connect as the role that owns the table"):
        await install(app, EMAILS)
    await admin.execute("ALTER TABLE public.email OWNER TO app; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with pytest.raises(SchemaError, match='GRANT CREATE ON SCHEMA "public" TO "app"'):
        await install(app, EMAILS)
    await admin.execute("GRANT CREATE ON SCHEMA public TO app")
    with pytest.raises(SchemaError, match=f'GRANT CREATE ON DATABASE "{database.name}" TO "app"'):
        await install(app, EMAILS)
    assert await admin.fetchval("SELECT to_regnamespace('session_lock')") is None
    with pytest.raises(SchemaError, match="there is no role 'nobody_here'"):
        await install(admin, EMAILS, grant_to="nobody_here")
    await install(admin, EMAILS)
    with pytest.raises(SchemaError, match='GRANT USAGE, CREATE ON SCHEMA "session_lock" TO "app"'):
        await install(app, EMAILS)
    await admin.execute("GRANT ALL ON SCHEMA session_lock TO app")
    with pytest.raises(SchemaError, match="belong to 'postgres'"):
        await install(app, EMAILS)


async def test_a_role_that_may_not_make_temporary_tables_is_told_which_right_it_lacks(database, admin, app):
    await admin.execute(
        f'REVOKE TEMPORARY ON DATABASE "{database.name}" FROM PUBLIC; ALTER TABLE public.email OWNER TO app'
    )
    with pytest.raises(SchemaError, match="GRANT TEMPORARY ON DATABASE"):
        await validate(app, EMAILS)


async def test_a_pending_over_generated_columns(admin):
    await admin.execute(
        "ALTER TABLE public.email ADD COLUMN open boolean GENERATED ALWAYS AS (sent_at IS NULL AND failed_at IS NULL) STORED"
    )
    await add_emails(admin, 2)
    table = replace(EMAILS, pending="open", name="stored")
    await install(admin, table)
    assert await differences(admin, table) == []
    assert len(await work_once(admin, table)) == 2
    if await admin.fetchval("SELECT current_setting('server_version_num')::integer") >= 180000:
        await admin.execute(
            "ALTER TABLE public.email ADD COLUMN todo boolean GENERATED ALWAYS AS (sent_at IS NULL) VIRTUAL"
        )
        with pytest.raises(SchemaError, match="no condition over the stored columns .*virtual"):
            await validate(admin, replace(table, pending="todo"))


async def test_an_operator_that_the_search_path_decides_is_refused(admin):
    """An index would be built with the one, and the functions would ask with the other."""
    await admin.execute(
        "CREATE DOMAIN public.word AS text; ALTER TABLE public.email ADD COLUMN tag public.word;"
        "CREATE FUNCTION public.same(public.word, text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT lower($1) = lower($2)';"
        "CREATE OPERATOR public.= (LEFTARG = public.word, RIGHTARG = text, FUNCTION = public.same);"
    )
    with pytest.raises(
        SchemaError,
        match=r"means something else under the search_path \"\$user\", public: write pending=.*OPERATOR",
    ):
        await validate(
            admin, replace(EMAILS, pending="sent_at IS NULL AND failed_at IS NULL AND tag = 'x'::text")
        )


async def test_a_schema_that_is_somebody_elses_is_refused(admin):
    await admin.execute("CREATE SCHEMA session_lock; CREATE TABLE session_lock.session (id text)")
    with pytest.raises(SchemaError, match="a table session that is not session_lock's"):
        await install(admin, EMAILS)


# What is installed ---------------------------------------------------------------------------------


async def test_install_does_what_is_missing_and_touches_nothing_else(admin):
    done = await install(admin, EMAILS, grant_to="app")
    assert len(done) == 6
    assert await differences(admin, EMAILS, role="app") == []
    before = await everything(admin)
    assert await install(admin, EMAILS, grant_to="app") == []
    assert await everything(admin) == before
    await admin.execute("DROP INDEX public." + index_name(await functions_of(admin, EMAILS)))
    assert [text[:15] for text in await install(admin, EMAILS)] == ["built the index"]
    kinds = {each.split(" ")[0] for each in before - await everything(admin)}
    assert kinds <= {"class", "column"}, "the index, and the table's row in pg_class"


async def functions_of(connection, table) -> str:
    return function_set(table, await validate(connection, table))


async def test_what_was_installed_works_for_a_role_that_may_only_execute(admin, app):
    await add_emails(admin, 3)
    await install(admin, EMAILS, grant_to="app")
    assert [row["address"] for row in await work_once(app, EMAILS)] == [
        f"a{i}@example.org" for i in (1, 2, 3)
    ]
    assert await admin.fetchval("SELECT count(*) FROM public.email WHERE sent_at IS NOT NULL") == 3
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.fetch("SELECT * FROM session_lock.session")


async def test_a_role_that_is_no_superuser_installs_what_it_owns(database, admin, app):
    await admin.execute(
        f'GRANT CREATE ON SCHEMA public TO app; GRANT CREATE ON DATABASE "{database.name}" TO app'
    )
    await admin.execute("ALTER TABLE public.email OWNER TO app")
    await add_emails(app, 2)
    await install(app, EMAILS)
    assert await differences(app, EMAILS) == []
    assert any("a service that connects as that role can end" in note for note in await notes(app, EMAILS))
    assert not any("superuser" in note for note in await notes(app, EMAILS))
    assert len(await work_once(app, EMAILS)) == 2


async def test_ten_installations_at_once_do_not_collide(database, admin):
    await add_emails(admin, 100)
    connections = [await asyncpg.connect(database.admin_dsn) for _ in range(10)]
    try:
        done = await asyncio.gather(
            *(install(connection, EMAILS, grant_to="app") for connection in connections)
        )
    finally:
        for connection in connections:
            await connection.close()
    assert sorted(len(each) for each in done) == [0] * 9 + [6]
    assert await differences(admin, EMAILS, role="app") == []


async def test_an_index_whose_build_failed_is_told_and_built_again(database, admin):
    await install(admin, EMAILS)
    name = index_name(await functions_of(admin, EMAILS))
    await admin.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::text::regclass", f"public.{name}"
    )
    assert await differences(admin, EMAILS) == [
        f"the index public.{name} is invalid (its build failed, or is not done yet): run session-lock install"
    ]
    assert await install(admin, EMAILS) == [f"built the index {name} on public.email"]
    assert await differences(admin, EMAILS) == []


TYPES = {
    "smallint": "smallint PRIMARY KEY",
    "integer": "integer PRIMARY KEY",
    "bigint": "bigint PRIMARY KEY",
    "uuid": "uuid PRIMARY KEY",
    "text": "text PRIMARY KEY",
    "text collated": 'text COLLATE "C" PRIMARY KEY',
    "varchar": "varchar(40) PRIMARY KEY",
    "unique": "text NOT NULL UNIQUE",
}


@pytest.mark.fault("D25")
@pytest.mark.parametrize("type_", TYPES.values(), ids=list(TYPES))
async def test_all_key_types(admin, type_):
    await admin.execute(
        f"CREATE TABLE public.thing (k {type_}, done boolean NOT NULL DEFAULT false, tags text[], price numeric(9,2))"
    )
    value = "gen_random_uuid()" if "uuid" in type_ else "g"
    await admin.execute(f"INSERT INTO public.thing (k) SELECT {value} FROM generate_series(1, 5) AS g")
    table = TaskTable(
        "thing", key="k", pending="NOT done", finish="done = true", columns=("k", "tags", "price")
    )
    await install(admin, table)
    assert await differences(admin, table) == []
    assert len(await work_once(admin, table)) == 5
    assert await install(admin, table) == []


async def test_types_and_orders_of_the_users_own(admin):
    await admin.execute(
        "CREATE TYPE public.mood AS ENUM ('new', 'old'); CREATE DOMAIN public.price AS numeric(9, 2);"
        "CREATE TABLE public.thing (id integer PRIMARY KEY, state public.mood NOT NULL DEFAULT 'new', price public.price, moods public.mood[],"
        " priority integer)"
    )
    await admin.execute("INSERT INTO public.thing (id, priority) VALUES (1, 1), (2, NULL), (3, 5)")
    table = TaskTable(
        "thing", key="id", pending="state = 'new'", finish="state = 'old'", columns=("id", "state", "price", "moods"),
        order_by=("priority DESC", "available_at"),
    )  # fmt: skip
    await install(admin, table)
    name = await functions_of(admin, table)
    await admin.execute("SET search_path = pg_catalog")
    assert await functions_of(admin, table) == name, (
        "the search_path of a connection is not part of a mapping"
    )
    assert await differences(admin, table) == []
    assert [row["id"] for row in await work_once(admin, table)] == [2, 3, 1]


async def test_a_pending_that_ends_in_a_comment(admin):
    await add_emails(admin, 2)
    table = replace(
        EMAILS,
        pending="sent_at IS NULL -- not yet",
        finish="sent_at = now() -- now",
        discard="failed_at = now() --",
    )
    with pytest.raises(SchemaError, match="discard of 'email' sets no column"):
        await validate(admin, table)
    table = replace(table, discard="sent_at = '-infinity' --")
    await install(admin, table)
    assert await differences(admin, table) == []
    assert len(await work_once(admin, table)) == 2


# Names ---------------------------------------------------------------------------------------------


ODD = [
    'with "quotes"', "it's", "semi;colon", "dot.ted", "Grüße 漢字", "back\\slash", "$$", "$1", "%s %I %", "{braces}", "__key__",
    "__table__", "-- comment", "/* open", "select", "new\nline", "tab\there", "x" * 63, "é" * 31, ":name", "session_lock", "a'||'b", "İ",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
async def test_odd_names_everywhere(admin, name):
    q = quote_name(name)
    key = "k" if name == "session_lock" else name
    await admin.execute(
        f"CREATE SCHEMA {q}; CREATE TABLE {q}.{q} ({quote_name(key)} text PRIMARY KEY, {quote_name('c' + name[:61])} text)"
    )
    other = "c" + name[:61]
    await admin.execute(f"INSERT INTO {q}.{q} VALUES ('a'), ('b')")
    table = TaskTable(
        f"{q}.{q}", key=key, pending=f"{quote_name(other)} IS NULL", finish=f"{quote_name(other)} = 'done'", columns=(key, other),
        schema=name if name == "session_lock" else f"s{name[:61]}",
    )  # fmt: skip
    assert table.name == name
    done = await install(admin, table, grant_to="app")
    assert len(done) == 6
    assert await install(admin, table, grant_to="app") == []
    assert await differences(admin, table, role="app") == []
    assert [row[key] for row in await peek(admin, table)] == ["a", "b"]
    assert (await why(admin, table, "b")).why == "no session is live: no Runner of this mapping runs"
    assert len(await work_once(admin, table)) == 2
    assert await prune(admin, table) == []
    with pytest.raises(SchemaError, match="of the mapping"):
        await validate(admin, replace(table, name="another"))


COLUMNS = (
    "key", "token", "id", "attempt", "my", "t", "held", "kind", "position", "p_id", "v_now", "outcome", "task_key", "clock", "name",
    "want", "claim", "task", "rank", "next_due", "standing", "column_1", "ended", "start", "keys", "limit", "s", "c", "h", "left", "at",
    "due", "head", "holder", "parts", "value",
)  # fmt: skip


@pytest.mark.parametrize("key", ["key", "token", "id", "my", "t", "p_id", "task_key", "kind"])
async def test_columns_with_the_names_of_our_own_variables(admin, key):
    columns = ", ".join(
        f"{quote_name(c)} {'bigint PRIMARY KEY' if c == key else 'bigint NOT NULL DEFAULT 0'}"
        for c in COLUMNS
    )
    await admin.execute(f"CREATE TABLE public.odd ({columns})")
    await admin.execute(
        f"INSERT INTO public.odd ({quote_name(key)}) SELECT g FROM generate_series(1, 20) AS g"
    )
    done = "held" if key != "held" else "want"
    table = TaskTable(
        "odd", key=key, columns=COLUMNS, finish=f"{quote_name(done)} = {quote_name(done)} + 1",
        pending=" AND ".join(f"{quote_name(c)} = 0" for c in COLUMNS if c != key),
    )  # fmt: skip
    await install(admin, table)
    assert await differences(admin, table) == []
    assert [row["task_key"] for row in await work_once(admin, table, limit=5)] == [1, 2, 3, 4, 5]
    for number, untrue in (("5", 1), ("6", 0)):
        found = await why(admin, table, number)
        assert len(found.conditions) == len(COLUMNS) - 1
        assert sum(not each.holds for each in found.conditions) == untrue
    assert await admin.fetchval(f"SELECT count(*) FROM public.odd WHERE {quote_name(done)} = 1") == 5


# Versions side by side -----------------------------------------------------------------------------


async def start(connection, table, functions, *, ttl: float = 30) -> asyncpg.Record:
    return await connection.fetchrow(
        "SELECT * FROM session_lock.start_session($1, $2, 10, $3, 'old-host:7', '', '')",
        table.name,
        functions,
        ttl,
    )


@pytest.mark.fault("D30")
async def test_two_versions_of_a_mapping_work_side_by_side_until_the_old_one_is_pruned(admin):
    await add_emails(admin, 4)
    old, new = (
        EMAILS,
        replace(
            EMAILS,
            columns=("id", "address"),
            pending="sent_at IS NULL AND failed_at IS NULL AND address <> ''",
        ),
    )
    with pytest.raises(SchemaError, match="is not installed: run session-lock install"):
        await prune(admin, old)
    await install(admin, old)
    with pytest.raises(SchemaError, match="is not installed"):
        await prune(admin, new)  # or nothing would be left
    old_set = await functions_of(admin, old)
    session = await start(admin, old, old_set)
    done = await install(admin, new)
    assert len(done) == 2, done  # its index and its functions
    assert await differences(admin, old) == await differences(admin, new) == []
    assert any("another version of this mapping" in note for note in await notes(admin, new))
    assert len(await work_once(admin, old, limit=2)) == 2
    assert len(await work_once(admin, new, limit=2)) == 2

    before = await everything(admin)
    with pytest.raises(
        SchemaError, match=rf"{old_set} is in use by the live session {session['id']} \(old-host:7\)"
    ):
        await prune(admin, new)
    assert await everything(admin) == before
    await admin.execute(
        "UPDATE session_lock.session SET expires_at = clock_timestamp() WHERE id = $1", session["id"]
    )
    done = await prune(admin, new)
    assert done == [f"dropped the 11 functions of {old_set}", f"dropped the index public.pending_{old_set}"]
    assert await prune(admin, new) == []
    assert await differences(admin, new) == []
    assert any("is missing" in text for text in await differences(admin, old))


async def test_prune_leaves_other_mappings_alone_whatever_they_are_called(admin):
    await admin.execute(
        "CREATE TABLE public.letter (id bigint PRIMARY KEY, sent_at timestamptz, failed_at timestamptz)"
    )
    letters = replace(EMAILS, table="public.letter", name="e-mail", columns=("id",))
    parcels = replace(
        EMAILS, name="e mail", columns=("id",),
        claim_columns=ClaimColumns(session_id="s2", claim_token="t2", attempts="a2", available_at="d2"),
    )  # fmt: skip
    first = replace(EMAILS, name="e_mail")  # one word in the names of functions: e_mail
    for table in (letters, parcels, first):
        await install(admin, table)
    for table in (letters, parcels, first):
        assert await prune(admin, table) == []
        assert await differences(admin, table) == []


async def test_prune_deletes_old_sessions_and_failures(admin):
    await install(admin, EMAILS)
    await admin.execute(
        "INSERT INTO session_lock.session (name, capacity, started_at, expires_at, ended_at, swept_at)"
        " SELECT n, 1, at, at, at, swept FROM (VALUES ('email', now() - interval '8 days', now() - interval '8 days'),"
        " ('email', now() - interval '8 days', NULL), ('email', now() - interval '6 days', now() - interval '6 days'),"
        " ('other', now() - interval '8 days', now() - interval '8 days')) AS v (n, at, swept)"
    )
    await admin.execute(
        "INSERT INTO session_lock.failure (name, task_key, attempt, at, session, error)"
        " SELECT n, '1', 1, now() - d * interval '1 day', 1, 'x' FROM (VALUES ('email', 31), ('email', 29), ('other', 31), ('email', 40)) AS v (n, d)"
    )
    assert await prune(admin, EMAILS) == ["deleted 1 old session", "deleted 2 old failures"]
    assert await admin.fetchval("SELECT count(*) FROM session_lock.session") == 3
    assert await prune(admin, EMAILS, sessions_kept=timedelta(days=1), failures_kept=timedelta(days=1)) == [
        "deleted 1 old session", "deleted 1 old failure"
    ]  # fmt: skip


async def version(connection, offered: int, serves: int) -> None:
    await connection.execute(
        "CREATE OR REPLACE FUNCTION session_lock.schema_version(OUT version integer, OUT serves integer)"
        f" LANGUAGE sql STABLE AS $$ SELECT {offered}, {serves} $$"
    )


@pytest.mark.fault("D30")
async def test_the_schema_of_a_newer_library_that_serves_this_one_is_used_and_left_alone(admin):
    await install(admin, EMAILS)
    await admin.execute("ALTER TABLE session_lock.session ADD COLUMN added_later text")
    await admin.execute(
        "CREATE FUNCTION session_lock.bump_session_v2() RETURNS integer LANGUAGE sql AS 'SELECT 1'"
    )
    newer = SCHEMA_VERSION + 1
    await version(admin, newer, 1)
    assert await differences(admin, EMAILS) == []
    assert any(
        f"version {newer}, newer than this library's {SCHEMA_VERSION}, which it serves" in note
        for note in await notes(admin, EMAILS)
    )
    changed = replace(EMAILS, columns=("id",))
    assert len(await install(admin, changed)) == 2
    assert await admin.fetchval("SELECT version FROM session_lock.schema_version()") == newer
    await add_emails(admin, 1)
    assert len(await work_once(admin, changed)) == 1


@pytest.mark.fault("D30")
@pytest.mark.parametrize("column", ["beat_at", "idle_from"])
async def test_the_sessions_of_an_earlier_schema_get_the_columns_that_they_lack(admin, column):
    """And those of it go on."""
    await install(admin, EMAILS)
    await admin.execute(f"ALTER TABLE session_lock.session DROP COLUMN {column}")
    await version(admin, SCHEMA_VERSION - 1, SCHEMA_VERSION - 1)
    session = await admin.fetchrow(
        "SELECT id, nonce FROM session_lock.start_session('email', '', 10, 30, 'old-host:7', '', '')"
    )
    await install(admin, EMAILS)
    await admin.fetchrow("SELECT * FROM session_lock.bump_session($1, $2, 30, false, 0)", *session)
    assert await differences(admin, EMAILS) == []


@pytest.mark.fault("D30")
async def test_a_schema_that_is_too_new_or_too_old_is_told_with_the_remedy(admin):
    await install(admin, EMAILS)
    newer = SCHEMA_VERSION + 1
    await version(admin, newer + 1, newer)
    before = await everything(admin)
    (text,) = await differences(admin, EMAILS)
    assert f"has version {newer + 1} and serves libraries of version {newer} and later" in text
    assert "upgrade session-lock here" in text
    with pytest.raises(SchemaError, match="upgrade session-lock here"):
        await install(admin, EMAILS)
    assert await everything(admin) == before
    await version(admin, 0, 0)
    assert (await differences(admin, EMAILS))[0] == (
        f"the schema 'session_lock' has version 0, older than this library's {SCHEMA_VERSION}: run session-lock install"
    )
    assert await install(admin, EMAILS) == ["made the functions of the schema 'session_lock'"]
    assert await differences(admin, EMAILS) == []


# What check sees -----------------------------------------------------------------------------------


BROKEN = [
    ("DROP TABLE session_lock.failure", "the table session_lock.failure is missing"),
    (
        "ALTER TABLE session_lock.session DROP COLUMN label",
        "the column session_lock.session.label is missing",
    ),
    ("DROP INDEX session_lock.session_unswept", "the index session_lock.session_unswept is missing"),
    ("DROP FUNCTION session_lock.clock()", "the function session_lock.clock() is missing"),
    (
        "CREATE OR REPLACE FUNCTION session_lock.clock() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()'",
        "the function session_lock.clock() is not the one of this library",
    ),
    (
        "ALTER FUNCTION session_lock.finish_in_{set} SECURITY INVOKER",
        "finish_in_{set}(bigint, uuid, bigint[], bigint[]) is not the one",
    ),
    ("ALTER FUNCTION session_lock.get_work_{set} RESET search_path", "is not the one of this library"),
    (
        "GRANT EXECUTE ON FUNCTION session_lock.get_work_{set} TO PUBLIC",
        "everybody (PUBLIC) may execute session_lock.get_work_{set}",
    ),
    (
        "DROP FUNCTION session_lock.end_session_{set}",
        "end_session_{set}(bigint, uuid, bigint[], bigint[]) is missing",
    ),
    ("ALTER TABLE public.email DROP COLUMN claim_token", "the column public.email.claim_token is missing"),
    ("ALTER TABLE public.email ALTER attempts DROP NOT NULL", 'ALTER COLUMN "attempts" SET NOT NULL'),
    ("ALTER TABLE public.email ALTER attempts SET DEFAULT 1", "SET DEFAULT 0"),
    ("ALTER TABLE public.email ALTER available_at DROP DEFAULT", "SET DEFAULT now()"),
    ("COMMENT ON COLUMN public.email.attempts IS NULL", "not session_lock's"),
    ("DROP INDEX public.pending_{set}", "the index public.pending_{set} is missing"),
    (
        "DROP INDEX public.pending_{set}; CREATE INDEX pending_{set} ON public.email (available_at, id) WHERE sent_at IS NULL",
        "the index public.pending_{set} has another definition",
    ),
    (
        "DROP INDEX public.pending_{set}; CREATE INDEX pending_{set} ON public.email (available_at DESC, id) WHERE sent_at IS NULL AND failed_at IS NULL",
        "the index public.pending_{set} has another definition",
    ),
    ("REVOKE USAGE ON SCHEMA session_lock FROM app", "the role 'app' may not use the schema 'session_lock'"),
    (
        "REVOKE EXECUTE ON FUNCTION session_lock.finish_in_{set} FROM app",
        "the role 'app' may not execute session_lock.finish_in_{set}",
    ),
]


async def test_check_names_each_difference_with_its_remedy(admin):
    await install(admin, EMAILS, grant_to="app")
    name = await functions_of(admin, EMAILS)
    for statement, expected in BROKEN:
        transaction = admin.transaction()
        await transaction.start()
        await admin.execute(statement.replace("{set}", name))
        found = await differences(admin, EMAILS, role="app")
        await transaction.rollback()
        assert any(expected.replace("{set}", name) in text for text in found), (statement, found)
    assert await differences(admin, EMAILS, role="nobody_here") == [
        "there is no role 'nobody_here': create it, or name another"
    ]
    assert await differences(admin, EMAILS, role="app") == []


async def test_before_anything_is_installed_everything_is_missing(admin):
    found = await differences(admin, EMAILS)
    assert len(found) > 15
    assert all("is missing: run session-lock install" in text for text in found)


async def test_the_advice_for_triggers_spares_them(admin):
    await admin.execute(
        "ALTER TABLE public.email ADD COLUMN extra json, ADD COLUMN size integer GENERATED ALWAYS AS (length(address)) STORED;"
        "CREATE TABLE public.fired (name text);"
        "CREATE FUNCTION public.fire() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN INSERT INTO public.fired VALUES (TG_NAME); RETURN NEW; END$$;"
        "CREATE TRIGGER by_row BEFORE UPDATE ON public.email FOR EACH ROW EXECUTE FUNCTION public.fire();"
        "CREATE TRIGGER mixed AFTER INSERT OR UPDATE ON public.email FOR EACH ROW EXECUTE FUNCTION public.fire();"
        "CREATE TRIGGER by_statement AFTER UPDATE ON public.email FOR EACH STATEMENT EXECUTE FUNCTION public.fire();"
        "CREATE TRIGGER inserts AFTER INSERT ON public.email FOR EACH ROW EXECUTE FUNCTION public.fire();"
    )
    await add_emails(admin, 1)
    await install(admin, EMAILS)
    texts = [text for text in await notes(admin, EMAILS) if "the trigger '" in text]
    assert [text.split("'")[1] for text in texts] == ["by_row", "by_statement", "mixed"]
    remedies = {text.split("'")[1]: text.partition("to spare it: ")[2] for text in texts}
    await admin.execute(
        "DROP TRIGGER by_row ON public.email; DROP TRIGGER mixed ON public.email; DROP TRIGGER by_statement ON public.email;"
        f"CREATE TRIGGER by_row BEFORE UPDATE ON public.email FOR EACH ROW {remedies['by_row']} EXECUTE FUNCTION public.fire();"
        f"CREATE TRIGGER mixed AFTER INSERT OR {remedies['mixed']} ON public.email FOR EACH ROW EXECUTE FUNCTION public.fire();"
        f"CREATE TRIGGER by_statement AFTER {remedies['by_statement']} ON public.email EXECUTE FUNCTION public.fire();"
        "TRUNCATE public.fired"
    )
    assert [text for text in await notes(admin, EMAILS) if "the trigger '" in text] == []
    assert len(await work_once(admin, EMAILS)) == 1
    fired = [row["name"] for row in await admin.fetch("SELECT name FROM public.fired ORDER BY name")]
    assert fired == ["by_row", "by_statement", "mixed"], "once each, at the finish"


async def test_notes_about_what_will_see_the_claims(admin):
    await install(admin, EMAILS)
    await admin.execute(
        "ALTER TABLE public.email ENABLE ROW LEVEL SECURITY; CREATE PUBLICATION news FOR TABLE public.email;"
        "CREATE INDEX by_session ON public.email (session_id); CREATE INDEX tried ON public.email (address) WHERE attempts > 3"
    )
    text = "\n".join(await notes(admin, EMAILS))
    for expected in (
        "row security is on for public.email, and does not bind the functions",
        "the publication 'news' sends every claim",
        "the index by_session contains the claim column 'session_id'",
        "the index tried contains the claim column 'attempts'",
        "the functions run as 'postgres', a superuser",
        "fillfactor of public.email is 100, 50 is advised",
    ):
        assert expected in text
    assert await differences(admin, EMAILS) == []
    await admin.execute("GRANT SELECT, UPDATE, DELETE ON session_lock.session TO app")
    assert any(
        "'app' can read and write the sessions itself" in note
        for note in await notes(admin, EMAILS, role="app")
    )


async def test_a_note_that_the_search_path_leads_to_another_table(admin):
    bare = replace(EMAILS, table="email")
    await admin.execute("CREATE SCHEMA app; SET search_path = app, public")
    about = "by the search_path of this connection"
    assert about not in "".join(await notes(admin, bare))
    await admin.execute("CREATE TABLE app.email ()")
    (told,) = [text for text in await notes(admin, bare) if about in text]
    assert told.startswith(f"the mapping is of public.email, and {about} email is app.email: name the schema")
    assert about not in "".join(await notes(admin, EMAILS)), "that one says which it is"


# Looks ---------------------------------------------------------------------------------------------


async def test_pending_is_told_before_and_after_the_installation(admin):
    assert str(await pending_summary(admin, EMAILS)) == "0 rows of public.email are pending"
    await add_emails(admin, 1)
    assert str(await pending_summary(admin, EMAILS)) == "1 row of public.email is pending"
    await install(admin, EMAILS)
    await admin.execute("UPDATE public.email SET available_at = now() - interval '3 days 2 hours'")
    assert (
        str(await pending_summary(admin, EMAILS))
        == "1 row of public.email is pending, the oldest due for 3 days"
    )
    await add_emails(admin, 100_500)
    assert (
        str(await pending_summary(admin, EMAILS))
        == "more than 100,000 rows of public.email are pending, the oldest due for 3 days"
    )


async def test_peek_shows_what_would_run_and_claims_nothing(admin):
    await add_emails(admin, 4)
    assert [dict(row) for row in await peek(admin, EMAILS, 1)] == [
        {"id": "1", "address": "a1@example.org", "body": None}
    ]
    await install(admin, EMAILS)
    live = await start(admin, EMAILS, "x")
    await admin.execute("UPDATE public.email SET session_id = $1 WHERE id = 1", live["id"])
    await admin.execute("UPDATE public.email SET available_at = 'infinity' WHERE id = 2")
    await admin.execute("UPDATE public.email SET available_at = now() - interval '1 day' WHERE id = 4")
    rows = await peek(admin, EMAILS)
    assert [row["id"] for row in rows] == ["4", "3"]
    assert rows[0]["attempts"] == "0"
    await admin.execute("UPDATE session_lock.session SET expires_at = now()")
    assert [row["id"] for row in await peek(admin, EMAILS)] == ["4", "1", "3"]
    assert await admin.fetchval("SELECT count(*) FROM public.email WHERE claim_token IS NULL") == 4
    with pytest.raises(SchemaError, match="could not be asked for"):
        await peek(admin, replace(EMAILS, pending="sent_on IS NULL"))


async def test_what_down_takes_away_is_all_of_it(admin):
    before = {re.sub(r" \d+", "", each) for each in await everything(admin)}
    await install(admin, EMAILS, grant_to="app")
    shape = await validate(admin, EMAILS)
    await admin.execute(render("tasks.down.sql", EMAILS, shape))
    await admin.execute(render("sessions.down.sql", EMAILS, shape))
    after = {re.sub(r" \d+", "", each) for each in await everything(admin) if "pg.dropped" not in each}
    assert after == before


async def test_within_a_transaction_it_is_part_of_that(admin):
    before = await everything(admin)
    with pytest.raises(ZeroDivisionError):
        async with admin.transaction():
            await install(admin, EMAILS, grant_to="app")
            assert [str(each) for each in await check(admin, EMAILS) if not each.note] == []
            assert await admin.fetchval("SHOW search_path") == '"$user", public'
            raise ZeroDivisionError
    left = [re.sub(r" \d+", "", each) for each in await everything(admin)]
    assert left == [re.sub(r" \d+", "", each) for each in before]


async def test_within_a_transaction_no_index_is_built_on_rows(admin):
    await admin.execute("INSERT INTO public.email (address) VALUES ('a')")
    before = await everything(admin)
    async with admin.transaction():
        with pytest.raises(SchemaError, match="public.email has rows, and to build its index pending_email_"):
            await install(admin, EMAILS)
        assert await admin.fetchval("SHOW search_path") == '"$user", public', "the transaction is of use"
    assert await everything(admin) == before
    await install(admin, EMAILS)
    await admin.execute(
        "CREATE OR REPLACE FUNCTION session_lock.clock() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()'"
    )
    async with admin.transaction():
        assert await install(admin, EMAILS) == ["made the functions of the schema 'session_lock'"]


async def test_within_a_transaction_it_waits_for_no_other_installation(admin, database):
    await admin.execute("CREATE TABLE public.sale (id int PRIMARY KEY, done boolean)")
    sales = TaskTable("sale", key="id", pending="done IS NULL", finish="done = true")
    other = await asyncpg.connect(database.admin_dsn)
    try:
        async with other.transaction():
            await install(other, sales)
            async with admin.transaction():
                with pytest.raises(DatabaseError, match="another installation .* is under way: try again"):
                    await install(admin, EMAILS)
    finally:
        await other.close()


async def test_remove_is_the_way_back(admin, database):
    before = {re.sub(r" \d+", "", each) for each in await everything(admin)}
    await install(admin, EMAILS)
    await admin.execute("INSERT INTO public.email (address) VALUES ('a')")
    async with PostgresDatabase(database.admin_dsn, EMAILS) as emails:
        lease = await emails.start_session(capacity=1, ttl=30, label="", app_version="")
        with pytest.raises(
            SchemaError, match="'email' cannot be removed while 1 of its sessions is live: stop"
        ):
            await remove(admin, EMAILS)
        await emails.end_session(lease, [])
    await remove(admin, EMAILS)
    assert await admin.fetchval("SELECT count(*) FROM public.email") == 1
    await admin.execute("DROP SCHEMA session_lock CASCADE")  # which other mappings may share
    after = {re.sub(r" \d+", "", each) for each in await everything(admin) if "pg.dropped" not in each}
    assert after == before


CHANGED = {
    "order": (EMAILS, replace(EMAILS, order_by=("id",))),
    "limits": (EMAILS, replace(EMAILS, limits=(Limit(2), Limit(1, by="address"), Rate(9, per=60)))),
    "columns": (
        EMAILS,
        replace(
            EMAILS,
            claim_columns=ClaimColumns(session_id="s2", claim_token="t2", attempts="a2", available_at="d2"),
        ),
    ),
    "queue": (queue("jobs"), replace(queue("jobs"), limits=(Limit(2),))),
}


@pytest.mark.parametrize("pruned", [False, True], ids=["both", "pruned"])
@pytest.mark.parametrize("newest", [False, True], ids=["first", "newest"])
@pytest.mark.parametrize("change", CHANGED)
async def test_remove_takes_away_every_version(admin, change, newest, pruned):
    before = {re.sub(r" \d+", "", each) for each in await everything(admin)}
    first, changed = CHANGED[change]
    await install(admin, first)
    await install(admin, changed)
    if pruned:
        await prune(admin, changed)
    await remove(admin, changed if newest else first)
    left = "SELECT proname FROM pg_proc WHERE proname ~ '_(email|jobs)_[0-9a-f]{8}$'"
    assert await admin.fetch(left) == []
    await admin.execute("DROP SCHEMA session_lock CASCADE")  # which other mappings may share
    after = {re.sub(r" \d+", "", each) for each in await everything(admin) if "pg.dropped" not in each}
    assert after == before


async def test_remove_leaves_one_of_the_same_name_in_another_schema_alone(admin):
    """It has columns of its own, whose comments say the same."""
    columns = ClaimColumns(session_id="s2", claim_token="t2", attempts="a2", available_at="d2")
    other = replace(EMAILS, schema="elsewhere", claim_columns=columns)
    await install(admin, other)
    before = {re.sub(r" \d+", "", each) for each in await everything(admin)}
    await install(admin, EMAILS)
    await remove(admin, EMAILS)
    await admin.execute("DROP SCHEMA session_lock CASCADE")
    after = {re.sub(r" \d+", "", each) for each in await everything(admin) if "pg.dropped" not in each}
    assert after == before
    assert [each for each in await check(admin, other) if not each.note] == []


async def test_what_down_takes_away_is_all_of_it_after_a_change_too(admin):
    """By the file of the first version, which knows nothing of the second; and the sessions' go with it."""
    before = {re.sub(r" \d+", "", each) for each in await everything(admin)}
    await install(admin, EMAILS)
    shape = await validate(admin, EMAILS)
    await install(admin, CHANGED["limits"][1])
    for name in ("down.lock.sql", "tasks.down.sql", "sessions.down.sql"):
        await admin.execute(render(name, EMAILS, shape))
    after = {re.sub(r" \d+", "", each) for each in await everything(admin) if "pg.dropped" not in each}
    assert after == before


async def test_remove_leaves_other_mappings_alone_whatever_they_are_called(admin):
    """All three are one word in the names of functions; two are over one table."""
    await admin.execute(
        "CREATE TABLE public.letter (id bigint PRIMARY KEY, sent_at timestamptz, failed_at timestamptz)"
    )
    letters = replace(EMAILS, table="public.letter", name="e-mail", columns=("id",))
    own = ClaimColumns(session_id="s2", claim_token="t2", attempts="a2", available_at="d2")
    parcels = replace(EMAILS, name="e mail", columns=("id",), claim_columns=own)
    mails = replace(EMAILS, name="e_mail")
    for table in (letters, parcels, mails, replace(mails, order_by=("id",))):
        await install(admin, table)
    await remove(admin, mails)
    assert any("is missing" in text for text in await differences(admin, mails))
    for table in (letters, parcels):
        assert await differences(admin, table) == []


async def test_remove_takes_what_a_prune_has_left_that_was_interrupted(admin):
    await install(admin, EMAILS)
    own = "CREATE INDEX pending_email_00000000 ON public.email (id)"
    await admin.execute(f"{own}; CREATE INDEX values_email_11111111 ON public.email (id)")
    await remove(admin, EMAILS)
    left = "SELECT indexrelid::regclass::text AS name FROM pg_index WHERE indrelid = 'public.email'::regclass AND NOT indisprimary"
    assert [row["name"] for row in await admin.fetch(left)] == ["pending_email_00000000"], "that may be yours"


async def test_remove_names_the_sessions_that_are_live_and_until_when(admin):
    await install(admin, EMAILS)
    functions = await functions_of(admin, EMAILS)
    session = await start(admin, EMAILS, functions)
    refused = (
        r"^'email' cannot be removed while 1 of its sessions is live: stop the Runners first; if none runs any more, wait for the lease of "
        rf"{session['id']} \(old-host:7\): it ends in (30|29|28) seconds, at \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC$"
    )
    with pytest.raises(SchemaError, match=refused):
        await remove(admin, replace(EMAILS, order_by=("id",)))  # of whichever version it is
    last = [await start(admin, EMAILS, functions, ttl=400) for _ in range(6)][-1]
    refused = rf"while 7 of its .* are live: .* wait for the leases of {last['id']} \(old-host:7\), .* and 2 more: the last one ends in 6 minutes, at "
    with pytest.raises(SchemaError, match=refused):
        await remove(admin, EMAILS)
    await admin.execute("UPDATE session_lock.session SET expires_at = clock_timestamp()")
    await remove(admin, EMAILS)


async def test_who_may_not_write_is_told_why(admin):
    """On a primary it is no standby that is in the way."""
    await install(admin, EMAILS)
    await add_emails(admin, 1)
    await admin.execute("SET default_transaction_read_only = on")
    setting = (
        r": cannot execute .* in a read-only transaction: default_transaction_read_only of the role (\w+|\".*\") is on: "
        r"ALTER ROLE \1 IN DATABASE \w+ SET default_transaction_read_only = off, and connect anew$"
    )
    for work in (
        lambda: cancel(admin, EMAILS, "1"),
        lambda: retry(admin, EMAILS, None),
        lambda: remove(admin, EMAILS),
        lambda: pause(admin, "session_lock", "email", "session-lock install"),
    ):
        with pytest.raises((SchemaError, DatabaseError), match=setting):
            await work()
    await admin.execute("SET default_transaction_read_only = off")
    async with admin.transaction(readonly=True):
        with pytest.raises(
            SchemaError, match="transaction: the transaction was begun READ ONLY: begin it READ WRITE$"
        ):
            await retry(admin, EMAILS, None)
        with pytest.raises(SchemaError, match="READ ONLY: begin it READ WRITE$"):
            await remove(admin, EMAILS)
    told = "connect to the primary if this is a standby, else see to it that default_transaction_read_only is off for this role$"
    with pytest.raises(DatabaseError, match=told):  # it has failed, and nothing more is answered in it
        async with admin.transaction(readonly=True):
            await pause(admin, "session_lock", "email", "session-lock install")


async def test_and_so_it_is_in_the_log_of_a_runner(admin, database, caplog):
    await install(admin, EMAILS, grant_to=APP_ROLE)
    dsn = f"{database.app_dsn}?default_transaction_read_only=on"
    async with PostgresDatabase(dsn, EMAILS) as emails, Runner(emails, each(print)) as runner:
        while not caplog.records:
            await asyncio.sleep(0.01)
        assert not runner.ready
    name = await admin.fetchval("SELECT quote_ident(current_database())")
    assert caplog.records[0].getMessage() == (
        "no session yet: start_session (email): cannot execute INSERT in a read-only transaction: default_transaction_read_only of the "
        f"role {APP_ROLE} is on: ALTER ROLE {APP_ROLE} IN DATABASE {name} SET default_transaction_read_only = off, and connect anew"
    )


async def test_a_standby_is_named_where_there_is_one():
    class Standby:
        async def fetch(self, _query):
            return [{"standby": True, "read_only": True, "role": "app", "database": "shop"}]

    refused = asyncpg.ReadOnlySQLTransactionError("cannot execute UPDATE in a read-only transaction")
    told = "^it was not done: cannot execute UPDATE in a read-only transaction: connect to the primary, not to a standby$"
    with pytest.raises(SchemaError, match=told):
        async with sentences(Standby(), "it was not done"):
            raise refused


@pytest.mark.parametrize("within", [False, True])
async def test_settings_of_the_session_are_kept(admin, within):
    settings = {"lock_timeout": "4s", "statement_timeout": "33s", "search_path": "pg_catalog, public"}
    for name, value in settings.items():
        await admin.execute(f"SET {name} = {value if name == 'search_path' else repr(value)}")
    for work in (install, remove):
        if within:
            async with admin.transaction():
                await work(admin, EMAILS)
        else:
            await work(admin, EMAILS)
        assert {name: await admin.fetchval(f"SHOW {name}") for name in settings} == settings


@pytest.mark.parametrize(
    "block", [quiet_settings, lambda connection: _turn(connection, EMAILS)], ids=["settings", "turn"]
)
async def test_a_connection_that_is_gone_does_not_hide_what_has_ended_an_installation(database, block):
    """It is what interrupts an installation that takes the connection with it."""
    connection = await asyncpg.connect(database.admin_dsn)
    with pytest.raises(asyncio.CancelledError):
        async with block(connection):
            connection.terminate()
            raise asyncio.CancelledError
