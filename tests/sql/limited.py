"""What claims under limits, rates and turns come to, in words: `limited.txt` says what is right.

A play is a mapping and what happens to it, one after the other: `each: tasks aab; A looks; B looks`. Each letter is a task of this
address, keys go up from 1, and each is due a second after the one before it, an hour ago. A, B and C are sessions.
`python -m tests.sql.limited [PLAY]` prints that file as the SQL has it now: a change of it is what a reviewer reads.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from tests.conftest import fresh_database, prepare_template, running_server
from tests.sql.alone import read_right
from tests.sql.limited_plays import MAPPINGS, PLAYS
from tests.sql.schedule import Actor, open_lab
from tests.sql.stage import Stage, open_stage

SET_BACK = """
TRUNCATE public.email; DELETE FROM session_lock.session; DELETE FROM session_lock.failure; DELETE FROM session_lock.started;
UPDATE public.test_clock SET ahead = 0;
"""


@dataclass
class Play:
    stage: Stage
    mapping: str
    said: list[str] = field(default_factory=list)
    last_key: int = 0
    sessions: dict[str, Actor] = field(default_factory=dict)
    claims: dict[str, dict[int, int]] = field(default_factory=dict)
    positions: dict[str, str | None] = field(default_factory=dict)
    waiting: dict[str, asyncio.Task[str]] = field(default_factory=dict)

    async def step(self, step: str) -> None:
        for pattern, act in STEPS.items():
            if match := re.fullmatch(pattern, step):
                await act(self, *match.groups())
                return
        raise AssertionError(f"no such step: {step}")

    async def session(self, name: str, version: str = "") -> Actor:
        if name not in self.sessions:
            connection = self.stage.connections[name]
            row = await connection.fetchrow(
                "SELECT * FROM session_lock.start_session($1, '', 100, 300, '', $2, '')",
                self.mapping,
                version,
            )
            self.sessions[name] = Actor(
                connection, self.stage.functions[self.mapping], row["id"], row["nonce"]
            )
            self.claims[name] = {}
        return self.sessions[name]

    async def end(self) -> None:
        if self.stage.somebody.is_in_transaction():
            await self.stage.somebody.execute("ROLLBACK")
        for name in self.stage.connections:
            await self.commit(name)
        for name, task in list(self.waiting.items()):
            self.waiting.pop(name)
            self.said.append(await task)
        for name in self.stage.connections:
            await self.commit(name)
        started = await self.stage.hand.fetch(
            "SELECT name, value, number, round(extract(epoch FROM session_lock.clock() - at))::integer AS ago FROM session_lock.started ORDER BY value, name, at"
        )
        for row in started:
            value, whose = row["value"], "" if row["name"] == self.mapping else f" of {row['name']}"
            letter = "" if value is None else f" of {self.stage.letters[value]}"
            self.said.append(f"started {row['ago']} s ago: {row['number']}{letter}{whose}")

    async def commit(self, name: str) -> None:
        connection = self.stage.connections[name]
        if name not in self.waiting and connection.is_in_transaction():
            await connection.execute("COMMIT")

    async def tasks(
        self, letters: str, times: str | None, after: str | None, needs: str | None, how: str | None
    ) -> None:
        count = len(letters) * int(times or 1)
        await self.sql(
            "INSERT INTO public.email (id, address, available_at, body, sent_at) OVERRIDING SYSTEM VALUE"
            " SELECT $1 + g, substring($2, (g - 1) % length($2) + 1, 1),"
            "        CASE WHEN $6 THEN 'infinity' ELSE coalesce(session_lock.clock() + make_interval(secs => $3), now() - interval '1 h' + make_interval(secs => $1 + g)) END,"
            "        $4, CASE WHEN $5 THEN now() END"
            "   FROM generate_series(1, $7) AS g",
            self.last_key, letters, None if after is None else float(after), needs, how == "closed", how == "parked", count,
        )  # fmt: skip
        self.last_key += count
        if count > 100:
            await self.sql("ANALYZE public.email")

    async def look(self, name: str, *how: str | None) -> None:
        version, limit, turn, mode = how
        assert name not in self.waiting, f"{name} waits already"
        actor = await self.session(name, version or "")
        position = self.positions.get(name) if turn == "on" else None
        await actor.connection.execute(
            f"SELECT setseed({self.stage.seeds['c' if turn in (None, 'on') else turn]})"
        )
        arguments: dict[str, Any] = {"held": list(self.claims[name]), "position": position}
        mode = mode or ""
        if "knowing nothing" in mode:
            arguments["held"] = []
        if "by its share" in mode:
            arguments |= {"over_share": False, "at_once": 100}
        if "is done" in mode:
            arguments["finished"] = self.claims[name]
            arguments["held"] = list(self.claims[name])
        if "openly" in mode and not actor.connection.is_in_transaction():
            await actor.connection.execute("BEGIN")
        waits, task = await self.stage.lab.begin(actor, self._look(name, actor, int(limit or 20), arguments))
        if waits:
            self.waiting[name] = task
        self.said.append(f"{name} waits" if waits else await task)

    async def _look(self, name: str, actor: Actor, limit: int, arguments: dict[str, Any]) -> str:
        try:
            rows = await actor.connection.fetch(
                f"SELECT * FROM session_lock.get_work_{actor.functions}($1, $2, $3, $4, $5, NULL, $6, $7, $8, $9)",
                actor.id, actor.nonce, limit, arguments["held"], arguments["position"], arguments.get("over_share", True),
                arguments.get("at_once"), list(arguments.get("finished", {})), list(arguments.get("finished", {}).values()),
            )  # fmt: skip
        except asyncpg.PostgresError as error:
            return f"{name}: {error.sqlstate}"
        tasks, state = [row for row in rows if row["kind"] == "task"], rows[-1]
        for row in rows:
            if row["kind"] == "outcome" and row["outcome"] == "finished":
                del self.claims[name][row["task_key"]]
        self.claims[name] |= {row["task_key"]: row["task_token"] for row in tasks}
        for row in tasks:
            self.positions[name] = row["task_position"] or self.positions.get(name)
        words = [
            " ".join(f"{row['task_key']}{row['address']}" for row in tasks) or "nothing",
            *(["limited"] if state["outcome"] else []),
            *([f"due in {state['next_due']:.0f}"] if state["next_due"] is not None else []),
            *([f"share {state['task_share']}"] if state["task_share"] is not None else []),
            *(["from the start"] if state["walked"] is not None and arguments["position"] else []),
        ]
        if tasks and (position := tasks[0]["task_position"]):
            words.append(
                f"then {self.stage.letters.get(int(position), '?')}"
                if re.fullmatch(r"-?\d+", position)
                else "then in order"
            )
        return f"{name}: {', '.join(words)}"

    async def values(self, count: str, after: str | None, closed: str | None) -> None:
        """Each of its own."""
        await self.sql(
            "INSERT INTO public.email (id, address, available_at, sent_at) OVERRIDING SYSTEM VALUE"
            " SELECT $1 + g, 'value ' || g, session_lock.clock() + make_interval(secs => $2), CASE WHEN $4 THEN now() END FROM generate_series(1, $3) AS g",
            self.last_key, float(after or -3000), int(count), closed is not None,
        )  # fmt: skip
        self.last_key += int(count)
        await self.sql("ANALYZE public.email")

    async def one_value(self, number: str, closed: str | None) -> None:
        await self.values("1", None, closed)
        await self.sql("UPDATE public.email SET address = $1 WHERE id = $2", f"value {number}", self.last_key)

    async def finish(self, name: str, keys: str | None) -> None:
        chosen = [int(key) for key in keys.split()] if keys else list(self.claims[name])
        claims = {key: self.claims[name].pop(key) for key in chosen}
        done = await self.sessions[name].finish(claims)
        if set(done.values()) != {"finished"}:
            self.said.append(f"{name}: {done}")

    async def fail(self, name: str, key: str, after: str) -> None:
        claims = {int(key): self.claims[name].pop(int(key))}
        await self.sessions[name].release(claims, after=float(after), give_back=False, error="no")

    async def die(self, name: str) -> None:
        """Its lease runs out, which nobody has seen yet."""
        await self.session(name)
        await self.sql(
            f"UPDATE session_lock.session SET expires_at = session_lock.clock() - interval '1 s' WHERE id = {self.sessions[name].id}"
        )

    async def take(self, name: str, key: str) -> None:
        """By hand, or under a limit that was higher then."""
        await self.sql(f"UPDATE public.email SET session_id = {self.sessions[name].id} WHERE id = {key}")

    async def starts(self, name: str, version: str | None) -> None:
        await self.session(name, version or "")

    async def sql(self, text: str, *arguments: Any) -> None:
        """A statement, or several without arguments; in those of plays the table is called email."""
        await self.stage.hand.execute(text.replace("public.email", MAPPINGS[self.mapping].table), *arguments)

    async def lock(self, text: str) -> None:
        if not self.stage.somebody.is_in_transaction():
            await self.stage.somebody.execute("BEGIN")
        await self.stage.somebody.execute(text.replace("public.email", MAPPINGS[self.mapping].table))

    async def let_go(self) -> None:
        await self.stage.somebody.execute("COMMIT")
        await self.answers()

    async def commits(self, name: str) -> None:
        await self.commit(name)
        await self.answers()

    async def answers(self) -> None:
        """Of those that waited, and need not any more."""
        for name, task in list(self.waiting.items()):
            if not await self.stage.lab.waits(self.sessions[name].pid, task):
                self.waiting.pop(name)
                self.said.append(await task)


def _sql(text: str) -> Callable[..., Any]:
    return lambda play, *words: play.sql(text.format(*words, mapping=play.mapping))


def _lock(text: str) -> Callable[..., Any]:
    return lambda play, *words: play.lock(text.format(*words, mapping=play.mapping))


STEPS: dict[str, Callable[..., Any]] = {
    r"(\d+) values(?: in (\d+))?( closed)?": Play.values,
    r"value (\d+)( closed)?": Play.one_value,
    r"tasks ([a-zA-Z]+)(?: x(\d+))?(?: in (-?[\d.]+))?(?: that need ([\d.]+))?(?: (closed|parked))?": Play.tasks,
    r"(\w) (?:of ([\d.]+) )?looks(?: for (\d+))?(?: from (\w|on))?( .*)?": Play.look,
    r"(\w) finishes((?: \d+)*)": Play.finish,
    r"(\w) fails (\d+) for (\d+)": Play.fail,
    r"(\w) dies": Play.die,
    r"(\w) has taken (\d+)": Play.take,
    r"(\w) (?:of ([\d.]+) )?starts": Play.starts,
    r"(\w) commits": Play.commits,
    r"wait ([\d.]+)": _sql("UPDATE public.test_clock SET ahead = ahead + {0}"),
    r"close (\d+)": _sql("UPDATE public.email SET sent_at = now() WHERE id = {0}"),
    r"move (\d+) to (\w)": _sql("UPDATE public.email SET address = '{1}' WHERE id = {0}"),
    r"put off (\d+) for (-?\d+)": _sql(
        "UPDATE public.email SET available_at = session_lock.clock() + interval '{1} s' WHERE id = {0}"
    ),
    r"((?:\d+,?)+) are due at once": _sql("UPDATE public.email SET available_at = now() - interval '1 min' WHERE id IN ({0})"),
    r"others start (\d+)": _sql(
        "INSERT INTO session_lock.started (name, value, at, number) SELECT 'another', value, session_lock.clock(), {0}"
        " FROM (SELECT NULL::bigint UNION ALL SELECT DISTINCT pg_catalog.hash_record_extended(ROW(address), 0) FROM public.email) AS v (value)"
    ),
    r"somebody writes (\d+)": _lock("UPDATE public.email SET body = body WHERE id = {0}"),
    r"somebody locks ((?:\d+,?)+)": _lock("SELECT FROM public.email WHERE id IN ({0}) FOR UPDATE"),
    r"somebody refers to ((?:\d+,?)+)": _lock("SELECT FROM public.email WHERE id IN ({0}) FOR KEY SHARE"),
    r"somebody holds the group": _lock(
        "SELECT pg_advisory_xact_lock(hashtextextended('session_lock limit of {mapping}', 0))"
    ),
    r"somebody holds (\w)": _lock(
        "SELECT pg_advisory_xact_lock(hashtextextended('session_lock limit of {mapping} by value',"
        " pg_catalog.hash_record_extended(ROW('{0}'::text), 0)))"
    ),
    r"somebody lets go": Play.let_go,
}  # fmt: skip


async def play(stage: Stage, name: str) -> list[str]:
    """What came of it, in words."""
    mapping, _, steps = name.partition(": ")
    one = Play(stage, mapping)
    await one.sql(SET_BACK)
    try:
        for step in steps.split("; "):
            await one.step(step)
    finally:
        await one.end()
    return one.said


def right() -> dict[str, list[str]]:
    """What `limited.txt` says, by the names of the plays."""
    return read_right("limited.txt")


async def main(names: list[str]) -> None:
    with running_server() as dsn:
        await prepare_template(dsn)
        async with fresh_database(dsn, "template1") as database, open_lab(database) as lab:
            await lab.own_clock()
            stage = await open_stage(lab, database.admin_dsn)
            for name in names or PLAYS:
                print(name, *(f"    {line}" for line in await play(stage, name)), sep="\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
