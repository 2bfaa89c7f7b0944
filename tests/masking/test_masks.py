"""What each kind of mask leaves of a value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.decisions import Mask
from appliance.masking import masks


@pytest.mark.parametrize(
    ("mask", "value", "left"),
    [
        (Mask("redact"), b"Alice", b"****"),
        (Mask("redact"), b"", b"****"),
        (Mask("null"), b"Alice", None),
        (Mask("email"), b"alice@example.com", b"****@****"),
        (Mask("keep_last", 4), b"4111 1111 1111 1234", b"**** **** **** 1234"),
        (Mask("keep_last", 4), b"1234567", b"*******"),
        (Mask("keep_last", 4), b"12345678", b"****5678"),
        (Mask("keep_last", 0), b"12-34", b"**-**"),
        (Mask("keep_last", -3), b"12-34", b"**-**"),
        (Mask("keep_last", 2), "ÄÖÜß".encode(), "**Üß".encode()),
        (Mask("keep_last", 2), b"\xff\xfe12345", b"****"),
        (Mask("no such kind"), b"Alice", b"****"),
    ],
)
def test_a_mask_leaves_what_its_kind_says(mask: Mask, value: bytes, left: bytes | None) -> None:
    assert masks.apply(mask, value) == left


def test_policies_may_name_exactly_the_kinds() -> None:
    assert all(masks.is_known_kind(kind) for kind in ("redact", "null", "keep_last", "email"))
    assert not masks.is_known_kind("hash")


@given(st.text(), st.integers(min_value=0, max_value=20))
def test_keep_last_never_leaves_more_than_half_and_is_idempotent(text: str, keep: int) -> None:
    mask = Mask("keep_last", keep)
    once = masks.apply(mask, text.encode("utf-8", "replace"))
    assert once is not None
    assert masks.apply(mask, once) == once
    left = sum(letter.isalnum() for letter in once.decode())
    assert left <= keep
    assert 2 * left <= sum(letter.isalnum() or letter == "*" for letter in once.decode())
