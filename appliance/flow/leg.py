"""One side's connection of a flow: its transport, its TLS, and its back-pressure."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from typing import Protocol, cast

from appliance.errors import PeerError
from appliance.parties import Side
from appliance.protocols.inspector import TlsFacts
from appliance.tls.layer import TlsLayer


class LegOwner(Protocol):
    """The relay, as a leg sees it."""

    def received(self, side: Side, data: bytes) -> None: ...
    def ended(self, side: Side) -> None: ...
    def lost(self, side: Side, reason: str) -> None: ...
    def handshake_done(self, side: Side, facts: TlsFacts) -> None: ...
    def broke(self, side: Side, error: PeerError) -> None: ...
    def congested(self, side: Side, is_congested: bool) -> None: ...
    def connected(self, side: Side) -> None: ...


class Leg(asyncio.Protocol):
    """A transport with TLS that may start at any point of its stream."""

    __slots__ = (
        "_awaits_tls",
        "_early",
        "_is_closed",
        "_is_paused",
        "_owner",
        "_side",
        "_tls",
        "_transport",
        "bytes_received",
    )

    def __init__(self, side: Side, owner: LegOwner) -> None:
        self._side = side
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._tls: TlsLayer | None = None
        self._awaits_tls = False
        self._early: list[bytes] = []
        self._is_paused = False
        self._is_closed = False
        self.bytes_received = 0

    # What asyncio tells us.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.connected(self._side)

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        if self._awaits_tls:
            self._early.append(data)
        elif self._tls is None:
            self._owner.received(self._side, data)
        else:
            self._through_tls(data)

    def eof_received(self) -> bool:
        if self._tls is not None:
            self._tls.feed_end()
        self._owner.ended(self._side)
        return True  # the relay closes; a half-closed side may still be owed its answers

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closed = True
        self._owner.lost(self._side, str(exc) if exc else "closed")

    def pause_writing(self) -> None:
        self._owner.congested(self._side, True)

    def resume_writing(self) -> None:
        self._owner.congested(self._side, False)

    # What the relay tells us.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, through TLS where it is on."""
        if self._transport is None or self._is_closed:
            return
        if self._tls is None:
            self._transport.write(data)
        else:
            self._tls.write(data)
            self._flush()

    def await_tls(self, pending: bytes) -> None:
        """From here on what arrives belongs to TLS; it waits, in the kernel, until `start_tls` brings the context."""
        self._awaits_tls = True
        if pending:
            self._early.append(pending)
        self._steer_reading()

    def start_tls(
        self, context: ssl.SSLContext, *, server_side: bool, server_name: str | None = None, certificate: bytes | None = None
    ) -> None:
        """Begin the handshake, with what has waited since `await_tls`."""
        self._tls = TlsLayer(context, server_side=server_side, server_name=server_name, certificate=certificate)
        self._awaits_tls = False
        self._steer_reading()
        early = b"".join(self._early)
        self._early.clear()
        self._through_tls(early)

    def pause_reading(self) -> None:
        """Stop reading; what the kernel holds stays there."""
        self._is_paused = True
        self._steer_reading()

    def resume_reading(self) -> None:
        """Read on, as soon as nothing is waited for."""
        self._is_paused = False
        self._steer_reading()

    def close(self) -> None:
        """Deliver what was written, then end."""
        if self._transport is None or self._is_closed:
            return
        if self._tls is not None and self._tls.is_established:
            self._tls.close()
            self._flush()
        self._transport.close()

    def reset(self) -> None:
        """End at once with a TCP reset, so that the peer does not wait for anything."""
        if self._transport is None or self._is_closed:
            return
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _steer_reading(self) -> None:
        if self._transport is None or self._is_closed or self._transport.is_closing():
            return
        must_read = not self._is_paused and not self._awaits_tls
        if must_read and not self._transport.is_reading():
            self._transport.resume_reading()
        elif not must_read and self._transport.is_reading():
            self._transport.pause_reading()

    def _through_tls(self, data: bytes) -> None:
        tls = self._tls
        assert tls is not None
        try:
            if data:
                tls.feed(data)
            if not tls.is_established:
                done = tls.handshake()
                self._flush()
                if not done:
                    return
                self._owner.handshake_done(self._side, tls.facts())
            plain = tls.read()
            self._flush()
        except PeerError as error:
            self._flush()
            self._owner.broke(self._side, error)
            return
        if plain:
            self._owner.received(self._side, plain)
        if tls.has_ended:
            self._owner.ended(self._side)

    def _flush(self) -> None:
        assert self._tls is not None
        data = self._tls.take_outgoing()
        if data and self._transport is not None and not self._is_closed:
            self._transport.write(data)
