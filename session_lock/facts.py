"""What is known of one task: why it does not run, or who has it; and of all that wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from session_lock.session import Lease
from session_lock.wording import span

State: TypeAlias = Literal[
    "unknown", "closed", "held", "parked", "scheduled", "waiting", "claimable", "unseen"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A part of the mapping's pending, which stands between its ANDs."""

    text: str
    holds: bool | None
    """None: it is NULL, which is not true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The session that the row names."""

    id: int
    label: str
    app_version: str
    state: str
    """live, draining, expired (nobody has ended it yet), ended, foreign (of another mapping), or gone (there is no record of it)."""

    beat_ago: float
    """Seconds since its last keepalive."""

    left: float
    """Seconds until its lease runs out; less than 0: since it has."""

    asked_to_cancel: bool

    @property
    def lives(self) -> bool:
        return self.state in {"live", "draining"}

    @property
    def name(self) -> str:
        return f"session {self.id}" + (f" ({self.label})" if self.label else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitUse:
    """What is used up of a limit of the mapping."""

    by: str | None
    """The column whose value it counts for; None: the whole mapping."""

    most: int
    used: int
    """Tasks that are held, counted no further than `most`; of a rate those that were started within `per`."""

    per: float | None = None
    """Seconds, of a rate."""

    frees_in: float | None = None
    """Seconds until the first of these starts does not count any more, of a rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Locker:
    """A connection whose transaction has the row locked, or may have; or a prepared transaction, which no connection has any more."""

    pid: int | None
    """Of the connection; None: it is a prepared transaction."""

    sure: bool
    """False: it has locked rows of the table, and it is not known whether this one is among them."""

    application_name: str
    role: str | None
    since: float | None
    """For how many seconds its transaction is open, or prepared; None: the asking role may not see that (pg_read_all_stats)."""

    prepared: str | None = None
    """The name of a prepared transaction, by which COMMIT PREPARED or ROLLBACK PREPARED ends it."""

    def __str__(self) -> str:
        if self.prepared is not None:
            return f"the prepared transaction {self.prepared!r} (role {self.role}, for {span(self.since or 0.0)})"
        who = ", ".join(
            [*([self.application_name] if self.application_name else []), *([f"role {self.role}"] if self.role else [])]
        )  # fmt: skip
        since = "" if self.since is None else f", in a transaction for {span(self.since)}"
        return f"pid {self.pid}{f' ({who})' if who else ''}{since}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAttempt:
    """What went wrong with it once."""

    attempt: int
    ago: float
    """Seconds."""

    session: int | None
    error: str | None
    """None: the asking role may not read `session_lock.failure`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why a task does not run, or who has it.

    ```python
    why = await database.why(4711)
    print(why.why)  # there is no row with this key
    assert why.state == "unknown"
    ```
    """

    key: str
    """As text."""

    state: State
    """unknown (there is no such row) · closed (not pending) · held (a live session has it) · parked · scheduled (not due yet) ·
    waiting (something is in its way) · claimable (the next look takes it) · unseen (functions by hand: its row is not known)."""

    why: str
    """In a sentence."""

    also: Sequence[str] = ()
    """What else is in its way, or to be known."""

    conditions: Sequence[Condition] = ()
    session: Holder | None = None
    token: int | None = None
    attempts: int | None = None
    """That were begun, the one that is under way included."""

    due_in: float | None = None
    """Seconds until it may be claimed, less than 0: since it may; None: it is parked, or there is no row."""

    needs: str | None = None
    """The least `app_version` of a Runner that may be given it, by the mapping's `accepts`."""

    in_front: int | None = None
    """Tasks that come before it; None: more than 10,000, or that says nothing."""

    limits: Sequence[LimitUse] = ()
    locked: bool | None = None
    """Whether somebody's transaction has its row; None: it is not pending, or nothing may be written here, so that was not tried."""

    lockers: Sequence[Locker] = ()
    failures: Sequence[FailedAttempt] = ()
    """The newest first; no more than 20 are kept."""

    def as_json(self) -> dict[str, Any]:
        """What `session-lock why --json` prints: all of the above by their names, for `json.dumps`; times are seconds."""
        return asdict(self)


class Backlog(NamedTuple):
    """What waits to be claimed."""

    tasks: int
    """How many are due and held by no live session; 10,000 stands for more."""
    oldest: float
    """For how many seconds the oldest of these has been due; 0 if there is none."""


class Counting(Protocol):
    """A `Database` that can tell what waits, now and then and where there is a meter. None: another session is told."""

    async def backlog(self, lease: Lease) -> Backlog | None: ...
