"""`run_until_idle`: a Runner that works as long as there is something to do, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from session_lock.block import failure_of
from session_lock.database import Claim, Database, Work
from session_lock.errors import SettingsError
from session_lock.runner import Runner
from session_lock.session import Lease
from session_lock.settings import Settings
from session_lock.tasker import Tasker
from session_lock.tasks import TaskKey
from session_lock.waiting import wait_through

T = TypeVar("T")

QUICK = 0.02
"""Seconds between two looks. In a test nobody waits for the next one."""


async def run_until_idle(
    database: Database[T],
    tasker: Tasker[T],
    settings: Settings | None = None,
    *,
    wait: float = 1.0,
    **options: Any,
) -> int:
    """Run a Runner until no task is due that it may have, and return how many it was given: a task that is retried counts each time.

    What falls due later, a retry say, is left: ask for `retry=` without a delay, or let the time pass in `run_virtual` and call it
    again. What a limit of the mapping holds back is waited for if it is to be free within `wait` seconds, defaults to 1. It looks
    more often than `settings` say, and goes on at full speed after any number of failures: there is a breaker only where `settings` have
    another `breaker_failures` than the default. Cancelled, it cancels the taskers at once. `options` are those of a `Runner`; what that raises is raised here.

    ```python
    assert await run_until_idle(MemoryDatabase({1: "ann@example.org"}), each(send)) == 1
    ```
    """
    if not hasattr(database, "get_work"):
        raise SettingsError(f"run_until_idle takes a Database, not {type(database).__name__}")
    watched = _Watched(database, wait)
    runner = BriefRunner(cast(Database[T], watched), tasker, quick(settings), **options)
    watched.when_idle = runner.stop
    running = asyncio.create_task(runner.run(), name="run_until_idle")
    try:
        await asyncio.wait({running})
    except asyncio.CancelledError:
        runner.halt()
        await wait_through({running}, runner.halt)
        failure_of(running)  # heard, and no news beside the cancellation
        raise
    await running
    return watched.given


class BriefRunner(Runner[T]):
    """That of a test: what made the test fail is told at once, and not when its taskers have come to their ends."""

    def halt(self) -> None:
        """Stop, and cancel the taskers."""
        self.stop()
        self._abort()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.halt()
        await super().__aexit__(kind, error, trace)


def quick(settings: Settings | None) -> Settings:
    """The same for a test: it begins at once, looks often, and has no breaker but one that was asked for, whose pauses are up to a minute."""
    settings, usual = settings or Settings(), Settings().breaker_failures
    return replace(
        settings,
        breaker_failures=None if settings.breaker_failures == usual else settings.breaker_failures,
        start_jitter=0.0,
        poll_interval=QUICK,
        idle_poll_interval=QUICK,
        patience=QUICK,
    )


class _Watched(Generic[T]):
    """A database that says when a look has found nothing while nothing was held."""

    def __init__(self, database: Database[T], wait: float) -> None:
        self._database = database
        self._wait = wait
        self.given = 0
        self.when_idle: Callable[[], None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)  # all the other verbs

    async def get_work(
        self, lease: Lease, *, held: Collection[TaskKey] = (), finished: Sequence[Claim] = (), **options: Any
    ) -> Work[T]:
        options["position"] = options["until"] = None  # from the start, as nothing may be passed by
        work = await self._database.get_work(lease, held=held, finished=finished, **options)
        self.given += len(work.tasks)
        if self.when_idle and not work.tasks and len(held) == len(finished):
            # With nothing held: what its share keeps from it the next look brings, which goes beyond the share.
            shared_out = work.share == 0 and not options.get("over_share")
            soon = work.limited and work.next_due is not None and work.next_due <= self._wait
            if not shared_out and not soon:
                self.when_idle()
        return work
