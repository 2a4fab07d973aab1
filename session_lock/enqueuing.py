"""`enqueue`: tasks into a ready-made table, in the caller's own transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from session_lock.copying import Copy, copy_in, copy_in_sync
from session_lock.drivers import Rows, Statement, fetch, fetch_sync
from session_lock.errors import SettingsError
from session_lock.names import quote_name
from session_lock.newtask import NewTask, ready
from session_lock.objects import function_set
from session_lock.queue_table import MADE_BY, SHAPE
from session_lock.sqlstate import translated
from session_lock.table import TaskTable

COPY_FROM = 100
"""So many tasks are copied in; fewer are sooner added by one statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueued:
    """What became of a task that was to be enqueued.

    ```python
    added = await enqueue(connection, jobs, {"welcome": 7}, dedup_key="welcome-7")
    again = await enqueue(connection, jobs, {"welcome": 7}, dedup_key="welcome-7")
    assert (again.key, again.duplicate) == (added.key, True)
    ```
    """

    key: int
    """Of the task; of the one that is pending already, where this is a duplicate."""

    duplicate: bool
    """Whether a task of the same dedup key was pending, so that none was added."""


async def enqueue(
    connection: Any,
    jobs: TaskTable,
    payload: Any,
    *,
    priority: int = 0,
    after: float | None = None,
    available_at: datetime | None = None,
    dedup_key: str | None = None,
    traceparent: str | None = None,
) -> Enqueued:
    """Add a task to a ready-made table, in the transaction that is open on `connection`, else in one of its own.

    `connection` is of asyncpg or psycopg, or an AsyncSession or AsyncConnection of SQLAlchemy; `jobs` is what `queue()` has
    returned. `payload` is whatever JSON can say. The smaller its `priority` (from -32768 to 32767) the sooner a task is claimed.
    It is not claimed before `after` seconds, or before `available_at`. While a task of its `dedup_key` is pending, here or in a
    transaction that commits first, nothing is added, and the result says so. `traceparent` defaults to that of the current
    OpenTelemetry span. Idle Runners are woken when the transaction commits.

    Raises `SettingsError`, before anything is sent, for arguments that will not do.

    ```python
    async with connection.transaction():
        await connection.execute("INSERT INTO account VALUES ($1)", "ann@example.org")
        await enqueue(connection, jobs, {"welcome": "ann@example.org"}, after=60)
    ```
    """
    new = NewTask(payload, priority, after, available_at, dedup_key, traceparent)
    return (await _add("enqueue", connection, jobs, [new]))[0]


def enqueue_sync(
    connection: Any,
    jobs: TaskTable,
    payload: Any,
    *,
    priority: int = 0,
    after: float | None = None,
    available_at: datetime | None = None,
    dedup_key: str | None = None,
    traceparent: str | None = None,
) -> Enqueued:
    """As `enqueue`, on a connection of psycopg or Django, or a Session or Connection of SQLAlchemy.

    ```python
    with psycopg.connect(dsn) as connection:
        enqueue_sync(connection, jobs, {"welcome": "ann@example.org"}, priority=-1)
    ```
    """
    new = NewTask(payload, priority, after, available_at, dedup_key, traceparent)
    return _add_sync("enqueue_sync", connection, jobs, [new])[0]


async def enqueue_many(connection: Any, jobs: TaskTable, rows: Iterable[Any]) -> list[Enqueued]:
    """As `enqueue`, for many tasks at once: payloads, or `NewTask`s where there is more to say. Results are in their order.

    All of them are added (but for the duplicates, also among themselves), or none is. From 100 tasks on they go by COPY, unless
    one has a dedup key.

    ```python
    await enqueue_many(connection, jobs, [{"welcome": number} for number in range(1000)])
    await enqueue_many(connection, jobs, [NewTask({"welcome": 7}, after=60), NewTask({"welcome": 8}, priority=-1)])
    ```
    """
    return await _add("enqueue_many", connection, jobs, rows)


def enqueue_many_sync(connection: Any, jobs: TaskTable, rows: Iterable[Any]) -> list[Enqueued]:
    """As `enqueue_many`, on a connection of psycopg or Django, or a Session or Connection of SQLAlchemy.

    ```python
    with psycopg.connect(dsn) as connection:
        enqueue_many_sync(connection, jobs, [{"welcome": number} for number in range(1000)])
    ```
    """
    return _add_sync("enqueue_many_sync", connection, jobs, rows)


# How they are added -------------------------------------------------------------------------------------


async def _add(call: str, connection: Any, jobs: TaskTable, rows: Iterable[Any]) -> list[Enqueued]:
    adding = _Adding(call, jobs, rows)
    if not adding.tasks:
        return []
    with adding.translated():
        if not adding.by_copy:
            return adding.results(await fetch(connection, adding.statement()))
        drawn = await fetch(connection, adding.draw_keys())
        await copy_in(connection, adding.copy(drawn))
        await fetch(connection, adding.wake())
        return adding.copied(drawn)


def _add_sync(call: str, connection: Any, jobs: TaskTable, rows: Iterable[Any]) -> list[Enqueued]:
    adding = _Adding(call, jobs, rows)
    if not adding.tasks:
        return []
    with adding.translated():
        if not adding.by_copy:
            return adding.results(fetch_sync(connection, adding.statement()))
        drawn = fetch_sync(connection, adding.draw_keys())
        copy_in_sync(connection, adding.copy(drawn))
        fetch_sync(connection, adding.wake())
        return adding.copied(drawn)


class _Adding:
    """Tasks that are in order, and the ways to add them. Values travel as text, which no codec of the user's changes."""

    def __init__(self, call: str, jobs: TaskTable, rows: Iterable[Any]) -> None:
        if not isinstance(jobs, TaskTable) or jobs.made_by != MADE_BY:
            what = repr(jobs.name) if isinstance(jobs, TaskTable) else type(jobs).__name__
            raise SettingsError(
                f"{call}(connection, jobs, ..) takes a mapping that queue() has made, not {what}: INSERT into a table of your own"
            )
        if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
            raise SettingsError(
                f"{call}(connection, jobs, rows): rows is a list of payloads or NewTasks, not {type(rows).__name__}"
            )
        self.call = call
        self._jobs = jobs
        self.tasks = list(ready(call, rows))
        self.by_copy = len(self.tasks) >= COPY_FROM and not any(task.dedup_key for task in self.tasks)

    def translated(self) -> AbstractContextManager[None]:
        return translated(f"{self.call} ({self._jobs.name})", "session-lock install MODULE:ATTRIBUTE")

    def statement(self) -> Statement:
        query = (
            f"SELECT task_key, duplicate FROM {self._function('enqueue')}($1::text[]::jsonb[], $2::smallint[],"
            " $3::double precision[], $4::text[]::timestamptz[], $5::text[], $6::text[])"
        )
        columns = ("payload", "priority", "after", "available_at", "dedup_key", "traceparent")
        return self._ask(query, *([getattr(task, column) for task in self.tasks] for column in columns))

    def results(self, rows: Rows) -> list[Enqueued]:
        return [Enqueued(key=key, duplicate=duplicate) for key, duplicate in rows]

    def draw_keys(self) -> Statement:
        query = (
            "SELECT task_key, available_at, created_at"
            f" FROM {self._function('enqueue_keys')}($1::double precision[], $2::text[]::timestamptz[])"
        )
        return self._ask(
            query, [task.after for task in self.tasks], [task.available_at for task in self.tasks]
        )

    def copy(self, drawn: Rows) -> Copy:
        lines = [
            f"{key}\t{_escaped(task.payload)}\t{task.priority}\t{due}\t{task.traceparent or NULL}\t{created}\n"
            for task, (key, due, created) in zip(self.tasks, drawn, strict=True)
        ]
        columns = (
            "id",
            "payload",
            "priority",
            self._jobs.claim_columns.available_at,
            "traceparent",
            "created_at",
        )
        return Copy(self._jobs.qualified, columns, "".join(lines).encode("ascii"))

    def wake(self) -> Statement:
        return self._ask(
            f"SELECT {quote_name(self._jobs.schema)}.wake($1::text, true)::text", self._jobs.name
        )

    def copied(self, drawn: Rows) -> list[Enqueued]:
        return [Enqueued(key=key, duplicate=False) for key, *_ in drawn]

    def _function(self, verb: str) -> str:
        name = f"{verb}_{function_set(self._jobs, SHAPE)}"
        return f"{quote_name(self._jobs.schema)}.{quote_name(name)}"

    def _ask(self, query: str, *arguments: object) -> Statement:
        return Statement(self.call, query, arguments, in_transaction=False)


NULL = r"\N"


def _escaped(text: str) -> str:
    """For COPY. JSON has neither tabs nor line ends in it."""
    return text.replace("\\", "\\\\")
