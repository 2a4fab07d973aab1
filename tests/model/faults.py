"""The same protocol with one of its rules broken, as somebody might write it who does not know why it is there.

Each is a `Protocol` with one rule changed; says in which world it is looked for, which promise it breaks first, and in how
many steps. (It is longer than 300 lines, as a list may be.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

from tests.model import promises
from tests.model.protocol import Protocol
from tests.model.states import (
    LIVE,
    RUNNING,
    SENT,
    Beat,
    Call,
    Look,
    Row,
    Runner,
    Session,
    State,
    Step,
    World,
    place,
    put,
)

ONE = World(runners=1)
TWO = World(ttl=1, late=0, still=False)


class Fault(Protocol):
    where: ClassVar[World] = ONE
    breaks: Callable[..., bool]
    shortest: ClassVar[int]
    """Of the shortest way to it."""


# The fence ----------------------------------------------------------------------------------------------


class NoFence(Fault):
    """A finish asks for the key alone."""

    where = World(still=False)
    breaks = promises.fenced
    shortest = 8

    def live(self, session: Session, call: Beat | Look | Call) -> bool:
        return super().live(session, call) or (isinstance(call, Call) and call.verb == "finish")

    def held(self, row: Row, call: Call) -> bool:
        return call.verb == "finish" or super().held(row, call)


class NoToken(Fault):
    """A finish and a release ask whose the task is, and not for which claim: one that is late ends the next claim."""

    breaks = promises.fenced
    shortest = 10

    def held(self, row: Row, call: Call) -> bool:
        return row.pending and row.holder == call.session


class TokenStartsAgain(Fault):
    """A release clears the token with the session."""

    breaks = promises.new_tokens
    shortest = 6

    def given_back(self, row: Row) -> Row:
        return row._replace(holder=0, token=0)


class NoNonce(Fault):
    """The session's id is all the proof that is asked for."""

    breaks = promises.fenced
    shortest = 4

    def proves(self, *, knows_the_nonce: bool) -> bool:
        return True


class DeadFinish(Fault):
    """A finish does not ask whether its session is live."""

    breaks = promises.fenced
    shortest = 9

    def live(self, session: Session, call: Beat | Look | Call) -> bool:
        return super().live(session, call) or (isinstance(call, Call) and call.verb == "finish")


class FinishedAgain(Fault):
    """A finish does not ask whether the task is pending, and keeps its session: sent twice, it finishes twice."""

    breaks = promises.finished_once
    shortest = 8

    def held(self, row: Row, call: Call) -> bool:
        return row.holder == call.session and row.token == call.token

    def given_back(self, row: Row) -> Row:
        return row


class EffectWithoutFinish(Fault):
    """What a tasker writes in its transaction is kept, although the fence refuses the finish."""

    breaks = promises.one_effect
    shortest = 8

    def acts(self, state: State, who: int, runner: Runner) -> Iterator[Step]:
        yield from super().acts(state, who, runner)
        if runner.run and runner.run.phase == RUNNING:
            task, token, _ = runner.run
            row = state.rows[task]
            if not self.held(row, Call("finish", runner.session, task, token)):
                kept = state._replace(rows=place(state.rows, task, row._replace(effects=row.effects + 1)))
                yield Step("commits what was refused", kept, who, runner.session, task)


class UnfencedRelease(Fault):
    """A release asks for no token: one that is late takes the task from the next claim of its own session."""

    where = World(still=False, time=False, deaths=False)
    breaks = promises.alone
    shortest = 17

    def held(self, row: Row, call: Call) -> bool:
        return super().held(row, call) or (
            call.verb == "release" and row.pending and row.holder == call.session
        )


# The lease ----------------------------------------------------------------------------------------------


class EndedBeneath(Fault):
    """A plain UPDATE ends a session, and does not wait for its finishing transaction (FOR KEY SHARE lets it through)."""

    breaks = promises.fenced
    shortest = 11

    def may_end(self, session: Session, *, locked: bool) -> bool:
        return super().may_end(session, locked=False)


class EndedEarly(Fault):
    """A session is ended by somebody's own idea of the time, before it is over."""

    where = TWO
    breaks = promises.alone
    shortest = 11

    def may_end(self, session: Session, *, locked: bool) -> bool:
        return session.state == LIVE and session.left <= 1 and not locked


class Revived(Fault):
    """A keepalive revives a session that is over, if nobody has ended it yet."""

    breaks = promises.over_for_ever
    shortest = 6

    def live(self, session: Session, call: Beat | Look | Call) -> bool:
        return super().live(session, call) or (isinstance(call, Beat) and session.state == LIVE)


class BumpReadsTheClockFirst(Fault):
    """A keepalive reads the clock, and then waits for the row of its session."""

    breaks = promises.over_for_ever
    shortest = 7

    def live(self, session: Session, call: Beat | Look | Call) -> bool:
        seen = isinstance(call, Beat) and call.seen_live and session.state == LIVE
        return seen or super().live(session, call)

    def waits(self, state: State, who: int, runner: Runner) -> Iterator[Step]:
        yield from super().waits(state, who, runner)
        beat = runner.beat
        if beat and beat.stage == SENT and super().live(state.sessions[runner.session - 1], beat):
            waiting = runner._replace(beat=beat._replace(seen_live=True))
            yield Step("'s keepalive waits for the row", put(state, who, waiting), who)


class HoldReadsTheClockFirst(Fault):
    """A finish reads the clock, and then waits for the row of its session."""

    breaks = promises.fenced
    shortest = 11

    def live(self, session: Session, call: Beat | Look | Call) -> bool:
        seen = isinstance(call, Call) and call.seen_live and session.state == LIVE
        return seen or super().live(session, call)

    def is_late(self, state: State, call: Call) -> Iterator[Step]:
        yield from super().is_late(state, call)
        if super().live(state.sessions[call.session - 1], call):
            waiting = [call._replace(seen_live=True) if other == call else other for other in state.calls]
            yield Step(
                "the late call waits for the row of {session}",
                state._replace(calls=tuple(waiting)),
                session=call.session,
            )


class Unlimited(Fault):
    """The server does not bound a finishing transaction: a Runner that stands still within one keeps its task for ever."""

    where = World(ttl=1, late=0, deaths=False)
    breaks = promises.done
    shortest = 7

    def may_cut(self, session: Session) -> bool:
        return False


# The look -----------------------------------------------------------------------------------------------


class NotAmongTheLiving(Fault):
    """A look takes what is held by none of the sessions that it has seen live: one that started since is robbed."""

    where = TWO
    breaks = promises.no_theft
    shortest = 6

    def known(self, state: State) -> tuple[int, ...]:
        return tuple(
            i for i, session in enumerate(state.sessions, 1) if session.state == LIVE and session.left
        )

    def claimable(self, row: Row, known: tuple[int, ...], me: int) -> bool:
        return row.pending and (row.holder == me or row.holder not in known)


class Orphans(Fault):
    """What an ended session held is not looked for."""

    where = World(runners=1, ttl=1, late=0)
    breaks = promises.done
    shortest = 4

    def claimable(self, row: Row, known: tuple[int, ...], me: int) -> bool:
        return row.pending and row.holder in {0, me}


class LostClaim(Fault):
    """A claim whose answer was lost is not given again to the session whose it is."""

    where = World(runners=1, time=False, deaths=False)
    breaks = promises.done
    shortest = 4

    def claimable(self, row: Row, known: tuple[int, ...], me: int) -> bool:
        return row.pending and (row.holder == 0 or row.holder in known)


class SweptTooSoon(Fault):
    """A session leaves the list of the ended before its tasks are found."""

    where = World(runners=1, ttl=1, late=0)
    breaks = promises.done
    shortest = 6

    def sweeps(self, session: int, rows: tuple[Row, ...]) -> bool:
        return True

    def returns_to_the_list(self, session: int, rows: tuple[Row, ...]) -> bool:
        return False


class SweptForGood(Fault):
    """A session that was swept while its row was closed by hand does not come back when it is opened again."""

    where = World(runners=1, ttl=1, late=0, by_hand=True)
    breaks = promises.done
    shortest = 8

    def returns_to_the_list(self, session: int, rows: tuple[Row, ...]) -> bool:
        return False


# The Runner ---------------------------------------------------------------------------------------------


class FromTheAnswer(Fault):
    """The deadline counts from when the answer comes, and not from before the keepalive was sent."""

    where = World(late=0, still=False, deaths=False)
    breaks = promises.alone
    shortest = 16

    def deadline(self, age: int) -> int:
        return super().deadline(0)


class NoDeadline(Fault):
    """A Runner waits to be told that its session is over."""

    where = World(ttl=1, late=0, still=False, deaths=False)
    breaks = promises.alone
    shortest = 12

    def may_run(self, runner: Runner) -> bool:
        return True

    def cancels_at_the_deadline(self) -> bool:
        return False


class NoGuard(Fault):
    """The deadline leaves nothing for a clock that is slower than the server's."""

    where = World(ttl=1, drift=1, late=0, still=False, deaths=False)
    breaks = promises.alone
    shortest = 12


class WakesUnaware(Fault):
    """A Runner that stood still goes on where it was, and does not look at its deadline first."""

    where = World(ttl=1, late=0, deaths=False)
    breaks = promises.alone
    shortest = 14

    def wakes(self, state: State, who: int, runner: Runner) -> Iterator[Step]:
        yield Step("wakes", put(state, who, runner._replace(stands=False)), who)


class RunningHandedOver(Fault):
    """A task is handed over while it runs."""

    where = World(late=0, still=False, time=False, deaths=False)
    breaks = promises.alone
    shortest = 11

    def acts(self, state: State, who: int, runner: Runner) -> Iterator[Step]:
        yield from super().acts(state, who, runner)
        if runner.run and runner.run.phase == RUNNING:
            yield from self.calls(state, state, Call("release", runner.session, *runner.run[:2]))


# Cancelling ---------------------------------------------------------------------------------------------


class RequestForgotten(Fault):
    """What was asked of a session that has ended is not asked of who claims its task."""

    where = World(runners=1, cancel=True)
    breaks = promises.stays_asked
    shortest = 9

    def inherits(self, session: Session) -> tuple[int, ...]:
        return ()


class ForgottenUnseen(Fault):
    """A look forgets what was asked for a task that it does not bring, and that its Runner did not hear that it holds."""

    where = World(runners=1, tasks=2, late=0, cancel=True)
    breaks = promises.stays_asked
    shortest = 7

    def forgets(self, task: int, claimed: int, rows: tuple[Row, ...], me: int) -> bool:
        return task != claimed
