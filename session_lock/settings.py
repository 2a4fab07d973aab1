"""`Settings`: every number that a Runner has, with the relations between them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal, TypeAlias, get_args

from session_lock.errors import SettingsError
from session_lock.retry import Retry

OnStuck: TypeAlias = Literal["abandon", "exit", "kill"]
Keepalive: TypeAlias = Literal["loop", "thread"]

CHOICES: dict[str, tuple[str, ...]] = {"on_stuck": get_args(OnStuck), "keepalive": get_args(Keepalive)}

ENDED_WITHIN = 0.5
"""Seconds from the local deadline that it may take to end a process under `on_stuck`: it is seen, and told to the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a Runner behaves. All durations are seconds; the relations are checked at construction (`SettingsError`).

    The lease must outlive two lost keepalives and a call, and leave the taskers time to be cancelled:
    `lease_ttl >= 3 * keepalive_interval + call_timeout + cancel_grace + guard`.

    ```python
    Settings(concurrency=50, task_timeout=20, lease_ttl=60, retry=Retry(max_attempts=5))
    ```
    """

    lease_ttl: float = 30.0
    """How long a session lives in the database after a keepalive: the take-over time after a crash. Defaults to 30."""

    keepalive_interval: float = 5.0
    """Between two keepalives, jittered by 10 %. Defaults to 5."""

    call_timeout: float = 3.0
    """The longest that one call of the database may take before its connection is given up. Defaults to 3."""

    cancel_grace: float = 5.0
    """What a cancelled tasker gets for cleaning up before it is abandoned. Defaults to 5."""

    guard: float = 1.0
    """The local deadline lies this long before the lease's end, for clocks that differ. Defaults to 1."""

    poll_interval: float = 1.0
    """Between two looks for work when there was none, jittered by 20 %. Defaults to 1."""

    idle_poll_interval: float = 30.0
    """The same where a session is told of what comes: a trigger (`session-lock sql trigger`) or `enqueue` wakes for each task that is
    inserted, wake-ups are proven to come through, and nothing that is due is left. What an UPDATE makes pending is found by
    it, unless that calls `session_lock.wake`. Defaults to 30."""

    patience: float = 1.0
    """How long a session with free capacity keeps to its share while claimable work is left. Defaults to 1."""

    drain_timeout: float = 15.0
    """What running taskers get to end by themselves at a graceful stop. Defaults to 15."""

    shutdown_timeout: float = 5.0
    """What recording the last outcomes and ending the session may take after that. Defaults to 5."""

    batch_size: int = 100
    """Tasks in one call of a batch tasker, at most. Defaults to 100."""

    concurrency: int = 10
    """Calls of the tasker at once. Defaults to 10."""

    prefetch: int | None = None
    """Tasks that are claimed ahead, at most, while all calls are busy: a call that ends finds its next tasks at hand.
    0: none. Defaults to one batch; under `each`, to four times the concurrency."""

    prefetch_time: float = 1.0
    """And only as many as will be begun within this time, as calls go: so nothing is claimed ahead of tasks that take a minute.
    Nor is it where work is scarce. `inf`: bounded by `prefetch` alone. Defaults to 1."""

    tasks_per_session: int | None = None
    """The most tasks a session holds, running and prefetched: its capacity, by which it has its share of scarce work.

    Defaults to `concurrency * batch_size + prefetch`; under `each`, to `concurrency + prefetch`.
    """

    start_jitter: float | None = None
    """A Runner waits up to this long, at random, before its first session. Defaults to one poll interval."""

    task_timeout: float | None = None
    """What one call of the tasker may take; then it is cancelled and has failed with TimeoutError. Defaults to None: no limit.

    The lease is another matter: it is kept for as long as the process lives. A call that ignores its cancellation (any in a
    thread) keeps its slot and its tasks until it ends.
    """

    retry: Retry = field(default_factory=Retry)
    """When failed tasks are tried again, and when they are given up. Defaults to `Retry()`."""

    breaker_failures: int | None = 10
    """After so many different tasks in a row failed, without a success between, the Runner takes one at a time, with growing
    pauses, until one succeeds: an instance that is sick does not use up the attempts of the others' tasks. None: never.
    Defaults to 10."""

    keepalive: Keepalive = "loop"
    """Where keepalives are sent: in the event loop, beside the taskers; or in a thread of their own with its own loop, so that
    a tasker that blocks the event loop does not lose its session by it. (`bump_session` of the database is called in that thread
    then, as is an async `connect`.) Defaults to "loop"."""

    loop_stall: float = 10.0
    """With `keepalive="thread"`: an event loop that has given no turn for this long is taken for dead, and its lease is not
    renewed until it turns again. Defaults to 10."""

    on_stuck: OnStuck = "abandon"
    """What becomes of calls of the tasker that go on past the local deadline of their lease, because they ignore their
    cancellation or block the event loop. "abandon": they are logged, their rows are left to expire and are others', and the database
    refuses what they finish. "exit": the process ends, with status 75, by a thread. "kill": a watchdog process kills it, also if it is
    stopped or hangs in a call that holds the interpreter's lock (Linux; not for process 1 of a container). Both need a `guard` of half a
    second. Defaults to "abandon"."""

    def __post_init__(self) -> None:
        self._check_values()
        needed = 3 * self.keepalive_interval + self.call_timeout + self.cancel_grace + self.guard
        if self.lease_ttl < needed:
            raise SettingsError(
                f"lease_ttl={self.lease_ttl:g} is too short for keepalive_interval={self.keepalive_interval:g}: it must be at "
                f"least 3 * keepalive_interval + call_timeout + cancel_grace + guard = {needed:g} seconds"
            )
        if self.on_stuck != "abandon" and self.guard < ENDED_WITHIN:
            raise SettingsError(
                f"guard={self.guard:g} is too short for on_stuck={self.on_stuck!r}: it must be at least {ENDED_WITHIN:g} seconds, "
                "or others may begin the tasks of a process before it has been ended"
            )
        if self.tasks_per_session is not None and self.tasks_per_session < self.concurrency:
            raise SettingsError(
                f"tasks_per_session={self.tasks_per_session} is less than concurrency={self.concurrency}: "
                "some calls of the tasker would never get a task; raise the one or lower the other"
            )

    def _check_values(self) -> None:
        may_be_zero = {"guard", "patience", "drain_timeout", "start_jitter", "prefetch", "prefetch_time"}
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise SettingsError(
                    f"{name}={value!r} is not known; it must be {' or '.join(map(repr, known))}"
                )
        if not isinstance(self.retry, Retry):
            raise SettingsError(f"retry is a Retry, not {type(self.retry).__name__}")
        may_be_none = {"prefetch", "tasks_per_session", "start_jitter", "task_timeout", "breaker_failures"}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in {*CHOICES, "retry"} or (value is None and each.name in may_be_none):
                continue
            counts = each.name in {
                "batch_size", "concurrency", "prefetch", "tasks_per_session", "breaker_failures",
            }  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, int if counts else (int, float)):
                raise SettingsError(
                    f"{each.name}={value!r} must be {'a whole number' if counts else 'a number of seconds'}"
                )
            least = 1 if counts and each.name not in may_be_zero else 0
            endless = not math.isfinite(value) and (each.name, value) != ("prefetch_time", math.inf)
            if value < least or endless or (value == 0 and each.name not in may_be_zero):
                raise SettingsError(
                    f"{each.name}={value!r} must be {f'at least {least}' if counts else 'a positive number of seconds'}"
                )

    def capacity(self, tasks_per_call: int) -> int:
        """How many tasks a session may hold whose tasker takes up to `tasks_per_call` tasks a call."""
        if self.tasks_per_session is not None:
            return self.tasks_per_session
        prefetch = self.prefetch
        if prefetch is None:
            prefetch = self.batch_size if tasks_per_call > 1 else 4 * self.concurrency
        return self.concurrency * tasks_per_call + prefetch
