"""How our messages travel: length-prefixed msgpack over a unix stream socket, with calls and their answers matched.

A frame is four bytes of length (big endian) and that many bytes of one msgpack message. Either end may call the other;
numbers of calls are counted by the caller, so the two directions never mix. A frame that is too long or is no message of
ours ends the channel: both ends are our own programs, so a bad frame means that one of them can't be trusted any more.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec

from appliance.errors import RefusedByControlError, UnavailableError
from appliance.ipc.messages import AnyMessage, Failure, Message, Reply

FRAME_BYTES_MAX = 64 << 20
"""A catalogue of some hundred thousand relations; nothing else comes near it."""

WAITING_BYTES_MAX = 2 * FRAME_BYTES_MAX
"""What may wait for a peer that does not read before the channel is given up."""

_LENGTH = struct.Struct(">I")
_PEER_CREDENTIALS = struct.Struct("iII")  # struct ucred, unix(7): pid, uid, gid

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)

Receive = Callable[[Message], None]
Lost = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Who is told: `receive` of every message that answers no call of ours, `lost` once when the channel has ended."""

    receive: Receive
    lost: Lost


Accept = Callable[["Channel", int, int, int], Callbacks | None]


class Channel(asyncio.Protocol):
    """One end of a connection between two of our processes. Made by `connect` and `serve`."""

    def __init__(
        self, callbacks: Callbacks | None, accept: Accept | None = None, frame_bytes_max: int = FRAME_BYTES_MAX
    ) -> None:
        self._callbacks = callbacks
        self._accept = accept
        self._frame_bytes_max = frame_bytes_max
        self._transport: asyncio.Transport | None = None
        self._read = bytearray()
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._last_call = 0

    @property
    def is_open(self) -> bool:
        """Whether messages can still be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def tell(self, message: Message) -> None:
        """Send a message that expects no answer. On an ended channel it goes nowhere: `lost` says so once."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        body = _ENCODER.encode(message)
        if len(body) > FRAME_BYTES_MAX or transport.get_write_buffer_size() + len(body) > WAITING_BYTES_MAX:
            transport.abort()
            return
        transport.write(_LENGTH.pack(len(body)) + body)

    def ask(self, build: Callable[[int], Message]) -> asyncio.Future[bytes]:
        """Send the message that `build` makes for a call number. The future ends with the Reply's body, with
        RefusedByControlError where the answer is a Failure, or with UnavailableError where the channel ends first."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if not self.is_open:
            answer.set_exception(UnavailableError("the channel to the other process has ended"))
            return answer
        self._last_call += 1
        number = self._last_call
        self._calls[number] = answer
        answer.add_done_callback(lambda _: self._calls.pop(number, None))
        self.tell(build(number))
        return answer

    async def call(self, build: Callable[[int], Message]) -> bytes:
        """`ask`, awaited."""
        return await self.ask(build)

    def reply(self, call: int, body: bytes = b"") -> None:
        """Answer the peer's call."""
        self.tell(Reply(call, body))

    def fail(self, call: int, reason: str) -> None:
        """Tell the peer that its call can't be answered."""
        self.tell(Failure(call, reason))

    def close(self) -> None:
        """End the channel once what was sent is delivered."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the channel at once."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's, so this can't be an isinstance.
        self._transport = cast(asyncio.Transport, transport)
        if self._accept is None:
            return
        uid, gid, pid = peer_of(transport)
        self._callbacks = self._accept(self, uid, gid, pid)
        if self._callbacks is None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        read = self._read
        read += data
        start = 0
        while len(read) - start >= _LENGTH.size and self._callbacks is not None and self.is_open:
            (length,) = _LENGTH.unpack_from(read, start)
            if length > self._frame_bytes_max:
                self.abort()
                return
            end = start + _LENGTH.size + length
            if len(read) < end:
                break
            try:
                message = _DECODER.decode(bytes(read[start + _LENGTH.size : end]))
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.abort()
                return
            start = end
            self._dispatch(message, self._callbacks)
        del read[:start]

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names the argument
        callbacks, self._callbacks = self._callbacks, None
        for answer in tuple(self._calls.values()):
            if not answer.done():
                answer.set_exception(UnavailableError("the channel to the other process has ended"))
        self._calls.clear()
        self._read.clear()
        if callbacks is not None:
            callbacks.lost()

    def _dispatch(self, message: Message, callbacks: Callbacks) -> None:
        match message:
            case Reply(call=number, body=body):
                answer = self._calls.get(number)
                # A caller may have stopped waiting; its answer is then nobody's.
                if answer is not None and not answer.done():
                    answer.set_result(body)
            case Failure(call=number, reason=reason):
                answer = self._calls.get(number)
                if answer is not None and not answer.done():
                    answer.set_exception(RefusedByControlError(reason))
            case _:
                callbacks.receive(message)


def peer_of(transport: asyncio.BaseTransport) -> tuple[int, int, int]:
    """(uid, gid, pid) of the process that connected, as the kernel noted them at connect (SO_PEERCRED, unix(7))."""
    descriptor = transport.get_extra_info("socket").fileno()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(descriptor)) as peer:
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    pid, uid, gid = _PEER_CREDENTIALS.unpack(raw)
    return uid, gid, pid


async def connect(path: str, receive: Receive, lost: Lost) -> Channel:
    """A channel to whoever serves `path`. Raises UnavailableError where nobody does."""
    channel = Channel(Callbacks(receive, lost))
    try:
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, path)
    except OSError as error:
        raise UnavailableError(f"nobody answers at {path}: {error.strerror or error}") from error
    return channel


async def serve(
    path: str, accept: Accept, mode: int = 0o600, owner: int | None = None, frame_bytes_max: int = FRAME_BYTES_MAX
) -> asyncio.Server:
    """Serve `path` (a socket left behind there is replaced) with that file mode and, as root, that owner.

    `accept(channel, uid, gid, pid)` decides who may stay: None ends the connection before anything of it is read.
    """
    listening = _bound(Path(path), mode, owner)
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(lambda: Channel(None, accept, frame_bytes_max), sock=listening, backlog=256)


def _bound(path: Path, mode: int, owner: int | None) -> socket.socket:
    if path.is_socket():
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    if owner is not None and os.geteuid() == 0:
        os.chown(path, owner, -1)
    path.chmod(mode)
    return listening
