"""The made-up protocol: frames of one byte of stream, one byte of length, and that many bytes of text, both ways.

A client's frame is a command ("erase it" deletes, anything else reads); the target answers each with one frame of the
same stream. Streams are lanes: one that is held leaves the other alone.
"""

from __future__ import annotations

from collections import deque

from appliance.decisions import Forward, Refuse, Verdict
from appliance.effects import Action, Effect, Kind, Use, effect
from appliance.errors import AmendmentError, PeerError
from appliance.events import NEED_DATA, Command, Event, Finished, Left, NeedData, Opening
from appliance.parties import Side
from appliance.protocols.inspector import Act, Close, FastLane, OpenTarget, Question, Send, TlsFacts

STREAMS = (1, 2)


def frame(stream: int, text: str) -> bytes:
    """One frame."""
    return bytes((stream, len(text))) + text.encode()


class TwoStreamsInspector:
    """Implements protocols.inspector.Inspector."""

    fast_lane: FastLane | None = None

    def __init__(self) -> None:
        self._buffers = {Side.CLIENT: bytearray(), Side.TARGET: bytearray()}
        self._lanes: dict[int, deque[str]] = {stream: deque() for stream in STREAMS}
        self._busy: set[int] = set()
        self._asked: dict[int, deque[int]] = {stream: deque() for stream in STREAMS}
        self._answers: dict[int, bytes] = {}
        self._ended: set[Side] = set()
        self._is_open = self._is_opening = False
        self._number = 0

    def opening_acts(self) -> list[Act]:
        return []

    def receive(self, side: Side, data: bytes) -> None:
        self._buffers[side] += data

    def end(self, side: Side) -> None:
        self._ended.add(side)

    def next_event(self, side: Side) -> Event | NeedData:
        if side is Side.TARGET:
            return self._next_answer()
        if not self._is_open:
            if self._buffers[side] and not self._is_opening:
                self._is_opening = True
                effects = frozenset({effect(Action.CONNECT, Kind.SESSION, "two-streams")})
                return Opening(side, 0, effects, None, None, "connect")
            return NEED_DATA
        while (read := self._read(side)) is not None:
            self._lanes[read[0]].append(read[1])
        for stream, waiting in self._lanes.items():
            if waiting and stream not in self._busy:
                self._busy.add(stream)
                self._number += 1
                text = waiting.popleft()
                return Command(side, stream, self._number, "Frame", text, text, _effects(text), may_amend=True)
        if side in self._ended and not self._busy:
            self._ended.discard(side)
            return Left(side, 0)
        return NEED_DATA

    def carry_out(self, event: Event, verdict: Verdict) -> list[Act]:
        match event, verdict:
            case Opening(), Forward():
                return [OpenTarget()]
            case Opening(), _:
                return [Close("refused")]
            case Command(lane=lane, text=text, number=number), Forward():
                self._busy.discard(lane)
                self._asked[lane].append(number)
                return [Send(Side.TARGET, lane, frame(lane, text))]
            case Command(lane=lane), Refuse(reason=reason):
                self._busy.discard(lane)
                return [Send(Side.CLIENT, lane, frame(lane, f"refused: {reason}"[:255]))]
            case Finished(lane=lane), _:
                return [Send(Side.CLIENT, lane, self._answers.pop(event.number))]
            case Left(), _:
                return [Close("left")]
            case _:
                return []

    def answer(self, question: Question, reply: object) -> list[Act]:  # noqa: ARG002
        return []

    def amend(self, command: Command, text: str) -> Command:
        if len(text) > 255:
            raise AmendmentError("a frame has room for 255 characters")
        return Command(command.side, command.lane, command.number, command.sort, text, text, _effects(text), may_amend=True)

    def redact(self, command: Command) -> str:
        return command.shown

    @property
    def waiting_bytes(self) -> int:
        return sum(map(len, self._buffers.values()))

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
        return [Close(reason)]

    def timer(self, name: str) -> list[Act]:  # noqa: ARG002
        return []

    def farewell(self, reason: str, advice: str) -> list[Act]:  # noqa: ARG002
        return [Close(reason)]

    def _next_answer(self) -> Event | NeedData:
        read = self._read(Side.TARGET)
        if read is None:
            return Left(Side.TARGET, 0) if Side.TARGET in self._ended else NEED_DATA
        stream, text = read
        if not self._asked[stream]:
            raise PeerError("an answer that nothing asked for")
        number = self._asked[stream].popleft()
        self._answers[number] = frame(stream, text)
        return Finished(Side.TARGET, stream, number, "OK", False, rows=1, size=len(text), sample=((text,),))

    def _read(self, side: Side) -> tuple[int, str] | None:
        buffer = self._buffers[side]
        if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
            return None
        stream, size = buffer[0], buffer[1]
        if stream not in STREAMS:
            raise PeerError("a stream that is neither 1 nor 2")
        text = bytes(buffer[2 : 2 + size]).decode("utf-8", "replace")
        del buffer[: 2 + size]
        return stream, text


def _effects(text: str) -> frozenset[Effect]:
    if text.startswith("erase "):
        return frozenset({effect(Action.DELETE, Kind.KEY, text[6:])})
    return frozenset({effect(Action.READ, Kind.KEY, text, fields=frozenset({"value"}), use=Use.OUTPUT)})
