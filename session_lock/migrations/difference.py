"""What `check` finds: how a database differs from what a mapping and this library want."""

from __future__ import annotations

from dataclasses import dataclass

INSTALL = "run session-lock install"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as this mapping and library want it; or a note about what is worth knowing.

    ```python
    for found in await check(connection, mails):
        print("note:" if found.note else "difference:", found.text, found.remedy)
    ```
    """

    text: str
    """What is found, in words."""
    remedy: str = ""
    """What is to be done about it, if anything: a command, mostly."""
    note: bool = False
    """Whether it is only worth knowing: nothing has to be done for things to work."""

    def __str__(self) -> str:
        return f"{self.text}: {self.remedy}" if self.remedy else self.text


def note(text: str, remedy: str = "") -> Difference:
    return Difference(text, remedy, note=True)
