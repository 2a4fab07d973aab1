"""The version of this library, and versions of the application, compared as `session_lock.version_numbers` does in SQL."""

from __future__ import annotations

import re
from importlib.metadata import version as version_of

from session_lock.errors import SettingsError

LIBRARY_VERSION = version_of("session-lock")
"""Read once: it stands in a file, and a process may come to have none to open any more."""


def version_numbers(version: str) -> tuple[int, ...] | None:
    """`2.10-rc1` as (2, 10), which is more than (2, 9); `2.0` as (2,). None: there are none to read, as in a commit's hash."""
    match = re.match(r" *[vV]?([0-9]+(?:[.][0-9]+)+|[0-9]+(?![0-9A-Za-z]))", version[:100])
    return match and tuple(int(each) for each in re.sub(r"([.]0+)+$", "", match[1]).split("."))


def may_take(version: str, needed: str | None) -> bool:
    """Whether a session of this version may be given a task that needs that one; none may if that cannot be read."""
    if needed is None:
        return True
    least, own = version_numbers(needed), version_numbers(version)
    return least is not None and own is not None and least <= own


def check_readable(version: str, mapping: str) -> None:
    """For a mapping with `accepts`: `SettingsError` if no version can be read."""
    if version_numbers(version) is None:
        raise SettingsError(
            f"app_version={version!r} cannot be read, and accepts of {mapping!r} compares it: "
            'give the Runner a version of numbers and dots, such as app_version="2.4"'
        )
