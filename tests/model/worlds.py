"""Which worlds are gone through, and how many states they have: those of every run, and the larger ones of a night."""

from __future__ import annotations

from tests.model.states import World

BY_DEFAULT = {
    "two Runners": (World(late=0, still=False), 13_609),
    "that stand still and wake": (World(ttl=1, late=0), 22_503),
    "with clocks that differ": (World(guard=1, drift=1, late=0, still=False), 8_786),
    "calls that are late": (World(runners=1), 26_281),
    "rows closed and reopened by hand": (World(runners=1, late=0, by_hand=True), 2_221),
    "tasks cancelled": (World(runners=1, tasks=2, late=0, cancel=True), 38_816),
}

AT_NIGHT = {
    "two Runners that stand still": (World(late=0), 139_890),
    "whose calls are late": (World(ttl=1, still=False), 65_347),
    "with two tasks": (World(tasks=2, ttl=1, late=0), 253_721),
    "rows closed and reopened by hand, and late calls": (World(runners=1, by_hand=True), 57_498),
    "two that stand still, and late calls: the first of them": (World(ttl=1), 600_000),
}
