"""What `import session_lock` costs a service that has asyncpg already."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import asyncio, time
import asyncpg
begun = time.process_time()
import session_lock
print(time.process_time() - begun)
"""


def test_it_takes_less_than_150_ms_more_than_asyncpg_alone() -> None:
    """Of a processor's time, the least of some: others run beside it."""
    took = []
    for _ in range(25):
        said = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
        took.append(float(said))
        if took[-1] < 0.15:
            return
    raise AssertionError(f"it took {min(took):.3f} s of a processor")


def test_it_brings_no_framework_along() -> None:
    code = "import sys, session_lock, session_lock.testing; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    extras = {"rich", "textual", "starlette", "uvicorn", "fastapi", "aiohttp", "litestar", "django", "sqlalchemy", "alembic", "psycopg", "pytest", "cronsim"}  # fmt: skip
    assert extras & set(said.split()) == set()
