"""Every error that the library raises, grouped by who must act."""

from __future__ import annotations


class SessionLockError(Exception):
    """The base of all errors of this library."""


# The programmer ------------------------------------------------------------------------------------


class SettingsError(SessionLockError, ValueError):
    """Two settings contradict each other, or one has no meaning. The message names them."""


# The person who deploys ----------------------------------------------------------------------------


class SchemaError(SessionLockError):
    """What is in the database is not what this mapping and library need. The message holds the command to run.

    It ends `Runner.run()`: no amount of waiting mends it.
    """


# The operator --------------------------------------------------------------------------------------


class DatabaseError(SessionLockError):
    """The database refused or did not answer; `__cause__` is the driver's error.

    `retryable` says whether waiting may mend it (a restart, a fail-over, a timeout). A Runner goes on trying
    then; anything else (a wrong password, a database that does not exist) ends `Runner.run()`.
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class RowRefusedError(DatabaseError):
    """A row cannot be written as it should be: a CHECK, a unique index, a trigger, a finish that leaves it pending.

    The message has no values of the row; the driver's error, which may quote it, is `__context__` and is not printed along.
    Within a Runner it is the failure of that one task.
    """


# Nobody: the Runner goes on by itself --------------------------------------------------------------


class SessionLost(SessionLockError):  # noqa: N818 (the fact, not a fault)
    """The session has ended or expired (SQLSTATE SL001): its tasks belong to others. The Runner starts a new one."""


class TaskLost(SessionLockError):  # noqa: N818
    """A task is no longer held by this session under this claim token (SQLSTATE SL002), or is finished already."""
