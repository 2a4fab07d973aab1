"""The pages as HTML. What is live in them is filled in by `static/status.js`; all that stands around it is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from session_lock.contrib.status.markup import Markup, document, element, raw, together
from session_lock.contrib.status.style import STYLE

NOTHING = "\N{EN DASH}"
"""What stands where nothing is known."""

Column = tuple[str, str]
"""Heading, and classes: `number`, `brief` for what is not to be broken, or `wide` for what a narrow screen does without."""

SESSIONS: Sequence[Column] = (
    ("Session", ""), ("Label", "brief"), ("State", ""), ("Running, held, target", "number"), ("Keepalive", "number wide"),
    ("Lease", "number wide"), ("Version", "brief wide"), ("Why it got no more", "wide"),
)  # fmt: skip
FAILURES: Sequence[Column] = (
    ("When", "brief"), ("Task", "brief"), ("Attempt", "number wide"), ("Session", "number wide"), ("Error", "prose"),
)  # fmt: skip
HOLDERS: Sequence[Column] = (
    ("What", "brief"),
    ("Who", "prose"),
    ("For", "number"),
    ("Transactions since", "number wide"),
)

PLOTS = {
    "rate": "Tasks a second",
    "waiting": "Waiting tasks",
    "oldest": "Oldest waits for",
    "running": "Held and running",
}
TILES = {
    "waiting": "Waiting",
    "rate": "Tasks a second",
    "running": "Running",
    "sessions": "Sessions",
    "connections": "Connections",
    "rows": "Dead rows",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page stands: below which path, and beside which mappings."""

    root: str
    """The prefix that the app is mounted at, "" if at none."""

    mappings: Sequence[str]
    mapping: str | None = None
    """The one that the page is about."""

    table: str = ""

    def to(self, *parts: str, **query: str) -> str:
        """The address of a page of this app. A browser asks for `/`, where the last part is empty."""
        path = "/".join(quote(part, safe="") for part in parts)
        return f"{quote(self.root)}/{path}" + (f"?{urlencode(query)}" if query else "")

    def to_mapping(self, *parts: str, **query: str) -> str:
        assert self.mapping is not None
        return self.to("m", self.mapping, *(parts or ("",)), **query)


# What there is -----------------------------------------------------------------------------------------


def all_mappings(place: Place) -> Markup:
    cards = [
        element(
            "li",
            element("h2", element("a", name, href=place.to("m", name, ""))),
            element("p", "reading ..", class_="summary"),
            attributes={"data-mapping": name},
        )
        for name in place.mappings
    ]
    main = together(
        element("h1", "Mappings"), _notice(), element("ul", *cards, class_="cards", id="mappings")
    )
    return page(place, "Mappings", main, kind="all", events=place.to("events"))


def of_mapping(place: Place) -> Markup:
    assert place.mapping is not None
    main = together(
        element("div", _title(place), ask(place), class_="head"),
        _notice(),
        element(
            "section", element("h2", "Now", class_="unseen", id="now"), _tiles(TILES), aria_labelledby="now"
        ),
        _plots(PLOTS),
        _listed("sessions", "Sessions", SESSIONS, "No session is live: no Runner of this mapping runs."),
        _listed("failures", "Newest failures", FAILURES, "No attempt has failed."),
        _listed("holders", "What holds vacuum", HOLDERS, "Nothing: dead rows can go."),
        _left_out(),
    )
    return page(place, place.mapping, main, kind="mapping", events=place.to_mapping("events"))


def of_session(place: Place, session: int) -> Markup:
    facts = (
        "Label", "State", "Running", "Held", "Target", "Capacity", "Last keepalive", "Lease runs for", "Version", "Why it got no more",
    )  # fmt: skip
    rows = [
        element("div", element("dt", name), element("dd", NOTHING, attributes={"data-fact": name}))
        for name in facts
    ]
    main = together(
        element("div", beside(place, f"Session {session}"), ask(place), class_="head"),
        _notice(),
        element("section", element("dl", *rows, class_="facts", id="facts"), aria_label="Facts"),
        _plots({"running": PLOTS["running"]}),
        _listed(
            "failures",
            "Its newest failures",
            FAILURES,
            "None of the newest failures of the mapping is its own.",
        ),
        _left_out(),
    )
    return page(
        place, f"Session {session}", main, kind="session",
        events=place.to_mapping("events", session=str(session)), session=str(session),
    )  # fmt: skip


def sentence(place: Place, title: str, text: str, *, with_form: bool = False) -> Markup:
    """A page that says one thing, such as that there is none."""
    main = together(
        element("div", element("h1", title), ask(place) if with_form else None, class_="head"),
        element("p", text, class_="answer"),
    )
    return page(place, title, main)


# What they consist of -----------------------------------------------------------------------------------


def page(place: Place, title: str, main: Markup, *, kind: str = "", events: str = "", session: str = "") -> Markup:  # fmt: skip
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · session-lock"),
        element("link", rel="icon", href=ICON),
        raw("style", STYLE),
        *([element("link", rel="modulepreload", href=place.to("static", name)) for name in MODULES] if events else ()),
        element("script", type="module", src=place.to("static", "status.js")) if events else None,
    )  # fmt: skip
    names = [
        element(
            "li",
            element(
                "a", name, href=place.to("m", name, ""), aria_current="page" if name == place.mapping else None,
            ),
        )
        for name in place.mappings
    ]  # fmt: skip
    body = element(
        "body",
        element("a", "Skip to the content", href="#main", class_="skip"),
        element(
            "header",
            element("a", "session-lock", href=place.to(""), class_="brand"),
            element("nav", element("ul", *names), aria_label="Mappings"),
            element("p", "connecting", id="pulse", class_="pulse") if events else None,
        ),
        element(
            "main",
            element("noscript", element("p", "This page is live: it needs JavaScript, which is switched off.")) if events else None,
            main,
            id="main", tabindex="-1",
        ),
        attributes={
            "data-kind": kind, "data-events": events, "data-session": session,
            "data-base": place.to_mapping() if place.mapping is not None else "",
        },
    )  # fmt: skip
    return document(head, body)


MODULES = ("status.js", "stream.js", "plot.js", "words.js", "table.js")

ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='4' "
    "fill='%232563eb'/%3E%3Cpath d='M3 11l3-4 3 2 4-5' fill='none' stroke='%23fff' stroke-width='2' stroke-linecap='round' "
    "stroke-linejoin='round'/%3E%3C/svg%3E"
)


def _title(place: Place) -> Markup:
    return element(
        "div",
        element("h1", place.mapping),
        element("p", place.table, class_="soft"),
        element("p", "", id="state", class_="badge"),
        class_="title",
    )


def beside(place: Place, title: str) -> Markup:
    """The title of a page that is about a part of a mapping."""
    of = element("p", "of ", element("a", place.mapping, href=place.to_mapping()), class_="soft")
    return element("div", element("h1", title), of, class_="title")


def _notice() -> Markup:
    """Read out when it changes, which is seldom: numbers change every second and are not."""
    return element("p", "", id="notice", class_="notice", role="status", aria_live="polite")


def ask(place: Place, key: str = "") -> Markup:
    """The form that asks why a task waits."""
    return element(
        "form",
        element("label", "Why does a task wait?", for_="key"),
        element("input", id="key", name="key", value=key, placeholder="its key", required=True, autocomplete="off", spellcheck="false"),
        element("button", "Ask", type="submit"),
        action=place.to_mapping("task"), method="get", class_="ask",
    )  # fmt: skip


def _tiles(names: dict[str, str]) -> Markup:
    tiles = [
        element(
            "div",
            element("dt", title),
            element("dd", NOTHING, class_="value"),
            element("dd", "", class_="soft"),
            attributes={"data-tile": name},
        )
        for name, title in names.items()
    ]
    return element("dl", *tiles, class_="tiles")


def _plots(names: dict[str, str]) -> Markup:
    figures = [
        element(
            "figure",
            element(
                "figcaption", element("span", title), element("span", "", class_="legend"), id=f"plot-{name}"
            ),
            element("div", class_="canvas"),
            attributes={"data-plot": name},
        )
        for name, title in names.items()
    ]
    return element(
        "section", element("h2", "The last ten minutes", id="past"), element("div", *figures, class_="plots"),
        aria_labelledby="past",
    )  # fmt: skip


def _listed(name: str, title: str, columns: Sequence[Column], nothing: str) -> Markup:
    return element(
        "section",
        element("h2", title, id=f"{name}-title"),
        table(columns, (), labelled_by=f"{name}-title", id_=name),
        element("p", nothing, class_="nothing soft", hidden=True),
        element("p", "", class_="more soft"),
        aria_labelledby=f"{name}-title",
    )


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, labelled_by: str, id_: str | None = None) -> Markup:  # fmt: skip
    """A table in a frame of its own, which scrolls where it is too wide, by keys too."""
    head = [element("th", heading, scope="col", class_=classes or None) for heading, classes in columns]
    body = [
        element("tr", *[element("td", cell, class_=classes or None) for cell, (_, classes) in zip(row, columns, strict=True)])
        for row in rows
    ]  # fmt: skip
    return element(
        "div",
        element("table", element("thead", element("tr", *head)), element("tbody", *body), id=id_, aria_labelledby=labelled_by),
        class_="scroll", tabindex="0", role="region", aria_labelledby=labelled_by,
    )  # fmt: skip


def _left_out() -> Markup:
    return element(
        "section",
        element("h2", "Left out", id="left-out-title"),
        element("ul", id="left-out"),
        aria_labelledby="left-out-title",
        hidden=True,
    )
