"""Messages of many conversations, one at a time and in order within each, while one runner is killed and some runs fail."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import ClassVar

from session_lock import Limit, Retry, Settings, Task, Tasker, TaskTable, each
from session_lock.cli.demo.access import Connection
from session_lock.cli.demo.cast import Cast
from session_lock.cli.demo.part import Backstage, Part
from session_lock.cli.demo.plan import Plan
from session_lock.cli.demo.scenario import Scenario, Wish
from session_lock.cli.demo.stage import SCHEMA, Stage
from session_lock.cli.demo.tasker import Row, log_run
from session_lock.cli.demo.verdict import Verdict, as_it_should_be, recount

CONVERSATIONS = 30
STUTTERS = 0.05
"""The part of the messages whose first run fails."""

# A run is from when its task was claimed until the database let go of the task, but not before the run's last words: what
# was said, or another run's claim. Those of one conversation that overlap, each counted once.
OVERLAPS = f"""
WITH claimed AS (
  SELECT m.conversation, e.task, e.token, e.at,
         greatest(
           coalesce((SELECT min(n.at) FROM {SCHEMA}.event AS n WHERE n.task = e.task AND n.token = e.token AND n.what <> 'claimed'),
                    (SELECT s.ended_at FROM {SCHEMA}.session AS s WHERE s.id = e.session), 'infinity'),
           (SELECT max(a.at) FROM {SCHEMA}.said AS a WHERE a.message = e.task AND a.token = e.token),
           (SELECT max(r.at) FROM {SCHEMA}.run AS r WHERE r.task = e.task AND r.token = e.token)
         ) AS until
    FROM {SCHEMA}.event AS e JOIN {SCHEMA}.message AS m ON m.id = e.task
   WHERE e.what = 'claimed'
)
SELECT count(*) FROM claimed AS c
 WHERE EXISTS (SELECT FROM claimed AS o
                WHERE o.conversation = c.conversation AND (o.task, o.token) <> (c.task, c.token) AND o.at <= c.at AND c.at < o.until)
"""

# Messages that were said before one that stands before them.
OUT_OF_ORDER = f"""
SELECT count(*) FROM {SCHEMA}.said AS s JOIN {SCHEMA}.message AS m ON m.id = s.message
 WHERE EXISTS (SELECT FROM {SCHEMA}.said AS t JOIN {SCHEMA}.message AS n ON n.id = t.message
                WHERE n.conversation = m.conversation AND n.id < m.id AND t.at >= s.at)
"""


class Serial(Scenario):
    about = "conversations: one message at a time in each, in order, while a runner is killed"
    options: ClassVar[frozenset[str]] = Scenario.options - {"no-freeze"}

    def __init__(self, wish: Wish) -> None:
        tasks = wish.tasks or 600
        # Frozen, a run would overlap with the one that takes over: what it writes is refused, but it does run.
        self.plan: Plan = Plan(
            wish.runners, tasks, wish.seconds or 8.0, kill=wish.kill, freeze=False, runs=tasks
        )

    def opening(self) -> str:
        return (
            f"{self.plan.tasks} messages of {CONVERSATIONS} conversations: {self.plan.runners} processes say them, one at a time "
            f"and in order in each, in about {self.plan.seconds:.0f} seconds."
        )

    table: ClassVar[TaskTable] = TaskTable(
        f"{SCHEMA}.message",
        key="id",
        pending="finished_at IS NULL",
        finish="finished_at = now()",
        columns=("conversation", "stutters"),
        order_by=("id",),
        limits=(Limit(1, by="conversation", ordered=True),),
        schema=SCHEMA,
    )

    # Nothing here keeps two messages of a conversation from being said at once, or in another order.
    tables = f"""
    CREATE TABLE {SCHEMA}.message (
      id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      conversation integer NOT NULL,
      stutters     boolean NOT NULL,
      finished_at  timestamptz
    ) WITH (fillfactor = 50);
    CREATE TABLE {SCHEMA}.said (
      message bigint NOT NULL,
      token   bigint NOT NULL,
      at      timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    """

    grants = f"GRANT INSERT ON {SCHEMA}.said TO {{role}}"

    async def fill(self, connection: Connection) -> None:
        rows = [(random.randrange(CONVERSATIONS), random.random() < STUTTERS) for _ in range(self.plan.tasks)]
        await connection.copy_records_to_table(
            "message", schema_name=SCHEMA, columns=["conversation", "stutters"], records=rows
        )

    @classmethod
    def tasker(cls, backstage: Backstage) -> Tasker[Row]:
        return each(Speaker(backstage))

    @classmethod
    def settings(cls, part: Part) -> Settings:  # noqa: ARG003
        return Settings(**cls.base_settings, retry=Retry(delay=0.3))

    async def judge(self, stage: Stage, cast: Cast) -> SerialVerdict:
        return SerialVerdict(
            await recount(stage, self.table, cast),
            conversations=CONVERSATIONS,
            said=await stage.pool.fetchval(f"SELECT count(*) FROM {SCHEMA}.said"),
            overlaps=await stage.pool.fetchval(OVERLAPS),
            out_of_order=await stage.pool.fetchval(OUT_OF_ORDER),
        )


class Stutter(Exception):  # noqa: N818 (no error of ours)
    """It did not come out right."""


class Speaker:
    def __init__(self, backstage: Backstage) -> None:
        self._pool = backstage.pool
        self._pause = backstage.part.pause

    async def __call__(self, task: Task[Row]) -> None:
        await log_run(self._pool, task)
        if task.data["stutters"] and task.attempt == 1:
            await asyncio.sleep(self._pause)
            raise Stutter
        async with task.transaction() as connection:
            await asyncio.sleep(self._pause)
            await connection.execute(
                f"INSERT INTO {SCHEMA}.said (message, token) VALUES ($1, $2)", task.key, task.token
            )


@dataclass(frozen=True, slots=True)
class SerialVerdict(Verdict):
    scenario: ClassVar[str] = "serial"
    conversations: int
    said: int
    """Lines: one for each message."""

    overlaps: int
    """Runs that began before another one of the conversation was over."""

    out_of_order: int
    """Messages that were said before one that stands before them."""

    @property
    def good(self) -> bool:
        course = self.course
        return course.complete and self.said == course.tasks and self.overlaps == self.out_of_order == 0

    def sentences(self) -> list[str]:
        course = self.course
        result = (
            f"{course.finished} of {course.tasks} messages are said, in {self.said} lines. {self.overlaps or 'No'} runs of one "
            f"conversation overlapped, {self.out_of_order or 'none'} came out of order: {as_it_should_be(self.good)}."
        )
        return [result, *course.sentences(lease_ttl=Serial.base_settings["lease_ttl"])]
