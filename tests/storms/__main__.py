"""Replay an hour: `python -m tests.storms SEED` prints its script, its trace, and what is wrong with it.

Or play many, of which those that fail are printed: `python -m tests.storms --from SEED --hours COUNT`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

from tests.storms.replay import replay


def play_many(begin: int, hours: int) -> int:
    failed, began_at = [], time.process_time()
    for seed in range(begin, begin + hours):
        if (hour := replay(seed)).wrong:
            failed.append(seed)
            print(hour, flush=True)
        if (seed + 1) % 100 == 0:
            seconds = time.process_time() - began_at
            print(f"{seed + 1 - begin} hours in {seconds:.0f} s; go on by --from {seed + 1}", flush=True)
    print(f"{hours} hours, {len(failed)} failed: {failed}")
    return min(len(failed), 1)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser(prog="python -m tests.storms", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?")
    parser.add_argument("--from", type=int, default=0, dest="begin")
    parser.add_argument("--hours", type=int, default=5000)
    given = parser.parse_args()
    if given.seed is None:
        sys.exit(play_many(given.begin, given.hours))
    print(replay(given.seed))
