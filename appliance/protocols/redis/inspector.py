"""RESP2 as an inspector: commands are judged one by one, and replies answer them in turn.

A refused command is not left out: a command that no server knows takes its place at the target, and its error is replaced
with our refusal. So answers stay in order, and inside MULTI the server itself aborts the EXEC.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from appliance.decisions import FieldMask, Forward, Hold, Mask, Obligations, Refuse, ValueMask, Verdict
from appliance.effects import Action, Column, Effect, Kind, effect
from appliance.errors import PeerError
from appliance.events import NEED_DATA, Command, Event, Finished, Left, NeedData, Opening, Passage
from appliance.masking.detectors import REACH_MAX, Detectors
from appliance.parties import Side
from appliance.protocols.inspector import Act, Close, FastLane, OpenTarget, Question, Send, TlsFacts
from appliance.protocols.redis.amendments import amended_words
from appliance.protocols.redis.commands import effects_of, name_of, problem_of
from appliance.protocols.redis.replies import Masking, Reply
from appliance.protocols.redis.requests import (
    RequestReader,
    encode,
    readable,
)

# The server takes commands whether or not its answers are read, so this is what bounds what is kept of each here. More than
# what the relay lets wait (1 MiB) has of the shortest commands.
_UNANSWERED_MAX = 300_000
_UNREAD_BYTES_MAX = 16 << 20  # a target that sends this much nobody asked for is no Redis server
_PIECE_BYTES = 64 << 10
_SHOWN_CHARACTERS_MAX = 4096
# A cached verdict is kept with what it was found for; longer commands are decided anew each time.
_KEY_BYTES_MAX = 256
_HIDDEN = "•••"
_STAND_IN = b"*1\r\n$18\r\nSLUICEGATE.REFUSED\r\n"
_PING = b"*1\r\n$4\r\nPING\r\n"
_SHAPES = Detectors(tuple(ValueMask(name, Mask("redact")) for name in ("pan", "email", "ssn")))


@dataclass(frozen=True, slots=True)
class _Expected:
    """A reply that the target owes: to which command, what stands in its place, and what is hidden in it."""

    number: int
    replacement: bytes | None
    obligations: Obligations


class RedisInspector:
    """One Redis connection. Implements protocols.inspector.Inspector."""

    fast_lane: FastLane | None = None

    def __init__(self) -> None:
        self._requests = RequestReader()
        self._target = bytearray()
        self._masking = Masking()
        self._is_open = False
        self._is_opening = False
        self._pending: Command | Opening | None = None
        # The words of what waits for its verdict: the command, and the last version a person made of it.
        self._words: dict[Command, tuple[bytes, ...]] = {}
        self._expected: deque[_Expected] = deque()
        self._reply: Reply | None = None
        self._piece: bytes | None = None
        self._queued: Obligations | None = None
        self._ended: set[Side] = set()
        self._left: set[Side] = set()
        self._number = 0

    def opening_acts(self) -> list[Act]:
        return []

    def receive(self, side: Side, data: bytes) -> None:
        if side is Side.CLIENT:
            self._requests.receive(data)
            return
        self._target += data
        if len(self._target) > _UNREAD_BYTES_MAX:
            raise PeerError("the target sent more than was asked for")

    def end(self, side: Side) -> None:
        self._ended.add(side)

    def next_event(self, side: Side) -> Event | NeedData:
        if side is Side.TARGET:
            return self._next_answer()
        if self._pending is not None:
            return NEED_DATA
        if self._is_opening and not self._is_open:
            return NEED_DATA
        if not self._is_opening and not self._requests.is_empty:
            self._is_opening = True
            self._pending = Opening(side, 0, _connect(), None, None, "connect")
            return self._pending
        if self._is_open and (words := self._requests.next()) is not None:
            if len(self._expected) >= _UNANSWERED_MAX:
                raise PeerError(f"the client sent {_UNANSWERED_MAX} commands without reading an answer")
            return self._command(words)
        # Who sends commands and then ends is owed the answers.
        if side in self._ended and side not in self._left and not self._expected:
            self._left.add(side)
            return Left(side, 0)
        return NEED_DATA

    def carry_out(self, event: Event, verdict: Verdict) -> list[Act]:
        match event, verdict:
            case Opening(), Forward():
                self._pending = None
                return [OpenTarget()]
            case Opening(), Refuse():
                return [Send(Side.CLIENT, 0, _refusal(verdict)), Close("refused at opening")]
            case Command(), Hold():
                return []  # RESP2 has no message that a client would not take for the reply
            case Command(problem=str(problem)), Forward():
                return self._refuse(event, Refuse(verdict.rule, problem))
            case Command(), Forward():
                return self._forward(event, verdict)
            case Command(), Refuse():
                return self._refuse(event, verdict)
            case ((Passage() | Finished()), _):
                piece, self._piece = self._piece, None
                return [Send(Side.CLIENT, 0, piece)] if piece else []
            case Left(side=side), _:
                return [Close(f"the {side.value} ended the connection")]
            case _:
                return []

    def answer(self, question: Question, reply: object) -> list[Act]:  # noqa: ARG002
        return []

    def amend(self, command: Command, text: str) -> Command:
        original = self._words[command]
        words = amended_words(original, text)
        amended = self._made(words, command.number)
        # The command itself stays as it was: should this version be refused, it is still the one that may be approved.
        self._words = {command: original, amended: words}
        return amended

    def redact(self, command: Command) -> str:
        words = self._words[command]
        return " ".join([_shown(words[:2]), *(_HIDDEN for _ in words[2:])])[:_SHOWN_CHARACTERS_MAX]

    @property
    def waiting_bytes(self) -> int:
        return self._requests.waiting_bytes + len(self._target)

    def catalogue_stale(self) -> None:
        return

    def cancel(self) -> list[Act]:
        return []

    def tls_started(self, side: Side, facts: TlsFacts) -> list[Act]:  # noqa: ARG002
        return []

    def target_opened(self) -> list[Act]:
        self._is_open = True
        return []

    def target_failed(self, reason: str) -> list[Act]:
        return [Send(Side.CLIENT, 0, _error(f"ERR the target cannot be reached: {reason}")), Close(reason)]

    def timer(self, name: str) -> list[Act]:  # noqa: ARG002
        return []

    def farewell(self, reason: str, advice: str) -> list[Act]:
        # In the middle of a reply, or before the replies that are still owed, an error would be taken for something else.
        if self._reply is not None or self._expected:
            return [Close(reason)]
        return [Send(Side.CLIENT, 0, _error(f"ERR {reason}; {advice}")), Close(reason)]

    def _command(self, words: tuple[bytes, ...]) -> Command:
        self._number += 1
        command = self._made(words, self._number)
        self._words = {command: words}
        self._pending = command
        return command

    def _made(self, words: tuple[bytes, ...], number: int) -> Command:
        return Command(
            Side.CLIENT,
            0,
            number,
            name_of(words),
            readable(words),
            _shown(words),
            effects_of(words),
            key=words if sum(map(len, words)) <= _KEY_BYTES_MAX else None,
            may_amend=True,
            in_transaction=self._queued is not None,
            problem=problem_of(words),
        )

    def _forward(self, command: Command, verdict: Forward) -> list[Act]:
        words = self._settled(command)
        obligations = verdict.obligations
        match name_of(words):
            case "AUTH":
                # The agent's password means nothing to the target: its origin already says who it is.
                said = b"+OK\r\n" if self._queued is None else b"+QUEUED\r\n"
                return self._send(_PING, _Expected(command.number, said, obligations))
            case "MULTI":
                # A second one is an error that leaves the transaction as it is, with all that was queued.
                self._queued = self._queued or Obligations()
            case "EXEC" if self._queued is not None:
                obligations, self._queued = _joined(self._queued, obligations), None
            case "DISCARD":
                self._queued = None
            case _ if self._queued is not None:
                self._queued = _joined(self._queued, obligations)
        return self._send(encode(words), _Expected(command.number, None, obligations))

    def _refuse(self, command: Command, verdict: Refuse) -> list[Act]:
        self._settled(command)
        return self._send(_STAND_IN, _Expected(command.number, _refusal(verdict), Obligations()))

    def _settled(self, command: Command) -> tuple[bytes, ...]:
        words = self._words[command]
        self._words = {}
        self._pending = None
        return words

    def _send(self, data: bytes, expected: _Expected) -> list[Act]:
        self._expected.append(expected)
        return [Send(Side.TARGET, 0, data)]

    def _next_answer(self) -> Event | NeedData:
        if self._piece is not None:
            return NEED_DATA
        if self._target and not self._expected:
            raise PeerError("the target sent a reply that no command asked for")
        if self._target:
            if self._reply is None:
                self._reply = self._masking.reply(self._expected[0].obligations)
            self._reply.read(self._target)
            if self._reply.is_whole:
                return self._finished(self._reply)
            if self._expected[0].replacement is not None:
                self._reply.out.clear()
            elif len(self._reply.out) >= _PIECE_BYTES:
                self._piece = self._reply.take()
                return Passage(Side.TARGET, 0)
        if Side.TARGET in self._ended and Side.TARGET not in self._left:
            self._left.add(Side.TARGET)
            return Left(Side.TARGET, 0)
        return NEED_DATA

    def _finished(self, reply: Reply) -> Finished:
        expected = self._expected.popleft()
        self._reply = None
        masked = bool(expected.obligations.fields)
        if expected.replacement is not None:
            said = expected.replacement
            reply = self._masking.reply(Obligations())
            reply.read(bytearray(said))
        self._piece = reply.take()
        return Finished(
            Side.TARGET,
            0,
            expected.number,
            reply.status,
            reply.is_failed,
            columns=(Column("value", masked=masked),),
            rows=reply.items,
            size=reply.size,
            sample=tuple((text,) for text in reply.samples),
            digest=reply.digest,
        )


def _connect() -> frozenset[Effect]:
    return frozenset({effect(Action.CONNECT, Kind.SESSION, "redis")})


def _joined(some: Obligations, more: Obligations) -> Obligations:
    """Both at once. Of the fields only their masks matter to a reply, so one of each mask is kept and a long transaction
    does not grow."""
    fields: tuple[FieldMask, ...] = tuple({field.mask: field for field in (*some.fields, *more.fields)}.values())
    values: tuple[ValueMask, ...] = tuple(dict.fromkeys((*some.values, *more.values)))
    return Obligations(fields, values, some.quiet or more.quiet, some.durable or more.durable)


def _shown(words: tuple[bytes, ...]) -> str:
    """A command as people see it: no password, no value that looks like what is to be hidden, and no more than a page."""
    if name_of(words) == "AUTH":
        return f"AUTH {_HIDDEN}"
    if name_of(words) == "HELLO":
        return f"HELLO {_HIDDEN}"
    page: list[bytes] = []
    size = 0
    for word in words:
        page.append(word[:_SHOWN_CHARACTERS_MAX])
        size += len(word) + 1
        if size > _SHOWN_CHARACTERS_MAX:
            break
    # A value that the cut goes through has no shape left, so what stands near the cut is not shown.
    text = _SHAPES.clean(readable(tuple(page)).encode()).decode()
    if size <= _SHOWN_CHARACTERS_MAX:
        return text
    return text[: _SHOWN_CHARACTERS_MAX - 2 * REACH_MAX] + "…"


def _refusal(verdict: Refuse) -> bytes:
    rule = f" by {verdict.rule.id}" if verdict.rule else ""
    advice = f"; {verdict.advice}" if verdict.advice else ""
    return _error(f"NOPERM refused{rule}: {verdict.reason}{advice}")


def _error(text: str) -> bytes:
    return b"-" + text.replace("\r", " ").replace("\n", " ").encode("utf-8", "backslashreplace") + b"\r\n"
