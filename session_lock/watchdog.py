"""The process beside this one that sees to deadlines which this one cannot keep: started, shown them, started again."""

from __future__ import annotations

import atexit
import math
import mmap
import os
import subprocess
import sys
import threading
from array import array
from pathlib import Path

from session_lock.errors import SettingsError
from session_lock.session import lease_clock

PROGRAM = Path(__file__).with_name("watchdog_process.py")

NEVER = math.inf

START_AGAIN_EVERY = 5.0
"""Seconds between two starts in a row: should it not come up, the process has other things to do."""

MOST_CELLS = 4096
"""Leases of one process, at once, that its watchdog can see to."""


def check_watchdog() -> None:
    """Whether there can be one here: `SettingsError` says why not."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        raise SettingsError(
            'on_stuck="kill" needs pidfd_open of Linux 5.3; use on_stuck="exit" here'
        ) from error
    if not Path(sys.executable).name.startswith(("python", "pypy")):
        raise SettingsError(
            f'on_stuck="kill" starts a second Python, and {sys.executable!r} (sys.executable) is none; use on_stuck="exit" here'
        )
    if os.getpid() == 1:
        raise SettingsError(
            'on_stuck="kill" does not work in process 1, which the kernel lets no process of its own container kill: '
            'start it under an init (docker run --init, tini, shareProcessNamespace), or use on_stuck="exit"'
        )


class Watchdog:
    """The process, and a board of deadlines in memory that it shares with us; a cell of it is `NEVER`, or by `lease_clock`."""

    def __init__(self) -> None:
        self._file = os.memfd_create("session_lock")
        try:
            os.truncate(self._file, 8 * MOST_CELLS)
            self._board = memoryview(mmap.mmap(self._file, 0)).cast("d")
            self._board[:] = array("d", [NEVER]) * MOST_CELLS
            self._process = self._start()
        except BaseException:  # who asks for it tries again and again
            os.close(self._file)
            raise
        self._free = list(range(MOST_CELLS))
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._start_again_at = 0.0
        atexit.register(self._stop)

    def take_cell(self) -> int:
        """The number of a cell that is nobody else's."""
        with self._lock:
            if not self._free:
                raise SettingsError(f'on_stuck="kill" is for up to {MOST_CELLS} sessions in a process')
            return self._free.pop()

    def set_cell(self, number: int, at: float) -> None:
        self._board[number] = at

    def give_cell_back(self, number: int) -> None:
        self._board[number] = NEVER
        with self._lock:
            self._free.append(number)

    def look_after(self) -> int | None:
        """Start it again, should it have died, which is told by its status."""
        ended = self._process.poll()
        if ended is None or lease_clock() < self._start_again_at:
            return None
        self._start_again_at = lease_clock() + START_AGAIN_EVERY
        self._process = self._start()
        return ended

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 (our own file)
            [sys.executable, "-I", "-S", str(PROGRAM), str(self._file), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[self._file],
            start_new_session=True,  # what is sent to our group is not for it
        )

    def _stop(self) -> None:
        if os.getpid() != self._pid:  # a fork of ours ends, which it does not watch over
            return
        self._process.kill()
        self._process.wait()
