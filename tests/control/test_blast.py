"""What a held command would do, asked of a real PostgreSQL: the figures are right, and asking does nothing."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from appliance.approvals.desk import Figure
from appliance.control.blast import APPLICATION_NAME, AT_ONCE_MAX, BURST_MAX, BlastRadius, Statement
from appliance.control.catalogues import Catalogues
from appliance.control.probing import DEADLINE_SECONDS, LOCK_SECONDS, STATEMENT_SECONDS
from appliance.credentials.vault import Vault
from appliance.ipc.messages import Settled
from appliance.parties import Endpoint, Scope
from appliance.settings import (
    CredentialSettings,
    NetworkSettings,
    ResourceSettings,
    Settings,
    TargetTls,
    TlsSettings,
)
from appliance.sql.foresight import ROWS_MAX, TEXT_LENGTH_MAX
from tests.control.hosting import Hosted, asking, hold, run, shown, worker
from tests.scratch_postgres import ScratchPostgres

SHOP = Path(__file__).with_name("shop.sql")

# Whoever runs it is found in the server's log, whatever becomes of the transaction.
EVIL = """
create function evil(int) returns int language plpgsql immutable as
  $$begin raise log 'EVIL RAN IN %', current_database(); return $1; end$$;
create table orders (id int primary key, state text, total int);
insert into orders select n, 'open', n from generate_series(1, 10) n;
"""


@dataclass
class Looking:
    """A blast radius of our own, on one database."""

    blast: BlastRadius
    database: str
    server: ScratchPostgres

    async def at(self, text: str, *arguments: tuple[str, str | None], agent: str = "migrator", **other: Any) -> list[str]:
        """The lines about a statement, each as "state label: value (detail)"."""
        return [line(figure) for figure in await self.figures(text, *arguments, agent=agent, **other)]

    async def figures(
        self, text: str, *arguments: tuple[str, str | None], agent: str = "migrator", **other: Any
    ) -> tuple[Figure, ...]:
        return await self.blast.of(self.statement(text, *arguments, **other), agent)

    def statement(self, text: str, *arguments: tuple[str, str | None], **other: Any) -> Statement:
        known: dict[str, Any] = {"search_path": ("public",), "is_private": False, "in_transaction": False} | other
        return Statement("shop", self.database, text, arguments, **known)

    def asked(self) -> int:
        """How many connections of ours the server has at this moment."""
        return len(self.server.run(f"select 1 from pg_stat_activity where application_name = '{APPLICATION_NAME}'"))

    def evils(self) -> int:
        """How often the evil function has run in this database."""
        return (self.server.folder.parent / "log").read_text().count(f"EVIL RAN IN {self.database}\n")


def line(figure: Figure) -> str:
    return f"{figure.state} {figure.label}: {figure.value}" + (f" ({figure.detail})" if figure.detail else "")


@contextlib.asynccontextmanager
async def looking(
    server: ScratchPostgres, database: str, folder: Path, user: str = "postgres", clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Looking]:
    password = folder / "password"
    password.write_text("pencil\n")
    password.chmod(0o600)
    endpoint = Endpoint(server.host, server.port)
    settings = Settings(
        agents=(),
        resources=(ResourceSettings("shop", "postgres", (endpoint,), "owner", TlsSettings(target=TargetTls.DISABLE)),),
        credentials=(CredentialSettings("owner", user, str(password)),),
        networks=NetworkSettings(("lo",)),
        policies=(),
    )
    vault = Vault(settings, time.monotonic)
    catalogues = Catalogues(settings, vault, lambda _resource, _database: None, lambda _r, _d: False, time.monotonic)
    blast = BlastRadius(settings, vault, catalogues, lambda _approval, _figures: None, clock)
    try:
        yield Looking(blast, database, server)
    finally:
        await blast.close()
        await catalogues.close()


# What is told, line by line.

SIZE = "estimated public.orders: about 1,000 rows in all, N kB (table and indexes)"
TRIGGER = "warning public.orders: trigger audit_orders runs (public.audit(); what it does is not counted)"
ROLE = "fact worked out as: postgres (by a read-only connection of its own, with the account's own settings)"
WHOLE = "fact public.orders: is locked as a whole while it runs"

TOLD: list[tuple[str, tuple[tuple[str, str | None], ...], list[str]]] = [
    (
        "delete from orders where state = 'open' and total > $1",
        (("numeric", "900"),),
        [
            "counted public.orders: 50 rows deleted",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            SIZE,
            "counted public.order_items: 150 rows deleted by cascade (foreign key order_items_order_id_fkey)",
            "counted public.item_notes: no row set to NULL by cascade (foreign key item_notes_item_fkey)",
            "counted public.invoices: no row refers to them (foreign key invoices_order_id_fkey)",
            TRIGGER,
            ROLE,
        ],
    ),
    (
        "delete from orders using customers c where c.id = orders.customer and c.name like 'c1%' returning orders.*",
        (),
        [
            "counted public.orders: 120 rows deleted",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            SIZE,
            "counted public.order_items: 360 rows deleted by cascade (foreign key order_items_order_id_fkey)",
            "counted public.item_notes: 10 rows set to NULL by cascade (foreign key item_notes_item_fkey)",
            "warning public.invoices: 2 rows refer to them: it will fail unless they go too "
            "(foreign key invoices_order_id_fkey)",
            TRIGGER,
            ROLE,
        ],
    ),
    (
        "delete from tree",
        (),
        [
            "counted public.tree: 3 rows deleted",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            "warning public.tree: every row (the statement has no WHERE)",
            "estimated public.tree: about 3 rows in all, N kB (table and indexes)",
            "counted public.tree: 2 rows deleted by cascade (foreign key tree_parent_fkey)",
            ROLE,
        ],
    ),
    (
        "update customers set id = id + 1000, name = $2 where id < $1",
        (("int4", "5"), ("text", "it's; --")),
        [
            "counted public.customers: 4 rows updated",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            "estimated public.customers: about 100 rows in all, N kB (table and indexes)",
            "counted public.orders: at most 40 rows changed along with the key (foreign key orders_customer_fkey)",
            ROLE,
        ],
    ),
    (
        "update orders o set state = c.name from customers c join tree t on t.id = c.id where o.customer = c.id",
        (),
        [
            "counted public.orders: 30 rows updated",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            SIZE,
            ROLE,
        ],
    ),
    (
        "update customers set name = 'x'",
        (),
        [
            "counted public.customers: 100 rows updated",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            "warning public.customers: every row (the statement has no WHERE)",
            "estimated public.customers: about 100 rows in all, N kB (table and indexes)",
            ROLE,
        ],
    ),
    (
        "with x as (select id from orders where id < 5), "
        "gone as (delete from order_items where order_id in (select id from x)) update tree set parent = null where id = 3",
        (),
        [
            "counted public.tree: 1 row updated",
            "counted public.order_items: 12 rows deleted",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            "estimated public.tree: about 3 rows in all, N kB (table and indexes)",
            "estimated public.order_items: about 3,000 rows in all, N kB (table and indexes)",
            "counted public.item_notes: 3 rows set to NULL by cascade (foreign key item_notes_item_fkey)",
            ROLE,
        ],
    ),
    (
        "with gone as (delete from order_items where id < 10 returning order_id) "
        "delete from tree where id in (select order_id from gone)",
        (),
        [
            "unknown public.tree: rows deleted: not counted: it works on what another part of the statement writes",
            "counted public.order_items: 9 rows deleted",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            "estimated public.tree: about 3 rows in all, N kB (table and indexes)",
            "estimated public.order_items: about 3,000 rows in all, N kB (table and indexes)",
            "counted public.item_notes: 9 rows set to NULL by cascade (foreign key item_notes_item_fkey)",
            ROLE,
        ],
    ),
    (
        "insert into tree select id + 5000, null from orders where id < 7 on conflict do nothing",
        (),
        [
            "counted public.tree: at most 6 rows inserted",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            "estimated public.tree: about 3 rows in all, N kB (table and indexes)",
            ROLE,
        ],
    ),
    (
        "insert into tree values (10, null), (11, 10)",
        (),
        [
            "counted public.tree: 2 rows inserted (by its own text)",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            "estimated public.tree: about 3 rows in all, N kB (table and indexes)",
            ROLE,
        ],
    ),
    (
        "merge into tree t using customers c on t.id = c.id when matched then delete "
        "when not matched then insert values (c.id, null)",
        (),
        [
            "counted public.tree: at most 3 rows changed where matched",
            "counted public.tree: at most 97 rows inserted where not matched",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            "estimated public.tree: about 3 rows in all, N kB (table and indexes)",
            "counted public.tree: at most 2 rows deleted by cascade (foreign key tree_parent_fkey)",
            ROLE,
        ],
    ),
    (
        "truncate orders cascade",
        (),
        [
            "counted public.orders: 1,000 rows removed",
            SIZE,
            WHOLE,
            "counted public.order_items: 3,000 rows removed by cascade (foreign key order_items_order_id_fkey)",
            "counted public.invoices: 10 rows removed by cascade (foreign key invoices_order_id_fkey)",
            "counted public.item_notes: 50 rows removed by cascade (foreign key item_notes_item_fkey)",
            ROLE,
        ],
    ),
    (
        "truncate orders",
        (),
        [
            "counted public.orders: 1,000 rows removed",
            SIZE,
            WHOLE,
            "warning public.order_items: refers to it: the statement will fail (foreign key order_items_order_id_fkey)",
            "warning public.invoices: refers to it: the statement will fail (foreign key invoices_order_id_fkey)",
            ROLE,
        ],
    ),
    (
        "drop table orders cascade",
        (),
        [
            "counted public.orders: 1,000 rows dropped",
            SIZE,
            WHOLE,
            "warning dropped by cascade: view public.v_open",
            "warning dropped by cascade: constraint order_items_order_id_fkey on table public.order_items",
            "warning dropped by cascade: constraint invoices_order_id_fkey on table public.invoices",
            "warning dropped by cascade: view public.v_few",
            ROLE,
        ],
    ),
    (
        "drop table orders",
        (),
        [
            "counted public.orders: 1,000 rows dropped",
            SIZE,
            WHOLE,
            "warning dependents: others depend on it: the statement will fail (view public.v_open and more)",
            ROLE,
        ],
    ),
    ("alter table orders add column note text", (), [SIZE, WHOLE, ROLE]),
    (
        "delete from parts where at < '2026-02-01'",
        (),
        [
            "counted public.parts: 310 rows deleted",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            "estimated public.parts: about 500 rows in all, N kB (table and indexes)",
            "estimated public.parts: visits 1 of its 2 partitions (as far as planning can tell)",
            ROLE,
        ],
    ),
    (
        "delete from v_few",
        (),
        [
            "counted public.v_few: 4 rows deleted",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            "warning public.v_few: every row (the statement has no WHERE)",
            "warning public.v_few: is a view (keys and triggers of the tables behind it are not followed)",
            ROLE,
        ],
    ),
    (
        "select * from orders order by id limit 5",
        (),
        [
            "counted rows: 5 rows returned",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            ROLE,
        ],
    ),
    (
        "copy (select * from orders where id < 3) to stdout",
        (),
        [
            "counted rows: 2 rows returned",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            ROLE,
        ],
    ),
    (
        "delete from tree where id = 1; delete from customers where id = 0",
        (),
        [
            "fact statement 1: Delete",
            "counted public.tree: 1 row deleted",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            "estimated public.tree: about 3 rows in all, N kB (table and indexes)",
            "counted public.tree: 1 row deleted by cascade (foreign key tree_parent_fkey)",
            "fact statement 2: Delete",
            "counted public.customers: no row deleted",
            "estimated planner's estimate: about N rows (cost N in the planner's own unit)",
            "estimated public.customers: about 100 rows in all, N kB (table and indexes)",
            "counted public.orders: no row deleted by cascade (foreign key orders_customer_fkey)",
            "counted public.order_items: no row deleted by cascade (foreign key order_items_order_id_fkey)",
            "unknown public.item_notes: rows set to NULL by cascade: not counted: more than 2 keys away "
            "(foreign key item_notes_item_fkey)",
            "counted public.invoices: no row refers to them (foreign key invoices_order_id_fkey)",
            TRIGGER,
            ROLE,
        ],
    ),
]


def without_guesses(lines: list[str]) -> list[str]:
    """The planner's numbers differ between versions and runs of ANALYZE, and a table has some pages more or less; that there
    are any is what counts."""
    found = []
    for each in lines:
        each = re.sub(r"\d+ kB", "N kB", each)
        if each.startswith("estimated planner's estimate: about "):
            rows, _, rest = each.removeprefix("estimated planner's estimate: about ").partition(" row")
            cost = rest.partition("(cost ")[2].partition(" ")[0]
            assert int(rows.replace(",", "")) >= 1
            assert int(cost.replace(",", "")) >= 0
            each = "estimated planner's estimate: about N rows (cost N in the planner's own unit)"
        found.append(each)
    return found


@pytest.mark.parametrize(("text", "arguments", "expected"), TOLD, ids=[text[:40] for text, _, _ in TOLD])
def test_what_a_statement_would_do_is_told_in_order_of_weight(
    text: str,
    arguments: tuple[tuple[str, str | None], ...],
    expected: list[str],
    scratch_postgres: ScratchPostgres,
    tmp_path: Path,
) -> None:
    database = scratch_postgres.fresh_database(SHOP)

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            assert without_guesses(await one.at(text, *arguments)) == expected
            await until(lambda: one.asked() == 0)

    before = dump(scratch_postgres, database)
    run(body())
    assert dump(scratch_postgres, database) == before


def dump(server: ScratchPostgres, database: str) -> list[tuple[object, ...]]:
    """Everything that the statements of these tests could change."""
    return server.run(
        "select 1, count(*), sum(id), max(state) from orders union all select 2, count(*), sum(id), '' from order_items "
        "union all select 3, count(*), sum(id), max(name) from customers "
        "union all select 4, count(*), sum(id), '' from tree "
        "union all select 5, count(*), sum(id), '' from parts order by 1",
        database,
    )


def test_an_open_transaction_is_said_to_be_invisible(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(SHOP)

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            lines = await one.at("delete from tree where id = 1", in_transaction=True)
            assert any(each.startswith("warning open transaction: its own changes are not counted") for each in lines)

    run(body())


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"is_private": True}, "tables that nobody else sees"),
        ({"search_path": None}, "not known where the session looks up names"),
    ],
)
def test_what_a_name_means_has_to_be_known(
    other: dict[str, Any], why: str, scratch_postgres: ScratchPostgres, tmp_path: Path
) -> None:
    async def body() -> None:
        async with looking(scratch_postgres, "postgres", tmp_path) as one:
            (only,) = await one.at("delete from tree", **other)
            assert why in only

    run(body())


def test_names_are_looked_up_where_the_session_does(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(
        'create schema "a b"; create table "a b".t (id int); create table public.t (id int); '
        'insert into "a b".t values (1), (2)'
    )

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            assert (await one.at("delete from t", search_path=("a b", "public")))[0] == "counted a b.t: 2 rows deleted"
            assert (await one.at("delete from t"))[0] == "counted public.t: no row deleted"
            (only,) = await one.at("delete from t", search_path=())
            assert "cannot be read" in only

    run(body())


def test_a_text_that_changes_its_own_names_is_not_counted(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(EVIL + "create schema s; create table s.orders (id int)")

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            for before in ("set search_path = s", "create table new (id int)", "set role postgres", "discard all"):
                (only,) = await one.at(f"{before}; delete from orders")
                assert "changes what names mean" in only
            assert "counted public.orders: 10 rows deleted" in await one.at("begin; delete from orders")

    run(body())


def test_long_statements_are_followed_as_far_as_a_second_goes(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    keys = "".join(f"create table c{n} (o int references orders on delete cascade);" for n in range(45))
    database = scratch_postgres.fresh_database("create table orders (id int primary key);" + keys)
    text = "delete from orders where " + " or ".join(f"id = {n}" for n in range(2400))
    assert len(text) < TEXT_LENGTH_MAX

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            started = time.monotonic()
            lines = await one.at(text)
            assert time.monotonic() - started < 10
            assert lines[0] == "counted public.orders: no row deleted"
            assert any("too long to be followed that far" in each for each in lines)
            lines = await one.at("delete from orders")
            assert "warning more: it reaches further than is followed here" in lines
            assert len(lines) < 80

    run(body())


def test_row_security_counts_as_it_does_for_the_account(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(
        "create table orders (id int, owner text); insert into orders select n, case when n < 4 then 'clerk' else 'x' end "
        "from generate_series(1, 10) n; alter table orders enable row level security; "
        "create policy own on orders using (owner = current_user); drop role if exists clerk; create role clerk login; "
        "grant all on orders to public"
    )

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path, "clerk") as one:
            assert (await one.at("delete from orders"))[0] == (
                "counted public.orders: 3 rows deleted "
                "(as far as the account may read them: row security may leave some out)"
            )

    run(body())


def test_an_account_that_may_not_learns_nothing(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(
        "drop role if exists stranger; create role stranger login; "
        "create table orders (id int); insert into orders values (1)"
    )

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path, "stranger") as one:
            lines = await one.at("delete from orders where id = 1")
            assert lines[:2] == [
                "unknown public.orders: rows deleted: not counted: the account may not read it",
                "warning planner's estimate: the account may not do this: the target will refuse it",
            ]

    run(body())


def test_a_large_table_is_counted_up_to_a_bound(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(f"create table orders as select generate_series(1, {ROWS_MAX + 5}) id")

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            assert (await one.at("delete from orders"))[0] == "counted public.orders: more than 100,000 rows deleted"

    run(body())


# Asking runs nothing of anybody's.

_DELETE = "delete from orders where id = 1"

HIDDEN: list[tuple[str, str, str]] = [
    ("in a condition", "", "delete from orders where id = evil(1)"),
    ("in a condition, folded", "", "delete from orders where id = 1 + evil(1) * 0"),
    ("in what is set", "", "update orders set total = evil(1)"),
    ("in values", "", "insert into orders values (evil(11), 'x', 1)"),
    ("in what is returned", "", "delete from orders where id = 1 returning evil(1)"),
    ("in an order", "", "select * from orders order by evil(1)"),
    ("in a limit", "", "select * from orders limit evil(1)"),
    ("in WITH", "", "with x as (select evil(1)) delete from orders using x where id = evil"),
    (
        "in WITH that nothing uses",
        "",
        "with x as materialized (select evil(1)) delete from orders where id in (select 1 from x)",
    ),
    ("in FROM", "", "delete from orders using evil(1) e where id = e"),
    (
        "as an attribute",
        "create function worth(orders) returns int language sql immutable as 'select evil(1)'",
        "delete from orders where orders.worth = 1",
    ),
    (
        "in SQL",
        "create function outer_one() returns int language sql immutable as 'select evil(1)'",
        "delete from orders where id = outer_one()",
    ),
    (
        "in BEGIN ATOMIC",
        "create function outer_one() returns int language sql immutable return evil(1)",
        "delete from orders where id = outer_one()",
    ),
    (
        "in an argument's default",
        "create function outer_one(int default evil(1)) returns int language sql immutable as 'select $1'",
        "delete from orders where id = outer_one()",
    ),
    (
        "in an aggregate",
        "create function next_one(int, int) returns int language sql immutable as 'select evil($1)'; "
        "create aggregate total_evil(int) (sfunc = next_one, stype = int, initcond = 0)",
        "delete from orders where id = (select total_evil(id) from orders)",
    ),
    ("in a view", "create view v as select * from orders where id >= evil(1)", "delete from v"),
    (
        "in a view of a view",
        "create view w as select * from orders where id >= evil(1); create view v as select * from w",
        "delete from v",
    ),
    (
        "in a policy",
        "alter table orders enable row level security; alter table orders force row level security; "
        "create policy p on orders using (id >= evil(1)); create role tenant_{} login; grant all on orders to tenant_{}",
        "delete from orders",
    ),
    (
        "in an operator",
        "create function same(int, text) returns boolean language sql immutable as 'select evil(1) = 1'; "
        "create operator === (leftarg = int, rightarg = text, function = same)",
        "delete from orders where id === 'x'",
    ),
    (
        "in a cast",
        "create type pair as (a int, b int); create function made(int) returns pair language sql immutable as "
        "'select row(evil($1), 1)::pair'; create cast (int as pair) with function made(int) as implicit",
        "delete from orders where (id::pair).a = 1",
    ),
    ("in a domain", "create domain checked as int check (evil(value) > 0)", "delete from orders where id = '1'::checked"),
    (
        "in a domain of a parameter",
        "create domain checked as int check (evil(value) > 0)",
        "delete from orders where id = 1::text::checked",
    ),
    (
        "in a column's default",
        "alter table orders add extra int default 0; alter table orders alter extra set default evil(1)",
        "insert into orders (id) values (20)",
    ),
    (
        "in a generated column",
        "alter table orders add extra int generated always as (evil(total)) stored",
        "update orders set total = 1",
    ),
    ("in an index", "create index on orders ((id + evil(1)))", _DELETE),
    ("in an index's predicate", "create index on orders (total) where id > evil(0)", _DELETE),
    ("in a check", "alter table orders add check (id >= evil(1))", "update orders set total = 5"),
    ("in statistics", "create statistics s on (id + evil(1)) from orders; analyze orders", _DELETE),
    (
        "in a partition's index",
        "create table parts (id int) partition by range (id); create table p1 partition of parts "
        "for values from (0) to (10); insert into parts values (1); create index on p1 ((id + evil(1)))",
        "delete from parts where id = 1",
    ),
    (
        "in a child's check",
        "create table child (check (id >= evil(1))) inherits (orders); insert into child values (50, 'x', 1)",
        "update orders set total = 5",
    ),
    ("in a rule", "create rule r as on delete to orders do also select evil(1)", _DELETE),
    (
        "in a trigger",
        "create function fires() returns trigger language plpgsql as 'begin perform evil(1); return old; end'; "
        "create trigger t before delete on orders for each row execute function fires()",
        _DELETE,
    ),
    (
        "in a trigger's condition",
        "create function fires() returns trigger language plpgsql as 'begin return old; end'; "
        "create trigger t before delete on orders for each row when (old.id = evil(1)) execute function fires()",
        _DELETE,
    ),
    (
        "behind a foreign key",
        "create table items (id int, order_id int references orders on delete cascade); "
        "insert into items values (1, 1); create index on items ((id + evil(1)))",
        _DELETE,
    ),
    (
        "in a range's difference, by statistics",
        "create function apart(int, int) returns float8 language plpgsql immutable as 'begin return evil($1 - $2); end'; "
        "create type span as range (subtype = int, subtype_diff = apart); create table spans (s span); "
        "insert into spans select span(n, n + 5) from generate_series(1, 500) n; analyze spans",
        "delete from spans where s && '[3,400)'",
    ),
    ("in EXPLAIN ANALYZE", "", "explain (analyze) select evil(1)"),
    ("in CREATE TABLE AS", "", "create table made as select evil(1)"),
    ("in COPY", "", "copy (select evil(1)) to stdout"),
    ("in DO", "", "do 'begin perform evil(1); end'"),
    ("in MERGE", "", "merge into orders o using (select 1 as id) s on o.id = evil(s.id) when matched then delete"),
    ("in a conflict", "", "insert into orders values (1) on conflict (id) do update set total = evil(1)"),
    ("in a second statement", "", "delete from orders where id = 5; select evil(1)"),
    ("after what looks like a comment", "", "delete from orders where state = 'x--' or id = evil(1) /* ' */"),
    (
        "under the system's name",
        "create schema s; create function s.abs(int) returns int language sql immutable as 'select public.evil($1)'",
        "delete from orders where id = s.abs(1)",
    ),
    (
        "through the search path",
        "create schema s; create function s.abs(int) returns int language sql immutable as 'select public.evil($1)'",
        "set search_path = s, pg_catalog, public; delete from orders where id = abs(1)",
    ),
]


@pytest.mark.parametrize(("setup", "text"), [each[1:] for each in HIDDEN], ids=[each[0] for each in HIDDEN])
def test_no_function_of_anybodys_runs(setup: str, text: str, scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(EVIL)
    scratch_postgres.run(setup.replace("{}", database) or "select 1", database)
    user = f"tenant_{database}" if "tenant_" in setup else "postgres"

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path, user) as one:
            before = one.evils()
            assert await one.at(text)
            assert one.evils() == before
            # And that it would have been noticed.
            with psycopg.connect(scratch_postgres.connection_string(database, user), autocommit=True) as connection:
                if text.startswith("copy"):
                    with connection.cursor().copy(text) as copy:
                        assert list(copy)
                else:
                    connection.execute(text)
            assert one.evils() > before

    try:
        run(body())
    finally:
        if user != "postgres":
            scratch_postgres.run(f"drop owned by {user}; drop role {user}", database)


OUTSIDE = [
    "delete from orders where id = (select pg_sleep(3) is null)::int",
    "delete from orders where pg_advisory_lock(7) is null",
    "delete from orders where (7).pg_advisory_lock is null",
    "delete from orders using pg_try_advisory_lock(7) l",
    "delete from orders where set_config('search_path', 'x', false) = 'x'",
    "delete from orders where nextval('counter') = 1",
    "delete from orders where lo_creat(-1) = 1",
    "delete from orders where pg_notify('a', 'b') is null",
    "delete from orders where pg_read_file('/etc/passwd') = ''",
    "delete from orders where pg_terminate_backend(id)",
    "delete from orders where query_to_xml('select 1', true, true, '') is null",
    "delete from orders where length(repeat('x', 500000000)) = id",
    "select * from pg_ls_dir('/')",
    "select * from pg_read_file('/etc/passwd')",
    "select set_config('search_path', 'x', false)",
    "delete from orders where id = (select count(*) from far)",
]


@pytest.mark.parametrize("text", OUTSIDE)
def test_functions_that_reach_outside_are_not_called(text: str, scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(
        EVIL + "create sequence counter; create extension file_fdw; create server files foreign data wrapper file_fdw; "
        "create foreign table far (a text) server files options (program 'touch /tmp/never')"
    )

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            started = time.monotonic()
            lines = await one.at(text)
            assert time.monotonic() - started < 2
            # Nothing was counted, nothing planned, and it is said why.
            assert not [each for each in lines if each.startswith(("counted", "estimated planner"))], lines
            assert any(each.startswith("unknown ") for each in lines)

    run(body())


def test_functions_of_the_system_and_what_only_uses_them_are_counted_with(
    scratch_postgres: ScratchPostgres, tmp_path: Path
) -> None:
    database = scratch_postgres.fresh_database(
        EVIL
        + "create function doubled(int) returns int language sql immutable as 'select $1 * 2'; create extension citext; "
        "create table words (w citext); insert into words values ('A'), ('a')"
    )

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            found = await one.at("delete from orders where id = doubled(2) or lower(state) = 'never' or now() is null")
            assert found[0] == "counted public.orders: 1 row deleted"
            assert (await one.at("delete from words where w = 'A'"))[0] == "counted public.words: 2 rows deleted"

    run(body())


TEXTS = [
    "delete from orders where id = 1; drop table orders",
    "delete from orders where id = 1) as x; drop table orders; --",
    "delete from orders where state = E'\\'; drop table orders; --'",
    "delete from orders where state = $$a$$ or state = $q$; drop table orders; $q$",
    'delete from orders where "id" = 1 /* /* nested */ ; drop table orders; */',
    "delete from orders where id = 1 -- \n; -- drop table orders",
    'delete from orders as "x) as counted; drop table orders; --" where id = 1',
    "delete from orders as referring_1_0 where id = 1",
    "delete from orders as counted where id = 1",
    'delete from U&"\\006frders" where id = 1',
    "explain analyze delete from orders",
    "explain (analyze, format json) delete from orders",
    "prepare p as delete from orders",
    "execute p",
    "declare c cursor with hold for select * from orders",
    "commit; delete from orders",
    "begin read write; delete from orders",
    "set transaction read write; delete from orders",
    "select * from orders for update",
    "with x as (delete from orders returning *) select * from x",
    "select * from (values ((select 1))) v, lateral (select * from orders) o",
    "delete from only orders * where id = 1" * 2,
    "delete from orders where current of c",
    "delete from orders where id = $1",
    "delete from orders where id = $2 and total = $1",
    "insert into orders default values",
    "insert into orders (select * from orders) union all (select * from orders)",
    "lock table orders",
    "vacuum full orders",
    "call nothing()",
    "",
    ";;",
    "\0",
    "select " + "(" * 3000 + "1" + ")" * 3000,
    "delete from orders where id in (" + ",".join(str(n) for n in range(6000)) + ")",
    "delete from orders where " + " or ".join(f"id = {n}" for n in range(1500)),
    "delete from orders where id = 1 /*" + "x" * TEXT_LENGTH_MAX + "*/",
]


def test_no_text_breaks_out_of_a_question(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(EVIL)
    arguments = (("int4", "1"), ("int4", "1; drop table orders"))

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            for number, text in enumerate(TEXTS):
                started = time.monotonic()
                assert await one.at(text, *(arguments if "$" in text else ()), agent=str(number)), text
                assert time.monotonic() - started < 10, text[:60]
            await until(lambda: one.asked() == 0)

    before = scratch_postgres.run("select count(*), sum(id), max(xmax::text::int) from orders", database)
    run(body())
    assert scratch_postgres.run("select count(*), sum(id), max(xmax::text::int) from orders", database) == before


def test_what_a_target_says_in_an_error_is_not_shown(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(
        "create table orders (id int, note text); insert into orders values (1, 'secret words')"
    )

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            for text in ("delete from orders where note::int = 1", "delete from orders where note = 'secret words'"):
                assert "secret" not in str(await one.figures(text))
            assert "4111" not in str(await one.figures("delete from orders where id = $1", ("int4", "4111111111111111")))

    run(body())


def test_a_parameter_that_could_not_be_read_is_not_counted_with(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(EVIL)

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            lines = await one.at("delete from orders where state = $1", ("", "\\x6f70656e"))
            assert lines[0] == (
                "unknown public.orders: rows deleted: not counted: a parameter came in a binary form that is not read here"
            )
            # Those that its condition does not use do not matter.
            lines = await one.at("update orders set state = $2 where id < $1", ("int4", "4"), ("", "\\x6f70656e"))
            assert lines[0] == "counted public.orders: 3 rows updated"

    run(body())


# Asking costs little, and nobody waits for it.

SLOW = (
    "delete from orders where 0 = (select count(*) from orders a, orders b, orders c where a.id + b.id + c.id < orders.id)"
)


def test_a_long_count_ends_in_time_and_the_estimate_stands(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(
        "create table orders as select generate_series(1, 3000) id; analyze orders; "
        "create table items (id int, order_id int); create table more (id int)"
    )

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            started = time.monotonic()
            lines = await one.at(SLOW)
            assert time.monotonic() - started < STATEMENT_SECONDS + 2
            assert lines[0] == "unknown public.orders: rows deleted: could not be counted in 2 s; the estimate stands"
            assert lines[1].startswith("estimated planner's estimate: about")
            # And with many parts all of them together.
            started = time.monotonic()
            found = await one.at("; ".join([SLOW] * 9))
            assert time.monotonic() - started < DEADLINE_SECONDS + STATEMENT_SECONDS + 1
            assert any("there was no time left" in each for each in found)

    run(body())


def test_a_locked_table_is_not_waited_for(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(EVIL)

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            await one.at("delete from orders where id = 2")  # so that the catalogue is known
            with psycopg.connect(scratch_postgres.connection_string(database)) as other:
                other.execute("lock table orders in access exclusive mode")
                started = time.monotonic()
                lines = await one.at("delete from orders where id = 1")
                assert time.monotonic() - started < 3 * LOCK_SECONDS + 1
            assert lines == [
                "unknown public.orders: rows deleted: not counted: another session has the table locked",
                "unknown planner's estimate: not worked out: another session has the table locked",
                "estimated public.orders: never counted; its size could not be read (table and indexes)",
                ROLE,
            ]

    run(body())


def test_equal_statements_share_one_answer(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(EVIL)

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            await one.at("delete from orders where id = 2")
            with psycopg.connect(scratch_postgres.connection_string(database)) as other:
                other.execute("lock table orders in access exclusive mode")
                asking = [asyncio.create_task(one.at("delete from orders where id = 1")) for _ in range(BURST_MAX * 2)]
                assert await most_at_once(one, asking) == 1
                other.rollback()
                first, *others = await asyncio.gather(*asking)
                assert all(each == first for each in others)

    run(body())


def test_a_flood_of_holds_is_not_a_flood_at_the_target(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database(EVIL)

    async def body() -> None:
        now = time.monotonic()
        async with looking(scratch_postgres, database, tmp_path, clock=lambda: now) as one:
            with psycopg.connect(scratch_postgres.connection_string(database)) as other:
                other.execute("lock table orders in access exclusive mode")
                asking = [
                    asyncio.create_task(one.at(f"delete from orders where id = {number}")) for number in range(BURST_MAX + 5)
                ]
                assert 0 < await most_at_once(one, asking) <= AT_ONCE_MAX
            refused = [task.result() for task in asking if "too many held commands" in task.result()[0]]
            assert len(refused) == 5
            # Another agent is not in its way.
            assert len(await one.at("delete from orders where id = 99", agent="other")) > 1

    run(body())


async def most_at_once(one: Looking, asking: list[asyncio.Task[list[str]]]) -> int:
    """The most connections of ours that were seen at the server until all was answered."""
    most = 0
    while not all(task.done() for task in asking):
        most = max(most, await asyncio.to_thread(one.asked))
    return most


async def until(condition: Callable[[], bool]) -> None:
    """Each look takes a round trip to the server, so nothing is waited for by sleeping."""
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(condition):
            pass


def test_a_settled_hold_ends_its_question_at_the_target(scratch_postgres: ScratchPostgres, tmp_path: Path) -> None:
    database = scratch_postgres.fresh_database("create table orders as select generate_series(1, 3000) id; analyze orders")

    async def body() -> None:
        async with looking(scratch_postgres, database, tmp_path) as one:
            asking = asyncio.create_task(one.at(SLOW))
            counting = (
                "select 1 from pg_stat_activity where query like '%pg_catalog.count%' and state = 'active' and datname = "
            )
            await until(lambda: len(scratch_postgres.run(counting + f"'{database}' and pid <> pg_backend_pid()")) == 1)
            started = time.monotonic()
            asking.cancel()
            await until(lambda: one.asked() == 0)
            assert time.monotonic() - started < STATEMENT_SECONDS / 2

    run(body())


# On the desk.


def held(database: str, text: str, *arguments: tuple[str, str | None], number: int = 1) -> Any:
    return msgspec.structs.replace(
        shown(number),
        scope=Scope("shop", "postgres", database),
        exact=text,
        arguments=arguments,
        search_path=("public",),
        in_transaction=False,
    )


def test_figures_come_after_the_hold_stay_with_it_and_say_nothing_secret(
    hosted: Hosted, scratch_postgres: ScratchPostgres
) -> None:
    database = scratch_postgres.fresh_database(EVIL)
    text = "delete from orders where state = $1 and id < $2"
    secret = "4111-secret"

    async def figures(approval: str) -> list[dict[str, str]]:
        async with asking(hosted) as root:
            serials = None
            while True:
                serials = (await root.ask("changes.wait", after=serials, seconds=5))["serials"]
                found: list[dict[str, str]] | None = (await root.ask("approvals.show", approval=approval))["blast"]
                if found is not None:
                    return found

    async def body() -> None:
        async with worker(hosted) as one:
            approval = await hold(one, held(database, text, ("text", "open"), ("int4", "4")))
            found = await figures(approval)
            assert found[0] == {"label": "public.orders", "value": "3 rows deleted", "detail": "", "state": "counted"}
            code, output, _ = await hosted.command("approvals", "show", approval)
            assert code == 0
            assert "public.orders: 3 rows deleted" in output
            other = await hold(one, held(database, text, ("text", secret), ("int4", "4"), number=2))
            assert (await figures(other))[0]["value"] == "no row deleted"
            await asyncio.to_thread(hosted.end)
            await asyncio.wait_for(one.lost.wait(), 20)
        ledger = b"".join(file.read_bytes() for file in (hosted.folder / "state" / "control").glob("ledger.sqlite*"))
        assert secret.encode() not in ledger
        await asyncio.to_thread(hosted.start)
        async with worker(hosted) as one:
            assert await hold(one, held(database, text, ("text", "open"), ("int4", "4"))) == approval
            assert await figures(approval) == found
            scratch_postgres.run("delete from orders", database)
            code, output, errors = await hosted.command("approvals", "approve", approval)
            assert code == 0, errors
            assert isinstance(await one.hear(Settled), Settled)
            assert await figures(approval) == found
            history = json_of(await hosted.command("approvals", "show", approval, "--json"))["history"]
            assert [each["what"] for each in history] == ["asked", "figures shown", "claimed again", "approved"]

    run(body())


def json_of(answer: tuple[int, str, str]) -> Any:
    return msgspec.json.decode(answer[1])


def test_a_hold_does_not_wait_for_figures_that_cannot_be_had(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one, asking(hosted) as root:
            approval = await hold(one, held("no_such_database", "delete from orders"))
            serials = None
            while (blast := (await root.ask("approvals.show", approval=approval))["blast"]) is None:
                serials = (await root.ask("changes.wait", after=serials, seconds=5))["serials"]
            assert [(each["value"], each["state"]) for each in blast] == [("not worked out", "unknown")]
            assert "pencil" not in str(blast)

    run(body())
