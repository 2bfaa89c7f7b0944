"""What stands between an event and its bytes: policy, then the record, then a person where one is asked.

Nothing an inspector reads reaches the other side before the gate has judged it and its record is written (wall 2).
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict, deque
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
from appliance.effects import Effect, Parameter
from appliance.events import Cancelling, Command, Finished, NotUnderstood, Opening, Own, Passage
from appliance.flow.tally import Meter, Turns
from appliance.ipc.messages import Shown
from appliance.parties import Principal, Scope
from appliance.policy.rules import Policy
from appliance.recording.journal import Journal, clip
from appliance.recording.records import Answered, Commanded, Decided, Passed

# A worker keeps this many verdicts, and no more than this many characters or bytes of what they were derived from; what
# was not used for longest goes first, and costs one decision should it come again.
VERDICTS_MAX = 20_000
KEYS_LENGTH_MAX = 16 << 20
# How many earlier commands of the flow an approver is shown.
_BEFORE_MAX = 5
# What a person sees in place of a value that may not be seen.
HIDDEN = "•••"

STANDING = Forward(rule=None)


class ActivePolicy:
    """The policy in force in this worker, and the verdicts already found under it."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._verdicts: OrderedDict[tuple[Hashable, Principal, Scope], Verdict] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        """Verdicts that are kept."""
        return len(self._verdicts)

    @property
    def length(self) -> int:
        """Characters and bytes of all that the verdicts that are kept were derived from."""
        return self._length

    def replace(self, policy: Policy) -> None:
        """Put another policy in force; what was decided under the old one is forgotten."""
        self.policy = policy
        self._verdicts.clear()
        self._length = 0

    def decide(self, principal: Principal, scope: Scope, effects: frozenset[Effect], key: Hashable) -> Verdict:
        """The verdict on a set of effects; `key` names everything the effects were derived from, None: do not keep it."""
        if key is None:
            return self.policy.decide(principal, scope, effects)
        whole = (key, principal, scope)
        verdict = self._verdicts.get(whole)
        if verdict is not None:
            self._verdicts.move_to_end(whole)
            return verdict
        verdict = self.policy.decide(principal, scope, effects)
        self._verdicts[whole] = verdict
        self._length += _length_of(key)
        while len(self._verdicts) > VERDICTS_MAX or self._length > KEYS_LENGTH_MAX:
            (oldest, _, _), _ = self._verdicts.popitem(last=False)
            self._length -= _length_of(oldest)
        return verdict


@dataclass(frozen=True, slots=True)
class Question:
    """A held command as it goes to the desk."""

    request: Shown
    approvers: frozenset[str]
    seconds: float


class Gate:
    """The gate of one flow."""

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
        self._before: deque[str] = deque(maxlen=_BEFORE_MAX)
        self.scope = scope

    def judge(self, event: Opening | Command | NotUnderstood | Cancelling) -> Verdict:
        """Decide and record. Raises RecordingError, and then nothing may be carried out."""
        match event:
            case Opening():
                self.scope = replace(self.scope, database=event.database)
                verdict = self._active.decide(self._principal, self.scope, event.effects, None)
                self._record(0, "Opening", event.shown, None, event.effects, (), verdict)
            case Command():
                verdict = self._decide(event)
                self._record_command(event, verdict)
            case NotUnderstood():
                verdict = self._active.decide(self._principal, self.scope, event.effects, None)
                self._record(0, "NotUnderstood", event.what, None, event.effects, (), verdict)
            case Cancelling():
                # Who may cancel what is settled by control, which knows whose key it is.
                verdict = STANDING
                self._record(0, "Cancel", "cancel request", None, frozenset(), (), verdict)
        if not isinstance(event, Cancelling):
            self._count(verdict)
        return verdict

    def refuse_hold(self, hold: Hold) -> Refuse:
        """A refusal in place of a hold, for what cannot wait: an opening, or bytes we could not read."""
        return Refuse(hold.rule, "a person would have to approve it, and it cannot wait: " + hold.reason)

    def note(self, event: Passage | Own | Finished) -> None:
        """Record what needs no decision. Raises RecordingError."""
        match event:
            case Passage(note=None):
                return
            case Passage():
                assert event.note is not None
                self._journal.append(Passed(self._flow, self._clock(), event.note))
            case Own():
                self._journal.append(
                    Commanded(
                        flow=self._flow, time=self._clock(), number=0, sort=event.purpose, shown=event.shown, outcome="own"
                    )
                )
            case Finished():
                self._journal.append(
                    Answered(
                        flow=self._flow,
                        time=self._clock(),
                        number=event.number,
                        status=event.status,
                        failed=event.failed,
                        columns=tuple(column.name for column in event.columns),
                        masked=tuple(column.name for column in event.columns if column.masked),
                        rows=event.rows,
                        size=event.size,
                        sample=event.sample,
                        digest=event.digest,
                    )
                )

    def question(self, command: Command, hold: Hold) -> Question:
        """What the desk is asked about a held command."""
        parameters = self._shown_parameters(command, hold.obligations)
        shown = self._shown_text(command, hold.obligations)
        before = tuple(self._before)[:-1]  # the last one is this command
        bound = hashlib.blake2b(
            msgspec.msgpack.encode((command.text, [p.text for p in command.parameters], self._principal, self.scope)),
            digest_size=16,
        ).hexdigest()
        return Question(
            Shown(
                flow=self._flow,
                number=command.number,
                principal=self._principal,
                scope=self.scope,
                sort=command.sort,
                shown=shown,
                exact=command.text,
                parameters=parameters,
                effects=_effect_texts(command.effects),
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
        verdict = self._active.decide(self._principal, self.scope, command.effects, command.key)
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
        self._sync(verdict.obligations)
        return Forward(hold.rule, verdict.obligations, approval=answer.approval, approver=answer.by)

    def settle_modified(self, command: Command, amended: Command, answer: Modified) -> Forward | str:
        """Judge a person's version of a held command. A text is why it cannot run; a Forward is recorded already.

        The approver's own word covers what would be held again, as far as that person may answer such a hold.
        """
        verdict = self._decide(amended)
        match verdict:
            case Refuse():
                return f"refused by {verdict.rule or 'the policy'}: {verdict.reason}"
            case Hold() if verdict.terms.approvers and not verdict.terms.approvers & answer.groups:
                needed = ", ".join(sorted(verdict.terms.approvers))
                return f"rule {verdict.rule} asks for an approver of {needed}"
            case Hold() | Forward():
                forward = Forward(verdict.rule, verdict.obligations, approval=answer.approval, approver=answer.by)
        shown = self._shown_text(amended, verdict.obligations)
        self._decided(command, answer.approval, "modified", by=answer.by, shown=shown)
        self._record_command(amended, forward, changed_from=command.number)
        return forward

    def _decide(self, command: Command) -> Verdict:
        verdict = self._active.decide(self._principal, self.scope, command.effects, command.key)
        if isinstance(verdict, Hold) and not command.may_hold:
            return Forward(verdict.rule, verdict.obligations, reason="the same command is held when it is to run")
        return verdict

    def _record_command(self, command: Command, verdict: Verdict, changed_from: int | None = None) -> None:
        obligations = Obligations() if isinstance(verdict, Refuse) else verdict.obligations
        shown = self._shown_text(command, obligations)
        self._before.append(shown)
        parameters = self._shown_parameters(command, obligations)
        self._record(command.number, command.sort, shown, command.text, command.effects, parameters, verdict, changed_from)

    def _record(
        self,
        number: int,
        sort: str,
        shown: str,
        exact: str | None,
        effects: frozenset[Effect],
        parameters: tuple[str | None, ...],
        verdict: Verdict,
        changed_from: int | None = None,
    ) -> None:
        obligations = Obligations() if isinstance(verdict, Refuse) else verdict.obligations
        shown, sealed = self._journal.fit(shown, exact)
        self._journal.append(
            Commanded(
                flow=self._flow,
                time=self._clock(),
                number=number,
                sort=sort,
                shown=shown,
                outcome=_OUTCOMES[type(verdict)],
                effects=_effect_texts(effects),
                parameters=parameters,
                rule=str(verdict.rule) if verdict.rule else None,
                reason=verdict.reason,
                masks=tuple(f"{mask.thing.name}.{mask.field} {mask.mask.kind}" for mask in obligations.fields),
                policy=self._active.policy.version,
                principal=self._principal_text,
                changed_from=changed_from,
                approval=None if isinstance(verdict, Hold) else verdict.approval,
                approver=None if isinstance(verdict, Hold) else verdict.approver,
                durable=obligations.durable,
                sealed=sealed,
            )
        )
        if not isinstance(verdict, Refuse):
            self._sync(obligations)

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

    def _sync(self, obligations: Obligations) -> None:
        if obligations.durable:
            self._journal.sync()

    def _shown_text(self, command: Command, obligations: Obligations) -> str:
        # A statement that touches masked columns may carry their values as literals of no special shape.
        return self._redact(command) if obligations.quiet else command.shown

    def _shown_parameters(self, command: Command, obligations: Obligations) -> tuple[str | None, ...]:
        return tuple(_shown_parameter(parameter, obligations.quiet) for parameter in command.parameters)


def _length_of(key: Hashable) -> int:
    """Of the texts that a key is made of; whatever else is in it is short."""
    parts = key if isinstance(key, tuple) else (key,)
    return sum(len(part) for part in parts if isinstance(part, (str, bytes)))


_OUTCOMES: dict[type[Verdict], str] = {Forward: "forward", Hold: "hold", Refuse: "refuse"}


def _reaches(wanted: frozenset[str], asked: frozenset[str]) -> bool:
    """Whether everybody who could answer a hold for the groups `asked` may answer one for `wanted` (none: anybody may)."""
    return not wanted or (bool(asked) and asked <= wanted)


def _shown_parameter(parameter: Parameter, is_hidden: bool) -> str | None:
    if is_hidden and parameter.text is not None:
        return HIDDEN
    return None if parameter.shown is None else clip(parameter.shown)


def _effect_texts(effects: frozenset[Effect]) -> tuple[str, ...]:
    return tuple(sorted(str(effect) for effect in effects))
