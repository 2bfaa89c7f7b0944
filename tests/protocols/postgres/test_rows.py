"""What becomes of rows: the same whatever they are cut into, and the same as if each value had been looked at alone."""

from __future__ import annotations

import struct
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.decisions import Mask, ValueMask
from appliance.errors import PeerError
from appliance.masking import masks
from appliance.masking.detectors import Detectors
from appliance.protocols.postgres.messages import COPY_DATA, DATA_ROW, TARGET_BOUNDS, DataRow, Field, Framer, frame
from appliance.protocols.postgres.rows import TEXT_LIKE_OIDS, Rows

SHAPES = (
    ValueMask("pan", Mask("keep_last", 4)),
    ValueMask("email", Mask("email")),
    ValueMask("ssn", Mask("redact")),
)
DETECTORS = Detectors(SHAPES)
OWN = Detectors((*SHAPES, ValueMask("staff", Mask("redact"), r"\bEMP-\d{6}\b")))

TEXT, INT4, INT8, FLOAT8, NUMERIC, MONEY, BYTEA, JSONB, TIMESTAMP, ANY_USERS = (
    25,
    23,
    20,
    701,
    1700,
    790,
    17,
    3802,
    1114,
    16_500,
)

# What is looked for, what looks like it, and what lies beside it: in pieces, so that they come at every place of a value.
PIECES = [
    b"4111111111111111", b"4111 1111 1111 1111", b"5500-0055-5555-5559", b"3782.822463.10005", b"41111111 11111111",
    b"4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", b"41-11-11-11-11-11-11-11", b"34" + b"31" * 15,
    "４１１１１１１１１１１１１１１１".encode(), "4111\u20111111\u20111111\u20111111".encode(),
    "4111\u00a01111\u00a01111\u00a01111".encode(),
    b"a@b.co", b"ada.quill@shop.example", "ünal@exämple.de".encode(), "alice\uff20example.com".encode(), b"a@b.com@x.org",
    b"123-45-6789", b"123 45 6789", "123\u201145\u20116789".encode(),
    b"\\x" + b"card 4111111111111111".hex().encode(), b"\\x" + b"a@b.com".hex().encode(), b"\\x00",
    b"EMP-123456", b"4.111111111111111e+15", b"$4,111,111,111,111,111.00", b'{"a": 4111111111111111}', b'{"a": "a@b.co"}',
    b"1700000000000", b"2024-01-02 03:04:05", b"+1-202-555-0123", b"lodash@4.17.21", b"@mention",
    "it’s".encode(), "漢字".encode(),
    b"4111111111111112", b"41111111", b"11111111", b"1", b"4", b"-", b" ", b".", b"x", b"@", b"\\", b"\xd9", b"\xff",
    b"so it was so it was ", b"called about an order " * 9,
]  # fmt: skip
PLANTED = PIECES[:24]

TEXTS = st.lists(st.sampled_from(PIECES), max_size=4).map(b"".join)
BINARY = {
    INT8: st.integers(0, 2**63 - 1).map(lambda number: struct.pack("!q", number))
    | st.just(struct.pack("!q", 4111111111111111)),
    FLOAT8: st.sampled_from([struct.pack("!d", number) for number in (0.5, 4111111111111111.0, 1e300)]),
    NUMERIC: st.just(struct.pack("!hhHH4h", 4, 3, 0, 0, 4111, 1111, 1111, 1111)),
    JSONB: st.sampled_from([b'\x01{"a": "4111111111111111"}', b'\x01{"a": 1}', b"\x02{}"]),
    TEXT: TEXTS,
    BYTEA: TEXTS,
    ANY_USERS: TEXTS,
}


def field(name: str, oid: int, code: int = 0) -> Field:
    return Field(name, 0, 0, oid, -1, -1, code)


@st.composite
def results(draw: st.DrawFn) -> tuple[tuple[Field, ...], dict[int, Mask], list[DataRow]]:
    types = draw(
        st.lists(
            st.sampled_from([TEXT, TEXT, TEXT, INT8, FLOAT8, MONEY, BYTEA, JSONB, TIMESTAMP, ANY_USERS]),
            min_size=1,
            max_size=5,
        )
    )
    codes = [draw(st.booleans()) and oid in BINARY for oid in types]
    fields = tuple(field(f"c{place}", oid, int(code)) for place, (oid, code) in enumerate(zip(types, codes, strict=True)))
    hidden = draw(
        st.dictionaries(
            st.integers(0, len(types) - 1),
            st.sampled_from([Mask("redact"), Mask("null"), Mask("email"), Mask("keep_last", 4), Mask("keep_last", 2)]),
            max_size=3,
        )
    )
    row = st.tuples(*(st.none() | (BINARY[oid] if code else TEXTS) for oid, code in zip(types, codes, strict=True)))
    return fields, hidden, [DataRow(values) for values in draw(st.lists(row, max_size=8))]


def one_by_one(detectors: Detectors | None, fields: tuple[Field, ...], hidden: dict[int, Mask], row: DataRow) -> bytes:
    """The rule, with no thought of speed: a column's mask, or else what the detectors make of the value."""
    values = []
    for position, (column, value) in enumerate(zip(fields, row.values, strict=True)):
        if value is None:
            values.append(None)
        elif position in hidden:
            is_text = column.type_oid in TEXT_LIKE_OIDS or column.type_oid >= 16_384
            values.append(masks.apply(hidden[position], value) if is_text else None)
        elif detectors is None:
            values.append(value)
        else:
            clean = detectors.clean_binary if column.format else detectors.clean_text
            values.append(clean(column.type_oid, value))
    return DataRow(tuple(values)).build()


def through(rows: Rows, data: bytes, cuts: list[int], code: int = DATA_ROW) -> bytes:
    """What the client receives of data that arrives in pieces."""
    framer, out = Framer(TARGET_BOUNDS), b""
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        framer.feed(data[start:stop])
        while framer.peek() is not None:
            run, count = framer.take_run(code, 1 << 10)
            if not run:
                break
            out += rows.take(run, count) if code == DATA_ROW else rows.take_copies(run, count)
    assert not len(framer)
    return out


@given(results(), st.data())
@pytest.mark.parametrize("detectors", [DETECTORS, OWN, None], ids=["shapes", "own", "none"])
def test_rows_in_bulk_are_what_each_value_by_itself_gives_however_they_are_cut(
    detectors: Detectors | None, result: tuple[tuple[Field, ...], dict[int, Mask], list[DataRow]], data: st.DataObject
) -> None:
    fields, hidden, values = result
    stream = b"".join(row.build() for row in values)
    expected = b"".join(one_by_one(detectors, fields, hidden, row) for row in values)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    rows = Rows(detectors)
    rows.describe(fields, hidden)
    assert through(rows, stream, cuts) == expected
    assert rows.count == len(values)
    assert rows.size == len(expected)
    assert rows.digest == (sha256(expected).hexdigest() if expected else "")


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=8), st.data())
def test_copied_rows_in_bulk_are_what_each_by_itself_gives_however_they_are_cut(
    lines: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    payloads = [b"\t".join(line) + b"\n" for line in lines]
    stream = b"".join(frame(COPY_DATA, payload) for payload in payloads)
    expected = b"".join(frame(COPY_DATA, DETECTORS.clean(payload)) for payload in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    rows = Rows(DETECTORS)
    assert through(rows, stream, cuts, COPY_DATA) == expected
    assert rows.count == len(lines)


@pytest.mark.parametrize("planted", PLANTED)
def test_a_value_is_found_at_every_place_of_a_long_run(planted: bytes) -> None:
    # Each length before it, one after the other, so that it stands at every distance from where the first look samples,
    # and so that every low byte of a length comes right before it.
    fields = (field("before", TEXT), field("value", TEXT), field("after", INT4))
    wrapped = [DataRow((b"x" * length, b"y" * (length % 7) + b":" + planted, b"42")) for length in range(300)]
    filler = [DataRow((b"called about an order", "Grüße".encode(), None))] * 20
    values = [each for row in wrapped for each in (row, *filler[:3])]
    rows = Rows(DETECTORS)
    rows.describe(fields, {})
    expected = b"".join(one_by_one(DETECTORS, fields, {}, row) for row in values)
    assert planted not in expected or DETECTORS.clean(planted) == planted
    assert through(rows, b"".join(row.build() for row in values), []) == expected


def test_a_run_in_which_nothing_is_found_goes_on_as_the_same_object() -> None:
    rows = Rows(DETECTORS)
    rows.describe((field("id", INT8), field("phone", TEXT), field("at", TIMESTAMP)), {})
    run = DataRow((b"7", b"+1-202-555-0123", b"2024-01-02 03:04:05")).build() * 50
    assert rows.take(run, 50) is run


@pytest.mark.parametrize("size", [100, 70_000, 1 << 20])
def test_a_number_at_the_end_of_a_large_value_is_found(size: int) -> None:
    rows = Rows(DETECTORS)
    rows.describe((field("text", TEXT),), {})
    row = DataRow((b"so it was " * (size // 10) + b"4111 1111 1111 1111",)).build()
    assert rows.take(row, 1).endswith(b" **** **** **** 1111")


@pytest.mark.parametrize(
    "row",
    [
        b"",
        b"\0",
        b"\0\1",
        b"\0\3\0\0\0\1a\0\0\0\1b\0\0\0\1c",
        b"\0\2\0\0\0\1a",
        b"\0\2\0\0\0\1a\0\0\0\5b",
        b"\0\2\0\0\0\1a\xff\xff\xff\xfe",
        b"\0\2\x7f\xff\xff\xffa\0\0\0\1b",
        b"\0\2\xff\xff\xff\xfe\0\0\0\1b",
    ],
)
def test_a_row_that_is_not_what_was_described_is_no_row_to_mask(row: bytes) -> None:
    rows = Rows(None)
    rows.describe((field("a", TEXT), field("b", TEXT)), {1: Mask("redact")})
    for behind in (b"", DataRow((b"a", b"b")).build()):
        with pytest.raises(PeerError):
            rows.take(frame(DATA_ROW, row) + behind, 1 + bool(behind))


def test_the_sample_has_the_first_rows_as_the_client_saw_them() -> None:
    rows = Rows(DETECTORS)
    rows.describe((field("name", TEXT), field("card", TEXT), field("raw", BYTEA, 1)), {1: Mask("redact")})
    rows.take(DataRow(("Grüße".encode(), b"4111111111111111", b"\1\2")).build() + DataRow((None, None, None)).build(), 2)
    assert rows.sample == (("Grüße", "****", "\\x0102"), (None, None, None))
