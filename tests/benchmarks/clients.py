"""A client that is measured: `python -m tests.benchmarks.clients`.

It reads in a line of JSON what it is to do, and connects; says that it is ready, and begins when it is told to. Most go on until their stdin ends,
some have an end of their own; then it tells in a line of JSON what came of it.
"""

from __future__ import annotations

import asyncio
import json
import sys

from tests.benchmarks import latency, loops, runners
from tests.benchmarks.client import Client
from tests.benchmarks.peers.adapters.protocol import peak_memory

try:
    import uvloop
except ImportError:  # measured with what is there
    uvloop = None

KINDS = {
    each.__name__: each
    for each in (
        *(loops.select, loops.update, loops.plain, loops.functions),
        *(loops.insert, loops.enqueueing, loops.feeder),
        *(runners.runner, runners.one_by_one, runners.idle, runners.take_over),
        *(latency.waiting_runner, latency.waiting_loop),
    )
}


async def main() -> None:
    request = json.loads(sys.stdin.readline())
    kind = KINDS[request.pop("kind")]
    client = Client(**request)
    await kind(client)
    print(json.dumps({**client.told, "peak": peak_memory()}), flush=True)


if __name__ == "__main__":
    (asyncio.run if uvloop is None else uvloop.run)(main())
