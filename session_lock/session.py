"""The local side of a session: its identity, and the deadline until which this process may act for it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from session_lock.errors import SessionLost

CLOCK_RATE_BOUND = 1e-3
"""How much faster the server's clock may run than ours (rho in the protocol's reasoning)."""


def boottime() -> float:
    """Seconds on a clock that counts the time a suspended machine slept; where there is none, the monotonic clock.

    `loop.time()` is CLOCK_MONOTONIC on Linux, which stands still during a suspend, while the lease in the database
    goes on running out.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()  # noqa: TID251 (the one place)


_clock: Callable[[], float] = boottime  # a test loop puts its own time in this place


def lease_clock() -> float:
    """Now, for the local deadline of a lease and for nothing else."""
    return _clock()


def in_virtual_time() -> bool:
    """Whether time is a test loop's own: no thread or process beside it can go by that."""
    return _clock is not boottime


def own_label() -> str:
    """host:pid, of a session for people; never an identity."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Lease:
    """What a database gives to a new session."""

    id: int
    nonce: UUID = field(repr=False)
    """Proof of identity: whoever has it may act as this session, so it is never logged."""
    left: float = 0.0
    """Seconds that it lasts."""
    of: object = field(default=None, repr=False, compare=False)
    """Where it was given, if the database tells that from where a connection leads later."""


@dataclass(slots=True, eq=False)
class Session:
    """One lease of one Runner on one mapping, as this process sees it.

    The deadline is counted from *before* the call that renewed the lease was sent, never from its reply:
    the server's lease cannot end earlier than that. It only ever moves forward (a late reply of an early
    keepalive changes nothing).
    """

    lease: Lease
    deadline: float = 0.0
    lost: bool = False
    """The server has said so, or is told so: it ends."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def extend(self, *, sent_at: float, left: float, ttl: float, guard: float) -> None:
        """Move the deadline after a good reply: `left` seconds of lease, of a call sent at `sent_at` (lease_clock).

        A server whose clock stepped back may report more than it granted; `ttl` caps that.
        """
        granted = min(left, ttl) * (1 - CLOCK_RATE_BOUND) - guard
        with self._lock:  # keepalives may come in a thread of their own
            self.deadline = max(self.deadline, sent_at + granted)

    def left(self) -> float:
        """Seconds for which this process may still act for the session; 0 when it is lost."""
        return 0.0 if self.lost else max(0.0, self.deadline - lease_clock())

    def assert_held(self) -> None:
        """Raise `SessionLost` unless the lease is still held as far as this process can know."""
        if self.left() <= 0:
            raise SessionLost(f"session {self.lease.id} is lost: its tasks may be running elsewhere")
