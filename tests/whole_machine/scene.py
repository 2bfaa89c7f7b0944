"""A shop governed by a few rules, its clients in the executor's machine, and the people at its desk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from pyroute2 import netns

from appliance.control.blast import APPLICATION_NAME
from lab import machines
from lab.database import OWNER, PORT, SHOP
from lab.laboratory import REPOSITORY, Lab
from lab.machines import TARGET, Place
from ui.conversation import NoAnswer, ask_control

POLICY = """
rules:
  - id: session
    reason: everybody needs a session
    where: {protocols: [postgres]}
    allow:
      - actions: [connect]
        kinds: [database, session, setting]
  - id: work
    reason: an executor carries out its plan
    where: {protocols: [postgres]}
    allow:
      - actions: [read, insert, update]
        kinds: [table, setting]
  - id: payroll
    reason: payroll is nobody's business
    where: {protocols: [postgres]}
    deny:
      - actions: [read, insert, update, delete]
        kinds: [table]
        objects: [public.payroll]
  - id: deletions
    reason: what is deleted cannot be had back
    where: {protocols: [postgres]}
    hold:
      - actions: [delete]
        kinds: [table]
        except: [public.audit_log]
    approvers: [dba]
    seconds: 60
  - id: audit
    reason: the audit log is security's
    where: {protocols: [postgres]}
    hold:
      - actions: [delete]
        kinds: [table]
        objects: [public.audit_log]
    approvers: [security]
    seconds: 60
  - id: brief
    reason: nobody waits long for this
    where: {protocols: [postgres]}
    hold:
      - actions: [truncate]
        kinds: [table]
    approvers: [dba]
    seconds: 1
"""
APPROVERS = {"root": {"groups": ["dba"]}, "61021": {"groups": ["security"]}, "61022": {"groups": ["dba"]}}
DEADLINE_SECONDS = 15.0


T = TypeVar("T")


def until(what: Callable[[], T], seconds: float = DEADLINE_SECONDS) -> T:
    """The first true answer of `what`. Fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, f"not so within {seconds:g} seconds"
        time.sleep(0.01)


class Client:
    """A psycopg connection from the executor's machine, which runs commands in a thread of its own."""

    def __init__(self, scene: Scene, **options: Any) -> None:
        self._scene = scene
        with scene.inside(Place.EXECUTOR):
            self.connection = psycopg.connect(
                host=TARGET.ipv4,
                port=PORT,
                user=OWNER,
                dbname=SHOP,
                **{"autocommit": True, "connect_timeout": 5, "prepare_threshold": None, **options},
            )
        self.notices: list[str] = []
        self.connection.add_notice_handler(lambda report: self.notices.append(report.message_primary or ""))
        self.backend: int = self.run("select pg_backend_pid()")[0][0]
        self._thread: threading.Thread | None = None
        self._outcome: list[Any] = []

    def run(self, command: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(command, parameters)
        return cursor.fetchall() if cursor.description else []

    def begin(self, command: str, parameters: Sequence[Any] | None = None) -> None:
        """Send a command; `outcome` is what comes of it."""
        self.begin_work(lambda: self.connection.execute(command, parameters).statusmessage)

    def begin_work(self, work: Callable[[], Any]) -> None:
        self._outcome = []

        def run() -> None:
            try:
                self._outcome.append(work())
            except psycopg.Error as error:
                self._outcome.append(error)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    @property
    def is_waiting(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def outcome(self, seconds: float = DEADLINE_SECONDS) -> Any:
        """The status of the command, or the psycopg.Error it ended with."""
        assert self._thread is not None
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"no answer within {seconds:g} seconds"
        return self._outcome[0]

    def settle(self) -> None:
        """Wait until no command is under way: libpq is not to lose its connection under a thread that reads from it."""
        if self._thread is not None:
            self._thread.join(DEADLINE_SECONDS)

    def cancel(self) -> None:
        with self._scene.inside(Place.EXECUTOR):
            self.connection.cancel_safe(timeout=5)

    def break_off(self) -> None:
        """Leave without a word, as a killed client does."""
        with socket.socket(fileno=os.dup(self.connection.fileno())) as raw:
            raw.shutdown(socket.SHUT_RDWR)

    def at_target(self, columns: str) -> list[tuple[Any, ...]]:
        """What the target's pg_stat_activity says of this client's session."""
        return self._scene.lab.admin(f"select {columns} from pg_stat_activity where pid = {self.backend}")


class Scene:
    """A lab whose appliance runs under POLICY."""

    def __init__(self, lab: Lab, policies: Path) -> None:
        self.lab = lab
        self.policies = policies
        self.run_folder = str(lab.appliance_folder / "run")
        self._clients: list[Client] = []

    @contextmanager
    def inside(self, place: Place) -> Iterator[None]:
        """In that machine's network; sockets made there stay there."""
        netns.pushns(machines.namespace(self.lab.name, place))
        try:
            yield
        finally:
            netns.popns()

    def socket(self, place: Place, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket of that machine."""
        with self.inside(place):
            return socket.socket(family, kind)

    def seconds_to_refusal(self, address: str = TARGET.ipv4) -> float:
        """How long an executor's bare connection takes to be refused. Fails where it is not."""
        with self.socket(Place.EXECUTOR, socket.AF_INET6 if ":" in address else socket.AF_INET) as one:
            one.settimeout(5)
            began = time.monotonic()
            try:
                one.connect((address, PORT))
            except ConnectionRefusedError:
                return time.monotonic() - began
        raise AssertionError("an executor was connected")

    def client(self, **options: Any) -> Client:
        one = Client(self, **options)
        self._clients.append(one)
        return one

    def leave(self) -> None:
        """End every client's connection."""
        for one in self._clients:
            with suppress(psycopg.Error, OSError):
                one.break_off()
            one.settle()
            one.connection.close()
        self._clients.clear()

    def ask(self, verb: str, **arguments: Any) -> Any:
        return ask_control(self.run_folder, verb, **arguments)

    def held(self, words: str, seconds: float = DEADLINE_SECONDS) -> dict[str, Any]:
        """The open approval of the command with these words, once it is on the desk."""
        deadline = time.monotonic() + seconds
        after = -1
        while time.monotonic() < deadline:
            found = self.ask("approvals.wait", after=after, seconds=max(0.0, deadline - time.monotonic()))
            after = found["serial"]
            for case in found["approvals"]:
                if words in case["shown"] and case["state"] == "open":
                    return dict(case)
        raise AssertionError(f"{words!r} did not come to the desk within {seconds:g} seconds")

    def show(self, approval: str) -> dict[str, Any]:
        return dict(self.ask("approvals.show", approval=approval))

    def answer(self, verb: str, case: dict[str, Any], **arguments: Any) -> Any:
        """approve, reject or edit what was shown, as root."""
        return self.ask(f"approvals.{verb}", approval=case["id"], seen=case["bound"], **arguments)

    def answer_as(self, uid: int, *words: str) -> subprocess.CompletedProcess[str]:
        """`sluicegate approvals …` as another user of the appliance's machine."""
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
        return self.lab.run_in(
            Place.APPLIANCE,
            [*user, sys.executable, "-m", "appliance", "approvals", *words],
            environment={"PYTHONPATH": str(REPOSITORY), "SLUICEGATE_CONFIGURATION": str(self.lab.configuration)},
        )

    def records(self, flow: str | None = None) -> list[dict[str, Any]]:
        """What `sluicegate export --all` prints, of one flow or of all."""
        self.ask("drain")
        done = self.lab.run_sluicegate("export", "--all")
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        return [one for one in found if flow is None or one.get("flow") == flow]

    def logged(self, words: str) -> list[str]:
        """The target's own log lines of statements with these words, save for our own questions about a held one."""
        return [
            entry["message"]
            for entry in self.lab.logged()
            if words in entry["message"]
            and entry["message"].startswith(("statement: ", "execute "))
            and entry.get("application_name") != APPLICATION_NAME
        ]

    def workers(self) -> dict[int, int]:
        """Each worker's index and process, as control knows them; empty while control is away."""
        try:
            return {one["index"]: one["process"] for one in self.ask("status")["workers"]}
        except NoAnswer:
            return {}

    def worker_of(self, flow: str) -> int:
        """The process that carries that flow."""
        (index,) = (one["worker"] for one in self.ask("flows.live") if one["flow"] == flow)
        return self.workers()[index]

    def serves(self) -> bool:
        """Whether control answers and both workers have said hello to it, none of them dead."""
        known = self.workers()
        return len(known) == 2 and set(known.values()) == set(self.children("worker"))

    def is_served(self) -> bool:
        """Whether a new client gets an answer."""
        try:
            return self.client().run("select 1") == [(1,)]
        except psycopg.OperationalError:
            return False

    def carried_by(self, client: Client) -> int:
        """The index of the worker that carries a client's flow."""
        with socket.socket(fileno=os.dup(client.connection.fileno())) as raw:
            port = raw.getsockname()[1]
        (index,) = (one["worker"] for one in self.ask("flows.live") if one["source"].endswith(f":{port}"))
        return int(index)

    def clients_on_both(self) -> dict[int, list[Client]]:
        """Clients by their worker's index, at least one on each."""
        found: dict[int, list[Client]] = {0: [], 1: []}

        def has_both() -> bool:
            one = self.client()
            found[self.carried_by(one)].append(one)
            return all(found.values())

        until(has_both)
        return found

    def children(self, word: str) -> list[int]:
        """The supervisor's children whose command line has that word: "worker" or "control"."""
        found = []
        supervisor = self.lab.appliance.pid
        for child in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):
                if word.encode() in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                    found.append(int(child))
        return found

    def log(self) -> str:
        return self.lab.appliance_log.read_text(errors="replace")

    def refill(self) -> None:
        """The tables as each test finds them."""
        self.lab.admin(
            sql.SQL(
                "truncate staging, audit_log; insert into staging select n, 'v' || n from generate_series(1, 20) n; "
                "insert into audit_log (message) select 'entry ' || n from generate_series(1, 5) n"
            ).format()
        )

    def staged(self) -> int:
        return int(self.lab.admin("select count(*) from staging")[0][0])


@contextmanager
def play(name: str, before: Callable[[Lab], None] = lambda _: None, **sections: Any) -> Iterator[Scene]:
    """A lab of that name up, its appliance with two workers, and POLICY in a folder that control can read. `before` is
    called when all is made and the appliance has not started."""
    with Lab(name) as lab:
        policies = lab.appliance_folder / "policies"
        policies.mkdir()
        policies.chmod(0o755)
        (policies / "shop.yaml").write_text(POLICY)
        lab.configure(policies, **{"approvers": APPROVERS, **sections})
        lab.configuration.chmod(0o644)
        before(lab)
        lab.start_appliance()
        scene = Scene(lab, policies)
        try:
            yield scene
        finally:
            scene.leave()
