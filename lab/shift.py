"""Agents at work in a lab that is left up for people to look at: a little traffic, a few holds, and an end by itself."""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lab import processes
from lab.laboratory import REPOSITORY, Lab
from lab.machines import Place

MINUTES: Final = 30
# Enough to see things move, next to nothing for the machine.
_PAUSE_SECONDS: Final = 1.0

# Held by the example policy; asked anew when one was answered or ran out of time.
_HELD: Final = (
    "delete from staging where id > 40",
    "begin; update orders set status = 'lost' where id = 4; truncate staging; commit",
    "delete from orders where customer_id = 7",
)
_ORDINARY: Final = (
    ("planner", "select id, name, city from customers order by id limit 3"),
    ("executor", "select status, count(*) from orders group by status"),
    ("executor", "update orders set note = 'seen' where id = 3"),
    ("planner", "select name, email, card_number from customers where id = 12"),
    ("executor", "insert into orders (customer_id, status, amount) values (9, 'new', 10)"),
    ("planner", "delete from orders where id = 1"),
    ("executor", "select employee, salary from payroll"),
)


def begin(lab: Lab) -> None:
    """Start the shift as a process of its own, which ends the lab when it is over."""
    with (lab.folder / "shift").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lab.shift", lab.name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            start_new_session=True,
        )
    processes.remember(lab.folder / "processes.json", process.pid)


def _work(lab: Lab, seconds: float) -> None:
    ends = time.monotonic() + seconds
    waiting: dict[str, subprocess.Popen[bytes]] = {}
    # A transaction of an hour ago is nobody's work: the sessions are short, as agents' mostly are.
    turns: Iterator[tuple[str, str]] = itertools.cycle(_ORDINARY)
    try:
        while time.monotonic() < ends:
            for statement in _HELD:
                if statement not in waiting or waiting[statement].poll() is not None:
                    waiting[statement] = _ask(lab, "executor", statement)
            who, statement = next(turns)
            _ask(lab, who, statement).wait()
            time.sleep(_PAUSE_SECONDS)
    finally:
        for process in waiting.values():
            process.kill()
            process.wait()


def _ask(lab: Lab, who: str, statement: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        lab.command(Place.EXECUTOR, ("psql", "--no-psqlrc", "-c", statement), who),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path("/"),
        env=lab.environment(who),
    )


def main() -> int:
    """Work in the lab of that name for so many minutes, then take it down."""
    parser = argparse.ArgumentParser(prog="python -m lab.shift", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    arguments = parser.parse_args()
    lab = Lab(arguments.name)
    try:
        _work(lab, arguments.minutes * 60)
    finally:
        lab.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
