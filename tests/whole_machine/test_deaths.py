"""Processes that die, rules that vanish, policies that break: nothing passes by, and what can go on does."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from lab import killings
from lab.machines import EXECUTOR, TARGET, Place
from tests.kernel.frames import Ear
from tests.whole_machine.scene import POLICY, Scene, play, until

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    with play(f"test-{secrets.token_hex(4)}") as scene:
        yield scene


@pytest.fixture
def scene(stage: Scene) -> Iterator[Scene]:
    if stage.lab.appliance.poll() is not None:
        stage.lab.start_appliance()
    until(stage.serves)
    stage.refill()
    yield stage
    stage.leave()


def rules(scene: Scene) -> str:
    done = scene.lab.run_in(Place.APPLIANCE, ["nft", "list", "ruleset"])
    assert done.returncode == 0, done.stderr
    return done.stdout


def nothing_passes(scene: Scene) -> None:
    """Executors are refused within a second, and the target hears nothing of them, by any address."""
    connected = "select count(*) from pg_stat_activity where client_addr is not null"
    until(lambda: scene.lab.admin(connected) == [(0,)])
    ear = Ear(scene)
    before = len(list(scene.lab.logged()))
    for address in TARGET:
        for _ in range(5):
            assert scene.seconds_to_refusal(address) < 1
    began = time.monotonic()
    done = scene.lab.psql("select 1")
    assert time.monotonic() - began < 1
    assert done.returncode == 2
    assert "Connection refused" in done.stderr
    heard = ear.heard()
    ear.close()
    # The mark of Ear is the one datagram; a connection, refused or not, would be TCP to the server's port.
    assert socket.inet_aton(EXECUTOR.ipv4) + socket.inet_aton(TARGET.ipv4) not in heard
    pair = socket.inet_pton(socket.AF_INET6, EXECUTOR.ipv6) + socket.inet_pton(socket.AF_INET6, TARGET.ipv6)
    assert pair not in heard
    assert [entry for entry in list(scene.lab.logged())[before:] if entry.get("remote_host") not in (None, "[local]")] == []


def test_when_a_worker_is_killed_its_flows_break_and_all_others_go_on(scene: Scene) -> None:
    clients = scene.clients_on_both()
    processes = scene.workers()
    held = clients[0][0]
    held.begin("delete from staging where id = 7")
    case = scene.held("delete from staging")
    os.kill(processes[0], signal.SIGKILL)
    # What reaches its listener while it is still dying is reset; from here on the other has them all.
    until(lambda: not os.path.exists(f"/proc/{processes[0]}"), 1)
    began = time.monotonic()
    for _ in range(10):
        assert scene.client().run("select 1") == [(1,)]
    assert time.monotonic() - began < 5
    assert isinstance(held.outcome(1), psycopg.OperationalError)
    for client in clients[0][1:]:
        with pytest.raises(psycopg.OperationalError):
            client.run("select 1")
    for client in clients[1]:
        assert client.run("select 1") == [(1,)]
    until(lambda: scene.show(case["id"])["outcome"] == "withdrawn")
    assert scene.staged() == 20
    until(scene.serves)
    assert scene.workers()[0] != processes[0]
    assert scene.workers()[1] == processes[1]


def test_stopped_workers_pass_nothing(scene: Scene) -> None:
    client = scene.client()
    mark = f"mark_{secrets.token_hex(4)}"
    stopped = scene.children("worker")
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    try:
        client.begin(f"select 1 as {mark}")
        done = scene.lab.run_in(
            Place.EXECUTOR, ["psql", "-c", f"select 2 as {mark}"], "executor", environment={"PGCONNECT_TIMEOUT": "2"}
        )
        assert done.returncode == 2
        assert client.is_waiting
        assert scene.logged(mark) == []
    finally:
        for process in stopped:
            os.kill(process, signal.SIGCONT)
    assert client.outcome() == "SELECT 1"


def test_all_workers_killed_are_back_soon_and_meanwhile_nobody_hangs(scene: Scene) -> None:
    client = scene.client()
    for process in scene.children("worker"):
        os.kill(process, signal.SIGKILL)
    with pytest.raises(psycopg.OperationalError):
        client.run("select 1")

    def is_served() -> bool:
        began = time.monotonic()
        found = scene.is_served()
        assert found or time.monotonic() - began < 1
        return found

    until(is_served)


def test_a_killed_supervisor_takes_all_along_and_nothing_passes(scene: Scene) -> None:
    client = scene.client(autocommit=False)
    client.run("update staging set v = 'changed' where id = 1")
    children = [*scene.children("worker"), *scene.children("control")]
    assert len(children) == 3
    scene.lab.appliance.kill()
    scene.lab.appliance.wait()
    until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children))
    with pytest.raises(psycopg.OperationalError):
        client.run("select 1")
    nothing_passes(scene)
    assert scene.lab.admin("select v from staging where id = 1") == [("v1",)]


def test_an_orderly_end_leaves_the_rules_and_nothing_passes(scene: Scene) -> None:
    client = scene.client()
    before = rules(scene)
    assert "table inet sluicegate" in before
    scene.lab.appliance.terminate()
    assert scene.lab.appliance.wait(15) == 0
    with pytest.raises(psycopg.OperationalError):
        client.run("select 1")
    assert "table inet sluicegate" in rules(scene)
    nothing_passes(scene)


def test_without_control_flows_go_on_and_new_ones_are_refused_until_it_is_back(scene: Scene) -> None:
    client = scene.client()
    client.run("select count(*) from staging")
    (control,) = scene.children("control")
    os.kill(control, signal.SIGKILL)
    # It takes half a second at least to start again.
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError) as refused:
        scene.client()
    assert time.monotonic() - began < 2
    assert "FATAL" in str(refused.value)
    assert "the control process does not answer" in str(refused.value)
    assert client.run("select count(*) from staging") == [(20,)]
    assert client.run("select count(*) from staging where id < %s", (5,)) == [(4,)]
    assert scene.workers() == {}, "control was back before this was over"
    until(scene.serves)
    until(scene.is_served)
    assert client.run("select 1") == [(1,)]


def test_a_changed_policy_reaches_running_sessions_and_a_broken_one_does_not(scene: Scene) -> None:
    client = scene.client()
    file = scene.policies / "shop.yaml"
    assert client.run("select count(*) from audit_log") == [(5,)]
    changed = POLICY.replace("objects: [public.payroll]", "objects: [public.payroll, public.audit_log]")
    try:
        file.write_text(changed)

        def is_refused() -> bool:
            try:
                client.run("select count(*) from audit_log")
            except InsufficientPrivilege:
                return True
            return False

        until(is_refused)
        version = scene.ask("status")["policy"]["version"]
        file.write_text(changed + "  - id: broken\n    allowed: everything\n")
        fault = until(lambda: scene.ask("status")["policy"]["fault"])
        assert "shop.yaml" in fault
        assert "allowed" in fault
        assert scene.ask("status")["policy"]["version"] == version
        assert "policy unfit, the old one stays in force" in scene.log()
        shown = scene.lab.run_sluicegate("status")
        assert "allowed" in shown.stdout + shown.stderr
        assert is_refused()
        assert scene.client().run("select 1") == [(1,)]
    finally:
        file.write_text(POLICY)
    until(lambda: not scene.ask("status")["policy"]["fault"])
    assert client.run("select count(*) from audit_log") == [(5,)]


@pytest.mark.parametrize(
    "harm",
    [
        "nft flush ruleset",
        "nft flush chain inet sluicegate caught",
        "ip rule del priority 100",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
    ],
)
def test_what_is_undone_of_the_catching_is_put_back_and_nothing_passes_meanwhile(scene: Scene, harm: str) -> None:
    client = scene.client()
    before = rules(scene)
    told = scene.log().count("catching was undone and is put back")
    ear = Ear(scene)
    done = scene.lab.run_in(Place.APPLIANCE, ["sh", "-c", harm])
    assert done.returncode == 0, done.stderr
    began = time.monotonic()

    def is_put_back() -> bool:
        with scene.socket(Place.EXECUTOR, socket.AF_INET) as one:
            one.settimeout(0.1)
            one.connect_ex((TARGET.ipv4, 9))
        return scene.log().count("catching was undone and is put back") > told

    until(is_put_back, 5)
    assert time.monotonic() - began < 3
    heard = ear.heard()
    ear.close()
    assert socket.inet_aton(EXECUTOR.ipv4) + socket.inet_aton(TARGET.ipv4) not in heard
    assert stateless(rules(scene)) == stateless(before)
    assert client.run("select 1") == [(1,)]
    assert scene.client().run("select 1") == [(1,)]


def stateless(listing: str) -> str:
    """A listing of rules without what their counters say."""
    return " ".join(word for word in listing.split() if not word.isdecimal())


def test_what_a_killed_worker_let_through_is_recorded(scene: Scene) -> None:
    tally = killings.run(scene.lab, 5, 500)
    assert tally.kills == 5
    assert tally.broken >= 5
    assert tally.logged >= 500
    assert tally.missing == ()
    assert tally.tried == 20
    assert tally.unnoticed == ()
