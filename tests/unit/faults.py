"""A Database that fails on demand: `Faulty(MemoryDatabase(..))`."""

from __future__ import annotations

import asyncio
import math
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from session_lock.errors import DatabaseError

NONCES: set[str] = set()
"""Of all sessions that were ever started through a `Faulty`: none may appear in a log."""

AWAY = DatabaseError("the database is away")
FOREVER = math.inf


@dataclass
class Fault:
    """What goes wrong with a verb, before the database does it, or after (`committed`: its answer is lost)."""

    verb: str
    error: BaseException | None = None
    delay: float = 0.0
    times: float = math.inf
    skip: int = 0
    committed: bool = False

    def heal(self) -> None:
        self.times = 0

    def applies(self, verb: str, *, committed: bool) -> bool:
        if self.verb not in {verb, "*"} or self.committed is not committed or self.times <= 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True

    async def happen(self) -> None:
        if self.delay == FOREVER:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error


class Faulty:
    """Wraps a Database; `fail`, `hang` and `delay` are for one verb, or for all (`*`). It notes each call with its time."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.faults: list[Fault] = []
        self.calls: list[tuple[str, float, dict[str, Any]]] = []

    def fail(self, verb: str, error: BaseException = AWAY, **options: Any) -> Fault:
        return self._add(Fault(verb, error, **options))

    def hang(self, verb: str, **options: Any) -> Fault:
        return self._add(Fault(verb, delay=FOREVER, **options))

    def delay(self, verb: str, seconds: float, **options: Any) -> Fault:
        return self._add(Fault(verb, delay=seconds, **options))

    def heal(self) -> None:
        self.faults.clear()

    def _add(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        return fault

    def times(self, verb: str) -> list[float]:
        """When it was called."""
        return [at for name, at, _ in self.calls if name == verb]

    def count(self, verb: str) -> int:
        return len(self.times(verb))

    def arguments(self, verb: str) -> list[dict[str, Any]]:
        return [arguments for name, _, arguments in self.calls if name == verb]

    async def _call(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((verb, asyncio.get_running_loop().time(), {**kwargs, "args": args}))
        await self._faults(verb, committed=False)
        answer = await getattr(self.inner, verb)(*args, **kwargs)
        await self._faults(verb, committed=True)
        return answer

    async def _faults(self, verb: str, *, committed: bool) -> None:
        for fault in list(self.faults):
            if fault.applies(verb, committed=committed):
                await fault.happen()

    async def identity(self) -> Any:
        return await self._call("identity")

    async def start_session(self, **kwargs: Any) -> Any:
        lease = await self._call("start_session", **kwargs)
        NONCES.add(str(lease.nonce))
        return lease

    async def bump_session(self, *args: Any, **kwargs: Any) -> Any:
        return await self._call("bump_session", *args, **kwargs)

    async def get_work(self, *args: Any, **kwargs: Any) -> Any:
        return await self._call("get_work", *args, **kwargs)

    async def finish_tasks(self, *args: Any, **kwargs: Any) -> Any:
        return await self._call("finish_tasks", *args, **kwargs)

    async def release_tasks(self, *args: Any, **kwargs: Any) -> Any:
        return await self._call("release_tasks", *args, **kwargs)

    async def end_session(self, *args: Any, **kwargs: Any) -> Any:
        return await self._call("end_session", *args, **kwargs)

    async def finish_in(self, *args: Any, **kwargs: Any) -> Any:
        return await self._call("finish_in", *args, **kwargs)

    def finish_in_sync(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.finish_in_sync(*args, **kwargs)

    def listening(self, *args: Any, **kwargs: Any) -> AbstractAsyncContextManager[None]:
        return self.inner.listening(*args, **kwargs)

    def transaction(self, *args: Any, **kwargs: Any) -> AbstractAsyncContextManager[Any]:
        return self.inner.transaction(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:  # what tests ask of a MemoryDatabase
        return getattr(self.inner, name)

    def __getitem__(self, key: Any) -> Any:
        return self.inner[key]
