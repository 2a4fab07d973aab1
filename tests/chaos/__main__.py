"""`python -m tests.chaos night` injects all faults, for hours; `.. report FILE ..` writes the page of what records say."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.chaos.night import RECORDS, night
from tests.chaos.report import PAGE, page


def report(files: Iterable[Path]) -> None:
    lines = [line for file in files for line in file.read_text().splitlines()]
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(lines))
    print(f"{PAGE}: from {len(lines)} records")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("night").add_argument(
        "--resume", action="store_true", help="leave out the parts that are done"
    )
    verbs.add_parser("report").add_argument("files", nargs="+", type=Path)
    asked = parser.parse_args(arguments)
    if asked.verb == "report":
        report(asked.files)
        return 0
    failed = night(resume=asked.resume)
    report(sorted(RECORDS.glob("*.jsonl")))
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
