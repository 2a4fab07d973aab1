"""What must be true of every state, and of every step. C.., S.. and D.. are the names that the project's papers give it."""

from __future__ import annotations

from collections.abc import Iterable

from tests.model.states import FINISHING, LIVE, RUNNING, Row, Session, State, Step


def finished_once(state: State) -> bool:
    """C3: a task is finished at most once, each time that it is opened."""
    return all(row.finishes <= 1 for row in state.rows)


def one_effect(state: State) -> bool:
    """C13: what is written in the finishing transaction takes place with the finish, and once."""
    return all(row.effects <= row.finishes for row in state.rows)


def alone(state: State) -> bool:
    """C5: no two calls of the tasker run side by side for one task, of Runners that do not stand still."""
    running = [
        r.run.task for r in state.runners if r.run and r.run.phase in {RUNNING, FINISHING} and not r.stands
    ]
    return len(running) < 2 or len(set(running)) == len(running)


def stays_asked(state: State) -> bool:
    """What was promised to be cancelled is asked of its holder until it is closed."""
    return all(
        row.holder > 0 and task in state.sessions[row.holder - 1].cancel
        for task, row in enumerate(state.rows)
        if row.pending and row.cancelled
    )


def fenced(before: State, step: Step) -> bool:
    """C4: who finishes a task has its newest claim, and a session that is live when its fence is asked: at the finish, or
    when the finishing transaction is opened. Such a transaction is committed late, but not after the end of its session.
    """
    if step.what.startswith("opens"):
        return is_live(before.sessions[step.session - 1])
    for was, now in changed(before, step):
        if now.finishes > was.finishes:
            if not step.session or (was.holder, was.token) != (step.session, step.token):
                return False
            session = before.sessions[step.session - 1]
            if session.state != LIVE or not (session.left or "commits" in step.what):
                return False
    return True


def no_theft(before: State, step: Step) -> bool:
    """S4: nobody but a live session itself disposes of its claims."""
    return all(
        not (was.pending and was.holder)
        or (now.holder, now.token) == (was.holder, was.token)
        or step.session == was.holder
        or not is_live(before.sessions[was.holder - 1])
        for was, now in changed(before, step)
    )


def new_tokens(before: State, step: Step) -> bool:
    """C14: the token of a claim is greater than all that are known of its task."""
    if step.state.rows is before.rows or step.state.rows[step.task].token == before.rows[step.task].token:
        return True
    known = [r.run.token for r in before.runners if r.run and r.run.task == step.task]
    known += [call.token for call in before.calls if call.task == step.task]
    return all(step.token > token for token in known)


def over_for_ever(before: State, step: Step) -> bool:
    """D8: a session that is over does not live again."""
    return step.state.sessions is before.sessions or all(
        was.left > 0 or now.left == 0 for was, now in zip(before.sessions, step.state.sessions, strict=False)
    )


def changed(before: State, step: Step) -> Iterable[tuple[Row, Row]]:
    if step.state.rows is before.rows:
        return ()
    return zip(before.rows, step.state.rows, strict=True)


def is_live(session: Session) -> bool:
    return session.state == LIVE and session.left > 0


OF_STATES = (finished_once, one_effect, alone, stays_asked)
OF_STEPS = (fenced, no_theft, new_tokens, over_for_ever)


# L1: all tasks can still be finished, from wherever it has come -------------------------------------------------


def done(state: State) -> bool:
    return not any(row.pending for row in state.rows)


def hopes(state: State) -> bool:
    """Somebody must be there to do it."""
    return not all(runner.stands for runner in state.runners)


def helps(step: Step) -> bool:
    """The steps that may be counted on: nobody has to die, to stop or to wake for it, and no person to lend a hand."""
    return not step.what.startswith(("dies", "the end", "wakes", "somebody"))
