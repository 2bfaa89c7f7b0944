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
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from appliance.control.blast import APPLICATION_NAME
from lab.laboratory import REPOSITORY, Lab
from lab.machines import LabError, Place
from ui.conversation import NoAnswer, ask_control

# Every statement of the load carries its own number, so that none can stand in for another.
_TAG: Final = re.compile(r"tag_[0-9]+_[0-9]+")
_CLIENTS: Final = 8
# What lets a statement run; a Parse alone runs nothing, so its record must not stand in for one that is missing.
_RUNNING: Final = frozenset({"Query", "Bind"})
# Before each kill, so that it meets statements at any stage.
_PAUSE_SECONDS: Final = (0.15, 0.6)
# How soon a client must see its statement break for the kill to count as one in mid-statement.
_BREAK_SECONDS: Final = 2.0
_WORKER_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of it. `kills` met at least one statement under way, `idle` none; `broken` are statements that died
    with their worker. `missing` are tags that the target logged more often than they were recorded; `unnoticed` are those
    whose record was taken away for a try without the check naming them."""

    kills: int
    idle: int
    answered: int
    broken: int
    logged: int
    recorded: int
    missing: tuple[str, ...]
    tried: int
    unnoticed: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.kills} kills in mid-statement ({self.idle} more met none), {self.broken} statements broken, "
            f"{self.answered} answered, {self.logged} at the target, {self.recorded} recorded, "
            f"{len(self.missing)} missing{' ' + ' '.join(self.missing[:5]) if self.missing else ''}; "
            f"one record taken away was noticed {self.tried - len(self.unnoticed)} of {self.tried} times"
        )


def load(clients: int, until: Path) -> int:
    """Run in the executor's machine: statements from many clients, connecting again whenever a connection dies, until the
    file `until` exists. Answers how many were answered; each that broke adds a byte to the file beside it."""
    answered = [0] * clients
    broken = os.open(_broken(until), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    faults: list[psycopg.Error] = []

    def work(client: int) -> None:
        number = 0
        while not until.exists():
            try:
                connection = psycopg.connect(autocommit=True, connect_timeout=10)
            except psycopg.OperationalError:
                continue  # its worker died while it logged in
            try:
                with connection:
                    while not until.exists():
                        number += 1
                        _one_statement(connection, f"tag_{client}_{number}", number)
                        answered[client] += 1
            except psycopg.OperationalError:
                os.write(broken, b".")
            except psycopg.Error as error:
                faults.append(error)
                return

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return sum(answered)


def _one_statement(connection: psycopg.Connection[Any], tag: str, number: int) -> None:
    # Turn about: the simple protocol, the extended one, and a write.
    if number % 3 == 0:
        connection.execute(f"select count(*) as {tag} from orders where id < %s", (number % 600,))
    elif number % 3 == 1:
        connection.execute(f"select id as {tag} from orders where id = {number % 600}")
    else:
        connection.execute(f"update orders set note = '{tag}' where id = {number % 600}")


def _broken(until: Path) -> Path:
    return until.with_name("broken")


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


def recorded_tags(exported: Iterable[str]) -> list[str]:
    """The tag of each exported record of a command that was let through to run."""
    found: list[str] = []
    for line in exported:
        record: dict[str, Any] = json.loads(line)
        if record.get("type") == "command" and record["outcome"] == "forward" and record["sort"] in _RUNNING:
            found += set(_TAG.findall(record["shown"]))
    return found


def logged_tags(entries: Iterable[dict[str, Any]]) -> Counter[str]:
    """How often each tag stands among the statements that the target says it ran, save for questions about a held one."""
    found: Counter[str] = Counter()
    for entry in entries:
        message = str(entry.get("message", ""))
        if entry.get("application_name") == APPLICATION_NAME:
            continue
        if message.startswith(("statement: ", "execute ")):
            found.update(set(_TAG.findall(message)))
    return found


def missing_tags(logged: Counter[str], recorded: Counter[str]) -> tuple[str, ...]:
    """Tags that ran more often than they were recorded."""
    return tuple(sorted(tag for tag, count in logged.items() if recorded[tag] < count))


def unnoticed_tags(logged: Counter[str], recorded: list[str], tries: int) -> tuple[str, ...]:
    """Take one record of a logged statement away, `tries` times another: the tags whose absence the check does not name."""
    unnoticed = []
    for tag in random.sample(sorted(logged), min(tries, len(logged))):
        fewer = list(recorded)
        fewer.remove(tag)
        if missing_tags(logged, Counter(fewer)) != (tag,):
            unnoticed.append(tag)
    return tuple(unnoticed)


def run(lab: Lab, kills: int, statements: int) -> Tally:
    """Kill and compare in a lab whose appliance is up. Ends after `kills` kills in mid-statement and at least `statements`
    statements. The recording is exported after the last worker has come back."""
    until = lab.folder / "homes" / "executor" / "enough"
    words = [sys.executable, "-m", "lab.killings", "--load", str(until)]
    client = lab.start_in(Place.EXECUTOR, words, "executor", environment={"PYTHONPATH": str(REPOSITORY)})
    done = idle = 0
    try:
        while done < kills:
            if client.poll() is not None:
                raise LabError(f"the load ended by itself: {client.communicate()[1][-500:]}")
            busy = _a_busy_worker(lab)
            time.sleep(random.uniform(*_PAUSE_SECONDS))
            if _kill(busy, _broken(until)):
                done += 1
            else:
                idle += 1
            if done % 10 == 0:
                print(f"killed {done} of {kills}; {_logged(lab)} statements at the target", flush=True)
        while _logged(lab) < statements and client.poll() is None:
            time.sleep(0.5)
    finally:
        until.touch()
    out, error = client.communicate(timeout=60)
    if client.returncode:
        raise LabError(f"the load failed: {error[-500:]}")
    logged = logged_tags(lab.logged())
    recorded = recorded_tags(_export(lab))
    missing = missing_tags(logged, Counter(recorded))
    tries = 0 if missing else min(20, len(logged))
    return Tally(
        kills=done,
        idle=idle,
        answered=int(out),
        broken=_size(_broken(until)),
        logged=sum(logged.values()),
        recorded=len(recorded),
        missing=missing,
        tried=tries,
        unnoticed=unnoticed_tags(logged, recorded, tries),
    )


def _kill(worker: int, broken: Path) -> bool:
    """Whether a client's statement broke with it. The clients of earlier kills have seen theirs break by now."""
    before = _size(broken)
    os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + _BREAK_SECONDS
    while time.monotonic() < deadline:
        if _size(broken) > before:
            return True
        time.sleep(0.01)
    return False


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _logged(lab: Lab) -> int:
    return sum(logged_tags(lab.logged()).values())


def _a_busy_worker(lab: Lab) -> int:
    """One that carries flows, by what control knows of it."""
    deadline = time.monotonic() + _WORKER_SECONDS
    while time.monotonic() < deadline:
        try:
            known = ask_control(str(lab.appliance_folder / "run"), "status")["workers"]
        except NoAnswer:
            known = []
        alive = set(workers_of(lab.appliance.pid))
        busy = [worker["process"] for worker in known if worker["flows"] and worker["process"] in alive]
        if busy:
            return int(random.choice(busy))
        time.sleep(0.05)
    raise LabError("no worker carries flows: the supervisor starts none, or no client gets through")


def _export(lab: Lab) -> list[str]:
    done = lab.run_sluicegate("export", "--all", seconds=300)
    if done.returncode:
        raise LabError(f"sluicegate export: {done.stderr.strip()}")
    return done.stdout.splitlines()


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
    with Lab(os.environ.get("SLUICEGATE_LAB", "kills")) as lab:
        lab.configure(Path(REPOSITORY) / "policies" / "example")
        lab.start_appliance()
        tally = run(lab, arguments.kills, arguments.statements)
    print(tally)
    return 0 if not tally.missing and not tally.unnoticed and tally.tried and tally.logged >= arguments.statements else 1


if __name__ == "__main__":
    sys.exit(main())
