"""Channels between our processes, over real sockets."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec
import pytest
import uvloop

from appliance.errors import RefusedByControlError, UnavailableError
from appliance.ipc.channel import FRAME_BYTES_MAX, Callbacks, Channel, connect, serve
from appliance.ipc.messages import AccountWanted, CatalogueStale, Message

Body = Callable[[str], Coroutine[None, None, None]]


def run_on(loop: str, body: Body, path: Path) -> None:
    if loop == "uvloop":
        uvloop.run(body(str(path)))
    else:
        asyncio.run(body(str(path)))


loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


class Desk:
    """The serving end: answers AccountWanted with the resource's name, fails "none", leaves "silent" unanswered."""

    def __init__(self) -> None:
        self.peers: list[tuple[int, int, int]] = []
        self.channels: list[Channel] = []
        self.told: list[Message] = []
        self.heard = asyncio.Event()
        self.ended = asyncio.Event()

    def accept(self, channel: Channel, uid: int, gid: int, pid: int) -> Callbacks:
        self.peers.append((uid, gid, pid))
        self.channels.append(channel)

        def receive(message: Message) -> None:
            match message:
                case AccountWanted(call=call, resource="none"):
                    channel.fail(call, "no such resource")
                case AccountWanted(resource="silent"):
                    pass
                case AccountWanted(call=call, resource=resource):
                    channel.reply(call, resource.encode())
                case _:
                    self.told.append(message)
            self.heard.set()

        return Callbacks(receive, self.ended.set)


def ignore(message: Message) -> None:
    raise AssertionError(message)


def nothing() -> None:
    pass


def account(resource: str) -> Callable[[int], Message]:
    return lambda call: AccountWanted(call, resource)


@loops
def test_answers_find_their_calls_and_failures_are_raised(loop: str, tmp_path: Path) -> None:
    async def body(path: str) -> None:
        desk = Desk()
        server = await serve(path, desk.accept)
        channel = await connect(path, ignore, nothing)
        answers = await asyncio.gather(*(channel.call(account(f"r{number}")) for number in range(200)))
        assert answers == [f"r{number}".encode() for number in range(200)]
        with pytest.raises(RefusedByControlError, match="no such resource"):
            await channel.call(account("none"))
        assert desk.peers == [(os.getuid(), os.getgid(), os.getpid())]
        channel.close()
        await desk.ended.wait()
        server.close()

    run_on(loop, body, tmp_path / "s")


@loops
def test_control_may_call_back_and_tell(loop: str, tmp_path: Path) -> None:
    async def body(path: str) -> None:
        desk = Desk()
        server = await serve(path, desk.accept)
        told = asyncio.Event()

        def receive(message: Message) -> None:
            if isinstance(message, AccountWanted):
                channel.reply(message.call, b"worker")
            else:
                assert message == CatalogueStale("shop", "db")
                told.set()

        channel = await connect(path, receive, nothing)
        assert await channel.call(account("x")) == b"x"
        assert await desk.channels[0].call(account("y")) == b"worker"
        desk.channels[0].tell(CatalogueStale("shop", "db"))
        await told.wait()
        channel.close()
        server.close()

    run_on(loop, body, tmp_path / "s")


@loops
def test_a_lost_channel_fails_every_open_call(loop: str, tmp_path: Path) -> None:
    async def body(path: str) -> None:
        desk = Desk()
        server = await serve(path, desk.accept)
        lost = asyncio.Event()
        channel = await connect(path, ignore, lost.set)
        call = channel.ask(account("silent"))
        await desk.heard.wait()
        desk.channels[0].abort()
        with pytest.raises(UnavailableError) as ended:
            await call
        assert not isinstance(ended.value, RefusedByControlError)
        await lost.wait()
        with pytest.raises(UnavailableError):
            await channel.call(account("later"))
        server.close()

    run_on(loop, body, tmp_path / "s")


@pytest.mark.parametrize(
    "frame",
    [
        (FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
        (3).to_bytes(4, "big") + b"\xc1\xc1\xc1",
        (1).to_bytes(4, "big") + b"\x80",
        (0).to_bytes(4, "big"),
    ],
    ids=["too long", "no msgpack", "no tag", "empty"],
)
def test_a_malformed_frame_ends_the_channel(frame: bytes, tmp_path: Path) -> None:
    async def body(path: str) -> None:
        desk = Desk()
        server = await serve(path, desk.accept)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(frame)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await asyncio.wait_for(reader.readexactly(1), 5)
        await desk.ended.wait()
        writer.close()
        server.close()

    run_on("asyncio", body, tmp_path / "s")


def test_frames_may_arrive_one_byte_at_a_time(tmp_path: Path) -> None:
    async def body(path: str) -> None:
        desk = Desk()
        server = await serve(path, desk.accept)
        reader, writer = await asyncio.open_unix_connection(path)
        frame = msgspec.msgpack.encode(AccountWanted(7, "shop"))
        for byte in len(frame).to_bytes(4, "big") + frame:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        length = int.from_bytes(await asyncio.wait_for(reader.readexactly(4), 5), "big")
        answer = msgspec.msgpack.decode(await reader.readexactly(length))
        assert answer == {"type": "Reply", "call": 7, "body": b"shop"}
        writer.close()
        server.close()

    run_on("asyncio", body, tmp_path / "s")


def test_whoever_is_not_accepted_is_not_read(tmp_path: Path) -> None:
    async def body(path: str) -> None:
        server = await serve(path, lambda *_: None)
        lost = asyncio.Event()
        channel = await connect(path, ignore, lost.set)
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(channel.call(account("x")), 5)
        await lost.wait()
        server.close()

    run_on("asyncio", body, tmp_path / "s")


def test_a_socket_left_behind_is_replaced_and_has_its_mode(tmp_path: Path) -> None:
    async def body(path: str) -> None:
        desk = Desk()
        (await serve(path, desk.accept)).close()
        server = await serve(path, desk.accept, mode=0o640)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
        channel = await connect(path, ignore, nothing)
        assert await channel.call(account("x")) == b"x"
        channel.close()
        server.close()

    run_on("asyncio", body, tmp_path / "s")


def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    async def body(path: str) -> None:
        with pytest.raises(UnavailableError, match="nobody answers"):
            await connect(path, ignore, nothing)

    run_on("asyncio", body, tmp_path / "absent")
