"""Hunts every mutant of our SQL (`mutants.py`) down, and writes the table of what has killed it: `nox -s mutants`.

First what killed it last time, by the table; then what statements do alone, then the crossings (of a lock); of a claim under limits
the plays of `limited.txt`, of duties those of `planned.txt`; then the tests of the SQL as shipped.
A mutant that lives is proven equal to the original in `EQUAL`, or the tests have a hole. `--part 1/4` hunts a fourth of them,
names as arguments these: the table keeps what it says of the others.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from session_lock.catalog import read_shape
from session_lock.duties import DUTIES as DUTY_RUNS
from session_lock.migrations import install
from session_lock.schema import fill, holes
from tests.conftest import TestDatabase, fresh_database, prepare_template, running_server
from tests.sql import limited, planned
from tests.sql.alone import alone, right
from tests.sql.crossing import each_pair_once, play, points_of
from tests.sql.equal import EQUAL
from tests.sql.mutants import DUTIES, LIMITS, NOT_MUTATED, QUEUE, SourceMutant, mutants
from tests.sql.planned import Plan
from tests.sql.scene import Scene, open_scene
from tests.sql.schedule import open_lab
from tests.sql.stage import Stage, open_stage
from tests.support import EMAILS

TABLE = Path("docs/reference/sql-mutants.md")
TESTS = {
    LIMITS: ["tests/database/test_limits.py", "tests/sql/test_limit_schedules.py"],
    DUTIES: ["tests/duties/test_planning.py"],
    QUEUE: ["tests/cli/test_queue.py", "tests/contrib/test_enqueue.py"],
}
BESIDE = {QUEUE}
"""The scene has none of it."""

NOT_IN_SCENE = {"clock", "limit_transaction"}
"""The scene has a clock of its own; and a transaction that is limited too much takes its connections away."""

OTHER_TESTS = [
    "tests/sql/test_schedules.py",
    "tests/sql/test_position.py",
    "tests/sql/test_requests.py",
    "tests/sql/test_accepts.py",
    "tests/sql/test_limit_schedules.py",
    "tests/database",
]

CALLED_BY = {
    "bump_session": ("keepalive", "drain"), "finish_in": ("finish in",), "finish_tasks": ("finish",), "release_tasks": ("give back", "put off", "discard"),
    "end_session": ("end",), "cancel_task": ("cancel",), "retry_tasks": ("retry",), "get_work": ("look", "takes", "start"), "sessions_of": ("look", "takes", "cancel"),
    "sweep_sessions": ("look", "takes"), "forget_cancelled": ("look", "takes", "give back"),
    "standing": ("finish", "give back", "put off", "discard", "end"),
}  # fmt: skip
"""Whose crossings can tell a mutant of the function from the original; for the others all can."""


def related(mutant: SourceMutant, name: str) -> bool:
    called_by = CALLED_BY.get(mutant.function_name)
    return called_by is None or any(part in name for part in called_by)


@dataclass
class Field:
    """A scene in which one function at a time is replaced by a mutant of it."""

    scene: Scene
    words: dict[str, str]
    stage: Stage
    plan: Plan
    crossings: list[str] = dataclass_field(default_factory=list)

    async def put(self, file: str, function: str) -> None:
        if file == LIMITS:
            await self.stage.put(function)
        elif file == DUTIES:
            await self.plan.put(function)
        elif file not in BESIDE:
            await self.scene.lab.admin.execute(fill(function, self.words))

    async def sees(self, killer: str) -> bool:
        """Whether a play alone, one under limits or of duties, or a crossing, finds something not as it should be."""
        kind, _, name = killer.partition(": ")
        try:
            async with asyncio.timeout(15):
                if kind == "alone":
                    return await alone(self.scene, name) != right()[name]
                if kind == "limited":
                    return await limited.play(self.stage, name) != limited.right()[name]
                if kind == "planned":
                    return await self.plan.play(name) != planned.right()[name]
                return bool((await play(self.scene, name)).wrongs)
        except (
            AssertionError,
            TimeoutError,
            asyncpg.PostgresError,
        ):  # it waits for ever, or the judge himself is refused
            return True

    async def killer(self, mutant: SourceMutant, last: str) -> str:
        """The first that sees it, and sees nothing in the original; or an empty string."""
        names = sorted(right(), key=lambda name: not related(mutant, name))
        crossings = [f"crossing: {name}" for name in self.crossings if related(mutant, name)]
        every = [*(f"alone: {name}" for name in names), *(crossings if mutant.is_of_locks else [])]
        if mutant.file == LIMITS:
            every = [f"limited: {name}" for name in limited.right()]
        elif mutant.file == DUTIES:
            every = [f"planned: {name}" for name in planned.right()]
        await self.put(mutant.file, mutant.mutated_function)
        for killer in [last, *every] if last else every:
            if await self.sees(killer):
                break
        else:
            killer = ""
        await self.put(mutant.file, mutant.shipped_function)
        if killer and await self.sees(killer):
            raise RuntimeError(f"{killer} sees a fault in the SQL as shipped")
        return killer


@asynccontextmanager
async def field_on(database: TestDatabase) -> AsyncIterator[Field]:
    async with open_lab(database) as lab:
        await install(lab.admin, DUTY_RUNS)
        async with open_scene(lab, database.admin_dsn) as scene:
            stage = await open_stage(lab, database.admin_dsn)
            plan = await planned.open_plan(lab, database.admin_dsn)
            yield Field(scene, holes(EMAILS, await read_shape(lab.admin, EMAILS)), stage, plan)


async def hunt(field: Field, dsn: str, mutant: SourceMutant, last: str) -> str:
    """What kills it, or an empty string."""
    by_tests_alone = mutant.function_name in NOT_IN_SCENE or mutant.file in BESIDE
    if not by_tests_alone and not last.startswith("tests/") and (found := await field.killer(mutant, last)):
        return found
    return (last.startswith("tests/") and await failing(dsn, mutant, [last])) or await failing(
        dsn, mutant, TESTS.get(mutant.file, OTHER_TESTS)
    )


async def failing(dsn: str, mutant: SourceMutant, paths: list[str]) -> str:
    """The first test that fails on the mutant, or an empty string."""
    command = ["-m", "pytest", "-x", "-q", "-n0", "-p", "tests.sql.mutated", "--timeout=120", *paths]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"SESSION_LOCK_MUTANT": mutant.name, "SESSION_LOCK_TEST_DSN": dsn},
    )  # fmt: skip
    said = (await process.communicate())[0].decode()
    if process.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::\S+?(?:\[.*?\])?)(?: - |$)", said, re.MULTILINE)
    if not failed:
        raise RuntimeError(f"{mutant.name}: pytest says\n{said}")
    return failed[1]


# The table -------------------------------------------------------------------------------------------------------


def table() -> dict[str, str]:
    """What the table says of each mutant."""
    if not TABLE.exists():
        return {}
    rows = re.findall(r"^\| `(.*?)` \| (.*?) \|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.replace("\\|", "|"): killer.replace("\\|", "|").replace("`", "") for name, killer in rows}


def write_table(killed: Mapping[str, str], hunted: int, server: str) -> None:
    by = {
        kind: sum(each.startswith(kind) for each in killed.values())
        for kind in ("alone", "limited", "planned", "crossing", "tests/", "equal")
    }
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(
        "# Mutants of our SQL\n\n"
        f"Written by `nox -s mutants` on {datetime.now(UTC):%Y-%m-%d}, PostgreSQL {server}, Python {platform.python_version()}: {hunted} of the {len(killed)} were"
        " hunted in this run, the others in runs before. Do not edit.\n\n"
        "A mutant is one small fault, made by a rule, in one of our functions (`tests/sql/mutants.py`). What sees it is in the second column: a\n"
        "statement alone (`tests/sql/alone.txt`), a play under limits (`tests/sql/limited.txt`) or of duties\n"
        "(`tests/sql/planned.txt`), a crossing of two (`python -m tests.sql.crossing NAME`), or a test. *equal*: nobody can tell it from the original, and why.\n\n"
        f"{len(killed)} mutants: {by['alone']} killed by a statement alone, {by['limited']} by a play under limits, {by['planned']} by one of duties, {by['crossing']} by a crossing, {by['tests/']} by a test;"
        f" {by['equal']} equal to the original; {sum(not each for each in killed.values())} live.\n\n"
        "These functions have no mutants:\n\n"
        + "".join(f"- `{name}` ({file}): {why}\n" for file, functions in NOT_MUTATED.items() for name, why in functions.items())
        + "\n| mutant | killed by |\n|---|---|\n"
        + "".join(f"| `{_cell(name)}` | {_cell(f'`{killer}`' if not killer.startswith('equal') and killer else killer)} |\n" for name, killer in killed.items()),
        encoding="utf-8",
    )  # fmt: skip


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


async def main(arguments: list[str]) -> int:
    chosen = list(mutants())
    if arguments[:1] == ["--part"]:
        part, parts = map(int, arguments[1].split("/"))
        chosen = chosen[part - 1 :: parts]
    elif arguments:
        chosen = arguments
    last, killed = table(), {}
    with running_server() as dsn:
        await prepare_template(dsn)
        async with fresh_database(dsn, "template1") as database, field_on(database) as field:
            field.crossings = list(each_pair_once(await points_of(field.scene)))
            server = await field.scene.lab.admin.fetchval("SHOW server_version")
            for name in chosen:
                killed[name] = (
                    f"equal: {EQUAL[name]}"
                    if name in EQUAL
                    else await hunt(field, dsn, mutants()[name], last.get(name, ""))
                )
                print(f"{name} <- {killed[name] or 'NOBODY'}", flush=True)
                said = table() | killed
                write_table({name: said.get(name, "") for name in mutants()}, len(killed), server)
    alive = [name for name in killed if not killed[name]]
    print(f"{len(killed)} mutants, {len(alive)} live", *alive, sep="\n")
    return min(len(alive), 1)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
