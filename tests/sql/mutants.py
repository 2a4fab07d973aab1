"""Every small fault that can be made in our functions: made by rules, from the sources themselves.

A mutant is one change of one function: a condition less, a weaker lock or none, no order, no LIMIT, the transaction's clock in place
of the clock, a branch never or always taken, and so on. Its name says which: what is repeated in a function is numbered.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from session_lock.schema import source
from tests.sql.schedule import SESSIONS, TASKS

LIMITS, DUTIES, QUEUE = "tasks.limits.alwaysup.sql", "duties.alwaysup.sql", "queue.alwaysup.sql"
MUTATED = {
    SESSIONS: (
        "clock", "start_session", "bump_session", "hold_session", "sessions_of", "sweep_sessions", "forget_cancelled",
        "note_look", "seen_idle", "shares", "share", "tell_all", "pause_mapping", "resume_mapping", "drain_session", "ask_for_tasks",
        "asked_lately", "wake", "wake_on_insert", "may_take", "sharing_with", "limit_transaction", "trim_failures", "note_expired",
        "is_suspect",
    ),
    TASKS: (
        "standing", "get_work", "finish_tasks", "finish_in", "release_tasks", "end_session", "cancel_task", "retry_tasks",
    ),
    LIMITS: ("possible", "pick"),
    DUTIES: ("plan_duties", "forget_duties", "sharing_duty"),
    QUEUE: ("enqueue", "enqueue_keys"),
}  # fmt: skip

NOTHING = "no condition, lock, order, bound or clock in it, so the rules make nothing of it"
NOT_MUTATED = {
    SESSIONS: {
        "schema_version": NOTHING,
        "whereabouts": NOTHING,
        "adopt": NOTHING,
        "tell": NOTHING,
        "version_numbers": NOTHING,
        "around_task": "for people who ask why: it only shows, and nothing is decided by it",
    },
    TASKS: {
        "backlog": "for who measures: it only counts, and nothing is decided by it",
        "shares": "for people who look: it only shows, and nothing is decided by it",
        "why": "for people who ask why: it only shows, and nothing is decided by it; the row that it locks is passed over as any other",
    },
}
"""The other functions, and why they are not: a test says that there are no more."""

# How much a session takes, and when it is to look again: of this other tests see to it. It makes no difference to what is safe.
HINTS = r"\(array_agg\(s\.counted.*?\[1\],|\n  IF counted IS NULL.*?END IF;|  -- 3 The share,.*?(?=  -- 4 )|  -- 6 There was room.*?(?=    my\.gone :=)|  PERFORM session_lock\.note_look.*?;\n|  my\.(since|walked) := .*?;\n|CASE WHEN my\.from_start THEN my\.walked.*?END|\n    PERFORM session_lock\.wake\(my\.name, true\);"


@dataclass(frozen=True)
class SourceMutant:
    name: str
    file: str
    begin: int
    end: int
    new: str
    """In place of what stands between the two."""

    function: tuple[int, int]
    """Where the function begins and ends in the source."""

    def source(self, file: str) -> str:
        text = source(file)
        return text[: self.begin] + self.new + text[self.end :] if file == self.file else text

    @property
    def function_name(self) -> str:
        return self.name.partition(":")[0]

    @property
    def is_of_locks(self) -> bool:
        return "`FOR " in self.name

    @property
    def shipped_function(self) -> str:
        return source(self.file)[slice(*self.function)]

    @property
    def mutated_function(self) -> str:
        begin, end = self.function
        return self.source(self.file)[begin : end + len(self.new) - (self.end - self.begin)]


@cache
def mutants() -> dict[str, SourceMutant]:
    """All of them by their names."""
    return {
        mutant.name: mutant
        for file, functions in MUTATED.items()
        for function in functions
        for mutant in mutants_of(file, function)
    }


def mutants_of(file: str, function: str) -> Iterator[SourceMutant]:
    begin, end = _function(file, function)
    seen: set[tuple[int, int, str]] = set()
    times: dict[str, int] = {}
    hints = [match.span() for match in re.finditer(HINTS, source(file)[begin:end], re.DOTALL)]
    body = source(file).index("$function$", begin) - begin
    for what, at, to, new in _changes(_blank(source(file)[begin:end])):
        is_hint = any(at_hint <= at < to_hint for at_hint, to_hint in hints)
        if at < body or (at, to, new) in seen or is_hint:
            continue
        seen.add((at, to, new))
        old = re.sub(r"\s+", " ", source(file)[begin + at : begin + to]).strip()
        label = f"{function}: {what} `{old}`" if old else f"{function}: {what}"
        times[label] = times.get(label, 0) + 1
        name = label if times[label] == 1 else f"{label} ({times[label]})"
        yield SourceMutant(name, file, begin + at, begin + to, new, (begin, end))


def _function(file: str, name: str) -> tuple[int, int]:
    begins = rf"^CREATE OR REPLACE FUNCTION session_lock\.{name}(__set__)?\("
    match = re.search(rf"{begins}.*?\$function\$.*?\$function\$;", source(file), re.DOTALL | re.MULTILINE)
    assert match, name
    return match.span()


def _blank(text: str) -> str:
    """Comments and literals are no code; what is left keeps its place."""
    return re.sub(
        r"--[^\n]*|'[^'\n]*'",
        lambda match: re.sub(r"[^\n]", "~" if match[0][0] == "'" else " ", match[0]),
        text,
    )


Change = tuple[str, int, int, str]


def _changes(text: str) -> Iterator[Change]:
    yield from _conditions(text)
    yield from _locks(text)
    for what, pattern, new in RULES:
        for match in re.finditer(pattern, text):
            yield what, match.start(), match.end(), match.expand(new)


# What is left out in one piece, or stands for another: the name of the change, what it finds, what it makes of it.
RULES = [
    ("no", r"\bORDER BY (?:t\.__key__|s\.id|__order_by__|u\.\w+|r\.rank|c\.rank)(?= *\n)", ""),
    ("no", r"\bLIMIT (?:CASE [^\n]*? END|(?!1\b)[\w.]+)", ""),
    ("not so", r"\bAS MATERIALIZED\b", "AS NOT MATERIALIZED"),
    ("now() for", r"session_lock\.clock\(\)|\bclock_timestamp\(\)", "now()"),
    ("its second alone, of", r"\bgreatest\((?:[^(),]+), ", "greatest("),
    ("its second alone, of", r"\bgreatest\(t\.__attempts__ - (?:[^()]|\([^()]*\))+, 0\)", "0"),
    ("no", r" \+ 1\b", ""),
    ("no", r" - coalesce\(r\.give_back, false\)::integer| - 1(?=, 0\))", ""),
    ("no", r"__session_id__ = NULL, ", ""),
    ("no", r" ON CONFLICT \(\w+\) DO NOTHING", ""),
    ("no", r"(?<=SET )give_back = 0, |, give_back = 0", ""),
    ("= for", r"IS NOT DISTINCT FROM", "="),
    ("<> for", r"IS DISTINCT FROM", "<>"),
    ("never", r"\n *WHEN [^\n]* THEN [^\n]*(?=\n)", ""),
    ("not done:", r"\n *(?:PERFORM|INSERT) [^;]*;(?= *\n)", ""),
    ("nobody's:", r"ARRAY\(SELECT t\.__key__::text FROM __table__ AS t WHERE \(__pending__\) AND t\.__session_id__ = my\.id\)", "ARRAY[]::text[]"),
    ("only one look:", r"FOR v_round IN 1\.\.\d+ LOOP", "FOR v_round IN 1..1 LOOP"),
    ("the first alone, of", r"my\.held \|\| my\.keys", "my.held"),
    ("nobody first by", r"remainder DESC, ", ""),
    ("< for", r"(?<=rank )<=(?= remaining)|(?<= )<=(?= p_version)", "<"),
    ("true for", r"(?<=<= p_version, )false|(?<=WHERE s\.id = p_id\), )false", "true"),
    ("no", r"p_needed IS NULL OR ", ""),
    ("not set back:", r"\n *my\.start := NULL;", "\n    EXIT;"),
]  # fmt: skip


# Conditions: one of them less, or all that they guard always or never done -----------------------------------

CONDITION = r"(?<!END )\b(WHERE|HAVING|ON(?! CONFLICT)|ELSIF|IF|EXIT WHEN|CONTINUE WHEN)\b"
GUARDS = r"\s*(?:THEN|;)\s*(?:--[^\n]*)?\s*(?:RAISE|RETURN)\b|;"
END = r"\b(?:WHERE|ORDER BY|GROUP BY|FOR (?:NO KEY |KEY )?(?:UPDATE|SHARE)|LIMIT|RETURNING|HAVING|UNION|THEN|LOOP|DO NOTHING|(?:LEFT |CROSS )?JOIN)\b|;|\$function\$"


def _conditions(text: str) -> Iterator[Change]:
    """Of statements, each of their terms; of branches, those that refuse, return or leave a loop, which are never taken."""
    for match in re.finditer(CONDITION, text):
        terms = _terms(text, match.end(), _end_of_condition(text, match.end()))
        begin, end = terms[0][0], terms[-1][1]
        if match[1] not in ("WHERE", "HAVING", "ON"):
            if re.compile(GUARDS).match(text, end):
                yield "never", begin, end, "false"
        elif len(terms) == 1:
            yield "always", begin, end, "true"
        else:
            yield "without", begin, terms[1][0], ""
            yield from (("without", before[1], term[1], "") for before, term in itertools.pairwise(terms))


def _end_of_condition(text: str, begin: int) -> int:
    depth = 0
    for match in re.compile(rf"\(|\)|{END}").finditer(text, begin):
        if match[0] == "(":
            depth += 1
        elif match[0] == ")" and depth:
            depth -= 1
        elif depth == 0:
            return match.start()
    raise AssertionError(text[begin:])


def _terms(text: str, begin: int, end: int) -> list[tuple[int, int]]:
    """Its parts between the ANDs; one, if it has an OR outside of parentheses."""
    depth, starts, between = 0, [begin], False
    ends = []
    for match in re.compile(r"\(|\)|\b(?:AND|OR|BETWEEN)\b").finditer(text, begin, end):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if depth:
            continue
        if match[0] == "OR":
            return [_trimmed(text, begin, end)]
        if match[0] == "AND" and not between:
            ends.append(match.start())
            starts.append(match.end())
        between = match[0] == "BETWEEN" or (between and match[0] != "AND")
    return [_trimmed(text, *part) for part in zip(starts, [*ends, end], strict=True)]


def _trimmed(text: str, begin: int, end: int) -> tuple[int, int]:
    part = text[begin:end]
    return begin + len(part) - len(part.lstrip()), begin + len(part.rstrip())


# Locks: none, a weaker or a stronger one, one that waits ------------------------------------------------------

WEAKER = {"UPDATE": "NO KEY UPDATE", "NO KEY UPDATE": "KEY SHARE"}
STRONGER = {"KEY SHARE": "NO KEY UPDATE"}


def _locks(text: str) -> Iterator[Change]:
    for match in re.finditer(r"\bFOR ((?:NO KEY )?UPDATE|(?:KEY )?SHARE)( OF \w+)?( SKIP LOCKED)?", text):
        strength, of, skips = match[1], match[2] or "", match[3] or ""
        yield "no", *match.span(), ""
        if strength in WEAKER:
            yield "weaker", *match.span(), f"FOR {WEAKER[strength]}{of}{skips}"
        if strength in STRONGER:
            yield "stronger", *match.span(), f"FOR {STRONGER[strength]}{of}{skips}"
        if skips:
            yield "one that waits for", *match.span(), f"FOR {strength}{of}"
