"""The command `session-lock demo`, from its words to its exit status."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

from session_lock.cli.common import Commands, complain, say
from session_lock.cli.demo.access import Access
from session_lock.cli.demo.cast import Cast
from session_lock.cli.demo.display import Display, Live, Plain, Silent, terminal
from session_lock.cli.demo.interruption import Interruption
from session_lock.cli.demo.page import status_page
from session_lock.cli.demo.part import Part
from session_lock.cli.demo.scenario import Scenario, Wish
from session_lock.cli.demo.scenarios import SCENARIOS
from session_lock.cli.demo.stage import RUNNER_ROLE, set_stage
from session_lock.cli.demo.verdict import Verdict
from session_lock.cli.demo.watch import Watch, alongside
from session_lock.cli.top import command as top
from session_lock.embedded import temp_postgres
from session_lock.errors import SettingsError

INTERRUPTED = 130
MOST_RUNNERS = 20


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="see it work, on an embedded PostgreSQL",
        description="Several runner processes share a table, by default of the files of Python's standard library, whose "
        "SHA-256 they compute. Part of the way one is killed and one is frozen; the others take over. At the end it is "
        "checked from outside that every task was finished once, with the right result.",
        epilog="Scenarios: " + "; ".join(f"{name}: {each.about}" for name, each in SCENARIOS.items()) + ".",
    )
    parser.add_argument(
        "--scenario", choices=SCENARIOS, default="files", help="what is done; defaults to files"
    )
    parser.add_argument(
        "--runners",
        metavar="N",
        type=_runners,
        help="processes; defaults to 3, for deploy to 5, for shards to 2, for balance to 4",
    )
    parser.add_argument(
        "--dir", metavar="PATH", type=Path, help="the files below PATH, not those of the standard library"
    )
    parser.add_argument(
        "--tasks", metavar="N", type=_at_least_one, help="so many tasks; the first N files only"
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=_seconds,
        help="what the work is paced to take, were nobody killed or frozen; for files it defaults to 25, or 8 with "
        "--no-kill --no-freeze",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=_at_least_one,
        help="draw the same lengths as another run; defaults to a random one, which is told",
    )
    parser.add_argument("--no-kill", dest="kill", action="store_false", help="kill none")
    parser.add_argument("--no-freeze", dest="freeze", action="store_false", help="freeze none")
    parser.add_argument(
        "--dsn",
        help="use this server, which shards does not; its schema session_lock_demo is made, and dropped at the end",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="open session-lock top on it, of shards on the first server; q leaves it",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the outcome as one object, and nothing else"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 if what the scenario promises holds; 1 if not; 130 if interrupted. Nothing is left behind."""
    scenario = _scenario(arguments)
    display = _display(arguments, scenario)
    display.opening(scenario.opening(), *scenario.plan.left_out())

    with Interruption() as interruption, ExitStack() as stack:
        # Blocks, so it cannot be cancelled, only waited for (about a second for each server).
        accesses = (
            [Access(arguments.dsn)] if arguments.dsn else [_embedded(stack) for _ in range(scenario.servers)]
        )
        verdict = interruption.run(lambda: perform(arguments.scenario, scenario, accesses, display))
    if verdict is None:
        complain("interrupted: runners, tables and server are gone")
        return INTERRUPTED
    if arguments.json:
        say(json.dumps(verdict.to_json()))
    else:
        say("\n".join(["", *verdict.sentences()]))
    return 0 if verdict.good else 1


def _display(arguments: argparse.Namespace, scenario: Scenario) -> Display:
    if arguments.watch:
        if arguments.json:
            raise SettingsError("--json prints nothing else, and --watch shows a screen: leave one out")
        top.check_terminal("leave out --watch")
        display: Display = top.load("session_lock.cli.demo.through_top").ThroughTop(scenario.table)
        return display
    return Silent() if arguments.json else Live() if terminal() else Plain()


def _scenario(arguments: argparse.Namespace) -> Scenario:
    kind = SCENARIOS[arguments.scenario]
    given = {
        "dir": arguments.dir is not None,
        "tasks": arguments.tasks is not None,
        "seconds": arguments.seconds is not None,
        "seed": arguments.seed is not None,
        "no-kill": not arguments.kill,
        "no-freeze": not arguments.freeze,
    }
    if wrong := [
        f"--{option}" for option, is_given in given.items() if is_given and option not in kind.options
    ]:
        raise SettingsError(f"the scenario {arguments.scenario} has no {wrong[0]}: leave it out")
    if arguments.dsn and kind.servers > 1:
        raise SettingsError(
            f"the scenario {arguments.scenario} takes {kind.servers} servers, which it starts and stops itself: leave out --dsn"
        )
    return kind(
        Wish(
            arguments.runners or kind.runners,
            tasks=arguments.tasks,
            seconds=arguments.seconds,
            directory=arguments.dir,
            kill=arguments.kill,
            freeze=arguments.freeze,
            seed=arguments.seed,
        )
    )


def _embedded(stack: ExitStack) -> Access:
    server = stack.enter_context(temp_postgres())
    return Access.to_ours(server, RUNNER_ROLE)


async def perform(name: str, scenario: Scenario, accesses: Sequence[Access], display: Display) -> Verdict:
    """Make the tables, let the runners do the work, judge it from outside, and take everything down again."""
    plan = scenario.plan
    async with (
        set_stage(scenario, *accesses) as stage,
        nullcontext() if type(display) is Silent else status_page(stage, scenario.table, display.opening),
    ):
        watch = Watch(stage, scenario.table, every=scenario.look_every)
        dsns = {place.name: place.access.runner_dsn for place in stage.places}
        async with Cast(Part(name, "", dsns, plan.pause, plan.batch_size)) as cast:
            with display:
                await alongside(
                    scenario.play(stage, cast, watch, display.event),
                    watch.run(),
                    display.run(plan, cast, watch),
                )
            return await scenario.judge(stage, cast)


# Words of the command line -------------------------------------------------------------------------


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _runners(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_RUNNERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MOST_RUNNERS}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to 3600")
    return seconds
