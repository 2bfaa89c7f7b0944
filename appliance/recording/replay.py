"""What a flow's records mean as a course of events: which answer or decision belongs to what, and how long it took."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from appliance.recording.reader import Kept
from appliance.recording.records import Answered, Commanded, Decided, FlowClosed, FlowOpened, Passed

_OPEN_MAX = 100_000  # commands whose answer is still to come; beyond that durations are not told


class Moment(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record in its course. `after` is the time since the flow opened; `took` is, of an answer, the time since its
    command was let go, and of a decision, how long the command was held. Nanoseconds; None where that start is not known."""

    number: int
    after: int
    record: FlowOpened | Commanded | Decided | Passed | Answered | FlowClosed
    took: int | None = None


def replay(kept: Iterable[Kept]) -> Iterable[Moment]:
    """The moments of one flow, in the order they were recorded."""
    start: int | None = None
    held: dict[int, int] = {}
    let_go: dict[int, int] = {}
    for one in kept:
        record = one.record
        if not isinstance(record, FlowOpened | Commanded | Decided | Passed | Answered | FlowClosed):
            continue
        start = record.time if start is None else start
        took = None
        match record:
            case Commanded(outcome="hold"):
                if len(held) < _OPEN_MAX:
                    held[record.number] = record.time
            case Commanded(outcome="forward"):
                if len(let_go) < _OPEN_MAX:
                    let_go[record.number] = record.time
            case Decided():
                began = held.pop(record.number, None)
                took = None if began is None else record.time - began
                if record.outcome in ("approved", "modified") and len(let_go) < _OPEN_MAX:
                    let_go[record.number] = record.time
            case Answered():
                # Kept: a command may be answered more than once (a prepared statement that is run again).
                began = let_go.get(record.number)
                took = None if began is None else record.time - began
            case _:
                pass
        yield Moment(one.number, record.time - start, record, took)
