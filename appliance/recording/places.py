"""Where a recording lies on disk, and who may read and write each part of it.

Workers own the journals' folder and nothing else; its group is control's and is inherited (setgid), so that control reads
and removes journals. Everything else is control's alone; only the public key is for all to read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from re import compile as pattern

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
    """Makes the folders, as root, for the (uid, gid) of workers and of control; None leaves them to the caller."""
    places = Places(state)
    state.mkdir(mode=0o755, parents=True, exist_ok=True)
    for folder, mode in (
        (places.journals, 0o2770),
        (places.recording, 0o750),
        (places.quarantine, 0o700),
        (places.keys, 0o700),
    ):
        folder.mkdir(exist_ok=True)
        if control is not None:
            owner = worker[0] if worker is not None and folder == places.journals else control[0]
            os.chown(folder, owner, control[1])
        # after chown, which clears setgid
        folder.chmod(mode)
    return places
