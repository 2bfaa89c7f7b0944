"""Texts that are too long to be read: refused before the scanner or the grammar, which hold everything up, see them."""

from __future__ import annotations

import time

import pytest

from appliance.effects import Action
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue
from appliance.sql.reading import TEXT_LENGTH_MAX, SessionView
from appliance.sql.redaction import redact

EMPTY = Catalogue(
    version="1",
    server_version=170_000,
    database="shop",
    role="app",
    search_path=("public",),
    schemas=frozenset({"public"}),
    relations=(),
)
ROWS = "INSERT INTO t VALUES " + "(1,2)," * (TEXT_LENGTH_MAX * 16 // 6) + "(1,2)"
PAD = "/*" + "x" * (16 << 20) + "*/ SELECT 1"


@pytest.mark.parametrize("text", [ROWS, PAD, "SELECT '" + "+" * (16 << 20) + "'"])
def test_a_text_that_is_too_long_is_refused_at_once(text: str) -> None:
    before = time.process_time()
    reading = read(text, EMPTY, SessionView(("public",)))
    # The grammar takes more than a minute over the first of these.
    assert time.process_time() - before < 0.5
    assert reading.problem is not None
    assert reading.problem.sqlstate == "54000"
    assert "1048576" in reading.problem.message
    assert [effect.action for effect in reading.effects] == [Action.UNKNOWN]
    assert len(reading.shown) < 40


def test_a_text_of_the_longest_length_is_read() -> None:
    text = "SELECT 1 /*" + "x" * (TEXT_LENGTH_MAX - 13) + "*/"
    assert len(text) == TEXT_LENGTH_MAX
    session = SessionView(("public",))
    assert read(text, EMPTY, session).problem is None
    longer = read(text + " ", EMPTY, session).problem
    assert longer is not None
    assert longer.sqlstate == "54000"


@pytest.mark.parametrize("hide_literals", [True, False])
def test_nothing_but_the_first_word_is_shown_of_a_text_that_is_too_long(hide_literals: bool) -> None:
    text = "INSERT INTO t VALUES ('a@b.co')" + " " * TEXT_LENGTH_MAX
    assert redact(text, hide_literals) == "INSERT •••"
