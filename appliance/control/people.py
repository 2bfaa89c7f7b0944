"""What people may ask of control: the verbs of the command line and the dashboard, and who may use which.

Whoever connects is who the kernel says (peer credentials): root, a user that the configuration names as approver, or the
dashboard's user. That one is nobody by itself: each of its requests carries the session of whoever is signed in, and it may
do what that person may. An answer is JSON: {"ok": true, "result": …} or {"ok": false, "reason": …, "kind": …}, where the
kind is one of REFUSED, FORBIDDEN, SIGNED_OUT and MUST_CHANGE; a Failure means that the request made no sense.
"""

from __future__ import annotations

import asyncio
import pwd
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import IntEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import msgspec

from appliance.approvals.desk import AMENDING_SECONDS, Case, Desk, Person, Refusal, State
from appliance.approvals.ledger import Ledger
from appliance.control.accounts import Account, Accounts, Opened, Role, Session, SignedOut, csrf_of
from appliance.control.blast import is_looked_into
from appliance.control.catalogues import Catalogues
from appliance.control.changes import WAIT_SECONDS_MAX, Changes, Sort
from appliance.control.health import Health, check_data
from appliance.control.inventory import list_agents, list_resources
from appliance.control.log import Level, log
from appliance.control.metrics import Metrics
from appliance.control.pages import FLOW_CHARACTERS_MAX, Pages
from appliance.control.policies import InForce
from appliance.control.previewing import Previewing
from appliance.control.recorder import Recorder
from appliance.control.rulebook import Rulebook
from appliance.control.tallies import Tallies
from appliance.control.workers import Workers
from appliance.errors import RecordingError, SluicegateError
from appliance.ipc.channel import Callbacks, Channel
from appliance.ipc.messages import Leaf, Message, Request
from appliance.recording.index import Wanted
from appliance.settings import Settings

CHANNELS_MAX = 256
CHANNELS_PER_USER_MAX = 64
CALLS_PER_CHANNEL_MAX = 512
"""The dashboard has one channel for all its browsers, and each may wait for changes."""

DRAIN_SECONDS_MAX = 0.1
"""How long a timeline of a live flow waits for what was written a moment ago."""

REFUSED = "refused"
FORBIDDEN = "forbidden"
SIGNED_OUT = "signed_out"
MUST_CHANGE = "must_change"

_Name = Annotated[str, msgspec.Meta(max_length=64)]
_Text = Annotated[str, msgspec.Meta(max_length=2048)]
_Groups = Annotated[list[_Text], msgspec.Meta(max_length=64)]


class Rank(IntEnum):
    """How much somebody may do; each rank may what those before it may. NOBODY is the dashboard before a sign-in."""

    NOBODY = 0
    VIEWER = 1
    APPROVER = 2
    ADMINISTRATOR = 3
    ROOT = 4


_RANKS = {Role.VIEWER: Rank.VIEWER, Role.APPROVER: Rank.APPROVER, Role.ADMINISTRATOR: Rank.ADMINISTRATOR}


class Forbidden(Refusal):
    """Their rank is not enough."""


class MustChange(Refusal):
    """Their password is a one-time one, and they have to set another first."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: the person as the desk knows people, its rank, and, at the dashboard, the session with its account."""

    person: Person
    rank: Rank
    token: str = ""
    session: Session | None = None
    account: Account | None = None

    @property
    def signed_in(self) -> Session:
        """Raises SignedOut where there is no session: this machine's own users have none."""
        if self.session is None:
            raise SignedOut("only who is signed in at the dashboard has a session")
        return self.session


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


class _Previewing(msgspec.Struct, forbid_unknown_fields=True):
    approval: str
    text: str


class _Explaining(msgspec.Struct, forbid_unknown_fields=True):
    agent: str
    phase: str
    resource: str
    database: str
    command: str


class _SigningIn(msgspec.Struct, forbid_unknown_fields=True):
    """`address` is the browser's, for what slows guessing down."""

    name: _Text
    password: Annotated[str, msgspec.Meta(max_length=4096)]
    address: _Text = ""


class _Redeeming(msgspec.Struct, forbid_unknown_fields=True):
    ticket: _Text
    address: _Text = ""


class _Ticketing(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name = ""


class _ChangingPassword(msgspec.Struct, forbid_unknown_fields=True):
    old: Annotated[str, msgspec.Meta(max_length=4096)]
    new: Annotated[str, msgspec.Meta(max_length=4096)]


class _Adding(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name
    role: _Name
    groups: _Groups = []


class _Altering(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name
    role: _Name | None = None
    groups: _Groups | None = None


class _Naming(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name


class _Paging(msgspec.Struct, forbid_unknown_fields=True):
    """`before` is the `next` of an earlier page; `since`: active at that time (seconds) or later."""

    before: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    limit: int = 50
    agent: _Text | None = None
    resource: _Text | None = None
    outcome: _Text | None = None
    since: Annotated[float, msgspec.Meta(ge=0, le=1e10)] = 0.0
    live: bool = False


class _ShowingFlow(msgspec.Struct, forbid_unknown_fields=True):
    """`after` is the `next` of an earlier page."""

    flow: Annotated[str, msgspec.Meta(max_length=FLOW_CHARACTERS_MAX)]
    after: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    limit: int = 200


class _Following(msgspec.Struct, forbid_unknown_fields=True):
    """Serials of an earlier answer, or null to be told them at once."""

    after: dict[str, int] | None = None
    seconds: float = 30.0


class People:
    """The people's socket. The callables are control's: `policy` is the one in force, `status` answers what is to be shown,
    `reload` reads the policy anew and answers what came of it, `explain` says why a command would get its verdict,
    `dashboard_leaf` what the dashboard shows to browsers."""

    def __init__(
        self,
        settings: Settings,
        workers: Workers,
        recorder: Recorder,
        ledger: Ledger,
        accounts: Accounts,
        changes: Changes,
        pages: Pages,
        previewing: Previewing,
        policy: Callable[[], InForce],
        status: Callable[[], dict[str, Any]],
        reload: Callable[[], dict[str, Any]],
        explain: Callable[[str, str, str, str, str], Awaitable[dict[str, Any]]],
        dashboard_leaf: Callable[[], Leaf],
        start: Callable[[Coroutine[None, None, None]], object],
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._recorder = recorder
        self._ledger = ledger
        self._accounts = accounts
        self._changes = changes
        self._pages = pages
        self._previewing = previewing
        self._policy = policy
        self._rulebook = Rulebook()
        self._status = status
        self._reload = reload
        self._explain = explain
        self._dashboard_leaf = dashboard_leaf
        self._start = start
        self._channels: dict[Channel, int] = {}
        self._calls: dict[Channel, int] = {}
        self.desk: Desk
        self.metrics: Metrics
        self.tallies: Tallies

    def join(self, desk: Desk, metrics: Metrics, tallies: Tallies, health: Health, catalogues: Catalogues) -> None:
        """Give the desk, which itself tells us of every move, what is counted, how things stand, and what exists where."""
        self.desk = desk
        self.metrics = metrics
        self.tallies = tallies
        self.health = health
        self.catalogues = catalogues

    def moved(self, case: Case) -> None:  # noqa: ARG002 - every move wakes everybody who waits
        """Something happened on the desk."""
        self._changes.move(Sort.APPROVALS)

    def accept(self, channel: Channel, uid: int, gid: int, pid: int) -> Callbacks | None:  # noqa: ARG002
        """For ipc.channel.serve."""
        asker = asker_of(uid, self._settings)
        of_user = sum(other == uid for other in self._channels.values())
        if asker is None or len(self._channels) >= CHANNELS_MAX or of_user >= CHANNELS_PER_USER_MAX:
            log("person refused", level=Level.WARNING, uid=uid, pid=pid)
            return None
        self._channels[channel] = uid
        return Callbacks(lambda message: self._take(channel, asker, message), lambda: self._lose(channel))

    def stop(self) -> None:
        """End all channels."""
        for channel in list(self._channels):
            channel.close()

    def _lose(self, channel: Channel) -> None:
        self._channels.pop(channel, None)
        self._calls.pop(channel, None)

    def _take(self, channel: Channel, asker: Asker, message: Message) -> None:
        if not isinstance(message, Request):
            channel.abort()
            return
        verb = VERBS.get(message.verb)
        if verb is None:
            channel.fail(message.call, f"there is no verb {message.verb!r}")
            return
        if self._calls.get(channel, 0) >= CALLS_PER_CHANNEL_MAX:
            channel.fail(message.call, f"more than {CALLS_PER_CHANNEL_MAX} requests at a time")
            return
        self._calls[channel] = self._calls.get(channel, 0) + 1
        self._start(self._serve(channel, asker, message, verb))

    async def _serve(self, channel: Channel, asker: Asker, request: Request, verb: Verb) -> None:
        try:
            arguments = msgspec.json.decode(request.arguments, type=verb.arguments)
        except msgspec.DecodeError as error:
            channel.fail(request.call, f"the arguments of {request.verb} are wrong: {error}")
        else:
            channel.reply(request.call, msgspec.json.encode(await self._answer(asker, request, verb, arguments)))
        finally:
            if channel in self._calls:
                self._calls[channel] -= 1

    async def _answer(self, peer: Asker, request: Request, verb: Verb, arguments: Any) -> dict[str, Any]:
        try:
            asker = self._signed_in(peer, request, verb)
            result = await verb.carry_out(self, asker, arguments)
            if verb.waits and asker.session is not None:
                # What was asked for before a sign-out is not for who is there after it.
                self._accounts.find(asker.token, time.time())
        except Refusal as refusal:
            return {"ok": False, "reason": str(refusal), "kind": _KINDS.get(type(refusal), REFUSED)}
        except SluicegateError as error:
            log("request failed", level=Level.WARNING, verb=request.verb, by=peer.person.name, reason=error)
            return {"ok": False, "reason": str(error), "kind": REFUSED}
        return {"ok": True, "result": result}

    def _signed_in(self, peer: Asker, request: Request, verb: Verb) -> Asker:
        """Who asks for that verb. Raises Refusal where they may not."""
        asker = peer
        if peer.rank is Rank.NOBODY and verb.least is not Rank.NOBODY:
            now = time.time()
            session, account = self._accounts.find(request.session, now)
            if account.must_change and not verb.before_change and not session.by_link:
                raise MustChange("this password was for one time; set your own first")
            if not verb.waits and not request.is_unattended:
                self._accounts.touch(session, now)
            asker = Asker(account.person, _RANKS[account.role], request.session, session, account)
        if asker.rank < verb.least:
            raise Forbidden(f"{_WHO_MAY[verb.least]} may do that, and {asker.person.name} may not")
        return asker

    # The verbs.

    async def _list(self, _asker: Asker, arguments: _Listing) -> dict[str, Any]:
        now = time.time()
        settled = self._ledger.settled(arguments.settled) if arguments.settled > 0 else []
        return {
            "serial": self._changes.serial(Sort.APPROVALS),
            "approvals": [_summary(case, now) for case in self.desk.waiting()],
            "settled": [_summary(case, now) for case in settled],
        }

    async def _wait(self, asker: Asker, arguments: _Waiting) -> dict[str, Any]:
        changes = self._changes
        try:
            async with asyncio.timeout(min(max(arguments.seconds, 0.0), WAIT_SECONDS_MAX)):
                while arguments.after == changes.serial(Sort.APPROVALS):
                    await changes.next_move()
        except TimeoutError:
            pass
        return await self._list(asker, _Listing())

    async def _show(self, asker: Asker, arguments: _Showing) -> dict[str, Any]:
        now = time.time()
        if arguments.exact:
            case = self.desk.show_exact(arguments.approval, asker.person, now)
            return _whole(case, now, self._ledger) | {"exact": case.request.exact}
        found = self.desk.case(arguments.approval) or self._ledger.case(arguments.approval)
        if found is None:
            raise Refusal(f"there is no approval {arguments.approval}")
        return _whole(found, now, self._ledger)

    async def _approve(self, asker: Asker, answer: _Answering) -> dict[str, Any]:
        now = time.time()
        return _decided(self.desk.approve(answer.approval, asker.person, answer.seen, answer.reason, now), now)

    async def _reject(self, asker: Asker, answer: _Answering) -> dict[str, Any]:
        now = time.time()
        return _decided(self.desk.reject(answer.approval, asker.person, answer.seen, answer.reason, now), now)

    async def _edit(self, asker: Asker, answer: _Answering) -> dict[str, Any]:
        """Answers once the worker has judged the changed text: settled as modified, or open again with `why`."""
        self.desk.edit(answer.approval, asker.person, answer.seen, answer.text, answer.reason, time.time())
        try:
            async with asyncio.timeout(2 * AMENDING_SECONDS):
                while (case := self.desk.case(answer.approval)) is not None and case.state is State.AMENDING:
                    await self._changes.next_move()
        except TimeoutError:
            raise Refusal("the worker that holds the command did not judge the changed text in time") from None
        case = self.desk.case(answer.approval) or self._ledger.case(answer.approval)
        if case is None or case.outcome != "modified":
            raise Refusal(case.why or f"{case.outcome}: {case.reason}" if case is not None else "the approval is gone")
        return _decided(case, time.time())

    async def _preview(self, asker: Asker, what: _Previewing) -> dict[str, Any]:
        """What the text would get. Nothing comes of it, and nobody but who may answer the approval is told."""
        case = self.desk.answerable(what.approval, asker.person, time.time())
        who = asker.session.key if asker.session is not None else f"user {asker.person.name}"
        return await self._previewing.preview(who, case, asker.person, what.text)

    async def _flows(self, _asker: Asker, _arguments: _Nothing) -> list[dict[str, Any]]:
        live = self._workers.live_flows()
        held = {case.request.flow for case in self.desk.waiting()}
        try:
            known = await self._pages.counts(live)
        except RecordingError:
            known = {}  # who is there is known without the recording
        return [
            {
                "flow": flow.flow,
                "principal": str(flow.principal) if flow.principal else None,
                "resource": flow.resource,
                "database": flow.database,
                "source": str(flow.source),
                "destination": str(flow.destination),
                "time": flow.time,
                "worker": index,
                "held": flow.flow in held,
                "commands": known[flow.flow].commands if flow.flow in known else None,
                "last": known[flow.flow].last if flow.flow in known else None,
            }
            for flow, index in live.values()
        ]

    async def _say_status(self, _asker: Asker, _arguments: _Nothing) -> dict[str, Any]:
        return self._status()

    async def _show_metrics(self, _asker: Asker, _arguments: _Nothing) -> dict[str, Any]:
        return {"text": self.metrics.text()}

    async def _drain(self, _asker: Asker, _arguments: _Nothing) -> dict[str, Any]:
        return {"records": await self._recorder.drain_all()}

    async def _reload_policy(self, _asker: Asker, _arguments: _Nothing) -> dict[str, Any]:
        return self._reload()

    async def _explain_command(self, _asker: Asker, what: _Explaining) -> dict[str, Any]:
        return await self._explain(what.agent, what.phase, what.resource, what.database, what.command)

    async def _list_flows(self, _asker: Asker, what: _Paging) -> dict[str, Any]:
        wanted = Wanted(what.agent, what.resource, what.outcome, int(what.since * 1e9))
        return await self._pages.list(what.before, what.limit, wanted, self._workers.live_flows(), what.live)

    async def _show_flow(self, _asker: Asker, what: _ShowingFlow) -> dict[str, Any]:
        live = self._workers.live_flows()
        if what.flow in live:
            await self._recorder.drain_soon(DRAIN_SECONDS_MAX)
        return await self._pages.show(what.flow, what.after, what.limit, live)

    async def _show_policy(self, _asker: Asker, _arguments: _Nothing) -> dict[str, Any]:
        state = self._status()["policy"]
        return {
            "version": state["version"],
            "loaded": state["rules"],
            "fault": state["fault"],
            "since": state["since"],
            "files": self._rulebook.files(self._policy(), self.tallies.hits()),
        }

    async def _show_health(self, _asker: Asker, _arguments: _Nothing) -> dict[str, Any]:
        return {"checks": [check_data(check) for check in self.health.checks()]}

    async def _list_agents(self, _asker: Asker, _arguments: _Nothing) -> list[dict[str, Any]]:
        return list_agents(self._settings, (flow for flow, _ in self._workers.live_flows().values()))

    async def _list_resources(self, _asker: Asker, _arguments: _Nothing) -> list[dict[str, Any]]:
        return list_resources(self._settings, self.catalogues.states())

    async def _follow(self, _asker: Asker, what: _Following) -> dict[str, Any]:
        return {"serials": await self._changes.wait(what.after, what.seconds)}

    async def _give_leaf(self, asker: Asker, _arguments: _Nothing) -> dict[str, Any]:
        # With its key, so it is for the dashboard's own process alone.
        if asker.rank not in (Rank.NOBODY, Rank.ROOT):
            raise Forbidden(f"only the dashboard is given its certificate's key, and {asker.person.name} is not")
        leaf = self._dashboard_leaf()
        return {"chain": leaf.chain.decode(), "key": leaf.key.decode()}

    async def _greet(self, _asker: Asker, _arguments: _Nothing) -> dict[str, Any]:
        return {"version": _version(), "has_people": self._accounts.has_people}

    async def _sign_in(self, _asker: Asker, who: _SigningIn) -> dict[str, Any]:
        return _opened(await self._accounts.sign_in(who.name, who.password, who.address, time.time(), time.monotonic()))

    async def _redeem(self, _asker: Asker, what: _Redeeming) -> dict[str, Any]:
        return _opened(self._accounts.redeem(what.ticket, what.address, time.time()))

    async def _make_ticket(self, _asker: Asker, what: _Ticketing) -> dict[str, Any]:
        ticket, name, expires = self._accounts.make_ticket(what.name, time.time())
        return {"ticket": ticket, "name": name, "expires": expires}

    async def _say_who(self, asker: Asker, _arguments: _Nothing) -> dict[str, Any]:
        if asker.account is None or asker.session is None:
            role = _RANK_ROLES[asker.rank]
            person = {"name": asker.person.name, "role": role.value, "groups": sorted(asker.person.groups)}
            return {"person": person, "must_change": False, "expires": None, "csrf": ""}
        return _session_data(asker.account, asker.session, asker.token)

    async def _sign_out(self, asker: Asker, _arguments: _Nothing) -> dict[str, Any]:
        self._accounts.sign_out(asker.signed_in)
        return {}

    async def _change_password(self, asker: Asker, what: _ChangingPassword) -> dict[str, Any]:
        session, now = asker.signed_in, time.time()
        return _opened(await self._accounts.change_password(session, what.old, what.new, now, time.monotonic()))

    async def _list_people(self, _asker: Asker, _arguments: _Nothing) -> list[dict[str, Any]]:
        return [_account_data(account) for account in self._accounts.listed()]

    async def _add_person(self, asker: Asker, who: _Adding) -> dict[str, Any]:
        return {"password": await self._accounts.add(who.name, who.role, who.groups, asker.person.name, time.time())}

    async def _alter_person(self, asker: Asker, who: _Altering) -> dict[str, Any]:
        return _account_data(self._accounts.change(who.name, who.role, who.groups, asker.person.name))

    async def _reset_person(self, asker: Asker, who: _Naming) -> dict[str, Any]:
        return {"password": await self._accounts.reset(who.name, asker.person.name)}

    async def _remove_person(self, asker: Asker, who: _Naming) -> dict[str, Any]:
        self._accounts.remove(who.name, asker.person.name)
        return {}


@dataclass(frozen=True, slots=True)
class Verb:
    """What may be asked: the shape of its arguments, what carries it out, and the least rank that may ask. `waits`: it may
    take long, and does not count as use of a session. `before_change`: also with a one-time password."""

    arguments: type[Any]
    carry_out: Callable[[People, Asker, Any], Awaitable[Any]]
    least: Rank
    waits: bool = False
    before_change: bool = False


VERBS: dict[str, Verb] = {
    "approvals.list": Verb(_Listing, People._list, Rank.VIEWER),
    "approvals.wait": Verb(_Waiting, People._wait, Rank.VIEWER, waits=True),
    "approvals.show": Verb(_Showing, People._show, Rank.VIEWER),
    "approvals.approve": Verb(_Answering, People._approve, Rank.APPROVER),
    "approvals.reject": Verb(_Answering, People._reject, Rank.APPROVER),
    "approvals.edit": Verb(_Answering, People._edit, Rank.APPROVER),
    "approvals.preview": Verb(_Previewing, People._preview, Rank.APPROVER),
    "changes.wait": Verb(_Following, People._follow, Rank.VIEWER, waits=True),
    "flows.list": Verb(_Paging, People._list_flows, Rank.VIEWER),
    "flows.show": Verb(_ShowingFlow, People._show_flow, Rank.VIEWER),
    "flows.live": Verb(_Nothing, People._flows, Rank.VIEWER),
    "status": Verb(_Nothing, People._say_status, Rank.VIEWER),
    # Nothing in it is secret: the dashboard shows it to whoever scrapes.
    "metrics.show": Verb(_Nothing, People._show_metrics, Rank.NOBODY),
    "drain": Verb(_Nothing, People._drain, Rank.APPROVER),
    "policy.show": Verb(_Nothing, People._show_policy, Rank.VIEWER),
    "health.show": Verb(_Nothing, People._show_health, Rank.VIEWER),
    "agents.list": Verb(_Nothing, People._list_agents, Rank.VIEWER),
    "resources.list": Verb(_Nothing, People._list_resources, Rank.VIEWER),
    "policy.reload": Verb(_Nothing, People._reload_policy, Rank.ADMINISTRATOR),
    "policy.explain": Verb(_Explaining, People._explain_command, Rank.APPROVER),
    "dashboard.leaf": Verb(_Nothing, People._give_leaf, Rank.NOBODY),
    "dashboard.hello": Verb(_Nothing, People._greet, Rank.NOBODY),
    "session.open": Verb(_SigningIn, People._sign_in, Rank.NOBODY),
    "session.redeem": Verb(_Redeeming, People._redeem, Rank.NOBODY),
    "session.ticket": Verb(_Ticketing, People._make_ticket, Rank.ROOT),
    "session.who": Verb(_Nothing, People._say_who, Rank.VIEWER, before_change=True),
    "session.close": Verb(_Nothing, People._sign_out, Rank.VIEWER, before_change=True),
    "session.password": Verb(_ChangingPassword, People._change_password, Rank.VIEWER, before_change=True),
    "people.list": Verb(_Nothing, People._list_people, Rank.ADMINISTRATOR),
    "people.add": Verb(_Adding, People._add_person, Rank.ADMINISTRATOR),
    "people.change": Verb(_Altering, People._alter_person, Rank.ADMINISTRATOR),
    "people.reset": Verb(_Naming, People._reset_person, Rank.ADMINISTRATOR),
    "people.remove": Verb(_Naming, People._remove_person, Rank.ADMINISTRATOR),
}

_KINDS: dict[type[Refusal], str] = {SignedOut: SIGNED_OUT, Forbidden: FORBIDDEN, MustChange: MUST_CHANGE}
_WHO_MAY = {
    Rank.VIEWER: "who is signed in",
    Rank.APPROVER: "approvers and administrators",
    Rank.ADMINISTRATOR: "only administrators",
    Rank.ROOT: "only root on the appliance",
}
_RANK_ROLES = {
    Rank.APPROVER: Role.APPROVER,
    Rank.ADMINISTRATOR: Role.ADMINISTRATOR,
    Rank.ROOT: Role.ADMINISTRATOR,
}


def asker_of(uid: int, settings: Settings) -> Asker | None:
    """Who that user of this machine is before any session: the dashboard (nobody by itself), root, an approver, or None."""
    if uid == settings.dashboard_uid and uid != 0:
        return Asker(Person("the dashboard", frozenset(), is_approver=False), Rank.NOBODY)
    person = person_of(uid, settings)
    if person is None:
        return None
    return Asker(person, Rank.ROOT if person.is_administrator else Rank.APPROVER)


def reserved_names(settings: Settings) -> frozenset[str]:
    """Names that mean users of this machine in what is recorded."""
    return frozenset({"root", *(approver.user for approver in settings.approvers)})


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


def _decided(case: Case, now: float) -> dict[str, Any]:
    log("approval decided", approval=case.id, outcome=case.outcome or case.state.value, by=case.by)
    return _summary(case, now)


def _account_data(account: Account) -> dict[str, Any]:
    return {
        "name": account.name,
        "role": account.role.value,
        "groups": sorted(account.groups),
        "created": account.created,
        "last_seen": account.last_seen,
        "must_change": account.must_change,
    }


def _session_data(account: Account, session: Session, token: str) -> dict[str, Any]:
    return {
        "person": {"name": account.name, "role": account.role.value, "groups": sorted(account.groups)},
        "must_change": account.must_change and not session.by_link,
        "expires": session.expires(),
        "csrf": csrf_of(token),
    }


def _opened(opened: Opened) -> dict[str, Any]:
    return {"token": opened.token} | _session_data(opened.account, opened.session, opened.token)


def _version() -> str:
    try:
        return version("sluicegate")
    except PackageNotFoundError:
        return "unknown"


def _blast(case: Case) -> list[dict[str, str]] | None:
    """The figures of a held command; None while they are being worked out."""
    if case.blast is None:
        return None if case.state is not State.SETTLED and is_looked_into(case.request) else []
    return [{"label": one.label, "value": one.value, "detail": one.detail, "state": one.state.value} for one in case.blast]


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
        "blast": _blast(case),
        "history": [
            {"time": one.time, "what": one.what, "by": one.by, "detail": one.detail} for one in ledger.history(case.id)
        ],
    }
