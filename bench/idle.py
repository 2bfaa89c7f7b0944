"""PostgreSQL clients that log in and then do nothing, so that it is seen what a flow costs that only stands.

Run in the executor's machine with libpq's variables as in bench.stream. The first argument is how many connections, the
others are the addresses that they come from, in turn. Prints a line with the number of those that stand, now and then and
at the end, and keeps all of them until its standard input ends; then each must still answer a query.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Final

from bench.stream import connect

_TELL_EVERY: Final = 500
_QUERY: Final = b"select 1\0"


def _main(number: int, sources: list[str]) -> None:
    streams: list[socket.socket] = []
    while len(streams) < number:
        streams.append(connect(sources[len(streams) % len(sources)]))
        if len(streams) % _TELL_EVERY == 0 or len(streams) == number:
            print(len(streams), flush=True)
    sys.stdin.read()
    # A few of all: that nobody was thrown out meanwhile.
    for stream in streams[:: max(1, number // 50)]:
        stream.sendall(b"Q" + struct.pack("!I", len(_QUERY) + 4) + _QUERY)
        answer = b""
        while not answer.endswith(b"Z\0\0\0\5I"):
            piece = stream.recv(4096)
            if not piece:
                raise ConnectionError(f"a connection that was idle has ended: {answer!r}")
            answer += piece
        if b"SELECT 1" not in answer:
            raise ConnectionError(f"a connection that was idle answers {answer!r}")
    print("all answer", flush=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:] or [""])
