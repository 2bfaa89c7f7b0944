"""What tests of the recording start from: a state folder, a journal in it, and a keeper."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from appliance.recording.journal import Journal
from appliance.recording.keeper import Keeper
from appliance.recording.keys import Keys, make_or_load
from appliance.recording.places import Places, lay_out
from appliance.recording.records import Answered, Commanded, FlowClosed, FlowOpened, Noted, Record

START = 1_700_000_000_000_000_000


@dataclass
class Recorded:
    """A recording in the making."""

    places: Places
    keys: Keys
    notes: list[Noted] = field(default_factory=list)

    @classmethod
    def begin(cls, state: Path) -> Recorded:
        places = lay_out(state)
        return cls(places, make_or_load(places))

    def journal(self, worker: int = 0, started: int = START, part_bytes: int = 1 << 20) -> Journal:
        return Journal(self.places.journals, worker, self.keys.seal_key, started, part_bytes)

    def keeper(self, segment_bytes: int = 1 << 30, stretch_bytes: int = 1 << 20) -> Keeper:
        return Keeper(
            self.places, self.keys, alarm=self.notes.append, segment_bytes=segment_bytes, stretch_bytes=stretch_bytes
        )


def opened(flow: str, time: int = START) -> FlowOpened:
    return FlowOpened(
        flow,
        time,
        "10.0.0.2:4000",
        "10.0.1.5:5432",
        principal="shop/execute",
        agent="shop",
        phase="execute",
        resource="shop-db",
    )


def command(
    flow: str, number: int, outcome: str = "forward", shown: str = "select 1", sealed: bytes | None = None
) -> Commanded:
    return Commanded(flow, START + number, number, "Query", shown, outcome, rule="r1 (shop.yaml:3)", sealed=sealed)


def conversation(flow: str, commands: int) -> list[Record]:
    records: list[Record] = [opened(flow)]
    for number in range(1, commands + 1):
        records.append(command(flow, number, shown=f"select {number}"))
        records.append(Answered(flow, START + number + 500, number, "SELECT 1", columns=("a",), rows=1, sample=(("1",),)))
    records.append(FlowClosed(flow, START + 10_000, "the client left"))
    return records


def drain_all(keeper: Keeper) -> int:
    total = 0
    while taken := keeper.drain():
        total += taken
    return total
