"""What crosses in the crossings (`crossing.py`): the calls of a service and what people do, each by its name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

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


async def _retry(scene: Scene, slot: int) -> Any:
    rows = await scene.apps[slot].fetch(
        f"SELECT k FROM session_lock.retry_tasks_{scene.lab.functions}(NULL) AS k"
    )
    return [row["k"] for row in rows]


async def _start(scene: Scene, slot: int) -> Any:
    actor = await scene.lab.start_session(scene.apps[slot], ttl=100)
    return await actor.get_work(2)


MINE = {1: 10, 2: 20}
WHOLE = [
    Statement("start", _start),
    _call("keepalive", "bump", ttl=60),
    _call("drain", "bump", draining=True),
    _call("look", "get_work", held=[1, 2]),
    _call("look over the reply lost", "get_work", held=[]),
    _call("look and finish", "get_work", held=[2], finished={1: 10}),
    _call("finish", "finish", claims=MINE),
    _call("finish again", "finish", claims={7: 1}),
    _call("finish another's", "finish", claims={3: 30, 1: 9}),
    _finish_in("finish in", FIRST, MINE),
    _call("give back", "release", claims=MINE),
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
    Statement("retry", _retry),
    _people("write", "UPDATE public.email SET body = 'new' WHERE id IN (1, 4)"),
    _people("close", "UPDATE public.email SET failed_at = now() WHERE id IN (1, 4)"),
    _people("close and open", "UPDATE public.email SET sent_at = now() WHERE id = 1; UPDATE public.email SET sent_at = NULL WHERE id = 1"),
    _people("delete", "DELETE FROM public.email WHERE id IN (1, 4)"),
    _people("lock", "SELECT FROM public.email WHERE id IN (1, 4) ORDER BY id FOR UPDATE"),
    _people("drop the session", "DELETE FROM session_lock.session WHERE id = 1"),
    _people("ask to drain", "UPDATE session_lock.session SET drain_requested = true WHERE id = 1"),
    _people("pause", "INSERT INTO session_lock.pause (name) VALUES ('email') ON CONFLICT DO NOTHING"),
]  # fmt: skip
STATEMENTS = {statement.name: statement for statement in WHOLE}
