"""RESP2 as an inspector: a command is an array of bulk strings or an inline line, a reply answers each command in turn.

A refused command is not left out: a command that no server knows takes its place at the target, and its error is replaced
with our refusal. So answers stay in order, and inside MULTI the server itself aborts the EXEC.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from appliance.decisions import Forward, Hold, Obligations, Refuse, Verdict
from appliance.effects import Action, Column, Effect, Kind, effect
from appliance.errors import AmendmentError, PeerError
from appliance.events import NEED_DATA, Command, Event, Finished, Left, NeedData, Opening
from appliance.masking.detectors import Detectors
from appliance.masking.masks import apply
from appliance.parties import Side
from appliance.protocols.inspector import Act, Close, OpenTarget, Question, Send, TlsFacts
from appliance.protocols.redis.commands import effects_of

# Redis' own limits are 512 MiB a string and a million words; an agent's command is far below these, and we hold it whole.
_WORDS_MAX = 10_000
_WORD_BYTES_MAX = 16 << 20
_LINE_BYTES_MAX = 64 << 10  # PROTO_INLINE_MAX_SIZE of the server
_REPLY_ITEMS_MAX = 1_000_000
_REPLY_DEPTH_MAX = 32
_REPLY_BYTES_MAX = 512 << 20
_STAND_IN = b"*1\r\n$18\r\nSLUICEGATE.REFUSED\r\n"
_PING = b"*1\r\n$4\r\nPING\r\n"
_SHOWN_BYTES_MAX = 4096
_SAMPLE_BYTES_MAX = 256


@dataclass(frozen=True, slots=True)
class _Expected:
    """A reply that the target owes: to which command, what stands in its place, and what is hidden in it."""

    number: int
    replacement: bytes | None = None
    obligations: Obligations | None = None


@dataclass(frozen=True, slots=True)
class _Read:
    """A command as read: its words and its exact bytes."""

    words: tuple[bytes, ...]
    raw: bytes


class RedisInspector:
    """One Redis connection. Implements protocols.inspector.Inspector."""

    def __init__(self) -> None:
        self._client = bytearray()
        self._target = bytearray()
        self._is_open = False
        self._is_opening = False
        self._pending: Command | Opening | None = None
        self._reads: dict[int, _Read] = {}
        self._expected: deque[_Expected] = deque()
        self._ready: dict[int, bytes] = {}
        self._answering: Finished | None = None
        self._queued: Obligations | None = None
        self._ended: set[Side] = set()
        self._left: set[Side] = set()
        self._number = 0

    def opening_acts(self) -> list[Act]:
        return []

    def receive(self, side: Side, data: bytes) -> None:
        buffer = self._client if side is Side.CLIENT else self._target
        buffer += data
        if side is Side.TARGET and len(buffer) > _REPLY_BYTES_MAX:
            raise PeerError("the target sent a reply of more than 512 MiB")

    def end(self, side: Side) -> None:
        self._ended.add(side)

    def next_event(self, side: Side) -> Event | NeedData:
        if side is Side.TARGET:
            return self._next_answer()
        if self._pending is not None:
            return NEED_DATA
        if not self._is_open:
            if self._client and not self._is_opening:
                self._is_opening = True
                self._pending = Opening(side, 0, _connect(), None, None, "connect")
                return self._pending
            if self._is_opening:
                return NEED_DATA
        read = _read_command(self._client)
        if read is not None:
            return self._command(read)
        if side in self._ended and side not in self._left:
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
            case Command(), Forward():
                return self._forward(event, verdict)
            case Command(), Refuse():
                return self._refuse(event, verdict)
            case Finished(), _:
                self._answering = None
                return [Send(Side.CLIENT, 0, self._ready.pop(event.number))]
            case Left(side=side), _:
                return [Close(f"the {side.value} ended the connection")]
            case _:
                return []

    def answer(self, question: Question, reply: object) -> list[Act]:  # noqa: ARG002
        return []

    def amend(self, command: Command, text: str) -> Command:
        words = tuple(text.encode().split())
        if not words or len(words) > _WORDS_MAX:
            raise AmendmentError("a Redis command is its words, separated by spaces")
        if words[0].upper() != self._reads[command.number].words[0].upper():
            raise AmendmentError("only the arguments of a held command can be changed, because its reply must keep its form")
        raw = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        self._reads[command.number] = _Read(words, raw)
        shown = _shown(words)
        self._pending = Command(
            command.side, 0, command.number, command.sort, shown, shown, effects_of(words), may_amend=True
        )
        return self._pending

    def redact(self, command: Command) -> str:
        words = self._reads[command.number].words
        return " ".join([_shown(words[:2]), *("•••" for _ in words[2:])])

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
        return [Send(Side.CLIENT, 0, _error(f"ERR {reason}; {advice}")), Close(reason)]

    def _command(self, read: _Read) -> Command:
        self._number += 1
        self._reads[self._number] = read
        shown = _shown(read.words)
        name = read.words[0].decode("ascii", "replace").upper()
        self._pending = Command(
            Side.CLIENT,
            0,
            self._number,
            name,
            shown,
            shown,
            effects_of(read.words),
            key=read.words,
            may_amend=True,
            in_transaction=self._queued is not None,
        )
        return self._pending

    def _forward(self, command: Command, verdict: Forward) -> list[Act]:
        self._pending = None
        read = self._reads.pop(command.number)
        obligations = verdict.obligations
        replacement: bytes | None = None
        raw = read.raw
        match read.words[0].upper():
            case b"AUTH":
                # The agent's password means nothing to the target: its origin already says who it is.
                raw, replacement = _PING, b"+OK\r\n"
            case b"MULTI":
                self._queued = Obligations()
            case b"EXEC" if self._queued is not None:
                obligations, self._queued = self._queued, None
            case b"DISCARD":
                self._queued = None
            case _ if self._queued is not None:
                self._queued = Obligations(
                    self._queued.fields + obligations.fields,
                    self._queued.values + obligations.values,
                    self._queued.quiet or obligations.quiet,
                )
        self._expected.append(_Expected(command.number, replacement, obligations))
        return [Send(Side.TARGET, 0, raw)]

    def _refuse(self, command: Command, verdict: Refuse) -> list[Act]:
        self._pending = None
        self._reads.pop(command.number)
        self._expected.append(_Expected(command.number, _refusal(verdict)))
        return [Send(Side.TARGET, 0, _STAND_IN)]

    def _next_answer(self) -> Event | NeedData:
        if self._answering is not None:
            return NEED_DATA
        end = _reply_end(self._target)
        if end is None:
            if Side.TARGET in self._ended and Side.TARGET not in self._left:
                self._left.add(Side.TARGET)
                return Left(Side.TARGET, 0)
            return NEED_DATA
        if not self._expected:
            raise PeerError("the target sent a reply that no command asked for")
        expected = self._expected.popleft()
        reply = bytes(self._target[:end])
        del self._target[:end]
        obligations = expected.obligations or Obligations()
        if expected.replacement is not None:
            reply = expected.replacement
        elif obligations.fields or obligations.values:
            reply = _mask_reply(reply, obligations)
        self._ready[expected.number] = reply
        is_error = reply.startswith(b"-")
        status = reply.split(b"\r\n", 1)[0][:_SAMPLE_BYTES_MAX].decode("utf-8", "replace")
        self._answering = Finished(
            Side.TARGET,
            0,
            expected.number,
            status,
            is_error,
            columns=(Column("value", masked=bool(obligations.fields)),),
            size=len(reply),
            sample=((reply[:_SAMPLE_BYTES_MAX].decode("utf-8", "replace"),),),
        )
        return self._answering


def _connect() -> frozenset[Effect]:
    return frozenset({effect(Action.CONNECT, Kind.SESSION, "redis")})


def _read_command(buffer: bytearray) -> _Read | None:
    """The first whole command in the buffer, taken out of it. Raises PeerError as the server ends a connection."""
    while True:
        line_end = buffer.find(b"\n", 0, _LINE_BYTES_MAX)
        if line_end < 0:
            if len(buffer) >= _LINE_BYTES_MAX:
                raise PeerError("a line of a command is too long")
            return None
        if buffer[:1] != b"*":
            words = _inline_words(bytes(buffer[:line_end]).rstrip(b"\r"))
            raw = bytes(buffer[: line_end + 1])
            del buffer[: line_end + 1]
            if words:
                return _Read(words, raw)
            continue  # the server skips empty lines
        count = _number(bytes(buffer[1:line_end]), _WORDS_MAX)
        if count <= 0:
            del buffer[: line_end + 1]
            continue  # the server skips empty arrays
        position = line_end + 1
        found: list[bytes] = []
        for _ in range(count):
            end = buffer.find(b"\n", position, position + 64)
            if end < 0:
                if len(buffer) - position >= 64:
                    raise PeerError("the length of a word is too long")
                return None
            if buffer[position : position + 1] != b"$":
                raise PeerError("a command has a word that is no bulk string")
            size = _number(bytes(buffer[position + 1 : end]), _WORD_BYTES_MAX)
            if size < 0:
                raise PeerError("a word of a command has a negative length")
            start = end + 1
            if len(buffer) < start + size + 2:
                return None
            if buffer[start + size : start + size + 2] != b"\r\n":
                raise PeerError("a word of a command is longer than it says")
            found.append(bytes(buffer[start : start + size]))
            position = start + size + 2
        raw = bytes(buffer[:position])
        del buffer[:position]
        return _Read(tuple(found), raw)


def _number(digits: bytes, largest: int) -> int:
    text = digits.rstrip(b"\r")
    if not text.lstrip(b"-").isdigit() or len(text) > 12:
        raise PeerError("a length is not a number")
    value = int(text)
    if value > largest:
        raise PeerError(f"a length is over the limit of {largest}")
    return value


def _inline_words(line: bytes) -> tuple[bytes, ...]:
    if b'"' in line or b"'" in line or b"\\" in line:
        # The server's quoting rules (sdssplitargs) are not worth reading twice: a client that quotes can use arrays.
        raise PeerError("an inline command with quotes")
    return tuple(line.split())


def _reply_end(buffer: bytearray) -> int | None:
    """Where the first whole reply ends, or None while it is not whole."""
    position = 0
    open_items = [1]
    items = 0
    while open_items:
        end = buffer.find(b"\r\n", position)
        if end < 0:
            return None
        kind, body = bytes(buffer[position : position + 1]), bytes(buffer[position + 1 : end])
        position = end + 2
        items += 1
        open_items[-1] -= 1
        if items > _REPLY_ITEMS_MAX:
            raise PeerError("the target sent a reply of more than a million items")
        if kind == b"$":
            size = _number(body, _REPLY_BYTES_MAX)
            if size >= 0:
                position += size + 2
                if len(buffer) < position:
                    return None
        elif kind == b"*":
            count = _number(body, _REPLY_ITEMS_MAX)
            if count > 0:
                open_items.append(count)
                if len(open_items) > _REPLY_DEPTH_MAX:
                    raise PeerError("the target sent a reply nested too deeply")
        elif kind not in (b"+", b"-", b":"):
            raise PeerError("the target sent something that is no RESP2 reply")
        while open_items and open_items[-1] == 0:
            open_items.pop()
    return position


def _mask_reply(reply: bytes, obligations: Obligations) -> bytes:
    """Every bulk string of a reply under the masks of its command; the frame around them stays as it is."""
    detectors = Detectors(obligations.values)
    parts: list[bytes] = []
    position = 0
    while position < len(reply):
        end = reply.index(b"\r\n", position)
        if reply[position : position + 1] != b"$" or reply[position + 1 : end] == b"-1":
            parts.append(reply[position : end + 2])
            position = end + 2
            continue
        size = int(reply[position + 1 : end])
        value: bytes | None = reply[end + 2 : end + 2 + size]
        for field in obligations.fields:
            value = apply(field.mask, value) if value is not None else None
        if value is not None:
            value = detectors.clean(value)
        parts.append(b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value))
        position = end + 2 + size + 2
    return b"".join(parts)


def _shown(words: tuple[bytes, ...]) -> str:
    return b" ".join(words)[:_SHOWN_BYTES_MAX].decode("utf-8", "replace")


def _refusal(verdict: Refuse) -> bytes:
    rule = f" by {verdict.rule.id}" if verdict.rule else ""
    advice = f"; {verdict.advice}" if verdict.advice else ""
    return _error(f"NOPERM refused{rule}: {verdict.reason}{advice}")


def _error(text: str) -> bytes:
    return b"-" + text.replace("\r", " ").replace("\n", " ").encode() + b"\r\n"
