"""Control's side: nothing is taken twice, nothing is lost, and what is not as it should be is put aside and said."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from appliance.errors import RecordingError
from appliance.recording.journal import MAGIC, PartName
from appliance.recording.keeper import Keeper
from appliance.recording.keys import make_or_load
from appliance.recording.reader import find_flow, list_flows, read_all, read_flow, undrained
from appliance.recording.records import Commanded
from appliance.recording.verify import verify
from tests.recording.recorded import START, Recorded, command, conversation, drain_all, opened


def _numbers(recorded: Recorded) -> list[int]:
    return [one.record.number for one in read_all(recorded.places) if isinstance(one.record, Commanded)]


def test_a_keeper_goes_on_where_the_one_before_stopped(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal(part_bytes=1_000)
    for turn in range(6):
        keeper = recorded.keeper(segment_bytes=1_500)
        for number in range(turn * 10 + 1, turn * 10 + 11):
            journal.append(command("f", number))
        keeper.drain()
        keeper.close()
    assert undrained(recorded.places) == 0
    assert _numbers(recorded) == list(range(1, 61))
    assert verify(tmp_path).is_sound
    assert len(list(recorded.places.segments())) > 3


def test_a_keeper_that_dies_after_its_commit_takes_nothing_twice(tmp_path: Path) -> None:
    """State as kill -9 leaves it: the folder as it was, before the keeper closed anything or deleted a journal."""
    recorded = Recorded.begin(tmp_path / "state")
    journal = recorded.journal(part_bytes=500)
    for number in range(1, 40):
        journal.append(command("f", number))
    keeper = recorded.keeper()
    journals = tmp_path / "journals before"
    shutil.copytree(recorded.places.journals, journals)
    keeper.drain()
    shutil.copytree(tmp_path / "state", tmp_path / "after")
    for path in journals.iterdir():
        shutil.copy(path, tmp_path / "after" / "journals" / path.name)
    after = Recorded.begin(tmp_path / "after")
    second = after.keeper()
    drain_all(second)
    second.close()
    assert _numbers(after) == list(range(1, 40))
    assert verify(tmp_path / "after").is_sound
    assert [note.sort for note in after.notes] == []
    assert list(after.places.journals.iterdir()) == []
    keeper.close()
    journal.close()


def test_a_journal_is_deleted_only_once_its_writer_is_gone(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal()
    journal.append(command("f", 1))
    keeper = recorded.keeper()
    drain_all(keeper)
    assert len(list(recorded.places.journals.iterdir())) == 1
    journal.close()
    drain_all(keeper)
    assert list(recorded.places.journals.iterdir()) == []
    keeper.close()


def test_a_journal_is_deleted_only_once_its_records_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal(part_bytes=300)
    keeper = recorded.keeper()
    keeper.drain()
    seen: list[str] = []
    sync, unlink = os.fdatasync, os.unlink

    def watched_sync(descriptor: int) -> None:
        seen.append(f"sync {os.readlink(f'/proc/self/fd/{descriptor}')}")
        sync(descriptor)

    def watched_unlink(path: Path) -> None:
        seen.append(f"unlink {path}")
        unlink(path)

    for number in range(1, 10):
        journal.append(command("f", number))
    journal.close()
    monkeypatch.setattr(os, "fdatasync", watched_sync)
    monkeypatch.setattr(os, "unlink", watched_unlink)
    keeper.drain()
    monkeypatch.undo()
    assert seen[0] == f"sync {recorded.places.segment(1)}-wal"
    assert len(seen) > 3
    assert all(entry.startswith(f"unlink {recorded.places.journals}") for entry in seen[1:])
    keeper.close()


def test_appending_and_draining_at_once_loses_nothing(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    journals = [recorded.journal(worker=worker, part_bytes=30_000) for worker in range(3)]
    keeper = recorded.keeper(segment_bytes=200_000, stretch_bytes=10_000)

    def write(worker: int) -> None:
        for number in range(1, 1_501):
            journals[worker].append(command(f"flow{worker}", number, shown="y" * (number % 300)))

    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        keeper.drain()
    for journal in journals:
        journal.close()
    drain_all(keeper)
    keeper.close()
    for worker in range(3):
        flow = [one.record for one in read_flow(recorded.places, f"flow{worker}")]
        assert [one.number for one in flow if isinstance(one, Commanded)] == list(range(1, 1_501))
    report = verify(tmp_path)
    assert report.is_sound, report.findings
    assert list_flows(recorded.places)[0].commands == 1_500


def test_a_record_larger_than_a_step_is_taken_in(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal()
    journal.append(command("f", 1, sealed=b"x" * 3_000_000))
    journal.append(command("f", 2))
    keeper = recorded.keeper(stretch_bytes=4_096)
    drain_all(keeper)
    assert _numbers(recorded) == [1, 2]
    keeper.close()
    journal.close()


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_changed_journal_is_put_aside_and_what_came_before_is_kept(tmp_path: Path, place: float) -> None:
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal()
    for number in range(1, 101):
        journal.append(command("f", number))
    path = next(recorded.places.journals.iterdir())
    with path.open("r+b") as opened_file:
        position = int(path.stat().st_size * place)
        opened_file.seek(position)
        byte = opened_file.read(1)
        opened_file.seek(position)
        opened_file.write(bytes([byte[0] ^ 1]))
    keeper = recorded.keeper()
    drain_all(keeper)
    for number in range(101, 201):
        journal.append(command("f", number))  # the worker that was taken over goes on
    drain_all(keeper)
    keeper.close()
    numbers = _numbers(recorded)
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) < 100
    assert [note.sort for note in recorded.notes] == ["begun", "broken chain"]
    assert recorded.notes[1].journal == PartName.read(path.name).journal  # type: ignore[union-attr]
    assert [aside.name.startswith(path.name) for aside in recorded.places.quarantine.iterdir()] == [True]
    report = verify(tmp_path)
    assert report.is_sound
    assert [note.sort for note in report.notes] == ["broken chain"]


def test_a_journal_that_is_cut_or_removed_after_it_was_taken_in_raises_an_alarm(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    one, two = recorded.journal(worker=1), recorded.journal(worker=2)
    for number in range(1, 11):
        one.append(command("f", number))
        two.append(command("g", number))
    keeper = recorded.keeper()
    drain_all(keeper)
    paths = sorted(recorded.places.journals.iterdir())
    os.truncate(paths[0], 600)
    paths[1].unlink()
    drain_all(keeper)
    assert sorted(note.sort for note in recorded.notes) == ["begun", "journal gone", "journal shrunk"]
    assert len(_numbers(recorded)) == 20
    keeper.close()


def test_a_removed_middle_part_raises_an_alarm(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal(part_bytes=300)
    for number in range(1, 21):
        journal.append(command("f", number))
    journal.close()
    sorted(recorded.places.journals.iterdir())[2].unlink()
    keeper = recorded.keeper()
    drain_all(keeper)
    keeper.close()
    assert [note.sort for note in recorded.notes] == ["begun", "journal gone"]
    assert 0 < len(_numbers(recorded)) < 20
    assert len(list(recorded.places.quarantine.iterdir())) > 1


def test_another_journals_records_do_not_pass_under_a_new_name(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal(worker=1)
    journal.append(command("f", 1))
    path = next(recorded.places.journals.iterdir())
    shutil.copy(path, recorded.places.journals / str(PartName(2, START, 77, 1)))
    keeper = recorded.keeper()
    drain_all(keeper)
    keeper.close()
    journal.close()
    assert _numbers(recorded) == [1]
    assert [note.sort for note in recorded.notes] == ["begun", "broken chain"]


def test_things_that_are_no_journals_stop_nothing(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    folder = recorded.places.journals
    os.mkfifo(folder / str(PartName(5, START, 1, 1)))
    (folder / str(PartName(6, START, 1, 1))).symlink_to("/etc/passwd")
    (folder / str(PartName(7, START, 1, 1))).mkdir()
    (folder / str(PartName(8, START, 1, 1))).write_bytes(MAGIC + b"\xff\xff\xff\xff" + b"x" * 100)
    (folder / str(PartName(9, START, 1, 1))).write_bytes(b"")
    (folder / "notes\x1b[31m.txt").write_text("hello")
    journal = recorded.journal()
    journal.append(command("f", 1))
    keeper = recorded.keeper()
    drain_all(keeper)
    drain_all(keeper)
    assert _numbers(recorded) == [1]
    assert sorted(note.sort for note in recorded.notes)[0] == "begun"
    assert [note.sort for note in recorded.notes].count("foreign file") == 5
    assert all("\x1b" not in note.journal + note.text for note in recorded.notes)
    keeper.close()
    journal.close()


def test_records_nobody_can_read_break_the_journal(tmp_path: Path) -> None:
    from appliance.recording.chain import next_hash
    from appliance.recording.journal import GENESIS, read_stretch

    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal()
    path = next(recorded.places.journals.iterdir())
    last = read_stretch(path.read_bytes()[len(MAGIC) :], GENESIS).last
    payload = b"\x81\xa4type\xa7nothing"
    with path.open("ab") as opened_file:
        opened_file.write(len(payload).to_bytes(4, "big") + payload + next_hash(last, payload))
    keeper = recorded.keeper()
    drain_all(keeper)
    keeper.close()
    journal.close()
    assert [note.sort for note in recorded.notes] == ["begun", "broken chain"]


def test_two_keepers_never_keep_one_recording(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    keeper = recorded.keeper()
    with pytest.raises(RecordingError, match="another process"):
        recorded.keeper()
    keeper.close()
    recorded.keeper().close()


def test_a_keeper_that_failed_takes_nothing_more_and_a_new_one_goes_on(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal()
    journal.append(command("f", 1))
    keeper = recorded.keeper()
    drain_all(keeper)
    journal.append(command("f", 2))
    recorded.places.quarantine.rmdir()
    recorded.places.head.with_suffix(".new").mkdir()  # the new head cannot be written, after the commit
    with pytest.raises(RecordingError):
        keeper.drain()
    with pytest.raises(RecordingError):
        keeper.drain()
    recorded.places.head.with_suffix(".new").rmdir()
    recorded.places.quarantine.mkdir()
    second = recorded.keeper()
    journal.append(command("f", 3))
    drain_all(second)
    second.close()
    journal.close()
    assert _numbers(recorded) == [1, 2, 3]
    assert verify(tmp_path).is_sound


@pytest.mark.parametrize("lost", ["signing.key", "sealing.key"])
def test_a_lost_key_is_an_error_and_never_made_anew(tmp_path: Path, lost: str) -> None:
    recorded = Recorded.begin(tmp_path)
    (recorded.places.keys / lost).unlink()
    with pytest.raises(RecordingError):
        make_or_load(recorded.places)


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    (recorded.places.keys / "signing.key").chmod(0o640)
    with pytest.raises(RecordingError, match="0600"):
        make_or_load(recorded.places)


def test_an_exchanged_key_is_an_error(tmp_path: Path) -> None:
    recorded, other = Recorded.begin(tmp_path / "one"), Recorded.begin(tmp_path / "other")
    shutil.copy(other.places.keys / "signing.key", recorded.places.keys / "signing.key")
    with pytest.raises(RecordingError, match="not the public half"):
        make_or_load(recorded.places)


def test_a_flow_is_found_over_several_segments(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    keeper = recorded.keeper()
    journal = recorded.journal()
    records = conversation("abc-1", 6)
    for position, record in enumerate(records):
        journal.append(record)
        journal.append(opened(f"other-{position}", START + position))
        keeper.drain()
        if position % 4 == 3:
            keeper.seal()
    keeper.close()
    journal.close()
    assert [one.record for one in read_flow(recorded.places, "abc-1")] == records
    found = list_flows(recorded.places)[0]
    assert (found.flow, found.opened, found.closed, found.commands) == ("abc-1", START, START + 10_000, 6)
    assert found.agent == "shop"
    assert len(list_flows(recorded.places, limit=3)) == 3
    assert list_flows(recorded.places, agent="nobody") == []
    assert find_flow(recorded.places, "ab") == "abc-1"
    with pytest.raises(RecordingError, match="several"):
        find_flow(recorded.places, "other")
    with pytest.raises(RecordingError, match="no such"):
        find_flow(recorded.places, "%")


def test_a_segment_is_sealed_by_age(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    now = [START]
    keeper = Keeper(recorded.places, recorded.keys, clock=lambda: now[0], segment_seconds=60)
    journal = recorded.journal()
    for number in range(1, 4):
        journal.append(command("f", number))
        keeper.drain()
        now[0] += 61_000_000_000
    keeper.drain()
    # The third has nothing in it yet, and an empty segment is not sealed.
    assert len(list(recorded.places.segments())) == 3
    keeper.close()
    journal.close()
    assert _numbers(recorded) == [1, 2, 3]
    assert verify(tmp_path).is_sound
