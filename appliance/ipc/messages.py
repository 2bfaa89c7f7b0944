"""Every message between our own processes, typed. See ipc/channel.py for how they travel.

A message with a `call` expects a Reply (or a Failure) with the same number; the caller counts them up from 1.
Messages without one are told, not asked. Nothing here carries a secret but Leaf (a leaf's own key).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from appliance.parties import Endpoint, Principal, Scope


class Message(msgspec.Struct, frozen=True, tag=True):
    """The root of all messages."""


# Worker to control.


class Hello(Message, frozen=True, tag=True):
    """A worker has started. Control answers with Welcome."""

    call: int
    worker: int
    process: int


class CatalogueWanted(Message, frozen=True, tag=True):
    """Answered by Reply with a msgpack-encoded sql.catalogue.Catalogue, or Failure. `newer_than` as in CatalogueQuestion."""

    call: int
    resource: str
    database: str
    newer_than: str | None = None


class CatalogueChanged(Message, frozen=True, tag=True):
    """A flow ran a statement that changes what exists there: the next reading must be anew."""

    resource: str
    database: str


class AccountWanted(Message, frozen=True, tag=True):
    """Answered by Reply with the user name to log in as, in UTF-8."""

    call: int
    resource: str


class ChallengeSet(Message, frozen=True, tag=True):
    """A login step (see inspector.ChallengeQuestion). `exchange` names one login of one flow."""

    call: int
    resource: str
    exchange: str
    mechanism: str
    step: str
    challenge: bytes
    binding: bytes = b""
    over_tls: bool = False


class LeafWanted(Message, frozen=True, tag=True):
    """A certificate to show to clients of a resource. Answered by Reply with a msgpack-encoded Leaf."""

    call: int
    resource: str
    server_name: str | None
    address: str


class Leaf(msgspec.Struct, frozen=True):
    """A certificate chain and its private key, both PEM."""

    chain: bytes
    key: bytes


class Shown(msgspec.Struct, frozen=True):
    """A held command as the desk shows it. `bound` is the hash (BLAKE2b, hex) of exact text, parameters, principal and
    scope: what is approved is what was shown. `exact` is the text for those who may see it: it stays in control's memory
    and in the ledger only sealed. `arguments` are the parameters as they are, each with its type's name, and stay in
    memory; with `search_path` and `is_private` (as in events.Command) they tell what the text means to this session."""

    flow: str
    number: int
    principal: Principal
    scope: Scope
    sort: str
    shown: str
    exact: str
    parameters: tuple[str | None, ...]
    effects: tuple[str, ...]
    rule: str
    reason: str
    in_transaction: bool
    may_amend: bool
    before: tuple[str, ...]
    bound: str
    time: int
    arguments: tuple[tuple[str, str | None], ...] = ()
    search_path: tuple[str, ...] | None = None
    is_private: bool = False


class Ask(Message, frozen=True, tag=True):
    """A command is held. Answered at once by Reply with the approval's id; its end comes as Settled."""

    call: int
    request: Shown
    approvers: frozenset[str]
    seconds: float


class Withdraw(Message, frozen=True, tag=True):
    """The question is void: the client left or cancelled, or the amended text was refused (`reason` says so)."""

    approval: str
    reason: str


class AmendmentRefused(Message, frozen=True, tag=True):
    """The text a person put in place cannot run; the approval is open again and the person is told `why`."""

    approval: str
    why: str


class AmendmentTaken(Message, frozen=True, tag=True):
    """The text a person put in place was judged and runs; the approval is settled as modified."""

    approval: str


class KeyRegistered(Message, frozen=True, tag=True):
    """Our cancel key of a flow; KeyForgotten when it ends."""

    key: bytes
    flow: str
    principal: Principal
    resource: str


class KeyForgotten(Message, frozen=True, tag=True):
    """The flow with that key has ended."""

    key: bytes


class CancelWanted(Message, frozen=True, tag=True):
    """A CancelRequest arrived for that key. Answered by Reply (b"1" passed on, b"" nobody has it or it is not theirs)."""

    call: int
    key: bytes
    principal: Principal
    resource: str


class FlowSeen(Message, frozen=True, tag=True):
    """A flow opened, or its database is known now: for the list of live flows, and for which catalogues to watch."""

    flow: str
    principal: Principal | None
    resource: str | None
    source: Endpoint
    destination: Endpoint
    time: int
    database: str | None = None


class FlowGone(Message, frozen=True, tag=True):
    """A flow ended."""

    flow: str


class Counted(StrEnum):
    """What a worker counts. Beside each the labels that follow it in a Tally's keys."""

    VERDICTS = "verdicts"  # protocol, outcome
    RULES = "rules"  # the id of the rule
    UNCOVERED = "uncovered"  # protocol; refused because no rule covers it
    OPENED = "opened"  # resource, agent
    REFUSED = "refused"  # resource ("" where it is none), why
    HOLDS = "holds"  # protocol, how it ended
    BYTES = "bytes"  # protocol, side
    ADDED = "added"  # protocol, number of the bucket (of ADDED_BOUNDS, one more for all that took longer)
    ADDED_SECONDS = "added seconds"  # protocol
    LATE_SECONDS = "late seconds"  # how much later than asked the worker's clock called it, in all
    RECORDS = "records"  # the worker's journal; its next place in the chain


ADDED_BOUNDS: Final = (
    *(0.00001, 0.00002, 0.00003, 0.00005, 0.00007, 0.0001, 0.00015, 0.0002, 0.0003, 0.0005),
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0),
)
"""Upper bounds of the buckets of added latency, in seconds: close where a healthy worker is, wide where it is not."""


class Tally(Message, frozen=True, tag=True):
    """What a worker has counted since it started: sums, not differences. `process` and `started` (nanoseconds of the Unix
    clock) say which life of which worker they are of; a worker that starts anew counts from zero."""

    process: int
    started: int
    sums: dict[tuple[str, ...], float]


# Control to worker.


class Welcome(msgspec.Struct, frozen=True):
    """What a worker needs to serve (msgpack in Hello's Reply): the policy's files, its version, the public key for sealing
    exact texts, and the folder for its journals."""

    policy_version: str
    policy_files: tuple[tuple[str, str], ...]
    seal_key: bytes
    journals: str


class PolicyChanged(Message, frozen=True, tag=True):
    """A new policy is active. Files are (name, text)."""

    version: str
    files: tuple[tuple[str, str], ...]


class Settled(Message, frozen=True, tag=True):
    """An approval ends ("approved", "rejected", "expired"), or a person's amendment ("modified") is to be judged."""

    approval: str
    outcome: str
    by: str = ""
    groups: frozenset[str] = frozenset()
    reason: str = ""
    text: str = ""


class CancelFlow(Message, frozen=True, tag=True):
    """Somebody entitled cancelled what that flow is doing."""

    key: bytes


class CatalogueStale(Message, frozen=True, tag=True):
    """Forget catalogues of that database: it changed."""

    resource: str
    database: str


class Leave(Message, frozen=True, tag=True):
    """The worker's journal is not what it should be: it is to end, and is answered no more."""

    reason: str


# Answers, both ways.


class Reply(Message, frozen=True, tag=True):
    """A call's good end."""

    call: int
    body: bytes = b""


class Failure(Message, frozen=True, tag=True):
    """A call's bad end, with a reason fit for a log."""

    call: int
    reason: str


# Command line and dashboard to control (their own socket). Answered by Reply with JSON.


REQUEST_BYTES_MAX = 8 << 20
"""Of a request's frame: room for a changed command of desk.TEXT_CHARACTERS_MAX characters. A longer one ends the channel."""


class Request(Message, frozen=True, tag=True):
    """A person's request: `verb` is one of control.people.VERBS, `arguments` a JSON object. `session` is the token of
    whoever is signed in at the dashboard, which is nobody by itself. `is_unattended`: an open page renews itself, which is
    no use of the session."""

    call: int
    verb: str
    arguments: bytes = b"{}"
    session: str = ""
    is_unattended: bool = False


AnyMessage = (
    Hello
    | CatalogueWanted
    | CatalogueChanged
    | AccountWanted
    | ChallengeSet
    | LeafWanted
    | Ask
    | Withdraw
    | AmendmentRefused
    | AmendmentTaken
    | KeyRegistered
    | KeyForgotten
    | CancelWanted
    | FlowSeen
    | FlowGone
    | Tally
    | PolicyChanged
    | Settled
    | CancelFlow
    | CatalogueStale
    | Leave
    | Reply
    | Failure
    | Request
)
