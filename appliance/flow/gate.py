"""What stands between an event and its bytes: policy, then the record, then a person where one is asked.

Nothing an inspector reads reaches the other side before the gate has judged it and its record is written (wall 2).
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import msgspec

from appliance.decisions import (
    Approved,
    Expired,
    Forward,
    Hold,
    Modified,
    Obligations,
    Refuse,
    Rejected,
    Verdict,
    Withdrawn,
)
from appliance.effects import Column, Effect, Parameter
from appliance.events import Cancelling, Command, Finished, NotUnderstood, Opening, Own, Passage
from appliance.flow.tally import Meter, Turns
from appliance.flow.verdicts import ActivePolicy, Judgement, judgement
from appliance.ipc.messages import Shown
from appliance.parties import Principal, Scope
from appliance.policy.granting import granted
from appliance.protocols.inspector import Familiar, FamiliarAnswer
from appliance.recording.journal import Journal, clip
from appliance.recording.records import Answered, Commanded, Decided, Passed

# How many earlier commands of the flow an approver is shown.
_BEFORE_MAX = 5
# What a person sees in place of a value that may not be seen.
HIDDEN = "•••"

STANDING = Forward(rule=None)


@dataclass(frozen=True, slots=True)
class Question:
    """A held command as it goes to the desk."""

    request: Shown
    approvers: frozenset[str]
    seconds: float


class Gate:
    """The gate of one flow."""

    __slots__ = (
        "_active",
        "_before",
        "_clock",
        "_flow",
        "_headings",
        "_journal",
        "_place",
        "_principal",
        "_principal_text",
        "_redact",
        "_scope",
        "turns",
    )

    def __init__(
        self,
        flow: str,
        active: ActivePolicy,
        journal: Journal,
        principal: Principal,
        scope: Scope,
        redact: Callable[[Command], str],
        clock: Callable[[], int] = time.time_ns,
        meter: Meter | None = None,
    ) -> None:
        self.turns = Turns(meter or Meter({}))
        self._flow = flow
        self._active = active
        self._journal = journal
        self._principal = principal
        self._principal_text = str(principal)
        self._redact = redact
        self._clock = clock
        self._before: deque[str] | None = None  # an empty one has 700 bytes, and most flows are idle
        self._scope = scope
        self._place = active.place(principal, scope)
        self._headings: tuple[tuple[Column, ...], tuple[str, ...], tuple[str, ...]] = ((), (), ())

    @property
    def scope(self) -> Scope:
        """Where commands run; its database is known once the client has said it."""
        return self._scope

    def judge(self, event: Opening | Command | NotUnderstood | Cancelling) -> Verdict:
        """Decide and record. Raises RecordingError, and then nothing may be carried out."""
        match event:
            case Command():
                judged = self._judge(event)
                self._record_command(event, judged)
            case Opening():
                self._scope = replace(self._scope, database=event.database)
                self._place = self._active.place(self._principal, self._scope)
                judged = self._find(event.effects, None)
                self._record(0, "Opening", event.shown, None, (), judged)
            case NotUnderstood():
                judged = self._find(event.effects, None)
                self._record(0, "NotUnderstood", event.what, None, (), judged)
            case Cancelling():
                # Who may cancel what is settled by control, which knows whose key it is.
                judged = judgement(STANDING, frozenset())
                self._record(0, "Cancel", "cancel request", None, (), judged)
        if not isinstance(event, Cancelling):
            self._count(judged.verdict)
        return judged.verdict

    def let_pass(self, familiar: Familiar) -> Obligations | None:
        """Decide and record what the fast lane read, where it was decided before and nothing has to be done about it but to
        look at the values that come back; None, and nothing is recorded, where that is not so. Raises RecordingError."""
        judged = self._active.find(self._place, familiar.key)
        if judged is None or not judged.is_plain:
            return None
        shown = familiar.shown
        before = self._before
        if before is None:
            before = self._before = deque(maxlen=_BEFORE_MAX)
        if familiar.parsed:
            before.append(shown)
            self._append_command(familiar.parsed, "Parse", shown, (), judged, None, None)
            self._count(judged.verdict)
        before.append(shown)
        # _append_command, written out for what is plain
        self._journal.append(
            Commanded(
                self._flow,
                self._clock(),
                familiar.number,
                familiar.sort,
                shown,
                judged.outcome,
                judged.effects,
                familiar.parameters,
                judged.rule,
                judged.verdict.reason,
                (),
                self._active.policy.version,
                self._principal_text,
            )
        )
        self._count(judged.verdict)
        return judged.obligations

    def refuse_hold(self, hold: Hold) -> Refuse:
        """A refusal in place of a hold, for what cannot wait: an opening, or bytes we could not read."""
        return Refuse(hold.rule, "a person would have to approve it, and it cannot wait: " + hold.reason)

    def note(self, event: Passage | Own | Finished) -> None:
        """Record what needs no decision. Raises RecordingError."""
        match event:
            case Passage():
                if event.note is None:
                    return
                self._journal.append(Passed(self._flow, self._clock(), event.note))
            case Own():
                self._journal.append(
                    Commanded(
                        flow=self._flow, time=self._clock(), number=0, sort=event.purpose, shown=event.shown, outcome="own"
                    )
                )
            case Finished():
                self._append_answer(
                    event.number,
                    event.status,
                    event.failed,
                    event.columns,
                    event.rows,
                    event.size,
                    event.sample,
                    event.digest,
                )

    def note_answer(self, answer: FamiliarAnswer) -> None:
        """Record an answer that the fast lane read. Raises RecordingError."""
        self._append_answer(
            answer.number, answer.status, False, answer.columns, answer.rows, answer.size, answer.sample, answer.digest
        )

    def _append_answer(
        self,
        number: int,
        status: str,
        failed: bool,
        columns: tuple[Column, ...],
        rows: int,
        size: int,
        sample: tuple[tuple[str | None, ...], ...],
        digest: str,
    ) -> None:
        """Every command that finishes passes here."""
        known, names, masked = self._headings
        if columns is not known:
            names = tuple([column.name for column in columns])
            masked = tuple([column.name for column in columns if column.masked])
            self._headings = (columns, names, masked)
        self._journal.append(
            Answered(self._flow, self._clock(), number, status, failed, names, masked, rows, size, sample, digest)
        )

    def question(self, command: Command, hold: Hold) -> Question:
        """What the desk is asked about a held command."""
        parameters = self._shown_parameters(command, hold.obligations)
        shown = self._shown_text(command, hold.obligations)
        before = tuple(self._before or ())[:-1]  # the last one is this command
        bound = hashlib.blake2b(
            msgspec.msgpack.encode((command.text, [p.text for p in command.parameters], self._principal, self._scope)),
            digest_size=16,
        ).hexdigest()
        return Question(
            Shown(
                flow=self._flow,
                number=command.number,
                principal=self._principal,
                scope=self._scope,
                sort=command.sort,
                shown=shown,
                exact=command.text,
                parameters=parameters,
                effects=tuple(sorted(str(effect) for effect in command.effects)),
                rule=str(hold.rule),
                reason=hold.reason,
                in_transaction=command.in_transaction,
                may_amend=command.may_amend,
                before=before,
                bound=bound,
                time=self._clock(),
                arguments=tuple((parameter.type_name, parameter.text) for parameter in command.parameters),
                search_path=command.search_path,
                is_private=command.is_private,
            ),
            hold.terms.approvers,
            hold.terms.seconds,
        )

    def settle(self, command: Command, hold: Hold, answer: Approved | Rejected | Expired | Withdrawn) -> Forward | Refuse:
        """A hold's end, recorded before it takes effect. Raises RecordingError."""
        match answer:
            case Approved():
                return self._settle_approved(command, hold, answer)
            case Rejected():
                self._decided(command, answer.approval, "rejected", by=answer.by, reason=answer.reason)
                return Refuse(
                    hold.rule,
                    f"{answer.by} rejected it: {answer.reason}",
                    "change the command as the reason says, or ask that person",
                    approval=answer.approval,
                    approver=answer.by,
                )
            case Expired():
                self._decided(command, answer.approval, "expired")
                return Refuse(
                    hold.rule,
                    f"nobody answered within {hold.terms.seconds:g} seconds",
                    "ask an approver to be at hand, then send it again",
                    approval=answer.approval,
                )
            case Withdrawn():
                self._decided(command, answer.approval, "withdrawn", reason=answer.reason)
                return Refuse(hold.rule, answer.reason, approval=answer.approval, withdrawn=True)

    def settle_unasked(self, command: Command, hold: Hold, approval: str, reason: str) -> Refuse:
        """The end of a hold that the desk would not take, recorded before it takes effect. Raises RecordingError."""
        self._decided(command, approval, "withdrawn", reason=reason)
        return Refuse(
            hold.rule, f"no person can be asked: {reason}", "send it again once what waits for people has been answered"
        )

    def _settle_approved(self, command: Command, hold: Hold, answer: Approved) -> Forward | Refuse:
        """A person's yes is to what was shown, and never more than the policy in force by now leaves to that person."""
        verdict = self._find(command.effects, command.key).verdict
        refusal = None
        if isinstance(verdict, Refuse):
            refusal = replace(verdict, reason=f"{answer.by} approved it, but the policy has changed: {verdict.reason}")
        elif isinstance(verdict, Hold) and not _reaches(verdict.terms.approvers, hold.terms.approvers):
            needed = ", ".join(sorted(verdict.terms.approvers))
            refusal = Refuse(
                verdict.rule, f"{answer.by} approved it, but the policy now asks for {needed}", "send it again, to ask them"
            )
        if refusal is not None:
            self._decided(command, answer.approval, "withdrawn", by=answer.by, reason=refusal.reason)
            return replace(refusal, approval=answer.approval, approver=answer.by)
        assert not isinstance(verdict, Refuse)
        self._decided(command, answer.approval, "approved", by=answer.by)
        if verdict.obligations.durable:
            self._journal.sync()
        return Forward(hold.rule, verdict.obligations, approval=answer.approval, approver=answer.by)

    def settle_modified(self, command: Command, amended: Command, answer: Modified) -> Forward | str:
        """Judge a person's version of a held command. A text is why it cannot run; a Forward is recorded already.

        The approver's own word covers what would be held again, as far as that person may answer such a hold.
        """
        verdict = granted(self._judge(amended).verdict, answer.groups)
        if isinstance(verdict, str):
            return verdict
        forward = Forward(verdict.rule, verdict.obligations, approval=answer.approval, approver=answer.by)
        shown = self._shown_text(amended, verdict.obligations)
        self._decided(command, answer.approval, "modified", by=answer.by, shown=shown)
        self._record_command(amended, judgement(forward, amended.effects), changed_from=command.number)
        return forward

    def _find(self, effects: frozenset[Effect], key: Hashable) -> Judgement:
        return self._active.judge(self._place, self._principal, self._scope, effects, key)

    def _judge(self, command: Command) -> Judgement:
        judged = self._find(command.effects, command.key)
        verdict = judged.verdict
        if isinstance(verdict, Hold) and not command.may_hold:
            reason = "the same command is held when it is to run"
            return judgement(Forward(verdict.rule, verdict.obligations, reason=reason), command.effects)
        return judged

    def _record_command(self, command: Command, judged: Judgement, changed_from: int | None = None) -> None:
        shown = self._shown_text(command, judged.obligations)
        if self._before is None:
            self._before = deque(maxlen=_BEFORE_MAX)
        self._before.append(shown)
        parameters = self._shown_parameters(command, judged.obligations)
        self._record(command.number, command.sort, shown, command.text, parameters, judged, changed_from)

    def _record(
        self,
        number: int,
        sort: str,
        shown: str,
        exact: str | None,
        parameters: tuple[str | None, ...],
        judged: Judgement,
        changed_from: int | None = None,
    ) -> None:
        shown, sealed = self._journal.fit(shown, exact)
        self._append_command(number, sort, shown, parameters, judged, changed_from, sealed)
        if judged.obligations.durable:
            self._journal.sync()

    def _append_command(
        self,
        number: int,
        sort: str,
        shown: str,
        parameters: tuple[str | None, ...],
        judged: Judgement,
        changed_from: int | None,
        sealed: bytes | None,
    ) -> None:
        """Every command that is decided passes here."""
        verdict = judged.verdict
        approval = approver = None
        if not isinstance(verdict, Hold):
            approval, approver = verdict.approval, verdict.approver
        # By place and not by name, which would cost as much as all the rest.
        self._journal.append(
            Commanded(
                self._flow,
                self._clock(),
                number,
                sort,
                shown,
                judged.outcome,
                judged.effects,
                parameters,
                judged.rule,
                verdict.reason,
                judged.masks,
                self._active.policy.version,
                self._principal_text,
                changed_from,
                approval,
                approver,
                judged.obligations.durable,
                sealed,
            )
        )

    def _count(self, verdict: Verdict) -> None:
        self.turns.meter.judged(verdict)
        if type(verdict) is Forward:
            self.turns.has_sent = True

    def _decided(
        self, command: Command, approval: str, outcome: str, by: str = "", reason: str = "", shown: str = ""
    ) -> None:
        self._journal.append(
            Decided(self._flow, self._clock(), command.number, approval, outcome, by=by, reason=reason, shown=shown)
        )
        self.turns.meter.holds[outcome] += 1

    def _shown_text(self, command: Command, obligations: Obligations) -> str:
        # A statement that touches masked columns may carry their values as literals of no special shape.
        return self._redact(command) if obligations.quiet else command.shown

    def _shown_parameters(self, command: Command, obligations: Obligations) -> tuple[str | None, ...]:
        return tuple(_shown_parameter(parameter, obligations.quiet) for parameter in command.parameters)


def _reaches(wanted: frozenset[str], asked: frozenset[str]) -> bool:
    """Whether everybody who could answer a hold for the groups `asked` may answer one for `wanted` (none: anybody may)."""
    return not wanted or (bool(asked) and asked <= wanted)


def _shown_parameter(parameter: Parameter, is_hidden: bool) -> str | None:
    if is_hidden and parameter.text is not None:
        return HIDDEN
    return None if parameter.shown is None else clip(parameter.shown)
