"""What the modules for frameworks have in common: a Runner for as long as an app serves, and what is said of a framework that will not do."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeAlias

from session_lock.block import RunningBlock
from session_lock.contrib.probing import Probed
from session_lock.errors import SettingsError

Given: TypeAlias = Probed | Callable[[], Probed | AbstractAsyncContextManager[Probed]]
"""What `session-lock run` takes."""

KINDS = "a Runner, a RunnerGroup, or a function with @asynccontextmanager that yields one"

# The framework -------------------------------------------------------------------------------------------------


@contextmanager
def needs(framework: str, least: str) -> Iterator[None]:
    """Around what is imported from a framework, in the module that is named after it, as is its extra."""
    extra = framework.lower()
    module = f"session_lock.contrib.{extra}"
    check_version(module, framework, least, extra=extra)
    try:
        yield
    except ImportError as error:
        raise _unfit(module, framework, least, extra) from error


def check_version(who: str, framework: str, least: str, *, extra: str) -> None:
    """`SettingsError` if it is there, and too old."""
    try:
        found = version(framework)
    except PackageNotFoundError:
        return
    if _numbers(found) < _numbers(least):
        raise _unfit(who, framework, least, extra, f", and {found} is installed")


def _unfit(who: str, framework: str, least: str, extra: str, found: str = "") -> SettingsError:
    return SettingsError(
        f"{who} needs {framework} {least} or later{found}: pip install 'session-lock[{extra}]'"
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:3]))


# The Runner ----------------------------------------------------------------------------------------------------


def in_state(given: Given) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan for an app that has a `state`: the Runner is `app.state.runner`."""
    running = once(given)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with running() as app.state.runner:
            yield

    return lifespan


def once(given: Given) -> Callable[[], AbstractAsyncContextManager[Probed]]:
    """A block in which the Runner runs. `SettingsError` for whoever enters it while it lasts: a second Runner is not what anybody meant."""
    if not isinstance(given, RunningBlock) and not callable(given):
        raise SettingsError(f"lifespan takes {KINDS}, not {type(given).__name__}")
    live = False

    @asynccontextmanager
    async def running() -> AsyncIterator[Probed]:
        nonlocal live
        if live:
            raise SettingsError(
                "this app is started twice in one process, so one process would have two Runners: mount or include it once"
            )
        live = True
        try:
            async with AsyncExitStack() as stack:
                runner = await _made(given, stack)
                yield await stack.enter_async_context(runner)
        finally:
            live = False

    return running


async def _made(given: Given, stack: AsyncExitStack) -> Probed:
    """The Runner itself; what is around it ends with the stack."""
    made: Any = given if isinstance(given, RunningBlock) else given()
    if hasattr(made, "__aenter__") and not isinstance(made, RunningBlock):
        made = await stack.enter_async_context(made)
    if not isinstance(made, RunningBlock):
        if inspect.iscoroutine(made):
            made.close()  # or Python warns that nobody has awaited it
        raise SettingsError(f"lifespan was given what makes a {type(made).__name__}: write {KINDS}")
    return made  # type: ignore[return-value]
