"""How the demo and its runners get into a database."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg

from session_lock.dsn import describe
from session_lock.embedded import Server
from session_lock.sqlstate import translated

Connection: TypeAlias = "asyncpg.Connection[Any]"
Pool: TypeAlias = "asyncpg.Pool[Any]"

REMEDY = "session-lock demo"


@dataclass(frozen=True, slots=True)
class Access:
    """How the demo and its runners get in."""

    dsn: str = field(repr=False)
    runner_role: str | None = None
    """None: the runners use the same role as the demo. On a server that is not ours we make no roles."""

    runner_password: str = field(default="", repr=False)

    server: Server | None = None
    """None: it is not ours."""

    @classmethod
    def to_ours(cls, server: Server, runner_role: str) -> Access:
        return cls(f"{server.dsn}?sslmode=disable", runner_role, secrets.token_hex(16), server)

    @property
    def runner_dsn(self) -> str:
        if self.runner_role is None:
            return self.dsn
        parts = urlsplit(self.dsn)
        where = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{self.runner_role}:{self.runner_password}@{where}").geturl()

    @asynccontextmanager
    async def pool(self) -> AsyncIterator[Pool]:
        """Our own connections; that there are none becomes a sentence."""
        with translated(f"the database {describe(self.dsn)}", REMEDY):
            pool = await asyncpg.create_pool(
                self.dsn,
                min_size=0,  # else it writes to the log while a server is stopped
                max_size=3,
                timeout=10,
                server_settings={"application_name": "session-lock demo"},
            )
            await pool.fetchval("SELECT 1")
        try:
            yield pool
        finally:
            pool.terminate()
