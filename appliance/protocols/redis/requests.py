"""How a Redis command is written: as an array of bulk strings, as an inline line, and as a person reads and types it.

Whatever form a command came in, it goes to the target as an array of the words that were read here, so that the server
cannot read something else out of it (its own reader takes `\\r` and any byte for the end of a line).
"""

from __future__ import annotations

import re

from appliance.errors import PeerError

# The server's own limits are a million words and 512 MiB a word. A command is kept whole to be judged and recorded, and its
# text in the record (up to four characters a byte) must stay below recording.journal.RECORD_BYTES_MAX.
COMMAND_BYTES_MAX = 8 << 20
# Each word may be a key with an effect of its own.
WORDS_MAX = 10_000
# What waits behind a held command is bounded by the relay; this is the end for what comes past that all the same.
_WAITING_BYTES_MAX = 64 << 20
_INLINE_BYTES_MAX = 64 << 10  # PROTO_INLINE_MAX_SIZE of the server
_HEADER_BYTES_MAX = 16  # a sign and twelve digits with the end of their line: no length we take is longer

_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]{0,11})")
_PLAIN = re.compile(rb"[!#-&(-\[\]-~]+")  # printable, and neither space, quote nor backslash
_SPACES = b" \t\n\v\f\r"
_ESCAPES = {ord("n"): b"\n", ord("r"): b"\r", ord("t"): b"\t", ord("b"): b"\b", ord("a"): b"\a"}
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_TEXTS = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F)} | {
    **{code: "".join(f"\\x{byte:02x}" for byte in chr(code).encode()) for code in (*range(0x80, 0xA0), 0x2028, 0x2029)},
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}


class RequestReader:
    """The commands a client sends, one after the other. Every byte is looked at once, however they are cut."""

    __slots__ = ("_awaited", "_buffer", "_missing", "_scanned", "_size", "_words")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0  # up to here there is no end of the line that stands at the front
        self._words: list[bytes] = []
        self._missing = 0  # words of the array that are still to come
        self._awaited = -1  # the size of the word at the front, or -1 before its header
        self._size = 0

    @property
    def is_empty(self) -> bool:
        """Nothing has come that was not read."""
        return not self._buffer

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have come and belong to no whole command yet, or to one that nobody has taken."""
        return len(self._buffer) + self._size

    def receive(self, data: bytes) -> None:
        """Take bytes. Raises PeerError where too many wait."""
        self._buffer += data
        if len(self._buffer) > _WAITING_BYTES_MAX:
            raise PeerError("the client sent more than 64 MiB without waiting for an answer")

    def next(self) -> tuple[bytes, ...] | None:
        """The words of the next whole command, the name first; None while there is none. Raises PeerError."""
        while True:
            if self._missing:
                if not self._read_word():
                    return None
                if not self._missing:
                    words = tuple(self._words)
                    self._words.clear()
                    self._size = 0
                    return words
                continue
            if not self._buffer:
                return None
            if self._buffer[0] != ord("*"):
                line = self._line(b"\n", _INLINE_BYTES_MAX)
                if line is None:
                    return None
                words = split_words(line.removesuffix(b"\r")) or ()
                if words:
                    return words
                continue  # the server skips empty lines
            line = self._line(b"\r\n", _HEADER_BYTES_MAX)
            if line is None:
                return None
            self._missing = max(0, number(line[1:], WORDS_MAX))  # the server skips empty arrays

    def _read_word(self) -> bool:
        buffer = self._buffer
        if self._awaited < 0:
            if buffer and buffer[0] != ord("$"):
                raise PeerError("a command has a word that is no bulk string")
            line = self._line(b"\r\n", _HEADER_BYTES_MAX)
            if line is None:
                return False
            size = number(line[1:], COMMAND_BYTES_MAX)
            if size < 0:
                raise PeerError("a word of a command has a negative length")
            self._size += size
            if self._size > COMMAND_BYTES_MAX:
                raise PeerError(f"a command is over the limit of {COMMAND_BYTES_MAX} bytes")
            self._awaited = size
        size = self._awaited
        if len(buffer) < size + 2:
            return False
        if buffer[size : size + 2] != b"\r\n":
            raise PeerError("a word of a command is longer than it says")
        self._words.append(bytes(buffer[:size]))
        del buffer[: size + 2]
        self._awaited = -1
        self._missing -= 1
        return True

    def _line(self, end: bytes, largest: int) -> bytes | None:
        found = self._buffer.find(end, self._scanned, largest)
        if found < 0:
            if len(self._buffer) >= largest:
                raise PeerError("a line of a command is too long")
            self._scanned = max(0, len(self._buffer) - len(end) + 1)
            return None
        line = bytes(self._buffer[:found])
        del self._buffer[: found + len(end)]
        self._scanned = 0
        return line


def number(digits: bytes, largest: int) -> int:
    """A length as RESP writes it. Raises PeerError for anything else, and for what is over `largest`."""
    if _NUMBER.fullmatch(digits) is None:
        raise PeerError("a length is not a number")
    value = int(digits)
    if value > largest:
        raise PeerError(f"a length is over the limit of {largest}")
    return value


def encode(words: tuple[bytes, ...]) -> bytes:
    """A command as an array of bulk strings."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        parts += (b"$%d\r\n" % len(word), word, b"\r\n")
    return b"".join(parts)


def readable(words: tuple[bytes, ...]) -> str:
    """A command as a person reads it and may type it again: `split_words` gives the same words back."""
    return " ".join(_readable_word(word) for word in words)


def _readable_word(word: bytes) -> str:
    if _PLAIN.fullmatch(word):
        return word.decode("ascii")
    text = word.replace(b"\\", b"\\\\").replace(b'"', b'\\"').decode("utf-8", "backslashreplace")
    if _CONTROLS.search(text):
        text = text.translate(_CONTROL_TEXTS)
    return f'"{text}"'


def split_words(line: bytes) -> tuple[bytes, ...]:
    """The words of a line by the server's rules (sdssplitargs in sds.c): spaces part them, double quotes know escapes,
    single quotes only \\'. Raises PeerError for quotes the server would not take, and for NUL, where it stops reading."""
    if b"\0" in line:
        raise PeerError("an inline command with a NUL")
    if b'"' not in line and b"'" not in line:
        return tuple(line.split())
    words: list[bytes] = []
    at, end = 0, len(line)
    while True:
        while at < end and line[at] in _SPACES:
            at += 1
        if at == end:
            return tuple(words)
        word = bytearray()
        while at < end and line[at] not in _SPACES:
            if line[at] in b"\"'":
                at = _read_quoted(line, at, word)
                break
            word.append(line[at])
            at += 1
        words.append(bytes(word))


def _read_quoted(line: bytes, at: int, word: bytearray) -> int:
    """Read the quoted piece that begins at `at` into `word`; the position behind it, which must end the word."""
    quote, at = line[at], at + 1
    while at < len(line):
        byte = line[at]
        if byte == quote:
            if at + 1 < len(line) and line[at + 1] not in _SPACES:
                break
            return at + 1
        if byte == ord("\\") and at + 1 < len(line):
            following = line[at + 1]
            if quote == ord("'"):
                if following == ord("'"):
                    at, byte = at + 1, following
            elif following == ord("x") and re.fullmatch(rb"[0-9A-Fa-f]{2}", line[at + 2 : at + 4]):
                word.append(int(line[at + 2 : at + 4], 16))
                at += 4
                continue
            else:
                word += _ESCAPES.get(following, bytes((following,)))
                at += 2
                continue
        word.append(byte)
        at += 1
    raise PeerError("an inline command with quotes that do not end a word")
