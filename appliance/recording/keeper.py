"""How journals become segments: control's side of the recording, which workers cannot reach.

A worker that was taken over can still write nonsense into its own journal, but it cannot take back what was drained: the
records are in a file of another user, under a head signed with a key that no worker has. What is not as it should be is
never passed over: the journal is put aside whole, and the alarm is itself a record.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from re import compile as pattern

import msgspec

from appliance.errors import RecordingError
from appliance.recording import heads, journal, segments
from appliance.recording.chain import GENESIS, next_hash
from appliance.recording.heads import NO_SEAL, Head, Seal, Signed
from appliance.recording.journal import MAGIC, Header, PartName
from appliance.recording.keys import Keys
from appliance.recording.places import Places
from appliance.recording.records import Noted, Record
from appliance.recording.segments import FlowSummary, Taken

SEGMENT_BYTES = 256 << 20  # of payload; a file that is still quick to copy away and to verify
SEGMENT_SECONDS = 24 * 3600.0
STRETCH_BYTES = 4 << 20  # read from one journal at a time, so that a drain stays a small step and its memory bounded
HEAD_SPACING_NANOSECONDS = 1_000_000_000  # heads kept inside a segment; closer ones replace each other
FILES_MAX = 10_000  # a worker owns the folder and may fill it; beyond that the rest waits and an alarm says so
SQLITE_INTEGER_MAX = 2**63 - 1
CONTROL_CHAIN = "control"

_CHAIN_ID = pattern(r"[0-9a-f]{32}")
_encode = msgspec.msgpack.Encoder().encode
_header = msgspec.msgpack.Decoder(Header)
_record = msgspec.msgpack.Decoder(Record)


@dataclass(slots=True)
class _Chain:
    """How far one journal was taken in; `place` is a byte offset into its current part."""

    id: int
    chain: str
    journal: str
    part: int = 1
    place: int = 0
    sequence: int = -1
    hash: bytes = GENESIS
    state: str = "open"

    @property
    def row(self) -> tuple[object, ...]:
        return (self.id, self.chain, self.journal, self.part, self.place, self.sequence, self.hash, self.state)


class _Broken(Exception):
    """A journal is not what it should be: the sort of alarm, and what was found."""

    def __init__(self, sort: str, what: str) -> None:
        super().__init__(what)
        self.sort = sort
        self.what = what


@dataclass(slots=True)
class _Batch:
    """What one drain adds in its transaction."""

    rows: list[tuple[object, ...]] = field(default_factory=list)
    flows: dict[str, FlowSummary] = field(default_factory=dict)
    touched: dict[int, _Chain] = field(default_factory=dict)
    finished: list[Path] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)
    notes: list[Noted] = field(default_factory=list)
    size: int = 0
    hash: bytes = b""


class Keeper:
    """Takes journals in. Synchronous; calls from one thread at a time; one keeper per state folder.

    After a RecordingError (a full disk, a failed sync) it is dead for good; what was not committed is still in the journals,
    so a new Keeper goes on where this one stopped.
    """

    def __init__(
        self,
        places: Places,
        keys: Keys,
        *,
        alarm: Callable[[Noted], None] | None = None,
        taken: Callable[[Taken], None] | None = None,
        clock: Callable[[], int] = time.time_ns,
        segment_bytes: int = SEGMENT_BYTES,
        segment_seconds: float = SEGMENT_SECONDS,
        stretch_bytes: int = STRETCH_BYTES,
    ) -> None:
        """`alarm` is told of every note once it is committed; a worker whose journal broke should be stopped. `taken` is
        told of every drain that took something in, once that is committed, and does not raise. `clock` gives nanoseconds of
        the Unix clock. Raises RecordingError."""
        self._places = places
        self._keys = keys
        self._alarm = alarm
        self._taken = taken
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._segment_nanoseconds = int(segment_seconds * 1e9)
        self._stretch_bytes = stretch_bytes
        self._dead: str | None = None
        self._lock = -1
        # Nothing is kept here; it stands in until the segment is open.
        self._connection = sqlite3.connect(":memory:")
        self._foreign: set[str] = set()
        self._unclosed: list[Path] = []
        self._pending_notes: list[Noted] = []
        self._chains: dict[str, _Chain] = {}
        self._journals: dict[str, _Chain] = {}
        with self._final("the recording cannot be opened"):
            self._lock = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RecordingError(f"another process keeps {places.recording}") from None
            self._resume()

    @property
    def dead(self) -> str | None:
        """Why nothing is taken in any more, or None."""
        return self._dead

    def reached(self) -> dict[str, int]:
        """For each journal that has not ended, the place in its chain up to which it is taken in."""
        return {chain.journal: chain.sequence for chain in self._journals.values() if chain.state == "open"}

    def drain(self) -> int:
        """Takes in what is new in every journal, in one transaction and under one signed head, and answers how many records.
        What is answered is committed. Raises RecordingError."""
        self._require_life()
        with self._final("journals cannot be taken in"):
            batch = _Batch(notes=self._pending_notes)
            self._pending_notes = []
            self._collect(batch)
            taken = len(batch.rows)
            self._commit(batch)
            self._unclosed = [path for path in self._unclosed if not segments.close_for_good(path)]
            if self._last >= self._first and (
                self._size >= self._segment_bytes or self._clock() - self._made >= self._segment_nanoseconds
            ):
                self._seal()
        return taken

    def note(self, sort: str, text: str) -> None:
        """Puts a note of control's own into the recording, with the next drain."""
        self._pending_notes.append(Noted(self._clock(), sort, text))

    def seal(self) -> None:
        """Takes in what there is, closes the current segment for good and begins the next. Raises RecordingError."""
        self.drain()
        with self._final("a segment cannot be sealed"):
            if self._last >= self._first:
                self._seal()

    def close(self) -> None:
        """Takes in one more stretch and lets go: the rest waits in the journals, the current segment goes on with the next
        keeper. Raises RecordingError."""
        if self._dead is None:
            self.drain()
            with self._final("the recording cannot be closed"):
                self._connection.close()
            self._dead = "the recording is closed"
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # Start.

    def _resume(self) -> None:
        known = list(self._places.segments())
        seals = list(self._mended_seals())
        if not known:
            if seals:
                raise RecordingError(f"{self._places.recording} has kept seals and no segment: the recording was removed")
            segments.make(self._places.segment(1), 1, self._clock(), 1, [_Chain(0, CONTROL_CHAIN, CONTROL_CHAIN).row])
            known = list(self._places.segments())
        number, path = known[-1]
        self._number = number
        self._last_seal = seals[-1].digest if seals else NO_SEAL
        self._load(path)
        row = self._connection.execute("SELECT statement, signature FROM seal").fetchone()
        if row is not None:
            # A crash came between the seal and what follows it.
            signed = Signed(*row)
            if signed.digest != self._last_seal:
                heads.add_line(self._places.seals, signed)
                self._last_seal = signed.digest
            self._begin_next()
        elif len(seals) != number - 1:
            raise RecordingError(f"segment {number} is current, but {len(seals)} seals are kept: something was removed")
        for number, path in known:
            if number < self._number and path.stat().st_mode & 0o200:
                self._unclosed.append(path)
        self._check_kept_head()
        if self._chains[CONTROL_CHAIN].sequence < 0:
            self.note("begun", f"recording begun; signed by key {self._keys.public.id}")

    def _mended_seals(self) -> Iterator[Signed]:
        """The kept seals. A line that a crash cut short was never relied on; its seal is still in its segment."""
        try:
            content = self._places.seals.read_bytes()
        except FileNotFoundError:
            return
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.truncate(self._places.seals, whole)
        for line in content[:whole].splitlines():
            signed = heads.read_line(line)
            if not signed.is_signed_by(self._keys.public):
                raise RecordingError(f"{self._places.seals} holds a seal that this key did not sign")
            yield signed

    def _load(self, path: Path) -> None:
        self._connection = segments.open_to_write(path)
        self._made, self._first = self._connection.execute("SELECT made, first FROM segment").fetchone()
        (last,) = self._connection.execute("SELECT max(seq) FROM records").fetchone()
        self._last = self._first - 1 if last is None else last
        (self._size,) = self._connection.execute("SELECT coalesce(sum(length(payload)), 0) FROM records").fetchone()
        rows = self._connection.execute("SELECT id, chain, journal, part, place, sequence, hash, state FROM chains")
        self._chains = {}
        self._journals = {}
        for row in rows:
            chain = _Chain(*row)
            self._chains[chain.chain] = chain
            self._journals[chain.journal] = chain
        head = self._connection.execute("SELECT number, time, statement FROM heads ORDER BY number DESC LIMIT 1").fetchone()
        if head is None:
            self._head_number, self._head_time, self._order = self._head_before()
        else:
            said = Signed(head[2], "").read()
            self._head_number, self._head_time, self._order = head[0], head[1], bytes.fromhex(said.order)

    def _head_before(self) -> tuple[int, int, bytes]:
        """Number, time and order of the newest head before the current segment."""
        if self._number == 1:
            return 0, 0, GENESIS
        with segments.open_to_read(self._places.segment(self._number - 1)) as earlier:
            row = earlier.execute("SELECT statement FROM heads ORDER BY number DESC LIMIT 1").fetchone()
        if row is None:
            raise RecordingError(f"segment {self._number - 1} has no head")
        said = Signed(row[0], "").read()
        if not isinstance(said, Head):
            raise RecordingError(f"segment {self._number - 1} has no head")
        return said.number, said.time, bytes.fromhex(said.order)

    def _check_kept_head(self) -> None:
        """Records that a kept head names and no segment has were lost: by power loss, or by a hand."""
        for signed in heads.read_lines(self._places.head):
            said = signed.read()
            if isinstance(said, Head) and said.last > self._last:
                self._pending_notes.append(
                    Noted(
                        self._clock(),
                        "records lost",
                        f"the kept head {said.number} names record {said.last}, but the segments end at {self._last}",
                    )
                )
                # Heads count on from the kept one, so that it stays the proof of what is missing.
                self._head_number = max(self._head_number, said.number)

    # Draining.

    def _collect(self, batch: _Batch) -> None:
        present: dict[str, list[PartName]] = {}
        count = 0
        with os.scandir(self._places.journals) as entries:
            for entry in entries:
                count += 1
                if count > FILES_MAX:
                    self._note_foreign(batch, "", f"more than {FILES_MAX} files in the journals' folder")
                    break
                name = PartName.read(entry.name)
                if name is not None:
                    present.setdefault(name.journal, []).append(name)
                elif not entry.name.endswith(".new"):
                    self._note_foreign(batch, ascii(entry.name)[:200], "a file that is no journal")
        for chain in [chain for chain in self._journals.values() if chain.state == "open" and chain.chain != CONTROL_CHAIN]:
            if chain.journal not in present:
                chain.state = "broken"
                batch.touched[chain.id] = chain
                self._add_note(batch, "journal gone", "removed before its end was taken in", chain.journal)
        for stem in sorted(present):
            parts = sorted(present[stem])
            try:
                self._take_journal(batch, stem, parts)
            except _Broken as broken:
                halted = self._journals.get(stem)
                if halted is not None:
                    halted.state = "broken"
                    batch.touched[halted.id] = halted
                self._add_note(batch, broken.sort, broken.what, stem)
                batch.aside.extend(self._places.journals / str(part) for part in parts)
        for said in batch.notes:
            self._take_note(batch, said)

    def _note_foreign(self, batch: _Batch, name: str, text: str) -> None:
        if name not in self._foreign and len(self._foreign) < FILES_MAX:
            self._foreign.add(name)
            self._add_note(batch, "foreign file", text, name)

    def _add_note(self, batch: _Batch, sort: str, text: str, name: str = "") -> None:
        batch.notes.append(Noted(self._clock(), sort, text, name))

    def _take_note(self, batch: _Batch, said: Noted) -> None:
        control = self._chains[CONTROL_CHAIN]
        payload = _encode(said)
        self._take_link(batch, control, payload, next_hash(control.hash, payload), None, said.time, "note")

    def _take_journal(self, batch: _Batch, name: str, parts: list[PartName]) -> None:
        known = self._journals.get(name)
        if known is not None and known.state != "open":
            for part in parts:
                path = self._places.journals / str(part)
                if known.state == "ended" and _is_taken(path, part, known):
                    batch.finished.append(path)  # a crash came between its commit and its deletion
                else:
                    batch.aside.append(path)
                    self._add_note(batch, "foreign file", f"part {part.part} appeared after the journal's end", name)
            return
        wanted = known.part if known is not None else 1
        by_number = {part.part: part for part in parts}
        batch.finished.extend(self._places.journals / str(part) for part in parts if part.part < wanted)
        latest = parts[-1].part
        if wanted not in by_number:
            raise _Broken("journal gone", f"part {wanted} is missing")
        while wanted in by_number:
            ended = self._take_part(batch, by_number[wanted], wanted < latest)
            if not ended:
                return
            batch.finished.append(self._places.journals / str(by_number[wanted]))
            chain = self._journals[name]
            batch.touched[chain.id] = chain
            if wanted == latest:
                chain.state = "ended"
                return
            wanted += 1
            chain.part, chain.place = wanted, 0
        raise _Broken("journal gone", f"part {wanted} is missing")

    def _take_part(self, batch: _Batch, name: PartName, has_next: bool) -> bool:
        """Takes a stretch of one part. True: all of it is taken in and its writer is gone for good."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self._places.journals / str(name), flags)
        except FileNotFoundError:
            raise _Broken("journal gone", f"part {name.part} was removed before its end was taken in") from None
        except OSError as error:
            raise _Broken("foreign file", f"part {name.part} cannot be opened: {error.strerror}") from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _Broken("foreign file", f"part {name.part} is no regular file")
            # Asked before reading: what a writer wrote before it let go of the lock is then certainly read.
            is_over = has_next or _is_free(descriptor)
            size = os.fstat(descriptor).st_size
            chain = self._journals.get(name.journal)
            place = 0 if chain is None else chain.place
            if size < place:
                raise _Broken("journal shrunk", f"part {name.part} has {size} bytes, of which {place} were taken in before")
            place, exhausted = self._take_stretch(batch, descriptor, name, place, size)
        finally:
            os.close(descriptor)
        if not is_over or not exhausted:
            return False
        if place < size:
            if has_next:
                raise _Broken("broken chain", f"part {name.part} ends within a record, but a next part was begun")
            torn = f"part {name.part} ends {size - place} bytes into a record: its write failed"
            self._add_note(batch, "torn tail", torn, name.journal)
        if name.journal in self._journals:
            # Nothing may be added to what is deleted next.
            self._journals[name.journal].place = size
        return True

    def _take_stretch(self, batch: _Batch, descriptor: int, name: PartName, place: int, size: int) -> tuple[int, bool]:
        """Takes in what is whole; the place after it, and whether what is left (if anything) is the beginning of a frame."""
        if place == 0:
            if os.pread(descriptor, len(MAGIC), 0) != MAGIC:
                raise _Broken("foreign file", f"part {name.part} does not begin like a journal")
            place = len(MAGIC)
        chain = self._journals.get(name.journal)
        previous = GENESIS if chain is None else chain.hash
        content = os.pread(descriptor, min(self._stretch_bytes, size - place), place)
        stretch = journal.read_stretch(content, previous)
        if not stretch.links and len(content) < stretch.wanted <= size - place:
            stretch = journal.read_stretch(os.pread(descriptor, stretch.wanted, place), previous)
        for payload, digest in stretch.links:
            if place == len(MAGIC):
                self._take_header(batch, name, payload, digest)
            else:
                self._take_record(batch, self._journals[name.journal], payload, digest)
            place += journal.LENGTH_BYTES + len(payload) + len(digest)
            self._journals[name.journal].place = place
        if stretch.broken is not None:
            raise _Broken("broken chain", f"part {name.part} at byte {place}: {stretch.broken}")
        return place, size - place < (stretch.wanted or journal.LENGTH_BYTES)

    def _take_header(self, batch: _Batch, name: PartName, payload: bytes, digest: bytes) -> None:
        try:
            header = _header.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _Broken("broken chain", f"part {name.part} begins with no header") from None
        chain = self._journals.get(name.journal)
        said = PartName(header.worker, header.started, header.process, header.part)
        sequence, previous = (-1, GENESIS) if chain is None else (chain.sequence, chain.hash)
        follows = (header.sequence, header.previous) == (sequence + 1, previous)
        if header.version != journal.VERSION or said != name or not follows:
            raise _Broken("broken chain", f"part {name.part} has a header that does not belong to it")
        if name.started > SQLITE_INTEGER_MAX or not _CHAIN_ID.fullmatch(header.chain):
            raise _Broken("broken chain", f"part {name.part} has a header with an impossible start or chain")
        if chain is None:
            # The number of its first record makes the name unique, whatever id a worker claims.
            number = max(known.id for known in self._chains.values()) + 1
            chain = _Chain(number, f"{header.chain}.{self._last + len(batch.rows) + 1}", name.journal)
            self._chains[chain.chain] = chain
            self._journals[name.journal] = chain
        self._take_link(batch, chain, payload, digest, None, header.started, "journal")

    def _take_record(self, batch: _Batch, chain: _Chain, payload: bytes, digest: bytes) -> None:
        try:
            record = _record.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _Broken("broken chain", f"record {chain.sequence + 1} cannot be read") from None
        number = getattr(record, "number", 0)
        if not (0 <= record.time <= SQLITE_INTEGER_MAX and 0 <= number <= SQLITE_INTEGER_MAX):
            raise _Broken("broken chain", f"record {chain.sequence + 1} has an impossible time or number")
        self._take_link(batch, chain, payload, digest, record.flow, record.time, str(record.__struct_config__.tag))
        summary = batch.flows.get(record.flow)
        if summary is None:
            summary = batch.flows[record.flow] = FlowSummary(record.flow, first=self._last + len(batch.rows))
        summary.take(record)

    def _take_link(
        self, batch: _Batch, chain: _Chain, payload: bytes, digest: bytes, flow: str | None, moment: int, kind: str
    ) -> None:
        chain.sequence += 1
        chain.hash = batch.hash = digest
        batch.touched[chain.id] = chain
        batch.size += len(payload)
        self._order = next_hash(self._order, digest)
        batch.rows.append((self._last + len(batch.rows) + 1, chain.id, chain.sequence, flow, moment, kind, payload, digest))

    # Keeping.

    def _commit(self, batch: _Batch) -> None:
        if batch.rows or batch.touched:
            self._last += len(batch.rows)
            self._size += batch.size
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(segments.INSERT_RECORD, batch.rows)
            connection.executemany(segments.UPSERT_CHAIN, [chain.row for chain in batch.touched.values()])
            connection.executemany(segments.UPSERT_FLOW, [summary.row for summary in batch.flows.values()])
            signed = self._sign_head() if batch.rows else None
            connection.execute("COMMIT")
            if signed is not None:
                heads.replace_line(self._places.head, signed)
            if self._taken is not None and batch.rows:
                self._taken(Taken(self._number, self._last - len(batch.rows), self._last, batch.hash, batch.flows))
        if batch.finished:
            segments.bring_to_disk(self._places.segment(self._number))
            for path in batch.finished:
                path.unlink(missing_ok=True)
        for path in batch.aside:
            self._put_aside(path)
        if self._alarm is not None:
            for said in batch.notes:
                self._alarm(said)

    def _sign_head(self) -> Signed:
        now = self._clock()
        if self._head_number and now // HEAD_SPACING_NANOSECONDS == self._head_time // HEAD_SPACING_NANOSECONDS:
            self._connection.execute("DELETE FROM heads WHERE number = ?", (self._head_number,))
        self._head_number += 1
        self._head_time = now
        head = Head(
            key=self._keys.public.id,
            number=self._head_number,
            time=now,
            segment=self._number,
            last=self._last,
            order=self._order.hex(),
            chains=self._reached(),
        )
        signed = heads.sign(self._keys, head)
        self._connection.execute(
            "INSERT INTO heads VALUES (?, ?, ?, ?, ?)",
            (self._head_number, now, self._last, signed.statement, signed.signature),
        )
        return signed

    def _reached(self) -> dict[str, tuple[int, str]]:
        return {chain.chain: (chain.sequence, chain.hash.hex()) for chain in self._chains.values() if chain.sequence >= 0}

    def _seal(self) -> None:
        seal = Seal(
            key=self._keys.public.id,
            segment=self._number,
            previous=self._last_seal,
            time=self._clock(),
            first=self._first,
            last=self._last,
            order=self._order.hex(),
            chains=self._reached(),
        )
        signed = heads.sign(self._keys, seal)
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("INSERT INTO seal VALUES (?, ?)", (signed.statement, signed.signature))
        heads.add_line(self._places.seals, signed)
        self._last_seal = signed.digest
        self._begin_next()

    def _begin_next(self) -> None:
        self._connection.close()
        earlier = self._places.segment(self._number)
        carried = [chain.row for chain in self._chains.values() if chain.state != "ended"]
        self._number += 1
        path = self._places.segment(self._number)
        segments.make(path, self._number, self._clock(), self._last + 1, carried)
        self._load(path)
        if not segments.close_for_good(earlier):
            self._unclosed.append(earlier)

    def _put_aside(self, path: Path) -> None:
        target = self._places.quarantine / f"{path.name}.{self._last}"
        try:
            path.rename(target)
        except FileNotFoundError:
            return  # whoever owned it was quicker; the alarm is recorded

    # Failing.

    def _require_life(self) -> None:
        if self._dead is not None:
            raise RecordingError(self._dead)

    @contextmanager
    def _final(self, what: str) -> Iterator[None]:
        """Any failure inside ends this keeper: what memory and file then say may differ."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self._dead = f"{what}: {error}"
            self._let_go()
            raise RecordingError(self._dead) from error
        except RecordingError as error:
            self._dead = str(error)
            self._let_go()
            raise

    def _let_go(self) -> None:
        """Closing rolls back what was not committed."""
        with suppress(sqlite3.Error):
            self._connection.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _is_free(descriptor: int) -> bool:
    """Whether nobody holds the file's lock; closing the descriptor lets go of ours."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_taken(path: Path, part: PartName, chain: _Chain) -> bool:
    """Whether everything in a part of an ended journal was taken in."""
    try:
        size = path.lstat().st_size
    except FileNotFoundError:
        return True
    return part.part < chain.part or (part.part == chain.part and size == chain.place)
