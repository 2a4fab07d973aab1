"""The status page as Chromium shows it: live, in both schemes, by keys alone, and with nothing to complain of."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from session_lock.contrib.status import status_app, stream, watching
from session_lock.overview import Holder, overview
from tests.conftest import fresh_database
from tests.contrib.browser import VARIABLE, Browser, Page, browser, find_chromium
from tests.contrib.service import until
from tests.contrib.status_scene import Scene, lasting, scene, served
from tests.proxy import proxy
from tests.support import EMAILS

PROGRAM = find_chromium()

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason=f"no Chromium: apt-get install chromium, or set {VARIABLE} to the program"
)

PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"

LOOK_EVERY, REST = watching.LOOK_EVERY, watching.REST
"""As they are for users."""

HOSTILE = "<img src=x onerror=\"document.title='hacked'\">"

SIZES = [(1280, 900, "light"), (1280, 900, "dark"), (390, 844, "light"), (390, 844, "dark")]


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser(str(PROGRAM)) as started:
        yield started


@pytest.fixture(scope="module")
async def there(server_dsn: str, template: str) -> AsyncIterator[Scene]:
    async with fresh_database(server_dsn, template) as database, scene(database) as made:
        yield made


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "GRACE", 0.2)
    monkeypatch.setattr(watching, "REST", 0.5)
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.3)


async def test_it_is_painted_before_the_database_has_said_a_word(chromium: Browser, there: Scene) -> None:
    async with proxy(there.dsn) as network, served(status_app({"mails": EMAILS}, network.dsn)) as url, chromium.page() as page:  # fmt: skip
        await page.open(f"{url}nowhere")  # the browser has started then
        network.partition()
        await page.open(f"{url}m/mails/")
        await page.until(f"{PAINT} !== null")
        assert await page.evaluate("document.body.dataset.seen === undefined")
        assert await page.text("h1") == "mails"
        network.heal()
        await page.live()
        painted, looked = await page.evaluate(
            f"[{PAINT}, performance.getEntriesByName('first look')[0].startTime]"
        )
        assert painted < looked


ROUNDS = int(os.environ.get("SESSION_LOCK_ROUNDS", "1"))

BLANK = "<!doctype html><html lang=en><title>blank</title><p>There is nothing else here.</html>"
"""The least that a browser can paint: what is left of its time is its own."""


async def test_how_soon_it_is_painted_beside_a_blank_page(chromium: Browser, there: Scene) -> None:
    """To be looked at, with `-s` and SESSION_LOCK_ROUNDS=9; how long it takes depends on what else the machine does."""
    outer = FastAPI()
    outer.get("/blank")(lambda: HTMLResponse(BLANK))
    mounted = status_app({"mails": EMAILS}, there.dsn)
    outer.mount("/status", mounted)
    took: dict[str, list[float]] = {"blank": [], "status/m/mails/": []}
    async with lasting(mounted), served(outer, mounted) as url:
        for _ in range(ROUNDS):
            for address, painted in took.items():
                async with chromium.page() as page:
                    await page.open(f"{url}{address}")
                    await page.until(f"{PAINT} !== null")
                    painted.append(await page.evaluate(PAINT))
                    if address != "blank":  # nothing but the page itself is waited for
                        loaded = "performance.getEntriesByType('resource').filter((each) => each.renderBlockingStatus === 'blocking').length"
                        assert await page.evaluate(loaded) == 0
    print("".join(f"\nfirst paint of {of}: {_told(each)} ms" for of, each in took.items()))


def _told(times: list[float]) -> str:
    return f"median {median(times):.0f}, {min(times):.0f} to {max(times):.0f}, of {len(times)}"


SHOWN = """
window.wanted = () => false;
window.shown = null;
new MutationObserver(() => requestAnimationFrame(() => requestAnimationFrame(() => {
  if (shown === null && wanted()) shown = Date.now();
}))).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
"""
"""When the frame was painted that shows what is wanted."""


async def test_how_soon_what_is_committed_is_shown(
    chromium: Browser, there: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above: the numbers are printed, that it is shown at all is asserted."""
    monkeypatch.setattr(watching, "LOOK_EVERY", LOOK_EVERY)
    monkeypatch.setattr(watching, "REST", REST)
    took: dict[str, list[float]] = {"a finished task": [], "a drained session": []}
    async with (
        served(status_app({"mails": EMAILS}, there.dsn)) as url,
        chromium.page() as page,
    ):
        await page.open(f"{url}m/mails/")
        await page.live()
        await page.evaluate(SHOWN)
        waiting = int(await page.text("[data-tile=waiting] .value"))
        for number in range(4 * ROUNDS):  # after four of them all is as it was
            await asyncio.sleep(random.uniform(1, 2))  # at whatever moment between two looks
            if number % 2 == 0:
                what, statement = "a finished task", FINISH if number % 4 == 0 else REOPEN
                wanted = f"document.querySelector('[data-tile=waiting] .value').innerText === '{waiting - (number % 4 == 0)}'"
            else:
                what, statement = "a drained session", DRAIN
                drained = "draining" if number % 4 == 1 else "live"
                wanted = f"[...document.querySelectorAll('#sessions tbody tr')].some((each) => /^18\\b/.test(each.innerText) && each.innerText.includes('{drained}'))"
            await page.evaluate(f"shown = null; wanted = () => {wanted}; wanted()")
            await there.admin.execute(statement)
            committed = datetime.now(UTC).timestamp()
            await page.until("shown !== null")
            took[what].append(await page.evaluate("shown") - 1000 * committed)
    print("".join(f"\n{of} is shown after: {_told(each)} ms" for of, each in took.items()))


FINISH = "UPDATE public.email SET sent_at = now() WHERE id = (SELECT max(id) FROM public.email WHERE sent_at IS NULL AND session_id IS NULL)"

REOPEN = "UPDATE public.email SET sent_at = NULL WHERE sent_at IS NOT NULL"

DRAIN = "UPDATE session_lock.session SET drain_requested = NOT drain_requested WHERE id = 18"


async def test_what_is_new_arrives_without_a_reload_and_leads_on(chromium: Browser, there: Scene) -> None:
    outer = FastAPI()
    mounted = status_app({"mails": EMAILS, "others": EMAILS}, there.dsn)
    outer.mount("/status", mounted)
    async with lasting(mounted), served(outer, mounted) as url, chromium.page() as page:
        await page.open(f"{url}status/")
        await page.until(
            "[...document.querySelectorAll('.summary')].every((each) => each.innerText.startsWith('2 sessions, 2 running, 3 wait'))"
        )
        await page.evaluate("document.querySelector('#mappings a').click()")
        await page.until("document.querySelector('h1')?.innerText === 'mails'")
        await page.live()
        await page.evaluate("window.before = true")
        assert await page.text("[data-tile=waiting] .value") == "3"
        assert await page.text("#sessions tbody tr .figures") == "2 / 3 / 3"
        await there.admin.execute("INSERT INTO public.email (address) VALUES ('new')")
        await page.until("document.querySelector('[data-tile=waiting] .value').innerText === '4'")

        await there.admin.execute("INSERT INTO session_lock.pause (name) VALUES ('email')")
        await page.until("document.querySelector('#notice').innerText.startsWith('The mapping is paused')")
        assert (await page.text("#state")).startswith("paused for ")
        await there.admin.execute("DELETE FROM session_lock.pause")
        await page.until("document.querySelector('#notice').innerText === ''")

        await there.fail(HOSTILE, f"{HOSTILE} went wrong")
        await page.until("document.querySelector('#failures td.prose').innerText.includes('went wrong')")
        assert HOSTILE in await page.text("#failures tbody tr")
        assert await page.evaluate("document.querySelectorAll('img').length") == 0
        assert await page.evaluate("document.title") == "mails · session-lock"
        assert await page.evaluate("window.before"), "it was loaded anew"

        await page.evaluate("[...document.querySelectorAll('#failures a')][0].click()")
        await page.until("document.querySelector('.answer')?.innerText.includes('can be no key')")
        await page.evaluate("history.back()")
        await page.until(
            "location.pathname === '/status/m/mails/' && document.querySelector('#sessions a') !== null"
        )
        await page.evaluate("document.querySelector('#sessions a').click()")
        await page.until("document.querySelector('[data-fact=Label]')?.innerText === 'web-1:212'")
        assert await page.text("[data-fact=Held]") == "3"
        assert [
            each
            for each in page.complaints
            if not each.startswith("Failed to load resource: the server responded with a status of 404")
        ] == []
        assert all(request.startswith((url, "data:")) for request in page.requests)


async def test_a_stream_that_ends_is_taken_up_again_and_nobody_notices(
    chromium: Browser, there: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LASTS", 0.5)
    async with served(status_app({"mails": EMAILS}, there.dsn)) as url, chromium.page() as page:
        await page.open(f"{url}m/mails/")
        await page.live()
        await until(lambda: _times(page, "/events", 4), "it is not taken up again")
        await page.until(
            "document.querySelector('[data-plot=held] path, [data-plot=running] path.line') !== null"
        )
        assert await page.text("#notice") == ""
        assert (await page.text("#pulse")).startswith("live, ")
        assert page.complaints == []

        # Who does not see it asks for nothing.
        await page.evaluate(
            "Object.defineProperty(document, 'hidden', { value: true, configurable: true }); document.dispatchEvent(new Event('visibilitychange'))"
        )

        async def nobody_looks() -> bool:
            return await there.lookers() == 0

        await until(nobody_looks, "a hidden page is read for")
        await page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        await until(lambda: _times(page, "/events", len(page.requests)), "it does not go on")


async def _times(page: Page, path: str, number: int) -> bool:
    return sum(path in request for request in page.requests) >= min(number, 6)


@pytest.mark.parametrize("address", ["", "sessions/17", "task?key=1"])
async def test_it_is_readable_in_both_schemes_and_at_any_width(
    chromium: Browser, there: Scene, tmp_path: Path, address: str
) -> None:
    async with (
        served(status_app({"mails": EMAILS, "others": EMAILS}, there.dsn)) as url,
        chromium.page() as page,
    ):
        await page.open(f"{url}m/mails/{address}")
        if not address.startswith("task"):
            await page.live()
        images = set()
        for width, height, scheme in SIZES:
            await page.show(width=width, height=height, scheme=scheme)
            await page.until(f"document.documentElement.scrollWidth <= {width}")
            assert await page.evaluate(CONTRAST) == []
            images.add(await page.screenshot(tmp_path / f"{width}-{scheme}.png"))
        assert len(images) == len(SIZES)
        assert page.complaints == []


CONTRAST = """
(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((each) => each / 255)
      .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  for (const node of document.querySelectorAll("main *, header *")) {
    const own = [...node.childNodes].some((each) => each.nodeType === 3 && each.data.trim());
    if (!own || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const colour = node instanceof SVGElement ? style.fill : style.color;
    const [high, low] = [light(colour), light(ground(node))].sort((a, b) => b - a);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) faint.push(`${node.tagName}.${node.className} ${colour} ${contrast.toFixed(2)}`);
  }
  return faint;
})()
"""
"""What is written in a colour too much like that of its ground, by WCAG 2 (AA)."""


async def test_it_can_be_used_by_keys_alone_and_read_aloud(chromium: Browser, there: Scene) -> None:
    async with (
        served(status_app({"mails": EMAILS, "others": EMAILS}, there.dsn)) as url,
        chromium.page() as page,
    ):
        await page.open(f"{url}m/mails/")
        await page.live()
        for selector, number in (
            ("header", 1),
            ("nav[aria-label]", 1),
            ("main", 1),
            ("h1", 1),
            ("[aria-live=polite]", 1),
            ("html[lang]", 1),
        ):
            assert await page.evaluate(f"document.querySelectorAll('{selector}').length") == number, selector
        assert (
            await page.evaluate(
                "document.querySelectorAll('th:not([scope=col]), table:not([aria-labelledby]), svg:not([aria-labelledby])').length"
            )
            == 0
        )
        named = "[...document.querySelectorAll('[aria-labelledby]')].every((each) => document.getElementById(each.getAttribute('aria-labelledby'))?.textContent)"
        assert await page.evaluate(named)
        assert await page.evaluate("document.querySelector('label[for=key]').control.id") == "key"

        # What is read aloud is said once, and not again while numbers change.
        await there.admin.execute("INSERT INTO session_lock.pause (name) VALUES ('email')")
        await page.until("document.querySelector('#notice').innerText.startsWith('The mapping is paused')")
        await page.evaluate(
            "window.said = 0; new MutationObserver((all) => (said += all.length)).observe(document.querySelector('#notice'), { childList: true, characterData: true, subtree: true })"
        )
        clock = await page.text("#pulse")
        await page.until(f"document.querySelector('#pulse').innerText !== {clock!r}")
        assert await page.evaluate("said") == 0
        await there.admin.execute("DELETE FROM session_lock.pause")

        reached = []
        for _ in range(30):
            await page.key("Tab", 9)
            reached.append(
                await page.evaluate(
                    "(document.activeElement.innerText || document.activeElement.id || document.activeElement.tagName).split(/[\\n\\t]/)[0]"
                )
            )
            if await page.evaluate("document.activeElement === document.body"):
                break  # and on to the browser's own
            outlined = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outlined != "none", reached
            if reached[-1] == "Skip to the content":
                assert await page.evaluate("document.activeElement.getBoundingClientRect().top >= 0")
        assert reached[:7] == [
            "Skip to the content",
            "session-lock",
            "mails",
            "others",
            "key",
            "Ask",
            "Session",
        ]
        assert {"17", "18", "When", str(there.keys[5])} <= set(reached[7:]), reached

        # The focus stays where it is while the table is filled again.
        await page.evaluate("document.querySelector('#sessions a').focus()")
        clock = await page.text("#pulse")
        await page.until(f"document.querySelector('#pulse').innerText !== {clock!r}")
        assert await page.evaluate("document.activeElement.innerText") == "17"

        await page.evaluate("document.querySelector('#key').focus()")
        for letter in str(there.keys[0]):
            await page.key(letter, ord(letter), letter)
        await page.key("Enter", 13, "\r")
        await page.until(
            "document.querySelector('.answer')?.innerText.startsWith('Session 17 (web-1:212) has it')"
        )
        assert page.complaints == []


async def test_what_is_not_known_of_sessions_is_no_end_of_them(
    chromium: Browser, server_dsn: str, template: str
) -> None:
    async with fresh_database(server_dsn, template) as database, scene(database) as own:
        await own.admin.execute("REVOKE ALL ON SCHEMA session_lock FROM app")
        async with served(status_app({"mails": EMAILS, "others": EMAILS}, database.app_dsn)) as url, chromium.page() as page:  # fmt: skip
            await page.open(f"{url}m/mails/")
            await page.live()
            assert await page.evaluate("document.querySelector('#sessions').closest('section').hidden")
            assert await page.text("[data-tile=sessions] .soft") == "left out"
            assert await page.text("#state") == ""
            await page.open(f"{url}m/mails/sessions/17")
            await page.live()
            assert await page.text("#notice") == "What it does is not known: below is why."
            assert await page.text("[data-fact=State]") == "–"
            await page.open(url)
            await page.until(
                "document.querySelector('.summary').innerText.startsWith('sessions are not known, ')"
            )
            assert page.complaints == []


async def test_a_slow_database_is_not_taken_for_a_server_that_is_away(
    chromium: Browser, there: Scene
) -> None:
    async with proxy(there.dsn) as network, served(status_app({"mails": EMAILS}, network.dsn)) as url, chromium.page() as page:  # fmt: skip
        await page.open(f"{url}m/mails/")
        await page.live()
        network.partition()
        await asyncio.sleep(6.5)
        assert await page.text("#notice") == ""
        network.heal()


async def test_who_is_refused_while_he_looks_on_is_told_by_whom(
    chromium: Browser, there: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LASTS", 0.5)
    may = [True]
    async with served(status_app({"mails": EMAILS}, there.dsn, authorize=lambda _: may[0])) as url, chromium.page() as page:  # fmt: skip
        await page.open(f"{url}m/mails/")
        await page.live()
        may[0] = False
        await page.until("document.querySelector('#notice').innerText.startsWith('You may not look at this')")
        await asyncio.sleep(2)
        assert (await page.text("#notice")).startswith("You may not look at this")
        may[0] = True
        await page.until("document.querySelector('#notice').innerText === ''")


async def test_two_rows_that_are_called_the_same_are_two_and_no_more(chromium: Browser, there: Scene) -> None:
    await there.admin.execute(
        "INSERT INTO session_lock.failure (name, task_key, attempt, at, session, error) SELECT 'email', 'twin', 1, now(), 17, n::text FROM generate_series(1, 3) AS n"
    )
    rows = "[...document.querySelectorAll('#failures tbody tr')].filter((each) => each.innerText.includes('twin')).length"
    async with served(status_app({"mails": EMAILS}, there.dsn)) as url, chromium.page() as page:
        await page.open(f"{url}m/mails/")
        await page.live()
        await asyncio.sleep(2)  # some looks
        assert await page.evaluate(rows) == 3


async def test_what_holds_vacuum_is_named(
    chromium: Browser, there: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    holders = [
        Holder(kind="standby", name="pid 7 (walreceiver, 10.0.0.5)", since=361, transactions=1204),
        Holder(kind="slot", name="away", since=None, transactions=30),
        Holder(kind="transaction", name="pid 4711 (psql)", since=61, transactions=2),
    ]

    async def seen(*given: Any) -> Any:
        return replace(await overview(*given), holders=holders)

    monkeypatch.setattr(watching, "overview", seen)
    rows = "[...document.querySelectorAll('#holders tbody tr')].map((each) => [...each.cells].map((cell) => cell.innerText))"
    async with served(status_app({"mails": EMAILS}, there.dsn)) as url, chromium.page() as page:
        await page.open(f"{url}m/mails/")
        await page.live()
        assert await page.evaluate(rows) == [
            ["standby", "pid 7 (walreceiver, 10.0.0.5)", "6 minutes or more", "1,204"],
            ["replication slot", "away", "\N{EN DASH}", "30"],
            ["transaction", "pid 4711 (psql)", "61 seconds", "2"],
        ]


async def test_a_link_leads_to_the_key_itself(chromium: Browser, there: Scene) -> None:
    key = f" long {'x' * 400}"
    await there.fail(key, "went wrong")
    async with served(status_app({"mails": EMAILS}, there.dsn)) as url, chromium.page() as page:
        await page.open(f"{url}m/mails/")
        await page.live()
        link = "new URL([...document.querySelectorAll('#failures a')].find((each) => each.innerText.includes('long')).href)"
        assert await page.evaluate(f"{link}.searchParams.get('key')") == key


async def test_a_server_that_is_away_is_said(chromium: Browser, there: Scene) -> None:
    async with chromium.page() as page:
        async with served(status_app({"mails": EMAILS}, there.dsn)) as url:
            await page.open(f"{url}m/mails/")
            await page.live()
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 3, "a browser that looks on holds up the end"
        await page.until(
            "document.querySelector('#notice').innerText.startsWith('The server of this page does not answer')"
        )
        assert await page.text("#pulse") == "no answer"
