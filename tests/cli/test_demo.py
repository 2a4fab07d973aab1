"""The demo as a user runs it: what it shows is true, and nothing of it is left, however it ends."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from session_lock.cli.demo_cast import Cast
from session_lock.cli.demo_director import Plan
from session_lock.cli.demo_table import Access, demo_schema, digest, list_files
from session_lock.cli.demo_verdict import TAKEN_OVER, judge
from session_lock.cli.demo_watch import Watch
from session_lock.embedded import find_bin_dir
from session_lock.errors import SessionLockError

DEMO = "import sys; from session_lock.cli import main; sys.exit(main(['demo', *sys.argv[1:]]))"
KEYS = (
    "tasks finished runs reruns wrong_digests finished_twice killed frozen refused takeover_seconds seconds "
    "tasks_per_second per_runner"
)
LEASE = 5

try:
    find_bin_dir()
except SessionLockError as missing:
    if not os.environ.get("CI"):
        pytest.skip(str(missing), allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files to work on, of many sizes, in folders, two of them left out."""
    root = tmp_path_factory.mktemp("files")
    for number in range(300):
        path = root / str(number % 7) / f"ä {number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(secrets.token_bytes(number * 50))
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "left.pyc").touch()
    (root / "link").symlink_to(root / "0")
    return root


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

    def read_until(self, text: str) -> None:
        for line in self.process.stdout:
            if text in line:
                return
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

    def wait(self, seconds: float = 30) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

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


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def _lives(pid: int) -> bool:
    return _state(pid) not in {"gone", "Z"}


def eventually(condition: Callable[[], bool], timeout: float = 10) -> bool:
    deadline = time.perf_counter() + timeout
    while not (holds := condition()) and time.perf_counter() < deadline:
        time.sleep(0.02)
    return holds


@pytest.fixture
def demo() -> Iterator[Callable[..., Demo]]:
    with ExitStack() as stack:

        def start(*words: str | Path) -> Demo:
            demo = Demo(*words)
            stack.callback(demo.process.kill)
            return stack.enter_context(_Closing(demo))

        yield start


class _Closing:
    def __init__(self, demo: Demo) -> None:
        self.demo = demo

    def __enter__(self) -> Demo:
        return self.demo

    def __exit__(self, *_: object) -> None:
        self.demo.process.kill()
        self.demo.process.communicate()
        shutil.rmtree(self.demo.temp)


# The play ------------------------------------------------------------------------------------------


def test_one_is_killed_one_is_frozen_and_all_is_done_once(demo, folder):
    run = demo("--json", "--dir", folder, "--seconds", "8")
    assert eventually(lambda: sum("demo_runner" in command for command in run.remember().values()) == 3)
    status, out, err = run.wait()
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert list(result) == KEYS.split()
    assert result["tasks"] == result["finished"] == 300
    assert result["wrong_digests"] == result["finished_twice"] == 0
    assert result["killed"] == result["frozen"] == 1
    assert result["refused"] > 0
    assert 0 < result["takeover_seconds"] <= LEASE + 2
    killed, frozen, whole, replacement = result["per_runner"]
    assert [each["fate"] for each in (killed, frozen, whole, replacement)] == [
        "killed",
        "frozen",
        "stopped",
        "stopped",
    ]
    assert len(killed["sessions"]) == 1
    assert len(frozen["sessions"]) == 2, "thawed, it has got a new session"
    assert 0 < result["reruns"] <= killed["held_when_struck"] + frozen["held_when_struck"]
    assert result["runs"] >= 300 + result["reruns"]
    assert frozen["refused"] == result["refused"] <= frozen["held_when_struck"]
    assert sum(each["finished"] for each in result["per_runner"]) == 300
    assert all(each["finished"] > 0 for each in (killed, frozen, whole, replacement))
    run.assert_nothing_is_left()


def test_in_peace_on_a_server_that_is_there(demo, folder, server_dsn):
    run = demo(
        "--dsn", server_dsn, "--dir", folder, "--no-kill", "--no-freeze", "--seconds", "2", "--runners", "2"
    )
    status, out, err = run.wait()
    assert (status, err) == (0, "")
    assert re.search(r"\d\.\d s  R1 R2 start\n", out)
    assert re.search(r"\d\.\d s  \d+ of 300 finished, \d+/s  R1 \w+, holds \d+  R2 ", out)
    assert "300 of 300 files are finished, none of them twice, none with a wrong digest" in out
    assert "300 runs in" in out
    assert "\x1b" not in out
    assert not schemas(server_dsn)


def schemas(dsn: str) -> list[str]:
    import asyncio

    async def read() -> list[str]:
        connection = await asyncpg.connect(dsn)
        try:
            rows = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'session%'")
            return [row["nspname"] for row in rows]
        finally:
            await connection.close()

    with asyncio.Runner() as runner:
        return runner.run(read())


# Ends ----------------------------------------------------------------------------------------------


def frozen_demo(demo, folder) -> Demo:
    run = demo("--dir", folder, "--seconds", "8")
    run.read_until("is frozen")
    commands = run.remember()
    runners = [pid for pid, command in commands.items() if "demo_runner" in command]
    assert sorted(_state(pid) == "T" for pid in runners)[-1:] == [True]
    assert len(runners) in {3, 4}
    assert run.folders
    assert not any("postgresql://" in command for command in commands.values())
    return run


def test_ctrl_c_while_one_is_frozen(demo, folder):
    run = frozen_demo(demo, folder)
    began = time.perf_counter()
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does
    time.sleep(0.01)
    os.killpg(run.process.pid, signal.SIGINT)  # and again
    status, _, err = run.wait()
    assert (status, err) == (130, "session-lock: interrupted: runners, tables and server are gone\n")
    assert time.perf_counter() - began < 5
    run.assert_nothing_is_left()


def test_killed_while_one_is_frozen(demo, folder):
    run = frozen_demo(demo, folder)
    run.process.kill()
    run.wait()
    run.assert_nothing_is_left()


def test_interrupted_at_any_moment_of_its_beginning(demo, folder):
    runs = [demo("--dir", folder) for _ in range(4)]
    began = time.perf_counter()
    for run, moment in zip(runs, (0.4, 0.9, 1.4, 1.9), strict=True):
        while time.perf_counter() - began < moment:
            for each in runs:
                each.remember()
            time.sleep(0.02)
        run.process.send_signal(signal.SIGTERM)
    for run in runs:
        status, _, err = run.wait()
        assert status in {130, -signal.SIGTERM}, err
        assert "Traceback" not in err
        run.assert_nothing_is_left()


def test_interrupted_it_drops_its_schema(demo, folder, server_dsn):
    run = demo("--dsn", server_dsn, "--dir", folder)
    run.read_until("of 300 finished")
    assert schemas(server_dsn) == ["session_lock_demo"]
    other = demo("--dsn", server_dsn, "--dir", folder)
    status, _, err = other.wait()
    assert status == 2
    assert re.fullmatch(r"session-lock: there is a schema session_lock_demo in \S+ already: .*CASCADE\n", err)
    assert server_dsn not in err
    run.process.terminate()
    assert run.wait()[0] == 130
    assert not schemas(server_dsn)
    run.assert_nothing_is_left()


# Bad words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dir", "/nowhere"], "session-lock: /nowhere is no folder: name one with --dir"),
        (["--dir", "{empty}"], "there are no readable files in"),
        (["--runners", "0"], "argument --runners: '0' is not a number from 1 to 20"),
        (["--tasks", "0"], "argument --tasks: '0' is not a number from 1 on"),
        (["--seconds", "nan"], "argument --seconds: 'nan' is not a number of seconds from 1 to 3600"),
        (
            ["--dsn", "postgresql://u:secret@127.0.0.1:1/x", "--dir", "{files}"],
            "the database 127.0.0.1:1/x: ",
        ),
        (["--dsn", "secret", "--dir", "{files}"], "the DSN is not understood"),
    ],
)
def test_one_sentence(demo, folder, tmp_path, words, said):
    (tmp_path / "empty").mkdir()
    places = {"{empty}": str(tmp_path / "empty"), "{files}": str(folder)}
    status, _, err = demo(*(places.get(word, word) for word in words)).wait()
    assert status == 2
    assert said in err
    assert "Traceback" not in err
    assert "secret" not in err


@pytest.mark.parametrize(
    ("runners", "kill", "freeze", "happens", "said"),
    [
        (3, True, True, (True, True), ""),
        (2, True, True, (True, False), "With 2 runners none is frozen: "),
        (2, False, True, (False, True), ""),
        (1, True, True, (False, False), "With one runner none is killed or frozen: "),
        (1, False, False, (False, False), ""),
    ],
)
def test_one_runner_stays_unharmed(runners, kill, freeze, happens, said):
    plan = Plan(runners, tasks=100, seconds=10, kill=kill, freeze=freeze)
    assert (plan.kills, plan.freezes) == happens
    assert " ".join(plan.left_out()).startswith(said)
    assert bool(plan.left_out()) == bool(said)


@pytest.mark.parametrize("tasks", [1, 7, 300, 2450, 100_000])
def test_the_work_is_paced(tasks):
    plan = Plan(runners=3, tasks=tasks, seconds=25, kill=True, freeze=True)
    assert 1 <= plan.batch_size <= 100
    assert 0 < plan.pause <= 10
    if tasks >= 300:
        assert plan.pause * tasks / plan.batch_size / (3 * 2) == pytest.approx(25)


# The judge, who must see what is wrong -----------------------------------------------------------------


async def test_the_judge_sees_what_is_wrong(database, tmp_path):
    for name in "abcdef":
        (tmp_path / name).write_text(name)
    files = list_files(tmp_path, most=None)
    access = Access(database.admin_dsn)
    async with demo_schema(access, files) as connection, Watch(access) as watch, Cast("", 0, 1) as cast:
        update = (
            "UPDATE session_lock_demo.file SET digest = $2, finished_at = clock_timestamp() WHERE path = $1"
        )
        for file in files.files:
            await connection.execute("UPDATE session_lock_demo.file SET claim_token = 1, session_id = 1")
            await connection.execute(update, file.path, digest(file.path))
        good = await judge(connection, files, cast, watch)
        assert good.good
        assert (good.tasks, good.finished, good.changed_files) == (6, 6, 0)

        await connection.execute(update, files.files[0].path, digest(files.files[0].path))
        verdict = await judge(connection, files, cast, watch)
        assert (verdict.finished_twice, verdict.wrong_digests, verdict.good) == (1, 0, False)
        assert "THIS IS WRONG" in verdict.sentences()[0]

        await connection.execute(update, files.files[1].path, "0" * 64)
        await connection.execute(update, files.files[2].path, None)
        Path(files.files[3].path).write_text("longer than it was")
        Path(files.files[4].path).unlink()
        verdict = await judge(connection, files, cast, watch)
        assert (verdict.wrong_digests, verdict.changed_files) == (2, 2)

        await connection.execute(
            "UPDATE session_lock_demo.file SET finished_at = NULL WHERE path = $1", files.files[5].path
        )
        assert (await judge(connection, files, cast, watch)).finished == 5


async def test_take_overs_are_measured_to_the_last_task(database, tmp_path):
    """Session 1 is struck at second 10. Of its tasks one was finished and one given back before; one is finished by the last
    words of its client, one is claimed by another session, and one is claimed, lost and claimed again.
    """
    (tmp_path / "a").touch()
    events = [
        (1, 1, 1, "claimed", 1), (1, 1, 1, "finished", 9),
        (2, 1, 1, "claimed", 1), (2, 1, 1, "given back", 9), (2, 2, 2, "claimed", 40),
        (3, 1, 1, "claimed", 8), (3, 1, 1, "finished", 11),
        (4, 1, 1, "claimed", 8), (4, 2, 2, "claimed", 14), (4, 2, 2, "finished", 20),
        (5, 7, 1, "claimed", 8), (5, 8, 3, "claimed", 15), (5, 9, 2, "claimed", 30),
        (6, 1, 2, "claimed", 8), (6, 1, 2, "finished", 50),
    ]  # fmt: skip

    def second(number: int) -> datetime:
        return datetime.fromtimestamp(number, UTC)

    access = Access(database.admin_dsn)
    async with demo_schema(access, list_files(tmp_path, most=None)) as connection:
        await connection.executemany(
            "INSERT INTO session_lock_demo.event (file, token, session, what, at) VALUES ($1, $2, $3, $4, $5)",
            [(*event[:4], second(event[4])) for event in events],
        )
        row = await connection.fetchrow(TAKEN_OVER, [1], second(10))
        assert (row["held"], row["seconds"]) == (3, 5.0)
