"""Goes through the worlds of a night as well: `python -m tests.model`. Or shows how a fault is found: `.. NoToken`."""

from __future__ import annotations

import sys
from time import perf_counter

from tests.model import faults
from tests.model.checker import check
from tests.model.protocol import Protocol
from tests.model.worlds import AT_NIGHT, BY_DEFAULT


def main(names: list[str]) -> int:
    for name in names:
        fault = getattr(faults, name)
        print(f"{name}: {fault.__doc__}\n{check(fault(fault.where))}")
    if names:
        return 0
    sum_of_states, wrong = 0, 0
    for name, (world, states) in {**BY_DEFAULT, **AT_NIGHT}.items():
        begin = perf_counter()
        report = check(Protocol(world), at_most=states)
        print(f"{name} ({perf_counter() - begin:.0f} s): {report}", flush=True)
        sum_of_states += report.states
        wrong += bool(report.broken) or report.states != states
    print(f"{sum_of_states} states")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
