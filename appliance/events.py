"""What can happen in a flow: the closed union of events that inspectors give to the relay.

Every event names its side and its lane. A lane is one order of bytes: the side itself in single-stream protocols (lane
0), a stream in protocols that have several. From the moment an inspector gives an event until the relay has carried it
out, the inspector gives no other event of that side and lane.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from appliance.effects import Column, Effect, Parameter
from appliance.parties import Side


@dataclass(frozen=True, slots=True, eq=False)
class Opening:
    """A client says what it wants of the target; nothing has been sent to the target yet.

    `user` and `database` are the client's words. Its effects are judged like a command's.
    """

    side: Side
    lane: int
    effects: frozenset[Effect]
    user: str | None
    database: str | None
    shown: str


@dataclass(frozen=True, slots=True, eq=False)
class Command:
    """Something the client wants done, whole: the unit that is judged, held, recorded and carried.

    `number` counts the commands of a flow from 1. `sort` is the protocol's word for it ("Query", "Bind", "GET").
    `text` is what the client sent, exactly, as a person reads it; `shown` is the same with sensitive values hidden.
    `key` stands for the effects or for all that they were derived from beyond the principal and the policy, or is None
    where a verdict must not be reused. `may_amend`: a person may put another text in its place. `may_hold`
    False: it runs nothing yet (a Parse), so a Hold lets it pass, because what runs it is asked for again. `problem`: the
    inspector already knows that it cannot be run, and why; such a command has an `unknown` effect as well. `search_path`:
    where the session looks up names that stand alone, where the protocol has such a thing. `is_private`:
    names may mean things that this session alone sees.
    """

    side: Side
    lane: int
    number: int
    sort: str
    text: str
    shown: str
    effects: frozenset[Effect]
    parameters: tuple[Parameter, ...] = ()
    key: Hashable = None
    may_amend: bool = False
    may_hold: bool = True
    in_transaction: bool = False
    problem: str | None = None
    search_path: tuple[str, ...] | None = None
    is_private: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """Bytes that go on under what was already decided: protocol housekeeping, rows, chunks. Nothing is asked; where
    `note` is set it is recorded before they are sent, because they come from the client and reach the target."""

    side: Side
    lane: int
    note: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """The appliance's own words to a side (a login step, a statement that fails a transaction), recorded like any
    other and sent when carried out. `side` is where they come out, so TARGET means that the target receives them."""

    side: Side
    lane: int
    purpose: str
    shown: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """The target's answer to command `number` is complete, as the client saw it.

    `status` is the protocol's own word ("SELECT 5", "ERROR 42P01"); `columns`, `rows`, `sample` (the first rows, masked,
    as texts) and `digest` (BLAKE2b of all row bytes that the client received, hex) describe a result that has rows.
    """

    side: Side
    lane: int
    number: int
    status: str
    failed: bool
    columns: tuple[Column, ...] = ()
    rows: int = 0
    size: int = 0
    sample: tuple[tuple[str | None, ...], ...] = ()
    digest: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Cancelling:
    """A connection that carries nothing but the wish to cancel what runs under `key` (our own key, never the target's)."""

    side: Side
    lane: int
    key: bytes


@dataclass(frozen=True, slots=True, eq=False)
class NotUnderstood:
    """Something the inspector cannot read. Denied unless a rule allows it; `what` carries none of the payload."""

    side: Side
    lane: int
    what: str
    effects: frozenset[Effect]


@dataclass(frozen=True, slots=True, eq=False)
class Left:
    """A side has ended its stream in an orderly way at this point of the lane."""

    side: Side
    lane: int


Event = Opening | Command | Passage | Own | Finished | Cancelling | NotUnderstood | Left


class NeedData:
    """There is no event now; `NEED_DATA` is the only instance."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NEED_DATA"


NEED_DATA = NeedData()
