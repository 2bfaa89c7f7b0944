"""The policy in force as people read it: each rule with its words, its place, its text, and how often it was hit."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent
from typing import Any

from appliance.control.policies import InForce
from appliance.control.tallies import Hits
from appliance.policy.rules import Rule

SOURCE_LINES_MAX = 400
"""Of one rule; a longer one is read in its file."""


class Rulebook:
    """The pages of one policy, made once for each version: cutting a thousand rules out of their files takes a while."""

    def __init__(self) -> None:
        self._version = ""
        self._files: list[dict[str, Any]] = []

    def files(self, policy: InForce, hits: Mapping[str, Hits]) -> list[dict[str, Any]]:
        """Every file of the policy with its rules in the order of their lines. Hits by a rule's id."""
        if self._version != policy.policy.version:
            self._files = [
                {"name": name, "rules": _rules(text, [rule for rule in policy.policy.rules if rule.reference.file == name])}
                for name, text in policy.files
            ]
            self._version = policy.policy.version
        return [file | {"rules": [rule | _hits(hits.get(rule["id"])) for rule in file["rules"]]} for file in self._files]


def _hits(hits: Hits | None) -> dict[str, Any]:
    return {"hits": hits.hits if hits else 0, "last": hits.last if hits else None}


def _rules(text: str, rules: list[Rule]) -> list[dict[str, Any]]:
    lines = text.splitlines()
    placed = sorted(rules, key=lambda rule: rule.place)
    ends = [rule.reference.line for rule in placed[1:]] + [len(lines) + 1]
    return [
        {
            "id": rule.reference.id,
            "kinds": [rule.verb.value, *(["durable"] if rule.durable else [])],
            "reason": rule.reason,
            "advice": rule.advice,
            "approvers": sorted(rule.terms.approvers),
            "seconds": rule.terms.seconds if rule.verb.value == "hold" else None,
            "line": rule.reference.line,
            "source": _source(lines, rule.reference.line, end),
        }
        for rule, end in zip(placed, ends, strict=True)
    ]


def _source(lines: list[str], start: int, end: int) -> str:
    """The lines from `start` (from 1) to before `end`, without what stands between this rule and the next or follows the
    last."""
    own = lines[start - 1 : max(end - 1, start)]
    for number, line in enumerate(own):
        # A rule's own lines are indented further than a key of the whole file.
        if number and line[:1].isalnum():
            own = own[:number]
            break
    while own and (not own[-1].strip() or own[-1].lstrip().startswith("#")):
        own.pop()
    return dedent("\n".join(own[:SOURCE_LINES_MAX]))
