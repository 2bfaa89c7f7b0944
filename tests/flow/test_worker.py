"""A worker over real sockets: what it asks control, whom it lets in, and what it lets its flows take together."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from appliance.events import NEED_DATA, Event, Left, NeedData
from appliance.flow.worker import FlowFacts, Worker
from appliance.ipc.channel import Callbacks, Channel, serve
from appliance.ipc.messages import CatalogueChanged, CatalogueWanted, Hello, Message, Tally, Welcome
from appliance.parties import Endpoint, Phase, Side
from appliance.protocols.inspector import Act, Ask, CatalogueQuestion, Inspector, Question
from appliance.settings import AgentSettings, NetworkSettings, PhaseSettings, ResourceSettings, Settings
from appliance.sql.catalogue import Catalogue
from tests.flow.loopback import SECONDS, recorded
from tests.two_streams.inspector import TwoStreamsInspector

OPEN = "rules: [{id: all, reason: anything, allow: [{actions: ['*']}]}]"


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 60))


class Control:
    """Plays the control process: welcomes the worker, and answers with the catalogue of `version`, which becomes another
    with the answer that `versions` names."""

    def __init__(self, journals: Path) -> None:
        self.version = "1"
        self.versions: dict[int, str] = {}
        self.wanted: list[str | None] = []
        self.changes = 0
        self.tallies: asyncio.Queue[Tally] = asyncio.Queue()
        self._journals = journals
        self._channel: Channel | None = None

    def accept(self, channel: Channel, uid: int, gid: int, pid: int) -> Callbacks:  # noqa: ARG002
        self._channel = channel
        return Callbacks(self._take, lambda: None)

    def _take(self, message: Message) -> None:
        assert self._channel is not None
        match message:
            case Hello(call=call):
                key = X25519PrivateKey.generate().public_key().public_bytes_raw()
                welcome = Welcome("1", (("p.yaml", OPEN),), key, str(self._journals))
                self._channel.reply(call, msgspec.msgpack.encode(welcome))
            case CatalogueWanted(call=call, newer_than=newer_than):
                self.wanted.append(newer_than)
                self.version = self.versions.get(len(self.wanted), self.version)
                known = Catalogue(self.version, 170_000, "shop", "app", ("public",), frozenset({"public"}), ())
                self._channel.reply(call, msgspec.msgpack.encode(known))
            case CatalogueChanged():
                self.changes += 1
            case Tally():
                self.tallies.put_nowait(message)
            case _:
                pass


class Running:
    """A worker of this very process, with its control process played by the test."""

    def __init__(self, folder: Path, make: Callable[[FlowFacts], Inspector]) -> None:
        self._folder = folder
        self._make = make
        self.control = Control(folder)

    async def __aenter__(self) -> Running:
        loop = asyncio.get_running_loop()
        self._server = await serve(str(self._folder / "control-workers.sock"), self.control.accept)
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.setblocking(False)
        self.address = listening.getsockname()
        phase = PhaseSettings(Phase.EXECUTE, (ip_network("127.0.0.1/32"),))
        settings = Settings(
            agents=(AgentSettings("bot", "ann", None, frozenset(), (phase,)),),
            resources=(ResourceSettings("echo", "played", (Endpoint(*self.address),), None),),
            credentials=(),
            networks=NetworkSettings(()),
            policies=(),
            run=str(self._folder),
        )
        ready = asyncio.Event()
        worker = Worker(settings, 0, {"played": self._make}, loop)
        self._task = loop.create_task(worker.run([listening], ready.set))
        await asyncio.wait_for(ready.wait(), SECONDS)
        return self

    async def __aexit__(self, *_: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(self._task, SECONDS)
        self._server.close()

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address)


class Asking(TwoStreamsInspector):
    """Asks for the catalogue with each of these questions, one after the other."""

    def __init__(self, questions: list[CatalogueQuestion], answers: asyncio.Queue[str | None]) -> None:
        super().__init__()
        self._questions = questions
        self._given = answers

    def opening_acts(self) -> list[Act]:
        return [Ask(self._questions.pop(0))] if self._questions else []

    def answer(self, question: Question, reply: object) -> list[Act]:  # noqa: ARG002
        self._given.put_nowait(reply.version if isinstance(reply, Catalogue) else None)
        return self.opening_acts()


def asked(folder: Path, versions: dict[int, str], *questions: CatalogueQuestion) -> tuple[list[str | None], Control]:
    """What a flow gets for its questions where control answers with those versions from its n-th answer on."""
    got: list[str | None] = []
    played: list[Control] = []

    async def scene() -> None:
        answers: asyncio.Queue[str | None] = asyncio.Queue()
        async with Running(folder, lambda _: Asking(list(questions), answers)) as running:
            running.control.versions = versions
            played.append(running.control)
            await running.client()
            got.extend([await asyncio.wait_for(answers.get(), SECONDS) for _ in questions])

    run(scene())
    return got, played[0]


FIRST = CatalogueQuestion("shop")
GUESS = CatalogueQuestion("shop", "1", is_guess=True)
CHANGED = CatalogueQuestion("shop", "1")


def test_names_that_are_not_there_have_the_catalogue_read_once_in_a_while(tmp_path: Path) -> None:
    got, control = asked(tmp_path, {}, FIRST, *[GUESS] * 20)
    assert got == ["1"] * 21
    assert control.wanted == [None, "1"]
    assert control.changes == 0


def test_a_change_of_its_own_is_read_anew_however_soon_after_a_guess(tmp_path: Path) -> None:
    got, control = asked(tmp_path, {3: "2"}, FIRST, GUESS, GUESS, CHANGED)
    assert got == ["1", "1", "1", "2"]
    assert control.wanted == [None, "1", "1"]


def test_a_change_is_told_once_however_many_catch_up_with_it(tmp_path: Path) -> None:
    _, control = asked(tmp_path, {2: "2"}, FIRST, CHANGED, CHANGED, CHANGED, FIRST)
    assert control.changes == 1


def test_a_guess_is_not_answered_with_a_catalogue_that_others_know_to_be_old(tmp_path: Path) -> None:
    got, control = asked(tmp_path, {3: "2"}, FIRST, GUESS, CHANGED, GUESS)
    assert got == ["1", "1", "2", "2"]
    assert len(control.wanted) == 4


class Keeping(TwoStreamsInspector):
    """Keeps whatever comes, as one unfinished message."""

    def next_event(self, side: Side) -> Event | NeedData:
        if side in self._ended:
            self._ended.discard(side)
            return Left(side, 0)
        return NEED_DATA


def test_the_flow_that_keeps_most_ends_when_all_keep_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.flow.worker._WAITING_BYTES_MAX", 4 << 20)

    async def scene() -> None:
        async with Running(tmp_path, lambda _: Keeping()) as running:
            most, other = await running.client(), await running.client()
            most[1].write(bytes(3_000_000))
            await most[1].drain()
            other[1].write(bytes(1_500_000))
            with suppress(ConnectionResetError):  # where some of it was not read yet
                assert await asyncio.wait_for(most[0].read(), SECONDS) == b""
            other[1].close()
            await other[1].wait_closed()

    run(scene())
    closed = [record.reason for record in recorded(tmp_path) if type(record).__name__ == "FlowClosed"]
    assert "4 MiB that cannot be sent on" in closed[0]
    assert len(closed) == 2
    assert "MiB" not in closed[1]


def test_an_agent_does_not_take_all_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.flow.worker.FLOWS_PER_AGENT_MAX", 2)

    async def scene() -> None:
        answers: asyncio.Queue[str | None] = asyncio.Queue()
        async with Running(tmp_path, lambda _: Asking([FIRST], answers)) as running:
            first, second = await running.client(), await running.client()
            for _ in range(2):
                await asyncio.wait_for(answers.get(), SECONDS)
            third = await running.client()
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(third[0].read(), SECONDS)
            first[1].close()
            second[1].close()

    run(scene())
    closed = [record.reason for record in recorded(tmp_path) if type(record).__name__ == "FlowClosed"]
    assert closed[0] == "refused: the agent has as many flows here as it may"
    assert len(closed) == 3
