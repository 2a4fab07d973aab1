"""docs/tutorial/faults.md, followed as a reader would: its files, its runs of pytest, and what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from session_lock.testing import Instance
from session_lock.testing.fault import VERBS
from tests.docs.pages import Page


def write(folder: Path, block: str) -> None:
    name = re.match(r"# (\w+\.py)\n", block)
    assert name, block
    (folder / name[1]).write_text(block)


def pytest_in(folder: Path, *options: str) -> str:
    """What it printed, each failure on a line of its own. By its path, as who has not activated the environment does."""
    here = Path(sys.executable).parent
    path = ":".join(each for each in os.environ["PATH"].split(":") if Path(each) != here)
    env = {**os.environ, "PATH": path, "COLUMNS": "300"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=80).stdout


@pytest.mark.timeout(180)
def test_the_tutorial(tmp_path: Path) -> None:
    page = Page("faults.md", folder="tutorial")
    jobs, conftest, test_jobs, mended, _ = page.blocks
    for block in (jobs, conftest, test_jobs):
        write(tmp_path, block)
    fails, passes = re.findall(r"^```text\n(.*?)^```$", page.text, flags=re.MULTILINE | re.DOTALL)
    out = pytest_in(tmp_path)
    for line in fails.splitlines():
        assert line in out, out
    buggy = re.search(r"^ +async def write_invoice.*?(?=\n\n)", jobs, flags=re.MULTILINE | re.DOTALL)
    assert buggy
    write(tmp_path, jobs.replace(buggy[0], indent(mended, " " * 8).rstrip()))
    assert passes.strip() in pytest_in(tmp_path)


def test_the_test_without_a_database(tmp_path: Path) -> None:
    test = Page("faults.md", folder="tutorial").blocks[-1]
    write(tmp_path, test)
    assert "1 passed" in pytest_in(tmp_path)
    for line, other in [
        ("        task.assert_held()\n", ""),
        ("first.freeze()", "first.kill_before_finish()"),
    ]:
        assert line in test
        write(tmp_path, test.replace(line, other))
        assert "AssertionError: not one mail for each task: 1: 2" in pytest_in(tmp_path)


def test_the_methods_of_the_table() -> None:
    page = Page("faults.md", folder="tutorial")
    called = re.findall(r"`(?:await )?(?:first\.)?(\w+)\((.*?)\)`", page.text)
    methods: dict[str, Any] = {name: getattr(Instance, name, None) for name, _ in called}
    table = {"expire", "freeze", "thaw", "partition", "heal", "kill", "kill_before_finish", "lose_reply"}
    assert table | {"fail", "hang", "delay", "before"} <= set(methods)
    for name, arguments in called:
        if methods[name]:
            signature(methods[name]).bind(None, *filter(None, arguments.split(", ")))
    assert set(re.findall(r"`(\w+_\w+|\*|transaction|commit|finish)`", page.text)) >= {"*", "get_work"}
    (calls,) = re.findall(r"A call is a verb of the database(.*?)\n\n", page.text, flags=re.DOTALL)
    named = set(re.findall(r"`?(\b\w+_\w+|transaction|commit|finish|\*)`", calls)) - {"task"}
    assert named <= set(VERBS)
