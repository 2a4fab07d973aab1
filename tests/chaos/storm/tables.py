"""The tables of a storm: the chores, what their transactions write, and an audit of every claim, finish and session's end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from session_lock import TaskTable
from session_lock.session import boottime
from tests.conftest import APP_ROLE, TestDatabase
from tests.support import apply_mapping

if TYPE_CHECKING:
    from tests.chaos.storm.evidence import Evidence

CANARY = "nobody may ever read this aloud"
"""In a column of each task; in no log and no error."""

TABLES = f"""
CREATE TABLE public.chore (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  nap     double precision NOT NULL,
  secret  text NOT NULL DEFAULT '{CANARY}',
  done_at timestamptz
);
CREATE TABLE public.effect (task bigint NOT NULL, made_by text NOT NULL DEFAULT current_setting('application_name'));
CREATE TABLE public.account (id integer PRIMARY KEY, total bigint NOT NULL);
INSERT INTO public.account SELECT number, 0 FROM generate_series(0, 7) AS number;
GRANT INSERT ON public.effect TO {APP_ROLE};
GRANT SELECT, UPDATE ON public.account TO {APP_ROLE};

CREATE TABLE public.audit (
  number   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at       timestamptz NOT NULL,
  made_by  text NOT NULL,
  task     bigint NOT NULL,
  holders  bigint[] NOT NULL,       -- before and after; so are these
  tokens   bigint[] NOT NULL,
  done     timestamptz[] NOT NULL,
  live     boolean,                 -- of a finish: whether the holder's session was, at the beginning of the statement
  label    text                     -- of that session
);
CREATE TABLE public.session_audit (session bigint, label text, ended boolean, overdue boolean, at timestamptz);
"""

TRIGGERS = """
CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO public.audit (at, made_by, task, holders, tokens, done, live, label)
  SELECT clock_timestamp(), current_setting('application_name'), n.id, ARRAY[o.session_id, n.session_id],
         ARRAY[o.claim_token, n.claim_token], ARRAY[o.done_at, n.done_at], s.ended_at IS NULL AND s.expires_at > statement_timestamp(), s.label
    FROM before AS o JOIN after AS n USING (id)
    LEFT JOIN session_lock.session AS s ON s.id = o.session_id AND n.done_at IS DISTINCT FROM o.done_at
   WHERE (o.session_id, o.claim_token, o.done_at) IS DISTINCT FROM (n.session_id, n.claim_token, n.done_at);
  RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER UPDATE ON public.chore REFERENCING OLD TABLE AS before NEW TABLE AS after
  FOR EACH STATEMENT EXECUTE FUNCTION public.audit();

CREATE FUNCTION public.session_audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO public.session_audit
  VALUES (NEW.id, NEW.label, NEW.ended_at IS NOT NULL, NEW.ended_at >= NEW.expires_at, clock_timestamp());
  RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OF ended_at ON session_lock.session FOR EACH ROW EXECUTE FUNCTION public.session_audit();
"""

CHORES = TaskTable(
    "public.chore", key="id", pending="done_at IS NULL", finish="done_at = clock_timestamp()", columns=("nap", "secret")
)  # fmt: skip


async def create(admin: asyncpg.Connection, mutations: Mapping[str, Mapping[str, str]]) -> None:
    """`mutations` are the library's functions that are broken, by the beginnings of their names: what to put for what."""
    await admin.execute(TABLES)
    await apply_mapping(admin, CHORES, grant_to=APP_ROLE)
    await admin.execute(TRIGGERS)
    for function, changes in mutations.items():
        query = (
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE starts_with(proname, $1)"
            " AND pronamespace = 'session_lock'::regnamespace ORDER BY length(proname) LIMIT 1"
        )
        body = await admin.fetchval(query, function)
        for old, new in changes.items():
            assert old in body, f"{function} has no {old!r}"
            body = body.replace(old, new)
        await admin.execute(body)


@dataclass(frozen=True)
class Change:
    """Of a task's row: a claim, a finish, or the giving back."""

    at: float
    made_by: str
    task: int
    holders: tuple[int | None, int | None]
    tokens: tuple[int | None, int | None]
    done: tuple[Any, Any]
    live: bool | None = None
    label: str | None = None

    @property
    def is_claim(self) -> bool:
        return (
            self.holders[1] is not None
            and self.tokens[0] != self.tokens[1]
            or self.holders[1] not in {None, self.holders[0]}
        )

    @property
    def is_finish(self) -> bool:
        return self.done[0] != self.done[1]


CHANGES = """
SELECT extract(epoch FROM at)::float8 AS at, made_by, task, holders, tokens, done, live, label FROM public.audit ORDER BY number
"""

HEALTH = """
SELECT pg_table_size('public.chore') / greatest(tasks, 1)::float8 AS "bytes of a task",
       pg_snapshot_xmax(pg_current_snapshot())::text::float8 / greatest(tasks, 1) AS "transactions for a task",
       (SELECT next_multixact_id::text::float8 FROM pg_control_checkpoint()) / greatest(tasks, 1) AS "multixacts for a finish"
  FROM (SELECT count(*) AS tasks FROM public.chore) AS chore
"""


class Beside:
    """A superuser's connection beside the storm: no fault of the network reaches it, but the server may be away."""

    def __init__(self, database: TestDatabase) -> None:
        self.database = database
        self._connection: asyncpg.Connection | None = None
        self._asking = asyncio.Lock()

    async def connection(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self.database.admin_dsn, timeout=10)
        return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self._asking:
            return await (await self.connection()).fetch(query, *arguments, timeout=30)

    async def ask(self, query: str, *arguments: Any) -> Any:
        """A single value, None if there is none."""
        rows = await self.rows(query, *arguments)
        return rows[0][0] if rows else None

    async def feed(self, naps: Sequence[float]) -> list[int]:
        query = "INSERT INTO public.chore (nap) SELECT unnest($1::float8[]) RETURNING id"
        return [row["id"] for row in await self.rows(query, naps)]

    async def held(self) -> dict[int, int]:
        """How many tasks each live session holds, of those that may hold most."""
        query = """
        SELECT s.id, count(t.id)
          FROM session_lock.session AS s LEFT JOIN public.chore AS t ON t.session_id = s.id AND t.done_at IS NULL
         WHERE s.ended_at IS NULL AND s.expires_at > clock_timestamp()
           AND s.capacity = (SELECT max(capacity) FROM session_lock.session)
         GROUP BY s.id
        """
        return {row[0]: row[1] for row in await self.rows(query)}

    async def tell(self, evidence: Evidence) -> None:
        """What the database knows."""
        ahead = time.time() - boottime()  # noqa: TID251 (of the server's clock, which is this machine's)
        evidence.changes = [
            Change(
                row["at"] - ahead, row["made_by"], row["task"], tuple(row["holders"]), tuple(row["tokens"]),
                tuple(row["done"]), row["live"], row["label"],
            )
            for row in await self.rows(CHANGES)
        ]  # fmt: skip
        ended = "SELECT session, extract(epoch FROM at)::float8 FROM public.session_audit WHERE ended"
        evidence.ended = {row[0]: row[1] - ahead for row in await self.rows(ended)}
        effects = "SELECT task, count(*) FROM public.effect GROUP BY task"
        evidence.effects = {row[0]: row[1] for row in await self.rows(effects)}
        evidence.total = await self.ask("SELECT sum(total)::bigint FROM public.account")
        await self._wait_for_backends()
        evidence.backends = [str(tuple(row)) for row in await self.rows(BACKENDS)]
        nonces = await self.rows("SELECT nonce::text FROM session_lock.session")
        evidence.secrets |= {CANARY, *(row[0] for row in nonces)}

    async def health(self) -> dict[str, float]:
        """Of the whole server."""
        await self.rows("CHECKPOINT")
        return dict((await self.rows(HEALTH))[0])

    async def _wait_for_backends(self) -> None:
        """Those of connections that have just been closed are about to end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                while await self.rows(BACKENDS):
                    await asyncio.sleep(0.05)


BACKENDS = """
SELECT application_name, state, left(query, 60) FROM pg_stat_activity
 WHERE starts_with(application_name, 'storm ') AND datname = current_database()
"""
