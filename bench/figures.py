"""The form in which every bench gives what it has measured, and how the samples of several rounds become one figure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from statistics import median
from typing import Final, NamedTuple

# The lane that all others are held against.
DIRECT: Final = "direct"


class Metric(StrEnum):
    """What is measured, the same in every bench; `unit` says in what, where a sample does not say otherwise."""

    LATENCY = "latency"
    LATENCY_P95 = "latency_p95"
    LATENCY_P99 = "latency_p99"
    THROUGHPUT = "throughput"
    CPU_PER_TRANSACTION = "cpu_per_transaction"
    RSS = "rss"
    STREAM = "stream"

    @property
    def unit(self) -> str:
        """The unit as it stands in tables and in JSON."""
        return _UNITS[self]


_UNITS: Final = {
    Metric.LATENCY: "us",
    Metric.LATENCY_P95: "us",
    Metric.LATENCY_P99: "us",
    Metric.THROUGHPUT: "1/s",
    Metric.CPU_PER_TRANSACTION: "us",
    Metric.RSS: "MiB",
    Metric.STREAM: "MB/s",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing over all rounds. `ratio_to_direct` is the median of the ratios within each round, so that what
    slows a whole round down does not count; None where the direct lane has no such figure."""

    bench: str
    lane: str
    mode: str
    clients: int
    metric: Metric
    unit: str
    median: float
    min: float
    max: float
    ratio_to_direct: float | None


class _Case(NamedTuple):
    mode: str
    clients: int
    metric: Metric
    unit: str


class Samples:
    """What the rounds of one bench have given so far. `lanes` are in the order in which they are told."""

    def __init__(self, bench: str, lanes: Sequence[str]) -> None:
        self._bench = bench
        self._lanes = tuple(lanes)
        # By case, in the order in which cases came, then by lane and round.
        self._values: dict[_Case, dict[str, dict[int, float]]] = {}

    def add(
        self, round_: int, lane: str, mode: str, clients: int, metric: Metric, value: float, unit: str | None = None
    ) -> None:
        """Keep one sample, in the metric's own unit where none is said. A second one for the same place would hide the
        first: ValueError."""
        if lane not in self._lanes:
            raise ValueError(f"a sample of {lane}, which is not one of {self._lanes}")
        rounds = self._values.setdefault(_Case(mode, clients, metric, unit or metric.unit), {}).setdefault(lane, {})
        if round_ in rounds:
            raise ValueError(f"a second sample of {lane} {mode} {clients} {metric} in round {round_}")
        rounds[round_] = value

    def figures(self) -> list[Figure]:
        """Everything kept, as figures, cases in the order in which they came."""
        return [
            Figure(
                bench=self._bench,
                lane=lane,
                mode=case.mode,
                clients=case.clients,
                metric=case.metric,
                unit=case.unit,
                median=median(rounds.values()),
                min=min(rounds.values()),
                max=max(rounds.values()),
                ratio_to_direct=_ratio(rounds, lanes.get(DIRECT, {})),
            )
            for case, lanes in self._values.items()
            for lane in self._lanes
            if (rounds := lanes.get(lane))
        ]


def _ratio(rounds: dict[int, float], direct: dict[int, float]) -> float | None:
    ratios = [value / direct[number] for number, value in rounds.items() if direct.get(number)]
    return median(ratios) if ratios else None


def in_turn(lanes: Sequence[str], round_: int) -> list[str]:
    """The lanes in the order of a round: each comes first once in as many rounds as there are lanes."""
    start = round_ % len(lanes)
    return [*lanes[start:], *lanes[:start]]


def as_json(figures: Iterable[Figure]) -> str:
    """A JSON list, one object a line, keys as the fields are named."""
    return "[\n" + ",\n".join(json.dumps(asdict(figure)) for figure in figures) + "\n]\n"


def as_table(figures: Sequence[Figure]) -> str:
    """A table for each metric and unit: a line for each mode and number of clients, a column for each lane."""
    parts = []
    for metric in Metric:
        of_metric = [figure for figure in figures if figure.metric is metric]
        for unit in dict.fromkeys(figure.unit for figure in of_metric):
            grid = _grid([figure for figure in of_metric if figure.unit == unit])
            parts.append(f"{metric} in {unit}: median (min to max), ratio to direct\n{grid}")
    return "\n\n".join(parts) + "\n"


def _grid(figures: list[Figure]) -> str:
    lanes = list(dict.fromkeys(figure.lane for figure in figures))
    cells = {(figure.mode, figure.clients, figure.lane): _cell(figure) for figure in figures}
    lines = [["mode", "clients", *lanes]]
    for mode, clients in dict.fromkeys((figure.mode, figure.clients) for figure in figures):
        lines.append([mode, str(clients), *(cells.get((mode, clients, lane), "-") for lane in lanes)])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(figure: Figure) -> str:
    ratio = "" if figure.ratio_to_direct is None else f" x{figure.ratio_to_direct:.2f}"
    return f"{_short(figure.median)} ({_short(figure.min)} to {_short(figure.max)}){ratio}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def noise(figures: Iterable[Figure]) -> float | None:
    """How far the direct lane's own figures lie apart over the rounds: the median of (max - min) / median over its cases.
    A difference between lanes that is smaller says nothing."""
    spreads = [(figure.max - figure.min) / figure.median for figure in figures if figure.lane == DIRECT and figure.median]
    return median(spreads) if spreads else None
