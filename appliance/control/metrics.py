"""What the appliance says of itself in numbers: the names, labels and meanings of its metrics, in Prometheus' text form.

Labels are names of the configuration (resources, agents, rules) or words of this program, so there is a bounded number of
them, and none holds a text of a command, a user, a value or a secret: whoever may connect may read them.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from appliance.approvals.desk import Case, State
from appliance.control.catalogues import Catalogues
from appliance.control.policies import PolicyFolder
from appliance.control.recorder import Recorder
from appliance.control.tallies import Key, Tallies
from appliance.control.workers import Workers
from appliance.ipc.messages import ADDED_BOUNDS, Counted

APPROVAL_BOUNDS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Upper bounds of the buckets of how long people take, in seconds."""

JOURNALS_MAX = 10_000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the numbers are. `waiting`: approvals that wait now. `clock`: seconds that only go forward."""

    tallies: Tallies
    workers: Workers
    recorder: Recorder
    catalogues: Catalogues
    policies: PolicyFolder
    journals: Path
    dashboard_uid: int
    waiting: Callable[[], int]
    clock: Callable[[], float]


class Metrics(Collector):
    """The page of all metrics; also keeps how long people took, which is nowhere else."""

    def __init__(self, sources: Sources) -> None:
        self._of = sources
        self._decisions: dict[str, list[int]] = {}
        self._decision_seconds: dict[str, float] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def moved(self, case: Case) -> None:
        """Something happened on the desk."""
        if case.state is not State.SETTLED or case.decided is None:
            return
        seconds = max(0.0, case.decided - case.asked)
        counts = self._decisions.setdefault(case.outcome, [0] * (len(APPROVAL_BOUNDS) + 1))
        counts[bisect_left(APPROVAL_BOUNDS, seconds)] += 1
        self._decision_seconds[case.outcome] = self._decision_seconds.get(case.outcome, 0.0) + seconds

    def text(self) -> str:
        """All of it, as Prometheus reads it (text format 0.0.4)."""
        return generate_latest(self._registry).decode()

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: the registry would otherwise collect once to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric with its values now."""
        yield InfoMetricFamily("sluicegate_build", "Which release runs.", value={"version": _version()})
        yield from self._flows()
        yield from self._commands()
        yield from self._approvals()
        yield from self._recording()
        yield from self._policy()
        yield from self._catalogues()
        yield from self._processes()

    def _flows(self) -> Iterator[Metric]:
        sums = self._of.tallies.sums()
        yield _counter("flows_opened", "Flows that were let in.", ("resource", "agent"), sums, Counted.OPENED)
        yield _counter("flows_refused", "Connections that became no flow.", ("resource", "why"), sums, Counted.REFUSED)
        live = GaugeMetricFamily("sluicegate_flows", "Flows that are open now.", labels=("resource", "agent"))
        counts: dict[tuple[str, str], int] = {}
        workers = self._of.workers.present()
        for flow in (flow for worker in workers for flow in worker.flows.values()):
            labels = (flow.resource or "", flow.principal.agent if flow.principal else "")
            counts[labels] = counts.get(labels, 0) + 1
        for labels, count in sorted(counts.items()):
            live.add_metric(labels, count)
        yield live
        yield _counter("bytes", "Bytes that flows have read.", ("protocol", "side"), sums, Counted.BYTES)
        yield GaugeMetricFamily("sluicegate_workers", "Workers that serve.", value=len(workers))
        yield _counter(
            "worker_late_seconds", "How long events waited for a busy worker, by its clock.", (), sums, Counted.LATE_SECONDS
        )

    def _commands(self) -> Iterator[Metric]:
        sums = self._of.tallies.sums()
        yield _counter("verdicts", "What was decided.", ("protocol", "outcome"), sums, Counted.VERDICTS)
        yield _counter("uncovered", "Of what was refused, what no rule speaks of.", ("protocol",), sums, Counted.UNCOVERED)
        hits = CounterMetricFamily("sluicegate_rule_hits", "How often a rule decided or masked.", labels=("rule",))
        found = self._of.tallies.hits()
        for rule in self._of.policies.in_force.policy.rules:
            known = found.get(rule.reference.id)
            hits.add_metric((rule.reference.id,), known.hits if known else 0)
        yield hits
        yield _counter("holds", "Holds that ended.", ("protocol", "end"), sums, Counted.HOLDS)
        added = HistogramMetricFamily(
            "sluicegate_added_seconds",
            "What a turn of a flow took here: from a command's arrival to its forwarding, and from the first bytes of the "
            "answer to theirs. Time in which a person was waited for is not in it.",
            labels=("protocol",),
        )
        seconds = {key[1]: value for key, value in sums.items() if key[0] == Counted.ADDED_SECONDS}
        for protocol, total in sorted(seconds.items()):
            counts = [int(sums.get((Counted.ADDED, protocol, str(number)), 0)) for number in range(len(ADDED_BOUNDS) + 1)]
            added.add_metric((protocol,), _buckets(ADDED_BOUNDS, counts), total)
        yield added

    def _approvals(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("sluicegate_approvals_waiting", "Holds that wait for a person.", value=self._of.waiting())
        taken = HistogramMetricFamily(
            "sluicegate_approval_seconds", "How long holds waited, by how they ended.", labels=("outcome",)
        )
        for outcome, counts in sorted(self._decisions.items()):
            taken.add_metric((outcome,), _buckets(APPROVAL_BOUNDS, counts), self._decision_seconds[outcome])
        yield taken

    def _recording(self) -> Iterator[Metric]:
        recorder = self._of.recorder
        living = {worker.peer for worker in self._of.workers.present()}
        records, seconds = self._of.tallies.lag(recorder.reached, living, self._of.clock())
        yield CounterMetricFamily(
            "sluicegate_recording_records", "Records taken in from the workers' journals.", value=recorder.records
        )
        yield GaugeMetricFamily(
            "sluicegate_recording_lag_records", "Records written by workers and not taken in.", value=records
        )
        yield GaugeMetricFamily(
            "sluicegate_recording_lag_seconds", "How long the oldest of them has waited, at least.", value=seconds
        )
        yield GaugeMetricFamily(
            "sluicegate_recording_fault", "1 while nothing can be taken in.", value=float(bool(recorder.fault))
        )
        yield GaugeMetricFamily(
            "sluicegate_recording_alarms", "Journals that were not what they should be.", value=len(recorder.alarms)
        )
        yield GaugeMetricFamily(
            "sluicegate_journal_bytes", "Size of the workers' journals.", value=_size_of(self._of.journals)
        )

    def _policy(self) -> Iterator[Metric]:
        policies = self._of.policies
        version = GaugeMetricFamily("sluicegate_policy", "Always 1; which policy is in force.", labels=("version",))
        version.add_metric((policies.in_force.policy.version,), 1)
        yield version
        yield GaugeMetricFamily(
            "sluicegate_policy_fault",
            "1 while the files are unfit and an older policy stands.",
            value=float(bool(policies.fault)),
        )

    def _catalogues(self) -> Iterator[Metric]:
        # Clients choose the names of databases, so these are counted by resource.
        ages: dict[str, float] = {}
        faults: dict[str, int] = {}
        for resource, age, is_faulty in self._of.catalogues.ages():
            if age is not None:
                ages[resource] = max(age, ages.get(resource, 0.0))
            faults[resource] = faults.get(resource, 0) + is_faulty
        oldest = GaugeMetricFamily(
            "sluicegate_catalogue_age_seconds", "Since the catalogue checked longest ago was checked.", labels=("resource",)
        )
        for resource, age in sorted(ages.items()):
            oldest.add_metric((resource,), age)
        yield oldest
        unread = GaugeMetricFamily(
            "sluicegate_catalogues_unreadable", "Databases whose catalogue can't be read.", labels=("resource",)
        )
        for resource, count in sorted(faults.items()):
            unread.add_metric((resource,), count)
        yield unread

    def _processes(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily("sluicegate_process_resident_bytes", "Memory in use.", labels=("process",))
        used = CounterMetricFamily("sluicegate_process_cpu_seconds", "Processor time used.", labels=("process",))
        named = {os.getpid(): "control", os.getppid(): "supervisor"}
        named |= {worker.peer: f"worker {worker.index}" for worker in self._of.workers.present()}
        if (dashboard := _child_of_user(os.getppid(), self._of.dashboard_uid)) is not None:
            named[dashboard] = "dashboard"
        for process, name in sorted(named.items(), key=lambda pair: pair[1]):
            # It may have ended meanwhile.
            with suppress(OSError):
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                # proc(5): utime and stime are the 14th and 15th field, rss the 24th; the first after ")" is the third.
                memory.add_metric((name,), int(fields[21]) * _PAGE_BYTES)
                used.add_metric((name,), (int(fields[11]) + int(fields[12])) / _TICKS)
        yield memory
        yield used


def _version() -> str:
    try:
        return version("sluicegate")
    except PackageNotFoundError:
        return "unreleased"


def _counter(name: str, meaning: str, labels: tuple[str, ...], sums: dict[Key, float], counted: Counted) -> Metric:
    family = CounterMetricFamily(f"sluicegate_{name}", meaning, labels=labels)
    for key, value in sorted(sums.items()):
        if key[0] == counted and len(key) == len(labels) + 1:
            family.add_metric(key[1:], value)
    return family


def _buckets(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    """As Prometheus has them: each with all that is below its bound."""
    total, found = 0.0, []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        found.append((bound, total))
    return found


def _size_of(folder: Path) -> int:
    size = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            # A worker owns the folder and may fill it.
            if number >= JOURNALS_MAX:
                break
            with suppress(OSError):
                size += entry.stat(follow_symlinks=False).st_size
    return size


def _child_of_user(parent: int, uid: int) -> int | None:
    with suppress(OSError):
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with suppress(OSError):
                if Path(f"/proc/{child}").stat().st_uid == uid:
                    return int(child)
    return None
