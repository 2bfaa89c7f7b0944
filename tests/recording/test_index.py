"""The index of flows: kept with every drain, made again from the segments, and never in the way of the recording."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import RecordingError
from appliance.recording.index import OUTCOMES, FlowIndex, IndexedFlow, Wanted, read_cursor, read_flows, read_page
from appliance.recording.keeper import Keeper
from appliance.recording.reader import read_flow_page
from appliance.recording.records import Answered, Commanded, Decided, FlowClosed, FlowOpened, Record
from tests.recording.recorded import START, Recorded, command, drain_all


@dataclass
class Indexed:
    """A recording whose keeper tells an index of what it takes in."""

    recorded: Recorded
    index: FlowIndex

    def keeper(self, segment_bytes: int = 1 << 30) -> Keeper:
        return Keeper(
            self.recorded.places,
            self.recorded.keys,
            alarm=self.recorded.notes.append,
            taken=self.index.take,
            segment_bytes=segment_bytes,
            stretch_bytes=1 << 16,
        )

    def again(self) -> FlowIndex:
        """Another program's index on the same files, caught up."""
        self.index.close()
        self.index = FlowIndex(self.recorded.places)
        self.index.open()
        while self.index.catch_up():
            pass
        return self.index

    def page(self, before: str | None = None, limit: int = 200, **wanted: str) -> list[IndexedFlow]:
        return read_page(self.recorded.places, Wanted(**wanted), before, limit)


@pytest.fixture
def indexed(tmp_path: Path) -> Iterator[Indexed]:
    recorded = Recorded.begin(tmp_path)
    made = Indexed(recorded, FlowIndex(recorded.places))
    made.index.open()
    yield made
    made.index.close()


def flow(
    number: int, outcome: str = "forward", agent: str = "shop", resource: str = "db", commands: int = 2
) -> list[Record]:
    name, start = f"flow-{number:04d}", START + number * 1_000_000
    records: list[Record] = [
        FlowOpened(name, start, "10.0.0.2:1", "10.0.1.5:2", f"{agent}/plan", agent, "plan", resource=resource),
        Commanded(name, start + 1, 0, "Opening", "as shop", "forward", effects=("connect database shop",)),
    ]
    for each in range(1, commands + 1):
        record = replace_outcome(command(name, each, shown=f"select {each}"), outcome)
        records.append(record)
        records.append(Answered(name, record.time + 5_000_000, each, "SELECT 1", False, ("a",), ("a",), 1, 9, (("•••",),)))
    return [*records, FlowClosed(name, start + 900_000, "the client left", 10, 20)]


def replace_outcome(record: Commanded, outcome: str) -> Commanded:
    words = {"denied": "refuse", "held": "hold", "masked": "forward", "forward": "forward"}
    masks = ("orders.card redact",) if outcome == "masked" else ()
    return Commanded(
        record.flow, record.time, record.number, record.sort, record.shown, words[outcome], masks=masks, rule=record.rule
    )


def fill(indexed: Indexed, flows: int, segment_bytes: int = 1 << 30) -> None:
    outcomes = ("forward", *OUTCOMES)
    journal = indexed.recorded.journal()
    keeper = indexed.keeper(segment_bytes)
    for number in range(flows):
        for record in flow(number, outcomes[number % 4], f"agent-{number % 3}", f"db-{number % 5}"):
            journal.append(record)
        keeper.drain()
    drain_all(keeper)
    keeper.close()
    journal.close()
    assert [note.sort for note in indexed.recorded.notes] == ["begun"]


def test_a_flow_is_indexed_with_what_its_records_say(indexed: Indexed) -> None:
    fill(indexed, 4)
    assert not indexed.index.fault
    held = indexed.page()[1]
    assert (held.flow, held.agent, held.resource, held.database) == ("flow-0002", "agent-2", "db-2", "shop")
    assert (held.commands, held.denied, held.held, held.masked, held.last) == (2, 0, 2, 0, "select 2")
    assert (held.started, held.closed) == (START + 2_000_000, START + 2_900_000)


def test_a_hold_that_nobody_granted_counts_as_denied(indexed: Indexed) -> None:
    journal, keeper = indexed.recorded.journal(), indexed.keeper()
    for number, outcome in enumerate(("approved", "rejected", "expired", "modified", "withdrawn"), 1):
        journal.append(command("f", number, "hold"))
        journal.append(Decided("f", START + number, number, "a-1", outcome))
    keeper.drain()
    (found,) = indexed.page()
    assert (found.held, found.denied) == (5, 2)


@pytest.mark.parametrize("how", ["absent", "damaged", "another version", "of another recording", "behind"])
def test_an_index_that_cannot_be_trusted_is_made_again_and_says_the_same(indexed: Indexed, how: str) -> None:
    fill(indexed, 12, segment_bytes=4000)
    assert len(list(indexed.recorded.places.segments())) > 2
    whole = indexed.page()
    file = indexed.recorded.places.index
    indexed.index.close()
    match how:
        case "absent":
            file.unlink()
        case "damaged":
            file.write_bytes(b"\0" * 5000 + file.read_bytes()[5000:])
        case "another version":
            with sqlite3.connect(file) as connection:
                connection.execute("pragma user_version = 99")
        case "of another recording":
            with sqlite3.connect(file) as connection:
                connection.execute("update state set hash = x'00'")
        case _:
            with sqlite3.connect(file) as connection:
                connection.execute("delete from flows")
                connection.execute("update state set segment = 0, last = 0, hash = x''")
    indexed.again()
    assert not indexed.index.fault
    assert indexed.page() == whole


def test_what_was_taken_in_while_the_index_was_away_is_read_again_and_counted_once(indexed: Indexed) -> None:
    fill(indexed, 3)
    journal, keeper = indexed.recorded.journal(started=START + 1), indexed.recorded.keeper()
    for record in flow(3):
        journal.append(record)
    keeper.drain()
    keeper.close()
    keeper = indexed.keeper()
    for record in flow(4):
        journal.append(record)
    # The index is told of the second alone, and sees that something came before it.
    keeper.drain()
    assert indexed.index.is_behind
    assert len(indexed.page()) == 3
    while indexed.index.catch_up():
        pass
    assert not indexed.index.is_behind
    assert [found.flow for found in indexed.page()] == [f"flow-{number:04d}" for number in (4, 3, 2, 1, 0)]
    for record in flow(5):
        journal.append(record)
    keeper.drain()
    newest = indexed.page()[0]
    assert (newest.flow, newest.commands) == ("flow-0005", 2)
    whole = indexed.page()
    indexed.index.close()
    indexed.recorded.places.index.unlink()
    indexed.again()
    assert indexed.page() == whole


def test_a_fault_of_the_index_stops_no_recording(indexed: Indexed) -> None:
    fill(indexed, 1)
    with sqlite3.connect(indexed.recorded.places.index) as connection:
        connection.execute("drop table flows")
    journal, keeper = indexed.recorded.journal(started=START + 1), indexed.keeper()
    for record in flow(1):
        journal.append(record)
    assert keeper.drain() > 0
    assert keeper.dead is None
    assert "can't be kept" in indexed.index.fault
    indexed.recorded.places.index.unlink()
    while indexed.index.catch_up():
        pass
    assert len(indexed.page()) == 2


@pytest.mark.parametrize(
    "wanted", [{}, {"agent": "agent-1"}, {"resource": "db-3"}, {"agent": "agent-1", "resource": "db-3"}]
)
@pytest.mark.parametrize("outcome", [None, *OUTCOMES])
def test_pages_hold_every_flow_once_the_newest_first(indexed: Indexed, wanted: dict[str, str], outcome: str | None) -> None:
    fill(indexed, 70)
    if outcome is not None:
        wanted = wanted | {"outcome": outcome}
    expected = [one.flow for one in indexed.page() if Wanted(**wanted).includes(one)]
    assert expected
    found: list[str] = []
    before = None
    while page := indexed.page(before, 3, **wanted):
        found += [one.flow for one in page]
        before = page[-1].cursor
    assert found == expected
    assert found == sorted(found, reverse=True)


def test_flows_that_begin_at_one_moment_part_pages_all_the_same(indexed: Indexed) -> None:
    journal, keeper = indexed.recorded.journal(), indexed.keeper()
    for number in range(7):
        journal.append(FlowOpened(f"f{number}", START, "10.0.0.2:1", "10.0.1.5:2"))
    keeper.drain()
    first = indexed.page(limit=4)
    rest = indexed.page(first[-1].cursor, 4)
    assert [one.flow for one in first + rest] == [f"f{number}" for number in range(6, -1, -1)]


@pytest.mark.parametrize("agent", [None, "a"])
@pytest.mark.parametrize("resource", [None, "r"])
@pytest.mark.parametrize("outcome", [None, *OUTCOMES])
def test_a_page_is_found_by_its_index_and_never_by_sorting(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch, agent: str | None, resource: str | None, outcome: str | None
) -> None:
    seen: list[str] = []
    connect = sqlite3.connect

    def watched(*names: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*names, **options)
        connection.set_trace_callback(seen.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", watched)
    read_page(indexed.recorded.places, Wanted(agent, resource, outcome), "1.1", 5)
    monkeypatch.undo()
    (query,) = [said for said in seen if said.startswith("SELECT")]
    with connect(indexed.recorded.places.index) as connection:
        ((_, _, _, plan),) = connection.execute("explain query plan " + query).fetchall()
    words = [*(["agent=?"] if agent else []), *(["resource=?"] if resource else []), "(started,first)<(?,?)"]
    assert plan.startswith("SEARCH flows USING INDEX by_")
    assert plan.endswith(f"({' AND '.join(words)})")


@pytest.mark.parametrize("cursor", ["", "1", "1.", ".1", "x.y", "1.1.1", "-1.1", "٣.1", "1" * 30 + ".1", "1.1;drop"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError, match="no place"):
        read_cursor(cursor)


def test_without_an_index_a_page_says_so(indexed: Indexed) -> None:
    indexed.index.close()
    indexed.recorded.places.index.unlink()
    with pytest.raises(RecordingError, match="being made"):
        indexed.page()
    with pytest.raises(RecordingError):
        read_flows(indexed.recorded.places, ["x"])


def test_a_timeline_comes_in_pages_over_segments_with_what_came_just_before(indexed: Indexed) -> None:
    journal, keeper = indexed.recorded.journal(), indexed.keeper(segment_bytes=2000)
    records = flow(1, commands=40)
    for position, record in enumerate(records):
        journal.append(record)
        if position % 7 == 0:
            keeper.drain()
    drain_all(keeper)
    places = indexed.recorded.places
    assert len(list(places.segments())) > 2
    found, after = [], 0
    while True:
        earlier, page = read_flow_page(places, "flow-0001", after, 10)
        assert (
            [kept.record for kept in earlier] == [kept.record for kept in found][-len(earlier) :] if earlier else not found
        )
        if not page:
            break
        found += page
        after = page[-1].number
    assert [kept.record for kept in found] == records
    known = read_flows(places, ["flow-0001", "absent"])["flow-0001"]
    assert known.first_segment < known.last_segment
    assert known.commands == 40
    assert replace(known, last="") != known
