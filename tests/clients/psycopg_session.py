"""A session through psycopg 3, once with text results and once with binary ones: create, insert with parameters, COPY, point
lookup, AS OF join. Fails with a traceback; prints nothing when all holds."""

import sys
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import psycopg

PORT = int(sys.argv[1])
AT = datetime(2025, 12, 31, 12, 0, 0, 123456, tzinfo=timezone.utc)
VALUES = [
    (True, "boolean"), (-7, "smallint"), (2**31 - 1, "integer"), (-(2**63), "bigint"), (0.5, "real"), (1e-300, "double precision"),
    (Decimal("-12345.678"), "numeric"), ("täglich '\"\\", "text"), (b"\x00\xff", "bytea"), (date(1999, 12, 31), "date"),
    (AT.replace(tzinfo=None), "timestamp"), (AT, "timestamptz"), (timedelta(days=1, hours=2, microseconds=3), "interval"),
    (uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), "uuid"), ([1, None, 3], "bigint[]"), (["a", "b,c", None, ""], "text[]"),
]


def same(actual, expected, what):
    assert actual == expected, f"{what}: {actual!r}, not {expected!r}"


def session(binary, suffix):
    with psycopg.connect(f"host=127.0.0.1 port={PORT} user=tester dbname=tidegate", autocommit=True) as connection:
        cursor = connection.cursor(binary=binary)
        cursor.execute(f"CREATE ENTITY customer_{suffix} KEY (customer_id BIGINT)")
        cursor.execute(f"CREATE FEATURE VIEW spend_{suffix} (amount DOUBLE PRECISION, plan TEXT) ENTITY customer_{suffix}")
        cursor.execute(
            f"INSERT INTO spend_{suffix} (customer_id, event_time, amount, plan) VALUES (%s, %s, %s, %s)",
            (7, AT, 0.1, None), binary=binary)
        same(cursor.rowcount, 1, "rows inserted")
        cursor.executemany(
            f"INSERT INTO spend_{suffix} (customer_id, event_time, amount, plan) VALUES (%s, %s, %s, %s)",
            [(8, AT, 1.0, "free"), (9, AT, 2.0, "paid")])
        with cursor.copy(f"COPY spend_{suffix} (customer_id, event_time, amount, plan) FROM STDIN") as copy:
            copy.write_row((7, AT - timedelta(hours=1), 0.05, "tab\tand \\ back"))
            copy.write_row((10, AT, None, ""))
        lookup = f"SELECT event_time, amount, plan FROM spend_{suffix} WHERE customer_id = %s"
        for repeat in range(7):  # psycopg prepares on the server from the sixth time on
            same(cursor.execute(lookup, (7,)).fetchall(), [(AT, 0.1, None)], f"lookup {repeat}")
        several = f"SELECT customer_id, plan FROM spend_{suffix} WHERE customer_id = ANY(%s) ORDER BY customer_id"
        same(cursor.execute(several, ([7, 8, 10, 11],)).fetchall(), [(7, None), (8, "free"), (10, "")], "several keys")
        past = f"SELECT amount, plan FROM spend_{suffix} AS OF %s WHERE customer_id = 7"
        same(cursor.execute(past, (AT - timedelta(minutes=1),)).fetchall(), [(0.05, "tab\tand \\ back")], "as of an instant")
        cursor.execute(f"CREATE TABLE labels_{suffix} (id BIGINT, customer_id BIGINT, ts TIMESTAMPTZ)")
        with cursor.copy(f"COPY labels_{suffix} FROM STDIN (FORMAT csv, HEADER)") as copy:
            copy.write("id,customer_id,ts\n1,7,2025-12-31 11:30:00Z\n2,7,2025-12-31 13:00:00Z\n3,99,2025-12-31 13:00:00Z\n4,,\n")
        joined = f"""SELECT l.id, f.amount FROM labels_{suffix} l
            LEFT JOIN spend_{suffix} AS OF l.ts AS f ON f.customer_id = l.customer_id ORDER BY l.id"""
        same(cursor.execute(joined).fetchall(), [(1, 0.05), (2, 0.1), (3, None), (4, None)], "as-of join")
        with cursor.copy(f"COPY (SELECT id, customer_id FROM labels_{suffix} ORDER BY id) TO STDOUT (FORMAT csv)") as copy:
            same(b"".join(copy).decode(), "1,7\n2,7\n3,99\n4,\n", "copy out")
        for value, name in VALUES:
            row = cursor.execute(f"SELECT %s::{name}, NULL::{name}", (value,)).fetchone()
            same(row, (value, None), name)
        with connection.transaction():
            cursor.execute(f"INSERT INTO spend_{suffix} (customer_id, event_time, amount) VALUES (20, %s, 1)", (AT,))
            same(len(cursor.execute(lookup, (20,)).fetchall()), 1, "the block sees its own row")
        try:
            with connection.transaction():
                cursor.execute(f"INSERT INTO spend_{suffix} (customer_id, event_time, amount) VALUES (21, %s, 1)", (AT,))
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        same(cursor.execute(lookup, (21,)).fetchall(), [], "a block rolled back")
        same(len(cursor.execute(lookup, (20,)).fetchall()), 1, "a block committed")
        try:
            cursor.execute("SELECT nope FROM nowhere")
        except psycopg.errors.UndefinedTable as error:
            same(error.sqlstate, "42P01", "the code of an error")
        else:
            raise AssertionError("an unknown table was accepted")


session(False, "text")
session(True, "binary")
