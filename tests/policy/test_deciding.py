"""How rules decide, through the door everybody uses: YAML in, verdicts out."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.decisions import FieldMask, Forward, Hold, Mask, Refuse, ValueMask, Verdict
from appliance.effects import Action, Effect, Kind, Thing, Use, effect, unknown
from appliance.parties import Phase, Principal, Scope
from appliance.policy.explanation import explain, verdict_word
from appliance.policy.reading import read_policy
from appliance.policy.rules import Policy

BOT = Principal("bot", Phase.EXECUTE, frozenset({"shop"}), "source address")
SHOP = Scope("shop", "postgres", "shop")
ALL = {"id": "all", "reason": "all", "allow": [{"actions": ["*"]}]}


def rule(name: str, **keys: Any) -> dict[str, Any]:
    return {"id": name, "reason": f"because of {name}", **keys}


def policy(*rules: dict[str, Any]) -> Policy:
    return read_policy([("rules.yaml", json.dumps({"rules": list(rules)}, indent=1))])


def decide(rules: Policy, *effects: Effect, who: Principal = BOT, where: Scope = SHOP) -> Verdict:
    return rules.decide(who, where, frozenset(effects))


def read(table: str, *fields: str, use: Use | None = None, **attributes: Any) -> Effect:
    return effect(Action.READ, Kind.TABLE, "public", table, fields=frozenset(fields), use=use, **attributes)


def act(action: Action, table: str = "orders", *fields: str, **attributes: Any) -> Effect:
    return effect(action, Kind.TABLE, "public", table, fields=frozenset(fields), **attributes)


def test_no_effects_are_refused() -> None:
    assert isinstance(decide(policy(ALL)), Refuse)


def test_no_rules_refuse_everything() -> None:
    verdict = decide(policy(), read("orders", "id"))
    assert isinstance(verdict, Refuse)
    assert verdict.rule is None
    assert "read table public.orders" in verdict.reason
    assert "bot/execute" in verdict.reason


def test_every_effect_must_be_covered() -> None:
    rules = policy(rule("r", allow=[{"actions": ["read"]}]))
    assert isinstance(decide(rules, read("a", "x")), Forward)
    verdict = decide(rules, read("a", "x"), act(Action.DELETE))
    assert isinstance(verdict, Refuse)
    assert "delete table public.orders" in verdict.reason


def test_a_star_does_not_cover_unknown_but_its_name_does() -> None:
    assert isinstance(decide(policy(ALL), unknown("odd")), Refuse)
    assert "odd" in decide(policy(ALL), unknown("odd")).reason
    named = policy(ALL, rule("u", allow=[{"actions": ["unknown"]}]))
    assert isinstance(decide(named, unknown("odd")), Forward)


def test_one_deny_wins_alone() -> None:
    rules = policy(ALL, rule("h", hold=[{"actions": ["*"]}]), rule("d", deny=[{"objects": ["public.payroll"]}]))
    verdict = decide(rules, read("orders", "id"), read("payroll", "iban"))
    assert isinstance(verdict, Refuse)
    assert verdict.rule is not None
    assert (verdict.rule.id, verdict.rule.file) == ("d", "rules.yaml")
    assert isinstance(decide(rules, read("payroll_calendar", "day")), Hold)


def test_opaque_is_covered_only_by_name_and_denied_regardless() -> None:
    call = effect(Action.CALL, Kind.FUNCTION, "public", "f", opaque=True)
    clear = effect(Action.CALL, Kind.FUNCTION, "public", "f", opaque=False)
    assert isinstance(decide(policy(ALL), call), Refuse)
    assert isinstance(decide(policy(ALL), clear), Forward)
    named = rule("o", allow=[{"actions": ["call"], "attributes": {"opaque": True}}])
    assert isinstance(decide(policy(named), call), Forward)
    assert isinstance(decide(policy(named), clear), Refuse)
    assert isinstance(decide(policy(named, rule("d", deny=[{"objects": ["public.f"]}])), call), Refuse)


def test_attributes_compare_by_value_and_type_and_bounds() -> None:
    rules = policy(rule("r", allow=[{"actions": ["scale"], "attributes": {"replicas": {"at_most": 10}}}]))
    assert isinstance(decide(rules, act(Action.SCALE, replicas=10)), Forward)
    assert isinstance(decide(rules, act(Action.SCALE, replicas=11)), Refuse)
    assert isinstance(decide(rules, act(Action.SCALE, replicas=True)), Refuse)
    assert isinstance(decide(rules, act(Action.SCALE)), Refuse)
    listed = policy(rule("r", allow=[{"actions": ["alter"], "attributes": {"change": ["add_column", 1]}}]))
    assert isinstance(decide(listed, act(Action.ALTER, change="add_column")), Forward)
    assert isinstance(decide(listed, act(Action.ALTER, change=True)), Refuse)


def test_deny_with_fields_meets_them_and_whole_things() -> None:
    rules = policy(ALL, rule("d", deny=[{"objects": ["public.orders"], "fields": ["note"]}]))
    assert isinstance(decide(rules, read("orders", "id", "note")), Refuse)
    assert isinstance(decide(rules, read("orders", "id")), Forward)
    assert isinstance(decide(rules, read("orders")), Forward)  # count(*)
    for action in (Action.DELETE, Action.TRUNCATE, Action.DROP, Action.ALTER):
        assert isinstance(decide(rules, act(action)), Refuse)


def test_allow_with_fields_covers_only_those_and_several_cover_together() -> None:
    one = rule("a", allow=[{"actions": ["*"], "fields": ["id", "status"]}])
    two = rule("b", allow=[{"actions": ["read"], "fields": ["am*"]}])
    assert isinstance(decide(policy(one), read("orders", "id", "amount")), Refuse)
    assert isinstance(decide(policy(one, two), read("orders", "id", "amount")), Forward)
    assert isinstance(decide(policy(one), read("orders")), Forward)  # count(*)
    assert isinstance(decide(policy(one), act(Action.DELETE)), Refuse)
    assert isinstance(decide(policy(one), act(Action.UPDATE, "orders", "status")), Forward)


def test_uses_narrow_an_allow_and_doubt_widens_a_deny() -> None:
    plain = policy(rule("a", allow=[{"actions": ["read"], "uses": ["output"]}]))
    assert isinstance(decide(plain, read("orders", "id", use=Use.OUTPUT)), Forward)
    assert isinstance(decide(plain, read("orders", "id", use=Use.COMPUTE)), Refuse)
    assert isinstance(decide(plain, read("orders", "id")), Refuse)
    denied = policy(ALL, rule("d", deny=[{"uses": ["compute"]}]))
    assert isinstance(decide(denied, read("orders", "id", use=Use.COMPUTE)), Refuse)
    assert isinstance(decide(denied, read("orders", "id")), Refuse)
    assert isinstance(decide(denied, read("orders")), Forward)
    assert isinstance(decide(denied, read("orders", "id", use=Use.OUTPUT)), Forward)


def test_except_takes_things_out() -> None:
    rules = policy(ALL, rule("h", hold=[{"actions": ["drop"], "except": ["pg_temp.*"]}]))
    assert isinstance(decide(rules, effect(Action.DROP, Kind.TABLE, "pg_temp", "t")), Forward)
    assert isinstance(decide(rules, act(Action.DROP)), Hold)


@pytest.mark.parametrize(
    ("who", "where", "applies"),
    [
        ({"agents": ["b*"]}, None, True),
        ({"agents": ["c*"]}, None, False),
        ({"phases": ["plan"]}, None, False),
        ({"phases": ["plan", "execute"]}, None, True),
        ({"groups": ["ops", "shop"]}, None, True),
        ({"groups": ["ops"]}, None, False),
        ({"agents": ["bot"], "groups": ["ops"]}, None, False),
        (None, {"resources": ["sh?p"]}, False),
        (None, {"resources": ["sh*"]}, True),
        (None, {"protocols": ["redis"]}, False),
        (None, {"databases": ["shop"]}, True),
        (None, {"databases": ["other"]}, False),
    ],
)
def test_who_and_where_must_both_fit(who: Any, where: Any, applies: bool) -> None:
    keys = {key: value for key, value in (("who", who), ("where", where)) if value is not None}
    verdict = decide(policy(rule("a", allow=[{"actions": ["read"]}], **keys)), read("orders", "id"))
    assert isinstance(verdict, Forward) is applies


def test_a_place_without_a_database_is_none_of_any() -> None:
    rules = policy(rule("a", allow=[{"actions": ["read"]}], where={"databases": ["*"]}))
    assert isinstance(decide(rules, read("a", "b"), where=Scope("cache", "redis")), Refuse)


# Holds


def hold(name: str, action: str, **keys: Any) -> dict[str, Any]:
    return rule(name, hold=[{"actions": [action]}], **keys)


def test_a_hold_covers_and_is_stricter_than_an_allow() -> None:
    verdict = decide(policy(hold("h", "delete", approvers=["dba"], seconds=60)), act(Action.DELETE))
    assert isinstance(verdict, Hold)
    assert (verdict.rule.id, verdict.terms.approvers, verdict.terms.seconds) == ("h", frozenset({"dba"}), 60)
    assert isinstance(decide(policy(ALL, hold("h", "delete")), act(Action.DELETE)), Hold)


def test_a_hold_without_seconds_waits_as_the_settings_say() -> None:
    text = json.dumps({"rules": [hold("h", "delete")]})
    verdict = read_policy([("f", text)], hold_seconds=17).decide(BOT, SHOP, frozenset({act(Action.DELETE)}))
    assert isinstance(verdict, Hold)
    assert verdict.terms.seconds == 17


def test_a_hold_on_fields_grants_nothing_it_does_not_ask_about() -> None:
    rules = policy(rule("h", hold=[{"actions": ["read"], "fields": ["note"]}]))
    assert isinstance(decide(rules, read("orders", "note")), Hold)
    assert isinstance(decide(rules, read("orders")), Refuse)  # count(*)
    assert isinstance(
        decide(policy(ALL, rule("h", hold=[{"actions": ["read"], "fields": ["note"]}])), read("orders")), Forward
    )


def test_several_holds_are_one_with_the_strictest_terms() -> None:
    rules = policy(
        hold("one", "delete", approvers=["dba", "lead"], seconds=60),
        hold("two", "truncate", approvers=["lead", "cto"], seconds=30),
        hold("three", "drop"),
    )
    verdict = decide(rules, act(Action.DELETE), act(Action.TRUNCATE), act(Action.DROP))
    assert isinstance(verdict, Hold)
    assert verdict.rule.id == "one"
    assert verdict.terms.approvers == {"lead"}
    assert verdict.terms.seconds == 30
    assert "because of one" in verdict.reason
    assert "because of two" in verdict.reason


def test_holds_that_no_group_may_answer_for_both_are_refused() -> None:
    rules = policy(hold("one", "delete", approvers=["dba"]), hold("two", "truncate", approvers=["cto"]))
    verdict = decide(rules, act(Action.DELETE), act(Action.TRUNCATE))
    assert isinstance(verdict, Refuse)
    assert verdict.rule is not None
    assert verdict.rule.id == "one"
    assert "split" in verdict.advice


def test_durable_rules_oblige() -> None:
    rules = policy({**rule("w", allow=[{"actions": ["update"]}]), "durable": True}, ALL)
    written, seen = decide(rules, act(Action.UPDATE)), decide(rules, read("orders", "id"))
    assert isinstance(written, Forward)
    assert isinstance(seen, Forward)
    assert written.obligations.durable
    assert not seen.obligations.durable


# Masks

CARD = rule(
    "card",
    mask=[{"objects": ["public.customers"], "fields": ["card_number"], "with": {"kind": "keep_last", "keep": 4}}],
)
CUSTOMERS = Thing(Kind.TABLE, ("public", "customers"))


def test_a_mask_grants_nothing() -> None:
    assert isinstance(decide(policy(CARD), read("customers", "card_number", use=Use.OUTPUT)), Refuse)


def test_output_of_a_masked_field_is_masked() -> None:
    verdict = decide(policy(ALL, CARD), read("customers", "id", "card_number", use=Use.OUTPUT))
    assert isinstance(verdict, Forward)
    assert verdict.obligations.fields == (FieldMask(CUSTOMERS, "card_number", Mask("keep_last", 4)),)
    assert verdict.obligations.quiet


def test_comparing_a_masked_field_is_allowed_unless_refused() -> None:
    compared = read("customers", "card_number", use=Use.COMPARE)
    verdict = decide(policy(ALL, CARD), compared)
    assert isinstance(verdict, Forward)
    assert verdict.obligations.fields == ()
    assert verdict.obligations.quiet
    strict = {**CARD, "mask": [{**CARD["mask"][0], "compare": "refuse"}]}
    refused = decide(policy(ALL, strict), compared)
    assert isinstance(refused, Refuse)
    assert refused.rule is not None
    assert refused.rule.id == "card"


@pytest.mark.parametrize("use", [Use.COMPUTE, None])
def test_any_other_use_of_a_masked_field_is_refused(use: Use | None) -> None:
    verdict = decide(policy(ALL, CARD), read("customers", "card_number", use=use))
    assert isinstance(verdict, Refuse)
    assert verdict.rule is not None
    assert verdict.rule.id == "card"
    assert (
        "column public.customers.card_number is masked and may only be selected as it is or tested for equality"
        in verdict.reason
    )


def test_copy_of_a_masked_field_says_so() -> None:
    verdict = decide(policy(ALL, CARD), read("customers", "card_number", use=Use.COMPUTE, copy=True))
    assert isinstance(verdict, Refuse)
    assert "COPY" in verdict.reason


def test_masked_and_free_uses_of_other_fields_do_not_mix() -> None:
    verdict = decide(
        policy(ALL, CARD), read("customers", "id", use=Use.COMPUTE), read("customers", "card_number", use=Use.OUTPUT)
    )
    assert isinstance(verdict, Forward)
    assert len(verdict.obligations.fields) == 1


def test_writing_a_masked_field_and_counting_rows_is_fine_but_quiet() -> None:
    for deed in (
        act(Action.INSERT, "customers", "card_number"),
        act(Action.UPDATE, "customers", "card_number"),
        read("customers"),
    ):
        verdict = decide(policy(ALL, CARD), deed)
        assert isinstance(verdict, Forward)
        assert verdict.obligations.quiet
        assert not verdict.obligations.fields
    other = decide(policy(ALL, CARD), act(Action.INSERT, "orders", "id"))
    assert isinstance(other, Forward)
    assert not other.obligations.quiet


def test_a_held_command_carries_its_masks() -> None:
    rules = policy(ALL, CARD, hold("h", "delete"))
    verdict = decide(rules, act(Action.DELETE, "customers"), read("customers", "card_number", use=Use.OUTPUT))
    assert isinstance(verdict, Hold)
    assert [mask.field for mask in verdict.obligations.fields] == ["card_number"]


def test_of_two_masks_the_stricter_applies() -> None:
    null = rule("null", mask=[{"objects": ["*"], "fields": ["*"], "with": {"kind": "null"}}])
    verdict = decide(policy(ALL, CARD, null), read("customers", "card_number", use=Use.OUTPUT))
    assert isinstance(verdict, Forward)
    assert [mask.mask.kind for mask in verdict.obligations.fields] == ["null"]


def test_a_value_without_fields_is_masked_whole_and_doubt_is_refused() -> None:
    rules = policy(ALL, rule("keys", mask=[{"objects": ["user:*"], "with": {"kind": "redact"}}]))
    key = Thing(Kind.KEY, ("user:1",))
    shown = decide(rules, Effect(Action.READ, key, use=Use.OUTPUT))
    assert isinstance(shown, Forward)
    assert shown.obligations.fields == (FieldMask(key, "", Mask("redact")),)
    assert isinstance(decide(rules, Effect(Action.READ, key)), Refuse)
    other = decide(rules, Effect(Action.READ, Thing(Kind.KEY, ("cart:1",)), use=Use.OUTPUT))
    assert isinstance(other, Forward)
    assert not other.obligations.fields


def test_value_masks_go_along_with_everything_they_are_for() -> None:
    values = rule("v", mask=[{"values": ["pan", {"name": "badge", "pattern": "E[0-9]{6}"}], "with": {"kind": "redact"}}])
    elsewhere = rule("e", mask=[{"values": ["email"], "with": {"kind": "redact"}}], where={"resources": ["other"]})
    verdict = decide(policy(ALL, values, elsewhere), read("orders", "id", use=Use.OUTPUT))
    assert isinstance(verdict, Forward)
    assert verdict.obligations.values == (
        ValueMask("badge", Mask("redact"), "E[0-9]{6}"),
        ValueMask("pan", Mask("redact")),
    )


# Order means nothing

_TABLES = ["orders", "customers", "payroll"]
_FIELDS = ["id", "card_number", "note"]
_matchers = st.fixed_dictionaries(
    {
        "actions": st.lists(
            st.sampled_from(["read", "delete", "update", "drop", "*", "unknown"]), min_size=1, max_size=3, unique=True
        )
    },
    optional={
        "objects": st.lists(
            st.sampled_from(["*", "public.*", "*.payroll", "public.customers"]), min_size=1, max_size=2, unique=True
        ),
        "fields": st.lists(st.sampled_from(_FIELDS), min_size=1, max_size=2, unique=True),
        "uses": st.lists(st.sampled_from([use.value for use in Use]), min_size=1, max_size=2, unique=True),
        "attributes": st.just({"opaque": True}),
    },
)
_masks = st.fixed_dictionaries(
    {
        "objects": st.just(["public.*"]),
        "with": st.sampled_from([{"kind": "redact"}, {"kind": "null"}, {"kind": "keep_last", "keep": 4}]),
    },
    optional={"fields": st.lists(st.sampled_from(_FIELDS), min_size=1, unique=True), "compare": st.just("refuse")},
)
_bodies = st.one_of(
    st.fixed_dictionaries({"allow": st.lists(_matchers, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"deny": st.lists(_matchers, min_size=1, max_size=1)}),
    st.fixed_dictionaries(
        {"hold": st.lists(_matchers, min_size=1, max_size=2)},
        optional={
            "approvers": st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, unique=True),
            "seconds": st.integers(1, 9),
        },
    ),
    st.fixed_dictionaries({"mask": st.lists(_masks, min_size=1, max_size=2)}),
)
_effects = st.builds(
    Effect,
    st.sampled_from([Action.READ, Action.DELETE, Action.UPDATE, Action.DROP, Action.UNKNOWN]),
    st.sampled_from([Thing(Kind.TABLE, ("public", name)) for name in _TABLES]),
    st.frozensets(st.sampled_from(_FIELDS), max_size=3),
    st.sampled_from([None, *Use]),
    st.sampled_from([(), (("opaque", True),)]),
)


def _substance(verdict: Verdict) -> tuple[Any, ...]:
    """What of a verdict may not depend on where its rules stand."""
    match verdict:
        case Forward():
            return ("forward", verdict.obligations)
        case Hold():
            return ("hold", verdict.terms, verdict.obligations)
        case Refuse():
            return ("refuse", verdict.rule is None)


@settings(max_examples=300, deadline=None)
@given(st.lists(_bodies, max_size=7), st.frozensets(_effects, max_size=4), st.randoms(use_true_random=False))
def test_order_of_files_and_rules_means_nothing(
    bodies: list[dict[str, Any]], effects: frozenset[Effect], rnd: random.Random
) -> None:
    rules = [rule(f"r{number}", **body) for number, body in enumerate(bodies)]
    first = policy(ALL, *rules).decide(BOT, SHOP, effects)
    shuffled = [ALL, *rules]
    rnd.shuffle(shuffled)
    cut = rnd.randrange(len(shuffled) + 1)
    files = [(name, json.dumps({"rules": part})) for name, part in (("z", shuffled[:cut]), ("a", shuffled[cut:]))]
    second = read_policy(files)
    assert _substance(second.decide(BOT, SHOP, effects)) == _substance(first)
    # Listing the files the other way round changes not even which rule is named.
    assert read_policy(files[::-1]).decide(BOT, SHOP, effects) == second.decide(BOT, SHOP, effects)


@settings(max_examples=200, deadline=None)
@given(st.lists(_bodies, max_size=6), st.frozensets(_effects, min_size=1, max_size=4), _bodies)
def test_more_denials_holds_and_masks_never_loosen(
    bodies: list[dict[str, Any]], effects: frozenset[Effect], more: dict[str, Any]
) -> None:
    rules = [rule(f"r{number}", **body) for number, body in enumerate(bodies)]
    strictness = {"allow": 0, "mask": 0, "hold": 1, "deny": 2}
    before = policy(*rules).decide(BOT, SHOP, effects)
    after = policy(*rules, rule("more", **more)).decide(BOT, SHOP, effects)
    if "deny" in more or "mask" in more:
        assert strictness[verdict_word(after)] >= strictness[verdict_word(before)]
    if "hold" in more and not isinstance(before, Refuse):
        assert strictness[verdict_word(after)] >= strictness[verdict_word(before)]
    if "allow" in more and not isinstance(before, Refuse):
        assert _substance(after)[0] == _substance(before)[0]


@settings(max_examples=200, deadline=None)
@given(st.lists(_bodies, max_size=6), st.frozensets(_effects, min_size=1, max_size=4))
def test_an_explanation_agrees_with_the_verdict(bodies: list[dict[str, Any]], effects: frozenset[Effect]) -> None:
    rules = policy(*(rule(f"r{number}", **body) for number, body in enumerate(bodies)))
    explanation = explain(rules, BOT, SHOP, effects)
    outcomes = [explained.outcome for explained in explanation.effects]
    word = verdict_word(explanation.verdict)
    if any("denied" in outcome for outcome in outcomes):
        assert word == "deny"
    elif any("held" in outcome for outcome in outcomes):
        assert word in {"hold", "deny"}  # denied where no group may answer all holds
    else:
        assert word in {"allow", "mask"}
    assert str(explanation.verdict.reason) in explanation.text()


def test_reported_rule_is_the_first_by_file_and_line() -> None:
    def one(name: str) -> str:
        return json.dumps({"rules": [rule(name, deny=[{"actions": ["drop"]}])]})

    rules = read_policy([("b.yaml", one("x")), ("a.yaml", one("y"))])
    verdict = decide(rules, act(Action.DROP))
    assert isinstance(verdict, Refuse)
    assert verdict.rule is not None
    assert str(verdict.rule) == "y (a.yaml:1)"


def test_version_names_texts_and_names() -> None:
    text = "rules: []\n"
    version = read_policy([("a", text), ("b", text)]).version
    assert version == read_policy([("b", text), ("a", text)]).version
    assert version != read_policy([("a", text), ("c", text)]).version
    assert version != read_policy([("a", text), ("b", text + "\n")]).version


def test_no_more_callers_are_remembered_than_there_is_room_for() -> None:
    rules = policy(ALL)
    for number in range(3000):
        assert isinstance(decide(rules, read("a", "b"), where=Scope("shop", "postgres", f"db{number}")), Forward)
    assert len(rules._applicable) <= 1024
