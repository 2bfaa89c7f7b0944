"""pgbench: the words that start it and what its report says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from lab.database import BINARIES

PROTOCOLS: Final = ("simple", "extended", "prepared")
SCALE: Final = 10
_PROGRAM: Final = str(BINARIES / "pgbench")

_REPORT: Final = {
    "transactions": re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE),
    "failed": re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE),
    "latency": re.compile(r"^latency average = ([\d.]+) ms", re.MULTILINE),
    "connecting": re.compile(r"^initial connection time = ([\d.]+) ms", re.MULTILINE),
    "throughput": re.compile(r"^tps = ([\d.]+) \(without initial connection time\)", re.MULTILINE),
}


@dataclass(frozen=True, slots=True)
class Report:
    """One run: transactions in all, the seconds all clients took to connect, and without those the mean latency in
    microseconds and transactions a second."""

    transactions: int
    connecting: float
    latency: float
    throughput: float


def fill_command() -> list[str]:
    """Makes and fills pgbench's tables, 100,000 accounts for each step of SCALE."""
    return [_PROGRAM, "--initialize", "--quiet", f"--scale={SCALE}"]


def read_once_command(protocol: str, clients: int) -> list[str]:
    """Connects all clients and lets each read one account."""
    return [*_reading(protocol, clients), "--transactions=1"]


def read_command(protocol: str, clients: int, seconds: int) -> list[str]:
    """Reads one account by its key, at random, again and again; connecting is a part of the seconds."""
    return [*_reading(protocol, clients), f"--time={seconds}"]


def _reading(protocol: str, clients: int) -> list[str]:
    # One thread sees to more clients than this machine lets run at once.
    threads = f"--jobs={min(clients, 2)}"
    return [_PROGRAM, "--no-vacuum", "--select-only", f"--protocol={protocol}", f"--client={clients}", threads]


def read_report(text: str) -> Report:
    """What pgbench 15 prints at the end. ValueError if something is not there, nothing was done, or something failed."""
    values = {}
    for name, form in _REPORT.items():
        found = form.search(text)
        if found is None:
            raise ValueError(f"pgbench's report does not tell its {name}: {text.strip()[-2000:]}")
        values[name] = float(found.group(1))
    if values["failed"] or not values["transactions"]:
        raise ValueError(f"pgbench did {values['transactions']:.0f} transactions and failed in {values['failed']:.0f}")
    return Report(int(values["transactions"]), values["connecting"] / 1000, values["latency"] * 1000, values["throughput"])
