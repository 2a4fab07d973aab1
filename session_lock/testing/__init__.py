"""For tests, yours and ours: a database in memory, an event loop in virtual time, and faults.

`MemoryDatabase({1: "ann@example.org"})` holds the tasks, `run_until_idle(database, tasker)` has them done, `run_virtual(coroutine)` runs a test of minutes in milliseconds,
`Faults(database)` starts instances of your service that freeze, die, or lose their session or the network when you say so.
"""

from session_lock.testing.clock import DeadlockError, VirtualTimeLoop, run_virtual, virtual_time
from session_lock.testing.duties import MemoryDuties
from session_lock.testing.fault import Call, Fault
from session_lock.testing.faults import Faults, assert_each_once
from session_lock.testing.faulty import FaultyDatabase
from session_lock.testing.idle import run_until_idle
from session_lock.testing.instance import AT_FINISH, Instance
from session_lock.testing.memory import MemoryDatabase
from session_lock.testing.rows import Closed, MemoryFailure, MemorySession, MemoryTask
from session_lock.testing.transaction import MemoryTransaction

__all__ = [
    "AT_FINISH",
    "Call",
    "Closed",
    "DeadlockError",
    "Fault",
    "Faults",
    "FaultyDatabase",
    "Instance",
    "MemoryDatabase",
    "MemoryDuties",
    "MemoryFailure",
    "MemorySession",
    "MemoryTask",
    "MemoryTransaction",
    "VirtualTimeLoop",
    "assert_each_once",
    "run_until_idle",
    "run_virtual",
    "virtual_time",
]
