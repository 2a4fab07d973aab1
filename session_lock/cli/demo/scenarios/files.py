"""Several runner processes compute the SHA-256 of files: each is finished once, with the right digest."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from session_lock import Batch, Task, Tasker, TaskTable
from session_lock.cli.demo.access import Connection, Pool
from session_lock.cli.demo.cast import Cast
from session_lock.cli.demo.part import Backstage
from session_lock.cli.demo.plan import Plan
from session_lock.cli.demo.scenario import SHORT_LEASE, Scenario, Wish
from session_lock.cli.demo.scenarios.listing import Listing, digest, list_files, look_at, standard_library
from session_lock.cli.demo.stage import SCHEMA, Stage
from session_lock.cli.demo.tasker import Row, StubbornTasker
from session_lock.cli.demo.verdict import Verdict, as_it_should_be, recount

FIVE_SECONDS = {**SHORT_LEASE, "lease_ttl": 5.0, "keepalive_interval": 0.8, "call_timeout": 1, "cancel_grace": 0.5, "guard": 0.5}  # fmt: skip


class Files(Scenario):
    about = "the files of Python's standard library, or those below --dir, each with its SHA-256"
    options: ClassVar[frozenset[str]] = Scenario.options | {"dir"}

    def __init__(self, wish: Wish) -> None:
        self.files: Listing = list_files(wish.directory or standard_library(), most=wish.tasks)
        seconds = wish.seconds or (25.0 if wish.kill or wish.freeze else 8.0)
        self.plan: Plan = Plan(wish.runners, len(self.files), seconds, kill=wish.kill, freeze=wish.freeze)

    def opening(self) -> str:
        return (
            f"{self.plan.tasks} files of {self.files.root}: {self.plan.runners} processes compute their SHA-256, "
            f"in about {self.plan.seconds:.0f} seconds."
        )

    table: ClassVar[TaskTable] = TaskTable(
        f"{SCHEMA}.file",
        key="id",
        pending="finished_at IS NULL",
        finish="finished_at = now()",
        columns=("path",),
        schema=SCHEMA,
    )

    tables = f"""
    CREATE TABLE {SCHEMA}.file (
      id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      path        text NOT NULL,
      size        bigint NOT NULL,
      digest      text,                              -- SHA-256, written by the tasker in its finishing transaction
      finished_at timestamptz
    ) WITH (fillfactor = 50);
    """

    grants = f"GRANT SELECT (id), UPDATE (digest) ON {SCHEMA}.file TO {{role}}"

    async def fill(self, connection: Connection) -> None:
        rows = [(file.path, file.size) for file in self.files.files]
        await connection.copy_records_to_table(
            "file", schema_name=SCHEMA, columns=["path", "size"], records=rows
        )

    base_settings: ClassVar[Mapping[str, Any]] = FIVE_SECONDS

    @classmethod
    def tasker(cls, backstage: Backstage) -> Tasker[Row]:
        return Hasher(backstage)

    async def judge(self, stage: Stage, cast: Cast) -> FilesVerdict:
        wrong, changed = await compare(stage.pool, self.files)
        return FilesVerdict(await recount(stage, self.table, cast), wrong, changed)


class Hasher(StubbornTasker[str | None]):
    async def prepare(self, batch: Batch[Row]) -> dict[Task[Row], str | None]:
        return {task: await asyncio.to_thread(digest, task.data["path"]) for task in batch}

    async def write(self, connection: Any, prepared: dict[Task[Row], str | None]) -> None:
        for task, value in prepared.items():
            await connection.execute(f"UPDATE {SCHEMA}.file SET digest = $2 WHERE id = $1", task.key, value)


async def compare(pool: Pool, files: Listing) -> tuple[int, int]:
    """How many digests are wrong, and how many files are not what they were at the beginning, so that nobody can say."""
    rows = await pool.fetch(f"SELECT path, digest FROM {SCHEMA}.file")
    stored = {row["path"]: row["digest"] for row in rows}
    wrong = changed = 0
    for file in files.files:
        if stored.get(file.path) != await asyncio.to_thread(digest, file.path):
            if look_at(file.path) == file:
                wrong += 1
            else:
                changed += 1
    return wrong, changed


@dataclass(frozen=True, slots=True)
class FilesVerdict(Verdict):
    scenario: ClassVar[str] = "files"
    wrong_digests: int
    changed_files: int

    @property
    def good(self) -> bool:
        return self.course.complete and self.wrong_digests == 0

    def to_json(self) -> dict[str, Any]:
        course = asdict(self.course)
        first = {name: course.pop(name) for name in ("tasks", "finished", "runs", "reruns")}
        return {**first, "wrong_digests": self.wrong_digests, **course}

    def sentences(self) -> list[str]:
        course = self.course
        result = (
            f"{course.finished} of {course.tasks} files are finished, {course.finished_twice or 'none'} of them twice, "
            f"{self.wrong_digests or 'none'} with a wrong digest: {as_it_should_be(self.good)}."
        )
        lines = [result, *course.sentences(lease_ttl=FIVE_SECONDS["lease_ttl"])]
        if self.changed_files:
            lines.append(f"{self.changed_files} files changed meanwhile; their digests were not compared.")
        return lines
