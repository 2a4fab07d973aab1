"""The caller's transaction on a `MemoryDatabase`: what is written in it happens when it commits, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from session_lock.errors import DatabaseError, SettingsError
from session_lock.wording import NOT_COMMITTED


class MemoryTransaction:
    """`async with MemoryTransaction() as connection:` stands for a connection in an open transaction of the caller's; a plain
    `with`, in a thread, for a synchronous one.

    Leaving the block commits, an exception rolls back. As in PostgreSQL, nothing is committed either after
    an error in a statement of the transaction (`finish_in` raised), even if the caller swallowed it. One that has been open for longer
    than the lease is rolled back, and says so by a `DatabaseError`.

    ```python
    async def send(task):
        async with MemoryTransaction() as connection:
            await task.finish_in(connection)
            connection.write(lambda: print("receipt", task.key))  # when it commits, or not at all
    ```
    """

    def __init__(self) -> None:
        self._effects: list[Callable[[], object]] = []
        self._deadlines: list[Callable[[], bool]] = []
        self._failed = False
        self._over = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def write(self, effect: Callable[[], object]) -> None:
        """Call `effect` when the transaction commits."""
        self._effects.append(effect)

    def fail(self) -> None:
        """Nothing can be committed any more."""
        self._failed = True

    def check(self) -> None:
        """Raise what `task.transaction()` raises at its end, if nothing can be committed."""
        if self._failed:
            raise DatabaseError(NOT_COMMITTED)

    def limit(self, passed: Callable[[], bool]) -> None:
        """Roll the transaction back as soon as `passed()`: what the server does to one that outlives the lease."""
        self._deadlines.append(passed)
        self._loop = asyncio.get_running_loop()

    @property
    def open(self) -> bool:
        """Whether it still holds its locks, and can do anything: an error in it rolls it back."""
        return not self._over and not self._failed and not self._timed_out

    @property
    def _timed_out(self) -> bool:
        return any(passed() for passed in self._deadlines)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await asyncio.sleep(0)
                self._commit()
        finally:
            self._over = True
        await asyncio.sleep(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            in_loop(self._loop, self.__aexit__(kind, error, trace))
            return
        if error is None:  # nothing in it knows a loop
            self._commit()
        self._over = True

    def _commit(self) -> None:
        if self._timed_out:
            raise DatabaseError(
                "the transaction was open for longer than the lease lasted: it was rolled back"
            )
        if not self._failed:
            for effect in self._effects:
                effect()


def in_loop(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it in the loop, and wait for it in this thread, which must be another."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result()
        return
    coroutine.close()
    raise SettingsError("finish_in_sync is for a thread: in a coroutine, await finish_in")
