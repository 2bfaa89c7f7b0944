"""Plays the relay and a scripted policy for an inspector: bytes in, bytes out, and what happened on the way."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from appliance.decisions import Forward, Hold, HoldTerms, Obligations, Refuse, RuleReference, Verdict
from appliance.events import Command, Event, Finished, NeedData, NotUnderstood, Opening, Own, Passage
from appliance.parties import Side
from appliance.protocols.inspector import (
    Act,
    Ask,
    CancelAtTarget,
    Close,
    Inspector,
    OpenTarget,
    Question,
    RegisterKey,
    Send,
    SetTimer,
)

RULE = RuleReference("test-rule", "policy.yaml", 7)
ALLOW = Forward(RULE)


def refuse(reason: str = "not for agents") -> Refuse:
    """A refusal by the test's rule."""
    return Refuse(RULE, reason, "ask a person")


def hold(reason: str = "a person decides", obligations: Obligations | None = None) -> Hold:
    """A hold by the test's rule."""
    return Hold(RULE, reason, HoldTerms(seconds=60.0), obligations or Obligations())


Policy = Callable[[Command], Verdict]
Answering = Callable[[Question], object]


@dataclass
class Driver:
    """One flow. `target_opened` connects what `to_target` goes to; a fake target needs none."""

    inspector: Inspector
    policy: Policy
    answering: Answering
    to_client: bytearray = field(default_factory=bytearray)
    to_target: bytearray = field(default_factory=bytearray)
    events: list[Event] = field(default_factory=list)
    recorded: list[Event] = field(default_factory=list)
    held: Command | None = None
    is_open: bool = False
    closed: str | None = None
    cancels: list[CancelAtTarget] = field(default_factory=list)
    key: bytes = b""
    open_target: Callable[[], None] = lambda: None

    def receive(self, side: Side, data: bytes) -> None:
        """Bytes of a side."""
        if self.closed is None:
            self.inspector.receive(side, data)
            self.pump()

    def end(self, side: Side) -> None:
        """A side sends no more."""
        if self.closed is None:
            self.inspector.end(side)
            self.pump()

    def settle(self, verdict: Verdict) -> None:
        """A person's answer to what is held."""
        command, self.held = self.held, None
        assert command is not None
        self.perform(self.inspector.carry_out(command, verdict))
        self.pump()

    def amend(self, text: str) -> None:
        """A person puts another text in place of what is held, and policy lets it."""
        assert self.held is not None
        amended = self.inspector.amend(self.held, text)
        self.recorded.append(amended)
        self.held = None
        self.perform(self.inspector.carry_out(amended, Forward(RULE, approval="a1", approver="ann")))
        self.pump()

    def pump(self) -> None:
        """Carry out every event there is."""
        is_quiet = False
        while not is_quiet and self.closed is None:
            is_quiet = True
            for side in Side:
                while self.closed is None:
                    event = self.inspector.next_event(side)
                    if isinstance(event, NeedData):
                        break
                    is_quiet = False
                    self._carry(event)

    def _carry(self, event: Event) -> None:
        self.events.append(event)
        verdict: Verdict = ALLOW
        if isinstance(event, Command | Own | Opening | NotUnderstood) or (isinstance(event, Passage) and event.note):
            self.recorded.append(event)
        if isinstance(event, Command):
            verdict = self.policy(event)
            if isinstance(verdict, Hold):
                if event.may_hold:
                    self.held = event
                else:
                    verdict = Forward(verdict.rule, verdict.obligations)
        elif isinstance(event, NotUnderstood):
            verdict = refuse()
        self.perform(self.inspector.carry_out(event, verdict))

    def perform(self, acts: list[Act]) -> None:
        """Carry out acts."""
        for act in acts:
            match act:
                case Send(side=Side.CLIENT, data=data):
                    self.to_client += data
                case Send(data=data):
                    self.to_target += data
                case Ask(question=question):
                    self.perform(self.inspector.answer(question, self.answering(question)))
                case OpenTarget():
                    self.is_open = True
                    self.open_target()
                    self.perform(self.inspector.target_opened())
                case CancelAtTarget():
                    self.cancels.append(act)
                case RegisterKey(key=key):
                    self.key = key
                case SetTimer():
                    pass
                case Close(reason=reason):
                    self.closed = reason
                case _:
                    raise AssertionError(f"an act that these tests do not play: {act}")

    def taken_by_client(self) -> bytes:
        """What the client has received since the last call."""
        taken = bytes(self.to_client)
        self.to_client.clear()
        return taken

    def taken_by_target(self) -> bytes:
        """What the target has received since the last call."""
        taken = bytes(self.to_target)
        self.to_target.clear()
        return taken

    def commands(self) -> list[Command]:
        """Every command that was given."""
        return [event for event in self.events if isinstance(event, Command)]

    def finished(self) -> list[Finished]:
        """Every answer that was completed."""
        return [event for event in self.events if isinstance(event, Finished)]


class Gateway:
    """A listening port on loopback that leads every connection through a Driver to a real server."""

    def __init__(self, target: tuple[str, int], make: Callable[[], Driver]) -> None:
        self._target = target
        self._make = make
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._wake = socket.socketpair()
        self._is_closing = False
        self._jobs: list[Callable[[], None]] = []
        self.drivers: list[Driver] = []
        self.faults: list[BaseException] = []
        self.holding = threading.Event()
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closing = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._wake[0].send(b".")
        for thread in self._threads:
            thread.join(20)
        for end in self._wake:
            end.close()
        assert not self.faults, self.faults

    @property
    def driver(self) -> Driver:
        """The newest flow."""
        return self.drivers[-1]

    def do(self, job: Callable[[], None]) -> None:
        """Run something in the flow's own thread."""
        self._jobs.append(job)
        self._wake[0].send(b"j")

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._guard, args=(work,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as fault:
            self.faults.append(fault)
            raise

    def _accept(self) -> None:
        while not self._is_closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(lambda client=client: self._serve(client))

    def _serve(self, client: socket.socket) -> None:
        driver = self._make()
        target: list[socket.socket] = []
        driver.open_target = lambda: target.append(socket.create_connection(self._target))
        self.drivers.append(driver)
        with client:
            while driver.closed is None and not self._is_closing:
                readable, _, _ = select.select([client, self._wake[1], *target], [], [], 30)
                for ready in readable:
                    if ready is self._wake[1]:
                        if self._is_closing:
                            break
                        ready.recv(1)
                        if self._jobs:
                            self._jobs.pop(0)()
                        continue
                    side = Side.CLIENT if ready is client else Side.TARGET
                    data = ready.recv(65536)
                    if data:
                        driver.receive(side, data)
                    else:
                        driver.end(side)
                        if side is Side.CLIENT and driver.closed is None:
                            driver.closed = "the client is gone"
                if driver.held is not None:
                    self.holding.set()
                if target and driver.to_target:
                    target[0].sendall(driver.taken_by_target())
                if driver.to_client:
                    try:
                        client.sendall(driver.taken_by_client())
                    except OSError:
                        break
            for each in target:
                each.close()
