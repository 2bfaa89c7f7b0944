"""What flows keep together, and which of them goes."""

from __future__ import annotations

from appliance.flow.waiting import WaitingBytes


def test_who_keeps_most_goes_whoever_asked_for_more() -> None:
    waiting: WaitingBytes[str] = WaitingBytes(100)
    assert waiting.note("a", 60) is None
    assert waiting.note("b", 40) is None
    assert waiting.note("c", 1) == "a"
    assert waiting.total == 41


def test_what_was_read_is_counted_no_more() -> None:
    waiting: WaitingBytes[str] = WaitingBytes(100)
    for _ in range(1_000):
        assert waiting.note("a", 90) is None
        assert waiting.note("a", 10) is None
    assert waiting.note("a", 0) is None
    assert waiting.total == 0


def test_a_flow_that_has_to_go_may_still_say_that_it_ended() -> None:
    waiting: WaitingBytes[str] = WaitingBytes(100)
    assert waiting.note("a", 101) == "a"
    assert waiting.note("a", 0) is None
    assert waiting.total == 0
