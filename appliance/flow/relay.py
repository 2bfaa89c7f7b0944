"""One caught connection, accept to close: bytes to events, events through the gate, acts carried out.

The path from `received` to `write` is synchronous: no task and no await stands between a command and its bytes. Only a
hold, a question to control, a handshake or back-pressure leaves it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from appliance.decisions import Approved, Expired, Hold, Modified, Rejected, Verdict, Withdrawn
from appliance.errors import AmendmentError, PeerError, RecordingError, RefusedByControlError, UnavailableError
from appliance.events import (
    NEED_DATA,
    Cancelling,
    Command,
    Event,
    Finished,
    Left,
    NeedData,
    NotUnderstood,
    Opening,
    Own,
    Passage,
)
from appliance.flow.gate import STANDING, Gate
from appliance.flow.gate import Question as DeskQuestion
from appliance.flow.leg import Leg
from appliance.flow.shares import Share, Shares
from appliance.log import trace_of
from appliance.parties import Endpoint, Side
from appliance.protocols.inspector import (
    Act,
    Ask,
    CancelAtTarget,
    Close,
    FastLane,
    Handover,
    Inspector,
    OpenTarget,
    Question,
    RegisterKey,
    Send,
    SetTimer,
    StartTls,
    TlsFacts,
)
from appliance.tls.contexts import Identity

# A side that waits (a hold, a question) is still read so that a client that leaves is noticed, but no further than this.
_WAITING_BYTES_MAX = 1 << 20
# Past the desk's own limit a worker waits this much longer for the desk to say so, then expires the hold by itself.
_DESK_GRACE_SECONDS = 5.0
# A target that does not complete a TCP handshake in this time is down as far as a client is concerned.
_TARGET_SECONDS = 10.0
# What a closing leg may still need to be delivered; a peer that never reads must not keep a flow alive.
_CLOSE_SECONDS = 5.0
# An enumeration looks its members up by name each time.
_CLIENT = Side.CLIENT


class FlowServices(Protocol):
    """What a flow needs of its worker. Calls to control raise UnavailableError where control does not answer, and
    RefusedByControlError where it answers that it will not."""

    async def reply_to(self, flow: Relay, question: Question) -> object:
        """Control's reply to an inspector's question; None where there is none."""

    async def client_identity(self, flow: Relay, alpn: tuple[str, ...]) -> Identity:
        """What we show to clients of that flow's resource."""

    async def connect_target(self, flow: Relay, leg: Leg) -> None:
        """Connect a leg to the flow's destination. Raises OSError."""

    def start_target_tls(self, flow: Relay, leg: Leg, alpn: tuple[str, ...]) -> None:
        """Begin TLS toward the target as the resource says. Raises OSError or ssl.SSLError."""

    async def cancel_at_target(self, flow: Relay, data: bytes, upgrade: bytes) -> None:
        """Send a cancel request on a connection of its own."""

    async def ask_desk(self, flow: Relay, question: DeskQuestion) -> str:
        """Put a held command on the desk; the approval's id."""

    def withdraw(self, approval: str, reason: str) -> None:
        """Take a question back."""

    def amendment_taken(self, approval: str) -> None:
        """A person's version runs."""

    def amendment_refused(self, approval: str, why: str) -> None:
        """A person's version cannot run; the question is open again."""

    def register_key(self, flow: Relay, key: bytes) -> None:
        """Make our cancel key of that flow known."""

    def inspector_for(self, flow: Relay, protocol: str) -> Inspector:
        """A fresh inspector for a protocol that is handed over to."""

    def keeps(self, flow: Relay, size: int) -> None:
        """The flow keeps that many bytes by now, which wait for the rest of their message, their turn or a verdict."""

    def flow_ended(self, flow: Relay, reason: str, trace: str | None) -> None:
        """The flow is over: record it and forget it."""


@dataclass(slots=True, eq=False)
class _Held:
    """A command that waits for a person."""

    command: Command
    hold: Hold
    question: DeskQuestion
    approval: str | None = None
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class _SideState:
    """What the relay keeps of one side."""

    leg: Leg | None = None
    waiting_bytes: int = 0
    has_ended: bool = False
    is_congested: bool = False


class Relay:
    """One flow. `id` names it everywhere; `destination` is where the client wanted to go."""

    __slots__ = (
        "_client",
        "_gate",
        "_held",
        "_inspector",
        "_is_over",
        "_is_pumping",
        "_kept_bytes",
        "_loop",
        "_put_off",
        "_put_off_bytes",
        "_questions",
        "_services",
        "_share",
        "_target",
        "_tasks",
        "_timers",
        "destination",
        "id",
    )

    def __init__(
        self,
        flow: str,
        destination: Endpoint,
        services: FlowServices,
        loop: asyncio.AbstractEventLoop,
        share: Share | None = None,
    ) -> None:
        """`share` is the agent's in the worker's time; without one the flow is alone."""
        self.id = flow
        self._share = share or Shares(loop.call_soon, math.inf).enter("")
        # What has come while the flow waits for its turn, None at the end of a side; None: it does not wait.
        self._put_off: deque[tuple[Side, bytes | None]] | None = None
        self._put_off_bytes = 0
        self.destination = destination
        self._services = services
        self._loop = loop
        self._client = _SideState()
        self._target = _SideState()
        self._held: dict[tuple[Side, int], _Held] = {}
        self._questions = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._is_pumping = False
        self._is_over = False
        self._kept_bytes = 0
        self._inspector: Inspector | None = None
        self._gate: Gate | None = None

    def begin(self, inspector: Inspector, gate: Gate, client: Leg, acts: list[Act]) -> None:
        """Start to read. `acts` are what the inspector wants done first."""
        self._inspector = inspector
        self._gate = gate
        self._client.leg = client
        self._guarded(self._perform, acts)

    # What the legs tell us.

    def connected(self, side: Side) -> None:
        """A leg stands; the client's is known already, the target's is taken up where it was asked for."""

    def received(self, side: Side, data: bytes) -> None:
        """Bytes of a side, in plaintext."""
        if self._is_over:
            return
        if self._put_off is not None or self._share.is_spent:
            self._put_off_bytes += len(data)
            self._wait_for_turn().append((side, data))
            self._tell_kept()
        else:
            self._take(side, data)

    def _take(self, side: Side, data: bytes) -> None:
        began = perf_counter()
        inspector, gate = self._inspector, self._gate
        assert inspector is not None
        assert gate is not None
        lane = inspector.fast_lane
        try:
            if lane is None or not (
                self._hurry(lane, gate, data) if side is _CLIENT else lane.is_away and self._hurry_back(lane, gate, data)
            ):
                self._receive(side, data)
        except Exception as error:  # noqa: BLE001  the border where our own bugs end one flow, closed
            self._break(error)
        self._share.spend(gate.turns.step(side, len(data), began))

    def ended(self, side: Side) -> None:
        """A side sends no more."""
        if self._put_off is not None:
            self._put_off.append((side, None))
        else:
            self._guarded(self._end, side)

    def lost(self, side: Side, reason: str) -> None:
        """A side's connection is gone."""
        if not self._is_over:
            state = self._side(side)
            if not state.has_ended:
                self._guarded(self._end, side)
            if not self._is_over:
                self._finish(f"the {side.value} left: {reason}")

    def handshake_done(self, side: Side, facts: TlsFacts) -> None:
        """TLS stands on that side."""
        self._guarded(self._take_facts, side, facts)

    def broke(self, side: Side, error: PeerError) -> None:
        """A side's TLS is broken."""
        if side is Side.TARGET and not self._is_over and self._inspector is not None:
            self._guarded(self._fail_target, error.said)
        else:
            self._finish(f"the {side.value} broke its protocol: {error.said}")

    def congested(self, side: Side, is_congested: bool) -> None:
        """A side takes bytes more slowly than the other sends them."""
        self._side(side).is_congested = is_congested
        self._steer_reading(side.other)

    # What the worker tells us.

    def decided(self, approval: str, answer: Approved | Rejected | Modified | Expired) -> None:
        """The desk's answer to a held command."""
        for lane, held in self._held.items():
            if held.approval == approval:
                self._guarded(self._take_answer, lane, held, answer)
                return

    def cancelled(self) -> None:
        """Somebody entitled sent a cancel request for this flow."""
        self._guarded(self._cancel)

    def ask_again(self) -> None:
        """The desk has come back: put everything that is held on it once more."""
        for lane, held in list(self._held.items()):
            self._start(self._ask_desk(lane, held))

    def catalogue_stale(self) -> None:
        """What exists at the target has changed."""
        if self._inspector is not None:
            self._inspector.catalogue_stale()

    def shut_down(self, reason: str, advice: str) -> None:
        """End the flow from our side, with a last word to the client."""
        if self._inspector is None:
            self._finish(reason)
        else:
            self._guarded(self._bid_farewell, reason, advice)

    @property
    def bytes_received(self) -> tuple[int, int]:
        """Bytes from the client and from the target, as they came over the wire."""
        client, target = (self._side(side).leg for side in (Side.CLIENT, Side.TARGET))
        return (client.bytes_received if client else 0, target.bytes_received if target else 0)

    # Turns.

    def _wait_for_turn(self) -> deque[tuple[Side, bytes | None]]:
        """Do nothing and read nothing until it is this flow's turn. What comes until then is to be added to the answer."""
        if self._put_off is None:
            self._put_off = deque()
            self._share.wait(self._take_turn)
            self._steer_reading(Side.CLIENT)
            self._steer_reading(Side.TARGET)
        return self._put_off

    def _take_turn(self) -> None:
        """Go on where it was interrupted, then with what has come, for as long as a turn is."""
        came, self._put_off = self._put_off, None
        if self._is_over or came is None:
            return
        began = perf_counter()
        self._guarded(self._pump)
        self._share.spend(perf_counter() - began)
        while came and not self._is_over:
            if self._put_off is not None:
                self._put_off.extend(came)
                break
            side, data = came.popleft()
            if data is None:
                self._guarded(self._end, side)
            else:
                self._put_off_bytes -= len(data)
                self._take(side, data)
            if came and self._put_off is None and perf_counter() - began >= self._share.step_seconds:
                self._wait_for_turn()
        if not self._is_over:
            self._tell_kept()
            self._steer_reading(Side.CLIENT)
            self._steer_reading(Side.TARGET)

    # The synchronous path.

    def _side(self, side: Side) -> _SideState:
        return self._client if side is Side.CLIENT else self._target

    def _guarded(self, step: Callable[..., None], *arguments: object) -> None:
        """Run one step of the flow. Whatever goes wrong in it ends this flow, closed, and no other."""
        if self._is_over:
            return
        try:
            step(*arguments)
        except Exception as error:  # noqa: BLE001  the border where our own bugs end one flow, closed
            self._break(error)

    def _break(self, error: Exception) -> None:
        match error:
            case PeerError():
                self._finish(f"a peer broke its protocol: {error.said}")
            case RecordingError():
                self._finish(f"its record could not be written: {error}", is_reset=True)
            case _:
                self._finish(f"a fault of the gateway: {type(error).__name__}", trace=trace_of(error), is_reset=True)

    def _hurry(self, lane: FastLane, gate: Gate, data: bytes) -> bool:
        """Send one familiar command as it came, judged and recorded like any other. False: it has to be read."""
        familiar = lane.recognise(data)
        if familiar is None:
            return False
        obligations = gate.let_pass(familiar)
        if obligations is None:
            return False
        lane.depart(obligations)
        target = self._target.leg
        assert target is not None
        target.write(data)
        return True

    def _hurry_back(self, lane: FastLane, gate: Gate, data: bytes) -> bool:
        """Give the whole answer to a familiar command as it came, recorded like any other. False: it has to be read."""
        answer = lane.arrive(data)
        if answer is None:
            return False
        gate.note_answer(answer)
        client = self._client.leg
        assert client is not None
        client.write(data)
        return True

    def _receive(self, side: Side, data: bytes) -> None:
        assert self._inspector is not None
        self._inspector.receive(side, data)
        self._pump(side)
        if self._held or self._questions:
            state = self._side(side)
            state.waiting_bytes += len(data)
            if state.waiting_bytes > _WAITING_BYTES_MAX:
                self._steer_reading(side)

    def _end(self, side: Side) -> None:
        state = self._side(side)
        if state.has_ended:
            return
        state.has_ended = True
        assert self._inspector is not None
        if side is Side.CLIENT:
            self._withdraw_all("the client left while it waited")
            if self._is_over:
                return
        self._inspector.end(side)
        self._pump()

    def _pump(self, side: Side = Side.CLIENT) -> None:
        """Carry out every event, or as many as a turn allows; those of `side` first. One side's may free the other's, so
        both are asked until neither has any."""
        if self._is_pumping or self._put_off is not None:
            return
        until = perf_counter() + self._share.step_seconds
        inspector = self._inspector
        assert inspector is not None
        self._is_pumping = True
        try:
            quiet = 0
            while quiet < 2 and not self._is_over:
                event = inspector.next_event(side)
                if event is NEED_DATA:
                    quiet += 1
                    side = side.other
                    continue
                assert not isinstance(event, NeedData)
                quiet = 0
                self._carry(event)
                if perf_counter() >= until:
                    self._wait_for_turn()
                    break
        finally:
            self._is_pumping = False
        if not self._is_over:
            self._tell_kept()

    def _tell_kept(self) -> None:
        assert self._inspector is not None
        kept = self._inspector.waiting_bytes + self._put_off_bytes
        if kept != self._kept_bytes:
            self._kept_bytes = kept
            self._services.keeps(self, kept)

    def _carry(self, event: Event) -> None:
        assert self._inspector is not None
        assert self._gate is not None
        verdict: Verdict = STANDING
        match event:
            case Opening() | Command() | NotUnderstood() | Cancelling():
                verdict = self._gate.judge(event)
                if isinstance(verdict, Hold):
                    if isinstance(event, Command):
                        self._hold(event, verdict)
                    else:
                        verdict = self._gate.refuse_hold(verdict)
            case Passage() | Own() | Finished():
                self._gate.note(event)
            case Left():
                pass
        self._perform(self._inspector.carry_out(event, verdict))

    def _perform(self, acts: list[Act]) -> None:
        for act in acts:
            if self._is_over:
                return
            match act:
                case Send(side=side, data=data):
                    leg = self._side(side).leg
                    if leg is not None:
                        leg.write(data)
                case StartTls():
                    self._begin_tls(act)
                case OpenTarget():
                    # What the client sends before the target stands is bounded as behind a question.
                    self._questions += 1
                    self._start(self._open_target())
                case Ask(question=question):
                    self._questions += 1
                    self._start(self._ask(question))
                case SetTimer(name=name, seconds=seconds):
                    self._set_timer(name, seconds)
                case RegisterKey(key=key):
                    self._services.register_key(self, key)
                case CancelAtTarget(data=data, upgrade=upgrade):
                    self._start(self._services.cancel_at_target(self, data, upgrade))
                case Handover():
                    self._hand_over(act)
                case Close(reason=reason):
                    self._finish(reason)

    def _hand_over(self, act: Handover) -> None:
        assert self._gate is not None
        inspector = self._services.inspector_for(self, act.protocol)
        self._inspector = inspector
        if act.pending:
            inspector.receive(Side.CLIENT, act.pending)
        if self._target.leg is not None:
            self._perform(inspector.target_opened())

    # Holds.

    def _hold(self, command: Command, hold: Hold) -> None:
        assert self._gate is not None
        held = _Held(command, hold, self._gate.question(command, hold))
        lane = (command.side, command.lane)
        self._held[lane] = held
        held.timer = self._loop.call_later(hold.terms.seconds + _DESK_GRACE_SECONDS, self._expire, lane, held)
        self._start(self._ask_desk(lane, held))

    async def _ask_desk(self, lane: tuple[Side, int], held: _Held) -> None:
        try:
            approval = await self._services.ask_desk(self, held.question)
        except RefusedByControlError as error:
            if self._held.get(lane) is held:
                self._guarded(self._settle_unasked, lane, held, str(error))
            return
        except UnavailableError:
            return  # asked again when the desk is back; until then only time can end it
        if self._held.get(lane) is held:
            held.approval = approval
        else:
            self._services.withdraw(approval, "the command it was asked for no longer waits")

    def _expire(self, lane: tuple[Side, int], held: _Held) -> None:
        if self._held.get(lane) is held:
            self._guarded(self._settle, lane, held, Expired(held.approval or "never asked"))

    def _take_answer(self, lane: tuple[Side, int], held: _Held, answer: Approved | Rejected | Modified | Expired) -> None:
        if isinstance(answer, Modified):
            self._take_amendment(lane, held, answer)
        else:
            self._settle(lane, held, answer)

    def _settle(self, lane: tuple[Side, int], held: _Held, answer: Approved | Rejected | Expired | Withdrawn) -> None:
        assert self._gate is not None
        assert self._inspector is not None
        self._release(lane, held)
        verdict = self._gate.settle(held.command, held.hold, answer)
        self._perform(self._inspector.carry_out(held.command, verdict))
        self._pump()

    def _settle_unasked(self, lane: tuple[Side, int], held: _Held, reason: str) -> None:
        assert self._gate is not None
        assert self._inspector is not None
        self._release(lane, held)
        refusal = self._gate.settle_unasked(held.command, held.hold, held.approval or "never asked", reason)
        self._perform(self._inspector.carry_out(held.command, refusal))
        self._pump()

    def _take_amendment(self, lane: tuple[Side, int], held: _Held, answer: Modified) -> None:
        assert self._gate is not None
        assert self._inspector is not None
        try:
            amended = self._inspector.amend(held.command, answer.text)
        except AmendmentError as error:
            self._services.amendment_refused(answer.approval, str(error))
            return
        outcome = self._gate.settle_modified(held.command, amended, answer)
        if isinstance(outcome, str):
            self._services.amendment_refused(answer.approval, outcome)
            return
        self._release(lane, held)
        self._services.amendment_taken(answer.approval)
        self._perform(self._inspector.carry_out(amended, outcome))
        self._pump()

    def _release(self, lane: tuple[Side, int], held: _Held) -> None:
        del self._held[lane]
        if held.timer is not None:
            held.timer.cancel()
        if not self._held:
            self._stop_waiting()

    def _withdraw_all(self, reason: str) -> None:
        for lane, held in list(self._held.items()):
            if held.approval is not None:
                self._services.withdraw(held.approval, reason)
            self._settle(lane, held, Withdrawn(held.approval or "never asked", reason))

    def _cancel(self) -> None:
        assert self._inspector is not None
        if self._held:
            self._withdraw_all("cancelled by the client")
        else:
            self._perform(self._inspector.cancel())
            self._pump()

    # Questions to control.

    async def _ask(self, question: Question) -> None:
        try:
            reply = await self._services.reply_to(self, question)
        except UnavailableError:
            reply = None
        self._end_question()
        self._guarded(self._take_reply, question, reply)

    def _end_question(self) -> None:
        self._questions -= 1
        if not self._questions and not self._held:
            self._stop_waiting()

    def _take_reply(self, question: Question, reply: object) -> None:
        assert self._inspector is not None
        self._perform(self._inspector.answer(question, reply))
        self._pump()

    # The target's leg and TLS.

    async def _open_target(self) -> None:
        leg = Leg(Side.TARGET, self)
        try:
            async with asyncio.timeout(_TARGET_SECONDS):
                await self._services.connect_target(self, leg)
        except (OSError, TimeoutError) as error:
            self._end_question()
            self._guarded(self._fail_target, str(error) or "no answer in time")
            return
        if self._is_over:
            leg.reset()
            return
        self._end_question()
        self._target.leg = leg
        self._guarded(self._greet_target)

    def _greet_target(self) -> None:
        assert self._inspector is not None
        self._perform(self._inspector.target_opened())
        self._pump()

    def _fail_target(self, reason: str) -> None:
        assert self._inspector is not None
        self._perform(self._inspector.target_failed(reason))
        self._pump()

    def _begin_tls(self, act: StartTls) -> None:
        leg = self._side(act.side).leg
        assert leg is not None
        leg.await_tls(act.pending)
        if act.side is Side.CLIENT:
            self._start(self._begin_client_tls(leg, act.alpn))
        else:
            try:
                self._services.start_target_tls(self, leg, act.alpn)
            except OSError as error:  # ssl.SSLError is one
                self._fail_target(f"TLS toward the target cannot be set up: {error}")

    async def _begin_client_tls(self, leg: Leg, alpn: tuple[str, ...]) -> None:
        try:
            identity = await self._services.client_identity(self, alpn)
        except UnavailableError as error:
            self._finish(f"no certificate to show: {error}", is_reset=True)
            return
        self._guarded(self._show_certificate, leg, identity)

    def _show_certificate(self, leg: Leg, identity: Identity) -> None:
        leg.start_tls(identity.context, server_side=True, certificate=identity.certificate)

    def _take_facts(self, side: Side, facts: TlsFacts) -> None:
        assert self._inspector is not None
        self._perform(self._inspector.tls_started(side, facts))
        self._pump()

    # Time, pressure and the end.

    def _set_timer(self, name: str, seconds: float) -> None:
        old = self._timers.pop(name, None)
        if old is not None:
            old.cancel()
        if seconds > 0:
            self._timers[name] = self._loop.call_later(seconds, self._guarded, self._ring, name)

    def _ring(self, name: str) -> None:
        assert self._inspector is not None
        self._timers.pop(name, None)
        self._perform(self._inspector.timer(name))
        self._pump()

    def _bid_farewell(self, reason: str, advice: str) -> None:
        assert self._inspector is not None
        self._withdraw_all(reason)
        if not self._is_over:
            self._perform(self._inspector.farewell(reason, advice))
            self._pump()

    def _stop_waiting(self) -> None:
        for side in (Side.CLIENT, Side.TARGET):
            self._side(side).waiting_bytes = 0
            self._steer_reading(side)

    def _steer_reading(self, side: Side) -> None:
        """Read a side unless the other cannot take more, it has sent enough while it waits, or it is not the flow's turn."""
        state = self._side(side)
        if state.leg is None:
            return
        is_full = state.waiting_bytes > _WAITING_BYTES_MAX
        if is_full or self._put_off is not None or self._side(side.other).is_congested:
            state.leg.pause_reading()
        else:
            state.leg.resume_reading()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _finish(self, reason: str, *, trace: str | None = None, is_reset: bool = False) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._put_off = None
        for held in self._held.values():
            if held.timer is not None:
                held.timer.cancel()
            if held.approval is not None:
                self._services.withdraw(held.approval, reason)
        self._held.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        current = asyncio.current_task(self._loop) if self._tasks else None
        for task in self._tasks:
            if task is not current:
                task.cancel()
        for state in (self._client, self._target):
            if state.leg is not None:
                if is_reset:
                    state.leg.reset()
                else:
                    state.leg.close()
                    self._loop.call_later(_CLOSE_SECONDS, state.leg.reset)
        self._services.flow_ended(self, reason, trace)
