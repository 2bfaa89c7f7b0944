"""A recording as one file that can be carried away and verified elsewhere, without the appliance and offline.

It is a tar of what verify.py reads: segments, heads, seals and the public key, under `recording/`, and a README. Exact texts
in it stay sealed: private keys are no part of it.
"""

from __future__ import annotations

import io
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from re import compile as pattern
from typing import Final

from appliance.errors import RecordingError
from appliance.recording import segments
from appliance.recording.places import Places
from appliance.recording.verify import verify

_MEMBER: Final = pattern(r"recording/(segment-\d{6,12}\.sqlite|heads\.jsonl|head\.json|recording\.pub)")
# A million segments of 256 MiB are more than any disk holds; more members are no bundle of ours.
_MEMBERS_MAX: Final = 1_000_000
_PAGES_AT_ONCE: Final = 4096
# While it is copied a segment may be sealed, and then its seal is missing beside it.
_TRIES: Final = 3
_README: Final = b"""This is a recording of Sluicegate. Check that nothing in it was changed, removed, added or moved:

    sluicegate verify --bundle THIS-FILE --public-key KEY

KEY is a copy of the appliance's recording.pub that you got on another way; without it the key inside is used, which proves
less.
The same offline and by hand: unpack it and run `sluicegate verify --state FOLDER`.
"""


def write_bundle(places: Places, file: Path, tell: Callable[[int, int], None]) -> None:
    """Write the whole recording to a new file and verify it there. `tell` hears bytes done and to do. Raises RecordingError
    where the recording cannot be read or does not verify; what stands in `file` is worthless then."""
    for turn in range(_TRIES):
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".bundle-") as folder:
            copy = Places(Path(folder))
            copy.recording.mkdir()
            _copy(places, copy, tell)
            report = verify(copy.state)
            if report.is_sound:
                _pack(copy, file)
                return
            if turn == _TRIES - 1:
                found = report.findings[0]
                raise RecordingError(
                    f"the recording does not verify, so nothing is proved by it: {found.sort}: {found.text}"
                )


@contextmanager
def open_bundle(file: Path) -> Iterator[Path]:
    """A state folder with the recording of a bundle, gone afterwards. Raises RecordingError where it is no bundle."""
    with tempfile.TemporaryDirectory(prefix="sluicegate-bundle-") as folder:
        state = Path(folder)
        (state / "recording").mkdir()
        try:
            with tarfile.open(file, "r:") as packed:
                _unpack(packed, state)
        except (tarfile.TarError, EOFError) as error:
            raise RecordingError(f"{file} is no bundle: {error}") from None
        except OSError as error:
            raise RecordingError(f"{file} cannot be read: {error.strerror}") from error
        yield state


def _copy(places: Places, copy: Places, tell: Callable[[int, int], None]) -> None:
    try:
        # Heads before records: a head that is older than the records is what a kept one always is.
        for source, target in ((places.head, copy.head), (places.public_key, copy.public_key), (places.seals, copy.seals)):
            if source.exists():
                target.write_bytes(source.read_bytes())
        found = list(places.segments())
        total = sum(path.stat().st_size for _, path in found)
    except OSError as error:
        raise RecordingError(f"{places.recording} cannot be read: {error.strerror}") from error
    done = 0
    for number, path in found:
        is_sealed = not path.stat().st_mode & 0o200
        target = copy.segment(number)
        with segments.open_to_read(path) as opened, closing(sqlite3.connect(target)) as made:

            def heed(_status: int, left: int, pages: int, size: int = path.stat().st_size, before: int = done) -> None:
                tell(before + (size * (pages - left) // pages if pages else size), total)

            try:
                # One view of a segment that may be growing: else the copy begins anew with every commit of the keeper's.
                opened.execute("BEGIN")
                opened.execute("SELECT count(*) FROM segment").fetchone()
                opened.backup(made, pages=_PAGES_AT_ONCE, progress=heed)
                made.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.Error as error:
                raise RecordingError(f"{path.name} cannot be copied: {error}") from error
        if is_sealed:
            target.chmod(0o444)
        done += path.stat().st_size
        tell(done, total)


def _pack(copy: Places, file: Path) -> None:
    with tarfile.open(file, "w:") as packed:
        about = tarfile.TarInfo("README")
        about.size = len(_README)
        packed.addfile(about, io.BytesIO(_README))
        for path in sorted(copy.recording.iterdir()):
            member = packed.gettarinfo(path, f"recording/{path.name}")
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            with path.open("rb") as opened:
                packed.addfile(member, opened)


def _unpack(packed: tarfile.TarFile, state: Path) -> None:
    """Only what a bundle has, under the names that we choose: a bundle may come from anybody."""
    for count, member in enumerate(packed):
        if count >= _MEMBERS_MAX:
            raise RecordingError("it has more members than a bundle can have")
        if member.name == "README":
            continue
        if not member.isreg() or not _MEMBER.fullmatch(member.name):
            raise RecordingError(f"found {member.name!r} in it, expected a recording's files alone")
        content = packed.extractfile(member)
        assert content is not None
        target = state / "recording" / PurePosixPath(member.name).name
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as made:
            while part := content.read(1 << 20):
                made.write(part)
        # The reader tells a sealed segment by its mode.
        target.chmod(0o600 if member.mode & 0o200 else 0o400)
