"""Every way of tampering with a recording is found, and its place is named."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from re import sub

import msgspec
import pytest

from appliance.errors import RecordingError
from appliance.recording.chain import next_hash
from appliance.recording.keys import make_or_load
from appliance.recording.places import Places, lay_out
from appliance.recording.records import Commanded
from appliance.recording.verify import Report, verify
from tests.recording.recorded import Recorded, command, conversation

Tamper = Callable[[Places], None]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Three sealed segments and a current one with records, of two workers; the keeper has closed."""
    recorded = Recorded.begin(tmp_path / "state")
    keeper = recorded.keeper()
    one, two = recorded.journal(worker=0), recorded.journal(worker=1)
    for turn in range(4):
        for record in conversation(f"flow-{turn}", 3):
            one.append(record)
            two.append(command(f"other-{turn}", turn + 1))
            keeper.drain()
        if turn < 3:
            keeper.seal()
    keeper.close()
    one.close()
    two.close()
    return tmp_path / "state"


def _edit(places: Places, segment: int, *statements: str) -> None:
    path = places.segment(segment)
    mode = path.stat().st_mode
    path.chmod(0o640)
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    path.chmod(mode)


def _rows(places: Places, segment: int) -> tuple[int, int]:
    connection = sqlite3.connect(places.segment(segment))
    first, last = connection.execute("SELECT min(seq), max(seq) FROM records").fetchone()
    connection.close()
    return first, last


def _sorts(report: Report) -> set[str]:
    return {finding.sort for finding in report.findings}


def test_a_recording_that_nobody_touched_is_sound(state: Path) -> None:
    report = verify(state)
    assert report.findings == ()
    assert report.is_sound
    assert (report.segments, report.waiting) == (4, 0)
    assert report.records > 60
    assert verify(state, witnesses=[Places(state).head]).is_sound


@pytest.mark.parametrize("segment", [1, 2, 4])
def test_a_changed_text_is_found_with_its_record(state: Path, segment: int) -> None:
    places = Places(state)
    path = places.segment(segment)
    mode = path.stat().st_mode
    path.chmod(0o640)
    connection = sqlite3.connect(path)
    target, payload = connection.execute(
        "SELECT seq, payload FROM records WHERE flow LIKE 'flow-%' AND kind = 'command' LIMIT 1 OFFSET 1"
    ).fetchone()
    changed = payload.replace(b"select", b"delete")
    assert changed != payload
    connection.execute("UPDATE records SET payload = ? WHERE seq = ?", (changed, target))
    connection.commit()
    connection.close()
    path.chmod(mode)
    findings = verify(state).findings
    assert [(finding.sort, finding.segment, finding.record) for finding in findings] == [("changed", segment, target)]


@pytest.mark.parametrize("segment", [1, 3, 4])
def test_a_removed_record_is_found(state: Path, segment: int) -> None:
    places = Places(state)
    first, _ = _rows(places, segment)
    _edit(places, segment, f"DELETE FROM records WHERE seq = {first + 5}")
    found = verify(state).findings
    assert ("removed", segment, first + 5) in [(finding.sort, finding.segment, finding.record) for finding in found]


def test_a_removed_record_whose_followers_were_renumbered_is_found(state: Path) -> None:
    places = Places(state)
    first, last = _rows(places, 2)
    _edit(
        places,
        2,
        f"DELETE FROM records WHERE seq = {first + 5}",
        f"UPDATE records SET seq = -seq WHERE seq > {first + 5}",
        "UPDATE records SET seq = -seq - 1 WHERE seq < 0",
    )
    assert _rows(places, 2) == (first, last - 1)
    found = verify(state).findings
    assert found[0].segment == 2
    assert found[0].record is not None
    assert found[0].record <= first + 8


def test_a_record_whose_whole_chain_was_recomputed_is_found(state: Path) -> None:
    """What somebody without the signing key can do at best: every hash fits again, but no head does."""
    places = Places(state)
    connection = sqlite3.connect(places.segment(4))
    chain = connection.execute("SELECT chain FROM records WHERE flow = 'flow-3' LIMIT 1").fetchone()[0]
    rows = connection.execute("SELECT seq, payload, hash FROM records WHERE chain = ? ORDER BY seq", (chain,)).fetchall()
    previous = None
    for seq, payload, digest in rows:
        if previous is None and b"select" in payload:
            payload = payload.replace(b"select", b"delete")
            before = connection.execute(
                "SELECT hash FROM records WHERE chain = ? AND seq < ? ORDER BY seq DESC LIMIT 1", (chain, seq)
            ).fetchone()[0]
            previous = before
        if previous is not None:
            digest = previous = next_hash(previous, payload)
            connection.execute("UPDATE records SET payload = ?, hash = ? WHERE seq = ?", (payload, digest, seq))
    connection.commit()
    connection.close()
    report = verify(state)
    assert _sorts(report) == {"changed"}
    assert report.findings[0].segment == 4
    assert "head" in report.findings[0].text


def test_two_exchanged_records_of_one_chain_are_found(state: Path) -> None:
    places = Places(state)
    connection = sqlite3.connect(places.segment(3))
    one, two = (row[0] for row in connection.execute("SELECT seq FROM records WHERE flow = 'flow-2' LIMIT 2 OFFSET 2"))
    connection.close()
    _edit(
        places,
        3,
        f"UPDATE records SET seq = -1 WHERE seq = {one}",
        f"UPDATE records SET seq = {one} WHERE seq = {two}",
        f"UPDATE records SET seq = {two} WHERE seq = -1",
    )
    found = verify(state).findings
    assert found[0].segment == 3
    assert found[0].record in range(one, two + 1)
    assert found[0].sort in ("moved", "removed")


def test_two_exchanged_records_of_different_chains_are_found(state: Path) -> None:
    """Each chain alone is whole then; only the signed order over all chains is not."""
    places = Places(state)
    connection = sqlite3.connect(places.segment(2))
    rows = connection.execute("SELECT seq, chain FROM records ORDER BY seq").fetchall()
    connection.close()
    one = next(seq for (seq, chain), (_, after) in pairwise(rows) if chain != after)
    _edit(
        places,
        2,
        f"UPDATE records SET seq = -1 WHERE seq = {one}",
        f"UPDATE records SET seq = {one} WHERE seq = {one + 1}",
        f"UPDATE records SET seq = {one + 1} WHERE seq = -1",
    )
    report = verify(state)
    assert [finding.segment for finding in report.findings] == [2]
    assert _sorts(report) == {"changed"}


def test_an_added_record_is_found(state: Path) -> None:
    """Well chained, by somebody who has no key."""
    places = Places(state)
    connection = sqlite3.connect(places.segment(4))
    seq, chain, sequence, digest = connection.execute(
        "SELECT seq, chain, sequence, hash FROM records ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    made = command("flow-3", 99)
    payload = msgspec.msgpack.encode(made)
    connection.execute(
        "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (seq + 1, chain, sequence + 1, "flow-3", made.time, "command", payload, next_hash(digest, payload)),
    )
    connection.commit()
    connection.close()
    found = verify(state).findings
    assert ("added", 4, seq + 1) in [(finding.sort, finding.segment, finding.record) for finding in found]


@pytest.mark.parametrize("cut", [1, 5])
def test_a_cut_tail_shows_against_the_kept_head(state: Path, cut: int) -> None:
    """The records and every head inside the segment that names them go, and the index is put right."""
    places = Places(state)
    _, last = _rows(places, 4)
    _edit(
        places,
        4,
        f"DELETE FROM records WHERE seq > {last - cut}",
        f"DELETE FROM heads WHERE last > {last - cut}",
        "DELETE FROM flows",
    )
    found = verify(state).findings
    assert ("cut", last - cut) in [(finding.sort, finding.record) for finding in found]


def test_a_removed_last_segment_shows_against_the_kept_head(state: Path) -> None:
    places = Places(state)
    places.segment(4).unlink()
    assert "cut" in _sorts(verify(state))


def test_a_removed_segment_is_found(state: Path) -> None:
    places = Places(state)
    places.segment(2).unlink()
    found = verify(state).findings
    assert [(finding.sort, finding.segment) for finding in found] == [("segment", 2)]


def test_removed_segments_with_their_kept_seals_are_found(state: Path) -> None:
    """Everything from segment 3 on, seals included: what is left is whole, but for the kept head."""
    places = Places(state)
    lines = places.seals.read_bytes().splitlines(keepends=True)
    places.seals.write_bytes(b"".join(lines[:2]))
    places.segment(3).unlink()
    places.segment(4).unlink()
    assert "cut" in _sorts(verify(state))
    lines.pop(1)
    places.seals.write_bytes(b"".join(lines))
    assert "segment" in _sorts(verify(state))


def test_a_missing_kept_head_is_found(state: Path) -> None:
    Places(state).head.unlink()
    assert _sorts(verify(state)) == {"cut"}


def test_everything_put_back_to_an_older_state_shows_against_a_witness_alone(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path / "state")
    journal = recorded.journal()
    journal.append(command("f", 1))
    keeper = recorded.keeper()
    keeper.drain()
    keeper.close()
    shutil.copytree(tmp_path / "state", tmp_path / "older")
    journal.append(command("f", 2))
    keeper = recorded.keeper()
    keeper.drain()
    keeper.close()
    journal.close()
    witness = tmp_path / "witness.json"
    shutil.copy(recorded.places.head, witness)
    assert verify(tmp_path / "state", witnesses=[witness]).is_sound
    assert verify(tmp_path / "older").is_sound  # what it cannot find, as docs/recording.md says
    assert _sorts(verify(tmp_path / "older", witnesses=[witness])) == {"cut"}


def test_a_recording_rewritten_under_another_key_shows_against_the_own_copy_of_the_key(state: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.pub"
    shutil.copy(Places(state).public_key, own)
    forged = Recorded.begin(tmp_path / "forged")
    keeper = forged.keeper()
    keeper.drain()
    keeper.close()
    assert verify(tmp_path / "forged").is_sound
    assert "signature" in _sorts(verify(tmp_path / "forged", own))
    shutil.copy(forged.places.public_key, Places(state).public_key)
    assert "signature" in _sorts(verify(state))


@pytest.mark.parametrize("column", ["statement", "signature"])
def test_a_changed_head_or_seal_is_found(state: Path, column: str) -> None:
    places = Places(state)
    _edit(places, 4, f"UPDATE heads SET {column} = replace({column}, '1', '2')")
    assert "signature" in _sorts(verify(state))
    _edit(places, 2, f"UPDATE seal SET {column} = replace({column}, '1', '2')")
    assert ("changed", 2) in [(finding.sort, finding.segment) for finding in verify(state).findings]


def test_a_changed_kept_seal_is_found(state: Path) -> None:
    places = Places(state)
    content = places.seals.read_text()
    places.seals.write_text(content.replace('\\"segment\\":2', '\\"segment\\":3', 1))
    assert not verify(state).is_sound


@pytest.mark.parametrize("name", ["head.json", "heads.jsonl"])
def test_a_statement_that_nobody_signed_is_worth_nothing(state: Path, name: str) -> None:
    """A kept statement with another time and the old signature: everything else in it is as it should be."""
    path = state / "recording" / name
    content = path.read_text()
    changed = sub(r'(\\"time\\":1)', r"\g<1>0", content)
    assert changed != content
    path.write_text(changed)
    assert "signature" in _sorts(verify(state))


def test_records_filed_under_another_flow_are_found(state: Path) -> None:
    _edit(Places(state), 2, "UPDATE records SET flow = 'innocent' WHERE flow = 'flow-1'")
    found = verify(state).findings
    assert {(finding.sort, finding.segment) for finding in found} == {("index", 2)}


def test_a_changed_index_is_found(state: Path) -> None:
    _edit(Places(state), 3, "UPDATE flows SET agent = 'somebody', refused = 0 WHERE flow = 'flow-2'")
    assert {(finding.sort, finding.segment) for finding in verify(state).findings} == {("index", 3)}


def test_two_exchanged_segments_are_found(state: Path) -> None:
    places = Places(state)
    spare = places.recording / "spare"
    places.segment(1).rename(spare)
    places.segment(2).rename(places.segment(1))
    spare.rename(places.segment(2))
    assert {finding.segment for finding in verify(state).findings} >= {1, 2}


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_broken_file_is_a_finding_and_no_crash(state: Path, kept: float) -> None:
    path = Places(state).segment(2)
    path.chmod(0o640)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)] + b"junk" * 50)
    report = verify(state)
    assert ("unreadable", 2) in [(finding.sort, finding.segment) for finding in report.findings]


def test_values_of_a_wrong_type_are_findings_and_no_crash(state: Path) -> None:
    _edit(
        Places(state),
        2,
        "UPDATE records SET payload = 'text', hash = 5, sequence = 'x' WHERE flow = 'flow-1'",
        "UPDATE flows SET touched = 'x'",
        "UPDATE chains SET chain = x'00ff' WHERE id = 1",
    )
    assert "changed" in _sorts(verify(state))


def test_the_public_key_alone_verifies_a_copy(state: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(state / "recording", copy / "recording")
    key = tmp_path / "key.pub"
    (copy / "recording" / "recording.pub").rename(key)
    assert verify(copy, key).is_sound
    with pytest.raises(RecordingError):
        verify(copy)


def test_a_lost_tail_is_said_by_the_next_keeper_and_stays_visible(state: Path) -> None:
    places = Places(state)
    _, last = _rows(places, 4)
    _edit(places, 4, f"DELETE FROM records WHERE seq > {last - 3}", f"DELETE FROM heads WHERE last > {last - 3}")
    recorded = Recorded(lay_out(state), make_or_load(places))
    keeper = recorded.keeper()
    keeper.drain()
    keeper.close()
    assert [note.sort for note in recorded.notes] == ["records lost"]


def test_a_sealed_command_stays_sealed_in_every_file(tmp_path: Path) -> None:
    recorded = Recorded.begin(tmp_path)
    journal = recorded.journal()
    shown, sealed = journal.fit("card •", "card 4111111111111111")
    journal.append(Commanded("f", 1, 1, "Query", shown, "forward", sealed=sealed))
    keeper = recorded.keeper()
    keeper.seal()
    keeper.close()
    journal.close()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"4111111111111111" not in path.read_bytes()
