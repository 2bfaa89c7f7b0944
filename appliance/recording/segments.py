"""What a segment is: the tables of its SQLite file, how it is made, opened, closed for good, and read.

`records` holds every link of every chain with its payload exactly as it was written; its other columns only repeat what the
payload says, for look-ups. `chains` says how far each journal was taken in, in the same transaction as its records. `flows`
is an index by flow of what this segment knows of it. `heads` and `seal` are signed statements (heads.py).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from appliance.effects import Action, Kind
from appliance.errors import RecordingError
from appliance.recording.records import Answered, Commanded, Decided, FlowClosed, FlowOpened, Passed

Value = TypeVar("Value")

VERSION = 1
LAST_CHARACTERS_MAX = 200
_DENIALS = frozenset({"rejected", "expired"})
_CONNECTING = f"{Action.CONNECT} {Kind.DATABASE} "
_BUSY_MILLISECONDS = 2000  # a reader's transactions are short

FLOWS_TABLE = """
CREATE TABLE flows (
    flow TEXT PRIMARY KEY, opened INTEGER, closed INTEGER, touched INTEGER NOT NULL, principal TEXT, agent TEXT, person TEXT,
    phase TEXT, resource TEXT, source TEXT, commands INTEGER NOT NULL, refused INTEGER NOT NULL, held INTEGER NOT NULL
);
"""
_SCHEMA = f"""
CREATE TABLE segment (number INTEGER NOT NULL, version INTEGER NOT NULL, made INTEGER NOT NULL, first INTEGER NOT NULL);
CREATE TABLE chains (
    id INTEGER PRIMARY KEY, chain TEXT NOT NULL UNIQUE, journal TEXT NOT NULL UNIQUE, part INTEGER NOT NULL,
    place INTEGER NOT NULL, sequence INTEGER NOT NULL, hash BLOB NOT NULL, state TEXT NOT NULL
);
CREATE TABLE records (
    seq INTEGER PRIMARY KEY, chain INTEGER NOT NULL, sequence INTEGER NOT NULL, flow TEXT, time INTEGER, kind TEXT NOT NULL,
    payload BLOB NOT NULL, hash BLOB NOT NULL
);
CREATE INDEX records_flow ON records (flow) WHERE flow IS NOT NULL;
{FLOWS_TABLE}CREATE INDEX flows_touched ON flows (touched);
CREATE TABLE heads (
    number INTEGER PRIMARY KEY, time INTEGER NOT NULL, last INTEGER NOT NULL, statement TEXT NOT NULL,
    signature TEXT NOT NULL
);
CREATE TABLE seal (statement TEXT NOT NULL, signature TEXT NOT NULL);
"""

INSERT_RECORD = "INSERT INTO records (seq, chain, sequence, flow, time, kind, payload, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
UPSERT_CHAIN = """
INSERT INTO chains (id, chain, journal, part, place, sequence, hash, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET part = excluded.part, place = excluded.place, sequence = excluded.sequence,
    hash = excluded.hash, state = excluded.state
"""
UPSERT_FLOW = """
INSERT INTO flows (flow, opened, closed, touched, principal, agent, person, phase, resource, source, commands, refused, held)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (flow) DO UPDATE SET
    opened = coalesce(opened, excluded.opened), closed = coalesce(closed, excluded.closed),
    touched = max(touched, excluded.touched), principal = coalesce(principal, excluded.principal),
    agent = coalesce(agent, excluded.agent), person = coalesce(person, excluded.person),
    phase = coalesce(phase, excluded.phase), resource = coalesce(resource, excluded.resource),
    source = coalesce(source, excluded.source), commands = max(commands, excluded.commands),
    refused = refused + excluded.refused, held = held + excluded.held
"""


@dataclass(slots=True)
class FlowSummary:
    """What a run of records says of one flow. `commands` is the highest number that a command of the flow has; `opened` and
    `closed` are None where the run does not hold that end. Times in nanoseconds.

    What stands from `first` on is for index.py and in no segment's own table: the number of the run's first record, commands
    that were refused or not approved in the end, those with masked results, and the last command as it may be shown.
    """

    flow: str
    opened: int | None = None
    closed: int | None = None
    touched: int = 0
    principal: str | None = None
    agent: str | None = None
    person: str | None = None
    phase: str | None = None
    resource: str | None = None
    source: str | None = None
    commands: int = 0
    refused: int = 0
    held: int = 0
    first: int = 0
    denied: int = 0
    masked: int = 0
    database: str | None = None
    last: str = ""

    def take(self, record: FlowOpened | Commanded | Decided | Passed | Answered | FlowClosed) -> None:
        """Adds one record of the flow. The first opening and the first closing count, as in the index."""
        self.touched = max(self.touched, record.time)
        match record:
            case FlowOpened():
                self.opened = _first(self.opened, record.time)
                self.principal = _first(self.principal, record.principal)
                self.agent = _first(self.agent, record.agent)
                self.person = _first(self.person, record.person)
                self.phase = _first(self.phase, record.phase)
                self.resource = _first(self.resource, record.resource)
                self.source = _first(self.source, record.source)
            case Commanded():
                self.commands = max(self.commands, record.number)
                self.refused += record.outcome == "refuse"
                self.denied += record.outcome == "refuse"
                self.held += record.outcome == "hold"
                self.masked += bool(record.masks)
                if record.number:
                    self.last = record.shown[:LAST_CHARACTERS_MAX]
                elif record.sort == "Opening":
                    self.database = _first(self.database, _database_of(record))
            case Decided():
                self.denied += record.outcome in _DENIALS
            case FlowClosed():
                self.closed = _first(self.closed, record.time)
            case _:
                pass

    def join(self, earlier: FlowSummary) -> None:
        """Adds what an earlier segment says of the same flow."""
        self.opened = _first(earlier.opened, self.opened)
        self.closed = _first(earlier.closed, self.closed)
        self.touched = max(self.touched, earlier.touched)
        self.principal = _first(earlier.principal, self.principal)
        self.agent = _first(earlier.agent, self.agent)
        self.person = _first(earlier.person, self.person)
        self.phase = _first(earlier.phase, self.phase)
        self.resource = _first(earlier.resource, self.resource)
        self.source = _first(earlier.source, self.source)
        self.commands = max(self.commands, earlier.commands)
        self.refused += earlier.refused
        self.held += earlier.held

    @property
    def row(self) -> tuple[str | int | None, ...]:
        """The columns of the index, in its order."""
        return (
            self.flow,
            self.opened,
            self.closed,
            self.touched,
            self.principal,
            self.agent,
            self.person,
            self.phase,
            self.resource,
            self.source,
            self.commands,
            self.refused,
            self.held,
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """What one drain added to a segment: the records after `before` up to `last`, the hash of that one, and what they say of
    each flow."""

    segment: int
    before: int
    last: int
    hash: bytes
    flows: Mapping[str, FlowSummary]


def _database_of(opening: Commanded) -> str | None:
    """What the opening of a flow connects to, which its effects say (effects.Effect.__str__)."""
    for effect in opening.effects:
        if effect.startswith(_CONNECTING):
            return effect.removeprefix(_CONNECTING)
    return None


def _first(one: Value, other: Value) -> Value:
    """What coalesce does in the index: an empty text is a value."""
    return other if one is None else one


def make(path: Path, number: int, made: int, first: int, chains: list[tuple[object, ...]]) -> None:
    """Makes a segment's file, whole or not at all. `first` is the number of its first record, `chains` the rows it goes on
    from. Raises sqlite3.Error or OSError."""
    unnamed = path.with_suffix(".new")
    unnamed.unlink(missing_ok=True)
    descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    os.close(descriptor)
    connection = sqlite3.connect(unnamed, isolation_level=None)
    try:
        connection.executescript("PRAGMA synchronous = FULL; BEGIN;" + _SCHEMA)
        connection.execute("INSERT INTO segment VALUES (?, ?, ?, ?)", (number, VERSION, made, first))
        connection.executemany(UPSERT_CHAIN, chains)
        connection.execute("COMMIT")
    finally:
        connection.close()
    unnamed.rename(path)
    sync_folder(path.parent)


def open_to_write(path: Path) -> sqlite3.Connection:
    """The current segment, for its keeper. A commit survives the process; power loss may take the newest ones, which are
    then still in the journals. Raises sqlite3.Error."""
    # Calls come from whichever thread control drains in, one at a time.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def bring_to_disk(path: Path) -> None:
    """Returns once everything committed to a segment that is open to write is on disk. Raises OSError.

    In mode NORMAL a commit is in the log and not synced (sqlite.org/wal.html). The log is synced here, by hand, because
    SQLite syncs it only with a commit that changes a page. SQLite holds no locks on it, so closing it releases none.
    """
    descriptor = os.open(f"{path}-wal", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def close_for_good(path: Path) -> bool:
    """Brings a sealed segment into one read-only file. False: a reader is in the way, so try again later.
    Raises sqlite3.Error or OSError."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA synchronous = FULL")
        (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            return False
        raise
    finally:
        connection.close()
    if mode != "delete":
        return False
    path.chmod(0o440)
    return True


@contextmanager
def open_to_read(path: Path) -> Iterator[sqlite3.Connection]:
    """A segment that nothing will be changed in. Keep transactions short: a long one lets the writer's log grow.
    Raises RecordingError where it is no segment."""
    # A file that is closed for good has no log beside it; one that somebody put there must not be read into it.
    sealed = not path.stat().st_mode & 0o200
    uri = f"file:{quote(str(path.absolute()))}?mode=ro" + ("&immutable=1" if sealed else "")
    connection = None
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        # What a changed schema (a view named records, a trigger) could run is kept from running.
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA query_only = ON")
        (version,) = connection.execute("SELECT version FROM segment").fetchone() or (None,)
        if version != VERSION:
            raise RecordingError(f"{path.name} is a segment of version {version}; this program reads version {VERSION}")
        yield connection
    except sqlite3.Error as error:
        raise RecordingError(f"{path.name} cannot be read as a segment: {error}") from error
    finally:
        if connection is not None:
            connection.close()


def sync_folder(folder: Path) -> None:
    """Brings a folder's entries to disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
