"""docs/how-to/settings.md: its code runs, and its numbers are the library's own."""

from __future__ import annotations

import re
from dataclasses import fields

from session_lock import Settings
from tests.docs.pages import Page

TEXT = Page("settings.md").text


def test_the_code() -> None:
    page = Page("settings.md")
    page.run(holding="waits = Settings(")
    page.run(holding="soon = Settings(")
    assert page.done
    assert page["waits"].concurrency * 10 == 2000
    assert page["soon"].lease_ttl == 5


def test_the_numbers_are_those_of_the_library() -> None:
    settings = Settings()
    assert f"`concurrency` calls of the tasker at once, {settings.concurrency} unless told" in TEXT
    assert f"`batch_size` tasks in a call at most, {settings.batch_size} unless told" in TEXT
    assert settings.prefetch_time == 1
    assert "`concurrency x batch_size` tasks and one more batch" in TEXT
    assert settings.capacity(settings.batch_size) == (settings.concurrency + 1) * settings.batch_size
    assert "under `each` five times `concurrency`" in TEXT
    assert settings.capacity(1) == 5 * settings.concurrency
    named = set(re.findall(r"`(?:Settings\()?(\w+)(?:=[^`]*)?`", TEXT)) - {"Settings", "each"}
    assert named <= {each.name for each in fields(Settings)}
