"""A session through asyncpg as it comes, with its prepared statements, its look at the types in the catalog and its pool: create,
insert with parameters, COPY in binary, lookups, blocks. Fails with a traceback; prints nothing when all holds."""

import asyncio
import sys
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import asyncpg

PORT = int(sys.argv[1])
AT = datetime(2025, 12, 31, 12, 0, 0, 123456, tzinfo=timezone.utc)
# Each is a feature of one view, and is asked back by a lookup. All types that have arrays are looked up in the catalog.
VALUES = [
    (True, "boolean"), (-7, "smallint"), (2**31 - 1, "integer"), (-(2**63), "bigint"), (0.5, "real"), (1e-300, "double precision"),
    (Decimal("-12345.678"), "numeric(12,3)"), ("täglich '\"\\", "text"), (b"\x00\xff", "bytea"), (date(1999, 12, 31), "date"),
    (AT.replace(tzinfo=None), "timestamp"), (AT, "timestamptz"), (timedelta(days=1, hours=2, microseconds=3), "interval"),
    (uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), "uuid"), ([1, None, 3], "bigint[]"), (["a", "b,c", None, ""], "text[]"),
    ([0.5, -1e300], "double precision[]"), ([Decimal("0.10"), None], "numeric(10,2)[]"), ([AT, None], "timestamptz[]"), ([True, False], "boolean[]"),
    ([0.5, 0.25], "real[2]"),
]


def same(actual, expected, what):
    assert actual == expected, f"{what}: {actual!r}, not {expected!r}"


def rows(records):
    return [tuple(record) for record in records]


async def create(connection):
    await connection.execute("CREATE ENTITY customer KEY (customer_id BIGINT)")
    await connection.execute("CREATE FEATURE VIEW spend (amount DOUBLE PRECISION, plan TEXT) ENTITY customer")
    columns = ", ".join(f"f{number} {name}" for number, (_, name) in enumerate(VALUES))
    await connection.execute(f"CREATE FEATURE VIEW everything ({columns}) ENTITY customer")


async def insert(connection):
    statement = "INSERT INTO spend (customer_id, event_time, amount, plan) VALUES ($1, $2, $3, $4)"
    same(await connection.execute(statement, 7, AT, 0.1, None), "INSERT 0 1", "tag of an insert")
    await connection.executemany(statement, [(8, AT, 1.0, "free"), (9, AT, 2.0, "paid")])
    await connection.executemany(statement, [(customer, AT, 1.0, "many") for customer in range(1000, 2500)])
    same(await connection.fetchval("SELECT count(*) FROM spend WHERE plan = 'many'"), 1500, "many rows inserted")


async def look_up(connection):
    lookup = await connection.prepare("SELECT event_time, amount, plan FROM spend WHERE customer_id = $1")
    same([parameter.name for parameter in lookup.get_parameters()], ["int8"], "type of the parameter")
    same([column.type.name for column in lookup.get_attributes()], ["timestamptz", "float8", "text"], "types of the columns")
    same(rows(await lookup.fetch(7)), [(AT, 0.1, None)], "lookup")
    same(await lookup.fetchrow(99), None, "lookup of nobody")
    same(await lookup.fetchval(8, column=2), "free", "a value of a lookup")
    several = "SELECT customer_id, plan FROM spend WHERE customer_id = ANY($1::bigint[]) ORDER BY customer_id"
    same(rows(await connection.fetch(several, [7, 8, 99])), [(7, None), (8, "free")], "several keys")
    past = "SELECT amount FROM spend AS OF $1 WHERE customer_id = 7"
    same(await connection.fetchval(past, AT - timedelta(minutes=1)), None, "as of an instant before")
    same(await connection.fetchval(past, AT), 0.1, "as of the instant")


async def types(connection):
    names = ", ".join(f"f{number}" for number in range(len(VALUES)))
    places = ", ".join(f"${number + 3}" for number in range(len(VALUES)))
    statement = f"INSERT INTO everything (customer_id, event_time, {names}) VALUES ($1, $2, {places})"
    await connection.execute(statement, 1, AT, *(value for value, _ in VALUES))
    await connection.execute(statement, 2, AT, *(None for _ in VALUES))
    for customer, values in [(1, [value for value, _ in VALUES]), (2, [None] * len(VALUES))]:
        row = await connection.fetchrow(f"SELECT {names} FROM everything WHERE customer_id = $1", customer)
        for actual, expected, (_, name) in zip(row, values, VALUES, strict=True):
            same(actual, expected, f"{name} of customer {customer}")
            assert isinstance(actual, type(expected)), f"{name} of customer {customer}: {type(actual)}"
    for value, name in VALUES:
        same(tuple(await connection.fetchrow(f"SELECT $1::{name}, NULL::{name}", value)), (value, None), f"a parameter, {name}")


async def copy(connection):
    records = [(7, AT - timedelta(hours=1), 0.05, "tab\tand \\ back"), (10, AT, None, "")]
    tag = await connection.copy_records_to_table(
        "spend", records=records, columns=["customer_id", "event_time", "amount", "plan"])
    same(tag, "COPY 2", "tag of a COPY")
    same(await connection.fetchval("SELECT plan FROM spend WHERE customer_id = 10"), "", "a row copied")
    got = bytearray()

    async def collect(data):
        got.extend(data)

    query = "SELECT customer_id, plan FROM spend WHERE customer_id = ANY($1) ORDER BY customer_id"
    same(await connection.copy_from_query(query, [7, 10], output=collect, format="csv"), "COPY 2", "tag of a COPY out")
    same(bytes(got), b'7,\n10,""\n', "copied out as text")
    got.clear()
    await connection.copy_from_query("SELECT 7::bigint", output=collect, format="binary")
    same(bytes(got), b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\0\1\0\0\0\x08" + (7).to_bytes(8, "big") + b"\xff\xff", "in binary")


async def blocks(connection):
    statement = "INSERT INTO spend (customer_id, event_time, amount) VALUES ($1, $2, 1)"
    lookup = "SELECT amount FROM spend WHERE customer_id = $1"
    async with connection.transaction():
        await connection.execute(statement, 20, AT)
        same(await connection.fetchval(lookup, 20), 1.0, "the block sees its own row")
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.execute(statement, 21, AT)
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    same(await connection.fetchval(lookup, 21), None, "a block rolled back")
    same(await connection.fetchval(lookup, 20), 1.0, "a block committed")
    async with connection.transaction(readonly=True):
        numbers = [record["n"] async for record in connection.cursor("SELECT n FROM generate_series(1, 120) AS t (n)", prefetch=50)]
    same(numbers, list(range(1, 121)), "a cursor")


async def errors(connection):
    try:
        await connection.fetch("SELECT nope FROM nowhere")
        raise AssertionError("a relation that is not there was read")
    except asyncpg.UndefinedTableError as error:
        same(error.sqlstate, "42P01", "SQLSTATE")
    try:
        async with connection.transaction():
            await connection.fetch("SELECT 1 / $1::int", 0)
        raise AssertionError("something was divided by zero")
    except asyncpg.DivisionByZeroError as error:
        same(error.sqlstate, "22012", "SQLSTATE in a block")
    same(await connection.fetchval("SELECT 1"), 1, "the connection after an error")


async def settings(connection):
    """What asyncpg does around its look at the types, and what others do by the same function."""
    await connection.execute("SET jit = on")
    await connection.fetch("SELECT $1::smallint[], $2::oid[]", [1], [2])
    same(await connection.fetchval("SHOW jit"), "on", "jit after a look at the types")
    row = await connection.fetchrow(
        "SELECT current_setting('application_name') AS a, set_config('application_name', $1, $2) AS b,"
        " current_setting('application_name') AS c", "me", False)
    same(dict(row), {"a": "", "b": "me", "c": "me"}, "settings before and after")
    same(connection.get_settings().application_name, "me", "what the client is told")


async def pool():
    """A connection comes back from its user as it was."""
    async with asyncpg.create_pool(
            host="127.0.0.1", port=PORT, user="tester", database="tidegate", min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            pid = connection.get_server_pid()
            await connection.execute("SET tidegate.route = offline")
        for _ in range(3):
            async with pool.acquire() as connection:
                same(connection.get_server_pid(), pid, "the same connection")
                same(await connection.fetchval("SHOW tidegate.route"), "auto", "a setting of the user before")
                same(await connection.fetchval("SELECT amount FROM spend WHERE customer_id = $1", 8), 1.0, "lookup by a pool")
        found = await asyncio.gather(
            *(pool.fetchval("SELECT amount FROM spend WHERE customer_id = $1", customer) for customer in [7, 8, 9, 99]))
        same(found, [0.1, 1.0, 2.0, None], "lookups that wait for a connection")


async def main():
    connection = await asyncpg.connect(host="127.0.0.1", port=PORT, user="tester", database="tidegate")
    for part in (create, insert, look_up, types, copy, blocks, errors, settings):
        await part(connection)
    await connection.close()
    await pool()


asyncio.run(main())
