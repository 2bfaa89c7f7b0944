"""What people may ask of control: the verbs of the command line and the dashboard, and who may use which.

Whoever connects is who the kernel says (peer credentials): root, or a user that the configuration names as approver. An
answer is JSON: {"ok": true, "result": …} or {"ok": false, "reason": …}; a Failure means that the request made no sense.
"""

from __future__ import annotations

import asyncio
import pwd
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from appliance.approvals.desk import AMENDING_SECONDS, Case, Desk, Person, Refusal, State
from appliance.approvals.ledger import Ledger
from appliance.control.log import Level, log
from appliance.control.recorder import Recorder
from appliance.control.workers import Workers
from appliance.errors import SluicegateError
from appliance.ipc.channel import Callbacks, Channel
from appliance.ipc.messages import Message, Request
from appliance.settings import Settings

REQUEST_BYTES_MAX = 8 << 20
"""Room for a changed command of desk.TEXT_CHARACTERS_MAX characters."""

CHANNELS_MAX = 64
WAIT_SECONDS_MAX = 60.0
SETTLED_LISTED = 20


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No arguments."""


class _Listing(msgspec.Struct, forbid_unknown_fields=True):
    settled: int = 0


class _Waiting(msgspec.Struct, forbid_unknown_fields=True):
    """Wait until something has changed since `after` (a serial of an earlier answer), for so many seconds at most."""

    after: int = -1
    seconds: float = 30.0


class _Showing(msgspec.Struct, forbid_unknown_fields=True):
    approval: str
    exact: bool = False


class _Answering(msgspec.Struct, forbid_unknown_fields=True):
    """`seen` is the hash (`bound`) of what the person was shown."""

    approval: str
    seen: str
    reason: str = ""
    text: str = ""


class _Explaining(msgspec.Struct, forbid_unknown_fields=True):
    agent: str
    phase: str
    resource: str
    database: str
    command: str


class People:
    """The people's socket. The callables are control's: `status` and `live` answer what is to be shown, `reload` reads the
    policy anew and answers what came of it, `explain` says why a command would get its verdict."""

    def __init__(
        self,
        settings: Settings,
        workers: Workers,
        recorder: Recorder,
        ledger: Ledger,
        status: Callable[[], dict[str, Any]],
        reload: Callable[[], dict[str, Any]],
        explain: Callable[[str, str, str, str, str], Awaitable[dict[str, Any]]],
        start: Callable[[Coroutine[None, None, None]], object],
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._recorder = recorder
        self._ledger = ledger
        self._status = status
        self._reload = reload
        self._explain = explain
        self._start = start
        self._channels: set[Channel] = set()
        self._serial = 0
        self._moved = asyncio.Event()
        self.desk: Desk

    def join(self, desk: Desk) -> None:
        """Give the desk, which itself tells us of every move."""
        self.desk = desk

    def moved(self, case: Case) -> None:  # noqa: ARG002 - every move wakes everybody who waits
        """Something happened on the desk."""
        self._serial += 1
        self._moved.set()
        self._moved = asyncio.Event()

    def accept(self, channel: Channel, uid: int, gid: int, pid: int) -> Callbacks | None:  # noqa: ARG002
        """For ipc.channel.serve."""
        person = person_of(uid, self._settings)
        if person is None or len(self._channels) >= CHANNELS_MAX:
            log("person refused", level=Level.WARNING, uid=uid, pid=pid)
            return None
        self._channels.add(channel)
        return Callbacks(lambda message: self._take(channel, person, message), lambda: self._channels.discard(channel))

    def stop(self) -> None:
        """End all channels."""
        for channel in list(self._channels):
            channel.close()

    def _take(self, channel: Channel, person: Person, message: Message) -> None:
        if not isinstance(message, Request):
            channel.abort()
            return
        verb = VERBS.get(message.verb)
        if verb is None:
            channel.fail(message.call, f"there is no verb {message.verb!r}")
            return
        self._start(self._answer(channel, person, message, *verb))

    async def _answer(
        self, channel: Channel, person: Person, request: Request, arguments_type: type[Any], carry_out: _Verb
    ) -> None:
        try:
            arguments = msgspec.json.decode(request.arguments, type=arguments_type)
        except msgspec.DecodeError as error:
            channel.fail(request.call, f"the arguments of {request.verb} are wrong: {error}")
            return
        try:
            result = await carry_out(self, person, arguments)
        except Refusal as refusal:
            body: dict[str, Any] = {"ok": False, "reason": str(refusal)}
        except SluicegateError as error:
            log("request failed", level=Level.WARNING, verb=request.verb, by=person.name, reason=error)
            body = {"ok": False, "reason": str(error)}
        else:
            body = {"ok": True, "result": result}
        channel.reply(request.call, msgspec.json.encode(body))

    # The verbs.

    async def _list(self, _person: Person, arguments: _Listing) -> dict[str, Any]:
        now = time.time()
        settled = self._ledger.settled(arguments.settled) if arguments.settled > 0 else []
        return {
            "serial": self._serial,
            "approvals": [_summary(case, now) for case in self.desk.waiting()],
            "settled": [_summary(case, now) for case in settled],
        }

    async def _wait(self, person: Person, arguments: _Waiting) -> dict[str, Any]:
        if arguments.after == self._serial:
            try:
                async with asyncio.timeout(min(max(arguments.seconds, 0.0), WAIT_SECONDS_MAX)):
                    await self._moved.wait()
            except TimeoutError:
                pass
        return await self._list(person, _Listing())

    async def _show(self, person: Person, arguments: _Showing) -> dict[str, Any]:
        now = time.time()
        if arguments.exact:
            case = self.desk.show_exact(arguments.approval, person, now)
            return _whole(case, now, self._ledger) | {"exact": case.request.exact}
        found = self.desk.case(arguments.approval) or self._ledger.case(arguments.approval)
        if found is None:
            raise Refusal(f"there is no approval {arguments.approval}")
        return _whole(found, now, self._ledger)

    async def _approve(self, person: Person, answer: _Answering) -> dict[str, Any]:
        now = time.time()
        return _summary(self.desk.approve(answer.approval, person, answer.seen, answer.reason, now), now)

    async def _reject(self, person: Person, answer: _Answering) -> dict[str, Any]:
        now = time.time()
        return _summary(self.desk.reject(answer.approval, person, answer.seen, answer.reason, now), now)

    async def _edit(self, person: Person, answer: _Answering) -> dict[str, Any]:
        """Answers once the worker has judged the changed text: settled as modified, or open again with `why`."""
        self.desk.edit(answer.approval, person, answer.seen, answer.text, answer.reason, time.time())
        try:
            async with asyncio.timeout(2 * AMENDING_SECONDS):
                while (case := self.desk.case(answer.approval)) is not None and case.state is State.AMENDING:
                    await self._moved.wait()
        except TimeoutError:
            raise Refusal("the worker that holds the command did not judge the changed text in time") from None
        case = self.desk.case(answer.approval) or self._ledger.case(answer.approval)
        if case is None or case.outcome != "modified":
            raise Refusal(case.why or f"{case.outcome}: {case.reason}" if case is not None else "the approval is gone")
        return _summary(case, time.time())

    async def _flows(self, _person: Person, _arguments: _Nothing) -> list[dict[str, Any]]:
        return [
            {
                "flow": flow.flow,
                "principal": str(flow.principal) if flow.principal else None,
                "resource": flow.resource,
                "database": flow.database,
                "source": str(flow.source),
                "destination": str(flow.destination),
                "time": flow.time,
                "worker": worker.index,
            }
            for worker in self._workers.present()
            for flow in worker.flows.values()
        ]

    async def _say_status(self, _person: Person, _arguments: _Nothing) -> dict[str, Any]:
        return self._status()

    async def _drain(self, _person: Person, _arguments: _Nothing) -> dict[str, Any]:
        return {"records": await self._recorder.drain_all()}

    async def _reload_policy(self, person: Person, _arguments: _Nothing) -> dict[str, Any]:
        if not person.is_administrator:
            raise Refusal("only root reloads the policy")
        return self._reload()

    async def _explain_command(self, _person: Person, what: _Explaining) -> dict[str, Any]:
        return await self._explain(what.agent, what.phase, what.resource, what.database, what.command)


_Verb = Callable[[People, Person, Any], Awaitable[Any]]

VERBS: dict[str, tuple[type[Any], _Verb]] = {
    "approvals.list": (_Listing, People._list),
    "approvals.wait": (_Waiting, People._wait),
    "approvals.show": (_Showing, People._show),
    "approvals.approve": (_Answering, People._approve),
    "approvals.reject": (_Answering, People._reject),
    "approvals.edit": (_Answering, People._edit),
    "flows.live": (_Nothing, People._flows),
    "status": (_Nothing, People._say_status),
    "drain": (_Nothing, People._drain),
    "policy.reload": (_Nothing, People._reload_policy),
    "policy.explain": (_Explaining, People._explain_command),
}


def person_of(uid: int, settings: Settings) -> Person | None:
    """Who that user of this machine is to us: root, a configured approver (by name or number), or nobody."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    groups: set[str] = set()
    is_approver = False
    for approver in settings.approvers:
        if approver.user in (name, str(uid)):
            is_approver = True
            groups |= approver.groups
    if not is_approver and uid != 0:
        return None
    return Person(name, frozenset(groups), is_approver, is_administrator=uid == 0)


def _summary(case: Case, now: float) -> dict[str, Any]:
    request = case.request
    return {
        "id": case.id,
        "state": case.state.value,
        "outcome": case.outcome,
        "by": case.by,
        "reason": case.reason,
        "why": case.why,
        "asked": case.asked,
        "remaining": max(0.0, case.deadline - now) if case.state is not State.SETTLED else 0.0,
        "decided": case.decided,
        "approvers": sorted(case.approvers),
        "principal": str(request.principal),
        "resource": request.scope.resource,
        "database": request.scope.database,
        "sort": request.sort,
        "shown": request.shown,
        "rule": request.rule,
        "bound": request.bound,
        "flow": request.flow,
        "number": request.number,
    }


def _whole(case: Case, now: float, ledger: Ledger) -> dict[str, Any]:
    request = case.request
    return _summary(case, now) | {
        "protocol": request.scope.protocol,
        "agent": request.principal.agent,
        "phase": request.principal.phase.value,
        "groups": sorted(request.principal.groups),
        "person": request.principal.person,
        "established": request.principal.established,
        "parameters": list(request.parameters),
        "effects": list(request.effects),
        "asked_because": request.reason,
        "in_transaction": request.in_transaction,
        "may_amend": request.may_amend,
        "before": list(request.before),
        "history": [
            {"time": one.time, "what": one.what, "by": one.by, "detail": one.detail} for one in ledger.history(case.id)
        ],
    }
