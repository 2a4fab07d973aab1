"""docs/how-to/doctor.md and docs/reference/doctor.md: what is shown is printed, and all that is said in the code is listed, with its limits."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Callable

import asyncpg
import pytest

from session_lock import Finding, TaskTable
from session_lock.cli import doctor as command
from session_lock.cli import main
from session_lock.doctor import LOOKS, SEVERITIES, plan, server, table, way, work
from session_lock.migrations import install, looks
from tests.conftest import APP_ROLE, TestDatabase
from tests.docs.pages import Page

PAGE = Page("doctor.md")
ROWS = re.findall(
    r"^\| ([\w -]+) \| ([\w, ]+) \| (.*) \| (.*) \|$",
    Page("doctor.md", folder="reference").text.partition("|---|---|---|---|\n")[2],
    flags=re.MULTILINE,
)

JOBS = """
from session_lock import TaskTable

mails = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])
"""


async def test_what_is_shown_is_printed(
    database: TestDatabase,
    write_jobs: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    [(words, output)] = re.findall(
        r'^\$ session-lock (.*) "\$SERVICE"\n((?:(?!```).*\n)+)', PAGE.text, flags=re.MULTILINE
    )
    write_jobs(JOBS)
    monkeypatch.setattr(server, "WRONG", {})  # this server is made for tests
    names: dict[str, TaskTable] = {}
    exec(JOBS, names)
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute("CREATE TABLE mail (id bigint PRIMARY KEY, address text, sent_at timestamptz)")
        await install(admin, names["mails"], grant_to=APP_ROLE)
        await admin.execute(
            "ALTER TABLE mail SET (autovacuum_enabled = off, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);"
            "INSERT INTO mail (id, available_at) SELECT g, now() - interval '6 min 5 s' FROM generate_series(1, 3) AS g;"
            f"ALTER ROLE app IN DATABASE {database.name} SET statement_timeout = '1s'"
        )
        arguments = [*words.split(), database.app_dsn, "--dsn", database.admin_dsn]
        assert await asyncio.to_thread(main, arguments) == 2
    finally:
        await admin.close()
    printed = capsys.readouterr().out.replace(database.name, "shop")
    # That the owner is a superuser here is said too, as the last thing.
    assert printed.partition("note: the functions run as")[0].splitlines() == output.splitlines()[:6]
    assert printed.splitlines()[-2:] == output.splitlines()[-2:]


def test_the_severities() -> None:
    told = re.findall(r"^\| \*(\w+)\* \| .* \| (\d)", PAGE.text, flags=re.MULTILINE)
    assert told == [(each, str(command.STATUS.get(each, 0))) for each in SEVERITIES]
    [listed] = re.findall(r"a list of objects with (.*?)\. What it", " ".join(PAGE.text.split()))
    assert re.findall(r"`(\w+)`", listed) == list(Finding.__dataclass_fields__)


def test_all_looks_and_all_that_they_say_are_listed() -> None:
    assert list(dict.fromkeys(look for look, *_ in ROWS)) == list(LOOKS)
    code = "".join(inspect.getsource(module) for module in (plan, server, table, way, work))
    effects = [*(each.effect for each in way.SETTINGS), *server.WRONG.values()]
    passed_on = (
        "{each.effect}",
        "{effect}",
        "join(effects)",
        "{whose}",
        "text=each.text",
    )  # the last is what check finds
    said = [
        *re.split(r"yield Finding\(", code)[1:],
        *re.findall(r"effects\.append\((?s:.*?)\n {12}\)", code),
        *effects,
    ]
    phrases = [
        part.split(" ... ") for *_, text, _ in ROWS for part in re.findall(r"\*(.*?)(?: \.\.\.)?\*", text)
    ]
    for phrase in phrases:
        assert any(all(piece in text for piece in phrase) for text in said), phrase
    for text in said:
        if not any(each in text for each in passed_on):
            assert any(all(piece in text for piece in phrase) for phrase in phrases), text


def test_each_finding_has_its_evidence_and_what_mends_it() -> None:
    """But what could not be looked at, which is said in words."""
    calls = [
        {keyword.arg: keyword.value for keyword in node.keywords}
        for module in (plan, server, table, way, work)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding"
    ]
    assert len(calls) > 25
    for call in calls:
        if not (isinstance(severity := call["severity"], ast.Constant) and severity.value == "unseen"):
            assert {"evidence", "remedy"} <= call.keys(), ast.unparse(call["text"])


def test_the_limits() -> None:
    limits = " ".join(when for *_, when in ROWS)
    for number in (
        f"more than {way.FULL:.0%}".replace("%", " %"),
        f"more than {way.SKEW:g} s apart",
        f"{server.CROWDED:.0%}".replace("%", " %"),
        f"open for {server.OLD / 60:g} minutes",
        f"{server.KEPT >> 20:,} MB",
        f"more than {table.FEW:,} and {table.DEAD:.0%}".replace("%", " %"),
        f"that is {server.OLD / 60:g} minutes ago; or that is {looks.MANY:,} transactions old",
        f"{plan.TASKS} tasks reads more than {plan.PAGES:,} pages",
        f"{work.MANY}, and {work.GROWTH} times",
    ):
        assert number in limits, number
