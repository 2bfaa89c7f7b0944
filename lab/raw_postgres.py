"""A PostgreSQL client that sends whatever a case says, byte by byte if need be, and keeps every byte it receives."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final

# A hold is answered within a second; what takes longer than this is a hang and counts as one.
_SECONDS: Final = 20.0
_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
_GSS_REQUEST: Final = struct.pack("!II", 8, 80877104)

Substitute = Callable[[str], str]


def _text(value: str | bytes) -> bytes:
    return (value.encode() if isinstance(value, str) else value) + b"\0"


def _message(kind: str, body: bytes) -> bytes:
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


class RawPostgres:
    """One connection. `received` is everything that came in; `rows`, `errors`, `tags`, `notices` are what was in it.

    `connect` makes the socket, so that the caller chooses the machine it stands in. `oid_of` answers a query's number.
    """

    def __init__(self, connect: Callable[[], socket.socket], substitute: Substitute, oid_of: Callable[[str], int]) -> None:
        self._connect = connect
        self._substitute = substitute
        self._oid_of = oid_of
        self._socket = connect()
        self._socket.settimeout(_SECONDS)
        self._buffer = b""
        self._out = b""
        self._wanted = 0
        self._copy_data: bytes | None = None
        self._key: tuple[int, int] | None = None
        self.received = b""
        self.rows: list[list[bytes | None]] = []
        self.errors: list[dict[str, str]] = []
        self.notices: list[bytes] = []
        self.tags: list[str] = []
        self.is_closed = False
        self.has_hung = False
        self.status = ""

    def start(self, parameters: dict[str, str], before: str | None = None) -> None:
        """Send the startup message (after an `ssl` or `gss` request in clear where `before` says so) and read to ready."""
        if before is not None:
            self._socket.sendall(_SSL_REQUEST if before == "ssl" else _GSS_REQUEST)
            self.received += self._socket.recv(1)
        body = struct.pack("!I", 196608) + b"".join(_text(k) + _text(v) for k, v in parameters.items()) + b"\0"
        self._socket.sendall(struct.pack("!I", len(body) + 4) + body)
        self._wanted = 1
        self._read()

    def query(self, text: str) -> None:
        """One simple Query, answered."""
        self.do({"op": "query", "sql": text})

    def do(self, step: dict[str, Any]) -> None:
        """One step of a case's `protocol`. ValueError where the step is unknown."""
        match step["op"]:
            case "query":
                self._put("Q", self._bytes(step["sql"]) + b"\0", answers=1)
                if not step.get("pipeline"):
                    self.finish()
            case "parse":
                oids = step.get("oids", [])
                self._put(
                    "P",
                    _text(step.get("name", ""))
                    + self._bytes(step["sql"])
                    + b"\0"
                    + struct.pack(f"!H{len(oids)}I", len(oids), *oids),
                )
            case "bind":
                self._put("B", self._bind(step))
            case "describe":
                self._put("D", step.get("kind", "P").encode() + _text(step.get("name", "")))
            case "close":
                self._put("C", step.get("kind", "P").encode() + _text(step.get("name", "")))
            case "execute":
                self._put("E", _text(step.get("portal", "")) + struct.pack("!I", step.get("max", 0)))
            case "sync":
                self._put("S", b"", answers=1)
                self.finish()
            case "sync_noread":
                self._put("S", b"", answers=1)
            case "flush_msg":
                self._put("H", b"")
            case "fcall":
                self._put("F", self._function_call(step), answers=1)
                self.finish()
            case "raw":
                self._out += self._bytes(step["data"])
                self._wanted += step.get("rfq", 0)
                self.finish()
            case "recv":
                self.finish()
            case "sleep":
                self._flush()
                time.sleep(step["s"])
            case "split":
                self._send_in_pieces(step)
            case "copyin":
                self._copy_data = self._bytes(step["data"])
            case "cancel":
                self._cancel()
            case other:
                raise ValueError(f"a step {other!r} that the runner does not know")

    def finish(self) -> None:
        """Send what waits and read all answers that are due."""
        self._flush()
        self._read()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def _bytes(self, value: str) -> bytes:
        if value.startswith("hex:"):
            return bytes.fromhex(value[4:])
        return self._substitute(value).encode()

    def _put(self, kind: str, body: bytes, answers: int = 0) -> None:
        self._out += _message(kind, body)
        self._wanted += answers

    def _bind(self, step: dict[str, Any]) -> bytes:
        parameters, formats, results = step.get("params", []), step.get("pfmt", []), step.get("rfmt", [])
        body = _text(step.get("portal", "")) + _text(step.get("stmt", ""))
        body += struct.pack(f"!H{len(formats)}h", len(formats), *formats) + struct.pack("!H", len(parameters))
        for parameter in parameters:
            value = None if parameter is None else self._bytes(str(parameter))
            body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
        return body + struct.pack(f"!H{len(results)}h", len(results), *results)

    def _function_call(self, step: dict[str, Any]) -> bytes:
        arguments = [str(self._oid_of(self._substitute(a[4:]))) if a.startswith("sql:") else a for a in step.get("args", [])]
        body = struct.pack("!IHHH", self._oid_of(self._substitute(step["fn"])), 1, 0, len(arguments))
        for argument in arguments:
            value = self._bytes(argument)
            body += struct.pack("!i", len(value)) + value
        return body + struct.pack("!H", 0)

    def _send_in_pieces(self, step: dict[str, Any]) -> None:
        whole = _message("Q", self._bytes(step["sql"]) + b"\0")
        self._wanted += 1
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        size = step.get("n", 1)
        try:
            for start in range(0, len(whole), size):
                self._socket.sendall(whole[start : start + size])
                time.sleep(step.get("gap", 0.002))
        except OSError:
            self.is_closed = True
        self._read()

    def _cancel(self) -> None:
        if self._key is None:
            raise ValueError("a cancel before the server gave its key")
        with self._connect() as other:
            other.sendall(struct.pack("!IIII", 16, 80877102, *self._key))

    def _flush(self) -> None:
        if self._out:
            try:
                self._socket.sendall(self._out)
            except OSError:
                self.is_closed = True
            self._out = b""

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self._socket.recv(65536)
            if not data:
                raise EOFError
            self.received += data
            self._buffer += data
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _read(self) -> None:
        try:
            while self._wanted > 0:
                head = self._take(5)
                body = self._take(struct.unpack("!I", head[1:])[0] - 4)
                self._note(chr(head[0]), body)
        except (EOFError, ConnectionError):
            self.is_closed, self._wanted = True, 0
        except TimeoutError:
            self.has_hung, self._wanted = True, 0

    def _note(self, kind: str, body: bytes) -> None:
        match kind:
            case "Z":
                self._wanted -= 1
                self.status = body.decode()
            case "D":
                self.rows.append(_row(body))
            case "E":
                self.errors.append({f[:1].decode(): f[1:].decode("utf-8", "replace") for f in body.split(b"\0") if f})
            case "K":
                self._key = struct.unpack("!II", body[:8])
            case "C":
                self.tags.append(body[:-1].decode())
            case "N":
                self.notices.append(body)
            case "G" if self._copy_data is not None:
                self._socket.sendall(_message("d", self._copy_data) + _message("c", b""))
            case "G":
                self._socket.sendall(_message("f", b"no data\0"))
            case _:
                return


def _row(body: bytes) -> list[bytes | None]:
    values: list[bytes | None] = []
    offset = 2
    for _ in range(struct.unpack("!H", body[:2])[0]):
        (size,) = struct.unpack("!i", body[offset : offset + 4])
        offset += 4
        values.append(None if size < 0 else body[offset : offset + size])
        offset += max(size, 0)
    return values
