"""Drives a RedisInspector as the relay does, with verdicts of the test's choice, and keeps what went to either side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from appliance.decisions import FieldMask, Forward, Hold, Mask, Obligations, Refuse, Verdict
from appliance.effects import Use
from appliance.events import Command, Event, Finished, NeedData, Opening
from appliance.parties import Side
from appliance.protocols.inspector import Act, Close, OpenTarget, Send
from appliance.protocols.redis.inspector import RedisInspector

REDACT = Mask("redact")
Judge = Callable[[Command], Verdict]


def forward_all(command: Command) -> Verdict:
    """Users' values masked, as a policy would say it; nothing refused."""
    shown = [effect for effect in command.effects if effect.use is Use.OUTPUT and effect.thing.name.startswith("user:")]
    return Forward(None, Obligations(tuple(FieldMask(effect.thing, "value", REDACT) for effect in shown)))


def refuse_only(*names: str) -> Judge:
    return lambda command: Refuse(None, "not here") if command.sort in names else forward_all(command)


@dataclass
class Driver:
    """One connection. `steps` have what came in; `sent` what went out to each side."""

    judge: Judge = forward_all
    inspector: RedisInspector = field(default_factory=RedisInspector)
    sent: dict[Side, bytearray] = field(default_factory=lambda: {side: bytearray() for side in Side})
    commands: list[Command] = field(default_factory=list)
    answers: list[Finished] = field(default_factory=list)
    held: list[Command] = field(default_factory=list)
    closed: str | None = None

    def client(self, data: bytes) -> bytes:
        """Bytes of the client; what the target was sent."""
        return self._feed(Side.CLIENT, data, Side.TARGET)

    def target(self, data: bytes) -> bytes:
        """Bytes of the target; what the client was sent."""
        return self._feed(Side.TARGET, data, Side.CLIENT)

    def end(self, side: Side) -> None:
        self.inspector.end(side)
        self.pump()

    def settle(self, command: Command, verdict: Verdict) -> None:
        self.held.clear()
        self._perform(self.inspector.carry_out(command, verdict))
        self.pump()

    def pump(self) -> None:
        is_quiet = False
        while not is_quiet and self.closed is None:
            is_quiet = True
            for side in Side:
                while self.closed is None and not isinstance(event := self.inspector.next_event(side), NeedData):
                    is_quiet = False
                    self._carry(event)

    def _feed(self, side: Side, data: bytes, other: Side) -> bytes:
        before = len(self.sent[other])
        self.inspector.receive(side, data)
        self.pump()
        return bytes(self.sent[other][before:])

    def _carry(self, event: Event) -> None:
        verdict: Verdict = Forward(None)
        match event:
            case Command():
                self.commands.append(event)
                verdict = self.judge(event)
                if isinstance(verdict, Hold):
                    self.held.append(event)
            case Finished():
                self.answers.append(event)
            case Opening():
                pass
        self._perform(self.inspector.carry_out(event, verdict))

    def _perform(self, acts: list[Act]) -> None:
        for act in acts:
            match act:
                case Send(side=side, data=data):
                    self.sent[side] += data
                case OpenTarget():
                    self._perform(self.inspector.target_opened())
                case Close(reason=reason):
                    self.closed = reason


def array(*words: bytes | str) -> bytes:
    listed = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(listed) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in listed)


def pieces(data: bytes, size: int) -> Iterable[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))
