"""Virtual time: an event loop in which waiting takes no time.

When nothing is ready the loop's clock jumps to the next timer. A test of minutes ends in milliseconds, the same way each
time, and one that waits for something that can never happen fails at once instead of hanging. What a socket or a subprocess is about to
bring is no timer, and is not waited for: time jumps past it, so that timeouts run out. Nor is a thread of your own that comes back by
`call_soon_threadsafe`; those of `asyncio.to_thread`, `run_in_executor` and `anyio.to_thread` are waited for.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from session_lock import session
from session_lock.testing.threads import WaitsForThreads, count_threads_of_anyio

R = TypeVar("R")

DAY = 86_400.0


def run_virtual(coroutine: Coroutine[Any, Any, R], *, limit: float = DAY) -> R:
    """`asyncio.run`, in virtual time. `limit`: as for `VirtualTimeLoop`, which also says what is raised. Not for what talks by a socket,
    waits for a subprocess, or for a thread that was begun in another way than by asyncio or anyio: none of them is waited for, and that is a
    `TimeoutError` or a `DeadlockError`; a `PostgresDatabase` is refused (`SettingsError`). `RuntimeError` where a loop runs already.

    ```python
    assert run_virtual(asyncio.sleep(3600, "an hour later")) == "an hour later"
    ```
    """
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 (the other one raises)
        coroutine.close()  # or Python warns that nobody has awaited it
        raise RuntimeError(
            "run_virtual has an event loop of its own, and one is running here: call it in a plain def, or await what it was given"
        )
    with virtual_time(limit=limit) as runner:
        return runner.run(coroutine)


@contextmanager
def virtual_time(*, limit: float = DAY) -> Iterator[asyncio.Runner]:
    """An `asyncio.Runner` whose loop lives in virtual time, as does `session.lease_clock` while the block runs.

    ```python
    with virtual_time() as runner:
        runner.run(asyncio.sleep(3600))
        assert runner.get_loop().time() == 3600
    ```
    """
    real = session._clock  # noqa: SLF001 (made for this)
    try:
        with asyncio.Runner(loop_factory=partial(VirtualTimeLoop, limit=limit)) as runner:
            session._clock = runner.get_loop().time  # noqa: SLF001
            yield runner
    finally:
        session._clock = real  # noqa: SLF001


class DeadlockError(RuntimeError):
    """The test can never end: all of its tasks wait, and nothing is scheduled that could wake one.

    ```python
    async def wait_for_nobody():
        await asyncio.Event().wait()

    try:
        run_virtual(wait_for_nobody())
    except DeadlockError as error:
        print(error)  # nothing is ready and nothing is scheduled at 0 s ..; waiting: ..
    ```
    """


class VirtualTimeLoop(WaitsForThreads, asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0 and jumps. While a thread of `run_in_executor`, `asyncio.to_thread` or `anyio.to_thread` works it stands
    still; not for a thread of your own that comes back by `call_soon_threadsafe`, a socket or a subprocess.

    `limit` is the virtual time, in seconds, after which the test counts as one that never ends: a `DeadlockError`. Defaults to a day.

    ```python
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(asyncio.sleep(3600))
        assert runner.get_loop().time() == 3600
    ```
    """

    waits_for_sockets: bool = False
    """Asked before a connection to PostgreSQL is opened, which is refused here."""

    def __init__(self, *, limit: float = DAY) -> None:
        self._now = 0.0
        self._limit = limit
        count_threads_of_anyio()
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def pause(self, seconds: float) -> None:
        """Let time pass in which this process does nothing, as if it were frozen: all that falls due is late then."""
        self._now += seconds

    def _jump(self, timeout: float | None) -> bool:
        """Nothing is ready for `timeout` seconds (None: for ever): go there, or say no, since a thread may be about to."""
        if self._threads:
            return False
        if timeout is None:
            raise DeadlockError(
                f"nothing is ready and nothing is scheduled at {self._now:g} s (sockets and subprocesses are not waited for in virtual time: "
                f"use asyncio.run for those); {self._waiting()}"
            )
        self._now += timeout
        if self._now > self._limit:
            passed, self._limit = self._limit, float("inf")  # the cleanup after this error may take its time
            raise DeadlockError(
                f"{passed:g} s of virtual time have passed and the test has not ended (sockets and subprocesses are not waited for: use asyncio.run "
                f"for those); {self._waiting()}"
            )
        return True

    def _waiting(self) -> str:
        places = [
            f"{task.get_name()} at {frame.f_code.co_filename}:{frame.f_lineno}"
            for task in asyncio.all_tasks(self)
            for frame in task.get_stack(limit=1)
        ]
        return f"waiting: {', '.join(sorted(places)) or 'no task'}"

    def run_in_executor(self, executor: Any, func: Callable[..., R], *args: Any) -> asyncio.Future[R]:  # type: ignore[override]
        future = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: asyncio.Future[Any]) -> None:
        self._threads -= 1

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        self._threads += 1
        try:
            await super().shutdown_default_executor(*args, **kwargs)
        finally:
            self._threads -= 1


class _JumpingSelector(selectors.DefaultSelector):
    """What is ready now is told; waiting is done by `jump`, or for real if that says no."""

    def __init__(self, jump: Callable[[float | None], bool]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0) or self._jump(timeout):
            return ready
        return super().select(0.05)
