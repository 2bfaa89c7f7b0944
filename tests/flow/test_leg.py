"""A leg over a real socket: what it reads while the certificate for its TLS is still being fetched."""

from __future__ import annotations

import asyncio
import datetime
import socket
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from appliance.errors import PeerError
from appliance.flow.leg import Leg
from appliance.parties import Side
from appliance.protocols.inspector import TlsFacts
from appliance.settings import TargetTls, TlsSettings
from appliance.tls.authority import open_authority
from appliance.tls.contexts import client_identity, target_context
from tests.flow.loopback import SECONDS


class Owner:
    """Implements flow.leg.LegOwner, for a test that looks at the leg itself."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[bytes] = asyncio.Queue()
        self.legs: asyncio.Queue[None] = asyncio.Queue()

    def received(self, side: Side, data: bytes) -> None:  # noqa: ARG002
        self.got.put_nowait(data)

    def ended(self, side: Side) -> None: ...
    def lost(self, side: Side, reason: str) -> None: ...
    def handshake_done(self, side: Side, facts: TlsFacts) -> None: ...
    def broke(self, side: Side, error: PeerError) -> None: ...
    def congested(self, side: Side, is_congested: bool) -> None: ...
    def connected(self, side: Side) -> None:  # noqa: ARG002
        self.legs.put_nowait(None)


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 60))


async def connected(owner: Owner) -> tuple[Leg, socket.socket]:
    """A leg and the other end of its connection."""
    leg = Leg(Side.CLIENT, owner)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: leg, "127.0.0.1", 0)
    client = socket.create_connection(server.sockets[0].getsockname())
    client.setblocking(False)
    await asyncio.wait_for(owner.legs.get(), SECONDS)
    server.close()
    return leg, client


def test_what_comes_before_the_certificate_is_there_waits_in_the_kernel() -> None:
    async def scene() -> None:
        leg, client = await connected(Owner())
        leg.await_tls(b"")
        leg.resume_reading()  # as the relay does whenever a question is answered
        for _ in range(2_000):
            with suppress(BlockingIOError):
                client.send(bytes(1 << 16))
            await asyncio.sleep(0)
        assert leg.bytes_received <= 1 << 18
        leg.reset()
        client.close()

    run(scene())


def test_a_handshake_that_waited_for_the_certificate_is_done_with_it(tmp_path: Path) -> None:
    leaf = open_authority(tmp_path, lambda: datetime.datetime.now(datetime.UTC)).leaf(("shop.example",))
    identity = client_identity(leaf.chain, leaf.key, ())

    async def scene() -> None:
        theirs = target_context(TlsSettings(target=TargetTls.REQUIRE), ())
        owner = Owner()
        leg, client = await connected(owner)
        leg.await_tls(b"")
        opening = asyncio.create_task(asyncio.open_connection(sock=client, ssl=theirs, server_hostname="shop.example"))
        await asyncio.sleep(0)
        leg.start_tls(identity.context, server_side=True, certificate=identity.certificate)
        _, writer = await asyncio.wait_for(opening, SECONDS)
        writer.write(b"hello")
        assert await asyncio.wait_for(owner.got.get(), SECONDS) == b"hello"
        leg.reset()
        writer.close()

    run(scene())
