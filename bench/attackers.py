"""Clients that mean harm, each a way to take the appliance's time or memory from others. Bounded: each stops by the clock.

Run in the executor's machine with a kind, when to begin (time.monotonic), and how many rounds; libpq's variables say where
to. In every round the kind acts for a slice and lets go of all it has. What it did is counted and printed at the end.
"""

from __future__ import annotations

import os
import random
import select
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from bench.stream import connect

SLICE_SECONDS: Final = 1.0
ROUND_SECONDS: Final = 2.5
"""A quiet slice, a hostile one, and half a second in which nothing is counted."""

NOBODY: Final = "10.81.1.77"
"""An address of the executors' network that no machine has."""

REDIS_PORT: Final = 6379
_CONNECTIONS_MAX: Final = 3_000
_SYN_MAX: Final = 30_000
_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
_STATEMENT_CHARACTERS: Final = 1_000_000
_LET_GO: Final = struct.pack("ii", 1, 0)


def _address() -> tuple[str, int]:
    return os.environ["PGHOST"], int(os.environ["PGPORT"])


def _open(port: int | None = None) -> socket.socket:
    """A connection that may still be on its way."""
    stream = socket.socket()
    stream.setblocking(False)
    # So that the ports are free again at once.
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LET_GO)
    with suppress(BlockingIOError):
        host, usual = _address()
        stream.connect((host, port or usual))
    return stream


def _again_and_again(until: float, data: bytes, at_once: int = 64, port: int | None = None) -> int:
    """Connections that say `data` and are let go of once they are answered or ended, so many at a time."""
    count = 0
    poll = select.poll()
    streams: dict[int, socket.socket] = {}
    while time.monotonic() < until:
        while len(streams) < at_once:
            stream = _open(port)
            streams[stream.fileno()] = stream
            poll.register(stream, select.POLLOUT if data else select.POLLIN | select.POLLOUT)
        for number, _ in poll.poll(50):
            stream = streams[number]
            is_over = not data
            try:
                if data:
                    stream.send(data)
                    poll.modify(number, select.POLLIN)
                    is_over = bool(select.select([stream], [], [], 0)[0])
            except OSError:
                is_over = True
            if is_over:
                count += 1
                poll.unregister(number)
                streams.pop(number).close()
    for stream in streams.values():
        stream.close()
    return count


def _half_open(until: float) -> int:
    """Beginnings of TCP connections, from an address where nobody answers."""
    host, port = _address()
    source, target = socket.inet_aton(NOBODY), socket.inet_aton(host)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        count = 0
        while time.monotonic() < until and count < _SYN_MAX:
            own, sequence = random.randrange(1024, 65536), random.getrandbits(32)
            segment = struct.pack("!HHIIBBHHH", own, port, sequence, 0, 5 << 4, 2, 64240, 0, 0)
            checked = source + target + struct.pack("!BBH", 0, 6, len(segment)) + segment
            total = sum(struct.unpack(f"!{len(checked) // 2}H", checked))
            total = (total & 0xFFFF) + (total >> 16)
            total = ~(total + (total >> 16)) & 0xFFFF
            segment = segment[:16] + struct.pack("!H", total) + segment[18:]
            head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), 0, 0, 64, 6, 0, source, target)
            raw.sendto(head + segment, (host, 0))
            count += 1
    return count


def _silent(until: float) -> int:
    """Connections that say nothing, as many as there can be."""
    streams: list[socket.socket] = []
    while time.monotonic() < until:
        if len(streams) < _CONNECTIONS_MAX:
            streams.append(_open())
        else:
            time.sleep(0.01)
    for stream in streams:
        stream.close()
    return len(streams)


def _slow(until: float) -> int:
    """A startup packet a byte at a time, on two hundred connections."""
    packet = _startup()
    streams = [_open() for _ in range(200)]
    at = 0
    while time.monotonic() < until:
        for stream in streams:
            with suppress(OSError):
                stream.send(packet[at % len(packet) : at % len(packet) + 1])
        at += 1
        time.sleep(0.02)
    for stream in streams:
        stream.close()
    return at * len(streams)


def _startup() -> bytes:
    body = struct.pack("!I", 196608) + b"user\0shop_owner\0database\0shop\0\0"
    return struct.pack("!I", len(body) + 4) + body


def _lengths(until: float) -> int:
    """Packets that say that they are very long, and begin."""
    count = 0
    for length in (0x7FFFFFFF, 0xFFFFFFFF, 0x40000000, 3, 0, 10_000):
        part = SLICE_SECONDS / 8
        count += _again_and_again(min(until, time.monotonic() + part), struct.pack("!II", length, 196608) + b"x" * 4000)
    stream = _logged_in()
    # A message of a gigabyte, as far as it gets.
    stream.send(b"Q" + struct.pack("!I", 1 << 30))
    count += _pour(stream, b"x" * 65536, until)
    return count


def _logged_in() -> socket.socket:
    stream = connect()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LET_GO)
    stream.setblocking(False)
    return stream


def _pour(stream: socket.socket, data: bytes, until: float, *, is_read: bool = True) -> int:
    """Send `data` over and over, and throw away what comes back where that `is_read`."""
    count, at = 0, 0
    while time.monotonic() < until:
        readable, writable, _ = select.select([stream] if is_read else [], [stream], [], 0.05)
        try:
            if readable and not stream.recv(1 << 20):
                break
            if writable:
                at += stream.send(data[at:])
                if at == len(data):
                    at = 0
                    count += 1
        except BlockingIOError:
            continue
        except OSError:
            break
    stream.close()
    return count


def _cancels(until: float) -> int:
    """Cancel requests with keys that nobody has."""
    return _again_and_again(until, struct.pack("!III8s", 16, 80877102, random.getrandbits(32), b"")[:16])


def _never_reading(until: float) -> int:
    """Large results that nobody reads, on twenty connections."""
    streams: list[socket.socket] = []
    query = b"select repeat('x', 8000) from generate_series(1, 1000000)\0"
    for _ in range(20):
        if time.monotonic() < until:
            stream = _logged_in()
            stream.send(b"Q" + struct.pack("!I", len(query) + 4) + query)
            streams.append(stream)
    time.sleep(max(0.0, until - time.monotonic()))
    for stream in streams:
        stream.close()
    return len(streams)


def _query(text: bytes) -> bytes:
    return b"Q" + struct.pack("!I", len(text) + 5) + text + b"\0"


def _pipelined(until: float) -> int:
    """Short statements, thousands at a time without waiting for an answer."""
    return _pour(_logged_in(), _query(b"select 1") * 5000, until) * 5000


def _unread(until: float) -> int:
    """The same, and no answer is ever read."""
    return _pour(_logged_in(), _query(b"select 1") * 5000, until, is_read=False) * 5000


def _tiny(until: float) -> int:
    """The shortest messages there are."""
    return _pour(_logged_in(), b"H\0\0\0\4" * 20_000, until) * 20_000


def _long(until: float) -> int:
    """Statements of a million characters."""
    text = b"select 1" + b"+1" * ((_STATEMENT_CHARACTERS - 8) // 2)
    return _pour(_logged_in(), _query(text), until)


def _wide(until: float) -> int:
    """Statements of a hundred thousand characters, none twice, of many values."""
    stream, count = _logged_in(), 0
    while time.monotonic() < until:
        values = ",".join(str(random.getrandbits(20)) for _ in range(14_000))
        count += _pour_once(stream, _query(f"select * from orders where id in ({values})".encode()), until)
    stream.close()
    return count


def _varied(until: float) -> int:
    """Short statements, none twice."""
    stream, count = _logged_in(), 0
    while time.monotonic() < until:
        texts = [f"select {random.getrandbits(30)} as c{random.getrandbits(30)} from orders" for _ in range(50)]
        count += 50 * _pour_once(stream, b"".join(_query(f"{text} where false".encode()) for text in texts), until)
    stream.close()
    return count


def _pour_once(stream: socket.socket, data: bytes, until: float) -> int:
    at = 0
    while at < len(data) and time.monotonic() < until:
        readable, writable, _ = select.select([stream], [stream], [], 0.05)
        if readable:
            with suppress(BlockingIOError):
                stream.recv(1 << 20)
        if writable:
            with suppress(BlockingIOError):
                at += stream.send(data[at:])
    return int(at == len(data))


def _deep(until: float) -> int:
    """Statements of parentheses in parentheses."""
    return _pour(_logged_in(), _query(b"select " + b"(" * 4000 + b"1" + b")" * 4000), until)


def _handshakes(until: float) -> int:
    """TLS handshakes, each to its end and no further."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    count = 0
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(_address(), 1.0) as stream:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LET_GO)
            stream.sendall(_SSL_REQUEST)
            if stream.recv(1) == b"S":
                context.wrap_socket(stream).close()
                count += 1
    return count


def _hellos(until: float) -> int:
    """Noise where a ClientHello is expected."""
    return _again_and_again(until, _SSL_REQUEST + b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(600))


def _connects(until: float) -> int:
    """Connections that are ended as soon as they stand."""
    return _again_and_again(until, b"")


def _logins(until: float) -> int:
    """Sessions that are opened and left."""
    count = 0
    while time.monotonic() < until:
        with suppress(OSError):
            connect().close()
            count += 1
    return count


def _resp(until: float) -> int:
    """Noise at a Redis resource: arrays in arrays, lengths that are none."""
    count = 0
    for data in (b"*1\r\n" * 1000, b"*1048577\r\n", b"$-5\r\n", b"*3\r\n$536870912\r\n" + b"x" * 1000, os.urandom(4000)):
        count += _again_and_again(min(until, time.monotonic() + SLICE_SECONDS / 5), data, port=REDIS_PORT)
    return count


KINDS: Final[dict[str, Callable[[float], int]]] = {
    "half-open": _half_open,
    "silent": _silent,
    "slow": _slow,
    "connects": _connects,
    "lengths": _lengths,
    "cancels": _cancels,
    "hellos": _hellos,
    "handshakes": _handshakes,
    "logins": _logins,
    "never-reading": _never_reading,
    "pipelined": _pipelined,
    "unread": _unread,
    "tiny": _tiny,
    "varied": _varied,
    "wide": _wide,
    "long": _long,
    "deep": _deep,
    "resp": _resp,
}
"""Every way, by its name."""

AS_ROOT: Final = frozenset({"half-open"})
"""Those that need it in their own machine, as an agent may have it."""


def _main(kind: str, begin: float, rounds: int) -> None:
    act, count = KINDS[kind], 0
    for round_ in range(rounds):
        start = begin + round_ * ROUND_SECONDS + SLICE_SECONDS
        time.sleep(max(0.0, start - time.monotonic()))
        # A slice that is over already was slept through because the last one did not let go: it stays quiet.
        if time.monotonic() < start + SLICE_SECONDS:
            with suppress(ConnectionError, TimeoutError):
                count += act(start + SLICE_SECONDS)
    print(count)


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
