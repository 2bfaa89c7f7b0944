"""Which verdicts are kept, and what the record says of each, so that nothing is decided or written out twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from appliance.decisions import Forward, Hold, Obligations, Refuse, Verdict
from appliance.effects import Effect, EffectsKey
from appliance.parties import Principal, Scope
from appliance.policy.rules import Policy

# A worker keeps this many verdicts, and no more than this many characters or bytes of what they were derived from; what
# was not used for longest goes first, and costs one decision should it come again.
VERDICTS_MAX = 20_000
KEYS_LENGTH_MAX = 16 << 20
# A client chooses its database's name, so that there may be any number of places.
_PLACES_MAX = 1_000

_OUTCOMES: dict[type[Verdict], str] = {Forward: "forward", Hold: "hold", Refuse: "refuse"}


@dataclass(slots=True, eq=False)
class Judgement:
    """A verdict, with its words for the record. `is_plain`: the command goes as it is and nothing is owed for it but a look
    at the values that come back."""

    verdict: Verdict
    obligations: Obligations
    outcome: str
    effects: tuple[str, ...]
    rule: str | None
    masks: tuple[str, ...]
    is_plain: bool


def judgement(verdict: Verdict, effects: frozenset[Effect]) -> Judgement:
    """A verdict on these effects, written out."""
    obligations = Obligations() if isinstance(verdict, Refuse) else verdict.obligations
    is_plain = (
        isinstance(verdict, Forward)
        and verdict.approval is None
        and not obligations.fields
        and not obligations.quiet
        and not obligations.durable
    )
    return Judgement(
        verdict,
        obligations,
        _OUTCOMES[type(verdict)],
        tuple(sorted(str(effect) for effect in effects)),
        str(verdict.rule) if verdict.rule else None,
        tuple(f"{mask.thing.name}.{mask.field} {mask.mask.kind}" for mask in obligations.fields),
        is_plain,
    )


class ActivePolicy:
    """The policy in force in this worker, and the verdicts already found under it.

    A `place` is a caller at a scope, as a number that never stands for another: it makes a key that costs nothing to hash.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._judgements: OrderedDict[tuple[Hashable, int], Judgement] = OrderedDict()
        self._length = 0
        self._places: dict[tuple[Principal, Scope], int] = {}
        self._places_seen = 0

    def __len__(self) -> int:
        """Verdicts that are kept."""
        return len(self._judgements)

    @property
    def length(self) -> int:
        """Characters and bytes of all that the verdicts that are kept were derived from."""
        return self._length

    def replace(self, policy: Policy) -> None:
        """Put another policy in force; what was decided under the old one is forgotten."""
        self.policy = policy
        self._judgements.clear()
        self._length = 0

    def place(self, principal: Principal, scope: Scope) -> int:
        """The number of a caller at a scope. Equal ones share their verdicts."""
        whole = (principal, scope)
        place = self._places.get(whole)
        if place is None:
            if len(self._places) >= _PLACES_MAX:
                self._places.clear()
            self._places_seen += 1
            place = self._places[whole] = self._places_seen
        return place

    def find(self, place: int, key: Hashable) -> Judgement | None:
        """What was decided at that place on what `key` names, if it is still kept."""
        whole = (key, place)
        found = self._judgements.get(whole)
        if found is not None:
            self._judgements.move_to_end(whole)
        return found

    def judge(self, place: int, principal: Principal, scope: Scope, effects: frozenset[Effect], key: Hashable) -> Judgement:
        """The verdict on a set of effects; `key` names everything the effects were derived from, None: do not keep it.
        `place` is that of principal and scope."""
        if key is None:
            return judgement(self.policy.decide(principal, scope, effects), effects)
        found = self.find(place, key)
        if found is not None:
            return found
        found = judgement(self.policy.decide(principal, scope, effects), effects)
        self._judgements[key, place] = found
        self._length += _length_of(key)
        while len(self._judgements) > VERDICTS_MAX or self._length > KEYS_LENGTH_MAX:
            (oldest, _), _ = self._judgements.popitem(last=False)
            self._length -= _length_of(oldest)
        return found

    def decide(self, principal: Principal, scope: Scope, effects: frozenset[Effect], key: Hashable) -> Verdict:
        """The verdict alone."""
        return self.judge(self.place(principal, scope), principal, scope, effects, key).verdict


def _length_of(key: Hashable) -> int:
    """Of the texts that a key is made of; whatever else is in it is short."""
    if isinstance(key, EffectsKey):
        return key.length
    parts = key if isinstance(key, tuple) else (key,)
    return sum(len(part) for part in parts if isinstance(part, (str, bytes)))
