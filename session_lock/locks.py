"""How our files take a lock for which others would have to wait: `sql/tasks.lock.sql`, in place of their `LOCK TABLE`."""

from __future__ import annotations

import re

LOCK = "tasks.lock.sql"
"""The file that takes the strongest lock on the task table, as a statement of its own."""

_TABLE = r"(?:__table__|session_lock\.\w+)"


def take_patiently(text: str, lock: str) -> str:
    """A file whose `LOCK TABLE` is done as `lock` does it, that file's text: in the same statement, so that nothing is left locked
    between it and what it is for, whoever runs the file.
    """
    (block,) = re.findall(r"(?ms)^DO \$function\$\nBEGIN\n(.*)^END\n\$function\$;$", lock)

    def patiently(match: re.Match[str]) -> str:
        indent, tables, mode = match.groups()
        # One of ours stands for itself: `names.NAME_QUOTE` is what no name contains.
        texts = [
            "__table_text__" if each == "__table__" else f"$name${each}$name$" for each in tables.split(", ")
        ]
        own = block.replace("ACCESS EXCLUSIVE", mode).replace("__table_text__", ", ".join(texts))
        return re.sub(r"(?m)^  (?=.)", indent, own).removesuffix("\n")

    return re.sub(rf"(?m)^( *)LOCK TABLE ({_TABLE}(?:, {_TABLE})*) IN ([A-Z ]+) MODE;$", patiently, text)
