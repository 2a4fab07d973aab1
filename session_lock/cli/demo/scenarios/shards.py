"""Three servers, each with tasks of its own. One crashes and comes back: its tasks wait, the others' do not, and none is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import pairwise, starmap
from typing import Any, ClassVar

from session_lock import RunnerGroup, Task, Tasker, TaskTable, each
from session_lock.block import RunningBlock
from session_lock.cli.demo.access import Connection
from session_lock.cli.demo.cast import Cast
from session_lock.cli.demo.director import Say
from session_lock.cli.demo.part import CONCURRENCY, Backstage
from session_lock.cli.demo.plan import Plan
from session_lock.cli.demo.scenario import SHORT_LEASE, Scenario, Wish
from session_lock.cli.demo.stage import SCHEMA, Place, Stage
from session_lock.cli.demo.tasker import Row, log_run
from session_lock.cli.demo.verdict import Verdict, as_it_should_be, jain, recount
from session_lock.cli.demo.watch import Seen, Watch

A_SECOND = 20
"""Tasks of each server, while all are up: few enough to be no matter of the machine's speed."""

CALM_FOR, AWAY_FOR = 0.25, 0.3
"""Of the seconds: until one server is stopped, and until it is started again. There is work left on all then."""
AWAY_AT_MOST = 4.0
"""Seconds: a session is tried for in pauses that grow, so after a long outage they are long."""

LEAST_FAIRNESS = 0.98
"""Jain's index of what is finished of each server's tasks while all are up: 1 if it is the same, 1/3 if two get nothing."""

LEAST_TIMES = 0.9
"""Of the finishes per second before the crash, for each server that stays up. They have more, since its turns are theirs."""

MOST_GAP, MOST_RETURN = 1000.0, 5.0
"""Milliseconds; seconds."""

FINISHES = f"SELECT at FROM {SCHEMA}.event WHERE what = 'finished' ORDER BY at"

# The tasks that were held at $1, and how many others ran more than once.
HELD = f"""
WITH held AS (
  SELECT task FROM (SELECT DISTINCT ON (task) task, what FROM {SCHEMA}.event WHERE at <= $1 ORDER BY task, token DESC, at DESC) AS e
   WHERE what = 'claimed'
)
SELECT (SELECT count(*) FROM held) AS held,
       (SELECT count(*) FROM (SELECT task FROM {SCHEMA}.run GROUP BY task HAVING count(*) > 1) AS r
         WHERE task NOT IN (SELECT task FROM held)) AS reruns_of_others
"""


@dataclass(frozen=True, slots=True)
class Outage:
    """What happened to one of the servers, and when, by the clock of them all."""

    place: Place
    settled_at: datetime
    """All processes have sessions at all servers, and have begun to finish tasks."""

    stopping_at: datetime
    down_at: datetime
    up_at: datetime
    settled_again_at: datetime


class Shards(Scenario):
    about = "tasks on 3 servers, one of which crashes and comes back: the others' are done as fast as ever, and each once"
    options: ClassVar[frozenset[str]] = frozenset({"seconds"})
    runners = 2
    servers = 3

    def __init__(self, wish: Wish) -> None:
        seconds = wish.seconds or 12.0
        self.tasks_of_each: int = int(A_SECOND * seconds)
        tasks = self.servers * self.tasks_of_each
        self.plan: Plan = Plan(wish.runners, tasks, seconds, kill=False, freeze=False, runs=tasks)

    def opening(self) -> str:
        return (
            f"{self.servers} servers with {self.tasks_of_each} tasks each: {self.plan.runners} processes do them, each in one group, in "
            f"about {self.plan.seconds:.0f} seconds. One server crashes meanwhile, and comes back."
        )

    table: ClassVar[TaskTable] = TaskTable(
        f"{SCHEMA}.job", key="id", pending="finished_at IS NULL", finish="finished_at = now()", schema=SCHEMA
    )

    tables = f"""
    CREATE TABLE {SCHEMA}.job (
      id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      finished_at timestamptz
    ) WITH (fillfactor = 50);
    """

    async def fill(self, connection: Connection) -> None:
        await connection.execute(
            f"INSERT INTO {SCHEMA}.job SELECT FROM generate_series(1, $1::integer)", self.tasks_of_each
        )

    look_every: ClassVar[float] = 0.1

    # Shorter than the outage, and long enough for a machine that is slow.
    base_settings: ClassVar[Mapping[str, Any]] = {
        **SHORT_LEASE, "lease_ttl": 3.0, "keepalive_interval": 0.5, "call_timeout": 0.75,
    }  # fmt: skip

    @classmethod
    def tasker(cls, backstage: Backstage) -> Tasker[Row]:
        async def do(task: Task[Row]) -> None:
            await log_run(backstage.pool, task)
            await asyncio.sleep(backstage.part.pause)

        return each(do)

    @classmethod
    def together(cls, *runners: Any) -> RunningBlock:
        return RunnerGroup(*runners, concurrency=CONCURRENCY)

    # What happens --------------------------------------------------------------------------------------------

    outage: Outage

    async def play(self, stage: Stage, cast: Cast, watch: Watch, say: Say) -> None:
        for _ in range(self.plan.runners):
            await cast.start()
        say(f"{' '.join(runner.name for runner in cast.runners)} start")
        everywhere = [(place.name, runner.pid) for place in stage.places for runner in cast.runners]
        await watch.until(
            lambda now: all(now.at(name).of(pid) and now.done(pid) for name, pid in everywhere), cast.check
        )
        settled_at = await stage.clock()
        await asyncio.sleep(CALM_FOR * self.plan.seconds)

        place, stopping_at = stage.places[-1], await stage.clock()
        await place.stop()
        down_at = await stage.clock()
        say(f"server {place.name} is stopped, as in a crash")
        await asyncio.sleep(min(AWAY_FOR * self.plan.seconds, AWAY_AT_MOST))
        await place.start()
        up_at = await stage.clock()
        say(f"server {place.name} is up again")
        await watch.until(partial(self._all_are_back, cast, place, await watch.look()), cast.check)
        self.outage = Outage(place, settled_at, stopping_at, down_at, up_at, await stage.clock())
        say(f"all processes do tasks of {place.name} again")
        await watch.until(self._is_done, cast.check)
        say("all work is done")
        await cast.stop()

    def _is_done(self, now: Seen) -> bool:
        return now.finished >= self.plan.tasks

    def _all_are_back(self, cast: Cast, place: Place, before: Seen, now: Seen) -> bool:
        """Each process has finished some of its tasks since then, if there are any left."""
        before, since = before.at(place.name), now.at(place.name)
        back = [since.done(runner.pid) > before.done(runner.pid) for runner in cast.runners]
        return all(back) or self._is_done(now)

    # What came of it -----------------------------------------------------------------------------------------

    async def judge(self, stage: Stage, cast: Cast) -> ShardsVerdict:
        outage = self.outage
        finishes = {place: [row["at"] for row in await place.pool.fetch(FINISHES)] for place in stage.places}
        none_left_at = min(max(times, default=outage.up_at) for times in finishes.values())
        all_up = [(outage.settled_at, outage.stopping_at), (outage.settled_again_at, none_left_at)]
        per_server = [
            await judge_server(outage, place, times, all_up=all_up) for place, times in finishes.items()
        ]
        others = [each for each in per_server if each.server != outage.place.name]
        returned = [at for at in finishes[outage.place] if at >= outage.up_at]
        return ShardsVerdict(
            await recount(stage, self.table, cast),
            crashed=outage.place.name,
            outage_seconds=round(seconds_between(outage.down_at, outage.up_at), 2),
            held=sum(each.held for each in per_server),
            reruns_of_others=sum(each.reruns_of_others for each in per_server),
            fairness=jain([each.finished_while_all_up for each in per_server]),
            least_times=min(each.times for each in others),
            longest_gap_ms=max(each.longest_gap_ms for each in others),
            return_seconds=round(seconds_between(outage.up_at, returned[0]), 2) if returned else None,
            per_server=per_server,
        )


async def judge_server(
    outage: Outage, place: Place, finishes: Sequence[datetime], *, all_up: Sequence[tuple[datetime, datetime]]
) -> ServerVerdict:
    def within(start: datetime, end: datetime) -> list[datetime]:
        return [at for at in finishes if start <= at < end]

    def a_second(start: datetime, end: datetime) -> float:
        return round(len(within(start, end)) / seconds_between(start, end), 2)

    down_at = outage.down_at if place is outage.place else None
    ((held, reruns_of_others),) = await place.pool.fetch(HELD, down_at)
    away = outage.stopping_at, outage.up_at
    return ServerVerdict(
        server=place.name,
        held=held,
        reruns_of_others=reruns_of_others,
        finished_while_all_up=sum(len(within(*window)) for window in all_up),
        a_second_before=a_second(outage.settled_at, outage.stopping_at),
        a_second_in_outage=a_second(*away),
        longest_gap_ms=round(
            max(starmap(seconds_between, pairwise([away[0], *within(*away), away[1]]))) * 1000, 1
        ),
    )


def seconds_between(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()


@dataclass(frozen=True, slots=True)
class ServerVerdict:
    server: str
    held: int
    """Tasks, by sessions, when it went down."""

    reruns_of_others: int
    """Tasks that were not held then, and ran more than once."""

    finished_while_all_up: int
    """Tasks, while all servers had some left."""

    a_second_before: float
    """Finished, before the crash."""

    a_second_in_outage: float
    longest_gap_ms: float
    """Without a finish, in the outage."""

    @property
    def times(self) -> float:
        """As fast in the outage as before."""
        return round(self.a_second_in_outage / self.a_second_before, 2) if self.a_second_before else 0.0


@dataclass(frozen=True, slots=True)
class ShardsVerdict(Verdict):
    scenario: ClassVar[str] = "shards"
    crashed: str
    """The server."""

    outage_seconds: float
    held: int
    """Tasks of that server, by sessions, when it went down."""

    reruns_of_others: int
    """Tasks of any server that were not among these, and ran more than once."""

    fairness: float
    """Of the tasks that were finished while all servers were up and had some left: Jain's index over the servers."""

    least_times: float
    """Of the servers that stayed up: finishes a second in the outage by those before it, where this is least."""

    longest_gap_ms: float
    """Of the servers that stayed up: without a finish in the outage."""

    return_seconds: float | None
    """From when the server accepted connections again until one of its tasks was finished."""

    per_server: list[ServerVerdict]

    @property
    def good(self) -> bool:
        right = self.course.complete and self.reruns_of_others == 0 and self.fairness >= LEAST_FAIRNESS
        not_slowed = self.least_times >= LEAST_TIMES and self.longest_gap_ms <= MOST_GAP
        return right and not_slowed and self.return_seconds is not None and self.return_seconds <= MOST_RETURN

    def sentences(self) -> list[str]:
        course, crashed = self.course, self.crashed
        result = (
            f"Server {crashed} was away for {self.outage_seconds:.1f} s, and {course.finished} of {course.tasks} tasks are finished, "
            f"{course.finished_twice or 'none'} of them twice. {course.reruns - self.reruns_of_others} of the {self.held} that were held at "
            f"{crashed} when it went down ran again, and {self.reruns_of_others or 'none'} of the others: {as_it_should_be(self.good)}."
        )
        rates = ", ".join(
            f"{each.a_second_before:.0f} and {each.a_second_in_outage:.0f} at {each.server}"
            for each in self.per_server
        )
        speed = (
            f"Finished a second before and in the outage: {rates}; that is {self.least_times:.2f} times as many at least (of {LEAST_TIMES} "
            f"demanded) where there was none, with pauses of up to {self.longest_gap_ms:.0f} ms (of {MOST_GAP:.0f} allowed)."
        )
        returned = "never" if self.return_seconds is None else f"{self.return_seconds:.1f} s after it was up"
        back = f"The first task of {crashed} was finished {returned} again (of {MOST_RETURN:.0f} s allowed)."
        fair = f"While all were up, the fairness of the finishes was {self.fairness:.4f} (of {LEAST_FAIRNESS} demanded)."
        return [result, speed, f"{back} {fair}", *course.sentences()]
