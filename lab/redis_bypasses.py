"""Runs one way round at the lab's Redis: what the case sends, and what the server and the client then show."""

from __future__ import annotations

import secrets
import shlex
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from lab.redis_server import RedisServer

# What the server has at the start of every case. The card number is what masks have to keep.
CARD: Final = "4111111111111111"
FIXTURE: Final = (
    ("FLUSHALL",),
    ("SET", "user:1", CARD),
    ("SET", "user:2", CARD),
    ("HSET", "user:h", "card", CARD),
    ("RPUSH", "user:l", CARD),
    ("SET", "probe", CARD[:8]),
    ("SET", "page:1", "hello"),
)
_ANSWER_SECONDS: Final = 10.0
# Inside a transaction the answer waited for does not come, so it is over so long after the last byte.
_QUIET_SECONDS: Final = 1.0


@dataclass(slots=True)
class Seen:
    """What one run of a case showed."""

    outcome: str
    has_harm: bool = False
    leaks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def attack(server: RedisServer, connect: Callable[[], socket.socket], case: dict[str, Any]) -> Seen:
    """Run a case. Harm is that the server is not what it was, for a case that may change nothing."""
    for words in FIXTURE:
        server.run(*words)
    before = _state(server)
    received, is_closed, is_hanging = _converse(connect, _pieces(case))
    errors = [line for line in received.split(b"\r\n") if line.startswith(b"-")]
    seen = Seen("allow", notes=[error.decode(errors="replace") for error in errors[:5]])
    may_mask = "mask" in case["accept"]
    if is_hanging:
        seen.outcome = "hang"
    elif any(b"refused" in error for error in errors) or (is_closed and not received):
        seen.outcome = "deny"
    elif errors:
        seen.outcome = "server error" if case.get("benign") else "deny"
    elif may_mask and b"****" in received:
        seen.outcome = "mask"
    wanted = {*case.get("leak", []), *([CARD] if may_mask else [])}
    seen.leaks = sorted(leak for leak in wanted if leak.encode() in received)
    seen.has_harm = "allow" not in case["accept"] and not may_mask and _state(server) != before
    return seen


def _pieces(case: dict[str, Any]) -> list[bytes]:
    if "steps" in case:
        return [_array(shlex.split(step)) for step in case["steps"]]
    texts = case["segments"] if "segments" in case else [case["wire"]]
    return [_bytes(text) for text in texts]


def _bytes(text: str) -> bytes:
    """Characters up to U+00FF stand for bytes."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def _array(words: list[str]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)


def _converse(connect: Callable[[], socket.socket], pieces: list[bytes]) -> tuple[bytes, bool, bool]:
    """What was received, whether the connection was closed, and whether no answer came."""
    mark = secrets.token_hex(8).encode()
    received = b""
    with connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in (*pieces, _array(["ECHO", mark.decode()])):
                client.sendall(piece)
            deadline = time.monotonic() + _ANSWER_SECONDS
            while mark not in received and time.monotonic() < deadline:
                client.settimeout(_QUIET_SECONDS if received else _ANSWER_SECONDS)
                part = client.recv(1 << 16)
                if not part:
                    return received, True, False
                received += part
        except TimeoutError:
            return received, False, not received
        except ConnectionError:
            return received, True, False
    return received, False, not received


def _state(server: RedisServer) -> tuple[str, ...]:
    """What a case may not change: what is kept, and what the server is. All empty where it has gone."""
    return (
        server.run("DBSIZE"),
        *(server.run("--no-raw", "DUMP", words[1]) for words in FIXTURE[1:]),
        server.run("ROLE").split("\n")[0],
        server.run("CONFIG", "GET", "*"),
        server.run("LASTSAVE"),
    )
