"""One state for all that differ in names alone: which Runner, which task, which session's id, how great a token is.

No rule asks more of ids and tokens than whether two are the same, and which token is the greater; a new one is new
whatever its value. So states that are the same but for names go on in the same ways, and one of them is looked at for all.
The names are given by an order of what is at hand, so some that are the same are looked at twice; that costs time alone.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.model.states import Call, Look, Row, Run, Runner, Session, State

NOBODY = Session(0, -1)


class Names(NamedTuple):
    runners: list[int]
    """Which Runner has come to this place."""
    tasks: dict[int, int]
    sessions: dict[int, int]
    tokens: list[dict[int, int]]
    """Each from the old to the new. A session that is not among them is named by nobody any more, and never will be."""


def reduced(state: State) -> tuple[State, Names]:
    names = names_of(state)
    return renamed(state, names), names


def names_of(state: State) -> Names:
    runners, sessions, rows, calls = state

    def looks(place: int) -> tuple[object, ...]:
        runner = runners[place]
        return (sessions[runner.session - 1] if runner.session else NOBODY, runner[1:])

    order = sorted(range(len(runners)), key=looks)
    tasks = sorted(range(len(rows)), key=rows.__getitem__) if len(rows) > 1 else [0]
    ids = {0: 0}
    for place in order:
        ids.setdefault(runners[place].session, len(ids))
    for call in calls:
        ids.setdefault(call.session, len(ids))
    for task in tasks:
        ids.setdefault(rows[task].holder, len(ids))
    tokens = [{0, row.token} for row in rows]  # 0 stays: it is that of a task which was never claimed
    for runner in runners:
        for claim in (runner.run, runner.look):
            if claim and claim.task >= 0:
                tokens[claim.task].add(claim.token)
    for call in calls:
        if call.task >= 0:
            tokens[call.task].add(call.token)
    return Names(
        order,
        {-1: -1} | {old: new for new, old in enumerate(tasks)},
        ids,
        [{old: new for new, old in enumerate(sorted(known))} for known in tokens],
    )


def renamed(state: State, names: Names) -> State:
    runners, sessions, rows, calls = state
    order, tasks, ids, tokens = names

    def named(session: Session) -> Session:
        return session._replace(cancel=asked(session.cancel)) if session.cancel else session

    def asked(cancel: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(tasks[task] for task in cancel))

    def of_look(look: Look) -> Look:
        known = tuple(sorted(ids[known] for known in look.known if known in ids))
        token = tokens[look.task][look.token] if look.token else 0
        return Look(look.stage, known, tasks[look.task], token, look.cancelled)

    def of_runner(runner: Runner) -> Runner:
        session, left, missed, stands, beat, look, run = runner
        if beat and beat.cancel:
            beat = beat._replace(cancel=asked(beat.cancel))
        if look:
            look = of_look(look)
        if run:
            run = Run(tasks[run.task], tokens[run.task][run.token], run.phase)
        return Runner(ids[session], left, missed, stands, beat, look, run)

    def of_call(call: Call) -> Call:
        verb, session, task, token, look, seen_live = call
        token = tokens[task][token] if token else 0
        return Call(verb, ids[session], tasks[task], token, look and of_look(look), seen_live)

    def of_row(task: int) -> Row:
        row = rows[task]
        return Row(row.pending, ids[row.holder], tokens[task][row.token], *row[3:])

    return State(
        tuple([of_runner(runners[place]) for place in order]),
        tuple([named(sessions[old - 1]) for old in ids if old]),
        tuple([of_row(task) for task in tasks if task >= 0]),
        tuple(sorted(map(of_call, calls))),
    )
