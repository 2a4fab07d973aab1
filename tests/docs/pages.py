"""The code in the pages of docs, run as it stands."""

from __future__ import annotations

import re
from typing import Any

from tests.docs.examples import ROOT


class Page:
    """A page's blocks of Python, which share a name space as they would in a file."""

    def __init__(self, name: str, *, folder: str = "how-to") -> None:
        self.text = (ROOT / "docs" / folder / name).read_text(encoding="utf-8")
        self.blocks = re.findall(r"^```python\n(.*?)^```$", self.text, flags=re.MULTILINE | re.DOTALL)
        self.names: dict[str, Any] = {"__name__": name}
        self._run = 0

    def run(self, *, holding: str = "") -> None:
        """Execute the next block, which must hold this text: so that no block is skipped, and no other taken."""
        block = self.blocks[self._run]
        assert holding in block, f"{holding!r} is not in the next block:\n{block}"
        self._run += 1
        exec(compile(block, self.names["__name__"], "exec", dont_inherit=True), self.names)

    @property
    def done(self) -> bool:
        return self._run == len(self.blocks)

    def __getitem__(self, name: str) -> Any:
        return self.names[name]
