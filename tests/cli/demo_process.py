"""The demo as a user runs it, in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

DEMO = "import sys; from session_lock.cli import main; sys.exit(main(['demo', *sys.argv[1:]]))"


class Demo:
    """One run, with a folder for temporary files of its own."""

    def __init__(self, *words: str | Path) -> None:
        # Not below tmp_path, which the account that root's server runs under cannot reach.
        self.temp = Path(tempfile.mkdtemp(prefix="demo-test-"))
        self.temp.chmod(0o755)
        self.process = subprocess.Popen(
            [sys.executable, "-c", DEMO, *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "TMPDIR": str(self.temp), "COLUMNS": "200"},
        )  # fmt: skip
        self.family: set[int] = set()
        self.folders: set[Path] = set()

    def read_until(self, text: str) -> str:
        """The first line that has it."""
        for line in self.process.stdout:
            if text in line:
                return line
        pytest.fail(f"never said {text!r}: {self.process.stderr.read()}")

    def remember(self) -> dict[int, str]:
        """All processes below the demo, and the folders of its server; returns their commands."""
        parents = {int(path.name): _parent(path) for path in Path("/proc").iterdir() if path.name.isdecimal()}
        found, last = {self.process.pid}, set()
        while found != last:
            last = found
            found = found | {pid for pid, parent in parents.items() if parent in found}
        commands = {pid: _command(pid) for pid in found}
        self.family |= found
        self.folders |= {Path(m[1]) for c in commands.values() if (m := re.search(r"-D (/\S+)", c))}
        return commands

    def wait(self, seconds: float = 60) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        shutil.rmtree(self.temp)

    def assert_nothing_is_left(self) -> None:
        assert eventually(lambda: not any(_lives(pid) for pid in self.family)), [
            (pid, _command(pid)) for pid in self.family if _lives(pid)
        ]
        assert eventually(lambda: not any(folder.exists() for folder in self.folders)), self.folders
        assert eventually(lambda: list(self.temp.iterdir()) == []), list(self.temp.iterdir())


def _parent(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def _lives(pid: int) -> bool:
    return state_of(pid) not in {"gone", "Z"}


def eventually(condition: Callable[[], bool], timeout: float = 10) -> bool:
    deadline = time.perf_counter() + timeout
    while not (holds := condition()) and time.perf_counter() < deadline:
        time.sleep(0.02)
    return holds
