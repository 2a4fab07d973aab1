"""The peers of the benchmarks, by one that is none: how they are installed, driven and given up, without a network or a server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.peers import __main__ as peers
from tests.benchmarks.peers import sweep
from tests.benchmarks.peers.driver import Peer
from tests.benchmarks.peers.processes import PeerError, running

ADAPTERS = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With the package, which has no modules; what installs it keeps nothing elsewhere."""
    folder, info = tmp_path_factory.mktemp("peers"), "fake-1.5.dist-info"
    with zipfile.ZipFile(folder / "fake-1.5-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: fake\nVersion: 1.5\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UV_CACHE_DIR", str(folder / "uv"))
        environment.setenv("UV_OFFLINE", "1")
        yield folder


@pytest.fixture(scope="module")
async def peer(folder: Path) -> Peer:
    """Installed."""
    wheel = str(folder / "fake-1.5-py3-none-any.whl")
    fake = Peer(
        "fake", {}, {}, tasks=30, requirements=(wheel,), adapters=ADAPTERS, cache=folder / "environments"
    )
    await fake.install()
    return fake


@pytest.fixture
async def dsn(peer: Peer, tmp_path: Path) -> Path:
    """Of a prepared database."""
    dsn = tmp_path / "queue"
    await peer.prepare(str(dsn))
    return dsn


async def test_a_peer_is_filled_and_drained(peer: Peer, dsn: Path) -> None:
    much = b"x" * (1 << 27)  # of ours, and so none of the peer's
    assert await peer.enqueue(str(dsn), 30) > 0
    async with peer.drain(str(dsn), 30) as go:
        assert dsn.read_text() == "30 0", "it waits"
        drained = await go()
    assert dsn.read_text() == "0 30", "each has run, and is finished"
    assert drained.seconds > 0
    assert drained.client_cpu > 0
    assert 1 << 20 < drained.rss_bytes < len(much)


async def test_the_latency_is_of_tasks_one_by_one(peer: Peer, dsn: Path) -> None:
    taken = await replace(peer, settings={"fault": "hangs"}, when_idle={"fault": None}).latency(str(dsn), 5)
    assert len(taken) == 5
    assert all(each > 0 for each in taken)
    assert dsn.read_text().endswith(" 6"), "with one to warm up"


async def test_an_environment_is_made_once_and_anew_for_other_requirements(
    peer: Peer, tmp_path: Path
) -> None:
    moved = replace(peer, cache=tmp_path)
    assert not moved.installed
    await moved.install()
    assert moved.installed
    assert moved.version == "1.5"
    (tmp_path / "fake" / "seen").touch()
    await moved.install()
    assert (tmp_path / "fake" / "seen").exists()
    changed = replace(moved, requirements=(*peer.requirements, "fake>1"))
    assert not changed.installed
    await changed.install()
    assert not (tmp_path / "fake" / "seen").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"requirements": ("/nowhere/fake-2.0-py3-none-any.whl",)}, "Distribution not found at: "),
        (
            {"requirements": ("fake>=1",)},
            "No solution found when resolving dependencies cause: Because fake ",
        ),
        ({"python": (3, 99)}, "No interpreter found for Python >=3.99 "),
    ],
)
async def test_a_peer_that_does_not_install_is_named_with_the_reason(
    peer: Peer, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(PeerError, match=f"^fake does not install: {reason}[^\n]*$"):
        await replace(peer, cache=tmp_path, **change).install()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raises", "fake: no drain: RuntimeError: no way"),
        ("returns", "fake: no drain: RuntimeError: it stopped working before all tasks had run"),
        ("hangs", "fake: no drain within 1 s"),
    ],
)
async def test_a_peer_that_fails_is_named_with_the_reason(
    peer: Peer, dsn: Path, fault: str, reason: str
) -> None:
    failing = replace(peer, settings={"fault": fault}, patience=1 if fault == "hangs" else peer.patience)
    with pytest.raises(PeerError, match=f"^{reason}$"):
        async with failing.drain(str(dsn), 1) as go:
            await go()
    assert is_gone(dsn)


# Interruptions -------------------------------------------------------------------------------------

DRIVER = """
import asyncio, sys
from pathlib import Path
from tests.benchmarks.peers.driver import Peer

async def main():
    adapters, cache, dsn = sys.argv[1:]
    peer = Peer("fake", {"fault": "hangs"}, {}, 1, adapters=Path(adapters), cache=Path(cache))
    async with peer.drain(dsn, 1) as go:
        print("go", flush=True)
        await go()

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_whatever_ends_the_driver_ends_the_peer(peer: Peer, dsn: Path, number: int) -> None:
    command = [sys.executable, "-c", DRIVER, str(peer.adapters), str(peer.cache), str(dsn)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        assert await asyncio.to_thread(driver.stdout.readline) == b"go\n"
        assert not is_gone(dsn)
        driver.send_signal(number)
        driver.communicate()
    async with asyncio.timeout(20):
        while not is_gone(dsn):
            await asyncio.sleep(0.01)


async def test_an_interrupted_installation_leaves_neither_a_process_nor_a_folder(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        left.set()

    monkeypatch.delenv("UV_OFFLINE")
    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        there = f"fake @ http://127.0.0.1:{port}/fake-1.5-py3-none-any.whl"
        installing = asyncio.create_task(replace(peer, requirements=(there,), cache=tmp_path).install())
        async with asyncio.timeout(20):
            await asked.wait()
            installing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await installing
            await left.wait()
    assert not list(tmp_path.iterdir())


def is_gone(dsn: Path) -> bool:
    try:
        os.kill(int(dsn.with_suffix(".pid").read_text()), 0)
    except ProcessLookupError:
        return True
    return False


# The table -----------------------------------------------------------------------------------------


Figures = Callable[..., None]


@pytest.fixture
def figures(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> Figures:
    """Peers that have these figures, or raise what is there instead, in one round after the other."""

    def set_figures(**rounds: list[Any]) -> None:
        async def measure(measured: Peer, _dsn: str, _samples: int) -> dict[str, float]:
            found = rounds[measured.name].pop(0)
            if isinstance(found, BaseException):
                raise found
            return {"drain, tasks/s": found}

        monkeypatch.setattr(peers, "measure", measure)
        monkeypatch.setattr(Peer, "version", "1.5")
        monkeypatch.setattr(peers, "PEERS", [replace(peer, name=name) for name in rounds])

    return set_figures


async def test_the_table_has_medians_and_it_is_said_who_is_left_out(
    peer: Peer, figures: Figures, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures(fast=[1000.0, 3000.0, 2000.0], slow=[1.5, PeerError("slow: no drain: it is tired")])
    missing = replace(peer, name="missing", requirements=("/nowhere/missing-1.0-py3-none-any.whl",))
    monkeypatch.setattr(peers, "PEERS", [missing, *peers.PEERS])
    await peers.run("", rounds=3, samples=0, part=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("left out: missing does not install: Distribution not found at: ")
    assert lines[1:] == [
        "left out from here on: slow: no drain: it is tired",
        "|  | rounds | drain, tasks/s |",
        "| --- | --- | --- |",
        "| fast 1.5 | 3 | 2,000 (1,000-3,000) |",
        "| slow 1.5 | 1 | 1.50 (1.50-1.50) |",
    ]


async def test_an_interrupted_run_prints_what_there_is(
    figures: Figures, capsys: pytest.CaptureFixture[str]
) -> None:
    figures(fast=[1000.0], slow=[asyncio.CancelledError()])
    with pytest.raises(asyncio.CancelledError):
        await peers.run("", rounds=3, samples=0, part=1)
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| fast 1.5 | 1 | 1,000 (1,000-1,000) |",
        "| slow 1.5 | 0 | - |",
    ]


async def test_a_sweep_takes_one_value_after_the_other_and_prints_what_there_is(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def measure(candidate: Peer, _dsn: str, _samples: int) -> dict[str, float]:
        if candidate.settings == {"batch": 3, "same": True}:
            raise PeerError("fake: no drain: it is tired")
        return {"drain, tasks/s": 1000.0 * candidate.settings["batch"]}

    monkeypatch.setattr(sweep, "measure", measure)
    swept = replace(peer, settings={"batch": 2, "same": True}, swept={"batch": (1, 2, 3)})
    with pytest.raises(PeerError):
        await sweep.sweep(swept, "batch", "", rounds=2, samples=0)
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| batch=1 | 1 | 1,000 (1,000-1,000) |",
        "| batch=2 | 1 | 2,000 (2,000-2,000) |",
        "| batch=3 | 0 | - |",
    ]


async def test_of_what_a_process_left_on_stderr_the_error_is_told_and_not_what_a_loop_had_left() -> None:
    code = """
import sys
print("Traceback (most recent call last):\\n  File x\\na.b.DeadlockError: two at once\\nHINT:  See the log.\\ntask: <Task 7>", file=sys.stderr)
sys.exit(1)
"""
    async with running(sys.executable, "-c", code, cwd=ADAPTERS, env=os.environ) as process:
        assert await process.complaint() == "a.b.DeadlockError: two at once"
