"""The readings that a worker keeps: how much of their texts together, and which go first."""

from __future__ import annotations

from appliance.protocols.postgres.readings import (
    READINGS_MAX,
    TEXT_LENGTH_MAX,
    TEXTS_LENGTH_MAX,
    ReadingCache,
    ReadingRoom,
)
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue, Relation, TableColumn
from appliance.sql.reading import Reading, SessionView

EMPTY = Catalogue("1", 170_000, "shop", "app", ("public",), frozenset({"public"}), ())
SESSION = SessionView(("public",))
PEOPLE = Relation(20_000, "public", "people", "r", (TableColumn(1, "id", 23), TableColumn(2, "name", 25)))
SHOP = Catalogue("2", 170_000, "shop", "app", ("public",), frozenset({"public"}), (PEOPLE,))


def test_readings_of_long_texts_are_bounded_by_what_they_have_together() -> None:
    cache = ReadingCache(read)
    for number in range(2 * TEXTS_LENGTH_MAX // TEXT_LENGTH_MAX):
        cache.read(f"select {number}".ljust(TEXT_LENGTH_MAX), EMPTY, SESSION)
        assert cache.length <= TEXTS_LENGTH_MAX
    assert cache.length > TEXTS_LENGTH_MAX - 3 * TEXT_LENGTH_MAX
    assert len(cache) < READINGS_MAX


def test_what_was_used_last_is_kept_longest() -> None:
    cache = ReadingCache(read)
    first, _ = cache.read("select 'first'", EMPTY, SESSION)
    for number in range(READINGS_MAX):
        cache.read(f"select {number}", EMPTY, SESSION)
        if number % 100 == 0:
            assert cache.read("select 'first'", EMPTY, SESSION)[0] is first
    assert cache.read("select 'first'", EMPTY, SESSION)[0] is first
    assert len(cache) == READINGS_MAX


def asking(number: int) -> str:
    return f"select name from people where id = {number}"


def counting() -> tuple[ReadingRoom, list[str]]:
    """A room whose caches tell what they had to have read in full."""
    read_in_full: list[str] = []

    def reading(text: str, catalogue: Catalogue, session: SessionView) -> Reading:
        read_in_full.append(text)
        return read(text, catalogue, session)

    return ReadingRoom(reading), read_in_full


def test_texts_that_differ_in_a_value_alone_are_read_in_full_twice() -> None:
    room, read_in_full = counting()
    cache = room.of("planner", "shop")
    keys = {cache.read(asking(number), SHOP, SESSION)[1] for number in range(50)}
    assert read_in_full == [asking(0), asking(1)]
    assert len(keys) == 1
    found = cache.find(asking(50), SHOP, SESSION)
    assert found is not None
    assert (found.reading, found.key, found.is_eligible) == (read(asking(50), SHOP, SESSION), keys.pop(), True)


def test_a_text_that_was_not_read_is_not_found() -> None:
    cache = ReadingCache(read)
    assert cache.find(asking(1), SHOP, SESSION) is None
    cache.read(asking(1), SHOP, SESSION)
    assert cache.find(asking(1), SHOP, SESSION) is not None
    assert cache.find(asking(2), SHOP, SESSION) is None


def test_templates_count_for_one_place_only() -> None:
    room, read_in_full = counting()
    cache = room.of("planner", "shop")
    for number in range(3):
        cache.read(asking(number), SHOP, SESSION)
    elsewhere = SessionView(("app", "public"))
    other = Catalogue("3", 170_000, "shop", "app", ("public",), frozenset({"public"}), (PEOPLE,))
    cache.read(asking(7), SHOP, elsewhere)
    cache.read(asking(7), other, SESSION)
    cache.read(asking(7), SHOP, SessionView(("public",), settled=True))
    cache.read(asking(7), SHOP, SessionView(("public",), dropped=frozenset({("public", "people")})))
    assert read_in_full[2:] == [asking(7)] * 4


def test_servers_that_were_set_up_alike_share_no_reading() -> None:
    # Seen with PostgreSQL 15: two new servers, the same three statements but for the view's table, the same version.
    room, read_in_full = counting()
    for resource, table in (("staging", "calendar"), ("production", "payroll")):
        relations = (
            *(Relation(20_000 + n, "public", name, "r", PEOPLE.columns) for n, name in enumerate(("calendar", "payroll"))),
            Relation(20_002, "public", "shown", "v", PEOPLE.columns, definition=f"SELECT id, name FROM public.{table}"),
        )
        there = Catalogue("3", 170_000, "shop", "app", ("public",), frozenset({"public"}), relations)
        cache = room.of("planner", resource)
        reading, _ = cache.read("select name from shown", there, SESSION)
        assert table in str(sorted(str(effect) for effect in reading.effects))
    assert len(read_in_full) == 2


def test_a_caller_that_sends_ever_new_texts_pushes_out_nothing_of_anybody_else() -> None:
    room, read_in_full = counting()
    quiet, loud = room.of("quiet", "shop"), room.of("loud", "shop")
    for number in range(100):
        quiet.read(f"select name from people where id = {number} limit {number}", SHOP, SESSION)
    held, letters = len(quiet), quiet.length
    for number in range(READINGS_MAX + 1_000):
        loud.read(f"select name from people as p{number}", SHOP, SESSION)
    for number in range(3 * TEXTS_LENGTH_MAX // TEXT_LENGTH_MAX):
        loud.read(f"select name from people as p{number}".ljust(TEXT_LENGTH_MAX), SHOP, SESSION)
    assert (len(quiet), quiet.length) == (held, letters)
    assert room.count == len(quiet) + len(loud) <= READINGS_MAX
    assert room.length == quiet.length + loud.length <= TEXTS_LENGTH_MAX
    read_in_full.clear()
    for number in range(100):
        quiet.read(f"select name from people where id = {number} limit {number}", SHOP, SESSION)
    assert not read_in_full
