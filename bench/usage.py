"""What processes have used of the processor and of memory, as /proc tells it (proc(5))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_TICK_SECONDS: Final = 1 / os.sysconf("SC_CLK_TCK")


def processor_seconds(processes: Iterable[int]) -> float:
    """User and system time of all threads of these processes, in seconds, to a hundredth; none for those that are gone."""
    ticks = 0
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The command's name stands in parentheses and may hold anything, so fields count from the last one.
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks * _TICK_SECONDS


def forget_peak(processes: Iterable[int]) -> None:
    """Let the peak that `peak_resident` answers start from now."""
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            Path(f"/proc/{process}/clear_refs").write_text("5")


def peak_resident(processes: Iterable[int]) -> int:
    """The most bytes that the largest of these processes had resident since `forget_peak`; 0 if all are gone."""
    largest = 0
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    largest = max(largest, int(line.split()[1]) * 1024)
    return largest


def resident(processes: Iterable[int]) -> int:
    """The bytes that these processes have resident now, all together."""
    total = 0
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
    return total


def family(process: int) -> list[int]:
    """A process and all its descendants that run now."""
    found = [process]
    for member in found:  # grows while it is walked, by what runs on this machine
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in Path(f"/proc/{member}/task").iterdir():
                found += [int(child) for child in (thread / "children").read_text().split()]
    return found
