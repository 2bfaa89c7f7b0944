"""What the supervisor sees at each look at the kernel's rules, in a small file that the other processes may read.

The supervisor alone (root) writes it and control alone reads it; neither asks the other for anything.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import msgspec

NAME = "catching.json"
_BYTES_MAX = 1 << 16


class Look(msgspec.Struct, frozen=True):
    """One look. `clock` is CLOCK_MONOTONIC in seconds, the same for every process of a machine. `fault`: why nobody
    can be caught, or nothing. `undone` counts the looks that found something missing, which was put back; `found` and
    `undone_at` are what it was and the clock at the last of them."""

    clock: float
    found: tuple[str, ...] = ()
    fault: str = ""
    undone: int = 0
    undone_at: float | None = None


def write_look(run: str, look: Look) -> None:
    """Replace what was said before, whole. Raises OSError."""
    # The folder belongs to control: what it may have put there in the way must not be followed by root.
    folder = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        unnamed = f".{NAME}.new"
        with suppress(FileNotFoundError):
            os.unlink(unnamed, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(unnamed, flags, 0o644, dir_fd=folder)
        try:
            os.fchmod(file, 0o644)
            os.write(file, msgspec.json.encode(look))
        finally:
            os.close(file)
        os.rename(unnamed, NAME, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


def read_look(run: str) -> Look | None:
    """The last look, or None where there is none that root wrote."""
    try:
        file = os.open(Path(run) / NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
            return None
        return msgspec.json.decode(os.read(file, _BYTES_MAX), type=Look)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    finally:
        os.close(file)
