"""The checkers C1 to C14 of the catalogue: each takes the evidence of a storm and says what is wrong with it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from tests.chaos.storm.evidence import Evidence
from tests.chaos.storm.ledger import Run

W = 0.5
"""Seconds that a run may take to notice, after a pause, that it is over."""


Checker = Callable[[Evidence], list[str]]


def c1(evidence: Evidence) -> list[str]:
    """Each run in the ledger has its claim in the audit, and no claim is run by two processes."""
    claims = {
        (change.task, change.holders[1], change.tokens[1]) for change in evidence.changes if change.is_claim
    }
    by: defaultdict[tuple[int, int, int], set[int]] = defaultdict(set)
    for run in evidence.runs:
        by[run.task, run.session, run.token].add(run.pid)
    if evidence.lossy:
        return []
    return [f"{claim} was run, and never claimed" for claim in by.keys() - claims] + [
        f"{claim} was run by processes {sorted(pids)}" for claim, pids in by.items() if len(pids) > 1
    ]


def c2(evidence: Evidence) -> list[str]:
    """A task is claimed again only if it was given back or its session has ended; and none is finished without a run."""
    wrong = []
    ran = {(run.task, run.session, run.token) for run in evidence.runs}
    for change in evidence.changes:
        before, after = change.holders
        if (
            change.is_claim
            and before not in {None, after}
            and evidence.ended.get(before, change.at + 1) > change.at
        ):
            wrong.append(f"task {change.task} was taken by {after} from {before}, which had not ended")
        if change.is_finish and (change.task, before, change.tokens[0]) not in ran:
            wrong.append(f"task {change.task} was finished without a run of ({before}, {change.tokens[0]})")
    return wrong


def c3(evidence: Evidence) -> list[str]:
    finishes = Counter(change.task for change in evidence.changes if change.is_finish)
    return [f"task {task} was finished {times} times" for task, times in finishes.items() if times > 1] + [
        f"task {change.task} was opened again"
        for change in evidence.changes
        if change.is_finish and change.done[1] is None
    ]


def c4(evidence: Evidence) -> list[str]:
    """The finisher's process is the one whose session holds the task, under the same token, and that session is live."""
    wrong = []
    for change in evidence.changes:
        if not change.is_finish:
            continue
        what = f"task {change.task} was finished by {change.made_by!r}"
        if change.holders[0] is None or change.tokens[0] != change.tokens[1]:
            wrong.append(f"{what} without a claim")
        elif not change.live:
            wrong.append(f"{what} for session {change.holders[0]}, which was not live")
        elif (change.label or "").rpartition(":")[2] != change.made_by.rpartition(" ")[2]:
            wrong.append(f"{what}, while {change.label!r} held it")
    return wrong


def c5(evidence: Evidence) -> list[str]:
    claims = {
        (change.task, change.holders[1], change.tokens[1]) for change in evidence.changes if change.is_claim
    }
    pauses = pauses_of(evidence)
    death = {event.pid: event.at for event in evidence.events if event.kind == "kill"}
    by_task: defaultdict[int, list[Run]] = defaultdict(list)
    for run in sorted(evidence.runs, key=lambda run: run.begin):
        if not evidence.lossy or (run.task, run.session, run.token) in claims:
            by_task[run.task].append(run)
    wrong = []
    for task, runs in by_task.items():
        for number, older in enumerate(runs):
            end = death.get(older.pid, float("inf")) if older.end is None else older.end
            for newer in runs[number + 1 :]:
                if newer.begin + W >= end or (newer.pid, newer.session, newer.token) == (
                    older.pid,
                    older.session,
                    older.token,
                ):
                    continue
                still = any(a <= newer.begin + W and end <= b + W for a, b in pauses[older.pid])
                if not still:
                    wrong.append(
                        f"task {task} ran in {older.pid} until {end - newer.begin:.2f} s after it had begun in {newer.pid}"
                    )
    return wrong


def pauses_of(evidence: Evidence) -> dict[int, list[tuple[float, float]]]:
    """When each process stood still; stops that follow on one another are one."""
    found: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for stop in sorted(
        (event for event in evidence.events if event.kind == "stop"), key=lambda event: event.at
    ):
        begin = stop.at
        if found[stop.pid] and begin <= found[stop.pid][-1][1] + W:
            begin = found[stop.pid].pop()[0]
        found[stop.pid].append((begin, stop.until))
    for pause in evidence.pauses:
        found[pause.pid].append((pause.begin, pause.end))
    return found


def c6(evidence: Evidence) -> list[str]:
    there = {change.task for change in evidence.changes if change.is_finish} | {*evidence.pending}
    gone = [] if evidence.lossy else sorted(evidence.fed - there)
    return [f"task {task} is not finished" for task in evidence.pending] + [
        f"task {task} is gone" for task in gone
    ]


def c7(evidence: Evidence) -> list[str]:
    """Wrong if no look has found them level: of those looks in which two or more held more than a batch, since of less all may be one's."""
    spreads = [
        max(held.values()) - min(held.values())
        for held in evidence.shares
        if len(held) > 1 and sum(held.values()) > evidence.batch
    ]
    if not spreads:
        return ["no look has found more than a batch to be shared"] if evidence.shares else []
    if min(spreads) <= evidence.batch:
        return []
    return [
        f"sessions that share hold {min(spreads)} tasks more than others, and a batch is {evidence.batch}"
    ]


def c8(evidence: Evidence) -> list[str]:
    most = evidence.lease + evidence.poll + 1
    return [
        f"the tasks of process {pid} were taken over after {seconds:.2f} s"
        for pid, seconds in take_overs(evidence).items()
        if seconds > most
    ]


def take_overs(evidence: Evidence) -> dict[int, float]:
    """By process that was killed: seconds until the last of the tasks that it held was claimed by another."""
    killed = {event.pid: event.at for event in evidence.events if event.kind == "kill"}
    owner: dict[int, int] = {run.session: run.pid for run in evidence.runs}
    longest: dict[int, float] = {}
    for change in evidence.changes:
        pid = owner.get(change.holders[0] or 0, 0)
        if change.is_claim and change.holders[0] != change.holders[1] and pid in killed:
            longest[pid] = max(longest.get(pid, 0.0), change.at - killed[pid])
    return longest


def c9(evidence: Evidence) -> list[str]:
    wrong = [
        f"process {pid} left {left} asyncio tasks or threads" for pid, left in evidence.left.items() if left
    ]
    wrong += [
        f"process {pid} did not end by itself" for pid in sorted(evidence.to_end - evidence.left.keys())
    ]
    wrong += [f"a backend is left: {backend}" for backend in evidence.backends]
    return wrong + [
        f"{name} has {found[0]!r}"
        for name, log in evidence.logs.items()
        if name != "server" and (found := COMPLAINTS.search(ASYNCPGS_OWN.sub("", log)))
    ]


COMPLAINTS = re.compile(
    r".*(?:never retrieved|was destroyed|never awaited|ResourceWarning|Traceback)(?:.*\n?){8}"
)

ASYNCPGS_OWN = re.compile(
    r"^.*Future exception was never retrieved\nfuture: <Future finished exception=ConnectionError\('unexpected connection_lost.*$",
    re.MULTILINE,
)
"""Of an attempt to connect that was given up, and whose connection was lost after that: nobody else can ask for it."""

CEILINGS = {"bytes of a task": 2_000, "transactions for a task": 3, "multixacts for a finish": 1.5}


def c10(evidence: Evidence) -> list[str]:
    return [
        f"{figure:.1f} {what}, at most {CEILINGS[what]} are due"
        for what, figure in evidence.health.items()
        if figure > CEILINGS[what]
    ]


def c11(evidence: Evidence) -> list[str]:
    if not evidence.secrets:
        return []
    pattern = re.compile("|".join(map(re.escape, sorted(evidence.secrets))))
    return [f"{name} tells a secret" for name, log in evidence.logs.items() if pattern.search(log)]


EXPLAINED = {
    "57P01": "a backend was terminated",
    "57P02": "the server was stopped at once",
    "57P03": "the server starts or stops",
    "57014": "a statement was cancelled",
    "08006": "a client has gone",
    "08P01": "a connection ended within a message",
    "55P03": "a lock was not to be had in time",
    "25P03": "a finishing transaction idled beyond its lease",
    "25P04": "a finishing transaction took longer than its lease",
    "28000": "a standby was refused, to hear no more of its primary",
    "SL001": "the session is not live",
    "SL002": "a task is not held",
}


def c12(evidence: Evidence) -> list[str]:
    found = Counter(
        re.findall(
            r"^\S+ \S+ \S+ (\w{5}) (?:ERROR|FATAL|PANIC):", evidence.logs.get("server", ""), re.MULTILINE
        )
    )
    return [
        f"the server has told of {state} {times} times"
        for state, times in found.items()
        if state not in EXPLAINED
    ]


def c13(evidence: Evidence) -> list[str]:
    finished = {
        change.task for change in evidence.changes if change.is_finish and "transaction" in change.made_by
    }
    wrong = [
        f"task {task} has taken effect {times} times" for task, times in evidence.effects.items() if times > 1
    ]
    wrong += [
        f"task {task} has taken effect and was finished elsewhere"
        for task in evidence.effects.keys() - finished
    ]
    wrong += [f"task {task} was finished without its effect" for task in finished - evidence.effects.keys()]
    if evidence.total != len(finished):
        wrong.append(
            f"the accounts have {evidence.total}, and {len(finished)} tasks were finished in transactions"
        )
    return wrong


def c14(evidence: Evidence) -> list[str]:
    wrong = [
        f"the token of task {change.task} went from {change.tokens[0]} to {change.tokens[1]}"
        for change in evidence.changes
        if change.is_claim and (change.tokens[1] or 0) <= (change.tokens[0] or 0)
    ]
    newest: dict[int, int] = {}
    for task, token in evidence.accepted:
        if token < newest.get(task, 0):
            wrong.append(f"the resource took token {token} of task {task} after {newest[task]}")
        newest[task] = max(token, newest.get(task, 0))
    return wrong


ALL: dict[str, Checker] = {
    f"C{number}": checker
    for number, checker in enumerate([c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14], 1)
}

UNHURRIED = ALL.keys() - {"C8"}
"""Where the server is away for seconds, or the machine does much at once; take-overs are timed by test_take_over.py."""


def wrongs(evidence: Evidence, checkers: Iterable[str] = ALL) -> dict[str, list[str]]:
    """What each of them has found."""
    return {name: ALL[name](evidence) for name in checkers}
