"""Chromium without a window, told what to do over its DevTools protocol: no driver is needed, aiohttp speaks to it."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.contrib.service import until

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

VARIABLE = "SESSION_LOCK_CHROMIUM"


def find_chromium() -> str | None:
    """The program that the environment names, or one on the PATH."""
    return os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, NAMES)), None)


class Navigated(Exception):
    """The page that was asked is left for another one."""


class Page:
    """A tab, and what it has complained of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.complaints: list[str] = []
        """Errors and warnings of the console, exceptions, what the policy has blocked."""
        self.requests: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            told = message.json()
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
                continue
            about = told.get("params", {})
            match told["method"]:
                case "Log.entryAdded" if about["entry"]["level"] in {"warning", "error"}:
                    self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
                case "Runtime.exceptionThrown":
                    details = about["exceptionDetails"]
                    self.complaints.append(
                        str(details.get("exception", {}).get("description", details["text"]))
                    )
                case "Runtime.consoleAPICalled" if about["type"] in {"warning", "error", "assert"}:
                    self.complaints.append(str(about["args"]))
                case "Audits.issueAdded" if about["issue"]["code"] == "ContentSecurityPolicyIssue":
                    self.complaints.append(str(about["issue"]["details"]))
                case "Network.requestWillBeSent":
                    self.requests.append(about["request"]["url"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        told = await answer
        if "navigated" in told.get("error", {}).get("message", ""):
            raise Navigated
        assert "error" not in told, told
        return told["result"]

    async def evaluate(self, expression: str) -> Any:
        """The value of some JavaScript, awaited if it is a promise."""
        told = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def until(self, condition: str) -> None:
        """Wait until some JavaScript is true."""

        async def holds() -> bool:
            try:
                return bool(await self.evaluate(condition))
            except Navigated:
                return False

        await until(holds, f"never {condition}")

    async def live(self) -> None:
        """Wait for the first look."""
        await self.until("document.body?.dataset.seen === '1'")

    async def text(self, selector: str) -> str:
        return str(await self.evaluate(f"document.querySelector({selector!r}).innerText"))

    async def key(self, key: str, code: int = 0, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
            )

    async def show(self, *, width: int, height: int, scheme: str = "light", scale: float = 1) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        await self.call(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    async def screenshot(self, path: Path, *, whole: bool = True) -> bytes:
        told = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        image = base64.b64decode(told["data"])
        path.write_bytes(image)
        return image


class Browser:
    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    @asynccontextmanager
    async def page(self) -> AsyncIterator[Page]:
        """A tab of its own; the errors of its console fail no test by themselves."""
        async with self._session.put(f"{self._url}/json/new?about:blank") as answer:
            tab = await answer.json(content_type=None)
        async with self._session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            page = Page(socket)
            listening = asyncio.create_task(page.listen())
            try:
                for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
                    await page.call(f"{domain}.enable")
                yield page
            finally:
                with suppress(Exception):
                    await page.call("Page.close")
                listening.cancel()
                await asyncio.wait([listening])


@asynccontextmanager
async def browser(program: str) -> AsyncIterator[Browser]:
    """One process of it, with a profile that is thrown away, which may reach this machine alone.

    Without its sandbox, which root may not have, nor containers: what it is shown is ours.
    """
    profile = Path(tempfile.mkdtemp(prefix="chromium-"))
    words = [
        "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run", "--disable-gpu",
        "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-default-browser-check", "--hide-scrollbars",
        "--force-color-profile=srgb", "--no-sandbox", "about:blank",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        program, *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True
    )  # fmt: skip
    try:
        told = profile / "DevToolsActivePort"

        async def listens() -> bool:
            assert process.returncode is None, f"{program} ended at once"
            return told.exists() and bool(told.read_text().strip())

        await until(listens, f"{program} does not start")
        port = told.read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            yield Browser(session, f"http://127.0.0.1:{port}")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        shutil.rmtree(profile, ignore_errors=True)
