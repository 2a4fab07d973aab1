"""`FaultyDatabase`: any `Database`, and what can go wrong between it and a Runner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    nullcontext,
)
from typing import Any, Generic, TypeVar

from session_lock.database import (
    STILL_HELD,
    Beat,
    Claim,
    Database,
    Handback,
    Identity,
    Outcome,
    Settled,
    Work,
)
from session_lock.errors import DatabaseError, SettingsError
from session_lock.session import Lease
from session_lock.tasks import TaskKey
from session_lock.testing.fault import AWAY, FOREVER, Call, Fault, Verb, goes_by
from session_lock.testing.transaction import in_loop

T = TypeVar("T")
R = TypeVar("R")


class Finishes:
    """Which claims the database has finished, as its own replies say, whether or not they reach the Runner."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self._in_transactions: set[Claim] = set()

    @property
    def keys(self) -> list[TaskKey]:
        return [claim.key for claim in self.claims]

    def begun(self, claims: Sequence[Claim]) -> None:
        """In a transaction of the tasker's own, of whose commit nobody tells."""
        self._in_transactions.update(claims)

    def told(self, claims: Sequence[Claim], settled: Sequence[Settled], *, finishing: bool) -> None:
        """The outcomes of these claims. `ALREADY_YOURS` may be the first that is heard of a commit."""
        of = {claim.key: claim for claim in claims}
        for each in settled:
            claim = of[each.key]
            unheard = (finishing or claim in self._in_transactions) and claim not in self.claims
            if each.outcome is Outcome.FINISHED or (each.outcome is Outcome.ALREADY_YOURS and unheard):
                self.claims.append(claim)
            if each.outcome not in STILL_HELD:
                self._in_transactions.discard(claim)


class FaultyDatabase(Generic[T]):
    """Stands between a Runner and `database`, and harms the calls that it is told to. It notes each in `calls`.

    It is the way of one process to the database: two Runners of which one is to be cut off have one each. Faults last
    until `times` are through, or until `heal()`.

    ```python
    database = FaultyDatabase(MemoryDatabase({1: "ann@example.org"}))
    database.lose_reply("finish")
    await run_until_idle(database, each(send))
    assert database.inner.finished == [1]
    ```
    """

    def __init__(self, database: Database[T], *, finishes: Finishes | None = None) -> None:
        if not hasattr(database, "get_work"):
            raise SettingsError(f"a FaultyDatabase needs a Database, not {type(database).__name__}")
        self.inner = database
        self.finishes: Finishes = finishes or Finishes()
        self.faults: list[Fault] = []
        self.calls: list[Call] = []
        self.lease: Lease | None = None
        """Of the session that was started last."""
        self._cut: list[Fault] = []
        self._wakes: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    # What goes wrong ----------------------------------------------------------------------------------------

    def fail(self, verb: Verb, error: BaseException = AWAY, **options: Any) -> Fault:
        """The call raises. Options of all faults: `times` (default: always), `skip`, `committed` (after it was done)."""
        return self._add(Fault(verb, error, **options))

    def lose_reply(self, verb: Verb, *, times: float = 1) -> Fault:
        """The database does it, and its reply is lost."""
        lost = DatabaseError("the connection was lost before the reply")
        return self._add(Fault(verb, lost, times=times, committed=True))

    def hang(self, verb: Verb, **options: Any) -> Fault:
        """The call never ends: its caller gives up, after `call_timeout`."""
        return self._add(Fault(verb, delay=FOREVER, **options))

    def delay(self, verb: Verb, seconds: float, **options: Any) -> Fault:
        """The call takes so much longer."""
        return self._add(Fault(verb, delay=seconds, **options))

    def before(self, verb: Verb, action: Callable[[], object], *, times: float = 1, skip: int = 0) -> Fault:
        """`action` is called (and awaited, if it is a coroutine function) when the call is made, before the database hears of it."""
        if not callable(action):
            raise SettingsError(f"before({verb!r}, ..) takes a function, not {type(action).__name__}")
        return self._add(Fault(verb, action=action, times=times, skip=skip))

    def partition(self) -> None:
        """The network drops all, both ways, without a word: calls hang, replies under way and wake-ups are lost."""
        if not self._cut:
            self._wake_all()
            self._cut = [Fault("*", delay=FOREVER), Fault("*", delay=FOREVER, committed=True)]

    def heal(self) -> None:
        """The partition and all faults end. What hangs already goes on hanging, until its caller gives up."""
        if self._cut:
            self._cut.clear()
            self._wake_all()
        self.faults.clear()

    def _wake_all(self) -> None:
        """As a connection that listens does when it is lost, and when it is back."""
        for wake in list(self._wakes):
            wake()

    def count(self, verb: Verb) -> int:
        """How often it was called."""
        return sum(verb in goes_by(call.verb, call.arguments, committed=False) for call in self.calls)

    def _add(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        return fault

    # The verbs ----------------------------------------------------------------------------------------------

    async def identity(self) -> Identity:
        return await self._call("identity", self.inner.identity)

    async def start_session(self, **options: Any) -> Lease:
        return await self._call("start_session", self._start_session, **options)

    async def _start_session(self, **options: Any) -> Lease:
        self._loop = asyncio.get_running_loop()
        self.lease = await self.inner.start_session(**options)
        return self.lease

    async def bump_session(self, lease: Lease, **options: Any) -> Beat:
        return await self._call("bump_session", self.inner.bump_session, lease, **options)

    async def get_work(self, lease: Lease, *, finished: Sequence[Claim] = (), **options: Any) -> Work[T]:
        return await self._call("get_work", self._get_work, lease, finished=finished, **options)

    async def _get_work(self, lease: Lease, *, finished: Sequence[Claim], **options: Any) -> Work[T]:
        work = await self.inner.get_work(lease, finished=finished, **options)
        self.finishes.told(finished, work.settled, finishing=True)
        return work

    async def finish_tasks(self, lease: Lease, claims: Sequence[Claim]) -> Sequence[Settled]:
        return await self._call("finish_tasks", self._finish_tasks, lease, claims)

    async def _finish_tasks(self, lease: Lease, claims: Sequence[Claim]) -> Sequence[Settled]:
        settled = await self.inner.finish_tasks(lease, claims)
        self.finishes.told(claims, settled, finishing=True)
        return settled

    async def release_tasks(
        self, lease: Lease, handbacks: Sequence[Handback], **options: Any
    ) -> Sequence[Settled]:
        return await self._call("release_tasks", self._release_tasks, lease, handbacks, **options)

    async def _release_tasks(
        self, lease: Lease, handbacks: Sequence[Handback], **options: Any
    ) -> Sequence[Settled]:
        settled = await self.inner.release_tasks(lease, handbacks, **options)
        self.finishes.told([each.claim for each in handbacks], settled, finishing=False)
        return settled

    async def end_session(self, lease: Lease, claims: Sequence[Claim]) -> None:
        await self._call("end_session", self.inner.end_session, lease, claims)

    async def finish_in(self, connection: Any, lease: Lease, claims: Sequence[Claim]) -> None:
        await self._call("finish_in", self.inner.finish_in, connection, lease, claims)
        self.finishes.begun(claims)

    def finish_in_sync(self, connection: Any, lease: Lease, claims: Sequence[Claim]) -> None:
        """As `finish_in`, for faults too. In a thread, which neither freezes nor dies with its instance."""
        assert self._loop is not None  # there is a lease
        in_loop(self._loop, self._before("finish_in", {"args": (connection, lease, claims)}))
        self.inner.finish_in_sync(connection, lease, claims)
        self.finishes.begun(claims)
        in_loop(self._loop, self._harm("finish_in", {}, committed=True))

    @asynccontextmanager
    async def transaction(self, lease: Lease, claims: Sequence[Claim]) -> AsyncIterator[Any]:
        await self._before("transaction", {"args": (lease, claims)})
        with ExitStack() as ending:
            async with self.inner.transaction(lease, claims) as connection:
                await self._harm("transaction", {}, committed=True)
                yield connection
                await self._before("commit", {"args": (lease, claims)})
                ending.enter_context(self._at_the_database())
            self.finishes.claims.extend(claims)
        await self._harm("commit", {}, committed=True)

    def listening(
        self, wake: Callable[[], None], *, lease: Lease | None = None, asked: Callable[[], None] | None = None
    ) -> AbstractAsyncContextManager[Callable[[], bool] | None]:
        heard = None if asked is None else self._unless_cut(asked)
        return self._listening(self.inner.listening(self._unless_cut(wake), lease=lease, asked=heard), wake)

    @asynccontextmanager
    async def _listening(
        self, inner: AbstractAsyncContextManager[Callable[[], bool] | None], wake: Callable[[], None]
    ) -> AsyncIterator[Callable[[], bool] | None]:
        async with inner as hears:
            self._wakes.append(wake)
            try:
                yield None if hears is None else lambda: not self._cut and hears()
            finally:
                self._wakes.remove(wake)

    # What they are made of ----------------------------------------------------------------------------------

    async def _call(self, name: str, verb: Callable[..., Awaitable[R]], *args: Any, **options: Any) -> R:
        await self._before(name, {**options, "args": args})
        with self._at_the_database():
            answer = await verb(*args, **options)
        await self._harm(name, options, committed=True)
        return answer

    def _at_the_database(self) -> AbstractContextManager[None]:
        """For as long as it does what it was asked."""
        return nullcontext()

    async def _before(self, verb: str, arguments: dict[str, Any]) -> None:
        self.calls.append(Call(verb, asyncio.get_running_loop().time(), arguments))
        await self._harm(verb, arguments, committed=False)

    async def _harm(self, verb: str, arguments: dict[str, Any], *, committed: bool) -> None:
        names = goes_by(verb, arguments, committed=committed)
        for fault in list(self.faults):
            if fault.applies(names, committed=committed):
                await fault.happen()
        for fault in list(self._cut):  # one that has just begun holds this call back too
            if fault.applies(names, committed=committed):
                await fault.happen()

    def _unless_cut(self, wake: Callable[[], None]) -> Callable[[], None]:
        return lambda: None if self._cut else wake()
