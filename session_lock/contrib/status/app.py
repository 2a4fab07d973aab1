"""The status page as an ASGI app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import resources

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from session_lock.asking import why
from session_lock.contrib.status import pages, stream
from session_lock.contrib.status.guard import HEADERS, Authorize, Guard
from session_lock.contrib.status.markup import Markup
from session_lock.contrib.status.source import Given, Source, sentence
from session_lock.contrib.status.stream import Audience, Stream
from session_lock.contrib.status.task import columns_of, of_task
from session_lock.contrib.status.told import LONGEST_KEY, clean, shown
from session_lock.contrib.status.watching import PATIENCE, Reader
from session_lock.errors import SessionLockError, SettingsError
from session_lock.operating import is_session
from session_lock.sqlstate import is_driver_error
from session_lock.table import TaskTable

SENTENCES = {
    "Not Found": "There is no such page here.",
    "Method Not Allowed": "This page shows, and changes nothing: it answers GET alone.",
}
"""For what starlette says."""

SCRIPT = "text/javascript"


def status_app(
    mappings: Mapping[str, TaskTable],
    source: Given,
    *,
    authorize: Authorize | None = None,
    show: Sequence[str] = (),
) -> StatusPage:
    """A page that shows how mappings are doing, live, as an ASGI app: mount it, or let a server run it by itself. It changes nothing.

    `mappings` by the names under which they are shown. `source` is a DSN, a pool of asyncpg, or an async function that returns a new
    connection of asyncpg. Of its own it has 3 connections at most, and none while nobody looks. A role that may execute the mappings'
    functions will do; what it may not see is left out, and said.

    `authorize`, plain or async, is given the `starlette.requests.Request` of every request; only True lets it in. Without one (the
    default) only who asks from the same machine, by a loopback address and through no proxy, is answered; all others get a 403. Behind any
    proxy give one: nginx from 1.29.7 on, set up without headers of its own, cannot be told from a browser on this machine.

    `show` names columns whose values are shown of a task that is asked about; each is one of `columns` of a mapping. By default
    nothing of a row is shown but its key. What taskers have raised is shown to who may read `session_lock.failure`, and may quote rows.

    `SettingsError` for no mappings, what is none, a source that is none of these, or a column that no mapping names.

    ```python
    app = Starlette(routes=[Mount("/tasks", status_app({"mails": mails}, dsn, show=("address",)))])
    ```
    """
    _check(mappings, authorize, show)
    connections = Source(source)
    return StatusPage(
        {name: Reader(name, table, connections) for name, table in mappings.items()},
        connections,
        authorize,
        show,
    )


def _check(mappings: Mapping[str, TaskTable], authorize: object, show: Sequence[str]) -> None:
    if not isinstance(mappings, Mapping) or not mappings:
        raise SettingsError('status_app takes mappings by name, such as {"mails": mails}')
    for name, table in mappings.items():
        if not isinstance(table, TaskTable):
            raise SettingsError(
                f"status_app: {str(name)[:100]!r} is a {type(table).__name__}, not a TaskTable"
            )
        if not isinstance(name, str) or name in {"", ".", ".."} or not name.isprintable():
            raise SettingsError(
                f"status_app: {name!r} can be no part of an address: name the mapping otherwise"
            )
    if authorize is not None and not callable(authorize):
        raise SettingsError(
            f"status_app: authorize is a function that is given the request, not {type(authorize).__name__}"
        )
    if isinstance(show, str):
        raise SettingsError(f'status_app: show is a sequence of names of columns, such as ("{show[:100]}",)')
    named = {column for table in mappings.values() for column in table.columns}
    if unknown := [column for column in show if column not in named]:
        raise SettingsError(
            f"status_app: no mapping has {unknown[0]!r} among its columns, so it cannot be shown"
        )


class StatusPage(Starlette):
    """What `status_app` makes: an ASGI app, which has connections only while somebody looks on.

    ```python
    page = status_app({"mails": mails}, dsn)
    page.dismiss()  # who looks on is sent no more: before a server of yours ends
    ```
    """

    def __init__(
        self,
        readers: Mapping[str, Reader],
        source: Source,
        authorize: Authorize | None,
        show: Sequence[str],
    ) -> None:
        self._readers = readers
        self._source = source
        self._show = show
        self._audience = Audience()
        self._files = {
            file.name: file.read_bytes()
            for file in resources.files("session_lock.contrib.status").joinpath("static").iterdir()
            if file.name.endswith(".js")
        }
        mapping = "/m/{mapping:path}"
        super().__init__(
            routes=[
                Route("/", self._all),
                Route("/events", self._events_of_all),
                Route("/static/{name}", self._static),
                Route(f"{mapping}/events", self._events),
                Route(f"{mapping}/sessions/{{session}}", self._session),
                Route(f"{mapping}/task", self._task),
                Route(f"{mapping}/", self._mapping),
            ],
            middleware=[Middleware(Guard, authorize=authorize)],
            exception_handlers={HTTPException: self._refused},
            lifespan=self._lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Whatever is answered, errors too, has the headers."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await super().__call__(scope, receive, with_headers)

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Where it is not mounted. Mounted, it hears of no end: then nobody looks any more, and the readers end by themselves."""
        try:
            yield
        finally:
            for reader in self._readers.values():
                await reader.close()
            await self._source.rest()

    # Pages -------------------------------------------------------------------------------------------------

    async def _all(self, request: Request) -> Response:
        if len(self._readers) == 1:
            return RedirectResponse(self._place(request).to("m", *self._readers, ""))
        return HTMLResponse(pages.all_mappings(self._place(request)))

    async def _mapping(self, request: Request) -> Response:
        return HTMLResponse(pages.of_mapping(self._place(request, self._reader(request))))

    async def _session(self, request: Request) -> Response:
        reader = self._reader(request)
        text = request.path_params["session"]
        session = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
        if is_session(session) and await self._is_there(reader, session):
            return HTMLResponse(pages.of_session(self._place(request, reader), session))
        raise HTTPException(
            404,
            f"There is no session {shown(text[:100])!r} of {reader.name}, or none any more: those that live are on the mapping's page.",
        )

    async def _is_there(self, reader: Reader, session: int) -> bool:
        """As far as can be told: where the database does not answer, the page itself says so."""
        with reader.watched():
            try:
                look = await asyncio.wait_for(reader.after(0), PATIENCE)
            except TimeoutError:
                return True
        return (
            look.trouble is not None
            or look.seen is None
            or look.seen.sessions is None
            or any(each.session == session for each in look.seen.sessions)
        )

    async def _task(self, request: Request) -> Response:
        reader = self._reader(request)
        place = self._place(request, reader)
        key = request.query_params.get("key", "")
        if not key:
            raise HTTPException(404, "Which task? Give its key, as it stands in the table.")
        if len(key) > LONGEST_KEY:
            raise HTTPException(404, f"A key of more than {LONGEST_KEY:,} characters cannot be asked about.")
        columns = [column for column in self._show if column in reader.table.columns]
        try:
            async with asyncio.timeout(PATIENCE), self._source.connection() as connection:
                found = await why(connection, reader.table, key)
                known = found.state != "unknown"
                shown_columns: Mapping[str, str] = (
                    await columns_of(connection, reader.table, key, columns) if known and columns else {}
                )
        except SettingsError as error:  # it can be no key
            raise HTTPException(404, f"{error}.") from error
        except TimeoutError as error:
            raise HTTPException(503, f"The database did not answer within {PATIENCE:.0f} s.") from error
        except SessionLockError as error:
            raise HTTPException(503, f"{error}.") from error
        except Exception as error:
            if not is_driver_error(error):
                raise
            text = sentence(error, f"why ({reader.name})", reader.table)
            raise HTTPException(503, f"{text[:1].upper()}{text[1:]}.") from error
        finally:
            if not any(each.is_watched for each in self._readers.values()):
                await self._source.rest()
        return HTMLResponse(of_task(place, found, shown_columns), 200 if known else 404)

    # What is live ------------------------------------------------------------------------------------------

    async def _events(self, request: Request) -> Response:
        reader = self._reader(request)
        asked = request.query_params.get("session", "")
        session = int(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 20 else None
        last = stream.Place.of(request.headers.get("last-event-id", ""))
        return Stream(self._audience, [reader], stream.of_mapping(reader, last, session))

    async def _events_of_all(self, _request: Request) -> Response:
        return Stream(self._audience, [*self._readers.values()], stream.of_all(self._readers))

    def dismiss(self) -> None:
        """End what is sent to those who look on. A server that is told to stop waits for it otherwise, for 8 s at most."""
        self._audience.dismiss()

    # What they share ---------------------------------------------------------------------------------------

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._files:
            raise HTTPException(404)
        return Response(self._files[name], media_type=SCRIPT)

    def _reader(self, request: Request) -> Reader:
        name = request.path_params["mapping"]
        if name not in self._readers:
            raise HTTPException(
                404, f"There is no mapping {shown(name)!r} here: there is {', '.join(self._readers)}."
            )
        return self._readers[name]

    def _place(self, request: Request, reader: Reader | None = None) -> pages.Place:
        names = tuple(self._readers)
        root = request.scope.get("root_path", "")
        if reader is None:
            return pages.Place(root, names)
        return pages.Place(root, names, reader.name, ".".join(reader.table.qualified))

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = SENTENCES.get(error.detail, clean(error.detail))
        reader = self._readers.get(request.path_params.get("mapping", ""))
        title = {404: "Not there", 503: "No answer"}.get(error.status_code, "Refused")
        body: Markup = pages.sentence(self._place(request, reader), title, text, with_form=reader is not None)
        return HTMLResponse(body, error.status_code, error.headers)
