"""Which text may stand in for a held one: what the client expects in answer must stay what it gets."""

from __future__ import annotations

from appliance.errors import AmendmentError
from appliance.sql.reading import Reading


def may_amend(reading: Reading) -> bool:
    """Whether another text may be put in place of one that reads like this."""
    return (
        reading.problem is None
        and bool(reading.statements)
        and all(statement.change is None and statement.copies is None for statement in reading.statements)
    )


def check_amendment(old: Reading, new: Reading) -> None:
    """Raises AmendmentError where the new text cannot stand in for the old one, whatever policy says."""
    if new.problem is not None:
        raise AmendmentError(f"the changed text cannot be read: {new.problem.message}")
    if not new.statements:
        raise AmendmentError("the changed text has no statement")
    if any(statement.change is not None for statement in new.statements):
        raise AmendmentError("the changed text changes the session or the transaction")
    if any(statement.copies is not None for statement in new.statements):
        raise AmendmentError("the changed text copies, which the client does not expect")
    if len(new.statements) != len(old.statements):
        raise AmendmentError(
            f"the changed text has {len(new.statements)} statements where {len(old.statements)} are expected"
        )
    if new.parameters != old.parameters:
        raise AmendmentError(f"the changed text has {new.parameters} parameters where {old.parameters} are bound")
    for before, after in zip(old.statements, new.statements, strict=True):
        if (before.outputs is None) != (after.outputs is None):
            raise AmendmentError(
                "the changed text returns rows where the client expects none, or none where it expects rows"
            )


def changed_shape(old: Reading, new: Reading) -> str | None:
    """Why the rows of a changed text would be misread by a client that has the old one's description."""
    before = old.statements[0].outputs or ()
    after = new.statements[0].outputs or ()
    if len(before) != len(after):
        return f"the changed text returns {len(after)} columns where the client expects {len(before)}"
    for position, (was, now) in enumerate(zip(before, after, strict=True)):
        if was.name != now.name:
            return f"column {position + 1} of the changed text has another name than the client expects"
        if {source.type_oid for source in was.sources} != {source.type_oid for source in now.sources}:
            return f"column {position + 1} of the changed text comes from another type than the client expects"
    return None
