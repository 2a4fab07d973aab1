"""The parts of an expression: of a condition those between its ANDs, so that each can be asked on its own; of a list those between its commas."""

from __future__ import annotations

import re
from collections.abc import Iterator

# What is no code to the parser, or nests: quoted text, comments, brackets, CASE .. END; and the words that join.
_TOKEN = re.compile(
    r"""
      (?P<dollar>\$(?:[^\W\d]\w*)?\$)
    | [eE]'(?:[^'\\]|\\.|'')*'
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | --[^\n]*
    | (?P<comment>/\*)
    | (?P<open>[(\[])
    | (?P<close>[)\]])
    | (?P<comma>,)
    | (?P<word>[^\W\d][\w$]*)
    | \d[\w.]*
    """,
    re.VERBOSE | re.DOTALL,
)


_QUERY = {"SELECT", "VALUES", "TABLE"}


def conjuncts(condition: str) -> tuple[str, ...]:
    """Its parts, which are all true if and only if the condition is; where that is not plain to see, the condition as one part.

    `BETWEEN a AND b` stays together, as does what holds an OR outside of parentheses. Those around all of it count for nothing, as Django writes
    them. It errs towards fewer parts.
    """
    text = condition.strip()
    inner = _enclosed(text)
    parts = _split(text) if inner is None else conjuncts(inner)
    return parts if len(parts) > 1 else (text,)


def _split(text: str) -> tuple[str, ...]:
    starts, depth, between = [0], 0, False
    ends: list[int] = []
    for kind, begin, end in _tokens(text):
        word = text[begin:end].upper() if kind == "word" else ""
        if kind == "open" or word == "CASE":
            depth += 1
        elif kind == "close" or word == "END":
            depth -= 1
        elif depth < 0 or kind == "open end":
            return (text,)
        elif depth:
            continue
        elif word == "OR":
            return (text,)
        elif word == "BETWEEN":
            between = True
        elif word == "AND" and between:
            between = False
        elif word == "AND":
            ends.append(begin)
            starts.append(end)
    parts = tuple(text[begin:end].strip() for begin, end in zip(starts, [*ends, len(text)], strict=True))
    return parts if depth == 0 and all(parts) else (text,)


def _enclosed(text: str) -> str | None:
    """What is in parentheses that are around all of it; None if there are none, or they are those of a subquery or a row."""
    depth = 0
    for kind, begin, end in _tokens(text):
        depth += (kind == "open") - (kind == "close")
        of_no_condition = kind == "comma" or text[begin:end].upper() in _QUERY
        if depth < 1 or (depth == 1 and of_no_condition):
            return text[1:begin] if kind == "close" and end == len(text) and text[0] == "(" else None
    return None


def items(text: str) -> tuple[str, ...]:
    """What a list consists of, such as the assignments of a SET, by the commas outside of brackets."""
    parts: list[str] = []
    begun, depth = 0, 0
    for kind, begin, end in _tokens(text):
        depth += (kind == "open") - (kind == "close")
        if kind == "comma" and depth == 0:
            parts.append(text[begun:begin].strip())
            begun = end
    return (*parts, text[begun:].strip())


def _tokens(text: str) -> Iterator[tuple[str, int, int]]:
    """Kind, begin and end of each that matters; `open end` is a quote or comment that is not closed."""
    at = 0
    while match := _TOKEN.search(text, at):
        at = match.end()
        if match["dollar"]:
            at = text.find(match["dollar"], at) + len(match["dollar"])
            if at < match.end():
                yield "open end", match.start(), match.end()
                return
        elif match["comment"]:
            at = _end_of_comment(text, at)
            if not at:
                yield "open end", match.start(), match.end()
                return
        elif match.lastgroup:
            yield match.lastgroup, match.start(), match.end()


def _end_of_comment(text: str, at: int) -> int:
    """Behind the end of the comment that has begun before here, and of those in it; 0 if it has none."""
    depth = 1
    for match in re.compile(r"/\*|\*/").finditer(text, at):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return match.end()
    return 0
