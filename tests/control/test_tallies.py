"""Sums over workers and their deaths, and hits of rules over control's own."""

from __future__ import annotations

from pathlib import Path

from appliance.control.tallies import LIVES_MAX, Hits, Tallies
from appliance.ipc.messages import Counted, Tally

OPENED = (Counted.OPENED.value, "shop", "bot")


def told(hits: int = 0, opened: int = 0, started: int = 1, records: int = 0, rule: str = "reading") -> Tally:
    sums: dict[tuple[str, ...], float] = {(Counted.RULES.value, rule): hits, OPENED: opened}
    if records:
        sums[Counted.RECORDS.value, f"w0-{started}-7"] = records
    return Tally(7, started, sums)


def test_sums_told_again_count_once_and_workers_add_up(tmp_path: Path) -> None:
    tallies = Tallies(tmp_path / "hits")
    for opened in (1, 3, 3):
        tallies.take(7, told(opened=opened), 0.0, 100.0)
    tallies.take(8, told(opened=10), 0.0, 100.0)
    assert tallies.sums() == {OPENED: 13}


def test_a_worker_that_starts_anew_adds_to_what_the_one_before_it_counted(tmp_path: Path) -> None:
    tallies = Tallies(tmp_path / "hits")
    tallies.take(7, told(hits=5, opened=5, started=1), 0.0, 100.0)
    tallies.take(7, told(hits=2, opened=2, started=2), 0.0, 101.0)
    assert tallies.sums() == {OPENED: 7}
    assert tallies.hits() == {"reading": Hits(7, 101.0)}


def test_a_worker_cannot_take_back_what_it_has_counted(tmp_path: Path) -> None:
    tallies = Tallies(tmp_path / "hits")
    tallies.take(7, told(hits=5), 0.0, 100.0)
    tallies.take(7, told(hits=1), 0.0, 200.0)
    assert tallies.hits() == {"reading": Hits(5, 100.0)}


def test_hits_outlive_control_while_the_same_worker_goes_on(tmp_path: Path) -> None:
    first = Tallies(tmp_path / "hits")
    first.take(7, told(hits=5), 0.0, 100.0)
    first.save()
    first.take(7, told(hits=6), 0.0, 110.0)  # not saved: control is killed
    second = Tallies(tmp_path / "hits")
    assert second.hits() == {"reading": Hits(5, 100.0)}
    second.take(7, told(hits=8), 0.0, 120.0)
    assert second.hits() == {"reading": Hits(8, 120.0)}
    second.take(7, told(hits=1, started=2), 0.0, 130.0)
    assert second.hits() == {"reading": Hits(9, 130.0)}


def test_lives_that_are_over_become_one_and_nothing_is_lost(tmp_path: Path) -> None:
    tallies = Tallies(tmp_path / "hits")
    lives = 3 * LIVES_MAX
    for started in range(1, lives + 1):
        tallies.take(7 if started < lives else 8, told(hits=1, opened=2, started=started), 0.0, 100.0 + started)
        tallies.forget_past({8})
    assert tallies.hits() == {"reading": Hits(lives, 100.0 + lives)}
    assert tallies.sums() == {OPENED: 2 * lives}
    tallies.save()
    assert Tallies(tmp_path / "hits").hits() == {"reading": Hits(lives, 100.0 + lives)}


def test_lag_is_what_is_written_and_not_taken_in_and_since_when(tmp_path: Path) -> None:
    tallies = Tallies(tmp_path / "hits")
    journal = "w0-1-7"
    for clock, records in ((10.0, 4), (11.0, 8), (12.0, 20)):
        tallies.take(7, told(records=records), clock, 0.0)
    assert tallies.lag({}, {7}, 15.0) == (20, 5.0)
    assert tallies.lag({journal: 5}, {7}, 15.0) == (14, 4.0)
    assert tallies.lag({journal: 7}, {7}, 15.0) == (12, 3.0)
    assert tallies.lag({journal: 19}, {7}, 15.0) == (0, 0.0)


def test_lag_is_of_workers_that_live(tmp_path: Path) -> None:
    tallies = Tallies(tmp_path / "hits")
    tallies.take(7, told(records=4), 10.0, 0.0)
    assert tallies.lag({}, set(), 15.0) == (0, 0.0)


def test_an_unfit_file_is_put_aside_and_counting_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "hits").write_bytes(b"no database" * 1000)
    tallies = Tallies(tmp_path / "hits")
    tallies.take(7, told(hits=5), 0.0, 100.0)
    tallies.save()
    assert Tallies(tmp_path / "hits").hits() == {"reading": Hits(5, 100.0)}
    assert (tmp_path / "hits.unfit").read_bytes().startswith(b"no database")
