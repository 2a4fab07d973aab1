"""What the README and its neighbours say holds: their code runs, their commands exist, their numbers are the settings' own."""

from __future__ import annotations

import asyncio
import re
import shlex
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import asyncpg
import pytest

import session_lock
from session_lock import ClaimColumns, Settings, TaskTable
from session_lock import calls as calls_module
from session_lock.catalog import KEY_TYPES
from session_lock.cli import main
from session_lock.retry import Retry
from tests.conftest import APP_ROLE, TestDatabase
from tests.docs.examples import EXAMPLES, ROOT
from tests.docs.pages import Page

README = (ROOT / "README.md").read_text(encoding="utf-8")
FLAT = " ".join(README.split())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

PROMISE = (
    "each task runs at least once, until it is finished, discarded or parked, and is flagged finished once; its effect is exactly once "
    "if it is written through the finishing transaction; commits that PostgreSQL itself loses in a fail-over are excepted."
)
"""The design's words. They are changed there or not at all."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The words of each `session-lock` command, in a block or in the text."""
    found = [line for block in blocks("sh") for part in block.splitlines() for line in part.split("&&")]
    found += re.findall(r"`(session-lock [^`]+)`", README)
    words = [shlex.split(line) for line in found]
    return [
        line[i + 1 :]
        for line in words
        for i, word in enumerate(line)
        if word.rpartition("/")[2] == "session-lock"
    ]


# Code ------------------------------------------------------------------------------------------------------


def test_the_python_blocks_are_the_example_files() -> None:
    assert blocks("python") == [
        (EXAMPLES / name).read_text() for name in ("fastapi_app.py", "aiohttp_app.py")
    ]


def test_the_examples_are_short_and_all_of_them_are_shown() -> None:
    page = Page("frameworks.md")
    shown = [*blocks("python"), *page.blocks]
    assert sorted(shown) == sorted(path.read_text() for path in EXAMPLES.glob("*.py"))
    assert set(re.findall(r"\b(\w+_app):", page.text)) <= {path.stem for path in EXAMPLES.glob("*.py")}
    for block in shown:
        code = [line for line in block.splitlines() if line and not line.startswith(("import", "from"))]
        assert len(code) <= (25 if block in blocks("python") else 40)


def test_the_names_in_the_text_exist() -> None:
    public = {name for name in vars(session_lock) if name[0].isupper()} | {
        "SIGSTOP",
        "CRITICAL",
        "DATABASE_URL",
        "SESSION_LOCK_DSN",
    }
    named = set(re.findall(r"`([A-Z]\w+)\b", README.split("## What is promised")[1]))
    assert named <= public
    assert named >= {"Settings", "TaskTable", "Task", "Batch", "PostgresDatabase"}
    for owner, attribute in re.findall(r"`(task|batch|runner)\.(\w+)", README):
        holder = {"task": session_lock.Task, "batch": session_lock.Batch, "runner": session_lock.Runner}[
            owner
        ]
        assert hasattr(holder, attribute), f"{owner}.{attribute}"


# Commands --------------------------------------------------------------------------------------------------


async def test_the_steps_of_adopting_it_work(
    database: TestDatabase,
    write_jobs: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All of the commands in the text, in its order, on a table that is there, with rows that were there before."""
    mapping = re.search(r"^mails = TaskTable\(.*\)$", blocks("python")[0], flags=re.MULTILINE)[0]
    write_jobs(f"from session_lock import TaskTable\n{mapping}\n")
    (tmp_path / "migrations").mkdir()
    monkeypatch.setenv("DATABASE_URL", database.admin_dsn)
    monkeypatch.delenv("SESSION_LOCK_DSN", raising=False)

    async def run(*words: str) -> tuple[int, str]:
        status = await asyncio.to_thread(main, words)  # which runs a loop of its own
        output = capsys.readouterr()
        return status, output.out + output.err

    admin = await asyncpg.connect(database.admin_dsn)
    ran = []
    try:
        await admin.execute(
            "CREATE TABLE mail (id bigint PRIMARY KEY, address text NOT NULL, sent_at timestamptz)"
        )
        await admin.execute("INSERT INTO mail SELECT g, 'a' FROM generate_series(1, 3) AS g")
        for words in commands():
            if words[0] in {"demo", "--help"}:
                continue
            words = [APP_ROLE if word == "myservice" else word for word in words]
            if words[0] == "install" and "--yes" not in words:
                words.append("--yes")  # nobody is here to be asked
            status, output = await run(*words)
            assert status == 0, f"{words}\n{output}"
            ran.append((words[0], output))
        assert await admin.fetchval(
            "SELECT has_function_privilege($1, oid, 'EXECUTE') FROM pg_proc WHERE proname ~ '^get_work_mail_'",
            APP_ROLE,
        )
        assert await admin.fetchval("SELECT count(*) FROM mail WHERE session_id IS NULL") == 3
        index = await admin.fetchval("SELECT indexname FROM pg_indexes WHERE indexname ~ '^pending_mail_'")
        await admin.execute(f"DROP INDEX {index}")
        status, output = await run("check", "jobs:mails")
        assert status == 1, output  # "what is wrong (exit 1)"
    finally:
        await admin.close()
    assert {word for word, _ in ran} == {"install", "sql", "peek", "check", "prune"}
    assert "3 rows" in ran[0][1], "install does not say how many rows are pending"
    assert len(list((tmp_path / "migrations").glob("001*_session_lock_*.up.sql"))) == 5


def test_each_command_that_makes_functions_grants_them() -> None:
    """A changed mapping has functions of another name, which nobody has been granted."""
    making = [
        words
        for words in commands()
        if words[0] == "install" or words[:2] in (["sql", "always"], ["sql", "copy"])
    ]
    assert len(making) == 4
    assert all("--grant-to" in words for words in making)


def test_the_demo_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands().count(["demo"]) == 2  # by uv, and by pip
    assert main(["demo", "--help"]) == 0
    assert "usage: session-lock demo" in capsys.readouterr().out
    assert main(["--help"]) == 0
    listed = set(re.findall(r"^ {4}(\w+) ", capsys.readouterr().out, flags=re.MULTILINE))
    assert {words[0] for words in commands()} - {"--help"} <= listed


def test_the_install_commands_name_what_pyproject_has() -> None:
    project = PROJECT["project"]
    assert project["scripts"] == {"session-lock": "session_lock.cli:main"}
    extras = re.findall(r"'\.\[(\w+)\]'", README)
    assert extras == ["demo", "test"]
    assert set(extras) <= project["optional-dependencies"].keys()
    assert any("pytest>" in requirement for requirement in project["optional-dependencies"]["test"])
    assert {"session-lock[demo,test]"} <= {
        r for r in PROJECT["dependency-groups"]["dev"] if isinstance(r, str)
    }
    assert PROJECT["tool"]["uv"]["default-groups"] == ["dev"]  # so `uv run` needs no word more


# Facts -----------------------------------------------------------------------------------------------------


def test_the_promise_is_in_the_designs_words() -> None:
    assert f"*{PROMISE}*" in FLAT


def test_the_numbers_of_the_settings() -> None:
    quoted = re.findall(r"`(\w+)` \((\d+) s\)", FLAT)
    assert {name for name, _ in quoted} == {
        "lease_ttl",
        "poll_interval",
        "drain_timeout",
        "cancel_grace",
        "shutdown_timeout",
    }
    assert quoted == [(name, f"{getattr(Settings(), name):g}") for name, _ in quoted]


def test_the_numbers_of_connections() -> None:
    database = session_lock.PostgresDatabase(
        "postgresql://nowhere", TaskTable("t", key="id", pending="p", finish="f")
    )
    work, keepalives = database._work._size, database._keepalive._size
    assert (work, keepalives) == (calls_module.WORK_CONNECTIONS, 1)
    assert f"up to {work} for work and {keepalives} for keepalives" in FLAT
    assert (
        f"up to {calls_module.TRANSACTION_CONNECTIONS} more while `transaction()` is used and no `pool=` was given"
        in FLAT
    )


def test_what_it_needs() -> None:
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert "Python 3.11 and PostgreSQL 14, or later" in FLAT
    names = [re.match(r"[\w-]+", requirement)[0] for requirement in PROJECT["project"]["dependencies"]]
    assert f"depends on {names[0]}, {names[1]} and {names[2]}" in FLAT
    assert len(names) == 3
    columns = [getattr(ClaimColumns(), each.name) for each in fields(ClaimColumns)]
    assert "four columns (" + ", ".join(f"`{name}`" for name in columns) + ";" in FLAT
    assert set(KEY_TYPES) == {"smallint", "integer", "bigint", "uuid", "text", "character varying"}
    assert "an integer type, uuid, text or varchar" in FLAT
    assert TaskTable("t", key="id", pending="p", finish="f").schema == "session_lock"


def test_the_oldest_postgresql_is_tested() -> None:
    majors = re.findall(r'"(\d\d)": "\d', (ROOT / "noxfile.py").read_text())
    assert min(majors) == "14"


def test_the_pauses_before_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda least, most: most)
    assert [Retry().pause(attempt) for attempt in (1, 2, 3, 30)] == [1, 2, 4, 3600]
    monkeypatch.setattr("random.uniform", lambda least, most: least)
    assert [Retry().pause(attempt) for attempt in (1, 2)] == [0.5, 1.0]
    assert "after 1, 2, 4 .. 3600 s, less up to half" in FLAT
    assert Retry().max_attempts == 25
    assert "given up at the 25th" in FLAT


# Form ------------------------------------------------------------------------------------------------------


def test_the_lengths() -> None:
    assert len(README.splitlines()) <= 160
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 75
    for path in (ROOT / "docs" / "adr").glob("*.md"):
        title, _, second, *rest = path.read_text().splitlines()
        assert title.startswith(f"# {path.name[:4]}: ")
        assert re.match(r"\d{4}-\d\d-\d\d, (accepted|superseded)", second), path
        assert len(rest) <= 60, f"{path} is longer than a page"
        assert {"## Context", "## Decision", "## Consequences"} <= set(rest)
    for path in (ROOT / "session_lock").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300 or "longer than 300 lines" in text, (
            f"{path}: split it, or say why not"
        )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_words_and_links(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    avoided = (
        r"\bworkers?\b|\bqueues?\b|exactly-once delivery|\b(?:acquire|hold|take|release)s? (?:a|the) lock\b"
    )
    # The ready-made table is called by its name, in code and as the name of its page.
    prose = re.sub(r"```.*?```|`[^`]+`|\]\([^)]*\)", "", text, flags=re.DOTALL)
    assert re.findall(avoided, prose, flags=re.IGNORECASE) == []
    assert re.findall(r"https?://\S+|/(?:work|tmp|home)/\S*", text) == []
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        page = path.parent / file if file else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


def anchors(page: Path) -> list[str]:
    """Of its titles, as they are made from them."""
    titles = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def test_the_import_order_is_the_contracts() -> None:
    diagram = re.search(
        r"^```\n(cli.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE | re.DOTALL
    )
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    assert diagram[1].splitlines() == [layer.replace("session_lock.", "") for layer in layers]
