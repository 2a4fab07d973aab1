"""`session-lock` on a real PostgreSQL: mostly by `main([..])`, in a thread, since it runs an event loop of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from session_lock import doctor
from session_lock.cli import main
from session_lock.doctor import server
from session_lock.embedded import find_bin_dir
from session_lock.errors import SessionLockError
from tests.support import EMAIL_TABLE, add_emails, until_waited_for

JOBS = """
from dataclasses import replace

from session_lock.table import TaskTable

emails = TaskTable(
    "public.email", key="id", pending="sent_at IS NULL AND failed_at IS NULL", finish="sent_at = now()", discard="failed_at = now()",
    columns=("id", "address", "body"),
)
slim = replace(emails, columns=("id",))
bare = replace(emails, table="email")
other_name = replace(emails, name="other")
by_address = replace(emails, order_by=("address",))
wrong_table = replace(emails, table="public.emial")
wrong_pending = replace(emails, pending="sent_at < now()")
odd = TaskTable('public."we""ird; table\\n--"', key="k'", pending='"s\\nt" IS NULL -- open', finish='"s\\nt" = 1', schema="sl'; x\\n")
number = 7

class Box:
    inner = emails
"""


@dataclass
class Cli:
    dsn: str
    module: str
    folder: Path
    out: str = ""
    err: str = ""
    capture: object = None

    async def __call__(self, *words: str, dsn: str | None = None, attribute: str = "emails") -> int:
        """Run it for a mapping of the module (`MAPPING` stands for it) over the test's database."""
        command = [word.replace("MAPPING", f"{self.module}:{attribute}") for word in words]
        if dsn != "":
            command += ["--dsn", dsn or self.dsn]
        self.out, self.err = self.capture.readouterr()
        status = await asyncio.to_thread(main, command)
        self.out, self.err = self.capture.readouterr()
        assert "Traceback" not in self.err
        assert self.err.count("\n") == (self.err != ""), "one sentence"
        assert urlsplit(self.dsn).password not in self.out + self.err
        return status


@pytest.fixture
async def admin(database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        await connection.execute(EMAIL_TABLE)
        yield connection
    finally:
        await connection.close()


@pytest.fixture
def cli(database, admin, tmp_path, monkeypatch, capsys) -> Cli:
    module = f"jobs_{secrets.token_hex(4)}"
    (tmp_path / f"{module}.py").write_text(JOBS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("SESSION_LOCK_DSN", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return Cli(database.admin_dsn, module, tmp_path, capture=capsys)


# sql -----------------------------------------------------------------------------------------------


async def test_the_printed_sql_is_all_that_it_takes(cli, admin):
    for part in ("up", "index", "always"):
        assert await cli("sql", part, "MAPPING", *(["--grant-to", "app"] if part == "always" else [])) == 0, (
            cli.err
        )
        assert re.match(
            r"-- session-lock \S+, mapping 'email' of 'public.email', functions email_[0-9a-f]{8}\n", cli.out
        )
        await admin.execute(cli.out)
    assert await cli("check", "MAPPING", "--role", "app") == 0, cli.out
    assert "'email' is installed as it should be." in cli.out
    assert await cli("sql", "down", "MAPPING", "--sessions") == 0
    await admin.execute(cli.out)
    assert await admin.fetchval("SELECT to_regnamespace('session_lock')") is None
    assert [row[0] for row in await admin.fetch("SELECT attname FROM pg_attribute WHERE attrelid = 'email'::regclass AND attnum > 0 AND NOT attisdropped")] == [
        "id", "address", "body", "sent_at", "failed_at"
    ]  # fmt: skip


@pytest.mark.parametrize("attribute", ["emails", "odd"])
async def test_the_trigger_is_printed_checked_and_taken_down(cli, admin, attribute):
    await admin.execute('CREATE TABLE public."we""ird; table\n--" ("k\'" text PRIMARY KEY, "s\nt" integer)')
    assert await cli("install", "MAPPING", "--yes", attribute=attribute) == 0, cli.err
    triggers = (
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname LIKE 'wake\\_%' AND NOT tgisinternal"
    )
    for options in ([], ["--quiet"]):
        assert await cli("sql", "trigger", "MAPPING", *options, attribute=attribute) == 0, cli.err
        await admin.execute(cli.out)
        [row] = await admin.fetch(triggers)
        assert f"'{str(bool(options)).lower()}')" in row[0]
        assert await cli("check", "MAPPING", attribute=attribute) == 0, cli.out
        assert "the trigger" not in cli.out
    assert await cli("sql", "trigger", "MAPPING", "--down", attribute=attribute) == 0
    for _ in range(2):
        await admin.execute(cli.out)
    assert await admin.fetch(triggers) == []

    await cli("sql", "trigger", "MAPPING", attribute=attribute)
    await admin.execute(cli.out)
    assert await cli("sql", "down", "MAPPING", "--sessions", attribute=attribute) == 0
    await admin.execute(cli.out)
    assert await admin.fetch(triggers) == []


async def test_up_leaves_the_sessions_to_others_when_down(cli, admin):
    await cli("install", "MAPPING", "--yes")
    await cli("sql", "down", "MAPPING")
    await admin.execute(cli.out)
    assert await admin.fetchval("SELECT to_regclass('session_lock.session') IS NOT NULL")


async def copy(cli, *, attribute: str = "emails") -> list[Path]:
    folder = cli.folder / "migrations"
    folder.mkdir()
    assert (
        await cli(
            "sql", "copy", str(folder), "--start", "7", "MAPPING", "--grant-to", "app", attribute=attribute
        )
        == 0
    ), cli.err
    written = sorted(folder.iterdir())
    assert cli.out.split() == [
        str(path) for path in sorted(written, key=lambda path: (path.name[:4], "down" in path.name))
    ]
    return written


EMAIL_FILES = [
    "0007_session_lock_sessions.down.sql",
    "0007_session_lock_sessions.up.sql",
    "0008_session_lock_sessions_always.up.sql",
    "0009_session_lock_email.down.sql",
    "0009_session_lock_email.up.sql",
    "0010_session_lock_email_index.up.sql",
    "0011_session_lock_email_always.up.sql",
]


@pytest.mark.parametrize("attribute", ["emails", "odd"])
async def test_copied_files_run_one_by_one_as_simple_queries(cli, admin, attribute):
    await admin.execute('CREATE TABLE public."we""ird; table\n--" ("k\'" text PRIMARY KEY, "s\nt" integer)')
    files = await copy(cli, attribute=attribute)
    if attribute == "emails":
        assert [path.name for path in files] == EMAIL_FILES
    ups = [path for path in files if path.name.endswith(".up.sql")]
    for path in ups:
        await admin.execute(path.read_text())
    for path in ups:  # and again: nothing changes
        await admin.execute(path.read_text())
    assert await cli("check", "MAPPING", "--role", "app", attribute=attribute) == 0, cli.out
    assert await cli("install", "MAPPING", "--yes", attribute=attribute) == 0
    assert "Everything was there already." in cli.out
    for path in reversed([path for path in files if path.name.endswith(".down.sql")]):
        await admin.execute(path.read_text())
    assert await cli("check", "MAPPING", attribute=attribute) == 1


@pytest.mark.parametrize("attribute", ["emails", "odd"])
async def test_copied_files_run_with_psql(cli, admin, attribute):
    try:
        psql = find_bin_dir() / "psql"
    except SessionLockError as error:
        pytest.skip(str(error))
    if not psql.exists():
        pytest.skip(f"there is no {psql}")
    await admin.execute('CREATE TABLE public."we""ird; table\n--" ("k\'" text PRIMARY KEY, "s\nt" integer)')
    files = await copy(cli, attribute=attribute)
    for path in [path for path in files if path.name.endswith(".up.sql")]:
        command = [
            str(psql),
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            "key=broken",
            "-d",
            cli.dsn,
            "-f",
            str(path),
        ]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "PGOPTIONS": "-c client_min_messages=warning"},
        )
        assert (done.returncode, done.stderr) == (0, ""), path.name
    assert await cli("check", "MAPPING", "--role", "app", attribute=attribute) == 0, cli.out


async def test_the_index_is_one_statement_in_a_file_of_its_own(cli):
    files = {path.name: path.read_text() for path in await copy(cli)}
    text = re.sub(r"--.*\n", "", files["0010_session_lock_email_index.up.sql"]).strip()
    assert text.startswith("CREATE INDEX CONCURRENTLY IF NOT EXISTS")
    assert text.count(";") == 1
    assert text.endswith(";")


async def test_copy_overwrites_nothing_and_takes_no_number_twice(cli):
    await copy(cli)
    for start in ("7", "11", "3"):
        assert await cli("sql", "copy", "migrations", "--start", start, "MAPPING") == 2
        assert re.search(
            r"session-lock: migrations has 00\d+_session_lock_\S+ already: begin behind it with --start",
            cli.err,
        )
    assert len(list((cli.folder / "migrations").iterdir())) == len(EMAIL_FILES)
    assert await cli("sql", "copy", "migrations", "--start", "12", "MAPPING") == 0
    assert await cli("sql", "copy", "nowhere", "--start", "1", "MAPPING") == 2
    assert "there is no folder nowhere: create it" in cli.err


# install, check, peek, prune, adopt ----------------------------------------------------------------


async def test_install_says_what_is_pending_and_asks(cli, admin, monkeypatch):
    await add_emails(admin, 3)
    assert await cli("install", "MAPPING") == 2
    assert "nobody is here to answer: add --yes" in cli.err
    assert await cli("install", "nope:emails") == 2
    assert "there is no module 'nope'" in cli.err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, status in (("n", 1), ("", 1), ("yes", 0)):
        questions = []

        def reply(question, answer=answer, questions=questions):
            questions.append(question)
            return answer

        monkeypatch.setattr("builtins.input", reply)
        assert await cli("install", "MAPPING", "--grant-to", "app") == status
        assert questions == ["Install 'email' now? Runners will take these rows. [y/N] "]
        assert cli.out.startswith("3 rows of public.email are pending.\n")
        assert ("Nothing was changed." in cli.out) == (status == 1)
        installed = await admin.fetchval("SELECT to_regnamespace('session_lock') IS NOT NULL")
        assert installed == (status == 0)
    assert "Built the index pending_email_" in cli.out
    assert await cli("install", "MAPPING", "--yes") == 0
    assert cli.out.endswith("Everything was there already.\n")


async def test_install_says_before_it_asks_that_the_search_path_leads_to_another_table(cli, admin):
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(
        f"CREATE SCHEMA app; CREATE TABLE app.email (); ALTER DATABASE {name} SET search_path = app, public"
    )
    for attribute, count in (("bare", 1), ("emails", 0)):
        assert await cli("install", "MAPPING", "--yes", attribute=attribute) == 0, cli.err
        assert cli.out.count("note: the mapping is of public.email, and by the search_path") == count


async def test_check_prints_each_difference_and_fails_and_notes_do_not(cli, admin):
    await cli("install", "MAPPING", "--yes")
    assert await cli("check", "MAPPING") == 0
    assert "note: fillfactor of public.email is 100" in cli.out
    await admin.execute(
        "DROP FUNCTION session_lock.clock(); ALTER TABLE public.email ALTER attempts DROP DEFAULT"
    )
    assert await cli("check", "MAPPING") == 1
    assert len([line for line in cli.out.splitlines() if line.startswith("difference: ")]) == 2
    assert await cli("check", "MAPPING", "--role", "app") == 1
    assert (
        "difference: the role 'app' may not use the schema 'session_lock': run session-lock install --grant-to app"
        in cli.out
    )


@pytest.mark.parametrize("attribute", ["emails", "odd"])
async def test_tune_sets_the_parameters_that_the_printed_sql_sets_and_takes_back(cli, admin, attribute):
    await admin.execute('CREATE TABLE public."we""ird; table\n--" ("k\'" text PRIMARY KEY, "s\nt" integer)')
    options = "SELECT string_agg(array_to_string(reloptions, ' '), '') FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    assert await cli("install", "MAPPING", "--yes", "--tune", attribute=attribute) == 0, cli.err
    assert cli.out.count("\nSet ") == 3
    tuned = await admin.fetchval(options)
    assert await cli("install", "MAPPING", "--yes", "--tune", attribute=attribute) == 0
    assert cli.out.endswith("Everything was there already.\n")
    for words, expected in ((["--down"], None), ([], tuned)):
        assert await cli("sql", "tune", "MAPPING", *words, attribute=attribute) == 0, cli.err
        for _ in range(2):
            await admin.execute(cli.out)
        assert await admin.fetchval(options) == expected
    await cli("sql", "tune", "MAPPING", "--down", attribute=attribute)
    await admin.execute(cli.out)
    assert await cli("check", "MAPPING", attribute=attribute) == 0, "what could be better is no difference"
    assert cli.out.count("is advised") == 3


async def test_peek_shows_rows_before_and_after_the_installation(cli, admin):
    assert await cli("peek", "MAPPING") == 0
    assert cli.out == "No task would run now.\n"
    await add_emails(admin, 12)
    await admin.execute("UPDATE public.email SET body = E'line\\n\\033[31m' || repeat('x', 60) WHERE id = 1")
    assert await cli("peek", "MAPPING", "--limit", "2") == 0
    assert cli.out.splitlines()[0].split() == ["id", "address", "body"]
    assert cli.out.splitlines()[1] == "1   a1@example.org  line  [31m" + "x" * 29 + "…"
    await cli("install", "MAPPING", "--yes")
    assert await cli("peek", "MAPPING") == 0
    assert cli.out.splitlines()[0].split() == ["id", "address", "body", "attempts", "available_at"]
    assert len(cli.out.splitlines()) == 11


async def test_prune(cli):
    assert await cli("prune", "MAPPING") == 2
    assert "is not installed: run session-lock install first" in cli.err
    await cli("install", "MAPPING", "--yes")
    await cli("install", "MAPPING", "--yes", attribute="slim")
    assert await cli("prune", "MAPPING", attribute="slim") == 0
    assert "Dropped the 11 functions of email_" in cli.out
    assert await cli("prune", "MAPPING", attribute="slim") == 0
    assert cli.out == "There was nothing to prune.\n"


async def test_adopt_says_of_what_the_database_is_a_copy_and_asks(cli, admin, monkeypatch):
    await add_emails(admin, 3)
    await cli("install", "MAPPING", "--yes")
    assert await cli("adopt", "MAPPING") == 2
    assert "nobody is here to answer: add --yes" in cli.err
    assert await cli("adopt", "MAPPING", "--yes") == 0
    assert cli.out == "This database is no copy: there is nothing to adopt.\n"
    await admin.execute("INSERT INTO session_lock.origin (system, database) VALUES (7, 'shop')")
    assert await cli("check", "MAPPING") == 1
    assert "run session-lock adopt" in cli.out
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, status in (("n", 1), ("y", 0)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert await cli("adopt", "MAPPING") == status
        assert cli.out.startswith(
            "This is a copy of database shop of server 7. 3 rows of public.email are pending"
        )
        assert ("Nothing was changed." in cli.out) == (status == 1)
    assert await cli("check", "MAPPING") == 0


# cancel, parked, retry -------------------------------------------------------------------------------


async def test_cancel_says_what_became_of_the_task(cli, admin):
    assert await cli("cancel", "MAPPING", "1") == 2
    assert "is not installed: run session-lock install first" in cli.err
    await cli("install", "MAPPING", "--yes")
    await add_emails(admin, 2)
    assert await cli("cancel", "MAPPING", "2") == 0
    assert cli.out == "The task is discarded.\n"
    assert await admin.fetchval(
        "SELECT failed_at IS NOT NULL AND session_id IS NULL FROM public.email WHERE id = 2"
    )
    assert await cli("cancel", "MAPPING", "2") == 1
    assert cli.out == "The task was not pending: nothing was done.\n"
    assert await cli("cancel", "MAPPING", "77") == 1
    assert cli.out == "There is no such task.\n"
    for key in ("one", "9" * 40):
        assert await cli("cancel", "MAPPING", key) == 2
        assert "a key of public.email is of type bigint: give one of that type" in cli.err


async def test_parked_tasks_are_shown_and_tried_again(cli, admin):
    await cli("install", "MAPPING", "--yes")
    assert await cli("parked", "MAPPING") == 0
    assert cli.out == "No task is parked.\n"
    await add_emails(admin, 4)
    await admin.execute("UPDATE public.email SET available_at = 'infinity', attempts = 25 WHERE id <= 3")
    await admin.execute(
        "INSERT INTO session_lock.failure (name, task_key, attempt, at, error)"
        " SELECT 'email', '2', n, now(), 'TimeoutError: ' || n FROM generate_series(24, 25) AS n"
    )
    assert await cli("parked", "MAPPING") == 0
    header, *lines = (line.split() for line in cli.out.splitlines())
    assert header == ["id", "address", "body", "attempts", "last_error"]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert lines[1][3:] == ["25", "TimeoutError:", "25"]
    assert "There are more" not in cli.out
    assert await cli("parked", "MAPPING", "--limit", "2") == 0
    assert cli.out.splitlines()[2:][1:] == ["There are more: say --limit."]

    assert await cli("retry", "MAPPING", "2", "4") == 1
    assert cli.out == "2\n1 of 2 tasks will be tried again: the others are not parked.\n"
    assert await admin.fetchval("SELECT attempts FROM public.email WHERE id = 2") == 0
    await admin.execute("UPDATE public.email SET available_at = 'infinity' WHERE id = 2")
    for words, said in (
        (("777", "4"), "0 of 2 tasks will be tried again: there is no row 777; the others are not parked."),
        (("777", "0888", "777"), "0 of 2 tasks will be tried again: there is no row 777, 0888."),
    ):
        assert await cli("retry", "MAPPING", *words) == 1
        assert cli.out == f"{said}\n"
    assert await cli("retry", "MAPPING", "--dsn", cli.dsn, "2") == 0
    assert cli.out == "2\n1 task will be tried again.\n"
    assert await cli("retry", "MAPPING", "--all") == 0
    assert cli.out == "1\n3\n2 tasks will be tried again.\n"
    assert await cli("parked", "MAPPING") == 0
    assert cli.out == "No task is parked.\n"
    assert (
        await admin.fetchval("SELECT count(*) FROM public.email WHERE available_at <= clock_timestamp()") == 4
    )
    for words in ((), ("1", "--all"), ("--all", "1")):
        assert await cli("retry", "MAPPING", *words) == 2
        assert "name the keys of parked tasks, or say --all" in cli.err


async def test_an_order_that_does_not_begin_with_the_due_time_is_told_and_gets_its_index(cli, admin):
    await cli("install", "MAPPING", "--yes", attribute="by_address")
    assert await cli("check", "MAPPING", attribute="by_address") == 0
    assert (
        "order_by does not begin with available_at: a look for work walks past the scheduled rows" in cli.out
    )
    assert "session-lock sql due prints the index due_email_" in cli.out
    assert await cli("sql", "due", "MAPPING", attribute="by_address") == 0
    await admin.execute(cli.out)
    assert await cli("check", "MAPPING", attribute="by_address") == 0
    assert "session-lock sql due" not in cli.out
    await cli("install", "MAPPING", "--yes")
    assert await cli("check", "MAPPING") == 0
    assert "order_by" not in cli.out
    assert await cli("prune", "MAPPING") == 0
    assert "Dropped the index public.due_email_" in cli.out


# Bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        (
            "nowhere_at_all:emails",
            "there is no module 'nowhere_at_all': run this where 'nowhere_at_all:emails' can be imported",
        ),
        ("{module}", "write MODULE:ATTR, such as myapp.jobs:emails"),
        ("{module}:", "write MODULE:ATTR"),
        ("os; rm:x", "write MODULE:ATTR"),
        (
            "{module}:email",
            "has no 'email': its mappings are bare, by_address, emails, odd, other_name, slim, wrong_pending, wrong_table",
        ),
        ("{module}:number", "is a int, not a TaskTable: its mappings are bare, by_address, emails"),
        ("os:path", "it has no mapping, define a TaskTable there"),
        ("raises:emails", "importing raises failed (RuntimeError: no configuration): mend it"),
        ("lacks:emails", "importing lacks failed (ModuleNotFoundError: No module named 'not_here')"),
        ("exits:emails", "importing exits failed (SyntaxError:"),
        ("unsettled:emails", "importing unsettled failed (SettingsError: pending of 'email' is empty)"),
    ],
)
async def test_a_mapping_that_is_not_there(cli, mapping, expected):
    (cli.folder / "raises.py").write_text("raise RuntimeError('no configuration\\nat all')")
    (cli.folder / "lacks.py").write_text("import not_here")
    (cli.folder / "exits.py").write_text("def (")
    (cli.folder / "unsettled.py").write_text(
        "from session_lock.table import TaskTable\nemails = TaskTable('email', key='id', pending=' ', finish='a = 1')"
    )
    assert await cli("check", mapping.format(module=cli.module)) == 2
    assert expected in cli.err
    for name in ("raises", "lacks", "exits", "unsettled"):
        sys.modules.pop(name, None)


async def test_an_attribute_may_be_deeper(cli):
    assert await cli("peek", "MAPPING", attribute="Box.inner") == 0


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("wrong_table", "session-lock: there is no table public.emial; did you mean 'public.email'?\n"),
        (
            "wrong_pending",
            "session-lock: pending of 'email' is not immutable (functions in index predicate must be marked IMMUTABLE): ",
        ),
    ],
)
async def test_a_mapping_that_the_database_cannot_serve(cli, admin, attribute, expected):
    for words in (("sql", "up"), ("sql", "index"), ("sql", "always"), ("sql", "down"), ("install",)):
        assert (
            await cli(*words, "MAPPING", *(["--yes"] if words == ("install",) else []), attribute=attribute)
            == 2
        )
        assert cli.err.startswith(expected)
        assert cli.out == ""
    assert await cli("check", "MAPPING", attribute=attribute) == 1
    assert cli.out.startswith(expected.replace("session-lock", "difference").rstrip("\n"))
    assert await admin.fetchval("SELECT to_regnamespace('session_lock')") is None


async def test_a_database_that_cannot_be_reached(cli, database, monkeypatch):
    parts = urlsplit(database.admin_dsn)
    host = parts.netloc.rpartition("@")[2]
    for dsn, expected in (
        ("", "no database: give --dsn postgresql://user@host/database, or set SESSION_LOCK_DSN or DATABASE_URL"),
        ("nonsense", "the DSN is not understood: write postgresql://"),
        ("host=localhost dbname=x", "the DSN is not understood"),
        ("mysql://u:pw@h/db", "the DSN is not understood"),
        (f"postgresql://postgres:s3cr/et@{host}/db", "the DSN is not understood"),
        (f"postgresql://postgres:12/s3cret@{host}/db", "the DSN is not understood"),
        (f"postgresql://postgres:s3c#ret@{host}/db", "the DSN is not understood"),
        (f"postgresql://postgres:s3cret@{host}x/db", "the DSN is not understood"),
        ("postgresql+asyncpg://u:s3cret@h/db", "which names a driver: write postgresql://"),
        ("postgresql://u:s3cret@127.0.0.1:1,127.0.0.1:2/db", "there is no server at 127.0.0.1:1,127.0.0.1:2/db ("),
        ("postgresql://u:s3cret@127.0.0.1:1/db", "there is no server at 127.0.0.1:1/db (Connect call failed"),
        ("postgresql://u:s3cret@no-such-host.invalid/db", "there is no server at no-such-host.invalid/db ("),
        (f"postgresql://postgres:s3cret@{host}/postgres", 'does not let us in (password authentication failed for user "postgres")'),
        (f"postgresql://stranger:s3cret@{host}/postgres", "correct the user or password in the DSN"),
        (parts._replace(path="/no_such_db").geturl(), "there is no such database at"),
        (f"postgresql://u:s3cret@{host}/postgres?sslmode=perhaps", "is not understood"),
        (f"postgresql://u:s3cret@{host}/postgres?sslmode=require", "session-lock: "),
    ):  # fmt: skip
        assert await cli("check", "MAPPING", dsn=dsn) == 2, dsn
        assert expected in cli.err, (dsn, cli.err)
        for secret in ("s3c", "ret@", "et@"):
            assert secret not in cli.err
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:s3cret@127.0.0.1:1/other")
    assert await cli("check", "MAPPING", dsn="") == 2
    assert "127.0.0.1:1/other" in cli.err
    monkeypatch.setenv("SESSION_LOCK_DSN", database.admin_dsn)
    assert await cli("peek", "MAPPING", dsn="") == 0


async def test_a_role_without_rights(cli, database):
    for words in (("install", "--yes"), ("peek",), ("sql", "up"), ("prune",)):
        assert await cli(*words[:2], "MAPPING", dsn=database.app_dsn) == 2
        assert re.match(r"session-lock: .*(permission denied for table email|is not installed)", cli.err), (
            cli.err
        )
    await cli("install", "MAPPING", "--yes", "--grant-to", "app")
    assert await cli("retry", "MAPPING", "777", dsn=database.app_dsn) == 1
    assert cli.out == "0 of 1 tasks will be tried again: the others are not parked.\n"
    assert await cli("adopt", "MAPPING", "--yes", dsn=database.app_dsn) == 2
    assert "permission denied for table origin: connect as the role that owns the table" in cli.err
    assert await cli("check", "MAPPING", dsn=database.app_dsn) == 2
    assert "permission denied for table email: connect as the role that owns the table" in cli.err


async def test_a_connection_that_breaks_meanwhile(cli, monkeypatch):
    monkeypatch.setattr("session_lock.cli.deploy.prune", terminated(cli.dsn))
    assert await cli("prune", "MAPPING") == 2
    assert "broke (" in cli.err
    assert "run the command again" in cli.err


def terminated(dsn: str):
    async def broken(connection, table):
        other = await asyncpg.connect(dsn)
        await other.execute(f"SELECT pg_terminate_backend({connection.get_server_pid()})")
        await other.close()
        await connection.fetch("SELECT 1")

    return broken


@pytest.mark.parametrize(
    "words", [(), ("nonsense",), ("sql",), ("sql", "sideways"), ("check",), ("peek", "a:b", "--limit", "0")]
)
async def test_words_that_are_no_command(words, capsys):
    assert await asyncio.to_thread(main, list(words)) == 2
    assert "usage: session-lock" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("retry", "a:b", "1", "--nothing"), ("cancel", "a:b", "1", "2")])
async def test_words_that_mean_nothing_are_refused(capsys, words):
    assert await asyncio.to_thread(main, words) == 2
    assert "unrecognized arguments: " in capsys.readouterr().err


async def test_help_and_version(capsys):
    assert await asyncio.to_thread(main, ["--help"]) == 0
    out = capsys.readouterr().out
    for command in (
        "sql",
        "install",
        "check",
        "peek",
        "prune",
        "cancel",
        "parked",
        "retry",
        "why",
        "doctor",
        "demo",
    ):
        assert command in out
    assert await asyncio.to_thread(main, ["--version"]) == 0
    assert re.fullmatch(r"session-lock \S+\n", capsys.readouterr().out)


async def test_a_demo_whose_extra_is_missing_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "session_lock.cli.demo.command", None)
    assert await asyncio.to_thread(main, ["demo"]) == 2
    assert "pip install 'session-lock[demo]'" in capsys.readouterr().err


# As a program --------------------------------------------------------------------------------------


def program() -> list[str]:
    script = shutil.which("session-lock", path=str(Path(sys.executable).parent))
    return (
        [script]
        if script
        else [sys.executable, "-c", "import sys; from session_lock.cli import main; sys.exit(main())"]
    )


async def test_the_program_finds_the_mapping_in_the_current_folder(cli):
    command = [*program(), "check", f"{cli.module}:emails"]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        capture_output=True,
        text=True,
        cwd=cli.folder,
        env={**os.environ, "DATABASE_URL": cli.dsn},
    )
    assert done.returncode == 1
    assert done.stderr == ""
    assert done.stdout.count("is missing: run session-lock install") > 10


async def test_ctrl_c_ends_it_quietly_with_130(cli, admin):
    """While it waits for a table that is locked; nothing of it stays."""
    async with admin.transaction():
        await admin.execute("LOCK TABLE public.email")
        process = await asyncio.create_subprocess_exec(
            *program(),
            "install",
            f"{cli.module}:emails",
            "--yes",
            "--dsn",
            cli.dsn,
            cwd=cli.folder,
            stderr=subprocess.PIPE,
        )
        await until_waited_for(admin)
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (130, b"")
    assert await admin.fetchval("SELECT to_regnamespace('session_lock')") is None


async def test_a_reader_that_has_read_enough(cli):
    command = f"{' '.join(program())} sql always {cli.module}:emails | head -n 1"
    done = await asyncio.to_thread(
        subprocess.run, ["/bin/sh", "-c", command], capture_output=True, text=True, cwd=cli.folder,
        env={**os.environ, "DATABASE_URL": cli.dsn},
    )  # fmt: skip
    assert done.stdout.startswith("-- session-lock ")
    assert done.stderr == ""


# sessions ---------------------------------------------------------------------------------------------


async def test_sessions_are_shown_with_the_reason(cli, admin):
    assert await cli("sessions", "MAPPING") == 2
    assert "run: session-lock install" in cli.err
    await cli("install", "MAPPING", "--yes")
    assert await cli("sessions", "MAPPING") == 0
    assert cli.out == "No session is there: no Runner of this mapping runs.\n"
    await add_emails(admin, 2)
    await admin.execute("SELECT session_lock.start_session('email', '', 5, 30, 'here:1', '', '')")
    assert await cli("sessions", "MAPPING") == 0
    header, row, why = cli.out.splitlines()
    assert header.split() == [
        "session",
        "label",
        "state",
        "capacity",
        "target",
        "held",
        "running",
        "unstarted",
    ]
    assert row.split() == ["1", "here:1", "live", "5", "2", "0", "0", "0"]
    assert why.startswith("1: tasks are free and it runs none")
    assert await cli("sessions", "MAPPING", "--json") == 0
    (one,) = json.loads(cli.out)
    assert (one["live"], one["target"], one["unstarted"]) == (True, 2, 0)


# why --------------------------------------------------------------------------------------------------


async def test_why_says_it_in_a_sentence_and_shows_the_facts(cli, admin, database):
    assert await cli("why", "MAPPING", "1") == 2
    assert "run: session-lock install" in cli.err
    await cli("install", "MAPPING", "--yes")
    await add_emails(admin, 1)
    assert await cli("why", "MAPPING", "1") == 0
    assert cli.out.splitlines() == [
        "No session is live: no Runner of this mapping runs.",
        "  pending   sent_at IS NULL: true",
        "  pending   failed_at IS NULL: true",
        "  attempts  0, claim token 0",
        "  due       for 0 seconds",
    ]
    assert await cli("why", "MAPPING", "2") == 1
    assert cli.out == "There is no such task in public.email.\n"
    assert await cli("why", "MAPPING", "one") == 2
    assert cli.err == "session-lock: 'one' can be no key of public.email: its keys are of type bigint\n"

    assert await cli("why", "MAPPING", "1", dsn=database.app_dsn) == 2
    assert "permission denied for schema session_lock" in cli.err
    await cli("install", "MAPPING", "--yes", "--grant-to", "app")
    assert await cli("why", "MAPPING", "--json", "1", dsn=database.app_dsn) == 0
    found = json.loads(cli.out)
    assert (found["key"], found["state"], found["attempts"], found["locked"]) == ("1", "waiting", 0, False)


async def test_why_shows_what_went_wrong_to_who_may_read_it_and_commands_no_terminal(cli, admin, database):
    await cli("install", "MAPPING", "--yes", "--grant-to", "app")
    await add_emails(admin, 1)
    await admin.execute("SELECT session_lock.start_session('email', '', 5, 30, E'web\\033[2J', '2.4', '')")
    await admin.execute("UPDATE public.email SET session_id = 1, claim_token = 5, attempts = 5")
    await admin.execute(
        "INSERT INTO session_lock.failure (name, task_key, attempt, at, error)"
        " SELECT 'email', '1', g, now() - make_interval(mins => 9), 'ValueError: \033[31mred ' || g || repeat('x', 400) || E'\\nfrom KeyError'"
        " FROM generate_series(1, 5) AS g"
    )
    assert await cli("why", "MAPPING", "1") == 0
    assert "\033" not in cli.out
    assert cli.out.startswith(
        "Session 1 (web [2J) has it, in attempt 5: its last keepalive was 0 seconds ago, "
    )
    *_, session, attempts, _due, newest, _, oldest, more = cli.out.splitlines()
    assert session.startswith("  session   1, web [2J, version 2.4, live, last keepalive ")
    assert attempts == "  attempts  5, claim token 5"
    assert newest.startswith("  failure   attempt 5, 9 minutes ago: ValueError:  [31mred ")
    assert newest.endswith("x…")
    assert "attempt 3" in oldest
    assert more == "            2 more: say --json"
    assert await cli("why", "MAPPING", "1", dsn=database.app_dsn) == 0
    assert "attempt 5, 9 minutes ago: only who may read session_lock.failure is told" in cli.out
    assert "red" not in cli.out


async def test_why_says_of_how_many_attempts_where_it_is_told_the_settings(cli, admin):
    (cli.folder / f"{cli.module}.py").write_text(
        f"{JOBS}\nfrom session_lock import Retry, Settings\n"
        "few = Settings(retry=Retry(max_attempts=5))\nretry = Retry(max_attempts=7, on={ValueError: Retry(max_attempts=1)})\n"
        "endless = Retry(max_attempts=None)\n"
    )
    await cli("install", "MAPPING", "--yes")
    await add_emails(admin, 1)
    await admin.execute("UPDATE public.email SET attempts = 2, claim_token = 3")
    for name, attempts in (
        ("few", "2 of 5"),
        ("retry", "2 of 7 (other numbers after some errors)"),
        ("endless", "2 of any number"),
    ):
        assert await cli("why", "MAPPING", "1", "--settings", f"{cli.module}:{name}") == 0
        assert f"  attempts  {attempts}, claim token 3\n" in cli.out
    assert await cli("why", "MAPPING", "1", "--settings", f"{cli.module}:few", "--json") == 0
    assert json.loads(cli.out)["max_attempts"] == 5
    for wrong, said in (
        ("number", "is of type int: name the Settings of the Runners, or their Retry"),
        ("none", "has no 'none'"),
    ):
        assert await cli("why", "MAPPING", "1", "--settings", f"{cli.module}:{wrong}") == 2
        assert said in cli.err


async def test_why_shows_limits_versions_and_when_it_is_due(cli, admin):
    (cli.folder / f"{cli.module}.py").write_text(
        f"{JOBS}\nfrom session_lock import Limit, Rate\n"
        "emails = replace(emails, limits=(Limit(3), Rate(2, per=60, by='address')), accepts='body')\n"
    )
    await cli("install", "MAPPING", "--yes")
    await add_emails(admin, 2)
    await admin.execute("UPDATE public.email SET body = '2.4'")
    await admin.execute("UPDATE public.email SET available_at = now() + interval '90 min 5 s' WHERE id = 2")
    await admin.execute("SELECT session_lock.start_session('email', '', 5, 30, 'web', '2.3', '')")
    assert await cli("why", "MAPPING", "1") == 0
    assert cli.out.splitlines()[0] == (
        "It needs app_version '2.4' (accepts), which no session that takes work has: there is '2.3'."
    )
    assert cli.out.splitlines()[-3:] == [
        "  needs     app_version 2.4",
        "  limit     0 of 3 held",
        "  limit     0 of 2 started within 60 s, of its address",
    ]
    assert await cli("why", "MAPPING", "2") == 0
    assert cli.out.splitlines()[0] == "It is not due yet: it is available in 90 minutes."
    assert "  due       in 90 minutes" in cli.out


# doctor -----------------------------------------------------------------------------------------------


async def test_doctor_says_what_is_wrong_and_what_mends_it(cli, admin, database, monkeypatch):
    monkeypatch.setattr(server, "WRONG", {})  # the server of these tests is not made for crashes
    await cli("install", "MAPPING", "--yes", "--tune", "--grant-to", "app")
    service = ("--service", database.app_dsn)
    assert await cli("doctor", "MAPPING", *service) == 0, "what is worth knowing is no fault"
    assert cli.out.splitlines() == [
        f"note: the functions run as {current!r}, a superuser, so pending, finish and every trigger do too"
        for current in [await admin.fetchval("SELECT current_user")]
    ] + ["  install as a role that owns the table and no more"]

    await admin.execute("SELECT session_lock.start_session('email', '', 5, 30, 'web', '', '')")
    await admin.execute("INSERT INTO session_lock.pause VALUES ('email', now() - interval '3 hours')")
    assert await cli("doctor", "MAPPING", *service) == 1
    assert cli.out.splitlines()[:2] == [
        "warning: the mapping is paused, for 3 hours now: no task is claimed",
        "  SELECT \"session_lock\".resume_mapping('email')",
    ]

    await admin.execute("UPDATE session_lock.session SET ended_at = now()")
    await add_emails(admin, 1)
    assert await cli("doctor", "MAPPING", "--json", *service) == 2
    found = json.loads(cli.out)
    assert [(each["look"], each["severity"]) for each in found] == [
        ("sessions", "error"),
        ("sessions", "warning"),
        ("installation", "note"),
    ]
    assert all(set(each) == {"severity", "text", "remedy", "evidence", "look"} for each in found)
    assert found[0]["evidence"]["pending"] == 1


async def test_doctor_of_odd_names(cli, admin):
    await admin.execute('CREATE TABLE public."we""ird; table\n--" ("k\'" text PRIMARY KEY, "s\nt" integer)')
    await cli("install", "MAPPING", "--yes", attribute="odd")
    await admin.execute('INSERT INTO public."we""ird; table\n--" ("k\'", session_id) VALUES (1, 7)')
    assert await cli("doctor", "MAPPING", "--json", attribute="odd") == 2
    found = {each["look"]: each for each in json.loads(cli.out)}
    assert [each for each in found.values() if each["severity"] == "unseen"] == []
    assert {"sessions", "claims"} <= found.keys()
    await admin.execute(found["claims"]["remedy"])
    assert await cli("doctor", "MAPPING", attribute="odd") == 2
    assert "of which there is no record" not in cli.out


async def test_doctor_has_nothing_to_say(cli, database, monkeypatch):
    async def nothing(case):
        for finding in ():
            yield finding

    for look in doctor.LOOKS:
        monkeypatch.setitem(doctor.LOOKS, look, nothing)
    assert await cli("doctor", "MAPPING") == 0
    assert cli.out.startswith("Nothing is wrong. Looked at: service, pooler, wake-ups, ")
    assert await cli("doctor", "MAPPING", "--json") == 0
    assert cli.out == "[]\n"


async def test_doctor_before_anything_is_installed_commands_no_terminal(cli, admin, database, monkeypatch):
    monkeypatch.setattr(server, "OLD", 0.0)
    other = await asyncpg.connect(database.admin_dsn, server_settings={"application_name": "a\tb"})
    async with other.transaction(isolation="repeatable_read"):
        await other.execute("SELECT 1")
        await admin.execute("SET application_name = 'x'")
        assert await cli("doctor", "MAPPING") == 2
    await other.close()
    assert cli.out.startswith("error: no Runner starts: database ")
    assert f"\n  run session-lock install {cli.module}:emails --grant-to ROLE\n" in cli.out
    assert "run session-lock install" in cli.out
    assert all(line.isprintable() for line in cli.out.splitlines())


async def test_doctor_names_what_it_cannot_go_by(cli, database):
    await cli("install", "MAPPING", "--yes", "--grant-to", "app")
    secret = urlsplit(database.app_dsn).password
    for words, said in (
        (("--service", "mysql://app:pw@here/db"), "the DSN is not understood"),
        (("--listen", "postgresql://app:pw/w@rd@here/db"), "the DSN is not understood"),
        (("--service", "postgresql://app:pw@127.0.0.1:1/db"), "there is no server at 127.0.0.1:1/db"),
        (("--service", database.app_dsn.replace(secret, "wrong")), "does not let us in"),
    ):
        assert await cli("doctor", "MAPPING", *words) == 2
        assert said in cli.err
        assert "pw" not in cli.err
        assert "w@rd" not in cli.err
    assert await cli("doctor", "MAPPING", "--listen", "postgresql://app:pw@127.0.0.1:1/db") != 2
    assert (
        "no wake-up is heard, so new tasks wait for the next poll: there is no server at 127.0.0.1:1/db"
        in cli.out
    )
    assert await cli("doctor", "MAPPING", "--role", "nobody_of_that_name") == 2
    assert "there is no role 'nobody_of_that_name'" in cli.out
    assert await cli("doctor", "MAPPING", attribute="wrong_table") == 2
    assert "did you mean 'public.email'?" in cli.out
