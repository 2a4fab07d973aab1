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

from tests.model.database import Database
from tests.model.states import (
    ANSWERED,
    BACK,
    DONE,
    FINISHING,
    OPEN,
    READY,
    RUNNING,
    SENT,
    Beat,
    Call,
    Look,
    Run,
    Runner,
    Session,
    State,
    Step,
    on,
    place,
    put,
    with_call,
    with_session,
)


class Protocol(Database):
    """What the Runners do, what comes of the calls that they wait for, and how time passes."""

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
            yield Step("hands over", on(state, who, BACK), who, task=task)
        if phase == READY and self.may_run(runner):
            yield Step("begins", on(state, who, RUNNING), who, task=task)
        elif phase == RUNNING:
            yield Step("returns", on(state, who, DONE), who, task=task)
            yield Step("fails", on(state, who, BACK), who, task=task)
            if self.may_open(state, Call("finish", me, task, token)):
                opened = on(state, who, FINISHING)
                yield Step("opens its finishing transaction", opened, who, me, task, token)
        elif phase == FINISHING:
            unheard = run._replace(phase=RUNNING)
            yield Step("rolls back", on(state, who, RUNNING), who, task=task)
            yield from self.commits(state, who, runner, "commits")
            yield from self.commits(state, who, runner, "commits, and does not hear of it", unheard)
        elif phase in {DONE, BACK}:
            verb = "finish" if phase == DONE else "release"
            yield from self.calls(state, state, Call(verb, me, task, token))

    def calls(self, state: State, after: State, call: Call) -> Iterator[Step]:
        """A call that is answered, or whose answer is lost, or that is late. (One that is lost is as if it were not made.)"""
        yield from self.arrives(after, call, f"the {call.verb} of {{session}}")
        if len(state.calls) < self.world.late:
            what = f"the {call.verb} of {{session}} is late"
            yield Step(what, with_call(after, call), session=call.session)

    def looks(self, state: State, who: int, runner: Runner) -> Iterator[Step]:
        me = runner.session
        if self.live(state.sessions[me - 1], Look(SENT)):
            opened = put(state, who, runner._replace(look=Look(OPEN, self.known(state))))
            yield Step("'s look begins", opened, who)
        else:
            yield Step("hears that its session is over", put(state, who, Runner()), who)
        if len(state.calls) < self.world.late:
            yield Step("'s look is late", with_call(state, Call("look", me, look=Look(SENT))), who)

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
            late = self.cut(awake)._replace(run=run)
            yield from self.commits(state, who, late, "wakes too late, and commits")

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
                answered = runner._replace(beat=beat._replace(stage=ANSWERED, cancel=session.cancel))
                after = with_session(state, me, session._replace(left=self.world.ttl))
                yield Step("'s keepalive reaches the database", put(after, who, answered), who, me)
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

    def ticks(self, state: State) -> Iterator[Step]:
        """For all clocks, or for all but one Runner's, as long as its lease is not yet measured more wrongly than allowed."""
        sessions = tuple(s._replace(left=max(0, s.left - 1)) if s.left else s for s in state.sessions)
        ticked = tuple(map(self.ticked, state.runners))
        after = state._replace(sessions=sessions, runners=ticked)
        if after != state:
            yield Step("a tick", after)
        for who, runner in enumerate(state.runners):
            beat = runner.beat
            if runner.left and max(runner.missed, beat.missed if beat else 0) < self.world.drift:
                beat = beat and beat._replace(missed=beat.missed + 1)
                slow = runner._replace(missed=runner.missed + 1, beat=beat)
                yield Step("'s clock misses a tick", put(after, who, slow), who)

    def ticked(self, runner: Runner) -> Runner:
        if not runner.session:
            return runner
        beat = runner.beat and runner.beat._replace(age=min(self.world.ttl, runner.beat.age + 1))
        runner = runner._replace(left=max(0, runner.left - 1), beat=beat)
        late = runner.left == 0 and not runner.stands and self.cancels_at_the_deadline()
        return self.cut(runner) if late else runner
