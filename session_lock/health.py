"""How a Runner is: what it notes of itself while it runs, and what is told of that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from session_lock.wording import describe

State: TypeAlias = Literal["starting", "running", "paused", "sick", "draining", "lost", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a Runner is at a moment, as far as it knows itself: nobody is asked for it.

    ```python
    async with Runner(database, each(send)) as runner:
        health = runner.health()
        print(health.state, health.lease_margin, health.last_error)
    ```
    """

    name: str
    """As `Runner.name`: empty before the first session where a `DatabaseFinder` is to tell it, unless one was given."""

    state: State
    """starting (no session yet, or not again) · running · paused (the mapping is) · sick (its breaker is open) · draining (it
    takes no more tasks, and lets running ones end) · lost (its session is, and its taskers are cancelled) · stopped (it has ended
    as it was asked to) · failed (it has died)."""

    ready: bool
    """As `Runner.ready`."""

    session: int | None = None
    """The session's id; None: it has none."""

    lease_margin: float | None = None
    """Seconds until its session is lost and running taskers are cancelled, if no keepalive gets through; None: it has no session."""

    looked_ago: float | None = None
    """Seconds since the database last answered its look for tasks; None: it never did. Without room, or paused, it does not look."""

    loop_lag: float | None = None
    """For how many seconds the event loop gave no turn: the longest wait of the last 10 s; None: it has no session."""

    last_error: str | None = None
    """What went wrong last with the database, the session or the Runner itself, mended or not; a row that refuses its outcome as well.
    No tasker's error."""

    last_error_ago: float | None = None
    """Seconds since then."""

    @property
    def live(self) -> bool:
        """For a liveness probe: False if it has died, which nothing mends but a new start."""
        return self.state != "failed"

    @property
    def runners(self) -> Sequence[Health]:
        """Itself, as of a group."""
        return (self,)

    def as_json(self) -> dict[str, Any]:
        """All of the above and `live` by their names, for `json.dumps`; times are seconds."""
        return {"live": self.live, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupHealth:
    """How a RunnerGroup is, by its Runners.

    ```python
    async with RunnerGroup(Runner(database, each(send))) as group:
        sick = [health.name for health in group.health().runners if not health.ready]
    ```
    """

    ready: bool
    """As `RunnerGroup.ready`."""

    runners: Sequence[Health]

    @property
    def live(self) -> bool:
        """For a liveness probe: False if all Runners have died. A new start for the sake of one would stop the others."""
        return not self.runners or any(each.live for each in self.runners)

    def as_json(self) -> dict[str, Any]:
        """`live` and `ready`, and each of the Runners as by its `as_json()`, for `json.dumps`."""
        return {"live": self.live, "ready": self.ready, "runners": [each.as_json() for each in self.runners]}


class Vitals:
    """What a Runner notes of itself, for longer than one session. Times are the loop's."""

    def __init__(self) -> None:
        self.looked_at: float | None = None
        self.error: tuple[str, float] | None = None

    def looked(self) -> None:
        """The database has answered a look for tasks."""
        self.looked_at = _now()

    def went_wrong(self, error: BaseException | str) -> None:
        """From any loop: all go by one clock."""
        self.error = (error if isinstance(error, str) else describe(error), _now())


def _now() -> float:
    return asyncio.get_running_loop().time()
