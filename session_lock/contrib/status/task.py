"""The page of one task: why it waits or who has it, and what is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from session_lock.catalog import read_shape
from session_lock.contrib.status.markup import Markup, element, together
from session_lock.contrib.status.pages import NOTHING, Place, ask, beside, page, table
from session_lock.contrib.status.told import clean, shown
from session_lock.facts import LimitUse, Why
from session_lock.names import quote_name
from session_lock.sqlstate import is_driver_error, read, translate
from session_lock.table import TaskTable, install_command
from session_lock.wording import span

LONGEST = 500
"""Characters of a column that are shown."""


async def columns_of(connection: Any, mapping: TaskTable, key: str, show: Sequence[str]) -> Mapping[str, str]:
    """Those columns of its row that are to be shown, as text; without the right to read one, what gives it."""
    told: dict[str, str] = {}
    key_type = (await read_shape(connection, mapping)).key_type
    for column in show:
        name = quote_name(column)
        query = f"SELECT left(t.{name}::text, {LONGEST}) FROM {mapping.quoted} AS t WHERE t.{quote_name(mapping.key)} = $1::text::{key_type}"
        try:
            value = await connection.fetchval(query, key)
        except Exception as error:
            if not is_driver_error(error):
                raise
            if read(error).state != "42501":
                raise translate(error, f"status ({mapping.name})", install_command(mapping)) from error
            told[column] = (
                f"left out, the role may not read it: GRANT SELECT ({quote_name(mapping.key)}, {name}) ON {mapping.quoted} TO it"
            )
        else:
            told[column] = "NULL" if value is None else value
    return told


def of_task(place: Place, why: Why, columns: Mapping[str, str]) -> Markup:
    main = together(
        element("div", beside(place, f"Task {shown(why.key)}"), ask(place, why.key), class_="head"),
        element("p", _sentence(why.why), class_=f"answer is-{why.state}"),
        element("ul", *[element("li", _sentence(each)) for each in why.also], class_="also") if why.also else None,
        _facts(place, why, columns),
        _conditions(why),
        _failures(why),
        element("p", element("a", "Look again", href=place.to_mapping("task", key=why.key)), class_="again"),
    )  # fmt: skip
    return page(place, f"Task {shown(why.key)}", main)


def _sentence(text: str) -> str:
    return clean(f"{text[:1].upper()}{text[1:]}.")


def _facts(place: Place, why: Why, columns: Mapping[str, str]) -> Markup | None:
    rows = [
        element("div", element("dt", name), element("dd", *values))
        for name, *values in [
            *_known(place, why),
            *((name, shown(value)) for name, value in columns.items()),
        ]
    ]
    return element("section", element("dl", *rows, class_="facts"), aria_label="Facts") if rows else None


def _known(place: Place, why: Why) -> Iterator[tuple[str, *tuple[str, ...]]]:
    if (holder := why.session) is not None and holder.state != "gone":
        version = f", version {shown(holder.app_version)}" if holder.app_version else ""
        about = f" {shown(holder.label)}{version}, {holder.state}"
        link = (
            element("a", str(holder.id), href=place.to_mapping("sessions", str(holder.id)))
            if holder.lives
            else str(holder.id)
        )
        yield "Session", link, about
        yield "Last keepalive", f"{span(holder.beat_ago)} ago"
        yield (
            "Lease",
            f"runs for {span(holder.left)} more"
            if holder.left > 0
            else f"has run out {span(-holder.left)} ago",
        )
    if why.attempts is not None:
        yield "Attempts", str(why.attempts)
        yield "Claim token", str(why.token or 0)
    if why.due_in is not None:
        yield "Due", f"in {span(why.due_in)}" if why.due_in > 0 else f"for {span(-why.due_in)}"
    if why.needs is not None:
        yield "Needs", f"app_version {shown(why.needs)}"
    if why.in_front is not None:
        yield "Before it", f"{why.in_front:,} tasks"
    for limit in why.limits:
        yield "Limit", _limit(limit)
    for locker in why.lockers:
        yield "Locked by", ("" if locker.sure else "perhaps ") + shown(str(locker))


def _limit(limit: LimitUse) -> str:
    per = " held" if limit.per is None else f" started within {limit.per:g} s"
    return f"{limit.used:,} of {limit.most:,}{per}" + (f", of its {limit.by}" if limit.by else "")


def _conditions(why: Why) -> Markup | None:
    if not why.conditions:
        return None
    rows = [
        (clean(each.text), "NULL" if each.holds is None else "true" if each.holds else "false")
        for each in why.conditions
    ]
    return element(
        "section",
        element("h2", "Is it pending?", id="pending"),
        table((("Part of pending", "code prose"), ("Holds", "")), rows, labelled_by="pending"),
        aria_labelledby="pending",
    )


def _failures(why: Why) -> Markup | None:
    if not why.failures:
        return None
    rows = [
        (
            f"{span(each.ago)} ago",
            str(each.attempt),
            NOTHING if each.session is None else str(each.session),
            "only who may read session_lock.failure is told" if each.error is None else shown(each.error),
        )
        for each in why.failures
    ]
    columns = (("When", "brief"), ("Attempt", "number"), ("Session", "number wide"), ("Error", "prose"))
    return element(
        "section",
        element("h2", "What went wrong", id="failures-title"),
        table(columns, rows, labelled_by="failures-title"),
        aria_labelledby="failures-title",
    )
