"""One reader for each mapping, however many browsers look at it, and none while nobody does."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from session_lock.contrib.status.source import Source, sentence
from session_lock.errors import SessionLockError
from session_lock.overview import Overview, Throughput, overview
from session_lock.sqlstate import is_driver_error
from session_lock.table import TaskTable
from session_lock.wording import describe

logger: logging.Logger = logging.getLogger("session_lock.status")

LOOK_EVERY = 0.8
"""Seconds, so that with the look itself and what a browser needs what is new is seen within one."""

REST = 3.0
"""A look that took so long is followed by this many times that much of rest: the page takes a quarter of a connection at most."""

REST_AFTER_FAILURE = 3.0
"""Seconds at most: a database that is there again is seen soon."""

PATIENCE = 10.0
"""Seconds that a look may take."""

GRACE = 3.0
"""Seconds for which looking goes on when the last one has left: he may be about to come again."""

GOODBYE = 6.0
"""Seconds for which the end waits for a reader: as long as it may take to close its connections."""

KEPT = 600.0
"""Seconds of the past that the plots show."""

MOST_POINTS = int(KEPT / LOOK_EVERY) + 1

MOST_SESSIONS = 50
"""Sessions of which the past is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What the plots show of one look."""

    number: int
    """Of the look."""

    at: float
    """Seconds since 1970, by the server's clock."""

    rate: float | None
    """Tasks a second since the look before."""

    waiting: int | None
    oldest: float | None
    held: int | None
    running: int | None
    by_session: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Held and running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What there was to be seen at last."""

    number: int
    """Looks are counted from 1 on."""

    seen: Overview | None
    """None: nothing yet."""

    rate: float | None = None
    trouble: str | None = None
    """In a sentence, why there is no newer one than `seen`."""

    encoded: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Parts of it as they are sent, made when the first one asks for them."""


class Reader:
    """Looks at one mapping as long as somebody wants to know, and keeps what the plots show in memory."""

    def __init__(self, name: str, table: TaskTable, source: Source) -> None:
        self.name = name
        self.table = table
        self.source = source
        self.epoch: str = secrets.token_hex(4)
        """Whoever comes again with the number of a look tells by this that he means one of ours."""
        self.latest: Look | None = None
        self._number = 0
        self._points: deque[Point] = deque(maxlen=MOST_POINTS)
        self._throughput = Throughput()
        self._news = asyncio.Event()
        self._watchers = 0
        self._left_at = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        """That one, and those before it that are still closing their connections."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While the block lasts somebody looks. Only in an event loop, and always in the same."""
        self._watchers += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_on(), name=f"session_lock status {self.name}")
            self._tasks.add(self._looking)
            self._looking.add_done_callback(self._tasks.discard)
        try:
            yield
        finally:
            self._watchers -= 1
            self._left_at = asyncio.get_running_loop().time()

    @property
    def is_watched(self) -> bool:
        return self._looking is not None and not self._looking.done()

    async def after(self, number: int) -> Look:
        """The latest look, as soon as there is one after that of this number. Those between are not kept."""
        while self.latest is None or self.latest.number <= number:
            await self._news.wait()
        return self.latest

    def points(self, after: int = 0) -> Sequence[Point]:
        """Oldest first: of the last ten minutes, after the look of that number."""
        since = self._points[-1].at - KEPT if self._points else 0.0
        return [each for each in self._points if each.number > after and each.at >= since]

    async def close(self) -> None:
        if tasks := set(self._tasks):
            if self._looking is not None:
                self._looking.cancel()
            await asyncio.wait(tasks, timeout=GOODBYE)

    # Looking ---------------------------------------------------------------------------------------------

    async def _look_on(self) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while self._watchers or clock() < self._left_at + GRACE:
                began = clock()
                self._note(found := await self._look())
                await asyncio.sleep(rest_after(clock() - began, failed=isinstance(found, str)))
        finally:
            # From the condition to here nobody else had a turn; who comes now starts another task, and waits for what that sees.
            self._looking = self.latest = None
            self._throughput = Throughput()  # what is done while nobody looks is no rate of now
            await self.source.rest()

    async def _look(self) -> Overview | str:
        """What is seen or, in a sentence, what is in the way."""
        try:
            async with asyncio.timeout(PATIENCE), self.source.connection() as connection:
                return await overview(connection, self.table)
        except TimeoutError:
            return f"the database did not answer within {PATIENCE:.0f} s"
        except SessionLockError as error:
            return str(error)
        except Exception as error:
            if is_driver_error(error):
                return sentence(error, f"status ({self.name})", self.table)
            logger.exception("a look at %s failed", self.name)
            return f"a look failed, which should not be ({describe(error)}): the log has more"

    def _note(self, found: Overview | str) -> None:
        last = self.latest
        self._number = number = self._number + 1
        if isinstance(found, str):
            self._throughput.miss()
            self.latest = Look(number=number, seen=last.seen if last else None, trouble=found)
        else:
            rate = self._throughput.see(found)
            self.latest = Look(number=number, seen=found, rate=rate)
            self._points.append(_point(number, found, rate))
        self._news.set()
        self._news = asyncio.Event()


def rest_after(took: float, *, failed: bool) -> float:
    """Seconds until the next look."""
    rest = max(LOOK_EVERY - took, REST * took)
    return min(rest, REST_AFTER_FAILURE) if failed else rest


def _point(number: int, seen: Overview, rate: float | None) -> Point:
    sessions = seen.sessions
    return Point(
        number=number,
        at=seen.at.timestamp(),
        rate=rate,
        waiting=seen.backlog.tasks if seen.backlog else None,
        oldest=(seen.backlog.oldest or 0.0) if seen.backlog else None,
        held=None if sessions is None else sum(each.held for each in sessions),
        running=None if sessions is None else sum(each.running for each in sessions),
        by_session={each.session: (each.held, each.running) for each in (sessions or ())[:MOST_SESSIONS]},
    )
