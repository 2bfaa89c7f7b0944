"""Who has his turn, and for how long: agents share a worker's time, a step at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.flow.shares import (
    ALONE_SECONDS,
    ARRIVAL_SECONDS_MAX,
    ARRIVALS_AT_ONCE,
    ARRIVALS_PER_SECOND,
    STEP_SECONDS,
    Shares,
)


class Loop:
    """An event loop's turns, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self._soon: list[Callable[[], None]] = []

    def call_soon(self, step: Callable[[], None]) -> None:
        self._soon.append(step)

    def turn(self) -> bool:
        """Run what is due. False: nothing was."""
        due, self._soon = self._soon, []
        for step in due:
            step()
        return bool(due)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr("appliance.flow.shares.perf_counter", lambda: made.now)
    return made


def test_an_agent_alone_never_waits(loop: Loop) -> None:
    share = Shares(loop.call_soon).enter("one")
    share.spend(10.0)
    assert not share.is_spent
    assert share.step_seconds == ALONE_SECONDS


def test_an_agent_that_had_its_step_waits_for_the_next_turn_and_others_do_not(loop: Loop) -> None:
    shares = Shares(loop.call_soon)
    one, other = shares.enter("one"), shares.enter("other")
    assert one.step_seconds == STEP_SECONDS
    one.spend(STEP_SECONDS / 2)
    assert not one.is_spent
    one.spend(STEP_SECONDS)
    assert one.is_spent
    assert not other.is_spent
    loop.turn()
    assert not one.is_spent


def test_of_those_who_wait_one_agent_works_in_each_turn(loop: Loop) -> None:
    shares = Shares(loop.call_soon)
    done: list[str] = []

    def work(name: str) -> None:
        loop.now += STEP_SECONDS
        done.append(name)

    for name in ("one", "other"):
        share = shares.enter(name)
        for _ in range(3):
            share.wait(lambda name=name: work(name))  # type: ignore[misc]
    turns = 0
    while loop.turn():
        turns += 1
        assert len(done) <= turns
    assert done == ["one", "other"] * 3


def test_short_steps_share_a_turn(loop: Loop) -> None:
    share = Shares(loop.call_soon).enter("one")
    done: list[int] = []
    for number in range(5):
        share.wait(lambda number=number: done.append(number))  # type: ignore[misc]
    loop.turn()
    assert done == [0, 1, 2, 3, 4]


def test_a_step_that_asks_for_another_lets_a_turn_pass(loop: Loop) -> None:
    share = Shares(loop.call_soon).enter("one")
    done: list[str] = []

    def again() -> None:
        done.append("step")
        if len(done) < 3:
            share.wait(again)

    share.wait(again)
    assert [len(done) for _ in range(3) if loop.turn()] == [1, 2, 3]


def test_who_has_something_waiting_waits_with_all_flows(loop: Loop) -> None:
    shares = Shares(loop.call_soon)
    one = shares.enter("one")
    shares.enter("other")
    one.wait(lambda: None)
    assert one.is_spent


def test_connections_are_taken_up_at_a_bounded_pace_and_refused_beyond_what_may_wait(loop: Loop) -> None:
    shares = Shares(loop.call_soon)
    share = shares.enter("one")
    shares.enter("other")
    at_once = [share.arrival_delay(100.0) for _ in range(ARRIVALS_AT_ONCE)]
    assert at_once == [0.0] * ARRIVALS_AT_ONCE
    assert share.arrival_delay(100.0) == pytest.approx(1 / ARRIVALS_PER_SECOND)
    assert share.arrival_delay(100.0) == pytest.approx(2 / ARRIVALS_PER_SECOND)
    waiting = [share.arrival_delay(100.0) for _ in range(int(ARRIVALS_PER_SECOND * ARRIVAL_SECONDS_MAX) - 2)]
    assert waiting[-1] == pytest.approx(ARRIVAL_SECONDS_MAX)
    assert share.arrival_delay(100.0) is None
    assert share.arrival_delay(101.0) is not None
    assert share.arrival_delay(1000.0) == 0.0


def test_who_is_alone_connects_as_fast_as_it_likes(loop: Loop) -> None:
    share = Shares(loop.call_soon).enter("one")
    assert {share.arrival_delay(100.0) for _ in range(3 * ARRIVALS_AT_ONCE)} == {0.0}
