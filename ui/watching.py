"""`sluicegate watch`: what happens, as it happens, on a screen, as lines, or as a stream of JSON.

Control tells when something has changed (changes.wait); what is shown is then asked anew, so nothing is missed or out of
date for longer than that takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ui.approvals import left, place
from ui.conversation import Conversation, NoAnswer
from ui.terminal import console, keep_whole, one_line, print_json, printable, say, short_time, table
from ui.wiring import Given

_WAIT_SECONDS: Final = 30.0
# How often time left moves on the screen, and how soon an appliance that went away is looked for again.
_BEAT_SECONDS: Final = 1.0
_SETTLED: Final = 8
_REFUSED: Final = 5
# Lines of a screen that are no rows of a table: titles, headers, blanks.
_LINES_AROUND: Final = 12
_LINES_MIN: Final = 10
_KEYS_BYTES: Final = 64


@dataclass(slots=True)
class _Seen:
    """What control said last. `gone` is why it does not answer."""

    approvals: list[dict[str, Any]] = field(default_factory=list)
    settled: list[dict[str, Any]] = field(default_factory=list)
    flows: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    gone: str = ""
    at: float = 0.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line for each thing that happens.")
@click.pass_obj
def watch(given: Given, as_json: bool) -> None:
    """Show what waits, what was decided, open flows and alarms, live.

    On a terminal it is a screen, and q ends it; elsewhere it is a line for each thing that happens. It waits for an
    appliance that goes away, and ends with 3 where there is none to begin with.

    \b
    Example:
      sluicegate watch
      sluicegate watch --json | jq 'select(.what == "approval")'
    """
    is_screen = not as_json and sys.stdout.isatty() and sys.stdin.isatty()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_Screen(given.run).run() if is_screen else _Lines(given.run, as_json).run())


async def _look(conversation: Conversation) -> _Seen:
    listed, flows, status, health, refused = await asyncio.gather(
        conversation.ask("approvals.list", settled=_SETTLED),
        conversation.ask("flows.live"),
        conversation.ask("status"),
        conversation.ask("health.show"),
        conversation.ask("flows.list", before=None, limit=_REFUSED, outcome="denied"),
    )
    alarms = [f"{one['name']}: {one['sentence']}" for one in health["checks"] if one["state"] == "bad"]
    return _Seen(listed["approvals"], listed["settled"], flows, refused["flows"], status, alarms, at=time.monotonic())


class _Screen:
    """The whole of it on a terminal, drawn anew with each change and each second."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._seen = _Seen()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        async with Conversation(self._run) as conversation:
            self._seen = await _look(conversation)
        with _keys(self._heed), Live(self._drawn(), console=console(), screen=True, auto_refresh=False) as live:
            follower = asyncio.ensure_future(self._follow())
            try:
                while not self._ended.is_set() and not follower.done():
                    live.update(self._drawn(), refresh=True)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_BEAT_SECONDS):
                            await self._ended.wait()
            finally:
                follower.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await follower

    def _heed(self, keys: bytes) -> None:
        # Ctrl-C comes as a signal; Ctrl-D is what people also try.
        if any(key in keys for key in (b"q", b"Q", b"\x04")):
            self._ended.set()

    async def _follow(self) -> None:
        while True:
            try:
                async with Conversation(self._run) as conversation:
                    serials = None
                    while True:
                        serials = (await conversation.ask("changes.wait", after=serials, seconds=_WAIT_SECONDS))["serials"]
                        self._seen = await _look(conversation)
            except NoAnswer as error:
                self._seen.gone = error.message
            await asyncio.sleep(_BEAT_SECONDS)

    def _drawn(self) -> Group:
        seen = self._seen
        room = max(_LINES_MIN, os.get_terminal_size().lines) - _LINES_AROUND - len(seen.alarms)
        parts: list[Text | Table] = [self._head()]
        parts += [Text(printable(f"ALARM {alarm}"), "bold red") for alarm in seen.alarms]
        waiting = max(3, room // 2)
        parts += [Text(), Text(f"Waiting for a person: {len(seen.approvals)}", "bold"), self._waiting(waiting)]
        room -= min(len(seen.approvals), waiting)
        lately = max(2, room // 3)
        parts += [Text(), Text("Decided lately", "bold"), self._decided(lately)]
        room -= min(lately, len(seen.settled) + len(seen.refused))
        parts += [Text(), Text(f"Open flows: {len(seen.flows)}", "bold"), self._open(max(2, room))]
        return Group(*parts)

    def _head(self) -> Text:
        seen = self._seen
        now = time.strftime("%H:%M:%S")
        if seen.gone:
            return Text.assemble((f"{now}  ", "dim"), (printable(f"NO ANSWER: {seen.gone}"), "bold red"))
        policy, recording = seen.status["policy"], seen.status["recording"]
        said = (
            f"{len(seen.status['workers'])} workers, {policy['rules']} rules ({policy['version'][:12]}),"
            f" {recording['records']} records"
        )
        return Text.assemble((f"{now}  ", "dim"), printable(said), ("   q ends", "dim"))

    def _waiting(self, rows: int) -> Table:
        passed = time.monotonic() - self._seen.at
        told = table("approval", "left", "who", "where", "command")
        keep_whole(told, [one["id"] for one in self._seen.approvals[:rows]])
        for one in self._seen.approvals[:rows]:
            seconds = max(0.0, one["remaining"] - passed)
            told.add_row(
                one["id"],
                Text(f"{seconds:.0f} s", "bold red" if seconds < 30 else "yellow"),
                printable(one["principal"]),
                printable(place(one)),
                one_line(one["shown"]),
            )
        return told

    def _decided(self, rows: int) -> Table:
        told = table("what", "who", "command or flow")
        for one in self._seen.settled[:rows]:
            told.add_row(
                Text(printable(f"{one['outcome']} {one['by']}"), "green" if one["outcome"] == "approved" else "yellow"),
                printable(one["principal"]),
                one_line(one["shown"]),
            )
        for flow in self._seen.refused[: max(0, rows - len(self._seen.settled))]:
            told.add_row(Text(f"refused {flow['denied']}", "red"), printable(_who(flow)), printable(flow["flow"]))
        return told

    def _open(self, rows: int) -> Table:
        told = table("flow", "since", "who", "where", "last command")
        # What is held first, then the newest.
        flows = sorted(self._seen.flows, key=lambda one: (not one.get("held"), -one["time"]))
        for flow in flows[:rows]:
            words = (flow["flow"], short_time(flow["time"]), _who(flow), flow["resource"] or "none")
            last = one_line(flow.get("last") or "", 60)
            told.add_row(*map(printable, words), Text(f"HELD {last}", "yellow") if flow.get("held") else last)
        return told


class _Lines:
    """A line for each thing that is new."""

    def __init__(self, run: str, as_json: bool) -> None:
        self._run = run
        self._as_json = as_json
        self._approvals: dict[str, dict[str, Any]] = {}
        self._flows: dict[str, dict[str, Any]] = {}
        self._alarms: set[str] = set()

    async def run(self) -> None:
        has_begun = False
        while True:
            try:
                async with Conversation(self._run) as conversation:
                    serials = None
                    while True:
                        serials = (await conversation.ask("changes.wait", after=serials, seconds=_WAIT_SECONDS))["serials"]
                        await self._tell_news(conversation, await _look(conversation))
                        has_begun = True
            except NoAnswer as error:
                if not has_begun:
                    raise
                self._tell_alarms({error.message})
            await asyncio.sleep(_BEAT_SECONDS)

    async def _tell_news(self, conversation: Conversation, seen: _Seen) -> None:
        self._tell_alarms(set(seen.alarms))
        now = {one["id"]: one for one in seen.approvals}
        for approval in self._approvals.keys() - now.keys():
            self._tell_approval(await conversation.ask("approvals.show", approval=approval))
        for approval, one in now.items():
            known = self._approvals.get(approval)
            if known is None or (known["state"], known["why"]) != (one["state"], one["why"]):
                self._tell_approval(one)
        self._approvals = now
        flows = {one["flow"]: one for one in seen.flows}
        for flow in flows.keys() - self._flows.keys():
            self._tell("flow opened", flows[flow], f"flow {flow} opened: {_who(flows[flow])} to {flows[flow]['resource']}")
        for flow in self._flows.keys() - flows.keys():
            self._tell("flow closed", self._flows[flow], f"flow {flow} closed: {_who(self._flows[flow])}")
        self._flows = flows

    def _tell_alarms(self, alarms: set[str]) -> None:
        for alarm in sorted(alarms - self._alarms):
            self._tell("alarm", {"text": alarm}, f"ALARM {alarm}")
        for alarm in sorted(self._alarms - alarms):
            self._tell("alarm over", {"text": alarm}, f"over: {alarm}")
        self._alarms = alarms

    def _tell_approval(self, one: dict[str, Any]) -> None:
        if one["state"] == "settled":
            by = f" by {one['by']}" if one["by"] else ""
            self._tell(
                "approval", one, f"{one['id']} {one['outcome']}{by}" + (f": {one['reason']}" if one["reason"] else "")
            )
            return
        why = f" ({one['why']})" if one["why"] else ""
        said = f"{one['id']} {one['state']}{why} {left(one)} {one['principal']} at {place(one)}: {one_line(one['shown'])}"
        self._tell("approval", one, said)

    def _tell(self, what: str, data: dict[str, Any], said: str) -> None:
        if self._as_json:
            print_json({"what": what, "at": time.time(), **data})
        else:
            say(f"{time.strftime('%H:%M:%S')} {one_line(said, 400)}")
        sys.stdout.flush()


def _who(flow: dict[str, Any]) -> str:
    return flow["principal"] or f"nobody known, from {flow['source']}"


@contextlib.contextmanager
def _keys(heed: Any) -> Iterator[None]:
    """Keys as they are pressed, not shown and not kept for the line's end; the terminal is as it was afterwards."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()
    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, lambda: heed(os.read(descriptor, _KEYS_BYTES)))
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
