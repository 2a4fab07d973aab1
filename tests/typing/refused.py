"""Never run: what a type checker is to refuse (`nox -s types`). An ignore that is needless is an error of both checkers."""

from dataclasses import dataclass
from typing import Any

from session_lock import (
    Batch,
    Duty,
    PostgresDatabase,
    Release,
    Retry,
    Runner,
    RunnerGroup,
    Settings,
    Task,
    TaskTable,
    each,
    every,
)
from session_lock.testing import MemoryDatabase, run_until_idle


@dataclass
class Email:
    address: str


table = TaskTable("email", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])
emails = PostgresDatabase("postgresql:///app", table, decode=Email)


async def of_text(batch: Batch[str]) -> Batch[str]:
    return batch


async def keys(batch: Batch[Email]) -> list[Any]:
    return [batch[0].data.adress]  # type: ignore[attr-defined]


async def counts(batch: Batch[Email]) -> int:  # neither tasks nor nothing
    return len(batch)


async def one_text(task: Task[str]) -> None: ...


async def says_so(task: Task[Email]) -> bool:
    return bool(task)


Runner(emails, of_text)  # type: ignore[misc]
Runner(emails, counts)  # type: ignore[arg-type]
Runner(emails, each(one_text))  # type: ignore[misc]
each(says_so)  # type: ignore[arg-type]
Runner(emails, keys, Settings(concurency=3))  # type: ignore[call-arg]
Runner(emails, keys, Settings(retry=3))  # type: ignore[arg-type]
Retry(on={"ValueError": Retry()})  # type: ignore[dict-item]
Release(after="soon")  # type: ignore[arg-type]
RunnerGroup([Runner(emails, keys)])  # type: ignore[arg-type]
TaskTable("email", "id", "true", "id = 0", claim_columns=["sender"])  # type: ignore[arg-type]
TaskTable("email", "id", "true", "id = 0", limits=[3])  # type: ignore[list-item]
Duty("clean", "5m", one_text)  # type: ignore[arg-type]
Duty("clean", every("5m"), one_text)  # type: ignore[arg-type]


async def in_a_test() -> None:
    await run_until_idle(MemoryDatabase({1: Email("ann@example.org")}), of_text)  # type: ignore[arg-type]
