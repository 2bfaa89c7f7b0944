"""The kernel's part in real network namespaces: what is caught, what is refused, and that nothing passes or stays."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.errors import UnfitKernelError
from appliance.parties import Endpoint, Origin
from appliance.settings import NetworkSettings
from kernel.gateway import catch, check, is_caught, release
from kernel.origins import origin_of, transparent_sockets
from lab.machines import EXECUTOR, EXECUTORS_INTERFACE, GATEWAY, PLANNER, TARGET, TARGET_SIDE, Place
from tests.kernel.conftest import NETWORKS, Machines
from tests.kernel.frames import Ear, attempts, send, spoofed_openings

pytestmark = pytest.mark.real
FAMILIES = ((socket.AF_INET, TARGET.ipv4), (socket.AF_INET6, TARGET.ipv6))


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def install(three: Machines, networks: NetworkSettings = NETWORKS) -> None:
    with three.inside(Place.APPLIANCE):
        catch(networks, three.memory)


def problems(three: Machines) -> tuple[str, ...]:
    with three.inside(Place.APPLIANCE):
        return check(three.memory)


@contextmanager
def listening(three: Machines) -> Iterator[tuple[socket.socket, ...]]:
    """A worker's sockets, listening."""
    with three.inside(Place.APPLIANCE):
        sockets = transparent_sockets(NETWORKS.port)
    try:
        for one in sockets:
            one.listen(64)
            one.settimeout(5)
        yield sockets
    finally:
        for one in sockets:
            one.close()


@contextmanager
def plain_listener(three: Machines, place: Place, address: str, port: int) -> Iterator[socket.socket]:
    with three.socket(place, family_of(address)) as one:
        one.bind((address, port))
        one.listen()
        one.settimeout(5)
        yield one


def connect(three: Machines, address: str, port: int, source: str | None = None) -> socket.socket:
    one = three.socket(Place.EXECUTOR, family_of(address))
    try:
        one.settimeout(5)
        if source is not None:
            one.bind((source, 0))
        one.connect((address, port))
    except OSError:
        one.close()
        raise
    return one


def seconds_to_refusal(three: Machines, address: str, port: int) -> float:
    start = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        connect(three, address, port)
    return time.monotonic() - start


def state_of(three: Machines) -> dict[str, str]:
    """Everything in the appliance that the rules could touch."""
    with three.inside(Place.APPLIANCE):
        words = (["nft", "list", "ruleset"], ["ip", "rule"], ["ip", "-6", "rule"])
        words += (["ip", "route", "show", "table", "all"], ["ip", "-6", "route", "show", "table", "all"])
        state = {" ".join(one): subprocess.run(one, capture_output=True, text=True, check=True).stdout for one in words}
        for path in (*Path("/proc/sys/net/ipv4").rglob("*"), *Path("/proc/sys/net/ipv6/conf").rglob("*")):
            # Two that the kernel counts or makes up by itself, and those that cannot be read.
            if path.is_file() and path.stat().st_mode & 0o400 and path.name not in ("stable_secret", "tcp_fastopen_key"):
                state[str(path)] = path.read_text()
    return state


@pytest.mark.parametrize("address", TARGET)
def test_without_rules_and_with_forwarding_an_executor_gets_through(three: Machines, address: str) -> None:
    three.forward("1")
    with plain_listener(three, Place.TARGET, address, 5432) as target, connect(three, address, 5432):
        target.accept()[0].close()


def test_without_rules_and_with_forwarding_every_attempt_is_seen_at_the_target(three: Machines) -> None:
    three.forward("1")
    ear = Ear(three)
    for _, packet in attempts():
        send(three, packet)
    heard = ear.heard()
    ear.close()
    # Our own address as a source never passes a Linux router, rules or none.
    missing = [name for name, _ in attempts() if f"[{name}]".encode() not in heard and name != "source our own"]
    assert missing == []


@pytest.mark.parametrize("source", [*PLANNER, *EXECUTOR])
@pytest.mark.parametrize("port", [1, 22, 5432, 15001, 65535])
def test_every_port_is_caught_with_its_source_and_destination(three: Machines, source: str, port: int) -> None:
    install(three)
    destination = TARGET.ipv6 if ":" in source else TARGET.ipv4
    with listening(three) as (four, six), connect(three, destination, port, source) as client:
        accepted, _ = (six if ":" in source else four).accept()
        with accepted:
            own = client.getsockname()
            assert origin_of(accepted) == Origin(Endpoint(source, own[1]), Endpoint(destination, port))
            accepted.sendall(b"from the appliance")
            assert client.recv(64) == b"from the appliance"
            client.sendall(b"from the client")
            assert accepted.recv(64) == b"from the client"


def test_caught_connections_send_nothing_to_the_target(three: Machines) -> None:
    install(three)
    ear = Ear(three)
    with listening(three):
        for _, address in FAMILIES:
            connect(three, address, 5432).close()
        for _, packet in attempts():
            send(three, packet)
        heard = ear.heard()
    ear.close()
    assert [name for name, _ in attempts() if f"[{name}]".encode() in heard] == []


@pytest.mark.parametrize("address", [*TARGET, "192.0.2.1", "2001:db8::1"])
def test_with_no_worker_an_executor_is_refused_within_a_second(three: Machines, address: str) -> None:
    install(three)
    assert seconds_to_refusal(three, address, 5432) < 1
    with listening(three):
        connect(three, address, 5432).close()
    assert seconds_to_refusal(three, address, 5432) < 1


@pytest.mark.parametrize("address", TARGET)
def test_a_worker_that_does_not_listen_yet_gets_no_connections(three: Machines, address: str) -> None:
    install(three)
    with three.inside(Place.APPLIANCE):
        sockets = transparent_sockets(NETWORKS.port)
    try:
        assert seconds_to_refusal(three, address, 5432) < 1
    finally:
        for one in sockets:
            one.close()


@pytest.mark.parametrize("address", TARGET)
def test_when_one_worker_dies_the_others_get_all_connections(three: Machines, address: str) -> None:
    install(three)
    place = 1 if ":" in address else 0
    with listening(three) as alive:
        with listening(three):
            pass
        for _ in range(32):
            with connect(three, address, 5432):
                alive[place].accept()[0].close()


def test_an_established_connection_outlives_its_listener(three: Machines) -> None:
    install(three)
    with listening(three) as (four, _):
        client = connect(three, TARGET.ipv4, 5432)
        accepted, _ = four.accept()
    with client, accepted:
        client.sendall(b"still here")
        assert accepted.recv(64) == b"still here"


def test_with_the_ruleset_flushed_nothing_passes(three: Machines) -> None:
    three.forward("1")
    install(three)
    with three.inside(Place.APPLIANCE):
        subprocess.run(["nft", "flush", "ruleset"], check=True)
    ear = Ear(three)
    for _, packet in attempts():
        send(three, packet)
    heard = ear.heard()
    ear.close()
    assert [name for name, _ in attempts() if f"[{name}]".encode() in heard] == []


def test_with_forwarding_switched_on_again_nothing_passes(three: Machines) -> None:
    install(three)
    three.forward("1")
    ear = Ear(three)
    for _, packet in attempts():
        send(three, packet)
    heard = ear.heard()
    ear.close()
    assert [name for name, _ in attempts() if f"[{name}]".encode() in heard] == []
    assert seconds_to_refusal(three, TARGET.ipv4, 5432) < 1


@pytest.mark.parametrize("address", TARGET)
def test_udp_is_refused_at_once(three: Machines, address: str) -> None:
    install(three)
    with three.socket(Place.EXECUTOR, family_of(address), socket.SOCK_DGRAM) as one:
        one.settimeout(1)
        one.connect((address, 443))
        one.send(b"initial")
        with pytest.raises((PermissionError, ConnectionRefusedError, OSError)) as refusal:
            one.recv(64)
        assert not isinstance(refusal.value, TimeoutError)


def test_a_source_that_is_not_the_executors_is_dropped(three: Machines) -> None:
    install(three)
    with listening(three):
        assert half_open_after_spoofing(three) == ""
        # The same without that one rule: there are openings that get this far.
        with three.inside(Place.APPLIANCE):
            subprocess.run(["nft", "flush", "chain", "inet", "sluicegate", "origin"], check=True)
        assert "10.81.2.77" in half_open_after_spoofing(three)
        assert "fd81:2::77" in half_open_after_spoofing(three)


def half_open_after_spoofing(three: Machines) -> str:
    for _, packet in spoofed_openings():
        send(three, packet)
    with three.inside(Place.APPLIANCE):
        words = ["ss", "-Htan", "state", "syn-recv"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("address", [*GATEWAY, *TARGET_SIDE])
def test_the_appliances_own_addresses_are_out_of_reach(three: Machines, address: str) -> None:
    with plain_listener(three, Place.APPLIANCE, address, 2222):
        connect(three, address, 2222).close()
        install(three)
        with listening(three):
            assert seconds_to_refusal(three, address, 2222) < 1
            assert seconds_to_refusal(three, address, NETWORKS.port) < 1


@pytest.mark.parametrize("forwarding", ["0", "1"])
def test_releasing_leaves_everything_as_it_was(three: Machines, forwarding: str) -> None:
    three.forward(forwarding)
    before = state_of(three)
    install(three)
    install(three)
    assert state_of(three) != before
    with three.inside(Place.APPLIANCE):
        release(three.memory)
    after = state_of(three)
    assert {
        name: (before.get(name), after.get(name)) for name in before | after if before.get(name) != after.get(name)
    } == {}
    with three.inside(Place.APPLIANCE):
        release(three.memory)
        assert not is_caught(three.memory)


def test_releasing_after_a_flush_restores_the_switches(three: Machines) -> None:
    three.forward("1")
    before = state_of(three)
    install(three)
    with three.inside(Place.APPLIANCE):
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        release(three.memory)
    assert state_of(three) == before


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        ("nft flush ruleset", "nftables"),
        ("nft insert rule inet sluicegate caught accept", "changed"),
        ("ip rule del fwmark 1/0xff lookup 100", "IPv4 routing rule"),
        ("ip -6 rule del fwmark 1/0xff lookup 100", "IPv6 routing rule"),
        ("ip route flush table 100", "IPv4 route"),
        ("ip -6 route flush table 100", "IPv6 route"),
    ],
)
def test_whatever_is_undone_is_named_and_put_back(three: Machines, harm: str, word: str) -> None:
    install(three)
    assert problems(three) == ()
    with three.inside(Place.APPLIANCE):
        subprocess.run(harm.split(), check=True)
    found = problems(three)
    assert len(found) == 1
    assert word in found[0]
    install(three)
    assert problems(three) == ()
    with listening(three):
        for address in TARGET:
            connect(three, address, 5432).close()


@pytest.mark.parametrize(
    "switch", ["ipv4/ip_forward", "ipv6/conf/all/forwarding", f"ipv6/conf/{EXECUTORS_INTERFACE}/accept_ra"]
)
def test_a_switch_turned_back_is_named(three: Machines, switch: str) -> None:
    install(three)
    with three.inside(Place.APPLIANCE):
        Path("/proc/sys/net", switch).write_text("1")
    assert [found for found in problems(three) if switch in found] != []


@pytest.mark.parametrize("interface", ["all", EXECUTORS_INTERFACE])
def test_a_reverse_path_check_that_follows_marks_is_an_obstacle(three: Machines, interface: str) -> None:
    with three.inside(Place.APPLIANCE):
        Path(f"/proc/sys/net/ipv4/conf/{interface}/src_valid_mark").write_text("1")
    before = state_of(three)
    with pytest.raises(UnfitKernelError, match="src_valid_mark"):
        install(three)
    assert state_of(three) == before


@pytest.mark.parametrize("name", ["nowhere0", "", "a" * 16, 'x" }', "../all", "eth0;"])
def test_an_interface_that_is_not_there_or_no_name_is_refused(three: Machines, name: str) -> None:
    before = state_of(three)
    with pytest.raises(UnfitKernelError, match="interface"):
        install(three, NetworkSettings((EXECUTORS_INTERFACE, name)))
    assert state_of(three) == before


def test_a_port_that_is_taken_is_an_error(three: Machines) -> None:
    with (
        plain_listener(three, Place.APPLIANCE, "127.0.0.1", NETWORKS.port),
        pytest.raises(OSError, match="in use"),
        three.inside(Place.APPLIANCE),
    ):
        transparent_sockets(NETWORKS.port)
