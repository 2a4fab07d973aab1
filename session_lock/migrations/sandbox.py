"""Statements that may be refused, run where nothing of them stays; and refusals as sentences."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from session_lock.errors import DatabaseError, SchemaError, SessionLockError
from session_lock.read_only import READ_ONLY, asked

PINNED = "pg_catalog, pg_temp"
"""The search_path of our functions: what a mapping's expressions must be understood under."""


class Connection(Protocol):
    """The part of an asyncpg connection that is used here."""

    async def fetch(self, query: str, *args: Any) -> Sequence[Mapping[str, Any]]: ...
    async def fetchval(self, query: str, *args: Any) -> Any: ...
    async def execute(self, query: str, *args: Any) -> Any: ...
    def transaction(self) -> AbstractAsyncContextManager[Any]: ...
    def is_in_transaction(self) -> bool: ...
    def terminate(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Refused:
    """The server's answer to a statement that it refused."""

    state: str
    message: str
    remedy: str = ""
    """Where nothing may be written: why, and what mends it."""


class RightsError(SchemaError):
    """It is the role, or the server it was sent to, that cannot: nothing was found out about the mapping."""


class _Undo(Exception):  # noqa: N818 (a way out, not a fault)
    pass


@asynccontextmanager
async def rolled_back(connection: Connection, *, patience: str = "10s") -> AsyncIterator[None]:
    """A transaction of which nothing stays, in a known time zone and under the search_path of our functions.

    It waits up to 2 s for a lock and runs a statement for up to `patience`.
    """
    async with undone(connection):
        await set_locally(
            connection,
            search_path=PINNED, timezone="UTC", datestyle="ISO, MDY", lock_timeout="2s", statement_timeout=patience,
        )  # fmt: skip
        yield


@asynccontextmanager
async def undone(connection: Connection) -> AsyncIterator[None]:
    """A transaction, or a savepoint within one, of which nothing stays: neither settings nor locks."""
    try:
        async with _block(connection):
            yield
            raise _Undo  # noqa: TRY301 (the transaction ends by it)
    except _Undo:
        pass


@asynccontextmanager
async def _block(connection: Connection) -> AsyncIterator[None]:
    """A transaction, or a savepoint within one, that ends at once where the server may not answer any more: asyncpg would wait for the
    answer to what was cancelled, without limit, before its ROLLBACK.
    """
    doubt: BaseException | None = None
    try:
        async with connection.transaction():
            try:
                yield
            except BaseException as error:
                if _in_doubt(error):
                    doubt = error
                    _give_up(connection)
                raise
    except BaseException as error:
        if doubt is not None:
            raise doubt from None  # and not that the connection is closed
        if _in_doubt(error):
            _give_up(connection)
        raise


@contextmanager
def given_up_in_doubt(connection: Connection) -> Iterator[None]:
    """After a cancellation or a timeout within the connection is terminated, for the same reason; a refusal leaves it as it is."""
    try:
        yield
    except BaseException as error:
        if _in_doubt(error):
            _give_up(connection)
        raise


def _give_up(connection: Connection) -> None:
    with suppress(Exception):  # a pool's says that it has been taken back, when it was given up before
        connection.terminate()


def _in_doubt(error: BaseException) -> bool:
    return not isinstance(error, (Exception, GeneratorExit)) or isinstance(error, (OSError, TimeoutError))


async def set_locally(connection: Connection, **settings: str) -> None:
    """Until the transaction ends, or a savepoint is rolled back."""
    await connection.fetch(
        "SELECT set_config(s.name, s.value, true) FROM unnest($1::text[], $2::text[]) AS s (name, value)",
        list(settings),
        list(settings.values()),
    )


@asynccontextmanager
async def quiet_settings(connection: Connection) -> AsyncIterator[None]:
    """Names are found as our functions find them, an index takes the time it takes, and what was waited for is seen. After the block all
    is as it was, also what was set for the transaction alone.
    """
    wanted = {
        "search_path": PINNED, "statement_timeout": "0", "client_min_messages": "warning", "timezone": "UTC",
        "datestyle": "ISO, MDY", "standard_conforming_strings": "on", "default_transaction_isolation": "read committed",
    }  # fmt: skip
    rows = await connection.fetch(
        "SELECT n AS name, current_setting(n) AS value FROM unnest($1::text[]) AS n",
        [*wanted, "lock_timeout"],
    )
    before = {row["name"]: row["value"] for row in rows}
    if connection.is_in_transaction():
        async with connection.transaction():  # what fails takes the settings back with it
            await set_locally(connection, **wanted)
            yield
            await set_locally(connection, **before)
        return
    change = (
        "SELECT set_config(s.name, s.value, false) FROM unnest($1::text[], $2::text[]) AS s (name, value)"
    )
    await connection.fetch(change, list(wanted), list(wanted.values()))
    async with at_the_end(lambda: connection.fetch(change, list(before), list(before.values()))):
        yield


@asynccontextmanager
async def at_the_end(undo: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """It is undone, whatever happens. What goes wrong in the block is told, and not that the connection was gone when this was to be undone."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            await undo()
        raise
    await undo()


async def attempt(
    connection: Connection, statement: str, *args: Any
) -> Sequence[Mapping[str, Any]] | Refused:
    """The rows, or why the server refused, with the statement's effects undone then.

    Always by the extended protocol, in which a text of two statements is refused: nothing can follow an expression.
    """
    try:
        async with _block(connection):
            return await connection.fetch(statement, *args)
    except Exception as error:
        if (refused := await refusal(connection, error)) is None:
            raise
        return refused


async def refusal(connection: Connection, error: BaseException) -> Refused | None:
    """What the server said, unless the error is ours or the connection's."""
    state = getattr(error, "sqlstate", None)
    if isinstance(error, SessionLockError) or not state or state[:2] in {"08", "53"} or state[:3] == "57P":
        return None
    told = first_line(getattr(error, "message", None) or str(error))
    return Refused(state, told, await asked(connection) if state == READ_ONLY else "")


def first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no message"


@asynccontextmanager
async def sentences(connection: Connection, doing: str) -> AsyncIterator[None]:
    """What the server refuses within, as one of our errors: what was being done, why not, and the remedy."""
    try:
        yield
    except Exception as error:
        if (refused := await refusal(connection, error)) is None:
            raise
        raise sentence(doing, refused) from error


def sentence(doing: str, refused: Refused) -> SessionLockError:
    match refused.state:
        case "42501" if "temporary" in refused.message:
            return RightsError(
                f"{doing}: {refused.message}: GRANT TEMPORARY ON DATABASE to the role, expressions are tried there"
            )
        case "42501":
            return RightsError(f"{doing}: {refused.message}: connect as the role that owns the table")
        case "55P03" if "the table was not changed" in refused.message:
            return DatabaseError(f"{doing}: {refused.message}")  # by tasks.lock.sql, which has more to tell
        case "55P03":
            return DatabaseError(
                f"{doing}: it is locked by another transaction: try again when that has ended"
            )
        case "57014":
            return DatabaseError(
                f"{doing}: it took too long and was given up: try again when the server is less busy"
            )
        case _ if refused.state == READ_ONLY:
            return RightsError(f"{doing}: {refused.message}: {refused.remedy}")
        case _:
            return SchemaError(f"{doing}: {refused.message} ({refused.state})")
