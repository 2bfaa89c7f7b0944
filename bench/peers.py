"""The lanes of a bench: what stands between the executor and the target in each, and the links that only a bench has.

An executor of the lab gets at the target through the appliance alone. A bench needs other ways, and makes them itself: a
link past the appliance for the direct lane, and one to the appliance's machine, not among the interfaces whose connections
are caught, on which the other programs listen. Those connect to the target over the same link as the appliance does.

Thousands of connections that do nothing end at a pgbouncer in the target's machine, since a PostgreSQL process for each
would need more memory than all that is measured.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.usage import family
from lab.database import OWNER, PORT
from lab.killings import workers_of
from lab.laboratory import AGENT, RESOURCE, Lab
from lab.machines import EXECUTOR, LINK, TARGET, LabError, Place, inside, namespace

# A numeric user without an entry in any file.
PEERS_UID: Final = 61021

# Addresses of the links that only a bench has.
_DIRECT_TARGET: Final = "10.81.3.2"
_DIRECT_EXECUTOR: Final = "10.81.3.1"
_PEERS_APPLIANCE: Final = "10.81.4.2"
_PEERS_EXECUTOR: Final = "10.81.4.1"
# A second address of the target, registered as a resource whose target leg has no TLS: one appliance serves both.
_PLAIN_TARGET: Final = "10.81.2.3"

# What idle connections come from: an agent has a limit of flows, so there are several agents.
IDLE_SOURCES: Final = tuple(f"10.81.1.{number}" for number in range(11, 17))
IDLE_CLIENTS: Final = 5_000

_POOL: Final = 6431
_PGBOUNCER_PLAIN: Final = 6432
_PGBOUNCER_TLS: Final = 6433
_HAPROXY: Final = 6434
_HAPROXY_IDLE: Final = 6435
_START_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Lane:
    """A way to the target. `endpoint` and `workers` take whether there is TLS; `processes` are all that do the lane's work,
    `workers` those that carry connections; both are empty for the direct lane. `idle` is where connections go that do
    nothing."""

    name: str
    needs_password: bool
    endpoint: Callable[[bool], tuple[str, int]]
    processes: Callable[[], list[int]]
    workers: Callable[[bool], list[int]]
    idle: tuple[str, int]


class Peers:
    """The lanes of one lab that is up, with its appliance or without. The lab's down() ends and removes all of them."""

    def __init__(self, lab: Lab, password: str, policies: Path) -> None:
        self._lab = lab
        self._password = password
        self._policies = policies
        self._folder = lab.folder / "peers"

    def make_links(self) -> None:
        """Make the links and addresses."""
        _link(self._lab, Place.EXECUTOR, _DIRECT_EXECUTOR, Place.TARGET, _DIRECT_TARGET, "direct0")
        _link(self._lab, Place.EXECUTOR, _PEERS_EXECUTOR, Place.APPLIANCE, _PEERS_APPLIANCE, "peers0")
        _run(
            [
                "ip",
                "-netns",
                namespace(self._lab.name, Place.TARGET),
                "address",
                "add",
                f"{_PLAIN_TARGET}/24",
                "dev",
                "link0",
            ]
        )
        for source in IDLE_SOURCES:
            _run(["ip", "-netns", namespace(self._lab.name, Place.EXECUTOR), "address", "add", f"{source}/24", "dev", LINK])
        self._folder.mkdir(mode=0o700)
        os.chown(self._folder, PEERS_UID, PEERS_UID)

    def start_pool(self) -> None:
        """Start the pgbouncer in the target's machine at which idle connections end."""
        text = (
            f"[databases]\n* = host={TARGET.ipv4} port={PORT}\n[pgbouncer]\n"
            f"listen_addr = {_PLAIN_TARGET}\nlisten_port = {_POOL}\nunix_socket_dir =\n"
            f"pool_mode = transaction\nmax_client_conn = {IDLE_CLIENTS + 100}\ndefault_pool_size = 20\n"
            f"auth_type = scram-sha-256\nauth_file = {self._accounts()}\n"
            "ignore_startup_parameters = extra_float_digits,options\n"
            "log_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n"
        )
        file = self._write("pool.ini", text)
        self._launch(["pgbouncer", "--quiet", str(file)], _POOL, Place.TARGET, _PLAIN_TARGET)

    def start(self, name: str) -> Lane:
        """Start what a lane is made of and answer it when it serves. LabError has what it said if it does not."""
        match name:
            case "direct":
                return Lane(name, True, lambda _: (_DIRECT_TARGET, PORT), list, lambda _: [], (_DIRECT_TARGET, PORT))
            case "pgbouncer":
                return self._start_pgbouncer()
            case "haproxy":
                return self._start_haproxy()
            case "sluicegate":
                return self._start_appliance()
            case _:
                raise LabError(f"there is no lane {name}")

    def _start_appliance(self) -> Lane:
        lab = self._lab
        resources = {
            RESOURCE: {
                "protocol": "postgres",
                "addresses": [f"{TARGET.ipv4}:{PORT}"],
                "credential": "shop-owner",
                "tls": {"target": "verify-full", "authorities": str(lab.database.authorities)},
            },
            f"{RESOURCE}-plain": {
                "protocol": "postgres",
                "addresses": [f"{_PLAIN_TARGET}:{PORT}"],
                "credential": "shop-owner",
                "tls": {"target": "disable"},
            },
            f"{RESOURCE}-idle": {
                "protocol": "postgres",
                "addresses": [f"{_PLAIN_TARGET}:{_POOL}"],
                "credential": "shop-owner",
                "tls": {"target": "disable"},
            },
        }
        agents = {
            name: {"owner": "bench@lab.example", "phases": {"execute": {"sources": [source]}}}
            for name, source in [(AGENT, EXECUTOR.ipv4), *((f"idle-{at}", one) for at, one in enumerate(IDLE_SOURCES))]
        }
        lab.configure(self._policies, resources=resources, agents=agents)
        lab.start_appliance()
        return Lane(
            "sluicegate",
            False,
            lambda is_encrypted: (TARGET.ipv4 if is_encrypted else _PLAIN_TARGET, PORT),
            lambda: family(lab.appliance.pid),
            lambda _: workers_of(lab.appliance.pid),
            (_PLAIN_TARGET, _POOL),
        )

    def _start_pgbouncer(self) -> Lane:
        started = {}
        for is_encrypted, port in ((False, _PGBOUNCER_PLAIN), (True, _PGBOUNCER_TLS)):
            leg = (
                f"server_tls_sslmode = verify-full\nserver_tls_ca_file = {self._lab.database.authorities}\n"
                f"client_tls_sslmode = require\n"
                f"client_tls_cert_file = {self._copied('server.pem')}\nclient_tls_key_file = {self._copied('server.key')}\n"
                if is_encrypted
                else "server_tls_sslmode = disable\nclient_tls_sslmode = disable\n"
            )
            text = (
                f"[databases]\n* = host={TARGET.ipv4} port={PORT}\n[pgbouncer]\n"
                f"listen_addr = {_PEERS_APPLIANCE}\nlisten_port = {port}\nunix_socket_dir =\n"
                f"pool_mode = session\nmax_client_conn = {IDLE_CLIENTS + 100}\ndefault_pool_size = 100\n"
                f"auth_type = scram-sha-256\nauth_file = {self._accounts()}\n"
                f"log_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n{leg}"
            )
            file = self._write(f"pgbouncer-{port}.ini", text)
            started[is_encrypted] = self._launch(["pgbouncer", "--quiet", str(file)], port)
        return Lane(
            "pgbouncer",
            True,
            lambda is_encrypted: (_PEERS_APPLIANCE, _PGBOUNCER_TLS if is_encrypted else _PGBOUNCER_PLAIN),
            lambda: list(started.values()),
            lambda is_encrypted: [started[is_encrypted]],
            (_PEERS_APPLIANCE, _PGBOUNCER_PLAIN),
        )

    def _start_haproxy(self) -> Lane:
        text = (
            f"global\n    maxconn {IDLE_CLIENTS + 500}\n"
            "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n"
            f"listen postgres\n    bind {_PEERS_APPLIANCE}:{_HAPROXY}\n    server target {TARGET.ipv4}:{PORT}\n"
            f"listen idle\n    bind {_PEERS_APPLIANCE}:{_HAPROXY_IDLE}\n    server target {_PLAIN_TARGET}:{_POOL}\n"
        )
        process = self._launch(["haproxy", "-db", "-q", "-f", str(self._write("haproxy.cfg", text))], _HAPROXY)
        return Lane(
            "haproxy",
            True,
            lambda _: (_PEERS_APPLIANCE, _HAPROXY),
            lambda: [process],
            lambda _: [process],
            (_PEERS_APPLIANCE, _HAPROXY_IDLE),
        )

    def _launch(self, words: list[str], port: int, place: Place = Place.APPLIANCE, address: str = _PEERS_APPLIANCE) -> int:
        """Start a program in a machine, not as root; its process id once it answers PostgreSQL's clients there."""
        output = self._folder / f"{words[0]}-{port}.log"
        with output.open("ab") as said:
            try:
                process = subprocess.Popen(
                    [*inside(self._lab.name, place, PEERS_UID), *words],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    cwd="/",
                    env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise LabError(f"{words[0]} could not be started: {error}") from error
        words_asking = ["pg_isready", "--quiet", f"--host={address}", f"--port={port}", "--timeout=1"]
        for _ in range(int(_START_SECONDS * 20)):
            if process.poll() is not None:
                break
            if self._lab.run_in(place, words_asking).returncode == 0:
                return process.pid
        raise LabError(f"{words[0]} did not come up: {output.read_text(errors='replace').strip()[-2000:]}")

    def _accounts(self) -> Path:
        return self._write("accounts", f'"{OWNER}" "{self._password}"\n')

    def _copied(self, name: str) -> Path:
        return self._write(name, (self._lab.folder / "target" / name).read_text())

    def _write(self, name: str, text: str) -> Path:
        file = self._folder / name
        file.touch(mode=0o600)
        file.write_text(text)
        os.chown(file, PEERS_UID, PEERS_UID)
        return file


def _link(lab: Lab, one: Place, address: str, other: Place, other_address: str, name: str) -> None:
    ours, theirs = namespace(lab.name, one), namespace(lab.name, other)
    _run(["ip", "link", "add", name, "netns", ours, "type", "veth", "peer", "name", name, "netns", theirs])
    for here, own in ((ours, address), (theirs, other_address)):
        _run(["ip", "-netns", here, "address", "add", f"{own}/30", "dev", name])
        _run(["ip", "-netns", here, "link", "set", name, "up"])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
