"""docs/tutorial/first.md, followed but for the time it takes: its files, its commands, and a process that is killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.contrib.service import until
from tests.docs.pages import Page
from tests.faults.test_tutorial import write

MAILS = 400


@pytest.mark.timeout(120)
async def test_the_tutorial(tmp_path: Path) -> None:
    page = Page("first.md", folder="tutorial")
    for block in page.blocks:
        assert "generate_series(1, 1000)" in block or "# server.py" not in block
        write(tmp_path, block.replace("(1, 1000)", f"(1, {MAILS})").replace("sleep(0.5)", "sleep(0.1)"))
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    commands = re.findall(r"(?ms)^```sh\n(.*?)^```$", page.text)
    make, serve, install, run, look, kill, count = (each.strip() for each in commands)
    assert make.splitlines()[1] == ".venv/bin/pip install 'session-lock[demo]'"
    env = dict(os.environ)

    async def start(command: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_shell(
            f"exec {command}", cwd=tmp_path, env=env,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    async def output(command: str) -> str:
        process = await start(command)
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()
        return said.decode()

    def sent() -> list[str]:
        file = tmp_path / "sent.txt"
        return file.read_text().splitlines() if file.exists() else []

    async def lines(number: int) -> bool:
        return len(sent()) >= number

    server = await start(serve)
    started = []
    try:
        assert server.stdout
        line = (await server.stdout.readline()).decode()
        env["DATABASE_URL"] = line.removeprefix("export DATABASE_URL=").strip()
        assert "Added the claim columns to mail" in await output(install)
        started = [await start(run), await start(run)]
        await until(lambda: lines(100), "no mails are sent")
        seen = await output(look)
        assert len(re.findall(r"\blive\b", seen)) == 2, seen
        pid = str(started[0].pid)
        assert pid in seen, seen
        await output(kill.replace("PROCESS", pid))
        assert await started[0].wait() == -signal.SIGKILL
        await until(lambda: lines(MAILS), "not all are sent")

        async def all_told() -> bool:
            return f"{MAILS} rows are flagged" in await output(count)

        await until(all_told, "not all are flagged")
        said = await output(count)
        twice = re.search(rf"{MAILS} mails were sent, (\d+) of them twice", said)
        assert twice, said
        assert int(twice[1]) <= 5
        started[1].send_signal(signal.SIGINT)
        assert await started[1].wait() in {0, 130}
    finally:
        for process in (*started, server):
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
                await process.wait()
