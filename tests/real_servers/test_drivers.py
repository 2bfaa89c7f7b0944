"""Drivers as they are: they see through the appliance what they see directly, and after a refusal they go on."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator

import pytest

from lab.laboratory import Lab
from tests.real_servers.clients import APPLICATION, HERE, direct, outcome, through

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(f"test-{secrets.token_hex(4)}") as one:
        one.start_appliance()
        yield one


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_driver_sees_what_it_would_see_at_the_target(lab: Lab, driver: str) -> None:
    script = (HERE / f"{driver}_script.py").read_text("utf-8")
    lab.fresh_database("application", APPLICATION)
    expected = outcome(direct(lab, [sys.executable, "-"], database="application", text=script))
    lab.fresh_database("application", APPLICATION)
    seen = outcome(through(lab, [sys.executable, "-"], database="application", text=script))
    assert expected[1:] == ("", 0)
    assert seen == expected


_PSYCOPG_REFUSED = """
import logging
import psycopg
from psycopg import errors

# It warns of an aborted pipeline only if the answer had not come when it was left, which time decides.
logging.getLogger("psycopg").setLevel(logging.ERROR)

def refused(run):
    try:
        run()
    except errors.InsufficientPrivilege as error:
        assert "refused" in error.diag.message_primary, error
        return True

connection = psycopg.connect(autocommit=True)
def status(): return connection.info.transaction_status.name
def row(number, **how): return connection.execute("select %s::int, 'own row'", (number,), **how).fetchone()

for prepare in (None, True, False):
    assert refused(lambda: connection.execute("select * from payroll where id = %s", (1,), prepare=prepare))
    assert row(1, prepare=prepare) == (1, "own row"), prepare
assert refused(lambda: psycopg.ClientCursor(connection).execute("select 1; select * from payroll; select 2"))
assert row(2) == (2, "own row") and status() == "IDLE"
for _ in range(7):  # prepared by now, if it had passed
    assert refused(lambda: connection.execute("update payroll set salary = %s", (1,)))
assert row(3) == (3, "own row")
assert refused(lambda: connection.cursor().executemany("insert into payroll (employee) values (%s)", [("a",), ("b",)]))
assert row(4) == (4, "own row")
# In a block: the target's transaction fails with it.
try:
    with connection.transaction():
        connection.execute("update staging set v = 'lost' where id = 1")
        assert refused(lambda: connection.execute("drop database shop"))
        assert status() == "INERROR"
        raise KeyError
except KeyError:
    pass
assert status() == "IDLE"
connection.execute("begin")
connection.execute("update staging set v = 'lost' where id = 1")
assert refused(lambda: connection.execute("select * from payroll"))
assert connection.execute("commit").statusmessage == "ROLLBACK"
# A savepoint brings the transaction back, as it does at a server.
with connection.transaction():
    try:
        with connection.transaction():
            connection.execute("select * from payroll")
    except errors.InsufficientPrivilege:
        pass
    connection.execute("update staging set v = 'kept' where id = 2")
assert connection.execute("select v from staging where id in (1, 2) order by id").fetchall() == [("v1",), ("kept",)]
# A pipeline: what came before has its answer, what came after is discarded up to the Sync.
with connection.pipeline() as pipeline:
    before = connection.execute("select 5, 'own row'")
    pipeline.sync()
    try:
        connection.execute("select * from payroll")
        connection.execute("update staging set v = 'lost' where id = 1")
        pipeline.sync()
    except errors.InsufficientPrivilege:
        # It may have come before the sync above was sent.
        pipeline.sync()
    after = connection.execute("select 6, 'own row'")
    assert before.fetchone() == (5, "own row")
    assert after.fetchone() == (6, "own row")
assert connection.execute("select v from staging where id = 1").fetchone() == ("v1",)
# COPY either way, and a cursor of the server.
def copy(text):
    with connection.cursor().copy(text) as stream:
        stream.read()
assert refused(lambda: copy("copy payroll to stdout"))
assert row(7) == (7, "own row")
try:
    copy("copy customers (name) to stdout (format binary)")
except errors.FeatureNotSupported as error:
    assert "binary format cannot be masked" in str(error)
assert row(8) == (8, "own row")
with connection.transaction(force_rollback=True):
    assert refused(lambda: connection.cursor("c").execute("select * from payroll"))
assert row(9) == (9, "own row") and status() == "IDLE"
print("as expected")
"""


def test_psycopg_goes_on_after_every_kind_of_refusal(lab: Lab) -> None:
    lab.fresh_database("refusals", _SHOP)
    assert outcome(through(lab, [sys.executable, "-"], database="refusals", text=_PSYCOPG_REFUSED)) == (
        "as expected\n",
        "",
        0,
    )


_ASYNCPG_REFUSED = """
import asyncio
import asyncpg

async def refused(awaitable):
    try:
        await awaitable
    except asyncpg.InsufficientPrivilegeError as error:
        assert "refused" in str(error), error
        return True

async def main():
    connection = await asyncpg.connect()
    async def row(number):
        return await connection.fetchval("select $1::int", number)
    for _ in range(3):
        assert await refused(connection.fetch("select * from payroll where id = $1", 1))
        assert await row(1) == 1
    assert await refused(connection.execute("select 1; select * from payroll"))
    assert await row(2) == 2
    assert await refused(connection.executemany("insert into payroll (employee) values ($1)", [("a",), ("b",)]))
    assert await row(3) == 3 and not connection.is_in_transaction()
    assert await refused(connection.copy_from_table("payroll", output=lambda data: None))
    assert await refused(connection.copy_records_to_table("payroll", records=[(1,)], columns=["id"]))
    assert await row(4) == 4
    try:
        async with connection.transaction():
            await connection.execute("update staging set v = 'lost' where id = 1")
            await connection.execute("drop database shop")
    except asyncpg.InsufficientPrivilegeError:
        pass
    async with connection.transaction():
        try:
            async with connection.transaction():
                await connection.fetch("select * from payroll")
        except asyncpg.InsufficientPrivilegeError:
            pass
        await connection.execute("update staging set v = 'kept' where id = 2")
    assert await connection.fetch("select v from staging where id in (1, 2) order by id") == [("v1",), ("kept",)]
    assert await refused(connection.prepare("select * from payroll")) or await refused(
        (await connection.prepare("select * from payroll")).fetch()
    )
    assert await row(5) == 5
    await connection.close()
    async with asyncpg.create_pool(min_size=2, max_size=2) as pool:
        async def use(number):
            async with pool.acquire() as one:
                if number % 2:
                    return await refused(one.fetch("select * from payroll"))
                return await one.fetchval("select $1::int", number) == number
        assert all(await asyncio.gather(*(use(number) for number in range(20))))
    print("as expected")

asyncio.run(main())
"""


def test_asyncpg_goes_on_after_every_kind_of_refusal(lab: Lab) -> None:
    lab.fresh_database("refusals", _SHOP)
    assert outcome(through(lab, [sys.executable, "-"], database="refusals", text=_ASYNCPG_REFUSED)) == (
        "as expected\n",
        "",
        0,
    )


_SHOP = """
create table payroll (id int primary key, employee text, salary int);
create table customers (id int primary key, name text, email text, card_number text);
create table staging (id int primary key, v text);
insert into payroll values (1, 'Gil', 1);
insert into customers values (1, 'Ada', 'ada@shop.example', '4111111111111111');
insert into staging select n, 'v' || n from generate_series(1, 5) n;
"""
