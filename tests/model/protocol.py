"""The lease protocol as a set of states, and the steps that lead from one to the next.

Time goes in ticks. What counts is only how long a lease still lasts, so nothing grows without end and all states can be
looked at. A call may be late, or lost, and so may its answer; Runners stand still or die at any step.

| steps                                      | in the SQL, and in Python                                                                |
|--------------------------------------------|------------------------------------------------------------------------------------------|
| starts                                     | `start_session`; the deadline counts from before the send (`Session.extend`)              |
| keepalive: sent, reaches, answered, lost   | `bump_session`: the row FOR NO KEY UPDATE, then the clock, `expires_at <= v_now` is SL001 |
| looks, its look begins                     | `get_work`: `hold_session` (FOR KEY SHARE, then the clock), then `sessions_of`            |
| claims, finds nothing, its answer          | `get_work`, part 5, a later statement: *claimable*, SKIP LOCKED, token + 1; its commit    |
| begins, returns, fails, hands over         | execute: `Hold.may_run`, the tasker; `Hold.hand_over` of what is not begun                |
| finish reaches, release reaches            | `finish_tasks`, `release_tasks`: `hold_session`, then `standing`                          |
| opens, commits, rolls back                 | `finish_in` in the user's transaction: fence first, commit later                          |
| the server cuts its transaction            | `limit_transaction`                                                                       |
| stops, end reaches                         | `end_session`: FOR UPDATE. To drain is to look no more, and then to stop                  |
| is ended, for it is over                   | `sessions_of`, in anybody's look: FOR UPDATE SKIP LOCKED                                  |
| is swept, is back                          | `sweep_sessions`: off the list of the ended, and on it again                              |
| is cancelled                               | `cancel_task`: at once, or its holder is asked in the answer to its keepalive             |
| is closed, is reopened                     | the application, or a person, writes the row                                              |
| stands still, wakes, dies                  | SIGSTOP, a suspend; SIGKILL                                                               |
| a tick, a tick that .. misses              | `session_lock.clock()`, `lease_clock()`; the server's may be the faster one               |

A Runner has room for one task and looks when it has none, so `p_held` is empty. Attempts, shares, limits and order are
no part of the model: they say which claimable task is claimed, and a model in which it may be any holds for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

# What there is. Nothing is (), so that all of it can be compared and sorted -------------------------------

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


class Protocol:
    """The rules. The first part is what the faults break, one at a time."""

    def __init__(self, world: World) -> None:
        self.world = world

    # What is asked before something is done ---------------------------------------------------------------------

    def live(self, session: Session, call: Beat | Look | Call) -> bool:
        """Read under the lock of the session's row, by a clock that is read after the wait for it."""
        return session.state == LIVE and session.left > 0

    def proves(self, *, knows_the_nonce: bool) -> bool:
        return knows_the_nonce

    def held(self, row: Row, call: Call) -> bool:
        return row.pending and row.holder == call.session and row.token == call.token

    def may_end(self, session: Session, *, locked: bool) -> bool:
        """FOR UPDATE SKIP LOCKED: not beneath an open call or transaction of its own."""
        return session.state == LIVE and session.left == 0 and not locked

    def known(self, state: State) -> tuple[int, ...]:
        """What the first statement of a look reads: which sessions are ended, and not yet swept. (One that no row names
        when it is ended is never named again, so it is left out.)
        """
        named = {row.holder for row in state.rows}
        return tuple(i for i, s in enumerate(state.sessions, 1) if s.state == ENDED and i in named)

    def claimable(self, row: Row, known: tuple[int, ...], me: int) -> bool:
        """And what its second statement takes: a row of nobody's, of a session known to be ended, or its own: one it does
        not know of, for its answer was lost.
        """
        return row.pending and (row.holder == 0 or row.holder in known or row.holder == me)

    def sweeps(self, session: int, rows: tuple[Row, ...]) -> bool:
        return not any(row.pending and row.holder == session for row in rows)

    def returns_to_the_list(self, session: int, rows: tuple[Row, ...]) -> bool:
        return any(row.pending and row.holder == session for row in rows)

    def given_back(self, row: Row) -> Row:
        """The session is cleared, and nothing else of the claim."""
        return row._replace(holder=0)

    def may_cut(self, session: Session) -> bool:
        """`limit_transaction` bounds a finishing transaction by what was left of the lease."""
        return session.left == 0

    def deadline(self, age: int) -> int:
        return self.world.ttl - self.world.guard - age

    def may_run(self, runner: Runner) -> bool:
        return runner.left > 0

    def cancels_at_the_deadline(self) -> bool:
        return True

    def hands_over(self, run: Run) -> bool:
        return run.phase == READY

    def forgets(self, task: int, claimed: int, rows: tuple[Row, ...], me: int) -> bool:
        """Which requests to cancel a look forgets at its end: those for what its session holds no more."""
        return rows[task].holder != me

    def inherits(self, session: Session) -> tuple[int, ...]:
        """Which requests to cancel pass to whoever claims from an ended session."""
        return session.cancel

    # The steps --------------------------------------------------------------------------------------------------

    def steps(self, state: State) -> Iterator[Step]:
        for who, runner in enumerate(state.runners):
            if runner.session:
                yield from self.waits(state, who, runner)
                if runner.stands:
                    yield from self.wakes(state, who, runner)
                else:
                    yield from self.acts(state, who, runner)
                if self.world.deaths:
                    yield Step("dies", put(state, who, Runner()), who)
            else:
                left = self.world.ttl - self.world.guard
                sessions = (*state.sessions, Session(self.world.ttl))
                started = put(state, who, Runner(len(sessions), left))
                yield Step("starts a session", started._replace(sessions=sessions), who)
        for call in state.calls:
            yield from self.is_late(state, call)
        yield from self.happens(state)
        if self.world.time:
            yield from self.ticks(state)

    def acts(self, state: State, who: int, runner: Runner) -> Iterator[Step]:
        """What a Runner does of itself."""
        me, run = runner.session, runner.run
        if self.world.still:
            yield Step("stands still", put(state, who, runner._replace(stands=True)), who)
        if not self.may_run(runner):
            yield Step("gives up its session", put(state, who, Runner()), who)
        elif not runner.beat:
            yield Step("sends a keepalive", put(state, who, runner._replace(beat=Beat(SENT))), who)
        if not run:
            if self.may_run(runner) and not runner.look:
                yield from self.looks(state, who, runner)
            if self.world.deaths and not runner.look:
                yield from self.calls(state, put(state, who, Runner()), Call("end", me))
            return
        task, token, phase = run
        if self.hands_over(run):
            yield Step("hands over", self.on(state, who, BACK), who, task=task)
        if phase == READY and self.may_run(runner):
            yield Step("begins", self.on(state, who, RUNNING), who, task=task)
        elif phase == RUNNING:
            yield Step("returns", self.on(state, who, DONE), who, task=task)
            yield Step("fails", self.on(state, who, BACK), who, task=task)
            call = Call("finish", me, task, token)
            if (
                not row_locked(state, task)
                and self.live(state.sessions[me - 1], call)
                and self.held(state.rows[task], call)
            ):
                yield Step(
                    "opens its finishing transaction", self.on(state, who, FINISHING), who, me, task, token
                )
        elif phase == FINISHING:
            yield Step("rolls back", self.on(state, who, RUNNING), who, task=task)
            yield from self.commits(state, who, runner, "commits")
            yield from self.commits(
                state, who, runner, "commits, and does not hear of it", run._replace(phase=RUNNING)
            )
        elif phase in {DONE, BACK}:
            yield from self.calls(
                state, state, Call("finish" if phase == DONE else "release", me, task, token)
            )

    def calls(self, state: State, after: State, call: Call) -> Iterator[Step]:
        """A call that is answered, or whose answer is lost, or that is late. (One that is lost is as if it were not made.)"""
        yield from self.arrives(after, call, f"the {call.verb} of {{session}}")
        if len(state.calls) < self.world.late:
            calls = tuple(sorted((*state.calls, call)))
            yield Step(
                f"the {call.verb} of {{session}} is late", after._replace(calls=calls), session=call.session
            )

    def looks(self, state: State, who: int, runner: Runner) -> Iterator[Step]:
        me = runner.session
        if self.live(state.sessions[me - 1], Look(SENT)):
            opened = put(state, who, runner._replace(look=Look(OPEN, self.known(state))))
            yield Step("'s look begins", opened, who)
        else:
            yield Step("hears that its session is over", put(state, who, Runner()), who)
        if len(state.calls) < self.world.late:
            calls = tuple(sorted((*state.calls, Call("look", me, look=Look(SENT)))))
            yield Step("'s look is late", state._replace(calls=calls), who)

    def commits(
        self, state: State, who: int, runner: Runner, what: str, then: Run | tuple[()] = ()
    ) -> Iterator[Step]:
        """The finish and the effect, together."""
        task, token, _ = runner.run
        row = state.rows[task]
        finished = self.given_back(row)._replace(
            pending=False, finishes=row.finishes + 1, effects=row.effects + 1, cancelled=False
        )
        after = put(state, who, runner._replace(run=then))._replace(rows=place(state.rows, task, finished))
        yield Step(what, after, who, runner.session, task, token)

    def wakes(self, state: State, who: int, runner: Runner) -> Iterator[Step]:
        """Its deadline is the first that it looks at; but a tasker may come before that, for one await."""
        awake = runner._replace(stands=False)
        if self.may_run(runner):
            yield Step("wakes", put(state, who, awake), who)
            return
        yield Step("wakes and is too late", put(state, who, self.cut(awake)), who)
        run = runner.run
        if run and run.phase == RUNNING:
            late = self.cut(awake)._replace(run=run._replace(phase=DONE))
            yield Step("wakes too late, when its tasker returns", put(state, who, late), who)
        elif run and run.phase == FINISHING:
            yield from self.commits(
                state, who, self.cut(awake)._replace(run=run), "wakes too late, and commits"
            )

    def cut(self, runner: Runner) -> Runner:
        """At the deadline: what runs is cancelled; what is to be recorded is tried still."""
        run = runner.run if runner.run and runner.run.phase in {DONE, BACK} else ()
        return runner._replace(left=0, missed=0, beat=(), look=(), run=run)

    def waits(self, state: State, who: int, runner: Runner) -> Iterator[Step]:
        """What comes of the calls that a Runner waits for. (An answer that comes while it stands still is as good as one
        that it finds when it wakes: it counts from the send.)
        """
        me, beat, look = runner.session, runner.beat, runner.look
        session = state.sessions[me - 1]
        gone = put(state, who, Runner())
        if beat:
            yield Step("gives up its keepalive", put(state, who, runner._replace(beat=())), who)
            if beat.stage == SENT and not self.live(session, beat):
                yield Step("hears that its session is over", gone, who)
            elif beat.stage == SENT:
                bumped = put(
                    state, who, runner._replace(beat=beat._replace(stage=ANSWERED, cancel=session.cancel))
                )
                sessions = place(state.sessions, me - 1, session._replace(left=self.world.ttl))
                yield Step("'s keepalive reaches the database", bumped._replace(sessions=sessions), who, me)
            else:
                yield Step("hears of its keepalive", put(state, who, self.renewed(runner, beat)), who)
        if look and look.stage == OPEN:
            for step, now in self.claims(state, me, look):
                after = put(step.state, who, runner._replace(look=now))
                yield step._replace(what=f"'s look {step.what}", runner=who, state=after)
        elif look:
            yield Step("'s claim is lost on the way", put(state, who, runner._replace(look=())), who)
            if self.may_run(runner):
                run = Run(look.task, look.token, BACK if look.cancelled else READY)
                given = put(state, who, runner._replace(look=(), run=run))
                yield Step("is given its claim", given, who, task=look.task)

    def renewed(self, runner: Runner, beat: Beat) -> Runner:
        """The deadline moves forward, or not at all; and what is asked in the answer is done."""
        left, run = self.deadline(beat.age), runner.run
        if run and run.task in beat.cancel and run.phase in {READY, RUNNING}:
            run = run._replace(phase=BACK)
        if left > runner.left:
            runner = runner._replace(left=left, missed=beat.missed)
        return runner._replace(beat=(), run=run)

    def claims(self, state: State, me: int, look: Look) -> Iterator[tuple[Step, Look | tuple[()]]]:
        """The second statement of a look, and its commit: the step, and what the look has become."""
        session = state.sessions[me - 1]
        found = False
        for task, row in enumerate(state.rows):
            if self.claimable(row, look.known, me) and not row_locked(state, task):
                found = True
                cancelled = row.holder not in {0, me} and task in self.inherits(
                    state.sessions[row.holder - 1]
                )
                rows = place(state.rows, task, row._replace(holder=me, token=row.token + 1))
                cancel = tuple(sorted({*session.cancel, task} if cancelled else session.cancel))
                after = self.forgotten(state._replace(rows=rows), me, session._replace(cancel=cancel), task)
                answer = Look(ANSWERED, (), task, row.token + 1, cancelled)
                yield Step("claims", after, -1, me, task, row.token + 1), answer
        if not found:
            yield Step("finds nothing", self.forgotten(state, me, session, -1)), ()

    def forgotten(self, state: State, me: int, session: Session, claimed: int) -> State:
        """`forget_cancelled`, at the end of a look."""
        if not session.cancel:
            return state
        cancel = tuple(task for task in session.cancel if not self.forgets(task, claimed, state.rows, me))
        return state._replace(sessions=place(state.sessions, me - 1, session._replace(cancel=cancel)))

    def is_late(self, state: State, call: Call) -> Iterator[Step]:
        """A call that comes now, or never. Nobody waits for its answer any more, but it may be one that was sent twice."""
        rest = list(state.calls)
        rest.remove(call)
        without = state._replace(calls=tuple(rest))
        what = f"the late {call.verb} of {{session}}"
        yield Step(f"{what} is lost", without, session=call.session)
        if call.verb != "look":
            yield from self.arrives(without, call, what)
        elif call.look.stage == OPEN:
            for step, _ in self.claims(without, call.session, call.look):
                yield step._replace(what=f"{what} {step.what}", session=call.session)
        elif self.live(state.sessions[call.session - 1], call):
            opened = call._replace(look=Look(OPEN, self.known(state)))
            yield Step(
                f"{what} begins", state._replace(calls=tuple(sorted((*rest, opened)))), session=call.session
            )

    def arrives(self, state: State, call: Call, what: str) -> Iterator[Step]:
        """A finish, a release or an end reaches the database."""
        verb, me, task, token, _, _ = call
        session = state.sessions[me - 1]
        if verb == "end":
            if session.state == LIVE and not locked(state, me):
                ended = place(state.sessions, me - 1, session._replace(left=0, state=ENDED))
                yield Step(f"{what} arrives", state._replace(sessions=ended), session=me)
            return
        row = state.rows[task]
        if not self.live(session, call) or row_locked(state, task):
            return
        now = row
        if self.held(row, call):
            now = self.given_back(row)
            if verb == "finish":
                now = now._replace(pending=False, finishes=row.finishes + 1, cancelled=False)
            elif task in session.cancel:
                now = now._replace(pending=False, cancelled=False)
        elif row.holder == me and row.token == token:  # closed meanwhile
            now = row._replace(holder=0)
        after = state._replace(rows=place(state.rows, task, now))
        if now != row:
            yield Step(f"{what} arrives, its answer is lost", after, -1, me, task, token)
        for who, runner in enumerate(state.runners):
            if (
                runner.session == me
                and runner.run
                and runner.run[:2] == (task, token)
                and runner.run.phase in {DONE, BACK}
            ):
                yield Step(f"{what} arrives", put(after, who, runner._replace(run=())), -1, me, task, token)

    def happens(self, state: State) -> Iterator[Step]:
        """What nobody's Runner does: the server, others' looks, people, and a stranger who guesses ids and tokens."""
        for i, session in enumerate(state.sessions):
            if self.may_end(session, locked=locked(state, i + 1)):
                sessions = place(state.sessions, i, session._replace(state=ENDED))
                yield Step(
                    "{session} is ended, for it is over", state._replace(sessions=sessions), session=i + 1
                )
            elif session.state == ENDED and self.sweeps(i + 1, state.rows):
                sessions = place(state.sessions, i, session._replace(state=SWEPT))
                yield Step("{session} is swept", state._replace(sessions=sessions), session=i + 1)
            elif session.state == SWEPT and self.returns_to_the_list(i + 1, state.rows):
                sessions = place(state.sessions, i, session._replace(state=ENDED))
                yield Step(
                    "{session} is back on the list of the ended",
                    state._replace(sessions=sessions),
                    session=i + 1,
                )
        for who, runner in enumerate(state.runners):
            run = runner.run
            if run and run.phase == FINISHING and self.may_cut(state.sessions[runner.session - 1]):
                yield Step(
                    "'s transaction is cut by the server", self.on(state, who, RUNNING), who, task=run.task
                )
        for task, row in enumerate(state.rows):
            if (
                self.proves(knows_the_nonce=False)
                and row.holder
                and row.pending
                and not row_locked(state, task)
            ):
                now = self.given_back(row)._replace(pending=False, finishes=row.finishes + 1)
                yield Step(
                    "a stranger finishes", state._replace(rows=place(state.rows, task, now)), -1, 0, task
                )
            if row_locked(state, task):
                continue
            if self.world.by_hand:
                now = row._replace(pending=not row.pending, cancelled=False)
                if row.pending:
                    yield Step(
                        "somebody closes", state._replace(rows=place(state.rows, task, now)), task=task
                    )
                else:
                    now = now._replace(finishes=0, effects=0)
                    yield Step(
                        "somebody reopens", state._replace(rows=place(state.rows, task, now)), task=task
                    )
            if self.world.cancel and row.pending and not row.cancelled:
                yield from self.is_cancelled(state, task, row)

    def is_cancelled(self, state: State, task: int, row: Row) -> Iterator[Step]:
        session = state.sessions[row.holder - 1] if row.holder else Session(0, ENDED)
        if session.state != LIVE:
            now = row._replace(holder=0, pending=False)
            yield Step("somebody cancels", state._replace(rows=place(state.rows, task, now)), task=task)
        elif session.left:
            asked = session._replace(cancel=tuple(sorted({*session.cancel, task})))
            sessions = place(state.sessions, row.holder - 1, asked)
            rows = place(state.rows, task, row._replace(cancelled=True))
            yield Step(
                "somebody cancels what is held", state._replace(sessions=sessions, rows=rows), task=task
            )

    def ticks(self, state: State) -> Iterator[Step]:
        """For all clocks, or for all but one Runner's, as long as its lease is not yet measured more wrongly than allowed."""
        sessions = tuple(s._replace(left=max(0, s.left - 1)) if s.left else s for s in state.sessions)
        ticked = tuple(map(self.ticked, state.runners))
        after = state._replace(sessions=sessions, runners=ticked)
        if after != state:
            yield Step("a tick", after)
        for who, runner in enumerate(state.runners):
            beat = runner.beat
            if (
                runner.session
                and runner.left
                and runner.missed < self.world.drift
                and (not beat or beat.missed < self.world.drift)
            ):
                slow = runner._replace(
                    missed=runner.missed + 1, beat=beat and beat._replace(missed=beat.missed + 1)
                )
                yield Step("'s clock misses a tick", put(after, who, slow), who)

    def ticked(self, runner: Runner) -> Runner:
        if not runner.session:
            return runner
        beat = runner.beat and runner.beat._replace(age=min(self.world.ttl, runner.beat.age + 1))
        runner = runner._replace(left=max(0, runner.left - 1), beat=beat)
        late = runner.left == 0 and not runner.stands and self.cancels_at_the_deadline()
        return self.cut(runner) if late else runner

    def on(self, state: State, who: int, phase: str) -> State:
        runner = state.runners[who]
        return put(state, who, runner._replace(run=runner.run._replace(phase=phase)))


def place(values: tuple, index: int, value: object) -> tuple:
    return values[:index] + (value,) + values[index + 1 :]


def put(state: State, who: int, runner: Runner) -> State:
    return State(place(state.runners, who, runner), *state[1:])


def locked(state: State, session: int) -> bool:
    """Whether an open call or transaction of its own holds the session's row."""
    return any(
        runner.session == session
        and ((runner.look and runner.look.stage == OPEN) or (runner.run and runner.run.phase == FINISHING))
        for runner in state.runners
    ) or any(call.session == session and call.look and call.look.stage == OPEN for call in state.calls)


def row_locked(state: State, task: int) -> bool:
    return any(r.run and r.run.phase == FINISHING and r.run.task == task for r in state.runners)
