"""One flow over real sockets: what holds, ends, slows down and changes it, and what of that is recorded."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from appliance.decisions import Approved, Expired, Modified, Verdict
from appliance.errors import RefusedByControlError, UnavailableError
from appliance.events import Command, Event
from appliance.policy.reading import read_policy
from appliance.protocols.inspector import Act
from appliance.protocols.redis.inspector import RedisInspector
from appliance.recording.journal import Journal
from tests.flow.loopback import POLICY, SECONDS, Flows, recorded
from tests.two_streams.inspector import TwoStreamsInspector, frame

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
OPEN = "rules: [{id: all, reason: anything, allow: [{actions: ['*']}]}]"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, 0, X25519PrivateKey.generate().public_key().public_bytes_raw(), 1)


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 60))


@pytest.fixture(autouse=True, params=["alone", "others"])
def company(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every flow is as it is, whether it does all at once or has to wait for its turn after every single step."""
    if request.param == "others":
        monkeypatch.setattr(Flows, "others", 1)
        monkeypatch.setattr("appliance.flow.shares.STEP_SECONDS", 0.0)


async def soon(awaited: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(awaited, SECONDS)


async def said(stream: Stream, expected: bytes) -> None:
    assert await soon(stream[0].readexactly(len(expected))) == expected


def kinds(folder: Path) -> list[tuple[str, str]]:
    return [(type(record).__name__, getattr(record, "outcome", "")) for record in recorded(folder)]


def test_a_hold_on_one_lane_leaves_the_other_going(journal: Journal, tmp_path: Path) -> None:
    async def scene() -> None:
        async with Flows(journal) as flows:
            client = await flows.client()
            client[1].write(frame(1, "erase it") + frame(2, "look") + frame(1, "after"))
            target = await soon(flows.targets.get())
            await said(target, frame(2, "look"))
            relay, approval, _ = await soon(flows.asked.get())
            client[1].write(frame(2, "again"))
            await said(target, frame(2, "again"))
            relay.decided(approval, Approved(approval, "ann"))
            await said(target, frame(1, "erase it") + frame(1, "after"))

    run(scene())
    assert ("Decided", "approved") in kinds(tmp_path)


def test_a_client_that_leaves_takes_its_question_back(journal: Journal, tmp_path: Path) -> None:
    async def scene() -> None:
        async with Flows(journal) as flows:
            client = await flows.client()
            client[1].write(frame(1, "erase it"))
            target = await soon(flows.targets.get())
            _, approval, _ = await soon(flows.asked.get())
            client[1].close()
            reason, trace = await soon(flows.ended.get())
            assert (reason, trace) == ("left", None)
            assert flows.withdrawn == [(approval, "the client left while it waited")]
            assert await soon(target[0].read()) == b""

    run(scene())
    assert kinds(tmp_path)[-2:] == [("Decided", "withdrawn"), ("FlowClosed", "")]


def test_a_hold_that_nobody_answers_is_refused_and_the_stream_goes_on(journal: Journal, tmp_path: Path) -> None:
    async def scene() -> None:
        async with Flows(journal) as flows:
            client = await flows.client()
            client[1].write(frame(1, "erase it") + frame(1, "look"))
            target = await soon(flows.targets.get())
            relay, approval, _ = await soon(flows.asked.get())
            relay.decided(approval, Expired(approval))
            await said(client, frame(1, "refused: nobody answered within 60 seconds"))
            await said(target, frame(1, "look"))

    run(scene())
    assert ("Decided", "expired") in kinds(tmp_path)


def test_without_a_desk_a_hold_still_expires(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.flow.relay._DESK_GRACE_SECONDS", 0.05)

    async def scene() -> None:
        async with Flows(journal, POLICY.replace("seconds: 60", "seconds: 1")) as flows:
            client = await flows.client()
            client[1].write(frame(1, "erase it"))
            await said(client, frame(1, "refused: nobody answered within 1 seconds"))

    run(scene())
    assert ("Decided", "expired") in kinds(tmp_path)


def test_a_hold_that_the_desk_will_not_take_is_refused_at_once_with_its_reason(journal: Journal, tmp_path: Path) -> None:
    async def scene() -> None:
        async with Flows(journal) as flows:
            flows.desk_error = RefusedByControlError("100 commands of bot wait already")
            client = await flows.client()
            client[1].write(frame(1, "erase it") + frame(1, "look"))
            target = await soon(flows.targets.get())
            await said(client, frame(1, "refused: no person can be asked: 100 commands of bot wait already"))
            await said(target, frame(1, "look"))

    run(scene())
    (decided,) = [record for record in recorded(tmp_path) if type(record).__name__ == "Decided"]
    assert (decided.outcome, decided.reason) == ("withdrawn", "100 commands of bot wait already")


def test_a_hold_waits_for_a_desk_that_is_away(journal: Journal, tmp_path: Path) -> None:
    async def scene() -> None:
        async with Flows(journal) as flows:
            flows.desk_error = UnavailableError("the channel has ended")
            client = await flows.client()
            client[1].write(frame(1, "erase it") + frame(2, "look"))
            target = await soon(flows.targets.get())
            await said(target, frame(2, "look"))
            flows.desk_error = None
            flows.relays[0].ask_again()
            relay, approval, _ = await soon(flows.asked.get())
            relay.decided(approval, Approved(approval, "ann"))
            await said(target, frame(1, "erase it"))

    run(scene())
    assert ("Decided", "approved") in kinds(tmp_path)


def test_an_amendment_that_is_refused_leaves_the_question_open_and_a_better_one_runs(
    journal: Journal, tmp_path: Path
) -> None:
    policy = POLICY + "  - {id: never, reason: not that, deny: [{actions: [delete], objects: [all]}]}\n"

    async def scene() -> None:
        async with Flows(journal, policy) as flows:
            client = await flows.client()
            client[1].write(frame(1, "erase it"))
            target = await soon(flows.targets.get())
            relay, approval, _ = await soon(flows.asked.get())
            relay.decided(approval, Modified(approval, "ann", frozenset(), "erase all"))
            assert "never" in (await soon(flows.refused.get()))[1]
            relay.decided(approval, Modified(approval, "ann", frozenset(), "x" * 300))
            assert "room" in (await soon(flows.refused.get()))[1]
            relay.decided(approval, Modified(approval, "ann", frozenset(), "erase one"))
            await said(target, frame(1, "erase one"))
            assert flows.taken == [approval]

    run(scene())
    commands = [record for record in recorded(tmp_path) if type(record).__name__ == "Commanded" and record.number]
    assert [(one.shown, one.outcome, one.changed_from) for one in commands] == [
        ("erase it", "hold", None),
        ("erase one", "forward", 1),
    ]


def test_a_redis_amendment_that_was_refused_never_runs_under_a_later_approval(journal: Journal) -> None:
    policy = """
rules:
  - {id: all, reason: fine, allow: [{actions: [connect, read]}]}
  - {id: erasing, reason: look, hold: [{actions: [delete]}], seconds: 60}
  - {id: never, reason: not that, deny: [{actions: [delete], objects: [precious]}]}
"""

    async def scene() -> None:
        async with Flows(journal, policy, RedisInspector, "redis") as flows:
            client = await flows.client()
            client[1].write(b"DEL a\r\n")
            target = await soon(flows.targets.get())
            relay, approval, _ = await soon(flows.asked.get())
            relay.decided(approval, Modified(approval, "ann", frozenset(), "DEL precious"))
            assert "never" in (await soon(flows.refused.get()))[1]
            relay.decided(approval, Approved(approval, "ann"))
            await said(target, b"*2\r\n$3\r\nDEL\r\n$1\r\na\r\n")

    run(scene())


def test_what_cannot_be_recorded_is_not_sent(journal: Journal) -> None:
    """The file may not grow any more, as on a full disk: the kernel takes a part of the record and then nothing."""

    async def scene() -> None:
        async with Flows(journal) as flows:
            client = await flows.client()
            client[1].write(frame(2, "one"))
            target = await soon(flows.targets.get())
            await said(target, frame(2, "one"))
            files = list(journal._folder.glob("*.journal"))
            old = resource.getrlimit(resource.RLIMIT_FSIZE)
            ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (files[0].stat().st_size + 10, old[1]))
            try:
                client[1].write(frame(2, "two"))
                reason, _ = await soon(flows.ended.get())
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, old)
                signal.signal(signal.SIGXFSZ, ignored)
            assert reason.startswith("its record could not be written")
            with pytest.raises(ConnectionResetError):
                await soon(target[0].read())
            another = await flows.client()
            another[1].write(frame(2, "three"))
            with pytest.raises(ConnectionResetError):
                await soon(another[0].read())
            assert flows.targets.empty()

    run(scene())


class Faulty(TwoStreamsInspector):
    """Has a bug that a certain text brings out."""

    def carry_out(self, event: Event, verdict: Verdict) -> list[Act]:
        if isinstance(event, Command) and event.text == "trip":
            raise ZeroDivisionError(f"a bug at {event.text}")
        return super().carry_out(event, verdict)


def test_a_fault_ends_its_own_flow_and_leaves_a_trace(journal: Journal, tmp_path: Path) -> None:
    async def scene() -> None:
        async with Flows(journal, make=Faulty) as flows:
            good, bad = await flows.client(), await flows.client()
            good[1].write(frame(1, "look"))
            target = await soon(flows.targets.get())
            await said(target, frame(1, "look"))
            bad[1].write(frame(1, "trip"))
            reason, trace = await soon(flows.ended.get())
            assert "ZeroDivisionError" in reason
            assert trace is not None
            with pytest.raises(ConnectionResetError):
                await soon(bad[0].read())
            good[1].write(frame(1, "again"))
            await said(target, frame(1, "again"))

    run(scene())
    traces = [record.trace or "" for record in recorded(tmp_path) if type(record).__name__ == "FlowClosed"]
    assert any("a bug" in trace for trace in traces)
    assert not any("at trip" in trace for trace in traces)  # what the error says may quote what a peer sent


def test_a_client_that_never_reads_does_not_grow_memory(journal: Journal) -> None:
    async def scene() -> None:
        async with Flows(journal, OPEN, RedisInspector, "redis") as flows:
            client = await flows.client()
            client[1].write(b"GET a\r\n")
            _, writer = await soon(flows.targets.get())
            client[1].transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"$%d\r\n" % (256 << 20))
            # What was taken stands in the kernel's buffers of four sockets and in ours, which are bounded.
            assert await _pushed(writer, b"x" * (1 << 20), 256 << 20) < 40 << 20

    run(scene())


def test_what_waits_behind_a_hold_is_bounded(journal: Journal) -> None:
    async def scene() -> None:
        async with Flows(journal, POLICY, RedisInspector, "redis") as flows:
            client = await flows.client()
            client[1].write(b"DEL a\r\n")
            await soon(flows.asked.get())
            assert await _pushed(client[1], b"PING\r\n" * 20_000, 64 << 20) < 40 << 20
            assert flows.relays[0].bytes_received[0] < 4 << 20

    run(scene())


def test_what_comes_before_the_target_answers_is_bounded(journal: Journal) -> None:
    async def scene() -> None:
        async with Flows(journal, OPEN, RedisInspector, "redis") as flows:
            flows.is_slow_to_connect.clear()
            client = await flows.client()
            assert await _pushed(client[1], b"PING\r\n" * 20_000, 64 << 20) < 40 << 20
            assert flows.relays[0].bytes_received[0] < 4 << 20
            flows.is_slow_to_connect.set()
            reader, _ = await soon(flows.targets.get())
            assert await soon(reader.readexactly(14)) == b"*1\r\n$4\r\nPING\r\n"

    run(scene())


async def _pushed(writer: asyncio.StreamWriter, piece: bytes, total: int) -> int:
    """How many bytes somebody gets rid of before nobody takes them any more."""
    sent = 0
    while sent < total:
        writer.write(piece)
        try:
            await asyncio.wait_for(writer.drain(), 1)
        except TimeoutError:
            break
        sent += len(piece)
    return sent


def test_a_replaced_policy_counts_from_the_next_command(journal: Journal) -> None:
    async def scene() -> None:
        async with Flows(journal) as flows:
            client = await flows.client()
            client[1].write(frame(1, "look"))
            target = await soon(flows.targets.get())
            await said(target, frame(1, "look"))
            flows.active.replace(read_policy([("q.yaml", OPEN.replace("'*'", "connect"))]))
            client[1].write(frame(1, "look"))
            size = (await soon(client[0].readexactly(2)))[1]
            assert (await soon(client[0].readexactly(size))).startswith(b"refused: no rule allows")
            flows.active.replace(read_policy([("q.yaml", OPEN)]))
            client[1].write(frame(1, "erase it"))
            await said(target, frame(1, "erase it"))

    run(scene())


def test_a_target_that_refuses_the_connection_is_told_to_the_client(journal: Journal) -> None:
    async def scene() -> None:
        async with Flows(journal, OPEN, RedisInspector, "redis") as flows:
            flows._servers[1].sockets[0].shutdown(socket.SHUT_RDWR)
            client = await flows.client()
            client[1].write(b"PING\r\n")
            assert (await soon(client[0].read())).startswith(b"-ERR the target cannot be reached")

    run(scene())
