"""`session-lock demo`, run as a stranger runs it: what it prints, what its exit code says, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import asyncpg
import pytest

from session_lock.cli.demo_runner import LEASE_TTL

SESSION_LOCK = [
    sys.executable,
    "-c",
    "import sys; from session_lock.cli import main; sys.exit(main())",
    "demo",
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "below").mkdir(parents=True)
    for number in range(300):
        (folder / ("below" if number % 3 else "") / f"{number}.txt").write_text(f"file {number}")
    return folder


async def start(*words: str | Path) -> asyncio.subprocess.Process:
    """In a session of its own, so that nothing but it and its children has its id."""
    return await asyncio.create_subprocess_exec(
        *SESSION_LOCK, *map(str, words),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


async def demo(*words: str | Path) -> tuple[int, str, str]:
    process = await start(*words)
    out, err = await asyncio.wait_for(process.communicate(), 55)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def of_session(session: int) -> list[int]:
    """The processes that belong to a session, stopped ones and the server's included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def folders_of(processes: list[int]) -> set[Path]:
    """Those that the demo has made and its server lives in."""
    words = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes)
    return {Path(os.fsdecode(path)) for path in re.findall(rb"/[\w/]+/session-lock-[^/\0 ']+", words)}


async def test_one_is_killed_and_one_is_frozen_and_each_file_is_finished_once(files: Path) -> None:
    code, out, err = await demo("--json", "--dir", files, "--seconds", "9")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert list(told) == [
        "tasks", "finished", "runs", "reruns", "wrong_digests", "finished_twice", "killed", "frozen", "refused",
        "takeover_seconds", "seconds", "tasks_per_second", "per_runner",
    ]  # fmt: skip
    assert told["tasks"] == told["finished"] == 300
    assert (told["wrong_digests"], told["finished_twice"], told["killed"], told["frozen"]) == (0, 0, 1, 1)
    struck = [runner for runner in told["per_runner"] if runner["fate"] in {"killed", "frozen"}]
    assert 0 < told["reruns"] <= sum(runner["held_when_struck"] for runner in struck)
    assert told["runs"] == told["tasks"] + told["reruns"]
    assert told["refused"] > 0
    assert 0 < told["takeover_seconds"] <= LEASE_TTL + 2  # not a measure of speed: a lease is what it takes


async def test_nobody_is_harmed_on_request_and_lines_are_plain_without_a_terminal(files: Path) -> None:
    code, out, err = await demo("--no-kill", "--no-freeze", "--dir", files, "--seconds", "2")
    assert (code, err) == (0, "")
    assert "300 of 300 files are finished, none of them twice, none with a wrong digest" in out
    assert "\x1b" not in out
    assert "kill" not in out.split("\n", 1)[1]


async def test_on_a_server_that_is_there_it_takes_its_schema_down_again(files: Path, database) -> None:
    options = ("--json", "--no-kill", "--no-freeze", "--dir", files, "--seconds", "2", "--tasks", "50")
    code, out, err = await demo(*options, "--dsn", database.admin_dsn)
    assert (code, err) == (0, "")
    assert json.loads(out)["finished"] == 50
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        left = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname ~ 'session_lock|demo'")
        assert left == []
        await connection.execute("CREATE SCHEMA session_lock_demo")
        code, out, err = await demo(*options, "--dsn", database.admin_dsn)
        assert code == 2
        assert re.fullmatch(r"session-lock: .*session_lock_demo.*\n", err)
    finally:
        await connection.close()


@pytest.mark.parametrize("after", [0.3, 1.5, 6.0])
async def test_ctrl_c_at_any_moment_leaves_nothing_behind(files: Path, after: float) -> None:
    process = await start("--dir", files, "--seconds", "20")
    await asyncio.sleep(after)  # the server starts; the runners start; one is killed, one is frozen
    made = folders_of(of_session(process.pid))
    assert made or after < 1
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    assert b"Traceback" not in err
    async with asyncio.timeout(5):
        while of_session(process.pid) or any(folder.exists() for folder in made):
            await asyncio.sleep(0.05)


async def test_a_folder_without_files_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = await demo("--dir", tmp_path / "empty")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"session-lock: [^\n]*empty[^\n]*\n", err)
