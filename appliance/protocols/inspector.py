"""What every protocol offers the relay, and what it may ask the relay to do.

An inspector reads both sides of one flow and does no I/O: bytes come in through `receive`, events come out of
`next_event`, and only `carry_out` gives bytes to send, so that what was judged is what is sent (wall 1).

The relay's loop, for one side:

    inspector.receive(side, data)
    while (event := inspector.next_event(side)) is not NEED_DATA:
        verdict = gate(event)                       records it, and asks policy where the event has effects
        acts = inspector.carry_out(event, verdict)  with a Hold: acts that tell the client; the lane stays held
        perform(acts)                               and, once a person answered, carry_out(event, Forward or Refuse)

After every `carry_out`, `answer` and `tls_started` the relay asks both sides for their next event, because one side's
events may free the other's (a refusal that waited its turn). Bytes may arrive one at a time or many messages at once;
the events are the same. Whatever the peer sends, an inspector raises PeerError or gives events, never another exception.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from appliance.decisions import Obligations, Verdict
from appliance.effects import Column
from appliance.events import Command, Event, NeedData
from appliance.parties import Side
from appliance.sql.catalogue import Catalogue
from appliance.sql.reading import SessionView


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """What a TLS handshake settled. `end_point` is the tls-server-end-point channel binding (RFC 5929) of the
    certificate the server of that leg showed: ours toward the client, the target's toward the target."""

    end_point: bytes
    alpn: str | None
    server_name: str | None


@dataclass(frozen=True, slots=True)
class CatalogueQuestion:
    """What exists in a database. Answered with a sql.catalogue.Catalogue, or None where it cannot be read. `newer_than`
    is the version of a catalogue that proved stale, or None to accept one that is fresh enough for a new session.
    `is_guess`: nothing says that it is stale, only a name is not in it; the answer may be that very catalogue."""

    database: str
    newer_than: str | None = None
    is_guess: bool = False


@dataclass(frozen=True, slots=True)
class CredentialQuestion:
    """Which account to log in to the target as. Answered with the user name as text, or None: the resource has none."""

    database: str


@dataclass(frozen=True, slots=True)
class ChallengeQuestion:
    """A step of a login that the control process answers, because it alone holds the secret.

    `mechanism` is the protocol's name for it ("md5", "cleartext", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"); `step` is
    "first", "final" or "verify" for SCRAM and "only" otherwise; `challenge` is what the target sent; `binding` is the
    channel binding data of the target's leg. Answered with the bytes to send, b"" after a good "verify", or None: refused.
    """

    mechanism: str
    step: str
    challenge: bytes
    binding: bytes = b""
    over_tls: bool = False


@dataclass(frozen=True, slots=True)
class CancelQuestion:
    """Cancel whatever runs under our `key`, wherever its flow lives. Answered with True once that was passed on."""

    key: bytes


@dataclass(frozen=True, slots=True, eq=False)
class ReadingQuestion:
    """What a text does that is too long to be read while others wait. Answered with a sql.reading.Reading."""

    text: str
    catalogue: Catalogue
    session: SessionView


Question = CatalogueQuestion | CredentialQuestion | ChallengeQuestion | CancelQuestion | ReadingQuestion


@dataclass(frozen=True, slots=True)
class Send:
    """These bytes go out to that side, in the order given."""

    side: Side
    lane: int
    data: bytes | bytearray | memoryview


class TlsRole(Enum):
    """Which part we play in a handshake."""

    SERVER = "server"  # toward the client
    CLIENT = "client"  # toward the target


@dataclass(frozen=True, slots=True)
class StartTls:
    """Speak TLS on that side from here on. `pending` are bytes already read that belong to the handshake (direct TLS).
    The relay calls `tls_started` when the handshake is done. `alpn` are the protocols offered or accepted."""

    side: Side
    alpn: tuple[str, ...] = ()
    pending: bytes = b""


@dataclass(frozen=True, slots=True)
class OpenTarget:
    """Connect to the target. The relay calls `target_opened` when it stands; if it can't, the flow is closed through
    `target_failed`."""


@dataclass(frozen=True, slots=True)
class Handover:
    """From here on that lane carries another protocol: `protocol` is its registered name, `pending` what was read of it."""

    lane: int
    protocol: str
    pending: bytes = b""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to the control process; the relay calls `answer` with the reply."""

    question: Question


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Call `timer(name)` after that many seconds; 0 takes the timer of that name back."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RegisterKey:
    """Our own cancel key of this flow, so that a CancelRequest on any worker finds it."""

    key: bytes


@dataclass(frozen=True, slots=True)
class CancelAtTarget:
    """Open a connection of its own to the target (TLS as the resource says, `upgrade` first where it has one), send
    these bytes and close."""

    data: bytes
    upgrade: bytes = b""


@dataclass(frozen=True, slots=True)
class Close:
    """End the flow: what was sent before is still delivered. `reason` is recorded."""

    reason: str


Act = Send | StartTls | OpenTarget | Handover | Ask | SetTimer | RegisterKey | CancelAtTarget | Close


@dataclass(slots=True, eq=False)
class Familiar:
    """One command that is all of what a client has just sent, of a sort that was read before. Its fields are those of a
    Command; `parameters` are what of them may be shown. `parsed`: the number of the Parse that goes before it in the same
    bytes, 0 for none. One object is used again and again: it counts until the lane is asked about the next bytes."""

    number: int = 0
    sort: str = ""
    shown: str = ""
    parameters: tuple[str | None, ...] = ()
    key: Hashable = None
    parsed: int = 0


@dataclass(slots=True, eq=False)
class FamiliarAnswer:
    """The whole answer to a familiar command, with the fields of a Finished. Used again like a Familiar."""

    number: int = 0
    status: str = ""
    columns: tuple[Column, ...] = ()
    rows: int = 0
    size: int = 0
    sample: tuple[tuple[str | None, ...], ...] = ()
    digest: str = ""


class FastLane(Protocol):
    """The short way for what comes most: one familiar command and its whole answer, each in bytes of its own, that go on
    exactly as they came. What is not of that kind is left to the general path, which finds everything as if it had done
    all before itself.

        familiar = lane.recognise(data)             None, and nothing has changed: the general path
        gate.let_pass(familiar)                     judged and recorded; None, and nothing has changed: the general path
        lane.depart(obligations)                    and then `data` itself is sent
        answer = lane.arrive(data)                  while `is_away`; None, and nothing has changed: the general path
        gate.note_answer(answer)                    and then `data` itself is sent
    """

    is_away: bool

    def recognise(self, data: bytes) -> Familiar | None:
        """What a client sent, if it is one familiar command and nothing stands before it."""

    def depart(self, obligations: Obligations) -> None:
        """What was recognised is recorded and goes to the target."""

    def arrive(self, data: bytes) -> FamiliarAnswer | None:
        """What the target sent, if it is all of the answer and nothing in it has to change."""


class Inspector(Protocol):
    """One flow's reader. See the module's docstring for the order of calls."""

    @property
    def fast_lane(self) -> FastLane | None:
        """The short way, where there is one now."""

    def opening_acts(self) -> list[Act]:
        """What is to be done before anything is read: timers, or the target's connection where the target speaks first."""

    def receive(self, side: Side, data: bytes) -> None:
        """Take bytes that a side sent. Keeps what it cannot use yet, within a named bound, or raises PeerError."""

    def end(self, side: Side) -> None:
        """That side has ended its stream (EOF); a Left event follows once what came before is read."""

    def next_event(self, side: Side) -> Event | NeedData:
        """The next event among what that side sent, skipping lanes whose last event is not carried out yet."""

    def carry_out(self, event: Event, verdict: Verdict) -> list[Act]:
        """What to do about an event under its verdict. Called twice for a held event: with Hold, then with the outcome."""

    def answer(self, question: Question, reply: object) -> list[Act]:
        """The reply to a question, of the type that the question names. Never answers with Send; bytes follow as Own."""

    def amend(self, command: Command, text: str) -> Command:
        """A command like `command` that runs `text` in its place, read anew. Raises AmendmentError where it cannot be."""

    def redact(self, command: Command) -> str:
        """The command's text with every literal hidden, for one that touches masked values."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes of both sides that have come and are kept: unfinished, or waiting for their turn or a verdict."""

    def catalogue_stale(self) -> None:
        """What exists at the target has changed: ask again before the next command."""

    def cancel(self) -> list[Act]:
        """Somebody cancelled this flow's key. What is held is withdrawn by the relay; what runs is cancelled here."""

    def tls_started(self, side: Side, facts: TlsFacts) -> list[Act]:
        """The handshake on that side is done."""

    def target_opened(self) -> list[Act]:
        """The connection to the target stands."""

    def target_failed(self, reason: str) -> list[Act]:
        """There is no target; tell the client in its own protocol and close."""

    def timer(self, name: str) -> list[Act]:
        """A timer has run out."""

    def farewell(self, reason: str, advice: str) -> list[Act]:
        """End the flow from our side: a last word in the client's protocol, where it has one, then Close."""
