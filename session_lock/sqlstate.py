"""Errors of the drivers, in our words: by their SQLSTATE, whatever they are wrapped in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from session_lock.drivers import find
from session_lock.dsn import REMEDIES
from session_lock.errors import (
    DatabaseError,
    RowRefusedError,
    SchemaError,
    SessionLockError,
    SessionLost,
    SettingsError,
    TaskLost,
)
from session_lock.read_only import READ_ONLY

OF_THE_SERVER = {"08", "0A", "25", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "SL", "XX"}
"""Classes of SQLSTATE that speak of the server, the connection or the schema; what is left speaks of a row."""

OUR_FUNCTIONS = re.compile(
    r"\b(start_session|whereabouts|adopt|bump_session|hold_session|sessions_of|sweep_sessions|note_look|seen_idle|ask_for_tasks|asked_lately|tell|tell_all|pause_mapping|resume_mapping|drain_session|forget_cancelled|wake|wake_on_insert|limit_transaction|trim_failures|note_expired|is_suspect|around_task|shares?|version_numbers|may_take|sharing_with|plan_duties|forget_duties|sharing_duty"
    r"|standing_\w+|get_work_\w+|finish_tasks_\w+|finish_in_\w+|release_tasks_\w+|end_session_\w+|cancel_task_\w+|retry_tasks_\w+|backlog_\w+|shares_\w+|why_\w+|enqueue_\w+)\b"
)

DRIVER_ERRORS = {
    ("asyncpg", "PostgresError"): True,
    ("asyncpg", "InterfaceError"): True,
    ("asyncpg", "InternalClientError"): True,
    ("psycopg", "Error"): True,
    ("psycopg2", "Error"): True,
    ("sqlalchemy", "DBAPIError"): True,
    ("sqlalchemy", "Error"): True,  # of its adapters
    ("sqlalchemy", "TimeoutError"): True,  # of its pool
    ("django", "Error"): True,
    ("builtins", "OSError"): True,
    ("builtins", "TimeoutError"): True,
}
"""What says that the database refused or did not answer; other errors of these packages are mistakes in using them."""


def is_driver_error(error: BaseException) -> bool:
    return bool(find(error, DRIVER_ERRORS))


@contextmanager
def translated(
    what: str, remedy: str, *, grant: str = "", read_only: Callable[[], str] = str
) -> Iterator[None]:
    """Errors of a driver within, raised as ours: `what` was being done; `remedy` mends what only a person can.

    `grant` gives the right to do it, where that is not a service's; `read_only` says what mends it where nothing may be written, if
    that is known then.
    """
    try:
        yield
    except Exception as error:
        if not is_driver_error(error):
            raise
        ours = translate(error, what, remedy, grant, read_only)
        # What a driver says of a row quotes it, in its DETAIL or its message: that must not be printed with ours.
        raise ours from (None if isinstance(ours, RowRefusedError) else error)


def translate(
    error: BaseException, what: str, remedy: str, grant: str = "", read_only: Callable[[], str] = str
) -> SessionLockError:
    """One of our errors for one of a driver's, by its SQLSTATE."""
    told = read(error)
    ours = _ours(error, told, what, remedy, grant)
    if told.state == READ_ONLY and isinstance(ours, DatabaseError) and (mends := read_only()):
        ours = DatabaseError(f"{ours}: {mends}")
    ours.sqlstate = told.state or None
    return ours


def _ours(error: BaseException, told: Told, what: str, remedy: str, grant: str) -> SessionLockError:
    state, message = told.state, told.message
    match state:
        case "SL001":
            return SessionLost(message)
        case "SL002":
            return TaskLost(message)
        case "SL004":
            return SchemaError(f"{what}: {message}")
        case "26000" | "42P05":
            return DatabaseError(
                f"{what}: {message}; is a transaction pooler in between? Then give as connect an async function that returns "
                "asyncpg.connect(dsn, statement_cache_size=0), and listen= a DSN that leads to the server itself"
            )
        case "42501":
            return SchemaError(
                f"{what}: {message}; grant the role what it needs: {grant or f'{remedy} --grant-to ROLE'}"
            )
        case _ if state and (state == "SL003" or state[:2] not in OF_THE_SERVER or told.in_a_trigger):
            return RowRefusedError(told.without_values())
        case _ if state[:2] in {"42", "3F"}:
            return SchemaError(f"{what}: {message}; run: {remedy}")
        case _ if state[:2] in REMEDIES:
            return DatabaseError(f"{what}: {message}; {REMEDIES[state[:2]]}", retryable=False)
        case _ if isinstance(error, ValueError):
            return DatabaseError(f"{what}: {message}", retryable=False)
        case _:
            return DatabaseError(f"{what}: {message}")


@contextmanager
def checked_keys(keys: Iterable[object], name: str) -> Iterator[None]:
    """Within, the given keys are sent: what can be no key of the mapping is a `SettingsError`."""
    for key in keys:
        if isinstance(key, bool) or not isinstance(key, int | str | UUID):  # the driver would cut 1.5 to 1
            raise SettingsError(f"a key of {name!r} is an int, a str or a UUID, not {type(key).__name__}")
    try:
        yield
    except RowRefusedError as error:
        driver = error.__context__
        if driver is None or read(driver).state != "22000":  # the driver's own, of an argument
            raise
        raise SettingsError(f"what was given as a key of {name!r} is not of the type of its keys") from None


# What a driver tells ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """What a server has said, out of a driver's error."""

    kind: str
    state: str
    message: str
    context: str
    constraint: str | None

    @property
    def innermost(self) -> str:
        return self.context.split("\n", 1)[0]

    @property
    def in_a_trigger(self) -> bool:
        """Whether it was raised beneath one of our functions, by one of the user's: that is the row's matter."""
        return bool(re.match(r"(PL/\w+|SQL) function ", self.innermost)) and not OUR_FUNCTIONS.search(
            self.innermost
        )

    def without_values(self) -> str:
        """What may be logged. A message of class 22 quotes the value, that of a function of the user's may, and DETAIL quotes the row: none of these."""
        text = f"{self.message} ({self.state})"
        if self.in_a_trigger:
            text = f"{self.kind} ({self.state}), {self.innermost}"
        elif self.state[:2] == "22":
            text = f"{self.kind} ({self.state})"
        return f"{text} [{self.constraint}]" if self.constraint and self.constraint not in text else text


def read(error: BaseException) -> Told:
    """Of the innermost error with a SQLSTATE: SQLAlchemy wraps a driver's in two of its own, Django in one."""
    told, inner, seen = error, error, {id(error)}
    while True:
        wrapped = getattr(inner, "orig", None)
        within = wrapped if isinstance(wrapped, BaseException) else inner.__cause__
        if within is None or id(within) in seen:
            break
        inner = within
        seen.add(id(inner))
        if inner is wrapped or _state(inner):
            told = inner
    said = getattr(told, "diag", None)  # of psycopg; asyncpg has it on the error itself
    return Told(
        kind=type(told).__name__,
        state=_state(told),
        message=getattr(said, "message_primary", None)
        or getattr(told, "message", None)
        or str(told)
        or type(told).__name__,
        context=getattr(said, "context", None) or getattr(told, "context", None) or "",
        constraint=getattr(said, "constraint_name", None) or getattr(told, "constraint_name", None),
    )


def _state(error: BaseException) -> str:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
