"""The wheel as a stranger gets it: built, installed into an environment of its own, and used from there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from session_lock.contrib.status.pages import MODULES

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    result = subprocess.run(command, cwd=cwd, env=clean | env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that has nothing but the wheel and its extra for the demo."""
    venv = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, venv, cwd=venv.parent)
    python = venv / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        f"{wheel}[demo]",
        cwd=venv.parent,
    )
    return python


def test_the_wheel_carries_the_sql_and_the_type_marker(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {f"session_lock/{path.relative_to(ROOT)}" for path in (ROOT / "sql").rglob("*") if path.is_file()}
    assert ours, "the checkout has sql/"
    assert ours <= names
    assert "session_lock/py.typed" in names
    static = {f"session_lock/contrib/status/static/{name}" for name in (*MODULES, "status.css")}
    assert static == {name for name in names if "/static/" in name}
    assert not any(name.startswith(("tests/", "docs/", "sql/")) for name in names)


def test_it_needs_three_packages_and_no_more(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    needed = [
        line
        for line in archive.read(metadata).decode().splitlines()
        if line.startswith("Requires-Dist") and "extra ==" not in line
    ]
    assert sorted(line.split(": ")[1].split(">=")[0] for line in needed) == [
        "anyio",
        "asyncpg",
        "opentelemetry-api",
    ]


def test_the_installed_package_reads_its_sql_from_itself(python: Path, tmp_path: Path) -> None:
    code = "from session_lock.schema import sql_root; print(sql_root())"
    assert Path(run(python, "-c", code, cwd=tmp_path).strip()).is_relative_to(python.parents[1])


def test_the_kit_for_tests_is_there_with_its_plugin_and_needs_no_pytest(python: Path, tmp_path: Path) -> None:
    code = (
        "from importlib.metadata import entry_points; import session_lock.testing\n"
        "(plugin,) = entry_points(group='pytest11', name='session_lock'); print(plugin.value)\n"
        "from importlib.util import find_spec; print(find_spec(plugin.value) is not None)"
    )
    assert run(python, "-c", code, cwd=tmp_path) == "_session_lock_pytest\nTrue\n"


def test_the_demo_runs_from_the_installed_package(python: Path, tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(str(number))
    out = run(
        python.parent / "session-lock",
        "demo",
        "--json",
        "--no-kill",
        "--no-freeze",
        "--dir",
        tmp_path,
        cwd=tmp_path,
    )
    assert '"finished": 40' in out
