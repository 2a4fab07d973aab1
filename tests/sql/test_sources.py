"""What holds for the text of `sql/` and of the calls to it, looked at with PostgreSQL's own parser (pglast)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pglast
import pytest
from pglast import ast as pg

import session_lock
from session_lock.catalog import read_shape
from session_lock.indexes import index_steps
from session_lock.limits import Limit, Rate
from session_lock.locks import LOCK
from session_lock.schema import SCHEMA_VERSION, SERVED_VERSION, render, source, sql_root
from session_lock.table import Shape
from tests.support import EMAIL_TABLE, EMAILS, apply_mapping

FILES = sorted(each.name for each in sql_root().iterdir() if each.name.endswith(".sql"))
INDEXES = ("tasks.index.sql", "tasks.due.index.sql", "tasks.values.index.sql", "tasks.held.index.sql")
WHOLE = "tasks.whole.index.sql"
ONCE = (
    "sessions.up.sql",
    "duties.up.sql",
    "tasks.up.sql",
    "queue.up.sql",
    "queue.index.sql",
    *INDEXES,
    WHOLE,
)
ALWAYS = (
    "queue.alwaysup.sql",
    "sessions.alwaysup.sql",
    "duties.alwaysup.sql",
    "tasks.alwaysup.sql",
    "tasks.limits.alwaysup.sql",
)
LIMITED = replace(
    EMAILS, limits=(Limit(3), Limit(1, by="address"), Rate(9, per=60)), fair_by="address", accepts="body"
)

SHAPE = Shape(
    key_type="bigint",
    column_types={
        "id": "bigint",
        "address": "text",
        "body": "text",
        "available_at": "timestamp with time zone",
    },
    not_null=frozenset({"id", "available_at"}),
)


def text_of(name: str, form: str) -> str:
    """Files of limits, which no other mapping has, are rendered for one that has them all."""
    table = LIMITED if re.match(r"tasks\.(limits|values|held)\.", name) else EMAILS
    if name == WHOLE and form == "rendered":
        return index_steps("tasks.index.sql", EMAILS, replace(SHAPE, partitions=()))["whole"]
    return source(name) if form == "as it stands" else render(name, table, SHAPE, role="app")


every_file = pytest.mark.parametrize("name", FILES)
both_forms = pytest.mark.parametrize("form", ["as it stands", "rendered"])


def code_of(text: str) -> str:
    """Without comments: nothing in our SQL has `--` between quotes."""
    return re.sub(r"--[^\n]*", "", text)


def statements(text: str) -> list[pg.Node]:
    return [raw.stmt for raw in pglast.parse_sql(text)]


def unlocked(text: str) -> str:
    """With the statements that a DO executes, under its lock if it takes one, as they would stand by themselves, for who does not look into one."""

    def inside(match: re.Match[str]) -> str:
        found = re.findall(r"(?ms)^ +((?:ALTER|COMMENT|CREATE|DROP) .*?;)$", match[1])
        return "\n".join([*(["SET lock_timeout = '50ms';"] if "LOCK TABLE" in match[1] else []), *found])

    return re.sub(r"(?s)DO \$function\$(.*?)\$function\$;", inside, text)


def functions(text: str) -> Iterator[tuple[str, pg.CreateFunctionStmt, str]]:
    """(name, its statement, its text) of each function that a file makes."""
    for raw in pglast.parse_sql(text):
        if isinstance(raw.stmt, pg.CreateFunctionStmt):
            length = raw.stmt_len or len(text) - raw.stmt_location
            yield raw.stmt.funcname[-1].sval, raw.stmt, text[raw.stmt_location : raw.stmt_location + length]


def option(function: pg.CreateFunctionStmt, name: str) -> list[pg.Node]:
    return [each.arg for each in function.options if each.defname == name]


# It is valid SQL -----------------------------------------------------------------------------------


def test_these_are_all_the_files():
    assert FILES == [
        "down.lock.sql", "duties.alwaysup.sql", "duties.down.sql", "duties.grants.sql", "duties.up.sql",
        "grants.sql", "queue.alwaysup.sql", "queue.down.sql", "queue.grants.sql", "queue.index.sql", "queue.up.sql",
        "sessions.alwaysup.sql", "sessions.down.sql", "sessions.up.sql",
        "tasks.alwaysup.sql", "tasks.down.sql", "tasks.due.index.sql", "tasks.held.index.sql", "tasks.index.sql",
        "tasks.limits.alwaysup.sql", "tasks.limits.down.sql", "tasks.lock.sql", "tasks.trigger.down.sql", "tasks.trigger.sql",
        "tasks.tune.down.sql", "tasks.tune.sql", "tasks.up.sql", "tasks.values.index.sql", "tasks.whole.index.sql", "up.lock.sql",
    ]  # fmt: skip


@every_file
@both_forms
def test_it_parses(name, form):
    text = text_of(name, form)
    assert statements(text)
    if form == "rendered":
        assert not re.search(r"__\w+__", text), "a hole was left"


@pytest.mark.parametrize("name", ALWAYS)
@both_forms
def test_each_body_parses(name, form):
    bodies = [
        # pglast knows neither OUT parameters by their full names nor types that are not PostgreSQL's own.
        text.replace(f"{function}.", "").replace("__key_type__", "bigint")
        for function, statement, text in functions(text_of(name, form))
        if option(statement, "language")[0].sval == "plpgsql"
    ]
    assert len(bodies) >= {
        "queue.alwaysup.sql": 1,
        "duties.alwaysup.sql": 2,
        "tasks.limits.alwaysup.sql": 2,
    }.get(name, 3)
    for body in bodies:
        assert pglast.parse_plpgsql(body)


def test_a_body_that_does_not_parse_is_seen():
    broken = source("tasks.alwaysup.sql").replace("END LOOP;", "LOOP;", 1)
    statements(broken)  # to the parser of SQL a body is only text
    with pytest.raises(pglast.parser.ParseError):
        for _, _, text in functions(broken):
            pglast.parse_plpgsql(text)


AS_IT_STANDS = """
CREATE DOMAIN pg_temp.__key_type__ AS bigint;
CREATE TEMP TABLE __table__ (
  __key__              bigint PRIMARY KEY,
  __finish__           timestamptz DEFAULT now(),
  __discard__          timestamptz DEFAULT now(),
  __pending__          boolean GENERATED ALWAYS AS (__finish__ IS NULL) STORED,
  __order_index__      integer,
  __value__            bigint,
  __value_index__      bigint,
  __held_by__          bigint,
  __order_by__         integer,
  __accepts__          text,
  __acceptable__       boolean,
  __whole_columns__    integer,
  __whole_rows__       boolean,
  __from_position__    boolean,
  __position__         text,
  __select_columns__   text
);
INSERT INTO __table__ (__key__, __finish__, __discard__) VALUES (1, NULL, NULL);
"""
"""A table whose columns are named after the holes, and pending until `__finish__` gets its default."""


async def test_the_task_files_run_as_they_stand(database):
    """In the schema of temporary things, which is where the pinned search_path finds them."""
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        await connection.execute(AS_IT_STANDS)
        for name in (
            "sessions.up.sql",
            "sessions.alwaysup.sql",
            "tasks.up.sql",
            *INDEXES,
            WHOLE,
            "tasks.alwaysup.sql",
            "tasks.limits.alwaysup.sql",
            "tasks.trigger.sql",
        ):
            for _ in range(2 if name not in INDEXES else 1):  # running it again changes nothing
                await connection.execute(source(name))
        session, nonce, _ = await connection.fetchrow(
            "SELECT * FROM session_lock.start_session('as it stands', '', 1, 30, '', '', '')"
        )
        await connection.execute("UPDATE __table__ SET __session_id__ = $1, __claim_token__ = 1", session)
        finish = "SELECT outcome FROM session_lock.finish_tasks__set__($1, $2, '{1}', '{1}')"
        assert await connection.fetchval(finish, session, nonce) == "finished"
        assert await connection.fetchval(finish, session, nonce) == "already yours"
        assert await connection.fetchval(
            "SELECT session_lock.end_session__set__($1, $2, '{1}', '{1}')", session, nonce
        )
    finally:
        connection.terminate()


async def test_down_takes_away_what_up_made_and_nothing_else(database):
    what_there_is = """
        SELECT n.nspname, c.relname AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname IN ('public', 'session_lock')
        UNION ALL
        SELECT n.nspname, p.proname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
         WHERE n.nspname IN ('public', 'session_lock')
        UNION ALL
        SELECT '', attname FROM pg_attribute WHERE attrelid = 'public.email'::regclass AND attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT '', nspname FROM pg_namespace WHERE nspname = 'session_lock'
        UNION ALL
        SELECT '', tgname FROM pg_trigger WHERE tgrelid = 'public.email'::regclass
        ORDER BY 1, 2
    """
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        await connection.execute(
            "CREATE TABLE public.email (id bigint PRIMARY KEY, address text, body text, sent_at timestamptz, failed_at timestamptz)"
        )
        before = await connection.fetch(what_there_is)
        for name in (
            "sessions.up.sql",
            "sessions.alwaysup.sql",
            "tasks.up.sql",
            "tasks.index.sql",
            "tasks.alwaysup.sql",
            "tasks.trigger.sql",
        ):
            await connection.execute(text_of(name, "rendered"))
        assert await connection.fetch(what_there_is) != before
        for name in ("tasks.down.sql", "tasks.down.sql", "sessions.down.sql", "sessions.down.sql"):
            await connection.execute(text_of(name, "rendered"))
        assert await connection.fetch(what_there_is) == before
    finally:
        connection.terminate()


# Rules of what it says -----------------------------------------------------------------------------


@every_file
def test_time_is_read_from_the_one_clock(name):
    """`now()` stands still while a transaction waits (R1, R4). Our tables' own column defaults are no leases."""
    code = code_of(source(name))
    if name == "sessions.alwaysup.sql":
        code = code.replace("AS $function$ SELECT clock_timestamp() $function$", "", 1)
    if name == "sessions.up.sql":
        code = code.replace("at   timestamptz NOT NULL DEFAULT clock_timestamp()", "", 1)
    if name == "queue.up.sql":
        code = code.replace("created_at   timestamptz NOT NULL DEFAULT now()", "", 1)
    if name == LOCK:  # for how long others may have waited behind it
        code = code.replace("v_begun := clock_timestamp();", "", 1).replace(
            "FROM clock_timestamp() - v_begun", "", 1
        )
    if name == "tasks.up.sql":
        code = code.replace("__available_at__ timestamptz NOT NULL DEFAULT now()", "", 1)
    times = r"\b(now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday)\s*\(|\b(current_|local)(time|date)"
    assert not re.search(times, code, re.IGNORECASE)


@every_file
def test_every_time_has_a_zone(name):
    assert not re.search(
        r"\btimestamp\b(?! with time zone)|\btime\b(?! zone)|\bdate\b", code_of(source(name)), re.IGNORECASE
    )


@pytest.mark.parametrize("name", ALWAYS)
@both_forms
def test_every_definer_function_pins_its_search_path_and_has_pg_temp_last(name, form):
    definers = 0
    for function, statement, _ in functions(text_of(name, form)):
        if not any(arg.boolval for arg in option(statement, "security")):
            continue
        definers += 1
        [path] = [s for s in option(statement, "set") if s.name == "search_path"]
        assert [arg.val.sval for arg in path.args] == ["pg_catalog", "pg_temp"], function
    # what limits add is called by get_work alone, as its owner
    assert definers >= {"queue.alwaysup.sql": 2, "tasks.limits.alwaysup.sql": 0}.get(name, 3)


@pytest.mark.parametrize("name", ALWAYS)
def test_what_a_definer_can_do_is_taken_from_public(name):
    statement_of = {
        f: s for f, s, _ in functions(source(name)) if any(a.boolval for a in option(s, "security"))
    }
    [revoke] = [s for s in statements(source(name)) if isinstance(s, pg.GrantStmt)]
    assert not revoke.is_grant
    assert statement_of.keys() <= {each.objname[-1].sval for each in revoke.objects}


@pytest.mark.parametrize("name", ALWAYS)
def test_d37_what_runs_at_every_deploy_only_creates_or_replaces(name):
    for statement in statements(source(name)):
        assert isinstance(statement, pg.CreateFunctionStmt | pg.GrantStmt)
        assert not isinstance(statement, pg.CreateFunctionStmt) or statement.replace


@every_file
def test_no_state_of_a_connection_is_touched(name):
    """No SAVEPOINT (nor an EXCEPTION block, which is one), no advisory lock, LISTEN or temporary table; no SET, but for the transaction."""
    code = code_of(source(name))
    if (
        name == "sessions.alwaysup.sql"
    ):  # sent at commit, so no state; who listens has a connection of its own
        code = code.replace(" pg_notify(", "", 2)
    if name == "tasks.limits.alwaysup.sql":  # a lock of the transaction's is none of the connection's
        code = re.sub(r"pg_(try_)?advisory_xact_lock\(", "", code)
    if (
        name == LOCK
    ):  # where a lock that was not to be had is given back; it is no function that is called all day
        code = code.replace("EXCEPTION WHEN lock_not_available", "", 1)
    forbidden = r"\b(SAVEPOINT|EXCEPTION\s+WHEN|pg_(try_)?advisory\w*|LISTEN|NOTIFY|pg_notify|TEMP|TEMPORARY|PREPARE|DECLARE\s+\w+\s+CURSOR)\b"
    assert not re.search(forbidden, code, re.IGNORECASE)
    for call in re.findall(r"set_config\(([^;]*)\)", code):
        assert call.endswith(", true"), call  # LOCAL
    assert not [s for s in statements(source(name)) if isinstance(s, pg.VariableSetStmt)]


IN_USE = [
    *(name for name in FILES if name.startswith("tasks.")),
    "queue.down.sql",
    "duties.down.sql",
    "sessions.down.sql",
]


@pytest.mark.parametrize("name", [*IN_USE, "down.lock.sql", "up.lock.sql"])
@both_forms
def test_a_table_in_use_is_changed_under_a_lock_that_was_taken_patiently(name, form):
    """What would wait for its lock in a place of the queue makes others wait behind itself. A concurrent build does not."""
    changing = (
        pg.AlterTableStmt,
        pg.CommentStmt,
        pg.CreateTrigStmt,
        pg.DropStmt,
        pg.IndexStmt,
        pg.LockStmt,
    )
    for statement in statements(text_of(name, form)):
        if isinstance(statement, changing):
            assert getattr(statement, "concurrent", False) or (
                isinstance(statement, pg.DropStmt)
                and statement.removeType is pglast.enums.ObjectType.OBJECT_FUNCTION
            )
    for body in re.findall(r"(?s)DO \$function\$(.*?)\$function\$", code_of(text_of(name, form))):
        change = re.search(r"(?m)^ +(ALTER|COMMENT|CREATE|DROP|EXECUTE 'DROP)\b", body)
        if form == "as it stands" and name != LOCK:
            lock = re.search(r"(?m)^ +LOCK TABLE \S+(?:, \S+)* IN [A-Z ]+ MODE;$", body)
        else:
            lock = re.search(r"(?m)^ +EXECUTE 'LOCK TABLE ONLY .*;$", body)
            assert (lock is not None) == ("EXCEPTION WHEN lock_not_available" in body)
            assert not re.search(r"(?m)^ *LOCK TABLE", body)
        assert not change or (lock and lock.end() < change.start())


def test_what_the_sessions_tables_may_lack_is_the_same_in_both_files():
    for pattern in (
        r"a\.attname IN \(('[a-z_]+', .*?)\) AND NOT",
        r"to_regclass\(\$name\$(\S*)\$name\$\) IS NULL",
    ):
        both = [re.findall(pattern, code_of(source(name))) for name in ("up.lock.sql", "sessions.up.sql")]
        assert both[0] == both[1] != []


@pytest.mark.parametrize("name", ["sessions.up.sql", "duties.up.sql"])
def test_what_is_made_once_locks_a_table_that_may_be_there_as_patiently(name):
    for statement in statements(source(name)):
        assert not isinstance(statement, pg.AlterTableStmt | pg.IndexStmt | pg.CommentStmt)
    for body in re.findall(r"(?s)DO \$function\$(.*?)\$function\$", code_of(source(name))):
        assert body.index("    LOCK TABLE ") < re.search(r"(?m)^ +(ALTER|CREATE)\b", body).start()


@pytest.mark.parametrize("name", ALWAYS)
def test_rows_are_locked_in_an_order(name):
    """Also where the lock waits: two that lock the same rows in two orders wait for each other for ever."""
    for statement in re.split(r";|\bAS MATERIALIZED \(|ARRAY\(", code_of(source(name))):
        if "FOR NO KEY UPDATE" in statement or "SKIP LOCKED" in statement:
            one_row = re.search(r"WHERE (s\.id = (p_id|my\.holder)|t\.__key__ = my\.key)\b", statement)
            assert one_row or "ORDER BY" in statement.partition("FOR ")[0], statement


def test_nothing_counts_the_whole_table():
    code = code_of(source("tasks.alwaysup.sql"))
    assert len(re.findall(r"count\(\*\)", code)) >= 3
    for counted in re.findall(r"count\(\*\)[^;]*;", code):
        # By session: of what a look that found too few has walked anyway.
        assert "FROM __table__" not in counted or "LIMIT" in counted or "GROUP BY t.__session_id__" in counted


def test_names_in_bodies_are_qualified():
    """A table or function of ours without its schema would be looked up by somebody's search_path."""
    for name in ALWAYS:
        code = code_of(source(name))
        ours = {f for n in ALWAYS for f, _, _ in functions(source(n))} | {"session", "failure", "pause"}
        for word in ours - {"share", "clock", "session", "failure", "pause"}:
            assert not re.search(rf"(?<![\w.]){word}\(", code), word
        assert not re.search(r"\b(FROM|JOIN|UPDATE|INTO)\s+(session|failure|pause|duty\w*)\b", code)


# Rules of those who call it ------------------------------------------------------------------------

PYTHON = sorted(Path(session_lock.__file__).parent.rglob("*.py"))
CALLS = {"execute", "executemany", "fetch", "fetchrow", "fetchval", "prepare", "cursor"}
QUOTERS = {"quote_name", "quote_inside_literal", "in_schema", "render", "source"}


def formatted_values(tree: ast.AST) -> Iterator[ast.AST]:
    """What is put into the text of a query where it is called, and is no plain name and not quoted on the spot."""
    for call in ast.walk(tree):
        if not (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in CALLS
            and call.args
        ):
            continue
        for part in ast.walk(call.args[0]):
            match part:
                case ast.FormattedValue(value=ast.Name() | ast.Attribute()):
                    pass
                case ast.FormattedValue(value=ast.Call(func=ast.Name(id=name))) if name in QUOTERS:
                    pass
                case (
                    ast.FormattedValue()
                    | ast.BinOp()
                    | ast.Call(func=ast.Attribute(attr="format" | "replace" | "join"))
                ):
                    yield part


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(PYTHON[0].parent)))
def test_t2_no_value_is_formatted_into_a_query(path):
    assert [ast.unparse(part) for part in formatted_values(ast.parse(path.read_text("utf-8")))] == []


@pytest.mark.parametrize(
    "call",
    [
        'c.execute(f"SELECT {row[0]}")',
        'c.fetch("SELECT %s" % x)',
        'c.fetchval("SELECT {}".format(x))',
        'c.fetch("SELECT " + x)',
    ],
)
def test_t2_one_would_be_seen(call):
    assert list(formatted_values(ast.parse(call)))


# squawk --------------------------------------------------------------------------------------------

EXCUSED = {
    "queue.up.sql": {
        "require-lock-timeout": "it makes a new table, which nobody uses yet",
        "require-concurrent-index-creation": "as before",
        "require-statement-timeout": "as before",
        "prefer-bigint-over-smallint": "65,536 priorities are enough",
    },
    "queue.index.sql": {
        "require-lock-timeout": "the table is new",
        "require-concurrent-index-creation": "as before",
        "require-statement-timeout": "as before",
    },
    "sessions.up.sql": {
        "require-lock-timeout": "it makes new tables, which nobody uses yet",
        "require-concurrent-index-creation": "as before",
        "require-statement-timeout": "as before",
        "prefer-bigint-over-int": "capacities and attempts are small",
    },
    "tasks.up.sql": {
        "require-statement-timeout": "instant once it has its lock, and that wait is limited",
        "prefer-bigint-over-int": "attempts are few",
    },
    WHOLE: {
        "require-statement-timeout": "as before",
        "require-concurrent-index-creation": "a partitioned table has none; what is in its partitions was built so",
    },
    "tasks.trigger.sql": {
        "require-statement-timeout": "instant once it has its lock, and that wait is limited"
    },
    **{
        name: {
            "require-lock-timeout": "CONCURRENTLY blocks nobody while it waits",
            "require-statement-timeout": "it may take hours on a large table",
        }
        for name in INDEXES
    },
}


@pytest.mark.parametrize("name", (*ONCE, "tasks.trigger.sql", "tasks.tune.sql"))
def test_squawk_finds_nothing_unexcused(name, tmp_path):
    squawk = Path(sys.executable).parent / "squawk"
    if not squawk.exists():
        pytest.skip("squawk is not installed: it is in the dependency group `lint`")
    file = tmp_path / name
    file.write_text(unlocked(text_of(name, "rendered")), "utf-8")

    def warnings(*options: str) -> set[str]:
        command = [squawk, "--pg-version=14.0", "--reporter=gcc", *options, file]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == (1 if run.stdout.strip() else 0), run.stderr
        return set(re.findall(r": (?:warning|error): ([a-z-]+) ", run.stdout))

    excused = EXCUSED.get(name, {}).keys()
    assert warnings() == excused  # nothing is excused that need not be
    assert not excused or warnings(f"--exclude={','.join(excused)}") == set()


async def test_the_tables_of_the_sessions_stay_while_a_mapping_needs_them(database):
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        await connection.execute(EMAIL_TABLE)
        await apply_mapping(connection, EMAILS)
        shape = await read_shape(connection, EMAILS)
        with pytest.raises(asyncpg.RaiseError, match="mappings are still installed"):
            await connection.execute(render("sessions.down.sql", EMAILS, shape))
        await connection.execute(render("tasks.down.sql", EMAILS, shape))
        for _ in range(2):
            await connection.execute(render("sessions.down.sql", EMAILS, shape))
        assert await connection.fetchval("SELECT to_regnamespace('session_lock')") is None
    finally:
        await connection.close()


def test_the_versions_in_sql_and_in_python_are_the_same():
    assert f"SELECT {SCHEMA_VERSION}, {SERVED_VERSION} $" in source("sessions.alwaysup.sql")
