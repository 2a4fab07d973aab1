"""For tests, yours and ours: a database in memory and an event loop in virtual time.

`MemoryDatabase({1: "ann@example.org"})` holds the tasks, `run_virtual(coroutine)` runs a test of minutes in milliseconds.
"""

from session_lock.testing.clock import DeadlockError, VirtualTimeLoop, run_virtual, virtual_time
from session_lock.testing.duties import MemoryDuties
from session_lock.testing.memory import MemoryDatabase
from session_lock.testing.rows import Closed, MemoryFailure, MemorySession, MemoryTask
from session_lock.testing.transaction import MemoryTransaction

__all__ = [
    "Closed",
    "DeadlockError",
    "MemoryDatabase",
    "MemoryDuties",
    "MemoryFailure",
    "MemorySession",
    "MemoryTask",
    "MemoryTransaction",
    "VirtualTimeLoop",
    "run_virtual",
    "virtual_time",
]
