"""Makes the documentation site of these pages: `python docs/site.py FOLDER` (`nox -s docs`), which zensical builds then.

The pages stay as they are read in the repository. What they link to outside of this folder becomes a page of its own: SQL, examples, the
change log. Beside them stand two that are generated: the API from its docstrings, and the SQL from its comments.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SECTIONS = {
    "Tutorials": "tutorial",
    "How to": "how-to",
    "Reference": "reference",
    "Explanation": "explanation",
    "Decisions": "adr",
}
API = {
    "The API": ["session_lock"],
    "For migrations": ["session_lock.migrations"],
    "For frameworks": [
        f"session_lock.contrib.{name}"
        for name in (
            "starlette",
            "fastapi",
            "litestar",
            "aiohttp",
            "asgi",
            "lifespan",
            "django",
            "alembic",
            "status",
        )
    ],
    "For tests": ["session_lock.testing"],
}
"""What is public: all that these modules list in their `__all__`."""
TOP = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LANGUAGES = {"py": "python", "sql": "sql", "json": "json", "yaml": "yaml", "md": "markdown"}
CONFIG = """site_name: session_lock
site_description: Share the rows of your own PostgreSQL table over the live instances of an asyncio service.
docs_dir: docs
site_dir: site
use_directory_urls: false
theme:
  name: material
  font: false
  features: [navigation.sections, navigation.top, search.highlight, content.code.copy]
extra_javascript: [mermaid.min.js]
markdown_extensions:
  - admonition
  - tables
  - toc: {permalink: true}
  - pymdownx.highlight
  - pymdownx.superfences:
      custom_fences:
        - name: mermaid
          class: mermaid
          format: !!python/name:pymdownx.superfences.fence_code_format
plugins:
  - search
  - mkdocstrings:
      default_handler: python
      handlers:
        python:
          options: {show_source: false, show_root_heading: true, members_order: source, docstring_section_style: list}
nav:
"""


def main(folder: Path) -> None:
    """Write `folder/mkdocs.yml` and `folder/docs`."""
    target = folder / "docs"
    shutil.rmtree(target, ignore_errors=True)
    pages = {ROOT / name: page for name, page in TOP.items()}
    pages |= {path: path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.md"))}
    pages[DOCS / "reference" / "api.md"] = "reference/api.md"
    pages[DOCS / "reference" / "sql.md"] = "reference/sql.md"
    sources: dict[Path, str] = {}
    for path, page in pages.items():
        text = {"reference/api.md": _api, "reference/sql.md": _sql}.get(page, path.read_text)()
        _write(target / page, _linked(text, path, page, pages, sources))
    for path, page in sources.items():
        _write(target / page, _shown(path))
    for path in DOCS.rglob("*.png"):
        shutil.copy(path, target / path.relative_to(DOCS))
    (folder / "mkdocs.yml").write_text(CONFIG + "".join(_nav(target)), encoding="utf-8")


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _linked(text: str, path: Path, page: str, pages: dict[Path, str], sources: dict[Path, str]) -> str:
    """With its links as the site has them."""

    def link(match: re.Match[str]) -> str:
        file, _, anchor = match[1].partition("#")
        if not file or file.endswith(".png"):
            return match[0]
        to = (path.parent / file).resolve()
        found = pages.get(to) or sources.setdefault(to, f"source/{to.relative_to(ROOT).as_posix()}.md")
        up = "../" * page.count("/")
        return f"]({up}{found}{anchor and f'#{anchor}'})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else re.sub(r"\]\(([^)\s]+)\)", link, part) for part in parts
    )


def _shown(path: Path) -> str:
    """A file of the repository, or the files of a folder, as a page."""
    name = path.relative_to(ROOT).as_posix()
    files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
    texts = (
        f"## {each.name}\n\n````{LANGUAGES.get(each.suffix[1:], 'text')}\n{each.read_text(encoding='utf-8').rstrip()}\n````\n"
        for each in files
    )
    return f"# {name}\n\n" + "\n".join(texts)


def _api() -> str:
    """All public names, each by its docstring."""
    parts = []
    for title, modules in API.items():
        parts.append(f"# {title}")
        for module in modules:
            parts.append(f"Of `{module}`:")
            parts += [f"::: {module}.{name}" for name in import_module(module).__all__]
    return "\n\n".join(parts) + "\n"


def _sql() -> str:
    """What each function of the schema does, by the comment above it."""
    parts = [
        "# The SQL\n\nThe functions of the schema, by the comments above them. Those of a mapping end in its name and a hash.\n"
    ]
    for name in ("sessions.alwaysup.sql", "tasks.alwaysup.sql", "queue.alwaysup.sql", "duties.alwaysup.sql"):
        text = (ROOT / "sql" / name).read_text(encoding="utf-8")
        parts.append(f"## {name}\n")
        for comment, signature in re.findall(
            r"((?:^--.*\n)+)CREATE OR REPLACE FUNCTION session_lock\.(\w+\((?:[^()]|\([^)]*\))*\))",
            text,
            flags=re.MULTILINE,
        ):
            title = signature.partition("(")[0].removesuffix("__set__").rstrip("_")
            prose = re.sub(r"(?m)^-- ?", "", comment).rstrip()
            parts.append(f"### {title}\n\n```sql\n{signature}\n```\n\n```text\n{prose}\n```\n")
    return "\n".join(parts)


def _nav(target: Path) -> Iterator[str]:
    yield "  - Start: index.md\n"
    for title, folder in SECTIONS.items():
        yield f"  - {title}:\n"
        for page in sorted((target / folder).glob("*.md")):
            heading = re.search(r"(?m)^# (.*)$", page.read_text(encoding="utf-8"))
            assert heading, page
            yield f"      - {heading[1].replace('`', '')!r}: {folder}/{page.name}\n"
    yield "  - Change log: changelog.md\n  - Contributing: contributing.md\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
