"""The journal file: how a worker writes records so that they outlive it, and how they are read back.

A file is MAGIC, then frames; a frame is a 4-byte length (big endian), that many bytes of payload (msgpack) and the chain
hash (chain.py). The first frame is a Header, a link of the chain like any other; a chain goes on over the parts of a
journal, whose headers name the hash before them. One write(2) per call of append: what it took is in the page cache and
stays there whatever becomes of the process. A part is made under another name, locked and given its header before it gets
its own name, so that a reader never meets half a header, and a part whose lock is free has no writer any more.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from re import compile as pattern
from secrets import token_hex
from typing import NoReturn

import msgspec

from appliance.errors import RecordingError
from appliance.recording.chain import GENESIS, HASH_BYTES, next_hash
from appliance.recording.records import Record
from appliance.recording.sealing import Envelope, Wrapped

MAGIC = b"SLUICEJ1"
VERSION = 1
RECORD_BYTES_MAX = 64 << 20  # an INSERT of 50 MB is still recorded whole; what is larger is refused
PART_BYTES = 64 << 20  # small enough to be drained and deleted soon, large enough that a new file is a rare cost
PARTS_UNSYNCED_MAX = 4  # earlier parts kept open for a later sync(); beyond that the oldest is synced at once
SHOWN_CHARACTERS_MAX = 16 << 10  # what people and listings see of one text; the whole stays in the sealed text

LENGTH_BYTES = 4
_FILE_MODE = 0o640  # the worker writes, control (the folder's group) reads, nobody else
_NAME = pattern(r"w(\d{1,9})-(\d{1,20})-(\d{1,10})-(\d{6})\.journal")
_encode = msgspec.msgpack.Encoder().encode
# The disk is full or a limit is reached. The torn tail stays: a reader knows it by its length.
_SHORT_WRITE = "the journal cannot be written: the disk took only a part of a record"


class Header(msgspec.Struct, frozen=True, tag="journal", omit_defaults=True):
    """The first frame of a part. `sequence` is its own place in the chain, `previous` the hash before it; `started` is the
    start of the worker (nanoseconds of the Unix clock), `part` counts from 1."""

    version: int
    worker: int
    started: int
    process: int
    chain: str
    part: int
    sequence: int
    previous: bytes
    sealing: Wrapped


@dataclass(frozen=True, slots=True, order=True)
class PartName:
    """What a part's file name says: the worker, its start, its process and the part's number."""

    worker: int
    started: int
    process: int
    part: int

    def __str__(self) -> str:
        return f"w{self.worker}-{self.started}-{self.process}-{self.part:06d}.journal"

    @classmethod
    def read(cls, name: str) -> PartName | None:
        """The parsed name, or None where no journal is called so."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        parsed = cls(*(int(group) for group in found.groups()))
        return parsed if str(parsed) == name else None

    @property
    def journal(self) -> str:
        """What all parts of one journal share."""
        return f"w{self.worker}-{self.started}-{self.process}"


class Journal:
    """A worker's own journal. Synchronous; one per process; never shared with a child process.

    The first failure is final: whatever a kernel did with a failed write or sync is unknown, so every later call raises
    RecordingError as well and the worker has to stop its flows.
    """

    def __init__(self, folder: Path, worker: int, seal_key: bytes, started: int, part_bytes: int = PART_BYTES) -> None:
        """Creates the first part in `folder`. `seal_key` is control's X25519 public key (32 raw bytes), `started` the
        worker's start in nanoseconds. Raises RecordingError."""
        self._folder = folder
        self._name = PartName(worker, started, os.getpid(), 0)
        self._chain = token_hex(16)
        self._part_bytes = part_bytes
        self._envelope = Envelope(seal_key, self._chain.encode())
        self._hash = GENESIS
        self._sequence = 0
        self._dead: str | None = None
        self._unsynced: list[int] = []
        self._folder_unsynced = True
        self._descriptor = -1
        self._size = 0
        self._open_part()

    @property
    def dead(self) -> str | None:
        """Why nothing can be recorded any more, or None."""
        return self._dead

    @property
    def chain(self) -> str:
        """The chain's id, as it stands in every segment that holds records of this journal."""
        return self._chain

    @property
    def name(self) -> str:
        """What all its parts share in their names."""
        return self._name.journal

    @property
    def sequence(self) -> int:
        """The next record's place in the chain."""
        return self._sequence

    def append(self, record: Record) -> None:
        """Writes one record; when this returns, the record outlives the process. Raises RecordingError."""
        payload = _payload(record)
        if self._dead is not None or self._size >= self._part_bytes:
            self._open_next_part()
        # next_hash and _write, written out: this is the one call that every command of every flow waits for
        digest = blake2b(self._hash + payload, digest_size=HASH_BYTES).digest()
        frame = len(payload).to_bytes(LENGTH_BYTES, "big") + payload + digest
        try:
            written = os.write(self._descriptor, frame)
        except OSError as error:
            self._die(f"the journal cannot be written: {error.strerror}", error)
        if written != len(frame):
            self._die(_SHORT_WRITE, None)
        self._size += written
        self._hash = digest
        self._sequence += 1

    def append_many(self, records: Sequence[Record]) -> None:
        """Writes records in order with one write. Where this raises RecordingError, the first few may be there."""
        payloads = [_payload(record) for record in records]
        if not payloads:
            return
        if self._size >= self._part_bytes:
            self._open_next_part()
        frames = bytearray()
        digest = self._hash
        for payload in payloads:
            digest = next_hash(digest, payload)
            frames += _frame(payload, digest)
        self._write(frames)
        self._hash = digest
        self._sequence += len(payloads)

    def sync(self) -> None:
        """Returns once everything appended is on disk. Raises RecordingError; a failed sync is final, because the kernel
        may have dropped the pages and will call the next sync a success (fsync(2))."""
        self._require_life()
        try:
            while self._unsynced:
                os.fdatasync(self._unsynced[0])
                os.close(self._unsynced.pop(0))
            os.fdatasync(self._descriptor)
            if self._folder_unsynced:
                _sync_folder(self._folder)
                self._folder_unsynced = False
        except OSError as error:
            self._die(f"the journal could not be brought to disk: {error.strerror}", error)

    def seal(self, text: str) -> bytes:
        """The exact text, encrypted so that only control can read it once this process is gone."""
        return self._envelope.seal(text)

    def fit(self, shown: str, exact: str | None = None) -> tuple[str, bytes | None]:
        """The `shown` and `sealed` fields of a record for a text that people may see as `shown`.

        What is too long is cut, with its length and digest; what is no valid Unicode is escaped. `sealed` is there
        wherever the result differs from `exact` (None: the same as `shown`).
        """
        exact = shown if exact is None else exact
        fitted = clip(shown)
        return fitted, None if fitted == exact else self.seal(exact)

    def close(self) -> None:
        """Ends the journal; its last part has no writer from now on."""
        if self._dead is None:
            self._dead = "the journal is closed"
        for descriptor in (*self._unsynced, self._descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._unsynced.clear()
        self._descriptor = -1

    def _write(self, frames: bytes | bytearray) -> None:
        self._require_life()
        try:
            written = os.write(self._descriptor, frames)
        except OSError as error:
            self._die(f"the journal cannot be written: {error.strerror}", error)
        if written != len(frames):
            self._die(_SHORT_WRITE, None)
        self._size += written

    def _open_next_part(self) -> None:
        self._require_life()
        self._unsynced.append(self._descriptor)
        self._descriptor = -1
        try:
            if len(self._unsynced) > PARTS_UNSYNCED_MAX:
                os.fdatasync(self._unsynced[0])
                os.close(self._unsynced.pop(0))
        except OSError as error:
            self._die(f"the journal could not be brought to disk: {error.strerror}", error)
        self._open_part()

    def _open_part(self) -> None:
        self._name = PartName(self._name.worker, self._name.started, self._name.process, self._name.part + 1)
        header = Header(
            version=VERSION,
            worker=self._name.worker,
            started=self._name.started,
            process=self._name.process,
            chain=self._chain,
            part=self._name.part,
            sequence=self._sequence,
            previous=self._hash,
            sealing=self._envelope.wrapped,
        )
        payload = _encode(header)
        digest = next_hash(self._hash, payload)
        content = MAGIC + _frame(payload, digest)
        path = self._folder / str(self._name)
        unnamed = path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(unnamed, flags, _FILE_MODE)
            os.fchmod(self._descriptor, _FILE_MODE)  # whatever the umask is, control has to read it
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            written = os.write(self._descriptor, content)
            if written == len(content):
                # link and not rename: a name that exists is an error and never replaced
                os.link(unnamed, path)
            os.unlink(unnamed)
        except OSError as error:
            self._die(f"a new journal cannot be made: {error.strerror}", error)
        if written != len(content):
            self._die("a new journal cannot be made: the disk took only a part of its header", None)
        self._folder_unsynced = True
        self._size = written
        self._hash = digest
        self._sequence += 1

    def _require_life(self) -> None:
        if self._dead is not None:
            raise RecordingError(self._dead)

    def _die(self, why: str, cause: OSError | None) -> NoReturn:
        self._dead = why
        raise RecordingError(why) from cause


def clip(shown: str) -> str:
    """A text as a record may show it: cut after SHOWN_CHARACTERS_MAX, and valid Unicode. For texts that have no sealed twin
    of their own, such as parameters; the digest is of the text given here."""
    try:
        whole = shown.encode()
    except UnicodeEncodeError:
        shown = shown.encode("utf-8", "backslashreplace").decode()
        whole = shown.encode()
    if len(shown) <= SHOWN_CHARACTERS_MAX:
        return shown
    digest = blake2b(whole, digest_size=HASH_BYTES).hexdigest()
    return f"{shown[:SHOWN_CHARACTERS_MAX]}… [cut here; {len(whole)} bytes in all, BLAKE2b {digest}]"


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a run of bytes of a part holds: whole links in order, how many bytes they take, and the chain's hash after
    them. `broken` says why the next frame cannot be right; None: what is left is at most the beginning of a frame."""

    links: tuple[tuple[bytes, bytes], ...]
    used: int
    last: bytes
    wanted: int
    broken: str | None


def read_stretch(content: bytes, previous: bytes) -> Stretch:
    """Reads frames from `content`, the first of which follows the hash `previous`. Trusts nothing: whoever wrote the
    bytes may have been taken over. `wanted` of the answer is the size of the frame that is not whole, 0 if unknown."""
    links: list[tuple[bytes, bytes]] = []
    used = 0
    wanted = 0
    broken = None
    size = len(content)
    while used + LENGTH_BYTES <= size:
        length = int.from_bytes(content[used : used + LENGTH_BYTES], "big")
        if not 0 < length <= RECORD_BYTES_MAX:
            broken = f"a frame says that it has {length} bytes"
            break
        end = used + LENGTH_BYTES + length + HASH_BYTES
        if end > size:
            wanted = end - used
            break
        payload = content[used + LENGTH_BYTES : end - HASH_BYTES]
        claimed = content[end - HASH_BYTES : end]
        if next_hash(previous, payload) != claimed:
            broken = "a record does not follow from the one before it"
            break
        links.append((payload, claimed))
        previous = claimed
        used = end
    return Stretch(tuple(links), used, previous, wanted, broken)


def _payload(record: Record) -> bytes:
    try:
        payload = _encode(record)
    except (UnicodeEncodeError, OverflowError) as error:
        # Says what is wrong and not the value: error texts go to logs.
        raise RecordingError(f"a record cannot be written down: {type(error).__name__}") from error
    if len(payload) > RECORD_BYTES_MAX:
        raise RecordingError(f"a record of {len(payload)} bytes is over the bound of {RECORD_BYTES_MAX}")
    return payload


def _frame(payload: bytes, digest: bytes) -> bytes:
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload + digest


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
