"""What happens in the database: late calls, looks, finishes, and whoever writes rows by hand."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.rules import Rules
from tests.model.states import (
    ANSWERED,
    BACK,
    DONE,
    ENDED,
    FINISHING,
    LIVE,
    OPEN,
    RUNNING,
    SWEPT,
    Call,
    Look,
    Row,
    Session,
    State,
    Step,
    locked,
    on,
    put,
    row_locked,
    with_call,
    with_row,
    with_session,
)


class Database(Rules):
    def claims(self, state: State, me: int, look: Look) -> Iterator[tuple[Step, Look | tuple[()]]]:
        """The second statement of a look, and its commit: the step, and what the look has become."""
        session = state.sessions[me - 1]
        found = False
        for task, row in enumerate(state.rows):
            if self.claimable(row, look.known, me) and not row_locked(state, task):
                found = True
                claimed = with_row(state, task, row._replace(holder=me, token=row.token + 1))
                taken_over = row.holder not in {0, me}
                cancelled = taken_over and task in self.inherits(state.sessions[row.holder - 1])
                cancel = tuple(sorted({*session.cancel, task} if cancelled else session.cancel))
                after = self.forgotten(claimed, me, session._replace(cancel=cancel), task)
                answer = Look(ANSWERED, (), task, row.token + 1, cancelled)
                yield Step("claims", after, -1, me, task, row.token + 1), answer
        if not found:
            yield Step("finds nothing", self.forgotten(state, me, session, -1)), ()

    def forgotten(self, state: State, me: int, session: Session, claimed: int) -> State:
        """`forget_cancelled`, at the end of a look."""
        if not session.cancel:
            return state
        cancel = tuple(task for task in session.cancel if not self.forgets(task, claimed, state.rows, me))
        return with_session(state, me, session._replace(cancel=cancel))

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
            yield Step(f"{what} begins", with_call(without, opened), session=call.session)

    def may_open(self, state: State, finish: Call) -> bool:
        """`finish_in`: whether a finishing transaction passes its fence."""
        session, row = state.sessions[finish.session - 1], state.rows[finish.task]
        return self.live(session, finish) and self.held(row, finish) and not row_locked(state, finish.task)

    def arrives(self, state: State, call: Call, what: str) -> Iterator[Step]:
        """A finish, a release or an end reaches the database."""
        verb, me, task, token, _, _ = call
        session = state.sessions[me - 1]
        if verb == "end":
            if session.state == LIVE and not locked(state, me):
                after = with_session(state, me, session._replace(left=0, state=ENDED))
                yield Step(f"{what} arrives", after, session=me)
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
        after = with_row(state, task, now)
        if now != row:
            yield Step(f"{what} arrives, its answer is lost", after, -1, me, task, token)
        for who, runner in enumerate(state.runners):
            waits = runner.session == me and runner.run and runner.run.phase in {DONE, BACK}
            if waits and runner.run[:2] == (task, token):
                yield Step(f"{what} arrives", put(after, who, runner._replace(run=())), -1, me, task, token)

    def happens(self, state: State) -> Iterator[Step]:
        """What nobody's Runner does: the server, others' looks, people, and a stranger who guesses ids and tokens."""
        for i, session in enumerate(state.sessions):
            if self.may_end(session, locked=locked(state, i + 1)):
                after = with_session(state, i + 1, session._replace(state=ENDED))
                yield Step("{session} is ended, for it is over", after, session=i + 1)
            elif session.state == ENDED and self.sweeps(i + 1, state.rows):
                after = with_session(state, i + 1, session._replace(state=SWEPT))
                yield Step("{session} is swept", after, session=i + 1)
            elif session.state == SWEPT and self.returns_to_the_list(i + 1, state.rows):
                after = with_session(state, i + 1, session._replace(state=ENDED))
                yield Step("{session} is back on the list of the ended", after, session=i + 1)
        for who, runner in enumerate(state.runners):
            run = runner.run
            if run and run.phase == FINISHING and self.may_cut(state.sessions[runner.session - 1]):
                yield Step("'s transaction is cut by the server", on(state, who, RUNNING), who, task=run.task)
        for task, row in enumerate(state.rows):
            if not row_locked(state, task):
                yield from self.is_touched(state, task, row)

    def is_touched(self, state: State, task: int, row: Row) -> Iterator[Step]:
        if row.pending and row.holder and self.proves(knows_the_nonce=False):
            now = self.given_back(row)._replace(pending=False, finishes=row.finishes + 1)
            yield Step("a stranger finishes", with_row(state, task, now), task=task)
        if row.pending and self.world.by_hand:
            now = row._replace(pending=False, cancelled=False)
            yield Step("somebody closes", with_row(state, task, now), task=task)
        elif self.world.by_hand:
            now = row._replace(pending=True, finishes=0, effects=0)
            yield Step("somebody reopens", with_row(state, task, now), task=task)
        if row.pending and self.world.cancel and not row.cancelled:
            yield from self.is_cancelled(state, task, row)

    def is_cancelled(self, state: State, task: int, row: Row) -> Iterator[Step]:
        session = state.sessions[row.holder - 1] if row.holder else Session(0, ENDED)
        if session.state != LIVE:
            now = row._replace(holder=0, pending=False)
            yield Step("somebody cancels", with_row(state, task, now), task=task)
        elif session.left:
            asked = session._replace(cancel=tuple(sorted({*session.cancel, task})))
            after = with_session(state, row.holder, asked)
            yield Step(
                "somebody asks its holder to cancel",
                with_row(after, task, row._replace(cancelled=True)),
                task=task,
            )
