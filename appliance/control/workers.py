"""What workers ask of control and what control tells them: one channel each, and what each has said of its flows."""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from appliance.approvals.desk import Desk
from appliance.control.catalogues import Catalogues
from appliance.control.log import Level, log
from appliance.control.policies import InForce
from appliance.control.tallies import Tallies
from appliance.credentials.vault import Vault
from appliance.errors import RecordingError, SluicegateError, UnavailableError
from appliance.ipc.channel import Callbacks, Channel
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
    FlowGone,
    FlowSeen,
    Hello,
    KeyForgotten,
    KeyRegistered,
    LeafWanted,
    Leave,
    Message,
    PolicyChanged,
    Settled,
    Tally,
    Welcome,
    Withdraw,
)
from appliance.settings import Settings
from appliance.tls.authority import Leaves

KEYS_PER_WORKER_MAX = 50_000
FLOWS_PER_WORKER_MAX = 50_000
"""Five times what a worker's descriptors allow."""


@dataclass(slots=True, eq=False)
class Worker:
    """A worker's channel. `number` is ours, another for each channel; `index` and `process` are what it said, `peer` is the
    process that the kernel says it is."""

    number: int
    channel: Channel
    process: int
    peer: int = 0
    index: int | None = None
    keys: dict[bytes, KeyRegistered] = field(default_factory=dict)
    flows: dict[str, FlowSeen] = field(default_factory=dict)


class Workers:
    """All workers. `policy` answers the one in force; `start` runs a coroutine to its end or to ours; `flows_moved` is told
    that one began or ended."""

    def __init__(
        self,
        settings: Settings,
        vault: Vault,
        leaves: Leaves,
        seal_key: bytes,
        journals: str,
        policy: Callable[[], InForce],
        start: Callable[[Coroutine[None, None, None]], object],
        flows_moved: Callable[[], None],
    ) -> None:
        self._resources = {resource.name: resource for resource in settings.resources}
        self._worker_uid = settings.worker_uid
        self._vault = vault
        self._leaves = leaves
        self._seal_key = seal_key
        self._journals = journals
        self._policy = policy
        self._start = start
        self._flows_moved = flows_moved
        self._workers: dict[int, Worker] = {}
        self._last_number = 0
        self._stopping = False
        # Processes that are answered no more, each held by a descriptor so that its number is not mistaken for a later one.
        self._distrusted: dict[int, int] = {}
        self.desk: Desk
        self.catalogues: Catalogues
        self.tallies: Tallies

    def join(self, desk: Desk, catalogues: Catalogues, tallies: Tallies) -> None:
        """Give the rooms that themselves need to tell workers something."""
        self.desk = desk
        self.catalogues = catalogues
        self.tallies = tallies

    def accept(self, channel: Channel, uid: int, gid: int, pid: int) -> Callbacks | None:  # noqa: ARG002
        """For ipc.channel.serve."""
        if uid != self._worker_uid:
            log("worker refused", level=Level.WARNING, uid=uid, pid=pid, reason="not the workers' user")
            return None
        if self._is_distrusted(pid):
            return None
        self._last_number += 1
        worker = Worker(self._last_number, channel, pid, peer=pid)
        self._workers[worker.number] = worker
        return Callbacks(lambda message: self._take(worker, message), lambda: self._lose(worker))

    def present(self) -> list[Worker]:
        """The workers that have said hello."""
        return [worker for worker in self._workers.values() if worker.index is not None]

    def live_flows(self) -> dict[str, tuple[FlowSeen, int | None]]:
        """Every flow that is carried now, with its worker's index."""
        return {flow.flow: (flow, worker.index) for worker in self.present() for flow in worker.flows.values()}

    def has_flows(self, resource: str, database: str) -> bool:
        """Whether any flow to that database is live."""
        return any(
            flow.resource == resource and flow.database == database
            for worker in self._workers.values()
            for flow in worker.flows.values()
        )

    def tell_policy(self, policy: InForce) -> None:
        """A new policy is in force."""
        self._broadcast(PolicyChanged(policy.policy.version, policy.files))

    def tell_stale(self, resource: str, database: str, except_for: Worker | None = None) -> None:
        """What exists in that database is no longer what was known."""
        self._broadcast(CatalogueStale(resource, database), except_for)

    def distrust(self, process: int, reason: str) -> None:
        """Tell a worker to end, and answer it no more whether it does or not."""
        for worker in [worker for worker in self._workers.values() if worker.peer == process]:
            log("worker distrusted", level=Level.ERROR, index=worker.index, pid=process, reason=reason)
            if process not in self._distrusted:
                with suppress(ProcessLookupError):
                    self._distrusted[process] = os.pidfd_open(process)
            worker.channel.tell(Leave(reason))
            worker.channel.close()

    def _is_distrusted(self, process: int) -> bool:
        for known, descriptor in list(self._distrusted.items()):
            # A descriptor of a process is readable once that has ended (pidfd_open(2)).
            if select.select([descriptor], [], [], 0)[0]:
                os.close(self._distrusted.pop(known))
        return process in self._distrusted

    def settle(self, number: int, settled: Settled) -> None:
        """Tell a worker how an approval ended."""
        worker = self._workers.get(number)
        if worker is not None:
            # Later, because the answer to an Ask has to reach the worker before what became of it.
            asyncio.get_running_loop().call_soon(worker.channel.tell, settled)

    def stop(self) -> None:
        """Channels end because we do: what they held stays open for the next desk."""
        self._stopping = True
        for worker in list(self._workers.values()):
            worker.channel.close()

    def _broadcast(self, message: Message, except_for: Worker | None = None) -> None:
        for worker in self.present():
            if worker is not except_for:
                worker.channel.tell(message)

    def _lose(self, worker: Worker) -> None:
        self._workers.pop(worker.number, None)
        if self._stopping:
            return
        self._flows_moved()
        log("worker gone", level=Level.WARNING, index=worker.index, pid=worker.process, flows=len(worker.flows))
        self._vault.forget(worker.number)
        try:
            self.desk.lose(worker.number, time.time())
        except RecordingError as error:
            # They stay open for nobody and expire.
            log("ledger fails", level=Level.ERROR, reason=error)

    def _take(self, worker: Worker, message: Message) -> None:
        call: int = getattr(message, "call", 0)
        try:
            self._heed(worker, message)
        except SluicegateError as error:
            log("request failed", level=Level.WARNING, worker=worker.index, request=type(message).__name__, reason=error)
            if call:
                worker.channel.fail(call, str(error))

    def _heed(self, worker: Worker, message: Message) -> None:
        channel, number, now = worker.channel, worker.number, time.time()
        if worker.index is None and not isinstance(message, Hello):
            channel.abort()
            return
        match message:
            case Hello(call=call, worker=index, process=process):
                worker.index, worker.process = index, process
                policy = self._policy()
                welcome = Welcome(policy.policy.version, policy.files, self._seal_key, self._journals)
                channel.reply(call, msgspec.msgpack.encode(welcome))
                log("worker welcome", index=index, pid=process)
            case CatalogueWanted(call=call, resource=resource, database=database):
                self._start(self._answer(worker, call, self._catalogue(resource, database)))
            case CatalogueChanged(resource=resource, database=database):
                self.tell_stale(resource, database, except_for=worker)
            case AccountWanted(call=call, resource=resource):
                channel.reply(call, self._vault.user_of(resource).encode())
            case ChallengeSet(call=call):
                self._start(self._answer(worker, call, self._vault.answer(number, message)))
            case LeafWanted(call=call, resource=resource, server_name=server_name, address=address):
                known = self._resources.get(resource)
                if known is None:
                    raise UnavailableError("no such resource")
                channel.reply(call, msgspec.msgpack.encode(self._leaves.leaf_of(known, server_name, address)))
            case Ask(call=call, request=request, approvers=approvers, seconds=seconds):
                channel.reply(call, self.desk.ask(number, request, approvers, seconds, now).encode())
            case Withdraw(approval=approval, reason=reason):
                self.desk.withdraw(number, approval, reason, now)
            case AmendmentTaken(approval=approval):
                self.desk.take_amendment(number, approval, now)
            case AmendmentRefused(approval=approval, why=why):
                self.desk.refuse_amendment(number, approval, why, now)
            case KeyRegistered(key=key):
                if len(worker.keys) < KEYS_PER_WORKER_MAX and self._owner_of(key) in (None, worker):
                    worker.keys[key] = message
            case KeyForgotten(key=key):
                worker.keys.pop(key, None)
            case CancelWanted(call=call):
                channel.reply(call, b"1" if self._cancel(message) else b"")
            case FlowSeen(flow=flow):
                if len(worker.flows) < FLOWS_PER_WORKER_MAX:
                    worker.flows[flow] = message
                    self._flows_moved()
            case FlowGone(flow=flow):
                worker.flows.pop(flow, None)
                self._flows_moved()
            case Tally():
                self.tallies.take(worker.peer, message, time.monotonic(), now)
            case _:
                log(
                    "worker ended",
                    level=Level.ERROR,
                    index=worker.index,
                    reason=f"{type(message).__name__} is not for control",
                )
                channel.abort()

    async def _answer(self, worker: Worker, call: int, work: Coroutine[None, None, bytes]) -> None:
        try:
            worker.channel.reply(call, await work)
        except SluicegateError as error:
            worker.channel.fail(call, str(error))

    async def _catalogue(self, resource: str, database: str) -> bytes:
        # Whatever version the asker has: every answer is checked after the question, so a newer one there is, is found.
        return (await self.catalogues.current(resource, database)).encoded

    def _cancel(self, wanted: CancelWanted) -> bool:
        owner = self._owner_of(wanted.key)
        if owner is None:
            return False
        known = owner.keys[wanted.key]
        if known.principal != wanted.principal or known.resource != wanted.resource:
            log("cancel refused", level=Level.WARNING, flow=known.flow, by=wanted.principal)
            return False
        owner.channel.tell(CancelFlow(wanted.key))
        return True

    def _owner_of(self, key: bytes) -> Worker | None:
        return next((worker for worker in self._workers.values() if key in worker.keys), None)
