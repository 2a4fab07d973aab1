"""What crosses in the crossings (`crossing.py`): the calls of a service and what people do, each by its name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from tests.sql.scene import FIRST, SECOND, Scene

Act = Callable[[Scene, int], Awaitable[Any]]
"""On the connections of a slot."""


@dataclass(frozen=True)
class Statement:
    name: str
    act: Act = field(repr=False)
    session: int | None = None
    """Who calls; None: people, or a session that starts."""

    claims: Mapping[int, int] = field(default_factory=dict)
    """The tokens that it says it holds: it may settle these and no others."""

    later: float = 0
    """So many seconds pass before it begins."""

    needs_lease: bool = False
    """It is refused if its session is over."""

    waits_for_rows: bool = False
    """It looks at its lease again after a wait for a task's row."""

    cancels: int | None = None
    """The task that it asks to cancel."""

    by_people: bool = False
    """It runs as the superuser, on `Scene.people`."""


def _call(
    name: str, verb: str, *args: Any, session: int = FIRST, claims: Any = None, later: float = 0, **more: Any
) -> Statement:
    async def act(scene: Scene, slot: int) -> Any:
        given = args if claims is None or verb == "get_work" else (claims, *args)
        return await getattr(scene.actor(slot, session), verb)(*given, **more)

    return Statement(name, act, session, claims or more.get("finished", {}), later, needs_lease=verb != "end")


def _release(
    name: str, *claims: tuple[int, int, float | None, bool, bool, str | None], wake: bool = False
) -> Statement:
    """Key, token, after, give_back, discard and error, of each."""

    async def act(scene: Scene, slot: int) -> Any:
        actor = scene.actor(slot, FIRST)
        rows = await actor.connection.fetch(
            f"SELECT * FROM session_lock.release_tasks_{actor.functions}($1, $2, $3, $4, $5, $6, $7, $8, {wake})",
            actor.id, actor.nonce, *(list(each) for each in zip(*claims, strict=True)),
        )  # fmt: skip
        return sorted((row["task_key"], row["outcome"]) for row in rows)

    return Statement(name, act)


def _finish_in(name: str, session: int, claims: dict[int, int], later: float = 0) -> Statement:
    async def act(scene: Scene, slot: int) -> None:
        actor = scene.actor(slot, session)
        async with actor.connection.transaction():
            await actor.finish_in(claims)
            await actor.connection.executemany(
                "INSERT INTO public.effect VALUES ($1, pg_backend_pid())", [(key,) for key in claims]
            )

    return Statement(name, act, session, claims, later, needs_lease=True, waits_for_rows=True)


def _people(name: str, text: str) -> Statement:
    async def act(scene: Scene, slot: int) -> str:
        return await scene.people[slot].execute(text)

    return Statement(name, act, by_people=True)


def _cancel(name: str, key: int, later: float = 0) -> Statement:
    async def act(scene: Scene, slot: int) -> Any:
        return await scene.apps[slot].fetchval(
            f"SELECT session_lock.cancel_task_{scene.lab.functions}($1)", key
        )

    return Statement(name, act, cancels=key, later=later)


def _retry(name: str, keys: list[int] | None) -> Statement:
    async def act(scene: Scene, slot: int) -> Any:
        query = f"SELECT k FROM session_lock.retry_tasks_{scene.lab.functions}($1) AS k"
        return sorted(row["k"] for row in await scene.apps[slot].fetch(query, keys))

    return Statement(name, act)


async def _start(scene: Scene, slot: int) -> Any:
    actor = await scene.lab.start_session(scene.apps[slot], ttl=100)
    return await actor.get_work(2)


MINE = {1: 10, 2: 20}
KEPT = (None, True, False, None)
BAD = (float("inf"), False, True, "old")
WHOLE = [
    Statement("start", _start),
    _call("keepalive", "bump", ttl=60),
    _call("drain", "bump", draining=True),
    _call("look", "get_work", held=[1, 2]),
    _call("look over the reply lost", "get_work", held=[]),
    _call("look and finish", "get_work", held=[2], finished={1: 10}),
    _call("finish", "finish", claims=MINE),
    _call("finish another's", "finish", claims={3: 30, 1: 9}),
    _finish_in("finish in", FIRST, MINE),
    _call("give back", "release", claims=MINE),
    _call("give back one", "release", claims={1: 10}),
    _call("put off", "release", claims=MINE, after=60, give_back=False, error="no"),
    _call("discard", "release", claims={1: 10}, discard=True),
    _call("end", "end", claims=MINE),
    _call("end unknowing", "end", claims={}),
    _call("another looks", "get_work", session=SECOND, held=[3]),
    _call("another takes over", "get_work", session=SECOND, held=[3], later=31),
    _call("another takes one over", "get_work", 1, session=SECOND, held=[3], later=31),
    _call("another ends", "end", session=SECOND, claims={3: 30}),
    _call("late keepalive", "bump", ttl=60, later=31),
    _call("late look", "get_work", held=[1, 2], later=31),
    _call("late finish", "finish", claims=MINE, later=31),
    _finish_in("late finish in", FIRST, MINE, later=31),
    _call("late give back", "release", claims=MINE, later=31),
    _cancel("cancel", 1),
    _cancel("cancel late", 1, later=31),
    _cancel("cancel of the dead", 5),
    _cancel("cancel of another's", 3),
    _retry("retry", None),
    _people("write", "UPDATE public.email SET body = 'new' WHERE id IN (1, 4, 6, 10)"),
    _people("close", "UPDATE public.email SET failed_at = now() WHERE id IN (1, 4)"),
    _people("close and open", "UPDATE public.email SET sent_at = now() WHERE id = 1; UPDATE public.email SET sent_at = NULL WHERE id = 1"),
    _people("delete", "DELETE FROM public.email WHERE id IN (1, 4)"),
    _people("lock", "SELECT FROM public.email WHERE id IN (1, 4) ORDER BY id FOR UPDATE"),
    _people("drop the session", "DELETE FROM session_lock.session WHERE id = 1"),
    _people("ask to drain", "UPDATE session_lock.session SET drain_requested = true WHERE id = 1"),
    _people("pause", "INSERT INTO session_lock.pause (name) VALUES ('email') ON CONFLICT DO NOTHING"),
]  # fmt: skip
STATEMENTS = {statement.name: statement for statement in WHOLE}


# Those that are looked at alone (`alone.py`), beside all of the above ----------------------------------------------


def _stranger(name: str, verb: str, *args: Any) -> Statement:
    """Somebody who knows the id of `first`, and a nonce of another's."""

    async def act(scene: Scene, slot: int) -> Any:
        return await getattr(replace(scene.actor(slot, FIRST), nonce=UUID(int=SECOND)), verb)(*args)

    return Statement(name, act)


ALONE = {
    statement.name: statement
    for statement in [
        _stranger("a stranger's keepalive", "bump"),
        _stranger("a stranger's look", "get_work"),
        _stranger("a stranger's finish", "finish", MINE),
        _stranger("a stranger's finish in", "finish_in", MINE),
        _stranger("a stranger's release", "release", MINE),
        _stranger("a stranger's end", "end", MINE),
        _call("short keepalive", "bump", ttl=1),
        _call("look for one", "get_work", 1, held=[1, 2]),
        _call("look for two", "get_work", 2, held=[1, 2]),
        _call("look from the end on", "get_work", held=[1, 2], position='["9999-01-01 00:00:00+00", 9]'),
        _call("finish one of two", "finish", claims={1: 10, 99: 1}),
        _call("finish what was given back", "finish", claims={4: None}),
        _call("finish what is closed", "finish", claims={1: 10, 2: 20}),
        _call("finish with an old token", "finish", claims={1: 9}),
        _call("finish without a token", "finish", claims={1: None}),
        _finish_in("finish in with an old token", FIRST, {1: 9}),
        _finish_in("finish in with tokens exchanged", FIRST, {1: 20, 2: 10}),
        _finish_in("finish in of another's", FIRST, {3: 30}),
        _finish_in("finish in of one", FIRST, {1: 10}),
        _finish_in("finish in of none", FIRST, {}),
        _call("finish again", "finish", claims={7: 1}),
        _call("give back what was finished", "release", claims={7: 1}),
        _call("give back with an old token", "release", claims={1: 9, 2: 20}, after=60, error="no"),
        _call("park", "release", claims={1: 10}, after=float("inf"), error="no"),
        _call("put off and discard", "release", claims=MINE, after=60, discard=True, error="no"),
        _call("count it", "release", claims=MINE, give_back=False),
        _call("end with one", "end", claims={1: 10}),
        _call("end with an old token", "end", claims={1: 9}),
        _call("another looks for all", "get_work", session=SECOND, held=[3]),
        _call("another looks knowing nothing", "get_work", session=SECOND, held=[]),
        _call("another looks later", "get_work", session=SECOND, held=[3], later=100),
        _call("another finishes", "finish", session=SECOND, claims={3: 30}),
        _finish_in("another's finish in", SECOND, {3: 30}),
        *(_cancel(f"cancel {key}", key) for key in (2, 4, 6, 7, 8, 99)),
        _retry("retry 6", [6]),
        _retry("retry 4", [4]),
        _call("late end", "end", claims=MINE, later=31),
        Statement("start later", _start, later=50),
        _call("look for one knowing nothing", "get_work", 1, held=[]),
        _release("give back for the others", (1, 10, *KEPT), wake=True),
        _release("give back beside an old token of it", (2, 20, *KEPT), (1, 10, *KEPT), (1, 9, *BAD)),
        _release("give back after an old token of it", (1, 9, *BAD), (1, 10, *KEPT), (2, 20, *KEPT)),
        _release("give back beside another's token of it", (2, 20, *KEPT), (1, 10, *KEPT), (1, 20, *BAD)),
        _release("give back after another's token of it", (1, 20, *BAD), (1, 10, *KEPT), (2, 20, *KEPT)),
        _release("put off beside an old token of it", (1, 10, 60, True, False, None), (1, 9, *BAD)),
        _release("park one and put the other off", (1, 10, float("inf"), False, False, None), (2, 20, 60, False, False, None)),
        _people("close 6", "UPDATE public.email SET failed_at = now() WHERE id = 6"),
        _people("park 1 by hand", "UPDATE public.email SET available_at = 'infinity' WHERE id = 1"),
        _people("close 1", "UPDATE public.email SET failed_at = now() WHERE id = 1"),
        _people("open all", "UPDATE public.email SET failed_at = NULL WHERE id < 7"),
        _people("put 1 in anew", "DELETE FROM public.email WHERE id = 1; INSERT INTO public.email (id, address, available_at) OVERRIDING SYSTEM VALUE VALUES (1, 'again', '2020-01-01')"),
        _people("no attempts", "UPDATE public.email SET attempts = 0"),
        _people("two attempts", "UPDATE public.email SET attempts = 2 WHERE id < 3"),
        _people("21 failures each", "INSERT INTO session_lock.failure (name, task_key, attempt, at, error) SELECT n, k, g, now(), 'old' FROM unnest(ARRAY['email', 'letter']) AS n, unnest(ARRAY['1', '2', '3']) AS k, generate_series(1, 20) AS g"),
        _people("leave the finished open", "CREATE FUNCTION public.stubborn() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN new.sent_at := NULL; RETURN new; END'; CREATE TRIGGER stubborn BEFORE UPDATE ON public.email FOR EACH ROW EXECUTE FUNCTION public.stubborn()"),
        _people("leave the discarded open", "CREATE FUNCTION public.stubborn() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN new.failed_at := NULL; RETURN new; END'; CREATE TRIGGER stubborn BEFORE UPDATE ON public.email FOR EACH ROW EXECUTE FUNCTION public.stubborn()"),
        _people("another mapping's session", "INSERT INTO session_lock.session (name, capacity, started_at, expires_at, idle) VALUES ('letter', 1, now(), now() - interval '1 s', true)"),
        _people("the session is another mapping's", "UPDATE session_lock.session SET name = 'letter' WHERE id = 1"),
        _people("nobody has started", "DELETE FROM session_lock.origin"),
        _people("copy to another server", "UPDATE session_lock.origin SET system = system - 1"),
        _people("copy to another database", "UPDATE session_lock.origin SET database = 'original'"),
        _people("another mapping's pause", "INSERT INTO session_lock.pause (name) VALUES ('letter')"),
        _people("ask for two", "UPDATE session_lock.session SET give_back = 2 WHERE id = 1"),
        _people("all are idle", "UPDATE session_lock.session SET idle = true"),
        _people("second is asked to cancel 1", "UPDATE session_lock.session SET cancel_keys = '{1,3}' WHERE id = 2"),
        _people("sweep the dead", "UPDATE session_lock.session SET swept_at = now() WHERE id = 3"),
        _people("drop the dead", "DELETE FROM session_lock.session WHERE id = 3"),
    ]
}  # fmt: skip
