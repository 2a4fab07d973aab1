"""What one look at a mapping tells, as values; and `Throughput`, which is made of several looks."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from session_lock.explaining import SessionShare


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSession(SessionShare):
    """One session of the mapping, with its lease. It is draining already when it was asked to."""

    beat_age: float | None
    """Seconds since its last keepalive. None: the role may not see that."""

    lease_left: float | None
    """Seconds until its lease runs out; less than 0: since it has. None: the role may not see that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is due, and held by no live session."""

    tasks: int
    """How many; counted no further than 10,000."""

    more: bool
    """Whether that is where counting ended."""

    oldest: float | None
    """For how many seconds the oldest of them has been due. None: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An attempt that went wrong."""

    key: str
    """Of the task, as text."""

    attempt: int
    at: datetime
    session: int | None
    error: str
    """Its first 1,000 characters. It may quote rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """How full the server is."""

    used: int
    """Connections to all of its databases."""

    most: int
    """What it has for those who are no superuser."""

    ours: int
    """Those to this database whose application_name begins as the library's do: session_lock, or session-lock for its commands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """What the server counts of the task table, with all its partitions."""

    at: datetime
    """When they were read, by the server's clock: some parts of a look may have taken long before."""

    dead: int
    """Rows that vacuum has to take away, by the server's estimate."""

    live: int
    size_bytes: int
    """On the disk, with indexes and TOAST."""

    last_autovacuum: datetime | None
    updated: int
    """Rows, since the server's statistics were reset last. Connections tell it once a second, and some seconds late if they are idle."""

    deleted: int
    """The same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """What keeps vacuum from taking away the rows that have died since."""

    kind: str
    """transaction (`name` tells the connection) · prepared (a prepared transaction) · slot (a replication slot that nobody reads) ·
    standby (one with `hot_standby_feedback`; `name` tells its connection).
    """

    name: str
    since: float | None
    """For how many seconds, of a standby at least. None: that is not known, as of any slot."""

    transactions: int
    """How many transactions have begun since: no row can go that died in one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """How a mapping is doing at a moment. A part that could not be read is None, and `left_out` says why and what mends it."""

    at: datetime
    """By the server's clock."""

    name: str
    """The mapping's."""

    table: str
    paused: bool
    """Whether no session begins a task, as far as the role may see that."""

    paused_since: datetime | None
    """None: it is not paused, or the role may not see since when."""

    sessions: Sequence[LiveSession] | None
    """Oldest first. Empty: there are none."""

    backlog: Backlog | None
    failures: Sequence[Failure] | None
    """The newest 20, newest first, among the newest 10,000 of the schema."""

    connections: Connections | None
    state: TableState | None
    holders: Sequence[Holder] | None
    """Oldest first, 10 at most. Without pg_read_all_stats transactions of other roles are missing; `left_out` says so."""

    left_out: Sequence[str]
    """In a sentence each."""


class Throughput:
    """Tasks a second, estimated from looks that follow each other.

    PostgreSQL counts what was updated in a table, not what was finished. A claim is an update and a finish is another, so two updates
    are taken for a task that was done. An attempt that failed counts like a task (it is claimed and put off), and so does half of each
    update of yours; inserts and deletes do not. Connections tell the server what they have counted once a second at most, and some
    seconds late once they are idle, so what is told is the mean of the last `over` seconds.
    """

    def __init__(self, *, keep: int = 60, over: float = 5.0) -> None:
        """`keep` values are kept, for a sparkline; each is the mean over the looks of `over` seconds."""
        self._over = over
        self._looks: deque[tuple[datetime, int]] = deque()
        self._values: deque[float | None] = deque(maxlen=keep)

    def see(self, look: Overview) -> float | None:
        """Tasks a second, now that there is this look too. None: there is nothing to compare it with yet, or not again: the counters
        could not be read, or were reset.
        """
        if look.state is None or (self._looks and look.state.updated < self._looks[-1][1]):
            self._looks.clear()
        if look.state is not None:
            self._looks.append((look.state.at, look.state.updated))
            while len(self._looks) > 2 and (look.state.at - self._looks[1][0]).total_seconds() >= self._over:
                self._looks.popleft()
        self._values.append(self._mean())
        return self._values[-1]

    def miss(self) -> None:
        """A look failed: what there was to be seen then is not known."""
        self._values.append(None)

    def _mean(self) -> float | None:
        if len(self._looks) < 2:
            return None
        (first, before), (last, after) = self._looks[0], self._looks[-1]
        seconds = (last - first).total_seconds()
        return (after - before) / UPDATES / seconds if seconds > 0 else None  # the clock may be put back

    @property
    def now(self) -> float | None:
        """The newest value."""
        return self._values[-1] if self._values else None

    @property
    def values(self) -> Sequence[float | None]:
        """The oldest first."""
        return tuple(self._values)


UPDATES = 2
"""Of a row, for a task that is done: the claim and the finish."""
