"""Kills workers in mid-statement under load, then holds the target's own log against the recording.

A statement that the target logged and the recording lacks breaks the promise of "recorded before sent"; one that was
recorded and never arrived does not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from lab.laboratory import REPOSITORY, Lab
from lab.machines import LabError, Place

# Every statement of the load carries its own number, so that none can stand in for another.
_TAG: Final = re.compile(r"tag_[0-9]+_[0-9]+")
_CLIENTS: Final = 8
# Between two kills, so that each one meets statements under way and not only clients that are connecting.
_PAUSE_SECONDS: Final = (0.15, 0.6)
_WORKER_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of it. `missing` are tags that the target logged more often than they were recorded."""

    kills: int
    answered: int
    logged: int
    recorded: int
    missing: tuple[str, ...]


def load(clients: int, until: Path) -> int:
    """Run in the executor's machine: statements from many clients, connecting again whenever a connection dies, until the
    file `until` exists. Answers how many were answered."""
    answered = [0] * clients

    def work(client: int) -> None:
        number = 0
        while not until.exists():
            try:
                with psycopg.connect(autocommit=True, connect_timeout=10) as connection:
                    while not until.exists():
                        number += 1
                        tag = f"tag_{client}_{number}"
                        # Turn about: the simple protocol, the extended one, and a write.
                        if number % 3 == 0:
                            connection.execute(f"select count(*) as {tag} from orders where id < %s", (number % 600,))
                        elif number % 3 == 1:
                            connection.execute(f"select id as {tag} from orders where id = {number % 600}")
                        else:
                            connection.execute(f"update orders set note = '{tag}' where id = {number % 600}")
                        answered[client] += 1
            except psycopg.OperationalError:
                continue

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered)


def workers_of(supervisor: int) -> list[int]:
    """The process ids of a supervisor's workers."""
    found = []
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    for child in children:
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"worker" in words:
            found.append(int(child))
    return found


def recorded_tags(exported: Iterable[str]) -> Counter[str]:
    """How often each tag stands in the exported records of commands that were let through."""
    found: Counter[str] = Counter()
    for line in exported:
        record: dict[str, Any] = json.loads(line)
        if record.get("kind", record.get("type")) == "command" and record.get("outcome") == "forward":
            found.update(set(_TAG.findall(record["shown"])))
    return found


def logged_tags(entries: Iterable[dict[str, Any]]) -> Counter[str]:
    """How often each tag stands among the statements that the target says it ran."""
    found: Counter[str] = Counter()
    for entry in entries:
        message = str(entry.get("message", ""))
        if message.startswith(("statement: ", "execute ")):
            found.update(set(_TAG.findall(message)))
    return found


def missing_tags(logged: Counter[str], recorded: Counter[str]) -> tuple[str, ...]:
    """Tags that ran more often than they were recorded."""
    return tuple(sorted(tag for tag, count in logged.items() if recorded[tag] < count))


def run(lab: Lab, kills: int, statements: int) -> tuple[Tally, Counter[str], Counter[str]]:
    """Kill and compare in a lab whose appliance is up. Ends after `kills` kills and at least `statements` statements."""
    until = lab.folder / "homes" / "executor" / "enough"
    words = [sys.executable, "-m", "lab.killings", "--load", str(until)]
    client = lab.start_in(Place.EXECUTOR, words, "executor", environment={"PYTHONPATH": str(REPOSITORY)})
    done = 0
    try:
        for done in range(1, kills + 1):
            time.sleep(random.uniform(*_PAUSE_SECONDS))
            os.kill(_a_worker(lab), signal.SIGKILL)
            if done % 10 == 0:
                print(
                    f"killed {done} of {kills}; {sum(logged_tags(lab.logged()).values())} statements at the target",
                    flush=True,
                )
        while sum(logged_tags(lab.logged()).values()) < statements:
            if client.poll() is not None:
                raise LabError(f"the load ended by itself: {client.communicate()[1][-500:]}")
            time.sleep(0.5)
    finally:
        until.touch()
    out, error = client.communicate(timeout=60)
    if client.returncode:
        raise LabError(f"the load failed: {error[-500:]}")
    logged = logged_tags(lab.logged())
    recorded = recorded_tags(_export(lab))
    return (
        Tally(done, int(out), sum(logged.values()), sum(recorded.values()), missing_tags(logged, recorded)),
        logged,
        recorded,
    )


def _a_worker(lab: Lab) -> int:
    deadline = time.monotonic() + _WORKER_SECONDS
    while time.monotonic() < deadline:
        found = workers_of(lab.appliance.pid)
        if found:
            return random.choice(found)
        time.sleep(0.05)
    raise LabError("there is no worker to kill: the supervisor starts none")


def _export(lab: Lab) -> Iterator[str]:
    done = lab.run_sluicegate("export", "--all", seconds=300)
    if done.returncode:
        raise LabError(f"sluicegate export: {done.stderr.strip()}")
    return iter(done.stdout.splitlines())


def main() -> int:
    """The command line; 0 where nothing is missing and the check itself was seen to fail on a record taken away."""
    parser = argparse.ArgumentParser(prog="./run kills", description="Kill workers under load; compare log and recording.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--statements", type=int, default=10_000)
    parser.add_argument("--load", metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        print(load(_CLIENTS, Path(arguments.load)))
        return 0
    with Lab("kills") as lab:
        lab.configure(Path(REPOSITORY) / "policies" / "example")
        lab.start_appliance()
        tally, logged, recorded = run(lab, arguments.kills, arguments.statements)
    # The check must be able to fail: without the record of one logged statement it has to name exactly that one.
    victim = next(iter(logged))
    fewer = recorded.copy()
    del fewer[victim]
    seen = missing_tags(logged, fewer)
    print(
        f"{tally.kills} kills, {tally.answered} answered, {tally.logged} statements at the target, "
        f"{tally.recorded} recorded, {len(tally.missing)} missing {list(tally.missing[:5])}"
    )
    print(f"with one record taken away the check names {list(seen)}")
    return 0 if not tally.missing and seen == (victim,) and tally.logged >= arguments.statements else 1


if __name__ == "__main__":
    sys.exit(main())
