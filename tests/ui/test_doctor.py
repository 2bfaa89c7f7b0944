"""The doctor on a real machine: what it finds, what it says to do, and that it leaves everything as it was."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel.trial import try_catching
from lab.laboratory import REPOSITORY, Lab
from lab.machines import PLANNER_UID, TARGET, Place

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(f"doctor-{secrets.token_hex(4)}") as one:
        yield one


@pytest.fixture(autouse=True)
def configured(lab: Lab) -> None:
    lab.configure()
    lab.configuration.chmod(0o644)


def findings(lab: Lab, *words: str, code: int) -> list[dict[str, Any]]:
    done = lab.run_sluicegate("doctor", "--json", *words)
    assert done.returncode == code, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    for one in found:
        assert one["state"] in ("good", "bad", "unknown", "not needed")
        assert one["sentence"].endswith((".", "]")), one
        assert one["state"] != "bad" or one["advice"], one
    return found


def bad(found: list[dict[str, Any]]) -> list[str]:
    return [one["name"] for one in found if one["state"] == "bad"]


def remake(lab: Lab, section: str, **changed: Any) -> None:
    """The lab's configuration with one thing of its shop or its networks different."""
    if section == "tls":
        resources = lab.shop_resource()
        resources["shop"]["tls"] = {**resources["shop"]["tls"], **changed}
        lab.configure(resources=resources)
    elif section == "shop":
        resources = lab.shop_resource()
        resources["shop"].update(changed)
        lab.configure(resources=resources)
    else:
        lab.configure(**{section: changed})
    lab.configuration.chmod(0o644)


def picture(lab: Lab) -> dict[str, str]:
    """Everything of the machine that a look could change, in the appliance's network and in our own."""
    seen: dict[str, str] = {}
    for words in (
        ["nft", "list", "ruleset"],
        ["ip", "rule"],
        ["ip", "-6", "rule"],
        ["ip", "route", "show", "table", "all"],
        ["ip", "-6", "route", "show", "table", "all"],
        ["ip", "-o", "link"],
        [
            "sh",
            "-c",
            "grep -rs . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf | grep -v stable",
        ],
    ):
        seen[f"there {words}"] = lab.run_in(Place.APPLIANCE, words).stdout
        seen[f"here {words}"] = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    # What the kernel's part remembers of other machines comes and goes with them.
    ours = [*Path("/tmp").glob("sluicegate-*"), *lab.folder.rglob("*")]
    # A server works on its own files, whoever looks.
    seen["files"] = "\n".join(sorted(str(one) for one in ours if not one.is_relative_to(lab.folder / "target")))
    return seen


def test_a_fit_machine_is_found_fit_and_left_as_it_was(lab: Lab) -> None:
    before = picture(lab)
    found = findings(lab, code=0)
    assert picture(lab) == before
    assert bad(found) == []
    names = {one["name"] for one in found}
    for name in (
        "rights",
        "kernel",
        "nft",
        "diverting",
        "clock",
        "open files",
        "port",
        "space",
        "disk",
        "tests",
        "catching",
    ):
        assert name in names
    states = {one["name"]: one["state"] for one in found}
    assert states["diverting"] == "good"
    assert states["login at shop"] == "good"
    assert states[f"shop at {TARGET.ipv4}:5432"] == "good"


def test_what_runs_is_asked_and_its_own_ports_are_no_obstacle(lab: Lab) -> None:
    lab.start_appliance()
    try:
        found = findings(lab, code=0)
        assert bad(found) == []
        (port,) = (one for one in found if one["name"] == "port")
        assert "held by the appliance that runs" in port["sentence"]
        (catching,) = (one for one in found if one["name"] == "catching" and one["area"] == "network")
        assert catching["state"] == "good"
        subject = {one["name"] for one in found if one["area"] == "appliance"}
        assert "processes" not in subject
    finally:
        lab.stop_appliance()


@pytest.mark.parametrize(
    ("section", "changed", "name", "words"),
    [
        ("networks", {"executors": {"interfaces": ["nowhere0"]}}, "interface nowhere0", "there are executors0"),
        ("shop", {"addresses": [f"{TARGET.ipv4}:5999"]}, f"shop at {TARGET.ipv4}:5999", "does not take a connection"),
        ("tls", {"server_names": ["another.example"]}, f"shop at {TARGET.ipv4}:5432", "not accepted (verify-full)"),
        ("approvers", {"nobody-we-know": {"groups": ["dba"]}}, "approver nobody-we-know", "has no user"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    lab: Lab, section: str, changed: dict[str, Any], name: str, words: str
) -> None:
    remake(lab, section, **changed)
    found = findings(lab, code=1)
    assert name in bad(found)
    (one,) = (one for one in found if one["name"] == name)
    assert words in one["sentence"]


def test_a_wrong_password_is_found_without_being_told(lab: Lab) -> None:
    secret = lab.appliance_folder / "wrong"
    secret.write_text("hunter2-wrong\n")
    secret.chmod(0o600)
    os.chown(secret, 61002, 61002)
    lab.configure(credentials={"shop-owner": {"user": "shop_owner", "password": {"file": str(secret)}}})
    lab.configuration.chmod(0o644)
    done = lab.run_sluicegate("doctor", "--json")
    assert done.returncode == 1
    assert "hunter2" not in done.stdout + done.stderr
    (login,) = (one for one in json.loads(done.stdout) if one["name"] == "login at shop")
    assert login["state"] == "bad"
    tried = lab.run_sluicegate("resources", "test", "shop", "--json")
    assert tried.returncode == 1
    assert "hunter2" not in tried.stdout + tried.stderr


def test_a_secret_that_control_may_not_read_is_found(lab: Lab) -> None:
    secret = lab.appliance_folder / "roots"
    secret.write_text("x\n")
    secret.chmod(0o600)
    lab.configure(credentials={"shop-owner": {"user": "shop_owner", "password": {"file": str(secret)}}})
    lab.configuration.chmod(0o644)
    found = findings(lab, "--no-targets", code=1)
    assert bad(found) == ["files of control"]
    (one,) = (one for one in found if one["name"] == "files of control")
    assert str(secret) in one["sentence"]


def test_targets_are_left_alone_where_asked(lab: Lab) -> None:
    assert not [one for one in findings(lab, "--no-targets", code=0) if one["area"] == "targets"]


def test_an_unfit_configuration_is_told_with_its_place(lab: Lab) -> None:
    lab.configuration.write_text("agents: {}\n")
    found = findings(lab, code=1)
    assert any("configuration.yaml:1" in one["sentence"] for one in found if one["state"] == "bad")


def test_failing_policy_tests_are_bad(lab: Lab) -> None:
    policies = lab.appliance_folder / "failing"
    policies.mkdir()
    policies.chmod(0o755)
    (policies / "a.yaml").write_text("rules:\n  - {id: a, reason: b, allow: [{actions: [read]}]}\n")
    (policies / "a.cases.yaml").write_text(
        "who: {agent: a, phase: plan}\nwhere: {resource: r, protocol: postgres, database: d}\ncases:\n"
        "  - {name: wrong, effects: [{action: delete, kind: table, name: public.t}], expect: {verdict: allow}}\n"
    )
    lab.configure(policies)
    lab.configuration.chmod(0o644)
    assert "tests" in bad(findings(lab, "--no-targets", code=1))


def test_who_is_not_root_is_told_so_and_everything_else_still_answers(lab: Lab) -> None:
    user = ["setpriv", f"--reuid={PLANNER_UID}", f"--regid={PLANNER_UID}", "--clear-groups", "--"]
    done = lab.run_in(
        Place.APPLIANCE,
        [*user, sys.executable, "-m", "appliance", "doctor", "--json"],
        environment={"PYTHONPATH": str(REPOSITORY), "SLUICEGATE_CONFIGURATION": str(lab.configuration)},
    )
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert "rights" in bad(found)


def test_people_see_each_finding_on_lines_of_their_own(lab: Lab) -> None:
    done = lab.run_sluicegate("doctor", "--no-targets")
    assert done.returncode == 0
    assert "  ok  diverting:" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].endswith("not needed")


def test_a_trial_without_the_right_to_it_says_so_and_ends() -> None:
    program = "from kernel.trial import try_catching; print(try_catching())"
    done = subprocess.run(
        ["setpriv", f"--reuid={PLANNER_UID}", f"--regid={PLANNER_UID}", "--clear-groups", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert "A network namespace could not be made" in done.stdout
    assert try_catching() == ()
