"""`RunnerGroup`: several Runners that start and stop together, such as those of the shards of one table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from session_lock.block import RunningBlock, check_on_failure
from session_lock.database import Identity
from session_lock.errors import SettingsError
from session_lock.health import GroupHealth
from session_lock.runner import Runner
from session_lock.turns import Turns
from session_lock.waiting import wait_through


class RunnerGroup(RunningBlock):
    """Runs several Runners side by side: `await group.run()`, or `async with group:`.

    With `concurrency` no more than so many calls of taskers are under way at once over all of them, beside each one's own
    `Settings.concurrency`; a place that becomes free goes round among the Runners that have tasks ready. A call that
    ignores its cancellation keeps its place until it ends. Defaults to None: each Runner has its own bound, and no other.
    Runners of a group with `concurrency` are at different databases, or mappings, each: a shard that is given twice is
    refused.

    If one dies (of what only a person can mend) the others go on: it is logged CRITICAL, `failed` is the first such
    error, `ready` is False, and `on_failure` is called with the error; it may call `stop()` if all shall end.

    ```python
    group = RunnerGroup(*(Runner(shard, each(send)) for shard in shards.values()), concurrency=20)
    async with group:
        await serve()
    ```
    """

    failed: BaseException | None

    def __init__(
        self,
        *runners: Runner[Any],
        concurrency: int | None = None,
        on_failure: Callable[[BaseException], object] | None = None,
    ) -> None:
        check_on_failure(on_failure)
        if concurrency is not None and (
            isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1
        ):
            raise SettingsError(
                f"concurrency={concurrency!r} of a RunnerGroup must be a whole number of at least 1"
            )
        self._turns = None if concurrency is None else Turns(concurrency)
        self._on_failure = on_failure
        self._runners: list[Runner[Any]] = []
        self._running: dict[Runner[Any], asyncio.Task[BaseException | None]] = {}
        self._leaving: set[Runner[Any]] = set()  # of these
        self._stopped = False
        self._exit: BaseException | None = None  # of the process: what a tasker has raised
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        for runner in runners:
            self.add(runner)

    # From the outside ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run all until `stop()` or cancellation, as `Runner.run()` does for one, or until all have ended by themselves.

        Then it raises the first error that one has died of. With no Runner (yet, or any more) it waits for `add()`.
        """
        if self._loop is not None:
            raise RuntimeError("a RunnerGroup runs once: make another one")
        self._loop = asyncio.get_running_loop()
        for runner in self._runners:
            self._start(runner)
        try:
            while self._running or not (self._stopped or self._runners):
                self._changed.clear()
                await self._changed.wait()
        except asyncio.CancelledError:
            self._stop_all()
            await wait_through(set(self._running.values()), self._abort)
            raise
        finally:
            self._stopped = True
        failure = self._exit if self._exit is not None else self.failed
        if failure is not None:
            raise failure

    def add(self, runner: Runner[Any]) -> None:
        """Take in one more, which starts at once if the group runs.

        `SettingsError` if it is in the group already, or if it is given the same database as another one under `concurrency`;
        `RuntimeError` if it has been run, or if the group was stopped or has ended.
        """
        if not isinstance(runner, Runner):
            raise SettingsError(f"RunnerGroup(*runners): each is a Runner, not {type(runner).__name__}")
        if runner in self._runners:
            raise SettingsError("a RunnerGroup was given the same Runner twice")
        if self._turns is not None and any(_same_shard(runner, other) for other in self._runners):
            raise SettingsError(
                f"a RunnerGroup with concurrency= was given the same shard twice, {runner._database!r}: "  # noqa: SLF001
                "give each Runner a database of its own"
            )
        if runner._engine is not None:  # noqa: SLF001 (the same family)
            raise RuntimeError("a Runner runs once: make another one")
        if self._stopped:
            raise RuntimeError("the RunnerGroup was stopped, or has ended: it takes no more Runners")
        self._runners.append(runner)
        if self._loop is not None:
            self._start(runner)

    async def remove(self, runner: Runner[Any]) -> None:
        """Stop one gracefully, and return when it has ended; the others go on. `SettingsError` if it is not in the group.

        If the wait is cancelled, it ends all the same. What it dies of while it stops is reported as ever.
        """
        if runner not in self._runners:
            raise SettingsError("this Runner is not in the RunnerGroup")
        if (running := self._running.get(runner)) is not None:
            self._leaving.add(runner)
            runner.stop()
            await asyncio.wait({running})
        else:  # not begun yet, or ended by itself
            self._runners.remove(runner)

    def stop(self) -> None:
        """Stop all gracefully; a plain, idempotent function, good in a signal handler, in a thread, and before `run()`."""
        self._stopped = True
        if self._loop is None:
            self._stop_all()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop_all)

    @property
    def ready(self) -> bool:
        """Whether all are (`Runner.ready`), but for those that are being removed. Not before `run()`, nor after `stop()`."""
        if self._loop is None or self._stopped:
            return False
        return all(runner.ready for runner in self._runners if runner not in self._leaving)

    def health(self) -> GroupHealth:
        """How it is, by its Runners (`Runner.health()`)."""
        return GroupHealth(ready=self.ready, runners=[runner.health() for runner in self._runners])

    def wake(self) -> None:
        """All look for work now."""
        for runner in self._runners:
            runner.wake()

    # Behind it -----------------------------------------------------------------------------------------------

    def _start(self, runner: Runner[Any]) -> None:
        if self._turns is not None:
            runner._turns = self._turns  # noqa: SLF001 (the same family)
            runner._is_taken = lambda identity: self._is_taken(identity, by_other_than=runner)  # noqa: SLF001
        task = asyncio.create_task(_run(runner), name="session_lock runner")
        self._running[runner] = task
        task.add_done_callback(lambda task: self._ended(runner, task))

    def _is_taken(self, identity: Identity, *, by_other_than: Runner[Any]) -> bool:
        return any(
            other._identity == identity  # noqa: SLF001 (the same family)
            for other in self._running
            if other is not by_other_than
        )

    def _ended(self, runner: Runner[Any], task: asyncio.Task[BaseException | None]) -> None:
        del self._running[runner]
        self._changed.set()
        if runner in self._leaving:
            self._leaving.remove(runner)
            self._runners.remove(runner)
        failure = None if task.cancelled() else task.result()
        if failure is None:
            return
        if self.failed is None:
            self.failed = failure
        if isinstance(failure, KeyboardInterrupt | SystemExit):
            self._exit = failure
            self.stop()
        where = f" at database {runner._identity.database!r}" if runner._identity else ""  # noqa: SLF001
        self._report(failure, f"Runner {runner.name or runner._database!r}{where} of the group")  # noqa: SLF001

    def _block_ended(self, block: asyncio.Task[None]) -> None:
        """What `run()` raises was reported when it happened."""

    def _stop_all(self) -> None:
        self._stopped = True
        self._changed.set()
        for runner in self._runners:
            runner.stop()

    def _abort(self) -> None:
        for runner in self._runners:
            runner._abort()  # noqa: SLF001 (the same family)


async def _run(runner: Runner[Any]) -> BaseException | None:
    """Returns what it died of: a SystemExit that a task raises would end the loop, under the hands of all others."""
    try:
        await runner.run()
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 (the group reports it)
        return error
    return None


def _same_shard(runner: Runner[Any], other: Runner[Any]) -> bool:
    """Whether it is certain without asking a server."""
    one, two = runner._database, other._database  # noqa: SLF001 (the same family)
    address = getattr(one, "address", None)
    return one is two or (address is not None and address == getattr(two, "address", None))
