"""The status page as an app: who may look, what it says of what there is and is not, and what it sends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from fastapi import HTTPException as FastAPIException
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.routing import Mount

from session_lock import SettingsError, TaskTable
from session_lock.contrib.status import app as module
from session_lock.contrib.status import status_app, stream, watching
from session_lock.contrib.status.guard import HEADERS, NOT_LOCAL, NOT_YOU
from session_lock.contrib.status.source import Source
from tests.conftest import TestDatabase, fresh_database
from tests.contrib.service import until
from tests.contrib.status_scene import (
    LOCAL,
    URL,
    Scene,
    asked,
    events,
    first,
    lasting,
    scene,
    served,
    until_event,
)
from tests.proxy import proxy
from tests.support import EMAILS, apply_mapping

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
HOSTILE = '<img src=x onerror="hacked=1">\'&\u202e'
MAILS = {"mails": EMAILS}


@pytest.fixture
async def there(database: TestDatabase) -> AsyncIterator[Scene]:
    async with scene(database) as made:
        yield made


@pytest.fixture(scope="module")
async def calm(server_dsn: str, template: str) -> AsyncIterator[Scene]:
    """One for all who change nothing in it."""
    async with fresh_database(server_dsn, template) as database, scene(database) as made:
        yield made


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for what is there so that nobody has to hurry."""
    monkeypatch.setattr(watching, "GRACE", 0.2)
    monkeypatch.setattr(watching, "REST", 0.5)
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.2)


# Who may look -------------------------------------------------------------------------------------------

ADDRESSES = ("/", "/m/mails/", "/m/mails/sessions/1", "/m/mails/task?key=1", "/m/mails/events", "/events", "/static/status.js", "/else")  # fmt: skip


@pytest.mark.parametrize(
    ("client", "url", "headers"),
    [
        (("10.1.2.3", 5), URL, {}),
        (None, URL, {}),
        (("", 0), URL, {}),
        (LOCAL, "http://10.0.0.5", {}),
        (LOCAL, "http://status.example.org", {}),
        (LOCAL, URL, {"host": "evil.example.org"}),
        (LOCAL, URL, {"host": "127.0.0.1.evil.example.org:8000"}),
        (LOCAL, URL, {"host": "["}),
        (LOCAL, URL, {"x-forwarded-for": "10.1.2.3"}),
        (LOCAL, URL, {"X-Forwarded-For": "127.0.0.1"}),
        (LOCAL, URL, {"forwarded": "for=127.0.0.1"}),
        (LOCAL, URL, {"x-real-ip": "127.0.0.1"}),
        (LOCAL, URL, {"via": "1.1 cache"}),
    ],
)
async def test_without_authorize_whoever_is_elsewhere_or_behind_a_proxy_gets_one_sentence(
    client: Any, url: str, headers: dict[str, str]
) -> None:
    async with asked(status_app(MAILS, NOWHERE), client=client, url=url) as asking:
        for address in ADDRESSES:
            answer = await asking.get(address, headers=headers)
            assert (answer.status_code, answer.text) == (403, NOT_LOCAL), address
            assert_headers(answer)


@pytest.mark.parametrize(
    "scope", [{"http_version": "1.0"}, {"server": ("/run/app.sock", None)}, {"server": None}]
)
async def test_what_speaks_as_proxies_do_is_one(scope: dict[str, Any]) -> None:
    page = status_app(MAILS, NOWHERE)

    async def app(asked_scope: Any, receive: Any, send: Any) -> None:
        await page({**asked_scope, **scope}, receive, send)

    async with asked(app) as asking:
        assert (await asking.get("/static/status.js")).status_code == 403


@pytest.mark.parametrize(
    ("client", "url"),
    [
        (LOCAL, URL), (("::1", 5), "http://[::1]:8000"), (LOCAL, "http://127.0.0.1"), (("::ffff:127.0.0.1", 5), "http://127.8.8.8:1"),
    ],
)  # fmt: skip
async def test_without_authorize_who_sits_here_may_look(client: Any, url: str) -> None:
    async with asked(status_app(MAILS, NOWHERE), client=client, url=url) as asking:
        assert (await asking.get("/m/mails/")).status_code == 200
        assert (await asking.get("/m/mails/", headers={"host": "localhost:8000"})).status_code == 200


async def test_authorize_is_asked_each_time_and_only_true_lets_in() -> None:
    seen: list[str] = []
    answers: list[Any] = []

    def plain(request: Any) -> Any:
        seen.append(request.url.path)
        return answers[0]

    async def slow(request: Any) -> Any:
        return plain(request)

    for authorize in (plain, slow):
        page = status_app(MAILS, NOWHERE, authorize=authorize)
        async with asked(page, client=("10.1.2.3", 5), url="https://shop.example.org") as asking:
            for answer, status in ((True, 200), (False, 403), (None, 403), (RedirectResponse("/login"), 403), (slow, 403), (1, 403)):  # fmt: skip
                answers[:] = [answer]
                for address in ("/m/mails/", "/static/status.js"):
                    got = await asking.get(address, headers={"x-forwarded-for": "10.9.9.9"})
                    assert got.status_code == status
                    assert_headers(got)
                    if status == 403:
                        assert got.text == NOT_YOU
    assert seen == ["/m/mails/", "/static/status.js"] * 12


async def test_authorize_may_ask_for_a_password() -> None:
    def authorize(request: Any) -> bool:
        raise HTTPException(401, "Who are you?", headers={"www-authenticate": "Basic"})

    async with asked(status_app(MAILS, NOWHERE, authorize=authorize)) as asking:
        answer = await asking.get("/")
        assert (answer.status_code, answer.text, answer.headers["www-authenticate"]) == (401, "Who are you?", "Basic")  # fmt: skip
        assert_headers(answer)


async def test_what_authorize_raises_may_have_any_detail() -> None:
    def authorize(request: Any) -> bool:
        raise FastAPIException(401, {"who": "are you?"})

    async with asked(status_app(MAILS, NOWHERE, authorize=authorize)) as asking:
        answer = await asking.get("/")
        assert (answer.status_code, answer.text) == (401, "{'who': 'are you?'}")


async def test_the_page_of_the_docs_asks_for_a_password_whatever_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (Path(__file__).parents[2] / "docs/how-to/status.md").read_text()
    example = next(
        each for each in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "authorize" in each
    )
    monkeypatch.setenv("STATUS_PASSWORD", "grün")
    monkeypatch.setenv("DATABASE_URL", NOWHERE)
    there: dict[str, Any] = {}
    exec(example, there)  # noqa: S102 (ours)
    async with asked(there["app"]) as asking:
        for given, status in (("Basic grün".encode(), 401), (b"Basic " + base64.b64encode("operator:grün".encode()), 200)):  # fmt: skip
            answer = await asking.get("/status/m/mails/", headers={"authorization": given})
            assert answer.status_code == status


def assert_headers(answer: httpx.Response) -> None:
    for name, value in HEADERS.items():
        assert answer.headers[name] == value


async def test_the_headers_of_whatever_is_answered(calm: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    page = status_app(MAILS, calm.dsn)
    async with asked(page, raise_app_exceptions=False) as asking:
        monkeypatch.setattr(stream, "LASTS", 0.0)
        for address, status in (
            ("/m/mails/", 200), ("/m/mails/events", 200), ("/m/mails/task?key=1", 200), ("/static/plot.js", 200), ("/else", 404),
            ("/static/else.js", 404), ("/static/..%2fapp.py", 404), ("/", 307),
        ):  # fmt: skip
            answer = await asking.get(address)
            assert answer.status_code == status, address
            assert_headers(answer)
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            answer = await asking.request(method, "/m/mails/")
            assert (answer.status_code, "it answers GET alone" in answer.text) == (405, True)
            assert_headers(answer)
        (style,) = re.findall(r"<style>(.*?)</style>", (await asking.get("/m/mails/")).text, re.DOTALL)
        monkeypatch.setattr(module.pages, "of_mapping", lambda place: 1 / 0)
        answer = await asking.get("/m/mails/")
        assert (answer.status_code, answer.text) == (500, "Internal Server Error")
        assert_headers(answer)
    hashed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.split("; ") == [
        "default-src 'none'", "script-src 'self'", f"style-src 'sha256-{hashed}'", "connect-src 'self'", "img-src 'self' data:",
        "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'",
    ]  # fmt: skip


# What there is to be seen ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("outer", "prefix"), [(Starlette, ""), (FastAPI, "/status"), (Starlette, "/a/b")])
async def test_it_is_mounted_anywhere_and_every_address_is_below_that(calm: Scene, outer: Any, prefix: str) -> None:  # fmt: skip
    page = status_app({"mails": EMAILS, "more/of them?": EMAILS}, calm.dsn)
    app = outer(routes=[Mount(prefix, page)])
    async with lasting(page), asked(app) as asking:
        for address in ("/", "/m/mails/", "/m/more%2Fof%20them%3F/", "/m/mails/sessions/17", "/m/mails/task?key=1", "/else"):  # fmt: skip
            answer = await asking.get(f"{prefix}{address}")
            assert answer.status_code == (404 if address == "/else" else 200)
            links = re.findall(r'(?:href|src|action|data-events|data-base)="(/[^"]*)"', answer.text)
            assert len(links) >= 3
            assert all(link.startswith(f"{prefix}/") for link in links), links
            for link in {link for link in links if "/static/" in link}:
                assert (await asking.get(link)).status_code == 200
        if prefix:
            assert (await asking.get(prefix)).headers["location"].endswith(f"{prefix}/")


async def test_a_single_mapping_needs_no_list(calm: Scene) -> None:
    outer = Starlette(routes=[Mount("/status", status_app(MAILS, calm.dsn))])
    async with asked(outer) as asking:
        assert (await asking.get("/status/")).headers["location"] == "/status/m/mails/"


async def test_what_is_unknown_is_a_404_with_a_sentence(calm: Scene) -> None:
    async with asked(status_app(MAILS, calm.dsn)) as asking:
        for address, said in (
            ("/m/else/", "There is no mapping 'else' here: there is mails."),
            ("/m/else/events", "There is no mapping 'else' here: there is mails."),
            ("/m/mails/sessions/99", "There is no session '99' of mails, or none any more: those that live are on the mapping's page."),
            ("/m/mails/sessions/x", "There is no session 'x' of mails, or none any more"),
            ("/m/mails/sessions/99999999999999999999", "There is no session '99999999999999999999'"),
            ("/m/mails/sessions/%C2%B2", "There is no session '²'"),
            ("/m/mails/task?key=99", "There is no such"),
            ("/m/mails/task?key=abc", "'abc' can be no key of public.email: its keys are of type bigint."),
            ("/m/mails/task?key=%00", "can be no key of public.email: its keys are of type bigint."),
            ("/m/mails/task?key=+", "' ' can be no key of public.email"),
            ("/m/mails/task", "Which task? Give its key, as it stands in the table."),
            ("/nowhere", "There is no such page here."),
        ):  # fmt: skip
            answer = await asking.get(address)
            assert answer.status_code == 404, address
            assert said in answer.text.replace("&#x27;", "'"), (address, answer.text)


async def test_why_a_task_waits_or_who_has_it(calm: Scene, soon: None) -> None:
    async with asked(status_app(MAILS, calm.dsn)) as asking:
        held = (await asking.get("/m/mails/task", params={"key": calm.keys[0]})).text
        assert "Session 17 (web-1:212) has it, in attempt 1" in held
        assert '<a href="/m/mails/sessions/17">17</a> web-1:212, version 2.4, live' in held
        assert '<td class="code prose">sent_at IS NULL</td><td>true</td>' in held
        failed = (await asking.get("/m/mails/task", params={"key": f" {calm.keys[5]} "})).text
        assert "It is claimable now" in failed
        assert failed.index("ConnectionError: still none") < failed.index("ConnectionError: no route")
        session = (await asking.get("/m/mails/sessions/17")).text
        assert 'data-session="17"' in session
        await until(lambda: _none(calm), "connections stay")


async def _none(there: Scene) -> bool:
    return await there.lookers() == 0


async def test_a_key_is_asked_about_as_it_stands_in_the_table(there: Scene) -> None:
    await there.admin.execute("CREATE TABLE public.note (key text PRIMARY KEY, done_at timestamptz)")
    notes = TaskTable("public.note", key="key", pending="done_at IS NULL", finish="done_at = now()")
    await apply_mapping(there.admin, notes)
    odd = f"  two\nlines {'x' * 400} "
    await there.admin.execute("INSERT INTO public.note (key) VALUES ($1)", odd)
    await there.admin.execute(
        "INSERT INTO session_lock.failure (name, task_key, attempt, at, session, error) VALUES ('note', $1, 1, now(), 17, 'x')",
        odd,
    )
    async with served(status_app({"notes": notes}, there.dsn)) as url, httpx.AsyncClient(trust_env=False) as client:  # fmt: skip
        (failure,) = (await first(events(f"{url}m/notes/events"))).data["seen"]["failures"]
        assert failure["key"] == "  two"
        assert failure["raw"] == odd
        answer = await client.get(f"{url}m/notes/task", params={"key": failure["raw"]})
        assert answer.status_code == 200


async def test_of_a_row_its_key_alone_is_shown_unless_told_otherwise(there: Scene) -> None:
    await there.admin.execute("UPDATE public.email SET address = $1, body = NULL", HOSTILE)
    address = f"/m/mails/task?key={there.keys[0]}"
    async with asked(status_app(MAILS, there.dsn)) as asking:
        assert "hacked" not in (await asking.get(address)).text
    async with asked(status_app(MAILS, there.dsn, show=("address", "body"))) as asking:
        text = (await asking.get(address)).text
        assert "<dt>address</dt><dd>&lt;img src=x onerror=&quot;hacked=1&quot;&gt;&#x27;&amp; </dd>" in text
        assert "<dt>body</dt><dd>NULL</dd>" in text
    async with asked(status_app(MAILS, there.database.app_dsn, show=("address",))) as asking:
        text = (await asking.get(address)).text.replace("&quot;", '"')
        assert (
            'left out, the role may not read it: GRANT SELECT ("id", "address") ON "public"."email"' in text
        )


async def test_what_others_have_written_is_text(there: Scene) -> None:
    await there.fail(there.keys[5], f"{HOSTILE}\nsecond line", 3)
    await there.admin.execute("UPDATE session_lock.session SET label = $1, app_version = $1", HOSTILE)
    page = status_app({HOSTILE[:-1]: EMAILS}, there.dsn)
    async with asked(page) as asking:
        name = "/m/%3Cimg%20src%3Dx%20onerror%3D%22hacked%3D1%22%3E'%26"
        for address in (f"{name}/", f"{name}/task?key={there.keys[0]}", f"{name}/task?key={there.keys[5]}", f"{name}/task?key=%3Cimg%20src%3Dx%3E", f"{name}/sessions/%3Cimg%3E", "/m/%3Cimg%3E/"):  # fmt: skip
            text = (await asking.get(address)).text
            assert "<img" not in text, address
            assert "img" in text
            assert "second line" not in text
            assert "\u202e" not in text


# What is live -------------------------------------------------------------------------------------------


async def test_it_is_told_what_there_is_and_within_a_second_what_is_new(there: Scene) -> None:
    async with served(status_app(MAILS, there.dsn)) as url, contextlib.aclosing(events(f"{url}m/mails/events")) as hearing:  # fmt: skip
        event = await first(hearing)
        assert event.kind == "whole"
        seen = event.data["seen"]
        assert event.data["trouble"] is None
        assert [(each["session"], each["label"], each["state"], each["held"], each["running"]) for each in seen["sessions"]] == [
            (17, "web-1:212", "live", 3, 2), (18, "web-2:7", "live", 0, 0),
        ]  # fmt: skip
        assert seen["totals"] == {"live": 2, "draining": 0, "held": 3, "running": 2, "capacity": 16}
        assert (seen["backlog"]["tasks"], seen["paused"], seen["left_out"]) == (3, False, [])
        assert [(each["key"], each["attempt"]) for each in seen["failures"]] == [(str(there.keys[5]), 2), (str(there.keys[5]), 1)]  # fmt: skip
        assert len(event.data["points"]) == 1
        assert set(seen["failures"][0]) == {"key", "raw", "attempt", "at", "session", "error"}

        changed = asyncio.get_running_loop().time()
        await there.admin.execute("INSERT INTO session_lock.pause (name) VALUES ('email')")
        event = await until_event(hearing, lambda data: data["seen"]["paused"], "it is not told of the pause")
        took = asyncio.get_running_loop().time() - changed
        print(f"told after {took:.2f} s")
        assert took < 5, "a busy machine has this much; without load it is 1"
        assert event.kind == "more"
        assert len(event.data["points"]) == 1


async def test_who_comes_again_is_told_what_he_lacks(calm: Scene, soon: None, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(stream, "LASTS", 1.5)
    async with served(status_app(MAILS, calm.dsn)) as url:
        address = f"{url}m/mails/events"
        heard = [event async for event in events(address)]
        assert len(heard) >= 2, "it ends by itself, and is heard until then"
        again = await first(events(address, last=heard[-1].number))
        assert again.kind == "more"
        times = [point[0] for event in [*heard, again] for point in event.data["points"]]
        assert times == sorted(set(times)), "each once"
        for other in (f"00000000-{heard[-1].number.split('-')[1]}", "x", "-", f"{heard[0].number.split('-')[0]}-{'9' * 30}"):  # fmt: skip
            event = await first(events(address, last=other))
            assert event.kind == "whole"
            assert len(event.data["points"]) > 2


async def test_one_reader_serves_all_and_none_is_there_when_nobody_looks(calm: Scene, soon: None) -> None:
    page = status_app({"mails": EMAILS, "others": EMAILS}, calm.dsn)
    async with served(page) as url:
        # Whoever looked in the test before may be there for a moment.
        await until(lambda: _none(calm), "somebody looks before anybody looks")
        async with contextlib.AsyncExitStack() as stack:
            addresses = (
                [f"{url}m/mails/events"] * 5 + [f"{url}m/mails/events?session=17"] * 2 + [f"{url}events"]
            )
            hearing = [
                await stack.enter_async_context(contextlib.aclosing(events(each))) for each in addresses
            ]
            heard = await asyncio.gather(*map(first, hearing))
            assert await calm.lookers() <= 2, "one of a mapping, two mappings"
            assert {len(point) for point in heard[0].data["points"]} == {6}
            assert [point[1:] for point in heard[5].data["points"][:1]] == [[3, 2]]
            await until_event(hearing[-1], lambda data: len(data) == 2, "not both are summed up")
        await until(lambda: _none(calm), "somebody looks though nobody looks")


async def test_a_stranger_session_has_no_past(calm: Scene, soon: None) -> None:
    async with served(status_app(MAILS, calm.dsn)) as url:
        event = await first(events(f"{url}m/mails/events?session=99"))
        assert [point[1:] for point in event.data["points"]] == [[None, None]]


async def test_so_many_and_no_more(calm: Scene, soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST", 2)
    async with served(status_app(MAILS, calm.dsn)) as url, httpx.AsyncClient(trust_env=False) as client:
        address = f"{url}m/mails/events"
        async with contextlib.aclosing(events(address)) as one, contextlib.aclosing(events(address)) as other:
            await asyncio.gather(first(one), first(other))
            answer = await client.get(address)
            assert (answer.status_code, answer.text) == (
                503, "2 browsers look at this page already: close one, and this one goes on.",
            )  # fmt: skip
            assert_headers(answer)

        async def there_is_room() -> bool:
            async with contextlib.aclosing(events(address)) as again:
                with contextlib.suppress(AssertionError):
                    return (await first(again)).data["trouble"] is None
            return False

        await until(there_is_room, "those that have left are counted")


async def test_who_asks_for_headers_alone_does_not_look_on() -> None:
    page = status_app(MAILS, NOWHERE)
    async with served(page) as url, httpx.AsyncClient(base_url=url, timeout=4) as asking:
        for address in ("/m/mails/events", "/events"):
            answer = await asking.head(address)
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert_headers(answer)
        assert not any(each.is_watched for each in page._readers.values())


async def test_who_looks_on_when_the_server_ends_is_dismissed_in_good_order(calm: Scene, soon: None) -> None:
    page = status_app(MAILS, calm.dsn)
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(served(page))
        hearing = [events(f"{url}m/mails/events"), events(f"{url}events")]
        for each in hearing:
            await first(each)
        left = asyncio.gather(*[_all(each) for each in hearing])
        await stack.aclose()
        await left  # an answer that is broken off is an error here
    async with asked(page) as asking:
        answer = await asking.get("/m/mails/events")
        assert (answer.status_code, answer.text) == (503, "This page is about to end.")


async def _all(hearing: AsyncIterator[Any]) -> list[Any]:
    return [event async for event in hearing]


async def test_a_role_without_rights_is_told_what_is_left_out(calm: Scene, soon: None) -> None:
    async with served(status_app(MAILS, calm.database.app_dsn)) as url:
        seen = (await first(events(f"{url}m/mails/events"))).data["seen"]
        assert seen["failures"] is None
        assert seen["backlog"]["tasks"] == 3
        assert [each["held"] for each in seen["sessions"]] == [3, 0]
        assert any(
            line.startswith("failures left out, ") and "GRANT SELECT ON" in line for line in seen["left_out"]
        )


async def test_while_the_database_is_slow_the_page_s_own_server_says_that_it_is_there(
    calm: Scene, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "ALIVE", 0.2)
    async with proxy(calm.dsn) as network, served(status_app(MAILS, network.dsn)) as url:
        network.partition()
        for address in ("m/mails/events", "events"):
            async with contextlib.aclosing(events(f"{url}{address}", alive=True)) as hearing:
                async with asyncio.timeout(5):
                    heard = [await first(hearing) for _ in range(3)]
                assert [each.kind for each in heard] == ["alive"] * 3


async def test_after_a_look_that_failed_the_next_one_is_not_long_in_coming(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert watching.rest_after(10.0, failed=True) == 3.0
    assert watching.rest_after(0.01, failed=True) == pytest.approx(0.79)
    assert watching.rest_after(4.0, failed=False) == 12.0


async def test_where_sessions_are_left_out_nothing_is_counted_of_them_and_none_has_ended(
    there: Scene, soon: None
) -> None:
    await there.admin.execute("REVOKE ALL ON SCHEMA session_lock FROM app")
    async with served(status_app(MAILS, there.database.app_dsn)) as url:
        event = await first(events(f"{url}m/mails/events"))
        assert (event.data["seen"]["sessions"], event.data["seen"]["totals"]) == (None, None)
        assert event.data["points"][0][4:] == [None, None]
        assert (await first(events(f"{url}events"))).data[0]["totals"] is None
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{url}m/mails/sessions/99")).status_code == 200, "who knows"


async def test_a_database_that_is_away_is_said_and_it_recovers(calm: Scene, soon: None, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    async with proxy(calm.dsn) as network, served(status_app(MAILS, network.dsn)) as url:
        hearing = events(f"{url}m/mails/events")
        async with contextlib.aclosing(hearing):
            assert (await first(hearing)).data["trouble"] is None
            for one in (watching, module):
                monkeypatch.setattr(one, "PATIENCE", 0.5)
            network.partition()
            event = await until_event(hearing, lambda data: data["trouble"], "it is not told")
            assert event.data["trouble"] == "the database did not answer within 0 s"
            assert [each["session"] for each in event.data["seen"]["sessions"]] == [17, 18], (
                "as it was seen last"
            )
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"{url}m/mails/task?key=1")
                assert (answer.status_code, "The database did not answer within 0 s." in answer.text) == (
                    503,
                    True,
                )
                assert (await client.get(f"{url}m/mails/sessions/99")).status_code == 200, "who knows"
            network.heal()
            await until_event(hearing, lambda data: data["trouble"] is None, "it does not recover")


async def test_of_a_pool_no_more_are_taken_than_it_has_of_its_own(calm: Scene) -> None:
    async with asyncpg.create_pool(calm.dsn, min_size=0, max_size=10) as pool:
        source = watching.Source(pool)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(source.connection())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await stack.enter_async_context(source.connection())
            assert pool.get_size() == 3
        async with source.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("pooled", [False, True])
async def test_a_database_that_hangs_in_the_middle_of_a_look_is_said_and_holds_up_no_end(
    calm: Scene, soon: None, monkeypatch: pytest.MonkeyPatch, pooled: bool
) -> None:
    monkeypatch.setattr(watching, "PATIENCE", 0.5)
    async with contextlib.AsyncExitStack() as stack:
        network = await stack.enter_async_context(proxy(calm.dsn))
        source: Any = network.dsn
        if pooled:
            source = await asyncpg.create_pool(network.dsn, min_size=0, max_size=2)
            stack.callback(source.terminate)
        async with asyncio.timeout(15):
            async with served(status_app(MAILS, source)) as url, contextlib.aclosing(events(f"{url}m/mails/events")) as hearing:  # fmt: skip
                assert (await first(hearing)).data["trouble"] is None
                lost = network.lose_reply("pg_stat_database", cut_after=None)
                event = await until_event(hearing, lambda data: data["trouble"], "it is not told")
                assert event.data["trouble"] == "the database did not answer within 0 s"
                assert lost.done()
                await until_event(hearing, lambda data: data["trouble"] is None, "it does not recover")
                lost = network.lose_reply("pg_stat_database", cut_after=None)
                await lost


async def test_a_reader_that_does_not_end_is_waited_for_no_longer_than_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "GOODBYE", 0.1)
    reader = watching.Reader("mails", EMAILS, watching.Source(NOWHERE))
    let = asyncio.Event()

    async def hang() -> str:
        while not let.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let.wait()
        raise asyncio.CancelledError

    monkeypatch.setattr(reader, "_look", hang)
    with reader.watched():
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await reader.close()
        let.set()
        await until(lambda: _ended(reader), "it does not end")


async def _ended(reader: watching.Reader) -> bool:
    return not reader.is_watched


async def test_what_is_wrong_with_the_database_is_one_sentence(database: TestDatabase, soon: None) -> None:
    async def no_credentials() -> Any:
        raise RuntimeError("the vault is sealed")

    for source, said in (
        (
            NOWHERE,
            "the database is out of reach (Connect call failed ('127.0.0.1', 1)): start it, or correct what the page connects by",
        ),
        (database.admin_dsn, "there is no table public.email"),
        ("postgresql://a:b@c:d", "the DSN is not understood"),
        (no_credentials, "connect() failed: RuntimeError: the vault is sealed"),
    ):
        async with served(status_app(MAILS, source)) as url:
            event = await first(events(f"{url}m/mails/events"))
            assert said in event.data["trouble"]
            assert event.data["seen"] is None
            assert "\n" not in event.data["trouble"]
            summed = await first(events(f"{url}events"))
            assert said in summed.data[0]["trouble"]


async def test_a_mistake_of_ours_is_logged_and_it_goes_on(calm: Scene, soon: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    right = watching.overview

    async def wrong(*_: Any) -> Any:
        monkeypatch.setattr(watching, "overview", right)
        raise KeyError("x")

    monkeypatch.setattr(watching, "overview", wrong)
    async with served(status_app(MAILS, calm.dsn)) as url, contextlib.aclosing(events(f"{url}m/mails/events")) as hearing:  # fmt: skip
        assert (await first(hearing)).data["trouble"] == "a look failed, which should not be (KeyError: 'x'): the log has more"  # fmt: skip
        await until_event(hearing, lambda data: data["trouble"] is None, "it does not go on")
    assert "a look at mails failed" in caplog.text


async def test_a_pool_and_a_function_serve_as_well(calm: Scene, soon: None) -> None:
    async with asyncpg.create_pool(calm.dsn, min_size=0, max_size=1) as pool:
        for source in (pool, lambda: asyncpg.connect(calm.dsn)):
            async with served(status_app(MAILS, source)) as url:
                assert (await first(events(f"{url}m/mails/events"))).data["seen"]["totals"]["held"] == 3
        assert await pool.fetchval("SELECT 1") == 1, "it is not ours to close"


async def test_its_end_waits_for_connections_that_are_being_closed(
    calm: Scene, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, closed = asyncio.Event(), asyncio.Event()
    rest = Source.rest

    async def slow_rest(source: Source) -> None:
        closing.set()
        await asyncio.sleep(0.3)
        await rest(source)
        closed.set()

    monkeypatch.setattr(Source, "rest", slow_rest)
    reader = watching.Reader("mails", MAILS["mails"], Source(calm.dsn))
    with reader.watched():
        await reader.after(0)
    await closing.wait()  # nobody has looked for a while
    await reader.close()
    assert closed.is_set()


# What it is given ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mappings", "source", "options", "said"),
    [
        ({}, NOWHERE, {}, "status_app takes mappings by name"),
        ([EMAILS], NOWHERE, {}, "status_app takes mappings by name"),
        ({"mails": "email"}, NOWHERE, {}, "'mails' is a str, not a TaskTable"),
        ({"..": EMAILS}, NOWHERE, {}, "'..' can be no part of an address"),
        ({"a\nb": EMAILS}, NOWHERE, {}, "can be no part of an address"),
        (MAILS, 7, {}, "status_app takes a DSN, a pool of asyncpg, or an async function .* not int"),
        (MAILS, Scene, {}, "status_app takes a DSN"),
        (MAILS, NOWHERE, {"authorize": True}, "authorize is a function that is given the request, not bool"),
        (MAILS, NOWHERE, {"show": "address"}, r'show is a sequence of names of columns, such as \("address",\)'),
        (MAILS, NOWHERE, {"show": ["sent_at"]}, "no mapping has 'sent_at' among its columns, so it cannot be shown"),
    ],
)  # fmt: skip
def test_what_it_refuses(mappings: Any, source: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        status_app(mappings, source, **options)


def test_a_column_of_one_mapping_is_no_column_of_another() -> None:
    slim = replace(EMAILS, columns=("id",), name="slim")
    assert status_app({"mails": EMAILS, "slim": slim}, NOWHERE, show=("address",))
