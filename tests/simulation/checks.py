"""What must be true of a play, each as a function from its log to what is wrong: nothing, where all is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import ceil

from tests.simulation.world import LOOK_EVERY, Log, Look, Seen, by_task

POLL = 1.0
PATIENCE = 1.0

SLACK = 2 * LOOK_EVERY
"""What is seen from outside is seen so much too late."""


def balance(log: Log) -> list[str]:
    """Who could begin a task and is below its target has one within two polls, if there is one to be had: free, or held by
    somebody above his target who has not begun it (or, if his calls take that long themselves, has perhaps finished it).
    """

    def hungry(look: Look) -> Iterator[Seen]:
        movable = look.claimable > 0 or any(
            each.unstarted > 0 and each.held > each.target and not each.excused for each in look.sessions
        )
        if movable:
            yield from (
                each for each in look.sessions if each.held < each.target and each.free and not each.excused
            )

    return [
        f"session {session} was below its target for {seconds:.1f} s until {at:.1f}"
        for session, at, seconds in _lasting(log, hungry, 2 * POLL)
    ]


def idle(log: Log) -> list[str]:
    """No session with a free slot idles, which is to claim nothing, longer than its patience while tasks are claimable."""
    moments = {
        (event.session, ceil(event.at / LOOK_EVERY))
        for event in log.events
        if event.what in {"claimed", "none there"}
    }

    def idling(look: Look) -> Iterator[Seen]:
        if look.claimable:
            now = ceil(look.at / LOOK_EVERY - 0.5)
            yield from (
                each
                for each in look.sessions
                if each.free and not each.excused and (each.session, now) not in moments
            )

    return [
        f"session {session} idled for {seconds:.1f} s until {at:.1f} beside claimable tasks"
        for session, at, seconds in _lasting(log, idling, PATIENCE)
    ]


def movement(log: Log) -> list[str]:
    """Between two changes no task is handed over twice, and all in all no more are handed over than there are slots."""
    wrong = []
    changes = [*log.changes(), float("inf")]
    for begin, end in zip(changes, changes[1:], strict=False):
        window = [event for event in log.events if begin <= event.at < end]
        moves = 0
        for task, events in by_task(window).items():
            givers = [event.session for event in events if event.what == "handed over"]
            moves += len(givers)
            if len(givers) > 1:
                wrong.append(
                    f"task {task} was handed over {len(givers)} times after the change at {begin:.1f}"
                )
        slots = max(
            (sum(each.slots for each in look.sessions) for look in log.looks if begin <= look.at < end),
            default=0,
        )
        if moves > slots:
            wrong.append(
                f"{moves} tasks were handed over after the change at {begin:.1f}, with {slots} slots"
            )
    return wrong


def loss(log: Log) -> list[str]:
    """All is finished once; what was begun was ended where it was begun, unless its instance died, and only then is begun again."""
    wrong = [f"task {task} is not finished" for task in log.unfinished]
    wrong += [f"a Runner has failed: {error!r}" for error in log.errors]
    for task, events in by_task([event for event in log.events if event.what != "none there"]).items():
        begun = [event.session for event in events if event.what == "begun"]
        done = [event.session for event in events if event.what == "done"]
        finished = sum(event.what == "finished" for event in events)
        lost = [session for session in begun if session not in log.died and session not in done]
        if lost or not log.died.issuperset(begun[:-1]) or len(set(begun)) < len(begun):
            wrong.append(f"task {task} was begun by {begun} and done by {done}")
        if finished > 1:
            wrong.append(f"task {task} was finished {finished} times")
        died = sum(session in log.died for session in begun)
        if log.attempts[task] > 1 + len(log.died) or (not log.died and log.attempts[task] != len(begun)):
            wrong.append(
                f"task {task} has {log.attempts[task]} attempts and was begun {len(begun)} times, {died} by the dead"
            )
    return wrong


CHECKS: tuple[Callable[[Log], list[str]], ...] = (balance, idle, movement, loss)


def _lasting(
    log: Log, who: Callable[[Look], Iterable[Seen]], most: float
) -> Iterator[tuple[int, float, float]]:
    """Sessions to which it applied for longer than that without a break: each with when it ended, and how long it was."""
    since: dict[int, float] = {}
    last = 0.0
    for look in log.looks:
        now = {each.session for each in who(look)}
        for session in [session for session in since if session not in now]:
            if (seconds := last - since.pop(session)) > most + SLACK:
                yield session, last, seconds
        for session in now:
            since.setdefault(session, look.at)
        last = look.at
    for session, begin in since.items():
        if last - begin > most + SLACK:
            yield session, last, last - begin
