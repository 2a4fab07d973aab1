"""HTML, in which whatever is no markup of ours is text: escaped, in attributes too."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

VOID = {"input", "link", "meta"}


class Markup(str):
    """Text that is HTML already. Only what is below makes it."""

    __slots__ = ()


def element(
    name: str,
    /,
    *children: str | None,
    attributes: Mapping[str, str] | None = None,
    **more: str | bool | None,
) -> Markup:
    """An element. Children that are no `Markup` are text, and None is nothing.

    Attributes by keyword: `class_` is class, `aria_label` is aria-label; True stands alone, False and None are left out.
    """
    given: dict[str, str | bool | None] = {key.rstrip("_").replace("_", "-"): value for key, value in more.items()}  # fmt: skip
    written = "".join(
        f" {key}" if value is True else f' {key}="{escape(str(value))}"'
        for key, value in {**given, **(attributes or {})}.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Markup(f"<{name}{written}>")
    inside = "".join(text if isinstance(text, Markup) else escape(text) for text in children if text is not None)  # fmt: skip
    return Markup(f"<{name}{written}>{inside}</{name}>")


def raw(name: str, text: str) -> Markup:
    """An element whose text a browser takes as it stands: styles."""
    if "<" in text:
        raise ValueError(f"a {name} with a < in it may end before its end")
    return Markup(f"<{name}>{text}</{name}>")


def together(*parts: Markup | None) -> Markup:
    return Markup("".join(part for part in parts if part is not None))


def document(*children: Markup) -> Markup:
    return Markup(f"<!doctype html>\n{element('html', *children, lang='en')}\n")
