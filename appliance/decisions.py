"""What may be done about a command: the closed union of verdicts, and what a person may answer to a hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from appliance.effects import Thing


@dataclass(frozen=True, slots=True)
class RuleReference:
    """The rule that decided: its id and where it stands. `line` counts from 1."""

    id: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.id} ({self.file}:{self.line})"


@dataclass(frozen=True, slots=True)
class Mask:
    """How a value is hidden. `kind` is one of masking.masks.KINDS; `keep` is how many trailing characters stay, where
    the kind keeps any."""

    kind: str
    keep: int = 0


@dataclass(frozen=True, slots=True)
class FieldMask:
    """A field whose every value is masked in what the client receives."""

    thing: Thing
    field: str
    mask: Mask


@dataclass(frozen=True, slots=True)
class ValueMask:
    """Values of a shape that are masked wherever they appear: `detector` is "pan", "email", "ssn", or the name of an
    own pattern, whose regular expression is `pattern`."""

    detector: str
    mask: Mask
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class Obligations:
    """What goes along with letting a command through.

    `quiet`: the target's error and notice text may carry masked values, so the client gets the code without the text.
    `maskers`: ids of the rules whose fields are masked here; they only count, and say nothing of what is done.
    """

    fields: tuple[FieldMask, ...] = ()
    values: tuple[ValueMask, ...] = ()
    quiet: bool = False
    durable: bool = False
    maskers: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class HoldTerms:
    """What a rule asks of a hold: who may answer (empty: any approver), and for how long it waits, in seconds."""

    approvers: frozenset[str] = frozenset()
    seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Forward:
    """The command goes to the target, under obligations. `approval` and `approver` are set where a person said so."""

    rule: RuleReference | None
    obligations: Obligations = field(default_factory=Obligations)
    approval: str | None = None
    approver: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """The command waits for a person."""

    rule: RuleReference
    reason: str
    terms: HoldTerms
    obligations: Obligations = field(default_factory=Obligations)


@dataclass(frozen=True, slots=True)
class Refuse:
    """The command does not go. `reason` says why and `advice` what to do, both for the client to read; neither may
    carry a value of the command. `rule` is None where no rule covers an effect. `withdrawn`: the client itself took the
    question back (it cancelled), so that it hears what its protocol says of a cancelled command."""

    rule: RuleReference | None
    reason: str
    advice: str = ""
    approval: str | None = None
    approver: str | None = None
    withdrawn: bool = False


Verdict = Forward | Hold | Refuse


@dataclass(frozen=True, slots=True)
class Approved:
    """A person said yes to exactly what was shown."""

    approval: str
    by: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A person said no."""

    approval: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Modified:
    """A person wants `text` to run instead. It is parsed and judged again before it does."""

    approval: str
    by: str
    groups: frozenset[str]
    text: str


@dataclass(frozen=True, slots=True)
class Expired:
    """Nobody answered in time."""

    approval: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The question is void: the client left or cancelled, or the desk went away."""

    approval: str
    reason: str


Answer = Approved | Rejected | Modified | Expired | Withdrawn
