"""Whether this kernel really diverts connections: the product's own rules, tried on two machines made for it alone.

A child process makes two network namespaces that have no name, joins them by a veth pair, catches in one, connects from the
other, and ends. The kernel takes namespaces, links, rules, routes and switches away with the child, however it ends; what
stays are modules that the kernel loaded for it.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute

from appliance.errors import UnfitKernelError
from appliance.settings import NetworkSettings
from kernel.gateway import catch, check
from kernel.origins import origin_of, transparent_sockets

SECONDS_MAX: Final = 20.0
"""A child that takes longer is killed: on a slow machine the whole takes half a second."""

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_OURS: Final = "sg-trial0"
_THEIRS: Final = "sg-trial1"
_PORT: Final = 15001
# Addresses for documentation (RFC 5737, RFC 3849): nobody is there.
_FAMILIES: Final = (
    (socket.AF_INET, "IPv4", "192.0.2.1", "192.0.2.2", 24, "198.51.100.7", 5432),
    (socket.AF_INET6, "IPv6", "2001:db8:1::1", "2001:db8:1::2", 64, "2001:db8:2::7", 5432),
)
_CONNECT_SECONDS: Final = 5.0


def try_catching() -> tuple[str, ...]:
    """What went wrong, a sentence each; empty when a connection of each family was caught with its destination known.

    Needs root and a process without threads of its own. The calling process and its network namespace stay as they are.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _end(writing)
    os.close(writing)
    try:
        said = _hear(reading)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if said is None:
        return (f"The trial did not end within {SECONDS_MAX:g} seconds.",)
    return tuple(json.loads(said)) if said else ("The trial ended without a word.",)


def _hear(reading: int) -> bytes | None:
    deadline = time.monotonic() + SECONDS_MAX
    said = b""
    while True:
        readable, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            return None
        part = os.read(reading, 65536)
        if not part:
            return said
        said += part


def _end(writing: int) -> None:
    """The child's whole life. It must never come back into the parent's program, whatever happens."""
    try:
        with tempfile.TemporaryDirectory(prefix="sluicegate-trial-") as memory:
            problems = _catch_and_connect(Path(memory))
        os.write(writing, json.dumps(problems).encode())
    except BaseException as error:  # noqa: BLE001 - it is said, and the process ends
        os.write(writing, json.dumps([f"{type(error).__name__}: {error}"]).encode())
    finally:
        os._exit(0)


def _catch_and_connect(memory: Path) -> list[str]:
    try:
        appliance = _new_namespace()
        executor = _new_namespace()
    except OSError as error:
        return [f"A network namespace could not be made: {error.strerror}."]
    try:
        _join(appliance)
        with _inside(appliance, executor):
            _address(_OURS, [(family, own, length) for family, _, own, _, length, _, _ in _FAMILIES], {})
            try:
                catch(NetworkSettings((_OURS,), _PORT), memory)
            except (UnfitKernelError, OSError) as error:
                return [f"The rules could not be installed: {error}."]
            if problems := check(memory):
                return list(problems)
            try:
                listeners = transparent_sockets(_PORT)
            except OSError as error:
                return [f"A transparent listener could not be opened: {error.strerror}."]
        _address(
            _THEIRS,
            [(family, theirs, length) for family, _, _, theirs, length, _, _ in _FAMILIES],
            {family: own for family, _, own, _, _, _, _ in _FAMILIES},
        )
    except OSError as error:
        return [f"The two machines could not be joined: {error}."]
    problems_found = []
    for listener, (family, name, _, theirs, _, destination, port) in zip(listeners, _FAMILIES, strict=True):
        try:
            _see_one(listener, family, theirs, destination, port)
        except (OSError, AssertionError) as error:
            problems_found.append(f"An {name} connection was not diverted: {error}.")
    return problems_found


def _see_one(listener: socket.socket, family: int, source: str, destination: str, port: int) -> None:
    listener.listen(1)
    listener.settimeout(_CONNECT_SECONDS)
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(_CONNECT_SECONDS)
        client.connect((destination, port))
        connection, _ = listener.accept()
        with connection:
            origin = origin_of(connection)
    found = (origin.source.address, origin.destination.address, origin.destination.port)
    assert found == (source, destination, port), f"it arrived as {found}"


def _new_namespace() -> int:
    """Leave for a new network namespace, and answer a descriptor of it."""
    _call("unshare", _CLONE_NEWNET)
    with IPRoute() as netlink:
        netlink.link("set", index=netlink.link_lookup(ifname="lo")[0], state="up")
    # No waiting until the kernel is sure that nobody else has our addresses.
    for kind in ("default", "all"):
        Path(f"/proc/sys/net/ipv6/conf/{kind}/accept_dad").write_text("0")
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def _inside(namespace: int, back: int) -> Iterator[None]:
    _call("setns", namespace, _CLONE_NEWNET)
    try:
        yield
    finally:
        _call("setns", back, _CLONE_NEWNET)


def _join(appliance: int) -> None:
    with IPRoute() as netlink:
        # Different numbers at both ends: with the same one the kernel takes its time to bring the pair up.
        peer = {"ifname": _OURS, "index": 11, "net_ns_fd": appliance}
        netlink.link("add", ifname=_THEIRS, kind="veth", peer=peer)


def _address(interface: str, addresses: list[tuple[int, str, int]], gateways: dict[int, str]) -> None:
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname=interface)[0]
        for family, address, length in addresses:
            flags: dict[str, Any] = {"flags": 0x02} if family == socket.AF_INET6 else {}  # IFA_F_NODAD
            netlink.addr("add", index=index, family=family, address=address, prefixlen=length, **flags)
        netlink.link("set", index=index, state="up")
        for family, gateway in gateways.items():
            everywhere = "0.0.0.0/0" if family == socket.AF_INET else "::/0"
            netlink.route("add", family=family, dst=everywhere, gateway=gateway, oif=index)


def _call(name: str, *arguments: int) -> None:
    function: Callable[..., int] = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
