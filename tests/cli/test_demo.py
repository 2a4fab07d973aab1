"""The demo as a user runs it: what it shows is true, and nothing of it is left, however it ends."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx
import pytest

from session_lock.cli.demo.access import Access
from session_lock.cli.demo.cast import Cast
from session_lock.cli.demo.part import Part
from session_lock.cli.demo.plan import Plan
from session_lock.cli.demo.scenario import Wish
from session_lock.cli.demo.scenarios.files import Files
from session_lock.cli.demo.scenarios.listing import digest
from session_lock.cli.demo.stage import set_stage
from session_lock.cli.demo.verdict import TAKEN_OVER
from session_lock.embedded import find_bin_dir
from session_lock.errors import SessionLockError
from tests.cli.demo_process import Demo, eventually, state_of

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


# The play ------------------------------------------------------------------------------------------


def test_one_is_killed_one_is_frozen_and_all_is_done_once(demo, folder):
    run = demo("--json", "--dir", folder, "--seconds", "8")
    assert eventually(lambda: sum("demo.runner" in command for command in run.remember().values()) == 3)
    status, out, err = run.wait()
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert list(result) == KEYS.split()
    assert result["tasks"] == result["finished"] == 300
    assert result["wrong_digests"] == result["finished_twice"] == 0
    assert result["killed"] == result["frozen"] == 1
    assert result["refused"] > 0
    assert 0 < result["takeover_seconds"] <= LEASE + 2
    *first, replacement = result["per_runner"]
    order = ["killed", "frozen", "stopped"]  # struck is who is at work at that moment, which need not be R1
    killed, frozen, whole = sorted(first, key=lambda each: order.index(each["fate"]))
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


def test_in_peace_on_a_server_that_is_there(demo, folder, database):
    run = demo(
        "--dsn",
        database.admin_dsn,
        "--dir",
        folder,
        "--no-kill",
        "--no-freeze",
        "--seconds",
        "2",
        "--runners",
        "2",
    )
    status, out, err = run.wait()
    assert (status, err) == (0, "")
    assert re.search(r"\d\.\d s  R1 R2 start\n", out)
    assert re.search(r"\d\.\d s  \d+ of 300 finished, \d+/s  R1 \w+, holds \d+  R2 ", out)
    assert "300 of 300 files are finished, none of them twice, none with a wrong digest" in out
    assert "300 runs in" in out
    assert "\x1b" not in out
    assert not schemas(database.admin_dsn)


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
    runners = [pid for pid, command in commands.items() if "demo.runner" in command]
    assert sorted(state_of(pid) == "T" for pid in runners)[-1:] == [True]
    assert len(runners) in {3, 4}
    assert run.folders
    assert not any("postgresql://" in command for command in commands.values())
    return run


def test_it_has_a_status_page_while_it_runs(demo, folder, database):
    words = ("--no-kill", "--no-freeze", "--tasks", "50", "--seconds", "1", "--runners", "1")
    run = demo("--dsn", database.admin_dsn, "--dir", folder, *words)
    address = re.search(r"http://\S+", run.read_until("status page: "))[0]
    with httpx.Client(trust_env=False, follow_redirects=True) as client:
        assert "session_lock_demo.file" in client.get(address).text
        with client.stream("GET", f"{address}m/file/events") as looking:
            assert any('"trouble":null' in line for line in looking.iter_lines())
            status, _, err = run.wait()
    assert (status, err) == (0, "")
    run.assert_nothing_is_left()


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


def test_interrupted_it_drops_its_schema(demo, folder, database):
    dsn = database.admin_dsn
    run = demo("--dsn", dsn, "--dir", folder)
    run.read_until("of 300 finished")
    assert schemas(dsn) == ["session_lock_demo"]
    other = demo("--dsn", dsn, "--dir", folder)
    status, _, err = other.wait()
    assert status == 2
    assert re.fullmatch(r"session-lock: there is a schema session_lock_demo in \S+ already: .*CASCADE\n", err)
    assert dsn not in err
    run.process.terminate()
    assert run.wait()[0] == 130
    assert not schemas(dsn)
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
    scenario = Files(Wish(runners=3, directory=tmp_path))
    files = scenario.files
    async with (
        set_stage(scenario, Access(database.admin_dsn)) as stage,
        Cast(Part("files", "", {}, 0, 1)) as cast,
    ):
        update = (
            "UPDATE session_lock_demo.file SET digest = $2, finished_at = clock_timestamp() WHERE path = $1"
        )
        for file in files.files:
            await stage.pool.execute("UPDATE session_lock_demo.file SET claim_token = 1, session_id = 1")
            await stage.pool.execute(update, file.path, digest(file.path))
        good = await scenario.judge(stage, cast)
        assert good.good
        assert (good.course.tasks, good.course.finished, good.changed_files) == (6, 6, 0)

        await stage.pool.execute(update, files.files[0].path, digest(files.files[0].path))
        verdict = await scenario.judge(stage, cast)
        assert (verdict.course.finished_twice, verdict.wrong_digests, verdict.good) == (1, 0, False)
        assert "THIS IS WRONG" in verdict.sentences()[0]

        await stage.pool.execute(update, files.files[1].path, "0" * 64)
        await stage.pool.execute(update, files.files[2].path, None)
        Path(files.files[3].path).write_text("longer than it was")
        Path(files.files[4].path).unlink()
        verdict = await scenario.judge(stage, cast)
        assert (verdict.wrong_digests, verdict.changed_files) == (2, 2)

        await stage.pool.execute(
            "UPDATE session_lock_demo.file SET finished_at = NULL WHERE path = $1", files.files[5].path
        )
        assert (await scenario.judge(stage, cast)).course.finished == 5


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

    scenario = Files(Wish(runners=3, directory=tmp_path))
    async with set_stage(scenario, Access(database.admin_dsn)) as stage:
        await stage.pool.executemany(
            "INSERT INTO session_lock_demo.event (task, token, session, what, at) VALUES ($1, $2, $3, $4, $5)",
            [(*event[:4], second(event[4])) for event in events],
        )
        row = await stage.pool.fetchrow(TAKEN_OVER, [1], second(10))
        assert (row["held"], row["seconds"]) == (3, 5.0)
