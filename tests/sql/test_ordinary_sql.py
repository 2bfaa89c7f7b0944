"""Ordinary SQL of applications and tools: all of it is understood, and its output columns are the server's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest

from appliance.effects import Action
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue
from appliance.sql.reading import SessionView
from tests.scratch_postgres import ScratchPostgres
from tests.sql.test_analysis import database, shop

__all__ = ["database", "shop"]

# One text a line.
ORDINARY = Path(__file__).with_name("ordinary.sql").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_sql_is_understood(shop: Catalogue, text: str) -> None:
    reading = read(text, shop, SessionView(shop.search_path))
    assert reading.problem is None
    for each in reading.effects:
        assert each.action is not Action.UNKNOWN, each
        assert not each.attribute("opaque"), each


RETURNING_ROWS = [
    text for text in ORDINARY if text.split()[0] in ("select", "with", "insert", "update", "delete", "values", "table")
]


@pytest.mark.parametrize("text", [text for text in RETURNING_ROWS if "$" not in text])
def test_output_columns_are_those_that_the_server_returns(
    scratch_postgres: ScratchPostgres, database: str, shop: Catalogue, text: str
) -> None:
    statement = read(text, shop, SessionView(shop.search_path)).statements[0]
    with psycopg.connect(scratch_postgres.connection_string(database)) as connection:
        try:
            cursor = connection.execute(text.encode())
        except psycopg.errors.IntegrityConstraintViolation:
            cursor = None  # The text was understood by the server too, which is all that counts here.
        if cursor is not None:
            described = None if cursor.description is None else [column.name for column in cursor.description]
            found = None if statement.outputs is None else [output.name for output in statement.outputs]
            assert found == described
        connection.rollback()


PSQL = r"""
\d
\d+ orders
\d customers
\d+ crm
\d+ events
\d cars
\dt+
\di+
\dv+
\dm
\df+
\du+
\dg
\dn+
\l+
\dp
\dT+
\ds+
\dC+
\do
\da
\dD
\dx
\dy
\ddp
\sf f_double
\sv crm
select 1 \gdesc
\copy (select id from orders) to /dev/null
select 1 as a, 2 as b, 3 as c \crosstabview
"""


def test_what_psql_asks_the_server_is_understood(scratch_postgres: ScratchPostgres, database: str, shop: Catalogue) -> None:
    # -E prints each query that a backslash command sends.
    run = subprocess.run(
        ["psql", "-E", "-X", "-q", scratch_postgres.connection_string(database)],
        input=PSQL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    queries = [
        part.partition("**************************")[0] for part in run.stdout.split("********* QUERY **********")[1:]
    ]
    assert len(queries) > 40
    for query in queries:
        reading = read(query, shop, SessionView(shop.search_path))
        assert reading.problem is None, query
        assert not [each for each in reading.effects if each.action is Action.UNKNOWN], query
