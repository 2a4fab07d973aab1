"""`RunnerGroup`: several Runners that start and stop together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from session_lock.block import RunningBlock, check_on_failure, failure_of, logger
from session_lock.errors import SettingsError
from session_lock.runner import Runner
from session_lock.waiting import wait_through
from session_lock.wording import describe


class RunnerGroup(RunningBlock):
    """Runs several Runners side by side: `await group.run()`, or `async with group:`.

    If one of them dies the others are stopped gracefully, and `run()` raises what it died of. `on_failure` is called with
    it if that happens inside of `async with`.
    """

    def __init__(
        self, *runners: Runner[Any], on_failure: Callable[[BaseException], object] | None = None
    ) -> None:
        for runner in runners:
            if not isinstance(runner, Runner):
                raise SettingsError(f"RunnerGroup(*runners): each is a Runner, not {type(runner).__name__}")
        check_on_failure(on_failure)
        if len(set(map(id, runners))) < len(runners):
            raise SettingsError("a RunnerGroup was given the same Runner twice")
        self._runners = runners
        self._started = False
        self._on_failure = on_failure

    async def run(self) -> None:
        """Run all until `stop()` or cancellation, as `Runner.run()` does for one."""
        if self._started:
            raise RuntimeError("a RunnerGroup runs once: make another one")
        self._started = True
        running = [asyncio.create_task(runner.run(), name="session_lock runner") for runner in self._runners]
        for task in running:
            task.add_done_callback(self._stop_after_a_failure)
        try:
            if running:
                await asyncio.wait(running)
        except asyncio.CancelledError:
            self.stop()
            try:
                await wait_through(set(running), self._abort)
            finally:
                self._log(self._failures(running))
            raise
        failures = self._failures(running)
        self._log(failures[1:])
        if failures:
            raise failures[0]

    def stop(self) -> None:
        """Stop all gracefully; a plain, idempotent function."""
        for runner in self._runners:
            runner.stop()

    @property
    def ready(self) -> bool:
        """Whether all are (`Runner.ready`)."""
        return all(runner.ready for runner in self._runners)

    def wake(self) -> None:
        """All look for work now."""
        for runner in self._runners:
            runner.wake()

    def _abort(self) -> None:
        for runner in self._runners:
            runner._abort()  # noqa: SLF001 (the same family)

    def _stop_after_a_failure(self, task: asyncio.Task[None]) -> None:
        if failure_of(task) is not None:
            self.stop()

    @staticmethod
    def _failures(running: list[asyncio.Task[None]]) -> list[BaseException]:
        return [failure for task in running if (failure := failure_of(task)) is not None]

    @staticmethod
    def _log(failures: list[BaseException]) -> None:
        for failure in failures:
            logger.error("another Runner of the group failed: %s", describe(failure))
