"""What all workers have counted together, over their deaths and ours, and which rules were hit how often and when last.

Workers tell sums, so that a message lost, told twice or told to a control process that has just started makes nothing wrong.
Hits of rules are kept in a file, because people look at them over weeks; all other sums begin anew with this process, as
whoever reads metrics expects of counters.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlite_utils import Database

from appliance.control.log import Level, log
from appliance.ipc.messages import Counted, Tally

Key = tuple[str, ...]
Life = tuple[int, int]
"""A worker's process and when it started (nanoseconds of the Unix clock)."""

SAVE_SECONDS = 5.0
LIVES_MAX = 64
"""Lives whose sums are kept apart. Of more, the oldest that are over become part of one sum for all that are past."""

KEYS_MAX = 100_000
"""Of one life; a configuration of hundreds of resources and agents and thousands of rules has fewer. What is beyond is not
counted: a worker that was taken over could otherwise fill our memory."""

RULES_MAX = 20_000
"""Rules whose hits are kept in the file, those that were hit last."""

_PAST: Life = (0, 0)
_MARKS_MAX = 600


@dataclass(frozen=True, slots=True)
class Hits:
    """How often a rule was hit, and when last (seconds of the Unix clock)."""

    hits: int
    last: float


@dataclass(slots=True)
class _Worker:
    """One life's sums. `marks`: when it said (seconds that only go forward) that its journal had grown to which place."""

    sums: Mapping[Key, float] = field(default_factory=dict)
    marks: deque[tuple[float, int]] = field(default_factory=deque)
    journal: str = ""


class Tallies:
    """`file` is where hits are kept; it is made where it is not there."""

    def __init__(self, file: Path) -> None:
        """A file that can't be used is put aside, and counting begins anew. Raises sqlite3.Error where that fails, too."""
        self._lives: dict[Life, _Worker] = {}
        self._past: Counter[Key] = Counter()
        self._hits: dict[Life, dict[str, int]] = {}
        self._last: dict[str, float] = {}
        self._unsaved: set[tuple[Life, str]] = set()
        try:
            self._open(file)
        except sqlite3.DatabaseError as error:
            log("hits of rules begin anew", level=Level.ERROR, reason=error)
            for suffix in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    file.with_name(file.name + suffix).rename(file.with_name(f"{file.name}{suffix}.unfit"))
            self._open(file)

    def take(self, process: int, tally: Tally, clock: float, now: float) -> None:
        """What a worker tells; `process` is who the kernel says that it is. `clock` is seconds that only go forward, `now`
        seconds of the Unix clock."""
        if len(tally.sums) > KEYS_MAX:
            return
        life = (process, tally.started)
        worker = self._lives.setdefault(life, _Worker())
        known = self._hits.setdefault(life, {})
        for key, value in tally.sums.items():
            if key[0] == Counted.RULES and len(key) == 2 and value > known.get(key[1], 0):
                known[key[1]] = int(value)
                self._last[key[1]] = now
                self._unsaved.add((life, key[1]))
            elif key[0] == Counted.RECORDS and len(key) == 2:
                worker.journal = key[1]
                if len(worker.marks) < _MARKS_MAX and (not worker.marks or worker.marks[-1][1] < value):
                    worker.marks.append((clock, int(value)))
        worker.sums = tally.sums

    def forget_past(self, living: Collection[int]) -> None:
        """Put together what is past, where there is too much of it. `living` are the processes that are not."""
        over = [life for life in {**self._hits, **self._lives} if life[0] not in living and life != _PAST]
        for life in over[: max(0, len(over) - LIVES_MAX)]:
            if (worker := self._lives.pop(life, None)) is not None:
                self._past.update({key: value for key, value in worker.sums.items() if key[0] != Counted.RECORDS})
            past = self._hits.setdefault(_PAST, {})
            for rule, count in self._hits.pop(life, {}).items():
                past[rule] = past.get(rule, 0) + count
                self._unsaved.add((_PAST, rule))
            with self._file.conn:
                self._save()
                self._table.delete_where("process = ? and started = ?", list(life))

    def sums(self) -> dict[Key, float]:
        """All lives together, without rules and records."""
        found: Counter[Key] = Counter(self._past)
        for worker in self._lives.values():
            found.update(worker.sums)
        return {key: value for key, value in found.items() if key[0] not in (Counted.RULES, Counted.RECORDS)}

    def hits(self) -> dict[str, Hits]:
        """By rule, since the file was made."""
        found: Counter[str] = Counter()
        for rules in self._hits.values():
            found.update(rules)
        return {rule: Hits(count, self._last[rule]) for rule, count in found.items()}

    def lag(self, reached: Mapping[str, int], living: Collection[int], clock: float) -> tuple[int, float]:
        """Records that living workers have written and that are not taken in, and for how many seconds the oldest of them
        has waited at least. `reached` is, by journal, the place of the last record that was taken in."""
        records, seconds = 0, 0.0
        for (process, _), worker in self._lives.items():
            marks = worker.marks
            while marks and marks[0][1] - 1 <= reached.get(worker.journal, -1):
                marks.popleft()
            if marks and process in living:
                records += marks[-1][1] - 1 - reached.get(worker.journal, -1)
                seconds = max(seconds, clock - marks[0][0])
        return records, seconds

    def save(self) -> None:
        """Keep the hits that are new. Raises sqlite3.Error."""
        if self._unsaved:
            with self._file.conn:
                self._save()

    def close(self) -> None:
        """Let go; what is not saved is lost."""
        self._file.close()

    def _open(self, file: Path) -> None:
        connection = sqlite3.connect(file, isolation_level=None)
        connection.executescript("pragma journal_mode = wal; pragma synchronous = normal")
        file.chmod(0o600)
        self._file = Database(connection)
        self._table = self._file.table("rule_hits")
        if not self._table.exists():
            columns = {"process": int, "started": int, "rule": str, "hits": int, "last": float}
            self._table.create(columns, pk=("process", "started", "rule"), not_null=set(columns))
        self._load()

    def _save(self) -> None:
        rows = [
            {"process": life[0], "started": life[1], "rule": rule, "hits": self._hits[life][rule], "last": self._last[rule]}
            for life, rule in self._unsaved
            if life in self._hits
        ]
        self._table.upsert_all(rows, pk=("process", "started", "rule"))
        self._unsaved.clear()

    def _load(self) -> None:
        for row in self._table.rows_where(order_by="last desc", limit=RULES_MAX):
            rule = row["rule"]
            self._hits.setdefault((row["process"], row["started"]), {})[rule] = row["hits"]
            self._last[rule] = max(row["last"], self._last.get(rule, 0.0))
