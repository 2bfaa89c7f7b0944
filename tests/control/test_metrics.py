"""Metrics as control shows them: in Prometheus' form, as the documentation lists them, and without anything secret."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from appliance.ipc.channel import connect
from appliance.ipc.messages import ADDED_BOUNDS, Counted, FlowSeen, Request, Settled, Tally
from appliance.parties import Endpoint
from tests.control.hosting import PRINCIPAL, Hosted, Worker, hold, run, shown, worker

ROOT = Path(__file__).resolve().parents[2]
STARTED = 1_700_000_000_000_000_000
# Every sort of thing a worker counts, and one that this control does not know.
SUMS: dict[tuple[str, ...], float] = {
    (Counted.VERDICTS.value, "postgres", "forward"): 90,
    (Counted.VERDICTS.value, "postgres", "refuse"): 10,
    (Counted.UNCOVERED.value, "postgres"): 4,
    (Counted.RULES.value, "reading"): 90,
    (Counted.RULES.value, "of-an-older-policy"): 2,
    (Counted.OPENED.value, "shop", "migrator"): 7,
    (Counted.REFUSED.value, "", "no agent has this source address"): 3,
    (Counted.HOLDS.value, "postgres", "approved"): 1,
    (Counted.BYTES.value, "postgres", "client"): 1000,
    (Counted.BYTES.value, "postgres", "target"): 9000,
    (Counted.ADDED.value, "postgres", "4"): 80,
    (Counted.ADDED.value, "postgres", str(len(ADDED_BOUNDS))): 1,
    (Counted.ADDED_SECONDS.value, "postgres"): 6.5,
    (Counted.LATE_SECONDS.value,): 0.25,
    ("of a newer release", "x"): 1,
}


async def metrics(hosted: Hosted) -> dict[str, Metric]:
    """What is shown, by name."""
    channel = await connect(str(hosted.folder / "run" / "control-people.sock"), lambda _: None, lambda: None)
    answer = msgspec.json.decode(await channel.call(lambda call: Request(call, "metrics.show")))
    channel.close()
    assert answer["ok"]
    return {family.name: family for family in text_string_to_metric_families(answer["result"]["text"])}


def value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    (found,) = [
        one.value for family in families.values() for one in family.samples if (one.name, one.labels) == (sample, labels)
    ]
    return found


async def counted(one: Worker) -> None:
    one.channel.tell(Tally(1, STARTED, SUMS))
    one.channel.tell(FlowSeen("f", PRINCIPAL, "shop", Endpoint("10.1.0.6", 1), Endpoint("10.9.0.1", 5432), 1, "postgres"))
    await one.settled_before_this()


def test_metrics_are_what_workers_counted_in_the_form_that_prometheus_reads(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            await counted(one)
            found = await metrics(hosted)
        assert value(found, "sluicegate_verdicts_total", protocol="postgres", outcome="forward") == 90
        assert value(found, "sluicegate_uncovered_total", protocol="postgres") == 4
        assert value(found, "sluicegate_flows_opened_total", resource="shop", agent="migrator") == 7
        assert value(found, "sluicegate_flows", resource="shop", agent="migrator") == 1
        assert value(found, "sluicegate_flows_refused_total", resource="", why="no agent has this source address") == 3
        assert value(found, "sluicegate_holds_total", protocol="postgres", end="approved") == 1
        assert value(found, "sluicegate_bytes_total", protocol="postgres", side="target") == 9000
        assert value(found, "sluicegate_worker_late_seconds_total") == 0.25
        assert value(found, "sluicegate_workers") == 1
        assert value(found, "sluicegate_process_resident_bytes", process="control") > 10_000_000
        assert value(found, "sluicegate_recording_fault") == 0

    run(body())


def test_added_latency_is_a_histogram_whose_buckets_hold_all_below_them(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            await counted(one)
            found = await metrics(hosted)
        buckets = {
            one.labels["le"]: one.value for one in found["sluicegate_added_seconds"].samples if one.name.endswith("_bucket")
        }
        assert list(map(float, buckets)) == [*ADDED_BOUNDS, float("inf")]
        assert list(buckets.values()) == [0] * 4 + [80] * (len(ADDED_BOUNDS) - 4) + [81]
        assert value(found, "sluicegate_added_seconds_count", protocol="postgres") == 81
        assert value(found, "sluicegate_added_seconds_sum", protocol="postgres") == 6.5

    run(body())


def test_a_persons_time_to_decide_is_counted_by_how_it_ended(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            approval = await hold(one, shown())
            assert value(await metrics(hosted), "sluicegate_approvals_waiting") == 1
            assert (await hosted.command("approvals", "approve", approval))[0] == 0
            await one.hear(Settled)
            found = await metrics(hosted)
        assert value(found, "sluicegate_approvals_waiting") == 0
        assert value(found, "sluicegate_approval_seconds_count", outcome="approved") == 1
        assert 0 < value(found, "sluicegate_approval_seconds_sum", outcome="approved") < 60

    run(body())


def test_rules_are_those_in_force_and_their_hits_outlive_control(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            one.channel.tell(Tally(1, STARTED, {(Counted.RULES.value, name): 3 for name in rules}))
            await one.settled_before_this()
        hosted.end()
        hosted.start()
        found = await metrics(hosted)
        assert {one.labels["rule"] for one in found["sluicegate_rule_hits"].samples} == in_force
        assert sum(one.value for one in found["sluicegate_rule_hits"].samples) == 3 * len(in_force)

    in_force = set(re.findall(r"id: ([\w-]+)", hosted.policy.read_text()))
    rules = in_force | {"of-an-older-policy"}
    assert in_force
    run(body())


def test_nothing_of_what_a_command_says_or_who_logs_in_is_in_metrics(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            await counted(one)
            await hold(one, shown())
            channel = await connect(str(hosted.folder / "run" / "control-people.sock"), lambda _: None, lambda: None)
            text = (await channel.call(lambda call: Request(call, "metrics.show"))).decode()
            channel.close()
        for word in ("delete", "orders", "exact words", "pencil", "10.1.0.6", "of a newer release"):
            assert word not in text

    run(body())


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """The table of metrics in the documentation: type and labels by name."""
    rows = re.findall(r"^\| `(sluicegate_\w+)` \| (\w+) \|([^|]*)\|", (ROOT / "docs/operations.md").read_text(), re.M)
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_the_documentation_lists_every_metric_with_its_labels(hosted: Hosted, tmp_path: Path) -> None:  # noqa: ARG001
    async def body() -> None:
        async with worker(hosted) as one:
            await counted(one)
            await one.catalogue("postgres")
            approval = await hold(one, shown())
            assert (await hosted.command("approvals", "reject", approval, "--reason", "no"))[0] == 0
            await one.hear(Settled)
            found = await metrics(hosted)
        shown_now = {}
        for family in found.values():
            suffix = "_total" if family.type == "counter" else ""
            name = family.name if family.name.endswith(suffix) else family.name + suffix
            labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
            shown_now[name] = (family.type, labels)
        assert shown_now == documented()

    run(body())


def test_the_documentation_lists_every_event_that_is_logged() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    for file in (file for room in ("appliance", "ui") for file in (ROOT / room).rglob("*.py")):
        for event in re.findall(r"\blog\(\s*\"([^\"{]+)\"", file.read_text()):
            assert f"`{event}`" in page, f"{event!r}, which {file.name} logs"
