"""An environment for each peer, with the newest releases that PyPI has when it is made.

They are kept in `.bench/` of the checkout, so that what is compared is the same from one run to the next: to have newer releases,
remove that folder. One that was not made to its end is made anew.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import Distribution
from pathlib import Path

from tests.benchmarks.peers.processes import PeerError, running

CACHE = Path(__file__).parents[3] / ".bench" / "peers"

PATIENCE = 300.0
"""Seconds for all that is installed into one environment."""


async def make_environment(folder: Path, python: tuple[int, int], requirements: Sequence[str]) -> None:
    """Make it unless it is there. Raises PeerError where there is no such Python, or what is required does not install."""
    # All with the same Python, except those that need a newer one.
    interpreter = sys.executable if sys.version_info >= python else f">={python[0]}.{python[1]}"
    if is_made(folder, requirements):
        return
    made = folder / "made"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        async with asyncio.timeout(PATIENCE):
            await _uv(folder, "venv", "--allow-existing", "--python", interpreter, folder)
            await _uv(folder, "pip", "install", "--python", folder / "bin" / "python", *requirements)
        made.write_text(_recipe(requirements))
    except TimeoutError:
        raise PeerError(f"it was not installed within {PATIENCE:.0f} s") from None
    finally:
        if not made.exists():
            shutil.rmtree(folder)


def is_made(folder: Path, requirements: Sequence[str]) -> bool:
    """Whether it is there, and was made of the same."""
    made = folder / "made"
    return made.exists() and made.read_text() == _recipe(requirements)


def _recipe(requirements: Sequence[str]) -> str:
    return json.dumps([sys.version, *requirements])


def version_in(folder: Path, name: str) -> str:
    """Of what has been installed there."""
    paths = [str(path) for path in folder.glob("lib/python*/site-packages")]
    return next(iter(Distribution.discover(name=name, path=paths))).version


async def _uv(folder: Path, *arguments: str | Path) -> None:
    command = (sys.executable, "-m", "uv", "--quiet", "--no-python-downloads", *arguments)
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    # Where pyenv keeps several Pythons, let uv find them all.
    versions = Path(env.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    with suppress(OSError):  # there is none, or it is another user's
        env["PYENV_VERSION"] = ":".join(path.name for path in versions.iterdir() if path.name[:2] == "3.")
    async with running(*command, cwd=folder, env=env) as process:
        if complaint := await process.complaint():
            raise PeerError(complaint)
