"""What follows the end of a transaction in the same text."""

from __future__ import annotations

import pytest

from appliance.effects import Action
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue, Relation, TableColumn
from appliance.sql.reading import SessionView

ORDERS = Relation(1, "public", "orders", "r", (TableColumn(1, "id", 23), TableColumn(2, "status", 25)))
DECOY = Relation(2, "decoy", "orders", "r", (TableColumn(1, "id", 23),))
SHOP = Catalogue("v", 150000, "shop", "owner", ("public",), frozenset({"public", "decoy"}), (ORDERS, DECOY))


def is_understood(text: str, *, settled: bool) -> bool:
    reading = read(text, SHOP, SessionView(("public",), settled=settled))
    return all(effect.action is not Action.UNKNOWN for effect in reading.effects)


@pytest.mark.parametrize("end", ["commit", "rollback", "end", "abort", "rollback to a"])
def test_it_is_read_where_no_end_changes_what_names_mean(end: str) -> None:
    text = f"begin; savepoint a; update orders set status = 'x' where id = 1; {end}; select id from orders"
    assert is_understood(text, settled=True)


@pytest.mark.parametrize("end", ["commit", "rollback", "rollback to a"])
def test_it_is_unknown_where_the_session_has_something_to_lose(end: str) -> None:
    assert not is_understood(f"{end}; select id from orders", settled=False)


@pytest.mark.parametrize(
    "change", ["set search_path = decoy", "create table t (id int)", "declare c cursor for select 1", "drop table orders"]
)
def test_it_is_unknown_where_the_text_itself_changes_names(change: str) -> None:
    assert not is_understood(f"begin; {change}; rollback; select id from orders", settled=True)
