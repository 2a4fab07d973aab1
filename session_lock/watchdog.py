"""The process beside this one that sees to deadlines which this one cannot keep: started, shown them, started again."""

from __future__ import annotations

import atexit
import logging
import math
import mmap
import os
import subprocess
import sys
import threading
from array import array
from pathlib import Path

from session_lock.errors import SettingsError

logger = logging.getLogger("session_lock.watchdog")

PROGRAM = Path(__file__).with_name("watchdog_process.py")

NEVER = math.inf

MOST_CELLS = 4096
"""Leases of one process, at once, that its watchdog can see to."""


def check_watchdog() -> None:
    """Whether there can be one here: `SettingsError` says why not."""
    if not hasattr(os, "pidfd_open"):
        raise SettingsError('on_stuck="kill" needs Linux (pidfd_open); use on_stuck="exit" here')
    if os.getpid() == 1:
        raise SettingsError(
            'on_stuck="kill" does not work in process 1, which the kernel lets no process of its own container kill: '
            'start it under an init (docker run --init, tini, shareProcessNamespace), or use on_stuck="exit"'
        )


class Watchdog:
    """The process, and a board of deadlines in memory that it shares with us; a cell of it is `NEVER`, or by `lease_clock`."""

    def __init__(self) -> None:
        self._file = os.memfd_create("session_lock")
        os.truncate(self._file, 8 * MOST_CELLS)
        self._board = memoryview(mmap.mmap(self._file, 0)).cast("d")
        self._board[:] = array("d", [NEVER]) * MOST_CELLS
        self._free = list(range(MOST_CELLS))
        self._lock = threading.Lock()
        self._process = self._start()
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

    def look_after(self) -> None:
        """Start it again, should it have died."""
        if self._process.poll() is not None:
            logger.error(
                "the watchdog has ended with status %d, and is started again", self._process.returncode
            )
            self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 (our own file)
            [sys.executable, "-I", "-S", str(PROGRAM), str(self._file), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[self._file],
            start_new_session=True,  # what is sent to our group is not for it
        )

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
