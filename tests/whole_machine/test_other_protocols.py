"""Other protocols than PostgreSQL through the whole product: a real Redis, and a made-up protocol with two streams."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyroute2 import netns

from appliance.protocols.redis.commands import known_key_positions
from lab.laboratory import REPOSITORY, Lab
from lab.machines import EXECUTOR, TARGET, Place, namespace
from lab.redis_bypasses import attack
from lab.redis_server import PORT, RedisServer, cache_resource
from tests.two_streams.inspector import frame

pytestmark = pytest.mark.real

ECHO_PORT = 7007
CASES = [json.loads(line) for line in (REPOSITORY / "tests/bypasses/redis.jsonl").read_text().splitlines()]
SECONDS = 20.0

TWO_STREAMS_POLICY = """
rules:
  - {id: streams, reason: a made-up protocol, where: {protocols: [two-streams]}, allow: [{actions: [connect, read]}]}
  - {id: erasing, reason: a person looks first, where: {protocols: [two-streams]}, hold: [{actions: [delete]}]}
"""


class Machine:
    """The lab with both targets and an appliance that knows both protocols."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.redis = RedisServer(lab)
        self.redis.start()
        self.echo = lab.start_in(
            Place.TARGET,
            [sys.executable, "-m", "tests.two_streams.echo", TARGET.ipv4, str(ECHO_PORT)],
            "executor",
            environment={"PYTHONPATH": str(REPOSITORY)},
        )
        assert self.echo.stdout is not None
        assert self.echo.stdout.readline() == "ready\n"
        policies = lab.appliance_folder / "policies"
        policies.mkdir(mode=0o755)
        shutil.copy(REPOSITORY / "policies" / "example" / "redis.yaml", policies)
        (policies / "streams.yaml").write_text(TWO_STREAMS_POLICY)
        lab.configure(
            workers=1,
            resources={
                **lab.shop_resource(),
                **cache_resource(),
                "streams": {"protocol": "two-streams", "addresses": [f"{TARGET.ipv4}:{ECHO_PORT}"]},
            },
            policies=policies,
        )
        lab.start_appliance(module="tests.two_streams")

    def cli(self, *lines: str, as_: str = "executor") -> list[str]:
        """What redis-cli in the executor's machine prints for commands on one connection."""
        done = self.lab.run_in(
            Place.EXECUTOR,
            ["redis-cli", "-h", TARGET.ipv4, "-p", str(PORT)],
            as_,
            text="".join(f"{line}\n" for line in lines),
        )
        return done.stdout.splitlines()

    def held(self, *lines: str, answer: Callable[[dict[str, Any]], list[str]]) -> tuple[list[str], dict[str, Any]]:
        """The same where one of the commands is held and `answer` gives the words of the command line that ends it."""
        process = self.lab.start_in(Place.EXECUTOR, ["redis-cli", "-h", TARGET.ipv4, "-p", str(PORT)], "executor")
        assert process.stdin is not None
        process.stdin.write("".join(f"{line}\n" for line in lines))
        process.stdin.flush()
        request = self.asked()
        self.sluicegate(*answer(request))
        said, _ = process.communicate(timeout=SECONDS)
        return said.splitlines(), request

    def asked(self) -> dict[str, Any]:
        """What waits at the desk; there is one."""
        deadline = time.monotonic() + SECONDS
        while not (found := json.loads(self.sluicegate("approvals", "list", "--json"))):
            assert time.monotonic() < deadline, "nothing was held"
        assert len(found) == 1
        return dict(found[0])

    def connect(self, port: int) -> socket.socket:
        """A connection out of the executor's machine, as any client there would make it."""
        netns.pushns(namespace(self.lab.name, Place.EXECUTOR))
        try:
            return socket.create_connection((TARGET.ipv4, port), SECONDS, (EXECUTOR.ipv4, 0))
        finally:
            netns.popns()

    def sluicegate(self, *words: str) -> str:
        done = self.lab.run_sluicegate(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def newest_flow(self, resource: str) -> str:
        """The whole recording of the last flow to a resource, as JSON lines."""
        listed = [json.loads(line) for line in self.sluicegate("flows", "--resource", resource, "--json").splitlines()]
        newest = max(listed, key=lambda flow: str(flow.get("started", flow)))
        return str(newest["flow"])


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Lab(f"other-{secrets.token_hex(4)}") as lab:
        yield Machine(lab)


@pytest.fixture(autouse=True)
def clean(machine: Machine) -> None:
    machine.redis.run("FLUSHALL")
    machine.redis.run("CONFIG", "RESETSTAT")


def test_set_and_get_pass_and_users_are_masked(machine: Machine) -> None:
    assert machine.cli("SET page:1 hello", "SET user:1 alice", "GET page:1", "GET user:1", "GET user:2") == [
        "OK",
        "OK",
        "hello",
        "****",
        "",
    ]
    assert machine.redis.run("GET", "user:1") == "alice"


def test_what_is_refused_says_so_and_the_connection_goes_on(machine: Machine) -> None:
    machine.redis.run("SET", "a", "1")
    said = machine.cli("FLUSHALL", "CONFIG GET *", "eval 'return 1' 0", "GETRANGE user:1 0 1", "RENAME a b", "GET a")
    said = [line for line in said if line]
    assert len(said) == 6
    assert all("NOPERM refused" in line for line in said[:5])
    assert "redis-administration" in said[0]
    assert "ask the owner of the server" in said[0]
    assert said[5] == "1"
    assert "NOPERM" in machine.cli("SET a 2", as_="planner")[0]
    assert machine.redis.run("GET", "a") == "1"


def test_a_transaction_with_a_refused_command_does_nothing(machine: Machine) -> None:
    said = machine.cli("MULTI", "SET a 1", "FLUSHALL", "EXEC", "GET a")
    assert any("EXECABORT" in line for line in said)
    assert machine.redis.run("EXISTS", "a") == "0"


def test_a_transaction_is_masked_whatever_the_client_tries(machine: Machine) -> None:
    machine.redis.run("SET", "user:1", "alice")
    said = machine.cli(
        "MULTI", "GET user:1", "MULTI", "EXEC", "MULTI x", "GET user:1", "MULTI", "GET user:1", "EXEC y", "EXEC"
    )
    assert "alice" not in "\n".join(said)


def test_a_held_del_is_shown_approved_and_done_once(machine: Machine) -> None:
    machine.redis.run("MSET", "a", "1", "b", "2")
    said, request = machine.held("DEL a", "GET b", answer=lambda found: ["approvals", "approve", found["id"]])
    assert (request["shown"], request["resource"], request["rule"].split()[0]) == (
        "DEL a",
        "cache",
        "redis-delete-needs-approval",
    )
    assert said == ["1", "2"]
    assert machine.redis.run("DBSIZE") == "1"
    assert "cmdstat_del:calls=1," in machine.redis.run("INFO", "commandstats")


def test_a_held_del_runs_as_a_person_edits_it(machine: Machine) -> None:
    machine.redis.run("MSET", "a", "1", "b", "2")
    said, _ = machine.held("DEL a b", answer=lambda found: ["approvals", "edit", found["id"], "--text", "DEL b"])
    assert said == ["1"]
    assert machine.redis.run("KEYS", "*") == "a"


def test_a_rejected_del_says_why(machine: Machine) -> None:
    machine.redis.run("SET", "a", "1")
    said, _ = machine.held(
        "DEL a", "GET a", answer=lambda found: ["approvals", "reject", found["id"], "--reason", "not on a Friday"]
    )
    assert "not on a Friday" in said[0]
    assert said[-1] == "1"


def test_the_recording_shows_and_proves_what_happened(machine: Machine) -> None:
    machine.cli("SET user:1 alice", "GET user:1", "FLUSHALL")
    flow = machine.newest_flow("cache")
    told = machine.sluicegate("replay", flow)
    assert "GET user:1" in told
    assert "****" in told
    assert "redis-administration" in told
    assert "alice" not in told
    machine.sluicegate("verify")


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_a_way_round_stays_closed(machine: Machine, case: dict[str, Any]) -> None:
    seen = attack(machine.redis, lambda: machine.connect(PORT), case)
    assert seen.outcome in case["accept"], seen.notes
    assert not seen.has_harm
    assert not seen.leaks


def test_one_stream_is_held_while_the_other_goes_on(machine: Machine) -> None:
    with machine.connect(ECHO_PORT) as client:
        client.sendall(frame(1, "erase it") + frame(1, "after") + frame(2, "look"))
        assert _frame(client) == (2, "did look")
        request = machine.asked()
        assert (request["shown"], request["resource"]) == ("erase it", "streams")
        client.sendall(frame(2, "again"))
        assert _frame(client) == (2, "did again")
        machine.sluicegate("approvals", "approve", request["id"])
        assert [_frame(client), _frame(client)] == [(1, "did erase it"), (1, "did after")]
        client.sendall(frame(1, "erase all"))
        machine.sluicegate("approvals", "edit", machine.asked()["id"], "--text", "erase one")
        assert _frame(client) == (1, "did erase one")
    assert machine.echo.stdout is not None
    got = [machine.echo.stdout.readline().strip() for _ in range(5)]
    assert got == ["got look", "got again", "got erase it", "got after", "got erase one"]
    told = machine.sluicegate("replay", machine.newest_flow("streams"))
    assert "erase all" in told
    assert "erase one" in told
    machine.sluicegate("verify")


def _frame(client: socket.socket) -> tuple[int, str]:
    stream, size = client.recv(2, socket.MSG_WAITALL)
    return stream, client.recv(size, socket.MSG_WAITALL).decode()


def test_nothing_of_it_is_a_fault(machine: Machine) -> None:
    assert "Traceback" not in machine.lab.appliance_log.read_text()
    assert isinstance(machine.lab.appliance, subprocess.Popen)
    assert machine.lab.appliance.poll() is None


def test_keys_stand_where_the_server_says_they_do(machine: Machine) -> None:
    """One command missing its second key would let that key past every rule."""
    known = known_key_positions()
    wrong = {}
    for name, positions in known.items():
        told = machine.redis.run("COMMAND", "INFO", name).splitlines()
        found = tuple(int(line) for line in told if re.fullmatch(r"-?\d+", line))[1:4]
        if found != positions:
            wrong[name] = (positions, found)
    assert wrong == {}
