"""Taskers of every kind, and the resource outside that they write to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from session_lock import Batch, Discard, Release, SessionLost, Task, TaskLost
from session_lock.testing import MemoryTransaction
from tests.storms.log import Log
from tests.storms.scripts import SETTINGS, STUBBORN, Act

Plan = Sequence[Act]


class OddError(BaseException):
    """No Exception."""


class Resource:
    """Outside of the database: it refuses a token below the largest that it has seen of the task."""

    def __init__(self) -> None:
        self._largest: dict[Any, int] = {}
        self._begun: Counter[Any] = Counter()
        self.strangers: list[Task[Plan]] = []
        """Tasks of all instances, of which some are returned where they do not belong."""

    def accepts(self, task: Task[Plan]) -> bool:
        if task.token < self._largest.get(task.key, 0):
            return False
        self._largest[task.key] = task.token
        return True

    def next_act(self, task: Task[Plan]) -> Act:
        """Of its plan; the last one from there on."""
        self._begun[task.key] += 1
        return task.data[min(self._begun[task.key], len(task.data)) - 1]


class Taskers:
    """The taskers of one instance."""

    def __init__(self, log: Log, resource: Resource, who: int) -> None:
        self._log = log
        self._resource = resource
        self._who = who

    async def for_one(self, task: Task[Plan]) -> Release | Discard | None:
        act = await self._run(task, call=next(self._log.calls))
        match act.kind:
            case "releases":
                return Release(after=act.seconds)
            case "discards":
                return Discard("as it was to be")
            case "says nothing":
                return 0  # type: ignore[return-value]
        return None

    async def for_batch(self, batch: Batch[Plan]) -> Sequence[Any]:
        done: list[Any] = []
        odd: list[Any] = []
        call, stubborn = next(self._log.calls), False
        try:
            for task in batch:
                act = await self._run(task, call=call, in_vain=stubborn)
                stubborn = stubborn or act.kind == STUBBORN
                match act.kind:
                    case "releases":
                        batch.release(task, after=act.seconds)
                    case "discards":
                        batch.discard(task, "as it was to be")
                    case "says nothing":
                        pass
                    case "says too much":
                        others = [each for each in self._resource.strangers if each not in batch]
                        done.append(task)
                        odd += [task, *others[-3:], task.key, None]
                    case _:
                        done.append(task)
        except BaseException:
            for task in done:
                self._note("undone", task)
            raise
        return done + odd

    # One task -----------------------------------------------------------------------------------------------

    async def _run(self, task: Task[Plan], *, call: int, in_vain: bool = False) -> Act:
        """Returns what was done; `over` says done if the task is to be finished. `in_vain`: what came before it in the batch may
        have swallowed the cancellation; nothing would ever end it if it hung then.
        """
        act = self._resource.next_act(task)
        if in_vain and act.kind == "hangs":
            act = replace(act, kind=STUBBORN)
        run = next(self._log.runs)
        self._note("begun", task, run=run, call=call, how=STUBBORN if in_vain else act.kind)
        self._resource.strangers.append(task)
        how = "cancelled"
        try:
            how = await self._do(task, act)
        except BaseException as error:
            if act.kind == "raises a cancellation" or not isinstance(error, asyncio.CancelledError):
                how = f"raised {type(error).__name__}"
            raise
        finally:
            self._note("over", task, run=run, how=how)
        return act

    async def _do(self, task: Task[Plan], act: Act) -> str:
        match act.kind:
            case "cleans up":
                try:
                    await asyncio.sleep(act.seconds + SETTINGS.lease_ttl)
                finally:
                    await asyncio.sleep(SETTINGS.cancel_grace * 0.95)
            case kind if kind == STUBBORN:
                await self._work_on(act.seconds)
            case "hangs":
                await asyncio.get_running_loop().create_future()
            case _:
                await asyncio.sleep(act.seconds)
        match act.kind:
            case "in the transaction":
                async with task.transaction() as connection:
                    await asyncio.sleep(min(act.seconds, 30.0))
                    connection.write(lambda: self._note("effect", task))
            case "in its own transaction":
                async with MemoryTransaction() as connection:
                    await task.finish_in(connection)
                    await asyncio.sleep(min(act.seconds, 30.0))
                    connection.write(lambda: self._note("effect", task))
            case "outside" | "long" | "outside late" | "is stubborn":
                await self._write_outside(task, act)
            case "raises":
                raise RuntimeError
            case "raises a BaseException":
                raise OddError
            case "raises a cancellation":
                raise asyncio.CancelledError
            case "exits":
                raise SystemExit
            case "releases" | "discards" | "says nothing":
                return act.kind
        return "done"

    async def _work_on(self, seconds: float) -> None:
        """Whoever cancels it."""
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while clock() < end:
            try:
                await asyncio.sleep(end - clock())
            except asyncio.CancelledError:
                pass

    async def _write_outside(self, task: Task[Plan], act: Act) -> None:
        try:
            task.assert_held()
        except (SessionLost, TaskLost):
            return
        self._note("checked", task)
        if act.kind == "outside late":  # a pause between the check and the act
            await asyncio.sleep(act.seconds)
        self._note("wrote" if self._resource.accepts(task) else "refused", task)

    def _note(self, what: str, task: Task[Plan], **more: Any) -> None:
        of = {"who": self._who, "session": task.session_id, "task": task.key, "token": task.token}
        self._log.note(what, **of, **more)
