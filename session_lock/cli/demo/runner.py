"""One runner process of the demo: `python -m session_lock.cli.demo.runner`, started by `cast`.

What it needs comes in the environment variable SESSION_LOCK_DEMO_RUNNER, as JSON. Each line that it prints is a JSON object
about it. It stops gracefully upon SIGTERM, and when its stdin is closed, which is also what happens when its parent dies.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict

import asyncpg

from session_lock.block import RunningBlock
from session_lock.cli.demo.cast import VARIABLE
from session_lock.cli.demo.part import CONCURRENCY, Backstage, Part, Report
from session_lock.cli.demo.scenarios import SCENARIOS

REPORT_EVERY = 0.2
STOP_WITHIN = 5.0


async def main(part: Part) -> None:
    report = Report()
    scenario = SCENARIOS[part.scenario]
    async with AsyncExitStack() as stack:
        runners: list[RunningBlock] = []
        for name, dsn in part.dsns.items():
            pool = asyncpg.create_pool(dsn, min_size=1, max_size=2 * CONCURRENCY)
            backstage = Backstage(part, name, await stack.enter_async_context(pool), report)
            database = await stack.enter_async_context(scenario.database(backstage))
            runners.append(scenario.runner(database, backstage))
        runner = scenario.together(*runners)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _stop, runner)
        beside = [asyncio.create_task(_report(report)), asyncio.create_task(_stop_when_told(runner))]
        try:
            await runner.run()
        finally:
            for task in beside:
                task.cancel()
            _say(report)


async def _report(report: Report) -> None:
    while True:
        _say(report)
        await asyncio.sleep(REPORT_EVERY)


def _say(report: Report) -> None:
    try:
        print(json.dumps(asdict(report)), flush=True)  # noqa: T201 (to the parent)
    except BrokenPipeError:
        os._exit(1)  # the parent is gone, and with it whatever there was to do


async def _stop_when_told(runner: RunningBlock) -> None:
    """Stop at the end of stdin: the parent has closed it, or is no more."""
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    await stdin.read()
    _stop(runner)


def _stop(runner: RunningBlock) -> None:
    runner.stop()
    asyncio.get_running_loop().call_later(STOP_WITHIN, os._exit, 1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    asyncio.run(main(Part(**json.loads(os.environ.pop(VARIABLE)))))
