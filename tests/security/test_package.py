"""T8, T13, T16: what the package does not do, need or carry."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from session_lock.locks import LOCK
from session_lock.schema import sql_root
from tests.docs.examples import ROOT

PYTHON = [*sorted((ROOT / "session_lock").rglob("*.py")), ROOT / "_session_lock_pytest.py"]
SQL = sorted(path for path in Path(str(sql_root())).rglob("*.sql"))

UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "yaml",
    "code",
    "codeop",
    "runpy",
    "imp",
}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}


def unsafe(tree: ast.AST) -> list[str]:
    """What makes objects or code of data."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found += [alias.name for alias in names if alias.name.split(".")[0] in UNSAFE_MODULES]
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in UNSAFE_MODULES:
                found.append(module)
            case ast.Call(func=ast.Name(id=name)) if name in UNSAFE_CALLS:
                found.append(name)
            case ast.Call(func=ast.Attribute(attr="import_module")):
                found.append(ast.unparse(node))
            case ast.keyword(arg="shell", value=ast.Constant(value=True)):
                found.append("shell=True")
    return found


IMPORTS = {
    "_session_lock_pytest.py": 1, "session_lock/cli/__init__.py": 1, "session_lock/cli/common.py": 2, "session_lock/cli/run.py": 1, "session_lock/cli/top/command.py": 1,
    "session_lock/postgres.py": 1, "session_lock/schedules.py": 1,
}  # fmt: skip
"""The module that the command line names, and Django for one of its modules; the demo, `top` and the parser of cron, which are extras; uvloop, where it is installed; `doctor`, when it is asked; the
fixtures for pytest, when a test asks for one."""


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_t8_nothing_makes_code_or_objects_of_data(path: Path) -> None:
    found = unsafe(ast.parse(path.read_text("utf-8")))
    allowed = IMPORTS.get(str(path.relative_to(ROOT)), 0)
    assert len(found) == allowed, found
    assert all("import_module" in each for each in found)


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from yaml import load",
        "eval(x)",
        "exec(x)",
        "run(x, shell=True)",
        "import os, marshal",
    ],
)
def test_t8_it_would_be_seen(text: str) -> None:
    assert unsafe(ast.parse(text))


def test_t13_it_needs_three_packages_and_imports_no_others() -> None:
    """The wheel's own word for it is in tests/packaging."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.match(r"[\w-]+", text)[0] for text in project["dependencies"]}
    assert needed == {"asyncpg", "opentelemetry-api", "anyio"}
    code = "import sys; before = set(sys.modules); import session_lock; print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = {"session_lock", "asyncpg", "opentelemetry", "anyio"}
    theirs = {
        "cython_runtime",
        "idna",
        "sniffio",
        "typing_extensions",
        "importlib_metadata",
        "zipp",
        "async_timeout",
        "exceptiongroup",
    }
    known = sys.stdlib_module_names | own | theirs
    assert {name for name in run.stdout.split() if not name.startswith("_")} - known == set()


@pytest.mark.parametrize("path", SQL, ids=lambda path: path.name)
def test_t16_no_sql_that_is_shipped_has_a_hand_for_tests(path: Path) -> None:
    """Tests replace the clock by a function of their own; nothing in ours lets itself be told the time, or anything else."""
    code = re.sub(r"--[^\n]*", "", path.read_text("utf-8"))
    if path.name == LOCK:  # no function: who owns the table runs it, and is told for how long to try
        code = code.replace("PERFORM pg_sleep(", "", 1)
        for setting in ("'search_path'", "'lock_timeout'", "'session_lock' || '.patience', true"):
            assert f"current_setting({setting})" in code
            code = code.replace(f"current_setting({setting})", "")
    if path.name == "tasks.down.sql":
        assert "current_setting('search_path')" in code
        code = code.replace("current_setting('search_path')", "")
    if path.name.startswith("tasks.tune."):  # nor is this: it puts back what it has changed
        for setting in ("'search_path'", "'lock_timeout'"):
            assert f"current_setting({setting})" in code
            code = code.replace(f"current_setting({setting})", "")
    assert not re.search(r"\b(tests?|fake|mock|pg_sleep|advance|ahead)(\b|_)", code, re.IGNORECASE)
    asked = set(re.findall(r"current_setting\(([^)]*)\)", code))
    assert asked <= {"'transaction_isolation'", "'transaction_read_only'", "v_name, true"}, asked
    if "FUNCTION session_lock.clock()" in code and "down" not in path.name:
        assert "AS $function$ SELECT clock_timestamp() $function$;" in code
