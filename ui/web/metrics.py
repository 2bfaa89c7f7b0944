"""The endpoint that metrics are scraped from: GET /metrics over plain HTTP, at an address of its own.

Nothing there is secret (see control/metrics.py), so nobody has to sign in. A listener apart from the pages', because a
scraper has neither their certificate's authority nor a session, and what it may reach is this alone.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

CONNECTIONS_MAX: Final = 16
"""A few scrapers; whoever comes beyond is let go at once."""

HEAD_BYTES_MAX: Final = 8 << 10
SECONDS_MAX: Final = 10.0
"""For the request to arrive and the answer to be taken."""

FRESH_SECONDS: Final = 1.0
"""How old an answer may be: however many ask, control is asked this often at most."""


class Scraped:
    """The page as it was last. `read` answers a fresh one; it may raise, and then whoever asked hears that there is none."""

    def __init__(self, read: Callable[[], Awaitable[str]], failures: tuple[type[Exception], ...]) -> None:
        self._read = read
        self._failures = failures
        self._page = b""
        self._until = 0.0
        self._reading = asyncio.Lock()
        self._connections = 0

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, for asyncio.start_server: one request, one answer, the end."""
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS_MAX:
                async with asyncio.timeout(SECONDS_MAX):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(await self._answer(head))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # Gone, too slow or too much: nobody is owed an answer.
            return
        finally:
            self._connections -= 1
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _said("400 Bad Request", b"This is no HTTP request.\n")
        if target.partition(b"?")[0] != b"/metrics":
            return _said("404 Not Found", b"There is /metrics, and nothing else.\n")
        if method != b"GET":
            return _said("405 Method Not Allowed", b"Metrics can be got.\n", "Allow: GET\r\n")
        try:
            return _said("200 OK", await self._fresh(), content_type=CONTENT_TYPE)
        except self._failures:
            return _said("503 Service Unavailable", b"The control process does not answer.\n")

    async def _fresh(self) -> bytes:
        async with self._reading:
            now = asyncio.get_running_loop().time()
            if now >= self._until:
                self._page = (await self._read()).encode()
                self._until = now + FRESH_SECONDS
            return self._page


async def serve_metrics(
    listening: socket.socket, read: Callable[[], Awaitable[str]], failures: tuple[type[Exception], ...]
) -> asyncio.Server:
    """Serve what `read` answers until the server is closed. `failures` are what it raises where there is nothing to show."""
    scraped = Scraped(read, failures)
    return await asyncio.start_server(scraped.meet, sock=listening, limit=HEAD_BYTES_MAX)


def _said(status: str, body: bytes, more: str = "", content_type: str = "text/plain; charset=utf-8") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n{more}\r\n"
    )
    return head.encode() + body
