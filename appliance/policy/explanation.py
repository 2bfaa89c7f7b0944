"""Why a command gets its verdict, effect by effect: for `policy explain`, for approvers, and for those who write rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from appliance.decisions import Forward, Hold, Refuse, RuleReference, Verdict
from appliance.effects import Effect
from appliance.parties import Principal, Scope
from appliance.policy.rules import ApplicableRules, Policy, Verb


@dataclass(frozen=True, slots=True)
class RuleSays:
    """What one rule has to say about one effect: `word` is the rule's, `how` in what manner ("covers id, name")."""

    rule: RuleReference
    word: Verb
    how: str


@dataclass(frozen=True, slots=True)
class EffectExplained:
    """One effect, what the rules say about it, and what comes of it by itself."""

    effect: Effect
    rules: tuple[RuleSays, ...]
    outcome: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A verdict with its reasons. `applicable` are the rules that are for this caller at this place at all."""

    principal: Principal
    scope: Scope
    effects: tuple[EffectExplained, ...]
    applicable: tuple[RuleReference, ...]
    verdict: Verdict

    def data(self) -> dict[str, Any]:
        """The same as plain data for JSON."""
        return {
            "principal": str(self.principal),
            "groups": sorted(self.principal.groups),
            "resource": self.scope.resource,
            "protocol": self.scope.protocol,
            "database": self.scope.database,
            "verdict": verdict_word(self.verdict),
            "rule": _reference(self.verdict.rule),
            "reason": self.verdict.reason,
            "advice": self.verdict.advice if isinstance(self.verdict, Refuse) else "",
            "masks": sorted(masked_names(self.verdict)),
            "effects": [
                {
                    "effect": str(explained.effect),
                    "outcome": explained.outcome,
                    "rules": [
                        {"rule": _reference(says.rule), "says": says.word.value, "how": says.how} for says in explained.rules
                    ],
                }
                for explained in self.effects
            ],
            "applicable": [_reference(rule) for rule in self.applicable],
        }

    def text(self) -> str:
        """The same for a terminal, one thought on a line."""
        place = self.scope.resource if self.scope.database is None else f"{self.scope.resource}/{self.scope.database}"
        lines = [f"{self.principal} at {place} ({self.scope.protocol})"]
        for explained in self.effects:
            lines.append(f"  {explained.effect}: {explained.outcome}")
            lines += [f"    {says.rule} {says.how}" for says in explained.rules]
        lines.append(describe_verdict(self.verdict))
        return "\n".join(lines)


def explain(policy: Policy, principal: Principal, scope: Scope, effects: frozenset[Effect]) -> Explanation:
    """Why a command with these effects gets the verdict it gets; the verdict is the one that `Policy.decide` gives."""
    applicable = policy.applicable(principal, scope)
    return Explanation(
        principal,
        scope,
        tuple(_explain_effect(applicable, effect) for effect in sorted(effects, key=str)),
        tuple(rule.reference for rule in applicable.rules),
        policy.decide(principal, scope, effects),
    )


def verdict_word(verdict: Verdict) -> str:
    """The verdict in one word: allow, mask (allowed, with masked fields), hold or deny."""
    match verdict:
        case Forward():
            return "mask" if verdict.obligations.fields else "allow"
        case Hold():
            return "hold"
        case Refuse():
            return "deny"


def masked_names(verdict: Verdict) -> frozenset[str]:
    """The fields that are masked, as thing.field; a thing's undivided value by the thing's name."""
    if isinstance(verdict, Refuse):
        return frozenset()
    return frozenset(
        f"{mask.thing.name}.{mask.field}" if mask.field else mask.thing.name for mask in verdict.obligations.fields
    )


def describe_verdict(verdict: Verdict) -> str:
    """The verdict on one line, with its rule and its reason."""
    rule = f" by {verdict.rule}" if verdict.rule else ""
    parts = [f"{verdict_word(verdict)}{rule}: {verdict.reason}" if verdict.reason else f"{verdict_word(verdict)}{rule}"]
    if isinstance(verdict, Refuse) and verdict.advice:
        parts.append(f"advice: {verdict.advice}")
    if isinstance(verdict, Hold):
        parts.append(f"approvers: {', '.join(sorted(verdict.terms.approvers)) or 'any'}, for {verdict.terms.seconds:g} s")
    if masks := sorted(masked_names(verdict)):
        parts.append(f"masked: {', '.join(masks)}")
    return "; ".join(parts)


def _explain_effect(applicable: ApplicableRules, effect: Effect) -> EffectExplained:
    says: list[RuleSays] = []
    words: set[Verb] = set()
    for rule in applicable.rules:
        if rule.verb is Verb.MASK:
            continue
        if rule.verb is not Verb.ALLOW and rule.touches(effect):
            words.add(rule.verb)
            says.append(RuleSays(rule.reference, rule.verb, "denies it" if rule.verb is Verb.DENY else "holds it"))
        elif rule.verb is not Verb.DENY and (covered := rule.covered_fields(effect)) is not None:
            words.add(rule.verb)
            how = "covers it" if covered == effect.fields else f"covers {', '.join(sorted(covered))} of it"
            says.append(RuleSays(rule.reference, rule.verb, how))
    unsound = False
    masked = False
    for use in applicable.masked_uses(effect):
        unsound = unsound or not use.sound
        masked = masked or use.shown
        what = use.field or "the value"
        how = (
            f"masks {what}" if use.shown else f"lets {what} be compared" if use.sound else f"cannot mask {what} in this use"
        )
        says.append(RuleSays(use.rule.reference, Verb.MASK, how))
    if Verb.DENY in words:
        outcome = "denied"
    elif not applicable.is_covered(effect):
        outcome = "covered by no rule, so denied"
    elif unsound:
        outcome = "denied, because what is masked would be computed with"
    elif Verb.HOLD in words:
        outcome = "held for a person"
    else:
        outcome = "allowed, masked" if masked else "allowed"
    return EffectExplained(effect, tuple(says), outcome)


def _reference(rule: RuleReference | None) -> dict[str, Any] | None:
    return None if rule is None else {"id": rule.id, "file": rule.file, "line": rule.line}
