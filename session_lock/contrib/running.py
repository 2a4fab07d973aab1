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
def needs(framework: str, least: str, *, who: str = "", extra: str = "") -> Iterator[None]:
    """Around what is imported from a framework, in the module that is named after it, as is its extra; or by `who`, with another `extra`."""
    package = framework.lower()
    who, extra = who or f"session_lock.contrib.{package}", extra or package
    check_version(who, framework, least, extra=extra)
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:  # it is there, and something else is not
            raise
        raise _unfit(who, framework, least, extra) from error


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
        async with running(app) as app.state.runner:
            yield

    return lifespan


_served: set[int] = set()
"""The ids of the apps that have a Runner now."""


def once(given: Given) -> Callable[[Any], AbstractAsyncContextManager[Probed]]:
    """A block in which the Runner runs, for an app. `SettingsError` for whoever enters it while it lasts, as a second Runner is not what anybody
    meant; and for an app that has another one, which would be found no more.
    """
    if other := what_else(given):
        raise SettingsError(f"lifespan takes {KINDS}, not {other}")
    live = False

    def refusal(kind: str, _yielded: bool) -> str:
        return f"lifespan was given what makes a {kind}: write {KINDS}"

    @asynccontextmanager
    async def running(app: Any) -> AsyncIterator[Probed]:
        nonlocal live
        if live:
            raise SettingsError(
                "this app is started twice in one process, so one process would have two Runners: mount or include it once"
            )
        if id(app) in _served:
            raise SettingsError("this app has a Runner already: give it both in one RunnerGroup")
        live = True
        _served.add(id(app))
        try:
            async with made(given, refusal) as runner, runner:
                yield runner
        finally:
            live = False
            _served.discard(id(app))

    return running


def what_else(given: Any) -> str | None:
    """What it is, if it is none of what is taken; what it makes is seen when it is called."""
    if isinstance(given, RunningBlock):
        return None
    is_entered = hasattr(given, "__aenter__") and not isinstance(given, type)
    if is_entered and callable(given):
        return "what a call of that returns, which serves once: leave its parentheses out"
    if is_entered or not callable(given):
        return type(given).__name__
    try:
        inspect.signature(given).bind()
    except TypeError as error:
        name = getattr(given, "__qualname__", type(given).__name__)
        return f"{name}, which is to be called without arguments and cannot be ({error})"
    except ValueError:  # it does not tell
        pass
    return None


@asynccontextmanager
async def made(given: Any, refusal: Callable[[str, bool], str]) -> AsyncIterator[Probed]:
    """The Runner that is given, or made or yielded by what is given, which lasts as long as the block. `SettingsError` if that is none, in the
    words of `refusal`, which is told of what type it is, and whether it was yielded.
    """
    found: Any = given if isinstance(given, RunningBlock) else given()
    async with AsyncExitStack() as stack:
        yielded = hasattr(found, "__aenter__") and not isinstance(found, RunningBlock)
        if yielded:
            found = await stack.enter_async_context(found)
        if not isinstance(found, RunningBlock):
            if inspect.iscoroutine(found):
                found.close()  # or Python warns that nobody has awaited it
            raise SettingsError(refusal(type(found).__name__, yielded))
        yield found  # type: ignore[misc]
