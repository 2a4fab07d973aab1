"""docs/how-to/top.md: its pictures are the screen, and it names each key."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from session_lock.cli.top.app import Top
from session_lock.cli.top.lists import SESSIONS
from session_lock.overview import OLD
from tests.cli.test_top import SCREENS
from tests.docs.pages import Page

PAGE = Page("top.md")
NAMES = ("busy-120", "busy-40")
PICTURES = re.findall(r"^```console\n(?:\$ [^\n]*\n)?(.*?)^```$", PAGE.text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("picture", "name"), [*zip(PICTURES, NAMES, strict=True)], ids=NAMES)
def test_the_pictures(picture: str, name: str) -> None:
    assert picture.strip("\n") == (SCREENS / f"{name}.txt").read_text().strip("\n")


def keys() -> Sequence[str]:
    return [binding.key for binding in Top.BINDINGS if binding.key != "ctrl+c"]


@pytest.mark.parametrize("key", keys())
def test_each_key_is_named(key: str) -> None:
    assert re.search(rf"^\| `{key}`", PAGE.text, flags=re.MULTILINE)


def test_each_column_is_in_the_picture() -> None:
    assert [
        column.name for column in SESSIONS if f" {column.name} " not in PICTURES[0].replace("\n", " ")
    ] == []


def test_its_limits() -> None:
    assert f"open for more than {OLD:.0f} s" in PAGE.text
