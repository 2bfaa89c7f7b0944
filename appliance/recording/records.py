"""What is kept of a flow: the closed union of records, each a receipt in the chain of its journal.

Times are nanoseconds of the Unix clock. `flow` is the flow's id, the same in every record of one flow. Texts in `shown`
are fit for people and exports; `sealed` is the exact text, encrypted, and present only where it differs.
"""

from __future__ import annotations

import msgspec


class FlowOpened(msgspec.Struct, frozen=True, tag="flow opened", omit_defaults=True):
    """A connection was accepted. `resource` is None where its destination is not registered."""

    flow: str
    time: int
    source: str
    destination: str
    principal: str | None = None
    agent: str | None = None
    phase: str | None = None
    person: str | None = None
    groups: tuple[str, ...] = ()
    established: str | None = None
    resource: str | None = None
    protocol: str | None = None


class Commanded(msgspec.Struct, frozen=True, tag="command", omit_defaults=True):
    """Something a client asked for (or our own words: `own`), with what was decided before any byte of it was sent.

    `outcome` is "forward", "hold", "refuse", or "own". `changed_from` is the number of the command that this one replaces.
    """

    flow: str
    time: int
    number: int
    sort: str
    shown: str
    outcome: str
    effects: tuple[str, ...] = ()
    parameters: tuple[str | None, ...] = ()
    rule: str | None = None
    reason: str = ""
    masks: tuple[str, ...] = ()
    policy: str = ""
    principal: str = ""
    changed_from: int | None = None
    approval: str | None = None
    approver: str | None = None
    durable: bool = False
    sealed: bytes | None = None


class Decided(msgspec.Struct, frozen=True, tag="decided", omit_defaults=True):
    """How a hold ended: "approved", "rejected", "modified", "expired" or "withdrawn"."""

    flow: str
    time: int
    number: int
    approval: str
    outcome: str
    by: str = ""
    reason: str = ""
    shown: str = ""
    sealed: bytes | None = None


class Passed(msgspec.Struct, frozen=True, tag="passage", omit_defaults=True):
    """Client bytes that went on under what was already decided, such as COPY data."""

    flow: str
    time: int
    note: str


class Answered(msgspec.Struct, frozen=True, tag="answer", omit_defaults=True):
    """The answer to command `number` as the client saw it. `sample` holds its first rows, `digest` covers them all."""

    flow: str
    time: int
    number: int
    status: str
    failed: bool = False
    columns: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    rows: int = 0
    size: int = 0
    sample: tuple[tuple[str | None, ...], ...] = ()
    digest: str = ""


class FlowClosed(msgspec.Struct, frozen=True, tag="flow closed", omit_defaults=True):
    """The flow is over. `trace` is set where it ended by a fault of ours."""

    flow: str
    time: int
    reason: str
    client_bytes: int = 0
    target_bytes: int = 0
    trace: str | None = None


Record = FlowOpened | Commanded | Decided | Passed | Answered | FlowClosed


class Noted(msgspec.Struct, frozen=True, tag="note", omit_defaults=True):
    """What control itself has to say, in a chain of its own. `sort` is "begun", one of DEEDS, or an alarm about a journal:
    "broken chain", "torn tail", "journal gone", "journal shrunk", "foreign file", "records lost". `text` is for people."""

    time: int
    sort: str
    text: str
    journal: str = ""

    @property
    def is_alarm(self) -> bool:
        """Whether somebody has to look at it."""
        return self.sort != "begun" and self.sort not in DEEDS


DEEDS = frozenset(
    {
        "signed in",
        "signed out",
        "sign-in failed",
        "link made",
        "password changed",
        "password reset",
        "account added",
        "account changed",
        "account removed",
    }
)
"""What people did at the dashboard, or root did for them, apart from approvals, which are records of their flows."""
