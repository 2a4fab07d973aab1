"""A loop in which "the n-th step" is any point between two awaits: each callback that it is given is one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class SteppingLoop(asyncio.SelectorEventLoop):
    """Calls `at[n]` before its n-th step, counted from `begin()`."""

    steps = -1
    at: dict[int, Callable[[], object]]

    def begin(self, at: dict[int, Callable[[], object]]) -> None:
        self.steps, self.at = 0, at

    def _counted(self, callback: Any) -> Any:
        def step(*args: Any) -> Any:
            if self.steps >= 0:
                self.steps += 1
                if (act := self.at.pop(self.steps, None)) is not None:
                    act()
            return callback(*args)

        return step

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return super().call_soon(self._counted(callback), *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return super().call_at(when, self._counted(callback), *args, context=context)
