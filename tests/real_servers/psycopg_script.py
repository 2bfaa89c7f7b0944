"""What an application does with psycopg 3, printed, so that a run through the appliance can be held against a direct one."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import json
import logging
import uuid

import psycopg
from psycopg.rows import dict_row, namedtuple_row
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb

# psycopg warns of a pipeline that was aborted only if the answer had not come when it was left, which time decides.
logging.getLogger("psycopg").setLevel(logging.ERROR)


def say(*words: object) -> None:
    print(*[repr(word) for word in words])


def fail(connection: psycopg.Connection, statement: str, parameters: object = None) -> None:
    try:
        connection.execute(statement, parameters)
    except psycopg.Error as error:
        # Not the detail and the hint: there the appliance says what it made of a text that the server does not take.
        told = error.diag
        say(error.sqlstate, told.message_primary, told.statement_position, connection.info.transaction_status.name)


def types(connection: psycopg.Connection) -> None:
    mood = EnumInfo.fetch(connection, "sales.mood")
    place = CompositeInfo.fetch(connection, "sales.place")
    register_enum(mood, connection)
    register_composite(place, connection)
    for binary in (False, True):
        with connection.cursor(binary=binary) as cursor:
            cursor.execute("select * from sales.clients order by id")
            say([column.name for column in cursor.description or ()], *cursor.fetchall())
            values = (1, 2.5, decimal.Decimal("3.25"), "é", b"\x00\xff", True, None, [1, None, 3], uuid.UUID(int=7))
            placeholders = ", ".join("%b" if binary else "%s" for _ in values)
            cursor.execute(f"select {placeholders}", values)
            say(cursor.fetchone())
            moment = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
            cursor.execute("select %s, %s, %s", (moment, datetime.date(2024, 5, 1), Jsonb({"k": [1]})))
            say(cursor.fetchone())


def cursors(connection: psycopg.Connection) -> None:
    with connection.transaction(), connection.cursor(name="rows") as cursor:
        cursor.itersize = 70
        cursor.execute("select id, amount from sales.bills order by id")
        say(sum(1 for _ in cursor), cursor.rowcount)
    with connection.transaction(), connection.cursor(name="back and forth", scrollable=True, binary=True) as cursor:
        cursor.execute("select id, made from sales.bills order by id")
        say(cursor.fetchmany(3))
        cursor.scroll(100)
        say(cursor.fetchone())
        cursor.scroll(-50)
        say(cursor.fetchone())
    with connection.cursor(row_factory=dict_row) as cursor:
        say(cursor.execute("select id, v from plain where id = %s", (3,)).fetchone())
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        say(list(cursor.stream("select id, v from plain where id < %s order by 1", (4,))))
    for cursor in (psycopg.ClientCursor(connection), psycopg.RawCursor(connection)):
        mark = "$1" if isinstance(cursor, psycopg.RawCursor) else "%s"
        say(cursor.execute(f"select v from plain where id = {mark}", (5,)).fetchall())


def prepared(connection: psycopg.Connection) -> None:
    for number in range(12):  # psycopg prepares what it has seen five times
        say(connection.execute("select v from plain where id = %s", (number,)).fetchall())
    say(connection.execute("select count(*) from plain where v like %s", ("value%",), prepare=True).fetchone())
    connection.execute("alter table plain add column added int")
    say(connection.execute("select * from plain where id = %s", (1,), prepare=True).fetchone())
    connection.execute("alter table plain add column again int")
    fail(connection, "select * from plain where id = %s", (1,))
    say(connection.execute("select v, again from plain where id = %s", (1,)).fetchone())
    say(connection.execute("deallocate all").statusmessage)


def pipelines(connection: psycopg.Connection) -> None:
    with connection.pipeline() as pipeline:
        cursors = [connection.execute("select %s::int", (number,)) for number in range(20)]
        pipeline.sync()
        say([cursor.fetchone() for cursor in cursors])
        connection.execute("insert into plain (id, v) values (%s, %s)", (700, "pipelined"))
        last = connection.execute("select v from plain where id = 700")
        say(last.fetchone())
    try:
        with connection.pipeline():
            first = connection.execute("select 1")
            connection.execute("select 1/0")
            connection.execute("insert into plain (id, v) values (701, 'never')")
    except psycopg.Error as error:
        say(type(error).__name__, str(error), first.fetchone())
    say(connection.execute("select count(*) from plain where id > 699").fetchone())


def many(connection: psycopg.Connection) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into plain (id, v) values (%s, %s)", [(number, f"m{number}") for number in range(100, 200)]
        )
        say(cursor.rowcount)
        cursor.executemany(
            "update plain set v = %s where id = %s returning id, v", [("u1", 100), ("u2", 101)], returning=True
        )
        while True:
            say(cursor.fetchone())
            if not cursor.nextset():
                break
        cursor.execute("select 1; select 2, 3")
        say(cursor.fetchone(), cursor.nextset(), cursor.fetchone())


def copies(connection: psycopg.Connection) -> None:
    with connection.cursor() as cursor:
        with cursor.copy("copy plain (id, v) from stdin") as copy:
            for number in range(300, 320):
                copy.write_row((number, None if number % 2 else f"tab\t{number}"))
        with cursor.copy("copy plain (id, v) from stdin (format binary)") as copy:
            copy.set_types(["int4", "text"])
            copy.write_row((400, "binary"))
        with cursor.copy("copy (select id, v from plain where id > 299 order by id) to stdout") as copy:
            say(*copy.rows())
        with cursor.copy("copy plain (id, v) to stdout (format csv, header)") as copy:
            say(b"".join(bytes(part) for part in copy))
        try:
            with cursor.copy("copy plain (id, v) from stdin") as copy:
                copy.write_row((500, "x"))
                raise ValueError("the program changed its mind")
        except ValueError as error:
            say(str(error), connection.info.transaction_status.name)
        try:
            with cursor.copy("copy plain (id, v) from stdin") as copy:
                copy.write("no number\tx\n")
        except psycopg.Error as error:
            say(type(error).__name__, str(error))


def transactions(connection: psycopg.Connection) -> None:
    with connection.transaction():
        connection.execute("update plain set v = 'in' where id = 1")
        try:
            with connection.transaction():
                connection.execute("update plain set v = 'inner' where id = 1")
                connection.execute("select 1/0")
        except psycopg.errors.DivisionByZero as error:
            say(str(error), connection.info.transaction_status.name)
        say(connection.execute("select v from plain where id = 1").fetchone())
    try:
        with connection.transaction():
            connection.execute("insert into plain (id, v) values (1, 'twice')")
    except psycopg.errors.UniqueViolation as error:
        say(error.diag.constraint_name, error.diag.table_name, error.diag.message_detail)
    say(connection.info.transaction_status.name, connection.execute("select v from plain where id = 1").fetchone())
    fail(connection, "select * from nowhere")
    fail(connection, "selec 1")
    fail(connection, "select v from plain where id = %s", ("no number",))
    connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    connection.read_only = True
    with connection.transaction():
        say(connection.execute("show transaction_isolation").fetchone())
        fail(connection, "update plain set v = v where id = 1")
    connection.isolation_level = connection.read_only = None
    connection.autocommit = False
    connection.execute("update plain set v = 'later' where id = 2")
    fail(connection, "select 1/0")
    fail(connection, "select 1")
    connection.rollback()
    say(connection.execute("select v from plain where id = 2").fetchone())
    connection.commit()
    connection.autocommit = True


def notices(connection: psycopg.Connection, other: psycopg.Connection) -> None:
    connection.add_notice_handler(lambda diagnostic: say("notice", diagnostic.severity, diagnostic.message_primary))
    connection.execute("create table if not exists plain (id int)")
    connection.execute("listen news")
    other.execute("notify news, 'something happened'")
    for notification in connection.notifies(timeout=20, stop_after=1):
        say(notification.channel, notification.payload, notification.pid == other.info.backend_pid)
    say(connection.execute("unlisten *").statusmessage)


async def asynchronous() -> None:
    async with await psycopg.AsyncConnection.connect(autocommit=True) as connection:
        async with connection.transaction(), connection.cursor(name="many") as cursor:
            await cursor.execute("select id from sales.bills order by id")
            say(len([row async for row in cursor]))
        async with connection.pipeline():
            cursors = [await connection.execute("select %s", (str(number),)) for number in range(5)]
        say([await cursor.fetchone() for cursor in cursors])
        async with connection.cursor().copy("copy (select generate_series(1, 3)) to stdout") as copy:
            say([row async for row in copy.rows()])
        task = asyncio.create_task(connection.execute("select pg_sleep(30)"))
        await asyncio.sleep(0.5)
        await connection.cancel_safe()
        try:
            await task
        except psycopg.errors.QueryCanceled as error:
            say(str(error))
        say(await (await connection.execute("select 1")).fetchone())


def main() -> None:
    with psycopg.connect(autocommit=True) as connection, psycopg.connect(autocommit=True) as other:
        types(connection)
        cursors(connection)
        prepared(connection)
        pipelines(connection)
        many(connection)
        copies(connection)
        transactions(connection)
        notices(connection, other)
        say(
            connection.info.server_version,
            connection.info.encoding,
            json.dumps(connection.info.parameter_status("TimeZone")),
        )
    asyncio.run(asynchronous())


if __name__ == "__main__":
    main()
