"""What a text of SQL does, read with the catalogue of a real server; outputs are held against what that server returns."""

from __future__ import annotations

from pathlib import Path

import pglast.ast
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.effects import Action, Use
from appliance.sql import commands, expressions
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue, Relation, TableColumn
from appliance.sql.catalogue_queries import QUERIES, build
from appliance.sql.commands import Commands
from appliance.sql.names import State
from appliance.sql.reading import (
    ChangeCatalogue,
    DeclareCursor,
    Prepare,
    Reading,
    SessionView,
    SetSearchPath,
    Transaction,
)
from appliance.sql.scopes import Scope
from tests.scratch_postgres import ScratchPostgres

SHOP = Path(__file__).with_name("shop.sql")


@pytest.fixture(scope="module")
def database(scratch_postgres: ScratchPostgres) -> str:
    return scratch_postgres.fresh_database(SHOP)


@pytest.fixture(scope="module")
def shop(scratch_postgres: ScratchPostgres, database: str) -> Catalogue:
    found: dict[str, str] = {}
    with psycopg.connect(scratch_postgres.connection_string(database), autocommit=True) as connection:
        connection.execute("BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ; SET LOCAL search_path = ''")
        for name, query in QUERIES:
            ((found[name],),) = connection.execute(query).fetchall()
        connection.execute("COMMIT")
    return build(found)


def session(shop: Catalogue, **more: object) -> SessionView:
    return SessionView(**{"search_path": shop.search_path, **more})  # type: ignore[arg-type]


def done(shop: Catalogue, text: str, **more: object) -> Reading:
    return read(text, shop, session(shop, **more))


def effects(shop: Catalogue, text: str, **more: object) -> set[str]:
    return {str(each) for each in done(shop, text, **more).effects}


def uses(shop: Catalogue, text: str, table: str = "public.customers", field: str = "card_number") -> set[Use]:
    """How a text uses one column."""
    return {
        each.use
        for each in done(shop, text).effects
        if each.action is Action.READ and each.thing.name == table and field in each.fields and each.use is not None
    }


def test_text_that_takes_the_scanner_too_long_is_refused_at_once(shop: Catalogue) -> None:
    for text in ("select 1 " + "+" * 20_000 + " 1", "/*" * 20_000 + "*/" * 20_000 + "select 1"):
        reading = done(shop, text)
        assert reading.problem is not None
        assert reading.problem.sqlstate == "54001"
    assert not has_unknown(done(shop, "select '" + "-=" * 20_000 + "'"))


def test_numbers_newer_than_the_server_are_not_read(shop: Catalogue) -> None:
    for text in ("select 0xff", "select 1_000", "select 1 + 0b1"):
        assert done(shop, text).problem is not None
    for text in ("select '0xff 1_000', x'1FF'", 'select 1 as "1_0"', "select 1e5, 1000"):
        assert done(shop, text).problem is None


@pytest.mark.parametrize(
    "call", ["unnest(coalesce(array[1]))", "unnest('a:1'::tsvector, array[1])", "json_populate_record(null::orders, '{}')"]
)
@pytest.mark.parametrize("name", ["f", "t.f", "z", "t.z"])
def test_place_in_a_join_of_unknown_width_may_be_any_column(shop: Catalogue, call: str, name: str) -> None:
    alias = "t(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, u, v, w, x, y, z)"
    reading = done(shop, f"select {name} || 'x' from ({call} y cross join customers) as {alias}")
    computed = {
        field
        for each in reading.effects
        if each.thing.name == "public.customers" and each.use is Use.COMPUTE
        for field in each.fields
    }
    assert "card_number" in computed or has_unknown(reading)


def has_unknown(reading: Reading) -> bool:
    return any(each.action is Action.UNKNOWN for each in reading.effects)


def sources(reading: Reading, statement: int = 0) -> list[set[str]]:
    outputs = reading.statements[statement].outputs
    assert outputs is not None
    return [{f"{source.thing.name}.{source.field}" for source in output.sources} for output in outputs]


# --- values that pass unchanged, and those that don't

PASSES = [
    "select card_number from customers",
    "select c.card_number as x from public.customers c",
    "select x from (select card_number x from customers) s",
    "with s as (select * from customers) select card_number from s",
    "with s(a, b) as (select card_number, id from customers) select a from s",
    "select token from crm",
    "select token from crm_two",
    "select 'none' union all select card_number from customers",
    "select x.card_number from orders o join lateral (select * from customers c where c.id = o.customer_id) x on true",
    "select card_number from customers where id = 1 order by id",
    "select a.d from customers as a(i, n, e, d)",
    "update customers set city = 'x' returning card_number",
    "with gone as (delete from customers returning *) select card_number from gone",
    "with recursive t as (select id, card_number from customers union all "
    "select c.id, t.card_number from customers c join t on t.id = c.id) select card_number from t",
    "select card_number from customers where card_number = $1",
    "select (select 1), card_number from customers",
    "select card_number::text from customers",
    "select cast(card_number as varchar)::text as c from customers",
    "select u.*, c.card_number from unnest(array[1]) u, customers c",
    "select u.*, c.card_number from unnest('a:1'::tsvector) u, customers c",
    "select u.x, c.card_number from unnest(coalesce(null, array[1])) u(x), customers c",
]


@pytest.mark.parametrize("text", PASSES)
def test_a_value_that_passes_unchanged_has_its_source_at_its_place(shop: Catalogue, text: str) -> None:
    reading = done(shop, text)
    assert reading.problem is None
    assert not has_unknown(reading)
    assert any("public.customers.card_number" in each for each in sources(reading))
    assert Use.COMPUTE not in uses(shop, text)


COMPUTES = [
    "select upper(card_number) from customers",
    "select card_number::varchar(6) from customers",
    "select id from customers where not card_number = '4'",
    "select card_number || '' from customers",
    "select customers from customers",
    "select c::text from customers c",
    "select (c).card_number from customers c",
    "select (c.*).card_number from customers c",
    "select row(c.*) from customers c",
    "select c.* is null from customers c",
    "select count(c.*) from customers c",
    "select to_jsonb(c) from customers c",
    "select card_number(c) from customers c",
    "select c.mind from customers c",
    "select count(card_number) from customers",
    "select card_number from customers order by card_number",
    "select card_number from customers order by 1",
    "select card_number as n from customers order by n",
    "select distinct card_number from customers",
    "select distinct on (card_number) id from customers",
    "select card_number from customers group by card_number",
    "select card_number as g, count(*) from customers group by g",
    "select count(*) from customers group by grouping sets ((card_number), ())",
    "select card_number from customers union select 'a'",
    "select card_number from customers intersect all select card_number from customers",
    "select (select card_number from customers limit 1)",
    "select array(select card_number from customers)",
    "select id from customers where card_number like '4%'",
    "select id from customers where not card_number = '4'",
    "select id from customers where card_number = city",
    "select id from customers where card_number > $1",
    "select id from customers where (card_number, id) = ('4', 1)",
    "select id from customers where card_number = '4'::\"char\"",
    "select id from customers where card_number in (select note from orders)",
    "select o.id from orders o join customers c on c.card_number = o.note",
    "select o.id from orders o left join customers c on c.card_number = '4'",
    "select 1 from customers a join customers b using (card_number)",
    "select 1 from customers a natural join customers b",
    "select row_number() over (order by card_number) from customers",
    "select sum(1) over w from customers window w as (partition by card_number)",
    "select 1 from orders limit (select length(card_number) from customers)",
    "select count(*) filter (where card_number > '4') from customers",
    "select case card_number when '4' then 1 end from customers",
    "select 1 from customers c, unnest(array[c.card_number]) u",
    "select 1 from customers c, regexp_split_to_table(c.card_number, '') u",
    "insert into orders(id, note) select id, card_number from customers",
    "insert into orders(id, note) values (1, (select card_number from customers))",
    "update orders set note = (select card_number from customers)",
    "update orders set (note, status) = (select card_number, '' from customers)",
    "update orders o set note = c.card_number from customers c",
    "update customers set name = card_number",
    "delete from orders using customers c where note = c.card_number",
    "insert into customers(id) values (1) on conflict (id) do update set name = customers.card_number",
    "merge into orders o using customers c on c.id = o.id when matched then update set note = c.card_number",
    "merge into orders o using customers c on c.id = o.id when not matched and c.card_number > '4' then do nothing",
    "create table copied as select card_number from customers",
    "select card_number into copied from customers",
    "create view seen as select card_number from customers",
    "copy customers to stdout",
    "copy customers (card_number) to stdout",
    "copy (select card_number from customers) to stdout",
    "create index on customers (left(card_number, 6))",
    "create unique index on customers (card_number)",
    "alter table customers add column twin text generated always as (card_number) stored",
    "alter table customers add check (card_number > '4')",
    "alter table customers alter column card_number type int using card_number::int",
    "explain select 1 from customers where card_number > '4'",
    "explain analyze select upper(card_number) from customers",
    "select xmlelement(name a, card_number) from customers",
    "select set_config('application_name', card_number, false) from customers",
    "values ((select card_number from customers))",
    "select exists (select 1 from customers where card_number > '4')",
    "select token from crm where token > '4'",
    "with recursive t as (select card_number from customers union select card_number from t) select 1 from t",
    # A column that only the outer query is sure to have, under the name of what a function shows.
    "select (select card_number from unnest(array(select o from orders o)) as card_number) from customers",
    "select (select card_number from json_populate_recordset(null::orders, '[]') as card_number) from customers",
]


@pytest.mark.parametrize("text", COMPUTES)
def test_any_other_use_of_a_value_counts_as_computed(shop: Catalogue, text: str) -> None:
    assert Use.COMPUTE in uses(shop, text)


COMPARES = [
    "select id from customers where card_number = '4' or id = 1",
    "select id from customers where card_number is null",
    "select id from customers where card_number is not null and id > 0",
    "select id from customers where card_number::text = '4'",
    "select id from customers where card_number = '4'",
    "select id from customers where '4' = card_number",
    "select id from customers where card_number = $1::text and id > 0",
    "select id from customers where card_number in ('4', $2)",
    "select id from customers where card_number = any($1)",
    "select id from customers where card_number = any(array['4', '5'])",
    "select id from customers where card_number operator(pg_catalog.=) '4'",
    "select o.id from orders o join customers c on c.id = o.customer_id and c.card_number = '4'",
    "delete from customers where card_number = '4'",
    "update customers set city = 'x' where card_number = $1",
]


@pytest.mark.parametrize("text", COMPARES)
def test_equality_with_a_constant_is_a_comparison_only(shop: Catalogue, text: str) -> None:
    assert uses(shop, text) == {Use.COMPARE}


UNTOUCHED = [
    "select id from customers",
    "select count(*) from customers",
    "select 1 from customers",
    "select name from crm",
    "update customers set card_number = '4' where id = 1",
    "insert into customers(id, card_number) values (1, '4')",
    "insert into customers(id) values (1) on conflict (card_number) do nothing",
    "explain select card_number from customers",
    "delete from customers where id = 1",
    "with customers as (select 1 as card_number) select upper(card_number::text) from customers",
]


@pytest.mark.parametrize("text", UNTOUCHED)
def test_a_value_that_is_not_read_is_not_said_to_be(shop: Catalogue, text: str) -> None:
    assert uses(shop, text) == set()


def test_computing_columns_of_a_view_count_only_where_they_are_used(shop: Catalogue) -> None:
    assert uses(shop, "select token from crm", field="email") == set()
    assert uses(shop, "select shout from crm", field="email") == {Use.COMPUTE}
    assert uses(shop, "select shout from crm_two", field="email") == {Use.COMPUTE}


def test_what_a_view_filters_by_is_computed_with(shop: Catalogue) -> None:
    assert uses(shop, "select token from crm_two", field="id") == {Use.COMPUTE}


# --- names

PAYROLL = [
    "select * from payroll",
    'select * from "payroll"',
    'select * from U&"pay\\0072oll"',
    "select * from only (public.payroll)",
    "table payroll",
    "with payroll as (select * from payroll) select 1 from payroll",
    "with recursive a as (select * from b), b as (select * from payroll) select 1 from a",
    "select 1 where exists (select from payroll)",
    "select who from hr",
    "select 1 from payroll_copy",
    "select top_pay()",
    "select * from top_pay()",
    "select twice(1)",
    "explain select * from payroll",
    "prepare p as select 1; select 1 from payroll",
    "copy payroll to stdout",
    "lock table payroll",
    "with x as (insert into orders(id) select id from payroll returning 1) select 1",
    "delete from orders where id in (select id from payroll)",
    "declare c cursor for select * from payroll",
    "create table t (a int references payroll(id))",
    "create view v as select * from payroll",
]


@pytest.mark.parametrize("text", PAYROLL)
def test_a_table_is_seen_by_whatever_way_it_is_read(shop: Catalogue, text: str) -> None:
    assert any(each.action is Action.READ and each.thing.name == "public.payroll" for each in done(shop, text).effects)


WRITES = [
    ("delete from dept", "delete table public.payroll [cascade=True]"),
    ("delete from dept", "update table public.bonus (payroll_id) [cascade=True]"),
    ("update dept set id = 2", "update table public.payroll (dept_id) [cascade=True]"),
    ("truncate dept cascade", "truncate table public.bonus"),
    ("with x as (delete from payroll returning 1) select 1", "delete table public.payroll"),
    ("explain (analyze 1, costs off) delete from payroll", "delete table public.payroll"),
    ("explain (analyze on) delete from payroll", "delete table public.payroll"),
    ("merge into payroll p using dept d on d.id = p.dept_id when matched then delete", "delete table public.payroll"),
    ("insert into hr values ('x')", "insert table public.payroll (employee)"),
    ("update hr set who = 'x'", "update table public.payroll (employee)"),
    ("delete from hr", "delete table public.payroll"),
    ("copy payroll (employee) from stdin", "insert table public.payroll (employee)"),
    ("insert into mailbox(subject) values ('x')", "call function public.send_mail"),
    ("insert into events values (1)", "insert table public.events_2024 (id)"),
    ("insert into events_2024 values (1)", "insert table public.events (id)"),
    ("update assets set owner = 'x'", "update table public.cars (owner)"),
    ("delete from cars", "delete table public.assets"),
    ("drop table payroll cascade", "drop table public.hr"),
    ("drop table if exists payroll, nothing", "drop table public.nothing"),
    ("drop schema shadow cascade", "drop table shadow.only_here"),
    ("create index on payroll (salary)", "alter table public.payroll (salary) [change=create_index]"),
    ("alter table payroll rename to p2", "alter table public.payroll [change=rename]"),
    ("alter table payroll rename column salary to s", "alter table public.payroll (salary) [change=alter_column]"),
    ("alter table payroll add column x int, drop column salary", "alter table public.payroll (salary) [change=drop_column]"),
    ("create table x (like payroll)", "create table public.x [form=like]"),
    ("create temp table x (a int)", "create table pg_temp.x (a) [form=plain, temporary=True]"),
    (
        "create trigger t before insert on orders execute function send_mail()",
        "alter table public.orders [change=create_trigger]",
    ),
    ("drop database shop", "drop database shop"),
    ("grant select on payroll to public", "grant table public.payroll [change=grant]"),
    ("copy (select 1) to program 'id'", "exec program id"),
    ("copy orders from '/etc/passwd'", "upload file /etc/passwd"),
    ("refresh materialized view payroll_copy", "update table public.payroll_copy [change=refresh]"),
    ("call purge()", "delete table public.orders"),
    ("select nextval('ticket')", "update sequence public.ticket"),
    ("notify jobs", "publish channel jobs"),
    ("select pg_notify('jobs', 'x')", "publish channel jobs"),
    ("listen jobs", "consume channel jobs"),
    ("set role limited", "admin setting role"),
    ("alter system set work_mem = 1", "admin server"),
    ("vacuum payroll", "admin table public.payroll [change=vacuum]"),
    ("create extension pg_trgm", "create extension pg_trgm"),
    ("select id from orders for update", "read table public.orders [locks=True, mode=ROW]"),
]


@pytest.mark.parametrize(("text", "expected"), WRITES)
def test_what_is_done_is_said(shop: Catalogue, text: str, expected: str) -> None:
    assert any(each.startswith(expected) for each in effects(shop, text)), effects(shop, text)


def test_a_key_that_is_not_changed_sets_nothing_off(shop: Catalogue) -> None:
    assert effects(shop, "update dept set title = 'x'") == {"update table public.dept (title)"}


OPAQUE = [
    "select opaque_one()",
    "select 1 where 'a' ~~~ 'b'",
    "select 'a'::fine",
    "insert into checked(id) values (1)",
    "insert into checked(who) values (default)",
    "select 1 from guarded",
    "select mind(c) from customers c",
    "insert into mailbox values (1, 'x')",
    "do $$ begin end $$",
]


@pytest.mark.parametrize("text", OPAQUE)
def test_code_that_cannot_be_read_is_called_opaque(shop: Catalogue, text: str) -> None:
    assert any(each.action is Action.CALL and each.attribute("opaque") for each in done(shop, text).effects)


UNKNOWN = [
    "select pg_read_file('x')",
    "select query_to_xml('select 1', true, true, '')",
    "select table_to_xml('payroll', true, true, '')",
    "select * from pg_stats",
    "select * from pg_authid",
    "select set_config('search_path', $1, false)",
    "select set_config(name, 'x', false) from customers",
    "select set_config('search_path', 'x', false) from orders",
    "select current_setting('my.x')",
    "select current_setting(x.name) from (select name from pg_settings union all select 'my.x') x",
    "select set_config(name, 'x', false) from pg_settings where name = $1",
    "show my.x",
    "show all",
    "set standard_conforming_strings = off",
    "reset client_encoding",
    "insert into ruled values (1)",
    "select nextval(note) from orders",
    "declare c binary cursor for select 1",
    "delete from pg_class",
    "prepare transaction 'x'",
    "create schema s create table t (a int)",
    "select * from json_populate_record(null::orders, '{}')",
    "select json_scalar(1)",
    "select json_object('a': 1)",
    "select * from json_table('{}', '$' columns (a int path '$'))",
    "merge into orders o using dept d on d.id = o.id when not matched by source then delete",
    "merge into orders o using dept d on d.id = o.id when matched then delete returning 1",
    "create table t (a int, b int generated always as (a) virtual)",
    "select system_user",
    "delete from orders returning with (old as o) o.id",
    "select * from unnest(coalesce(null, array[1])) u, customers c",
    "select * from unnest(coalesce(null, array[1])) u cross join customers c",
    "select * from customers c natural join unnest(coalesce(null, array[1])) u",
]


@pytest.mark.parametrize("text", UNKNOWN)
def test_what_may_do_anything_is_unknown(shop: Catalogue, text: str) -> None:
    assert has_unknown(done(shop, text))


PROBLEMS = [
    ("selec 1", "42601"),
    ("select * from nowhere", "42P01"),
    ("select nothing from orders", "42703"),
    ("select o.nothing from orders o", "42703"),
    ("select x.id from orders", "42P01"),
    ("select nothing()", "42883"),
    ("select 'a'::nothing", "42704"),
    ("select id from orders, customers", "42702"),
    ("execute nothing", "26000"),
    ("fetch nothing", "34000"),
    ("select '\0'", "22021"),
    ("select " + "abs(" * 1500 + "1" + ")" * 1500, "54001"),
    ("select " + "+".join("1" * 50_000), "54001"),
    ("select " + "- " * 40_000 + "1", "54001"),
    ("select 1" + " union select 1" * 30_000, "54001"),
]


@pytest.mark.parametrize(("text", "sqlstate"), PROBLEMS, ids=[text[:30] for text, _ in PROBLEMS])
def test_a_text_that_cannot_run_has_a_problem_and_is_unknown(shop: Catalogue, text: str, sqlstate: str) -> None:
    reading = done(shop, text)
    assert reading.problem is not None
    assert reading.problem.sqlstate == sqlstate
    assert has_unknown(reading)


def wrapped(rounds: int, before: str, after: str) -> str:
    """Brackets in brackets, each with more around it than nests by itself."""
    text = "1"
    for _ in range(rounds):
        text = before + text + after
    return "select " + text


CRAMMED = [
    wrapped(300, "(", " + 1" * 300 + ")"),
    wrapped(300, "(", " between 1 and 2" + " is null" * 300 + ")"),
    wrapped(300, "(select ", ", 1" + " union select 1" * 100 + ")"),
    wrapped(300, "(case when a and b then ", " else 1 end" + " + 1" * 100 + ")"),
    "select " + " + ".join(["a.and"] * 20_000),
    wrapped(1500, "(select 1 as end, ", ")"),
    wrapped(1500, "(select 1 end, ", ")"),
    wrapped(300, "(select 1 as case, ", " + 1" * 100 + ")"),
    wrapped(100, "(select 1 from (select ", ", 2) x" + " join b on c and d" * 100 + ")"),
]


@pytest.mark.parametrize("text", CRAMMED, ids=range(len(CRAMMED)))
def test_nesting_in_nesting_does_not_get_to_the_grammar(shop: Catalogue, text: str) -> None:
    problem = done(shop, text).problem
    assert problem is not None
    assert problem.sqlstate == "54001"


def test_a_long_text_that_is_flat_is_read(shop: Catalogue) -> None:
    for text in (
        "insert into orders(id, note) values " + ", ".join(f"({n}, 'x' || {n})" for n in range(5000)),
        "select id from orders where " + " or ".join(f"(id = {n} and status = 'a')" for n in range(5000)),
        "select id from orders where id in (" + ", ".join(map(str, range(20_000))) + ")",
        " union all ".join(["select id from orders where id between 1 and 2"] * 300),
        "select case " + " ".join(f"when id = {n} then {n} + 1" for n in range(3000)) + " end from orders",
    ):
        assert done(shop, text).problem is None


def test_the_search_path_decides_which_table_is_meant(shop: Catalogue) -> None:
    assert effects(shop, "select id from orders", search_path=("shadow", "public")) == {
        "read table shadow.orders (id) as output"
    }
    assert done(shop, "select id from orders", search_path=()).problem is not None


def test_a_change_of_search_path_holds_for_what_follows_in_the_text(shop: Catalogue) -> None:
    assert "read table shadow.orders (id) as output" in effects(shop, "set search_path = shadow; select id from orders")


def test_a_temporary_table_goes_before_all_others(shop: Catalogue) -> None:
    made = done(shop, "create temp table customers (id int, mine text)").statements[0].change
    assert isinstance(made, ChangeCatalogue)
    assert effects(shop, "select mine from customers", created=made.created) == {
        "read table pg_temp.customers (mine) as output"
    }


def test_a_table_made_by_the_text_is_known_to_its_later_part(shop: Catalogue) -> None:
    reading = done(shop, "create table t (a int); alter table t add column b int; insert into t(b) values (1); drop table t")
    assert not has_unknown(reading)
    assert done(shop, "drop table orders; select 1 from orders").problem is not None


def test_a_table_that_goes_with_its_transaction_says_so(shop: Catalogue) -> None:
    for text in (
        "create temp table customers (card_number text) on commit drop",
        "create temp table customers on commit drop as select 'x' as card_number",
    ):
        change = done(shop, text).statements[0].change
        assert isinstance(change, ChangeCatalogue)
        assert [each.fleeting for each in change.created] == [True]
    assert has_unknown(done(shop, "create temp table staging (v text) on commit drop; commit; select v from staging"))


def test_a_table_under_another_name_leaves_its_old_one(shop: Catalogue) -> None:
    made = done(shop, "create temp table customers (card_number text)").statements[0].change
    assert isinstance(made, ChangeCatalogue)
    change = done(shop, "alter table customers rename to others", created=made.created).statements[0].change
    assert isinstance(change, ChangeCatalogue)
    assert change.dropped == (("pg_temp", "customers"),)
    assert [(each.schema, each.name) for each in change.created] == [("pg_temp", "others")]


def test_a_column_added_to_a_table_is_known_to_the_later_part(shop: Catalogue) -> None:
    text = "select note from orders; alter table orders add column extra int; select extra from orders"
    assert not has_unknown(done(shop, text))
    assert done(shop, "select extra from orders").problem is not None


MIXED = [
    "alter table orders rename to payroll_two; select 1 from orders",
    "rollback; select 1 from orders",
    "create view orders_two as select 1; select 1 from orders",
    "set role limited; select 1 from orders",
]


@pytest.mark.parametrize("text", MIXED)
def test_a_text_that_changes_its_own_meaning_is_unknown(shop: Catalogue, text: str) -> None:
    assert has_unknown(done(shop, text))


# --- what is kept of a session


def test_prepare_keeps_the_very_text_and_execute_does_what_it_says(shop: Catalogue) -> None:
    reading = done(shop, 'prepare "é as" (int) as /* as */ select card_number from customers where id = $1')
    change = reading.statements[0].change
    assert isinstance(change, Prepare)
    assert change.name == "é as"
    assert reading.parameters == 0
    later = done(shop, 'execute "é as"(1)', prepared={change.name: change.text})
    assert sources(later) == [{"public.customers.card_number"}]


def test_prepare_and_execute_in_one_text(shop: Catalogue) -> None:
    reading = done(shop, "prepare p as delete from payroll; execute p")
    assert "delete table public.payroll" in {str(each) for each in reading.effects}


def test_fetch_shows_what_its_cursor_declared(shop: Catalogue) -> None:
    change = done(shop, "declare c cursor with hold for select id, card_number from customers").statements[0].change
    assert isinstance(change, DeclareCursor)
    assert change.hold
    assert sources(done(shop, "fetch 2 from c", cursors={"c": change.outputs}))[1] == {"public.customers.card_number"}
    assert sources(done(shop, "declare d cursor for select card_number from customers; fetch d", cursors={}), 1)[0]


def test_pg_dumps_way_to_empty_the_search_path_is_tracked(shop: Catalogue) -> None:
    reading = done(shop, "SELECT pg_catalog.set_config('search_path', '', false);")
    assert reading.statements[0].change == SetSearchPath(())
    assert not has_unknown(reading)


def test_the_users_own_schema_is_in_the_path_where_there_is_one(shop: Catalogue) -> None:
    assert done(shop, 'set local search_path to "$user", public').statements[0].change == SetSearchPath(("public",), True)


def test_transaction_control_is_named(shop: Catalogue) -> None:
    changes = [each.change for each in done(shop, "begin; savepoint a; rollback to a; commit and chain").statements]
    assert changes == [
        Transaction("begin"),
        Transaction("savepoint", "a"),
        Transaction("rollback to", "a"),
        Transaction("commit", None, True),
    ]


def test_the_highest_parameter_is_counted(shop: Catalogue) -> None:
    assert done(shop, "select $2::int, id from orders where id = $7 limit $3").parameters == 7


def test_a_password_is_hidden_where_the_text_is_shown(shop: Catalogue) -> None:
    reading = done(shop, "alter role limited password 'hunter2hunter2'")
    assert reading.sensitive
    assert "hunter2" not in reading.shown


# --- what any text may be


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            [
                "select",
                "from",
                "orders",
                "(",
                ")",
                ",",
                "*",
                "customers",
                "where",
                "=",
                "1",
                "'a'",
                "with",
                "as",
                "x",
                "union",
                "all",
                "join",
                "on",
                "lateral",
                "insert",
                "into",
                "values",
                "update",
                "set",
                "delete",
                "returning",
                "::",
                "text",
                ".",
                "order by",
                "group by",
                "card_number",
                "$1",
                ";",
                "case",
                "when",
                "then",
                "end",
                "array",
                "[",
                "]",
                "row",
                "copy",
                "to",
                "stdout",
                "create",
                "table",
                "alter",
                "add",
                "drop",
                "explain",
                "analyze",
                "prepare",
                "execute",
                "merge",
                "using",
                "crm",
                "null",
            ]
        ),
        max_size=14,
    ).map(" ".join)
)
def test_no_text_raises(shop: Catalogue, text: str) -> None:
    reading = done(shop, text)
    assert reading.problem is None or has_unknown(reading)


ABSTRACT = (pglast.ast.Node, pglast.ast.Expr)
NODES = [
    kind
    for kind in vars(pglast.ast).values()
    if isinstance(kind, type) and issubclass(kind, pglast.ast.Node) and kind not in ABSTRACT
]


@pytest.mark.parametrize("kind", NODES, ids=[kind.__name__ for kind in NODES])
def test_every_node_of_the_grammar_is_known_or_unknown(shop: Catalogue, kind: type[pglast.ast.Node]) -> None:
    reader = Commands(State(shop, session(shop)))
    if kind not in commands.COMMANDS:
        reader.command(kind(), "")
        assert not reader.touched.is_clear()
    reader = Commands(State(shop, session(shop)))
    if kind not in expressions.READERS:
        reader.expression(kind(), Scope())
        assert not reader.touched.is_clear()


def test_a_generated_column_is_computed_from_what_it_is_made_of(shop: Catalogue) -> None:
    columns = (
        TableColumn(1, "id", 23),
        TableColumn(2, "card_number", 25),
        TableColumn(3, "back", 25, "reverse(card_number)", generated=True),
        TableColumn(4, "twice", 23, "(id * 2)", generated=True),
        TableColumn(5, "odd", 25, "this cannot be parsed", generated=True),
    )
    created = (Relation(0, "public", "made", "r", columns),)

    def of(text: str) -> set[Use]:
        effects = done(shop, text, created=created).effects
        return {e.use for e in effects if e.thing.name == "public.made" and "card_number" in e.fields and e.use is not None}

    for text in (
        "select back from made",
        "select * from made",
        "select odd from made",
        "select id from made where back = 'x'",
    ):
        assert Use.COMPUTE in of(text)
    assert of("select twice, id from made") == set()
    assert Use.COMPUTE in of("update made set id = 1 returning back")


@pytest.mark.parametrize(
    ("text", "is_odd"),
    [
        ("copy orders to stdout", False),
        ("copy orders to stdout (format csv, delimiter ';', quote '''', escape '\\', encoding 'utf-8')", False),
        ("copy orders to stdout (format csv, quote '4')", True),
        ("copy orders to stdout with csv escape '1'", True),
        ("copy orders to stdout (delimiter '-')", True),
        ("copy orders to stdout (encoding 'latin1')", True),
    ],
)
def test_copy_marks_that_values_may_hide_behind_are_told(shop: Catalogue, text: str, is_odd: bool) -> None:
    assert done(shop, text).statements[0].copies_oddly is is_odd
