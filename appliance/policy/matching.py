"""When a rule has a say: which callers and places it is for, and which effects a matcher touches, and which it covers.

The two last are different on purpose. To refuse or to ask, a rule need only touch an effect; to let it through, it must
cover it whole. So wherever something is missing, a matcher touches it and does not cover it.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.effects import Action, Effect, Kind, Scalar, Use
from appliance.parties import Phase, Principal, Scope
from appliance.policy.names import NameSet, PathSet

# Effects of these actions without fields touch no field at all (a count, a lock); every other one acts on whole rows.
_TOUCHING_NO_FIELD = frozenset({Action.READ, Action.CONNECT})


_NO_NAMES = NameSet()
_NO_PATHS = PathSet()


@dataclass(frozen=True, slots=True)
class Who:
    """Callers a rule is for. An empty set asks nothing; of several, all must fit."""

    agents: NameSet = _NO_NAMES
    phases: frozenset[Phase] = frozenset()
    groups: NameSet = _NO_NAMES

    def includes(self, principal: Principal) -> bool:
        """True where the rule is for that caller."""
        return (
            (not self.agents or self.agents.matches(principal.agent))
            and (not self.phases or principal.phase in self.phases)
            and (not self.groups or any(self.groups.matches(group) for group in principal.groups))
        )


@dataclass(frozen=True, slots=True)
class Where:
    """Places a rule is for. A place that has no database is not one of any `databases`."""

    resources: NameSet = _NO_NAMES
    protocols: NameSet = _NO_NAMES
    databases: NameSet = _NO_NAMES

    def includes(self, scope: Scope) -> bool:
        """True where the rule is for that place."""
        return (
            (not self.resources or self.resources.matches(scope.resource))
            and (not self.protocols or self.protocols.matches(scope.protocol))
            and (not self.databases or (scope.database is not None and self.databases.matches(scope.database)))
        )


@dataclass(frozen=True, slots=True)
class AttributeTest:
    """What an attribute must be: one of some values, or a number within bounds. A missing attribute never fits."""

    name: str
    values: tuple[Scalar, ...] = ()
    at_least: int | None = None
    at_most: int | None = None

    def fits(self, found: Scalar | None) -> bool:
        if found is None:
            return False
        if self.values:
            # By type as well, because Python takes True for 1.
            return any(type(value) is type(found) and value == found for value in self.values)
        if isinstance(found, bool) or not isinstance(found, int):
            return False
        return (self.at_least is None or found >= self.at_least) and (self.at_most is None or found <= self.at_most)


@dataclass(frozen=True, slots=True)
class Matcher:
    """Effects a rule speaks of. `actions` is spelled out (`covered` lacks `unknown` unless the rule names it); an empty
    `kinds`, `objects` or `uses` asks nothing; `excepted` things are not meant; `fields` None stands for all of a thing,
    fields or not. `covers_counts`: with `fields`, a read of no field is covered too; never so in a hold, which would let
    through unasked what it does not touch."""

    actions: frozenset[Action]
    covered: frozenset[Action]
    kinds: frozenset[Kind] = frozenset()
    objects: PathSet = _NO_PATHS
    excepted: PathSet = _NO_PATHS
    fields: NameSet | None = None
    uses: frozenset[Use] = frozenset()
    attributes: tuple[AttributeTest, ...] = ()
    names_opaque: bool = False
    covers_counts: bool = True

    def touches(self, effect: Effect) -> bool:
        """True where a refusal or a question of this matcher is about that effect."""
        if not self._concerns(effect, self.actions):
            return False
        if self.uses and effect.use not in self.uses:
            # A read that does not say how its fields are used may be of any use.
            return effect.use is None and effect.action is Action.READ and bool(effect.fields)
        if self.fields is None:
            return True
        if effect.fields:
            return bool(self.fields.matching(effect.fields))
        return touches_all_fields(effect)

    def covered_fields(self, effect: Effect) -> frozenset[str] | None:
        """Which of the effect's fields this matcher lets through; None where it lets nothing of it through. An effect
        without fields is let through by an empty set."""
        if not self._concerns(effect, self.covered):
            return None
        if self.uses and effect.use not in self.uses:
            return None
        if not self.names_opaque and effect.attribute("opaque") is True:
            return None
        if self.fields is None:
            return effect.fields
        if not effect.fields:
            return effect.fields if self.covers_counts and not touches_all_fields(effect) else None
        return self.fields.matching(effect.fields) or None

    def _concerns(self, effect: Effect, actions: frozenset[Action]) -> bool:
        thing = effect.thing
        if effect.action not in actions or (self.kinds and thing.kind not in self.kinds):
            return False
        if self.objects and not self.objects.matches(thing.path):
            return False
        if self.excepted and self.excepted.matches(thing.path):
            return False
        return not self.attributes or all(test.fits(effect.attribute(test.name)) for test in self.attributes)


def touches_all_fields(effect: Effect) -> bool:
    """True for an effect without fields that is about the whole thing (drop, truncate, a value read as one piece)."""
    return not effect.fields and (effect.use is not None or effect.action not in _TOUCHING_NO_FIELD)
