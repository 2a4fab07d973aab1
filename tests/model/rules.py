"""What is asked before something is done: the rules of the protocol, which the faults break one at a time."""

from __future__ import annotations

from tests.model.states import ENDED, LIVE, READY, Beat, Call, Look, Row, Run, Runner, Session, State, World


class Rules:
    def __init__(self, world: World) -> None:
        self.world = world

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
