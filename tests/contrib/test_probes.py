"""The probes: over real servers of uvicorn and aiohttp in each state of a Runner, and the ASGI app by itself."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import FastAPI
from starlette.applications import Starlette

from session_lock import Runner, RunnerGroup, SettingsError
from session_lock.contrib import aiohttp, asgi, starlette
from session_lock.testing import MemoryDatabase
from tests.conftest import TestDatabase
from tests.contrib.probed import SETTINGS, load
from tests.contrib.service import Application, Server, until
from tests.proxy import Proxy, proxy

TABLE = "CREATE TABLE mail (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, address text NOT NULL, sent_at timestamptz)"

PREFIX = {"fastapi": "/probes", "bare": "", "aiohttp": ""}


class Probed:
    """A server, asked as a kubelet would."""

    def __init__(
        self, kind: str, app: Application, server: Server, client: httpx.AsyncClient, network: Proxy
    ) -> None:
        self.app, self.server, self.network = app, server, network
        self._client, self._prefix = client, PREFIX[kind]

    async def ask(self) -> tuple[int, int, dict[str, Any]]:
        """Live, ready, and what is told of the Runner."""
        live = await self._client.get(f"{self._prefix}/livez")
        ready = await self._client.get(f"{self._prefix}/readyz")
        [told] = ready.json()["runners"]
        return live.status_code, ready.status_code, told

    async def until(self, state: str, live: int, ready: int) -> dict[str, Any]:
        """Wait for the state; what the probes say of it."""
        seen: list[Any] = []

        async def is_there() -> bool:
            seen.append(await self.ask())
            return seen[-1][2]["state"] == state

        await until(is_there, f"it is never {state}, but {seen[-1:]}")
        # Between the two questions it may have come there.
        assert (live, ready) == (await self.ask())[:2] or seen[-1][:2] == (live, ready), seen[-1]
        return seen[-1][2]

    async def add(self, seconds: float) -> None:
        """A task that takes so long, and has begun."""
        await self.app.admin.execute("INSERT INTO mail (address) VALUES ($1)", str(seconds))
        await self.app.at_least(1, "session_id IS NOT NULL")


@pytest.fixture
async def app(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Application]:
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        app = Application(database, admin, load()["mails"], "sent_at", lambda _: [], tmp_path / "log")
        await app.prepare(TABLE)
        yield app
    finally:
        await admin.close()


@asynccontextmanager
async def serving(app: Application, kind: str) -> AsyncIterator[Probed]:
    async with proxy(app.database.app_dsn) as network:
        app.command = lambda port: [
            sys.executable,
            "-m",
            "tests.contrib.probed",
            kind,
            str(port),
            network.dsn,
        ]
        async with (
            app.server() as server,
            httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=10) as client,
        ):
            yield Probed(kind, app, server, client, network)


@pytest.mark.parametrize("kind", PREFIX)
async def test_while_it_runs_and_after_it_was_asked_to_drain(app: Application, kind: str) -> None:
    async with serving(app, kind) as probed:
        told = await probed.until("running", 200, 200)
        assert told["name"] == "mail"
        assert 0 < told["lease_margin"] < SETTINGS.lease_ttl
        await probed.add(1.5)
        await app.admin.execute("UPDATE session_lock.session SET drain_requested = true")
        told = await probed.until("draining", 200, 503)
        assert told["session"] == 1
        if kind == "aiohttp":  # the process ends with its Runner
            assert await probed.server.exit_code() == 0
        else:
            await probed.until("stopped", 200, 503)
        assert await app.count("sent_at IS NOT NULL") == 1
        assert await app.sessions() == ["ended"]


@pytest.mark.parametrize("kind", ["fastapi", "aiohttp"])
async def test_a_lost_session_and_a_database_that_is_away_need_no_new_start(
    app: Application, kind: str
) -> None:
    async with serving(app, kind) as probed:
        await probed.until("running", 200, 200)
        await app.admin.execute(
            "UPDATE session_lock.session SET expires_at = clock_timestamp() - interval '1 s'"
        )

        async def has_another() -> bool:
            live, ready, told = await probed.ask()
            assert live == 200
            return ready == 200 and told["session"] > 1

        await until(has_another, "it has no other session")
        probed.network.partition()
        margins = []

        async def is_not_ready() -> bool:
            live, ready, told = await probed.ask()
            assert live == 200
            margins.append(told["lease_margin"] or 0)
            return ready == 503

        await until(is_not_ready, "it is ready for ever")
        assert margins == sorted(margins, reverse=True)
        assert margins[0] > 1
        assert margins[-1] == 0
        await probed.until("starting", 200, 503)
        probed.network.heal()
        told = await probed.until("running", 200, 200)
        assert told["session"] > 2

        # But one that has died needs it.
        await app.admin.execute(
            "DO $$ BEGIN EXECUTE (SELECT format('DROP FUNCTION %s', oid::regprocedure) FROM pg_proc WHERE proname ~ '^get_work_'); END $$"
        )
        if kind == "aiohttp":
            assert await probed.server.exit_code() == 1
        else:
            await probed.until("failed", 503, 503)
            assert "get_work" in app.log.read_text()  # and not in what a stranger is told


async def test_a_process_of_its_own_answers_while_it_drains_after_its_sigterm(app: Application) -> None:
    async with serving(app, "aiohttp") as probed:
        await probed.until("running", 200, 200)
        await probed.add(1.5)
        probed.server.terminate()
        await probed.until("draining", 200, 503)
        assert await probed.server.exit_code() == 0
        assert await app.count("sent_at IS NOT NULL") == 1


# The app by itself ----------------------------------------------------------------------------------------


def runner() -> Runner[Any]:
    return Runner(MemoryDatabase(), lambda batch: batch)


def asking(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://probes")


async def test_what_the_app_answers() -> None:
    async with asking(asgi.probes(runner())) as client:
        live, ready = await client.get("/livez"), await client.get("/readyz?verbose")
        assert (live.status_code, ready.status_code) == (200, 503)
        assert live.json() == ready.json() == {
            "live": True, "ready": False,
            "runners": [{"name": "tasks", "state": "starting", "session": None, "lease_margin": None, "looked_ago": None, "loop_lag": None}],
        }  # fmt: skip
        assert live.headers["content-type"] == "application/json"
        assert live.headers["cache-control"] == "no-store"
        assert live.headers["content-length"] == str(len(live.content))
        head = await client.head("/readyz")
        assert (head.status_code, head.content, head.headers["content-length"]) == (
            503,
            b"",
            ready.headers["content-length"],
        )
        posted = await client.post("/livez")
        assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")
        for path in ("/", "/healthz", "/livez/", "/x/livez"):
            assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize("prefix", ["", "/probes", "/a/b"])
async def test_the_app_is_mounted_anywhere(prefix: str) -> None:
    outer = FastAPI()
    outer.mount(prefix, asgi.probes(RunnerGroup(runner())))
    async with asking(outer) as client:
        assert (await client.get(f"{prefix}/livez")).status_code == 200
        assert (await client.get(f"{prefix}/readyz")).status_code == 503
        assert (await client.get(f"{prefix}/else")).status_code == 404


async def test_what_is_not_there_yet_is_live_and_not_ready() -> None:
    made: list[Runner[Any]] = []
    async with asking(asgi.probes(lambda: made[0] if made else None)) as client:
        assert (await client.get("/livez")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"live": True, "ready": False, "runners": []})
        made.append(runner())
        assert [each["state"] for each in (await client.get("/readyz")).json()["runners"]] == ["starting"]


@pytest.mark.parametrize("framework", [FastAPI, Starlette])
async def test_of_an_app_whose_lifespan_nobody_runs_it_is_live_and_the_log_says_why_once(
    framework: Any, caplog: Any
) -> None:
    sub = framework(lifespan=starlette.lifespan(runner()))
    sub.mount("/probes", asgi.probes(lambda: sub.state.runner))
    outer = framework()
    outer.mount("/sub", sub)
    async with asking(outer) as client:
        for _ in range(2):
            live, ready = await client.get("/sub/probes/livez"), await client.get("/sub/probes/readyz")
            assert (live.status_code, ready.status_code) == (200, 503)
            assert ready.json() == {"live": True, "ready": False, "runners": []}
        [warned] = [record for record in caplog.records if record.name == "session_lock.contrib"]
        assert warned.levelname == "WARNING"
        assert "no attribute 'runner'" in warned.getMessage()
        assert "the lifespan of the outermost app alone" in warned.getMessage()
        sub.state.runner = runner()
        assert len((await client.get("/sub/probes/readyz")).json()["runners"]) == 1


async def test_of_an_app_of_aiohttp_without_a_runner_too(caplog: Any) -> None:
    app = web.Application()
    app.add_routes(aiohttp.probes(lambda: app[aiohttp.RUNNER]))
    async with TestClient(TestServer(app)) as client:
        assert [(await client.get(path)).status for path in ("/livez", "/readyz")] == [200, 503]
    assert "session_lock.runner" in caplog.text


async def test_what_else_the_function_raises_is_raised() -> None:
    def source() -> Runner[Any]:
        raise RuntimeError("of its own")

    async with asking(asgi.probes(source)) as client:
        with pytest.raises(RuntimeError, match="of its own"):
            await client.get("/livez")


async def test_it_answers_http_alone() -> None:
    with pytest.raises(ValueError, match="probes answer http, not websocket"):
        await asgi.probes(runner())({"type": "websocket"}, None, None)


@pytest.mark.parametrize("probes", [asgi.probes, aiohttp.probes])
@pytest.mark.parametrize(("wrong", "called"), [(None, "NoneType"), ("runner", "str"), (Runner, "Runner")])
def test_what_is_no_runner_is_refused(probes: Any, wrong: Any, called: str) -> None:
    with pytest.raises(
        SettingsError, match=f"^probes takes a Runner, a RunnerGroup, or a function .* not {called}$"
    ):
        probes(wrong)


async def test_aiohttp_knows_the_methods() -> None:
    app = web.Application()
    app.add_routes(aiohttp.probes(runner()))
    assert sorted((route.method, route.resource.canonical) for route in app.router.routes()) == [
        ("GET", "/livez"), ("GET", "/readyz"), ("HEAD", "/livez"), ("HEAD", "/readyz"),
    ]  # fmt: skip
