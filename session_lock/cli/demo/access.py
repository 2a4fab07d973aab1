"""How the demo and its runners get into the database."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg

from session_lock.cli.common import describe
from session_lock.sqlstate import translate, translated

Connection: TypeAlias = "asyncpg.Connection[Any]"

REMEDY = "session-lock demo"


@dataclass(frozen=True, slots=True)
class Access:
    """How the demo and its runners get in."""

    dsn: str = field(repr=False)
    runner_role: str | None = None
    """None: the runners use the same role as the demo. On a server that is not ours we make no roles."""

    runner_password: str = field(default="", repr=False)

    @classmethod
    def with_role_for_runners(cls, dsn: str, role: str) -> Access:
        return cls(dsn, role, secrets.token_hex(16))

    @property
    def runner_dsn(self) -> str:
        if self.runner_role is None:
            return self.dsn
        parts = urlsplit(self.dsn)
        where = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{self.runner_role}:{self.runner_password}@{where}").geturl()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """An open connection; what the server says against us becomes a sentence."""
        where = f"the database {describe(self.dsn)}"
        with translated(where, REMEDY):
            connection = await asyncpg.connect(
                self.dsn, timeout=10, server_settings={"application_name": "session-lock demo"}
            )
        try:
            yield connection
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise translate(error, where, REMEDY) from error
        finally:
            connection.terminate()
