"""How long control takes for what people's pages ask, with a million recorded events, and what that costs everybody else.

The records go through the real writer, the journal, and the real keeper into a scratch state folder; then a real control
process serves them, and the verbs are asked over its socket. There is one lane, control: nothing else answers these.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import msgspec
import yaml

from appliance.ipc.channel import Channel, connect
from appliance.ipc.messages import Message, Request
from appliance.recording.journal import Journal
from appliance.recording.keeper import Keeper
from appliance.recording.keys import make_or_load
from appliance.recording.places import Places, lay_out
from appliance.recording.records import Answered, Commanded, FlowClosed, FlowOpened, Record
from bench.figures import Metric, Samples, as_json, as_table

LANE: Final = "control"
LIMIT_MICROSECONDS: Final = 200_000
"""What the 95th percentile of every page must stay under."""

_ROOT: Final = Path(__file__).resolve().parents[1]
_AGENTS: Final = 20
_RESOURCES: Final = 8
_RULES: Final = 200
_LONG_FLOW: Final = "long"
_LONG_FLOW_COMMANDS: Final = 20_000
_WRITTEN_AT_ONCE: Final = 20_000
_WRITER_PAUSE: Final = 0.01
_READY_SECONDS: Final = 60.0
_INDEX_SECONDS: Final = 900.0


def main(arguments: Sequence[str]) -> int:
    """Measure and print; the exit code is 1 where a page is too slow."""
    parser = argparse.ArgumentParser(
        prog="./run bench pages", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000, help="records to begin with (1,000,000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--asked", type=int, default=200, help="how often each page is asked in a round (200)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures as a JSON list")
    given = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="sluicegate-pages-"))
    try:
        configuration = _configure(folder)
        _say(f"recording {given.events:,} events", _record(folder / "state", given.events))
        samples = Samples("pages", (LANE,))
        with _serving(folder, configuration) as run:
            asyncio.run(_measure(run, folder / "state", given.rounds, given.asked, samples))
    finally:
        shutil.rmtree(folder)
    figures = samples.figures()
    print(as_table(figures), end="")
    if given.json:
        Path(given.json).write_text(as_json(figures))
    slow = [one for one in figures if one.metric is Metric.LATENCY_P95 and one.median > LIMIT_MICROSECONDS]
    for one in slow:
        print(f"too slow: {one.mode} with {one.clients} clients, {one.median / 1000:.0f} ms", file=sys.stderr)
    return 1 if slow else 0


# What is recorded.


def _configure(folder: Path) -> Path:
    (folder / "policies").mkdir()
    rules = [
        {"id": f"rule-{number}", "reason": "as measured", "allow": [{"actions": ["read"], "objects": [f"public.t{number}"]}]}
        for number in range(_RULES)
    ]
    (folder / "policies" / "rules.yaml").write_text(yaml.safe_dump({"rules": rules}, sort_keys=False))
    file = folder / "sluicegate.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "agents": {
                    f"agent-{number}": {"owner": "bench", "phases": {"execute": {"sources": [f"10.1.0.{number + 1}"]}}}
                    for number in range(_AGENTS)
                },
                "resources": {
                    f"db-{number}": {"protocol": "redis", "addresses": [f"10.9.0.{number + 1}:6379"]}
                    for number in range(_RESOURCES)
                },
                "credentials": {},
                "networks": {"executors": {"interfaces": ["lo"]}},
                "policies": [str(folder / "policies")],
                "appliance": {"state": str(folder / "state"), "run": str(folder / "run")},
            }
        )
    )
    return file


def _record(state: Path, events: int) -> float:
    """Seconds that it took."""
    begun = time.monotonic()
    places = lay_out(state)
    keys = make_or_load(places)
    keeper = Keeper(places, keys)
    journal = Journal(places.journals, 0, keys.seal_key, time.time_ns())
    chance = random.Random(4)
    written = 0
    records = _records(chance, time.time_ns() - events * 1_000_000)
    while written < events:
        for _ in range(_WRITTEN_AT_ONCE):
            journal.append(next(records))
        written += _WRITTEN_AT_ONCE
        while keeper.drain():
            pass
    journal.close()
    keeper.close()
    return time.monotonic() - begun


def _records(chance: random.Random, start: int) -> Iterator[Record]:
    """Without end: one flow of many commands, then flows of some ten."""
    moment = start
    yield from _flow(chance, _LONG_FLOW, moment, _LONG_FLOW_COMMANDS)
    number = 0
    while True:
        moment += 10_000_000
        number += 1
        yield from _flow(chance, f"f{number:08x}", moment, chance.randint(2, 20))


def _flow(chance: random.Random, flow: str, start: int, commands: int) -> Iterator[Record]:
    agent, resource = f"agent-{chance.randrange(_AGENTS)}", f"db-{chance.randrange(_RESOURCES)}"
    yield FlowOpened(flow, start, "10.1.0.6:4000", "10.9.0.1:5432", f"{agent}/execute", agent, "execute", resource=resource)
    yield Commanded(flow, start + 1, 0, "Opening", "as app", "forward", effects=("connect database shop",))
    for number in range(1, commands + 1):
        moment = start + number * 1_000_000
        outcome = "refuse" if chance.random() < 0.01 else "hold" if chance.random() < 0.002 else "forward"
        masks = ("public.orders.card redact",) if chance.random() < 0.05 else ()
        text = f"select id, card, note from orders where customer = {chance.randrange(100_000)} order by id limit 20"
        effects = ("read table public.orders (card, id, note) as output",)
        rule = f"rule-{chance.randrange(_RULES)} (policies/rules.yaml:3)"
        yield Commanded(
            flow, moment, number, "Query", text, outcome, effects, rule=rule, masks=masks, policy="p", principal=agent
        )
        rows = tuple((str(row), "•••", "as it was ordered") for row in range(3))
        yield Answered(
            flow, moment + 400_000, number, "SELECT 20", False, ("id", "card", "note"), ("card",), 20, 900, rows, "0" * 32
        )
    yield FlowClosed(flow, start + (commands + 1) * 1_000_000, "the client left", 1000, 20_000)


# Who serves it.


class _Serving:
    """A control process on that configuration, for as long as the block lasts."""

    def __init__(self, folder: Path, configuration: Path) -> None:
        self._folder = folder
        self._configuration = configuration
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> str:
        reading, writing = os.pipe()
        with (self._folder / "log").open("wb") as said:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "appliance",
                    "control",
                    "--configuration",
                    str(self._configuration),
                    "--ready-fd",
                    str(writing),
                ],
                cwd=_ROOT,
                stderr=said,
                stdout=said,
                pass_fds=(writing,),
            )
        os.close(writing)
        with os.fdopen(reading, "rb") as ready:
            if not ready.read(1):
                raise RuntimeError(f"control did not start: {(self._folder / 'log').read_text()}")
        return str(self._folder / "run")

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(_READY_SECONDS)


def _serving(folder: Path, configuration: Path) -> _Serving:
    return _Serving(folder, configuration)


@dataclass(frozen=True, slots=True)
class _Page:
    """One verb with arguments that make the asked page."""

    mode: str
    verb: str
    arguments: Callable[[random.Random], dict[str, Any]]


# Measuring.


async def _measure(run: str, state: Path, rounds: int, asked: int, samples: Samples) -> None:
    channel = await connect(f"{run}/control-people.sock", _unexpected, lambda: None)
    _say("reading them into the index of flows, which was not there", await _until_indexed(channel))
    pages = await _pages(channel)
    for round_ in range(rounds):
        for clients in (1, 8):
            for page in pages:
                await _sample(channel, round_, page, clients, asked, samples)
        # What an approver waits for while others look through the recording, and commands are recorded.
        await _sample_beside(run, state, round_, pages, asked, samples)
    channel.close()


async def _until_indexed(channel: Channel) -> float:
    begun = time.monotonic()
    while time.monotonic() - begun < _INDEX_SECONDS:
        checks = (await _ask(channel, "health.show", {}))["checks"]
        if next(check for check in checks if check["name"] == "index")["state"] == "good":
            return time.monotonic() - begun
        await asyncio.sleep(0.1)
    raise RuntimeError("the index of flows was not made in time")


async def _pages(channel: Channel) -> list[_Page]:
    """What is asked; deep pages begin at cursors from all over the recording."""
    cursors: list[str] = []
    flows: list[str] = []
    before = None
    while (page := await _ask(channel, "flows.list", {"before": before, "limit": 200}))["next"] is not None:
        before = page["next"]
        cursors.append(before)
        flows += [flow["flow"] for flow in page["flows"]]
    last = (await _ask(channel, "flows.show", {"flow": _LONG_FLOW, "limit": 500}))["next"]

    def deep(chance: random.Random) -> dict[str, Any]:
        return {"before": chance.choice(cursors), "limit": 50}

    def narrowed(chance: random.Random) -> dict[str, Any]:
        outcome = chance.choice(["denied", "held", "masked"])
        agent, resource = f"agent-{chance.randrange(_AGENTS)}", f"db-{chance.randrange(_RESOURCES)}"
        return {"limit": 50, "agent": agent, "resource": resource, "outcome": outcome}

    return [
        _Page("flows.list, first page", "flows.list", lambda _: {"limit": 50}),
        _Page("flows.list, deep page", "flows.list", deep),
        _Page(
            "flows.list, of an agent",
            "flows.list",
            lambda chance: {"limit": 50, "agent": f"agent-{chance.randrange(_AGENTS)}"},
        ),
        _Page("flows.list, narrowed", "flows.list", narrowed),
        _Page("flows.list, narrowed, deep", "flows.list", lambda chance: narrowed(chance) | deep(chance)),
        _Page(
            "flows.show, short flow",
            "flows.show",
            lambda chance: {"flow": chance.choice(flows), "limit": 200},
        ),
        _Page("flows.show, long flow", "flows.show", lambda _: {"flow": _LONG_FLOW, "limit": 200}),
        _Page(
            "flows.show, long flow, deep",
            "flows.show",
            lambda chance: {"flow": _LONG_FLOW, "after": last * chance.randint(1, 60), "limit": 200},
        ),
        _Page("policy.show", "policy.show", lambda _: {}),
        _Page("health.show", "health.show", lambda _: {}),
        _Page("approvals.list", "approvals.list", lambda _: {}),
    ]


async def _sample(channel: Channel, round_: int, page: _Page, clients: int, asked: int, samples: Samples) -> None:
    chance = random.Random(round_)
    taken: list[float] = []

    async def client(times: int) -> None:
        taken.extend([await _timed(lambda: _ask(channel, page.verb, page.arguments(chance))) for _ in range(times)])

    await asyncio.gather(*(client(asked // clients) for _ in range(clients)))
    _keep(samples, round_, page.mode, clients, taken)


async def _sample_beside(run: str, state: Path, round_: int, pages: list[_Page], asked: int, samples: Samples) -> None:
    chance = random.Random(round_)
    reading = await connect(f"{run}/control-people.sock", _unexpected, lambda: None)
    pinging = await connect(f"{run}/control-people.sock", _unexpected, lambda: None)
    is_over = asyncio.Event()

    async def reader() -> None:
        while not is_over.is_set():
            page = chance.choice(pages[:8])
            await _ask(reading, page.verb, page.arguments(chance))

    async def writer() -> None:
        places = Places(state)
        journal = Journal(places.journals, 9, make_or_load(places).seal_key, time.time_ns())
        records = _records(chance, time.time_ns())
        while not is_over.is_set():
            for _ in range(20):
                journal.append(next(records))
            await asyncio.sleep(_WRITER_PAUSE)
        journal.close()

    others = [asyncio.create_task(work) for work in (*(reader() for _ in range(8)), writer())]
    taken = []
    for _ in range(asked):
        taken.append(await _timed(lambda: _ask(pinging, "approvals.list", {})))
        await asyncio.sleep(_WRITER_PAUSE)
    is_over.set()
    await asyncio.gather(*others)
    for channel in (reading, pinging):
        channel.close()
    _keep(samples, round_, "approvals.list beside 8 readers and a writer", 1, taken)


def _keep(samples: Samples, round_: int, mode: str, clients: int, taken: list[float]) -> None:
    cuts = quantiles(taken, n=100)
    for metric, value in ((Metric.LATENCY, cuts[49]), (Metric.LATENCY_P95, cuts[94]), (Metric.LATENCY_P99, cuts[98])):
        samples.add(round_, LANE, mode, clients, metric, value * 1e6)


async def _timed(work: Callable[[], Awaitable[Any]]) -> float:
    begun = time.perf_counter()
    await work()
    return time.perf_counter() - begun


async def _ask(channel: Channel, verb: str, arguments: dict[str, Any]) -> Any:
    answer = msgspec.json.decode(await channel.call(lambda call: Request(call, verb, msgspec.json.encode(arguments))))
    if not answer["ok"]:
        raise RuntimeError(f"{verb} {arguments}: {answer['reason']}")
    return answer["result"]


def _unexpected(message: Message) -> None:
    raise RuntimeError(f"control said {type(message).__name__}, which is no answer")


def _say(what: str, seconds: float) -> None:
    print(f"bench: {what} took {seconds:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
