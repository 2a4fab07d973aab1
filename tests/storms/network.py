"""The way of one instance to the database, in all weathers: what is under way goes on when the instance stands still."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import Context, ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

from session_lock.database import Beat, Claim, Handback, Identity, Settled, Work
from session_lock.errors import DatabaseError, SessionLockError
from session_lock.session import Lease
from session_lock.testing import MemoryDatabase
from tests.storms.log import Log
from tests.storms.scripts import SETTINGS

WHO: ContextVar[int] = ContextVar("who", default=-1)
"""The instance that calls."""

TIMEOUT = SETTINGS.call_timeout


@dataclass(slots=True)
class Fate:
    """What becomes of one call."""

    there: float = 0.0
    """Seconds that the request takes."""
    arrives: bool = True
    again: float | None = None
    """Seconds after which the database does it once more."""
    back: float = 0.0
    """Seconds that the reply takes."""
    reply: str = "kept"
    """kept, lost (the caller sees an error), silent (the caller waits until it gives up)"""

    def __str__(self) -> str:
        told = [f"there in {self.there:.1f} s" if self.arrives else f"refused in {self.there:.1f} s"]
        if self.again is not None:
            told.append(f"twice after {self.again:.1f} s")
        return ", ".join([*told, f"reply {self.reply} after {self.back:.1f} s"])


def fate_in(weather: str, rng: random.Random) -> Fate | None:
    """None: all goes well."""
    match weather:
        case "laggy":  # so late that it is just in time
            there = rng.uniform(0, 0.9 * TIMEOUT)
            return Fate(there, back=0.95 * TIMEOUT - there)
        case "slow":
            return Fate(rng.uniform(0, 1.3 * TIMEOUT), back=rng.uniform(0, 1.3 * TIMEOUT))
        case "lossy":
            return rng.choice(
                (
                    None,
                    Fate(arrives=False, reply="silent"),
                    Fate(arrives=False, reply="lost"),
                    Fate(reply="silent"),
                    Fate(reply="lost"),
                    Fate(again=rng.uniform(0, 20 * TIMEOUT)),
                    Fate(again=rng.uniform(0, TIMEOUT), reply="lost"),
                )
            )
        case "deaf":
            return Fate(reply="silent")
        case "late":  # after its caller has given up
            return Fate(rng.uniform(TIMEOUT, 20 * TIMEOUT), reply="silent")
        case "refusing":
            return Fate(rng.uniform(0, TIMEOUT), arrives=False, reply="lost")
        case "away":
            return Fate(arrives=False, reply="silent")
    return None


class Network:
    """A `Database` for one instance."""

    def __init__(self, inner: MemoryDatabase[Any], log: Log, who: int) -> None:
        self.inner = inner
        self.weather = "calm"
        self._log = log
        self._who = who
        self._rng = random.Random(f"network {log.script.seed} {who}")

    # The verbs ----------------------------------------------------------------------------------------------

    async def identity(self) -> Identity:
        return await self._call("identity", self.inner.identity)

    async def start_session(self, **options: Any) -> Lease:
        return await self._call("start_session", partial(self.inner.start_session, **options))

    async def bump_session(self, lease: Lease, **options: Any) -> Beat:
        return await self._call("bump_session", partial(self.inner.bump_session, lease, **options))

    async def get_work(self, lease: Lease, **options: Any) -> Work[Any]:
        return await self._call("get_work", partial(self.inner.get_work, lease, **options))

    async def finish_tasks(self, lease: Lease, claims: Sequence[Claim]) -> Sequence[Settled]:
        return await self._call("finish_tasks", partial(self.inner.finish_tasks, lease, claims))

    async def release_tasks(
        self, lease: Lease, handbacks: Sequence[Handback], **options: Any
    ) -> Sequence[Settled]:
        return await self._call(
            "release_tasks", partial(self.inner.release_tasks, lease, handbacks, **options)
        )

    async def end_session(self, lease: Lease, claims: Sequence[Claim]) -> None:
        await self._call("end_session", partial(self.inner.end_session, lease, claims))

    async def finish_in(self, connection: Any, lease: Lease, claims: Sequence[Claim]) -> None:
        fate = await self._reach("finish_in")
        await self.inner.finish_in(connection, lease, claims)
        await self._hear(fate)

    def finish_in_sync(self, connection: Any, lease: Lease, claims: Sequence[Claim]) -> None:
        raise NotImplementedError("threads have no virtual time")

    @asynccontextmanager
    async def transaction(self, lease: Lease, claims: Sequence[Claim]) -> AsyncIterator[Any]:
        fate = await self._reach("transaction")
        async with self.inner.transaction(lease, claims) as connection:
            await self._hear(fate)
            yield connection
            fate = await self._reach("commit")
        await self._hear(fate)

    def listening(
        self, wake: Callable[[], None], *, lease: Lease | None = None, asked: Callable[[], None] | None = None
    ) -> AbstractAsyncContextManager[None]:
        heard = None if asked is None else self._if_calm(asked)
        return self.inner.listening(self._if_calm(wake), lease=lease, asked=heard)

    # What they are made of ----------------------------------------------------------------------------------

    async def _call(self, verb: str, do: Callable[[], Awaitable[Any]]) -> Any:
        fate = self._fate(verb)
        if fate is None:
            return await do()
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._start(self._carry(fate, do, answer))
        return await answer

    async def _carry(self, fate: Fate, do: Callable[[], Awaitable[Any]], answer: asyncio.Future[Any]) -> None:
        await asyncio.sleep(fate.there)
        result, error = None, None
        if fate.arrives:
            try:
                result = await do()
            except SessionLockError as raised:
                error = raised
        if fate.again is not None:
            self._start(self._do_again(fate.again, do))
        await asyncio.sleep(fate.back)
        if fate.reply == "silent" or answer.done():
            return
        if fate.reply == "lost":
            error = DatabaseError("the connection was lost")
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    async def _do_again(self, after: float, do: Callable[[], Awaitable[Any]]) -> None:
        await asyncio.sleep(after)
        with suppress(SessionLockError):
            await do()

    async def _reach(self, verb: str) -> Fate | None:
        """As a call in the midst of a transaction, which happens once, and not after its caller has given up."""
        fate = self._fate(verb)
        if fate is not None:
            await asyncio.sleep(fate.there)
            if not fate.arrives:
                await self._hear(fate)
        return fate

    async def _hear(self, fate: Fate | None) -> None:
        if fate is None:
            return
        await asyncio.sleep(fate.back if fate.reply != "silent" else TIMEOUT)
        if fate.reply != "kept":
            raise DatabaseError("the connection was lost")

    def _fate(self, verb: str) -> Fate | None:
        fate = fate_in(self.weather, self._rng)
        if fate is not None:
            self._log.note("harmed", who=self._who, how=f"{verb}: {fate}")
        return fate

    def _start(self, coroutine: Any) -> None:
        """Of the network, and none of the instance's: it does not stand still with it."""
        context = Context()
        context.run(WHO.set, self._who)
        asyncio.get_running_loop().create_task(coroutine, context=context)

    def _if_calm(self, wake: Callable[[], None]) -> Callable[[], None]:
        return lambda: wake() if self.weather == "calm" else None
