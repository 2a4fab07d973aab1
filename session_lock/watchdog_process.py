"""The watchdog: a process that kills its parent with SIGKILL when calls of its tasker go on past the deadline of their lease.

Started by `session_lock.watchdog`, with the number of the board's file and the parent's process id. It is a program of its
own, of the standard library alone, so it is small, and what its parent hangs in does not hold it up.
"""

import mmap
import os
import select
import signal
import sys
import time

LOOK_EVERY = 0.1
"""Seconds between two looks at the board, at most: so much too late is seen a deadline that was not there at the last look."""


def watch(board: "memoryview[float]", parent: int) -> bool:
    """Look at the deadlines until the parent has ended; True if one is over before that."""
    end = select.poll()
    end.register(parent, select.POLLIN)
    while (left := min(board) - time.clock_gettime(time.CLOCK_BOOTTIME)) > 0:
        if end.poll(1000 * min(left, LOOK_EVERY)):
            return False
    return True


def main() -> None:
    for deaf_to in (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGTERM,
    ):  # meant for the parent, who may take its time
        signal.signal(deaf_to, signal.SIG_IGN)
    file, pid = map(int, sys.argv[1:])
    handle = os.pidfd_open(pid)  # the number may be given to somebody else, this stays with the parent
    if os.getppid() == pid and watch(memoryview(mmap.mmap(file, 0, prot=mmap.PROT_READ)).cast("d"), handle):
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        told = f"session_lock: process {pid} ran tasks past the deadline of their lease, and was killed by its watchdog\n"
        os.write(2, told.encode())


if __name__ == "__main__":
    main()
