"""The adapter of a peer that is none, for `test_peers`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "peers" / "adapters"))
import protocol
from protocol import Adapter, ran, serve

protocol.IDLE, protocol.WARM_UP = 0.1, 1


class ForFake(Adapter):
    """Its DSN is of a file with the number of the tasks that are not finished, and of those that ran."""

    async def open(self):
        self.file = Path(self.dsn)
        self.file.with_suffix(".pid").write_text(str(os.getpid()))

    async def prepare(self):
        self.file.write_text("0 0")

    async def enqueue(self, tasks):
        self.add(tasks, 0)

    async def enqueue_one(self):
        self.add(1, 0)

    async def work(self):
        fault = self.settings.get("fault")
        if fault == "raises":
            raise RuntimeError("no\nway")
        if fault == "returns":
            return
        while fault != "hangs":
            pending, _ = map(int, self.file.read_text().split())
            for _ in range(pending):
                ran()
            self.add(0, pending)
            await asyncio.sleep(0.01)  # they are finished some time after they have run
            self.add(-pending, 0)
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    async def unfinished(self):
        return not self.file.read_text().startswith("0 ")

    def add(self, pending, has_run):
        was_pending, had_run = map(int, self.file.read_text().split())
        self.file.write_text(f"{was_pending + pending} {had_run + has_run}")


if __name__ == "__main__":
    serve(ForFake)
