"""Connections that were given up, whose statements may stand still: their backends are ended by the next connection."""

from __future__ import annotations

import asyncio
from typing import Any

from session_lock.connections import _InLoop


class Fake:
    """A connection, whose server answers when the event is set."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.ended: list[int] = []

    async def execute(self, _query: str, pids: list[int], _ages: list[float]) -> None:
        self.ended += pids
        await self.answers.wait()

    def terminate(self) -> None:
        pass


async def test_one_that_is_given_up_while_two_others_are_at_it_is_not_forgotten() -> None:
    there, fakes = _InLoop(4), [Fake() for _ in range(3)]
    given_up: Any = Fake()
    there.give_up(given_up, 1)
    first, second = (asyncio.create_task(there.end_given_up(each)) for each in fakes[:2])  # type: ignore[arg-type]
    await asyncio.sleep(0)
    fakes[0].answers.set()
    await first
    there.give_up(given_up, 2)
    fakes[1].answers.set()
    await second
    fakes[2].answers.set()
    await there.end_given_up(fakes[2])  # type: ignore[arg-type]
    assert [fake.ended for fake in fakes] == [[1], [1], [2]]
