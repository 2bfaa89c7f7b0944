"""What every request must pass (host, origin, size, time) and every answer carries (the headers that confine a page).

Plain ASGI, outside everything else, so that no page can forget it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance.log import Log
from appliance.settings import DashboardSettings
from ui.web.control import UNATTENDED

# A changed command of a million characters, each up to nine bytes when a form sends it.
BODY_BYTES_MAX: Final = 10 << 20
BODY_SECONDS_MAX: Final = 20.0
HEADERS_MAX: Final = 64
SAFE_METHODS: Final = frozenset({"GET", "HEAD"})

# Nothing but our own files; no inline script or style; texts never become markup (Trusted Types with no policy at all).
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "manifest-src 'self'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    # Nothing is told to others. "no-referrer" would also blank the Origin of our own forms, which is what we check.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
)
_NOT_STORED: Final = (b"cache-control", b"no-store")
# Two years, the least that browsers' own lists ask for.
_STRICT_TRANSPORT: Final = (b"strict-transport-security", b"max-age=63072000")


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    words: str
    ends: bool = False


class Doors:
    """An ASGI application in front of `inner`, for a dashboard with these settings."""

    def __init__(self, inner: ASGIApp, settings: DashboardSettings, log: Log) -> None:
        self._inner = inner
        self._hosts = allowed_hosts(settings)
        # A browser keeps this for the name with all its ports, so not for a name such as localhost that others share.
        self._strict_hosts = frozenset() if settings.is_plain else frozenset(settings.names)
        # Behind a proxy it is the proxy's way of serving that pages name.
        self._schemes = frozenset({"https", "http"} if settings.is_plain else {"https"})
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        began = time.monotonic()
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = list(message.get("headers", ()))
                named = {name.lower() for name, _ in given}
                given += [(name, value) for name, value in _HEADERS if name not in named]
                if host_name(_header(scope["headers"], b"host") or "") in self._strict_hosts:
                    given.append(_STRICT_TRANSPORT)
                if b"cache-control" not in named:
                    given.append(_NOT_STORED)
                message = {**message, "headers": given}
            await send(message)

        refusal = self._refuses(scope)
        UNATTENDED.set(_header(scope["headers"], b"x-unattended") is not None)
        try:
            if refusal is not None:
                await _refuse(answer, refusal)
            else:
                await self._inner(scope, _Bounded(receive), answer)
        finally:
            path = scope["path"]
            if status >= 400 or not path.startswith("/static/"):
                spent = round((time.monotonic() - began) * 1000, 1)
                # Never the query: it may hold a ticket or what somebody looks for.
                self._log("answered", method=scope["method"], path=path[:200], status=status, milliseconds=spent)

    def _refuses(self, scope: Scope) -> _Refusal | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if len(headers) > HEADERS_MAX:
            return _Refusal(431, "Too many headers.")
        if len({name for name, _ in headers} & {b"content-length", b"transfer-encoding"}) > 1:
            # A proxy that goes by the other one sees another request end there (RFC 9112, 6.1).
            return _Refusal(400, "Two lengths.", ends=True)
        hosts = [value for name, value in headers if name == b"host"]
        # Another name that leads to our address is a page of somebody else's in the reader's browser (DNS rebinding).
        if len(hosts) != 1 or host_name(hosts[0].decode("latin-1")) not in self._hosts:
            return _Refusal(421, "This is not the host you asked for. `dashboard.names` in the settings lists its names.")
        site = _header(headers, b"sec-fetch-site")
        if scope["method"] in SAFE_METHODS:
            # A page of another site may lead here, and may embed or fetch nothing of ours.
            if site not in (None, "same-origin", "none") and _header(headers, b"sec-fetch-mode") != "navigate":
                return _Refusal(403, "Nothing here is for pages of other sites.")
            return None
        is_own = _is_own(hosts[0].decode("latin-1"), site, _header(headers, b"origin"), self._schemes)
        return None if is_own else _CROSS


_CROSS: Final = _Refusal(403, "This did not come from a page of this dashboard.")


def allowed_hosts(settings: DashboardSettings) -> frozenset[str]:
    """The names a dashboard may be called by: those in the settings, its address, and localhost where that is loopback."""
    assert settings.listen is not None
    address = ip_address(settings.listen.address)
    own = {str(address), *settings.names}
    if address.is_loopback:
        own |= {"localhost", "127.0.0.1", "::1"}
    return frozenset(own)


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets, in small letters; "" where it is none."""
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018 - raises where it is no number
    except ValueError:
        return ""
    if parts.username is not None or parts.path or parts.query or parts.fragment:
        return ""
    return (parts.hostname or "").rstrip(".")


def _is_own(host: str, site: str | None, origin: str | None, schemes: frozenset[str]) -> bool:
    """Whether a request that changes something comes from our own page: every browser of today says so in both headers."""
    if site is not None and site != "same-origin":
        return False
    if origin is None:
        return False
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in schemes and parts.netloc.lower() == host.lower()


def _header(headers: list[tuple[bytes, bytes]], wanted: bytes) -> str | None:
    """The header's value; with two of it, one that matches nothing."""
    found = [value for name, value in headers if name == wanted]
    return None if not found else found[0].decode("latin-1") if len(found) == 1 else ""


async def _refuse(send: Send, refusal: _Refusal) -> None:
    body = refusal.words.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    if refusal.ends:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Bounded:
    """A request's body, read so far and so long and no further."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = BODY_BYTES_MAX
        self._is_whole = False
        self._until: float | None = None

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._receive()
        loop = asyncio.get_running_loop()
        if self._until is None:
            self._until = loop.time() + BODY_SECONDS_MAX
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "The request took too long to arrive.") from None
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            if self._left < 0:
                raise HTTPException(413, "The request is too large.")
        return message
