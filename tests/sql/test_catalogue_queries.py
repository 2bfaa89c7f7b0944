"""The catalogue, read from a real server through the statements that the control process runs."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from appliance.errors import SluicegateError
from appliance.sql.catalogue import Catalogue, Function, Relation, UserType
from appliance.sql.catalogue_queries import QUERIES, VERSION_QUERY, build
from tests.scratch_postgres import ScratchPostgres

FIXTURE = Path(__file__).resolve().parents[1] / "bypasses" / "fixtures" / "postgres.sql"


def answers(server: ScratchPostgres, database: str, user: str = "postgres") -> dict[str, str]:
    """What the server answers to each query, asked as the module says."""
    found: dict[str, str] = {}
    with psycopg.connect(server.connection_string(database, user), autocommit=True) as connection:
        connection.execute("BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ; SET LOCAL search_path = ''")
        for name, query in QUERIES:
            ((found[name],),) = connection.execute(query).fetchall()
        connection.execute("COMMIT")
    return found


def read(server: ScratchPostgres, database: str, user: str = "postgres") -> Catalogue:
    return build(answers(server, database, user))


def version(server: ScratchPostgres, database: str) -> str:
    ((found,),) = server.run(VERSION_QUERY, database)
    assert isinstance(found, str)
    return found


def relation(catalogue: Catalogue, name: str, schema: str = "public") -> Relation:
    return catalogue.relation_by_name[schema, name]


def function(catalogue: Catalogue, name: str) -> Function:
    (found,) = catalogue.functions_by_name[name]
    return found


def user_type(catalogue: Catalogue, name: str) -> UserType:
    (found,) = [each for each in catalogue.types if each.name == name]
    return found


@pytest.fixture(scope="module")
def shop(scratch_postgres: ScratchPostgres) -> Catalogue:
    return read(scratch_postgres, scratch_postgres.fresh_database(FIXTURE))


@pytest.fixture
def database(scratch_postgres: ScratchPostgres) -> str:
    return scratch_postgres.fresh_database(FIXTURE)


def test_tables_have_their_columns_in_order(shop: Catalogue) -> None:
    assert [column.name for column in relation(shop, "dept").columns] == ["id", "title"]
    assert relation(shop, "payments").columns[1].type_oid == 20
    assert relation(shop, "orders").columns[4].default == "'2024-05-01'::date"


def test_a_view_has_its_query_with_every_name_qualified(shop: Catalogue) -> None:
    view = relation(shop, "hr_summary")
    assert view.kind == "v"
    assert view.definition is not None
    assert "public.payroll" in view.definition
    assert not view.rules


def test_system_relations_have_columns_and_no_definition(shop: Catalogue) -> None:
    stats = relation(shop, "pg_stats", "pg_catalog")
    assert "most_common_vals" in {column.name for column in stats.columns}
    assert stats.definition is None
    assert relation(shop, "columns", "information_schema").definition is None


def test_toast_tables_are_not_shown(shop: Catalogue) -> None:
    assert not [each for each in shop.relations if each.schema.startswith("pg_toast")]


def test_partitions_name_their_parent(shop: Catalogue) -> None:
    assert relation(shop, "events_2024").parents == (relation(shop, "events").oid,)


def test_triggers_name_their_events_and_function(shop: Catalogue) -> None:
    (trigger,) = relation(shop, "mailbox").triggers
    assert trigger.events == {"insert"}
    assert shop.function_by_oid[trigger.function].name == "t_mail"


def test_foreign_keys_are_not_triggers(shop: Catalogue) -> None:
    assert relation(shop, "payroll").triggers == ()
    assert relation(shop, "dept").triggers == ()


def test_foreign_keys_name_both_sides_and_what_they_do(shop: Catalogue) -> None:
    (key,) = [key for key in shop.foreign_keys if key.parent == relation(shop, "dept").oid]
    assert key.child == relation(shop, "payroll").oid
    assert (key.child_columns, key.parent_columns, key.on_delete, key.on_update) == (("dept_id",), ("id",), "c", "c")


def test_functions_have_their_language_and_the_text_of_sql(shop: Catalogue) -> None:
    assert function(shop, "top_pay").source == "select iban from payroll"
    assert function(shop, "top_pay").security_definer
    assert function(shop, "refresh_stats").source is None
    assert function(shop, "f_double").argument_types == (23,)
    assert function(shop, "purge_staging").kind == "p"


def test_system_functions_are_not_among_them(shop: Catalogue) -> None:
    assert not [each for each in shop.functions if each.schema in ("pg_catalog", "information_schema")]


def test_schemas_and_path_are_the_roles_own(shop: Catalogue) -> None:
    assert {"public", "app", "shadow", "pg_catalog", "information_schema"} <= shop.schemas
    assert shop.search_path == ("public",)
    assert shop.role == "postgres"
    assert shop.server_version // 10000 == 15
    assert shop.database.startswith("scratch_")
    assert not shop.event_triggers


@pytest.fixture(scope="module")
def odd(scratch_postgres: ScratchPostgres) -> Catalogue:
    """A database with one of everything that runs code without being called."""
    return read(
        scratch_postgres,
        scratch_postgres.fresh_database(
            """
            create extension citext; create extension btree_gin;
            create function checked(text) returns boolean language plpgsql immutable as $$ begin return true; end $$;
            create function atomic(a int, b int) returns int language sql begin atomic select a + b; select 2; end;
            create function returned(a int) returns int language sql return a + 1;
            create function shown(a int, out b int, out c text) language sql as 'select 1, ''x''';
            create function tabled(variadic a int[]) returns table(x int, y int) language sql as 'select 1, 2';
            create function pinned() returns int language sql set search_path = public as 'select 1';
            create function formless() returns setof record language sql as 'select 1';
            create function left_out(a int, b int default 1, c int default atomic(1, 2)) returns int
              language sql as 'select 1';
            create function noisy() returns event_trigger language plpgsql as $$ begin end $$;
            create function fired() returns trigger language plpgsql as $$ begin return new; end $$;
            create event trigger watching on ddl_command_end execute function noisy();
            create domain careful as text default lower('A') check (checked(value));
            create type pair as (one careful, two int);
            create type span as range (subtype = careful);
            create table parts(id int generated always as identity, a text, b text generated always as (upper(a)) stored,
              c careful, gone int, check (checked(a)));
            alter table parts drop column gone;
            create index on parts (lower(a)) where length(b) > 3;
            create policy mine on parts using (checked(b)) with check (a <> '');
            create rule shadowing as on insert to parts do also select 1;
            create trigger changed before update or delete on parts for each row when (old.a <> 'x) EXECUTE FUNCTION y()')
              execute function fired();
            create trigger off before insert on parts for each row execute function fired();
            alter table parts disable trigger off;
            create trigger quiet before update on parts for each row execute function suppress_redundant_updates_trigger();
            create operator === (leftarg = text, rightarg = text, function = textne);
            create function made(text) returns pair language sql as 'select null::pair';
            create cast (text as pair) with function made(text) as implicit;
            create function pg_catalog.lower(int) returns text language sql as 'select ''mine''';
            create table "Odd ""one" (id int);
            create view expr as select pg_catalog.lower(1) as l;
            create materialized view kept as select 1 as one;
            create table tree(k int) partition by list (lower(k::text));
            """
        ),
    )


def test_everything_that_runs_when_a_row_is_touched_is_an_expression(odd: Catalogue) -> None:
    expressions = relation(odd, "parts").expressions
    for part in ("checked(a)", "lower(a)", "length(b)", "checked(b)", "a <> ''", "old.a <>"):
        assert [text for text in expressions if part in text.replace("public.", "").lower()], part
    assert [text for text in relation(odd, "tree").expressions if "lower(" in text]


def test_dropped_columns_are_gone_and_generated_ones_marked(odd: Catalogue) -> None:
    columns = relation(odd, "parts").columns
    assert [column.name for column in columns] == ["id", "a", "b", "c"]
    assert [column.generated for column in columns] == [False, False, True, False]


def test_rules_and_triggers_that_are_on_are_told(odd: Catalogue) -> None:
    parts = relation(odd, "parts")
    assert parts.rules
    (trigger,) = parts.triggers
    assert (trigger.name, trigger.events) == ("changed", {"update", "delete"})


def test_bodies_of_the_standards_sort_are_statements(odd: Catalogue) -> None:
    atomic = function(odd, "atomic").source
    assert atomic is not None
    assert [part.split() for part in atomic.split(";")] == [["SELECT", "(a", "+", "b)"], ["SELECT", "2"], []]
    assert function(odd, "returned").source == "SELECT (a + 1)\n"


def test_functions_tell_their_arguments_columns_settings_and_extension(odd: Catalogue) -> None:
    assert function(odd, "shown").argument_names == ("a",)
    assert function(odd, "shown").columns == ("b", "c")
    assert function(odd, "tabled").columns == ("x", "y")
    assert function(odd, "tabled").argument_types == (1007,)
    assert function(odd, "made").columns == ("one", "two")
    assert function(odd, "atomic").columns == ("atomic",)
    assert function(odd, "formless").columns is None
    assert function(odd, "left_out").argument_defaults == ("1, public.atomic(1, 2)",)
    assert function(odd, "atomic").argument_defaults == ()
    assert function(odd, "pinned").settings == ("search_path=public",)
    assert function(odd, "citext_eq").extension == "citext"
    assert function(odd, "citext_eq").language == "c"


def test_a_users_function_in_the_systems_schema_is_a_users(odd: Catalogue) -> None:
    assert "pg_catalog" in {each.schema for each in odd.functions_by_name["lower"]}


def test_types_tell_what_their_parts_run(odd: Catalogue) -> None:
    checks = user_type(odd, "careful").expressions
    assert any("checked" in text for text in checks)
    assert any("lower" in text for text in checks)
    for name in ("_careful", "pair", "_pair", "span", "_span", "parts"):
        assert set(checks) <= set(user_type(odd, name).expressions), name
    citext = user_type(odd, "citext")
    assert {odd.function_by_oid[oid].name for oid in citext.functions} >= {"citextin", "citextout", "citext_cmp"}


def test_operators_casts_and_event_triggers_are_told(odd: Catalogue) -> None:
    assert [each.function for each in odd.operators if each.name == "==="] == [157]
    assert function(odd, "made").oid in odd.casts
    assert odd.event_triggers


def test_extensions_relations_and_odd_names_are_told(odd: Catalogue) -> None:
    assert relation(odd, 'Odd "one').kind == "r"
    assert relation(odd, "kept").kind == "m"
    assert relation(odd, "kept").definition is not None


@pytest.mark.parametrize(
    "change",
    [
        "create table fresh(id int)",
        "alter table staging add column more int",
        "alter table staging rename column v to w",
        "alter table staging alter column v set default 'x'",
        "alter table staging set schema app",
        "drop table staging",
        "create view fresh as select 1 as one",
        "create or replace view crm as select id, name, ssn as token, email as contact from customers",
        "create function fresh() returns int language sql as 'select 1'",
        "create or replace function f_double(int) returns int language sql as 'select $1*3'",
        "create trigger fresh before insert on staging for each row execute function t_mail()",
        "alter table mailbox disable trigger mail_trg",
        "alter table tickets add constraint fresh foreign key (id) references staging(id)",
        "alter table staging add check (length(v) > 0) not valid",
        "create policy fresh on staging using (true)",
        "create rule fresh as on insert to staging do also notify staging",
        "create index on staging (lower(v))",
        "create domain fresh as text check (value <> '')",
        "create schema fresh",
        "alter table staging inherit mine",
        "create extension citext",
        "create operator === (leftarg = text, rightarg = text, function = texteq)",
        "alter role current_user in database {database} set search_path = app",
        "alter database {database} set search_path = app",
        "create event trigger fresh on ddl_command_end execute function noisy()",
    ],
)
def test_a_change_of_the_catalogue_changes_the_version(
    scratch_postgres: ScratchPostgres, database: str, change: str
) -> None:
    scratch_postgres.run(
        "create table mine(id int not null, v text);"
        "create function noisy() returns event_trigger language plpgsql as 'begin end';",
        database,
    )
    before = version(scratch_postgres, database)
    scratch_postgres.run(change.format(database=database), database)
    assert version(scratch_postgres, database) != before


def test_rows_statistics_and_temporary_tables_leave_the_version_alone(
    scratch_postgres: ScratchPostgres, database: str
) -> None:
    before = version(scratch_postgres, database)
    scratch_postgres.run("insert into staging select g, 'x' from generate_series(100, 2000) g", database)
    scratch_postgres.run("update orders set amount = 1; delete from tickets", database)
    scratch_postgres.run("select nextval('payroll_id_seq')", database)
    scratch_postgres.run("truncate products", database)
    scratch_postgres.run("analyze", database)
    scratch_postgres.run("vacuum staging", database)
    assert version(scratch_postgres, database) == before
    with psycopg.connect(scratch_postgres.connection_string(database), autocommit=True) as other:
        other.execute("create temporary table passing(id serial primary key, v text check (v <> ''))")
        assert version(scratch_postgres, database) == before


def test_the_version_is_read_with_the_rest(scratch_postgres: ScratchPostgres, database: str) -> None:
    assert read(scratch_postgres, database).version == version(scratch_postgres, database)


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("public, app", ("public", "app")),
        ('"$user", app', ("visitor", "app")),
        ("nowhere, app", ("app",)),
        ("PUBLIC, closed, app", ("public", "app")),
        ('"Odd ""one", app, app', ('Odd "one', "app")),
        ("pg_catalog, app", ("app",)),
        ("app, pg_catalog", ("app", "pg_catalog")),
        ("app, pg_temp", ("app", "pg_temp")),
        ("''", ()),
    ],
)
def test_the_path_is_what_the_server_would_search(
    scratch_postgres: ScratchPostgres, setting: str, path: tuple[str, ...]
) -> None:
    database = scratch_postgres.fresh_database(
        'create schema app; create schema visitor; create schema "Odd ""one"; create schema closed'
    )
    scratch_postgres.run("do $$ begin create role visitor login; exception when duplicate_object then null; end $$")
    scratch_postgres.run('grant usage on schema app, visitor, "Odd ""one" to visitor', database)
    scratch_postgres.run(f"alter role visitor in database {database} set search_path = {setting}")
    catalogue = read(scratch_postgres, database, "visitor")
    assert catalogue.role == "visitor"
    assert catalogue.search_path == path


def test_an_empty_database_reads_too(scratch_postgres: ScratchPostgres) -> None:
    catalogue = read(scratch_postgres, scratch_postgres.fresh_database())
    assert not catalogue.functions
    assert not [each for each in catalogue.relations if each.oid >= 16384]


@pytest.mark.parametrize("name", [name for name, _ in QUERIES])
@pytest.mark.parametrize("text", [None, "", "{", "[[1]]", '{"database": 1}', '[["x", null, 3]]', "[[]]"])
def test_malformed_answers_are_refused_by_name(shop_answers: dict[str, str], name: str, text: str | None) -> None:
    broken = dict(shop_answers)
    if text is None:
        del broken[name]
    else:
        broken[name] = text
    if name == "version" and text:
        assert build(broken).version == text
        return
    with pytest.raises(SluicegateError, match=name):
        build(broken)


@pytest.fixture(scope="module")
def shop_answers(scratch_postgres: ScratchPostgres) -> dict[str, str]:
    found = answers(scratch_postgres, scratch_postgres.fresh_database(FIXTURE))
    assert all(json.loads(text) is not None for name, text in found.items() if name != "version")
    return found
