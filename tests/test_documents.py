"""YAML as people write it: what it reads as, and how its faults are told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.documents import TEXT_CHARACTERS_MAX, check_document, read_checked, read_document
from appliance.errors import SettingErrors

SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["rules"],
    "properties": {
        "rules": {
            "description": "the rules",
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["id"],
                "properties": {
                    "id": {"type": "string", "minLength": 1},
                    "does": {"enum": ["read", "write"]},
                    "size": {"type": "integer", "minimum": 1, "maximum": 9},
                    "secret": {"type": "object", "writeOnly": True, "description": "a mapping"},
                    "names": {"type": "array", "minItems": 1, "uniqueItems": True},
                },
            },
        }
    },
}


def faults(text: str, schema: dict[str, Any] = SCHEMA) -> list[tuple[int, str, str]]:
    with pytest.raises(SettingErrors) as caught:
        read_checked("f.yaml", text, schema)
    assert all(error.file == "f.yaml" for error in caught.value.errors)
    return [(error.line, error.found, error.expected) for error in caught.value.errors]


def test_scalars_read_as_yaml_1_2_has_them() -> None:
    text = "[~, null, '', true, no, on, 12, -3, 0x1f, 12:30, 2024-01-01, 1.5, 1e3, '7', 1_000]"
    assert read_document("f", text).data == [
        None, None, "", True, "no", "on", 12, -3, "0x1f", "12:30", "2024-01-01", 1.5, 1000.0, "7", "1_000",
    ]  # fmt: skip


def test_lines_are_those_of_keys_and_items() -> None:
    document = read_document("f", "a: 1\nrules:\n  - id: x\n    does:\n      - 1\n  -\n    id: y\n")
    assert document.line(("rules",)) == 2
    assert document.line(("rules", 0)) == 3
    assert document.line(("rules", 0, "does", 0)) == 5
    assert document.line(("rules", 1)) == 7
    assert document.line(("rules", 1, "missing", 4)) == 7


@pytest.mark.parametrize(
    ("text", "line", "found", "expected"),
    [
        ("a: [1,\n b: }", 2, "YAML that cannot be read", "well-formed YAML"),
        ("a: 1\n b: 2", 2, "YAML that cannot be read", "well-formed YAML"),
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' for the second time", "line 1"),
        ("a: &x 1", 1, "the anchor &x", "no anchors"),
        ("a: 1\nb: *x", 2, "the alias *x", "written out"),
        ("a: !!python/name:os.system x", 1, "the tag", "no tags"),
        ("a: !!str 1", 1, "the tag", "no tags"),
        ("? [a]\n: 1", 1, "a key that is a list", "plain texts"),
        ("--- 1\n--- 2", 2, "a second document", "one document"),
        ("a: 1\nb: \x07", 2, "a character", "printable"),
        ("[" * 40, 1, "more than 24 levels", "flatter"),
        ("#" * (TEXT_CHARACTERS_MAX + 1), 0, f"{TEXT_CHARACTERS_MAX + 1} characters", f"at most {TEXT_CHARACTERS_MAX}"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_and_why(text: str, line: int, found: str, expected: str) -> None:
    ((at, what, wanted),) = faults(text)
    assert at == line
    assert found in what
    assert expected in wanted


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", (1, "nothing", "a mapping")),
        ("{}", (1, "no key rules", "the key rules: the rules")),
        ("rules: 7", (1, "7", "the rules")),
        ("rules: []\nruls: 1", (2, "the key 'ruls'", "one of rules (did you mean rules?)")),
        ("rules:\n - {id: 7}", (2, "7", "a text")),
        ("rules:\n - {id: ''}", (2, "the text ''", "a text that is not empty")),
        ("rules:\n - id: x\n   does: reed", (3, "the text 'reed'", "one of read, write (did you mean read?)")),
        ("rules:\n - id: x\n   size: 0", (3, "0", "1 or more")),
        ("rules:\n - id: x\n   size: 10", (3, "10", "9 or less")),
        ("rules:\n - id: x\n   size: true", (3, "true", "a whole number")),
        ("rules:\n - id: x\n   names: []", (3, "an empty list", "at least 1 item")),
        ("rules:\n - id: x\n   names: [a, a]", (3, "the same item twice", "each item once")),
        ("rules:\n - id: x\n   secret: hunter2", (3, "a text", "a mapping")),
    ],
)
def test_a_fault_has_its_line_what_was_found_and_what_was_expected(text: str, fault: tuple[int, str, str]) -> None:
    assert faults(text) == [fault]


def test_all_faults_are_told_in_the_order_of_lines() -> None:
    assert [line for line, _, _ in faults("x: 1\nrules:\n - id: 1\n - does: no\ny: 2")] == [1, 3, 4, 4, 5]


@given(st.text(max_size=60))
def test_any_text_reads_or_has_faults(text: str) -> None:
    try:
        document = read_document("f", text)
    except SettingErrors:
        return
    check_document(document, SCHEMA)
