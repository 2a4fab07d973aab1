"""docs/how-to/status.md: its code lets in who it says, what it shows is printed, and its numbers are the code's own."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import asyncpg
import httpx
import pytest

from session_lock.cli.status import PORT
from session_lock.contrib.status import source, status_app, stream, watching
from session_lock.contrib.status.guard import FORWARDED
from session_lock.migrations import install
from tests.conftest import APP_ROLE, TestDatabase
from tests.docs.examples import ROOT
from tests.docs.pages import Page
from tests.support import EMAILS

PAGE = Page("status.md")
FLAT = " ".join(PAGE.text.split())


async def test_the_code_lets_in_who_has_the_password(database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("DATABASE_URL", database.app_dsn)
    monkeypatch.setenv("STATUS_PASSWORD", "open, sesame")
    PAGE.run(holding="app.mount(")
    assert PAGE.done
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute("CREATE TABLE mail (id bigint PRIMARY KEY, address text, sent_at timestamptz)")
        await install(admin, PAGE["mails"], grant_to=APP_ROLE)
        await admin.execute("INSERT INTO mail VALUES (1)")
    finally:
        await admin.close()
    transport = httpx.ASGITransport(PAGE["app"], client=("10.1.2.3", 5))
    async with httpx.AsyncClient(transport=transport, base_url="https://shop.example.org", follow_redirects=True) as client:  # fmt: skip
        for auth in (None, ("operator", "open"), ("other", "open, sesame")):
            refused = await client.get("/status/", auth=auth)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Basic")
        auth = ("operator", "open, sesame")
        assert "<h1>mails</h1>" in (await client.get("/status/", auth=auth)).text
        assert "No session is live" in (await client.get("/status/m/mails/task?key=1", auth=auth)).text


def test_the_numbers() -> None:
    assert f"at port {PORT} of this machine" in FLAT
    assert f"ssh -L {PORT}:127.0.0.1:{PORT} host" in PAGE.text
    assert watching.LOOK_EVERY < 1
    assert f"over at most {source.MOST} connections" in FLAT
    assert f"more than {watching.PATIENCE:.0f} s is given up" in FLAT
    assert watching.KEPT == 600
    assert f"{stream.MOST} browsers may look on" in FLAT
    assert f"end by themselves after {stream.LASTS:.0f} s" in FLAT
    for name in re.findall(r"with a header that proxies add \(`(\S+)`, `(\S+)`", FLAT)[0]:
        assert name.lower() in FORWARDED


async def test_a_proxy_that_cannot_be_told_from_a_browser() -> None:
    """As nginx 1.29.7 and 1.30 ask without proxy_set_header; said where one decides whether to give authorize."""
    page = status_app({"mails": EMAILS}, "postgresql://nobody@127.0.0.1:1/nothing")
    transport = httpx.ASGITransport(page, client=("127.0.0.1", 5))
    async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{PORT}") as client:
        assert (await client.get("/m/mails/")).http_version == "HTTP/1.1"
        assert (await client.get("/m/mails/")).status_code == 200
    for text in (FLAT, " ".join((status_app.__doc__ or "").split())):
        assert re.search(r"nginx from 1\.29\.7 on", text)
        assert re.search(r"Behind any proxy,? give", text)


def test_the_picture() -> None:
    names = re.findall(r"!\[([^\]]+)\]\((\S+)\)", PAGE.text)
    assert len(names) == 1
    picture = (ROOT / "docs" / "how-to" / names[0][1]).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 150_000
    assert Path(names[0][1]).name == names[0][1]
    width, height = struct.unpack(">II", picture[16:24])
    assert width >= height
