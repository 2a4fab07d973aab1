"""Each public name stands in a file of what is inferred of it: `nox -s types` has two checkers read these."""

from __future__ import annotations

import ast
from pathlib import Path

import session_lock

FILES = ("api.py", "around.py")


def test_each_public_name_is_inferred() -> None:
    trees = [ast.parse(Path(__file__).with_name(name).read_text(encoding="utf-8")) for name in FILES]
    imported = {
        name.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "session_lock"
        for name in node.names
    }
    assert imported == set(session_lock.__all__)
