"""`shares`: what each session of a mapping holds and may hold, and in a sentence why it got no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from session_lock.catalog import read_shape
from session_lock.drivers import describe_kind, find
from session_lock.errors import SettingsError
from session_lock.names import quote_name
from session_lock.objects import function_set
from session_lock.sqlstate import translated
from session_lock.table import TaskTable, install_command


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionShare:
    """One session of a mapping, as the others see it.

    ```python
    for share in await shares(database):
        print(f"{share.label} holds {share.held} of {share.target}: {share.why}")
    ```
    """

    session: int
    label: str
    """host:pid, unless who has started it has given another one."""

    app_version: str
    state: str
    """live, draining, expired (nobody has ended it yet), or ended (shown while it holds tasks that nobody has taken over)."""

    capacity: int
    """The most tasks that it may hold."""

    target: int
    """Its share of the tasks that are due; its capacity where there are plenty; 0 if it gets none now."""

    held: int
    """Tasks that name it, counted among the first 100,000 that are due."""

    running: int
    """Tasks in calls of its tasker, at its last keepalive: more than it holds, where the rows of some are gone or were closed by others."""

    idle: bool
    """Whether its last look left it with room. If not, it looks again when a call ends."""

    why: str
    """In a sentence, why it got no more."""

    @property
    def live(self) -> bool:
        """Whether it has not ended, and its lease has not run out."""
        return self.state in {"live", "draining"}

    @property
    def draining(self) -> bool:
        """Whether it takes no more tasks."""
        return self.state == "draining"

    @property
    def unstarted(self) -> int:
        """Held and not begun."""
        return max(self.held - self.running, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a database tells of one session; the meaning of each is with `shares` in `sql/tasks.alwaysup.sql`."""

    session: int
    label: str
    app_version: str
    state: str
    capacity: int
    target: int
    held: int
    running: int
    tasks: int
    free: bool
    unfit: bool
    limited: bool
    paused: bool
    other_version: bool
    idle: bool
    age: float


class Explaining(Protocol):
    """A database that can tell."""

    async def shares(self) -> Sequence[SessionShare]: ...


async def shares(source: Any, table: TaskTable | None = None) -> Sequence[SessionShare]:
    """The sessions of a mapping, oldest first: what each holds and may hold, and why it got no more.

    `source` is a `PostgresDatabase` or `MemoryDatabase`, or a connection of asyncpg and the mapping's `TaskTable`. It needs the right to
    execute the mapping's functions, locks nothing and changes nothing.

    ```python
    busy = [share.session for share in await shares(database) if share.unstarted > 100]
    same = await shares(connection, mails)
    ```
    """
    if hasattr(source, "shares"):
        explaining: Explaining = source
        return await explaining.shares()
    if not find(source, {("asyncpg", "Connection"): True, ("asyncpg", "PoolConnectionProxy"): True}):
        raise SettingsError(
            f"shares takes a PostgresDatabase, or a connection of asyncpg and a TaskTable, not {describe_kind(source)}"
        )
    if not isinstance(table, TaskTable):
        raise SettingsError(
            f"shares(connection, table): table is the mapping, a TaskTable, not {type(table).__name__}"
        )
    with translated(f"shares ({table.name})", install_command(table)):
        name = f"shares_{function_set(table, await read_shape(source, table))}"
        return explained(await source.fetch(f"SELECT * FROM {quote_name(table.schema)}.{quote_name(name)}()"))


def explained(rows: Sequence[Any]) -> Sequence[SessionShare]:
    """The rows of `shares` in SQL, with the reasons."""
    return explain([Facts(**dict(row)) for row in rows])


def explain(sessions: Sequence[Facts]) -> Sequence[SessionShare]:
    return [
        SessionShare(
            session=one.session,
            label=one.label,
            app_version=one.app_version,
            state=one.state,
            capacity=one.capacity,
            target=one.target,
            held=one.held,
            # With room it has begun all that it had, and ended some since it said so.
            running=min(one.running, one.held) if one.idle else one.running,
            idle=one.idle,
            why=_why(one, sessions),
        )
        for one in sessions
    ]


def _why(one: Facts, sessions: Sequence[Facts]) -> str:  # noqa: C901 (one rule a case, the first that holds)
    if one.state == "ended":
        return "it has ended: what it held goes to whoever looks next"
    if one.state == "expired":
        return "its lease has run out: whoever looks next ends it"
    if one.state == "draining":
        return "it is draining"
    if one.paused:
        return "the mapping is paused"
    if one.held >= one.capacity:
        return "it holds all that its capacity allows"
    if one.other_version:
        return "it runs another version of the mapping, and takes what is pending by that one"
    if one.running > one.held and not one.idle:
        return (
            f"it is busy with {one.running}, more than it holds: the rows of others are gone, or were closed by somebody else; "
            "it looks again when a call ends"
        )
    if one.unfit:
        return "what is free is not for it, by the mapping's accepts"
    if one.free:
        return _of_free(one)
    if not one.tasks:
        return "no task is due that it could do"
    if one.held < one.target and any(
        other.held > max(other.target, other.running) for other in sessions if other is not one
    ):
        return "all that is due is held: those above their share are asked for what they have not begun"
    return "all that is due is held: running tasks do not move"


def _of_free(one: Facts) -> str:
    if one.held >= one.target:
        if one.limited:
            return "limits of the mapping hold the other tasks back"
        return f"it has its share of the {one.tasks} tasks that are due"
    if one.idle:
        return "tasks are free and it has room: its next look takes them, as far as limits let it"
    if one.running:
        return f"tasks are free, and it is busy with {one.running}: it looks again when a call ends"
    return "tasks are free and it runs none: it has not looked yet, or its looks fail, which its log and health() say"


def as_json(share: SessionShare) -> dict[str, Any]:
    """With what is worked out, for machines."""
    names = ("session", "label", "app_version", "state", "live", "draining", "capacity", "target", "held", "running", "idle", "unstarted", "why")  # fmt: skip
    return {name: getattr(share, name) for name in names}
