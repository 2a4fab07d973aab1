"""`PostgresDatabase`: the six verbs as calls of a mapping's functions, one round trip each."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Generic, Literal, TypeVar, cast, overload

import asyncpg

from session_lock.calls import Calls
from session_lock.connections import Connect, UnreadableError
from session_lock.database import (
    STILL_HELD,
    Beat,
    Cancellation,
    Claim,
    Handback,
    Identity,
    Outcome,
    Settled,
    Work,
    check_capacity,
    keys_to_retry,
)
from session_lock.dsn import check_connect
from session_lock.errors import RowRefusedError, SettingsError
from session_lock.findings import Finding
from session_lock.finishing import Finishing
from session_lock.listener import asked_of, check_listen, listening
from session_lock.names import quote_name
from session_lock.reading import Reader
from session_lock.schema import ENVELOPE
from session_lock.server import Wanted
from session_lock.session import Lease, own_label
from session_lock.sqlstate import checked_keys
from session_lock.table import TaskTable, check_app_version
from session_lock.tasks import TaskKey
from session_lock.versions import LIBRARY_VERSION

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 (items of any kind)


class PostgresDatabase(Calls, Generic[T]):
    """A mapping in a PostgreSQL database; the `Database` that a Runner is given.

    `connect` is a DSN or an async callable that returns a new asyncpg connection. `decode` makes a task's data: it is
    called with the mapping's columns as keyword arguments (`dict`, a dataclass, a pydantic model, any function); a model of
    SQLAlchemy or Django with its attributes for them.

    It holds up to two connections for work and one for keepalives, however many Runners share it, and up to four more
    while `transaction()` is used without a `pool` of yours: an asyncpg pool, an SQLAlchemy `AsyncEngine` or
    `async_sessionmaker`, or a psycopg `AsyncConnectionPool`. What `transaction()` yields is a connection (or session) of it.
    One more connection listens for wake-ups while a Runner runs, for all `PostgresDatabase`s of the event loop that have the
    same `listen` (by default `connect`) and schema.

    `listen` is for who connects through a transaction pooler, where nothing can be heard: the DSN of the server itself, or
    an async callable that connects to it. `listen=False`: no such connection; new tasks wait for the next poll.

    A mapping whose functions are written by hand is named instead of declared: `functions="orders", key=int`. `SettingsError` says
    what cannot be; what the server says against it comes with the first call, as `DatabaseError` or `SchemaError`.

    ```python
    async with PostgresDatabase(dsn, mails, decode=Mail) as database, Runner(database, each(send)):
        await serve()
    ```
    """

    @overload
    def __init__(
        self: PostgresDatabase[dict[str, Any]],
        connect: Connect,
        table: TaskTable | None = None,
        *,
        pool: Any = None,
        listen: Connect | Literal[False] | None = None,
        functions: str | None = None,
        key: Callable[[Any], TaskKey] | None = None,
        schema: str = "session_lock",
    ) -> None: ...

    @overload
    def __init__(
        self,
        connect: Connect,
        table: TaskTable | None = None,
        *,
        pool: Any = None,
        listen: Connect | Literal[False] | None = None,
        decode: Callable[..., T],
        functions: str | None = None,
        key: Callable[[Any], TaskKey] | None = None,
        schema: str = "session_lock",
    ) -> None: ...

    def __init__(
        self,
        connect: Connect,
        table: TaskTable | None = None,
        *,
        pool: Any = None,
        listen: Connect | Literal[False] | None = None,
        decode: Callable[..., T] = cast("Callable[..., T]", dict),  # noqa: B008 (the type, not a call)
        functions: str | None = None,
        key: Callable[[Any], TaskKey] | None = None,
        schema: str = "session_lock",
    ) -> None:
        if table is not None and not isinstance(table, TaskTable):
            raise SettingsError(
                f"PostgresDatabase(connect, table): table is a TaskTable, not {type(table).__name__}"
            )
        check_connect(connect)
        check_listen(listen)
        if (table is None) == (functions is None):
            raise SettingsError(
                "give PostgresDatabase a TaskTable, or functions= for ones that are written by hand"
            )
        self._table = table
        self._reader = Reader(table, decode, key)
        name = table.name if table else functions or ""
        self._schema = table.schema if table else schema
        super().__init__(connect, Wanted(name, quote_name(self._schema), table, functions or ""))
        self._connect = connect
        self._listen: Connect | None = connect if listen is None else listen or None
        self._finishing = Finishing(self._wanted, pool, self._transactions)

    def __repr__(self) -> str:
        return f"PostgresDatabase({self._wanted.name!r})"

    async def identity(self) -> Identity:
        """The cluster's system identifier, the database and the mapping's name."""
        return (await self._met()).identity

    async def doctor(self) -> Sequence[Finding]:
        """What is wrong around the mapping, the worst first, as far as this role may see; it changes nothing.

        It opens a few connections of its own for as long as it looks. `docs/reference/doctor.md` lists what it looks at.
        """
        # With it comes all that migrations know, which no Runner needs: it was more than a third of each import.
        doctor = importlib.import_module("session_lock.doctor")
        found: Sequence[Finding] = await doctor.doctor_by(self._wanted, self._connect, self._listen)
        return found

    # The six verbs -----------------------------------------------------------------------------------------

    async def start_session(
        self, *, capacity: int, ttl: float, label: str = "", app_version: str = ""
    ) -> Lease:
        check_app_version(self._table, app_version)
        check_capacity(capacity)
        server = await self._met()
        (row,) = await self._call(
            self._work, "start_session", self._wanted.name, server.functions, capacity, ttl,
            label or own_label(), app_version, LIBRARY_VERSION,
        )  # fmt: skip
        return Lease(row["id"], row["nonce"], row["left"], server.identity)

    async def bump_session(self, lease: Lease, *, ttl: float, draining: bool, running: int = 0) -> Beat:
        options = [ttl, draining, running]
        (row,) = await self._call(self._keepalive, "bump_session", *options, lease=lease)
        return Beat(row["left"], row["give_back"], row["pause"], row["drain"], tuple(row["cancel_keys"]))

    async def get_work(
        self,
        lease: Lease,
        *,
        limit: int,
        held: Collection[TaskKey] = (),
        position: str | None = None,
        until: str | None = None,
        over_share: bool = False,
        at_once: int | None = None,
        finished: Sequence[Claim] = (),
    ) -> Work[T]:
        settled: Sequence[Settled] = ()
        if self._server is not None and not self._server.read_committed:
            at_once = None  # the call's transaction is ended by us: should we freeze, it must not hold rows of other sessions

        async def ask(
            limit: int, finished: Sequence[Claim], columns: str = self._reader.columns
        ) -> list[asyncpg.Record]:
            options = [limit, list(held), position, until, over_share, at_once, *_columns(finished)]
            return await self._call(self._work, "get_work", *options, columns=columns, lease=lease)

        try:
            rows = await ask(limit, finished)
        except RowRefusedError:
            if not finished:
                raise
            # A row among them refuses: it holds up nothing else.
            settled = await self.finish_tasks(lease, finished)
            gone = {each.key for each in settled if each.outcome not in STILL_HELD}
            held = [key for key in held if key not in gone]
            rows = await ask(limit, ())
        except UnreadableError:
            # The driver cannot read a value of some row. They are claimed, and claimed again: the first one alone.
            try:
                rows = await ask(1, finished)
            except UnreadableError as error:
                return self._reader.unreadable(await ask(1, finished, ", ".join(ENVELOPE)), error)
        return self._reader.work(rows, settled)

    async def finish_tasks(self, lease: Lease, claims: Sequence[Claim]) -> Sequence[Settled]:
        async def finish(part: Sequence[Claim]) -> Sequence[Settled]:
            rows = await self._call(self._work, "finish_tasks", *_columns(part), lease=lease)
            return self._reader.settled(rows)

        return await _by_halves(finish, claims, lambda claim: claim.key)

    async def release_tasks(
        self, lease: Lease, handbacks: Sequence[Handback], *, wake: bool = False
    ) -> Sequence[Settled]:
        async def release(part: Sequence[Handback]) -> Sequence[Settled]:
            rows = await self._call(
                self._work, "release_tasks", *_columns([h.claim for h in part]),
                [h.after for h in part], [h.give_back_attempt for h in part], [h.discard for h in part], [h.error for h in part], wake, lease=lease,
            )  # fmt: skip
            return self._reader.settled(rows)

        return await _by_halves(release, handbacks, lambda handback: handback.claim.key)

    async def end_session(self, lease: Lease, claims: Sequence[Claim] = ()) -> None:
        await self._call(self._work, "end_session", *_columns(claims), lease=lease)

    # By whoever wants to, of any task -----------------------------------------------------------------------

    async def cancel(self, key: TaskKey) -> Cancellation:
        """The task is not to be done any more: a pending one is discarded, a running one's tasker is cancelled.

        From any process that may execute the functions. `RowRefusedError` if the row refuses to be discarded,
        `SettingsError` if this can be no key of the table.
        """
        with checked_keys([key], self._wanted.name):
            (row,) = await self._call(self._work, "cancel_task", key)
        return Cancellation(row[0])

    async def retry(self, *keys: TaskKey, all_parked: bool = False) -> Sequence[TaskKey]:
        """Let these, or all, parked tasks run again, with all their attempts. Returns the keys of those that were parked.

        `SettingsError` if one can be no key of the table, or none is given without `all_parked=True`.
        """
        wanted = keys_to_retry(keys, all_parked)
        with checked_keys(keys, self._wanted.name):
            rows = await self._call(self._work, "retry_tasks", wanted)
        return [self._reader.key(row[0]) for row in rows]

    def listening(
        self, wake: Callable[[], None], *, lease: Lease | None = None, asked: Callable[[], None] | None = None
    ) -> AbstractAsyncContextManager[Callable[[], bool] | None]:
        if self._listen is None:
            return nullcontext()
        calls = {self._wanted.name: wake}
        if lease is not None and asked is not None:
            calls[asked_of(lease.id)] = asked
        return listening(self._listen, self._schema, calls)

    # In a transaction of the user's --------------------------------------------------------------------------

    async def finish_in(self, connection: Any, lease: Lease, claims: Sequence[Claim]) -> None:
        await self._finishing.finish_in(connection, await self._met(), lease, claims)

    def finish_in_sync(self, connection: Any, lease: Lease, claims: Sequence[Claim]) -> None:
        assert self._server is not None  # met, before there was a lease
        self._finishing.finish_in_sync(connection, self._server, lease, claims)

    def transaction(self, lease: Lease, claims: Sequence[Claim]) -> AbstractAsyncContextManager[Any]:
        return self._finishing.transaction(self._met, lease, claims)


def _columns(claims: Sequence[Claim]) -> tuple[list[TaskKey], list[int]]:
    keys, tokens = zip(*claims, strict=True) if claims else ((), ())
    return [*keys], [*tokens]


async def _by_halves(
    call: Callable[[Sequence[I]], Awaitable[Sequence[Settled]]],
    items: Sequence[I],
    key: Callable[[I], TaskKey],
) -> Sequence[Settled]:
    """The call for all items; if a row refuses, for each half, until the row is alone and the others are through."""
    if not items:
        return ()
    try:
        return await call(items)
    except RowRefusedError as refused:
        if len(items) == 1:
            return [Settled(key(items[0]), Outcome.REFUSED, str(refused), refused.sqlstate)]
        middle = len(items) // 2
        return [*await _by_halves(call, items[:middle], key), *await _by_halves(call, items[middle:], key)]
