"""`session-lock top`: by its keys, on a server with Runners; as it looks; and in a real terminal."""

# ruff: noqa: F811 (fixtures of another file)

from __future__ import annotations

import asyncio
import difflib
import math
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from session_lock import PostgresDatabase
from session_lock.cli.top import palette, picture
from session_lock.cli.top.app import Top, rest_after
from session_lock.cli.top.source import Source
from session_lock.database import Handback
from session_lock.errors import SettingsError
from session_lock.facts import Why
from session_lock.overview import (
    Backlog,
    Connections,
    Failure,
    Holder,
    LiveSession,
    Overview,
    TableState,
    Throughput,
)
from tests.cli.terminal import Terminal
from tests.cli.test_cli import admin, cli  # noqa: F401 (fixtures)
from tests.cli.test_operating import Service
from tests.proxy import proxy
from tests.support import EMAILS, add_emails

SCREENS = Path(__file__).parent / "screens"


def text_of(app: Top) -> str:
    """What is on the screen."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


class Watched:
    """`top`, with hands on its keys and eyes on its screen."""

    def __init__(self, app: Top, pilot: Pilot[None]) -> None:
        self.app = app
        self._pilot = pilot

    async def press(self, *keys: str) -> None:
        await self._pilot.press(*keys)

    async def until(self, shown: str) -> str:
        """The screen, as soon as it has this."""
        try:
            async with asyncio.timeout(20):
                while not re.search(shown, text := text_of(self.app), re.DOTALL):
                    await self._pilot.pause(0.1)
        except TimeoutError:
            pytest.fail(f"{shown!r} is never shown:\n{text_of(self.app)}")
        return text

    async def resize(self, columns: int, lines: int) -> None:
        await self._pilot.resize_terminal(columns, lines)

    async def still(self) -> str:
        """The screen, when nothing moves any more."""
        before, text = "", await self.until("q quit")
        while text != before:
            await self._pilot.pause(0.2)
            before, text = text, text_of(self.app)
        return text


@asynccontextmanager
async def top(
    source: Any, *, size: tuple[int, int] = (120, 34), every: float = 0.2, seen: Sequence[Overview] = ()
) -> AsyncIterator[Watched]:
    app = Top(source, interrupt=lambda top: top.exit(return_code=130), every=every)
    for look in seen:
        app.throughput.see(look)
    async with app.run_test(size=size) as pilot:
        yield Watched(app, pilot)


@pytest.fixture
async def source(database, admin, cli) -> AsyncIterator[Source]:
    assert await cli("install", "MAPPING", "--yes", "--grant-to", "app") == 0, cli.err
    async with Source(database.admin_dsn, EMAILS) as source:
        yield source


@pytest.fixture
async def emails(database, source) -> AsyncIterator[PostgresDatabase[Any]]:
    async with PostgresDatabase(database.app_dsn, EMAILS) as emails:
        yield emails


async def fail_one(emails: PostgresDatabase[Any], error: str = "ConnectionError: no route") -> int:
    """A task that is parked, and its failure."""
    lease = await emails.start_session(capacity=1, ttl=30, label="web-1:212")
    work = await emails.get_work(lease, limit=1)
    await emails.release_tasks(lease, [Handback(work.tasks[0].claim, after=math.inf, error=error)])
    await emails.end_session(lease)
    return work.tasks[0].claim.key


# What two Runners do, and are asked to do --------------------------------------------------------------


async def test_sessions_are_seen_paused_resumed_and_drained_after_a_question(database, admin, source):
    service = Service(listen=True)
    async with service.running(database.app_dsn), top(source) as watched:
        await watched.until("2 sessions live.*Nothing has failed")
        await add_emails(admin, 30)
        first, second = sorted(runner.health().session for runner in service.runners)
        text = await watched.until(rf"{first} .* live +2 +2 .*{second} .* live +2 +2 ")
        assert re.search(r"backlog +26 due and free, the oldest for \d+ second", text)
        assert re.search(r"server +\d+ of \d+ connections, \d+ ours", text)

        await watched.press("p")
        await watched.until("Pause email[?] No session begins a task until")
        await watched.press("n")
        await watched.press("p", "y")
        text = await watched.until("paused for .*It is paused.*p resume")
        assert await admin.fetchval("SELECT count(*) FROM session_lock.pause") == 1
        assert f"{first}: the mapping is paused" in text
        await watched.press("p")
        await watched.until("Resume email[?]")
        await watched.press("y")
        await watched.until("2 sessions live.*It is resumed.*p pause")

        await watched.press("down", "d")
        await watched.until(rf"Drain session {second} \(")
        await watched.press("escape", "d", "y")
        await watched.until(rf"Session {second} is asked to drain")
        await watched.until(rf"{second} .* draining ")
        assert [each.state for each in watched.app.seen.sessions] == ["live", "draining"]
        service.let.set()
        await watched.until("1 session live")


async def test_what_is_done_each_second_is_drawn_as_a_line(database, admin, source):
    async with PostgresDatabase(database.app_dsn, EMAILS) as emails, top(source) as watched:
        await watched.until("not known yet: it takes two looks|tasks/s +0")
        await add_emails(admin, 200)
        lease = await emails.start_session(capacity=50, ttl=30)
        async with asyncio.timeout(20):
            while not watched.app.throughput.now:
                work = await emails.get_work(lease, limit=5)
                await emails.finish_tasks(lease, [task.claim for task in work.tasks])
                await asyncio.sleep(0.05)
        await watched.until(r"tasks/s +[\d.,]+ +[▁▂▃▄▅▆▇█ ]*[▂▃▄▅▆▇█]+  peak ")


async def test_a_failed_task_is_retried_or_discarded_after_a_question(admin, emails, source):
    await add_emails(admin, 2)
    first, second = await fail_one(emails), await fail_one(emails, "ValueError: \x1b[31m[bold]odd[/]")
    async with top(source) as watched:
        text = await watched.until(
            rf"▸ {second} +1 .*ValueError:  \[31m\[bold\]odd\[/\].*{first} +1 .*ConnectionError: no route"
        )
        assert "No session is there: no Runner of this mapping runs." in text
        await watched.press("r")
        await watched.until(rf"Retry task {second}[?]")
        await watched.press("y")
        await watched.until(rf"Task {second} will be tried again, with all its attempts")
        assert await admin.fetchval(
            "SELECT available_at < 'infinity' FROM public.email WHERE id = $1", second
        )
        await watched.press("r", "y")
        await watched.until(rf"Task {second} is not parked")

        await watched.press("down", "x")
        await watched.until(rf"Discard task {first}[?]")
        await watched.press("n")
        assert await admin.fetchval("SELECT failed_at IS NULL FROM public.email WHERE id = $1", first)
        await watched.press("x", "y")
        await watched.until("The task is discarded.")
        assert await admin.fetchval("SELECT failed_at IS NOT NULL FROM public.email WHERE id = $1", first)


async def test_a_task_is_looked_at(admin, emails, source):
    (key, other) = await add_emails(admin, 2)
    await fail_one(emails)
    async with top(source) as watched:
        await watched.until(f"▸ {key} ")
        await watched.press("enter")
        text = await watched.until(rf"Task {key}.*It is parked")
        assert re.search(
            r"pending +sent_at IS NULL: true.*failure +attempt 1, .* ago: ConnectionError: no route",
            text,
            re.DOTALL,
        )
        await watched.press("escape", "w", *str(other), "enter")
        await watched.until(rf"Task {other}.*No session is live")
        await watched.press("q", "w", *"x1", "enter")
        await watched.until("'x1' can be no key of public.email")
        await watched.press("w", "escape", "l")
        await watched.until("Nothing is left out")


async def test_without_sessions_and_failures_the_keys_say_so(source):
    async with top(source) as watched:
        await watched.until("No session is there")
        for key, said in (
            ("d", "no session to drain"),
            ("r", "no failed task to retry"),
            ("x", "no failed task to discard"),
        ):
            await watched.press(key)
            await watched.until(f"There is {said}")


async def test_a_role_that_may_less_is_shown_the_rest_and_told_what_it_takes(database, admin, emails, source):
    await add_emails(admin, 3)
    lease = await emails.start_session(capacity=2, ttl=30, label="web-1:212")
    async with Source(database.app_dsn, EMAILS) as theirs, top(theirs) as watched:
        text = await watched.until(r"Left out: .*keepalives and leases, failures.*\(l says why\)")
        assert re.search(rf"{lease.id} +web-1:212 .* live .* - +-\n", text)
        assert re.search("backlog +3 due and free", text)
        await watched.press("l")
        await watched.until(
            r'failures left out, permission denied.*GRANT SELECT ON\s+"session_lock".failure TO app'
        )
        await watched.press("escape", "d", "y")
        await watched.until(r"permission denied for function drain_session; grant the role what it needs")
        await admin.execute("REVOKE ALL ON SCHEMA session_lock FROM app")
        text = await watched.until(r"Sessions are left out.*Left out: sessions, ")
        assert "no session is live" not in text
        await watched.press("d")
        await watched.until("Sessions are left out: l says why.")


# The database is away ------------------------------------------------------------------------------------


async def test_the_database_is_away_and_comes_back(database, admin, source):
    await add_emails(admin, 1)
    async with top(source) as watched:
        await watched.until("1 due and free")
        elsewhere = await Source(database.admin_dsn.replace(database.name, "postgres"), EMAILS).__aenter__()
        async with elsewhere:

            async def close(connection: Any, _: Any) -> None:
                await connection.execute(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND application_name = 'session-lock'",
                    database.name,
                )

            async def open_again(connection: Any, _: Any) -> None:
                await connection.execute(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS true")

            await elsewhere.ask(close)
            text = await watched.until(
                r"No look for \d+ seconds?, asked again and again: .* refused the connection"
            )
            assert "1 due and free" in text
            assert watched.app.throughput.now is None, "what is not looked at is not known"
            await watched.press("p", "y")
            await elsewhere.ask(open_again)
        await add_emails(admin, 1)
        text = await watched.until("2 due and free")
        assert "No look for" not in text


async def test_it_is_left_while_the_database_hangs_in_the_middle_of_a_look(database, source):
    async with (
        asyncio.timeout(20),
        proxy(database.admin_dsn) as network,
        Source(network.dsn, EMAILS) as hanging,
        top(hanging) as watched,
    ):
        await watched.until("No session is there")
        await network.lose_reply("pg_stat_database", cut_after=None)
        await watched.press("q")


def test_it_rests_ten_times_as_long_as_a_look_took():
    assert rest_after(0.02, every=1.0) == pytest.approx(0.98)
    assert rest_after(0.5, every=1.0) == 5.0


async def test_a_look_that_takes_long_is_not_taken_each_second():
    clock = asyncio.get_running_loop().time
    begun: list[float] = []
    ended: list[float] = []
    again = asyncio.Event()

    class Slow(Played):
        async def look(self) -> Overview:
            begun.append(clock())
            if ended:
                again.set()
            await asyncio.sleep(0.15)
            ended.append(clock())
            return BUSY

    async with top(Slow(BUSY), every=0.2) as watched:
        await watched.until("3 sessions live")
        await asyncio.wait_for(again.wait(), 20)
    assert begun[1] - ended[0] >= 10 * (ended[0] - begun[0])


async def test_what_is_wrong_from_the_start_is_said_as_by_other_commands(cli, monkeypatch):
    assert await cli("top", "MAPPING") == 2
    assert (
        "top needs a terminal, and this is none: session-lock sessions, why and doctor print what it shows"
        in cli.err
    )
    monkeypatch.setattr("session_lock.cli.top.command.check_terminal", lambda _: None)
    for words, dsn, said in (
        (("top", "MAPPING:x"), None, "does not name a mapping"),
        (
            ("top", "MAPPING"),
            "postgresql://nobody@127.0.0.1:1/none",
            "there is no server at 127.0.0.1:1/none",
        ),
        (("top", "MAPPING"), None, "is not installed|does not exist; run: session-lock install"),
    ):
        assert await cli(*words, dsn=dsn) == 2
        assert re.search(said, cli.err)
    monkeypatch.setitem(__import__("sys").modules, "textual.app", None)
    monkeypatch.delitem(__import__("sys").modules, "session_lock.cli.top.app")
    assert await cli("top", "MAPPING") == 2
    assert "top needs more than is installed" in cli.err
    assert "pip install 'session-lock[top]'" in cli.err


# How it looks --------------------------------------------------------------------------------------------

AT = datetime(2026, 11, 29, 12, 4, 31, tzinfo=UTC)


def session(number: int, label: str, **others: Any) -> LiveSession:
    usual = {
        "app_version": "2.4", "state": "live", "capacity": 1100, "target": 6, "held": 6, "running": 2, "idle": False, "beat_age": 0.4,
        "lease_left": 29.2, "why": "all that is due is held: running tasks do not move",
    }  # fmt: skip
    return LiveSession(session=number, label=label, **{**usual, **others})


BUSY = Overview(
    at=AT, name="mails", table="public.email", paused=False, paused_since=None, left_out=(),
    sessions=[
        session(16, "web-3:90", state="expired", held=40, target=0, beat_age=40, lease_left=-9.9, why="its lease has run out: whoever looks next ends it"),
        session(17, "web-1:212", why="it has its share of the 1204 tasks that are due"),
        session(18, "web-2:7", held=5, running=5, target=5, beat_age=4.1, lease_left=25.6),
        session(19, "batch-eu-west-1:31337", state="draining", app_version="2.3", held=1, running=1, target=0, beat_age=22, lease_left=8.1),
    ],
    backlog=Backlog(tasks=1204, more=False, oldest=187),
    failures=[
        Failure(key="4711", attempt=2, at=AT - timedelta(seconds=5), session=17,
                error="ConnectionError: no route to the mail server at mx.example.org, tried four times over twenty seconds\nfrom OSError"),
        Failure(key="4698", attempt=1, at=AT - timedelta(minutes=6), session=18, error="TimeoutError: 30 s"),
        Failure(key="3102", attempt=5, at=AT - timedelta(hours=5), session=None, error="its session expired"),
    ],
    connections=Connections(used=14, most=97, ours=6),
    state=TableState(at=AT, dead=12_400, live=10_210, size_bytes=14_200_000, last_autovacuum=AT - timedelta(minutes=31), updated=0, deleted=0),
    holders=[Holder(kind="transaction", name="pid 4711 (psql, role ann)", since=723, transactions=1204),
             Holder(kind="slot", name="away", since=None, transactions=30)],
)  # fmt: skip

NIGHT = replace(
    BUSY, sessions=[], backlog=Backlog(tasks=10_000, more=True, oldest=7_300), failures=None, connections=None, state=None, holders=[],
    paused=True, paused_since=AT - timedelta(minutes=3), left_out=("failures left out, permission denied: GRANT", "connections left out, x"),
)  # fmt: skip


class Played:
    """A look that was taken elsewhere."""

    table = EMAILS

    def __init__(self, look: Overview) -> None:
        self._look = look

    async def look(self) -> Overview:
        return self._look

    async def ask(self, work: Any) -> None:
        raise NotImplementedError


def played(look: Overview) -> tuple[Overview, ...]:
    """A minute of it, in which the throughput goes up and down."""
    looks, updated = [], 0
    for second in range(60):
        updated += 2 * round(40 + 30 * math.sin(second / 4))
        at = look.at - timedelta(seconds=59 - second)
        state = look.state and replace(look.state, updated=updated, at=at)
        looks.append(replace(look, at=at, state=state))
    return tuple(looks)


@pytest.mark.parametrize(
    ("name", "look", "size"),
    [("busy-120", BUSY, (120, 28)), ("busy-80", BUSY, (80, 24)), ("busy-40", BUSY, (40, 30)),
     ("night-120", NIGHT, (120, 20)), ("night-40", NIGHT, (40, 20))],
)  # fmt: skip
async def test_the_screen(name: str, look: Overview, size: tuple[int, int]):
    """SESSION_LOCK_DRAW=1 writes it anew, to be looked at."""
    *before, last = played(look)
    async with top(Played(last), size=size, every=3600, seen=before) as watched:
        drawn = await watched.still() + "\n"
    path = SCREENS / f"{name}.txt"
    if os.environ.get("SESSION_LOCK_DRAW"):
        path.write_text(drawn)
    wanted = path.read_text()
    assert drawn == wanted, "\n" + "\n".join(
        difflib.unified_diff(wanted.splitlines(), drawn.splitlines(), lineterm="")
    )
    assert max(map(len, drawn.splitlines())) <= size[0]


def test_a_standby_that_holds_vacuum() -> None:
    name = "pid 4711 (walreceiver, 10.0.0.5, replication slot away)"
    look = replace(BUSY, holders=[Holder(kind="standby", name=name, since=361, transactions=1204)])
    told = picture.facts(look, Throughput(), 160, palette.DARK).plain
    assert f"vacuum   held back by the standby of {name} for 6 minutes or more (1,204 transactions)" in told


class Asked(Played):
    """Tasks whose keys are text."""

    async def ask(self, work: Any) -> Any:
        return await work(None, EMAILS)


async def test_a_key_with_blanks_at_its_ends(monkeypatch: pytest.MonkeyPatch):
    """Also the one that is proposed. Nothing is no key."""
    asked: list[str] = []

    async def why(_: Any, __: Any, key: str) -> Why:
        asked.append(key)
        return Why(key=key, state="unknown", why="there is no row with this key")

    monkeypatch.setattr("session_lock.cli.top.app.why", why)
    failure = replace(BUSY.failures[0], key=" 47 11 ")
    async with top(Asked(replace(BUSY, failures=[failure])), every=3600) as watched:
        await watched.until("▸  47 11 ")
        await watched.press("w", "enter")
        await watched.until("[Tt]here is no row with this key")
        await watched.press("escape", "w", "delete", "space", "enter")
        await watched.until("[Tt]here is no row with this key")
        await watched.press("escape", "w", "delete", "enter")
        await watched.still()
    assert asked == [" 47 11 ", " "]


async def test_what_went_wrong_with_one_key_is_not_said_of_the_next(monkeypatch: pytest.MonkeyPatch):
    async def why(_: Any, __: Any, key: str) -> Why:
        if key == "x":
            raise SettingsError(f"{key!r} can be no key of email")
        return Why(key=key, state="unknown", why="there is no row with this key")

    monkeypatch.setattr("session_lock.cli.top.app.why", why)
    async with top(Asked(replace(BUSY, left_out=["failures left out, no right"])), every=3600) as watched:
        await watched.until("Newest failures")
        for others in (("w", "1", "enter"), ("l",)):
            await watched.press("w", "x", "enter")
            await watched.until("'x' can be no key of email")
            await watched.press(*others)
            await watched.until("escape back")
            await watched.press("escape")
            assert "can be no key" not in await watched.still()


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("name", palette.PALETTES)
def test_each_colour_can_be_read_where_it_stands(name: str):
    colours = palette.PALETTES[name]
    for ground in (colours.ground, colours.bar):
        for field in fields(colours):
            if field.name not in {"ground", "bar"}:
                lighter, darker = sorted(
                    (luminance(ground), luminance(getattr(colours, field.name))), reverse=True
                )
                assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (field.name, ground)


async def test_a_terminal_is_made_narrow_and_wide_again():
    async with top(Played(BUSY), every=3600) as watched:
        await watched.until(r"lease\n.*q quit")
        await watched.resize(40, 30)
        await watched.until(
            r"held  running\n.*Too narrow for label, version, share,\n capacity, keepalive, lease, held by[.]"
        )
        await watched.resize(120, 30)
        assert "Too narrow" not in await watched.until(r"lease\n.*q quit")


async def test_light_terminals_get_light_colours(monkeypatch):
    monkeypatch.setenv("COLORFGBG", "0;15")
    async with top(Played(BUSY)) as watched:
        await watched.until("3 sessions live")
        assert watched.app.colours is palette.LIGHT
        await watched.press("t")
        assert watched.app.colours is palette.DARK
    monkeypatch.setenv("COLORFGBG", "15;0")
    assert palette.first() == "session-lock-dark"


# In a real terminal --------------------------------------------------------------------------------------


@pytest.fixture
def terminal(cli, source) -> Iterator[Callable[..., Terminal]]:
    """Starts it for the test's mapping, and ends what still runs."""
    started: list[Terminal] = []

    def start(**options: Any) -> Terminal:
        started.append(
            Terminal("top", f"{cli.module}:emails", "--dsn", cli.dsn, folder=cli.folder, **options)
        )
        return started[-1]

    yield start
    for each in started:
        each.end()


async def test_keys_are_pressed_in_a_terminal(admin, emails, terminal):
    await add_emails(admin, 3)
    lease = await emails.start_session(capacity=2, ttl=30, label="web-1:212")
    shown = terminal(size=(100, 30))
    row = rf"backlog  3 due and free.*▸ +{lease.id}  web-1:212 .* live .*q quit"
    await asyncio.to_thread(shown.until, lambda text: re.search(row, text, re.DOTALL))
    shown.press("p")
    await asyncio.to_thread(shown.until, lambda text: "Pause email?" in text)
    shown.press("y")
    await asyncio.to_thread(shown.until, lambda text: "paused for" in text and "p resume" in text)
    assert await admin.fetchval("SELECT count(*) FROM session_lock.pause") == 1
    shown.press("q")
    assert await asyncio.to_thread(shown.wait) == 0
    assert b"\x1b[?1049l" in shown.written, "the screen from before is there again"


async def test_40_columns_without_colours_and_ctrl_c(terminal):
    shown = terminal(size=(40, 24), env={"NO_COLOR": "1"})
    text = await asyncio.to_thread(
        shown.until, lambda text: "No session is there" in text and "q quit" in text
    )
    assert all(len(line) <= 40 for line in text.splitlines())
    colours = re.findall(rb"[34]8;2;(\d+);(\d+);(\d+)", shown.written)
    assert colours
    assert all(len({*colour}) == 1 for colour in colours), "shades of grey alone"
    shown.press("\x03")
    assert await asyncio.to_thread(shown.wait) == 130


# --watch of the demo -------------------------------------------------------------------------------------


@pytest.fixture
def demo(database, tmp_path) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*words: str) -> Terminal:
        usual = ("demo", "--watch", "--no-kill", "--no-freeze", "--runners", "2", "--dsn", database.admin_dsn)
        started.append(Terminal(*usual, *words, size=(110, 30), folder=tmp_path))
        return started[-1]

    yield start
    for each in started:
        each.end()


async def test_the_demo_is_watched_and_goes_on_when_top_is_left(demo):
    shown = demo("--tasks", "300", "--seconds", "8")
    live = r"file  session_lock_demo.file  2 sessions live.*tasks/s .* live .* live .*R1 R2 start"
    await asyncio.to_thread(shown.until, lambda text: re.search(live, text, re.DOTALL), 40)
    shown.press("q")
    assert await asyncio.to_thread(shown.wait, 40) == 0
    told = r"s  R1 R2 start.*s  \d+ of 300 finished.*s  all work is done.*300 of 300 files are finished"
    assert re.search(told, shown.text, re.DOTALL)


async def test_ctrl_c_in_the_demo_s_top_ends_the_demo(demo, admin):
    shown = demo("--tasks", "300", "--seconds", "60")
    await asyncio.to_thread(shown.until, lambda text: "2 sessions live" in text, 40)
    shown.press("\x03")
    assert await asyncio.to_thread(shown.wait, 40) == 130
    assert re.search(
        r"s  R1 R2 start.*interrupted: runners, tables and server are gone", shown.text, re.DOTALL
    )
    assert b"\x1b[?1049l" in shown.written, "the screen from before is there again"
    assert await admin.fetchval("SELECT to_regnamespace('session_lock_demo')") is None


async def test_the_demo_is_not_watched_where_nothing_can_be_shown(cli):
    assert await cli("demo", "--watch", "--json") == 2
    assert "--json prints nothing else, and --watch shows a screen: leave one out" in cli.err
    assert await cli("demo", "--watch") == 2
    assert "top needs a terminal, and this is none: leave out --watch" in cli.err
