"""What can go wrong with a call of a database: `Fault`."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from session_lock.errors import DatabaseError, SettingsError

Verb = Literal[
    "identity", "start_session", "bump_session", "get_work", "finish_tasks", "release_tasks", "end_session",
    "finish_in", "transaction", "commit", "finish", "*",
]  # fmt: skip
"""A call of the database that can go wrong. `transaction` and `commit` are the two ends of `task.transaction()`; `finish` is each
call that finishes tasks (its reply, for a transaction, is that of the commit); `*` is every call."""

VERBS = get_args(Verb)
_FINISH_SENT = {"finish_tasks", "finish_in", "transaction"}
_FINISH_DONE = {"finish_tasks", "finish_in", "commit"}


def goes_by(verb: str, arguments: dict[str, Any], *, committed: bool) -> set[str]:
    """The names of a call, which may finish tasks along with something else."""
    finishes = verb in (_FINISH_DONE if committed else _FINISH_SENT) or bool(arguments.get("finished"))
    return {verb, "*", "finish"} if finishes else {verb, "*"}


AWAY = DatabaseError("the database is away")

FOREVER = math.inf


@dataclass(eq=False)
class Fault:
    """What goes wrong with a verb, before the database does it, or after (`committed`: its reply is lost).

    `delay` is in seconds. `times` counts the calls that it happens to. `SettingsError` says of a number what it cannot be.

    ```python
    database = FaultyDatabase(MemoryDatabase({1: "ann@example.org"}))
    fault = database.fail("get_work", times=2)
    await run_until_idle(database, each(send))
    assert fault.happened == 2
    ```
    """

    verb: str
    error: BaseException | None = None
    delay: float = 0.0
    times: float = math.inf
    skip: int = 0
    """So many calls are left alone first."""
    committed: bool = False
    action: Callable[[], object] | None = None
    happened: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.verb not in VERBS:
            raise SettingsError(f"there is no call {self.verb!r} that could fail, but {', '.join(VERBS)}")
        if not self.delay >= 0 or not self.times >= 0 or self.skip < 0:
            raise SettingsError("the seconds, the times and the skipped calls of a fault are not negative")

    def heal(self) -> None:
        """It happens no more."""
        self.times = 0

    def applies(self, names: set[str], *, committed: bool) -> bool:
        """Whether it happens to this call, which counts."""
        if self.verb not in names or self.committed is not committed or self.times <= 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        self.happened += 1
        return True

    async def happen(self) -> None:
        """Do the harm, in the call that it happens to."""
        if self.action is not None and inspect.isawaitable(done := self.action()):
            await done
        if self.delay == FOREVER:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error


class Call(NamedTuple):
    """One call, as it was made.

    ```python
    database = FaultyDatabase(MemoryDatabase())
    await run_until_idle(database, each(send))
    assert [call.verb for call in database.calls][:3] == ["identity", "start_session", "get_work"]
    ```
    """

    verb: str
    at: float
    """The loop's time."""
    arguments: dict[str, Any]
