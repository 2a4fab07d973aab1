"""`session-lock status`: a page for who sits at this machine, and for nobody else."""

# ruff: noqa: F811 (fixtures of another file)

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from session_lock.cli import main, serving
from tests.cli.test_cli import admin, cli  # noqa: F401 (fixtures)

COMMAND = "import sys; from session_lock.cli import main; sys.exit(main(['status', *sys.argv[1:]]))"


async def test_it_says_where_it_is_and_ends_by_ctrl_c(cli, admin, tmp_path: Path):
    await cli("install", "MAPPING", "--yes")
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, f"{cli.module}:emails", f"{cli.module}:other_name", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cli.folder, env={**os.environ, "SESSION_LOCK_DSN": cli.dsn},
    )  # fmt: skip
    try:
        said = process.stdout.readline()
        found = re.fullmatch(
            r"The status page of email, other: (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", said
        )
        assert found, said + process.stderr.read()
        async with httpx.AsyncClient(base_url=found[1], trust_env=False) as client:
            page = (await client.get("/m/email/")).text
            assert "public.email" in page
            assert (await client.get("/m/other/")).status_code == 200
            answer = await client.get("/m/email/task?key=99")
            assert (answer.status_code, "There is no such" in answer.text) == (404, True)
            assert (await client.get("/", headers={"x-forwarded-for": "127.0.0.1"})).status_code == 403
            async with client.stream("GET", "/m/email/events") as looking:
                lines = looking.aiter_lines()
                await anext(lines)
                process.send_signal(signal.SIGINT)
                async for _ in lines:  # to its end: it is not broken off
                    pass
        assert (process.wait(10), process.stdout.read(), process.stderr.read()) == (130, "", "")
    finally:
        process.kill()
        process.communicate()


async def test_what_is_wrong_is_said(cli, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, said in (
            (("MAPPING", "--host", "0.0.0.0"), "--host 0.0.0.0 would be seen by others, and this command cannot ask who they are"),
            (("MAPPING", "--host", "nowhere.invalid"), "there is no host 'nowhere.invalid'"),
            (("MAPPING", "--port", port), f"cannot listen at 127.0.0.1 on port {port} (Address already in use): give another --port"),
            (("MAPPING", "MAPPING"), "two of the mappings are called 'email': name each once"),
            (("MAPPING:nothing",), "does not name a mapping"),
        ):  # fmt: skip
            assert await cli("status", *words) == 2
            assert said in cli.err
    assert await cli("status", "MAPPING", dsn="postgresql+asyncpg://x/y") == 2
    assert "names a driver" in cli.err
    monkeypatch.setattr("session_lock.cli.status.is_installed", lambda: False)
    assert await cli("status", "MAPPING") == 2
    assert "the status page needs starlette and uvicorn: pip install 'session-lock[status]'" in cli.err


def test_that_no_proxy_may_stand_before_it_is_said(capsys):
    assert main(["status", "--help"]) == 0
    assert "so no proxy may stand before it" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("wrong", ["x", "-1", "65536", "²"])
def test_what_is_no_port_is_refused(capsys, wrong: str):
    assert main(["status", "jobs:mails", f"--port={wrong}"]) == 2
    assert f"{wrong!r} is no port: a number from 0 to 65535" in capsys.readouterr().err


def test_what_is_missing_is_named(monkeypatch):
    for name in ("starlette", "uvicorn"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            assert not serving.is_installed()
    assert serving.is_installed()
    code = "import sys; sys.modules['starlette'] = None; import session_lock.contrib.status"
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert refused.stderr.splitlines()[-1] == (
        "session_lock.errors.SettingsError: the status page needs starlette 0.37.2 or later: pip install 'session-lock[status]'"
    )
