"""The readings that a worker keeps: how much of their texts together, and which go first."""

from __future__ import annotations

from appliance.protocols.postgres.readings import READINGS_MAX, TEXT_LENGTH_MAX, TEXTS_LENGTH_MAX, ReadingCache
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue
from appliance.sql.reading import SessionView

EMPTY = Catalogue("1", 170_000, "shop", "app", ("public",), frozenset({"public"}), ())
SESSION = SessionView(("public",))


def test_readings_of_long_texts_are_bounded_by_what_they_have_together() -> None:
    cache = ReadingCache(read)
    for number in range(2 * TEXTS_LENGTH_MAX // TEXT_LENGTH_MAX):
        cache.read(f"select {number}".ljust(TEXT_LENGTH_MAX), EMPTY, SESSION)
        assert cache.length <= TEXTS_LENGTH_MAX
    assert len(cache) == TEXTS_LENGTH_MAX // TEXT_LENGTH_MAX < READINGS_MAX


def test_what_was_used_last_is_kept_longest() -> None:
    cache = ReadingCache(read)
    first, _ = cache.read("select 'first'", EMPTY, SESSION)
    for number in range(READINGS_MAX):
        cache.read(f"select {number}", EMPTY, SESSION)
        if number % 100 == 0:
            assert cache.read("select 'first'", EMPTY, SESSION)[0] is first
    assert cache.read("select 'first'", EMPTY, SESSION)[0] is first
    assert len(cache) == READINGS_MAX
