"""The files of docs/examples, imported, or started as processes of their own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


@asynccontextmanager
async def running_process(
    *words: str | Path, cwd: Path, **env: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """What a page tells to start, beside the test; killed at the end if it still runs."""
    started = await asyncio.create_subprocess_exec(
        *words, cwd=cwd, env={**os.environ, **env}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


def load_example(name: str) -> ModuleType:
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # where frameworks look for the types of its functions
    spec.loader.exec_module(module)
    return module
