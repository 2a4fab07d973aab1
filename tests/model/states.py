"""What the model is made of. Nothing is (), so that all of it can be compared and sorted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

T = TypeVar("T")

LIVE, ENDED, SWEPT = range(3)


class Session(NamedTuple):
    """A row of the session table. Its id is its place, from 1 on; it is live while LIVE and something is left."""

    left: int
    state: int = LIVE
    cancel: tuple[int, ...] = ()
    """The tasks that it is asked to cancel (`cancel_keys`)."""


class Row(NamedTuple):
    """A task."""

    pending: bool = True
    holder: int = 0
    token: int = 0
    finishes: int = 0
    effects: int = 0
    """How often it was finished, and its effect written in a finishing transaction, since it was opened."""
    cancelled: bool = False
    """Somebody was told that it will not be begun any more."""


SENT, OPEN, ANSWERED = "sent", "open", "answered"


class Beat(NamedTuple):
    """A keepalive under way: sent so many ticks ago by its Runner's clock, which has missed some."""

    stage: str
    age: int = 0
    missed: int = 0
    cancel: tuple[int, ...] = ()
    seen_live: bool = False
    """Only where a fault reads the clock too early."""


class Look(NamedTuple):
    """A get_work under way: SENT (if it is late); OPEN, when it has read which sessions are ended; ANSWERED, with a claim."""

    stage: str
    known: tuple[int, ...] = ()
    task: int = -1
    token: int = 0
    cancelled: bool = False


READY, RUNNING, FINISHING, DONE, BACK = "ready", "running", "finishing", "done", "back"


class Run(NamedTuple):
    """What a Runner knows of a claim: READY, not begun; RUNNING; FINISHING, with its transaction open; DONE, to be
    finished; BACK, to be released.
    """

    task: int
    token: int
    phase: str


class Runner(NamedTuple):
    session: int = 0
    left: int = 0
    """Ticks to its own deadline, by its own clock. At 0 the session is lost, and nothing but recording is tried."""
    missed: int = 0
    """Ticks of the server's that its clock has missed since the send that the deadline is counted from."""
    stands: bool = False
    beat: Beat | tuple[()] = ()
    look: Look | tuple[()] = ()
    run: Run | tuple[()] = ()


class Call(NamedTuple):
    """A call that may be late: its Runner does not wait for it, or has given it up. `look` is that of a get_work."""

    verb: str
    session: int
    task: int = -1
    token: int = 0
    look: Look | tuple[()] = ()
    seen_live: bool = False


class State(NamedTuple):
    runners: tuple[Runner, ...]
    sessions: tuple[Session, ...]
    rows: tuple[Row, ...]
    calls: tuple[Call, ...] = ()


class Step(NamedTuple):
    what: str
    state: State
    runner: int = -1
    session: int = 0
    """In whose name the database is changed, if in any session's."""
    task: int = -1
    token: int = 0


@dataclass(frozen=True)
class World:
    """How large the model is, and what may happen in it."""

    runners: int = 2
    tasks: int = 1
    ttl: int = 2
    guard: int = 0
    drift: int = 0
    """How many ticks a Runner's clock may miss between a send and the deadline that is counted from it."""
    late: int = 1
    """How many calls may be late at a time."""
    still: bool = True
    """Runners stand still and wake."""
    by_hand: bool = False
    """Rows are closed and reopened."""
    cancel: bool = False
    time: bool = True
    """Without it a lease lasts for ever."""
    deaths: bool = True
    """Runners stop and die."""

    def first(self) -> State:
        return State((Runner(),) * self.runners, (), (Row(),) * self.tasks)


# How one state is made of another ----------------------------------------------------------------------------


def place(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    return values[:index] + (value,) + values[index + 1 :]


def put(state: State, who: int, runner: Runner) -> State:
    return State(place(state.runners, who, runner), *state[1:])


def on(state: State, who: int, phase: str) -> State:
    runner = state.runners[who]
    return put(state, who, runner._replace(run=runner.run._replace(phase=phase)))


def with_row(state: State, task: int, row: Row) -> State:
    return state._replace(rows=place(state.rows, task, row))


def with_session(state: State, number: int, session: Session) -> State:
    return state._replace(sessions=place(state.sessions, number - 1, session))


def with_call(state: State, call: Call) -> State:
    return state._replace(calls=tuple(sorted((*state.calls, call))))


def locked(state: State, session: int) -> bool:
    """Whether an open call or transaction of its own holds the session's row."""
    return any(
        runner.session == session
        and ((runner.look and runner.look.stage == OPEN) or (runner.run and runner.run.phase == FINISHING))
        for runner in state.runners
    ) or any(call.session == session and call.look and call.look.stage == OPEN for call in state.calls)


def row_locked(state: State, task: int) -> bool:
    return any(r.run and r.run.phase == FINISHING and r.run.task == task for r in state.runners)
