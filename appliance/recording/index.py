"""How a page of flows is found among millions of records: one row a flow, over all segments, in an SQLite file of its own.

The records are the truth and this is only a copy of what they say: the keeper tells it of each drain, and what it missed (it
was not there, was damaged, or another program wrote records) it reads again from the segments. Losing it loses nothing.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec
from sqlite_utils import Database

from appliance.errors import RecordingError
from appliance.recording import segments
from appliance.recording.journal import Header
from appliance.recording.places import Places
from appliance.recording.records import Noted, Record
from appliance.recording.segments import FlowSummary, Taken

T = TypeVar("T")

VERSION = 1
STEP_ROWS = 1000
"""Records read again at a time: some milliseconds, which is how long a drain then waits for its turn."""

PAGE_FLOWS_MAX = 200
_IDS_AT_ONCE = 500  # SQLite's limit of parameters is far above
_BUSY_MILLISECONDS = 1000

OUTCOMES = ("denied", "held", "masked")
"""What a page may be narrowed to: flows in which that happened at least once."""

_decode = msgspec.msgpack.Decoder(Header | Noted | Record)

_COLUMNS = (
    "flow",
    "started",
    "first",
    "opened",
    "closed",
    "touched",
    "principal",
    "agent",
    "person",
    "phase",
    "resource",
    "database",
    "source",
    "commands",
    "denied",
    "held",
    "masked",
    "last",
    "first_segment",
    "last_segment",
)
_UPSERT = f"""
INSERT INTO flows ({", ".join(_COLUMNS)}) VALUES ({", ".join("?" * len(_COLUMNS))})
ON CONFLICT (flow) DO UPDATE SET
    opened = coalesce(opened, excluded.opened), closed = coalesce(closed, excluded.closed),
    touched = max(touched, excluded.touched), principal = coalesce(principal, excluded.principal),
    agent = coalesce(agent, excluded.agent), person = coalesce(person, excluded.person),
    phase = coalesce(phase, excluded.phase), resource = coalesce(resource, excluded.resource),
    database = coalesce(database, excluded.database), source = coalesce(source, excluded.source),
    commands = max(commands, excluded.commands), denied = denied + excluded.denied, held = held + excluded.held,
    masked = masked + excluded.masked, last = CASE excluded.last WHEN '' THEN last ELSE excluded.last END,
    last_segment = max(last_segment, excluded.last_segment)
"""


@dataclass(frozen=True, slots=True)
class IndexedFlow:
    """What the index says of a flow. `started` is when it was opened, or the first that is known of it; `denied`, `held` and
    `masked` count its commands. Its records are in the segments from `first_segment` to `last_segment`. Nanoseconds."""

    flow: str
    started: int
    first: int
    opened: int | None
    closed: int | None
    touched: int
    principal: str | None
    agent: str | None
    person: str | None
    phase: str | None
    resource: str | None
    database: str | None
    source: str | None
    commands: int
    denied: int
    held: int
    masked: int
    last: str
    first_segment: int
    last_segment: int

    @property
    def cursor(self) -> str:
        """Where a page that ends with this flow goes on."""
        return f"{self.started}.{self.first}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which flows a page is of; None: any. `since`: those with a record at that time (nanoseconds) or later."""

    agent: str | None = None
    resource: str | None = None
    outcome: str | None = None
    since: int = 0

    def includes(self, flow: IndexedFlow) -> bool:
        """The same as the index's own narrowing."""
        counts = {"denied": flow.denied, "held": flow.held, "masked": flow.masked}
        return (
            self.agent in (None, flow.agent)
            and self.resource in (None, flow.resource)
            and (self.outcome is None or counts[self.outcome] > 0)
            and flow.touched >= self.since
        )


class FlowIndex:
    """The one that writes it. Nothing here raises: a fault is in `fault`, and the index is put right at the next chance.

    `take` is called from the keeper's thread and `catch_up` from another; they take turns.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._turn = threading.Lock()
        self._database: Database | None = None
        self._segment = self._last = 0
        self.fault = ""
        self.is_behind = True

    def open(self) -> None:
        """Before anything is taken in: trust what is there if it belongs to these segments, or begin anew."""
        with self._turn:
            self._guarded(self._open)

    def take(self, taken: Taken) -> None:
        """A drain was committed."""
        with self._turn:
            if self._database is None or taken.before != self._last:
                self.is_behind = True
                return
            self._guarded(lambda: self._add(taken.flows, taken.segment, taken.last, taken.hash))

    def catch_up(self) -> bool:
        """Read a step of what was missed. True: there may be more."""
        with self._turn:
            if self._database is None:
                self._guarded(self._open)
            return self._guarded(self._step) or False

    def close(self) -> None:
        """Let go of the file."""
        with self._turn, suppress(sqlite3.Error):
            if self._database is not None:
                self._database.close()
            self._database = None

    def _guarded(self, work: Callable[[], T]) -> T | None:
        try:
            found = work()
        except (sqlite3.Error, OSError, RecordingError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self.fault = f"the index of flows can't be kept: {error}"
            self.is_behind = True
            if self._database is not None:
                with suppress(sqlite3.Error):
                    self._database.close()
            self._database = None
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                self._remove()
            return None
        self.fault = ""
        return found

    def _open(self) -> None:
        self.is_behind = True
        if self._places.index.exists():
            database = self._connected()
            state = _state_of(database)
            if state is not None and self._belongs(*state):
                self._segment, self._last = state[:2]
                self._database = database
                return
            database.close()
            self._remove()
        self._segment = self._last = 0
        self._database = self._made()

    def _connected(self) -> Database:
        # Calls come from two threads, one at a time.
        connection = sqlite3.connect(self._places.index, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        connection.execute("PRAGMA journal_mode = WAL")
        # What power loss takes is read again.
        connection.execute("PRAGMA synchronous = NORMAL")
        return Database(connection, execute_plugins=False)

    def _made(self) -> Database:
        database = self._connected()
        self._places.index.chmod(0o640)
        whole = dict.fromkeys(_COLUMNS, int) | dict.fromkeys(
            ("flow", "principal", "agent", "person", "phase", "resource", "database", "source", "last"), str
        )
        flows = database.create_table(
            "flows",
            whole,
            pk="flow",
            not_null={"started", "first", "touched", "commands", "denied", "held", "masked", "last"},
            strict=True,
        )
        database.create_table("state", {"segment": int, "last": int, "hash": bytes}, strict=True).insert(
            {"segment": 0, "last": 0, "hash": b""}
        )
        for agent, resource, outcome in product((False, True), (False, True), ("", *OUTCOMES)):
            named = [name for name, is_in in (("agent", agent), ("resource", resource)) if is_in]
            columns = ", ".join([*named, "started", "first"])
            partial = f" WHERE {outcome} > 0" if outcome else ""
            database.execute(f"CREATE INDEX {_index_name(agent, resource, outcome)} ON {flows.name} ({columns}){partial}")
        database.execute(f"PRAGMA user_version = {VERSION}")
        return database

    def _belongs(self, segment: int, last: int, digest: bytes) -> bool:
        """Whether what was indexed last is still a record: power may have taken it, or a hand another recording."""
        if last == 0:
            return True
        path = self._places.segment(segment)
        if not path.exists():
            return False
        with segments.open_to_read(path) as connection:
            return bool(connection.execute("SELECT 1 FROM records WHERE seq = ? AND hash = ?", (last, digest)).fetchone())

    def _remove(self) -> None:
        for ending in ("", "-wal", "-shm"):
            Path(f"{self._places.index}{ending}").unlink(missing_ok=True)

    def _add(self, flows: Mapping[str, FlowSummary], segment: int, last: int, digest: bytes) -> None:
        assert self._database is not None
        with self._database.atomic():
            self._database.conn.executemany(_UPSERT, [_row(flow, segment) for flow in flows.values()])
            self._database.execute("UPDATE state SET segment = ?, last = ?, hash = ?", (segment, last, digest))
        self._segment, self._last = segment, last

    def _step(self) -> bool:
        for number, path in self._places.segments():
            if number < self._segment:
                continue
            with segments.open_to_read(path) as connection:
                rows = connection.execute(
                    "SELECT seq, payload, hash FROM records WHERE seq > ? ORDER BY seq LIMIT ?", (self._last, STEP_ROWS)
                ).fetchall()
            if rows:
                flows: dict[str, FlowSummary] = {}
                for seq, payload, _ in rows:
                    record = _decode.decode(payload)
                    if not isinstance(record, Header | Noted):
                        summary = flows.get(record.flow)
                        if summary is None:
                            summary = flows[record.flow] = FlowSummary(record.flow, first=seq)
                        summary.take(record)
                self._add(flows, number, rows[-1][0], rows[-1][2])
                return True
        self.is_behind = False
        return False


def read_page(places: Places, wanted: Wanted, before: str | None, limit: int) -> list[IndexedFlow]:
    """Flows, the newest first, from the one after `before` (a cursor) on. Raises RecordingError where there is no index, and
    ValueError where the cursor is none."""
    named = [(name, value) for name, value in (("agent", wanted.agent), ("resource", wanted.resource)) if value is not None]
    conditions = [f"{name} = ?" for name, _ in named]
    values: list[object] = [value for _, value in named]
    if wanted.outcome is not None:
        if wanted.outcome not in OUTCOMES:
            raise ValueError(f"there is no outcome {wanted.outcome!r}")
        conditions.append(f"{wanted.outcome} > 0")
    if wanted.since > 0:
        conditions.append("touched >= ?")
        values.append(wanted.since)
    if before is not None:
        conditions.append("(started, first) < (?, ?)")
        values += read_cursor(before)
    condition = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    # Named, because the planner knows nothing of how rare each is.
    name = _index_name(wanted.agent is not None, wanted.resource is not None, wanted.outcome or "")
    with _opened(places) as connection:
        rows = connection.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM flows INDEXED BY {name} {condition}"
            " ORDER BY started DESC, first DESC LIMIT ?",
            (*values, min(limit, PAGE_FLOWS_MAX)),
        ).fetchall()
    return [IndexedFlow(*row) for row in rows]


def read_flows(places: Places, flows: Sequence[str]) -> dict[str, IndexedFlow]:
    """Those of these flows that the index knows. Raises RecordingError where there is none."""
    found: dict[str, IndexedFlow] = {}
    with _opened(places) as connection:
        for start in range(0, len(flows), _IDS_AT_ONCE):
            some = flows[start : start + _IDS_AT_ONCE]
            rows = connection.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM flows WHERE flow IN ({', '.join('?' * len(some))})", tuple(some)
            )
            found.update((row[0], IndexedFlow(*row)) for row in rows)
    return found


def newest_first(flows: Iterable[IndexedFlow]) -> list[IndexedFlow]:
    """In the order of pages."""
    return sorted(flows, key=lambda flow: (flow.started, flow.first), reverse=True)


def read_cursor(cursor: str) -> tuple[int, int]:
    """Raises ValueError."""
    started, dot, first = cursor.partition(".")
    if not (dot and started.isascii() and started.isdigit() and first.isascii() and first.isdigit() and len(cursor) <= 40):
        raise ValueError(f"{cursor[:40]!r} is no place in a list of flows")
    found = int(started), int(first)
    if max(found) >= 2**63:
        raise ValueError(f"{cursor!r} is no place in a list of flows")
    return found


@contextmanager
def _opened(places: Places) -> Iterator[sqlite3.Connection]:
    connection = None
    try:
        connection = sqlite3.connect(f"file:{quote(str(places.index.absolute()))}?mode=ro", uri=True, isolation_level=None)
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        yield connection
    except sqlite3.Error as error:
        raise RecordingError(f"the index of flows is being made: {error}") from error
    finally:
        if connection is not None:
            connection.close()


def _state_of(database: Database) -> tuple[int, int, bytes] | None:
    """(segment, last record, its hash), or None where the file is no index of this version."""
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        state = database.execute("SELECT segment, last, hash FROM state").fetchone() if version == VERSION else None
    except sqlite3.DatabaseError:
        return None
    return None if state is None else (int(state[0]), int(state[1]), bytes(state[2]))


def _index_name(agent: bool, resource: bool, outcome: str) -> str:
    words = ["by", *(["agent"] if agent else []), *(["resource"] if resource else []), *([outcome] if outcome else [])]
    return "_".join([*words, "start"])


def _row(flow: FlowSummary, segment: int) -> tuple[object, ...]:
    return (
        flow.flow,
        flow.opened if flow.opened is not None else flow.touched,
        flow.first,
        flow.opened,
        flow.closed,
        flow.touched,
        flow.principal,
        flow.agent,
        flow.person,
        flow.phase,
        flow.resource,
        flow.database,
        flow.source,
        flow.commands,
        flow.denied,
        flow.held,
        flow.masked,
        flow.last,
        segment,
        segment,
    )
