"""The thread that sees what an event loop cannot: that it is blocked itself, and that a lease is over while its calls go on.

There is one while the process has leases. `Settings.on_stuck` says what becomes of calls that go on past the deadline of theirs:

abandon  nothing: they are logged, and the database refuses what they finish
exit     this thread ends the process
kill     the process beside this one kills it: also one that is stopped, or in which nothing runs but a call that holds the
         interpreter's lock
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import Any

from session_lock.pulse import Pulse
from session_lock.session import in_virtual_time, lease_clock
from session_lock.settings import OnStuck
from session_lock.tasker import thread_of
from session_lock.watchdog import NEVER, Watchdog
from session_lock.wording import describe, level_of

logger: logging.Logger = logging.getLogger("session_lock.watch")

LOOK_EVERY = 0.25
"""Seconds between two looks, at most."""

BLOCKED_AFTER = 1.0
"""Seconds for which a loop gives no turn, after which it is said to be blocked."""

FRAMES = 12
"""The innermost of the blocked loop that are shown."""

EX_TEMPFAIL = 75
"""What `exit` ends the process with: a failure that is worth another try (sysexits.h)."""


class Guard:
    """Stands for a lease that is watched over. This one knows its loop alone."""

    exit_at: float = NEVER
    """When the process is to end, by `lease_clock`."""

    def __init__(self, watch: Watch | None = None) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._watch = watch

    def extend(self, deadline: float) -> None:
        """Its calls may go on until then, by `lease_clock`. From any thread."""

    def end_by(self, deadline: float) -> None:
        """They may not, but until then, whatever answer to a keepalive is still on its way."""

    def call_begins(self, call: asyncio.Task[Any]) -> None:
        """A call of the tasker, until it has ended, be it waited for or not."""

    def forsake(self) -> None:
        """Its loop is closed. It is said again and again, until the guard has left."""
        self.leave()

    def lag(self) -> float:
        """Seconds for which its loop gave no turn, the longest of late; 0 in virtual time, where nobody watches."""
        return 0.0 if self._watch is None else self._watch.lag(self.loop)

    def leave(self) -> None:
        """The lease is over."""
        if self._watch is not None:
            self._watch.leave(self)


class Fence(Guard):
    """Knows the lease's deadline and its calls as well, and goes when all of these have ended."""

    exit_at: float

    def __init__(self, watch: Watch, watchdog: Watchdog | None) -> None:
        super().__init__(watch)
        self._deadline = -NEVER
        self._latest = NEVER
        self._calls: set[asyncio.Task[Any]] = set()
        self._is_over = False
        self._has_left = False
        self._lock = threading.Lock()
        self._watchdog = watchdog
        self._cell = 0 if watchdog is None else watchdog.take_cell()

    def extend(self, deadline: float) -> None:
        with self._lock:
            self._deadline = max(self._deadline, deadline)
            self._show()

    def end_by(self, deadline: float) -> None:
        with self._lock:
            self._latest = min(self._latest, deadline)
            self._show()

    def call_begins(self, call: asyncio.Task[Any]) -> None:
        with self._lock:
            self._calls.add(call)
            self._show()
        call.add_done_callback(self._call_ended)

    def forsake(self) -> None:
        for call in [*self._calls]:
            if thread_of(call) is None:  # what hangs in a thread goes on, and nothing else
                self._call_ended(call)
        self.leave()

    def _call_ended(self, call: asyncio.Task[Any]) -> None:
        if (thread := thread_of(call)) is not None:  # it was left behind, and its loop has ended
            thread.add_done_callback(lambda _: self._call_ended(call))
            return
        with self._lock:
            self._calls.discard(call)
            self._show()
        if self._is_over:
            self.leave()

    def _show(self) -> None:
        if self._has_left:  # its cell may be another's
            return
        until = min(self._deadline, self._latest) if self._calls else NEVER
        self.exit_at = until
        if self._watchdog is not None:
            self._watchdog.set_cell(self._cell, until)
            self.exit_at += 2 * LOOK_EVERY  # should there be no watchdog: it has died, or cannot be started

    def leave(self) -> None:
        with self._lock:
            self._is_over = True
            if self._calls or self._has_left:
                return
            self._has_left = True
        if self._watchdog is not None:
            self._watchdog.give_cell_back(self._cell)
        super().leave()


class Watch:
    """The thread, and those that it watches over."""

    def __init__(self) -> None:
        self.pid: int = os.getpid()
        self._lock = threading.Lock()
        self._guards: set[Guard] = set()
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}
        self._thread: threading.Thread | None = None
        self._watchdog: Watchdog | None = None

    def over(self, on_stuck: OnStuck) -> Guard:
        """Watch over a new lease, and the running loop, until the guard has left."""
        with self._lock:
            if on_stuck == "kill" and self._watchdog is None:
                self._watchdog = Watchdog()
        if on_stuck == "abandon":
            guard = Guard(self)
        else:
            guard = Fence(self, self._watchdog if on_stuck == "kill" else None)
        try:
            with self._lock:
                self._guards.add(guard)
                self._loops.setdefault(guard.loop, _Loop())
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._run, name="session_lock watch", daemon=True)
                    self._thread.start()
        except RuntimeError as error:  # no more threads
            guard.leave()
            raise OSError(f"the watch over the event loop cannot start: {error}") from error
        return guard

    def leave(self, guard: Guard) -> None:
        with self._lock:
            self._guards.discard(guard)
            for loop in self._loops.keys() - {each.loop for each in self._guards}:
                del self._loops[loop]

    def lag(self, loop: asyncio.AbstractEventLoop) -> float:
        with self._lock:
            return self._loops[loop].lag() if loop in self._loops else 0.0

    # In the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        due, failures = lease_clock(), 0
        while True:
            with self._lock:
                guards, loops = [*self._guards], [*self._loops.values()]
                if not guards:
                    self._thread = None
                    return
            try:
                self._look(guards, loops, late=lease_clock() - due)
            except Exception as error:  # noqa: BLE001 (whatever it is, the watch goes on)
                failures += 1
                with suppress(RuntimeError):  # no more threads
                    _say(level_of(failures), "the watch over the event loop failed: %s", describe(error))
            now = lease_clock()
            pause = min([LOOK_EVERY, *(guard.exit_at - now for guard in guards)])
            due = now + pause
            time.sleep(max(pause, 0.001))

    def _look(self, guards: list[Guard], loops: list[_Loop], late: float) -> None:
        for guard in guards:
            if guard.loop.is_closed():
                guard.forsake()
        if any(guard.exit_at <= lease_clock() for guard in guards):
            _exit()
        if late >= BLOCKED_AFTER:
            _say(
                logging.WARNING,
                "this process stood still for %.1f s: it was stopped, or a call held the interpreter's lock",
                late,
            )
        for loop in loops:
            loop.look(stood_still=late >= BLOCKED_AFTER)
        if self._watchdog is not None and (ended := self._watchdog.look_after()) is not None:
            _say(logging.ERROR, "the watchdog had ended with status %d, and is started again", ended)


class _Loop:
    """An event loop, as the thread sees it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pulse = Pulse(self._loop)
        self._thread = threading.get_ident()
        self._blocked = 0.0  # seconds, as it was seen last

    def lag(self) -> float:
        return self._pulse.lag()

    def look(self, *, stood_still: bool) -> None:
        if self._loop.is_closed():
            return
        if stood_still:
            self._pulse.reset()
        silence = self._pulse.silence()
        if silence >= BLOCKED_AFTER and not self._blocked:
            frame = sys._current_frames().get(self._thread)  # noqa: SLF001 (there is no other way)
            where = "".join(traceback.format_stack(frame, limit=FRAMES))
            _say(
                logging.WARNING,
                "the event loop is blocked: no turn for %.1f s. Who computes or waits there belongs into a thread or process. "
                "It is in\n%s",
                silence, where,
            )  # fmt: skip
        if self._blocked and not silence:
            _say(logging.WARNING, "the event loop turns again, after more than %.1f s", self._blocked)
        self._blocked = silence if silence >= BLOCKED_AFTER else 0.0
        self._pulse.ask()


def _exit() -> None:
    """End the process at once, whatever fails."""
    told = "tasks were run past the deadline of their lease: the process ends (on_stuck)"
    try:
        _say(logging.CRITICAL, told).join(LOOK_EVERY)
    finally:
        os._exit(EX_TEMPFAIL)


def _say(level: int, told: str, *args: object) -> threading.Thread:
    """Log it, in a thread of its own: the locks of the log may be held by who is stuck, and the deadlines do not wait for him."""
    telling = threading.Thread(target=logger.log, args=(level, told, *args), daemon=True)
    telling.start()
    return telling


_watch = Watch()


def watch_over(on_stuck: OnStuck) -> Guard:
    """Watch over a lease that starts, by the thread of this process. In virtual time nobody can."""
    global _watch  # noqa: PLW0603 (one for the process, and its parent's is not its own)
    if in_virtual_time():
        return Guard()
    if _watch.pid != os.getpid():
        _watch = Watch()
    return _watch.over(on_stuck)
