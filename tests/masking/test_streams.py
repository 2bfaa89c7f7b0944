"""A masked stream gives what masking the whole gives, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.decisions import Mask, ValueMask
from appliance.masking.detectors import Detectors
from appliance.masking.streams import HELD_BYTES, PIECE_BYTES, MaskStream
from tests.masking.test_detectors import ALL, BENIGN, FOUND

OWN = Detectors(
    (
        ValueMask("digits", Mask("redact"), r"\d{20}"),
        ValueMask("pan", Mask("keep_last", 4)),
        ValueMask("tail", Mask("redact"), r"(?<=x)[a-f1]{2,40}"),
        ValueMask("email", Mask("email")),
    )
)


def _streamed(detectors: Detectors, data: bytes, sizes: list[int]) -> bytes:
    stream = MaskStream(detectors)
    parts = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        parts.append(stream.feed(data[at : at + size]))
        at += size
        turn += 1
    parts.append(stream.end())
    return b"".join(parts)


FILLERS = [
    "x" * 700,
    "1 2 3 4 5 6 7 8 9 " * 80,
    "ü" * 300,
    "1" * 900,
    "\\x" + "ab" * 3000,
    "4111 " * 200,
    "a@b.com" * 60,
    "@" * 50,
]
TEXTS = st.lists(
    st.one_of(st.sampled_from([*FOUND, *BENIGN, *FILLERS]), st.text(max_size=4), st.just("\\x" + b"4111111111111111".hex())),
    min_size=5,
    max_size=60,
).map("".join)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.lists(st.integers(min_value=1, max_value=30_000), min_size=1, max_size=4), st.sampled_from([ALL, OWN]))
def test_cuts_change_nothing(text: str, sizes: list[int], detectors: Detectors) -> None:
    data = text.encode("utf-8", "replace")
    assert _streamed(detectors, data, sizes) == detectors.clean(data)


@pytest.mark.parametrize("offset", range(-20, 21))
def test_a_value_on_the_edge_of_what_is_given_is_found(offset: int) -> None:
    for value in (b"4111111111111111", b"alice@example.com", b"123-45-6789", "４１１１-1111-1111-1111".encode()):
        data = b"." * (PIECE_BYTES + offset) + b" " + value + b" " + b"." * (2 * PIECE_BYTES)
        out = _streamed(ALL, data, [4096])
        assert out == ALL.clean(data)
        assert value not in out


@pytest.mark.parametrize("shift", range(6))
def test_a_value_far_inside_bytea_in_hexadecimal_is_found(shift: int) -> None:
    plain = b"\0" * (20_000 + shift) + b"4111111111111111" + b"\0" * 20_000
    data = b" " * shift + b"\\x" + plain.hex().encode()
    out = _streamed(ALL, data, [5000, 7, 8191])
    assert out == ALL.clean(data)
    assert b"4111111111111111".hex().encode() not in out


def test_byte_by_byte_is_whole() -> None:
    data = (" ".join(FOUND) * 12).encode()
    assert _streamed(ALL, data, [1]) == ALL.clean(data)


def test_what_is_held_back_is_bounded() -> None:
    stream = MaskStream(ALL)
    given_size = fed_size = 0
    for _ in range(300):
        chunk = b"1234-" * 200
        fed_size += len(chunk)
        given_size += len(stream.feed(chunk))
        assert fed_size - given_size <= HELD_BYTES + PIECE_BYTES + len(chunk)


def test_without_masks_bytes_pass_as_they_come() -> None:
    stream = MaskStream(Detectors(()))
    chunk = b"4111111111111111"
    assert stream.feed(chunk) is chunk
    assert stream.end() == b""
