"""Replay an hour: `python -m tests.storms SEED` prints its script, its trace, and what is wrong with it.

Or play many, of which the seeds that fail are printed: `python -m tests.storms --from SEED --hours COUNT`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

from tests.storms.history import History
from tests.storms.promises import broken
from tests.storms.scripts import script_of
from tests.storms.world import play


def show(seed: int) -> int:
    script = script_of(seed)
    for step in script.steps:
        print(step)
    log = play(script)
    print(log.trace())
    for task, standing in log.standing.items():
        print(f"task {task} is {standing}")
    return _tell(seed, broken(History(log)))


def play_many(begin: int, hours: int) -> int:
    failed, began_at = [], time.process_time()
    for seed in range(begin, begin + hours):
        if _tell(seed, broken(History(play(script_of(seed))))):
            failed.append(seed)
        if (seed + 1 - begin) % 100 == 0:
            print(
                f"{seed + 1 - begin} hours in {time.process_time() - began_at:.0f} s; go on by --from {seed + 1}",
                flush=True,
            )
    print(f"{hours} hours, {len(failed)} failed: {failed}")
    return min(len(failed), 1)


def _tell(seed: int, wrong: list[str]) -> int:
    for each in wrong:
        print(f"seed {seed}: {each}", flush=True)
    return min(len(wrong), 1)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser(prog="python -m tests.storms", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?")
    parser.add_argument("--from", type=int, default=0, dest="begin")
    parser.add_argument("--hours", type=int, default=5000)
    given = parser.parse_args()
    sys.exit(play_many(given.begin, given.hours) if given.seed is None else show(given.seed))
