"""The lanes of a bench: what stands between the executor and the target in each, and the links that only a bench has.

An executor of the lab gets at the target through the appliance alone. A bench needs other ways, and makes them itself: a
link past the appliance for the direct lane, and one to the appliance's machine, not among the interfaces whose connections
are caught, on which the other programs listen. Those connect to the target over the same link as the appliance does.
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
from lab.laboratory import RESOURCE, Lab
from lab.machines import TARGET, LabError, Place, inside, namespace

# A numeric user without an entry in any file.
PEERS_UID: Final = 61021

# Addresses of the links that only a bench has.
_DIRECT_TARGET: Final = "10.81.3.2"
_DIRECT_EXECUTOR: Final = "10.81.3.1"
_PEERS_APPLIANCE: Final = "10.81.4.2"
_PEERS_EXECUTOR: Final = "10.81.4.1"
# A second address of the target, registered as a resource whose target leg has no TLS: one appliance serves both.
_PLAIN_TARGET: Final = "10.81.2.3"

_PGBOUNCER_PLAIN: Final = 6432
_PGBOUNCER_TLS: Final = 6433
_HAPROXY: Final = 6434
_START_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Lane:
    """A way to the target. `endpoint` and `workers` take whether there is TLS; `processes` are all that do the lane's work,
    `workers` those that carry connections; both are empty for the direct lane."""

    name: str
    needs_password: bool
    endpoint: Callable[[bool], tuple[str, int]]
    processes: Callable[[], list[int]]
    workers: Callable[[bool], list[int]]


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
        self._folder.mkdir(mode=0o700)
        os.chown(self._folder, PEERS_UID, PEERS_UID)

    def start(self, name: str) -> Lane:
        """Start what a lane is made of and answer it when it serves. LabError has what it said if it does not."""
        match name:
            case "direct":
                return Lane(name, True, lambda _: (_DIRECT_TARGET, PORT), list, lambda _: [])
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
        }
        lab.configure(self._policies, resources=resources)
        lab.start_appliance()
        return Lane(
            "sluicegate",
            False,
            lambda is_encrypted: (TARGET.ipv4 if is_encrypted else _PLAIN_TARGET, PORT),
            lambda: family(lab.appliance.pid),
            lambda _: workers_of(lab.appliance.pid),
        )

    def _start_pgbouncer(self) -> Lane:
        accounts = self._write("accounts", f'"{OWNER}" "{self._password}"\n')
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
                f"pool_mode = session\nmax_client_conn = 500\ndefault_pool_size = 100\n"
                f"auth_type = scram-sha-256\nauth_file = {accounts}\n"
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
        )

    def _start_haproxy(self) -> Lane:
        text = (
            "global\n    maxconn 1000\n"
            "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n"
            f"listen postgres\n    bind {_PEERS_APPLIANCE}:{_HAPROXY}\n    server target {TARGET.ipv4}:{PORT}\n"
        )
        process = self._launch(["haproxy", "-db", "-q", "-f", str(self._write("haproxy.cfg", text))], _HAPROXY)
        return Lane("haproxy", True, lambda _: (_PEERS_APPLIANCE, _HAPROXY), lambda: [process], lambda _: [process])

    def _launch(self, words: list[str], port: int) -> int:
        """Start a program in the appliance's machine, not as root; its process id once it answers PostgreSQL's clients."""
        output = self._folder / f"{words[0]}-{port}.log"
        with output.open("ab") as said:
            try:
                process = subprocess.Popen(
                    [*inside(self._lab.name, Place.APPLIANCE, PEERS_UID), *words],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    cwd="/",
                    env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise LabError(f"{words[0]} could not be started: {error}") from error
        words_asking = ["pg_isready", "--quiet", f"--host={_PEERS_APPLIANCE}", f"--port={port}", "--timeout=1"]
        for _ in range(int(_START_SECONDS * 20)):
            if process.poll() is not None:
                break
            if self._lab.run_in(Place.EXECUTOR, words_asking).returncode == 0:
                return process.pid
        raise LabError(f"{words[0]} did not come up: {output.read_text(errors='replace').strip()[-2000:]}")

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
