"""The messages of PostgreSQL's protocol 3, each format written once, both ways.

Source: PostgreSQL documentation, chapter "Frontend/Backend Protocol", and where that is silent src/backend/tcop and
src/backend/libpq. Whatever does not follow it to the byte raises PeerError: a NUL inside a string, bytes left over, a
count or a length that the message does not hold, text that is not UTF-8.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from appliance.errors import PeerError

# --- bounds ---------------------------------------------------------------------------------------------------------

STARTUP_SIZE_MAX: Final = 10_000  # bytes behind the length word, as the server (MAX_STARTUP_PACKET_LENGTH)
SMALL_SIZE_MAX: Final = 10_000  # messages that hold a name at most, as the server (PQ_SMALL_MESSAGE_LIMIT)
TOKEN_SIZE_MAX: Final = 65_535  # login tokens, as the server (PG_MAX_AUTH_TOKEN_LENGTH)
COMMAND_SIZE_MAX: Final = 64 << 20  # what is judged is held whole; larger data goes by COPY, piece by piece
VALUE_SIZE_MAX: Final = 0x3FFFFFFF + 4  # the server's largest allocation (MaxAllocSize) bounds a row
ERROR_SIZE_MAX: Final = 16 << 20  # an error may quote a statement or a value, but nobody reads more than that
DESCRIPTION_SIZE_MAX: Final = 1 << 20  # 1664 columns with names of 63 bytes are 140 kB; other builds have longer names
REPLY_SIZE_MAX: Final = 65_536  # short words of the server: tags, settings, keys, notifications (under 8 kB)
CANCEL_SECRET_SIZE_MAX: Final = 256  # protocol 3.2; 3.0 has exactly 4

QUERY: Final = ord("Q")
PARSE: Final = ord("P")
BIND: Final = ord("B")
DESCRIBE: Final = ord("D")
EXECUTE: Final = ord("E")
CLOSE: Final = ord("C")
SYNC: Final = ord("S")
FLUSH: Final = ord("H")
COPY_DATA: Final = ord("d")
COPY_DONE: Final = ord("c")
COPY_FAIL: Final = ord("f")
TERMINATE: Final = ord("X")
FUNCTION_CALL: Final = ord("F")
LOGIN_TOKEN: Final = ord("p")

AUTHENTICATION: Final = ord("R")
BACKEND_KEY_DATA: Final = ord("K")
BIND_COMPLETE: Final = ord("2")
CLOSE_COMPLETE: Final = ord("3")
COMMAND_COMPLETE: Final = ord("C")
COPY_IN_RESPONSE: Final = ord("G")
COPY_OUT_RESPONSE: Final = ord("H")
DATA_ROW: Final = ord("D")
EMPTY_QUERY_RESPONSE: Final = ord("I")
ERROR_RESPONSE: Final = ord("E")
FUNCTION_CALL_RESPONSE: Final = ord("V")
NEGOTIATE_PROTOCOL_VERSION: Final = ord("v")
NO_DATA: Final = ord("n")
NOTICE_RESPONSE: Final = ord("N")
NOTIFICATION_RESPONSE: Final = ord("A")
PARAMETER_DESCRIPTION: Final = ord("t")
PARAMETER_STATUS: Final = ord("S")
PARSE_COMPLETE: Final = ord("1")
PORTAL_SUSPENDED: Final = ord("s")
READY_FOR_QUERY: Final = ord("Z")
ROW_DESCRIPTION: Final = ord("T")

# The largest payload of each type a side may send. A type that is not here does not exist for us (CopyBothResponse is
# replication's alone), and its message is not skipped but ends the flow.
CLIENT_BOUNDS: Final[Mapping[int, int]] = MappingProxyType(
    {
        QUERY: COMMAND_SIZE_MAX,
        PARSE: COMMAND_SIZE_MAX,
        BIND: COMMAND_SIZE_MAX,
        COPY_DATA: COMMAND_SIZE_MAX,
        FUNCTION_CALL: COMMAND_SIZE_MAX,
        DESCRIBE: SMALL_SIZE_MAX,
        EXECUTE: SMALL_SIZE_MAX,
        CLOSE: SMALL_SIZE_MAX,
        SYNC: SMALL_SIZE_MAX,
        FLUSH: SMALL_SIZE_MAX,
        COPY_DONE: SMALL_SIZE_MAX,
        COPY_FAIL: SMALL_SIZE_MAX,
        TERMINATE: SMALL_SIZE_MAX,
        LOGIN_TOKEN: TOKEN_SIZE_MAX,
    }
)
TARGET_BOUNDS: Final[Mapping[int, int]] = MappingProxyType(
    {
        DATA_ROW: VALUE_SIZE_MAX,
        COPY_DATA: VALUE_SIZE_MAX,
        FUNCTION_CALL_RESPONSE: VALUE_SIZE_MAX,
        ERROR_RESPONSE: ERROR_SIZE_MAX,
        NOTICE_RESPONSE: ERROR_SIZE_MAX,
        ROW_DESCRIPTION: DESCRIPTION_SIZE_MAX,
        PARAMETER_DESCRIPTION: DESCRIPTION_SIZE_MAX,
        AUTHENTICATION: REPLY_SIZE_MAX,
        BACKEND_KEY_DATA: REPLY_SIZE_MAX,
        BIND_COMPLETE: REPLY_SIZE_MAX,
        CLOSE_COMPLETE: REPLY_SIZE_MAX,
        COMMAND_COMPLETE: REPLY_SIZE_MAX,
        COPY_DONE: REPLY_SIZE_MAX,
        COPY_IN_RESPONSE: REPLY_SIZE_MAX,
        COPY_OUT_RESPONSE: REPLY_SIZE_MAX,
        EMPTY_QUERY_RESPONSE: REPLY_SIZE_MAX,
        NEGOTIATE_PROTOCOL_VERSION: REPLY_SIZE_MAX,
        NO_DATA: REPLY_SIZE_MAX,
        NOTIFICATION_RESPONSE: REPLY_SIZE_MAX,
        PARAMETER_STATUS: REPLY_SIZE_MAX,
        PARSE_COMPLETE: REPLY_SIZE_MAX,
        PORTAL_SUSPENDED: REPLY_SIZE_MAX,
        READY_FOR_QUERY: REPLY_SIZE_MAX,
    }
)


# --- framing --------------------------------------------------------------------------------------------------------

_HEADER = struct.Struct("!BI")
_INT16 = struct.Struct("!H")
_INT32 = struct.Struct("!i")
_UINT32 = struct.Struct("!I")
_COMPACT_AT = 1 << 16  # consumed bytes kept in front of an unfinished message before the buffer is moved together


class Framer:
    """Cuts one side's bytes into typed messages, over a buffer that grows only by what has arrived.

    A whole message is taken with `next`. One too large to hold is seen with `peek`, begun with `begin` and read with
    `part` until `left` is 0. A header with an unknown type or a length outside its bound raises PeerError as soon as
    its five bytes are there.
    """

    __slots__ = ("_at", "_bounds", "_data", "left")

    def __init__(self, bounds: Mapping[int, int], pending: bytes = b"") -> None:
        self._bounds = bounds
        self._data: bytes | bytearray = pending
        self._at = 0
        self.left = 0  # payload bytes of a begun message that `part` has not given yet

    def feed(self, data: bytes) -> None:
        """Append what has arrived."""
        held = self._data
        if self._at == len(held):
            self._data = data  # the usual case: nothing is left over, so nothing is copied
            self._at = 0
        elif isinstance(held, bytearray):
            if self._at > _COMPACT_AT:
                del held[: self._at]
                self._at = 0
            held += data
        else:
            grown = bytearray(memoryview(held)[self._at :])
            grown += data
            self._data = grown
            self._at = 0

    def __len__(self) -> int:
        """Bytes held that no message has taken yet."""
        return len(self._data) - self._at

    def peek(self) -> tuple[int, int] | None:
        """Type and payload size of the next message, or None while its header is not there or a begun one is not read."""
        if self.left or len(self._data) - self._at < 5:
            return None
        code, length = _HEADER.unpack_from(self._data, self._at)
        bound = self._bounds.get(code)
        if bound is None:
            raise PeerError(f"a message of the unknown type 0x{code:02x}")
        if length < 4:
            raise PeerError(f"a message of type {chr(code)!r} that declares a length of {length} bytes")
        if length - 4 > bound:
            raise PeerError(f"a message of type {chr(code)!r} of {length} bytes, over its bound of {bound + 4}")
        return code, length - 4

    def next(self) -> tuple[int, bytes] | None:
        """The next whole message as its type and payload, or None while it is not all there."""
        header = self.peek()
        if header is None:
            return None
        payload = self.payload(header[1])
        return None if payload is None else (header[0], payload)

    def payload(self, size: int) -> bytes | None:
        """Take the message that `peek` showed, of that payload size; None while it is not all there."""
        data, start = self._data, self._at + 5
        end = start + size
        if len(data) < end:
            return None
        self._at = end
        return data[start:end] if isinstance(data, bytes) else bytes(memoryview(data)[start:end])

    def take_run(self, code: int, size_max: int) -> tuple[bytes, int]:
        """The whole messages of one type that come next and are all there, headers included, as they came, and how many
        they are: at least the first one, and no more than `size_max` bytes beyond it. b"" where the next message is none
        of them."""
        data, start, end = self._data, self._at, len(self._data)
        at, count = start, 0
        if not self.left:
            bound, last = self._bounds[code] + 4, min(end - 5, start + size_max)
            unpack = _HEADER.unpack_from
            while at <= last:  # this loop is what a row costs that nothing is done with
                found, length = unpack(data, at)
                if found != code or not 4 <= length <= bound or end - at <= length:
                    break
                at += length + 1
                count += 1
        self._at = at
        if at - start == end and isinstance(data, bytes):
            return data, count
        return bytes(memoryview(data)[start:at]), count

    def begin(self) -> tuple[int, int]:
        """Take the header that `peek` showed; the payload follows by `part`."""
        header = self.peek()
        if header is None:
            raise ValueError("no header has been seen")
        self._at += 5
        self.left = header[1]
        return header

    def part(self, size_max: int) -> bytes:
        """Up to `size_max` bytes of the begun message's payload; b"" while none have arrived."""
        count = min(self.left, len(self._data) - self._at, size_max)
        start = self._at
        self._at += count
        self.left -= count
        return bytes(memoryview(self._data)[start : self._at])

    def rest(self) -> bytes:
        """Take everything that is held, whatever it is."""
        rest = bytes(memoryview(self._data)[self._at :])
        self._data, self._at = b"", 0
        return rest


def frame(code: int, payload: bytes) -> bytes:
    """One typed message."""
    return _HEADER.pack(code, len(payload) + 4) + payload


class _Fields:
    """The fields of one payload, read in order."""

    __slots__ = ("_at", "_payload", "_what")

    def __init__(self, payload: bytes, what: str) -> None:
        self._payload = payload
        self._what = what
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if size < 0 or end > len(self._payload):
            raise PeerError(f"a {self._what} message with less in it than it declares")
        taken = self._payload[self._at : end]
        self._at = end
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def count(self) -> int:
        """An unsigned 16-bit number, which is how the server reads every count."""
        return int.from_bytes(self.take(2), "big")

    def int16(self) -> int:
        return int.from_bytes(self.take(2), "big", signed=True)

    def int32(self) -> int:
        return int.from_bytes(self.take(4), "big", signed=True)

    def oid(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def raw_text(self) -> bytes:
        end = self._payload.find(b"\0", self._at)
        if end < 0:
            raise PeerError(f"a {self._what} message with a string that does not end")
        taken = self._payload[self._at : end]
        self._at = end + 1
        return taken

    def text(self) -> str:
        return decode(self.raw_text(), self._what)

    def format(self) -> int:
        code = self.count()
        if code > 1:
            raise PeerError(f"a {self._what} message with the unknown format code {code}")
        return code

    def formats(self) -> tuple[int, ...]:
        return tuple(self.format() for _ in range(self.count()))

    def value(self) -> bytes | None:
        size = self.int32()
        if size == -1:
            return None
        return self.take(size)

    def rest(self) -> bytes:
        return self.take(len(self._payload) - self._at)

    def at_end(self) -> bool:
        return self._at == len(self._payload)

    def end(self) -> None:
        if self._at != len(self._payload):
            raise PeerError(f"a {self._what} message with bytes behind its last field")


def decode(data: bytes, what: str) -> str:
    """UTF-8 as text; anything else is a PeerError, because client_encoding is pinned to UTF8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise PeerError(f"a {what} message with text that is not UTF-8") from None


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    if b"\0" in data:
        raise ValueError("a protocol string cannot hold a NUL")
    return data + b"\0"


def _formats(codes: tuple[int, ...]) -> bytes:
    return struct.pack(f"!H{len(codes)}H", len(codes), *codes)


def _value(value: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if value is None else _INT32.pack(len(value)) + value


# --- the first packet of a connection, which has no type byte ---------------------------------------------------------

SSL_REQUEST_CODE: Final = 80_877_103
GSS_REQUEST_CODE: Final = 80_877_104
CANCEL_REQUEST_CODE: Final = 80_877_102


@dataclass(frozen=True, slots=True)
class SslRequest:
    """May we speak TLS?"""

    def build(self) -> bytes:
        return struct.pack("!II", 8, SSL_REQUEST_CODE)


@dataclass(frozen=True, slots=True)
class GssRequest:
    """May we speak GSSAPI encryption?"""

    def build(self) -> bytes:
        return struct.pack("!II", 8, GSS_REQUEST_CODE)


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Cancel what runs under `key`: a process id of 4 bytes and the secret behind it."""

    key: bytes

    def build(self) -> bytes:
        return struct.pack("!II", 8 + len(self.key), CANCEL_REQUEST_CODE) + self.key


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """What a session shall be. `parameters` in the order sent, duplicates included."""

    major: int
    minor: int
    parameters: tuple[tuple[str, str], ...]

    def build(self) -> bytes:
        body = b"".join(_string(name) + _string(value) for name, value in self.parameters) + b"\0"
        return struct.pack("!IHH", 8 + len(body), self.major, self.minor) + body


FirstPacket = SslRequest | GssRequest | CancelRequest | StartupMessage


def read_first(data: bytes) -> tuple[FirstPacket, int] | None:
    """The packet at the start of `data` and how many bytes it has, or None while it is not all there.

    A StartupMessage of another major version than 3 is given without parameters, because only its version is known to
    mean anything.
    """
    # What cannot be a first packet is said at its first wrong byte, so that an HTTP client does not wait for an answer.
    if data[:1] not in (b"", b"\0") or data[1:2] not in (b"", b"\0"):
        raise PeerError("first bytes that are no PostgreSQL startup packet")
    if len(data) < 4:
        return None
    size = int.from_bytes(data[:4], "big")
    if not 8 <= size <= STARTUP_SIZE_MAX + 4:
        raise PeerError(f"a startup packet that declares a length of {size} bytes")
    if len(data) < size:
        return None
    fields = _Fields(data[8:size], "startup")
    code = int.from_bytes(data[4:8], "big")
    if code in (SSL_REQUEST_CODE, GSS_REQUEST_CODE):
        fields.end()
        return (SslRequest() if code == SSL_REQUEST_CODE else GssRequest()), size
    if code == CANCEL_REQUEST_CODE:
        key = fields.rest()
        if not 8 <= len(key) <= 4 + CANCEL_SECRET_SIZE_MAX:
            raise PeerError(f"a cancel request with a key of {len(key)} bytes")
        return CancelRequest(key), size
    major, minor = code >> 16, code & 0xFFFF
    if major != 3:
        return StartupMessage(major, minor, ()), size
    parameters: list[tuple[str, str]] = []
    while name := fields.text():  # bounded by the packet's size
        parameters.append((name, fields.text()))
    fields.end()
    return StartupMessage(major, minor, tuple(parameters)), size


# --- what a client sends ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Query:
    """A text of one or more statements, simple protocol."""

    text: str

    def build(self) -> bytes:
        return frame(QUERY, _string(self.text))

    @classmethod
    def read(cls, payload: bytes) -> Query:
        fields = _Fields(payload, "Query")
        message = cls(fields.text())
        fields.end()
        return message


@dataclass(frozen=True, slots=True)
class Parse:
    """Prepare `text` as `name` ("" is the unnamed statement). `types` are OIDs, 0 for one left open."""

    name: str
    text: str
    types: tuple[int, ...] = ()

    def build(self) -> bytes:
        types = struct.pack(f"!H{len(self.types)}I", len(self.types), *self.types)
        return frame(PARSE, _string(self.name) + _string(self.text) + types)

    @classmethod
    def read(cls, payload: bytes) -> Parse:
        fields = _Fields(payload, "Parse")
        name, text = fields.text(), fields.text()
        message = cls(name, text, tuple(fields.oid() for _ in range(fields.count())))
        fields.end()
        return message


@dataclass(frozen=True, slots=True)
class Bind:
    """Make a portal of a prepared statement. `formats`: none (all text), one for all, or one for each value."""

    portal: str
    statement: str
    formats: tuple[int, ...] = ()
    values: tuple[bytes | None, ...] = ()
    result_formats: tuple[int, ...] = ()

    def build(self) -> bytes:
        return frame(
            BIND,
            b"".join(
                (
                    _string(self.portal),
                    _string(self.statement),
                    _formats(self.formats),
                    _INT16.pack(len(self.values)),
                    *map(_value, self.values),
                    _formats(self.result_formats),
                )
            ),
        )

    @classmethod
    def read(cls, payload: bytes) -> Bind:
        fields = _Fields(payload, "Bind")
        portal, statement, formats = fields.text(), fields.text(), fields.formats()
        values = tuple(fields.value() for _ in range(fields.count()))
        if len(formats) > 1 and len(formats) != len(values):
            raise PeerError(f"a Bind message with {len(formats)} formats for {len(values)} values")
        message = cls(portal, statement, formats, values, fields.formats())
        fields.end()
        return message

    def format_of(self, index: int) -> int:
        """The format of the value at that index, from 0: 0 text, 1 binary."""
        return format_at(self.formats, index)


def format_at(formats: tuple[int, ...], index: int) -> int:
    """Which format a list of none, one or all format codes gives to the value at `index`."""
    if not formats:
        return 0
    return formats[0] if len(formats) == 1 else formats[index]


@dataclass(frozen=True, slots=True)
class Describe:
    """`sort` is "S" for a statement, "P" for a portal."""

    sort: str
    name: str

    def build(self) -> bytes:
        return frame(DESCRIBE, self.sort.encode("ascii") + _string(self.name))

    @classmethod
    def read(cls, payload: bytes) -> Describe:
        return cls(*_sort_and_name(payload, "Describe"))


@dataclass(frozen=True, slots=True)
class CloseMessage:
    """Forget a statement ("S") or portal ("P")."""

    sort: str
    name: str

    def build(self) -> bytes:
        return frame(CLOSE, self.sort.encode("ascii") + _string(self.name))

    @classmethod
    def read(cls, payload: bytes) -> CloseMessage:
        return cls(*_sort_and_name(payload, "Close"))


def _sort_and_name(payload: bytes, what: str) -> tuple[str, str]:
    fields = _Fields(payload, what)
    sort = fields.byte()
    if sort not in b"SP":
        raise PeerError(f"a {what} message for something that is neither statement nor portal")
    name = fields.text()
    fields.end()
    return chr(sort), name


@dataclass(frozen=True, slots=True)
class Execute:
    """Run a portal. `rows_max` 0 or below: to the end."""

    portal: str
    rows_max: int = 0

    def build(self) -> bytes:
        return frame(EXECUTE, _string(self.portal) + _INT32.pack(self.rows_max))

    @classmethod
    def read(cls, payload: bytes) -> Execute:
        fields = _Fields(payload, "Execute")
        message = cls(fields.text(), fields.int32())
        fields.end()
        return message


@dataclass(frozen=True, slots=True)
class Sync:
    """The end of an extended unit; one ReadyForQuery answers each."""

    def build(self) -> bytes:
        return frame(SYNC, b"")

    @classmethod
    def read(cls, payload: bytes) -> Sync:
        _Fields(payload, "Sync").end()
        return cls()


@dataclass(frozen=True, slots=True)
class Flush:
    """Send what is ready."""

    def build(self) -> bytes:
        return frame(FLUSH, b"")

    @classmethod
    def read(cls, payload: bytes) -> Flush:
        _Fields(payload, "Flush").end()
        return cls()


@dataclass(frozen=True, slots=True)
class Terminate:
    """The client leaves."""

    def build(self) -> bytes:
        return frame(TERMINATE, b"")

    @classmethod
    def read(cls, payload: bytes) -> Terminate:
        _Fields(payload, "Terminate").end()
        return cls()


@dataclass(frozen=True, slots=True)
class CopyData:
    """A piece of a COPY, either way; its borders mean nothing."""

    data: bytes

    def build(self) -> bytes:
        return frame(COPY_DATA, self.data)

    @classmethod
    def read(cls, payload: bytes) -> CopyData:
        return cls(payload)


@dataclass(frozen=True, slots=True)
class CopyDone:
    """A COPY is complete, either way."""

    def build(self) -> bytes:
        return frame(COPY_DONE, b"")

    @classmethod
    def read(cls, payload: bytes) -> CopyDone:
        _Fields(payload, "CopyDone").end()
        return cls()


@dataclass(frozen=True, slots=True)
class CopyFail:
    """The client gives its COPY up."""

    reason: str

    def build(self) -> bytes:
        return frame(COPY_FAIL, _string(self.reason))

    @classmethod
    def read(cls, payload: bytes) -> CopyFail:
        fields = _Fields(payload, "CopyFail")
        message = cls(fields.text())
        fields.end()
        return message


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """Call a function by its OID, past every text; read only so that it can be refused by name."""

    function: int
    formats: tuple[int, ...]
    values: tuple[bytes | None, ...]
    result_format: int

    def build(self) -> bytes:
        return frame(
            FUNCTION_CALL,
            b"".join(
                (
                    _UINT32.pack(self.function),
                    _formats(self.formats),
                    _INT16.pack(len(self.values)),
                    *map(_value, self.values),
                    _INT16.pack(self.result_format),
                )
            ),
        )

    @classmethod
    def read(cls, payload: bytes) -> FunctionCall:
        fields = _Fields(payload, "FunctionCall")
        function, formats = fields.oid(), fields.formats()
        values = tuple(fields.value() for _ in range(fields.count()))
        if len(formats) > 1 and len(formats) != len(values):
            raise PeerError(f"a FunctionCall message with {len(formats)} formats for {len(values)} values")
        message = cls(function, formats, values, fields.format())
        fields.end()
        return message


@dataclass(frozen=True, slots=True)
class LoginToken:
    """A password or a SASL or GSS token: which one, only the state of the login says."""

    data: bytes

    def build(self) -> bytes:
        return frame(LOGIN_TOKEN, self.data)

    @classmethod
    def read(cls, payload: bytes) -> LoginToken:
        return cls(payload)


@dataclass(frozen=True, slots=True)
class Password:
    """A password in clear, or its MD5 answer."""

    secret: bytes

    def build(self) -> bytes:
        return frame(LOGIN_TOKEN, self.secret + b"\0")

    @classmethod
    def read(cls, payload: bytes) -> Password:
        fields = _Fields(payload, "Password")
        message = cls(fields.raw_text())
        fields.end()
        return message


@dataclass(frozen=True, slots=True)
class SaslInitialResponse:
    """The mechanism chosen and its first token, or None for none."""

    mechanism: str
    token: bytes | None

    def build(self) -> bytes:
        return frame(LOGIN_TOKEN, _string(self.mechanism) + _value(self.token))

    @classmethod
    def read(cls, payload: bytes) -> SaslInitialResponse:
        fields = _Fields(payload, "SASLInitialResponse")
        message = cls(fields.text(), fields.value())
        fields.end()
        return message


ClientMessage = (
    Query
    | Parse
    | Bind
    | Describe
    | Execute
    | CloseMessage
    | Sync
    | Flush
    | CopyData
    | CopyDone
    | CopyFail
    | Terminate
    | FunctionCall
    | LoginToken
)

_CLIENT_MESSAGES: Mapping[int, type[ClientMessage]] = MappingProxyType(
    {
        QUERY: Query,
        PARSE: Parse,
        BIND: Bind,
        DESCRIBE: Describe,
        EXECUTE: Execute,
        CLOSE: CloseMessage,
        SYNC: Sync,
        FLUSH: Flush,
        COPY_DATA: CopyData,
        COPY_DONE: CopyDone,
        COPY_FAIL: CopyFail,
        TERMINATE: Terminate,
        FUNCTION_CALL: FunctionCall,
        LOGIN_TOKEN: LoginToken,
    }
)


def read_client(code: int, payload: bytes) -> ClientMessage:
    """A client's message after its login."""
    kind = _CLIENT_MESSAGES.get(code)
    if kind is None:
        raise PeerError(f"a message of the unknown type 0x{code:02x}")
    return kind.read(payload)


# --- what a server sends ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuthenticationOk:
    """The login is complete."""

    def build(self) -> bytes:
        return frame(AUTHENTICATION, _INT32.pack(0))


@dataclass(frozen=True, slots=True)
class AuthenticationCleartextPassword:
    """Send the password as it is."""

    def build(self) -> bytes:
        return frame(AUTHENTICATION, _INT32.pack(3))


@dataclass(frozen=True, slots=True)
class AuthenticationMd5Password:
    """Send "md5" and md5(md5(password and user), salt); the salt has 4 bytes."""

    salt: bytes

    def build(self) -> bytes:
        return frame(AUTHENTICATION, _INT32.pack(5) + self.salt)


@dataclass(frozen=True, slots=True)
class AuthenticationSasl:
    """Choose one of these mechanisms, the server's favourite first."""

    mechanisms: tuple[str, ...]

    def build(self) -> bytes:
        return frame(AUTHENTICATION, _INT32.pack(10) + b"".join(map(_string, self.mechanisms)) + b"\0")


@dataclass(frozen=True, slots=True)
class AuthenticationSaslContinue:
    """The mechanism's next token."""

    token: bytes

    def build(self) -> bytes:
        return frame(AUTHENTICATION, _INT32.pack(11) + self.token)


@dataclass(frozen=True, slots=True)
class AuthenticationSaslFinal:
    """The mechanism's last token."""

    token: bytes

    def build(self) -> bytes:
        return frame(AUTHENTICATION, _INT32.pack(12) + self.token)


@dataclass(frozen=True, slots=True)
class AuthenticationOther:
    """A way to log in that we do not have (Kerberos, GSSAPI, SSPI…); `number` is the protocol's."""

    number: int
    data: bytes = b""

    def build(self) -> bytes:
        return frame(AUTHENTICATION, _INT32.pack(self.number) + self.data)


Authentication = (
    AuthenticationOk
    | AuthenticationCleartextPassword
    | AuthenticationMd5Password
    | AuthenticationSasl
    | AuthenticationSaslContinue
    | AuthenticationSaslFinal
    | AuthenticationOther
)


def read_authentication(payload: bytes) -> Authentication:
    """What an Authentication message asks for."""
    fields = _Fields(payload, "Authentication")
    number = fields.int32()
    message: Authentication
    match number:
        case 0:
            message = AuthenticationOk()
        case 3:
            message = AuthenticationCleartextPassword()
        case 5:
            message = AuthenticationMd5Password(fields.take(4))
        case 10:
            mechanisms: list[str] = []
            while mechanism := fields.text():  # bounded by the message's size
                mechanisms.append(mechanism)
            message = AuthenticationSasl(tuple(mechanisms))
        case 11:
            message = AuthenticationSaslContinue(fields.rest())
        case 12:
            message = AuthenticationSaslFinal(fields.rest())
        case _:
            message = AuthenticationOther(number, fields.rest())
    fields.end()
    return message


@dataclass(frozen=True, slots=True)
class BackendKeyData:
    """The cancel key: a process id of 4 bytes and the secret behind it."""

    key: bytes

    def build(self) -> bytes:
        return frame(BACKEND_KEY_DATA, self.key)

    @classmethod
    def read(cls, payload: bytes) -> BackendKeyData:
        if not 8 <= len(payload) <= 4 + CANCEL_SECRET_SIZE_MAX:
            raise PeerError(f"a BackendKeyData message with a key of {len(payload)} bytes")
        return cls(payload)


@dataclass(frozen=True, slots=True)
class ParameterStatus:
    """A setting that the server reports."""

    name: str
    value: str

    def build(self) -> bytes:
        return frame(PARAMETER_STATUS, _string(self.name) + _string(self.value))

    @classmethod
    def read(cls, payload: bytes) -> ParameterStatus:
        fields = _Fields(payload, "ParameterStatus")
        message = cls(fields.text(), fields.text())
        fields.end()
        return message


@dataclass(frozen=True, slots=True)
class NegotiateProtocolVersion:
    """The newest version spoken, as the whole version word (0x30000 for 3.0), and the `_pq_.` options not known."""

    version: int
    options: tuple[str, ...] = ()

    def build(self) -> bytes:
        head = struct.pack("!Ii", self.version, len(self.options))
        return frame(NEGOTIATE_PROTOCOL_VERSION, head + b"".join(map(_string, self.options)))

    @classmethod
    def read(cls, payload: bytes) -> NegotiateProtocolVersion:
        fields = _Fields(payload, "NegotiateProtocolVersion")
        version, count = fields.oid(), fields.int32()
        if not 0 <= count <= len(payload):  # each option has at least its NUL
            raise PeerError(f"a NegotiateProtocolVersion message with {count} options")
        message = cls(version, tuple(fields.text() for _ in range(count)))
        fields.end()
        return message


@dataclass(frozen=True, slots=True)
class ReadyForQuery:
    """`status` is "I" idle, "T" in a transaction block, "E" in a failed one."""

    status: str

    def build(self) -> bytes:
        return frame(READY_FOR_QUERY, self.status.encode("ascii"))

    @classmethod
    def read(cls, payload: bytes) -> ReadyForQuery:
        if payload not in (b"I", b"T", b"E"):
            raise PeerError("a ReadyForQuery message with an unknown status")
        return cls(payload.decode("ascii"))


@dataclass(frozen=True, slots=True)
class CommandComplete:
    """The tag of a finished statement, as "SELECT 5"."""

    tag: str

    def build(self) -> bytes:
        return frame(COMMAND_COMPLETE, _string(self.tag))

    @classmethod
    def read(cls, payload: bytes) -> CommandComplete:
        fields = _Fields(payload, "CommandComplete")
        message = cls(fields.text())
        fields.end()
        return message


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a RowDescription. `table` and `column` are 0 where it is no column of a table; `type_size` is
    negative for variable width; `format` 0 text, 1 binary (0 where it is not known yet)."""

    name: str
    table: int
    column: int
    type_oid: int
    type_size: int
    type_modifier: int
    format: int


_FIELD = struct.Struct("!IhIhih")


@dataclass(frozen=True, slots=True)
class RowDescription:
    """The columns of the rows that follow."""

    fields: tuple[Field, ...]

    def build(self) -> bytes:
        parts = [_INT16.pack(len(self.fields))]
        for each in self.fields:
            parts.append(_string(each.name))
            parts.append(
                _FIELD.pack(each.table, each.column, each.type_oid, each.type_size, each.type_modifier, each.format)
            )
        return frame(ROW_DESCRIPTION, b"".join(parts))

    @classmethod
    def read(cls, payload: bytes) -> RowDescription:
        fields = _Fields(payload, "RowDescription")
        columns: list[Field] = []
        for _ in range(fields.count()):
            name = fields.text()
            table, column, type_oid, size, modifier, code = _FIELD.unpack(fields.take(_FIELD.size))
            if code not in (0, 1):
                raise PeerError(f"a RowDescription message with the unknown format code {code}")
            columns.append(Field(name, table, column, type_oid, size, modifier, code))
        fields.end()
        return cls(tuple(columns))


@dataclass(frozen=True, slots=True)
class ParameterDescription:
    """The types of a statement's parameters, as OIDs."""

    types: tuple[int, ...]

    def build(self) -> bytes:
        return frame(PARAMETER_DESCRIPTION, struct.pack(f"!H{len(self.types)}I", len(self.types), *self.types))

    @classmethod
    def read(cls, payload: bytes) -> ParameterDescription:
        fields = _Fields(payload, "ParameterDescription")
        message = cls(tuple(fields.oid() for _ in range(fields.count())))
        fields.end()
        return message


@dataclass(frozen=True, slots=True)
class DataRow:
    """One row; None is NULL."""

    values: tuple[bytes | None, ...]

    def build(self) -> bytes:
        return frame(DATA_ROW, _INT16.pack(len(self.values)) + b"".join(map(_value, self.values)))

    @classmethod
    def read(cls, payload: bytes) -> DataRow:
        fields = _Fields(payload, "DataRow")
        message = cls(tuple(fields.value() for _ in range(fields.count())))
        fields.end()
        return message


@dataclass(frozen=True, slots=True)
class CopyResponse:
    """A COPY begins: into the server where `code` is COPY_IN_RESPONSE, out of it where COPY_OUT_RESPONSE."""

    code: int
    format: int
    column_formats: tuple[int, ...]

    def build(self) -> bytes:
        return frame(self.code, bytes((self.format,)) + _formats(self.column_formats))

    @classmethod
    def read(cls, code: int, payload: bytes) -> CopyResponse:
        fields = _Fields(payload, "CopyResponse")
        overall = fields.byte()
        if overall > 1:
            raise PeerError(f"a CopyResponse message with the unknown format code {overall}")
        message = cls(code, overall, fields.formats())
        fields.end()
        return message


@dataclass(frozen=True, slots=True)
class NotificationResponse:
    """What a LISTEN receives."""

    process: int
    channel: str
    payload: str

    def build(self) -> bytes:
        return frame(NOTIFICATION_RESPONSE, _INT32.pack(self.process) + _string(self.channel) + _string(self.payload))

    @classmethod
    def read(cls, payload: bytes) -> NotificationResponse:
        fields = _Fields(payload, "NotificationResponse")
        message = cls(fields.int32(), fields.text(), fields.text())
        fields.end()
        return message


def read_empty(payload: bytes, what: str) -> None:
    """A message without fields: ParseComplete, BindComplete, CloseComplete, NoData, PortalSuspended…"""
    _Fields(payload, what).end()


@dataclass(frozen=True, slots=True)
class Report:
    """The fields of an ErrorResponse or NoticeResponse by their letters, in the order sent."""

    fields: tuple[tuple[str, str], ...]

    def field(self, letter: str) -> str | None:
        """The field of that letter, or None where the report has none."""
        for name, value in self.fields:
            if name == letter:
                return value
        return None

    @property
    def severity(self) -> str:
        """Not localised where the server says it (from 9.6 on)."""
        return self.field("V") or self.field("S") or "ERROR"

    @property
    def sqlstate(self) -> str:
        return self.field("C") or "XX000"

    @property
    def message(self) -> str:
        return self.field("M") or ""

    def build(self, code: int) -> bytes:
        body = b"".join(name.encode("ascii") + _string(value) for name, value in self.fields)
        return frame(code, body + b"\0")

    @classmethod
    def read(cls, payload: bytes) -> Report:
        fields = _Fields(payload, "error or notice")
        found: list[tuple[str, str]] = []
        while letter := fields.byte():  # bounded by the message's size
            if not 0x20 < letter < 0x7F:
                raise PeerError("an error or notice message with a field that has no letter")
            # Before client_encoding is in force a server may speak its own encoding; its words are shown, never judged.
            found.append((chr(letter), fields.raw_text().decode("utf-8", "replace")))
        fields.end()
        return cls(tuple(found))


def _report(severity: str, sqlstate: str, message: str, detail: str, hint: str, position: int) -> Report:
    fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", message)]
    if detail:
        fields.append(("D", detail))
    if hint:
        fields.append(("H", hint))
    if position:
        fields.append(("P", str(position)))
    return Report(tuple((letter, value.replace("\0", "?")) for letter, value in fields))


def error_response(severity: str, sqlstate: str, message: str, detail: str = "", hint: str = "", position: int = 0) -> bytes:
    """An ErrorResponse. `severity` is "ERROR" or "FATAL"; `position` counts characters of the query from 1, 0 for none."""
    return _report(severity, sqlstate, message, detail, hint, position).build(ERROR_RESPONSE)


def notice_response(severity: str, sqlstate: str, message: str, detail: str = "", hint: str = "") -> bytes:
    """A NoticeResponse. `severity` is "NOTICE", "WARNING", "INFO", "LOG" or "DEBUG"."""
    return _report(severity, sqlstate, message, detail, hint, 0).build(NOTICE_RESPONSE)


PARSE_COMPLETE_MESSAGE: Final = frame(PARSE_COMPLETE, b"")
BIND_COMPLETE_MESSAGE: Final = frame(BIND_COMPLETE, b"")
CLOSE_COMPLETE_MESSAGE: Final = frame(CLOSE_COMPLETE, b"")
NO_DATA_MESSAGE: Final = frame(NO_DATA, b"")
EMPTY_QUERY_MESSAGE: Final = frame(EMPTY_QUERY_RESPONSE, b"")
PORTAL_SUSPENDED_MESSAGE: Final = frame(PORTAL_SUSPENDED, b"")
