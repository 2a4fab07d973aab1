"""What `import session_lock` brings along."""

from __future__ import annotations

import subprocess
import sys


def test_it_brings_no_framework_along() -> None:
    code = "import sys, session_lock, session_lock.testing; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    extras = {"rich", "textual", "starlette", "uvicorn", "fastapi", "aiohttp", "litestar", "django", "sqlalchemy", "alembic", "psycopg", "pytest", "cronsim"}  # fmt: skip
    assert extras & set(said.split()) == set()
