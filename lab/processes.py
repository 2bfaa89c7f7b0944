"""The processes a lab has started, remembered so that any later run can end exactly those and no others.

A process is known by its id and the moment it started, because ids are used again.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from collections.abc import Iterable
from pathlib import Path


def remember(file: Path, process: int) -> None:
    """Add a running process to the file."""
    started = _started(process)
    if started is None:
        return
    known = [*_read(file), [process, started]]
    fresh = file.with_suffix(".fresh")
    fresh.write_text(json.dumps(known))
    fresh.replace(file)


def remembered(file: Path) -> list[int]:
    """Those of the file that still run."""
    return [process for process, started in _read(file) if _started(process) == started]


def end(processes: Iterable[int], first: signal.Signals, seconds: float) -> None:
    """Send `first`, wait up to `seconds` for each, then kill what is left and wait for that.

    Held by descriptor from the first signal on, so that an id used again is never hit.
    """
    held: list[int] = []
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            held.append(os.pidfd_open(process))
    try:
        for signal_ in (first, signal.SIGKILL):
            for descriptor in held:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal_)
            for descriptor in held:
                _wait(descriptor, seconds)
    finally:
        for descriptor in held:
            os.close(descriptor)


def _wait(descriptor: int, seconds: float) -> None:
    # A process descriptor becomes readable when the process has ended (pidfd_open(2)).
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(seconds * 1000)


def _started(process: int) -> int | None:
    """Clock ticks since boot (field 22 of proc(5) stat), or None if it is gone or only waits to be reaped."""
    try:
        # The command's name stands in parentheses and may hold anything, so fields count from the last one.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _read(file: Path) -> list[list[int]]:
    try:
        known: list[list[int]] = json.loads(file.read_text())
    except FileNotFoundError:
        return []
    return known
