"""The colours of `top`, for dark and for light terminals. Nothing is said by a colour alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from textual.theme import Theme


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """By what they mean. Each is readable on `ground`, and on `bar`, on which what is selected stands."""

    ground: str
    bar: str
    text: str
    dim: str
    accent: str
    good: str
    warn: str
    bad: str


DARK = Palette(
    ground="#14171c", bar="#2a3442", text="#dde2e9", dim="#9aa4b2", accent="#7cb7ff", good="#7fd1a0", warn="#f0c36d", bad="#ff9a94",
)  # fmt: skip

LIGHT = Palette(
    ground="#fbfbf8", bar="#dbe5f1", text="#22262b", dim="#545d68", accent="#1a56a0", good="#17663a", warn="#7a4f00", bad="#a8201a",
)  # fmt: skip

PALETTES: Mapping[str, Palette] = {"session-lock-dark": DARK, "session-lock-light": LIGHT}


def theme(name: str) -> Theme:
    """As Textual takes it."""
    colours = PALETTES[name]
    return Theme(
        name=name,
        dark=colours is DARK,
        primary=colours.accent,
        accent=colours.accent,
        foreground=colours.text,
        background=colours.ground,
        surface=colours.ground,
        panel=colours.bar,
        success=colours.good,
        warning=colours.warn,
        error=colours.bad,
        variables={
            "dim": colours.dim,
            "bar": colours.bar,
            "block-cursor-background": colours.bar,
            "block-cursor-foreground": colours.text,
            "block-cursor-text-style": "bold",
            "block-cursor-blurred-background": colours.ground,
            "block-cursor-blurred-foreground": colours.text,
            "block-cursor-blurred-text-style": "none",
        },
    )


def first() -> str:
    """The theme to begin with: light if the terminal says that its background is (COLORFGBG), else dark."""
    ground = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return "session-lock-light" if ground in {"7", "15"} else "session-lock-dark"


def other(name: str) -> str:
    return next(each for each in PALETTES if each != name)
