"""The thread that keepalives are sent in under `Settings.keepalive="thread"`."""

from __future__ import annotations

import asyncio
import os
import threading


class _Thread:
    """A thread with an event loop, for as long as the process lives: connections of that loop stay from lease to lease."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="session_lock keepalive", daemon=True
        )
        self._thread.start()

    def is_alive(self) -> bool:
        return self.pid == os.getpid() and self._thread.is_alive()


_lock = threading.Lock()
_thread: _Thread | None = None


def keepalive_loop() -> asyncio.AbstractEventLoop:
    """The loop of this process's thread for keepalives, which starts with the first of them."""
    global _thread  # noqa: PLW0603 (one for the process)
    with _lock:
        if _thread is None or not _thread.is_alive():
            _thread = _Thread()
        return _thread.loop
