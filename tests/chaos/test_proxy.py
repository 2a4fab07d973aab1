"""The faults of the network are what they are called: seen from a client's side and from the server's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.proxy import Proxy, proxy

HANGS = 0.2
"""Seconds after which what has no answer will have none."""


@pytest.fixture
async def network(database: Any) -> AsyncIterator[Proxy]:
    async with proxy(database.admin_dsn) as it:
        yield it


@pytest.fixture
async def client(network: Proxy) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(network.dsn)
    await connection.execute("CREATE TABLE public.note (text text)")
    yield connection
    connection.terminate()


@pytest.fixture
async def beside(database: Any) -> AsyncIterator[asyncpg.Connection]:
    """No proxy between."""
    connection = await asyncpg.connect(database.admin_dsn)
    yield connection
    connection.terminate()


INSERT = "INSERT INTO public.note VALUES ('it came through')"


async def notes(beside: asyncpg.Connection, count: int) -> None:
    async with asyncio.timeout(10):
        while await beside.fetchval("SELECT count(*) FROM public.note") != count:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("reset", [False, True])
async def test_cut(network: Proxy, reset: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
    async with asyncio.timeout(10):
        while not network.links:
            await asyncio.sleep(0)
        network.cut(reset=reset)
        if reset:
            with pytest.raises(ConnectionResetError):
                await reader.read()
        else:
            assert await reader.read() == b""
        writer.close()
        while network.links:
            await asyncio.sleep(0)


@pytest.mark.parametrize(("way", "arrives"), [("up", 0), ("down", 1)])
async def test_one_way(
    network: Proxy, client: asyncpg.Connection, beside: asyncpg.Connection, way: Any, arrives: int
) -> None:
    (link,) = network.links
    link.hold(way)
    inserting = asyncio.create_task(client.execute(INSERT))
    await asyncio.wait({inserting}, timeout=HANGS)
    assert not inserting.done()
    await notes(beside, arrives)
    link.let_through()
    await inserting
    await notes(beside, 1)


async def test_a_black_hole_and_a_partition(network: Proxy, client: asyncpg.Connection) -> None:
    network.swallow()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(client.fetchval("SELECT 1")), HANGS)
    other = await asyncpg.connect(network.dsn)
    network.partition()
    for question in (other.fetchval("SELECT 1"), asyncpg.connect(network.dsn)):
        waiting = asyncio.ensure_future(question)
        await asyncio.wait({waiting}, timeout=HANGS)
        assert not waiting.done()
        network.heal()
        answer = await waiting
        network.partition()
    answer.terminate()
    other.terminate()


async def test_delay(network: Proxy, client: asyncpg.Connection) -> None:
    network.links[0].delay = 0.1
    begin = asyncio.get_running_loop().time()
    await client.execute("SELECT 1")
    assert 0.2 <= asyncio.get_running_loop().time() - begin < 5


@pytest.mark.parametrize("statement", ["COMMIT", "insert into"])
async def test_a_reply_is_lost(
    network: Proxy, client: asyncpg.Connection, beside: asyncpg.Connection, statement: str
) -> None:
    """Of a simple query and of a prepared one: the server has done what the client does not know of."""
    lost = network.lose_reply(statement)
    prepared = await client.prepare("insert into public.note VALUES ($1)")
    assert not lost.done(), "it is prepared, and not executed"
    await client.execute("BEGIN")
    if statement == "COMMIT":
        await client.execute(INSERT)
    with pytest.raises((asyncpg.ConnectionDoesNotExistError, ConnectionResetError)):
        await (client.execute("COMMIT") if statement == "COMMIT" else prepared.fetch("it came through"))
    assert lost.done()
    await notes(beside, 1 if statement == "COMMIT" else 0)


async def test_a_reply_is_lost_in_silence(network: Proxy, client: asyncpg.Connection) -> None:
    network.lose_reply("SELECT 2", cut_after=None)
    assert await client.fetchval("SELECT 1") == 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.fetchval("SELECT 2"), HANGS)


async def test_lead_elsewhere(network: Proxy, client: asyncpg.Connection, elsewhere: Any) -> None:
    async with proxy(elsewhere.admin_dsn) as other:
        network.lead_to(other.dsn)
        again = await asyncpg.connect(network.dsn)
        assert other.accepted == 1
        again.terminate()
