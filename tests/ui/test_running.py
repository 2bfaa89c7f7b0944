"""The command line against an appliance that runs: what it lists, completes, watches, and what never reaches a terminal."""

from __future__ import annotations

import json
import os
import pty
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.laboratory import REPOSITORY
from lab.machines import Place
from tests.whole_machine.scene import Scene, play, until

pytestmark = pytest.mark.real
EVIL = "/* \x1b]0;owned\x07\x1b[2J \u202eexe.gnp */"
APPROVER_UID = 61022


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with play(f"ui-{secrets.token_hex(4)}", dashboard={"listen": "127.0.0.1:8443"}) as one:
        yield one


@pytest.fixture(autouse=True)
def fresh(scene: Scene) -> Iterator[None]:
    scene.refill()
    yield
    for case in scene.ask("approvals.list")["approvals"]:
        scene.answer("reject", case, reason="the test is over")
    scene.leave()


def sluicegate(scene: Scene, *words: str, code: int = 0) -> str:
    done = scene.lab.run_sluicegate(*words)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def data(scene: Scene, *words: str) -> Any:
    return json.loads(sluicegate(scene, *words, "--json"))


def lines(scene: Scene, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sluicegate(scene, *words, "--json").splitlines()]


@contextmanager
def started(scene: Scene, *words: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs on; it is ended with the block."""
    paths = {"PYTHONPATH": str(REPOSITORY), "SLUICEGATE_CONFIGURATION": str(scene.lab.configuration), "TERM": "xterm"}
    command = scene.lab.command(Place.APPLIANCE, [sys.executable, "-m", "appliance", *words])
    with subprocess.Popen(command, env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **paths}, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[bytes], words: bytes) -> bytes:
    """The next line with these words."""
    assert process.stdout is not None
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and select.select([process.stdout], [], [], 30)[0]:
        line = process.stdout.readline()
        assert line, "it ended"
        if words in line:
            return line
    raise AssertionError(f"no line with {words!r}")


def test_flows_are_listed_by_what_became_of_them(scene: Scene) -> None:
    client = scene.client()
    client.begin("select * from payroll")
    client.outcome()
    other = scene.client()
    other.run("select 1")
    live = lines(scene, "flows", "--live")
    assert len(live) == 2
    assert {flow["principal"] for flow in live} == {"shop-bot/execute"}
    scene.leave()
    until(lambda: not lines(scene, "flows", "--live"))
    refused = until(lambda: [one for one in lines(scene, "flows", "--denied", "--since", "1m") if one["ended"]])
    assert all(one["denied"] for one in refused)
    flow = refused[0]["flow"]
    assert flow in sluicegate(scene, "flows", "--denied")
    assert flow not in sluicegate(scene, "flows", "--held")
    assert lines(scene, "flows", "--since", "2100-01-01") == []
    assert "payroll is nobody's business" in sluicegate(scene, "replay", flow)


def test_files_and_control_tell_the_same_of_a_flow(scene: Scene) -> None:
    scene.client().run("select 1")
    scene.leave()

    def both() -> bool:
        sluicegate(scene, "drain")
        asked = {one["flow"]: one for one in lines(scene, "flows")}
        read = {one["flow"]: one for one in lines(scene, "flows", "--state", str(scene.lab.appliance_folder / "state"))}
        if asked.keys() != read.keys() or not all(one["ended"] for one in asked.values()):
            return False
        for flow, one in read.items():
            for name in (
                "principal",
                "agent",
                "phase",
                "resource",
                "source",
                "started",
                "ended",
                "commands",
                "denied",
                "held",
            ):
                assert asked[flow][name] == one[name], name
        return True

    until(both)


def test_an_approver_who_is_not_root_sees_flows_without_the_files(scene: Scene) -> None:
    scene.client().run("select 1")
    user = ["setpriv", f"--reuid={APPROVER_UID}", f"--regid={APPROVER_UID}", "--clear-groups", "--"]
    paths = {"PYTHONPATH": str(REPOSITORY), "SLUICEGATE_CONFIGURATION": str(scene.lab.configuration)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return scene.lab.run_in(Place.APPLIANCE, [*user, sys.executable, "-m", "appliance", *words], environment=paths)

    for words in (
        ("flows",),
        ("flows", "--live"),
        ("status",),
        ("approvals", "list"),
        ("agents", "list"),
        ("policy", "show"),
    ):
        done = run(*words)
        assert done.returncode == 0, (words, done.stderr)
    for words in (("people", "list"), ("dashboard",), ("policy", "reload")):
        assert run(*words).returncode == 1, words


def test_ids_are_completed_as_they_are_now(scene: Scene) -> None:
    client = scene.client()
    client.begin("delete from staging where id = 1")
    case = scene.held("delete from staging")

    def completed(text: str) -> list[str]:
        words = {"COMP_WORDS": text, "COMP_CWORD": str(text.count(" ")), "_SLUICEGATE_COMPLETE": "bash_complete"}
        done = scene.lab.run_in(
            Place.APPLIANCE,
            [sys.executable, "-m", "appliance"],
            environment={"PYTHONPATH": str(REPOSITORY), "SLUICEGATE_CONFIGURATION": str(scene.lab.configuration), **words},
        )
        assert done.stderr == ""
        return [line.partition(",")[2] for line in done.stdout.splitlines() if line]

    # A shell is not kept waiting, so on a busy machine an answer may come too late once.
    assert until(lambda: completed("sluicegate approvals approve ")) == [case["id"]]
    assert case["flow"] in until(lambda: completed("sluicegate replay "))
    assert until(lambda: completed("sluicegate policy show pay")) == ["payroll"]
    assert until(lambda: completed("sluicegate people reset ")) == ["admin"]


def test_people_come_and_go(scene: Scene) -> None:
    made = data(scene, "people", "add", "dana", "--role", "approver", "--group", "dba")
    assert len(made["password"]) >= 12
    assert {one["name"]: one["groups"] for one in data(scene, "people", "list")}["dana"] == ["dba"]
    assert data(scene, "people", "change", "dana", "--role", "viewer", "--no-groups")["role"] == "viewer"
    assert data(scene, "people", "reset", "dana")["password"] != made["password"]
    sluicegate(scene, "people", "remove", "dana")
    assert "dana" not in sluicegate(scene, "people", "list")
    sluicegate(scene, "people", "remove", "dana", code=1)
    sluicegate(scene, "people", "change", "admin", code=2)


def test_a_link_signs_in_once(scene: Scene) -> None:
    link = data(scene, "dashboard")
    assert link["address"] == "https://127.0.0.1:8443/"
    assert link["link"].startswith("https://127.0.0.1:8443/enter?ticket=")
    ticket = link["link"].partition("=")[2]
    assert ticket not in scene.log()
    assert link["link"] not in sluicegate(scene, "dashboard")


def test_what_is_registered_and_in_force_is_shown(scene: Scene) -> None:
    scene.client().begin("select * from payroll")
    assert [one["name"] for one in data(scene, "agents", "list")] == ["shop-bot"]
    assert data(scene, "agents", "show", "shop-bot")["owner"] == "shop@lab.example"
    assert "did you mean shop-bot" in sluicegate(scene, "agents", "show", "shop-bit", code=1)
    assert data(scene, "resources", "show", "shop")["protocol"] == "postgres"
    tried = data(scene, "resources", "test", "shop")
    assert {one["state"] for one in tried} == {"good"}
    until(lambda: data(scene, "policy", "show", "payroll")["hits"] > 0)
    assert "actions: [read, insert, update, delete]" in sluicegate(scene, "policy", "show", "payroll")
    sluicegate(scene, "policy", "show", "no-such-rule", code=1)
    sluicegate(scene, "policy", "check")
    assert "sluicegate_flows_opened_total" in sluicegate(scene, "metrics")


def test_watching_tells_each_thing_once_and_as_it_happens(scene: Scene) -> None:
    client = scene.client()
    with started(scene, "watch", "--json", stdout=subprocess.PIPE, bufsize=0) as process:
        line_of(process, b"flow opened")
        client.begin(f"delete from staging where id = 1 {EVIL}")
        line = line_of(process, b'"approval"')
        assert line.isascii()
        held = json.loads(line)
        assert (held["what"], held["state"]) == ("approval", "open")
        scene.answer("approve", held)
        settled = json.loads(line_of(process, b'"approval"'))
        assert (settled["id"], settled["state"], settled["outcome"]) == (held["id"], "settled", "approved")
        client.outcome()
        scene.leave()
        assert json.loads(line_of(process, b"flow closed"))["flow"] == held["flow"]


def test_watching_waits_for_control_that_goes_away(scene: Scene) -> None:
    scene.client().run("select 1")
    with started(scene, "watch", stdout=subprocess.PIPE, bufsize=0) as process:
        line_of(process, b"opened")
        (control,) = scene.children("control")
        os.kill(control, 9)
        line_of(process, b"ALARM the appliance does not answer")
        line_of(process, b"over: the appliance does not answer")
    until(scene.serves)


def test_the_screen_shows_what_waits_harmlessly_and_q_ends_it(scene: Scene) -> None:
    client = scene.client()
    client.begin(f"delete from staging where id = 1 {EVIL}")
    case = scene.held("delete from staging")
    ours, theirs = pty.openpty()
    with started(scene, "watch", stdin=theirs, stdout=theirs, stderr=theirs) as process:
        shown = b""
        deadline = time.monotonic() + 30
        while case["id"].encode() not in shown or b"Open flows" not in shown:
            assert time.monotonic() < deadline, shown
            if select.select([ours], [], [], 1)[0]:
                shown += os.read(ours, 65536)
        os.write(ours, b"q")
        while process.poll() is None:
            assert time.monotonic() < deadline + 30
            if select.select([ours], [], [], 0.1)[0]:
                shown += os.read(ours, 65536)
    os.close(theirs)
    os.close(ours)
    assert process.returncode == 0
    text = shown.decode(errors="replace")
    assert "\x1b]" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "\\x1b]0;owned\\x07" in text.replace("\r\n", "")
    # The screen of before is back, with its cursor.
    assert text.rstrip().endswith("\x1b[?1049l")
    assert "\x1b[?25h" in text


def test_nothing_an_agent_writes_acts_on_the_operators_terminal(scene: Scene) -> None:
    client = scene.client()
    client.begin(f"delete from staging where id = 1 {EVIL}")
    case = scene.held("delete from staging")
    for words in (
        ("approvals", "list"),
        ("approvals", "show", case["id"]),
        ("approvals", "show", case["id"], "--exact"),
        ("flows", "--live"),
        ("replay", case["flow"]),
        ("export", case["flow"]),
    ):
        told = sluicegate(scene, *words)
        for one in ("\x1b", "\x07", "\u202e"):
            assert one not in told, words


def test_doctor_asks_the_appliance_how_it_is(scene: Scene) -> None:
    done = scene.lab.run_sluicegate("doctor", "--json", "--no-targets")
    found = json.loads(done.stdout)
    told = [one for one in found if one["area"] == "appliance"]
    assert len(told) > 3
    # The scene's approvers are numbers, and its policy has no test cases; nothing is bad of that.
    assert done.returncode == 0, [one for one in found if one["state"] == "bad"]
