"""A PostgreSQL client that reads a large result and does nothing with it, so that it is not what is measured.

Run in the executor's machine; libpq's variables say where to, PGSSLMODE is "disable" or "require". It asks the query of its
first argument again and again for the seconds of its second, but as often as its third says at least, and prints a line of
JSON: rows, bytes and seconds of each.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import ssl
import struct
import sys
import time
from dataclasses import dataclass
from functools import cache
from typing import Final

from appliance.credentials.scram import ScramClient, salted_password

_BUFFER_BYTES: Final = 256 << 10
_SECONDS_MAX: Final = 60.0
_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
# ReadyForQuery outside of a transaction; a row cannot end like this because a text has no zero byte.
_READY: Final = b"Z\0\0\0\5I"


@dataclass(frozen=True, slots=True)
class Reading:
    """One result: bytes as they came out of TCP or TLS, and the seconds from the query to ReadyForQuery."""

    rows: int
    size: int
    seconds: float


# Thousands of logins of one user would else cost the client more than the server.
_salted: Final = cache(salted_password)


def read_readings(text: str) -> list[Reading]:
    """What `main` has printed."""
    return [Reading(**one) for one in json.loads(text)]


def _main(query: str, seconds: float, times: int) -> None:
    stream = connect()
    deadline = time.monotonic() + seconds
    readings: list[Reading] = []
    while len(readings) < times or time.monotonic() < deadline:
        readings.append(_read_result(stream, query))
    print(json.dumps([{"rows": one.rows, "size": one.size, "seconds": one.seconds} for one in readings]))


def connect(source: str = "") -> socket.socket:
    """A connection, logged in, that libpq's variables lead to. `source` is the address it comes from, "" any.
    ConnectionError says what the server said if it refuses."""
    address = (os.environ["PGHOST"], int(os.environ["PGPORT"]))
    stream: socket.socket = socket.create_connection(address, _SECONDS_MAX, (source, 0) if source else None)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if os.environ["PGSSLMODE"] == "require":
        stream.sendall(_SSL_REQUEST)
        if stream.recv(1) != b"S":
            raise ConnectionError("TLS is refused")
        # As libpq's "require": the handshake is not what is measured, and each lane shows another certificate.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        stream = context.wrap_socket(stream)
    parameters = {"user": os.environ["PGUSER"], "database": os.environ["PGDATABASE"]}
    body = struct.pack("!I", 196608) + b"".join(f"{name}\0{value}\0".encode() for name, value in parameters.items()) + b"\0"
    stream.sendall(struct.pack("!I", len(body) + 4) + body)
    _log_in(stream)
    return stream


def run_simple(stream: socket.socket, query: str) -> None:
    """Run one statement whose answer is short, and read it to its end. ConnectionError where it is an error."""
    _put(stream, b"Q", query.encode() + b"\0")
    data = b""
    while not data.endswith(_READY):
        part = stream.recv(_BUFFER_BYTES)
        if not part:
            raise ConnectionError("the connection ended")
        data += part
    if data[:1] == b"E":
        raise ConnectionError(f"an error: {data[:500]!r}")


def _log_in(stream: socket.socket) -> None:
    client = ScramClient(secrets.token_urlsafe(18), None)
    while True:
        kind, body = _take_message(stream)
        (code,) = struct.unpack_from("!I", body) if kind == b"R" else (None,)
        match kind, code:
            case b"Z", _:
                return
            case b"R", 10:
                first = client.first()
                _put(stream, b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first)
            case b"R", 11:
                password = os.environ["PGPASSWORD"].encode()
                _put(stream, b"p", client.final(_salted(password, client.derivation(body[4:]))))
            case b"R", 12:
                client.verify(body[4:])
            case (b"R", 0) | (b"S" | b"K" | b"N", _):
                pass
            case _:
                raise ConnectionError(f"in the login: {kind!r} {body[:500]!r}")


def _put(stream: socket.socket, kind: bytes, body: bytes) -> None:
    stream.sendall(kind + struct.pack("!I", len(body) + 4) + body)


def _take_message(stream: socket.socket) -> tuple[bytes, bytes]:
    head = _take(stream, 5)
    return head[:1], _take(stream, struct.unpack("!I", head[1:])[0] - 4)


def _take(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            raise ConnectionError("the connection ended")
        data += part
    return data


def _read_result(stream: socket.socket, query: str) -> Reading:
    buffer = bytearray(_BUFFER_BYTES)
    view = memoryview(buffer)
    size = 0
    tail = b""
    started = time.perf_counter()
    _put(stream, b"Q", query.encode() + b"\0")
    while not tail.endswith(_READY):
        count = stream.recv_into(view)
        if not count:
            raise ConnectionError("the connection ended within a result")
        size += count
        # Enough for the whole CommandComplete before it, too; pieces may be shorter than that.
        tail = (tail + view[max(0, count - 64) : count].tobytes())[-64:]
    seconds = time.perf_counter() - started
    rows = tail[: -len(_READY)].rpartition(b"SELECT ")[2].rstrip(b"\0")
    if not rows.isdigit():
        raise ConnectionError(f"no result: {bytes(view[:500])!r}")
    return Reading(int(rows), size, seconds)


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
