"""`why`: why one task does not run, or who has it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence

from session_lock.asking import why
from session_lock.cli.common import Commands, add_mapping_arguments, load, printable, say, with_database
from session_lock.errors import SettingsError
from session_lock.facts import LimitUse, Why
from session_lock.retry import Retry
from session_lock.settings import Settings
from session_lock.wording import span

SHOWN = 3
"""Of what went wrong, the newest; --json has all that is kept."""

WIDEST = 200
"""Characters of an error that are shown, of its first line."""


def add_parsers(commands: Commands) -> None:
    explainer = commands.add_parser(
        "why", help="say why a task does not run, or who has it; 1 if there is none"
    )
    add_mapping_arguments(explainer)
    explainer.add_argument("key", metavar="KEY", help="of the task, as it stands in the table")
    explainer.add_argument(
        "--settings",
        metavar="MODULE:ATTR",
        help="where the Settings of its Runners are: then it says of how many attempts this is one",
    )
    explainer.add_argument("--json", action="store_true", help="an object, for machines")
    explainer.set_defaults(run=_why)


def _why(arguments: argparse.Namespace) -> int:
    retry = load_retry(arguments.settings) if arguments.settings else None
    found = with_database(arguments, lambda connection, table: why(connection, table, arguments.key))
    if arguments.json:
        most = {} if retry is None else {"max_attempts": retry.max_attempts}
        say(json.dumps(found.as_json() | most, indent=2))
    else:
        for text in sentences(found):
            say(text)
        for name, text in facts(found, retry):
            say(printable(f"  {name:<10}{text}"))
    return 1 if found.state == "unknown" else 0


def sentences(found: Why) -> Sequence[str]:
    """Why, and what else is in its way."""
    return [printable(f"{text[:1].upper()}{text[1:]}.") for text in (found.why, *found.also)]


def load_retry(name: str) -> Retry:
    """What Runners do about failures: it is known to them, and not to the database."""
    found = load(name, "Settings", lambda _: "it is to be the Settings of the Runners, or their Retry")
    if isinstance(found, Settings):
        return found.retry
    if not isinstance(found, Retry):
        raise SettingsError(
            f"{name} is of type {type(found).__name__}: name the Settings of the Runners, or their Retry"
        )
    return found


def facts(found: Why, retry: Retry | None = None) -> Iterator[tuple[str, str]]:
    """What it is known by: a name and a text each."""
    for condition in found.conditions:
        yield (
            "pending",
            f"{condition.text}: {'NULL' if condition.holds is None else str(condition.holds).lower()}",
        )
    if (session := found.session) is not None and session.state != "gone":
        version = f", version {session.app_version}" if session.app_version else ""
        yield (
            "session",
            f"{session.id}, {session.label}{version}, {session.state}, last keepalive {span(session.beat_ago)} ago",
        )
    if found.attempts is not None:
        yield "attempts", f"{found.attempts}{_of(retry)}, claim token {found.token or 0}"
    if found.due_in is not None:
        yield "due", f"in {span(found.due_in)}" if found.due_in > 0 else f"for {span(-found.due_in)}"
    if found.needs is not None:
        yield "needs", f"app_version {found.needs[:100]}"
    for limit in found.limits:
        yield "limit", _limit(limit)
    for failure in found.failures[:SHOWN]:
        error = (
            "only who may read session_lock.failure is told"
            if failure.error is None
            else printable(failure.error.partition("\n")[0], WIDEST)
        )
        yield "failure", f"attempt {failure.attempt}, {span(failure.ago)} ago: {error}"
    if len(found.failures) > SHOWN:
        yield "", f"{len(found.failures) - SHOWN} more: say --json"


def _of(retry: Retry | None) -> str:
    """How many there are, of an error that has no policy of its own."""
    if retry is None:
        return ""
    most = " of any number" if retry.max_attempts is None else f" of {retry.max_attempts}"
    others = {each.max_attempts for each in retry.on.values()} - {retry.max_attempts}
    return most + (" (other numbers after some errors)" if others else "")


def _limit(limit: LimitUse) -> str:
    per = " held" if limit.per is None else f" started within {limit.per:g} s"
    return f"{limit.used:,} of {limit.most:,}{per}" + (f", of its {limit.by}" if limit.by else "")
