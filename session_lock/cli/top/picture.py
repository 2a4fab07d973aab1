"""What `top` writes around its lists: an overview as lines, for any width. It knows no screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC

from rich.text import Text

from session_lock.cli.common import printable
from session_lock.cli.top.palette import Palette
from session_lock.cli.why import facts as facts_of
from session_lock.cli.why import sentences
from session_lock.facts import Why
from session_lock.glance import Holder, Overview, TableState, Throughput
from session_lock.wording import span

NAMES = 9
"""Characters of the column in which the names of facts stand."""

BARS = "▁▂▃▄▅▆▇█"

CROWDED = 0.9
"""Of the connections."""

MANY_DEAD = 1_000
"""Dead rows that are no cause for concern, however few live."""

LIVE = {"live", "draining"}


# Above: the mapping, and the facts ---------------------------------------------------------------------


def head(look: Overview, width: int, colours: Palette) -> Text:
    """The mapping and how it is; the server's time at the right, where there is room."""
    said = Text.assemble((printable(look.name, 40), f"bold {colours.text}"))
    if look.table.removeprefix("public.") != look.name:
        said.append(f"  {printable(look.table, 60)}", colours.dim)
    said.append("  ")
    said.append_text(_state(look, colours))
    at = f"{look.at.astimezone(UTC):%H:%M:%S} UTC"
    room = width - said.cell_len - len(at)
    return said.append(" " * room + at, colours.dim) if room >= 2 else said


def _state(look: Overview, colours: Palette) -> Text:
    if look.paused_since is not None:
        return Text(
            f"paused for {span((look.at - look.paused_since).total_seconds())}", f"bold {colours.warn}"
        )
    if look.paused:
        return Text("paused", f"bold {colours.warn}")
    if look.sessions is None:
        return Text()
    live = sum(each.state in LIVE for each in look.sessions)
    if not live:
        return Text("no session is live", f"bold {colours.bad}")
    if all(each.state == "draining" for each in look.sessions if each.state in LIVE):
        return Text("all sessions are draining", f"bold {colours.warn}")
    return Text(f"{live} session{'' if live == 1 else 's'} live", colours.good)


def facts(look: Overview, throughput: Throughput, width: int, colours: Palette) -> Text:
    """A line or more for each: how fast it goes, what waits, and how the server is."""
    lines = [
        _fact("tasks/s", _speed(throughput, width - NAMES, colours), width, colours),
        _fact("backlog", _backlog(look, colours), width, colours),
        _fact("server", _connections(look, colours), width, colours),
        _fact("table", _table(look, colours), width, colours),
        _fact("vacuum", _vacuum(look, colours), width, colours),
    ]
    return Text("\n").join(lines)


def _fact(name: str, value: Text, width: int, colours: Palette) -> Text:
    """The name, and what is said of it beside that: one line, or two."""
    room = max(width - NAMES, 10)
    first, *more = folded(value, room)
    if more:
        second = more[0] if len(more) == 1 else more[0] + Text("…")
        second.truncate(room, overflow="ellipsis")
        more = [second]
    return Text("\n" + " " * NAMES).join([Text(f"{name:<{NAMES}}", colours.dim) + first, *more])


def folded(text: Text, width: int) -> list[Text]:
    """At spaces, or anywhere in a word that is too long."""
    lines: list[Text] = []
    rest = text
    while rest.cell_len > width:
        end = rest.plain.rfind(" ", 0, width + 1)
        cut = end if end > 0 else width
        lines.append(rest[:cut])
        rest = rest[cut + (end > 0) :]
    return [*lines, rest]


def _speed(throughput: Throughput, room: int, colours: Palette) -> Text:
    if throughput.now is None:
        known = any(each is not None for each in throughput.values)
        return Text("not known now" if known else "not known yet: it takes two looks", colours.dim)
    number = f"{_rate(throughput.now):<6}"
    peak = max(each for each in throughput.values if each is not None)
    said, behind = Text.assemble((number, f"bold {colours.text}")), f"  peak {_rate(peak)}"
    line = sparkline(throughput.values, min(60, room - len(number) - len(behind)), peak)
    return said.append(line, colours.accent).append(behind, colours.dim)


def _rate(number: float) -> str:
    return f"{number:,.1f}" if number < 10 else f"{number:,.0f}"


def sparkline(values: Sequence[float | None], length: int, most: float) -> str:
    """The newest `length`, a character each, the newest at the right; a gap where nothing is known."""
    shown = list(values)[-length:] if length > 0 else []
    drawn = "".join(" " if each is None else BARS[_level(each, most)] for each in shown)
    return drawn.rjust(max(length, 0))


def _level(value: float, most: float) -> int:
    return min(round(value / most * (len(BARS) - 1)), len(BARS) - 1) if most > 0 else 0


def _backlog(look: Overview, colours: Palette) -> Text:
    if look.backlog is None:
        return _unknown(colours)
    if not look.backlog.tasks:
        return Text("nothing waits", colours.dim)
    tasks = look.backlog.tasks
    said = Text.assemble((f"{tasks:,}", f"bold {colours.text}"))
    said.append(f"{' or more' if look.backlog.more else ''} due and free", colours.text)
    if look.backlog.oldest is not None:
        said.append(f", the oldest for {span(look.backlog.oldest)}", colours.text)
    return said


def _connections(look: Overview, colours: Palette) -> Text:
    if (there := look.connections) is None:
        return _unknown(colours)
    style = colours.warn if there.used >= CROWDED * there.most else colours.text
    said = Text.assemble((f"{there.used:,}", f"bold {style}")).append(
        f" of {there.most:,} connections", style
    )
    return said.append(f", {there.ours:,} ours", colours.text)


def _table(look: Overview, colours: Palette) -> Text:
    if (state := look.state) is None:
        return _unknown(colours)
    style = colours.warn if state.dead > max(MANY_DEAD, state.live) else colours.text
    said = Text.assemble((f"{state.dead:,}", f"bold {style}")).append(" dead rows", style)
    said.append(f", {state.live:,} live, {size(state.size_bytes)}", colours.text)
    return said.append(f", {_vacuumed(look, state)}", colours.text)


def _vacuumed(look: Overview, state: TableState) -> str:
    if state.last_autovacuum is None:
        return "no autovacuum yet"
    return f"autovacuum {span((look.at - state.last_autovacuum).total_seconds())} ago"


def _vacuum(look: Overview, colours: Palette) -> Text:
    if look.holders is None:
        return _unknown(colours)
    if not look.holders:
        return Text("held back by nothing", colours.dim)
    said = Text(f"held back by {_holder(look.holders[0])}", colours.warn)
    more = len(look.holders) - 1
    return said.append(f"; and {more} more", colours.warn) if more else said


def _holder(holder: Holder) -> str:
    kinds = {
        "prepared": "the prepared transaction ",
        "slot": "the replication slot ",
        "standby": "the standby of ",
        "transaction": "",
    }
    since = "" if holder.since is None else f" for {span(holder.since)}"
    since += " or more" if since and holder.kind == "standby" else ""
    return f"{kinds.get(holder.kind, '')}{printable(holder.name, 60)}{since} ({holder.transactions:,} transactions)"


def _unknown(colours: Palette) -> Text:
    return Text("left out", colours.dim)


# Over the lists, and in front of them -------------------------------------------------------------------


def sessions_title(look: Overview, colours: Palette) -> Text:
    if look.sessions is None:
        return Text("Sessions are left out.", colours.dim)
    none = "No session is there: no Runner of this mapping runs."
    return Text("Sessions", f"bold {colours.text}") if look.sessions else Text(none, f"bold {colours.bad}")


def failures_title(look: Overview, colours: Palette) -> Text:
    if look.failures is None:
        return Text()
    return (
        Text("Newest failures", f"bold {colours.text}")
        if look.failures
        else Text("Nothing has failed.", colours.dim)
    )


def why_page(found: Why, colours: Palette) -> Text:
    """What `session-lock why` prints."""
    said = [Text(text, f"bold {colours.text}") for text in sentences(found)]
    known = [
        Text.assemble((f"{name:<10}", colours.dim)).append(printable(text), colours.text)
        for name, text in facts_of(found)
    ]
    return Text("\n").join(
        [Text(f"Task {printable(found.key, 60)}", colours.accent), Text(), *said, Text(), *known]
    )


# Below: what is missing, and the keys -------------------------------------------------------------------


def missing(look: Overview, dropped: Sequence[str], width: int, colours: Palette) -> Text:
    """What there was no room for, and what the role has no right to."""
    said: list[str] = []
    if dropped:
        said.append(f"Too narrow for {', '.join(dropped)}.")
    if look.left_out:
        parts = ", ".join(text.partition(" left out")[0] for text in look.left_out)
        said.append(f"Left out: {parts} (l says why).")
    return Text("\n").join(line for text in said for line in folded(Text(text, colours.dim), width))


def keys(named: Sequence[tuple[str, str]], width: int, colours: Palette) -> Text:
    """Each with what it does, on as many lines as it takes."""
    lines = [Text()]
    for key, does in named:
        said = Text.assemble((key, f"bold {colours.accent}")).append(f" {does}", colours.dim)
        if lines[-1].cell_len and lines[-1].cell_len + 2 + said.cell_len > width:
            lines.append(Text())
        lines[-1].append("  " if lines[-1].cell_len else "").append_text(said)
    return Text("\n").join(lines)


# Of bytes ------------------------------------------------------------------------------------------------


def size(number: int) -> str:
    return next(_sizes(number))


def _sizes(number: float) -> Iterator[str]:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1024:
            yield f"{number:,.0f} {unit}"
        number /= 1024
    yield f"{number:,.1f} TB"
