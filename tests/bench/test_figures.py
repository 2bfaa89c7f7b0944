"""What becomes of samples: the statistics, and the form in which every bench gives them."""

from __future__ import annotations

import json

import pytest

from bench.figures import Figure, Metric, Samples, as_json, as_table, in_turn, noise
from bench.pgbench import Report, read_report

LANES = ("direct", "gateway")


def samples(*values: tuple[int, str, float], metric: Metric = Metric.LATENCY) -> Samples:
    kept = Samples("postgres", LANES)
    for round_, lane, value in values:
        kept.add(round_, lane, "simple", 1, metric, value)
    return kept


def test_a_figure_is_the_median_with_the_extremes() -> None:
    (figure,) = samples((0, "direct", 10.0), (1, "direct", 40.0), (2, "direct", 20.0)).figures()
    assert figure == Figure("postgres", "direct", "simple", 1, Metric.LATENCY, "us", 20.0, 10.0, 40.0, 1.0)


def test_the_ratio_is_taken_within_each_round() -> None:
    # The second round was slow for both. Medians held against each other would give 30 / 20.
    kept = samples(
        (0, "gateway", 20.0), (0, "direct", 10.0),
        (1, "gateway", 200.0), (1, "direct", 100.0),
        (2, "gateway", 30.0), (2, "direct", 20.0),
    )  # fmt: skip
    direct, gateway = kept.figures()
    assert (direct.median, gateway.median) == (20.0, 30.0)
    assert gateway.ratio_to_direct == 2.0


def test_a_round_without_direct_gives_no_ratio() -> None:
    kept = samples((0, "gateway", 20.0), (1, "gateway", 60.0), (1, "direct", 20.0))
    assert [figure.ratio_to_direct for figure in kept.figures()] == [1.0, 3.0]
    (alone,) = samples((0, "gateway", 20.0)).figures()
    assert alone.ratio_to_direct is None


def test_lanes_are_told_in_their_order_whoever_came_first() -> None:
    kept = samples((0, "gateway", 20.0), (0, "direct", 10.0))
    assert [figure.lane for figure in kept.figures()] == list(LANES)


def test_a_second_sample_for_one_place_and_a_strange_lane_are_errors() -> None:
    kept = samples((0, "direct", 1.0))
    with pytest.raises(ValueError, match="second sample"):
        kept.add(0, "direct", "simple", 1, Metric.LATENCY, 2.0)
    with pytest.raises(ValueError, match="not one of"):
        kept.add(0, "stranger", "simple", 1, Metric.LATENCY, 2.0)


def test_each_lane_comes_first_once_in_as_many_rounds_as_there_are_lanes() -> None:
    lanes = ("a", "b", "c")
    assert [in_turn(lanes, round_) for round_ in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_json_is_a_list_of_objects_with_these_keys() -> None:
    text = as_json(samples((0, "gateway", 12.5), metric=Metric.STREAM).figures())
    assert json.loads(text) == [
        {
            "bench": "postgres",
            "lane": "gateway",
            "mode": "simple",
            "clients": 1,
            "metric": "stream",
            "unit": "MB/s",
            "median": 12.5,
            "min": 12.5,
            "max": 12.5,
            "ratio_to_direct": None,
        }
    ]
    assert json.loads(as_json([])) == []


def test_the_metrics_are_these_with_these_units() -> None:
    assert {metric.value: metric.unit for metric in Metric} == {
        "latency": "us",
        "latency_p95": "us",
        "latency_p99": "us",
        "throughput": "1/s",
        "cpu_per_transaction": "us",
        "rss": "MiB",
        "stream": "MB/s",
    }


def test_a_sample_may_be_in_a_unit_of_its_own_and_then_has_a_table_of_its_own() -> None:
    kept = Samples("postgres", LANES)
    kept.add(0, "gateway", "gigabyte", 1, Metric.RSS, 90.0)
    kept.add(0, "gateway", "idle", 5000, Metric.RSS, 7.5, "KiB")
    assert [(figure.mode, figure.unit) for figure in kept.figures()] == [("gigabyte", "MiB"), ("idle", "KiB")]
    heads = [line for line in as_table(kept.figures()).splitlines() if line.startswith("rss in ")]
    assert [head.split(":")[0] for head in heads] == ["rss in MiB", "rss in KiB"]


def test_the_table_has_a_line_for_each_case_and_a_dash_for_what_is_missing() -> None:
    kept = samples((0, "direct", 20.0), (0, "gateway", 50.0))
    kept.add(0, "direct", "prepared", 8, Metric.LATENCY, 1234.0)
    lines = as_table(kept.figures()).splitlines()
    assert lines[1].split() == ["mode", "clients", "direct", "gateway"]
    assert lines[2].endswith("50.0 (50.0 to 50.0) x2.50")
    assert lines[3].split() == ["prepared", "8", "1,234", "(1,234", "to", "1,234)", "x1.00", "-"]


def test_noise_is_the_spread_of_the_direct_lane() -> None:
    kept = samples((0, "direct", 90.0), (1, "direct", 100.0), (2, "direct", 110.0), (0, "gateway", 1.0), (1, "gateway", 9.0))
    assert noise(kept.figures()) == pytest.approx(0.2)
    assert noise(samples((0, "gateway", 1.0)).figures()) is None


REPORT = """pgbench (15.20 (Debian 15.20-0+deb12u1))
transaction type: <builtin: select only>
scaling factor: 10
query mode: simple
number of clients: 8
number of threads: 2
maximum number of tries: 1
duration: 1 s
number of transactions actually processed: 54321
number of failed transactions: 0 (0.000%)
latency average = 0.147 ms
initial connection time = 31.500 ms
tps = 54589.123456 (without initial connection time)
"""


def test_the_report_of_pgbench_is_read() -> None:
    assert read_report(REPORT) == Report(54321, pytest.approx(0.0315), pytest.approx(147.0), pytest.approx(54589.123456))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("processed: 54321", "processed: 0"),
        ("failed transactions: 0", "failed transactions: 3"),
        ("latency average", "latency"),
        ("(without initial connection time)", "(including connections establishing)"),
    ],
)
def test_a_report_that_shows_no_whole_run_is_no_figure(old: str, new: str) -> None:
    assert old in REPORT
    with pytest.raises(ValueError, match="pgbench"):
        read_report(REPORT.replace(old, new))
