"""A physical standby of a `temp_postgres` server, made with nothing but `postgres` itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import asyncpg

from session_lock.embedded import Server, _Postmaster


class _Standby(_Postmaster):
    def _is_ready(self) -> bool:
        with suppress(OSError, IndexError):
            return (self.data / "postmaster.pid").read_text().splitlines()[7].strip() in {"standby", "ready"}
        return False


@contextmanager
def standby_of(server: Server) -> Iterator[str]:
    """The DSN of a hot standby that streams from the server (which is stopped and started for it), to the block's end."""
    data, options = server.log.parent / "standby", server._postmaster.options
    data.mkdir(mode=0o700)
    if "user" in options:
        os.chown(data, options["user"], options["group"])
    server.stop()
    subprocess.run(["cp", "-a", f"{server.data}/.", str(data)], check=True, **options)
    subprocess.run(["touch", str(data / "standby.signal")], check=True, **options)
    server.start()
    settings = {**server._postmaster.settings, "primary_conninfo": server.dsn}
    standby = _Standby(server.bin_dir, data, server.log.parent / "standby.log", settings, options)
    try:
        standby.start()
        yield server.dsn.replace(f":{server.port}/", f":{standby.port}/")
    finally:
        standby.stop("fast")


async def make_synchronous(admin: asyncpg.Connection) -> None:
    """From here on a commit is on the standby as well, so that none is lost with the primary."""
    await admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await admin.execute("SELECT pg_reload_conf()")
    while not await admin.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync')"
    ):
        await admin.execute("SELECT pg_sleep(0.02)")
