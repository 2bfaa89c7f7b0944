"""Every check of the appliance's health, good and bad, and what the supervisor tells control of its looks."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from appliance.catching import NAME, Look, read_look, write_look
from appliance.control.health import LOOK_SECONDS_MAX, UNDONE_SECONDS
from appliance.control.policies import InForce
from appliance.control.rulebook import Rulebook
from appliance.control.tallies import Hits
from appliance.ipc.messages import FlowSeen
from appliance.parties import Endpoint
from appliance.policy.reading import read_policy
from tests.control.hosting import PRINCIPAL, Hosted, asking, run, worker


async def check(root: Any, name: str) -> dict[str, str]:
    (found,) = [one for one in (await root.ask("health.show"))["checks"] if one["name"] == name]
    return dict(found)


def test_an_appliance_without_supervisor_or_workers_says_so_and_the_rest_is_good(hosted: Hosted) -> None:
    async def body() -> None:
        async with asking(hosted) as root:
            while (await check(root, "index"))["state"] == "unknown":
                await root.ask("drain")  # it was started a moment ago
            states = {one["name"]: one["state"] for one in (await root.ask("health.show"))["checks"]}
            assert states.pop("catching") == "unknown"
            assert states.pop("workers") == "bad"
            assert set(states) == {"recording", "index", "disk", "policy", "catalogues", "approvals", "people", "clock"}
            assert set(states.values()) == {"good"}
            bad = [one for one in (await root.ask("health.show"))["checks"] if one["state"] != "good"]
            assert all(one["sentence"] and one["advice"] for one in bad)

    run(body())


def test_a_look_of_the_supervisor_is_read_with_its_age(hosted: Hosted) -> None:
    async def body() -> None:
        folder, now = str(hosted.folder / "run"), time.monotonic()
        async with asking(hosted) as root:
            for look, state, words in (
                (Look(now), "good", "are caught"),
                (Look(now - LOOK_SECONDS_MAX - 1), "bad", "last looked"),
                (Look(now + 3600), "bad", "last looked"),
                (Look(now, fault="found no interface eth9"), "bad", "eth9"),
                (Look(now, ("The table is gone.",), undone=3, undone_at=now - 5), "bad", "3 times"),
                (Look(now, ("The table is gone.",), undone=3, undone_at=now - UNDONE_SECONDS - 9), "good", "are caught"),
            ):
                write_look(folder, look)
                found = await check(root, "catching")
                assert found["state"] == state, found
                assert words in found["sentence"]
            write_look(folder, Look(now))
            before = (await root.ask("changes.wait"))["serials"]
            write_look(folder, Look(now, fault="none"))
            after = (await root.ask("changes.wait", after=before, seconds=20))["serials"]
            assert after["health"] > before["health"]

    run(body())


def test_a_look_that_root_did_not_write_or_that_is_no_look_counts_for_nothing(tmp_path: Path) -> None:
    file = tmp_path / NAME
    assert read_look(str(tmp_path)) is None
    write_look(str(tmp_path), Look(1.5))
    assert read_look(str(tmp_path)) == Look(1.5)
    os.chown(file, 61002, 61002)
    assert read_look(str(tmp_path)) is None
    os.chown(file, 0, 0)
    file.chmod(0o666)
    assert read_look(str(tmp_path)) is None
    file.chmod(0o644)
    file.write_text("{}")
    assert read_look(str(tmp_path)) is None
    file.unlink()
    os.mkfifo(file)
    assert read_look(str(tmp_path)) is None
    file.unlink()
    (tmp_path / "other").write_text('{"clock": 1.0}')
    file.symlink_to(tmp_path / "other")
    assert read_look(str(tmp_path)) is None


def test_what_control_put_in_the_way_of_a_look_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / NAME).symlink_to(victim)
    (folder / f".{NAME}.new").symlink_to(victim)
    write_look(str(folder), Look(1.0))
    assert victim.read_text() == "precious"
    assert read_look(str(folder)) == Look(1.0)


def test_a_faulty_policy_and_a_worker_come_up_as_they_are(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted), asking(hosted) as root:
            wanted = len(os.sched_getaffinity(0))
            found = await check(root, "workers")
            assert found["state"] == ("good" if wanted == 1 else "bad")
            assert found["sentence"] == f"1 of {wanted} workers serve." or wanted == 1
            hosted.policy.write_text("rules: [")
            await root.ask("policy.reload")
            found = await check(root, "policy")
            assert (found["state"], "stays in force" in found["sentence"]) == ("bad", True)
            shown = await root.ask("policy.show")
            assert shown["fault"]
            assert shown["since"] <= time.time()

    run(body())


# The policy and what is configured.

RULES = """\
# What the shop's agents may do.
rules:
  # reading
  - id: reads
    reason: reading is harmless
    allow:
      - actions: [read]

  # losses
  - id: losses
    reason: what is lost is lost
    advice: ask first
    hold:
      - actions: [delete]
    approvers: [dba]
  - {id: never, reason: 'no', deny: [{actions: [drop]}]}
  - {id: cards, reason: secret, mask: [{objects: [public.orders], fields: [card], with: {kind: redact}}]}
"""


def test_a_rule_is_shown_with_its_own_lines_and_its_hits() -> None:
    files = (("shop.yaml", RULES), ("more.yaml", "rules:\n- id: other\n  reason: x\n  allow: [{actions: [connect]}]\n"))
    policy = InForce(read_policy(files), files)
    book = Rulebook()
    first, second = book.files(policy, {"reads": Hits(7, 12.5)})
    rules = {rule["id"]: rule for rule in first["rules"]}
    assert list(rules) == ["reads", "losses", "never", "cards"]
    assert rules["reads"]["source"] == ("- id: reads\n  reason: reading is harmless\n  allow:\n    - actions: [read]")
    assert (rules["reads"]["line"], rules["reads"]["hits"], rules["reads"]["last"]) == (4, 7, 12.5)
    assert rules["losses"]["source"].endswith("approvers: [dba]")
    assert (rules["losses"]["kinds"], rules["losses"]["hits"], rules["losses"]["last"]) == (["hold"], 0, None)
    assert rules["losses"]["advice"] == "ask first"
    assert rules["never"]["source"].startswith("- {id: never")
    assert second["rules"][0]["source"] == "- id: other\n  reason: x\n  allow: [{actions: [connect]}]"
    assert book.files(policy, {})[0]["rules"][0]["hits"] == 0


def test_agents_and_resources_are_listed_with_what_is_known_of_them(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one, asking(hosted) as root:
            one.channel.tell(FlowSeen("f", PRINCIPAL, "shop", Endpoint("10.1.0.6", 1), Endpoint("10.9.0.1", 5432), 1))
            await one.settled_before_this()
            (agent,) = await root.ask("agents.list")
            assert (agent["name"], agent["owner"], agent["flows"]) == ("migrator", "crew", 1)
            assert {"phase": "plan", "sources": ["10.1.0.5/32"]} in agent["phases"]
            (resource,) = await root.ask("resources.list")
            assert (resource["name"], resource["protocol"], resource["reachable"]) == ("shop", "postgres", None)
            await one.catalogue("postgres")
            (resource,) = await root.ask("resources.list")
            assert resource["reachable"] is True
            assert "pencil" not in str(resource)

    run(body())
