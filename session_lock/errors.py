"""Every error that the library raises, grouped by who must act."""

from __future__ import annotations


class SessionLockError(Exception):
    """The base of all errors of this library.

    ```python
    try:
        await database.retry("not a number")
    except SessionLockError as error:
        print(error)  # a sentence that says what is wrong, and what mends it
    ```
    """

    sqlstate: str | None = None
    """What the server calls it, by its five characters; None: it has not said it, or nobody has asked it."""


# The programmer ------------------------------------------------------------------------------------


class SettingsError(SessionLockError, ValueError):
    """Two settings contradict each other, or one has no meaning. The message names them.

    ```python
    try:
        Settings(lease_ttl=10)
    except SettingsError as error:
        print(error)  # lease_ttl=10 is too short for keepalive_interval=5: it must be at least ..
    ```
    """


# The person who deploys ----------------------------------------------------------------------------


class SchemaError(SessionLockError):
    """What is in the database is not what this mapping and library need. The message holds the command to run.

    It ends `Runner.run()`: no amount of waiting mends it.

    ```python
    try:
        await install(connection, TaskTable("nowhere", key="id", pending="done_at IS NULL", finish="done_at = now()"))
    except SchemaError as error:
        print(error)  # there is no such table
    ```
    """


# The operator --------------------------------------------------------------------------------------


class DatabaseError(SessionLockError):
    """The database refused or did not answer; `__cause__` is the driver's error.

    `retryable` says whether waiting may mend it (a restart, a fail-over, a timeout). A Runner goes on trying
    then; anything else (a wrong password, a database that does not exist) ends `Runner.run()`.

    ```python
    try:
        await database.shares()
    except DatabaseError as error:
        print("try again later" if error.retryable else "this wants a person", error.__cause__)
    ```
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class RowRefusedError(DatabaseError):
    """A row cannot be written as it should be: a CHECK, a unique index, a trigger, a finish that leaves it pending.

    The message has no values of the row; the driver's error, which may quote it, is `__context__` and is not printed along.
    Within a Runner it is the failure of that one task.

    ```python
    try:
        await database.cancel(4711)
    except RowRefusedError as error:
        print(error)  # which constraint stands in the way of its discard
    ```
    """


# Nobody: the Runner goes on by itself --------------------------------------------------------------


class SessionLost(SessionLockError):  # noqa: N818 (the fact, not a fault)
    """The session has ended or expired (SQLSTATE SL001): its tasks belong to others. The Runner starts a new one.

    ```python
    async def send(task):
        try:
            task.assert_held()
        except SessionLost:
            return  # others have the task: nothing that is done here counts any more
        print("sent to", task.data["address"])
    ```
    """


class TaskLost(SessionLockError):  # noqa: N818
    """A task is no longer held by this session under this claim token (SQLSTATE SL002), or is finished already.

    ```python
    async def send(task):
        try:
            async with task.transaction() as connection:
                await connection.execute("INSERT INTO receipt VALUES ($1)", task.key)
        except TaskLost:
            print("somebody has closed it meanwhile: there is no receipt, and none is wanted")
    ```
    """
