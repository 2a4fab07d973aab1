"""The words of OpenTelemetry's conventions and our own: spans, attributes, events and metrics, each named here and nowhere else.

Of the conventions for messaging (in development) and databases (stable), version 1.44; the package that holds them names most of these
under `_incubating`, where they may change. `docs/reference/telemetry.md` lists what is emitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
"""Which version of the conventions the words are of."""

SYSTEM = "session_lock"

MESSAGING_SYSTEM = "messaging.system"
MESSAGING_DESTINATION = "messaging.destination.name"
MESSAGING_OPERATION = "messaging.operation.name"
MESSAGING_OPERATION_TYPE = "messaging.operation.type"
MESSAGING_BATCH = "messaging.batch.message_count"
DB_SYSTEM = "db.system.name"
DB_NAMESPACE = "db.namespace"
DB_OPERATION = "db.operation.name"
DB_STATUS = "db.response.status_code"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
OTHER_ERROR = "_OTHER"
OURS = "session_lock."
OUTCOME = f"{OURS}outcome"
SESSION_ID = f"{OURS}session_id"

OUTCOMES = ("finished", "retried", "discarded", "parked", "released", "handed_over", "lost")
"""What may become of a task here."""

LEASE_LOST = f"{OURS}lease.lost"
RESCUE = f"{OURS}rescue"
HAND_OVER = f"{OURS}hand_over"
DRAIN = f"{OURS}drain"


@dataclass(frozen=True, slots=True)
class Operation:
    """What a phase is to the conventions."""

    type: Literal["receive", "process", "settle"] | None = None
    """None: the conventions for messaging know nothing of the kind."""
    verb: str | None = None
    """The call of the database; None if there is none."""


OPERATIONS = {
    "start": Operation(verb="start_session"),
    "keepalive": Operation(verb="bump_session"),
    "receive": Operation("receive", "get_work"),
    "process": Operation("process"),
    "finish": Operation("settle", "finish_tasks"),
    "release": Operation("settle", "release_tasks"),
    "end": Operation(verb="end_session"),
}
"""The phases by the name of their span, which the mapping's name follows, as in `receive email`. A process is of kind CONSUMER,
all others are CLIENTs of the database."""

FINISH_IN = "finish_in"
"""The call of the database by which a finish takes place in a transaction of the tasker's."""


Kind = Literal["counter", "histogram", "gauge", "sum"]


@dataclass(frozen=True, slots=True, eq=False)  # each is itself alone, and is looked up for every task
class Metric:
    """One metric, as it is made. What is not counted or timed is looked at when somebody collects (`gauge`, `sum`)."""

    name: str
    kind: Kind
    unit: str
    description: str
    merge: Callable[[Iterable[float]], float] = sum
    """What is told of several sessions of one mapping in a process."""


SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60)
"""The bounds of all histograms: those of the conventions, and what taskers and leases need beside them."""

OPERATION_DURATION = Metric(
    "messaging.client.operation.duration", "histogram", "s", "How long a receive or a settle took."
)
PROCESS_DURATION = Metric(
    "messaging.process.duration", "histogram", "s", "How long a call of the tasker took."
)
CONSUMED = Metric("messaging.client.consumed.messages", "counter", "{message}", "Tasks that were claimed.")
DB_DURATION = Metric(
    "db.client.operation.duration",
    "histogram",
    "s",
    "How long it took to start, keep alive or end a session.",
)
SETTLED = Metric(
    f"{OURS}tasks.settled", "counter", "{task}", "Tasks that were done with here, by what became of them."
)
FAILED = Metric(
    f"{OURS}tasks.failed", "counter", "{task}", "Attempts at tasks that failed, whatever follows from it."
)
RESCUED = Metric(
    f"{OURS}tasks.rescued", "counter", "{task}", "Claimed tasks that a session had when it expired."
)
LEASES_LOST = Metric(f"{OURS}leases.lost", "counter", "{lease}", "Sessions that were lost.")
KEEPALIVE_DELAY = Metric(
    f"{OURS}keepalive.delay", "histogram", "s", "How much later than it was due a keepalive was sent."
)
LEASE_MARGIN = Metric(
    f"{OURS}lease.margin",
    "histogram",
    "s",
    "What was left to the local deadline when a keepalive was answered.",
)
LOOP_LAG = Metric(
    f"{OURS}loop.lag", "histogram", "s", "How late the event loop was with a timer, asked at each keepalive."
)
WAKE_UP_DURATION = Metric(
    f"{OURS}wake_up.duration",
    "histogram",
    "s",
    "From a wake-up to the first call of the tasker that it led to.",
)
RUNNING = Metric(f"{OURS}tasks.running", "sum", "{task}", "Tasks in calls of the tasker.")
HELD = Metric(f"{OURS}tasks.held", "sum", "{task}", "Tasks that are claimed and not yet recorded.")
SHARE = Metric(
    f"{OURS}tasks.share",
    "sum",
    "{task}",
    "How many tasks may be held: the share of scarce work, else the capacity.",
)
SLOTS_FREE = Metric(
    f"{OURS}slots.free", "sum", "{slot}", "Calls of the tasker that could begin beside those under way."
)
LEASE_LEFT = Metric(f"{OURS}lease.left", "gauge", "s", "What is left to the local deadline.", min)
BACKLOG = Metric(
    f"{OURS}backlog", "gauge", "{task}", "Tasks that are due and held by nobody; 10,000 stands for more.", max
)
OLDEST = Metric(f"{OURS}oldest.age", "gauge", "s", "For how long the oldest of these has been due.", max)

METRICS = (
    OPERATION_DURATION, PROCESS_DURATION, CONSUMED, DB_DURATION, SETTLED, FAILED, RESCUED, LEASES_LOST, KEEPALIVE_DELAY, LEASE_MARGIN,
    LOOP_LAG, WAKE_UP_DURATION, RUNNING, HELD, SHARE, SLOTS_FREE, LEASE_LEFT, BACKLOG, OLDEST,
)  # fmt: skip
