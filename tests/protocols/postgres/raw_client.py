"""A client of PostgreSQL's protocol that sends exactly the messages it is told, and shows exactly what comes back."""

from __future__ import annotations

import socket

from appliance.protocols.postgres import messages as wire


class RawClient:
    """A logged-in session. Raises TimeoutError where an answer does not come."""

    def __init__(self, port: int, database: str, user: str = "postgres") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=3)
        self._framer = wire.Framer(wire.TARGET_BOUNDS)
        self._socket.sendall(wire.StartupMessage(3, 0, (("user", user), ("database", database))).build())
        self.until_ready()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *messages: wire.ClientMessage) -> None:
        """Send messages in one write."""
        self._socket.sendall(b"".join(message.build() for message in messages))

    def message(self) -> tuple[str, bytes]:
        """The next message: its letter and payload."""
        while (found := self._framer.next()) is None:
            data = self._socket.recv(65536)
            if not data:
                return "", b""
            self._framer.feed(data)
        return chr(found[0]), found[1]

    def until_ready(self, count: int = 1) -> list[str]:
        """Messages up to that many ReadyForQuery, written short: letter and what matters of it."""
        shown: list[str] = []
        while count:
            letter, payload = self.message()
            shown.append(short(letter, payload))
            if letter in ("Z", ""):
                count -= 1
        return shown

    def until(self, letter: str) -> list[str]:
        """Messages up to the first of that type."""
        shown: list[str] = []
        while True:
            found, payload = self.message()
            shown.append(short(found, payload))
            if found in (letter, ""):
                return shown

    def ask(self, *messages: wire.ClientMessage) -> list[str]:
        """Send messages and read up to the ReadyForQuery of each Query and Sync among them."""
        self.send(*messages)
        return self.until_ready(sum(isinstance(message, wire.Query | wire.Sync) for message in messages))


def short(letter: str, payload: bytes) -> str:
    """A message of the server in a few letters."""
    match letter:
        case "D":
            row = wire.DataRow.read(payload)
            return "D " + ",".join("NULL" if value is None else value.decode("utf-8", "replace") for value in row.values)
        case "C":
            return "C " + wire.CommandComplete.read(payload).tag
        case "Z":
            return "Z " + payload.decode()
        case "E" | "N":
            return f"{letter} {wire.Report.read(payload).sqlstate}"
        case "d":
            return "d " + payload.decode("utf-8", "replace")
        case _:
            return letter


def short_all(data: bytes) -> list[str]:
    """Every message in a run of bytes, short."""
    framer = wire.Framer(wire.TARGET_BOUNDS)
    framer.feed(data)
    shown: list[str] = []
    while (found := framer.next()) is not None:
        shown.append(short(chr(found[0]), found[1]))
    assert len(framer) == 0
    return shown
