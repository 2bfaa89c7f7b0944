"""How a recording proves itself, or is caught: everything is recomputed from the payloads and held against what was signed.

What is found: a changed, removed, added or reordered record; a removed, added or exchanged segment; a tail cut from the
records, from the kept seals or from both while a kept head still names it; a changed index; a signature by another key.
What cannot be found from these files alone: whoever holds the signing key (root, or control taken over) can write a whole
new recording, or put back an older state of everything, heads included. Only a head that was kept elsewhere shows that:
pass such heads as `witnesses`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from appliance.errors import RecordingError
from appliance.recording import heads, segments
from appliance.recording.chain import GENESIS, next_hash
from appliance.recording.heads import NO_SEAL, Head, Seal, Signed
from appliance.recording.journal import Header
from appliance.recording.keeper import CONTROL_CHAIN, SQLITE_INTEGER_MAX
from appliance.recording.keys import PublicKey, load_public
from appliance.recording.places import Places
from appliance.recording.reader import undrained
from appliance.recording.records import Noted, Record
from appliance.recording.segments import FlowSummary

FINDINGS_MAX = 200  # whoever changed everything need not be told so a million times
_FLOWS_AT_ONCE = 5_000

_decode = msgspec.msgpack.Decoder(Header | Noted | Record)


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that is not as it was signed. `sort` is one word for it ("changed", "removed", "added", "moved", "cut",
    "signature", "segment", "index", "unreadable"); the place is as exact as it can be told."""

    sort: str
    text: str
    segment: int | None = None
    record: int | None = None
    chain: str | None = None


class Report(msgspec.Struct, frozen=True):
    """What a verification saw. `notes` are alarms that control itself recorded: they are part of a sound recording, and to
    be read. `waiting` counts bytes in journals that were not taken in yet, which are not covered."""

    key: str
    segments: int
    records: int
    heads: int
    newest: int
    findings: tuple[Finding, ...]
    notes: tuple[Noted, ...]
    waiting: int

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


@dataclass(slots=True)
class _Point:
    """A signed statement that has to agree once record `last` is reached."""

    label: str
    last: int
    order: str
    chains: dict[str, tuple[int, str]]


@dataclass(slots=True)
class _Walk:
    """How far the verification has come, and what it saw."""

    key: PublicKey
    chains: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    order: bytes = GENESIS
    last: int = 0
    records: int = 0
    heads: int = 0
    newest: int = 0
    is_off: bool = False  # something was found since the last statement that agreed, so the next cannot
    segment: int | None = None
    findings: list[Finding] = field(default_factory=list)
    notes: list[Noted] = field(default_factory=list)

    def found(self, sort: str, text: str, record: int | None = None, chain: str | None = None) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(sort, text, self.segment, record, chain))
        elif len(self.findings) == FINDINGS_MAX:
            self.findings.append(Finding("changed", "and more; the rest is not listed"))


def verify(state: Path, public_key: Path | None = None, witnesses: Iterable[Path] = ()) -> Report:
    """Verifies the recording under a state folder, offline. `public_key` is the key to trust (default: the one that lies
    beside the recording, which proves less: whoever can exchange both is not found). `witnesses` are copies of head.json
    that were kept elsewhere. Raises RecordingError where there is nothing that could be verified."""
    places = Places(state)
    key = load_public(places.public_key if public_key is None else public_key)
    try:
        present = dict(places.segments())
    except OSError as error:
        raise RecordingError(f"{places.recording} cannot be read: {error.strerror}") from error
    walk = _Walk(key)
    seals = _read_seals(walk, places.seals)
    kept = _read_kept_heads(walk, places.head, witnesses)
    for number in sorted({*present, *range(1, len(seals) + 1)}):
        walk.segment = number
        seal = seals[number - 1] if number <= len(seals) else None
        path = present.get(number)
        if path is None:
            walk.found("segment", f"segment {number} is missing")
            _go_on_from(walk, seals[number - 1][1])
            continue
        if number > len(seals) + 1:
            walk.found("segment", f"{path.name} comes after the current segment {len(seals) + 1}")
        points = [point for point in kept if point.last > walk.last]
        try:
            _verify_segment(walk, places, number, seal, points)
        except RecordingError as error:
            walk.found("unreadable", str(error))
            if seal is not None:
                _go_on_from(walk, seal[1])
    walk.segment = None
    for point in kept:
        if point.last > walk.last:
            walk.found("cut", f"{point.label} names record {point.last}, but the recording ends at {walk.last}", walk.last)
    return Report(
        key=key.id,
        segments=len(present),
        records=walk.records,
        heads=walk.heads,
        newest=walk.newest,
        findings=tuple(walk.findings),
        notes=tuple(walk.notes),
        waiting=_waiting(places),
    )


def _read_seals(walk: _Walk, file: Path) -> list[tuple[Signed, Seal]]:
    """The kept seals in order; from the first that cannot be read on, there are none."""
    found: list[tuple[Signed, Seal]] = []
    previous = NO_SEAL
    try:
        for signed in heads.read_lines(file):
            said = signed.read()
            if not isinstance(said, Seal):
                raise RecordingError("a kept seal is no seal")
            _check_signature(walk, signed, said.key, f"kept seal {len(found) + 1}")
            if said.segment != len(found) + 1 or said.previous != previous:
                walk.found(
                    "segment", f"kept seals: segment {said.segment} follows after {len(found)}; a seal was removed or moved"
                )
                return found
            found.append((signed, said))
            previous = signed.digest
    except RecordingError as error:
        walk.found("unreadable", f"kept seals: {error}")
    return found


def _read_kept_heads(walk: _Walk, file: Path, witnesses: Iterable[Path]) -> list[_Point]:
    points: list[_Point] = []
    for path, label in [(file, "the kept head"), *((path, f"the witness {path.name}") for path in witnesses)]:
        before = len(points)
        try:
            for signed in heads.read_lines(path):
                said = signed.read()
                if isinstance(said, Head) and _check_signature(walk, signed, said.key, label):
                    points.append(_Point(f"{label} {said.number}", said.last, said.order, said.chains))
        except RecordingError as error:
            walk.found("unreadable", f"{label}: {error}")
        if len(points) == before:
            walk.found("cut", f"{label} is missing or worthless, so a cut tail could not be seen")
    return points


def _check_signature(walk: _Walk, signed: Signed, key: str, label: str) -> bool:
    if key != walk.key.id:
        walk.found("signature", f"{label} is signed by key {key}, not by {walk.key.id}")
    elif not signed.is_signed_by(walk.key):
        walk.found("signature", f"{label} has a signature that is not its key's")
    else:
        return True
    return False


def _verify_segment(
    walk: _Walk, places: Places, number: int, kept: tuple[Signed, Seal] | None, points: list[_Point]
) -> None:
    path = places.segment(number)
    with segments.open_to_read(path) as connection:
        # One transaction: the segment may be growing under us.
        connection.execute("BEGIN")
        (said_number, first) = connection.execute("SELECT number, first FROM segment").fetchone()
        if said_number != number:
            walk.found("segment", f"{path.name} says that it is segment {said_number}")
        if first != walk.last + 1:
            walk.found("removed", f"the segment begins at record {first}, but the one before it ends at {walk.last}")
            walk.is_off = True
        points = points + _segment_heads(walk, connection)
        own = [Signed(str(row[0]), str(row[1])) for row in connection.execute("SELECT statement, signature FROM seal")]
        end = _verify_seal(walk, places.seals, number, own, kept)
        if end is not None:
            points.append(end)
        _verify_records(walk, connection, points)
        if end is not None and walk.last != end.last:
            walk.found("cut", f"the seal says that the segment ends at record {end.last}; it ends at {walk.last}", walk.last)
        if kept is not None:
            _go_on_from(walk, kept[1])


def _segment_heads(walk: _Walk, connection: sqlite3.Connection) -> list[_Point]:
    points = []
    worthless = 0
    for statement, signature in connection.execute("SELECT statement, signature FROM heads ORDER BY number"):
        signed = Signed(str(statement), str(signature))
        try:
            said = signed.read()
        except RecordingError:
            worthless += 1
            continue
        if not isinstance(said, Head) or said.key != walk.key.id or not signed.is_signed_by(walk.key):
            worthless += 1
            continue
        walk.heads += 1
        walk.newest = max(walk.newest, said.number)
        points.append(_Point(f"head {said.number}", said.last, said.order, said.chains))
    if worthless:
        walk.found("signature", f"{worthless} heads of the segment are not signed by key {walk.key.id}")
    return points


def _verify_seal(walk: _Walk, file: Path, number: int, own: list[Signed], kept: tuple[Signed, Seal] | None) -> _Point | None:
    """The segment's end, if it has one that was signed."""
    label = f"the seal of segment {number}"
    if len(own) > 1:
        walk.found("added", f"the segment has {len(own)} seals")
    if kept is not None:
        if not own:
            walk.found("cut", f"{label} is kept, but the segment has none")
        elif own[0] != kept[0]:
            walk.found("changed", f"{label} is not the one that is kept")
        return _Point(label, kept[1].last, kept[1].order, kept[1].chains)
    if not own:
        return None
    # The segment may have been sealed since the kept seals were read.
    if own[0] not in heads.read_lines(file):
        walk.found("cut", f"{label} is not among the kept seals")
    said = own[0].read()
    if isinstance(said, Seal) and _check_signature(walk, own[0], said.key, label):
        return _Point(label, said.last, said.order, said.chains)
    return None


def _verify_records(walk: _Walk, connection: sqlite3.Connection, points: list[_Point]) -> None:
    names = dict(connection.execute("SELECT id, chain FROM chains"))
    waiting = sorted(points, key=lambda point: point.last)
    reached = 0
    covered = max((point.last for point in points), default=walk.last)
    index = sqlite3.connect("", isolation_level=None)  # a private file that goes when it is closed
    try:
        index.executescript("PRAGMA journal_mode = OFF;" + segments.FLOWS_TABLE)
        flows: dict[str, FlowSummary] = {}
        uncovered = 0
        for row in connection.execute(
            "SELECT seq, chain, sequence, flow, time, kind, payload, hash FROM records ORDER BY seq"
        ):
            while reached < len(waiting) and waiting[reached].last < row[0]:
                _agree(walk, waiting[reached])
                reached += 1
            _verify_row(walk, row, names.get(row[1]), flows)
            uncovered += walk.last > covered
            if len(flows) >= _FLOWS_AT_ONCE:
                _put_flows(index, flows)
        while reached < len(waiting) and waiting[reached].last <= walk.last:
            _agree(walk, waiting[reached])
            reached += 1
        for point in waiting[reached:]:
            if not point.label.startswith("the "):
                walk.found("cut", f"{point.label} names record {point.last}, but the segment ends at {walk.last}", walk.last)
        if uncovered:
            walk.found("added", f"{uncovered} records after the newest signed head", covered + 1)
        _put_flows(index, flows)
        _verify_index(walk, connection, index)
    finally:
        index.close()


def _verify_row(walk: _Walk, row: tuple[object, ...], chain: object, flows: dict[str, FlowSummary]) -> None:
    number, _, sequence, flow, moment, kind, payload, claimed = row
    if not (
        isinstance(number, int)
        and isinstance(sequence, int)
        and isinstance(payload, bytes)
        and isinstance(claimed, bytes)
        and isinstance(chain, str)
    ):
        walk.found("changed", f"record {number} is not written as a record is", number if isinstance(number, int) else None)
        walk.is_off = True
        return
    walk.records += 1
    if number > walk.last + 1:
        missing = f"record {walk.last + 1} is" if number == walk.last + 2 else f"records {walk.last + 1} to {number - 1} are"
        walk.found("removed", f"{missing} missing", walk.last + 1, chain)
        walk.is_off = True
    walk.last = max(walk.last, number)
    _verify_link(walk, number, chain, sequence, payload, claimed)
    walk.order = next_hash(walk.order, claimed)
    try:
        record = _decode.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        walk.found("changed", f"record {number} cannot be read", number, chain)
        return
    if not isinstance(record, Header | Noted) and not (
        0 <= record.time <= SQLITE_INTEGER_MAX and 0 <= getattr(record, "number", 0) <= SQLITE_INTEGER_MAX
    ):
        walk.found("changed", f"record {number} has a time or number that no record has", number, chain)
        return
    said_flow = None if isinstance(record, Header | Noted) else record.flow
    said_time = record.started if isinstance(record, Header) else record.time
    if (flow, moment, kind) != (said_flow, said_time, record.__struct_config__.tag):
        walk.found("index", f"record {number} is filed under another flow, time or kind than it has", number, chain)
    if isinstance(record, Noted):
        if record.is_alarm:
            walk.notes.append(record)
    elif not isinstance(record, Header):
        flows.setdefault(record.flow, FlowSummary(record.flow)).take(record)


def _verify_link(walk: _Walk, number: int, chain: str, sequence: int, payload: bytes, claimed: bytes) -> None:
    before = walk.chains.get(chain)
    walk.chains[chain] = (sequence, claimed)
    if before is None:
        if sequence != 0:
            walk.found("removed", f"chain {chain} begins at its record {sequence}", number, chain)
            walk.is_off = True
            return
        if chain != CONTROL_CHAIN and not chain.endswith(f".{number}"):
            walk.found("moved", f"chain {chain} begins at record {number}", number, chain)
            walk.is_off = True
        before = (-1, GENESIS)
    if sequence > before[0] + 1:
        gap = f"{before[0] + 1} to {sequence - 1}" if sequence > before[0] + 2 else f"{before[0] + 1}"
        walk.found("removed", f"chain {chain} lacks its record {gap}", number, chain)
    elif sequence <= before[0]:
        walk.found(
            "moved", f"record {number} is record {sequence} of chain {chain}, after its record {before[0]}", number, chain
        )
    elif next_hash(before[1], payload) != claimed:
        walk.found(
            "changed", f"record {number} does not have the hash that its text and the record before it give", number, chain
        )
    else:
        return
    walk.is_off = True


def _agree(walk: _Walk, point: _Point) -> None:
    agrees = point.order == walk.order.hex() and all(
        _is_at(walk.chains.get(chain), reached) for chain, reached in point.chains.items()
    )
    if not agrees and not walk.is_off:
        walk.found("changed", f"{point.label} does not agree with the records up to {point.last}", point.last)
    walk.order = bytes.fromhex(point.order)
    for chain, (sequence, digest) in point.chains.items():
        walk.chains[chain] = (sequence, bytes.fromhex(digest))
    walk.is_off = False


def _is_at(seen: tuple[int, bytes] | None, said: tuple[int, str]) -> bool:
    return seen is not None and (seen[0], seen[1].hex()) == said


def _go_on_from(walk: _Walk, seal: Seal) -> None:
    """After a segment that is not whole, the next one is held against what was signed and not against the fault."""
    walk.last = seal.last
    walk.order = bytes.fromhex(seal.order)
    for chain, (sequence, digest) in seal.chains.items():
        walk.chains[chain] = (sequence, bytes.fromhex(digest))
    walk.is_off = False


def _put_flows(index: sqlite3.Connection, flows: dict[str, FlowSummary]) -> None:
    index.executemany(segments.UPSERT_FLOW, [summary.row for summary in flows.values()])
    flows.clear()


def _verify_index(walk: _Walk, connection: sqlite3.Connection, index: sqlite3.Connection) -> None:
    question = "SELECT * FROM flows ORDER BY flow"
    said, right = connection.execute(question), index.execute(question)
    while True:
        one, other = said.fetchone(), right.fetchone()
        if one != other:
            place = (other or one)[0]
            walk.found("index", f"the index of flows is not what the records give, from flow {place} on")
        if one is None or one != other:
            return


def _waiting(places: Places) -> int:
    try:
        return undrained(places)
    except RecordingError:
        # A copy of the recording alone has no journals; an unreadable segment is among the findings.
        return 0
