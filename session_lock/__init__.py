"""Share the rows of your own PostgreSQL table over the live instances of an asyncio service."""

from session_lock.database import Cancellation, Database, DatabaseFinder
from session_lock.duties import Due, Duties, Duty, PostgresDuties, cron, every
from session_lock.enqueuing import (
    Enqueued,
    enqueue,
    enqueue_many,
    enqueue_many_sync,
    enqueue_sync,
)
from session_lock.errors import (
    DatabaseError,
    RowRefusedError,
    SchemaError,
    SessionLockError,
    SessionLost,
    SettingsError,
    TaskLost,
)
from session_lock.explaining import SessionShare, shares
from session_lock.facts import Why
from session_lock.findings import Finding
from session_lock.group import RunnerGroup
from session_lock.health import GroupHealth, Health
from session_lock.limits import Limit, Rate
from session_lock.newtask import NewTask
from session_lock.postgres import PostgresDatabase
from session_lock.queue_table import queue
from session_lock.retry import Retry
from session_lock.runner import Runner
from session_lock.schedules import Schedule
from session_lock.settings import Settings
from session_lock.table import ClaimColumns, TaskTable
from session_lock.tasker import Tasker, each
from session_lock.tasks import Batch, Discard, Release, Task, TaskKey

__all__ = [
    "Batch",
    "Cancellation",
    "ClaimColumns",
    "Database",
    "DatabaseError",
    "DatabaseFinder",
    "Discard",
    "Due",
    "Duties",
    "Duty",
    "Enqueued",
    "Finding",
    "GroupHealth",
    "Health",
    "Limit",
    "NewTask",
    "PostgresDatabase",
    "PostgresDuties",
    "Rate",
    "Release",
    "Retry",
    "RowRefusedError",
    "Runner",
    "RunnerGroup",
    "Schedule",
    "SchemaError",
    "SessionLockError",
    "SessionLost",
    "SessionShare",
    "Settings",
    "SettingsError",
    "Task",
    "TaskKey",
    "TaskLost",
    "TaskTable",
    "Tasker",
    "Why",
    "cron",
    "each",
    "enqueue",
    "enqueue_many",
    "enqueue_many_sync",
    "enqueue_sync",
    "every",
    "queue",
    "shares",
]
