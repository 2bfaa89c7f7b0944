"""Faults of policy files, each with its file, its line, what was found and what was expected."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from appliance.effects import Action, Kind, Use
from appliance.errors import SettingErrors
from appliance.masking.masks import KINDS
from appliance.policy.cases import cases_schema
from appliance.policy.reading import policy_schema, read_policy


def faults(*texts: str) -> list[tuple[str, int, str, str]]:
    with pytest.raises(SettingErrors) as caught:
        read_policy([(f"{number}.yaml", text) for number, text in enumerate(texts, 1)])
    return [(error.file, error.line, error.found, error.expected) for error in caught.value.errors]


HEAD = "rules:\n  - id: a\n    reason: r\n"


@pytest.mark.parametrize(
    ("text", "line", "found", "expected"),
    [
        ("rules:\n  - reason: r\n    deny: [{}]", 2, "no key id", "a name of its own"),
        ("rules:\n  - id: a\n    deny: [{actions: [read]}]", 2, "no key reason", "why the rule is there"),
        ("rules:\n  - id: A b\n    reason: r\n    deny: [{actions: [read]}]", 2, "'A b'", "lower case letters"),
        (HEAD, 2, "the keys id and reason", "exactly one of allow, deny, hold and mask"),
        (HEAD + "    allow: [{actions: [read]}]\n    deny: [{actions: [read]}]", 2, "allow and deny", "exactly one of"),
        (HEAD + "    alow: []\n    deny: [{actions: [read]}]", 4, "the key 'alow'", "did you mean allow?"),
        (HEAD + "    deny: []", 4, "an empty list", "at least 1 item"),
        (HEAD + "    deny:\n      - {}", 5, "an empty mapping", "every key given must fit"),
        (HEAD + "    allow:\n      - kinds: [table]", 5, "no key actions", "spelled out"),
        (HEAD + "    deny:\n      - actions: [reed]", 5, "'reed'", "did you mean read?"),
        (HEAD + "    deny:\n      - kinds: [tabel]", 5, "'tabel'", "did you mean table?"),
        (HEAD + "    deny:\n      - uses: [shown]", 5, "'shown'", "one of output, compare, compute"),
        (HEAD + "    deny:\n      - objects:\n          - a..b", 6, "'a..b' with an empty part", "a dotted name"),
        (HEAD + "    deny:\n      - except: ['\"a']", 5, "never closed", "a dotted name"),
        (HEAD + "    deny:\n      - attributes: {x: [1, 2.5]}", 5, "2.5", "a text, a whole number or true or false"),
        (HEAD + "    deny:\n      - attributes: {x: {least: 1}}", 5, "'least'", "one of at_least, at_most"),
        (HEAD + "    who: {phase: [plan]}\n    deny: [{actions: [read]}]", 4, "'phase'", "did you mean phases?"),
        (HEAD + "    who: {phases: [planning]}\n    deny: [{actions: [read]}]", 4, "'planning'", "one of plan, execute"),
        (HEAD + "    where: {resource: [x]}\n    deny: [{actions: [read]}]", 4, "'resource'", "did you mean resources?"),
        (HEAD + "    deny: [{actions: [read]}]\n    approvers: [dba]", 5, "approvers without hold", "beside hold"),
        (HEAD + "    hold: [{actions: [read]}]\n    seconds: 0", 5, "0", "more than 0"),
        (HEAD + "    hold: [{actions: [read]}]\n    approvers: ['d*']", 5, "'d*'", "a group"),
        (HEAD + "    mask: [{with: {kind: redact}}]", 4, "the keys with", "either objects (with fields) or values"),
        (HEAD + "    mask: [{objects: [a]}]", 4, "no key with", "the key with"),
        (HEAD + "    mask: [{objects: [a], with: {kind: redcat}}]", 4, "'redcat'", "did you mean redact?"),
        (
            HEAD + "    mask: [{objects: [a], with: {kind: redact, keep: 4}}]",
            4,
            "keep beside the kind redact",
            "keep_last only",
        ),
        (HEAD + "    mask: [{objects: [a], with: {kind: keep_last, keep: 9}}]", 4, "9", "8 or less"),
        (
            HEAD + "    mask: [{values: [pan], fields: [a], with: {kind: null}}]",
            4,
            "fields without objects",
            "beside objects",
        ),
        (HEAD + "    mask: [{values: [pam], with: {kind: redact}}]", 4, "'pam'", "pan, email, ssn, or an own pattern"),
        (
            HEAD + "    mask: [{values: [{name: pan, pattern: a}], with: {kind: redact}}]",
            4,
            "own pattern called pan",
            "built-in",
        ),
        (
            HEAD + "    mask: [{values: [{name: x, pattern: '(a'}], with: {kind: redact}}]",
            4,
            "no regular expression",
            "quick",
        ),
        (HEAD + "    mask: [{values: [{name: x, pattern: '(a+)+b'}], with: {kind: redact}}]", 4, "without a bound", "quick"),
        (HEAD + "    mask: [{values: [{name: x, pattern: 'a?'}], with: {kind: redact}}]", 4, "matches nothing", "quick"),
    ],
)
def test_each_fault_has_its_line_and_both_texts(text: str, line: int, found: str, expected: str) -> None:
    seen = faults(text.replace("kind: null", "kind: 'null'"))
    assert any(at == line and found in what and expected in wanted for _, at, what, wanted in seen), seen
    assert all(file == "1.yaml" for file, *_ in seen)


def test_an_id_stands_once_in_all_files() -> None:
    text = HEAD + "    deny: [{actions: [read]}]"
    assert faults(text, "\n" + text) == [
        ("2.yaml", 3, "the id 'a' for the second time", "each id once (the first is at 1.yaml:2)")
    ]


def test_a_pattern_name_stands_for_one_pattern() -> None:
    def one(name: str, pattern: str) -> str:
        masking = [{"values": [{"name": "x", "pattern": pattern}], "with": {"kind": "redact"}}]
        return json.dumps({"rules": [{"id": name, "reason": "r", "mask": masking}]})

    assert faults(one("a", "A{3}"), one("b", "B{3}")) == [
        ("2.yaml", 1, "another pattern called x", "one pattern for each name, in all the files")
    ]
    read_policy([("1", one("a", "A{3}")), ("2", one("b", "A{3}"))])


def test_faults_of_all_files_are_told_at_once() -> None:
    assert [file for file, *_ in faults("rules: 1", "rules: 2", "rules: []")] == ["1.yaml", "2.yaml"]


def test_the_published_schemas_speak_the_words_of_the_code() -> None:
    for schema in (policy_schema(), cases_schema()):
        Draft202012Validator.check_schema(schema)
    matcher: dict[str, Any] = policy_schema()["$defs"]["matcher"]["properties"]
    effect: dict[str, Any] = cases_schema()["properties"]["cases"]["items"]["properties"]["effects"]["items"]["properties"]
    assert matcher["actions"]["items"]["enum"] == ["*", *Action]
    assert matcher["kinds"]["items"]["enum"] == effect["kind"]["enum"] == list(Kind)
    assert matcher["uses"]["items"]["enum"] == effect["use"]["enum"] == list(Use)
    assert effect["action"]["enum"] == list(Action)
    assert policy_schema()["$defs"]["mask"]["properties"]["kind"]["enum"] == list(KINDS)
