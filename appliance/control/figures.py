"""What was found out about a held command, in words that a person can decide by.

The order is one of weight: what happens to how many rows, what the target's planner expects, what stands out, what follows
over foreign keys, what will make it fail, what else runs. Names and numbers only.
"""

from __future__ import annotations

from dataclasses import replace

from appliance.approvals.desk import Certainty, Figure
from appliance.control.probing import (
    CHANGED,
    CUT,
    DEPENDENTS_MAX,
    EXPRESSED,
    STATEMENT_SECONDS,
    UNREADABLE,
    Answered,
    Findings,
    Size,
)
from appliance.sql.catalogue import Relation
from appliance.sql.foresight import ROWS_MAX, Foresight, Part

FIGURES_MAX = 80

_REASONS = {
    "57014": f"could not be counted in {STATEMENT_SECONDS:g} s",
    "55P03": "not counted: another session has the table locked",
    "42501": "not counted: the account may not read it",
    "25006": "not counted: reading it would write",
    CUT: "not counted: there was no time left",
    EXPRESSED: "not counted: the table's statistics evaluate expressions",
    CHANGED: "not counted: what exists at the target is changing at this moment",
    UNREADABLE: "not counted: a parameter came in a binary form that is not read here",
}

_FAILING = frozenset({"refer", "stand in the way"})


def not_worked_out(why: str) -> tuple[Figure, ...]:
    """The one line for a command about which nothing could be found out."""
    return (Figure("blast radius", "not worked out", why, Certainty.UNKNOWN),)


def figures_of(findings: Findings, *, in_transaction: bool, role: str) -> tuple[Figure, ...]:
    """All lines. `role` is the account under which they were found out."""
    lines: list[Figure] = []
    several = len(findings.foresights) > 1
    for number, one in enumerate(findings.foresights):
        own = _of_statement(findings, number, one)
        if several and own:
            lines.append(Figure(f"statement {number + 1}", _sort_in_words(one.sort)))
        lines.extend(own)
    if not lines:
        sorts = ", ".join(_sort_in_words(one.sort) for one in findings.foresights) or "nothing"
        return not_worked_out(f"there is nothing to count or to plan in it ({sorts})")
    if in_transaction:
        lines.append(
            Figure(
                "open transaction",
                "its own changes are not counted",
                "what this transaction has written so far is seen by nobody else; it keeps its locks while it waits",
                Certainty.WARNING,
            )
        )
    if len(lines) >= FIGURES_MAX:
        lines = [*lines[: FIGURES_MAX - 1], Figure("more", "there are more lines than are shown", "", Certainty.WARNING)]
    lines.append(Figure("worked out as", role, "by a read-only connection of its own, with the account's own settings"))
    return tuple(lines)


def _of_statement(findings: Findings, number: int, one: Foresight) -> list[Figure]:
    answers = findings.counts
    direct = [(place, part) for place, part in enumerate(one.parts) if not part.level]
    followed = [(place, part) for place, part in enumerate(one.parts) if part.level and part.what not in _FAILING]
    failing = [(place, part) for place, part in enumerate(one.parts) if part.what in _FAILING]
    lines = [_rows(part, answers.get((number, place)), findings) for place, part in direct if part.what != "touched"]
    lines += _estimate(findings, number, one)
    lines += [_everything(part) for _, part in direct if part.is_everything and part.what in ("deleted", "updated")]
    for part in {part.relation.oid: part for _, part in direct if part.relation is not None}.values():
        lines += _table(part, findings, number)
    told = {part.reason for _, part in direct if part.reason}
    for place, part in (*followed, *failing):
        # Why the rows themselves can't be counted is why those that refer to them can't.
        shorter = replace(part, reason="for the same reason") if part.reason in told else part
        answered = answers.get((number, place))
        is_failing = part.what in _FAILING
        lines.append(_failing(shorter, answered) if is_failing else _rows(shorter, answered, findings))
    lines += _dropped_along(findings.dependents.get(number, ()), cascades=one.cascades)
    lines += [
        Figure(
            _name(fired.relation),
            f"trigger {fired.trigger} runs",
            f"{fired.function}(); what it does is not counted",
            Certainty.WARNING,
        )
        for fired in one.fired
    ]
    if one.is_cut:
        lines.append(Figure("more", "it reaches further than is followed here", "", Certainty.WARNING))
    return lines


def _rows(part: Part, answered: Answered | None, findings: Findings) -> Figure:
    label = _name(part.relation) if part.relation is not None else "rows"
    detail = ""
    what = part.what
    if part.key is not None:
        detail = f"foreign key {part.key.name}" if part.key.name else "by a foreign key"
        what = "changed along with the key" if what == "updated" else f"{what} by cascade"
    if part.rows is not None:
        return Figure(label, f"{_bounded(part.rows, bound=part.is_bound)} {what}", "by its own text", Certainty.COUNTED)
    if answered is not None and answered.count is not None:
        value = f"{_bounded(answered.count, bound=part.is_bound)} {what}"
        size = None if part.relation is None else findings.sizes.get(part.relation.oid)
        if size is not None and size.row_security and part.what in ("deleted", "updated"):
            detail = "as far as the account may read them: row security may leave some out"
        return Figure(label, value, detail, Certainty.COUNTED)
    if answered is not None:
        reason = _reason(answered.failure)
        if answered.failure == "57014" and not part.level:
            reason += "; the estimate stands"
    elif part.reason:
        reason = f"not counted: {part.reason}"
    else:
        reason = "not counted"
    return Figure(label, f"rows {what}: {reason}", detail, Certainty.UNKNOWN)


def _failing(part: Part, answered: Answered | None) -> Figure:
    label = _name(part.relation) if part.relation is not None else "rows"
    detail = f"foreign key {part.key.name}" if part.key is not None and part.key.name else "by a foreign key"
    if part.what == "stand in the way":
        return Figure(label, "refers to it: the statement will fail", detail, Certainty.WARNING)
    if answered is not None and answered.count is not None:
        if not answered.count:
            return Figure(label, "no row refers to them", detail, Certainty.COUNTED)
        verb = "refers" if answered.count == 1 else "refer"
        value = f"{_bounded(answered.count, bound=part.is_bound)} {verb} to them: it will fail unless they go too"
        return Figure(label, value, detail, Certainty.WARNING)
    why = _reason(answered.failure) if answered is not None else f"not counted: {part.reason}"
    return Figure(label, f"rows that refer to them would make it fail: {why}", detail, Certainty.UNKNOWN)


def _estimate(findings: Findings, number: int, one: Foresight) -> list[Figure]:
    answered = findings.plans.get(number)
    if answered is None:
        reason = one.plan_reason
        return [Figure("planner's estimate", f"not worked out: {reason}", "", Certainty.UNKNOWN)] if reason else []
    if answered.plan is None:
        state = answered.failure
        refusing = {
            "42501": "the account may not do this: the target will refuse it",
            "57014": f"not worked out in {STATEMENT_SECONDS:g} s",
            "55P03": "not worked out: another session has the table locked",
            CUT: "not worked out: there was no time left",
            EXPRESSED: "not worked out: the table's statistics evaluate expressions",
            CHANGED: "not worked out: what exists at the target is changing at this moment",
            UNREADABLE: "not worked out: a parameter came in a binary form that is not read here",
        }
        value = refusing.get(state, f"none: the target refuses the statement ({state})")
        worth = Certainty.UNKNOWN if state in ("57014", "55P03", CUT, EXPRESSED, CHANGED, UNREADABLE) else Certainty.WARNING
        return [Figure("planner's estimate", value, "", worth)]
    plan = answered.plan
    rows = "no row" if not plan.rows else f"about {_counted(round(plan.rows))}"
    return [Figure("planner's estimate", rows, f"cost {plan.cost:,.0f} in the planner's own unit", Certainty.ESTIMATED)]


def _everything(part: Part) -> Figure:
    name = _name(part.relation) if part.relation is not None else "it"
    return Figure(name, "every row", "the statement has no WHERE", Certainty.WARNING)


def _table(part: Part, findings: Findings, number: int) -> list[Figure]:
    relation = part.relation
    assert relation is not None
    lines: list[Figure] = []
    size = findings.sizes.get(relation.oid)
    if size is not None and relation.kind in "rpm":
        lines.append(Figure(_name(relation), _size_in_words(size), "table and indexes", Certainty.ESTIMATED))
    plan = findings.plans.get(number)
    if relation.kind == "p" and part.below and plan is not None and plan.plan is not None:
        touched = len(plan.plan.relations & part.below)
        value = f"visits {touched} of its {len(part.below)} partitions"
        lines.append(Figure(_name(relation), value, "as far as planning can tell", Certainty.ESTIMATED))
    if relation.kind == "v" and part.what not in ("returned", "dropped"):
        detail = "keys and triggers of the tables behind it are not followed"
        lines.append(Figure(_name(relation), "is a view", detail, Certainty.WARNING))
    if part.what in ("removed", "dropped", "touched"):
        lines.append(Figure(_name(relation), "is locked as a whole while it runs", "", Certainty.FACT))
    return lines


def _dropped_along(names: tuple[str, ...], *, cascades: bool) -> list[Figure]:
    if not names:
        return []
    if not cascades:
        more = " and more" if len(names) > 1 else ""
        return [Figure("dependents", "others depend on it: the statement will fail", f"{names[0]}{more}", Certainty.WARNING)]
    lines = [Figure("dropped by cascade", name, "", Certainty.WARNING) for name in names[:DEPENDENTS_MAX]]
    if len(names) > DEPENDENTS_MAX:
        lines.append(Figure("dropped by cascade", f"and more than {DEPENDENTS_MAX} others", "", Certainty.WARNING))
    return lines


def _reason(failure: str) -> str:
    return _REASONS.get(failure, f"not counted: the target refuses the question ({failure})")


def _name(relation: Relation) -> str:
    return f"{relation.schema}.{relation.name}"


def _counted(number: int) -> str:
    if number > ROWS_MAX:
        return f"{number:,} rows"
    return "1 row" if number == 1 else f"{number:,} rows"


def _bounded(number: int, *, bound: bool) -> str:
    if number > ROWS_MAX:
        return f"more than {ROWS_MAX:,} rows"
    if not number:
        return "no row"
    return f"at most {_counted(number)}" if bound else _counted(number)


def _size_in_words(size: Size) -> str:
    rows = "never counted" if size.rows is None else f"about {_counted(round(size.rows))} in all"
    if size.size is None:
        return f"{rows}; its size could not be read"
    amount, unit = float(size.size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{rows}, {amount:,.0f} {unit}"


def _sort_in_words(sort: str) -> str:
    return sort.removesuffix("Stmt")
