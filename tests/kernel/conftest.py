"""Three machines for each test, in this process: sockets are made inside a machine and used from here."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyroute2 import netns

from appliance.settings import NetworkSettings
from lab import machines
from lab.machines import EXECUTORS_INTERFACE, Place

NETWORKS = NetworkSettings((EXECUTORS_INTERFACE,))


class Machines:
    """The namespaces of one test, and a place for what the kernel's part remembers."""

    def __init__(self, name: str, memory: Path) -> None:
        self.name = name
        self.memory = memory

    @contextmanager
    def inside(self, place: Place) -> Iterator[None]:
        """What is done in here is done in that machine's network namespace."""
        netns.pushns(machines.namespace(self.name, place))
        try:
            yield
        finally:
            netns.popns()

    def socket(self, place: Place, family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        """A socket that belongs to that machine."""
        with self.inside(place):
            return socket.socket(family, kind, protocol)

    def forward(self, value: str) -> None:
        """Switch the appliance's forwarding."""
        with self.inside(Place.APPLIANCE):
            Path("/proc/sys/net/ipv4/ip_forward").write_text(value)
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text(value)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Machines]:
    assert os.geteuid() == 0, "these tests make network namespaces and need root"
    name = f"test-{secrets.token_hex(4)}"
    try:
        machines.build(name)
        yield Machines(name, tmp_path / "memory")
    finally:
        machines.remove(name)
