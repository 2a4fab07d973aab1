"""What is promised, each as a function from what has happened to what is wrong with it: nothing, where all is right.

In parentheses: S and L of the guarantees (safety, liveness), C of the checkers that look for them, P of a fault of processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from math import inf

from tests.storms.history import LONGEST_CALL, History
from tests.storms.scripts import HOUR, SETTINGS, STUBBORN

SETTLING = ("finished", "released", "parked", "discarded")
"""What becomes of a claim."""

MOMENT = 0.01

FOLLOWED_WITHIN = 3 * SETTINGS.poll_interval
"""Seconds in which an idle instance has seen that there is something for it: two polls, with jitter, and its patience."""

LOST_WITHIN = (
    1.1 * SETTINGS.keepalive_interval + 3 * SETTINGS.call_timeout + SETTINGS.cancel_grace
    + SETTINGS.shutdown_timeout + SETTINGS.poll_interval + 10.0
)  # fmt: skip
"""Seconds from the loss of a session to the next one: it is noticed, its taskers are cancelled, and the longest pause."""

NOTICED_WITHIN = (
    1.1 * SETTINGS.keepalive_interval
    + 2 * SETTINGS.call_timeout
    + SETTINGS.cancel_grace
    + SETTINGS.guard
    + 2.0
)
"""Seconds before the end of a lease in which a keepalive must have been tried, after all that went wrong before."""

STOPPED_WITHIN = SETTINGS.drain_timeout + SETTINGS.cancel_grace + SETTINGS.shutdown_timeout
"""Seconds that a graceful stop takes at most."""


# What is never to be: safety ----------------------------------------------------------------------------------


def finished_once(history: History) -> Iterator[str]:
    """A task is finished once, and never claimed after that (S1, C3)."""
    closed: dict[int, float] = {}
    for event in history.log.events:
        if event.what in {"finished", "discarded", "claimed"} and event.task in closed:
            yield f"{event}: it was closed at {closed[event.task]:.3f}"
        elif event.what in {"finished", "discarded"}:
            closed[event.task] = event.at


def fenced(history: History) -> Iterator[str]:
    """Only who has the newest claim of a task settles it, and only while its session lives (S2, C4)."""
    newest: dict[int, tuple[int, int]] = {}
    for event in history.log.events:
        if event.what == "claimed":
            newest[event.task] = (event.session, event.token)
        elif event.what in SETTLING and newest[event.task] != (event.session, event.token):
            yield f"{event}: the claim is {newest[event.task]}"
    yield from _posthumous(history, *SETTLING)


def one_owner(history: History) -> Iterator[str]:
    """A task is claimed if it is free, or its session has ended, and its tokens grow (S3, S4, C14)."""
    owner: dict[int, int] = {}
    tokens: dict[int, int] = {}
    for event in history.log.events:
        if event.what == "claimed":
            holder = owner.get(event.task, event.session)
            if holder != event.session and event.at < history.sessions[holder].ended_at:
                yield f"{event}: session {holder} has it, and lives"
            if event.token <= tokens.get(event.task, 0):
                yield f"{event}: its tokens do not grow"
            owner[event.task], tokens[event.task] = event.session, event.token
        elif event.what in SETTLING:
            owner.pop(event.task, None)


def dead_for_ever(history: History) -> Iterator[str]:
    """A session whose lease has run out does not live again (R1)."""
    yield from _posthumous(history, "renewed", "claimed")


def in_its_lease(history: History) -> Iterator[str]:
    """No tasker begins, runs, or finds that its task is held, when the lease has run out (S5)."""
    for event in history.posthumous:
        session = history.sessions[event.session]
        if event.what == "checked":
            excused = history.clocks_differ(session)
        else:
            excused = event.how == STUBBORN or history.may_be_late(session, event.at - MOMENT, event.at)
        if event.what in {"begun", "checked"} and not excused:
            yield f"{event}: its lease has run out at {session.dead_at:.3f}"
    for run in history.runs.values():
        session = history.sessions[run.session]
        if run.begun_at < session.dead_at < history.end_of(run) - MOMENT and not history.may_run_on(
            run, session
        ):
            yield f"run {run.number} of task {run.task} went on to {run.over_at:.3f}, its lease to {session.dead_at:.3f}"


def apart(history: History) -> Iterator[str]:
    """Two runs of a task are not under way at once, unless that of the older claim could not know better (C5)."""
    for runs in history.runs_by_task().values():
        for number, first in enumerate(runs):
            for second in runs[number + 1 :]:
                stale = min(first, second, key=lambda run: run.token)
                beside = second.begun_at < history.end_of(first) - MOMENT
                if beside and not history.may_run_on(stale, history.sessions[stale.session]):
                    yield f"run {second.number} of task {first.task} began at {second.begun_at:.3f} beside run {first.number}"


def effects_once(history: History) -> Iterator[str]:
    """What is written in the finishing transaction takes place together with the finish, and once (S6a, C13)."""
    finished = {
        (event.task, event.token): event.at
        for event in history.log.events
        if (event.what, event.how) == ("finished", "in a transaction")
    }
    effects = [(event.task, event.token) for event in history.log.events if event.what == "effect"]
    for claim, count in Counter(effects).items():
        if count > 1 or claim not in finished:
            yield f"the effect of task {claim[0]} took place {count} times, finished: {claim in finished}"
    yield from (f"task {claim[0]} was finished without its effect" for claim in finished.keys() - {*effects})


def newest_outside(history: History) -> Iterator[str]:
    """A resource that compares tokens takes nothing of an older claim after a newer one, and all of the newest (S6b, C14)."""
    number = {
        (task, event.session, event.token): index
        for task, claims in history.claims.items()
        for index, event in enumerate(claims)
    }
    wrote: dict[int, int] = {}
    for event in history.log.events:
        if event.what in {"wrote", "refused"}:
            claim = number[event.task, event.session, event.token]
            newest = wrote.get(event.task, -1)
            if (event.what == "wrote") != (claim >= newest):
                yield f"{event}: of claim {claim}, and claim {newest} has written"
            wrote[event.task] = max(claim, newest)


def accomplished(history: History) -> Iterator[str]:
    """What is finished was said to be done; what is discarded was to be, or is out of attempts (S7)."""
    runs = history.runs_by_task()
    for event in history.log.events:
        if event.what in {"finished", "discarded"}:
            mine = [run for run in runs[event.task] if run.token == event.token]
            hows = [run.how for run in mine]
            good = "done" if event.what == "finished" else "discards"
            out_of_attempts = len(history.claims[event.task]) >= (SETTINGS.retry.max_attempts or inf)
            in_transaction = event.how == "in a transaction" and hows[-1:] != []
            if (
                good not in hows
                and not in_transaction
                and not (event.what == "discarded" and out_of_attempts)
            ):
                yield f"{event}: its runs have {hows}"


# What is to be at last: liveness -------------------------------------------------------------------------------


def all_done(history: History) -> Iterator[str]:
    """In the end each task is finished, discarded or parked (L1, C6)."""
    for task, standing in history.log.standing.items():
        if standing == "pending":
            yield f"task {task} is pending"


def again_with_reason(history: History) -> Iterator[str]:
    """What is done is not run again, unless its session was lost before it was recorded, or its claim (C2)."""
    for task, runs in history.runs_by_task().items():
        for older, newer in zip(runs, runs[1:], strict=False):
            if older.how != "done" or older.undone or newer.token < older.token:
                continue
            lost = newer.begun_at >= history.sessions[older.session].dead_at
            # A look that was late or came twice has claimed anew what the session had.
            superseded = any(
                claim.token > older.token and claim.session == older.session
                and history.was_harmed(older.who, claim.at - 2 * 20 * SETTINGS.call_timeout, claim.at)
                for claim in history.claims[task]
            )  # fmt: skip
            if not lost and not superseded:
                yield f"run {newer.number} of task {task} began after run {older.number} had done it"


def kept(history: History) -> Iterator[str]:
    """A lease runs out for a reason only: its instance is gone or stood still, or the last keepalives were harmed."""
    for session in history.sessions.values():
        life, end = history.lives[session.who], session.dead_at
        if session.ended_at == end or end > HOUR:
            continue
        last = session.renewed_at[-1]
        abandoned = any(
            run.session == session.id and run.stubborn and run.over_at > last
            for run in history.runs.values()
        )  # fmt: skip
        reason = (
            life.killed_at <= end
            or abandoned
            or history.may_be_late(session, end - NOTICED_WITHIN, end)
            or history.was_harmed(session.who, end - NOTICED_WITHIN, end)
            # It did not hear of its last keepalive, or that it has this session; or nobody heard that it ends.
            or history.was_harmed(session.who, last - LONGEST_CALL, last)
            or any(last <= at <= end for at in life.left_to_expire)
        )
        if not reason:
            yield f"session {session.id} ran out at {end:.3f}, and nothing had harmed it"


def cancelled_with_reason(history: History) -> Iterator[str]:
    """A run is cancelled if its call takes too long, its session is lost, or a stop has waited long enough (P2)."""
    for run in history.runs.values():
        life, session, end = history.lives[run.who], history.sessions[run.session], run.over_at
        reason = (
            end >= run.called_at + (SETTINGS.task_timeout or inf) - MOMENT
            or end >= life.stops_at + SETTINGS.drain_timeout - MOMENT
            or life.how != ""
            or history.may_be_late(session, end - NOTICED_WITHIN, end)
            or history.was_harmed(run.who, end - NOTICED_WITHIN, end)
        )
        if run.how == "cancelled" and not reason:
            yield f"run {run.number} of task {run.task} was cancelled at {end:.3f}"


def followed(history: History) -> Iterator[str]:
    """What a dead session held, an idle instance has soon (L2, C8)."""
    for session in history.sessions.values():
        if session.dead_at > HOUR or session.ended_at <= session.dead_at + FOLLOWED_WITHIN + MOMENT:
            continue
        idle = [
            who for who in history.lives
            if history.is_idle(who, session.dead_at - LOST_WITHIN, session.dead_at + FOLLOWED_WITHIN)
        ]  # fmt: skip
        if idle:
            yield f"session {session.id} died at {session.dead_at:.3f}, and {idle} did not see it"


def came_back(history: History) -> Iterator[str]:
    """Who has lost its session has another one soon (L3)."""
    for who in history.lives:
        mine = [session for session in history.sessions.values() if session.who == who]
        for session in mine:
            end = session.dead_at + LOST_WITHIN
            if end > HOUR or not history.is_calm(who, session.dead_at, end):
                continue
            if not any(
                session.dead_at <= other.at <= end or other.at <= session.dead_at < other.dead_at
                for other in mine
                if other is not session
            ):
                yield f"instance {who} lost session {session.id} at {session.dead_at:.3f} and has no other one"


def stopped_in_time(history: History) -> Iterator[str]:
    """A stop takes no longer than it may, and leaves nothing behind but what is stubborn (L5, C9)."""
    for who, life in history.lives.items():
        begin = max([life.stops_at, *(until for _, until in life.frozen)])
        if life.killed_at == inf and life.left_at > begin + STOPPED_WITHIN + MOMENT:
            yield f"instance {who} was to stop at {begin:.3f} and left at {life.left_at:.3f}"
        if life.how not in {"", "SystemExit"}:
            yield f"instance {who} has died of {life.how}"
    stubborn = sum(run.stubborn and run.over_at == inf for run in history.runs.values())
    if len(history.log.left_behind) > stubborn:
        yield f"left behind: {history.log.left_behind}"


def none_for_ever(history: History) -> Iterator[str]:
    """No session is renewed of an instance that is gone (C9)."""
    for session in history.sessions.values():
        gone_at = history.lives[session.who].gone_at
        # What it had said before may be heard later.
        if session.renewed_at[-1] > gone_at and not history.was_harmed(
            session.who, gone_at - LONGEST_CALL, gone_at
        ):
            yield f"session {session.id} was renewed after its instance was gone"


Promise = Callable[[History], Iterator[str]]

PROMISES: tuple[Promise, ...] = (
    finished_once, fenced, one_owner, dead_for_ever, in_its_lease, apart, effects_once, newest_outside, accomplished,
    all_done, again_with_reason, kept, cancelled_with_reason, followed, came_back, stopped_in_time, none_for_ever,
)  # fmt: skip


# What they are made of -----------------------------------------------------------------------------------------


def _posthumous(history: History, *what: str) -> Iterator[str]:
    for event in history.posthumous:
        if event.what in what:
            yield f"{event}: the session was dead since {history.sessions[event.session].dead_at:.3f}"
