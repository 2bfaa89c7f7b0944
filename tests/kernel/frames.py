"""Attempts to get a packet past the appliance, as Ethernet frames, and an ear on the target's link."""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from lab.machines import EXECUTOR, EXECUTORS_INTERFACE, LINK, TARGET, TARGET_SIDE, Place
from tests.kernel.conftest import Machines

ETH_P_ALL = 3
_IPV4, _IPV6 = 0x0800, 0x86DD
_ICMP, _TCP, _UDP, _IPV6_IN_IP, _ICMPV6, _SCTP = 1, 6, 17, 41, 58, 132


class Ear:
    """Every frame that comes to the target from when this is made."""

    def __init__(self, three: Machines) -> None:
        self._three = three
        with three.inside(Place.TARGET):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self._socket.bind((LINK, 0))
        self._socket.settimeout(5)

    def close(self) -> None:
        self._socket.close()

    def heard(self) -> bytes:
        """All frames so far, one behind another. A datagram of the appliance's own marks where "so far" ends."""
        end = secrets.token_bytes(16)
        with self._three.socket(Place.APPLIANCE, socket.AF_INET, socket.SOCK_DGRAM) as marker:
            marker.sendto(end, (TARGET.ipv4, 9))
        frames = b""
        while end not in frames:
            data, address = self._socket.recvfrom(65535)
            if address[2] != socket.PACKET_OUTGOING:
                frames += data
        return frames


def attempts() -> Iterator[tuple[str, bytes]]:
    """Names of attempts with their frames' payloads behind the Ethernet header. Each carries its name in square brackets."""
    executor4, target4 = IPv4Address(EXECUTOR.ipv4), IPv4Address(TARGET.ipv4)
    executor6, target6 = IPv6Address(EXECUTOR.ipv6), IPv6Address(TARGET.ipv6)
    for name, protocol, header in (
        ("tcp syn", _TCP, _tcp(0x02)),
        ("tcp ack", _TCP, _tcp(0x10)),
        ("tcp reset", _TCP, _tcp(0x04)),
        ("tcp no flags", _TCP, _tcp(0)),
        ("tcp all flags", _TCP, _tcp(0x3F)),
        ("udp dns", _UDP, _udp(53)),
        ("udp quic", _UDP, _udp(443)),
        ("sctp", _SCTP, bytes(12)),
        ("gre", 47, bytes(8)),
        ("unassigned protocol", 253, b""),
    ):
        tag = f"[v4 {name}]".encode()
        yield f"v4 {name}", _ipv4(executor4, target4, protocol, header + tag)
        tag = f"[v6 {name}]".encode()
        yield f"v6 {name}", _ipv6(executor6, target6, protocol, header + tag)
    yield "ping", _ipv4(executor4, target4, _ICMP, _summed(struct.pack("!BBHHH", 8, 0, 0, 1, 1) + b"[ping]"))
    yield "ping6", _ipv6(executor6, target6, _ICMPV6, struct.pack("!BBHHH", 128, 0, 0, 1, 1) + b"[ping6]")
    tunnelled = _ipv6(executor6, target6, _UDP, _udp(53) + b"[6in4]")
    yield "6in4", _ipv4(executor4, target4, _IPV6_IN_IP, tunnelled)
    options = struct.pack("!BB6x", _TCP, 0)
    yield "destination options", _ipv6(executor6, target6, 60, options + _tcp(0x02) + b"[destination options]")
    yield "hop by hop", _ipv6(executor6, target6, 0, struct.pack("!BBBB4x", _UDP, 0, 1, 4) + _udp(443) + b"[hop by hop]")
    atomic = struct.pack("!BBHI", _UDP, 0, 0, 77)
    yield "atomic fragment", _ipv6(executor6, target6, 44, atomic + _udp(443) + b"[atomic fragment]")
    yield "later fragment", _ipv4(executor4, target4, _UDP, b"[later fragment]", fragment=3)
    for name, source4 in (("foreign", "192.0.2.9"), ("the target's side", "10.81.2.77"), ("our own", TARGET_SIDE.ipv4)):
        tag = f"[source {name}]".encode()
        yield f"source {name}", _ipv4(IPv4Address(source4), target4, _UDP, _udp(53) + tag)
    yield "source6 foreign", _ipv6(IPv6Address("2001:db8::9"), target6, _TCP, _tcp(0x02) + b"[source6 foreign]")


def spoofed_openings() -> Iterator[tuple[str, bytes]]:
    """TCP SYNs whose source address cannot be the executor's."""
    for source in ("192.0.2.9", "10.81.2.77", TARGET_SIDE.ipv4, "127.0.0.1"):
        yield source, _ipv4(IPv4Address(source), IPv4Address(TARGET.ipv4), _TCP, _tcp(0x02))
    for source in ("2001:db8::9", "fd81:2::77", TARGET_SIDE.ipv6, "::1"):
        yield source, _ipv6(IPv6Address(source), IPv6Address(TARGET.ipv6), _TCP, _tcp(0x02))


def send(three: Machines, packet: bytes) -> None:
    """Put it on the executor's link, addressed to the appliance."""
    kind = _IPV6 if packet[0] >> 4 == 6 else _IPV4
    gateway = _hardware_address(three, Place.APPLIANCE, EXECUTORS_INTERFACE)
    own = _hardware_address(three, Place.EXECUTOR, LINK)
    with three.socket(Place.EXECUTOR, socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((LINK, 0))
        out.send(gateway + own + struct.pack("!H", kind) + packet)


def _hardware_address(three: Machines, place: Place, interface: str) -> bytes:
    with three.socket(place, socket.AF_PACKET, socket.SOCK_RAW) as one:
        one.bind((interface, 0))
        address: bytes = one.getsockname()[4]
        return address


def _tcp(flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", 4001, 5432, 1, 0, 0x50, flags, 1024, 0, 0)


def _udp(port: int) -> bytes:
    return struct.pack("!HHHH", 4001, port, 0, 0)


def _ipv4(source: IPv4Address, to: IPv4Address, protocol: int, body: bytes, fragment: int = 0) -> bytes:
    if protocol == _TCP:
        body = _tcp_summed(source.packed + to.packed, body)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, fragment, 64, protocol, 0) + source.packed + to.packed
    return head[:10] + _sum(head) + head[12:] + body


def _ipv6(source: IPv6Address, to: IPv6Address, protocol: int, body: bytes) -> bytes:
    if protocol == _TCP:
        body = _tcp_summed(source.packed + to.packed, body)
    return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + source.packed + to.packed + body


def _sum(data: bytes) -> bytes:
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2])) + (data[-1] << 8 if len(data) % 2 else 0)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def _summed(icmp: bytes) -> bytes:
    return icmp[:2] + _sum(icmp) + icmp[4:]


def _tcp_summed(addresses: bytes, segment: bytes) -> bytes:
    """With the checksum over the pseudo-header (RFC 9293, 3.1); that of IPv6 sums up to the same."""
    pseudo = addresses + struct.pack("!HH", _TCP, len(segment))
    return segment[:16] + _sum(pseudo + segment) + segment[18:]
