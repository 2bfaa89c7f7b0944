"""How rows change on their way to the client: masked by position, cleaned by value, counted and summed up for the record.

Rows come in runs and are worked on as such: what holds nothing goes on as it came, and only the columns that have a mask
and the values that look suspicious are touched one by one. The policy was asked when the command was: nothing here
decides. docs/decisions/0007-rows-in-bulk.md says what was measured.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

from appliance.decisions import Mask
from appliance.errors import PeerError
from appliance.masking import masks
from appliance.masking.detectors import Detectors, is_innocent
from appliance.protocols.postgres.messages import Field

# What a person sees of a result later: enough to know what it was, little enough to keep for every command.
SAMPLE_ROWS_MAX: Final = 20
SAMPLE_SIZE_MAX: Final = 8 << 10

# A row whose values must be seen is held whole; a larger one cannot be masked and ends the flow.
MASKED_ROW_SIZE_MAX: Final = 16 << 20

# Types whose binary form is the bytes of their text form, so that a mask for one fits the other: text, bpchar, varchar,
# name, unknown (pg_type.dat).
TEXT_LIKE_OIDS: Final = frozenset({25, 1042, 1043, 19, 705})

_FIRST_USER_OID: Final = 16_384  # FirstNormalObjectId (access/transam.h)

_HEADER = struct.Struct("!BI")
_ROW = struct.Struct("!BIH")
_HEADER_SIZE: Final = 5
_SIZE = struct.Struct("!i")
_LENGTH = struct.Struct("!I")
_NULL: Final = b"\xff\xff\xff\xff"
_SHORT: Final = "a DataRow message with less in it than it declares"

# What becomes of a value; None is NULL, and the same object means no change.
_Change = Callable[[bytes], bytes | None]


class Rows:
    """The rows that answer one command. `detectors` is None where no value is looked for. Where values must be seen,
    `describe` comes before the first row; a text with several results describes each."""

    __slots__ = (
        "_binary",
        "_changes",
        "_detectors",
        "_hash",
        "_masks",
        "_may_hold",
        "_sample",
        "_sample_size",
        "count",
        "fields",
        "is_described",
        "size",
    )

    def __init__(self, detectors: Detectors | None) -> None:
        self.count = 0
        self.size = 0
        self.is_described = False
        self.fields: tuple[Field, ...] = ()
        self._masks: Mapping[int, Mask] = {}
        self._detectors = detectors
        # What is done with each value of a column, by position in order, each with how many columns stand before it
        # since the one before, and with what is written in place of every value, if it is always the same; whether anything
        # that is looked for may stand in any other.
        self._changes: tuple[tuple[int, _Change, bytes | None], ...] = ()
        self._may_hold = False
        # Where values come that are no texts.
        self._binary: frozenset[int] = frozenset()
        self._hash = hashlib.sha256()
        self._sample: list[tuple[str | None, ...]] = []
        self._sample_size = 0

    def describe(self, fields: tuple[Field, ...], masks: Mapping[int, Mask]) -> None:
        """What the next rows are made of; `masks` maps positions from 0 to masks."""
        self.fields = fields
        self.is_described = True
        self._masks = masks
        changes: list[tuple[int, _Change, bytes | None]] = []
        self._may_hold = False
        last = -1
        for position, field in enumerate(fields):
            change = self._change(position, field)
            if change is not None:
                mask = masks.get(position)
                changes.append((position - last - 1, change, None if mask is None else _written(mask, change)))
                last = position
            elif self._detectors is not None and not is_innocent(field.type_oid):
                self._may_hold = True
        self._changes = tuple(changes)
        self._binary = frozenset(
            [position for position, field in enumerate(fields) if field.format == 1 and field.type_oid not in TEXT_LIKE_OIDS]
        )

    def begin_again(self) -> None:
        """As after `describe`, for the same rows of another command."""
        self.count = self.size = self._sample_size = 0
        self._hash = hashlib.sha256()
        self._sample = []

    @property
    def is_plain(self) -> bool:
        """No value has to be seen, so that a row may pass in pieces."""
        return not self._masks and self._detectors is None

    @property
    def digest(self) -> str:
        """SHA-256 of every byte that `take`, `take_copies` and `take_piece` gave, in hex; "" before the first."""
        return self._hash.hexdigest() if self.size else ""

    @property
    def sample(self) -> tuple[tuple[str | None, ...], ...]:
        """The first rows as the client saw them, as texts."""
        return tuple(self._sample)

    @property
    def masks(self) -> Mapping[int, Mask]:
        """Which positions of the rows are masked, from 0, and how."""
        return self._masks

    def take(self, run: bytes, count: int) -> bytes:
        """A run of `count` whole DataRow messages, as the client receives them."""
        if self._detectors is not None and not self.is_described:
            raise PeerError("rows without a description")
        out = run
        if self._changes:
            out = self._changed(run)
        if self._may_hold:
            assert self._detectors is not None
            places = self._detectors.suspects(out)
            if places:
                out = self._cleaned(out, places, self._clean_row)
        at = 0
        while at < len(out) and self._may_sample():
            end = at + 1 + _LENGTH.unpack_from(out, at + 1)[0]
            self._keep_row(out, at + _HEADER_SIZE, end)
            at = end
        self.count += count
        self._sum_up(out)
        return out

    def take_piece(self, piece: bytes, *, is_first: bool) -> bytes:
        """A part of a row too large to hold. Only where `is_plain`."""
        if is_first:
            self.count += 1
        self._sum_up(piece)
        return piece

    def take_copies(self, run: bytes, count: int) -> bytes:
        """A run of `count` whole CopyData messages in text form, as the client receives them. Each counts as one row, as
        the server sends them."""
        out = run
        if self._detectors is not None:
            places = self._detectors.suspects(run)
            if places:
                out = self._cleaned(run, places, self._clean_copy)
        at = 0
        while at < len(out) and self._may_sample():
            end = at + 1 + _LENGTH.unpack_from(out, at + 1)[0]
            shown = out[at + _HEADER_SIZE : min(end, at + _HEADER_SIZE + SAMPLE_SIZE_MAX - self._sample_size)]
            self._keep((shown.decode("utf-8", "replace").removesuffix("\n"),))
            at = end
        self.count += count
        self._sum_up(out)
        return out

    def _sum_up(self, data: bytes) -> None:
        self.size += len(data)
        self._hash.update(data)

    def _may_sample(self) -> bool:
        return len(self._sample) < SAMPLE_ROWS_MAX and self._sample_size < SAMPLE_SIZE_MAX

    def _keep(self, row: tuple[str | None, ...]) -> None:
        self._sample.append(row)
        self._sample_size += sum(len(value) for value in row if value is not None) + len(row)

    def _keep_row(self, run: bytes, at: int, end: int) -> None:
        """Take a row into the sample, from its column count at `at` to `end`."""
        texts: list[str | None] = []
        room = SAMPLE_SIZE_MAX - self._sample_size
        length, binary = 0, self._binary
        for position, (start, stop) in enumerate(_values(run, at, end)):
            if stop < start:
                texts.append(None)
                continue
            piece = run[start:stop] if stop - start <= room else run[start : start + max(room, 0)]
            room -= len(piece)
            text = "\\x" + piece.hex() if binary and position in binary else piece.decode("utf-8", "replace")
            length += len(text)
            texts.append(text)
        self._sample.append(tuple(texts))
        self._sample_size += length + len(texts)

    def _change(self, position: int, field: Field) -> _Change | None:
        """What is done with each value of a column; None where only suspicious ones are looked at."""
        mask = self._masks.get(position)
        if mask is not None:
            # Stars are no value of any other type of the system's own, and a client that decodes them would fail.
            is_text = field.type_oid in TEXT_LIKE_OIDS or field.type_oid >= _FIRST_USER_OID
            return masks.applying(mask) if is_text else _nothing
        if self._detectors is not None and self._detectors.must_see(field.type_oid, field.format):
            return self._cleaning(field)
        return None

    def _cleaning(self, field: Field) -> _Change:
        assert self._detectors is not None
        clean = self._detectors.clean_binary if field.format == 1 else self._detectors.clean_text
        return partial(clean, field.type_oid)

    def _changed(self, run: bytes) -> bytes:
        """Rows with every column changed that has a change; the same object where nothing is."""
        number, changes = len(self.fields), self._changes
        unpack, pack = _SIZE.unpack_from, _SIZE.pack
        parts: list[bytes] = []
        at, end, done = 0, len(run), 0  # what stands before `done` is in parts
        while at < end:  # bounded by the bytes that are here
            if end - at < _ROW.size:
                raise PeerError("a DataRow message without a column count")
            code, length, count = _ROW.unpack_from(run, at)
            if length < _ROW.size - 1 or count != number:
                raise PeerError(f"a row of {count} columns where {number} were described")
            row_end = at + 1 + length
            place = at + _ROW.size
            head, grown = -1, 0
            for before, change, fixed in changes:
                while before:
                    if place + 4 > row_end:
                        raise PeerError(_SHORT)
                    (size,) = unpack(run, place)
                    place += 4 + size if size >= 0 else 4
                    before -= 1
                value_at = place + 4
                if value_at > row_end:
                    raise PeerError(_SHORT)
                (size,) = unpack(run, place)
                if size == -1:
                    place = value_at
                    continue
                value_end = value_at + size
                if size < 0 or value_end > row_end:
                    raise PeerError(_SHORT)
                if fixed is None:
                    value = run[value_at:value_end]
                    changed = change(value)
                    if changed is value:
                        place = value_end
                        continue
                    written = _NULL if changed is None else pack(len(changed)) + changed
                else:
                    written = fixed
                if head < 0:
                    head = len(parts) + 1
                    parts += (run[done:at], b"")
                    done = at + _ROW.size
                parts += (run[done:place], written)
                grown += len(written) - 4 - size
                done = place = value_end
            if head >= 0:
                parts[head] = _ROW.pack(code, length + grown, count)
            at = row_end
        if not parts:
            return run
        parts.append(run[done:])
        return b"".join(parts)

    def _cleaned(
        self,
        run: bytes,
        places: list[tuple[int, int]],
        clean: Callable[[bytes, int, int, list[tuple[int, int]]], list[bytes] | None],
    ) -> bytes:
        """Messages with the suspicious ones cleaned; the same object where nothing was found. `places` are in order."""
        parts: list[bytes] = []
        at, done, index = 0, 0, 0
        while index < len(places):
            end = at + 1 + _LENGTH.unpack_from(run, at + 1)[0]
            first = index
            while index < len(places) and places[index][0] < end:
                index += 1
            # Only where an own pattern has the whole run looked at does a place reach beyond one message, and then it is
            # the only one: what stands between two messages is no part of a number or of a character.
            if index > first:
                cleaned = clean(run, at + _HEADER_SIZE, end, places[first:index])
                if cleaned is not None:
                    parts.append(run[done:at])
                    parts.append(_HEADER.pack(run[at], 4 + sum(map(len, cleaned))))
                    parts += cleaned
                    done = end
                if places[index - 1][1] > end:
                    index -= 1
            at = end
        if not parts:
            return run
        parts.append(run[done:])
        return b"".join(parts)

    def _clean_row(self, run: bytes, at: int, end: int, places: list[tuple[int, int]]) -> list[bytes] | None:
        _first_value(run, at, end, len(self.fields))
        parts: list[bytes] = []
        index = 0
        done = at
        for position, (start, stop) in enumerate(_values(run, at, end)):
            while index < len(places) and places[index][1] <= start:
                index += 1
            if index == len(places):
                break
            if stop < start or places[index][0] >= stop or position in self._masks:
                continue
            value = run[start:stop]
            cleaned = self._cleaning(self.fields[position])(value)
            if cleaned is value:
                continue
            parts.append(run[done : start - 4])
            parts += (_NULL,) if cleaned is None else (_SIZE.pack(len(cleaned)), cleaned)
            done = stop
        if not parts:
            return None
        parts.append(run[done:end])
        return parts

    def _clean_copy(self, run: bytes, at: int, end: int, _: list[tuple[int, int]]) -> list[bytes] | None:
        assert self._detectors is not None
        data = run[at:end]
        cleaned = self._detectors.clean(data)
        return None if cleaned is data else [cleaned]


def _first_value(run: bytes, at: int, end: int, number: int) -> int:
    """Where the first value's length stands in a row of `number` columns whose count stands at `at`."""
    if end - at < 2:
        raise PeerError("a DataRow message without a column count")
    count = int.from_bytes(run[at : at + 2], "big")
    if count != number:
        raise PeerError(f"a row of {count} columns where {number} were described")
    return at + 2


def _values(run: bytes, at: int, end: int) -> Iterator[tuple[int, int]]:
    """From where to where the values of a row stand, from its column count at `at` to `end`. A NULL ends before it
    begins."""
    if end - at < 2:
        raise PeerError("a DataRow message without a column count")
    count = int.from_bytes(run[at : at + 2], "big")
    at += 2
    for _ in range(count):  # at most 65,535
        if at + 4 > end:
            raise PeerError(_SHORT)
        size = _SIZE.unpack_from(run, at)[0]
        at += 4
        if size == -1:
            yield at, at - 1
            continue
        if size < 0 or at + size > end:
            raise PeerError(_SHORT)
        yield at, at + size
        at += size
    if at != end:
        raise PeerError("a DataRow message with bytes behind its last field")


def _written(mask: Mask, change: _Change) -> bytes | None:
    """What a masked value becomes, with its length, if it becomes the same whatever it is."""
    if change is not _nothing and not masks.is_fixed(mask):
        return None
    shown = change(b"")
    return _NULL if shown is None else _SIZE.pack(len(shown)) + shown


def _nothing(_: bytes) -> None:
    """NULL in place of any value."""
