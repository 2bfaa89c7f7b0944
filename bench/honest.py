"""A client that works quietly while another is hostile: how long each of its statements took, and when.

Run in the executor's machine; libpq's variables say where to, DIRECT_HOST where the same server is past the appliance. It
asks one after the other, with pauses, to measure waiting and not the limits of the machine, and over several connections,
so that each worker has some of them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from itertools import cycle
from typing import Final

from bench.figures import DIRECT
from bench.stream import connect, run_simple

THROUGH: Final = "sluicegate"
STATEMENT: Final = "select name from customers where id = 7"
_CONNECTIONS: Final = 8
_PAUSE_SECONDS: Final = 0.001


@dataclass(frozen=True, slots=True)
class Sample:
    """One statement: its lane, when it was sent (time.monotonic, the same clock for all processes), and microseconds."""

    lane: str
    sent: float
    latency: float


def read_samples(text: str) -> list[Sample]:
    """What `main` has printed."""
    return [Sample(*one) for one in json.loads(text)]


def _main(until: float) -> None:
    through = [connect() for _ in range(_CONNECTIONS)]
    os.environ["PGHOST"] = os.environ["DIRECT_HOST"]
    direct = [connect() for _ in range(2)]
    lanes = (THROUGH, cycle(through)), (DIRECT, cycle(direct))
    samples: list[tuple[str, float, float]] = []
    # What is found out once a connection is not what is measured.
    for stream in (*through, *direct):
        run_simple(stream, STATEMENT)
    print("ready", flush=True)
    while (now := time.monotonic()) < until:
        for lane, streams in lanes:
            sent = time.perf_counter()
            run_simple(next(streams), STATEMENT)
            samples.append((lane, round(now, 4), round((time.perf_counter() - sent) * 1e6, 1)))
        time.sleep(_PAUSE_SECONDS)
    print(json.dumps(samples))


if __name__ == "__main__":
    _main(float(sys.argv[1]))
