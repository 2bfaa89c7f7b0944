"""The dashboard's process: its certificate, its server, and how it starts and ends.

It runs as a user of its own, opens no file of the appliance's but the configuration, and knows control's socket alone.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import uvicorn
import uvloop
from uvicorn.protocols.http.h11_impl import H11Protocol

from appliance.log import Level, Log
from appliance.settings import Settings
from appliance.tls.contexts import client_identity
from ui.web.application import build_application
from ui.web.control import AskingError, Control
from ui.web.metrics import serve_metrics

log = Log("dashboard")

CONNECTIONS_MAX: Final = 512
# A person's browser keeps six connections open; what is idle for longer is opened anew without anybody noticing.
KEEP_ALIVE_SECONDS: Final = 30
HEAD_BYTES_MAX: Final = 16 << 10
# From connecting (or the end of TLS) to the whole head of the first request.
HEAD_SECONDS_MAX: Final = 10.0
END_SECONDS_MAX: Final = 2
# Leaves of our own authority last a week and are minted anew when three days are left.
RENEW_SECONDS: Final = 6 * 3600.0
# While control is away there is no certificate to show; it is back within a second.
AGAIN_SECONDS: Final = 0.25


def run_dashboard(settings: Settings, listening: int, metrics: int | None, ready: Callable[[], None]) -> int:
    """Serve pages, and metrics where there is a descriptor for them, at the listening sockets with these descriptors until
    SIGTERM or SIGINT; the exit code."""
    log.take_over()
    scraped = None if metrics is None else socket.socket(fileno=metrics)
    uvloop.run(_serve(settings, socket.socket(fileno=listening), scraped, ready))
    return 0


async def _serve(
    settings: Settings, listening: socket.socket, scraped: socket.socket | None, ready: Callable[[], None]
) -> None:
    listening.setblocking(False)
    control = Control(f"{settings.run}/control-people.sock")
    application, live = build_application(control, settings.dashboard, log)
    config = uvicorn.Config(
        application,
        http=_Patient,
        ws="none",
        loop="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        # Only a proxy on this machine can reach a plain listener, so it may say for whom it asks.
        proxy_headers=settings.dashboard.is_plain,
        forwarded_allow_ips="127.0.0.1,::1",
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=END_SECONDS_MAX,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
    )
    config.load()
    if not settings.dashboard.is_plain:
        config.ssl = await _certificate(control)
    server = _Server(config, ready)
    metrics = await _open_metrics(scraped, control)
    duties = [asyncio.create_task(live.follow()), asyncio.create_task(_renew(control, config))]
    try:
        await server.serve(sockets=[listening])
    finally:
        if metrics is not None:
            metrics.close()
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)
        control.close()


class _Server(uvicorn.Server):
    """One that says when it serves, and ends at the first signal."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._end)
        log("serving", address=_told(sockets))
        self._ready()

    def _end(self) -> None:
        self.should_exit = True


class _Patient(H11Protocol):
    """The server's side of a connection, which does not wait for ever for a request's head."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = asyncio.get_running_loop().call_later(HEAD_SECONDS_MAX, self._give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
        elif self._head_timer is None:
            # The beginning of a next request, not whole yet.
            self._head_timer = asyncio.get_running_loop().call_later(HEAD_SECONDS_MAX, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


async def _open_metrics(scraped: socket.socket | None, control: Control) -> asyncio.Server | None:
    """Metrics at an address of their own."""

    async def read() -> str:
        return str((await control.ask("", "metrics.show"))["text"])

    return None if scraped is None else await serve_metrics(scraped, read, (AskingError,))


async def _certificate(control: Control) -> ssl.SSLContext:
    """What we show. Waits for control, which has it."""
    is_told = False
    while True:
        try:
            leaf: dict[str, Any] = await control.ask("", "dashboard.leaf")
            return client_identity(leaf["chain"].encode(), leaf["key"].encode(), ("http/1.1",)).context
        except AskingError as error:
            if not is_told:
                is_told = True
                log("no certificate yet", level=Level.WARNING, reason=error)
        await asyncio.sleep(AGAIN_SECONDS)


async def _renew(control: Control, config: uvicorn.Config) -> None:
    """Show new connections the certificate that control has by then: in place, as the server keeps its context."""
    while config.ssl is not None:
        await asyncio.sleep(RENEW_SECONDS)
        with suppress(AskingError):
            leaf: dict[str, Any] = await control.ask("", "dashboard.leaf")
            show_anew(config.ssl, leaf)


def show_anew(context: ssl.SSLContext, leaf: dict[str, Any]) -> None:
    """Let connections made with `context` from now on show that certificate (a leaf as control gives it)."""
    renewed = client_identity(leaf["chain"].encode(), leaf["key"].encode(), ("http/1.1",)).context

    def show(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = renewed

    # Called whether or not the browser names a server.
    context.sni_callback = show


def _told(sockets: list[socket.socket] | None) -> str:
    return ", ".join("{} port {}".format(*one.getsockname()[:2]) for one in sockets or ())
