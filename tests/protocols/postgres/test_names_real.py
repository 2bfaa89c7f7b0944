"""A name that comes to mean something else between judging and running: ways round, at a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg
import pytest

from appliance.decisions import Forward, Verdict
from appliance.effects import Action
from appliance.events import Command
from appliance.protocols.postgres import messages as wire
from tests.protocols.postgres.driver import ALLOW, RULE, Gateway, hold, refuse
from tests.protocols.postgres.raw_client import RawClient
from tests.protocols.postgres.test_session_real import MASKED, SHOP, gateway, prepared
from tests.scratch_postgres import ScratchPostgres

__all__ = ["gateway"]

# A table that may be read, of the same name as one that may not.
DECOY = """
create schema decoy;
create table decoy.customers (id int, card_number text);
insert into decoy.customers values (9, 'decoy');
"""

Open = Callable[[Callable[[Command], Verdict]], AbstractContextManager[Gateway]]
Step = str | tuple[wire.ClientMessage, ...]

S, READ = wire.Sync(), "select * from customers"
COPY = (wire.Parse("e", "copy customers to stdout"), wire.Bind("p", "e"), S)
EXECUTE_P = (wire.Execute("p"), S)

WAYS: dict[str, tuple[Step, ...]] = {
    "a savepoint takes a search_path back": ("begin; savepoint a; set search_path = decoy", "rollback to a", READ),
    "a savepoint of the same text takes it back": ("begin", "savepoint a; set search_path = decoy; rollback to a", READ),
    "a pipelined savepoint takes it back": (
        "begin",
        (*prepared("savepoint a"), *prepared("set search_path = decoy"), S),
        "rollback to a",
        READ,
    ),
    "a failed pipeline takes it back": ((*prepared("set search_path = decoy"), *prepared("select 1/0"), S), READ),
    "a failed commit takes it back": (
        "begin; set search_path = decoy; insert into public.orders values (7, 99, 1)",
        "commit",
        READ,
    ),
    "a refusal in a pipeline takes it back": (
        (*prepared("set search_path = decoy"), *prepared("select * from public.customers"), S),
        READ,
    ),
    "a temporary table is dropped": ("create temp table customers (id int)", "drop table pg_temp.customers", READ),
    "a temporary table is renamed": (
        "create temp table customers (id int)",
        "alter table pg_temp.customers rename to other",
        READ,
    ),
    "temporary tables are discarded": ("create temp table customers (id int)", "discard temp", READ),
    "a temporary table is undone": ("begin; savepoint a; create temp table customers (id int)", "rollback to a", READ),
    "a table is dropped and the transaction open": (
        "set search_path = decoy, public",
        "begin",
        "drop table decoy.customers",
        READ,
    ),
    "a schema is renamed and the transaction open": (
        "set search_path = decoy, public",
        "begin",
        "alter schema decoy rename to elsewhere",
        READ,
    ),
    "search_path changes between Bind and Execute": (
        "begin; set search_path = decoy",
        COPY,
        "set search_path = public",
        EXECUTE_P,
    ),
    "a table is dropped between Bind and Execute": (
        "set search_path = decoy, public",
        "begin",
        COPY,
        "drop table decoy.customers",
        EXECUTE_P,
    ),
    "an Execute that was skipped comes again": (
        "begin; set search_path = decoy",
        COPY,
        "savepoint a",
        (*prepared("select 1/0"), wire.Execute("p"), S),
        "rollback to a",
        "set search_path = public",
        EXECUTE_P,
    ),
}


def refuse_public_customers(command: Command) -> Verdict:
    """What touches public.customers, or cannot be told."""
    is_covered = all(
        effect.action is not Action.UNKNOWN and effect.thing.name != "public.customers" for effect in command.effects
    )
    return ALLOW if is_covered else refuse()


def play(client: RawClient, step: Step) -> list[str]:
    return client.ask(*((wire.Query(step),) if isinstance(step, str) else step))


@pytest.mark.parametrize("way", list(WAYS))
def test_a_name_is_judged_for_what_it_means_when_it_runs(gateway: Open, scratch_postgres: ScratchPostgres, way: str) -> None:
    database = scratch_postgres.fresh_database(SHOP + DECOY)
    with gateway(refuse_public_customers) as opened, RawClient(opened.port, database) as client:
        shown = [play(client, step) for step in WAYS[way]]
        assert not any("4111111111111111" in word for words in shown for word in words), shown


def test_a_held_statement_does_not_run_under_a_name_that_was_bound_before(
    gateway: Open, scratch_postgres: ScratchPostgres
) -> None:
    database = scratch_postgres.fresh_database(SHOP)

    def hold_deletes(command: Command) -> Verdict:
        return hold() if any(effect.action is Action.DELETE for effect in command.effects) else ALLOW

    with gateway(hold_deletes) as opened, RawClient(opened.port, database) as client:
        play(client, "begin")
        play(client, (wire.Parse("s", "select 1"), wire.Parse("e", "execute s"), wire.Bind("p", "e"), S))
        again = (wire.CloseMessage("S", "s"), wire.Parse("s", "delete from orders returning 1"), wire.Execute("p"), S)
        assert "E 55000" in play(client, again)
        play(client, "rollback")
        assert "D 2" in play(client, "select count(*) from orders")


def test_a_fetch_shows_no_other_cursor_than_the_one_it_was_bound_for(
    gateway: Open, scratch_postgres: ScratchPostgres
) -> None:
    database = scratch_postgres.fresh_database(SHOP)
    with (
        gateway(lambda command: MASKED if "customers" in command.text else ALLOW) as opened,
        RawClient(opened.port, database) as client,
    ):
        play(client, "begin")
        play(client, "declare c cursor for select '1'::text as card_number")
        play(client, (wire.Parse("e", "fetch all from c"), wire.Bind("p", "e"), S))
        play(client, "close c; declare c cursor for select card_number from customers")
        assert "E 55000" in play(client, EXECUTE_P)


@pytest.mark.parametrize("kind", ["temp view", "view"])
def test_a_temporary_view_does_not_stand_before_a_table(gateway: Open, scratch_postgres: ScratchPostgres, kind: str) -> None:
    database = scratch_postgres.fresh_database(SHOP)

    def policy(command: Command) -> Verdict:
        bad = [
            e for e in command.effects if e.action is Action.UNKNOWN or str(e).startswith("delete table public.customers")
        ]
        return refuse() if bad else ALLOW

    with gateway(policy) as opened, RawClient(opened.port, database) as client:
        play(client, "alter table orders drop constraint orders_customer_fkey")
        play(client, "create temp table one as select 1 as a")
        play(client, f"create {kind} orders as select id, name from customers where exists (select from one)")
        play(client, "delete from orders")
        assert "D 2" in play(client, "select count(*) from customers")


def test_what_ordinary_clients_do_with_definitions_still_passes(gateway: Open, scratch_postgres: ScratchPostgres) -> None:
    database = scratch_postgres.fresh_database(SHOP + DECOY)
    steps: tuple[Step, ...] = (
        (*prepared("create table z (a int)"), *prepared("insert into z values (1)"), S),
        (*prepared("copy z to stdout"), *prepared("explain select * from z"), *prepared("truncate z"), S),
        "begin",
        (wire.Parse("e", "truncate z"), wire.Bind("p", "e"), S),
        "set search_path = decoy, public",
        EXECUTE_P,
        "commit; reset search_path",
        "begin",
        "create table a (id int primary key)",
        "create table b (id int references a)",
        "alter table b add constraint positive check (id > 0)",
        "create index on b (id)",
        "insert into a values (1)",
        "select * from b",
        "drop table b",
        "savepoint s",
        "select * from a",
        "commit",
        "select * from a",
    )
    with gateway(refuse_public_customers) as opened, RawClient(opened.port, database) as client:
        shown = [play(client, step) for step in steps]
        assert not any(word.startswith("E ") for words in shown for word in words), shown


def test_an_approved_command_does_not_run_once_it_means_something_else(
    gateway: Open, scratch_postgres: ScratchPostgres
) -> None:
    database = scratch_postgres.fresh_database(SHOP + DECOY)

    def hold_truncate(command: Command) -> Verdict:
        return hold() if any(effect.action is Action.TRUNCATE for effect in command.effects) else ALLOW

    with gateway(hold_truncate) as opened, RawClient(opened.port, database) as client:
        play(client, "set search_path = decoy, public")
        client.send(wire.Query("truncate customers cascade"))
        assert opened.holding.wait(5)
        with psycopg.connect(scratch_postgres.connection_string(database), autocommit=True) as other:
            other.execute("drop table decoy.customers")
        opened.do(lambda: opened.driver.settle(Forward(RULE, approval="a1", approver="ann")))
        assert "E 55000" in client.until_ready()
        assert "D 2" in play(client, "select count(*) from public.customers")


def test_an_approved_command_runs_while_it_means_the_same(gateway: Open, scratch_postgres: ScratchPostgres) -> None:
    database = scratch_postgres.fresh_database(SHOP + DECOY)
    with (
        gateway(lambda command: hold() if "delete" in command.text else ALLOW) as opened,
        RawClient(opened.port, database) as client,
    ):
        client.send(wire.Query("delete from orders"), wire.Query("select 1"))
        assert opened.holding.wait(5)
        with psycopg.connect(scratch_postgres.connection_string(database), autocommit=True) as other:
            other.execute("create table unrelated ()")
        opened.do(lambda: opened.driver.settle(Forward(RULE, approval="a1", approver="ann")))
        assert client.until_ready(2) == ["N 01000", "C DELETE 2", "Z I", "T", "D 1", "C SELECT 1", "Z I"]
