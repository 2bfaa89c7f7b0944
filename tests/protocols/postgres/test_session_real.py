"""Sessions with a real PostgreSQL: what a client receives and what is at the server, where some is refused or masked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg
import pytest
from psycopg.pq import ExecStatus

from appliance.decisions import FieldMask, Forward, Mask, Obligations, ValueMask, Verdict
from appliance.effects import Kind, Thing
from appliance.events import Command, Own
from appliance.protocols.inspector import CatalogueQuestion, CredentialQuestion, Question
from appliance.protocols.postgres import messages as wire
from appliance.protocols.postgres.inspector import PostgresInspector
from appliance.protocols.postgres.readings import ReadingCache
from appliance.settings import ClientTls, TargetTls, TlsSettings
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue
from appliance.sql.catalogue_queries import QUERIES, build
from tests.protocols.postgres.driver import ALLOW, RULE, Driver, Gateway, hold, refuse
from tests.protocols.postgres.raw_client import RawClient
from tests.scratch_postgres import ScratchPostgres

SHOP = """
create table customers (id int primary key, name text, card_number text, email text);
insert into customers values
  (1, 'Ann', '4111111111111111', 'ann@example.com'), (2, 'Bob', '5500005555555559', 'bob@example.com');
create table orders (id int primary key, customer int references customers deferrable initially deferred, amount int);
insert into orders values (1, 1, 10), (2, 2, 20);
"""

CARD = FieldMask(Thing(Kind.TABLE, ("public", "customers")), "card_number", Mask("keep_last", 4))
MASKED = Forward(RULE, Obligations(fields=(CARD,), quiet=True))

Open = Callable[[Callable[[Command], Verdict]], AbstractContextManager[Gateway]]


def read_catalogue(server: ScratchPostgres, database: str) -> Catalogue:
    with psycopg.connect(server.connection_string(database)) as connection:
        connection.execute("set local search_path = ''")
        rows = {}
        for name, query in QUERIES:
            row = connection.execute(query).fetchone()
            assert row is not None
            rows[name] = row[0]
    return build(rows)


@pytest.fixture
def database(scratch_postgres: ScratchPostgres) -> str:
    return scratch_postgres.fresh_database(SHOP)


@pytest.fixture
def gateway(scratch_postgres: ScratchPostgres) -> Open:
    def answering(question: Question) -> object:
        match question:
            case CatalogueQuestion(database=name):
                return read_catalogue(scratch_postgres, name)
            case CredentialQuestion():
                return "postgres"
            case _:
                return None

    readings = ReadingCache(read)

    def opened(policy: Callable[[Command], Verdict]) -> Gateway:
        def make() -> Driver:
            inspector = PostgresInspector(
                tls=TlsSettings(client=ClientTls.REFUSE, target=TargetTls.DISABLE),
                placeholder=None,
                random=bytes,
                own_key=b"\0\0\0\1own!",
                readings=readings,
            )
            return Driver(inspector, policy, answering)

        return Gateway((scratch_postgres.host, scratch_postgres.port), make)

    return opened


def allow_all(_: Command) -> Verdict:
    return ALLOW


def refuse_text(*words: str) -> Callable[[Command], Verdict]:
    return lambda command: refuse() if any(word in command.text for word in words) else ALLOW


def connect(gateway: Gateway, database: str) -> psycopg.Connection[tuple[object, ...]]:
    text = f"host=127.0.0.1 port={gateway.port} dbname={database} user=agent sslmode=disable gssencmode=disable"
    return psycopg.connect(text, autocommit=True)


def prepared(text: str, *, name: str = "", portal: str = "") -> tuple[wire.ClientMessage, ...]:
    return (wire.Parse(name, text), wire.Bind(portal, name), wire.Describe("P", portal), wire.Execute(portal))


def test_a_query_is_one_command_and_one_answer(gateway: Open, database: str) -> None:
    with gateway(allow_all) as opened, RawClient(opened.port, database) as client:
        assert client.ask(wire.Query("select 1")) == ["T", "D 1", "C SELECT 1", "Z I"]
        (finished,) = opened.driver.finished()
        assert (finished.number, finished.status, finished.rows, finished.sample) == (1, "SELECT 1", 1, (("1",),))


def test_after_a_refusal_the_next_query_returns_its_own_row(gateway: Open, database: str) -> None:
    with gateway(refuse_text("orders")) as opened, RawClient(opened.port, database) as client:
        assert client.ask(wire.Query("select amount from orders")) == ["E 42501", "Z I"]
        assert client.ask(wire.Query("select 7")) == ["T", "D 7", "C SELECT 1", "Z I"]
        assert client.ask(*prepared("select amount from orders"), wire.Sync()) == ["E 42501", "Z I"]
        assert client.ask(*prepared("select 8"), wire.Sync()) == ["1", "2", "T", "D 8", "C SELECT 1", "Z I"]


def test_refusals_wait_their_turn_behind_earlier_answers(gateway: Open, database: str) -> None:
    with gateway(refuse_text("orders")) as opened, RawClient(opened.port, database) as client:
        seen = client.ask(
            wire.Query("select 1"), wire.Query("select amount from orders"), wire.Query("select 3"), wire.Query("select 4")
        )
        assert seen == [
            *("T", "D 1", "C SELECT 1", "Z I"),
            *("E 42501", "Z I"),
            *("T", "D 3", "C SELECT 1", "Z I"),
            *("T", "D 4", "C SELECT 1", "Z I"),
        ]


def test_a_refusal_in_a_pipeline_discards_up_to_sync_and_rolls_back(
    gateway: Open, database: str, scratch_postgres: ScratchPostgres
) -> None:
    with gateway(refuse_text("customers")) as opened, RawClient(opened.port, database) as client:
        seen = client.ask(
            *prepared("insert into orders values (3, 1, 30)"),
            *prepared("delete from customers"),
            *prepared("insert into orders values (4, 1, 40)"),
            wire.Sync(),
            *prepared("select 9"),
            wire.Sync(),
        )
        assert seen == [
            *("1", "2", "n", "C INSERT 0 1", "E 42501", "Z I"),
            *("1", "2", "T", "D 9", "C SELECT 1", "Z I"),
        ]
    assert scratch_postgres.run("select count(*) from orders", database) == [(2,)]


def test_a_refusal_in_a_transaction_fails_it_so_that_commit_rolls_back(
    gateway: Open, database: str, scratch_postgres: ScratchPostgres
) -> None:
    with gateway(refuse_text("customers")) as opened, RawClient(opened.port, database) as client:
        client.ask(wire.Query("begin"), wire.Query("insert into orders values (3, 1, 30)"))
        assert client.ask(wire.Query("delete from customers")) == ["E 42501", "Z E"]
        assert client.ask(wire.Query("select 1")) == ["E 25P02", "Z E"]
        assert client.ask(wire.Query("commit")) == ["C ROLLBACK", "Z I"]
    assert scratch_postgres.run("select count(*) from orders", database) == [(2,)]


def test_a_refused_bind_in_a_transaction_fails_it_too(gateway: Open, database: str) -> None:
    def policy(command: Command) -> Verdict:
        return refuse() if command.sort == "Bind" and "orders" in command.text else ALLOW

    with gateway(policy) as opened, RawClient(opened.port, database) as client:
        client.ask(wire.Query("begin"))
        assert client.ask(*prepared("select amount from orders"), wire.Sync()) == ["1", "E 42501", "Z E"]
        assert client.ask(*prepared("commit"), wire.Sync()) == ["1", "2", "n", "C ROLLBACK", "Z I"]


def test_a_refused_parse_of_a_closed_name_leaves_the_session_usable(gateway: Open, database: str) -> None:
    with gateway(refuse_text("orders")) as opened, RawClient(opened.port, database) as client:
        assert client.ask(wire.Parse("s", "select 1"), wire.Sync()) == ["1", "Z I"]
        close = (
            wire.CloseMessage("S", "s"),
            wire.Parse("s", "select amount from orders"),
            wire.Bind("", "s"),
            wire.Execute(""),
        )
        assert client.ask(*close, wire.Sync()) == ["3", "E 42501", "Z I"]
        # The server closed it before it failed; closing is not undone.
        assert client.ask(wire.Bind("", "s"), wire.Execute(""), wire.Sync()) == ["E 26000", "Z I"]
        assert client.ask(wire.Parse("s", "select 2"), wire.Bind("", "s"), wire.Execute(""), wire.Sync()) == [
            *("1", "2", "D 2", "C SELECT 1", "Z I")
        ]


def test_a_name_is_not_judged_by_a_definition_that_the_server_discarded(
    gateway: Open, database: str, scratch_postgres: ScratchPostgres
) -> None:
    def policy(command: Command) -> Verdict:
        return refuse() if command.sort == "Bind" and "orders" in command.text else ALLOW

    with gateway(policy) as opened, RawClient(opened.port, database) as client:
        client.ask(wire.Parse("", "delete from orders"), wire.Sync())
        # The Describe fails, so that the server never sees the harmless Parse and still has the other one.
        seen = client.ask(
            *(wire.Describe("S", "nothing"), wire.Parse("", "select 1"), wire.Sync()),
            *(wire.Bind("", ""), wire.Execute(""), wire.Sync()),
        )
        assert seen == ["E 26000", "Z I", "E 42501", "Z I"]
    assert scratch_postgres.run("select count(*) from orders", database) == [(2,)]


def test_a_portal_runs_in_slices(gateway: Open, database: str) -> None:
    with gateway(allow_all) as opened, RawClient(opened.port, database) as client:
        rows = (wire.Parse("", "select g from generate_series(1, 5) g"), wire.Bind("p", ""))
        seen = client.ask(*rows, wire.Execute("p", 2), wire.Execute("p", 2), wire.Execute("p", 2), wire.Sync())
        assert seen == ["1", "2", "D 1", "D 2", "s", "D 3", "D 4", "s", "D 5", "C SELECT 1", "Z I"]
        assert client.ask(wire.Execute("p"), wire.Sync()) == ["E 34000", "Z I"]


def test_copy_both_ways(gateway: Open, database: str, scratch_postgres: ScratchPostgres) -> None:
    with gateway(allow_all) as opened, connect(opened, database) as connection:
        with connection.cursor().copy("copy orders (id, customer, amount) from stdin") as copy:
            copy.write(b"3\t1\t30\n")
            copy.write(b"4\t2\t40\n")
        with connection.cursor().copy("copy orders to stdout") as copy:
            assert b"".join(bytes(piece) for piece in copy).count(b"\n") == 4
        assert connection.execute("select 1").fetchall() == [(1,)]
    assert scratch_postgres.run("select count(*) from orders", database) == [(4,)]


def test_copy_sent_ahead_in_the_extended_protocol(gateway: Open, database: str) -> None:
    with gateway(allow_all) as opened, RawClient(opened.port, database) as client:
        statement = prepared("copy orders from stdin")
        client.send(
            *statement, wire.Sync(), wire.CopyData(b"5\t1\t5\n"), wire.CopyDone(), wire.Sync(), wire.Query("select 1")
        )
        assert client.until_ready(2) == ["1", "2", "n", "G", "C COPY 1", "Z I", "T", "D 1", "C SELECT 1", "Z I"]


def test_a_query_sent_while_the_server_reads_copy_data_never_runs(
    gateway: Open, database: str, scratch_postgres: ScratchPostgres
) -> None:
    with gateway(allow_all) as opened, RawClient(opened.port, database) as client:
        client.send(wire.Query("copy orders from stdin"), wire.Query("delete from orders"))
        assert client.until_ready() == ["G", "E 57014", "Z I"]
        assert client.ask(wire.Query("select 1")) == ["T", "D 1", "C SELECT 1", "Z I"]
    assert scratch_postgres.run("select count(*) from orders", database) == [(2,)]


def test_an_error_in_the_middle_of_a_text_ends_it(gateway: Open, database: str) -> None:
    with gateway(allow_all) as opened, RawClient(opened.port, database) as client:
        seen = client.ask(wire.Query("select 1; select 1 / 0; select 2"))
        assert seen == ["T", "D 1", "C SELECT 1", "E 22012", "Z I"]
        assert client.ask(wire.Query("select 3")) == ["T", "D 3", "C SELECT 1", "Z I"]


def test_masked_columns_are_masked_in_both_protocols(gateway: Open, database: str) -> None:
    def policy(command: Command) -> Verdict:
        return MASKED if "card_number" in command.text else ALLOW

    with gateway(policy) as opened, RawClient(opened.port, database) as client:
        text = "select id, card_number as c, name from customers order by id"
        assert client.ask(wire.Query(text))[1:3] == ["D 1,************1111,Ann", "D 2,************5559,Bob"]
        assert client.ask(*prepared(text), wire.Sync())[3] == "D 1,************1111,Ann"
        # Nothing described: the gateway asks for the description itself.
        seen = client.ask(wire.Parse("", text), wire.Bind("", ""), wire.Execute(""), wire.Sync())
        assert seen == ["1", "2", "D 1,************1111,Ann", "D 2,************5559,Bob", "C SELECT 2", "Z I"]
        client.ask(wire.Parse("s", text), wire.Describe("S", "s"), wire.Sync())
        assert client.ask(wire.Bind("", "s"), wire.Execute(""), wire.Sync())[1] == "D 1,************1111,Ann"
        assert all("4111" not in str(finished.sample) for finished in opened.driver.finished())


def test_fetch_shows_what_the_cursor_masks(gateway: Open, database: str) -> None:
    def policy(command: Command) -> Verdict:
        return MASKED if "card_number" in command.text else ALLOW

    with gateway(policy) as opened, RawClient(opened.port, database) as client:
        client.ask(wire.Query("begin"))
        client.ask(wire.Query("declare c cursor for select card_number from customers order by id"))
        assert client.ask(wire.Query("fetch 1 from c"))[1] == "D ************1111"
        assert client.ask(wire.Execute("c"), wire.Sync())[0] == "D ************5559"


def test_binary_of_a_masked_text_is_masked_too(gateway: Open, database: str) -> None:
    with (
        gateway(lambda command: MASKED if "card" in command.text else ALLOW) as opened,
        connect(opened, database) as connection,
        connection.cursor(binary=True) as cursor,
    ):
        cursor.execute("select card_number from customers where id = %s", (1,))
        assert cursor.fetchall() == [("************1111",)]


def test_values_are_masked_wherever_they_stand(gateway: Open, database: str) -> None:
    values = Forward(RULE, Obligations(values=(ValueMask("email", Mask("redact")),)))
    with gateway(lambda _: values) as opened, RawClient(opened.port, database) as client:
        assert client.ask(wire.Query("select 'x ann@example.com'"))[1] == "D x ****"
        assert client.ask(wire.Query("copy (select email from customers where id = 1) to stdout"))[1] == "d ****\n"
        client.send(wire.Query("do $$begin raise notice 'ann@example.com'; end$$"))
        letter, payload = client.message()
        assert letter == "N"
        assert b"ann@example.com" not in payload
        client.until_ready()


def test_an_error_of_a_statement_on_masked_data_loses_its_text(gateway: Open, database: str) -> None:
    with gateway(lambda _: MASKED) as opened, RawClient(opened.port, database) as client:
        client.send(wire.Query("insert into customers (id, name) values (1, 'x')"))
        letter, payload = client.message()
        report = wire.Report.read(payload)
        assert (letter, report.sqlstate) == ("E", "23505")
        assert [name for name, _ in report.fields] == ["S", "V", "C", "M"]
        client.until_ready()
        client.ask(wire.Query("begin"), wire.Query("insert into orders values (9, 9, 9)"))
        client.send(wire.Query("commit"))
        _, payload = client.message()
        assert wire.Report.read(payload).field("D") is None
        client.until_ready()


def test_the_search_path_counts_once_the_server_has_it(
    gateway: Open, database: str, scratch_postgres: ScratchPostgres
) -> None:
    scratch_postgres.run("create schema other; create table other.orders (secret int)", database)
    with gateway(allow_all) as opened, RawClient(opened.port, database) as client:
        client.ask(wire.Query("set search_path = other"), wire.Query("select * from orders"))
        effects = {str(effect.thing) for effect in opened.driver.commands()[-1].effects}
        assert "table other.orders" in effects
        client.ask(wire.Query("begin"), wire.Query("set search_path = public"), wire.Query("rollback"))
        client.ask(wire.Query("select * from orders"))
        assert "table other.orders" in {str(effect.thing) for effect in opened.driver.commands()[-1].effects}


def test_a_created_table_is_known_in_its_transaction_and_after(gateway: Open, database: str) -> None:
    with gateway(allow_all) as opened, RawClient(opened.port, database) as client:
        client.ask(wire.Query("begin"), wire.Query("create table fresh (a int, b text)"))
        assert client.ask(wire.Query("select a from fresh"))[-1] == "Z T"
        assert opened.driver.commands()[-1].problem is None
        client.ask(wire.Query("commit"))
        client.ask(wire.Query("select b from fresh"))
        assert opened.driver.commands()[-1].problem is None


def test_a_hold_tells_the_client_and_then_runs(gateway: Open, database: str) -> None:
    with (
        gateway(lambda command: hold() if "delete" in command.text else ALLOW) as opened,
        RawClient(opened.port, database) as client,
    ):
        client.send(wire.Query("delete from orders where id = 1"), wire.Query("select 5"))
        assert client.until("N") == ["N 01000"]
        assert opened.holding.wait(10)
        opened.do(lambda: opened.driver.settle(ALLOW))
        assert client.until_ready(2) == ["C DELETE 1", "Z I", "T", "D 5", "C SELECT 1", "Z I"]


def test_a_bind_is_held_with_its_parameters_decoded(gateway: Open, database: str) -> None:
    with (
        gateway(lambda command: hold() if "delete" in command.text else ALLOW) as opened,
        connect(opened, database) as connection,
    ):
        done: list[int] = []
        statement = "delete from orders where id = %s"
        thread = threading.Thread(target=lambda: done.append(connection.execute(statement, (2,), binary=True).rowcount))
        thread.start()
        assert opened.holding.wait(10)
        held = opened.driver.held
        assert held is not None
        assert (held.sort, held.parameters[0].text, held.parameters[0].type_name) == ("Bind", "2", "int2")
        opened.do(lambda: opened.driver.settle(ALLOW))
        thread.join(10)
        assert done == [1]


def test_an_amended_text_runs_in_both_protocols(gateway: Open, database: str, scratch_postgres: ScratchPostgres) -> None:
    with (
        gateway(lambda command: hold() if "delete" in command.text else ALLOW) as opened,
        RawClient(opened.port, database) as client,
    ):
        client.send(wire.Query("delete from orders"))
        client.until("N")
        assert opened.holding.wait(10)
        opened.do(lambda: opened.driver.amend("delete from orders where id = 1"))
        assert client.until_ready() == ["N 01000", "C DELETE 1", "Z I"]
        opened.holding.clear()
        client.send(
            wire.Parse("s", "delete from orders where amount > $1 returning id"), wire.Describe("S", "s"), wire.Flush()
        )
        assert client.until("T") == ["1", "t", "T"]
        client.send(wire.Bind("", "s", (), (b"0",)), wire.Execute(""), wire.Sync())
        client.until("N")
        assert opened.holding.wait(10)
        opened.do(lambda: opened.driver.amend("delete from orders where amount > $1 and id = 3 returning id"))
        assert client.until_ready() == ["N 01000", "2", "C DELETE 0", "Z I"]
        assert client.ask(wire.Query("select 1"))[1] == "D 1"
    assert scratch_postgres.run("select id from orders", database) == [(2,)]


def test_what_stands_in_for_a_refusal_is_recorded_and_holds_nothing_of_the_client(gateway: Open, database: str) -> None:
    with gateway(refuse_text("orders")) as opened, RawClient(opened.port, database) as client:
        client.ask(wire.Query("select amount from orders"))
        own = [event for event in opened.driver.recorded if isinstance(event, Own) and event.purpose == "refusal"]
        assert [event.shown for event in own] == ["SLUICEGATE REFUSED COMMAND 1"]


def test_psycopg_pipelines_with_a_refusal_in_the_middle(
    gateway: Open, database: str, scratch_postgres: ScratchPostgres
) -> None:
    with gateway(refuse_text("customers")) as opened, connect(opened, database) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            _run_pipeline(connection, "insert into orders values (3, 1, 1)", "select email from customers", "select 3")
        assert connection.execute("select 4").fetchall() == [(4,)]
        assert connection.pgconn.exec_(b"select 5").status == ExecStatus.TUPLES_OK
    assert scratch_postgres.run("select count(*) from orders", database) == [(2,)]


def _run_pipeline(connection: psycopg.Connection[tuple[object, ...]], *texts: str) -> None:
    with connection.pipeline():
        for text in texts:
            connection.execute(text)


def test_function_call_is_refused_and_the_session_goes_on(gateway: Open, database: str) -> None:
    with gateway(allow_all) as opened, RawClient(opened.port, database) as client:
        client.send(wire.FunctionCall(1598, (), (), 0))
        assert client.until_ready() == ["E 0A000", "Z I"]
        assert client.ask(wire.Query("select 6"))[1] == "D 6"


def test_a_cancel_reaches_what_runs(gateway: Open, database: str) -> None:
    with gateway(allow_all) as opened, RawClient(opened.port, database) as client:
        client.send(wire.Query("select pg_sleep(0)"), wire.Query("select pg_sleep(1)"))
        client.until_ready()
        driver = opened.driver
        done = threading.Event()

        def cancel() -> None:
            driver.perform(driver.inspector.cancel())
            done.set()

        opened.do(cancel)
        assert done.wait(10)
        (act,) = driver.cancels
        assert act.upgrade == b""
        assert act.data[:8] == b"\0\0\0\x10\x04\xd2\x16\x2e"
        assert act.data[8:] != driver.key
        client.until_ready()


def test_nothing_of_a_with_hold_cursor_slips_past_its_masks(gateway: Open, database: str) -> None:
    def policy(command: Command) -> Verdict:
        return MASKED if "card_number" in command.text else ALLOW

    with gateway(policy) as opened, RawClient(opened.port, database) as client:
        client.ask(wire.Query("declare c cursor with hold for select card_number from customers order by id"))
        assert "D ************1111" in client.ask(wire.Query("fetch 1 from c"))


def test_a_statement_prepared_in_sql_is_read_by_its_text_where_it_runs(gateway: Open, database: str) -> None:
    def policy(command: Command) -> Verdict:
        return refuse() if _touches(command, "customers") else ALLOW

    with gateway(policy) as opened, RawClient(opened.port, database) as client:
        assert client.ask(wire.Query("prepare p as select 1"), wire.Query("execute p"))[:2] == ["C PREPARE", "Z I"]
        client.ask(wire.Parse("q", "select 2"), wire.Sync())
        assert client.ask(wire.Query("execute q"))[1] == "D 2"
        client.ask(wire.Query("prepare r as select name from customers"))
        assert client.ask(wire.Query("execute r")) == ["E 42501", "Z I"]
        assert client.ask(wire.Bind("", "r"), wire.Execute(""), wire.Sync()) == ["E 42501", "Z I"]
        client.ask(wire.Query("deallocate all"))
        assert client.ask(wire.Query("execute p"))[0] in ("E 26000", "E 42501")


def _touches(command: Command, table: str) -> bool:
    return any(effect.thing.path[-1:] == (table,) for effect in command.effects)
