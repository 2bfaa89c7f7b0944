"""A flow over real sockets of the loopback: relay, gate, legs and journal are the product's own, only its worker is not.

`Flows` stands where the worker stands: it accepts, connects to the target that the test plays, and keeps what the relay
asks of the desk and of control for the test to answer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from appliance.errors import UnavailableError
from appliance.flow.gate import Gate, Question
from appliance.flow.leg import Leg
from appliance.flow.relay import Relay
from appliance.flow.shares import Shares
from appliance.flow.verdicts import ActivePolicy
from appliance.parties import Endpoint, Phase, Principal, Scope, Side
from appliance.policy.reading import read_policy
from appliance.protocols import inspector as acts
from appliance.protocols.inspector import Inspector
from appliance.recording.journal import HASH_BYTES, LENGTH_BYTES, MAGIC, Journal
from appliance.recording.records import FlowClosed, Record
from appliance.tls.contexts import Identity
from tests.two_streams.inspector import TwoStreamsInspector

SECONDS = 15.0
POLICY = """
rules:
  - {id: streams, reason: reading is fine, allow: [{actions: [connect, read]}]}
  - {id: erasing, reason: a person looks first, hold: [{actions: [delete]}], seconds: 60}
"""


class Flows:
    """Implements flow.relay.FlowServices. `target` is how the test answers: it is given the reader and the writer.

    `others` agents beside the flows' own make them wait for their turns; `alone_seconds` is a step while there are none.
    """

    others = 0
    alone_seconds = math.inf

    def __init__(
        self,
        journal: Journal,
        policy: str = POLICY,
        make: Callable[[], Inspector] = TwoStreamsInspector,
        protocol: str = "two-streams",
    ) -> None:
        self.journal = journal
        self.active = ActivePolicy(read_policy([("p.yaml", policy)]))
        self._make = make
        self._protocol = protocol
        self.asked: asyncio.Queue[tuple[Relay, str, Question]] = asyncio.Queue()
        self.withdrawn: list[tuple[str, str]] = []
        self.taken: list[str] = []
        self.refused: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.ended: asyncio.Queue[tuple[str, str | None]] = asyncio.Queue()
        self.targets: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.relays: list[Relay] = []
        self.is_slow_to_connect = asyncio.Event()
        self.is_slow_to_connect.set()
        self.desk_error: UnavailableError | None = None
        self._count = 0
        self._servers: list[asyncio.Server] = []

    async def __aenter__(self) -> Flows:
        loop = asyncio.get_running_loop()
        self._servers = [
            await loop.create_server(lambda: _Arrival(self), "127.0.0.1", 0),
            await asyncio.start_server(self._play_target, "127.0.0.1", 0, limit=1 << 16),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for relay in self.relays:
            relay.shut_down("the test is over", "none")

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._servers[0].sockets[0].getsockname()
        return await asyncio.open_connection(host, port)

    async def _play_target(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.targets.put((reader, writer))

    def arrive(self, transport: asyncio.Transport) -> Leg:
        self._count += 1
        inspector = self._make()
        host, port = self._servers[1].sockets[0].getsockname()
        loop = asyncio.get_running_loop()
        shares = Shares(loop.call_soon, self.alone_seconds)
        relay = Relay(f"flow-{self._count}", Endpoint(host, port), self, loop, shares.enter("bot"))
        for other in range(self.others):
            shares.enter(f"other-{other}")
        self.relays.append(relay)
        principal = Principal("bot", Phase.EXECUTE, frozenset(), "source address")
        scope = Scope("echo", self._protocol)
        gate = Gate(relay.id, self.active, self.journal, principal, scope, inspector.redact)
        leg = Leg(Side.CLIENT, relay)
        leg.connection_made(transport)
        relay.begin(inspector, gate, leg, inspector.opening_acts())
        return leg

    async def reply_to(self, flow: Relay, question: acts.Question) -> object:  # noqa: ARG002
        return None

    async def client_identity(self, flow: Relay, alpn: tuple[str, ...]) -> Identity:  # noqa: ARG002
        raise UnavailableError("no TLS here")

    async def connect_target(self, flow: Relay, leg: Leg) -> None:
        await self.is_slow_to_connect.wait()
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: leg, flow.destination.address, flow.destination.port)

    def start_target_tls(self, flow: Relay, leg: Leg, alpn: tuple[str, ...]) -> None:  # noqa: ARG002
        raise OSError("no TLS here")

    async def cancel_at_target(self, flow: Relay, data: bytes, upgrade: bytes) -> None:  # noqa: ARG002
        return

    async def ask_desk(self, flow: Relay, question: Question) -> str:
        if self.desk_error is not None:
            raise self.desk_error
        approval = f"approval-{flow.id}-{question.request.number}"
        await self.asked.put((flow, approval, question))
        return approval

    def withdraw(self, approval: str, reason: str) -> None:
        self.withdrawn.append((approval, reason))

    def amendment_taken(self, approval: str) -> None:
        self.taken.append(approval)

    def amendment_refused(self, approval: str, why: str) -> None:
        self.refused.put_nowait((approval, why))

    def register_key(self, flow: Relay, key: bytes) -> None:  # noqa: ARG002
        return

    def inspector_for(self, flow: Relay, protocol: str) -> Inspector:  # noqa: ARG002
        return self._make()

    def keeps(self, flow: Relay, size: int) -> None:  # noqa: ARG002
        return

    def flow_ended(self, flow: Relay, reason: str, trace: str | None) -> None:
        self.relays.remove(flow)
        self.ended.put_nowait((reason, trace))
        if self.journal.dead is None:
            self.journal.append(FlowClosed(flow.id, 1, reason, trace=trace))


class _Arrival(asyncio.Protocol):
    """Hands an accepted transport to its leg, as the worker does."""

    def __init__(self, flows: Flows) -> None:
        self._flows = flows

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_protocol(self._flows.arrive(transport))


def recorded(folder: Path) -> list[Any]:
    """Every record in the journal's parts, in order."""
    found: list[Any] = []
    for part in sorted(folder.glob("*.journal")):
        content = part.read_bytes()
        at, is_header = len(MAGIC), True
        while at + LENGTH_BYTES <= len(content):
            size = int.from_bytes(content[at : at + LENGTH_BYTES], "big")
            payload = content[at + LENGTH_BYTES : at + LENGTH_BYTES + size]
            at += LENGTH_BYTES + size + HASH_BYTES
            if not is_header and len(payload) == size:
                found.append(msgspec.msgpack.decode(payload, type=Record))
            is_header = False
    return found
