"""What control signs about a recording, and how that is written down.

A Head says how far every chain has come; a Seal says the same of a segment that is closed for good and names the seal before
it. The signature is over the statement's exact bytes (JSON), which are kept as they are, so that nobody has to agree on
how to write JSON twice. A file of them has a line for each: {"statement": "…", "signature": "…hex…"}.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import msgspec

from appliance.errors import RecordingError
from appliance.recording.chain import GENESIS, HASH_BYTES
from appliance.recording.keys import Keys, PublicKey

NO_SEAL = GENESIS.hex()
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]  # BLAKE2b-256 in hex
LINE_BYTES_MAX = 1 << 20  # a chain takes about 110 bytes, so this is some 9,000 workers in one segment


class Head(msgspec.Struct, frozen=True, tag="head", tag_field="what"):
    """How far the recording had come: `last` is the number of the newest record, `order` the digest over all records' hashes
    in the order they were taken in, `chains` each chain's newest (sequence, hash). Times in nanoseconds."""

    key: str
    number: int
    time: int
    segment: int
    last: int
    order: Digest
    chains: dict[str, tuple[int, Digest]]


class Seal(msgspec.Struct, frozen=True, tag="seal", tag_field="what"):
    """A closed segment: `previous` is the digest of the seal before it, `first` and `last` its records' numbers (`last` is
    `first` - 1 where it has none)."""

    key: str
    segment: int
    previous: Digest
    time: int
    first: int
    last: int
    order: Digest
    chains: dict[str, tuple[int, Digest]]


class Signed(msgspec.Struct, frozen=True):
    """A statement as it was signed, and the signature in hex."""

    statement: str
    signature: str

    def is_signed_by(self, key: PublicKey) -> bool:
        """Whether that key signed exactly this statement."""
        try:
            return key.has_signed(self.statement.encode(), bytes.fromhex(self.signature))
        except ValueError:
            return False

    @property
    def digest(self) -> str:
        """What the next seal names this one by."""
        return blake2b(self.statement.encode(), digest_size=HASH_BYTES).hexdigest()

    def read(self) -> Head | Seal:
        """The statement's meaning. Raises RecordingError where it has none."""
        try:
            return _statement.decode(self.statement)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise RecordingError(f"a signed statement cannot be read: {error}") from error


_statement: msgspec.json.Decoder[Head | Seal] = msgspec.json.Decoder(Head | Seal)
_signed = msgspec.json.Decoder(Signed)


def sign(keys: Keys, statement: Head | Seal) -> Signed:
    """The statement, signed."""
    text = msgspec.json.encode(statement)
    return Signed(text.decode(), keys.signing.sign(text).hex())


def read_line(line: bytes) -> Signed:
    """One line of a file of statements. Raises RecordingError."""
    try:
        return _signed.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordingError(f"a line of signed statements cannot be read: {error}") from error


def read_lines(file: Path) -> Iterator[Signed]:
    """All lines of a file of statements; none where there is no file. Raises RecordingError."""
    try:
        with file.open("rb") as opened:
            while line := opened.readline(LINE_BYTES_MAX + 1):
                if not line.endswith(b"\n"):
                    raise RecordingError(f"{file}: a line is over {LINE_BYTES_MAX} bytes, or cut")
                yield read_line(line)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RecordingError(f"{file} cannot be read: {error.strerror}") from error


def add_line(file: Path, signed: Signed) -> None:
    """Adds a line and returns once it is on disk. Raises OSError."""
    line = msgspec.json.encode(signed) + b"\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(file, flags, 0o640)
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(28, "No space left on device")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_line(file: Path, signed: Signed) -> None:
    """Puts one line in the place of the whole file, so that a reader sees the old one or the new one. Raises OSError."""
    unnamed = file.with_suffix(".new")
    descriptor = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    line = msgspec.json.encode(signed) + b"\n"
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(28, "No space left on device")
    finally:
        os.close(descriptor)
    unnamed.rename(file)
