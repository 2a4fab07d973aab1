"""docs/site.py: what the documentation site is built of. That it is built, strictly, is `nox -s docs`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.docs.examples import ROOT


def test_what_it_is_made_of(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "docs" / "site.py"), str(tmp_path)], check=True)
    every_link_leads_to_a_page(tmp_path)
    every_page_is_in_its_navigation(tmp_path)
    the_reference_is_made_of_docstrings_and_of_the_comments_of_the_sql(tmp_path)


def every_link_leads_to_a_page(site: Path) -> None:
    docs, dead, seen = site / "docs", [], 0
    for page in docs.rglob("*.md"):
        prose = re.sub(r"(?ms)^(```+).*?^\1$", "", page.read_text())
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            file = target.partition("#")[0]
            seen += 1
            if file and not (page.parent / file).is_file():
                dead.append(f"{page.relative_to(docs)}: {target}")
    assert dead == []
    assert seen > 200


def every_page_is_in_its_navigation(site: Path) -> None:
    named = set(re.findall(r"(?m)^ +- .*: (\S+\.md)$", (site / "mkdocs.yml").read_text()))
    pages = {path.relative_to(site / "docs").as_posix() for path in (site / "docs").rglob("*.md")}
    assert named == {page for page in pages if not page.startswith("source/")}
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.relative_to(ROOT / "docs").as_posix() in named


def the_reference_is_made_of_docstrings_and_of_the_comments_of_the_sql(site: Path) -> None:
    api = (site / "docs" / "reference" / "api.md").read_text()
    for name in (
        "session_lock.Runner",
        "session_lock.contrib.litestar.lifespan",
        "session_lock.testing.Faults",
    ):
        assert f"\n::: {name}\n" in api
    sql = (site / "docs" / "reference" / "sql.md").read_text()
    shown = set(re.findall(r"(?m)^### (\w+)$", sql))
    assert {
        "get_work",
        "finish_tasks",
        "start_session",
        "bump_session",
        "release_tasks",
        "end_session",
        "wake",
    } <= shown
    for part in re.split(r"(?m)^### ", sql)[1:]:
        assert re.search(r"(?s)```text\n\S.*?\n```", part), f"{part.splitlines()[0]} says nothing of itself"
