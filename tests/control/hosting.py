"""What tests of the control process start from: its own process on real sockets; this test is its worker or its person."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from appliance.errors import UnavailableError
from appliance.ipc.channel import Channel, connect
from appliance.ipc.messages import AccountWanted, Ask, CatalogueWanted, Hello, Message, Request, Shown, Welcome
from appliance.parties import Phase, Principal, Scope
from appliance.sql.catalogue import Catalogue

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20.0
USER_OF_NO_CONFIGURATION = 64999

# The configuration forbids workers to be root; these tests are their own workers, whoever runs them.
HOST = """
import dataclasses
import os
import sys
from appliance.configuration import read_configuration
from appliance.control.process import run_control
protocols = frozenset({"postgres", "redis"})
settings = dataclasses.replace(read_configuration(sys.argv[1], protocols), worker_uid=os.getuid())
sys.exit(run_control(settings, sys.argv[1], protocols, lambda: print("ready", flush=True)))
"""

PRINCIPAL = Principal("migrator", Phase.EXECUTE, frozenset({"crew"}), "source address")
PLANNER = Principal("migrator", Phase.PLAN, frozenset({"crew"}), "source address")


@dataclass
class Hosted:
    """A folder with a configuration, and the control process that runs on it."""

    folder: Path
    process: subprocess.Popen[str] | None = None
    log: list[str] = field(default_factory=list)

    @property
    def configuration(self) -> Path:
        return self.folder / "sluicegate.yaml"

    @property
    def policy(self) -> Path:
        return self.folder / "policies" / "rules.yaml"

    @property
    def workers(self) -> str:
        return str(self.folder / "run" / "control-workers.sock")

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", HOST, str(self.configuration)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.said()

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(how)
        code = self.process.wait(SECONDS)
        self.process.stdout.close()
        self.process = None
        return code

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self._command(words), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    async def command(self, *words: str, user: int | None = None) -> tuple[int, str, str]:
        """The command line, run while this test goes on as a worker: exit code, output, errors."""
        process = await asyncio.create_subprocess_exec(
            *self._command(words), cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, user=user
        )
        output, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    def _command(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "appliance", "--configuration", str(self.configuration), *words]


@dataclass
class Worker:
    """A worker's end of its channel, with everything it was told."""

    channel: Channel
    heard: asyncio.Queue[Message]
    lost: asyncio.Event
    welcome: Welcome | None = None

    async def hear(self, kind: type[Message]) -> Any:
        """The next message of that kind; others that came before it are passed over."""
        async with asyncio.timeout(SECONDS):
            while True:
                message = await self.heard.get()
                if isinstance(message, kind):
                    return message

    async def call(self, build: Callable[[int], Message]) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await self.channel.call(build)

    async def catalogue(self, database: str, newer_than: str | None = None) -> Catalogue:
        body = await self.call(lambda call: CatalogueWanted(call, "shop", database, newer_than))
        return msgspec.msgpack.decode(body, type=Catalogue)

    async def settled_before_this(self) -> None:
        """Everything told so far has been taken, because messages of a channel are taken in order."""
        with contextlib.suppress(UnavailableError):
            await self.call(lambda call: AccountWanted(call, "absent"))


@contextlib.asynccontextmanager
async def worker(hosted: Hosted, index: int = 0) -> AsyncIterator[Worker]:
    heard: asyncio.Queue[Message] = asyncio.Queue()
    lost = asyncio.Event()
    channel = await connect(hosted.workers, heard.put_nowait, lost.set)
    made = Worker(channel, heard, lost)
    try:
        body = await made.call(lambda call: Hello(call, index, os.getpid()))
        made.welcome = msgspec.msgpack.decode(body, type=Welcome)
        yield made
    finally:
        channel.close()


def run(body: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(body, 90))


def shown(number: int = 1, flow: str = "flow-1", may_amend: bool = True) -> Shown:
    return Shown(
        flow=flow,
        number=number,
        principal=PRINCIPAL,
        scope=Scope("shop", "postgres", "shop"),
        sort="Query",
        shown="delete from orders where note = '…'",
        exact="delete from orders where note = 'exact words'",
        parameters=(),
        effects=("delete table public.orders",),
        rule="deletes (rules.yaml:3)",
        reason="deletes are asked for",
        in_transaction=True,
        may_amend=may_amend,
        before=(),
        bound=f"bound-{flow}-{number}",
        time=1,
    )


async def hold(one: Worker, request: Shown, approvers: frozenset[str] = frozenset({"dba"}), seconds: float = 60.0) -> str:
    return (await one.call(lambda call: Ask(call, request, approvers, seconds))).decode()


DASHBOARD_UID = 61003


@dataclass
class Asking:
    """A connection to the people's socket, made as one user of this machine."""

    channel: Channel

    async def answer(self, verb: str, session: str = "", **arguments: object) -> dict[str, Any]:
        """The whole answer, refusals too."""
        encoded = msgspec.json.encode(arguments)
        async with asyncio.timeout(SECONDS):
            body = await self.channel.call(lambda call: Request(call, verb, encoded, session))
        found: dict[str, Any] = msgspec.json.decode(body)
        return found

    async def ask(self, verb: str, session: str = "", **arguments: object) -> Any:
        """The result of what must be allowed."""
        found = await self.answer(verb, session, **arguments)
        assert found["ok"], (verb, found)
        return found["result"]

    async def refused(self, verb: str, session: str = "", **arguments: object) -> dict[str, Any]:
        """Reason and kind of what must not be allowed."""
        found = await self.answer(verb, session, **arguments)
        assert not found["ok"], (verb, found)
        return found


@contextlib.asynccontextmanager
async def asking(hosted: Hosted, user: int = 0) -> AsyncIterator[Asking]:
    """As that user: the kernel notes the effective one at connect (unix(7)). Nothing else runs in this process meanwhile."""
    before = os.geteuid()
    if user != before:
        os.seteuid(user)
    try:
        channel = await connect(str(hosted.folder / "run" / "control-people.sock"), lambda _: None, lambda: None)
    finally:
        os.seteuid(before)
    try:
        yield Asking(channel)
    finally:
        channel.close()


async def signed_in(root: Asking, dashboard: Asking, name: str) -> str:
    """The token of a session of that account, by a one-time link."""
    ticket = (await root.ask("session.ticket", name=name))["ticket"]
    token: str = (await dashboard.ask("session.redeem", ticket=ticket, address="10.0.0.1"))["token"]
    return token
