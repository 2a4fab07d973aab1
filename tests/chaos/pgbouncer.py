"""A PgBouncer, in transaction mode if nothing else is said, for as long as a block lasts."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

CONFIG = """
[databases]
* = host={host} port={port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
pool_mode = {mode}
default_pool_size = {size}
auth_type = plain
auth_file = {folder}/users
"""


class PgBouncer:
    def __init__(self, dsn: str, command: list[str], log: Path) -> None:
        self.dsn = dsn
        """That leads to the database through it."""
        self._command = command
        self._log = log
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        _wait_for(urlsplit(self.dsn).port, self._process, self._log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """As the command PAUSE: whoever asks waits until `resume()`."""
        self._process.send_signal(signal.SIGUSR1)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGUSR2)


def unnamed(dsn: str) -> Callable[[], Awaitable[asyncpg.Connection]]:
    """As the library's error tells one to connect through a pooler."""

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn, statement_cache_size=0)

    return connect


@contextmanager
def pgbouncer(dsn: str, *, size: int = 2, mode: str = "transaction") -> Iterator[str]:
    """The DSN that leads to the same database through it; at most `size` backends serve all who connect."""
    with one_to_harm(dsn, size=size, mode=mode) as it:
        yield it.dsn


@contextmanager
def one_to_harm(dsn: str, *, size: int = 2, mode: str = "transaction") -> Iterator[PgBouncer]:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    program = shutil.which("pgbouncer", path=path)
    if program is None:
        reason = "there is no pgbouncer: apt-get install pgbouncer"
        pytest.fail(reason, pytrace=False) if os.environ.get("CI") else pytest.skip(reason)
    parts = urlsplit(dsn)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own_port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="session_lock-pgbouncer-") as folder:
        config, users = Path(folder, "ini"), Path(folder, "users")
        config.write_text(
            CONFIG.format(
                host=parts.hostname,
                port=parts.port or 5432,
                own_port=own_port,
                mode=mode,
                size=size,
                folder=folder,
            )
        )
        users.write_text(f'"{parts.username}" "{parts.password}"\n')
        command = [program, str(config)]
        if os.geteuid() == 0:  # it does not run as root
            Path(folder).chmod(0o755)
            command[1:1] = ["-u", "nobody"]
        credentials = parts.netloc.rpartition("@")[0]
        own_dsn = parts._replace(netloc=f"{credentials}@127.0.0.1:{own_port}").geturl()
        it = PgBouncer(own_dsn, command, Path(folder, "log"))
        try:
            yield it
        finally:
            it.kill()


def _wait_for(port: int | None, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    pytest.fail(f"pgbouncer does not start: {log.read_text()}")
