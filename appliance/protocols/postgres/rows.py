"""How rows change on their way to the client: masked by position, cleaned by value, counted and summed up for the record.

A result without masks costs a walk over its message headers and a hash; its bytes go on as they came. The policy was
asked when the command was: nothing here decides.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Final

from appliance.decisions import Mask
from appliance.effects import Column
from appliance.errors import PeerError
from appliance.masking import masks
from appliance.masking.detectors import Detectors
from appliance.protocols.postgres.messages import DATA_ROW, DataRow, Field

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
_SIZE = struct.Struct("!i")
_LENGTH = struct.Struct("!I")


class Rows:
    """The rows that answer one command. `detectors` is None where no value is looked for. Where values must be seen,
    `describe` comes before the first row; a text with several results describes each."""

    def __init__(self, detectors: Detectors | None) -> None:
        self.count = 0
        self.size = 0
        self.is_described = False
        self.fields: tuple[Field, ...] = ()
        self._masks: Mapping[int, Mask] = {}
        self._detectors = detectors
        self._hash = hashlib.blake2b(digest_size=32)
        self._sample: list[tuple[str | None, ...]] = []
        self._sample_size = 0

    def describe(self, fields: tuple[Field, ...], masks: Mapping[int, Mask]) -> None:
        """What the next rows are made of; `masks` maps positions from 0 to masks."""
        self.fields = fields
        self.is_described = True
        self._masks = masks

    @property
    def is_plain(self) -> bool:
        """No value has to be seen, so that a row may pass in pieces."""
        return not self._masks and self._detectors is None

    @property
    def digest(self) -> str:
        """BLAKE2b of every byte that `take`, `take_copy` and `take_piece` gave, in hex; "" before the first."""
        return self._hash.hexdigest() if self.size else ""

    @property
    def sample(self) -> tuple[tuple[str | None, ...], ...]:
        """The first rows as the client saw them, as texts."""
        return tuple(self._sample)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns for the record."""
        return tuple(
            Column(field.name, str(field.type_oid), None, position in self._masks)
            for position, field in enumerate(self.fields)
        )

    def take(self, run: bytes) -> bytes:
        """A run of whole DataRow messages, as the client receives them."""
        out = run if self.is_plain else self._masked(run)
        self._count(out)
        self._sum_up(out)
        return out

    def take_piece(self, piece: bytes, *, is_first: bool) -> bytes:
        """A part of a row too large to hold. Only where `is_plain`."""
        if is_first:
            self.count += 1
        self._sum_up(piece)
        return piece

    def take_copy(self, data: bytes) -> bytes:
        """The payload of one CopyData message in text form, as the client receives it. Counts as one row, as the server
        sends them."""
        out = data if self._detectors is None else self._detectors.clean(data)
        self.count += 1
        if self._may_sample():
            text = out[: SAMPLE_SIZE_MAX - self._sample_size].decode("utf-8", "replace").removesuffix("\n")
            self._keep((text,))
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

    def _count(self, out: bytes) -> None:
        at, end, count = 0, len(out), 0
        while at < end and self._may_sample():
            size = _LENGTH.unpack_from(out, at + 1)[0] + 1
            self._keep(self._as_texts(DataRow.read(out[at + 5 : at + size])))
            at += size
            count += 1
        while at < end:  # bounded by the bytes that are here; this loop is what an unmasked row costs
            at += _LENGTH.unpack_from(out, at + 1)[0] + 1
            count += 1
        self.count += count

    def _as_texts(self, row: DataRow) -> tuple[str | None, ...]:
        texts: list[str | None] = []
        room = SAMPLE_SIZE_MAX - self._sample_size
        for position, value in enumerate(row.values):
            if value is None:
                texts.append(None)
                continue
            piece = value[: max(room, 0)]
            room -= len(piece)
            is_text = not self._is_binary(position)
            texts.append(piece.decode("utf-8", "replace") if is_text else "\\x" + piece.hex())
        return tuple(texts)

    def _is_binary(self, position: int) -> bool:
        if position >= len(self.fields):
            return False
        field = self.fields[position]
        return field.format == 1 and field.type_oid not in TEXT_LIKE_OIDS

    def _masked(self, run: bytes) -> bytes:
        out = bytearray()
        at, end = 0, len(run)
        while at < end:  # bounded by the bytes that are here
            size = _HEADER.unpack_from(run, at)[1] + 1
            self._mask_row(run, at + 5, at + size, out)
            at += size
        return bytes(out)

    def _mask_row(self, run: bytes, at: int, end: int, out: bytearray) -> None:
        """One row, from its column count at `at` to `end`; written behind what `out` holds."""
        if end - at < 2:
            raise PeerError("a DataRow message without a column count")
        count = int.from_bytes(run[at : at + 2], "big")
        if count != len(self.fields):
            raise PeerError(f"a row of {count} columns where {len(self.fields)} were described")
        start = len(out)
        out += b"\0\0\0\0\0"
        out += run[at : at + 2]
        at += 2
        for position in range(count):
            if at + 4 > end:
                raise PeerError("a DataRow message with less in it than it declares")
            size = _SIZE.unpack_from(run, at)[0]
            at += 4
            if size == -1:
                out += b"\xff\xff\xff\xff"
                continue
            if size < 0 or at + size > end:
                raise PeerError("a DataRow message with less in it than it declares")
            value = self._value(position, run[at : at + size])
            at += size
            if value is None:
                out += b"\xff\xff\xff\xff"
            else:
                out += _SIZE.pack(len(value))
                out += value
        if at != end:
            raise PeerError("a DataRow message with bytes behind its last field")
        _HEADER.pack_into(out, start, DATA_ROW, len(out) - start - 1)

    def _value(self, position: int, value: bytes) -> bytes | None:
        field = self.fields[position]
        mask = self._masks.get(position)
        if mask is not None:
            # Stars are no value of any other type of the system's own, and a client that decodes them would fail.
            is_text = field.type_oid in TEXT_LIKE_OIDS or field.type_oid >= _FIRST_USER_OID
            return masks.apply(mask, value) if is_text else None
        if self._detectors is None:
            return value
        if field.format == 1:
            return self._detectors.clean_binary(field.type_oid, value)
        return self._detectors.clean_text(field.type_oid, value)
