"""What this machine is, looked at and never assumed: rights, kernel, programs, interfaces, switches, port, clock, limits.

Each look answers findings and leaves the machine as it was.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from pyroute2 import IPRoute

from appliance.errors import UnfitKernelError
from appliance.settings import NetworkSettings
from kernel.gateway import check, foreign_settings, has_caught, obstacles
from kernel.trial import try_catching

# SO_NETNS_COOKIE, by which we tell network namespaces apart; everything else we use is older.
_KERNEL_MIN: Final = (5, 14)
# linux/capability.h: what `up` needs to catch, to own its folders, and to become other users.
_CAPABILITIES: Final = {0: "CHOWN", 1: "DAC_OVERRIDE", 3: "FOWNER", 5: "KILL", 6: "SETGID", 7: "SETUID", 12: "NET_ADMIN"}
_DESCRIPTORS_PER_FLOW: Final = 2
_DESCRIPTORS_OWN: Final = 100
# A worker that carries fewer flows than this is soon full: pools of some hundred connections are common.
_FLOWS_MIN: Final = 1_000
# adjtimex(2): the answer of a clock that nothing keeps right, and the size of struct timex with room to spare.
_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 512
_SYS: Final = Path("/proc/sys/net")


class State(StrEnum):
    """How a precondition stands."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"
    NOT_NEEDED = "not needed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One precondition: what it is about, how it stands, what was found (a sentence), what to do (one more, or empty)."""

    area: str
    name: str
    state: State
    sentence: str
    advice: str = ""


def look_at_machine() -> Iterator[Finding]:
    """What needs no configuration: rights, kernel, programs, a trial of catching, clock, open files."""
    yield _rights()
    yield _version()
    yield _ipv6()
    yield _nft()
    yield _trial()
    yield _clock()
    yield _open_files()
    yield _ip()
    yield _control_groups()
    yield _bpf()


def look_at_networks(networks: NetworkSettings, *, is_running: bool) -> Iterator[Finding]:
    """The configured interfaces, the switches and routes that catching changes, and the listeners' port. `is_running`: the
    appliance serves, so the port is its own."""
    for name in networks.interfaces:
        yield _interface(name)
    yield _obstacle(networks.interfaces)
    if os.geteuid() != 0:
        yield Finding("network", "catching", State.UNKNOWN, "Only root can see what is caught.", "Run this as root.")
    elif has_caught():
        yield _catching()
    else:
        yield Finding(
            "network",
            "catching",
            State.GOOD if not is_running else State.BAD,
            "Nothing is caught in this network namespace.",
            "" if not is_running else "`sluicegate up` runs elsewhere; ask doctor in the namespace where it catches.",
        )
        yield _forwarding()
        yield _foreign()
    yield _port(networks.port, is_running=is_running)


def _rights() -> Finding:
    if os.geteuid() != 0:
        return Finding(
            "machine",
            "rights",
            State.BAD,
            f"This is user {os.geteuid()}, not root, so much of this can't be looked at.",
            "Run `sluicegate doctor` and `sluicegate up` as root; the processes that read traffic become other users.",
        )
    has = _effective_capabilities()
    missing = [name for number, name in _CAPABILITIES.items() if not has >> number & 1]
    if missing:
        return Finding(
            "machine",
            "rights",
            State.BAD,
            f"This is root without the capabilities {', '.join(missing)}.",
            "Give the container or unit that runs the appliance these capabilities.",
        )
    return Finding("machine", "rights", State.GOOD, "This is root with every capability that is needed.")


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return int(value, 16)
    return 0


def _version() -> Finding:
    release = os.uname().release
    found = re.match(r"(\d+)\.(\d+)", release)
    is_fit = found is not None and (int(found[1]), int(found[2])) >= _KERNEL_MIN
    wanted = ".".join(map(str, _KERNEL_MIN))
    return Finding(
        "machine",
        "kernel",
        State.GOOD if is_fit else State.BAD,
        f"The kernel is Linux {release}; {wanted} or newer is needed.",
        "" if is_fit else f"Boot a kernel of at least {wanted}.",
    )


def _ipv6() -> Finding:
    if (_SYS / "ipv6/conf/all/forwarding").exists():
        return Finding("machine", "ipv6", State.GOOD, "The kernel speaks IPv6, so that no way past us is left open there.")
    return Finding(
        "machine",
        "ipv6",
        State.BAD,
        "The kernel has IPv6 switched off whole; catching covers both families and can't tell what is open in one of them.",
        "Boot without ipv6.disable=1; an interface without IPv6 addresses is fine.",
    )


def _nft() -> Finding:
    try:
        done = subprocess.run(["nft", "--version"], capture_output=True, text=True, check=False, timeout=10)
    except FileNotFoundError:
        return Finding("machine", "nft", State.BAD, "The program nft is not here.", "Install the package nftables.")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("machine", "nft", State.BAD, f"The program nft does not run: {error}.", "Install nftables anew.")
    if done.returncode:
        return Finding("machine", "nft", State.BAD, f"nft fails: {done.stderr.strip()}.", "Install nftables anew.")
    return Finding("machine", "nft", State.GOOD, f"{done.stdout.strip() or 'nft'} is here.")


def _trial() -> Finding:
    name = "diverting"
    if os.geteuid() != 0:
        return Finding(
            "machine", name, State.UNKNOWN, "Only root can try whether the kernel diverts connections.", "Run this as root."
        )
    problems = try_catching()
    if not problems:
        return Finding(
            "machine",
            name,
            State.GOOD,
            "A connection of each family was diverted between two machines made for the trial (nftables, TPROXY, routing"
            " by mark).",
        )
    return Finding(
        "machine",
        name,
        State.BAD,
        f"Diverting was tried between two machines made for it and failed. {' '.join(problems)}",
        "The kernel needs nf_tables, nft_tproxy, nft_socket, nft_fib_inet, nft_reject_inet, policy routing and (for"
        " this trial) veth, built in or as modules that may be loaded.",
    )


def _clock() -> Finding:
    # A struct timex with modes 0 only asks (adjtimex(2)).
    asked = ctypes.create_string_buffer(_TIMEX_BYTES)
    answered = ctypes.CDLL(None, use_errno=True).adjtimex(asked)
    if answered == -1:
        reason = os.strerror(ctypes.get_errno())
        return Finding("machine", "clock", State.UNKNOWN, f"The kernel does not say whether the clock is right: {reason}.")
    if answered == _TIME_ERROR:
        return Finding(
            "machine",
            "clock",
            State.UNKNOWN,
            "The kernel knows of nothing that keeps the clock right.",
            "Run chrony, systemd-timesyncd or ntpd (in a container: on its host); records and expiries go by this clock.",
        )
    return Finding("machine", "clock", State.GOOD, "The clock is kept right by a time service.")


def _open_files() -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return Finding("machine", "open files", State.GOOD, "There is no limit on open files.")
    flows = max(0, hard - _DESCRIPTORS_OWN) // _DESCRIPTORS_PER_FLOW
    said = f"A process may open {hard} files, enough for about {flows} flows in each worker"
    if flows >= _FLOWS_MIN:
        return Finding("machine", "open files", State.GOOD, f"{said}.")
    return Finding(
        "machine",
        "open files",
        State.BAD,
        f"{said}; expected {_FLOWS_MIN} flows at least.",
        "Raise the hard limit (ulimit -Hn, or LimitNOFILE= in the unit).",
    )


def _ip() -> Finding:
    found = shutil.which("ip")
    said = f"The program ip is at {found}" if found else "The program ip is not here"
    return Finding(
        "machine", "ip", State.NOT_NEEDED, f"{said}; the appliance speaks to the kernel itself, people like to look with it."
    )


def _control_groups() -> Finding:
    is_there = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    said = "Control groups are of version 2" if is_there else "Control groups of version 2 are not at /sys/fs/cgroup"
    return Finding("machine", "cgroups", State.NOT_NEEDED, f"{said}; only agents on this very machine would need them.")


def _bpf() -> Finding:
    is_there = Path("/sys/kernel/btf/vmlinux").exists()
    said = "The kernel describes its types (BTF)" if is_there else "The kernel has no description of its types (BTF)"
    return Finding("machine", "bpf", State.NOT_NEEDED, f"{said}; only agents on this very machine would need it.")


def _interface(name: str) -> Finding:
    about = f"interface {name}"
    with IPRoute() as netlink:
        found = netlink.link_lookup(ifname=name)
        if not found:
            listed = ", ".join(sorted(link.get_attr("IFLA_IFNAME") for link in netlink.get_links())) or "none"
            return Finding(
                "network",
                about,
                State.BAD,
                f"There is no interface {name}; there are {listed}.",
                "Name under networks.executors.interfaces those by which agents' connections come in.",
            )
        (link,) = netlink.get_links(found[0])
        addresses = [one.get_attr("IFA_ADDRESS") for one in netlink.get_addr(index=found[0])]
    if not link["flags"] & 1:  # IFF_UP
        return Finding("network", about, State.BAD, f"{name} is down.", f"Switch it on: ip link set {name} up.")
    if not addresses:
        return Finding(
            "network",
            about,
            State.BAD,
            f"{name} has no address, so no agent can have this machine as its router.",
            f"Give it the address that is the agents' default gateway: ip address add ADDRESS/LENGTH dev {name}.",
        )
    return Finding("network", about, State.GOOD, f"{name} is up with {', '.join(addresses)}.")


def _obstacle(interfaces: tuple[str, ...]) -> Finding:
    found = obstacles(interfaces)
    if not found:
        return Finding("network", "switches", State.GOOD, "No switch of the kernel is in the way of diverting.")
    return Finding("network", "switches", State.BAD, " ".join(found), "Set it to 0 (sysctl) and find out who sets it.")


def _catching() -> Finding:
    try:
        problems = check()
    except UnfitKernelError as error:
        problems = (f"{error}.",)
    if not problems:
        return Finding("network", "catching", State.GOOD, "The kernel's rules, routes and switches are as they must be.")
    return Finding(
        "network",
        "catching",
        State.BAD,
        " ".join(problems),
        "While `sluicegate up` runs it puts them back within a second; find out who takes them away.",
    )


def _forwarding() -> Finding:
    on = [name for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding") if (_SYS / name).read_text().strip() != "0"]
    if not on:
        return Finding("network", "forwarding", State.GOOD, "Nothing is forwarded by this machine.")
    return Finding(
        "network",
        "forwarding",
        State.UNKNOWN,
        f"Forwarding is on ({', '.join(f'net/{name}' for name in on)}); `up` switches it off, for everybody.",
        "Make sure that nobody else needs this machine as a router, containers and VPNs among them.",
    )


def _foreign() -> Finding:
    found = foreign_settings()
    if not found:
        return Finding("network", "routes", State.GOOD, "The routing table and the rule's place that we use are free.")
    return Finding("network", "routes", State.BAD, " ".join(found), "Move it to another table or priority.")


def _port(port: int, *, is_running: bool) -> Finding:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as one:
                one.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and is_running:
                return Finding("network", "port", State.GOOD, f"Port {port} is held by the appliance that runs.")
            return Finding(
                "network",
                "port",
                State.BAD,
                f"Port {port} of {address} can't be had: {error.strerror}.",
                "End what holds it (ss -ltnp), or set networks.executors.port to a free one.",
            )
    return Finding("network", "port", State.GOOD, f"Port {port} is free for the workers' listeners.")
