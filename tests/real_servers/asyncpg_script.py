"""What an application does with asyncpg, printed, so that a run through the appliance can be held against a direct one."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import io
import uuid

import asyncpg


def say(*words: object) -> None:
    print(*[repr(word) for word in words])


async def fail(connection: asyncpg.Connection, statement: str, *parameters: object) -> None:
    try:
        await connection.fetch(statement, *parameters)
    except asyncpg.PostgresError as error:
        # Not the detail and the hint: there the appliance says what it made of a text that the server does not take.
        say(type(error).__name__, error.args[0], error.position, connection.is_in_transaction())


async def types(connection: asyncpg.Connection) -> None:
    # It asks pg_type for each type it has not met, with a recursive query of its own.
    for row in await connection.fetch("select * from sales.clients order by id"):
        say(tuple(row.items()))
    say(await connection.fetchval("select array[row('a', 'b')]::sales.place[]"))
    say(await connection.fetch("select $1::sales.place, $2::sales.mood, $3::sales.positive", ("s", "t"), "ok", 3))
    values = (
        1,
        decimal.Decimal("1.5"),
        2.5,
        "é",
        b"\x00",
        True,
        None,
        [1, None],
        uuid.UUID(int=3),
        datetime.date(2024, 5, 1),
    )
    casts = ("int", "numeric", "float8", "text", "bytea", "bool", "text", "int[]", "uuid", "date")
    wanted = ", ".join(f"${number}::{cast}" for number, cast in enumerate(casts, 1))
    say(tuple(await connection.fetchrow(f"select {wanted}", *values)))
    say(
        tuple(
            await connection.fetchrow(
                "select '5 days'::interval, '10.0.0.0/8'::cidr, '[1,4)'::int4range, point(1, 2), 7::\"char\""
            )
        )
    )
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=repr, decoder=lambda text: ("decoded", text))
    say(await connection.fetchval("select settings from sales.clients where id = 1"))
    await connection.reset_type_codec("jsonb", schema="pg_catalog")
    await connection.reload_schema_state()


async def prepared(connection: asyncpg.Connection) -> None:
    statement = await connection.prepare("select id, v from plain where id = any($1::int[]) order by id")
    say(statement.get_parameters(), statement.get_attributes())
    say(await statement.fetch([1, 2, 3]), await statement.fetchval([4], column=1), statement.get_statusmsg())
    say([row async for row in _rows(connection, statement)])
    say((await statement.explain([1]))[0].keys())
    say(await connection.fetchrow("select * from plain where id = $1", 1))
    await connection.execute("alter table plain add column added int")
    # The statement it has cached is stale now; it prepares another by itself.
    await fail(connection, "select * from plain where id = $1", 1)
    say(await connection.fetchrow("select * from plain where id = $1", 1))
    say(await connection.execute("insert into plain (id, v) values ($1, $2)", 90, "ninety"))
    say(await connection.execute("select 1; select 2"))


async def _rows(connection: asyncpg.Connection, statement: object):  # type: ignore[no-untyped-def]
    async with connection.transaction():
        async for row in statement.cursor([1, 2, 3], prefetch=2):  # type: ignore[attr-defined]
            yield row


async def cursors(connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        total = 0
        async for row in connection.cursor("select id, amount from sales.bills order by id", prefetch=37):
            total += row["amount"]
        say(total)
        cursor = await connection.cursor("select id from sales.bills order by id")
        say(await cursor.forward(10), await cursor.fetch(3), await cursor.fetchrow())


async def copies(connection: asyncpg.Connection) -> None:
    records = [(number, f"copied {number}") for number in range(200, 210)]
    say(await connection.copy_records_to_table("plain", records=records, columns=["id", "v"]))
    say(await connection.copy_to_table("plain", source=io.BytesIO(b"300,csv\n"), columns=["id", "v"], format="csv"))
    out = io.BytesIO()
    say(await connection.copy_from_query("select id, v from plain where id >= $1 order by id", 200, output=out))
    say(await connection.copy_from_table("plain", columns=["id"], output=out, format="csv", header=True))
    say(out.getvalue())
    try:
        await connection.copy_records_to_table("plain", records=[(1, "twice")], columns=["id", "v"])
    except asyncpg.UniqueViolationError as error:
        say(str(error), error.detail)


async def transactions(connection: asyncpg.Connection) -> None:
    await connection.executemany(
        "insert into plain (id, v) values ($1, $2)", [(number, "many") for number in range(400, 600)]
    )
    try:
        await connection.executemany("insert into plain (id, v) values ($1, $2)", [(600, "a"), (400, "b")])
    except asyncpg.UniqueViolationError as error:
        say(str(error), await connection.fetchval("select count(*) from plain where id = 600"))
    say(await connection.fetchmany("insert into plain (id, v) values ($1, $2) returning id", [(700, "a"), (701, "b")]))
    async with connection.transaction(isolation="serializable"):
        await connection.execute("update plain set v = 'in' where id = 1")
        try:
            async with connection.transaction():
                await connection.execute("select 1/0")
        except asyncpg.DivisionByZeroError as error:
            say(str(error))
        say(await connection.fetchval("select v from plain where id = 1"))
    async with connection.transaction(readonly=True):
        await fail(connection, "insert into plain (id) values (1000)")
        await fail(connection, "select 1")
    await fail(connection, "select * from nowhere")
    await fail(connection, "selec 1")
    await fail(connection, "select 1 / $1", 0)
    say(await connection.fetchval("select 7"), connection.is_in_transaction())


async def rest(connection: asyncpg.Connection, other: asyncpg.Connection) -> None:
    heard: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()
    await connection.add_listener("news", lambda _, pid, channel, payload: heard.put_nowait((pid, channel, payload)))
    await other.execute("notify news, 'something'")
    pid, *said = await asyncio.wait_for(heard.get(), 20)
    say(pid == other.get_server_pid(), *said)
    try:
        await connection.fetch("select pg_sleep(30)", timeout=0.5)
    except TimeoutError as error:
        say(type(error).__name__)
    say(await connection.fetchval("select 8"), connection.get_server_version()[:2], connection.get_settings().TimeZone)


async def pool() -> None:
    # Between two users it resets the session: pg_advisory_unlock_all, CLOSE ALL, UNLISTEN *, RESET ALL.
    async with asyncpg.create_pool(min_size=2, max_size=4, statement_cache_size=10) as connections:

        async def use(number: int) -> int:
            async with connections.acquire() as connection, connection.transaction():
                return int(await connection.fetchval("select $1::int * 2", number))

        say(await asyncio.gather(*(use(number) for number in range(40))))


async def main() -> None:
    connection, other = await asyncpg.connect(), await asyncpg.connect(statement_cache_size=0)
    try:
        await types(connection)
        await prepared(connection)
        await cursors(connection)
        await copies(connection)
        await transactions(connection)
        await rest(connection, other)
        await other.reset()
        say(await other.fetchval("select $1::int", 3))
    finally:
        await connection.close()
        await other.close()
    await pool()


if __name__ == "__main__":
    asyncio.run(main())
