"""The finishing transaction: what a tasker writes and the finish of its tasks take place together, or not at all."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from typing import Any

from session_lock.connections import Connections
from session_lock.database import Claim
from session_lock.drivers import Statement, describe_kind, fetch, fetch_sync, find
from session_lock.errors import DatabaseError, SettingsError
from session_lock.server import Server, Wanted
from session_lock.session import Lease
from session_lock.sqlstate import is_driver_error, read, translated
from session_lock.wording import NOT_COMMITTED

IN_FAILED_TRANSACTION = "25P02"

ENDED = "the finishing transaction was ended within its block: leave COMMIT and ROLLBACK to the end of it"


class Finishing:
    """`finish_in` and `transaction` of a `PostgresDatabase`.

    Transactions are opened on the user's pool, or on connections of our own where there is none.
    """

    def __init__(self, wanted: Wanted, pool: Any, own: Connections) -> None:
        self._wanted = wanted
        self._open = _on(own) if pool is None else _opener(pool)

    async def finish_in(self, connection: Any, server: Server, lease: Lease, claims: Sequence[Claim]) -> None:
        await self._fence(connection, server, lease, claims)

    async def _fence(self, connection: Any, server: Server, lease: Lease, claims: Sequence[Claim]) -> int:
        """Returns the number of the transaction."""
        with self._translated("finish_in"):
            ((_, number),) = await fetch(connection, self._statement("finish_in", server, lease, claims))
        return int(number)

    def finish_in_sync(self, connection: Any, server: Server, lease: Lease, claims: Sequence[Claim]) -> None:
        with self._translated("finish_in_sync"):
            fetch_sync(connection, self._statement("finish_in_sync", server, lease, claims))

    @asynccontextmanager
    async def transaction(
        self, met: Callable[[], Awaitable[Server]], lease: Lease, claims: Sequence[Claim]
    ) -> AsyncIterator[Any]:
        own: BaseException | None = None  # what the block raises is the user's, and stays as it is
        try:
            async with self._open() as connection:
                number = await self._fence(connection, await met(), lease, claims)
                try:
                    yield connection
                    if find(connection, SESSIONS):
                        await connection.flush()  # what the block has left to write is still the user's
                except BaseException as error:
                    own = error
                    raise
                await _check_open(connection, number)
        except Exception as error:
            if error is own or not is_driver_error(error):
                raise
            if own is not None:
                raise own from None
            with self._translated("the finishing transaction"):
                raise
        if own is not None:  # psycopg takes a Rollback for an end like any other
            raise own

    def _statement(self, call: str, server: Server, lease: Lease, claims: Sequence[Claim]) -> Statement:
        """Nonce and keys travel as text, which no driver and no codec of the user's changes."""
        server.check_gave(lease)
        query = (
            f"SELECT {self._wanted.function('finish_in', server.functions)}"
            f"($1::bigint, $2::text::uuid, $3::text[]::{server.key_type}[], $4::bigint[]), pg_catalog.pg_current_xact_id()::text::bigint"
        )
        keys, tokens = [str(claim.key) for claim in claims], [claim.token for claim in claims]
        return Statement(call, query, (lease.id, str(lease.nonce), keys, tokens))

    def _translated(self, what: str) -> AbstractContextManager[None]:
        return translated(f"{what} ({self._wanted.name})", self._wanted.remedy)


IS_OPEN = "SELECT pg_catalog.pg_xact_status($1::bigint::text::pg_catalog.xid8) = 'in progress'"
"""A number and a boolean: what a driver makes of text may depend on its encoding, and on the user's codecs."""


async def _check_open(connection: Any, number: int) -> None:
    """Refuse to commit what is no longer the transaction of that number, or commits nothing: after an error PostgreSQL answers a
    COMMIT with ROLLBACK, of which no driver tells.
    """
    ask = Statement("transaction", IS_OPEN, (number,))
    try:
        ((is_open,),) = await fetch(connection, ask)
    except Exception as error:
        if not is_driver_error(error):  # of a layer that no longer has it
            raise DatabaseError(ENDED) from error
        if read(error).state == IN_FAILED_TRANSACTION:
            raise DatabaseError(NOT_COMMITTED) from error
        raise
    if not is_open:
        raise DatabaseError(ENDED)


# Transactions on a pool of the user's -------------------------------------------------------------------


Open = Callable[[], AbstractAsyncContextManager[Any]]


def _opener(pool: Any) -> Open:
    """What opens a transaction on the pool: READ COMMITTED, committed at the end of the block."""
    opened = find(pool, POOLS)
    if opened is None:
        raise SettingsError(
            "pool= takes a pool of asyncpg, an AsyncConnectionPool of psycopg, or an AsyncEngine or async_sessionmaker of "
            f"SQLAlchemy, not {describe_kind(pool)}"
        )
    return lambda: opened(pool)


def _on(own: Connections) -> Open:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        async with own.one() as connection:
            transaction = connection.transaction(isolation="read_committed")
            await transaction.start()
            try:
                yield connection
            except Exception:
                await transaction.rollback()
                raise
            # Who is cancelled does not wait for the answer to a ROLLBACK: the connection ends, and the transaction with it.
            await transaction.commit()

    return opened


@asynccontextmanager
async def _on_asyncpg(pool: Any) -> AsyncIterator[Any]:
    async with pool.acquire() as connection, connection.transaction(isolation="read_committed"):
        yield connection


@asynccontextmanager
async def _on_psycopg(pool: Any) -> AsyncIterator[Any]:
    async with pool.connection() as connection:
        before = connection.isolation_level
        await connection.set_isolation_level(sys.modules["psycopg"].IsolationLevel.READ_COMMITTED)
        try:
            async with connection.transaction():
                yield connection
        finally:
            if connection.info.transaction_status.name == "IDLE":  # else the pool does not keep it
                await connection.set_isolation_level(before)


@asynccontextmanager
async def _on_engine(engine: Any) -> AsyncIterator[Any]:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        async with connection.begin():
            yield connection


@asynccontextmanager
async def _on_sessionmaker(make: Any) -> AsyncIterator[Any]:
    async with make() as session, session.begin():
        await session.connection(execution_options={"isolation_level": "READ COMMITTED"})
        yield session


POOLS: Mapping[tuple[str, str], Callable[[Any], AbstractAsyncContextManager[Any]]] = {
    ("asyncpg", "Pool"): _on_asyncpg,
    ("psycopg_pool", "AsyncConnectionPool"): _on_psycopg,
    ("sqlalchemy", "AsyncEngine"): _on_engine,
    ("sqlalchemy", "async_sessionmaker"): _on_sessionmaker,
}

SESSIONS = {("sqlalchemy", "AsyncSession"): True}
