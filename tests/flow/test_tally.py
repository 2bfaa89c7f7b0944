"""What a worker counts, and when it tells."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from appliance.decisions import Forward, Hold, HoldTerms, Obligations, Refuse, RuleReference
from appliance.flow.tally import Meter, Turns, WorkerTally
from appliance.ipc.messages import ADDED_BOUNDS, Counted, Tally
from appliance.parties import Side
from tests.flow.loopback import SECONDS
from tests.flow.test_worker import Running, run
from tests.two_streams.inspector import TwoStreamsInspector

READING = RuleReference("reading", "p.yaml", 1)
CARDS = RuleReference("cards", "p.yaml", 2)


def test_verdicts_are_counted_by_outcome_and_by_rule() -> None:
    tally = WorkerTally()
    meter = tally.meter("postgres")
    meter.judged(Forward(READING, Obligations(maskers=("cards",))))
    meter.judged(Forward(READING))
    meter.judged(Hold(CARDS, "look", HoldTerms()))
    meter.judged(Refuse(None, "no rule"))
    sums = tally.sums()
    assert [sums[Counted.VERDICTS, "postgres", outcome] for outcome in ("forward", "hold", "refuse")] == [2, 1, 1]
    assert {key[1]: value for key, value in sums.items() if key[0] == Counted.RULES} == {"reading": 2, "cards": 2}
    assert sums[Counted.UNCOVERED, "postgres"] == 1


def test_rules_are_counted_over_all_protocols() -> None:
    tally = WorkerTally()
    tally.meter("postgres").judged(Forward(READING))
    tally.meter("redis").judged(Forward(READING))
    assert tally.sums()[Counted.RULES, "reading"] == 2


def added(meter: Meter) -> list[tuple[int, float]]:
    return [(int(key[2]), value) for key, value in meter.sums("p").items() if key[0] == Counted.ADDED]


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.000009, 0), (0.00001, 0), (0.000011, 1), (0.0001, 5), (5.0, len(ADDED_BOUNDS) - 1), (60.0, len(ADDED_BOUNDS))],
)
def test_a_turn_is_in_the_bucket_whose_bound_it_does_not_pass(seconds: float, bucket: int) -> None:
    meter = Meter({})
    meter.added(seconds)
    assert added(meter) == [(bucket, 1)]


def test_a_command_and_the_beginning_of_its_answer_are_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("appliance.flow.tally.perf_counter", lambda: now[0])
    meter = Meter({})
    turns = Turns(meter)

    def step(side: Side, began: float, ended: float, *, has_sent: bool = False) -> None:
        turns.has_sent, now[0] = has_sent, ended
        turns.step(side, 10, began)

    step(Side.CLIENT, 0.0, 0.5)  # nothing was let through in it
    step(Side.TARGET, 1.0, 1.5)
    assert added(meter) == []
    step(Side.CLIENT, 2.0, 2.25, has_sent=True)
    assert added(meter) == []
    step(Side.TARGET, 9.0, 9.5)
    step(Side.TARGET, 10.0, 14.0)  # more of the same answer
    assert meter.sums("p")[Counted.ADDED_SECONDS, "p"] == 0.75
    step(Side.CLIENT, 20.0, 21.0, has_sent=True)
    step(Side.CLIENT, 22.0, 24.0, has_sent=True)
    step(Side.TARGET, 30.0, 34.0)
    assert meter.sums("p")[Counted.ADDED_SECONDS, "p"] == 0.75 + 1 + (2 + 4)
    assert sum(count for _, count in added(meter)) == 3
    assert (meter.client_bytes, meter.target_bytes) == (40, 40)


def test_a_worker_tells_control_its_sums_when_they_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.flow.worker._TALLY_SECONDS", 0.05)
    told: list[Tally] = []

    async def scene() -> None:
        async with Running(tmp_path, lambda _: TwoStreamsInspector()) as running:
            client = await running.client()
            async with asyncio.timeout(SECONDS):
                while not told or (Counted.OPENED, "echo", "bot") not in told[-1].sums:
                    told.append(await running.control.tallies.get())
            client[1].close()

    run(scene())
    assert told[-1].sums[Counted.OPENED, "echo", "bot"] == 1
    assert next(value for key, value in told[-1].sums.items() if key[0] == Counted.RECORDS) >= 2
    assert len({(one.process, one.started) for one in told}) == 1
    assert all(one.sums != other.sums for one, other in pairwise(told))
