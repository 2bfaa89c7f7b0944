"""What a person's own word lets run: a hold, where that person may answer it, and never what is refused."""

from __future__ import annotations

from collections.abc import Set

from appliance.decisions import Forward, Hold, Refuse, Verdict


def granted(verdict: Verdict, groups: Set[str]) -> Forward | Hold | str:
    """The verdict again where a person of those approver groups may let that run, or why they may not."""
    match verdict:
        case Refuse():
            return f"refused by {verdict.rule or 'the policy'}: {verdict.reason}"
        case Hold() if verdict.terms.approvers and not verdict.terms.approvers & groups:
            needed = ", ".join(sorted(verdict.terms.approvers))
            return f"rule {verdict.rule} asks for an approver of {needed}"
        case Hold() | Forward():
            return verdict
