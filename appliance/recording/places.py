"""Where a recording lies on disk, and who may read and write each part of it.

Workers own the journals' folder and nothing else; its group is control's and is inherited (setgid), so that control reads
and removes journals. Everything else is control's alone; only the public key is for all to read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from re import compile as pattern

from appliance.errors import RecordingError

_SEGMENT = pattern(r"segment-(\d{6,12})\.sqlite")


@dataclass(frozen=True, slots=True)
class Places:
    """The paths under one state folder."""

    state: Path

    @property
    def journals(self) -> Path:
        """What workers write and control drains."""
        return self.state / "journals"

    @property
    def recording(self) -> Path:
        """Segments, heads and the public key."""
        return self.state / "recording"

    @property
    def quarantine(self) -> Path:
        """Journals that are not what they should be."""
        return self.recording / "quarantine"

    @property
    def keys(self) -> Path:
        """Control's private keys."""
        return self.state / "keys"

    @property
    def public_key(self) -> Path:
        """The key that signatures verify with (PEM)."""
        return self.recording / "recording.pub"

    @property
    def seals(self) -> Path:
        """The signed seals of all segments, a line each, only ever added to."""
        return self.recording / "heads.jsonl"

    @property
    def head(self) -> Path:
        """The newest signed head, replaced whole with every drain."""
        return self.recording / "head.json"

    @property
    def index(self) -> Path:
        """What finds flows quickly; made from the segments, and made anew from them where it is missing or unfit."""
        return self.recording / "index.sqlite"

    @property
    def lock(self) -> Path:
        """Held by the one keeper."""
        return self.recording / "lock"

    def segment(self, number: int) -> Path:
        """The file of that segment; segments count from 1."""
        return self.recording / f"segment-{number:06d}.sqlite"

    def segments(self) -> Iterator[tuple[int, Path]]:
        """All segments there are, in order."""
        found = []
        for path in self.recording.iterdir():
            name = _SEGMENT.fullmatch(path.name)
            if name is not None and path == self.segment(int(name[1])):
                found.append((int(name[1]), path))
        yield from sorted(found)


def lay_out(state: Path, worker: tuple[int, int] | None = None, control: tuple[int, int] | None = None) -> Places:
    """Makes the folders, as root, for the (uid, gid) of workers and of control; None leaves them to the caller. Raises
    RecordingError where a link stands in a folder's place."""
    places = Places(state)
    state.mkdir(mode=0o755, parents=True, exist_ok=True)
    for folder, mode in (
        (places.journals, 0o2770),
        (places.recording, 0o750),
        (places.quarantine, 0o700),
        (places.keys, 0o700),
    ):
        owner = None
        if control is not None:
            owner = (worker[0] if worker is not None and folder == places.journals else control[0], control[1])
        _lay_out_one(folder, state, owner, mode)
    return places


def _lay_out_one(folder: Path, state: Path, owner: tuple[int, int] | None, mode: int) -> None:
    # Control owns the folder around the quarantine and could put a link there for root to follow, so each step goes by the
    # descriptor of the last. Only the state folder itself may be a link: who configured it is trusted.
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    here = os.open(state, flags)
    try:
        *parents, name = folder.relative_to(state).parts
        for parent in parents:
            here = _replace(here, os.open(parent, flags | os.O_NOFOLLOW, dir_fd=here))
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=here)
        here = _replace(here, os.open(name, flags | os.O_NOFOLLOW, dir_fd=here))
        if owner is not None:
            os.fchown(here, *owner)
        # after chown, which clears setgid
        os.fchmod(here, mode)
    except OSError as error:
        raise RecordingError(f"found {folder} unfit ({error.strerror}), expected a folder of its own, not a link") from error
    finally:
        os.close(here)


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new
