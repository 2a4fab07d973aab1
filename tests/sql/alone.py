"""What statements answer and change when nobody is beside them, in words: `alone.txt` says what is right.

`python -m tests.sql.alone` prints that file as the SQL has it now: a change of it is what a reviewer reads.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

from tests.sql import asked
from tests.sql.asked import ASKED
from tests.sql.crossing import own_scene
from tests.sql.scene import Change, Scene
from tests.sql.schedule import Work
from tests.sql.statements import ALONE, STATEMENTS

TIMES = {
    "available_at",
    "sent_at",
    "failed_at",
    "expires_at",
    "beat_at",
    "ended_at",
    "swept_at",
    "started_at",
    "asked_at",
    "counted_at",
}


CLEAN_UP = "DROP TRIGGER stubborn ON public.email; DROP FUNCTION IF EXISTS public.stubborn"


async def alone(scene: Scene, names: str) -> list[str]:
    """`look; finish`: one after the other, in a scene that was set back. What the last one said, changed and told others; what went wrong."""
    admin = scene.lab.admin
    heard: set[str] = set()

    def hear(*message: Any) -> None:
        heard.add(message[-1])

    await scene.set_back()
    await admin.add_listener("session_lock", hear)
    try:
        for name in names.split("; "):
            heard.clear()
            statement = {**STATEMENTS, **ALONE, **ASKED}[name]
            if statement.later:
                await scene.lab.advance(statement.later)
            before = len(await scene.audit())
            try:
                said = _answer(await statement.act(scene, 0))
            except asyncpg.PostgresError as error:
                said = error.sqlstate
            changes = (await scene.audit())[before:]
    finally:
        await admin.remove_listener("session_lock", hear)
        if names.startswith("leave"):
            await admin.execute(CLEAN_UP)
    failures = await admin.fetch(
        "SELECT name, task_key, max(attempt) AS attempt, error, count(*) AS times,"
        "       max(at) - session_lock.clock() < interval '-20 s' AS old"
        "  FROM session_lock.failure GROUP BY name, task_key, error"
    )
    told = [line for change in changes if (line := _changed(change))]
    told += [
        f"failure of {f['name']} {f['task_key']}: {f['error']} ({f['times']}, {f['attempt']}{', long ago' * f['old']})"
        for f in failures
    ]
    told += [f"heard {each!r}" for each in heard]
    return [f"-> {said}", *sorted(told)]


def _answer(answer: Any) -> str:
    if isinstance(answer, Work):
        due = None if answer.next_due is None else round(answer.next_due)
        claims = {key: _token(token) for key, token in answer.claims.items()}
        return f"{claims} attempts {[*answer.attempts.values()]} {answer.outcomes or ''} left {answer.left:.0f} due {due}"
    if isinstance(answer, asyncpg.Record):
        return str({field: round(value) if field == "left" else value for field, value in answer.items()})
    return str(answer)


def _changed(change: Change) -> str:
    was, is_ = change.was, change.became
    if not is_:
        return f"{change.about} {was['id']} goes"
    fields = {name: _value(name, value, change.at) for name, value in is_.items() if value != was.get(name)}
    if not was and change.about == "email":
        return f"a new email {is_['id']}"
    if not was:
        return f"a new {change.about} that expires {fields['expires_at']}"
    return (
        f"{change.about} {is_['id']}: {', '.join(f'{name} {value}' for name, value in fields.items())}"
        if fields
        else ""
    )


def _token(token: int | None) -> Any:
    """One that was made of the clock is another in each run."""
    return token if token is None or token < 1e12 else "of the clock"


def _value(name: str, value: Any, at: datetime) -> Any:
    if name == "session_id" and value and value >= 100:
        return "of the new session"
    if name == "claim_token":
        return _token(value)
    if name == "idle_from" and value:
        return "on"
    if name not in TIMES or value in (None, "infinity"):
        return value
    seconds = round((datetime.fromisoformat(value) - at).total_seconds())
    return f"now{seconds:+}" if seconds else "now"


SEQUENCES = [
    "put 1 in anew; look",
    "put 1 in anew; look; finish",
    "put 1 in anew; look over the reply lost",
    "put 1 in anew; another looks",
    "close 1; finish what is closed",
    "close 1; give back one",
    "close 1; end with one",
    "close 1; finish in of one",
    "finish one of two; finish one of two",
    "give back; finish",
    "give back; give back",
    "give back; discard",
    "put off; put off",
    "cancel; give back",
    "cancel; put off",
    "cancel; park",
    "cancel; finish",
    "cancel; look",
    "cancel; keepalive",
    "cancel; cancel 2",
    "cancel; end",
    "cancel; end unknowing",
    "cancel; another takes over",
    "cancel; end; another looks",
    "cancel; cancel",
    "cancel 2; give back with an old token",
    "cancel; look over the reply lost",
    "cancel; finish; look",
    "cancel of the dead; look",
    "second is asked to cancel 1; another finishes",
    "second is asked to cancel 1; another looks for all",
    "second is asked to cancel 1; look",
    "no attempts; give back",
    "no attempts; end",
    "two attempts; end",
    "two attempts; give back",
    "21 failures each; put off",
    "21 failures each; another takes over",
    "leave the finished open; finish",
    "all are idle; end",
    "all are idle; end unknowing",
    "all are idle; another takes over",
    "another mapping's session; look",
    "another mapping's session; another takes over",
    "another mapping's session; all are idle; end unknowing",
    "the session is another mapping's; look",
    "nobody has started; start",
    "nobody has started; start; copy to another server; start",
    "copy to another server; start",
    "copy to another database; start",
    "another mapping's pause; keepalive",
    "another mapping's pause; look",
    "pause; keepalive",
    "pause; look",
    "ask for two; keepalive",
    "ask for two; keepalive; keepalive",
    "ask to drain; keepalive",
    "drain; look",
    "end; end",
    "end; keepalive",
    "end; look",
    "end; finish",
    "end; give back",
    "end; finish in",
    "end; another looks",
    "end unknowing; another looks",
    "end; another looks; another looks",
    "another looks; another looks for all",
    "another takes over; another looks for all",
    "sweep the dead; look",
    "sweep the dead; look; look",
    "drop the dead; look",
    "drop the dead; look; look",
    "drop the session; finish",
    "drop the session; another looks; another looks knowing nothing",
    "close; another takes over; open all; another looks; another looks",
    "look; look over the reply lost",
    "park; retry",
    "close; cancel",
    "delete; cancel",
    "late look; another takes over",
    "another takes over; finish",
    "another takes over; finish in",
    "another takes over; give back",
    "another takes over; end",
    "cancel; second is asked to cancel 1; finish; look over the reply lost",
    "cancel; close 1; look over the reply lost",
    "close 1; drop the session; another looks",
    "park 1 by hand; drop the session; another looks",
    "cancel; close 1; another takes over",
    "second is asked to cancel 1; cancel; another takes over",
    "close 6; retry",
    "park 1 by hand; retry",
    "another looks later; retry",
    "cancel 2; look for one knowing nothing",
    "look; look",
    "another looks; look; look",
    "leave the discarded open; discard",
    "leave the discarded open; cancel 4",
    "leave the finished open; finish in of one",
    "leave the finished open; look and finish",
]
"""Beside each of the statements by itself."""


def right() -> dict[str, list[str]]:
    """What `alone.txt` says, by the names of the plays."""
    return read_right("alone.txt")


def read_right(file: str) -> dict[str, list[str]]:
    """A file of plays, each followed by what comes of it."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in Path(__file__).with_name(file).read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            lines.append(line.strip())
        else:
            lines = found[line] = []
    return found


def plays() -> list[str]:
    alone = [name for name in [*STATEMENTS, *ALONE] if not name.startswith("leave")]
    return [*alone, *SEQUENCES, *asked.SEQUENCES]


async def main() -> None:
    async with own_scene() as scene:
        for names in plays():
            print(names, *(f"    {line}" for line in await alone(scene, names)), sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
