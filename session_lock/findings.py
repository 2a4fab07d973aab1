"""What `doctor` finds. It stands apart from what looks for it, which no Runner needs and brings much along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "note", "unseen"]
"""error (tasks are not run, or not as they should be) · warning (it works, and will not for long, or at a price) · note (worth knowing) ·
unseen (a look that could not be made)."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note", "unseen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or could not be looked at.

    ```python
    for finding in await database.doctor():
        print(f"{finding.severity}: {finding.text}: {finding.remedy}")
    ```
    """

    severity: Severity
    text: str
    """In words, with the evidence."""

    remedy: str = ""
    """What mends it: a command, mostly."""

    evidence: Mapping[str, Any] = field(default_factory=dict)
    """The numbers and names behind the words, for machines."""

    look: str = ""
    """Which look has found it."""

    def as_json(self) -> dict[str, Any]:
        """One element of what `session-lock doctor --json` prints: all of the above by their names, for `json.dumps`."""
        return asdict(self)
