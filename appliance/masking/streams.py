"""How a text too large to hold is masked while it passes: what is held back, and for how long."""

from __future__ import annotations

from typing import Final

from appliance.masking.detectors import REACH_MAX, Detectors, apart

# A character has at most four bytes, and a byte written in hexadecimal two digits.
HELD_BYTES: Final = REACH_MAX * 8
# Looking again at what is held back costs as much as looking at something new, so that is done in pieces.
PIECE_BYTES: Final = 4 * HELD_BYTES

_HEX_DIGITS: Final = frozenset(b"0123456789abcdefABCDEF")


class MaskStream:
    """One text in chunks. What comes out is what `Detectors.clean` gives for the whole, however it is cut, except that
    bytes which are not UTF-8 may be read differently at a cut.

    Never holds more than HELD_BYTES before the next byte to give, as context, and HELD_BYTES + PIECE_BYTES + one chunk
    behind it.
    """

    __slots__ = ("_detectors", "_given", "_held", "_starts")

    def __init__(self, detectors: Detectors) -> None:
        self._detectors = detectors
        self._held = b""
        self._given = 0  # bytes at the front of what is held that were given, and stay as context
        self._starts: tuple[int, ...] | None = None  # bytes, relative to the front

    def feed(self, data: bytes) -> bytes:
        """Take a chunk; what is certain so far comes out, b"" where nothing is."""
        if self._detectors.is_empty:
            return data
        self._held += data
        if len(self._held) - self._given < HELD_BYTES + PIECE_BYTES:
            return b""
        return self._give(len(self._held) - HELD_BYTES)

    def end(self) -> bytes:
        """The rest."""
        return self._give(len(self._held)) if self._held else b""

    def _give(self, cut: int) -> bytes:
        held = self._held
        if cut < len(held):
            cut = _character_start(held, cut)
            hex_start = _hex_start(held, cut)
            if hex_start is not None:
                cut -= (cut - hex_start) % 2
        if not self._detectors.may_hold(held):
            out = held[self._given : cut]
            self._trim(cut, tuple(max(start, cut) for start in self._starts or self._detectors.starts()))
            return out
        text = held.decode("utf-8", "surrogateescape")
        places = _Places(held, text)
        given = places.character(self._given)
        stop = places.character(cut)
        starts = self._starts
        spans, reached = self._detectors.found(
            text, tuple(map(places.character, starts)) if starts else self._detectors.starts(), stop
        )
        spans = apart(spans, given)
        end = max(stop, spans[-1][1] if spans else 0)
        out = self._detectors.hide(text, spans, given, end).encode("utf-8", "surrogateescape")
        self._trim(places.byte(end), tuple(map(places.byte, reached)))
        return out

    def _trim(self, given: int, starts: tuple[int, ...]) -> None:
        front = _character_start(self._held, max(0, given - HELD_BYTES))
        if self._held[max(0, front - 1) : front + 1] == b"\\x":
            front -= 1
        prefix = b""
        hex_start = _hex_start(self._held, front)
        if hex_start is not None:
            # Inside a value in hexadecimal: what is kept begins with \x and a whole byte, so that it reads as before.
            front += (front - hex_start) % 2
            prefix = b"\\x"
        self._held = prefix + self._held[front:]
        moved = front - len(prefix)
        self._given = given - moved
        self._starts = tuple(max(0, start - moved) for start in starts)


def _character_start(data: bytes, at: int) -> int:
    """The start of the character that the byte at `at` belongs to."""
    for back in range(min(3, at) + 1):
        if at - back >= len(data) or data[at - back] & 0xC0 != 0x80:
            return at - back
    return at


def _hex_start(data: bytes, at: int) -> int | None:
    """Where the hexadecimal digits begin in whose midst `at` is, behind their \\x; None where it is not among such."""
    begin = data.rfind(b"\\x", 0, at)
    if begin < 0 or at - begin < 2:
        return None
    return begin + 2 if _HEX_DIGITS.issuperset(data[begin + 2 : at]) else None


class _Places:
    """Places in a text and in its bytes; equal as long as everything is ASCII."""

    __slots__ = ("_data", "_is_ascii", "_text")

    def __init__(self, data: bytes, text: str) -> None:
        self._data = data
        self._text = text
        self._is_ascii = len(data) == len(text)

    def character(self, byte: int) -> int:
        return byte if self._is_ascii else len(self._data[:byte].decode("utf-8", "surrogateescape"))

    def byte(self, character: int) -> int:
        return character if self._is_ascii else len(self._text[:character].encode("utf-8", "surrogateescape"))
