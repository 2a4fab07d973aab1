"""What is recorded of the tests that inject faults, and the page that is made of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.catalogue import BY_ID, CHECKERS, COUNTED, FAULTS, FIGURES, NEVER
from tests.chaos.report import ROOT, page

TESTS = """\
import pytest

@pytest.fixture
def broken():
    raise RuntimeError

@pytest.mark.fault("P3", "N1")
def test_once():
    pass

@pytest.mark.fault("P3", "D1")
def test_often(injected, seed):
    injected("P3", 5)
    injected("P3")
    injected("tasks", 100)
    injected.wrong("C3", 0)
    injected.measure("take-over", 5.5, 6.5)

@pytest.mark.fault("P3", "N2")
def test_fails(injected):
    injected("P3", 7)
    injected.wrong("C3", 2)
    assert False

@pytest.mark.fault("B7")
def test_does_not_begin(broken):
    pass

@pytest.mark.fault("D2")
def test_is_left_out():
    pytest.skip("not here")

def test_of_no_fault():
    pass
"""

LEAN = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(tests: str, *options: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.chaos.recording"]\n')
        (tmp_path / "test_it.py").write_text(tests)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "xdist", *options],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "SESSION_LOCK_TEST_SEED": "42", **LEAN},
            capture_output=True, text=True, timeout=50,
        )  # fmt: skip

    return run


def records_in(path: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["node"].partition("::")[2]: line for line in lines}


@pytest.mark.parametrize("options", [["-n0"], ["-n1"]], ids=["here", "xdist"])
def test_what_is_recorded(run: Run, tmp_path: Path, options: list[str]) -> None:
    file = tmp_path / "record"
    file.write_text('{"node": "of an earlier part::", "outcome": "passed"}\n')
    run(TESTS, *options, f"--faults-record={file}")
    records = records_in(file)
    assert records.keys() == {"", "test_once", "test_often", "test_fails", "test_does_not_begin"}
    assert records["test_once"]["times"] == {"P3": 1, "N1": 1}
    assert records["test_often"]["times"] == {"P3": 6, "D1": 1, "tasks": 100}
    assert records["test_often"]["measured"] == {"take-over": [5.5, 6.5]}
    assert [records[name]["seed"] for name in ("test_once", "test_often")] == [None, 42]
    assert records["test_fails"]["times"] == {"P3": 7, "N2": 0}
    assert records["test_fails"]["found"] == {"C3": 2}
    assert records["test_does_not_begin"]["times"] == {"B7": 0}
    outcomes = [records[name]["outcome"] for name in ("test_often", "test_fails", "test_does_not_begin")]
    assert outcomes == ["passed", "failed", "failed"]

    rows = {line.split(" | ")[0]: line for line in page(file.read_text().splitlines()[1:]).splitlines()}
    assert "| 14 | broken in 1 of 3 runs | test_it.py |" in rows["| P3"]
    assert "| 1 | held |" in rows["| N1"]
    assert "| 0 | broken in 1 of 1 runs |" in rows["| B7"]
    assert "| 0 | not injected |  |" in rows["| D2"]
    assert rows["| SIGSTOPs beyond the lease"] == "| SIGSTOPs beyond the lease | 20 | 300 | 14 | 1 |"
    assert rows["| tasks through chaos"].endswith("| 100 | 0 |")
    assert rows["| tasks finished twice"] == "| tasks finished twice | C3 | 0 | 2 | 2 |"
    assert rows["| tasks lost"] == "| tasks lost | C6 | 0 | not looked | 0 |"
    assert any("2 times, median 5.50 s, p99 6.50 s" in line for line in rows)


def test_what_is_refused(run: Run) -> None:
    ended = run('import pytest\n@pytest.mark.fault("P99")\ndef test():\n    pass\n', "-n0")
    assert ended.returncode != 0
    assert "P99 is not in the catalogue of faults" in ended.stdout + ended.stderr
    ended = run('import pytest\n@pytest.mark.fault("P1")\ndef test(injected):\n    injected("P2")\n', "-n0")
    assert "this test is not marked with P2" in ended.stdout


def test_each_fault_has_a_test_or_a_reason() -> None:
    """As pytest itself collects them, since some ids are parameters."""
    code = (
        "import pytest\n"
        "class Ids:\n"
        "    def pytest_collection_finish(self, session):\n"
        "        print('ids', *{one for item in session.items for mark in item.iter_markers('fault') for one in mark.args})\n"
        "pytest.main(['-q', '-n0', '--collect-only', '-m', 'fault', 'tests'], plugins=[Ids()])\n"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50)
    marked = {one for line in said.stdout.splitlines() if line.startswith("ids ") for one in line.split()[1:]}
    assert marked >= {fault.id for fault in FAULTS if not fault.not_here}


def test_the_catalogue() -> None:
    ids = [
        f"{kind}{number + 1}"
        for kind, count in zip("PNDB", (19, 16, 31, 7), strict=True)
        for number in range(count)
    ]
    assert [fault.id for fault in FAULTS] == ids
    assert all({*fault.checkers.split()} <= CHECKERS.keys() for fault in FAULTS)
    assert CHECKERS.keys() >= NEVER.keys()
    assert all(one in BY_ID or one in COUNTED for figure in FIGURES for one in figure.counted)
