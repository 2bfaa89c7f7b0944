"""Test cases of policies: the shipped ones pass, and a case that is wrong fails and says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.configuration import read_case_files, read_policy_files
from appliance.errors import SettingErrors
from appliance.policy.cases import CaseResult, read_cases, run_cases
from appliance.policy.reading import read_policy
from appliance.sql.analysis import read

POLICIES = Path(__file__).resolve().parents[2] / "policies"


def results_of(folder: str) -> tuple[CaseResult, ...]:
    policy = read_policy(read_policy_files([str(POLICIES / folder)]))
    return run_cases(policy, read_cases(read_case_files([str(POLICIES / folder)]), read), read)


@pytest.mark.parametrize(("folder", "least"), [("example", 40), ("open", 8)])
def test_every_shipped_policy_keeps_its_own_cases(folder: str, least: int) -> None:
    results = results_of(folder)
    assert len(results) >= least
    failed = [result.text() for result in results if not result.passed]
    assert not failed, "\n".join(failed)


POLICY = read_policy(
    [
        (
            "p.yaml",
            """
rules:
  - {id: r, reason: reading is fine, allow: [{actions: [read]}]}
  - {id: h, reason: careful, hold: [{actions: [delete]}], approvers: [dba]}
  - id: m
    reason: private
    mask:
      - {objects: [public.t], fields: [secret], with: {kind: redact}}
      - {values: [pan], with: {kind: redact}}
""",
        )
    ]
)
READ = {"action": "read", "kind": "table", "name": "public.t", "fields": ["secret"], "use": "output"}
DELETE = {"action": "delete", "kind": "table", "name": "public.t"}


def run_one(effects: list[dict[str, Any]], expect: dict[str, Any]) -> CaseResult:
    text = json.dumps(
        {
            "who": {"agent": "a", "phase": "plan"},
            "where": {"resource": "r", "protocol": "postgres"},
            "cases": [{"name": "one", "effects": effects, "expect": expect}],
        }
    )
    (result,) = run_cases(POLICY, read_cases([("c.cases.yaml", text)], read), read)
    return result


@pytest.mark.parametrize(
    ("effects", "right", "wrong", "said"),
    [
        ([READ], {"verdict": "mask"}, {"verdict": "allow"}, "expected allow, saw mask by r (p.yaml:3)"),
        ([READ], {"verdict": "mask", "rule": "r"}, {"verdict": "mask", "rule": None}, "expected the rule none, saw r"),
        ([READ], {"verdict": "mask", "masks": ["public.t.secret"]}, {"verdict": "mask", "masks": []}, "masks on none"),
        ([READ], {"verdict": "mask", "values": ["pan"]}, {"verdict": "mask", "values": ["ssn"]}, "detectors ssn, saw pan"),
        ([READ], {"verdict": "mask", "quiet": True}, {"verdict": "mask", "quiet": False}, "expected quiet: false, saw true"),
        (
            [READ],
            {"verdict": "mask", "reason": "fine"},
            {"verdict": "mask", "reason": "bad"},
            "expected a reason with 'bad'",
        ),
        (
            [DELETE],
            {"verdict": "hold", "approvers": ["dba"]},
            {"verdict": "hold", "approvers": []},
            "approvers none, saw dba",
        ),
        ([], {"verdict": "deny", "rule": None}, {"verdict": "deny", "rule": "r"}, "expected the rule r, saw none"),
    ],
)
def test_each_expectation_passes_when_met_and_fails_when_not(
    effects: list[dict[str, Any]], right: dict[str, Any], wrong: dict[str, Any], said: str
) -> None:
    assert run_one(effects, right).passed
    failed = run_one(effects, wrong)
    assert not failed.passed
    assert said in failed.text()
    assert failed.text().startswith("FAIL c.cases.yaml:1 one")


def test_an_explanation_tells_effect_by_effect() -> None:
    explanation = run_one([READ, DELETE], {"verdict": "hold"}).explanation
    data = explanation.data()
    assert data["verdict"] == "hold"
    assert data["masks"] == ["public.t.secret"]
    assert [effect["outcome"] for effect in data["effects"]] == ["held for a person", "allowed, masked"]
    assert data["effects"][1]["rules"] == [
        {"rule": {"id": "r", "file": "p.yaml", "line": 3}, "says": "allow", "how": "covers it"},
        {"rule": {"id": "m", "file": "p.yaml", "line": 5}, "says": "mask", "how": "masks secret"},
    ]
    assert json.loads(json.dumps(data)) == data
    assert "h (p.yaml:4) holds it" in explanation.text()


CASE = (
    "cases: [{name: n, who: {agent: a, phase: plan}, where: {resource: r, protocol: p}, "
    "command: select 1, expect: {verdict: allow}}]\n"
)


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("cases:\n - {name: n, command: select 1, expect: {verdict: allow}}", 2, "a case without who"),
        ("cases:\n - {name: n, expect: {verdict: allow}}", 2, "the keys name and expect"),
        (CASE.replace("allow", "alow"), 1, "'alow'"),
        (CASE + "catalogue: {tables: {t: [a]}}", 2, "the key 't'"),
        (CASE + "catalogue: {tables: {public.t: [a money]}}", 2, "the type 'money'"),
        (CASE + "catalogue: {views: {public.v: selec}}", 2, "a query that gives"),
        (CASE + "catalogue: {foreign_keys: [{child: public.a, columns: [b], parent: public.c}]}", 2, "the table 'public.a'"),
        (CASE.replace("command: select 1", "effects: [{action: read, kind: table, name: 'a.*'}]"), 1, "with a star"),
    ],
)
def test_faults_of_a_case_file_have_their_line(text: str, line: int, found: str) -> None:
    with pytest.raises(SettingErrors) as caught:
        read_cases([("c.yaml", text)], read)
    assert any(error.line == line and found in error.found for error in caught.value.errors), caught.value
