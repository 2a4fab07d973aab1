"""How our files take a lock for which others would have to wait: `sql/tasks.lock.sql`, in place of their `LOCK TABLE`."""

from __future__ import annotations

import re

LOCK = "tasks.lock.sql"
"""The file that takes the strongest lock on the task table, as a statement of its own."""


def take_patiently(text: str, lock: str) -> str:
    """A file whose `LOCK TABLE` is done as `lock` does it, that file's text: in the same statement, so that nothing is left locked
    between it and what it is for, whoever runs the file.
    """
    (block,) = re.findall(r"(?ms)^DO \$function\$\nBEGIN\n(.*)^END\n\$function\$;$", lock)

    def patiently(match: re.Match[str]) -> str:
        indent, table, mode = match.groups()
        own = block.replace("ACCESS EXCLUSIVE", mode)
        if table != "__table__":  # one of ours: `names.NAME_QUOTE` is what no name contains
            own = own.replace("__table_text__", f"$name${table}$name$").replace("__table__", table)
        return re.sub(r"(?m)^  (?=.)", indent, own).removesuffix("\n")

    return re.sub(r"(?m)^( *)LOCK TABLE (__table__|session_lock\.\w+) IN ([A-Z ]+) MODE;$", patiently, text)
