"""The faults that the library must withstand, what is required under each, what is checked, and how often each shall be injected.

A test says by `@pytest.mark.fault("P3", "N1")` which of them it injects; `python -m tests.chaos report` makes a page of that.
"""

from __future__ import annotations

from dataclasses import dataclass

CHECKERS = {
    "C1": "each side effect is written down, beyond the reach of any fault: task, session, token, begin, effect, end",
    "C2": "a task runs; more than once only after a death, a loss, a release or an error that is on record",
    "C3": "a task is flagged finished once, and stays so",
    "C4": "who finishes a task names its current claim, and has a session that is live",
    "C5": "two runs of a task overlap only while the older one's process stood still",
    "C6": "when all is healed every task is finished or parked within the bound",
    "C7": "sessions that share hold the same to within one batch",
    "C8": "the tasks of a dead session are taken over within lease, poll and a second",
    "C9": "nothing leaks: connections, transactions, asyncio tasks, threads, warnings",
    "C10": "the tables stay healthy: dead rows, size, ages of transactions",
    "C11": "secrets are in no log, span or exception",
    "C12": "the server's log has the errors that the fault explains, and no deadlock",
    "C13": "the effects of finishing transactions are as many as the tasks finished",
    "C14": "the tokens of a task grow, and a resource that compares them takes no older one after a newer one",
}


@dataclass(frozen=True)
class Fault:
    id: str
    what: str
    required: str
    checkers: str
    not_here: str = ""
    """Why no test injects it, where none can."""


FAULTS = [
    # Processes ---------------------------------------------------------------------------------------------
    Fault("P1", "SIGKILL", "its tasks are free once the lease is over; no finish is lost", "C2 C6 C8"),
    Fault("P2", "SIGTERM in the middle of work", "no new claims, the lease is kept until the last tasker has ended, then all is given back", "C2 C5 C9"),
    Fault("P3", "SIGSTOP for longer than the lease, then SIGCONT", "what it finishes is refused, and so is a stale token at the resource", "C3 C4 C5 C14"),
    Fault("P4", "the process gets next to no CPU", "as when it is stopped", "C4 C5"),
    Fault("P5", "the machine is suspended", "the local deadline counts the time asleep; the token refuses the rest", "C4"),
    Fault("P6", "a tasker blocks the event loop", "the lease is kept beside the loop, or is lost in time, and said so", "C5 C8"),
    Fault("P7", "the loop is dead and the keepalives go on", "they end when the loop has not ticked for long: the lease runs out", "C6"),
    Fault("P8", "a tasker swallows its cancellation", "it is refused at the deadline, and abandoned or ended with its process", "C5 C9"),
    Fault("P9", "a tasker raises anything, SystemExit included", "its own batch fails and no other; what was accomplished is recorded", "C2 C6 C9"),
    Fault("P10", "cancellation at each await", "nothing leaks, each task is finished or claimable", "C3 C6 C9"),
    Fault("P11", "a tasker returns what it was not given", "tasks of its own claim count, the rest is an error", "C3 C4"),
    Fault("P12", "a tasker accomplishes nothing, ever", "growing pauses, counted attempts, parked in the end", "C6 C12"),
    Fault("P13", "a task kills each process that runs it", "it is counted at its claim, run alone, parked in the end", "C6"),
    Fault("P14", "a fork after the start; a Runner that is run twice", "an error, and no connection in two processes' hands", "C4 C9"),
    Fault("P15", "a restart under the same name within the lease", "the new process has a session of its own; the name is none", "C6"),
    Fault("P16", "a tasker hangs, while the lease is kept", "it is cancelled at its time limit, and counts as failed", "C6"),
    Fault("P17", "what watches, renews or reports dies itself", "the session is lost, or the telemetry; never the work unseen", "C5 C6"),
    Fault("P18", "no file descriptor, thread or memory is left", "the connections that are open serve on; else the lease ends in time", "C5 C9"),
    Fault("P19", "the interpreter ends under work", "given back, or else expired", "C6 C9"),
    # The network and the driver ----------------------------------------------------------------------------
    Fault("N1", "connections are cut", "tried again, with pauses; a finish that is repeated is one", "C3 C6 C9"),
    Fault("N2", "a black hole: no answer, no error", "each call has an end, and its connection is given up", "C5 C8 C9"),
    Fault("N3", "the reply to a COMMIT or a finish is lost", "asked again with the same token: it is already its own", "C3 C13"),
    Fault("N4", "replies later than the call timeout, out of order", "the deadline is counted from the sending, and only grows", "C5"),
    Fault("N5", "a slow network that loses packets", "no lease is lost", "C8"),
    Fault("N6", "an instance is cut off from a healthy database", "it stops before its lease is over", "C5 C8"),
    Fault("N7", "the listening connection is silently dead", "tasks are found by polling, and it is made anew", "C6"),
    Fault("N8", "notifications at a high rate", "none in claims, finishes and keepalives; quiet ones where nobody waits", "C8 C12"),
    Fault("N9", "the user's pool is exhausted", "claims, finishes and keepalives have connections of their own", "C5 C8"),
    Fault("N10", "the server takes no more connections", "the open ones serve on; tried again; the lease ends in time", "C5 C6"),
    Fault("N11", "PgBouncer in transaction mode", "everything works without prepared statements and session state", "C3 C6 C12"),
    Fault("N12", "PgBouncer restarts, pauses, loses its server", "errors that pass, and are waited for", "C6"),
    Fault("N13", "a backend is terminated", "the connection is thrown away, the call tried again", "C3 C6 C9"),
    Fault("N14", "a cancel request comes late", "a connection whose call was cancelled is used for no other", "C9 C12"),
    Fault("N15", "idle connections are dropped", "the first call on one is tried again on another", "C6"),
    Fault("N16", "the server's name leads elsewhere", "who connects again asks for the address again", "C6"),
    # The database ------------------------------------------------------------------------------------------
    Fault("D1", "immediate shutdown and restart", "each finish that was answered is still there", "C3 C6 C13"),
    Fault("D2", "fail-over to a synchronous standby", "connections to the old primary are given up, the new one is found", "C3 C6"),
    Fault("D3", "fail-over that loses commits", "the promises hold for the history that is left; a session that is lost with it is none", "C4 C14"),
    Fault("D4", "two primaries", "sessions of the one are none at the other", "C4"),
    Fault("D5", "the address leads to a standby", "refused, and tried again", "C6"),
    Fault("D6", "the server's clock steps forward", "tasks may run twice, finishes are fenced", "C3 C4"),
    Fault("D7", "the server's clock steps back", "take-over is late, never unsafe", "C4 C6"),
    Fault("D8", "the clocks run at different rates", "the guard covers it", "C5"),
    Fault("D9", "time zones, and their summer time", "no hour is won or lost", "C3 C8"),
    Fault("D10", "timeouts of the role end the library's statements", "errors that pass; the library's own limits where it needs them", "C6 C12"),
    Fault("D11", "a finishing transaction is ended while it idles", "all of it fails, and nothing is written beside it", "C9 C13"),
    Fault("D12", "claims, finishes and users' transactions in any order", "one lock order: no deadlock of the library's own", "C12"),
    Fault("D13", "a user locks rows or the table", "locked rows are passed over, the lease is kept", "C5 C8"),
    Fault("D14", "a sub-select that was read before a wait for a lock", "what is tested is locked first", "C4"),
    Fault("D15", "a plan that runs a locking sub-select again", "no more is claimed than was asked for", "C7"),
    Fault("D16", "another default isolation level", "the library's statements have their own", "C6"),
    Fault("D17", "an old snapshot is held open", "claims stay fast", "C8 C10"),
    Fault("D18", "transaction numbers run short", "few are used, none of them shared", "C10"),
    Fault("D19", "many share a lock of one row", "there is no such row", "C10"),
    Fault("D20", "the disk is full", "an error that passes; work resumes", "C3 C6"),
    Fault("D21", "a column, a right or the table is taken away", "the Runner ends, and says why", "C12"),
    Fault("D22", "rows are deleted or edited by hand", "a finish of what is gone says so; no claim is left in the air", "C6"),
    Fault("D23", "a session's row is deleted while tasks name it", "they are found and freed", "C6"),
    Fault("D24", "a lower key is committed after a higher one", "it is found as well", "C6"),
    Fault("D25", "keys of all types, with gaps, huge, null", "served, or refused at the installation", "C6"),
    Fault("D26", "values that cannot be read or stored", "the failure of that task alone", "C6 C9"),
    Fault("D27", "ten million finished rows, a million pending", "claims stay fast: nothing counts the table", "C7 C8 C10"),
    Fault("D28", "thousands of sessions start or expire at once", "they are spread, and ended by hundreds", "C7 C8 C12"),
    Fault("D29", "a copy of the production database is started", "its tasks do not run by themselves", "C4"),
    Fault("D30", "two versions of the library at once", "both work, side by side", "C3 C6"),
    Fault("D31", "sessions are ended on an old snapshot", "no task is orphaned, none is taken from a session that has just begun", "C4 C6"),
    # Balance -----------------------------------------------------------------------------------------------
    Fault("B1", "instances come and go all the time", "only what was not begun moves; all is done", "C6 C7"),
    Fault("B2", "the first instance takes all", "the later ones have their share", "C7"),
    Fault("B3", "a slow instance hoards", "what it has not begun goes to those that are idle", "C7 C8"),
    Fault("B4", "any of the instances dies", "whoever looks first ends its session: there is no leader", "C8"),
    Fault("B5", "nobody was there for long", "the first one begins at once", "C6 C8"),
    Fault("B6", "urgent tasks without end", "the order stands, and with it who waits; turns can be had", "C6"),
    Fault("B7", "no tasks, no sessions, equal times", "defined", "C12"),
]  # fmt: skip

BY_ID = {fault.id: fault for fault in FAULTS}


@dataclass(frozen=True)
class Figure:
    what: str
    by_default: int
    at_night: int
    counted: tuple[str, ...]
    """The faults of which the injections are added up, or what tests count beside them (`injected("tasks", ..)`)."""


FIGURES = [
    Figure("SIGKILLs", 100, 2_000, ("P1",)),
    Figure("SIGSTOPs beyond the lease", 20, 300, ("P3",)),
    Figure("backends terminated", 500, 10_000, ("N13",)),
    Figure("immediate restarts", 3, 100, ("D1",)),
    Figure("promotions", 1, 30, ("D2", "D3")),
    Figure("network events", 200, 5_000, ("N1", "N2", "N4", "N6")),
    Figure("lost replies of COMMIT", 50, 1_000, ("N3",)),
    Figure("steps at which a run was cancelled", 300, 300, ("P10",)),
    Figure("tasks through chaos", 20_000, 1_000_000, ("tasks",)),
]

NEVER = {
    "C3": "tasks finished twice",
    "C6": "tasks lost",
    "C4": "tasks finished by an expired session or a stale claim",
    "C13": "effects beside the finish, in finishing transactions",
}
"""What each of these checkers counts, and what there shall be none of."""

TAKE_OVER = "take-over"
"""Measured: seconds from SIGKILL to the next claim of its tasks, with a lease of 5 s."""
MOST_TAKE_OVER = 7.0

COUNTED = {one for figure in FIGURES for one in figure.counted} - BY_ID.keys()
