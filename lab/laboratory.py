"""One lab from up to down: the order in which its parts are made, how they are used, and that nothing of it stays."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import yaml
from psycopg import sql
from pyroute2 import netns

from appliance.errors import UnfitKernelError
from kernel.gateway import release
from lab import machines, processes
from lab.database import OWNER, PORT, SHOP, Database
from lab.machines import EXECUTOR, EXECUTOR_UID, EXECUTORS_INTERFACE, PLANNER, PLANNER_UID, TARGET, LabError, Place

ROOT: Final = Path("/run/sluicegate-lab")
REPOSITORY: Final = Path(__file__).resolve().parent.parent
WORKER_UID: Final = 61001
CONTROL_UID: Final = 61002
AGENT: Final = "shop-bot"
RESOURCE: Final = "shop"
DASHBOARD_PORT: Final = 8443
# More labs than one machine carries at a time.
_DASHBOARD_PORTS: Final = 50

# With "sg-" and "-appliance" it stays well below what a file name may have; the rest keeps it one word everywhere.
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}", re.ASCII)
_ROLES: Final[Mapping[str, int]] = {"planner": PLANNER_UID, "executor": EXECUTOR_UID}
_APPLIANCE_SECONDS: Final = 30.0


class Lab:
    """A lab by its name. Several may be up at once. Every method needs root.

    `with Lab(name) as lab:` has it up inside and down after. A process that needs no lab of its own may use one that is up.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name if name is not None else os.environ.get("SLUICEGATE_LAB", "lab")
        if not _NAME.fullmatch(self.name):
            raise LabError(
                f"found {self.name!r} as the name of a lab, expected at most 40 small letters, digits and hyphens"
            )
        self.folder = ROOT / self.name
        self.appliance_folder = self.folder / "appliance"
        self.configuration = self.appliance_folder / "configuration.yaml"
        self.appliance_log = self.appliance_folder / "output"
        self._known = self.folder / "processes.json"
        self._secret = self.folder / "secrets" / OWNER
        self._appliance: subprocess.Popen[bytes] | None = None
        self._module = "appliance"
        cache = Path(os.environ.get("SLUICEGATE_CACHE", "/var/cache/sluicegate"))
        self.database = Database(self.name, self.folder / "target", cache, self._known)

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.down()

    # Making and removing it.

    def up(self) -> None:
        """Build it anew: whatever is left of a lab of this name goes first. If it fails half-way, nothing stays."""
        if os.geteuid() != 0:
            raise LabError("a lab needs root: it makes network namespaces")
        self.down()
        try:
            self._make_folders()
            machines.build(self.name)
            self._secret.write_text(self.database.start() + "\n")
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Remove everything that has this lab's name: processes, namespaces, files. Nothing there: nothing happens."""
        self.stop_appliance()
        self.database.stop()
        left = {*processes.remembered(self._known), *machines.dwellers(self.name)} - {os.getpid()}
        processes.end(left, signal.SIGTERM, 2.0)
        self._forget_rules()
        machines.remove(self.name)
        if self.folder.exists():
            shutil.rmtree(self.folder)

    @property
    def is_up(self) -> bool:
        """Whether all of it is there and its server answers."""
        if not self._secret.exists() or not all(machines.exists(self.name, place) for place in Place):
            return False
        return bool(self.database.is_answering())

    # Using it.

    def command(self, place: Place | str, arguments: Sequence[str], as_: str | None = None) -> list[str]:
        """The words that run a command in a machine. `as_`: "planner" or "executor", which chooses the source address of its
        connections; None is root, whose connections come from the executor's address."""
        return [*machines.inside(self.name, Place(place), _ROLES[as_] if as_ else None), *arguments]

    def environment(self, as_: str | None = None) -> dict[str, str]:
        """The environment of commands in the executor's machine: where libpq finds the shop, and no password."""
        home = self.folder / "homes" / (as_ or "executor")
        return {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "LANG": "C.UTF-8",
            "TERM": os.environ.get("TERM", "dumb"),
            "HOME": str(home),
            "PGHOST": TARGET.ipv4,
            "PGPORT": str(PORT),
            "PGUSER": OWNER,
            "PGDATABASE": SHOP,
            # Where nothing catches and nothing forwards, a connection would hang for minutes.
            "PGCONNECT_TIMEOUT": "15",
            "PSQL_HISTORY": "/dev/null",
        }

    def run_in(
        self,
        place: Place | str,
        arguments: Sequence[str],
        as_: str | None = None,
        *,
        text: str | None = None,
        environment: Mapping[str, str] | None = None,
        seconds: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a machine to its end. `text` is its standard input, `environment` adds to environment()."""
        return subprocess.run(
            self.command(place, arguments, as_),
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            cwd="/",
            env={**self.environment(as_), **(environment or {})},
        )

    def start_in(
        self,
        place: Place | str,
        arguments: Sequence[str],
        as_: str | None = None,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command in a machine and answer it, its standard streams being pipes. down() ends it, too."""
        process = subprocess.Popen(
            self.command(place, arguments, as_),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**self.environment(as_), **(environment or {})},
        )
        processes.remember(self._known, process.pid)
        return process

    def psql(
        self, script: str, *options: str, as_: str = "executor", database: str = SHOP, seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run psql in the executor's machine with `script` on its standard input."""
        words = ["psql", "--no-psqlrc", *options, "-d", database]
        return self.run_in(Place.EXECUTOR, words, as_, text=script, seconds=seconds)

    def admin(self, statement: str | sql.Composed, database: str = SHOP) -> list[tuple[Any, ...]]:
        """Run SQL directly at the target, past the appliance; see Database.run."""
        return self.database.run(statement, database)

    def fresh_database(self, name: str, contents: str) -> None:
        """Make a database anew; see Database.fresh."""
        self.database.fresh(name, contents)

    def logged(self) -> Iterator[dict[str, Any]]:
        """What the target's own log says; see Database.logged."""
        return self.database.logged()

    # The appliance.

    def configure(
        self, policies: Path | str = REPOSITORY / "policies" / "example", workers: int = 2, **sections: Any
    ) -> Path:
        """Write a whole configuration for this lab and answer its file. `sections` replace top-level keys, or remove those
        given as None."""
        wanted: dict[str, Any] = {
            "agents": {
                AGENT: {
                    "owner": "shop@lab.example",
                    "groups": ["shop-agents"],
                    "phases": {"plan": {"sources": list(PLANNER)}, "execute": {"sources": list(EXECUTOR)}},
                }
            },
            "resources": self.shop_resource(),
            "credentials": {"shop-owner": {"user": OWNER, "password": {"file": str(self._secret)}}},
            "networks": {"executors": {"interfaces": [EXECUTORS_INTERFACE]}},
            "policies": [str(policies)],
            "approvers": {"root": {"groups": ["dba"]}},
            "appliance": {
                "state": str(self.appliance_folder / "state"),
                "run": str(self.appliance_folder / "run"),
                "workers": workers,
                "uids": {"worker": WORKER_UID, "control": CONTROL_UID},
            },
            # Whoever wants to look says where; a test that does not is faster without.
            "dashboard": {"listen": None},
        }
        wanted.update(sections)
        text = yaml.safe_dump({key: value for key, value in wanted.items() if value is not None}, sort_keys=False)
        self.configuration.write_text(text)
        return self.configuration

    def shop_resource(self) -> dict[str, Any]:
        """What configure() says of the shop where it is given no `resources` of its own."""
        return {
            RESOURCE: {
                "protocol": "postgres",
                "addresses": [f"{TARGET.ipv4}:{PORT}", f"[{TARGET.ipv6}]:{PORT}"],
                "credential": "shop-owner",
                "tls": {"target": "verify-full", "authorities": str(self.database.authorities)},
            }
        }

    def start_appliance(
        self, configuration: Path | None = None, module: str = "appliance", dashboard: socket.socket | None = None
    ) -> None:
        """Start the appliance in its machine and wait until it serves. LabError has the end of its log if it does not.
        `module` is what is run: another one may wire the same rooms with one protocol more. `dashboard` is a socket of
        open_dashboard()."""
        self.stop_appliance()
        self._module = module
        file = configuration or (self.configuration if self.configuration.exists() else self.configure())
        reading, writing = os.pipe()
        try:
            with self.appliance_log.open("ab") as output:
                words = [sys.executable, "-m", module, "up", "--configuration", str(file), "--ready-fd", str(writing)]
                passed = [writing]
                if dashboard is not None:
                    passed.append(dashboard.fileno())
                    words += ["--dashboard-fd", str(dashboard.fileno())]
                self._appliance = subprocess.Popen(
                    self.command(Place.APPLIANCE, words),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=passed,
                    cwd="/",
                    env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "PYTHONPATH": str(REPOSITORY)},
                    start_new_session=True,
                )
            os.close(writing)
            writing = -1
            processes.remember(self._known, self._appliance.pid)
            if not _is_ready(reading, _APPLIANCE_SECONDS):
                self.stop_appliance()
                said = self.appliance_log.read_text(errors="replace").strip()
                raise LabError(f"the appliance did not come up: {said[-4000:]}")
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)

    def open_dashboard(self) -> socket.socket:
        """A listening socket of this machine, which its browsers reach, for the dashboard in the appliance's: a socket stays
        in the network it was made in, whoever serves it."""
        for port in range(DASHBOARD_PORT, DASHBOARD_PORT + _DASHBOARD_PORTS):
            try:
                return socket.create_server(("127.0.0.1", port), backlog=128)
            except OSError:
                continue
        raise LabError(f"no port from {DASHBOARD_PORT} on is free for the dashboard")

    @property
    def appliance(self) -> subprocess.Popen[bytes]:
        """The supervisor this object has started. LabError if there is none."""
        if self._appliance is None:
            raise LabError("this lab's appliance was not started from here")
        return self._appliance

    def run_sluicegate(self, *arguments: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run the command line as root in the appliance's machine, with this lab's configuration."""
        words = [sys.executable, "-m", self._module, *arguments]
        paths = {"PYTHONPATH": str(REPOSITORY), "SLUICEGATE_CONFIGURATION": str(self.configuration)}
        return self.run_in(Place.APPLIANCE, words, environment=paths, seconds=seconds)

    def appliance_shell(self) -> dict[str, str]:
        """The environment of a person at the appliance: `sluicegate` is a command there, with this lab's configuration."""
        commands = self.appliance_folder / "bin"
        commands.mkdir(exist_ok=True)
        program = commands / "sluicegate"
        program.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m appliance "$@"\n')
        program.chmod(0o755)
        path = f"{commands}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
        return {"PATH": path, "SLUICEGATE_CONFIGURATION": str(self.configuration)}

    def stop_appliance(self) -> None:
        """End the appliance in good order. The kernel's rules stay, so executors are refused from then on."""
        if self._appliance is not None:
            processes.end([self._appliance.pid], signal.SIGTERM, 15.0)
            self._appliance.wait()
            self._appliance = None

    def _forget_rules(self) -> None:
        """The rules would go with their namespace, but not what the kernel's part remembers of it."""
        if machines.exists(self.name, Place.APPLIANCE):
            netns.pushns(machines.namespace(self.name, Place.APPLIANCE))
            try:
                with contextlib.suppress(UnfitKernelError):
                    release()
            finally:
                netns.popns()

    def _make_folders(self) -> None:
        # Others may pass through to what is theirs, and see nothing on the way.
        ROOT.mkdir(mode=0o711, exist_ok=True)
        self.folder.mkdir(mode=0o711)
        for folder, owner, mode in (
            (self._secret.parent, CONTROL_UID, 0o700),
            (self.appliance_folder, 0, 0o711),
            (self.folder / "homes", 0, 0o711),
            (self.folder / "homes/planner", PLANNER_UID, 0o700),
            (self.folder / "homes/executor", EXECUTOR_UID, 0o700),
        ):
            folder.mkdir()
            folder.chmod(mode)
            os.chown(folder, owner, owner)
        self._secret.touch(mode=0o600)
        os.chown(self._secret, CONTROL_UID, CONTROL_UID)


def _is_ready(reading: int, seconds: float) -> bool:
    """Whether a line comes before the other end closes or the time is over."""
    deadline = time.monotonic() + seconds
    said = b""
    while not said.endswith(b"\n"):
        readable, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            return False
        part = os.read(reading, 64)
        if not part:
            return False
        said += part
    return said == b"ready\n"
