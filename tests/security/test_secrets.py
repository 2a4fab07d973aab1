"""T6, T7: what is secret, or stands in a row, is told to nobody but the tasker: not in logs, spans, exceptions, reprs, nor by the server.

A canary stands in each place that holds such a thing, and is looked for in all that was said while things went wrong. What a
tasker's own exception says is its own: it is kept in the table `failure`, cut, and is nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
import traceback
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from uuid import uuid4

import asyncpg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import session_lock
from session_lock import (
    Discard,
    PostgresDatabase,
    Release,
    Runner,
    SchemaError,
    Settings,
    SettingsError,
    each,
)
from session_lock.cli import main
from session_lock.database import Claim, Handback
from session_lock.embedded import Server, temp_postgres
from tests.support import EMAIL_TABLE, EMAILS, apply_mapping

QUICK = Settings(
    start_jitter=0, poll_interval=0.05, keepalive_interval=0.1, call_timeout=1, cancel_grace=0.2, guard=0.1, lease_ttl=4,
    drain_timeout=1, shutdown_timeout=1, prefetch_time=math.inf,
)  # fmt: skip

EXTRAS = """
CREATE TABLE public.seen (word text PRIMARY KEY);
GRANT SELECT, INSERT ON public.seen TO app;
CREATE TABLE public.number (value integer);
GRANT INSERT ON public.number TO app;
"""


class Canaries:
    """One for each kind of secret; random, so that none is anywhere by chance."""

    def __init__(self) -> None:
        for kind in ("password", "row", "error", "reason", "label"):
            setattr(self, kind, f"canary{kind}{secrets.token_hex(8)}")

    def __contains__(self, text: str) -> bool:
        return bool(self.found_in(text))

    def found_in(self, text: str) -> list[str]:
        return [kind for kind, word in vars(self).items() if word in text]


@dataclass
class Scene:
    server: Server
    canaries: Canaries
    app_dsn: str = field(repr=False)
    admin: asyncpg.Connection
    spans: InMemorySpanExporter
    caplog: pytest.LogCaptureFixture
    raised: list[str] = field(default_factory=list)

    @property
    def provider(self) -> TracerProvider:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        return provider

    def note(self, error: BaseException) -> None:
        """What somebody who logs the exception would see, causes and all."""
        self.raised += ["".join(traceback.format_exception(error)), repr(error)]

    @property
    def logged(self) -> str:
        formatter = logging.Formatter("%(name)s %(levelname)s %(message)s %(args)r")
        records = [
            record for record in self.caplog.records if record.name.startswith(("session_lock", "asyncio"))
        ]
        return "\n".join(f"{formatter.format(record)} {vars(record)}" for record in records)

    async def add(self, address: str = "a") -> int:
        query = "INSERT INTO public.email (address, body) VALUES ($1, $2) RETURNING id"
        return await self.admin.fetchval(query, address, self.canaries.row)

    async def assert_silent(self, *allowed: str) -> None:
        """Nothing was said of a canary, or of a nonce."""
        said = {
            "log": self.logged,
            "spans": "\n".join(span.to_json() for span in self.spans.get_finished_spans()),
            "exceptions": "\n".join(self.raised),
        }
        nonces = [str(row[0]) for row in await self.admin.fetch("SELECT nonce FROM session_lock.session")]
        for place, text in said.items():
            assert self.canaries.found_in(text) == [], (place, text)
            assert not [nonce for nonce in nonces if nonce in text or nonce.replace("-", "") in text], place
        server_log = self.server.log.read_text()
        assert not [nonce for nonce in nonces if nonce in server_log]
        for line in (
            server_log.splitlines()
        ):  # PostgreSQL itself quotes what it refuses: a row, or a text that is no number
            quoted = re.search(r" DETAIL:  |ERROR:  (invalid input syntax|refused by a trigger)", line)
            assert set(self.canaries.found_in(line)) <= ({"row"} if quoted else set()), line


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """As it is shipped, but for the launcher's own settings, so that its log is as it would be."""
    with temp_postgres() as server:
        yield server


@pytest.fixture
async def scene(server: Server, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Scene]:
    caplog.set_level(logging.DEBUG)
    canaries = Canaries()
    name = f"secret_{secrets.token_hex(4)}"
    root = await asyncpg.connect(server.dsn)
    await root.execute(f"CREATE DATABASE {name}")
    await root.execute(f"DROP ROLE IF EXISTS app; CREATE ROLE app LOGIN PASSWORD '{canaries.password}'")
    admin = await asyncpg.connect(server.dsn.removesuffix("/postgres") + f"/{name}")
    await admin.execute(EMAIL_TABLE)
    await apply_mapping(admin, EMAILS, grant_to="app")
    await admin.execute(EXTRAS)
    where = server.dsn.rpartition("@")[2].removesuffix("/postgres")
    try:
        yield Scene(
            server,
            canaries,
            f"postgresql://app:{canaries.password}@{where}/{name}",
            admin,
            InMemorySpanExporter(),
            caplog,
        )
    finally:
        await admin.close()
        await root.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await root.execute("DROP ROLE app")
        await root.close()


async def until(admin: asyncpg.Connection, condition: str) -> None:
    async with asyncio.timeout(20):
        while not await admin.fetchval(f"SELECT {condition}"):
            await asyncio.sleep(0.02)


async def run_until(scene: Scene, runner: Runner, condition: str) -> None:
    running = asyncio.create_task(runner.run())
    try:
        await until(scene.admin, condition)
    finally:
        runner.stop()
        await running


# While tasks go wrong ------------------------------------------------------------------------------------


async def test_t6_t7_nothing_is_told_of_rows_while_tasks_go_wrong(scene):
    canaries, shown = scene.canaries, list[str]()
    kinds = (
        "raise",
        "unique",
        "number",
        "forbidden",
        "undecodable",
        "discard",
        "release",
        "good",
        "slow",
        "cancelled",
    )
    keys = {kind: await scene.add("forbidden" if kind == "forbidden" else kind) for kind in kinds}
    await scene.admin.execute("INSERT INTO public.seen VALUES ($1)", canaries.row)

    def decode(**columns):
        if columns["address"] == "undecodable":
            raise ValueError(columns["body"])
        return columns

    async def do(task):
        shown.extend([repr(task), str(task)])
        match task.data["address"]:
            case "raise":
                raise RuntimeError(canaries.error)
            case "unique":
                async with task.transaction() as connection:
                    await connection.execute("INSERT INTO public.seen VALUES ($1)", canaries.row)
            case "number":
                async with task.transaction() as connection:
                    await connection.execute(
                        "INSERT INTO public.number SELECT $1::text::integer", canaries.row
                    )
            case "discard":
                return Discard(canaries.reason)
            case "release" if task.attempt == 1:
                return Release(after=3600)
            case "slow" | "cancelled":
                await asyncio.Event().wait()
        return None

    async with PostgresDatabase(scene.app_dsn, EMAILS, decode=decode) as tasks:
        runner = Runner(tasks, each(do), QUICK, tracer_provider=scene.provider)
        running = asyncio.create_task(runner.run())
        # The refused finish is the last of them.
        await until(scene.admin, "(SELECT count(*) FROM session_lock.failure) >= 6")
        await tasks.cancel(keys["cancelled"])
        await until(
            scene.admin, f"(SELECT failed_at IS NOT NULL FROM public.email WHERE id = {keys['cancelled']})"
        )
        await scene.admin.execute(
            "UPDATE session_lock.session SET ended_at = clock_timestamp()"
        )  # lost, with "slow" under way
        await until(scene.admin, "(SELECT count(*) FROM session_lock.session) >= 2")
        shown += [repr(runner), repr(tasks)]
        runner.stop()
        await running
    scene.raised += shown
    await scene.assert_silent()

    kept = {
        row["task_key"]: row["error"]
        for row in await scene.admin.fetch("SELECT task_key, error FROM session_lock.failure")
    }
    assert canaries.error in kept[str(keys["raise"])]
    assert canaries.reason in kept[str(keys["discard"])]
    assert "email_check" in kept[str(keys["forbidden"])]
    assert "row" not in canaries.found_in(kept[str(keys["forbidden"])])  # refused by us: in our words


async def test_t6_what_a_trigger_says_is_told_to_nobody(scene):
    """Where it was raised is: at each claim, and at each finish."""
    await scene.admin.execute(
        """
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF new.address = 'claim' OR new.sent_at IS NOT NULL THEN RAISE EXCEPTION 'refused by a trigger: %', new.body; END IF;
          RETURN new;
        END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON public.email FOR EACH ROW EXECUTE FUNCTION public.refuse();
        """
    )
    await scene.add("finish")

    async def do(task):
        await scene.add("claim")

    async with PostgresDatabase(scene.app_dsn, EMAILS) as tasks:
        runner = Runner(tasks, each(do), QUICK, tracer_provider=scene.provider)
        running = asyncio.create_task(runner.run())
        async with asyncio.timeout(20):
            while "gets no work" not in scene.logged:
                await asyncio.sleep(0.02)
        scene.raised.append(repr(runner.health()))
        runner.stop()
        await running
    await scene.assert_silent()
    where = "RaiseError (P0001), PL/pgSQL function public.refuse() line 3 at RAISE"
    assert where in runner.health().last_error
    assert (
        await scene.admin.fetchval("SELECT error FROM session_lock.failure") == f"finish was refused: {where}"
    )


async def test_t6_what_a_tasker_says_is_cut(scene):
    key = await scene.add()

    async def do(task):
        raise RuntimeError("x" * 100_000)

    async with PostgresDatabase(scene.app_dsn, EMAILS) as tasks:
        condition = "EXISTS (SELECT FROM session_lock.failure)"
        await run_until(scene, Runner(tasks, each(do), QUICK, tracer_provider=scene.provider), condition)
    query = "SELECT max(length(error)) FROM session_lock.failure WHERE task_key = $1"
    assert await scene.admin.fetchval(query, str(key)) == 4000
    assert len(scene.logged) < 50_000


# What is raised ------------------------------------------------------------------------------------------


async def test_t6_what_we_raise_holds_no_values(scene):
    """Of each verb, by whoever calls it: with its causes, as `logger.exception` prints it."""
    key = await scene.add("forbidden")
    async with PostgresDatabase(scene.app_dsn, EMAILS) as tasks:
        lease = await tasks.start_session(capacity=5, ttl=30, label=scene.canaries.label, app_version="1")
        (task,) = (await tasks.get_work(lease, limit=5)).tasks
        scene.raised += [repr(lease), repr(task.claim), repr(await tasks.identity())]
        dead = replace(lease, nonce=uuid4())
        pool = await asyncpg.create_pool(scene.app_dsn, min_size=1, max_size=1)

        async def in_transaction(claim=task.claim):
            async with pool.acquire() as connection, connection.transaction():
                await tasks.finish_in(connection, lease, [claim])

        async def own_transaction():
            async with tasks.transaction(lease, [task.claim]):
                pass

        calls = [
            in_transaction(),
            own_transaction(),
            in_transaction(Claim(key, 99)),
            tasks.cancel(scene.canaries.row),
            tasks.retry(scene.canaries.row),
            tasks.get_work(dead, limit=1),
            tasks.bump_session(dead, ttl=1, draining=False),
            tasks.release_tasks(dead, [Handback(task.claim, error=scene.canaries.error)]),
            tasks.start_session(capacity=5, ttl=math.nan, label=scene.canaries.label, app_version="1"),
            tasks.start_session(capacity=5, ttl=30, label=f"{scene.canaries.label}\0", app_version="1"),
        ]
        for call in calls:
            with pytest.raises(session_lock.SessionLockError) as raised:
                await call
            scene.note(raised.value)
        (settled,) = await tasks.finish_tasks(lease, [task.claim])
        scene.raised.append(repr(settled))
        await pool.close()
    assert "email_check" in "".join(scene.raised)
    await scene.assert_silent()


# DSNs ----------------------------------------------------------------------------------------------------


async def say_all_of(scene, tasks):
    """What is said of a DSN that leads nowhere, to who calls and by a Runner."""
    async with tasks:
        with pytest.raises(session_lock.SessionLockError) as raised:
            await tasks.identity()
        scene.note(raised.value)
        scene.raised.append(repr(tasks))
        runner = Runner(tasks, each(print), QUICK, tracer_provider=scene.provider)
        running = asyncio.create_task(runner.run())
        await asyncio.sleep(0.15)
        runner.stop()
        (ended,) = await asyncio.gather(running, return_exceptions=True)
        if ended is not None:
            assert isinstance(ended, session_lock.SessionLockError), ended
            scene.note(ended)


@pytest.mark.parametrize(
    "change",
    [
        ("{password}", "{password}wrong"),
        ("{password}", "{password}/x"),
        ("{password}", "{password}#x"),
        ("{password}", "{password}?x"),
        ("{password}", "{password}@x"),
        ("{password}", "x@{password}"),
        ("{password}", "[{password}"),
        ("{password}", "{password}:x"),
        ("postgresql://", "postgres//"),
        ("postgresql://app:", ""),
        ("127.0.0.1:", "127.0.0.1:x"),
        ("127.0.0.1:", "127.0.0.1:1"),
        ("127.0.0.1:", "no.such.host.invalid:"),
        ("/secret_", "/nowhere_"),
        ("", "?sslmode={password}"),
        ("", "?sslmode=verify-full"),
    ],
    ids=lambda change: " to ".join(change),
)
async def test_t6_no_password_is_told_however_a_dsn_is_wrong(scene, capsys, tmp_path, monkeypatch, change):
    old, new = (part.format(password=scene.canaries.password) for part in change)
    dsn = scene.app_dsn.replace(old, new, 1) if old else scene.app_dsn + new
    try:
        await say_all_of(scene, PostgresDatabase(dsn, EMAILS))
    except session_lock.SettingsError as error:  # it is seen to be none where it is given
        scene.note(error)
    (tmp_path / "secret_jobs.py").write_text("from tests.support import EMAILS\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert await asyncio.to_thread(main, ["check", "secret_jobs:EMAILS", "--dsn", dsn]) == 2
    said = capsys.readouterr()
    assert "session-lock: " in said.err
    scene.raised.append(said.out + said.err)
    await scene.assert_silent()


async def test_t6_a_mapping_that_does_not_fit_is_told_without_secrets(scene):
    await scene.add()
    for change in (
        {"columns": ("nope",)},
        {"pending": "sent_at IS NULL AND id > 0"},
        {"schema": "elsewhere"},
    ):
        async with PostgresDatabase(scene.app_dsn, replace(EMAILS, **change)) as tasks:
            with pytest.raises(SchemaError) as raised:
                await tasks.identity()
            scene.note(raised.value)
    with pytest.raises(SettingsError) as wrong:
        PostgresDatabase(scene.app_dsn, EMAILS, listen=scene.canaries.password)
    scene.note(wrong.value)
    await scene.assert_silent()


# Spans ---------------------------------------------------------------------------------------------------

ATTRIBUTES = {
    "session_lock.session_id", "messaging.batch.message_count", "session_lock.capacity", "db.namespace", "error.type",
}  # fmt: skip


async def test_t7_spans_are_few_kinds_and_short_whatever_the_rows_are(scene):
    for number in range(9):
        await scene.add(f"{number}{scene.canaries.row * 40}")

    async def do(task):
        raise RuntimeError(scene.canaries.error * 100)

    async with PostgresDatabase(scene.app_dsn, EMAILS) as tasks:
        runner = Runner(tasks, each(do), QUICK, tracer_provider=scene.provider)
        await run_until(scene, runner, "(SELECT count(*) FROM session_lock.failure) >= 9")
    spans = scene.spans.get_finished_spans()
    assert {span.name.split()[0] for span in spans} == {
        "start",
        "keepalive",
        "receive",
        "process",
        "release",
        "end",
    }
    assert {span.name.split(maxsplit=1)[1] for span in spans} == {"email"}
    named = {name for span in spans for name in span.attributes}
    assert named >= ATTRIBUTES
    assert all(
        name.startswith(("session_lock.", "messaging.", "db.", "server.")) or name == "error.type"
        for name in named
    )
    texts = {
        (name, value) for span in spans for name, value in span.attributes.items() if isinstance(value, str)
    }
    assert len(texts) < 30, texts
    assert all(len(value) <= 100 for _, value in texts)
    told = {(event.name, *event.attributes.items()) for span in spans for event in span.events}
    assert told == {("session_lock.drain", ("session_lock.reason", "the Runner stops"))}
    await scene.assert_silent()
