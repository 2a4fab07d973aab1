"""What a browser is sent of a look: numbers and text, bounded, and no more of a row than its key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from math import isfinite
from typing import Any

from session_lock.contrib.status.watching import Look, Point
from session_lock.overview import LiveSession, Overview

MOST_SESSIONS = 200
"""Sessions that are shown; how many more there are is said."""

LONGEST = 300
"""Characters of an error that are shown, of its first line, and of any other text."""


LONGEST_KEY = 2_000
"""Characters of a key that may be asked about."""


class Raw(str):
    """Text that is sent as it is: a key, by which a task is asked about. It is never shown."""

    __slots__ = ()


def told(name: str, look: Look, points: Sequence[Point], *, session: int | None) -> str:
    """Of one mapping, as JSON. `session`: the plots are of this one, and no other is told of."""
    head = _json({
        "mapping": name, "trouble": look.trouble, "rate": look.rate, "points": [_plotted(each, session) for each in points],
    })  # fmt: skip
    return f'{head[:-1]},"seen":{_seen(look, session)}}}'


def summary(looks: Iterable[tuple[str, Look]]) -> str:
    """Of all mappings, a few numbers each, as JSON."""
    return _json([{"mapping": name, "trouble": look.trouble, **_summed(look)} for name, look in looks])


def _seen(look: Look, session: int | None) -> str:
    """Of what is the same for all who look on, each part is encoded once in a look."""
    if (seen := look.seen) is None:
        return "null"
    parts = look.encoded
    if "rest" not in parts:
        parts["rest"] = _rest(seen)
    if seen.sessions is None:
        told_of = "null"
    elif session is not None:
        told_of = _list(each for each in seen.sessions if each.session == session)
    else:
        if "sessions" not in parts:
            parts["sessions"] = _list(_kept(seen.sessions))
        told_of = parts["sessions"]
    return f'{parts["rest"][:-1]},"sessions":{told_of}}}'


def _rest(seen: Overview) -> str:
    whole = asdict(replace(seen, sessions=None))
    del whole["sessions"]
    more = 0 if seen.sessions is None else max(len(seen.sessions) - MOST_SESSIONS, 0)
    for each in whole["failures"] or ():
        each["raw"] = Raw(each["key"]) if len(each["key"]) <= LONGEST_KEY else None
    return _json(whole | {"more_sessions": more, "totals": _totals(seen)})


def _list(sessions: Iterable[LiveSession]) -> str:
    return f"[{','.join(map(_session, sessions))}]"


def _session(one: LiveSession) -> str:
    return _json(asdict(one))


def _kept(sessions: Sequence[LiveSession]) -> Sequence[LiveSession]:
    """In their order, but those about which something may have to be done rather than those that merely live."""
    if len(sessions) <= MOST_SESSIONS:
        return sessions
    first = sorted(range(len(sessions)), key=lambda index: sessions[index].state == "live")
    return [sessions[index] for index in sorted(first[:MOST_SESSIONS])]


def _summed(look: Look) -> dict[str, Any]:
    if (seen := look.seen) is None:
        return {"seen": False}
    backlog = None if seen.backlog is None else asdict(seen.backlog)
    return {
        "seen": True,
        "paused": seen.paused,
        "rate": look.rate,
        "backlog": backlog,
        "totals": _totals(seen),
    }


def _totals(seen: Overview) -> dict[str, int] | None:
    if seen.sessions is None:
        return None
    live = [each for each in seen.sessions if each.live]
    return {
        "live": len(live),
        "draining": sum(each.state == "draining" for each in live),
        "held": sum(each.held for each in seen.sessions),
        "running": sum(each.running for each in seen.sessions),
        "capacity": sum(each.capacity for each in live),
    }


def _plotted(point: Point, session: int | None) -> list[float | None]:
    """[time, rate, waiting, oldest, held, running] of the mapping; [time, held, running] of a session."""
    if session is not None:
        return [point.at, *point.by_session.get(session, (None, None))]
    return [point.at, point.rate, point.waiting, point.oldest, point.held, point.running]


def _json(value: Any) -> str:
    """In ASCII and on one line, whatever others have written into it."""
    return json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    match value:
        case Raw():
            return value
        case str():
            return shown(value)
        case float():
            return round(value, 3) if isfinite(value) else None
        case datetime():
            return value.timestamp()
        case Mapping():
            return {name: _plain(each) for name, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
    return value


def shown(text: str) -> str:
    """What others have written: its first line, without what no letter is, and cut."""
    line = clean(text.partition("\n")[0])
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def clean(text: str) -> str:
    """Without what no letter is: such as what has a browser write the other way round."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
