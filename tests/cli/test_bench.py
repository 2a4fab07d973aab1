"""`session-lock bench` as a program: what it tells, and that nothing is left of it when it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest

from session_lock.cli import bench, main
from tests.benchmarks.ground import conditions
from tests.conftest import TestDatabase

COMMAND = [sys.executable, "-c", "import sys; from session_lock.cli import main; sys.exit(main())", "bench"]


@pytest.mark.parametrize(
    ("begun", "told"),
    [("floors, round 1 of 1: SELECT 1", 0), ("floors, round 1 of 1: one durable UPDATE", 1)],
    ids=["the first", "the second"],
)
def test_an_interrupted_run_tells_what_it_has_and_leaves_nothing(begun: str, told: int) -> None:
    words = ["--quick", "--subject", "floors"]
    with subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stderr is not None
        while run.stderr.readline().strip() != begun:
            assert run.poll() is None
        (server,) = [each for each in psutil.Process(run.pid).children() if each.name() == "postgres"]
        data = Path(server.cmdline()[server.cmdline().index("-D") + 1])
        started = psutil.Process(run.pid).children(recursive=True)
        assert data.exists()
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        out, err = run.communicate(timeout=30)
    assert run.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted: not all rounds were made" in out
    assert out.count("| SELECT 1 | 1 |") == told
    assert not psutil.wait_procs(started, timeout=10)[1]
    assert not data.exists()
    assert not data.parent.exists()


async def test_a_server_that_is_not_durable_is_told(database: TestDatabase) -> None:
    connection = await asyncpg.connect(database.admin_dsn)
    off = await connection.fetchval("SHOW fsync") == "off"
    said = await conditions(connection)
    await connection.close()
    assert any(each.startswith("fsync is off: ") for each in said) == off


class Answering:
    """A connection to a server with these settings."""

    def __init__(self, **settings: str) -> None:
        self.settings = {"server_version": "18.6", "fsync": "on", "debug_assertions": "off", **settings}

    async def fetchval(self, query: str) -> str:
        return self.settings[query.removeprefix("SHOW ")]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, None),
        ({"fsync": "off"}, "fsync is off: commits are not durable, "),
        ({"debug_assertions": "on"}, "a debug build of PostgreSQL: "),
    ],
)
async def test_what_makes_figures_worthless_is_told(settings: dict[str, str], told: str | None) -> None:
    *usual, last = await conditions(Answering(**settings))
    assert usual[1] == "PostgreSQL 18.6"
    assert last.startswith(told or "a load of ")


def test_the_installed_package_has_no_benchmarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    assert main(["bench", "--quick"]) == 2
    assert "clone the repository, and run `uv run session-lock bench` there" in capsys.readouterr().err
