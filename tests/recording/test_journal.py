"""The worker's side: what append promises, and what becomes of a journal that failed."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import RecordingError
from appliance.recording import journal as journals
from appliance.recording.chain import GENESIS, next_hash, verify
from appliance.recording.journal import MAGIC, SHOWN_CHARACTERS_MAX, Header, PartName, read_stretch
from appliance.recording.reader import open_exact, read_all
from appliance.recording.records import Answered, Commanded, Decided, FlowClosed, FlowOpened, Passed, Record
from tests.recording.recorded import START, Recorded, command, conversation, drain_all

_text = st.text(max_size=40)
_time = st.integers(0, 2**63 - 1)
_texts = st.lists(_text, max_size=3).map(tuple)
_maybe = st.none() | _text
_records = st.one_of(
    st.builds(FlowOpened, _text, _time, _text, _text, _maybe, _maybe, _maybe, _maybe, _texts, _maybe, _maybe, _maybe),
    st.builds(
        Commanded,
        flow=_text,
        time=_time,
        number=_time,
        sort=_text,
        shown=_text,
        outcome=st.sampled_from(["forward", "hold", "refuse", "own"]),
        effects=_texts,
        parameters=st.lists(_maybe, max_size=3).map(tuple),
        rule=_maybe,
        changed_from=st.none() | _time,
        durable=st.booleans(),
        sealed=st.none() | st.binary(max_size=40),
    ),
    st.builds(Decided, _text, _time, _time, _text, _text, _text, _text, _text, st.none() | st.binary(max_size=40)),
    st.builds(Passed, _text, _time, _text),
    st.builds(
        Answered,
        flow=_text,
        time=_time,
        number=_time,
        status=_text,
        failed=st.booleans(),
        columns=_texts,
        rows=_time,
        sample=st.lists(st.lists(_maybe, max_size=3).map(tuple), max_size=3).map(tuple),
    ),
    st.builds(FlowClosed, _text, _time, _text, _time, _time, _maybe),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(_records, min_size=1, max_size=12))
def test_every_sort_of_record_comes_back_as_it_was_appended(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record]
) -> None:
    recorded = Recorded.begin(tmp_path_factory.mktemp("state"))
    journal = recorded.journal(part_bytes=400)
    for record in records[::2]:
        journal.append(record)
    journal.append_many(records[1::2])
    journal.close()
    keeper = recorded.keeper(segment_bytes=300)
    drain_all(keeper)
    keeper.close()
    kept = [one.record for one in read_all(recorded.places) if isinstance(one.record, Record)]
    assert kept == records[::2] + records[1::2]
    assert recorded.notes[1:] == []


def test_a_chain_goes_on_over_the_parts_of_a_journal(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal(part_bytes=2_000)
    for record in conversation("f", 30):
        journal.append(record)
    parts = sorted(recorded.places.journals.iterdir())
    assert len(parts) > 3
    links: list[tuple[bytes, bytes]] = []
    previous = GENESIS
    for path in parts:
        stretch = read_stretch(path.read_bytes()[len(MAGIC) :], previous)
        assert stretch.broken is None
        previous = stretch.last
        links.extend(stretch.links)
    assert verify(links) is None
    assert verify([*links[:5], *links[6:]]) == 5
    assert len(links) == 62 + len(parts)


def test_a_name_that_only_looks_like_a_journals_is_none() -> None:
    assert PartName.read("w1-5-7-000001.journal") == PartName(1, 5, 7, 1)
    for name in ("w01-5-7-000001.journal", "w1-5-7-1.journal", "w1-5-7-000001.journal.new", "../w1-5-7-000001.journal"):
        assert PartName.read(name) is None


@pytest.mark.parametrize("limit", [2_000, 2_001, 2_050, 2_150, 2_300])
def test_a_full_disk_is_an_error_and_final_and_leaves_nothing_half_readable(tmp_path: Path, limit: int) -> None:
    """The kernel takes the part of a write that fits and no more, as on a full disk (RLIMIT_FSIZE, write(2))."""
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        accepted = _append_until_refused(journal)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert accepted > 0
    with pytest.raises(RecordingError):
        journal.append(command("f", 5000))
    with pytest.raises(RecordingError):
        journal.append_many([command("f", 5001)])
    with pytest.raises(RecordingError):
        journal.sync()
    journal.close()
    keeper = recorded.keeper()
    drain_all(keeper)
    keeper.close()
    numbers = [one.record.number for one in read_all(recorded.places) if isinstance(one.record, Commanded)]
    assert numbers == list(range(1, accepted + 1))
    assert [note.sort for note in recorded.notes] in (["begun"], ["begun", "torn tail"])


def test_a_real_full_disk_stops_the_journal(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], check=True)
    try:
        journal = journals.Journal(small, 0, recorded.keys.seal_key, START)
        assert 100 < _append_until_refused(journal) < 1000
        with pytest.raises(RecordingError):
            journal.append(command("f", 1))
        journal.close()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_next_part_that_cannot_be_made_is_final(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal(part_bytes=500)
    taken = PartName(0, START, os.getpid(), 2)
    (recorded.places.journals / str(taken)).write_bytes(b"somebody was here before")
    assert _append_until_refused(journal) < 10
    assert journal.dead is not None
    journal.close()


def test_a_record_over_the_bound_is_refused_and_the_journal_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "RECORD_BYTES_MAX", 1_000)
    journal = Recorded.begin(tmp_path).journal()
    with pytest.raises(RecordingError):
        journal.append(command("f", 1, shown="x" * 1_000))
    journal.append(command("f", 2))
    assert journal.dead is None
    journal.close()


def test_a_text_that_is_no_unicode_is_shown_escaped_and_kept_exactly(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal()
    with pytest.raises(RecordingError):
        journal.append(command("f", 1, shown="bad \udce9"))
    shown, sealed = journal.fit("bad \udce9")
    assert shown == "bad \\udce9"
    journal.append(command("f", 2, shown=shown, sealed=sealed))
    journal.close()
    assert _exact_texts(recorded) == ["bad \udce9"]


def test_a_long_text_is_cut_where_people_see_it_and_kept_whole(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal()
    text = "insert into t values ('" + "é" * 5_000_000 + "')"
    shown, sealed = journal.fit(text)
    assert len(shown) < SHOWN_CHARACTERS_MAX + 200
    assert f"{len(text.encode())} bytes in all" in shown
    journal.append(command("f", 1, shown=shown, sealed=sealed))
    journal.close()
    assert _exact_texts(recorded) == [text]


def test_what_differs_is_sealed_and_what_does_not_is_not(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal()
    assert journal.fit("select 1") == ("select 1", None)
    assert journal.fit("select 1", "select 1") == ("select 1", None)
    shown, sealed = journal.fit("card •••", "card 4111111111111111")
    assert shown == "card •••"
    assert sealed is not None
    assert b"4111" not in sealed
    journal.append(command("f", 1, shown=shown, sealed=sealed))
    journal.close()
    assert all(b"4111111111111111" not in path.read_bytes() for path in recorded.places.journals.iterdir())
    assert _exact_texts(recorded) == ["card 4111111111111111"]


def test_a_sealed_text_opens_with_controls_key_alone_and_only_in_its_own_journal(tmp_path: Path) -> None:
    recorded, other = Recorded.begin(tmp_path / "one"), Recorded.begin(tmp_path / "other")
    one, two = recorded.journal(worker=0), recorded.journal(worker=1)
    one.append(command("f", 1, sealed=one.seal("secret")))
    two.append(command("g", 1, sealed=one.seal("moved")))
    one.close()
    two.close()
    keeper = recorded.keeper()
    drain_all(keeper)
    keeper.close()
    kept = {one.record.flow: one for one in read_all(recorded.places) if isinstance(one.record, Commanded)}
    assert open_exact(recorded.places, recorded.keys.sealing, kept["f"]) == "secret"
    with pytest.raises(RecordingError):
        open_exact(recorded.places, recorded.keys.sealing, kept["g"])
    with pytest.raises(RecordingError):
        open_exact(recorded.places, other.keys.sealing, kept["f"])


def test_sync_covers_earlier_parts_and_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    journal = Recorded.begin(tmp_path).journal(part_bytes=300)
    for number in range(1, 40):
        journal.append(command("f", number))
    journal.sync()
    journal.close()
    with pytest.raises(RecordingError):
        journal.append(command("f", 41))


@given(st.binary(max_size=300), st.integers(0, 20))
def test_bytes_of_any_kind_are_read_or_refused_and_never_raise(junk: bytes, count: int) -> None:
    content = b""
    previous = GENESIS
    for number in range(count):
        payload = bytes([number]) * (number + 1)
        previous = next_hash(previous, payload)
        content += len(payload).to_bytes(4, "big") + payload + previous
    stretch = read_stretch(content + junk, GENESIS)
    assert len(stretch.links) >= count
    assert stretch.used <= len(content) + len(junk)


WRITER = """
import os, sys, time
from pathlib import Path
from appliance.recording.journal import Journal
from tests.recording.recorded import command
journal = Journal(Path(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3]), time.time_ns(), 20_000)
flow, number = sys.argv[4], 0
while True:
    number += 1
    journal.append(command(flow, number, shown="x" * (number * 37 % 900)))
    os.write(1, b"%d\\n" % number)
"""


def test_what_a_killed_worker_reported_is_in_the_recording(tmp_path: Path) -> None:
    """kill -9 at a random moment: the moment is whatever the scheduler makes of it after N reports."""
    recorded = Recorded.begin(tmp_path)
    keeper = recorded.keeper(segment_bytes=300_000, stretch_bytes=5_000)
    reported: dict[str, int] = {}
    for turn in range(20):
        arguments = [str(recorded.places.journals), "0", recorded.keys.seal_key.hex(), f"flow{turn}"]
        with subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            descriptor = writer.stdout.fileno()
            seen = b""
            while seen.count(b"\n") < 1 + turn * 40:
                seen += os.read(descriptor, 65536)
                keeper.drain()
            writer.kill()
            while more := os.read(descriptor, 65536):
                seen += more
        reported[f"flow{turn}"] = int(seen[: seen.rindex(b"\n")].split(b"\n")[-1])
    drain_all(keeper)
    keeper.close()
    found: dict[str, list[int]] = {}
    for one in read_all(recorded.places):
        if isinstance(one.record, Commanded):
            found.setdefault(one.record.flow, []).append(one.record.number)
    assert sum(reported.values()) > 5_000
    for flow, last in reported.items():
        assert found[flow][:last] == list(range(1, last + 1))
        # The one that was written but not yet reported may be there as well; nothing else.
        assert len(found[flow]) - last <= 1
    assert {note.sort for note in recorded.notes} <= {"begun", "torn tail"}
    assert list(recorded.places.journals.glob("*.journal")) == []


def _append_until_refused(journal: journals.Journal) -> int:
    """How many records were taken before the first that was not."""
    for number in range(1, 5_000):
        try:
            journal.append(command("f", number))
        except RecordingError:
            return number - 1
    raise AssertionError("everything was taken")


def _exact_texts(recorded: Recorded) -> list[str | None]:
    keeper = recorded.keeper()
    drain_all(keeper)
    keeper.close()
    kept = [one for one in read_all(recorded.places) if not isinstance(one.record, Header)]
    return [text for one in kept if (text := open_exact(recorded.places, recorded.keys.sealing, one)) is not None]
