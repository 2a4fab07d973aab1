"""A program in a real terminal: a pseudo-terminal, and what a screen would show of what it writes there."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pyte

MAIN = "import sys; from session_lock.cli import main; sys.exit(main(sys.argv[1:]))"


class Terminal:
    """One run of `session-lock`, on a screen of so many columns and lines."""

    def __init__(
        self, *words: str, size: tuple[int, int], folder: Path, env: Mapping[str, str] | None = None
    ) -> None:
        columns, lines = size
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.written = b""
        self._own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        given = {
            key: value
            for key, value in os.environ.items()
            if key not in {"NO_COLOR", "COLORFGBG", "COLUMNS", "LINES"}
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *words], stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, start_new_session=True,
            env={**given, "TERM": "xterm-256color", "COLORTERM": "truecolor", **(env or {})},
        )  # fmt: skip
        os.close(theirs)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display)

    def press(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def until(self, condition: Callable[[str], object], seconds: float = 20) -> str:
        """What is on the screen when it is so."""
        deadline = time.perf_counter() + seconds
        while not condition(self.text):
            assert time.perf_counter() < deadline, f"it never came to that:\n{self.text}"
            assert self._read(0.1), f"it ended before that:\n{self.text}"
        return self.text

    def wait(self, seconds: float = 20) -> int:
        """Its exit status."""
        deadline = time.perf_counter() + seconds
        while self._read(0.1):
            assert time.perf_counter() < deadline, f"it does not end:\n{self.text}"
        return self._process.wait(seconds)

    def _read(self, seconds: float) -> bool:
        """What has been written meanwhile goes to the screen. False: nobody writes any more."""
        if not select.select([self._own], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._own, 65_536)
        except OSError:  # as Linux says that the other side is closed
            return False
        self.written += data
        self._stream.feed(data)
        return bool(data)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._own)
