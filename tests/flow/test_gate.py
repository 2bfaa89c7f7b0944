"""The verdicts that a worker keeps: how many, how much of what they were derived from, and which go first."""

from __future__ import annotations

from appliance.effects import Action, Kind, effect
from appliance.flow.verdicts import KEYS_LENGTH_MAX, VERDICTS_MAX, ActivePolicy
from appliance.parties import Phase, Principal, Scope
from appliance.policy.reading import read_policy

WHO = Principal("bot", Phase.EXECUTE, frozenset(), "source address")
WHERE = Scope("shop", "postgres")
EFFECTS = frozenset({effect(Action.CONNECT, Kind.SESSION)})
OPEN = "rules: [{id: all, reason: anything, allow: [{actions: ['*']}]}]"


def active() -> ActivePolicy:
    return ActivePolicy(read_policy([("p.yaml", OPEN)]))


def test_verdicts_on_long_texts_are_bounded_by_what_they_hold_together() -> None:
    policy = active()
    for number in range(1_000):
        policy.decide(WHO, WHERE, EFFECTS, (f"{number}".ljust(32 << 10), "shop"))
        assert policy.length <= KEYS_LENGTH_MAX
    assert len(policy) == KEYS_LENGTH_MAX // ((32 << 10) + 4)


def test_verdicts_on_short_texts_are_bounded_by_their_number_and_the_least_used_goes() -> None:
    policy = active()
    first = policy.decide(WHO, WHERE, EFFECTS, "first")
    for number in range(VERDICTS_MAX + 10):
        policy.decide(WHO, WHERE, EFFECTS, f"{number:08}")
        assert policy.decide(WHO, WHERE, EFFECTS, "first") is first
    assert len(policy) == VERDICTS_MAX
    assert policy.length == 8 * (VERDICTS_MAX - 1) + len("first")


def test_another_policy_forgets_every_verdict() -> None:
    policy = active()
    policy.decide(WHO, WHERE, EFFECTS, "a text")
    policy.replace(read_policy([("p.yaml", OPEN)]))
    assert (len(policy), policy.length) == (0, 0)
