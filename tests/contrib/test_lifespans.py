"""`lifespan(runner)` of each framework: what it takes, that it is started once at a time, and what is said of a framework that will not do."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fastapi import APIRouter, FastAPI
from litestar import Litestar
from starlette.applications import Starlette

from session_lock import Runner, RunnerGroup, SettingsError, each
from session_lock.block import first_leaf
from session_lock.contrib import aiohttp, fastapi, litestar, running, starlette
from session_lock.testing import MemoryDatabase
from tests.contrib.test_lifespan import Server

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"starlette": "Starlette", "fastapi": "FastAPI", "litestar": "Litestar", "aiohttp": "aiohttp", "django": "Django", "alembic": "Alembic"}  # fmt: skip


async def send(task: Any) -> None:
    pass


def make() -> Runner[Any]:
    return Runner(MemoryDatabase[Any]({}), each(send))


@asynccontextmanager
async def runner() -> AsyncIterator[Runner[Any]]:
    yield make()


# What it takes -------------------------------------------------------------------------------------------------


class App:
    """With a state, as those of Starlette and Litestar have one."""

    class State:
        runner: Any = None

    def __init__(self) -> None:
        self.state = App.State()


@pytest.mark.parametrize("given", [runner, make, make(), RunnerGroup(make()), lambda: RunnerGroup(make())])
async def test_it_takes_what_session_lock_run_takes(given: Any) -> None:
    app = App()
    async with running.in_state(given)(app):
        assert isinstance(app.state.runner, Runner | RunnerGroup)
        assert app.state.runner.failed is None
        assert app.state.runner._block is not None
    assert app.state.runner._block.done()


def for_app(app: Any) -> Runner[Any]:
    return make()


@asynccontextmanager
async def lifespan_of(app: Any) -> AsyncIterator[Runner[Any]]:
    yield make()


WRONG = [
    (None, "NoneType"),
    ("jobs:runner", "str"),
    (AsyncExitStack(), "AsyncExitStack"),
    (runner(), "what a call of that returns, which serves once: leave its parentheses out"),
    (
        for_app,
        r"for_app, which is to be called without arguments and cannot be \(missing a required argument: 'app'\)",
    ),
    (lifespan_of, r"lifespan_of, which .* cannot be \(missing a required argument: 'app'\)"),
    (Runner, r"Runner, which .* cannot be \(missing a required argument: 'database'\)"),
]


@pytest.mark.parametrize("framework", [starlette, fastapi, litestar, aiohttp])
@pytest.mark.parametrize(("wrong", "kind"), WRONG)
def test_what_is_none_is_refused_at_once(framework: Any, wrong: Any, kind: str) -> None:
    with pytest.raises(
        SettingsError, match=f"^lifespan takes a Runner, a RunnerGroup, or a function .*, not {kind}$"
    ):
        framework.lifespan(wrong)


async def forgotten_decorator() -> AsyncIterator[Runner[Any]]:
    yield make()


async def awaited() -> Runner[Any]:
    return make()


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [(forgotten_decorator, "async_generator"), (awaited, "coroutine"), (nothing, "NoneType"), (App, "App")],
)
async def test_what_makes_none_is_refused_at_the_start(wrong: Any, kind: str) -> None:
    with pytest.raises(
        SettingsError, match=f"what makes a {kind}: write a Runner, a RunnerGroup, or a function with @async"
    ):
        async with running.in_state(wrong)(App()):
            pass


async def test_what_is_around_the_runner_ends_after_it() -> None:
    seen = []

    @asynccontextmanager
    async def around() -> AsyncIterator[Runner[Any]]:
        made = make()
        try:
            yield made
        finally:
            seen.append(made._block is not None and made._block.done())

    async with running.in_state(around)(App()):
        assert seen == []
    assert seen == [True]


# Twice ---------------------------------------------------------------------------------------------------------

TWICE = "^this app is started twice in one process, .*: mount or include it once$"


async def started(app: Any) -> None:
    """As a server does."""
    said = await Server(app).ask("lifespan")
    assert [each["type"] for each in said] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def starlette_app(lifespan: Any, times: int) -> None:
    sub = Starlette(lifespan=lifespan)

    @asynccontextmanager
    async def serving(_app: Any) -> AsyncIterator[None]:  # as is told of apps that are mounted
        async with sub.router.lifespan_context(sub):
            if times == 1:
                yield
                return
            async with sub.router.lifespan_context(sub):
                yield

    await started(Starlette(lifespan=serving))


async def fastapi_app(lifespan: Any, times: int) -> None:
    router, app = APIRouter(lifespan=lifespan), FastAPI()
    for number in range(times):
        app.include_router(router, prefix=f"/{number}")
    await started(app)
    assert isinstance(app.state.runner, Runner)


async def litestar_app(lifespan: Any, times: int) -> None:
    await started(Litestar(lifespan=[lifespan] * times))


async def aiohttp_app(lifespan: Any, times: int) -> None:
    sub, app = web.Application(), web.Application()
    sub.cleanup_ctx.append(lifespan)
    for number in range(times):
        app.add_subapp(f"/{number}", sub)
    server = web.AppRunner(app)
    try:
        await server.setup()
        assert isinstance(sub[aiohttp.RUNNER], Runner)
    finally:
        await server.cleanup()
        await sub.cleanup()  # which aiohttp leaves to the end of the process if another start fails


APPS = [(starlette, starlette_app), (fastapi, fastapi_app), (litestar, litestar_app), (aiohttp, aiohttp_app)]


@pytest.mark.parametrize(("framework", "serve"), APPS, ids=lambda each: getattr(each, "__name__", ""))
async def test_an_app_that_is_mounted_twice_is_refused(framework: Any, serve: Callable[..., Any]) -> None:
    lifespan = framework.lifespan(runner)
    with pytest.raises((SettingsError, ExceptionGroup)) as refused:
        await serve(lifespan, 2)
    error = refused.value
    if isinstance(error, ExceptionGroup):  # Litestar's
        error = first_leaf(error)
    assert isinstance(error, SettingsError)
    assert re.match(TWICE, str(error))
    for _ in range(2):  # one after the other is no harm
        await serve(lifespan, 1)


async def test_an_app_has_one_runner_and_a_second_one_is_refused() -> None:
    app = App()
    for _ in range(2):
        async with running.in_state(runner)(app):
            first = app.state.runner
            with pytest.raises(
                SettingsError, match="^this app has a Runner already: give it both in one RunnerGroup$"
            ):
                async with running.in_state(runner)(app):
                    pass
            assert app.state.runner is first


# A framework that will not do ----------------------------------------------------------------------------------


def imported(module: str, before: str) -> str:
    """The last line of what an import of it says."""
    code = f"import sys; import importlib.metadata as m; real = m.version; {before}; import {module}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("extra", FRAMEWORKS)
def test_a_framework_that_is_missing_is_named_with_its_extra(extra: str) -> None:
    assert re.fullmatch(
        rf"session_lock.errors.SettingsError: session_lock.contrib.{extra} needs {FRAMEWORKS[extra]} [\d.]+ or later: "
        rf"pip install 'session-lock\[{extra}\]'",
        imported(f"session_lock.contrib.{extra}", f"sys.modules[{extra!r}] = None"),
    )


def test_what_a_framework_misses_itself_is_told_as_it_is() -> None:
    said = imported("session_lock.contrib.aiohttp", "sys.modules['yarl'] = None")
    assert said == "ModuleNotFoundError: import of yarl halted; None in sys.modules"


@pytest.mark.parametrize("extra", FRAMEWORKS)
def test_a_framework_that_is_too_old_is_named_with_its_extra(extra: str) -> None:
    old = f"m.version = lambda name: '0.36.9' if name.lower() == {extra!r} else real(name)"
    assert re.fullmatch(
        rf"session_lock.errors.SettingsError: session_lock.contrib.{extra} needs {FRAMEWORKS[extra]} [\d.]+ or later, and 0.36.9 is installed: "
        rf"pip install 'session-lock\[{extra}\]'",
        imported(f"session_lock.contrib.{extra}", old),
    )


def test_so_is_that_of_the_status_page() -> None:
    old = "m.version = lambda name: '0.37.1' if name == 'starlette' else real(name)"
    assert imported("session_lock.contrib.status", old) == (
        "session_lock.errors.SettingsError: the status page needs starlette 0.37.2 or later, and 0.37.1 is installed: "
        "pip install 'session-lock[status]'"
    )


@pytest.mark.parametrize(
    ("found", "fits"),
    [("2.12", True), ("2.12.0rc1", True), ("2.9.9", False), ("10.0", True), ("2.11.99", False)],
)
def test_versions_are_compared_as_numbers(monkeypatch: pytest.MonkeyPatch, found: str, fits: bool) -> None:
    monkeypatch.setattr(running, "version", lambda _: found)
    if fits:
        running.check_version("x", "Litestar", "2.12", extra="litestar")
    else:
        with pytest.raises(SettingsError, match=f"and {re.escape(found)} is installed"):
            running.check_version("x", "Litestar", "2.12", extra="litestar")


def test_what_is_asked_for_is_what_the_extras_bring() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, framework in FRAMEWORKS.items():
        spec = find_spec(f"session_lock.contrib.{extra}")
        asked = re.search(r'needs\("(\w+)", "([\d.]+)"\)', Path(spec.origin).read_text())
        assert asked.groups() == (framework, *re.findall(rf"{extra}>=([\d.]+)", extras[extra][0]))
    status = re.search(
        r'"starlette", "([\d.]+)"', (ROOT / "session_lock/contrib/status/__init__.py").read_text()
    )
    assert f"starlette>={status[1]}" in extras["status"]
