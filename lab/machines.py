"""The three machines of a lab as network namespaces: their names, addresses and links, and how a command runs in one.

Namespaces do not see each other, so every lab uses the same addresses; only the names of the namespaces differ.
"""

from __future__ import annotations

import os
import subprocess
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

# Numeric users without an entry in any file, one for each part the executor's machine can play.
PLANNER_UID: Final = 61011
EXECUTOR_UID: Final = 61012

# The appliance's interfaces.
EXECUTORS_INTERFACE: Final = "executors0"
TARGETS_INTERFACE: Final = "targets0"
# The one interface of the other two.
LINK: Final = "link0"


class LabError(Exception):
    """The lab could not be built or used; the message says what failed."""


class Place(StrEnum):
    """The machines."""

    EXECUTOR = "executor"
    APPLIANCE = "appliance"
    TARGET = "target"


class Pair(NamedTuple):
    """An IPv4 and an IPv6 address of one party."""

    ipv4: str
    ipv6: str


PLANNER: Final = Pair("10.81.1.2", "fd81:1::2")
EXECUTOR: Final = Pair("10.81.1.3", "fd81:1::3")
GATEWAY: Final = Pair("10.81.1.1", "fd81:1::1")
TARGET_SIDE: Final = Pair("10.81.2.1", "fd81:2::1")
TARGET: Final = Pair("10.81.2.2", "fd81:2::2")


def namespace(lab: str, place: Place) -> str:
    """The name of a machine's network namespace, as `ip netns` lists it."""
    return f"sg-{lab}-{place}"


def exists(lab: str, place: Place) -> bool:
    """Whether that machine's namespace is there."""
    return Path("/run/netns", namespace(lab, place)).exists()


def inside(lab: str, place: Place, uid: int | None = None) -> list[str]:
    """What to put in front of a command so that it runs in that machine; as `uid` it has no groups, no capabilities and
    no way to gain any. The command replaces these words, so its process is the one that was started."""
    words = ["nsenter", f"--net=/run/netns/{namespace(lab, place)}", "--"]
    if uid is not None:
        words += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs", "--inh-caps=-all", "--"]
    return words


def build(lab: str) -> None:
    """Make the namespaces, links, addresses and routes. LabError if a part of them is there already."""
    for place in Place:
        _run(["ip", "netns", "add", namespace(lab, place)])
        # No waiting for duplicate addresses: nobody else is on these links, and until that second is over IPv6 cannot find
        # its neighbours. Before the links exist, so that they inherit it.
        script = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/default/accept_ra"
        _run([*inside(lab, place), "sh", "-c", script])
        _ip(lab, place, "link set lo up")
    _join(lab, Place.EXECUTOR, EXECUTORS_INTERFACE, 11)
    _join(lab, Place.TARGET, TARGETS_INTERFACE, 12)
    # The executor's address comes first: it is the one used where nothing else is said.
    _ip(
        lab,
        Place.EXECUTOR,
        *(f"address add {party.ipv4}/24 dev {LINK}" for party in (EXECUTOR, PLANNER)),
        *(f"-6 address add {party.ipv6}/64 dev {LINK} nodad" for party in (EXECUTOR, PLANNER)),
        f"link set {LINK} up",
        f"route add default via {GATEWAY.ipv4} src {EXECUTOR.ipv4}",
        f"-6 route add default via {GATEWAY.ipv6} src {EXECUTOR.ipv6}",
        # An unmodified client cannot choose its source address; the planner's processes get theirs by their user.
        *(f"{family} rule add priority 50 uidrange {PLANNER_UID}-{PLANNER_UID} lookup 50" for family in ("-4", "-6")),
        f"route add 10.81.1.0/24 dev {LINK} src {PLANNER.ipv4} table 50",
        f"route add default via {GATEWAY.ipv4} src {PLANNER.ipv4} table 50",
        f"-6 route add fd81:1::/64 dev {LINK} src {PLANNER.ipv6} table 50",
        f"-6 route add default via {GATEWAY.ipv6} src {PLANNER.ipv6} table 50",
    )
    for name, own in ((EXECUTORS_INTERFACE, GATEWAY), (TARGETS_INTERFACE, TARGET_SIDE)):
        _ip(
            lab,
            Place.APPLIANCE,
            f"address add {own.ipv4}/24 dev {name}",
            f"-6 address add {own.ipv6}/64 dev {name} nodad",
            f"link set {name} up",
        )
    # The target could answer an executor: if a packet got past the appliance, a connection would come about and be seen.
    _ip(
        lab,
        Place.TARGET,
        f"address add {TARGET.ipv4}/24 dev {LINK}",
        f"-6 address add {TARGET.ipv6}/64 dev {LINK} nodad",
        f"link set {LINK} up",
        f"route add default via {TARGET_SIDE.ipv4}",
        f"-6 route add default via {TARGET_SIDE.ipv6}",
    )


def remove(lab: str) -> None:
    """Take away whatever of the namespaces is there; their links, addresses, routes and rules go with them."""
    for place in Place:
        if exists(lab, place):
            _run(["ip", "netns", "delete", namespace(lab, place)])


def dwellers(lab: str) -> list[int]:
    """The processes that run in the lab's namespaces, by their ids."""
    found: list[int] = []
    for place in Place:
        if exists(lab, place):
            here = os.stat(Path("/run/netns", namespace(lab, place)))
            for process in Path("/proc").iterdir():
                if not process.name.isdecimal():
                    continue
                try:
                    theirs = os.stat(process / "ns/net")
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue  # It ended while we looked, or is one that even root may not look at, so none of ours.
                if (theirs.st_dev, theirs.st_ino) == (here.st_dev, here.st_ino):
                    found.append(int(process.name))
    return found


def _join(lab: str, place: Place, name: str, number: int) -> None:
    """Link a machine to the appliance, whose end gets that interface number. With the same number at both ends, which is
    what new namespaces give, the kernel takes it for no pair at all and may let a second pass before it calls it up."""
    ours, theirs = namespace(lab, Place.APPLIANCE), namespace(lab, place)
    words = ["ip", "link", "add", name, "index", str(number), "netns", ours]
    _run([*words, "type", "veth", "peer", "name", LINK, "netns", theirs])


def _ip(lab: str, place: Place, *lines: str) -> None:
    for line in lines:
        _run(["ip", "-netns", namespace(lab, place), *line.split()])


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed; ./run setup installs it") from error
    except subprocess.CalledProcessError as error:
        raise LabError(f"{' '.join(command)}: {error.stderr.strip()}") from error
