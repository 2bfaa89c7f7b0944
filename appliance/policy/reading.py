"""How policy files become rules: the YAML of docs/policy.md, whose shape is schema.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import blake2b
from importlib.resources import files as package_files
from typing import Any, cast

from appliance.decisions import HoldTerms, Mask, RuleReference, ValueMask
from appliance.documents import Document, Path, read_checked
from appliance.effects import Action, Kind, Scalar, Use
from appliance.errors import SettingError, SettingErrors
from appliance.masking.detectors import pattern_fault
from appliance.parties import Phase
from appliance.policy.matching import AttributeTest, Matcher, Where, Who
from appliance.policy.names import NameSet, PathPattern, PathSet, parse_path
from appliance.policy.rules import FieldMasking, Policy, Rule, Verb

# Kinds of mask that leave some characters to be seen; only there does `keep` mean anything.
_KEEPING = frozenset({"keep_last"})
_ALL_ACTIONS = frozenset(Action)
# What a hold without `seconds` waits where nobody says otherwise; settings.hold_seconds has the same.
_HOLD_SECONDS = 300.0


def read_policy(files: Sequence[tuple[str, str]], hold_seconds: float = _HOLD_SECONDS) -> Policy:
    """The policy of (name, text) pairs. `hold_seconds` is how long a hold waits whose rule does not say.

    Raises SettingErrors with every fault of every file; then none of the rules may be used.
    """
    errors: list[SettingError] = []
    rules: list[Rule] = []
    for name, text in files:
        try:
            document = read_checked(name, text, policy_schema())
        except SettingErrors as faults:
            errors += faults.errors
            continue
        reader = _Reader(document, hold_seconds, errors)
        rules += reader.rules()
    errors += _repeated_ids(rules)
    errors += _repeated_detectors(rules)
    if errors:
        raise SettingErrors(tuple(sorted(errors, key=lambda error: (error.file, error.line, str(error)))))
    return Policy(rules, _version(files, hold_seconds))


@cache
def policy_schema() -> dict[str, Any]:
    """The published JSON Schema of a policy file."""
    return cast("dict[str, Any]", json.loads(package_files("appliance.policy").joinpath("schema.json").read_text("utf-8")))


class _Reader:
    """Reads one document that keeps to the schema; what the schema cannot say is added to `errors`."""

    def __init__(self, document: Document, hold_seconds: float, errors: list[SettingError]) -> None:
        self._document = document
        self._hold_seconds = hold_seconds
        self._errors = errors

    def rules(self) -> list[Rule]:
        data = cast("dict[str, Any]", self._document.data)
        return [self._rule(raw, ("rules", number)) for number, raw in enumerate(data["rules"])]

    def _rule(self, raw: dict[str, Any], path: Path) -> Rule:
        verb = next(verb for verb in Verb if verb.value in raw)
        items = list(enumerate(raw[verb.value]))
        here = (*path, verb.value)
        masks: list[FieldMasking] = []
        values: list[ValueMask] = []
        if verb is Verb.MASK:
            for number, item in items:
                mask = self._mask(item["with"], (*here, number, "with"))
                if "values" in item:
                    values += [
                        self._value(value, mask, (*here, number, "values", index))
                        for index, value in enumerate(item["values"])
                    ]
                else:
                    masks.append(
                        FieldMasking(
                            self._paths(item["objects"], (*here, number, "objects")),
                            NameSet(item["fields"]) if "fields" in item else None,
                            mask,
                            item.get("compare", "allow") == "allow",
                        )
                    )
        return Rule(
            reference=RuleReference(raw["id"], self._document.file, self._document.line(path)),
            verb=verb,
            reason=raw["reason"],
            advice=raw.get("advice", ""),
            who=_who(raw.get("who", {})),
            where=_where(raw.get("where", {})),
            matchers=()
            if verb is Verb.MASK
            else tuple(self._matcher(item, verb, (*here, number)) for number, item in items),
            terms=HoldTerms(frozenset(raw.get("approvers", ())), float(raw.get("seconds", self._hold_seconds))),
            masks=tuple(masks),
            values=tuple(values),
            durable=raw.get("durable", False),
        )

    def _matcher(self, raw: dict[str, Any], verb: Verb, path: Path) -> Matcher:
        named: list[str] = raw.get("actions", ["*"])
        words = frozenset(Action(word) for word in named if word != "*")
        every = "*" in named
        attributes = tuple(_attribute(name, test) for name, test in sorted(raw.get("attributes", {}).items()))
        return Matcher(
            actions=_ALL_ACTIONS if every else words,
            covered=(_ALL_ACTIONS - {Action.UNKNOWN}) | words if every else words,
            kinds=frozenset(Kind(word) for word in raw.get("kinds", ())),
            objects=self._paths(raw.get("objects", ()), (*path, "objects")),
            excepted=self._paths(raw.get("except", ()), (*path, "except")),
            fields=NameSet(raw["fields"]) if "fields" in raw else None,
            uses=frozenset(Use(word) for word in raw.get("uses", ())),
            attributes=attributes,
            names_opaque=any(test.name == "opaque" and True in test.values for test in attributes),
            covers_counts=verb is Verb.ALLOW,
        )

    def _paths(self, raw: Sequence[str], path: Path) -> PathSet:
        found: list[PathPattern] = []
        for number, text in enumerate(raw):
            try:
                found.append(parse_path(text))
            except ValueError as error:
                self._errors.append(
                    self._document.error(
                        (*path, number),
                        f"the name {text!r} with {error}",
                        'a dotted name, such as public.payroll or public."a.b"',
                    )
                )
        return PathSet(found)

    def _mask(self, raw: dict[str, Any], path: Path) -> Mask:
        kind: str = raw["kind"]
        if "keep" in raw and kind not in _KEEPING:
            self._errors.append(
                self._document.error(
                    (*path, "keep"), f"keep beside the kind {kind}", f"keep beside {' or '.join(sorted(_KEEPING))} only"
                )
            )
        return Mask(kind, raw.get("keep", 0))

    def _value(self, raw: str | dict[str, str], mask: Mask, path: Path) -> ValueMask:
        if isinstance(raw, str):
            return ValueMask(raw, mask)
        if raw["name"] in {"pan", "email", "ssn"}:
            self._errors.append(
                self._document.error(
                    path, f"an own pattern called {raw['name']}", "a name that is not a built-in detector's"
                )
            )
        if fault := pattern_fault(raw["pattern"]):
            self._errors.append(
                self._document.error(
                    (*path, "pattern"), fault, "a regular expression that is quick on any text, such as E[0-9]{6}"
                )
            )
        return ValueMask(raw["name"], mask, raw["pattern"])


def _who(raw: dict[str, Any]) -> Who:
    return Who(
        NameSet(raw.get("agents", ())),
        frozenset(Phase(word) for word in raw.get("phases", ())),
        NameSet(raw.get("groups", ())),
    )


def _where(raw: dict[str, Any]) -> Where:
    return Where(NameSet(raw.get("resources", ())), NameSet(raw.get("protocols", ())), NameSet(raw.get("databases", ())))


def _attribute(name: str, raw: Scalar | list[Scalar] | dict[str, int]) -> AttributeTest:
    if isinstance(raw, dict):
        return AttributeTest(name, at_least=raw.get("at_least"), at_most=raw.get("at_most"))
    return AttributeTest(name, tuple(raw) if isinstance(raw, list) else (raw,))


def _repeated_ids(rules: Iterable[Rule]) -> list[SettingError]:
    first: dict[str, Rule] = {}
    errors: list[SettingError] = []
    for rule in sorted(rules, key=lambda rule: rule.place):
        known = first.setdefault(rule.reference.id, rule)
        if known is not rule:
            file, line, _ = rule.place
            errors.append(
                SettingError(
                    file,
                    line,
                    f"the id '{rule.reference.id}' for the second time",
                    f"each id once (the first is at {known.reference.file}:{known.reference.line})",
                )
            )
    return errors


def _repeated_detectors(rules: Iterable[Rule]) -> list[SettingError]:
    """An own pattern's name stands for one pattern, because masks of a detector are combined by name."""
    patterns: dict[str, str] = {}
    errors: list[SettingError] = []
    for rule in sorted(rules, key=lambda rule: rule.place):
        for value in rule.values:
            if value.pattern is not None and patterns.setdefault(value.detector, value.pattern) != value.pattern:
                file, line, _ = rule.place
                errors.append(
                    SettingError(
                        file, line, f"another pattern called {value.detector}", "one pattern for each name, in all the files"
                    )
                )
    return errors


def _version(files: Sequence[tuple[str, str]], hold_seconds: float) -> str:
    digest = blake2b(f"{hold_seconds}".encode(), digest_size=16)
    for name, text in sorted(files):
        for part in (name, text):
            data = part.encode("utf-8", "surrogateescape")
            digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
