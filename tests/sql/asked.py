"""What is looked at alone (`alone.py`) of the functions that others call, or that people do: each asked for itself."""

from __future__ import annotations

from typing import Any

from tests.sql.scene import Scene
from tests.sql.statements import Statement


def _ask(name: str, query: str, later: float = 0) -> Statement:
    """As the superuser; the answer is the rows."""

    async def act(scene: Scene, slot: int) -> Any:
        return [tuple(row) for row in await scene.people[slot].fetch(query)]

    return Statement(name, act, later=later)


def _beside(name: str, held: str, query: str) -> Statement:
    """While somebody's transaction is open, who is not waited for: a wait would end as an error."""

    async def act(scene: Scene, slot: int) -> Any:
        other, connection = scene.people[slot + 1], scene.people[slot]
        async with other.transaction():
            await other.execute(held)
            async with connection.transaction():
                await connection.execute("SET LOCAL lock_timeout = '100ms'")
                return [tuple(row) for row in await connection.fetch(query)]

    return Statement(name, act)


def _isolated(name: str, query: str) -> Statement:
    """In a transaction whose snapshot may be older than what it meets."""

    async def act(scene: Scene, slot: int) -> Any:
        async with scene.people[slot].transaction(isolation="repeatable_read"):
            return [tuple(row) for row in await scene.people[slot].fetch(query)]

    return Statement(name, act)


def _again(name: str, query: str) -> Statement:
    """Whether the row of `first` is written, if only as it was."""

    async def act(scene: Scene, slot: int) -> Any:
        version = "SELECT xmin::text FROM session_lock.session WHERE id = 1"
        before = await scene.people[slot].fetchval(version)
        await scene.people[slot].fetch(query)
        return "left alone" if await scene.people[slot].fetchval(version) == before else "written"

    return Statement(name, act)


def _leaves(name: str, query: str) -> Statement:
    """Whose sessions' rows it leaves to others until its transaction ends."""

    async def act(scene: Scene, slot: int) -> Any:
        left = "SELECT id FROM session_lock.session ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"
        async with scene.people[slot].transaction():
            await scene.people[slot].execute(query)
            return [row["id"] for row in await scene.people[slot + 1].fetch(left)]

    return Statement(name, act)


NOW = "session_lock.clock()"
ITS_ROW = "SELECT FROM session_lock.session WHERE id = 1 FOR NO KEY UPDATE"
A_REFERENCE = "SELECT FROM session_lock.session WHERE id = 1 FOR KEY SHARE"
NOTED = f"SELECT session_lock.note_look(1, true, NULL, {NOW})"
SURPLUS = "SELECT session_lock.ask_for_tasks('{1,2}', '{100,100}', 4, '{1}', '{%d}', session_lock.clock())"
COUNT = "SELECT name, task_key, count(*), min(attempt) FROM session_lock.failure GROUP BY 1, 2 ORDER BY 1, 2"
SUSPECT = "SELECT session_lock.is_suspect('email', '1'), session_lock.is_suspect('email', '2')"
EXPIRED = "INSERT INTO session_lock.failure (name, task_key, attempt, at, error) SELECT '{}', '{}', 1, now(), '{}' FROM generate_series(1, {})"
TIMEOUTS = ", current_setting('idle_in_transaction_session_timeout')"

ASKED = {
    statement.name: statement
    for statement in [
        _ask("it is noted that there was room", NOTED),
        _ask("it is noted how many there are", f"SELECT session_lock.note_look(1, false, 5, {NOW})"),
        _again("it is noted that nothing is new", f"SELECT session_lock.note_look(1, false, NULL, {NOW})"),
        _again("it is noted again", NOTED),
        _beside("it is noted beside somebody who has its row", ITS_ROW, NOTED),
        _beside("it is noted beside somebody who refers to it", A_REFERENCE, NOTED),
        # Not while a transaction is under way that began before: those of other tests on this server are.
        _ask(
            "who is seen idle",
            "SELECT session_lock.seen_idle(1) OR EXISTS (SELECT FROM session_lock.session AS s WHERE s.id = 1 AND s.idle_from > pg_snapshot_xmin(pg_current_snapshot())),"
            " session_lock.seen_idle(2), session_lock.seen_idle(77)",
        ),
        _ask("one for two", "SELECT id, share FROM session_lock.shares('{1,2}', '{1,2}', 1) ORDER BY id"),
        _ask("four for three", "SELECT id, share FROM session_lock.shares('{1,2,3}', '{9,9,9}', 4) ORDER BY id"),
        _ask("the share of one", "SELECT session_lock.share(2, '{1,2}', '{1,9}', 10), session_lock.share(3, '{1,2}', '{1,9}', 10)"),
        _ask("all are told", "SELECT session_lock.tell_all('email')"),
        _ask("all are paused", "SELECT session_lock.pause_mapping('email')"),
        _ask("all are paused later", "SELECT session_lock.pause_mapping('email')", later=40),
        _ask("since when there is a pause", f"SELECT name, round(extract(epoch FROM {NOW} - at))::integer FROM session_lock.pause ORDER BY 1"),
        _ask("all are resumed", "SELECT session_lock.resume_mapping('email')"),
        *(
            _ask(f"{who} is to drain", f"SELECT session_lock.drain_session('email', {session})")
            for who, session in {"first": 1, "dead": 3, "gone": 4, "nobody": 77}.items()
        ),
        _ask("first is to drain, late", "SELECT session_lock.drain_session('email', 1)", later=31),
        _ask("another mapping's first is to drain", "SELECT session_lock.drain_session('letter', 1)"),
        _ask("who has much is asked for some", SURPLUS % 4),
        _ask("who has more is asked for some", SURPLUS % 5),
        _ask("who has more is asked for some, later", SURPLUS % 5, later=0.5),
        _ask("who has more is asked for some, a second later", SURPLUS % 5, later=1.1),
        _ask("what runs is no more than it has", "UPDATE session_lock.session SET running = 5 WHERE id = 1"),
        _ask("who has little is not asked", SURPLUS % 2),
        _ask("two are asked for some", f"SELECT session_lock.ask_for_tasks('{{1,2,4}}', '{{1,1,100}}', 5, '{{1,2}}', '{{3,2}}', {NOW})"),
        _beside("who has much is asked beside somebody who has its row", ITS_ROW, SURPLUS % 4),
        _beside("who has much is asked beside somebody who refers to it", A_REFERENCE, SURPLUS % 4),
        _leaves("who has much is asked, and nobody else is held up", SURPLUS % 4),
        _ask("who was asked lately", f"SELECT session_lock.asked_lately('{{1}}', {NOW}), session_lock.asked_lately('{{2}}', {NOW})"),
        _ask("who was asked lately, later", f"SELECT session_lock.asked_lately('{{1}}', {NOW})", later=1.5),
        _ask("wake", "SELECT session_lock.wake('email')"),
        _ask("wake nobody knows whom", "SELECT session_lock.wake(NULL)"),
        _ask("wake quietly", "SELECT session_lock.wake('email', true)"),
        _isolated("wake quietly in repeatable read", "SELECT session_lock.wake('email', true)"),
        _ask("wake quietly later", "SELECT session_lock.wake('email', true)", later=31),
        *(
            _ask(f"only {who} is idle", f"UPDATE session_lock.session SET idle = id = {session}")
            for who, session in {"first": 1, "dead": 3, "gone": 4}.items()
        ),
        _ask("who is idle drains", "UPDATE session_lock.session SET draining = true WHERE idle"),
        _ask("an insert that wakes", "INSERT INTO public.email (address) SELECT 'a' WHERE false"),
        _ask("leave a trigger", "CREATE TRIGGER stubborn AFTER INSERT ON public.email FOR EACH STATEMENT EXECUTE FUNCTION session_lock.wake_on_insert('email', 'false')"),
        _ask(
            "who may take it",
            "SELECT session_lock.may_take('{2,4}', n) FROM unnest(ARRAY[NULL, '2.3', '2.4', '2.5', 'abc']) WITH ORDINALITY AS v (n, i) ORDER BY i",
        ),
        _ask("they are of versions", "UPDATE session_lock.session SET app_version = id WHERE id < 4"),
        _ask("who shares what needs 2", "SELECT ids, capacities FROM session_lock.sharing_with('{1,2,3}', '{7,8,9}', '2')"),
        *(
            _ask(f"a transaction is limited to {left}", f"SELECT session_lock.limit_transaction('{left}'){TIMEOUTS}")
            for left in ("10 s", "100 days")
        ),
        _ask("failures are trimmed", "SELECT session_lock.trim_failures('email', '{2}')"),
        _ask("how many failures there are", COUNT),
        _ask("30 failures each", "INSERT INTO session_lock.failure (name, task_key, attempt, at, error) SELECT n, k, g, now(), 'old' FROM generate_series(1, 30) AS g, unnest(ARRAY['email', 'letter']) AS n, unnest(ARRAY['1', '2']) AS k"),
        _ask("2 expire", f"SELECT session_lock.note_expired('email', '{{2}}', '{{3}}', '{{1}}', {NOW})"),
        _ask("who is suspect", SUSPECT),
        _ask("1 expired once", EXPIRED.format("email", 1, "its session expired", 1)),
        _ask("1 expired twice", EXPIRED.format("email", 1, "its session expired", 2)),
        _ask("1 failed", EXPIRED.format("email", 1, "no", 2)),
        _ask("another mapping's 2 expired", EXPIRED.format("letter", 2, "its session expired", 2)),
    ]
}  # fmt: skip

SEQUENCES = [
    "it is noted that there was room",
    "it is noted that there was room; it is noted again",
    "it is noted how many there are",
    "it is noted that nothing is new",
    "it is noted beside somebody who has its row",
    "it is noted beside somebody who refers to it",
    "it is noted that there was room; it is noted that there was room; who is seen idle",
    "one for two",
    "four for three",
    "the share of one",
    "another mapping's session; all are told",
    "all are paused",
    "all are paused; all are paused",
    "all are paused later; since when there is a pause",
    "another mapping's pause; all are resumed",
    "another mapping's pause; all are paused; all are resumed",
    "another mapping's pause; all are paused; all are resumed; since when there is a pause",
    "first is to drain",
    "dead is to drain",
    "gone is to drain",
    "nobody is to drain",
    "first is to drain, late",
    "another mapping's first is to drain",
    "who has much is asked for some",
    "who has much is asked for some; who has more is asked for some",
    "who has much is asked for some; who has more is asked for some, later",
    "what runs is no more than it has; who has much is asked for some; who has more is asked for some, later",
    "what runs is no more than it has; who has much is asked for some; who has more is asked for some, a second later",
    "who has little is not asked",
    "two are asked for some",
    "who has much is asked beside somebody who has its row",
    "who has much is asked beside somebody who refers to it",
    "who has much is asked, and nobody else is held up",
    "who was asked lately",
    "who has much is asked for some; who was asked lately",
    "who has much is asked for some; who was asked lately, later",
    "wake",
    "wake nobody knows whom",
    "wake quietly",
    "wake quietly in repeatable read",
    "only first is idle; the session is another mapping's; wake quietly",
    "only first is idle; wake quietly",
    "only first is idle; wake quietly later",
    "only first is idle; who is idle drains; wake quietly",
    "only dead is idle; wake quietly",
    "only gone is idle; wake quietly",
    "leave a trigger; an insert that wakes",
    "who may take it",
    "they are of versions; who shares what needs 2",
    "a transaction is limited to 10 s",
    "a transaction is limited to 100 days",
    "30 failures each; failures are trimmed",
    "30 failures each; failures are trimmed; how many failures there are",
    "30 failures each; 2 expire; how many failures there are",
    "1 expired once; who is suspect",
    "1 expired twice; who is suspect",
    "1 failed; 1 expired once; another mapping's 2 expired; who is suspect",
]
