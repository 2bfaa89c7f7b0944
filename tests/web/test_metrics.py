"""The scrapers' endpoint over a real socket: what it answers, and what it lets nobody do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from appliance.parties import Endpoint
from ui.web import metrics
from ui.web.metrics import serve_metrics

SECONDS = 10.0
Ask = Callable[[bytes], Awaitable[bytes]]


class Away(Exception):
    """Control does not answer."""


class Source:
    """Where the page comes from: how often it was read, and whether there is one."""

    def __init__(self) -> None:
        self.reads = 0
        self.is_away = False

    async def read(self) -> str:
        self.reads += 1
        if self.is_away:
            raise Away
        return f"sluicegate_flows {self.reads}\n"


def served(scene: Callable[[Source, Endpoint], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        source = Source()
        server = await serve_metrics(socket.create_server(("127.0.0.1", 0)), source.read, (Away,))
        host, port = server.sockets[0].getsockname()
        try:
            await asyncio.wait_for(scene(source, Endpoint(host, port)), 60)
        finally:
            server.close()

    asyncio.run(whole())


async def ask(where: Endpoint, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(where.address, where.port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), SECONDS)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_metrics_are_got_once_a_connection() -> None:
    async def scene(_: Source, where: Endpoint) -> None:
        said = await ask(where, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
        assert body == b"sluicegate_flows 1\n"

    served(scene)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /metrics?name[]=x HTTP/1.0", b"200"),
        (b"GET / HTTP/1.1", b"404"),
        (b"GET /metrics/../etc/passwd HTTP/1.1", b"404"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"GET /metrics", b"400"),
        (b"\x16\x03\x01\x02\x00", b"400"),
    ],
)
def test_there_is_nothing_else(line: bytes, status: bytes) -> None:
    async def scene(_: Source, where: Endpoint) -> None:
        assert (await ask(where, line + b"\r\n\r\n")).split()[1] == status

    served(scene)


def test_control_is_asked_once_however_many_scrape() -> None:
    async def scene(source: Source, where: Endpoint) -> None:
        said = await asyncio.gather(*[ask(where, b"GET /metrics HTTP/1.1\r\n\r\n") for _ in range(10)])
        assert all(one.endswith(b"sluicegate_flows 1\n") for one in said)
        assert source.reads == 1

    served(scene)


def test_without_control_there_is_no_page_and_not_an_old_one() -> None:
    async def scene(source: Source, where: Endpoint) -> None:
        source.is_away = True
        assert (await ask(where, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 503")
        source.is_away = False
        assert (await ask(where, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")

    served(scene)


def test_who_says_too_much_or_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SECONDS_MAX", 0.2)

    async def scene(source: Source, where: Endpoint) -> None:
        assert await ask(where, b"GET /metrics HTTP/1.1\r\nX: " + b"a" * (metrics.HEAD_BYTES_MAX * 4)) == b""
        assert await ask(where, b"GET /metrics HT") == b""
        assert source.reads == 0

    served(scene)


def test_connections_that_say_nothing_do_not_pile_up() -> None:
    async def scene(_: Source, where: Endpoint) -> None:
        silent = [await asyncio.open_connection(where.address, where.port) for _ in range(metrics.CONNECTIONS_MAX)]
        await silent[0][1].drain()
        assert await ask(where, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
        for _, writer in silent:
            writer.close()

    served(scene)
