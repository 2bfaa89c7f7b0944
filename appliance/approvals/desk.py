"""What becomes of a held command: the state of every approval, and who may move it from one to the next.

    open ──approve, reject──────────────────────────▶ settled
    open ──edit──▶ amending ──the worker runs it────▶ settled (modified)
                   amending ──the worker refuses it─▶ open, with the reason
    open, amending ──time is up, client or worker gone─▶ settled (expired, withdrawn)

Pure: time (seconds of the Unix clock) and ids are arguments. Every move is kept in the book before anybody is told of it,
so what a worker acts upon is on record; a book that can't be written stops the move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

from appliance.errors import SluicegateError, UnavailableError
from appliance.ipc.messages import Settled, Shown

CLAIM_SECONDS = 10.0
"""How long workers have to claim their held commands again after the desk has restarted."""

AMENDING_SECONDS = 30.0
"""How long a worker has to judge an amended text; it takes milliseconds."""

OPEN_MAX = 1000
"""More than people can answer; beyond it commands are refused rather than held."""

OPEN_PER_AGENT_MAX = 100
"""So that one agent can't fill the desk for all."""

ID_DRAWS_MAX = 100
REASON_CHARACTERS_MAX = 2000
TEXT_CHARACTERS_MAX = 1 << 20


class State(StrEnum):
    """Where an approval stands."""

    OPEN = "open"
    AMENDING = "amending"
    SETTLED = "settled"


class Refusal(SluicegateError):
    """A person's answer is not taken; the message tells that person why."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who answers: a user of this machine, the approver groups it stands for, and whether it administers the machine
    (root), who may always answer and of whom it is recorded that it did so as such."""

    name: str
    groups: frozenset[str]
    is_approver: bool
    is_administrator: bool = False


class Certainty(StrEnum):
    """What a figure is worth: counted at the target, the target's own estimate, told by what exists there, something to
    think about before saying yes, or nothing that could be found out."""

    COUNTED = "counted"
    ESTIMATED = "estimated"
    FACT = "fact"
    WARNING = "warning"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of what a held command would do, for a person to decide by: names and numbers, never a value of a row or of
    the command. `state` is what it is worth."""

    label: str
    value: str
    detail: str = ""
    state: Certainty = Certainty.FACT


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of an approval's history. `text` is exact and to be kept sealed."""

    time: float
    what: str
    by: str = ""
    detail: str = ""
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One approval. `owner` is the worker that holds the command, None while nobody has claimed it after a restart;
    `deadline`, `asked`, `decided` are seconds of the Unix clock. `why` is the last reason an amendment was refused for.
    `blast` is what the command would do, None until that is worked out; no part of `bound`, because it comes later, is true
    for one moment, and binds nothing: what a person approves is the command. The history tells what they had seen."""

    id: str
    request: Shown
    approvers: frozenset[str]
    asked: float
    deadline: float
    owner: int | None
    state: State = State.OPEN
    outcome: str = ""
    by: str = ""
    groups: frozenset[str] = frozenset()
    reason: str = ""
    text: str = ""
    why: str = ""
    decided: float | None = None
    blast: tuple[Figure, ...] | None = None


_REOPENED: dict[str, Any] = {
    "state": State.OPEN,
    "by": "",
    "groups": frozenset(),
    "text": "",
    "reason": "",
    "why": "",
    "decided": None,
}


class Book(Protocol):
    """Where cases are kept; see ledger.py. Raises RecordingError where it can't write."""

    def keep(self, case: Case, happening: Happening) -> None:
        """Write the case as it now is, with what happened to it."""

    def find(self, flow: str, number: int, bound: str) -> Case | None:
        """The newest case of that held command, without its exact text."""

    def unsettled(self) -> list[Case]:
        """Every case that is not settled, without exact texts."""

    def case(self, approval: str) -> Case | None:
        """The case of that id, whatever became of it, without its exact text."""


class Desk:
    """All approvals that wait. `settle` tells a worker (its number) how one ended, perhaps before `ask` has returned the id
    to it; `changed` is called after every move."""

    def __init__(
        self,
        book: Book,
        settle: Callable[[int, Settled], None],
        draw_id: Callable[[], str],
        changed: Callable[[Case], None],
        now: float,
    ) -> None:
        self._book = book
        self._settle = settle
        self._draw_id = draw_id
        self._changed = changed
        self._claim_until = now + CLAIM_SECONDS
        self._cases = {case.id: replace(case, owner=None) for case in book.unsettled()}

    def waiting(self) -> list[Case]:
        """The approvals that are not settled, oldest first."""
        return sorted(self._cases.values(), key=lambda case: (case.asked, case.id))

    def case(self, approval: str) -> Case | None:
        """An approval that is not settled."""
        return self._cases.get(approval)

    # What workers say.

    def ask(self, owner: int, request: Shown, approvers: frozenset[str], seconds: float, now: float) -> str:
        """A command is held: the id of its approval. A worker that asks again for the same held command (the desk was
        away) gets the same id, and at once what was decided meanwhile. Raises UnavailableError where the desk is full."""
        known = self._book.find(request.flow, request.number, request.bound)
        if known is not None and known.outcome != "withdrawn" and known.request.principal == request.principal:
            return self._claim_again(known, owner, request, now)
        if len(self._cases) >= OPEN_MAX:
            raise UnavailableError("too many commands wait for people already")
        agent = request.principal.agent
        if sum(case.request.principal.agent == agent for case in self._cases.values()) >= OPEN_PER_AGENT_MAX:
            raise UnavailableError(f"too many commands of {agent} wait for people already")
        case = Case(self._new_id(), request, approvers, now, now + seconds, owner)
        self._move(case, Happening(now, "asked", str(request.principal), request.rule, request.exact))
        return case.id

    def withdraw(self, owner: int, approval: str, reason: str, now: float) -> None:
        """The worker holds the command no more."""
        case = self._cases.get(approval)
        if case is not None and case.owner == owner:
            self._close(case, "withdrawn", reason, now)

    def take_amendment(self, owner: int, approval: str, now: float) -> None:
        """The amended text was judged and runs."""
        case = self._amending(owner, approval)
        if case is not None:
            self._close(case, "modified", case.reason, now, case.by, case.groups)

    def refuse_amendment(self, owner: int, approval: str, why: str, now: float) -> None:
        """The amended text can't run: the question is open again."""
        case = self._amending(owner, approval)
        if case is not None:
            self._move(case, Happening(now, "amendment refused", case.by, why), **(_REOPENED | {"why": why}))

    def inform(self, approval: str, figures: tuple[Figure, ...], now: float) -> None:
        """What the command would do is worked out; a settled case stays as it was decided upon."""
        case = self._cases.get(approval)
        if case is not None:
            first = f"{figures[0].label}: {figures[0].value}" if figures else ""
            self._move(case, Happening(now, "figures shown", detail=first), blast=figures)

    def lose(self, owner: int, now: float) -> None:
        """A worker is gone, and with it every command it held."""
        for case in [case for case in self._cases.values() if case.owner == owner]:
            self._close(case, "withdrawn", "the worker that held it died", now)

    def tick(self, now: float) -> None:
        """End what has waited long enough. To be called a few times a second."""
        for case in list(self._cases.values()):
            if case.owner is None:
                if now >= self._claim_until:
                    self._close(case, "withdrawn", "no worker held it any more when the desk came back", now)
            elif case.state is State.OPEN and now >= case.deadline:
                self._tell(self._close(case, "expired", "nobody answered in time", now))
            elif case.state is State.AMENDING and now >= max(case.deadline, (case.decided or now) + AMENDING_SECONDS):
                self._tell(self._close(case, "expired", "the worker did not judge the changed text in time", now))

    # What people say. `seen` is the hash that the person was shown: an answer is to that and to nothing else.

    def show_exact(self, approval: str, person: Person, now: float) -> Case:
        """The case, its exact text included, for one who may answer it; that it was shown is kept."""
        case = self._answerable(approval, person, None, now)
        self._book.keep(case, Happening(now, "exact text shown", _signature(case, person)))
        return case

    def answerable(self, approval: str, person: Person, now: float) -> Case:
        """The case, for one who may answer it now. Raises Refusal."""
        return self._answerable(approval, person, None, now)

    def approve(self, approval: str, person: Person, seen: str, reason: str, now: float) -> Case:
        """Exactly what was shown may run. Raises Refusal."""
        return self._decide("approved", approval, person, seen, reason, now)

    def reject(self, approval: str, person: Person, seen: str, reason: str, now: float) -> Case:
        """It may not. Raises Refusal, also without a reason: the client is told it and goes by it."""
        if not reason.strip():
            raise Refusal("a rejection needs a reason: the agent reads it")
        return self._decide("rejected", approval, person, seen, reason, now)

    def edit(self, approval: str, person: Person, seen: str, text: str, reason: str, now: float) -> Case:
        """`text` is to run instead. The worker judges it next: the case is then settled, or open again with `why`."""
        case = self._answerable(approval, person, seen, now)
        if not case.request.may_amend:
            raise Refusal("this command can't be changed, only approved or rejected")
        if not text.strip() or len(text) > TEXT_CHARACTERS_MAX:
            raise Refusal(f"the changed command must have 1 to {TEXT_CHARACTERS_MAX} characters")
        if text == case.request.exact:
            raise Refusal("the text is unchanged; approve it as it is, or reject it")
        groups = answering_groups(case, person)
        by, reason = _signature(case, person), _checked_reason(reason)
        case = self._move(
            case,
            Happening(now, "amended", by, reason, text),
            **(
                _REOPENED
                | {"state": State.AMENDING, "by": by, "groups": groups, "text": text, "reason": reason, "decided": now}
            ),
        )
        self._tell(case, "modified")
        return case

    # How it is done.

    def _claim_again(self, known: Case, owner: int, request: Shown, now: float) -> str:
        case = self._cases.get(known.id)
        if case is None:
            self._tell(replace(known, owner=owner))
            return known.id
        changes: dict[str, Any] = {"owner": owner, "request": request}
        if case.state is State.AMENDING:
            # It is still held, so the changed text never ran. Whoever sent it was told that the desk went away.
            changes |= _REOPENED | {"why": "the desk restarted before the changed text was judged"}
        return self._move(case, Happening(now, "claimed again"), **changes).id

    def _decide(self, outcome: str, approval: str, person: Person, seen: str, reason: str, now: float) -> Case:
        case = self._answerable(approval, person, seen, now)
        by = _signature(case, person)
        case = self._close(case, outcome, _checked_reason(reason), now, by, person.groups)
        self._tell(case)
        return case

    def _answerable(self, approval: str, person: Person, seen: str | None, now: float) -> Case:
        case = self._cases.get(approval)
        if case is None:
            raise Refusal(self._past(approval))
        entitled = person.is_approver and (not case.approvers or bool(person.groups & case.approvers))
        if not entitled and not person.is_administrator:
            wanted = ", ".join(sorted(case.approvers)) or "any approver group"
            raise Refusal(f"{person.name} may not answer {approval}: it is for {wanted}")
        if case.owner is None:
            raise Refusal(f"{approval} is not claimed yet by the worker that holds it; try again in a moment")
        if case.state is State.AMENDING:
            raise Refusal(f"{case.by} has changed it already; the changed text is being judged")
        if now >= case.deadline:
            raise Refusal(f"{approval} has expired")
        if seen is not None and seen != case.request.bound:
            raise Refusal(f"{approval} is not what you were shown; look at it again")
        return case

    def _past(self, approval: str) -> str:
        case = self._book.case(approval)
        if case is None:
            return f"there is no approval {approval}"
        who = f" by {case.by}" if case.by else ""
        why = f": {case.reason}" if case.reason else ""
        return f"{approval} was {case.outcome}{who} already{why}"

    def _amending(self, owner: int, approval: str) -> Case | None:
        case = self._cases.get(approval)
        return case if case is not None and case.owner == owner and case.state is State.AMENDING else None

    def _close(
        self, case: Case, outcome: str, reason: str, now: float, by: str = "", groups: frozenset[str] = frozenset()
    ) -> Case:
        return self._move(
            case,
            Happening(now, outcome, by, reason),
            state=State.SETTLED,
            outcome=outcome,
            by=by,
            groups=groups,
            reason=reason,
            decided=now,
        )

    def _move(self, case: Case, happening: Happening, **changes: Any) -> Case:
        """Keep it, then make it so: a book that can't be written leaves everything as it was."""
        moved = replace(case, **changes)
        self._book.keep(moved, happening)
        if moved.state is State.SETTLED:
            self._cases.pop(moved.id, None)
        else:
            self._cases[moved.id] = moved
        self._changed(moved)
        return moved

    def _tell(self, case: Case, outcome: str = "") -> None:
        if case.owner is not None:
            self._settle(case.owner, Settled(case.id, outcome or case.outcome, case.by, case.groups, case.reason, case.text))

    def _new_id(self) -> str:
        for _ in range(ID_DRAWS_MAX):
            drawn = self._draw_id()
            if self._book.case(drawn) is None:
                return drawn
        raise UnavailableError("no free id for an approval was found")


def answering_groups(case: Case, person: Person) -> frozenset[str]:
    """For which groups a person answers a case: an administrator for those that are asked, too."""
    return person.groups | case.approvers if person.is_administrator else person.groups


def _signature(case: Case, person: Person) -> str:
    entitled = person.is_approver and (not case.approvers or bool(person.groups & case.approvers))
    return person.name if entitled else f"{person.name} (as administrator)"


def _checked_reason(reason: str) -> str:
    if len(reason) > REASON_CHARACTERS_MAX:
        raise Refusal(f"a reason has at most {REASON_CHARACTERS_MAX} characters")
    return reason.strip()
