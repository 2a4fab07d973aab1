"""The log of a play, read once: sessions, runs and instances, each with its life; and whom nothing has harmed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import inf

from session_lock.session import CLOCK_RATE_BOUND
from tests.storms.log import Event, Log
from tests.storms.scripts import SETTINGS, STUBBORN, Instance

Span = tuple[float, float]

LONGEST_CALL = 20 * SETTINGS.call_timeout
"""Seconds after which the database may still do what was asked of it."""


@dataclass
class Session:
    """As the database sees it."""

    id: int
    who: int
    at: float
    until: float
    """The end of its lease, by the database's clock."""
    renewed_at: list[float] = field(default_factory=list)
    dead_at: float = inf
    """When its lease had run out, or it was ended."""
    ended_at: float = inf
    """When it was ended, by itself or by others that found it dead."""
    expired: bool = False
    stepped: bool = False
    """The database's clock was stepped during its life."""


@dataclass
class Run:
    """One run of a tasker on one task."""

    number: int
    who: int
    session: int
    task: int
    token: int
    kind: str
    begun_at: float
    called_at: float
    """When the call of the tasker began that it is in."""
    over_at: float = inf
    how: str = "not over"
    undone: bool = False
    """What it had done was lost with the call, which failed after that."""

    @property
    def stubborn(self) -> bool:
        return self.kind == STUBBORN


@dataclass
class Life:
    """Of an instance."""

    instance: Instance
    at: float
    frozen: list[Span] = field(default_factory=list)
    stops_at: float = inf
    killed_at: float = inf
    left_at: float = inf
    how: str = ""
    harmed: list[float] = field(default_factory=list)
    left_to_expire: list[float] = field(default_factory=list)
    """When it could not say that its session ends."""

    @property
    def bad_clock(self) -> bool:
        return abs(self.instance.drift) > CLOCK_RATE_BOUND

    @property
    def gone_at(self) -> float:
        return min(self.killed_at, self.left_at)


class History:
    """Where all that belongs together stands together."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.sessions: dict[int, Session] = {}
        self.runs: dict[int, Run] = {}
        self.lives: dict[int, Life] = {}
        self.claims: dict[int, list[Event]] = defaultdict(list)
        """By task."""
        self.posthumous: list[Event] = []
        """In the name of sessions that were dead by then."""
        self._stepped_at = 0.0
        self._ahead = 0.0
        self._called_at: dict[int, float] = {}
        for event in log.events:
            self._run_out(event.at)
            if event.what == "joined":
                self.lives[event.who] = Life(log.instances[event.who], event.at)
            else:
                self._read(event)
        self._run_out(inf)

    def _read(self, event: Event) -> None:
        at = event.at
        if (
            event.what not in {"started", "ended"}
            and event.session >= 0
            and self.sessions[event.session].dead_at < inf
        ):
            self.posthumous.append(event)
        match event.what:
            case "started":
                self.sessions[event.session] = Session(event.session, event.who, at, event.until, [at])
            case "renewed":
                self.sessions[event.session].until = event.until
                self.sessions[event.session].renewed_at.append(at)
            case "ended":
                session = self.sessions[event.session]
                session.ended_at, session.expired = at, event.how == "expired"
                session.dead_at = min(session.dead_at, at)
            case "stepped":
                self._ahead, self._stepped_at = event.until, at
                for session in self.sessions.values():
                    if session.ended_at == inf:
                        session.stepped, session.dead_at = True, inf  # who was dead may live again
            case "claimed":
                self.claims[event.task].append(event)
            case "begun":
                called_at = self._called_at.setdefault(event.call, at)
                self.runs[event.run] = Run(
                    event.run, event.who, event.session, event.task, event.token, event.how, at, called_at
                )
            case "over":
                self.runs[event.run].over_at, self.runs[event.run].how = at, event.how
            case "undone":
                same = [
                    run for run in self.runs.values() if (run.task, run.token) == (event.task, event.token)
                ]
                same[-1].undone = True
            case "harmed":
                self.lives[event.who].harmed.append(at)
                if event.how.startswith("end_session"):
                    self.lives[event.who].left_to_expire.append(at)
            case "frozen":
                self.lives[event.who].frozen.append((at, inf))
            case "thawed":
                self.lives[event.who].frozen[-1] = (self.lives[event.who].frozen[-1][0], at)
            case "stops":
                self.lives[event.who].stops_at = at
            case "killed":
                self.lives[event.who].killed_at = at
            case "left":
                self.lives[event.who].left_at, self.lives[event.who].how = at, event.how

    def _run_out(self, now: float) -> None:
        """Of sessions whose leases have run out by now: note when that was."""
        for session in self.sessions.values():
            if session.dead_at == inf and (end := session.until - self._ahead) <= now:
                session.dead_at = max(end, self._stepped_at)

    # What is an excuse ---------------------------------------------------------------------------------------

    def was_frozen(self, who: int, begin: float, end: float) -> bool:
        return any(since <= end and until >= begin for since, until in self.lives[who].frozen)

    def was_harmed(self, who: int, begin: float, end: float) -> bool:
        """A call of the database under way in that time has met something."""
        return any(begin <= at <= end for at in self.lives[who].harmed)

    def clocks_differ(self, session: Session) -> bool:
        """By more than the protocol allows."""
        return session.stepped or self.lives[session.who].bad_clock

    def may_be_late(self, session: Session, begin: float, end: float) -> bool:
        """The instance could not know in time that its lease ran out."""
        return self.clocks_differ(session) or self.was_frozen(session.who, begin, end)

    def is_calm(self, who: int, begin: float, end: float) -> bool:
        """Nothing has kept the instance from being itself all this time."""
        life = self.lives[who]
        present = life.at <= begin and min(life.killed_at, life.left_at, life.stops_at) >= end
        return (
            present and not life.bad_clock and not self.was_frozen(who, begin, end)
            and not self.was_harmed(who, begin - LONGEST_CALL, end)
        )  # fmt: skip

    def is_idle(self, who: int, begin: float, end: float) -> bool:
        """It has a session, nothing to do, and nothing harms it."""
        has_session = any(
            each.who == who and each.at <= begin and each.dead_at >= end for each in self.sessions.values()
        )
        at_work = any(
            run.who == who and run.begun_at <= end and run.over_at >= begin for run in self.runs.values()
        )
        return self.is_calm(who, begin, end) and has_session and not at_work

    def may_run_on(self, run: Run, session: Session) -> bool:
        """Beyond the end of its lease: who was frozen when it was to be cancelled, or ignores it, until its lease runs out."""
        if run.stubborn:
            return session.ended_at > session.dead_at or session.expired
        begin = session.dead_at - SETTINGS.cancel_grace - SETTINGS.guard - 1.0
        return self.may_be_late(session, begin, self.end_of(run))

    # Runs ----------------------------------------------------------------------------------------------------

    def end_of(self, run: Run) -> float:
        return min(run.over_at, self.lives[run.who].killed_at)

    def runs_by_task(self) -> dict[int, list[Run]]:
        runs: dict[int, list[Run]] = defaultdict(list)
        for run in self.runs.values():
            runs[run.task].append(run)
        return runs
