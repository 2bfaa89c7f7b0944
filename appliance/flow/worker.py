"""A worker: the listener that accepts caught connections, and what all its flows share."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from time import perf_counter
from typing import cast

import msgspec

from appliance.decisions import Approved, Expired, Modified, Rejected
from appliance.errors import RecordingError, UnavailableError
from appliance.flow.gate import Gate
from appliance.flow.gate import Question as DeskQuestion
from appliance.flow.leg import Leg
from appliance.flow.relay import Relay
from appliance.flow.shares import Share, Shares
from appliance.flow.study import Study
from appliance.flow.tally import Sums, WorkerTally
from appliance.flow.verdicts import ActivePolicy
from appliance.flow.waiting import WaitingBytes
from appliance.identity.attribution import Attribution
from appliance.ipc.channel import Channel, connect
from appliance.ipc.messages import (
    AccountWanted,
    AmendmentRefused,
    AmendmentTaken,
    Ask,
    CancelFlow,
    CancelWanted,
    CatalogueChanged,
    CatalogueStale,
    CatalogueWanted,
    ChallengeSet,
    Counted,
    FlowGone,
    FlowSeen,
    Hello,
    KeyForgotten,
    KeyRegistered,
    Leaf,
    LeafWanted,
    Leave,
    Message,
    PolicyChanged,
    Settled,
    Tally,
    Welcome,
    Withdraw,
)
from appliance.log import Level, Log, trace_of
from appliance.parties import Origin, Principal, Scope, Side
from appliance.policy.reading import read_policy
from appliance.protocols.inspector import (
    CancelQuestion,
    CatalogueQuestion,
    ChallengeQuestion,
    CredentialQuestion,
    Inspector,
    Question,
    ReadingQuestion,
)
from appliance.recording.journal import Journal
from appliance.recording.records import FlowClosed, FlowOpened
from appliance.settings import ResourceSettings, Settings
from appliance.sql.catalogue import Catalogue
from appliance.tls.contexts import Identity, client_identity, target_context
from kernel.origins import origin_of

# Each flow takes two descriptors of the usual hard limit of 20,000; the rest is for listeners, journals and channels.
FLOWS_MAX = 9_500
# So that no agent takes all places; an agent that needs more connections at once needs a pool.
FLOWS_PER_AGENT_MAX = 2_000
# One flow may keep 64 MiB of an unfinished message; eight such at once are work, more are an attack on memory.
_WAITING_BYTES_MAX = 512 << 20
# Connections that carry cancel requests to targets, at once.
_CANCELS_MAX = 64
# How long a worker waits between two tries to reach a control process that is being restarted.
_RECONNECT_SECONDS = 0.2
# A cancel request is sixteen bytes and no answer; a target that does not take them in this time will not.
_CANCEL_SECONDS = 5.0
_CATALOGUES_MAX = 64
# Connections that the kernel keeps for us until we come to them: we then take all of them at once.
_BACKLOG = 256
# Between two times that control is told what was counted.
_TALLY_SECONDS = 1.0
# How often one flow may have the catalogue read only because it used a name that is not in it. Within that time what is
# known stands; a change that went through the gateway, or that control saw, is never bounded by it.
_GUESS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class FlowFacts:
    """What an inspector is made for."""

    resource: ResourceSettings
    principal: Principal
    placeholder: str | None
    cancel_key: bytes


class _Refusal(StrEnum):
    """Why a connection becomes no flow, as it is recorded, logged and counted."""

    SOURCE = "no agent has this source address"
    DESTINATION = "the destination is not a registered resource"
    FLOWS = "the worker carries as many flows as it can"
    TOO_FAST = "the agent connects faster than this worker takes up its connections"
    FLOWS_OF_AGENT = "the agent has as many flows here as it may"


InspectorMaker = Callable[[FlowFacts], Inspector]


@dataclass(slots=True, eq=False)
class _Flow:
    """A flow and what belongs to it here."""

    relay: Relay
    facts: FlowFacts
    origin: Origin
    key: bytes | None = None
    database: str | None = None
    # When it last had the catalogue read for a name that is not in it; seconds of the loop's clock.
    guessed: float = -math.inf


class Worker:
    """Implements flow.relay.FlowServices for all flows of this process."""

    def __init__(
        self,
        settings: Settings,
        index: int,
        inspectors: Mapping[str, InspectorMaker],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.log = Log(f"worker {index}")
        self._started = time.time_ns()
        self._tally = WorkerTally()
        self._told_sums: Sums = {}
        self._settings = settings
        self._index = index
        self._inspectors = inspectors
        self._loop = loop
        self._attribution = Attribution(settings)
        self._flows: dict[str, _Flow] = {}
        self._flows_of: Counter[str] = Counter()
        self._shares = Shares(loop.call_soon)
        self._study = Study()
        self._waiting: WaitingBytes[Relay] = WaitingBytes(_WAITING_BYTES_MAX)
        # Flows for which a cancel request is on its way to the target.
        self._cancelling: set[str] = set()
        self._cancels = asyncio.Semaphore(_CANCELS_MAX)
        self._by_approval: dict[str, str] = {}
        self._by_key: dict[bytes, str] = {}
        self._channel: Channel | None = None
        self._active: ActivePolicy | None = None
        self._journal: Journal | None = None
        self._catalogues: dict[tuple[str, str], Catalogue] = {}
        # The version that control was last told of, so that each flow that catches up does not make all ask once more.
        self._told: dict[tuple[str, str], str] = {}
        self._identities: dict[tuple[str, str, tuple[str, ...]], Identity] = {}
        self._leaf_times: dict[tuple[str, str, tuple[str, ...]], float] = {}
        self._servers: list[asyncio.Server] = []
        self._stopping = asyncio.Event()
        self._unfit = ""
        self._placeholders = {agent.name: agent.placeholder for agent in settings.agents}

    async def run(self, sockets: list[socket.socket], ready: Callable[[], None]) -> None:
        """Serve until SIGTERM. Nothing is accepted before control has answered once, because nothing could be decided.

        Raises RecordingError where nothing can be recorded any more: then this process is of no use, and another may be.
        """
        self._loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        keeper = self._loop.create_task(self._keep_channel(sockets, ready))
        keeper.add_done_callback(lambda _: self._stopping.set())
        counting = self._loop.create_task(self._keep_counting())
        counting.add_done_callback(lambda _: self._stopping.set())
        await self._stopping.wait()
        is_faulty = keeper.done()
        keeper.cancel()
        counting.cancel()
        for server in self._servers:
            server.close()
        for flow in list(self._flows.values()):
            flow.relay.shut_down("the gateway is stopping", "connect again in a moment")
        await self._study.close()
        self._tell_sums()
        if self._channel is not None:
            self._channel.close()
        if is_faulty:
            keeper.result()
        if self._unfit:
            raise RecordingError(self._unfit)

    def _give_up(self, reason: str) -> None:
        """End this process, all its flows first."""
        if not self._unfit:
            self._unfit = reason
            self.log("gives up", level=Level.ERROR, reason=reason)
            self._stopping.set()

    # Control.

    async def _keep_channel(self, sockets: list[socket.socket], ready: Callable[[], None]) -> None:
        path = f"{self._settings.run}/control-workers.sock"
        is_serving = False
        while True:
            lost = asyncio.Event()
            try:
                channel = await connect(path, self._take, lost.set)
                body = await channel.call(lambda call: Hello(call, self._index, os.getpid()))
            except UnavailableError:
                await asyncio.sleep(_RECONNECT_SECONDS)
                continue
            self._welcome(msgspec.msgpack.decode(body, type=Welcome))
            self._channel = channel
            self._told_sums = {}
            self._introduce_again()
            if not is_serving:
                for listening in sockets:
                    self._servers.append(await self._loop.create_server(self._accept, sock=listening, backlog=_BACKLOG))
                is_serving = True
                ready()
            await lost.wait()
            self._channel = None

    def _welcome(self, welcome: Welcome) -> None:
        if self._journal is None:
            self._journal = Journal(Path(welcome.journals), self._index, welcome.seal_key, time.time_ns())
        self._put_in_force(welcome.policy_files)

    def _put_in_force(self, files: tuple[tuple[str, str], ...]) -> None:
        policy = read_policy(files, self._settings.hold_seconds)
        if self._active is None:
            self._active = ActivePolicy(policy)
        elif self._active.policy.version != policy.version:
            self._active.replace(policy)

    def _introduce_again(self) -> None:
        """Tell a control process that has come back what it has to know of the flows that outlived it."""
        self._catalogues.clear()
        self._by_approval.clear()
        for flow in list(self._flows.values()):
            self._tell_seen(flow)
            if flow.key is not None:
                self._tell(KeyRegistered(flow.key, flow.relay.id, flow.facts.principal, flow.facts.resource.name))
            flow.relay.ask_again()
            flow.relay.catalogue_stale()

    def _take(self, message: Message) -> None:
        match message:
            case PolicyChanged(files=files):
                self._put_in_force(files)
            case Settled():
                # Later, because the approval's id may stand right before it among the bytes just read, and whoever asked
                # wakes up to that in the loop's next turn.
                self._loop.call_soon(self._settle, message)
            case CancelFlow(key=key):
                flow = self._flows.get(self._by_key.get(key, ""))
                if flow is not None:
                    flow.relay.cancelled()
            case CatalogueStale(resource=resource, database=database):
                self._forget_catalogue(resource, database)
            case Leave(reason=reason):
                self._give_up(reason)
            case _:
                raise UnavailableError(f"control sent {type(message).__name__}, which is not for a worker")

    def _settle(self, message: Settled) -> None:
        flow = self._flows.get(self._by_approval.get(message.approval, ""))
        if flow is None:
            return
        match message.outcome:
            case "approved":
                answer: Approved | Rejected | Modified | Expired = Approved(message.approval, message.by)
            case "rejected":
                answer = Rejected(message.approval, message.by, message.reason)
            case "modified":
                answer = Modified(message.approval, message.by, message.groups, message.text)
            case "expired":
                answer = Expired(message.approval)
            case outcome:
                raise UnavailableError(f"control settled an approval as {outcome!r}, which is no outcome")
        if not isinstance(answer, Modified):
            self._by_approval.pop(message.approval, None)
        flow.relay.decided(message.approval, answer)

    def _forget_catalogue(self, resource: str, database: str) -> None:
        self._catalogues.pop((resource, database), None)
        for flow in self._flows.values():
            if flow.facts.resource.name == resource and flow.database == database:
                flow.relay.catalogue_stale()

    def _tell(self, message: Message) -> None:
        if self._channel is not None:
            self._channel.tell(message)

    async def _keep_counting(self) -> None:
        while True:
            due = self._loop.time() + _TALLY_SECONDS
            await asyncio.sleep(_TALLY_SECONDS)
            # What this waited beyond its time, every event of every flow has waited.
            self._tally.late_seconds += max(0.0, self._loop.time() - due)
            self._tell_sums()

    def _tell_sums(self) -> None:
        sums = self._tally.sums()
        if self._journal is not None:
            sums[Counted.RECORDS, self._journal.name] = self._journal.sequence
        if self._channel is not None and sums != self._told_sums:
            self._told_sums = sums
            self._tell(Tally(os.getpid(), self._started, sums))

    async def _call(self, build: Callable[[int], Message]) -> bytes:
        if self._channel is None:
            raise UnavailableError("the control process does not answer")
        return await self._channel.call(build)

    # Accepting.

    def _accept(self) -> asyncio.Protocol:
        return _Arrival(self)

    def arrive(self, transport: asyncio.Transport) -> Leg | None:
        """Take up a caught connection, or answer None: it is refused and recorded as such."""
        began = perf_counter()
        origin = origin_of(transport.get_extra_info("socket"))
        principal = self._attribution.principal_of(origin)
        leg = self._take_up(transport, origin, principal)
        if principal is not None:
            self._shares.of(principal.agent).spend(perf_counter() - began)
        return leg

    def share_of(self, transport: asyncio.Transport) -> Share | None:
        """The share in this worker's time of whose connection it is, or None where it is nobody's."""
        principal = self._attribution.principal_of(origin_of(transport.get_extra_info("socket")))
        return self._shares.of(principal.agent) if principal is not None else None

    def turn_away(self, transport: asyncio.Transport) -> None:
        """Count and log a connection that is one too many of its agent's. It is not recorded: nobody has heard it, and they
        would fill the recording."""
        origin = origin_of(transport.get_extra_info("socket"))
        resource = self._attribution.resource_of(origin.destination)
        self._tally.refused[resource.name if resource else "", _Refusal.TOO_FAST.value] += 1
        self.log("flow refused", level=Level.WARNING, source=origin.source, reason=_Refusal.TOO_FAST)

    def later(self, seconds: float, step: Callable[[], None]) -> None:
        """Run something then."""
        self._loop.call_later(seconds, step)

    def _take_up(self, transport: asyncio.Transport, origin: Origin, principal: Principal | None) -> Leg | None:
        journal, active = self._journal, self._active
        assert journal is not None
        assert active is not None
        flow_id = secrets.token_hex(8)
        resource = self._attribution.resource_of(origin.destination)
        refusal = None
        if principal is None:
            refusal = _Refusal.SOURCE
        elif resource is None:
            refusal = _Refusal.DESTINATION
        elif len(self._flows) >= FLOWS_MAX:
            refusal = _Refusal.FLOWS
        elif self._flows_of[principal.agent] >= FLOWS_PER_AGENT_MAX:
            refusal = _Refusal.FLOWS_OF_AGENT
        try:
            journal.append(
                FlowOpened(
                    flow=flow_id,
                    time=time.time_ns(),
                    source=str(origin.source),
                    destination=str(origin.destination),
                    principal=str(principal) if principal else None,
                    agent=principal.agent if principal else None,
                    phase=principal.phase.value if principal else None,
                    person=principal.person if principal else None,
                    groups=tuple(sorted(principal.groups)) if principal else (),
                    established=principal.established if principal else None,
                    resource=resource.name if resource else None,
                    protocol=resource.protocol if resource else None,
                )
            )
            if refusal is not None:
                journal.append(FlowClosed(flow=flow_id, time=time.time_ns(), reason=f"refused: {refusal}"))
        except RecordingError as error:
            self.log("flow refused", level=Level.ERROR, flow=flow_id, reason=f"its record could not be written: {error}")
            self._see_journal(journal)
            return None
        if refusal is not None or principal is None or resource is None:
            self._tally.refused[resource.name if resource else "", refusal.value if refusal else ""] += 1
            self.log(
                "flow refused",
                level=Level.WARNING,
                flow=flow_id,
                source=origin.source,
                destination=origin.destination,
                reason=refusal,
            )
            return None
        facts = FlowFacts(resource, principal, self._placeholders.get(principal.agent), secrets.token_bytes(8))
        relay = Relay(flow_id, origin.destination, self, self._loop, self._shares.enter(principal.agent))
        flow = _Flow(relay, facts, origin)
        self._flows[flow_id] = flow
        self._flows_of[principal.agent] += 1
        inspector = self._inspectors[resource.protocol](facts)
        leg = Leg(Side.CLIENT, relay)
        leg.connection_made(transport)
        gate = Gate(
            flow_id,
            active,
            journal,
            principal,
            Scope(resource.name, resource.protocol),
            inspector.redact,
            meter=self._tally.meter(resource.protocol),
        )
        self._tally.opened[resource.name, principal.agent] += 1
        self._tell_seen(flow)
        relay.begin(inspector, gate, leg, inspector.opening_acts())
        return leg

    def _tell_seen(self, flow: _Flow) -> None:
        facts = flow.facts
        self._tell(
            FlowSeen(
                flow.relay.id,
                facts.principal,
                facts.resource.name,
                flow.origin.source,
                flow.origin.destination,
                time.time_ns(),
                flow.database,
            )
        )

    # flow.relay.FlowServices.

    async def reply_to(self, flow: Relay, question: Question) -> object:
        known = self._flows[flow.id]
        resource = known.facts.resource.name
        match question:
            case CatalogueQuestion(database=database):
                if known.database != database:
                    known.database = database
                    self._tell_seen(known)
                return await self._catalogue(known, question)
            case CredentialQuestion():
                return (await self._call(lambda call: AccountWanted(call, resource))).decode()
            case ChallengeQuestion():
                return await self._call(
                    lambda call: ChallengeSet(
                        call,
                        resource,
                        flow.id,
                        question.mechanism,
                        question.step,
                        question.challenge,
                        question.binding,
                        question.over_tls,
                    )
                )
            case ReadingQuestion():
                return await self._study.read(known.facts.principal.agent, question)
            case CancelQuestion(key=key):
                principal = known.facts.principal
                return bool(await self._call(lambda call: CancelWanted(call, key, principal, resource)))

    async def _catalogue(self, flow: _Flow, question: CatalogueQuestion) -> Catalogue:
        resource, database, newer_than = flow.facts.resource.name, question.database, question.newer_than
        place = (resource, database)
        known = self._catalogues.get(place)
        if question.is_guess:
            now = self._loop.time()
            is_soon = now - flow.guessed < _GUESS_SECONDS
            if is_soon and known is not None and known.version == newer_than:
                return known
            flow.guessed = now
        body = await self._call(lambda call: CatalogueWanted(call, resource, database, newer_than))
        version = msgspec.msgpack.decode(body, type=_CatalogueVersion).version
        if newer_than is not None and version not in (newer_than, self._told.get(place)):
            # The asker has seen that it was stale, most often because it changed it: so have the others, told once.
            if len(self._told) >= _CATALOGUES_MAX:
                self._told.clear()
            self._told[place] = version
            self._tell(CatalogueChanged(resource, database))
        known = self._catalogues.get(place)
        if known is not None and known.version == version:
            return known
        catalogue = msgspec.msgpack.decode(body, type=Catalogue)
        if len(self._catalogues) >= _CATALOGUES_MAX:
            self._catalogues.clear()
        self._catalogues[place] = catalogue
        return catalogue

    async def client_identity(self, flow: Relay, alpn: tuple[str, ...]) -> Identity:
        resource = self._flows[flow.id].facts.resource
        address = flow.destination.address
        key = (resource.name, address, alpn)
        identity = self._identities.get(key)
        # Leaves live for days; asking again every hour keeps well clear of their end and of a replaced file.
        if identity is None or self._loop.time() - self._leaf_times[key] > 3600:
            body = await self._call(lambda call: LeafWanted(call, resource.name, None, address))
            leaf = msgspec.msgpack.decode(body, type=Leaf)
            identity = client_identity(leaf.chain, leaf.key, alpn)
            self._identities[key] = identity
            self._leaf_times[key] = self._loop.time()
        return identity

    async def connect_target(self, flow: Relay, leg: Leg) -> None:
        await self._loop.create_connection(lambda: leg, flow.destination.address, flow.destination.port)

    def start_target_tls(self, flow: Relay, leg: Leg, alpn: tuple[str, ...]) -> None:
        tls = self._flows[flow.id].facts.resource.tls
        name = tls.server_names[0] if tls.server_names else flow.destination.address
        leg.start_tls(target_context(tls, alpn), server_side=False, server_name=name)

    async def cancel_at_target(self, flow: Relay, data: bytes, upgrade: bytes) -> None:
        if flow.id in self._cancelling:
            return  # one that is on its way does what another would
        self._cancelling.add(flow.id)
        try:
            async with self._cancels:
                await self._send_cancel(flow, data, upgrade)
        finally:
            self._cancelling.discard(flow.id)

    async def _send_cancel(self, flow: Relay, data: bytes, upgrade: bytes) -> None:
        tls = self._flows[flow.id].facts.resource.tls
        try:
            async with asyncio.timeout(_CANCEL_SECONDS):
                reader, writer = await asyncio.open_connection(flow.destination.address, flow.destination.port)
                try:
                    if upgrade:
                        writer.write(upgrade)
                        if await reader.readexactly(1) != b"S":
                            return
                        name = tls.server_names[0] if tls.server_names else flow.destination.address
                        await writer.start_tls(target_context(tls, ()), server_hostname=name)
                    writer.write(data)
                    await writer.drain()
                    await reader.read(1)  # the server closes once it has passed the request on
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.log("cancel failed", level=Level.WARNING, flow=flow.id, reason=error)

    async def ask_desk(self, flow: Relay, question: DeskQuestion) -> str:
        approval = (
            await self._call(lambda call: Ask(call, question.request, question.approvers, question.seconds))
        ).decode()
        self._by_approval[approval] = flow.id
        return approval

    def withdraw(self, approval: str, reason: str) -> None:
        self._by_approval.pop(approval, None)
        self._tell(Withdraw(approval, reason))

    def amendment_taken(self, approval: str) -> None:
        self._by_approval.pop(approval, None)
        self._tell(AmendmentTaken(approval))

    def amendment_refused(self, approval: str, why: str) -> None:
        self._tell(AmendmentRefused(approval, why))

    def register_key(self, flow: Relay, key: bytes) -> None:
        known = self._flows[flow.id]
        known.key = key
        self._by_key[key] = flow.id
        self._tell(KeyRegistered(key, flow.id, known.facts.principal, known.facts.resource.name))

    def inspector_for(self, flow: Relay, protocol: str) -> Inspector:
        return self._inspectors[protocol](self._flows[flow.id].facts)

    def keeps(self, flow: Relay, size: int) -> None:
        most = self._waiting.note(flow, size)
        if most is not None:
            # Later: it may be the asking flow, which is in the middle of its bytes.
            reason = f"the gateway keeps more than {_WAITING_BYTES_MAX >> 20} MiB that cannot be sent on, most of it here"
            self._loop.call_soon(most.shut_down, reason, "send smaller messages, or large data by COPY")

    def flow_ended(self, flow: Relay, reason: str, trace: str | None) -> None:
        known = self._flows.pop(flow.id)
        self._waiting.note(flow, 0)
        agent = known.facts.principal.agent
        self._flows_of[agent] -= 1
        self._shares.leave(agent)
        if not self._flows_of[agent]:
            del self._flows_of[agent]
        if known.key is not None:
            self._by_key.pop(known.key, None)
            self._tell(KeyForgotten(known.key))
        self._tell(FlowGone(flow.id))
        client_bytes, target_bytes = flow.bytes_received
        if trace is not None:
            self.log("fault", level=Level.ERROR, flow=flow.id, trace=trace)
        assert self._journal is not None
        try:
            self._journal.append(
                FlowClosed(
                    flow=flow.id,
                    time=time.time_ns(),
                    reason=reason,
                    client_bytes=client_bytes,
                    target_bytes=target_bytes,
                    trace=trace,
                )
            )
        except RecordingError as error:
            self.log("flow closed unrecorded", level=Level.ERROR, flow=flow.id, reason=error)
            self._see_journal(self._journal)

    def _see_journal(self, journal: Journal) -> None:
        if journal.dead is not None:
            self._give_up(journal.dead)


class _CatalogueVersion(msgspec.Struct):
    """The head of an encoded Catalogue, enough to see whether the whole must be decoded."""

    version: str


class _Arrival(asyncio.Protocol):
    """Decides at accept whether a connection becomes a flow, then hands the transport to its leg."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        accepted = cast(asyncio.Transport, transport)  # uvloop's transports do not derive from it
        share = self._worker.share_of(accepted)
        delay = share.arrival_delay(perf_counter()) if share is not None else 0.0
        if delay is None:
            self._worker.turn_away(accepted)
            self._reset(accepted)
        elif delay:
            accepted.pause_reading()
            self._worker.later(delay, lambda: self._arrive(accepted, is_late=True))
        elif share is not None and share.is_spent:
            # Many at once of one agent: each takes a part of a millisecond to take up.
            accepted.pause_reading()
            share.wait(lambda: self._arrive(accepted, is_late=True))
        else:
            self._arrive(accepted)

    def _arrive(self, accepted: asyncio.Transport, *, is_late: bool = False) -> None:
        if accepted.is_closing():
            return
        leg = None
        try:
            leg = self._worker.arrive(accepted)
        except Exception as fault:  # noqa: BLE001  the border where our own bugs end one connection, closed
            self._worker.log("fault", level=Level.ERROR, trace=trace_of(fault))
        if leg is None:
            self._reset(accepted)
        else:
            accepted.set_protocol(leg)
            if is_late:
                leg.resume_reading()

    @staticmethod
    def _reset(accepted: asyncio.Transport) -> None:
        raw = accepted.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.abort()
