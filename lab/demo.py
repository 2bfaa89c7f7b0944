"""The main job from end to end, with real psql: what is expected of the appliance, next to what was seen.

Every outcome is read from what psql printed or from the target itself, never from what the appliance says of itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lab import shift
from lab.laboratory import REPOSITORY, Lab
from lab.machines import TARGET, LabError, Place

# A hold shows within a second; on a slow machine the command line itself takes part of one to start.
_APPROVAL_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One step: what should have happened and what did."""

    title: str
    expected: str
    seen: str
    is_as_expected: bool


class Demo:
    """A planner and an executor at work on the shop, and a person who answers."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.outcomes: list[Outcome] = []

    def play(self) -> None:
        """All steps, in order; the last one kills the appliance."""
        self._masked_read()
        self._planner_write()
        self._dropped_database()
        self._approved_delete()
        self._modified_delete()
        self._rejected_delete()
        self._migration()
        self._protected_table()
        self._other_port()
        self._recording()
        self._killed()

    def _masked_read(self) -> None:
        said = self._psql("select name, email, card_number from customers where id = 7")
        real = self._lab.admin("select name, email, card_number from customers where id = 7")[0]
        is_masked = str(real[0]) in said and str(real[1]) not in said and str(real[2]) not in said
        self._note("a planner reads a customer", "the name in clear, e-mail and card number masked", _last(said), is_masked)

    def _planner_write(self) -> None:
        before = self._one("select status from orders where id = 1")
        said = self._psql("update orders set status = 'lost' where id = 1", as_="planner")
        after = self._one("select status from orders where id = 1")
        self._note("a planner writes", "refused, the order unchanged", _last(said), "refused" in said and before == after)

    def _dropped_database(self) -> None:
        said = self._psql("drop database shop", database="postgres")
        is_there = self._one("select count(*) from pg_database where datname = 'shop'") == 1
        self._note("DROP DATABASE", "refused, the database still there", _last(said), "refused" in said and is_there)

    def _approved_delete(self) -> None:
        said = self._held("delete from staging where id <= 5", lambda request: ["approvals", "approve", request["id"]])
        left = self._one("select count(*) from staging")
        self._note(
            "a DELETE is held, a person approves", "it runs: 45 rows left", f"{_last(said)}; {left} rows left", left == 45
        )

    def _modified_delete(self) -> None:
        said = self._held(
            "delete from staging where id > 5",
            lambda request: ["approvals", "edit", request["id"], "--text", "delete from staging where id = 6"],
        )
        left = self._one("select count(*) from staging")
        self._note(
            "a DELETE is held, a person changes it",
            "the changed one runs, psql is told: 44 rows left",
            f"{_last(said)}; {left} rows left",
            left == 44 and "DELETE 1" in said and "NOTICE" in said,
        )

    def _rejected_delete(self) -> None:
        said = self._held(
            "delete from staging; select 'still here'",
            lambda request: ["approvals", "reject", request["id"], "--reason", "not on a Friday"],
            split=True,
        )
        left = self._one("select count(*) from staging")
        self._note(
            "a DELETE is held, a person rejects it",
            "refused with the reason, the session goes on: 44 rows left",
            f"{_last(said)}; {left} rows left",
            left == 44 and "not on a Friday" in said and "still here" in said,
        )

    def _migration(self) -> None:
        said = self._psql(
            "begin; create table tags (id int primary key, label text); create index on tags (label);"
            " alter table orders add column priority int default 0; insert into tags values (1, 'new'); commit;",
            script=True,
        )
        tags = self._one("select count(*) from pg_tables where tablename = 'tags'")
        self._note(
            "an allowed migration in a transaction",
            "COMMIT, the table is there",
            _last(said),
            "COMMIT" in said and tags == 1,
        )

    def _protected_table(self) -> None:
        said = self._psql("select employee, salary from payroll")
        self._note(
            "reading payroll", "refused, nothing of it received", _last(said), "refused" in said and "Gil" not in said
        )

    def _other_port(self) -> None:
        started = time.monotonic()
        done = self._lab.run_in(
            Place.EXECUTOR, ["psql", "-p", "5433", "-c", "select 1"], "executor", environment={"PGCONNECT_TIMEOUT": "5"}
        )
        took = time.monotonic() - started
        said = done.stdout + done.stderr
        self._note(
            "passing by on another port",
            "refused at once",
            f"{_last(said)} ({took:.1f} s)",
            done.returncode != 0 and took < 3 and ("refused" in said or "reset" in said or "closed" in said),
        )

    def _recording(self) -> None:
        done = self._lab.run_sluicegate("verify", "--json")
        listed = self._lab.run_sluicegate("flows", "--json")
        flows = listed.stdout.splitlines() if listed.returncode == 0 else []
        self._note(
            "the recording",
            "complete and verified, every flow in it",
            f"verify: exit {done.returncode}; {len(flows)} flows",
            done.returncode == 0 and len(flows) >= 9,
        )

    def _killed(self) -> None:
        os.kill(self._lab.appliance.pid, signal.SIGKILL)
        self._lab.appliance.wait()
        started = time.monotonic()
        done = self._lab.run_in(
            Place.EXECUTOR, ["psql", "-c", "select 1"], "executor", environment={"PGCONNECT_TIMEOUT": "10"}
        )
        took = time.monotonic() - started
        self._note(
            "the appliance killed",
            "refused within a second or so, nothing passes",
            f"{_last(done.stdout + done.stderr)} ({took:.1f} s)",
            done.returncode != 0 and took < 3 and "1 row" not in done.stdout,
        )

    def _psql(self, statement: str, *, as_: str = "executor", database: str = "shop", script: bool = False) -> str:
        if script:
            done = self._lab.psql(statement, as_=as_, database=database)
        else:
            done = self._lab.psql("", "-c", statement, as_=as_, database=database)
        return done.stdout + done.stderr

    def _held(self, statement: str, answer: Callable[[dict[str, Any]], list[str]], *, split: bool = False) -> str:
        """Run a statement that is held, answer it as a person would, and say what psql printed."""
        client = self._lab.start_in(Place.EXECUTOR, ["psql", "--no-psqlrc"], "executor")
        assert client.stdin is not None
        lines = statement.split("; ") if split else [statement]
        client.stdin.write(";\n".join(lines) + ";\n")
        client.stdin.close()
        client.stdin = None
        try:
            request = self._wait_for_request()
            done = self._lab.run_sluicegate(*answer(request))
            if done.returncode:
                print(f"         the person's command said: {(done.stdout + done.stderr).strip()}")
            out, error = client.communicate(timeout=30)
        except (LabError, subprocess.TimeoutExpired) as failure:
            client.kill()
            out, error = client.communicate()
            return f"{out}{error}\n{failure}"
        return out + error

    def _wait_for_request(self) -> dict[str, Any]:
        deadline = time.monotonic() + _APPROVAL_SECONDS
        while time.monotonic() < deadline:
            done = self._lab.run_sluicegate("approvals", "list", "--json")
            waiting: list[dict[str, Any]] = json.loads(done.stdout) if done.returncode == 0 else []
            if waiting:
                return waiting[0]
        raise LabError("nothing came to the desk")

    def _one(self, query: str) -> Any:
        return self._lab.admin(query)[0][0]

    def _note(self, title: str, expected: str, seen: str, is_as_expected: bool) -> None:
        outcome = Outcome(title, expected, seen, is_as_expected)
        self.outcomes.append(outcome)
        mark = "ok  " if is_as_expected else "NOT "
        print(f"{mark} {title}\n       expected: {expected}\n       seen:     {seen}", flush=True)


def _last(said: str) -> str:
    """The telling line of what psql printed: its error, else its last line with something in it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for line in lines:
        if line.startswith(("ERROR", "FATAL")) or "error:" in line:
            return line[:160]
    rows = [line for line in lines if "|" in line]
    return (rows[-1] if rows else lines[-1] if lines else "(nothing)")[:160]


def main() -> int:
    """Play it, and leave the lab with agents at work. With CHECK=1 in the environment nothing is left, and the exit code
    says whether all went as expected."""
    parser = argparse.ArgumentParser(
        prog="./run demo",
        description="Play a planner and an executor against a governed shop, then leave it running to be looked at.",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--end", action="store_true", help="leave nothing running afterwards")
    chosen.add_argument("--down", action="store_true", help="end what an earlier demo has left running, and do no more")
    arguments = parser.parse_args()
    is_check = os.environ.get("CHECK") == "1"
    lab = Lab(os.environ.get("SLUICEGATE_LAB", "demo"))
    if arguments.down:
        lab.down()
        return 0
    print("building three machines: an executor, the appliance, and a target with PostgreSQL 15", flush=True)
    lab.up()
    demo = Demo(lab)
    is_left = False
    try:
        with lab.open_dashboard() as listening:
            address = "{}:{}".format(*listening.getsockname())
            lab.configure(Path(REPOSITORY) / "policies" / "example", dashboard={"listen": address})
            print("starting the appliance", flush=True)
            lab.start_appliance(dashboard=listening)
            print(f"the executor's psql goes to {TARGET.ipv4}:5432, as it always did\n", flush=True)
            demo.play()
            good = sum(outcome.is_as_expected for outcome in demo.outcomes)
            print(f"\ndemo: {good} of {len(demo.outcomes)} outcomes as expected", flush=True)
            if not (is_check or arguments.end):
                _leave(lab, listening)
                is_left = True
    finally:
        if not is_left:
            lab.down()
    return 1 if is_check and good < len(demo.outcomes) else 0


def _leave(lab: Lab, dashboard: socket.socket) -> None:
    """Start the killed appliance again, put agents to work, and say where a person can look and answer."""
    lab.start_appliance(dashboard=dashboard)
    shift.begin(lab)
    said = lab.run_sluicegate("dashboard")
    print(
        f"\nThe appliance is up again, and agents are at work: three statements wait for your answer.\n\n"
        f"{(said.stdout or said.stderr).strip()}\n\n"
        f"In a terminal:   ./run lab shell appliance --name {lab.name}    then: sluicegate approvals list\n"
        f'As the agent:    ./run lab shell executor --name {lab.name}     then: psql -c "delete from staging"\n'
        f"It ends by itself in {shift.MINUTES} minutes, or now:   ./run demo --down",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
