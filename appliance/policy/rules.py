"""How rules decide: from a set of effects to one verdict, whatever order the rules stand in.

Where several rules could be named as the one that decided, it is the first by file name and line; where effects differ
in weight, it is the rule of the heaviest, because that is the one a person asks about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from typing import TypeAlias

from appliance.decisions import (
    FieldMask,
    Forward,
    Hold,
    HoldTerms,
    Mask,
    Obligations,
    Refuse,
    RuleReference,
    ValueMask,
    Verdict,
)
from appliance.effects import Action, Effect, Kind, Use
from appliance.parties import Principal, Scope
from appliance.policy.matching import Matcher, Where, Who, touches_all_fields
from appliance.policy.names import NameSet, PathSet

# A worker meets few callers and places; past this many pairs somebody is inventing database names.
_APPLICABLE_MAX = 1024
# How many effects a refusal names; the whole list is for `policy explain`.
_NAMED_MAX = 3
# How much of a thing's name a refusal repeats.
_NAME_CHARACTERS_MAX = 120

# Heaviest first: which of several effects a refusal or an approval is said to be about.
_WEIGHTS = {
    action: weight
    for weight, action in enumerate(
        (
            Action.UNKNOWN,
            Action.ADMIN,
            Action.EXEC,
            Action.GRANT,
            Action.DROP,
            Action.TRUNCATE,
            Action.DELETE,
            Action.ALTER,
            Action.CREATE,
            Action.SCALE,
            Action.UPLOAD,
            Action.DOWNLOAD,
            Action.FORWARD,
            Action.UPDATE,
            Action.INSERT,
            Action.PUBLISH,
            Action.CALL,
            Action.CONSUME,
            Action.READ,
            Action.CONNECT,
        )
    )
}


class Verb(StrEnum):
    """What a rule says."""

    ALLOW = "allow"
    DENY = "deny"
    HOLD = "hold"
    MASK = "mask"


@dataclass(frozen=True, slots=True)
class FieldMasking:
    """Fields whose values are masked: of `objects` those named `fields`, or (None) all, and a thing's undivided value.
    `may_compare`: they may be tested for equality."""

    objects: PathSet
    fields: NameSet | None
    mask: Mask
    may_compare: bool = True

    def concerns(self, effect: Effect) -> bool:
        """True where the effect is about a thing of this masking."""
        return self.objects.matches(effect.thing.path)

    def masked_fields(self, effect: Effect) -> frozenset[str]:
        """Those of the effect's fields that are masked; "" stands for the thing's undivided value."""
        if self.fields is None:
            if effect.fields:
                return effect.fields
            # A read without fields of what has columns is a count or a lock; of anything else it reads the value.
            whole = effect.action is Action.READ and effect.thing.kind is not Kind.TABLE
            return frozenset({""}) if whole or touches_all_fields(effect) else frozenset()
        return self.fields.matching(effect.fields)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `matchers` are what allow, deny and hold speak of; `masks` and `values` what a mask rule hides."""

    reference: RuleReference
    verb: Verb
    reason: str
    advice: str = ""
    who: Who = field(default_factory=Who)
    where: Where = field(default_factory=Where)
    matchers: tuple[Matcher, ...] = ()
    terms: HoldTerms = field(default_factory=HoldTerms)
    masks: tuple[FieldMasking, ...] = ()
    values: tuple[ValueMask, ...] = ()
    durable: bool = False

    @property
    def place(self) -> tuple[str, int, str]:
        """What rules are sorted by; the id parts two on one line."""
        return (self.reference.file, self.reference.line, self.reference.id)

    def applies(self, principal: Principal, scope: Scope) -> bool:
        """True where the rule is for that caller and that place."""
        return self.who.includes(principal) and self.where.includes(scope)

    def touches(self, effect: Effect) -> bool:
        """True where a deny or a hold is about that effect."""
        return any(matcher.touches(effect) for matcher in self.matchers)

    def covered_fields(self, effect: Effect) -> frozenset[str] | None:
        """Which of the effect's fields an allow or a hold lets through; None: nothing of it."""
        found: frozenset[str] | None = None
        for matcher in self.matchers:
            covered = matcher.covered_fields(effect)
            if covered is not None:
                found = covered if found is None else found | covered
        return found


@dataclass(frozen=True, slots=True)
class MaskedUse:
    """A masked field that an effect touches, the rule that masks it, and whether that use of it can be masked."""

    rule: Rule
    effect: Effect
    field: str
    mask: Mask
    sound: bool
    shown: bool


_Index: TypeAlias = dict[tuple[Action, Kind], tuple[tuple[Rule, Matcher], ...]]


class ApplicableRules:
    """The rules that are for one caller at one place, sorted by what they say, by action and by kind of thing."""

    def __init__(self, rules: Sequence[Rule], principal: Principal, scope: Scope) -> None:
        self.rules = tuple(sorted((rule for rule in rules if rule.applies(principal, scope)), key=lambda rule: rule.place))
        self._denies = _by_deed(self.rules, (Verb.DENY,), lambda matcher: matcher.actions)
        self._holds = _by_deed(self.rules, (Verb.HOLD,), lambda matcher: matcher.actions)
        self._grants = _by_deed(self.rules, (Verb.ALLOW, Verb.HOLD), lambda matcher: matcher.covered)
        self._maskings = tuple((rule, masking) for rule in self.rules for masking in rule.masks)
        self._has_durable = any(rule.durable for rule in self.rules)
        # What is owed for a command that comes near no masked thing and no rule that wants it durable.
        self._least = Obligations(values=_strictest_values(value for rule in self.rules for value in rule.values))
        self._who = f"{principal.agent}/{principal.phase}"

    def decide(self, effects: frozenset[Effect]) -> Verdict:
        """The verdict on what a command does."""
        if not effects:
            return Refuse(None, "nothing is known of what this command does", "write it in another way")
        if denying := _first(self._touching(self._denies, effects)):
            return Refuse(denying.reference, denying.reason, denying.advice)
        uncovered = [effect for effect in effects if not self.is_covered(effect)]
        if uncovered:
            return self._refuse_uncovered(uncovered)
        holding = sorted(self._touching(self._holds, effects), key=lambda rule: rule.place)
        obligations = self._least
        near = [effect for effect in effects if self._is_near_masked(effect)] if self._maskings else []
        if near or self._has_durable:
            masked = [use for effect in near for use in self.masked_uses(effect)]
            if unsound := [use for use in masked if not use.sound]:
                return _refuse_masked(unsound)
            obligations = Obligations(
                fields=_strictest_fields(masked),
                values=self._least.values,
                quiet=bool(near),
                durable=any(rule.durable for rule in holding) or any(self._is_durable(effect) for effect in effects),
                maskers=tuple(sorted({use.rule.reference.id for use in masked if use.shown})),
            )
        if holding:
            return _hold(holding, obligations)
        granting = self.granting(_heaviest(effects))
        assert granting is not None, "a covered effect has a rule that covers it"
        return Forward(granting.reference, obligations, reason=granting.reason)

    def is_covered(self, effect: Effect) -> bool:
        """True where allow and hold rules together let the whole effect through."""
        missing = effect.fields
        for _, matcher in self._grants.get((effect.action, effect.thing.kind), ()):
            covered = matcher.covered_fields(effect)
            if covered is not None:
                missing = missing - covered
                if not missing:
                    return True
        return False

    def granting(self, effect: Effect) -> Rule | None:
        """The first rule that lets an effect, or a part of it, through."""
        for rule, matcher in self._grants.get((effect.action, effect.thing.kind), ()):
            if matcher.covered_fields(effect) is not None:
                return rule
        return None

    def masked_uses(self, effect: Effect) -> list[MaskedUse]:
        """What an effect does with masked fields, for every rule that masks them. Only reads show values."""
        if effect.action is not Action.READ and effect.use is None:
            return []
        found: list[MaskedUse] = []
        for rule, masking in self._maskings:
            if not masking.concerns(effect):
                continue
            # What does not say how it uses a value may do anything with it.
            sound = effect.use is Use.OUTPUT or (effect.use is Use.COMPARE and masking.may_compare)
            found += [
                MaskedUse(rule, effect, name, masking.mask, sound, effect.use is Use.OUTPUT)
                for name in sorted(masking.masked_fields(effect))
            ]
        return found

    def _is_near_masked(self, effect: Effect) -> bool:
        return any(masking.concerns(effect) for _, masking in self._maskings)

    def _is_durable(self, effect: Effect) -> bool:
        return any(
            rule.durable and matcher.covered_fields(effect) is not None
            for rule, matcher in self._grants.get((effect.action, effect.thing.kind), ())
        )

    @staticmethod
    def _touching(index: _Index, effects: frozenset[Effect]) -> list[Rule]:
        if not index:
            return []
        found: dict[str, Rule] = {}
        for effect in effects:
            for rule, matcher in index.get((effect.action, effect.thing.kind), ()):
                if rule.reference.id not in found and matcher.touches(effect):
                    found[rule.reference.id] = rule
        return list(found.values())

    def _refuse_uncovered(self, effects: list[Effect]) -> Refuse:
        effects.sort(key=_weight)
        if effects[0].action is Action.UNKNOWN:
            why = effects[0].attribute("reason")
            return Refuse(
                None,
                f"it cannot be said what this command does ({_clip(str(why))})"
                if why
                else "it cannot be said what this does",
                "write it in a simpler way; what cannot be understood is not let through",
            )
        deeds = list(dict.fromkeys(describe_deed(effect) for effect in effects))
        more = f" and {len(deeds) - _NAMED_MAX} more" if len(deeds) > _NAMED_MAX else ""
        return Refuse(
            None,
            f"no rule allows {self._who} to {', to '.join(deeds[:_NAMED_MAX])}{more}",
            "do without it, or ask the owner of the policy for a rule",
        )


class Policy:
    """All rules of a set of files. `version` names their exact text: equal versions decide alike."""

    def __init__(self, rules: Sequence[Rule], version: str) -> None:
        self.rules = tuple(sorted(rules, key=lambda rule: rule.place))
        self.version = version
        self._applicable: dict[tuple[str, str, frozenset[str], Scope], ApplicableRules] = {}

    def decide(self, principal: Principal, scope: Scope, effects: frozenset[Effect]) -> Verdict:
        """The verdict on a command with these effects. Without effects, or with one that nothing covers: Refuse."""
        return self.applicable(principal, scope).decide(effects)

    def applicable(self, principal: Principal, scope: Scope) -> ApplicableRules:
        """The rules that are for that caller at that place; kept, because a flow asks again for every command."""
        key = (principal.agent, principal.phase.value, principal.groups, scope)
        found = self._applicable.get(key)
        if found is None:
            if len(self._applicable) >= _APPLICABLE_MAX:
                self._applicable.clear()
            found = self._applicable[key] = ApplicableRules(self.rules, principal, scope)
        return found


def describe_deed(effect: Effect) -> str:
    """An effect as a refusal names it: "delete table public.orders"."""
    name = _clip(effect.thing.name)
    words = [str(effect.action), str(effect.thing.kind), name] if name else [str(effect.action), str(effect.thing.kind)]
    if effect.attribute("opaque") is True:
        words.append("(its code cannot be read)")
    elif isinstance(change := effect.attribute("change"), str):
        words.append(f"({change.replace('_', ' ')})")
    return " ".join(words)


def _by_deed(rules: Iterable[Rule], verbs: tuple[Verb, ...], actions: Callable[[Matcher], frozenset[Action]]) -> _Index:
    index: dict[tuple[Action, Kind], list[tuple[Rule, Matcher]]] = {}
    for rule in rules:
        if rule.verb in verbs:
            for matcher in rule.matchers:
                for deed in product(actions(matcher), matcher.kinds or Kind):
                    index.setdefault(deed, []).append((rule, matcher))
    return {deed: tuple(pairs) for deed, pairs in index.items()}


def _weight(effect: Effect) -> tuple[int, str]:
    return (_WEIGHTS[effect.action], str(effect))


def _heaviest(effects: Iterable[Effect]) -> Effect:
    """The effect a forwarded command is said to be about; its text is made only to part equals."""
    listed = list(effects)
    if len(listed) == 1:
        return listed[0]
    least = min(_WEIGHTS[effect.action] for effect in listed)
    heavy = [effect for effect in listed if _WEIGHTS[effect.action] == least]
    return heavy[0] if len(heavy) == 1 else min(heavy, key=str)


def _first(rules: Iterable[Rule]) -> Rule | None:
    return min(rules, key=lambda rule: rule.place, default=None)


def _clip(text: str) -> str:
    return text if len(text) <= _NAME_CHARACTERS_MAX else text[: _NAME_CHARACTERS_MAX - 1] + "…"


def _refuse_masked(uses: list[MaskedUse]) -> Refuse:
    use = min(uses, key=lambda use: (use.rule.place, _weight(use.effect), use.field))
    what = f"{_clip(use.effect.thing.name)}.{use.field}" if use.field else _clip(use.effect.thing.name)
    whose = "column" if use.effect.thing.kind is Kind.TABLE else "value"
    if use.effect.attribute("copy") is True:
        why, advice = f"{whose} {what} is masked, and COPY of it is not possible", "select it instead of copying it"
    elif use.effect.use is Use.COMPARE:
        why, advice = f"{whose} {what} is masked and may only be selected as it is", "leave it out of every condition"
    else:
        why = f"{whose} {what} is masked and may only be selected as it is or tested for equality"
        advice = "select the plain column, or leave it out"
    return Refuse(use.rule.reference, why, use.rule.advice or advice)


def _hold(rules: list[Rule], obligations: Obligations) -> Hold | Refuse:
    """One hold for all. Whoever answers must be good enough for every rule, so it is the groups that all of them name;
    where there is none, no single answer could be enough."""
    first = rules[0]
    approvers: frozenset[str] = frozenset()
    for rule in rules:
        wanted = rule.terms.approvers
        if not wanted:
            continue
        both = approvers & wanted if approvers else wanted
        if not both:
            return Refuse(
                first.reference,
                f"{first.reason} ({first.reference.id}); {rule.reason} ({rule.reference.id}); "
                "these need different approvers, and no group may answer for both",
                "split the command, so that each part is asked about by itself",
            )
        approvers = both
    reasons = list(dict.fromkeys(rule.reason for rule in rules))
    return Hold(
        first.reference,
        "; ".join(reasons),
        HoldTerms(approvers, min(rule.terms.seconds for rule in rules)),
        obligations,
    )


def _strictness(mask: Mask) -> tuple[int, int, str]:
    """Sorts the mask that shows least first."""
    return ({"null": 0, "redact": 1}.get(mask.kind, 2), mask.keep, mask.kind)


def _strictest_fields(uses: Iterable[MaskedUse]) -> tuple[FieldMask, ...]:
    found: dict[tuple[tuple[str, ...], str, str], FieldMask] = {}
    for use in uses:
        if use.shown:
            key = (use.effect.thing.path, use.effect.thing.kind.value, use.field)
            known = found.get(key)
            if known is None or _strictness(use.mask) < _strictness(known.mask):
                found[key] = FieldMask(use.effect.thing, use.field, use.mask)
    return tuple(found[key] for key in sorted(found))


def _strictest_values(values: Iterable[ValueMask]) -> tuple[ValueMask, ...]:
    found: dict[str, ValueMask] = {}
    for value in values:
        known = found.get(value.detector)
        if known is None or _strictness(value.mask) < _strictness(known.mask):
            found[value.detector] = value
    return tuple(found[name] for name in sorted(found))
