"""What the target still has to answer, in order.

One entry for each message that was sent to the target and will be answered, our own among them. The order of this queue
is the order of the target's answers, so a refusal that stands in it waits its turn.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from appliance.decisions import Obligations, ValueMask
from appliance.protocols.postgres.rows import Rows
from appliance.protocols.postgres.state import Definition, Portal
from appliance.sql.reading import Statement


class Expected(Enum):
    """Which answer an entry waits for."""

    QUERY = "query"  # results, then ReadyForQuery
    PARSE = "parse"  # ParseComplete
    BIND = "bind"  # BindComplete
    DESCRIBE = "describe"  # RowDescription or NoData, after ParameterDescription for a statement
    EXECUTE = "execute"  # rows, then CommandComplete, EmptyQueryResponse or PortalSuspended
    CLOSE = "close"  # CloseComplete
    SYNC = "sync"  # ReadyForQuery


class CopyIn(Enum):
    """How far a COPY FROM STDIN has come; a text without one has none."""

    NONE = "none"
    AWAITED = "awaited"  # the server has not said yet that it wants data
    RUNNING = "running"  # what the client sends now is data
    ENDED = "ended"  # the client has said that there is no more


@dataclass(slots=True, eq=False)
class Entry:
    """One awaited answer. `number` is the command's, 0 where there is none. `refusal` is the ErrorResponse that the client
    gets in place of the target's, with its SQLSTATE. `is_own`: the client did not send it and does not see the answer.
    `is_barrier`: what the client says next is not read before the answer is here, because the answer changes its meaning."""

    expected: Expected
    number: int = 0
    obligations: Obligations = field(default_factory=Obligations)
    statements: tuple[Statement, ...] = ()
    rows: Rows | None = None
    name: str = ""
    sort: str = ""
    definition: Definition | None = None
    portal: Portal | None = None
    refusal: bytes | None = None
    refusal_code: str = ""
    is_own: bool = False
    is_barrier: bool = False
    is_failed: bool = False
    drops_unnamed: bool = False  # it stands for a Parse of the unnamed statement, which takes the old one with it
    copy: CopyIn = CopyIn.NONE
    tags: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def ends_unit(self) -> bool:
        """ReadyForQuery answers it."""
        return self.expected is Expected.QUERY or self.expected is Expected.SYNC


class Pipeline:
    """The queue. `is_flushed`: a Flush or Sync stands behind every entry, so that every answer will come by itself.

    `number` is the last command's. `sequence` counts the client's Syncs: what stands between two of them succeeds or fails
    as one. `values` are those that are masked in whatever the target says since the last command."""

    __slots__ = ("_entries", "barriers", "is_flushed", "number", "sequence", "values")

    def __init__(self) -> None:
        # No deque while nothing is under way: an empty one has 600 bytes, and most flows are idle.
        self._entries: deque[Entry] | None = None
        self.barriers = 0
        self.is_flushed = True
        self.number = 0
        self.sequence = 0
        self.values: tuple[ValueMask, ...] = ()

    def __len__(self) -> int:
        return len(self._entries or ())

    @property
    def head(self) -> Entry | None:
        """Whose answer comes next."""
        return None if self._entries is None else self._entries[0]

    def push(self, entry: Entry) -> None:
        """A message goes to the target."""
        if self._entries is None:
            self._entries = deque((entry,))
        else:
            self._entries.append(entry)
        self.barriers += entry.is_barrier
        self.is_flushed = entry.ends_unit

    def pop(self) -> Entry:
        """The first entry is answered."""
        entries = self._entries
        if entries is None:
            raise IndexError("nothing is awaited")
        entry = entries.popleft()
        if not entries:
            self._entries = None
        self.barriers -= entry.is_barrier
        return entry

    def skip_to_sync(self) -> list[Entry]:
        """The target failed and discards what comes before the next Sync, which is not answered. Takes those entries."""
        skipped: list[Entry] = []
        while (head := self.head) is not None and head.expected is not Expected.SYNC:
            skipped.append(self.pop())
        return skipped

    @property
    def awaits_ready(self) -> bool:
        """A ReadyForQuery will come."""
        return any(entry.ends_unit for entry in self._entries or ())

    @property
    def is_quiet(self) -> bool:
        """Something in it touches masked values, so that what the target says may carry them."""
        return self._entries is not None and any(entry.obligations.quiet for entry in self._entries)

    def copy_entry(self) -> Entry | None:
        """The entry that copies in, which is the last one, because nothing but its data passes behind it."""
        if not self.barriers:  # each that copies is one
            return None
        for entry in reversed(self._entries or ()):
            if entry.copy is not CopyIn.NONE:
                return entry
        return None
