"""Names that somebody might get into a mapping, and what an installation under them has made, in words that do not depend on them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import asyncpg

from session_lock.catalog import read_shape
from session_lock.limits import Limit
from session_lock.names import quote_name
from session_lock.objects import function_set, wake_trigger_name
from session_lock.table import ClaimColumns, Shape, TaskTable

LETTERS = [
    *"aZ_ .;:'\"\\$%{}()[]-/*,\n\t\r@#`~ ß漢\u202e\u2028😀",
    "--", "/*", "*/", "');", "E'", '""', "''", "$$", "$1", "__key__", "__set__", "; DROP SCHEMA public CASCADE; --", "%s", "{0}",
    "session_lock", "session", "SCHEMA session_lock", "pg_catalog", "select", "NULL", "\x7f", "\x01",
]  # fmt: skip
UNSTORABLE = ["\0", "$function$", "$name$", "\ud800"]

KINDS = 4
"""How many kinds of declarations there are: with limits, with an order of its own, plain."""

PARTS = (
    "task_schema", "table", "key", "done", "payload", "session_id", "claim_token", "attempts", "available_at", "mapping", "schema", "role",
)  # fmt: skip


@dataclass
class Hostile:
    """One set of names, and what is declared with them."""

    number: int
    names: Mapping[str, str]
    table: TaskTable = field(init=False)
    shape: Shape | None = None
    """Of the table, once it is made."""

    def __post_init__(self) -> None:
        n, q = self.names, {part: quote_name(name) for part, name in self.names.items()}
        limits = (
            {"limits": (Limit(3, by=n["payload"]),), "fair_by": n["payload"]}
            if self.number % KINDS == 0
            else {}
        )
        self.table = TaskTable(
            f"{q['task_schema']}.{q['table']}",
            key=n["key"],
            pending=f"{q['done']} IS NULL",
            finish=f"{q['done']} = 'x'",
            columns=(n["key"], n["payload"]),
            order_by=(f"{n['payload']} DESC",) if self.number % KINDS == 1 else (),
            name=n["mapping"],
            schema=n["schema"],
            claim_columns=ClaimColumns(**{part: n[part] for part in PARTS[5:9]}),
            **limits,
        )

    def quoted(self, part: str) -> str:
        return quote_name(self.names[part])

    async def make_table(self, admin: asyncpg.Connection) -> None:
        """What is there before the mapping: the application's table with a row, and a role."""
        q = self.quoted
        await admin.execute(
            f"CREATE SCHEMA {q('task_schema')}; CREATE ROLE {q('role')};"
            f"CREATE TABLE {self.source} ({q('key')} text PRIMARY KEY, {q('done')} text, {q('payload')} text NOT NULL)"
        )
        self.shape = await read_shape(admin, self.table)
        await admin.execute(
            f"INSERT INTO {self.source} VALUES ($1, NULL, $2)", self.names["key"], self.names["table"]
        )

    @property
    def source(self) -> str:
        return f"{self.quoted('task_schema')}.{self.quoted('table')}"

    @property
    def functions(self) -> str:
        """The set of the mapping's functions."""
        assert self.shape is not None
        return function_set(self.table, self.shape)

    async def written_since(self, admin: asyncpg.Connection, first: int) -> list[str]:
        """What was made or changed by that transaction, or later ones, with words in place of the names."""
        spaces = {self.names[part]: f"<{part}>" for part in ("task_schema", "schema")}
        columns = {self.names[part]: f"<{part}>" for part in PARTS[2:9]}
        trigger = wake_trigger_name(self.table)
        found = []
        for kind, schema, name, rest in await admin.fetch(WRITTEN, first):
            match kind, spaces.get(schema, schema):
                case "schema", _:
                    told = spaces.get(name, name), rest
                case "role", _:
                    told = name.replace(self.names["role"], "<role>"), rest
                case "column", "<task_schema>" if name == self.names["table"]:
                    told = "<table>", columns.get(rest, rest)
                case (
                    "type",
                    "<task_schema>",
                ):  # named like the table; that of its arrays is cut where it is long
                    told = "<type>", ""
                case _, "<task_schema>":
                    told = {self.names["table"]: "<table>", trigger: "<trigger>"}.get(name, name), rest
                case _:
                    told = name, rest
            text = f"{kind} {spaces.get(schema, schema)}.{told[0]} {told[1]}"
            found.append(text.replace(self.functions, "<set>") if self.shape else text)
        return sorted(found)


def hostile(number: int, **given: str) -> Hostile:
    """That of the number, always the same, but for names that are given. Raises `SettingsError` where it is refused already."""
    chance = random.Random(number)
    alphabet = LETTERS + UNSTORABLE * (number % 10 == 0)
    names = {**given}
    for part in PARTS:
        while (
            not names.get(part)
            or names[part] in [name for other, name in names.items() if other != part]
            or names[part].startswith("pg_")  # the server refuses schemas and roles of that kind
            or (number % 20 and len(names[part].encode(errors="surrogatepass")) > 63)
        ):
            names[part] = "".join(
                chance.choices(LETTERS if part == "role" else alphabet, k=chance.choice((1, 2, 3, 5, 8, 20)))
            )
    return Hostile(number, names)


def tame(number: int) -> Hostile:
    return Hostile(number, {part: f"the_{part}" for part in PARTS})


NAME = "CASE WHEN c.relkind = 't' OR c.relname ~ '_pkey\\d*$|^pg_toast' THEN '<derived>' ELSE c.relname END"
OF_CLASS = "JOIN pg_namespace AS n ON n.oid = c.relnamespace"
WRITTEN = f"""
SELECT 'class ' || c.relkind::text AS kind, n.nspname, {NAME}, ''
  FROM pg_class AS c {OF_CLASS} WHERE c.oid > 16383 AND c.xmin::text::bigint >= $1
UNION ALL SELECT 'column', n.nspname, {NAME}, CASE WHEN c.relkind IN ('i', 't') THEN '' ELSE a.attname END
  FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid {OF_CLASS} WHERE a.attrelid > 16383 AND a.attnum > 0 AND a.xmin::text::bigint >= $1
UNION ALL SELECT 'function', n.nspname, p.proname, p.prosecdef::text || coalesce(p.proconfig::text, '')
  FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE p.oid > 16383 AND p.xmin::text::bigint >= $1
UNION ALL SELECT 'schema', '', n.nspname, '' FROM pg_namespace AS n WHERE n.xmin::text::bigint >= $1
UNION ALL SELECT 'type', n.nspname, y.typname, '' FROM pg_type AS y JOIN pg_namespace AS n ON n.oid = y.typnamespace
 WHERE y.oid > 16383 AND y.xmin::text::bigint >= $1
UNION ALL SELECT 'trigger', n.nspname, t.tgname, '' FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid {OF_CLASS}
 WHERE NOT t.tgisinternal AND t.xmin::text::bigint >= $1
UNION ALL SELECT 'constraint', n.nspname, '', k.contype::text FROM pg_constraint AS k JOIN pg_namespace AS n ON n.oid = k.connamespace
 WHERE k.oid > 16383 AND k.xmin::text::bigint >= $1
UNION ALL SELECT 'comment', '', '', d.objsubid::text FROM pg_description AS d WHERE d.objoid > 16383 AND d.xmin::text::bigint >= $1
UNION ALL SELECT 'role', '', r.rolname, r.rolsuper::text || r.rolcreaterole || r.rolcreatedb || r.rolcanlogin FROM pg_authid AS r
 WHERE r.xmin::text::bigint >= $1 AND pg_xact_status(r.xmin::text::xid8) = 'in progress'
UNION ALL SELECT 'database', '', d.datname, '' FROM pg_database AS d
 WHERE d.xmin::text::bigint >= $1 AND pg_xact_status(d.xmin::text::xid8) = 'in progress'
"""
"""Every object of the database that was written by transaction $1 or later ones; what all databases of the server share, if it was
by one that is still open, and so the caller's own.
"""


def numbers(first: int, last: int, step: int) -> Iterator[range]:
    for begin in range(first, last, step):
        yield range(begin, min(begin + step, last))
