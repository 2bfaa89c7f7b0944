"""How samples of an honest client become what a hostile one cost it."""

from __future__ import annotations

import pytest

from bench.attackers import ROUND_SECONDS, SLICE_SECONDS
from bench.figures import DIRECT
from bench.honest import THROUGH, Sample
from bench.hostile import Cost, percentile, slices


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(100, 0.99, 99), (100, 0.5, 50), (1000, 0.99, 990), (1, 0.99, 1), (150, 0.99, 149)]
)
def test_a_percentile_is_the_value_that_so_many_do_not_exceed(count: int, share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(count, 0, -1)], share) == expected


def test_a_sample_belongs_to_the_slice_in_which_it_was_sent_and_to_none_in_the_pause() -> None:
    begin = 100.0
    sent = {
        begin - 0.01: None,
        begin: (0, False),
        begin + SLICE_SECONDS: (0, True),
        begin + 2 * SLICE_SECONDS: None,
        begin + ROUND_SECONDS + SLICE_SECONDS + 0.5: (1, True),
    }
    samples = [Sample(THROUGH, when, when) for when in sent]
    found = {
        latency: (round_, is_attacked)
        for round_, is_attacked, lane, latencies in slices(samples, begin, 2)
        for latency in latencies
        if lane == THROUGH
    }
    assert found == {when: where for when, where in sent.items() if where is not None}


def test_growth_is_of_the_99th_percentile() -> None:
    assert Cost(DIRECT, 1.0, 10.0, 5.0, 25.0).growth == 2.5
