"""What befalls the runners: one is killed, one is frozen for longer than its lease, one comes in anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from session_lock.cli.demo.cast import Cast, RunnerProcess, State
from session_lock.cli.demo.plan import Plan
from session_lock.cli.demo.stage import Stage
from session_lock.cli.demo.watch import Seen, Watch

Say: TypeAlias = Callable[[str], None]

SETTLED_AFTER = 0.1
"""Seconds in which the server has carried out what a frozen process had sent."""

LATE_WITHIN = 1.0
"""Seconds in which a thawed runner has tried to finish what it held, and has said so."""


async def play(
    plan: Plan,
    stage: Stage,
    cast: Cast,
    watch: Watch,
    say: Say,
    *,
    then: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """From the start of the runners until all work is done, also what `then` waits for, and they have ended."""
    for _ in range(plan.runners):
        await cast.start()
    say(f"{' '.join(runner.name for runner in cast.runners)} start")

    done = partial(_finished, plan.tasks)
    for part in plan.blows_at:
        await watch.until(partial(_finished, part * plan.tasks), cast.check)
        killed = await _kill_one(stage, cast, watch, say, done) if plan.kills else None
        frozen = await _freeze_one(stage, cast, watch, say, done) if plan.freezes else None
        for victim in filter(None, (killed, frozen)):
            await _see_taken_over(victim, cast, watch, say)
        if frozen:
            await _thaw(frozen, say)
    await watch.until(done, cast.check)
    if then is not None:
        await then()
    say("all work is done")
    await cast.stop()


def _finished(count: float, now: Seen) -> bool:
    return now.finished >= count


async def _kill_one(
    stage: Stage, cast: Cast, watch: Watch, say: Say, done: Callable[[Seen], bool]
) -> RunnerProcess | None:
    if (victim := await _one_at_work(cast, watch, done)) is None:
        say("the work was done before a runner could be killed")
        return None
    victim.kill(await stage.clock())
    await asyncio.sleep(SETTLED_AFTER)
    say(f"{victim.name} is killed (SIGKILL) and leaves {_held(await watch.look(), victim)}")
    replacement = await cast.start()
    say(f"{replacement.name} starts in its place")
    return victim


async def _freeze_one(
    stage: Stage, cast: Cast, watch: Watch, say: Say, done: Callable[[Seen], bool]
) -> RunnerProcess | None:
    """Freeze a runner between the begin of tasks and their finish: at another moment it would have nothing to be late with."""
    while (victim := await _one_at_work(cast, watch, done)) is not None:
        victim.freeze(await stage.clock())
        await asyncio.sleep(SETTLED_AFTER)
        if (now := await watch.look()).begun(victim.pid):
            say(f"{victim.name} is frozen (SIGSTOP) with {_held(now, victim)}")
            return victim
        victim.unfreeze()
        await asyncio.sleep(SETTLED_AFTER)
    say("the work was done before a runner could be frozen")
    return None


async def _one_at_work(cast: Cast, watch: Watch, done: Callable[[Seen], bool]) -> RunnerProcess | None:
    """The first runner that is in a call of the tasker; None when all work is done."""

    def at_work(now: Seen) -> list[RunnerProcess]:
        return [each for each in cast.runners if each.state is State.RUNNING and now.begun(each.pid)]

    await watch.until(lambda now: bool(at_work(now)) or done(now), cast.check)
    return next(iter(at_work(watch.now)), None)


def _held(now: Seen, victim: RunnerProcess) -> str:
    held, begun = sum(session.held for session in now.of(victim.pid)), now.begun(victim.pid)
    return f"{held} tasks, {begun} of them begun"


async def _see_taken_over(victim: RunnerProcess, cast: Cast, watch: Watch, say: Say) -> None:
    struck = {session.id for session in watch.now.of(victim.pid)}
    await watch.until(
        lambda now: all(s.ended and not s.held for s in now.sessions if s.id in struck), cast.check
    )
    say(f"{victim.name}'s session has ended, and the others have taken over its tasks")


async def _thaw(victim: RunnerProcess, say: Say) -> None:
    """Now that it is late, and does not know."""
    victim.thaw()
    say(f"{victim.name} is thawed (SIGCONT) and tries to finish what it had begun")
    await asyncio.sleep(LATE_WITHIN)
    say(f"{victim.report.refused} finishes of {victim.name} were too late: the database has refused them")
