"""How records are found again: flows by their index, a flow's records in order, over all segments.

It reads what is in the segments, in short read-only transactions. What is still in journals is not there yet; `undrained`
says how much that is. It trusts the files (verify.py does not).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from appliance.errors import RecordingError
from appliance.recording import segments
from appliance.recording.journal import Header, PartName
from appliance.recording.places import Places
from appliance.recording.records import Noted, Record
from appliance.recording.sealing import Opener
from appliance.recording.segments import FlowSummary

_ROWS_AT_ONCE = 2_000
_CANDIDATES_MAX = 10
_ROWS_BEFORE = 20  # commands whose answers may come first on the next page

_Row = tuple[int, str, int, bytes, bytes]
_SELECT = (
    "SELECT seq, chains.chain, records.sequence, records.hash, payload FROM records JOIN chains ON chains.id = records.chain"
)

_decode = msgspec.msgpack.Decoder(Header | Noted | Record)
_header = msgspec.msgpack.Decoder(Header)


@dataclass(frozen=True, slots=True)
class Kept:
    """A record with its receipt: its number in the whole recording, segment, chain, place in the chain, and hash."""

    number: int
    segment: int
    chain: str
    sequence: int
    hash: bytes
    record: Record | Noted | Header


def list_flows(
    places: Places, *, agent: str | None = None, resource: str | None = None, since: int = 0, limit: int = 50
) -> list[FlowSummary]:
    """The flows last active, newest first, at most `limit`; `since` in nanoseconds. Raises RecordingError."""
    present = sorted(places.segments(), reverse=True)
    found: dict[str, FlowSummary] = {}
    seen: set[str] = set()
    for position, (_, path) in enumerate(present):
        with segments.open_to_read(path) as connection:
            for row in connection.execute(
                "SELECT * FROM flows WHERE touched >= ? AND (agent IS NULL OR ? IS NULL OR agent = ?)"
                " AND (resource IS NULL OR ? IS NULL OR resource = ?) ORDER BY touched DESC",
                (since, agent, agent, resource, resource),
            ):
                summary = FlowSummary(*row)
                if summary.flow in seen:
                    continue
                seen.add(summary.flow)
                if summary.opened is None:
                    _complete(summary, present[position + 1 :])
                if agent in (None, summary.agent) and resource in (None, summary.resource):
                    found[summary.flow] = summary
                if len(found) >= limit:
                    break
        if len(found) >= limit:
            break
    return sorted(found.values(), key=lambda flow: flow.touched, reverse=True)


def find_flow(places: Places, beginning: str) -> str:
    """The one flow whose id is, or begins with, these characters. Raises RecordingError where there is none, or several."""
    candidates: set[str] = set()
    for _, path in places.segments():
        with segments.open_to_read(path) as connection:
            if connection.execute("SELECT 1 FROM flows WHERE flow = ?", (beginning,)).fetchone():
                return beginning
            rows = connection.execute(
                "SELECT flow FROM flows WHERE flow > ? AND substr(flow, 1, ?) = ? ORDER BY flow LIMIT ?",
                (beginning, len(beginning), beginning, _CANDIDATES_MAX),
            )
            candidates.update(row[0] for row in rows)
    if len(candidates) == 1:
        return candidates.pop()
    if candidates:
        raise RecordingError("several flows begin like that: " + ", ".join(sorted(candidates)[:_CANDIDATES_MAX]))
    raise RecordingError("no such flow in the recording")


def read_flow(places: Places, flow: str) -> Iterator[Kept]:
    """The records of one flow in the order they were written. Raises RecordingError."""
    for number, path in places.segments():
        yield from _read(number, path, "AND flow = ?", (flow,))


def read_flow_page(
    places: Places, flow: str, after: int, limit: int, first_segment: int = 1, last_segment: int | None = None
) -> tuple[list[Kept], list[Kept]]:
    """(records before, the page): the flow's first `limit` records after the one numbered `after`, and a few that come
    before them. `first_segment` and `last_segment`: between which its records are (None: the newest). Raises
    RecordingError."""
    before: list[Kept] = []
    page: list[Kept] = []
    for number, path in places.segments():
        if number < first_segment or (last_segment is not None and number > last_segment):
            continue
        with segments.open_to_read(path) as connection:
            earlier = connection.execute(
                f"{_SELECT} WHERE seq <= ? AND flow = ? ORDER BY seq DESC LIMIT {_ROWS_BEFORE}", (after, flow)
            ).fetchall()
            rows = connection.execute(
                f"{_SELECT} WHERE seq > ? AND flow = ? ORDER BY seq LIMIT ?", (after, flow, limit - len(page))
            ).fetchall()
        before = [*before, *(_kept(number, row) for row in reversed(earlier))][-_ROWS_BEFORE:]
        page += [_kept(number, row) for row in rows]
        if len(page) >= limit:
            break
    return before, page


def read_all(places: Places) -> Iterator[Kept]:
    """Every record there is, journals' headers and control's notes among them. Raises RecordingError."""
    for number, path in places.segments():
        yield from _read(number, path, "", ())


def open_exact(places: Places, key: X25519PrivateKey, kept: Kept) -> str | None:
    """The exact text of a record whose shown text differs from it, or None where it has none. Needs control's private
    key. Raises RecordingError."""
    sealed = getattr(kept.record, "sealed", None)
    if sealed is None:
        return None
    chain, _, first = kept.chain.partition(".")
    for _, path in places.segments():
        with segments.open_to_read(path) as connection:
            row = connection.execute("SELECT payload FROM records WHERE seq = ?", (int(first),)).fetchone()
        if row is not None:
            try:
                header = _header.decode(row[0])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise RecordingError("a journal's header cannot be read") from error
            return Opener(key, header.sealing, chain.encode()).open(sealed)
    raise RecordingError("the segment with this journal's header is missing")


def undrained(places: Places) -> int:
    """Bytes in journals that are in no segment yet. Raises RecordingError."""
    newest = max(places.segments(), default=None)
    reached: dict[str, tuple[int, int]] = {}
    if newest is not None:
        with segments.open_to_read(newest[1]) as connection:
            for journal, part, place in connection.execute("SELECT journal, part, place FROM chains WHERE state = 'open'"):
                reached[journal] = (part, place)
    total = 0
    try:
        for path in places.journals.iterdir():
            name = PartName.read(path.name)
            if name is None:
                continue
            part, place = reached.get(name.journal, (1, 0))
            size = path.stat().st_size
            if name.part >= part:
                total += size - (place if name.part == part else 0)
    except FileNotFoundError:
        # Taken in and removed while we looked.
        return total
    except OSError as error:
        raise RecordingError(f"{places.journals} cannot be read: {error.strerror}") from error
    return max(total, 0)


def _complete(summary: FlowSummary, earlier: list[tuple[int, Path]]) -> None:
    """Adds what earlier segments know, back to the one where the flow was opened."""
    for _, path in earlier:
        with segments.open_to_read(path) as connection:
            row = connection.execute("SELECT * FROM flows WHERE flow = ?", (summary.flow,)).fetchone()
        if row is not None:
            summary.join(FlowSummary(*row))
        if summary.opened is not None:
            return


def _read(number: int, path: Path, condition: str, values: tuple[str, ...]) -> Iterator[Kept]:
    """Rows in steps, so that no transaction stays open while a caller prints."""
    last = 0
    while True:
        with segments.open_to_read(path) as connection:
            rows = _some(connection, condition, (last, *values))
        for row in rows:
            yield _kept(number, row)
        if len(rows) < _ROWS_AT_ONCE:
            return
        last = rows[-1][0]


def _kept(segment: int, row: _Row) -> Kept:
    try:
        record = _decode.decode(row[4])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordingError(f"record {row[0]} cannot be read; verify the recording") from error
    return Kept(row[0], segment, row[1], row[2], row[3], record)


def _some(connection: sqlite3.Connection, condition: str, values: tuple[object, ...]) -> list[_Row]:
    return connection.execute(f"{_SELECT} WHERE seq > ? {condition} ORDER BY seq LIMIT {_ROWS_AT_ONCE}", values).fetchall()
