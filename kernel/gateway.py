"""What the kernel is told so that executors' connections end with us: rules, routes and switches, there and gone.

Everything applies to the network namespace of the calling process and needs CAP_NET_ADMIN there. The rules themselves are in
redirect.nft. What was found before is kept in a small file on a file system that does not outlive the kernel (/run), named
after the network namespace, so that any later process can restore it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from appliance.errors import UnfitKernelError
from appliance.settings import NetworkSettings

MEMORY: Final = Path("/run/sluicegate-kernel")

_TABLE: Final = "sluicegate"
_ROUTES: Final = 100
_MARK: Final = 1
_MARK_MASK: Final = 0xFF
# Behind the kernel's local table (0), before everything a distribution or a VPN adds (they start at 5210 and higher).
_PRIORITY: Final = 100
# linux/if.h: IFNAMSIZ with the closing NUL. The pattern keeps a name from meaning more to nft or the file system.
_INTERFACE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", re.ASCII)
# asm-generic/socket.h, since Linux 5.14: a number that no other network namespace had since the machine started.
_SO_NETNS_COOKIE: Final = 71
_FAMILIES: Final = ((socket.AF_INET, "0.0.0.0/0"), (socket.AF_INET6, "::/0"))
_SWITCHES: Final = Path("/proc/sys/net")


class _Memory(msgspec.Struct, forbid_unknown_fields=True):
    """What is needed to check and to undo. `rules` is the kernel's own listing of the table; `before` maps a switch (its
    path below /proc/sys/net) to its value before we came."""

    interfaces: tuple[str, ...]
    port: int
    rules: str
    before: dict[str, str]


def catch(networks: NetworkSettings, memory: Path = MEMORY) -> None:
    """Catch all TCP from these interfaces, refuse everything else from them at once, and switch forwarding off.

    Calling it again puts back whatever is missing. UnfitKernelError says what stands in the way; then nothing passes that
    did not pass before.
    """
    for interface in networks.interfaces:
        if not _INTERFACE.fullmatch(interface):
            raise UnfitKernelError(f"found {interface!r} as an interface, expected a name of at most 15 letters and digits")
    missing = [name for name in networks.interfaces if not (_SWITCHES / "ipv4/conf" / name).exists()]
    if missing or not networks.interfaces:
        found = f"no interface {', '.join(missing)}" if missing else "no interfaces"
        raise UnfitKernelError(f"found {found}, expected the interfaces executors come in by; see networks.interfaces")
    if in_the_way := obstacles(networks.interfaces):
        raise UnfitKernelError("; ".join(in_the_way))
    with _remembered(memory) as file:
        known = _read(file)
        wanted = _switches(networks.interfaces)
        before = dict(known.before) if known is not None else {}
        for name in (*_moved_by_forwarding(), *wanted):
            before.setdefault(name, _switch(name))
        # Remembered before anything changes, so that dying half-way loses nothing.
        _write(file, _Memory(networks.interfaces, networks.port, "", before))
        # Forwarding goes off first: from here on nothing passes, whatever fails below.
        for name, value in wanted.items():
            _turn(name, value)
        _install(networks)
        _add_routes()
        _write(file, _Memory(networks.interfaces, networks.port, _listing(), before))


def release(memory: Path = MEMORY) -> None:
    """Take everything away again and put the switches back as they were found. Nothing there: nothing happens."""
    with _remembered(memory) as file:
        _remove_rules()
        _remove_routes()
        known = _read(file)
        if known is not None:
            # In this order: the two general switches overwrite many of those that stand behind them.
            for name, value in known.before.items():
                _turn(name, value)
            file.unlink()


def has_caught(memory: Path = MEMORY) -> bool:
    """Whether catch() was called in this network namespace and not undone. A look that leaves nothing behind."""
    return (memory / f"{_cookie()}.json").exists()


def is_caught(memory: Path = MEMORY) -> bool:
    """Whether everything catch() put in place is still there and nothing is in its way."""
    return not check(memory)


def check(memory: Path = MEMORY) -> tuple[str, ...]:
    """What is wrong with the catching, one sentence each; empty when all is well."""
    with _remembered(memory) as file:
        known = _read(file)
    if known is None:
        return ("Nothing is caught in this network namespace: the rules were never installed, or were released.",)
    problems: list[str] = []
    listing = _listing()
    if not listing:
        problems.append(
            f"The nftables table inet {_TABLE} is gone: executors' connections are not caught (and not forwarded)."
        )
    elif listing != known.rules:
        problems.append(f"The nftables table inet {_TABLE} is not as it was installed: somebody changed it.")
    problems += _missing_routes()
    for name, value in _switches(known.interfaces).items():
        if not (_SWITCHES / name).exists():
            problems.append(f"The interface of net/{name} is gone.")
        elif (found := _switch(name)) != value:
            problems.append(f"net/{name} is {found}, expected {value}.")
    return (*problems, *obstacles(known.interfaces))


def _switches(interfaces: tuple[str, ...]) -> dict[str, str]:
    """What must be set how. Forwarding stands first: setting it resets others."""
    switches = {"ipv4/ip_forward": "0", "ipv6/conf/all/forwarding": "0"}
    # Where forwarding is off, redirects are sent and believed if either the interface or "all" says so. Executors must not
    # be told of ways around us, nor teach us any.
    switches["ipv4/conf/all/send_redirects"] = "0"
    switches["ipv4/conf/all/accept_redirects"] = "0"
    for interface in interfaces:
        switches[f"ipv4/conf/{interface}/send_redirects"] = "0"
        switches[f"ipv4/conf/{interface}/accept_source_route"] = "0"
        switches[f"ipv4/conf/{interface}/accept_redirects"] = "0"
        switches[f"ipv6/conf/{interface}/accept_redirects"] = "0"
        switches[f"ipv6/conf/{interface}/accept_ra"] = "0"
    return switches


def _moved_by_forwarding() -> Iterator[str]:
    """Switches that the kernel moves by itself when a general forwarding switch is set, in the order they are restored."""
    yield "ipv4/ip_forward"
    yield "ipv6/conf/all/forwarding"
    yield "ipv4/conf/all/accept_redirects"
    for family in ("ipv4", "ipv6"):
        for folder in sorted((_SWITCHES / family / "conf").iterdir()):
            if folder.name != "all":
                yield f"{family}/conf/{folder.name}/forwarding"


def _switch(name: str) -> str:
    return (_SWITCHES / name).read_text().strip()


def _turn(name: str, value: str) -> None:
    """Only where it differs: setting a general switch to what it is already is free of side effects then. An interface may
    have gone since its switches were noted."""
    path = _SWITCHES / name
    if path.exists() and path.read_text().strip() != value:
        path.write_text(value)


def obstacles(interfaces: tuple[str, ...]) -> list[str]:
    """What of other people's settings makes TPROXY fail, a sentence each."""
    found: list[str] = []
    for name in ("all", *interfaces):
        path = _SWITCHES / "ipv4/conf" / name / "src_valid_mark"
        if path.exists() and path.read_text().strip() != "0":
            found.append(
                f"net/ipv4/conf/{name}/src_valid_mark is 1, expected 0: with it the reverse-path check follows the mark "
                "of caught packets and drops them."
            )
    return found


def _install(networks: NetworkSettings) -> None:
    names = ", ".join(f'"{name}"' for name in networks.interfaces)
    text = files("kernel").joinpath("redirect.nft").read_text()
    _nft(["-f", "-"], f"define executors = {{ {names} }}\ndefine port = {networks.port}\n{text}")


def _remove_rules() -> None:
    # Adding an empty table first makes the deletion succeed whether it was there or not, in one transaction.
    _nft(["-f", "-"], f"table inet {_TABLE} {{}}\ndelete table inet {_TABLE}\n")


def _listing() -> str:
    """The table as the kernel has it, without counters; empty when it is gone."""
    if not any(line.split()[1:] == ["inet", _TABLE] for line in _nft(["list", "tables"]).splitlines()):
        return ""
    return _nft(["--stateless", "list", "table", "inet", _TABLE])


def _nft(arguments: list[str], text: str = "") -> str:
    try:
        done = subprocess.run(["nft", *arguments], input=text, capture_output=True, text=True, check=False, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise UnfitKernelError(f"nft could not be run ({error}); expected nftables to be installed") from error
    if done.returncode:
        raise UnfitKernelError(f"nft refused the rules: {done.stderr.strip()}")
    return done.stdout


def _rule(family: int) -> dict[str, Any]:
    return {"family": family, "priority": _PRIORITY, "fwmark": _MARK, "fwmask": _MARK_MASK, "table": _ROUTES}


def _route(family: int, destination: str, loopback: int) -> dict[str, Any]:
    return {"family": family, "dst": destination, "type": "local", "scope": "host", "oif": loopback, "table": _ROUTES}


def _add_routes() -> None:
    """Marked packets are delivered to this machine, whatever their destination."""
    with IPRoute() as netlink:
        loopback = netlink.link_lookup(ifname="lo")[0]
        netlink.link("set", index=loopback, state="up")
        for family, destination in _FAMILIES:
            netlink.route("replace", **_route(family, destination, loopback))
            if not _has_rule(netlink, family):
                netlink.rule("add", **_rule(family))


def _remove_routes() -> None:
    with IPRoute() as netlink:
        loopback = netlink.link_lookup(ifname="lo")[0]
        for family, destination in _FAMILIES:
            while _has_rule(netlink, family):
                netlink.rule("del", **_rule(family))
            try:
                netlink.route("del", **_route(family, destination, loopback))
            except NetlinkError as error:
                if error.code not in (errno.ESRCH, errno.ENOENT):
                    raise


def _missing_routes() -> list[str]:
    problems: list[str] = []
    with IPRoute() as netlink:
        for family, _ in _FAMILIES:
            version = "IPv4" if family == socket.AF_INET else "IPv6"
            if not _has_rule(netlink, family):
                problems.append(
                    f"The {version} routing rule for caught packets is gone (fwmark {_MARK} to table {_ROUTES})."
                )
            if not any(route["type"] == 2 for route in netlink.get_routes(family=family, table=_ROUTES)):  # RTN_LOCAL
                problems.append(f"The {version} route for caught packets is gone (local default in table {_ROUTES}).")
    return problems


def foreign_settings() -> list[str]:
    """What others have where our routes and rules go, a sentence each. Only true while nothing is caught."""
    found: list[str] = []
    with IPRoute() as netlink:
        for family, _ in _FAMILIES:
            version = "IPv4" if family == socket.AF_INET else "IPv6"
            if next(iter(netlink.get_routes(family=family, table=_ROUTES)), None) is not None:
                found.append(f"The {version} routing table {_ROUTES} has somebody's routes.")
            if any(rule.get("priority") == _PRIORITY for rule in netlink.get_rules(family=family)):
                found.append(f"An {version} routing rule of somebody's has priority {_PRIORITY}.")
    return found


def _has_rule(netlink: IPRoute, family: int) -> bool:
    return any(
        rule.get("fwmark") == _MARK and rule.get("priority") == _PRIORITY and rule.get("table") == _ROUTES
        for rule in netlink.get_rules(family=family)
    )


def _cookie() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        return int.from_bytes(here.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")


@contextmanager
def _remembered(memory: Path) -> Iterator[Path]:
    """The file of this network namespace, held for us alone."""
    memory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(memory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield memory / f"{_cookie()}.json"
    finally:
        os.close(lock)


def _read(file: Path) -> _Memory | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Memory)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise UnfitKernelError(
            f"found {file} unreadable ({error}), expected what catch() wrote; remove it to go on"
        ) from error


def _write(file: Path, memory: _Memory) -> None:
    fresh = file.with_suffix(".fresh")
    fresh.write_bytes(msgspec.json.encode(memory))
    fresh.replace(file)
