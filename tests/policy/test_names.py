"""How names in rules match names of the world."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.policy.names import parse_name, parse_path


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("public.payroll", ("public", "payroll"), True),
        ("public.payroll", ("public", "payroll_calendar"), False),
        ("public.payroll", ("public", "Payroll"), False),
        ("public.payroll", ("payroll",), False),
        ("public.payroll", ("public.payroll",), False),
        ("*.payroll", ("hr", "payroll"), True),
        ("*.payroll", ("payroll",), False),
        ("*.payroll", ("a", "b", "payroll"), False),
        ("public.*", ("public", "a.b"), True),
        ("public.*", ("public",), False),
        ("*", (), True),
        ("*", ("a", "b", "c"), True),
        ("*.*", ("a",), False),
        ("pay*", ("payroll",), True),
        ("p*r*l", ("payroll",), True),
        ("p*r*l", ("pl",), False),
        ("ab*ba", ("aba",), False),
        ('public."a.b"', ("public", "a.b"), True),
        ('public."a.b"', ("public", "a", "b"), False),
        ('"*"', ("x",), False),
        ('"*"', ("*",), True),
        ('"say ""so"""', ('say "so"',), True),
        ("user:*", ("user:1.2",), True),
    ],
)
def test_path_patterns_match_part_by_part(pattern: str, path: tuple[str, ...], expected: bool) -> None:
    assert parse_path(pattern).matches(path) is expected


@pytest.mark.parametrize("text", ["a..b", ".a", "a.", '"a', 'a"b"', '"a"b', '""', "a.b."])
def test_malformed_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_path(text)


@given(st.text(alphabet="ab*.", max_size=8), st.text(alphabet="ab.", max_size=10))
def test_name_patterns_agree_with_the_plain_definition(pattern: str, name: str) -> None:
    def plain(pattern: str, name: str) -> bool:
        if not pattern:
            return not name
        if pattern[0] == "*":
            return plain(pattern[1:], name) or (bool(name) and plain(pattern, name[1:]))
        return bool(name) and pattern[0] == name[0] and plain(pattern[1:], name[1:])

    assert parse_name(pattern).matches(name) == plain(pattern, name)


def test_many_stars_on_a_long_name_stay_quick() -> None:
    pattern = parse_name("a*" * 90 + "b")
    begin = time.process_time()
    assert not pattern.matches("a" * 100_000)
    assert time.process_time() - begin < 1
