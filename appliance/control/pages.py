"""Recorded flows as people look through them: pages of flows, and the timeline of one.

Reading happens in threads with connections of their own, so that a million records hold up no approval. What is shown is
what was recorded for showing: redacted commands, masked results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from appliance.approvals.desk import Refusal
from appliance.errors import RecordingError
from appliance.recording.index import OUTCOMES, IndexedFlow, Wanted, newest_first, read_cursor, read_flows, read_page
from appliance.recording.places import Places
from appliance.recording.reader import Kept, read_flow_page
from appliance.recording.records import Answered, Commanded, Decided, FlowClosed, FlowOpened, Passed, Record

T = TypeVar("T")

PAGE_EVENTS_MAX = 500
READERS_MAX = 1
"""SQLite lets go of Python's lock at every row; two readers would wait for each other at each, and both for the loop."""

READINGS_WAITING_MAX = 64
LIVE_READ_MAX = 5_000
"""Live flows whose counts are looked up at a time; of more, the newest."""

FLOW_CHARACTERS_MAX = 200


class Pages:
    """Pages of a recording."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._threads = ThreadPoolExecutor(READERS_MAX, "pages")
        self._readings = 0

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def list(
        self, before: str | None, limit: int, wanted: Wanted, live: Collection[str], is_live: bool
    ) -> dict[str, Any]:
        """A page of flows, the newest first; `live` are those that workers carry now, and `is_live`: only those. Raises
        Refusal where the cursor or the outcome is none, and RecordingError."""
        if wanted.outcome is not None and wanted.outcome not in OUTCOMES:
            raise Refusal(f"there is no outcome {wanted.outcome!r}; there are {', '.join(OUTCOMES)}")
        if limit < 1:
            raise Refusal("a page has at least one flow")
        try:
            place = None if before is None else read_cursor(before)
        except ValueError as error:
            raise Refusal(str(error)) from None
        if is_live:
            known = await self.counts(live)
            found = [flow for flow in newest_first(known.values()) if wanted.includes(flow)]
            if place is not None:
                found = [flow for flow in found if (flow.started, flow.first) < place]
            found = found[:limit]
        else:
            found = await self._read(lambda: read_page(self._places, wanted, before, limit))
        cursor = found[-1].cursor if found and len(found) == limit else None
        return {"flows": [_flow(flow, live) for flow in found], "next": cursor}

    async def counts(self, flows: Collection[str]) -> dict[str, IndexedFlow]:
        """What is known of these flows. Raises RecordingError."""
        some = list(flows)[-LIVE_READ_MAX:]
        return await self._read(lambda: read_flows(self._places, some))

    async def show(self, flow: str, after: int, limit: int, live: Collection[str]) -> dict[str, Any]:
        """A page of one flow's timeline, the oldest first, and the flow. Raises Refusal where there is no such flow, and
        RecordingError."""
        if limit < 1:
            raise Refusal("a page has at least one event")
        return await self._read(lambda: self._show(flow, after, min(limit, PAGE_EVENTS_MAX), live))

    def _show(self, flow: str, after: int, limit: int, live: Collection[str]) -> dict[str, Any]:
        try:
            known = read_flows(self._places, [flow]).get(flow)
        except RecordingError:
            # The records are there without the index, too; they are only found more slowly.
            known = None
        segments = (1, None) if known is None else (known.first_segment, None)
        earlier, page = read_flow_page(self._places, flow, after, limit, *segments)
        if known is None and not earlier and not page:
            raise Refusal("there is no such flow in the recording")
        begun = {
            kept.record.number: kept.record.time
            for kept in earlier
            if isinstance(kept.record, Commanded) and kept.record.number
        }
        events = list(_events(page, begun))
        return {
            "flow": _flow(known, live) if known is not None else {"flow": flow, "live": flow in live},
            "events": events,
            "next": page[-1].number if len(page) == limit else None,
        }

    async def _read(self, work: Callable[[], T]) -> T:
        if self._readings >= READINGS_WAITING_MAX:
            raise Refusal("too many people read the recording at this moment; try again")
        self._readings += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except OSError as error:
            raise RecordingError(f"the recording cannot be read: {error.strerror or error}") from error
        finally:
            self._readings -= 1


def _flow(flow: IndexedFlow, live: Collection[str]) -> dict[str, Any]:
    return {
        "flow": flow.flow,
        "principal": flow.principal,
        "agent": flow.agent,
        "phase": flow.phase,
        "person": flow.person,
        "resource": flow.resource,
        "database": flow.database,
        "source": flow.source,
        "started": flow.started / 1e9,
        "ended": None if flow.closed is None else flow.closed / 1e9,
        "touched": flow.touched / 1e9,
        "live": flow.flow in live,
        "commands": flow.commands,
        "denied": flow.denied,
        "held": flow.held,
        "masked": flow.masked,
        "last": flow.last,
    }


def _events(page: Iterable[Kept], begun: dict[int, int]) -> Iterable[dict[str, Any]]:
    """`begun`: when commands were sent, by their numbers; it grows."""
    for kept in page:
        record = kept.record
        if isinstance(record, Commanded) and record.number:
            begun[record.number] = record.time
        if isinstance(record, Record):
            yield _EMPTY | {"number": kept.number, "time": record.time / 1e9} | _event(record, begun)


_EMPTY: dict[str, Any] = {
    "command": None,
    "shown": "",
    "parameters": [],
    "effects": [],
    "masks": [],
    "verdict": None,
    "rule": None,
    "reason": "",
    "approval": None,
    "by": None,
    "rows": None,
    "bytes": None,
    "milliseconds": None,
    "failed": False,
    "response": None,
}


def _event(record: Record, begun: dict[int, int]) -> dict[str, Any]:
    match record:
        case FlowOpened():
            return {"sort": "opened", "what": record.protocol or "", "shown": f"{record.source} → {record.destination}"}
        case Commanded():
            return {
                "sort": "command",
                "what": record.sort,
                "command": record.number or None,
                "shown": record.shown,
                "parameters": list(record.parameters),
                "effects": list(record.effects),
                "masks": list(record.masks),
                "verdict": record.outcome,
                "rule": record.rule,
                "reason": record.reason,
                "approval": record.approval,
                "by": record.approver,
            }
        case Decided():
            return {
                "sort": "decided",
                "what": record.outcome,
                "command": record.number,
                "shown": record.shown,
                "reason": record.reason,
                "approval": record.approval,
                "by": record.by or None,
            }
        case Passed():
            return {"sort": "passage", "what": record.note}
        case Answered():
            sent = begun.get(record.number)
            return {
                "sort": "answer",
                "what": record.status,
                "command": record.number,
                "rows": record.rows,
                "bytes": record.size,
                "milliseconds": None if sent is None else max(0, record.time - sent) / 1e6,
                "failed": record.failed,
                "response": {
                    "columns": list(record.columns),
                    "masked": list(record.masked),
                    "rows": [list(row) for row in record.sample],
                    "more": record.rows > len(record.sample),
                }
                if record.columns or record.sample
                else None,
            }
        case FlowClosed():
            return {"sort": "closed", "what": record.reason, "bytes": record.client_bytes + record.target_bytes}
