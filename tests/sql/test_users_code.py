"""What users' code runs that no text names: casts, defaults of arguments, and functions put beside the system's own."""

from __future__ import annotations

import psycopg
import pytest

from appliance.effects import Action
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue
from appliance.sql.catalogue_queries import QUERIES, build
from appliance.sql.reading import SessionView
from tests.scratch_postgres import ScratchPostgres

_SETUP = """
create table payroll (iban text);
create table staging (id int, v text);
create function secret() returns text language sql as 'select iban from public.payroll limit 1';
create type ut as (a int);
create table utt (id int, u ut);
create function ut_text(ut) returns text language sql as 'select iban from public.payroll limit 1';
create cast (ut as text) with function ut_text(ut) as assignment;
create function with_default(a text default public.secret()) returns text language sql as 'select $1';
create function pg_catalog.upper(int) returns text language sql as 'select iban from public.payroll limit 1';
create function pg_catalog.quiet() returns text language sql as 'select iban from public.payroll limit 1';
create index two on staging (lower(v), md5(v));
create schema contrib;
create extension citext schema contrib;
create extension hstore schema public;
create extension lo schema public;
create table tagged (id int, tags hstore, name contrib.citext);
"""


@pytest.fixture(scope="module")
def catalogue(scratch_postgres: ScratchPostgres) -> Catalogue:
    name = scratch_postgres.fresh_database(_SETUP)
    found: dict[str, str] = {}
    with psycopg.connect(scratch_postgres.connection_string(name), autocommit=True) as connection:
        connection.execute("BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ; SET LOCAL search_path = ''")
        for query_name, query in QUERIES:
            ((found[query_name],),) = connection.execute(query).fetchall()
        connection.execute("COMMIT")
    return build(found)


def reads_payroll(catalogue: Catalogue, text: str) -> bool:
    return any(each.thing.name == "public.payroll" for each in read(text, catalogue, SessionView(("public",))).effects)


@pytest.mark.parametrize(
    "text",
    [
        "insert into staging (v) select u from utt",
        "select upper(u) from utt",
        "select coalesce(u, null) from utt",
        "select with_default()",
        "select upper(1)",
        "select quiet()",
        "select pg_catalog.quiet()",
    ],
)
def test_what_runs_unsaid_counts(catalogue: Catalogue, text: str) -> None:
    assert reads_payroll(catalogue, text)


@pytest.mark.parametrize("text", ["select id from utt", "select v from staging", "insert into staging values (1, 'x')"])
def test_a_cast_of_a_type_that_is_not_used_does_not_count(catalogue: Catalogue, text: str) -> None:
    assert not reads_payroll(catalogue, text)


@pytest.mark.parametrize(
    "text",
    [
        "select tags -> 'a', tags ? 'b', name from tagged where name = 'x'",
        "insert into tagged values (1, 'a=>1'::hstore || hstore('b', '2'), 'n')",
        "select * from each('a=>1'::hstore)",
        "select contrib.regexp_match(name, 'x') from tagged",
    ],
)
def test_pure_functions_of_known_extensions_are_not_opaque(catalogue: Catalogue, text: str) -> None:
    effects = read(text, catalogue, SessionView(("public", "contrib"))).effects
    assert not any(each.action is Action.UNKNOWN or each.attribute("opaque") is True for each in effects)


def test_functions_of_other_extensions_are_opaque(catalogue: Catalogue) -> None:
    effects = read("select lo_oid(1)", catalogue, SessionView(("public",))).effects
    assert not any(each.attribute("opaque") is True for each in effects)  # an SQL function, and read
    effects = read("select populate_record(null::staging, tags) from tagged", catalogue, SessionView(("public",))).effects
    assert any(each.attribute("opaque") is True for each in effects)
