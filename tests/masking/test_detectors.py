"""What the detectors find, what they leave alone, and what they put in its place."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.decisions import Mask, ValueMask
from appliance.masking.detectors import _ODD, Detectors, pattern_fault

ALL = Detectors(
    (
        ValueMask("pan", Mask("keep_last", 4)),
        ValueMask("email", Mask("email")),
        ValueMask("ssn", Mask("redact")),
    )
)

FOUND = {
    "4111111111111111": "************1111",
    "4111 1111 1111 1111": "**** **** **** 1111",
    "4111-1111-1111-1111": "****-****-****-1111",
    "4111.1111.1111.1111": "****.****.****.1111",
    "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1": "* * * * * * * * * * * * 1 1 1 1",
    "41 11 11 11 11 11 11 11": "** ** ** ** ** ** 11 11",
    "41111111 11111111": "******** ****1111",
    "5500005555555559": "************5559",
    "2223003122003222": "************3222",
    "378282246310005": "***********0005",
    "3782 822463 10005": "**** ****** *0005",
    "6011111111111117": "************1117",
    "30569309025904": "**********5904",
    "3530111333300000": "************0000",
    "6200000000000005": "************0005",
    "6759649826438453": "************8453",
    "4222222222222": "*********2222",
    "4111111111111111.00": "************1111.00",
    "id 42 4111111111111111 7": "id 42 ************1111 7",
    "42 4111 1111 1111 1111 7": "42 **** **** **** 1111 7",
    "4111111111111111,5500005555555559": "************1111,************5559",
    "(7,4111111111111111,x)": "(7,************1111,x)",
    '{"card": "4111111111111111\\n4111111111111111"}': '{"card": "************1111\\n************1111"}',
    "card=4111111111111111;": "card=************1111;",
    "４１１１１１１１１１１１１１１１": "************１１１１",
    "٤١١١١١١١١١١١١١١١": "************١١١١",
    "4111\u20111111\u20111111\u20111111": "***************1111",
    "4111\u00a01111\u00a01111\u00a01111": "***************1111",
    "4111\u200b1111\u200b1111\u200b1111": "***************1111",
    "123-45-6789": "****",
    "123 45 6789": "****",
    "1 123-45-6789": "1 ****",
    "SSN:123-45-6789.": "SSN:****.",
    "123\u201145\u20116789": "****",
    "alice@example.com": "****@****",
    "<alice.o'hara+x@mail.example.co.uk>": "<****@****>",
    "a@b.com,c@d.org": "****@****,****@****",
    "ünal@exämple.de": "****@****",
    "alice\uff20example.com": "****@****",
    "mailto:a@xn--mnchen-3ya.xn--p1ai": "mailto:****@****",
}

BENIGN = [
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "41111111-1111-1111-1111-111111111111",
    "00004111-1111-1111-1111-000000000000",
    "4006381333931",
    "1234567890123456",
    "4111111111111112",
    "41111111111111111",
    "411111111111111",
    "0.4111111111111111",
    "0.5500005555555559",
    "1700000000000",
    "20240101123456",
    "2024-01-02 03:04:05.123456+00",
    "2024-01-02",
    "+49 30 1234567",
    "+4915112345678",
    "555-123-4567",
    "(212) 555-0123",
    "000-12-3456",
    "666-12-3456",
    "900-12-3456",
    "123-00-4567",
    "123-45-0000",
    "123456789",
    "1123-45-6789",
    "123-45-67890",
    "978-3-16-148410-0",
    "9783161484100",
    "192.168.100.200",
    "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
    "DE89 3704 0044 0532 0130 00",
    "DE89370400440532013000",
    "d41d8cd98f00b204e9800998ecf8427e",
    "41111111111111110a0b0c0d0e0f0a0b",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
    "10 20 30 40 50 60 70",
    "3.14159265358979",
    "1e100",
    "9223372036854775807",
    "0000000000000000",
    "4444444444444444",
    "@mention",
    "user@localhost",
    "a@b",
    "lodash@4.17.21",
    "left-pad@1.3.0-alpha.beta",
    "logo@2x.png",
    "getty@tty1.service",
    "x @ y.com",
    "price @ 5.00",
    "SELECT $1 @> $2.x",
    "",
    "NULL",
    "Müller, Straße 12",
    "\\x0001020304",
]


@pytest.mark.parametrize(("text", "cleaned"), FOUND.items())
def test_a_value_is_hidden_wherever_it_stands(text: str, cleaned: str) -> None:
    assert ALL.clean(text.encode()).decode() == cleaned
    around = f"a row: {text}\tnext"
    assert ALL.clean(around.encode()).decode() == f"a row: {cleaned}\tnext"


@pytest.mark.parametrize("text", BENIGN)
def test_what_only_looks_alike_passes_as_the_same_object(text: str) -> None:
    data = text.encode()
    assert ALL.clean(data) is data


def test_bytea_in_hexadecimal_is_looked_into_and_stays_bytea() -> None:
    value = b"\\x" + b"card 4111111111111111.".hex().encode()
    cleaned = ALL.clean(value)
    assert cleaned == b"\\x" + b"card ************1111.".hex().encode()
    assert ALL.clean(b"\\x" + b"a@b.com".hex().upper().encode()) == b"\\x" + b"****@****".hex().encode()


def test_values_next_to_one_another_are_both_hidden_whole() -> None:
    assert ALL.clean(b"a@b.com@x.org") == b"****@********@****"


def test_a_mask_that_would_leave_a_value_gives_way_to_stars() -> None:
    keeping = Detectors((ValueMask("email", Mask("keep_last", 4)),))
    assert keeping.clean(b"aaaaaa@b.co") == b"****"


def test_an_own_pattern_is_hidden_by_its_mask() -> None:
    own = Detectors((ValueMask("staff", Mask("redact"), r"\bEMP-\d{6}\b"),))
    assert own.clean(b"for EMP-123456, EMP-1234567") == b"for ****, EMP-1234567"


@pytest.mark.parametrize(
    "pattern",
    [
        r"(",
        r"a+",
        r"(a+)+b",
        r"a*",
        r"(?:a|a){16}x{1,2}",
        r"(a)\1",
        r"\d{0,10}",
        r"(\d{1,9}x{0,9}){9}",
        "a" * 501,
        r"(?<=a{300})b",
    ],
)
def test_a_pattern_that_could_run_away_is_refused(pattern: str) -> None:
    assert pattern_fault(pattern)


@pytest.mark.parametrize(
    "pattern", [r"EMP-\d{6}", r"\b[A-Z]{2}\d{2}[A-Z0-9]{11,30}\b", r"[\w.]{1,64}@corp", r"(?<!\d)\d{5}(?!\d)"]
)
def test_a_pattern_with_bounds_is_accepted(pattern: str) -> None:
    assert pattern_fault(pattern) is None


def test_binary_numbers_that_are_card_numbers_become_null() -> None:
    number = 4111111111111111
    assert ALL.clean_binary(20, struct.pack("!q", number)) is None
    assert ALL.clean_binary(701, struct.pack("!d", float(number))) is None
    numeric = struct.pack("!hhHH4h", 4, 3, 0, 0, 4111, 1111, 1111, 1111)
    assert ALL.clean_binary(1700, numeric) is None
    assert ALL.clean_text(20, b"4111111111111111") is None
    assert ALL.clean_binary(20, struct.pack("!q", number + 1)) is not None


@pytest.mark.parametrize("oid", [16, 21, 23, 26, 700, 1082, 1114, 1184, 2950])
def test_binary_types_that_cannot_carry_such_values_pass(oid: int) -> None:
    assert ALL.clean_binary(oid, b"4111111111111111") == b"4111111111111111"


def test_binary_text_is_masked_in_place_and_json_stays_json() -> None:
    assert ALL.clean_binary(25, b"4111111111111111") == b"************1111"
    assert ALL.clean_binary(3802, b'\x01{"a": "4111111111111111"}') == b'\x01{"a": "************1111"}'
    assert ALL.clean_binary(3802, b'\x01{"a": 4111111111111111}') is None
    assert ALL.clean_binary(3802, b'\x01{"a": 1}') == b'\x01{"a": 1}'
    assert ALL.clean_text(114, b'{"a": 4111111111111111}') is None


@pytest.mark.parametrize("size", [16, 48, 49, 57, 304])
def test_a_value_in_a_binary_array_is_found_whatever_its_length_word_looks_like(size: int) -> None:
    element = b"4111111111111111".ljust(size)
    array = struct.pack("!iiiiii", 1, 0, 25, 1, 1, size) + element
    assert ALL.clean_binary(1009, array) is None
    record = struct.pack("!iii", 1, 25, size) + element
    assert ALL.clean_binary(2249, record) is None


def test_a_card_number_in_a_binary_array_of_numbers_is_found() -> None:
    array = struct.pack("!iiiiiiq", 1, 0, 20, 1, 1, 8, 4111111111111111)
    assert ALL.clean_binary(1016, array) is None
    harmless = struct.pack("!iiiiiiq", 1, 0, 20, 1, 1, 8, 42)
    assert ALL.clean_binary(1016, harmless) == harmless


def test_no_masks_mean_no_change() -> None:
    none = Detectors(())
    data = b"4111111111111111"
    assert none.is_empty
    assert none.clean(data) is data
    assert none.clean_binary(20, data) is data


def test_every_unusual_digit_separator_and_sign_is_a_reason_to_look() -> None:
    odd = [chr(code) for code in range(0x80, 0x110000) if not 0xD800 <= code < 0xE000 and _ODD.match(chr(code))]
    assert len(odd) > 600
    assert [character for character in odd if not ALL.may_hold(f"harmless {character}".encode())] == []
    # What other writing needs is none.
    assert not ALL.may_hold("“it’s” naïve, Ελλάδα, Привет, 漢字, かな, 한국어".encode())


PIECES = st.lists(
    st.one_of(st.sampled_from([*FOUND, *BENIGN, " ", "-", "1", "\\x", "@", ".", "4111"]), st.text(max_size=5)), max_size=12
)


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    ALL.clean(data)
    for oid in (17, 20, 25, 114, 701, 1009, 1016, 1700, 2249, 3802):
        ALL.clean_binary(oid, data)
        ALL.clean_text(oid, data)


@given(PIECES)
def test_no_text_raises_and_the_first_look_misses_nothing(pieces: list[str]) -> None:
    data = "".join(pieces).encode("utf-8", "surrogatepass")
    text = data.decode("utf-8", "surrogateescape")
    if ALL.spans(text):
        assert ALL.may_hold(data)
        assert ALL.clean(data) != data


@given(st.sampled_from(list(FOUND)))
def test_masking_twice_is_masking_once(text: str) -> None:
    once = ALL.clean(text.encode())
    assert ALL.clean(once) is once


@given(st.integers(min_value=10**14, max_value=10**15 - 1), st.sampled_from(["", " ", "-"]))
def test_every_visa_number_is_found(stem: int, separator: str) -> None:
    digits = [4, *map(int, str(stem)[1:])]
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-1::-2])
    digits.append(-(doubled + sum(digits[-2::-2])) % 10)
    written = "".join(map(str, digits))
    grouped = separator.join(written[at : at + 4] for at in range(0, 16, 4))
    cleaned = ALL.clean(f"x {grouped} y".encode())
    assert grouped.encode() not in cleaned


def _sized(value: bytes) -> bytes:
    return struct.pack("!i", len(value)) + value


CARD_NUMBER, ORDINARY = struct.pack("!q", 4111111111111111), struct.pack("!q", 4111111111111112)


@pytest.mark.parametrize(
    ("oid", "wrap"),
    [
        (3926, lambda value: b"\x12" + _sized(value)),  # int8range, with no upper bound
        (4536, lambda value: struct.pack("!i", 1) + _sized(b"\x12" + _sized(value))),  # int8multirange
        (2249, lambda value: struct.pack("!ii", 1, 20) + _sized(value)),  # a row
        (2249, lambda value: struct.pack("!ii", 1, 2249) + _sized(struct.pack("!ii", 1, 20) + _sized(value))),
        (16400, lambda value: struct.pack("!iiii", 2, 23, -1, 20) + _sized(value)),  # a user's composite type
        (16401, lambda value: struct.pack("!iiiii", 1, 0, 20, 1, 1) + _sized(value)),  # an array of a user's type
        (2287, lambda value: struct.pack("!iiiii", 1, 0, 2249, 1, 1) + _sized(struct.pack("!ii", 1, 20) + _sized(value))),
    ],
)
def test_binary_numbers_inside_other_values_are_found(oid: int, wrap: Callable[[bytes], bytes]) -> None:
    assert ALL.clean_binary(oid, wrap(CARD_NUMBER)) is None
    assert ALL.clean_binary(oid, wrap(ORDINARY)) == wrap(ORDINARY)


def test_rows_nested_deeper_than_anybody_looks_become_null() -> None:
    value = struct.pack("!i", 0)
    for _ in range(100):
        value = struct.pack("!ii", 1, 2249) + _sized(value)
    assert ALL.clean_binary(2249, value) is None


def test_numbers_written_otherwise_are_found() -> None:
    assert ALL.clean_text(701, b"4.111111111111111e+15") is None
    assert ALL.clean_text(701, b"6.02e+23") == b"6.02e+23"
    assert ALL.clean_text(790, b"$4,111,111,111,111,111.00") is None
    assert ALL.clean_text(790, b"$1,234.50") == b"$1,234.50"


def test_digits_in_hexadecimal_without_a_mark_are_found() -> None:
    hidden = ALL.clean(b"x 34313131313131313131313131313131 y")
    assert b"3431313131313131" not in hidden
    assert hidden.endswith(b"31313131 y")
    assert ALL.clean(b"33333333333333333333333333333333") == b"33333333333333333333333333333333"
