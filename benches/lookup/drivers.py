"""Clients in Python, run by the Python that has their libraries; called as client.rs is, and writing the same.

    drivers.py KIND ADDRESS CONNECTIONS SECONDS ENTITIES BATCH FILE TEXT

KIND is `psycopg`, `asyncpg` (ADDRESS a host and port, TEXT a statement with one `bigint[]`, `$1`), `feast` (ADDRESS the folder
of a repository, TEXT its views with commas between), or `feast-load`, which makes that repository: TEXT is the port of its Redis.
After the seconds, standard output has the processor time that the calls took of this process.
"""

import array
import asyncio
import pathlib
import random
import sys
import time

FEATURES = [f"f{number}" for number in range(10)]
VIEWS = ["features", "features1", "features2", "features3", "features4"]
WARM_CALLS = 50


def psycopg_ask(address, text):
    import psycopg

    host, port = address.split(":")
    connection = psycopg.connect(f"host={host} port={port} user=bench dbname=postgres", autocommit=True)
    cursor = connection.cursor(binary=True)
    statement = text.replace("$1", "%b::bigint[]")
    return lambda keys: len(cursor.execute(statement, (keys,), prepare=True).fetchall())


def asyncpg_ask(address, text, loop):
    import asyncpg

    host, port = address.split(":")
    connection = loop.run_until_complete(
        asyncpg.connect(host=host, port=int(port), user="bench", database="postgres", ssl=False)
    )
    statement = loop.run_until_complete(connection.prepare(text))
    return lambda keys: len(loop.run_until_complete(statement.fetch(keys)))


def feast_ask(address, text):
    from feast import FeatureStore

    store = FeatureStore(repo_path=address)
    features = [f"{view}:{feature}" for view in text.split(",") for feature in FEATURES]
    full = "," in text

    def ask(keys):
        rows = [{"k": key} for key in keys]
        found = store.get_online_features(features=features, entity_rows=rows, full_feature_names=full).to_dict()
        return sum(value is not None for value in found["features__f0" if full else "f0"])

    return ask


def feast_load(address, port, entities):
    """A repository of the five views, with the values of the other servers."""
    import pandas
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64

    folder = pathlib.Path(address)
    folder.mkdir(parents=True)
    (folder / "feature_store.yaml").write_text(
        "project: bench\nprovider: local\nregistry: registry.db\nentity_key_serialization_version: 3\n"
        f"online_store:\n  type: redis\n  connection_string: localhost:{port}\noffline_store:\n  type: file\n"
    )
    frame = pandas.DataFrame({"k": range(entities)})
    frame["event_time"] = pandas.Timestamp("2026-01-01", tz="UTC")
    for number, feature in enumerate(FEATURES):
        frame[feature] = (frame["k"] * 31 + number) / 7
    frame.head(10).to_parquet(folder / "rows.parquet")
    subject = Entity(name="subject", join_keys=["k"], value_type=ValueType.INT64)
    source = FileSource(path=str(folder / "rows.parquet"), timestamp_field="event_time")
    schema = [Field(name=feature, dtype=Float64) for feature in FEATURES]
    views = [FeatureView(name=view, entities=[subject], schema=schema, source=source, ttl=None) for view in VIEWS]
    store = FeatureStore(repo_path=address)
    store.apply([subject, *views])
    for view in VIEWS:
        for start in range(0, entities, 10_000):
            store.write_to_online_store(view, frame.iloc[start : start + 10_000])


def main():
    kind, address, _, seconds, entities, batch, file, text = sys.argv[1:]
    entities, batch = int(entities), int(batch)
    if kind == "feast-load":
        return feast_load(address, text, entities)
    loop = asyncio.new_event_loop()
    match kind:
        case "psycopg":
            ask = psycopg_ask(address, text)
        case "asyncpg":
            ask = asyncpg_ask(address, text, loop)
        case "feast":
            ask = feast_ask(address, text)
    latencies = array.array("I")

    def call():
        keys = random.sample(range(entities), batch)
        asked = time.perf_counter_ns()
        found = ask(keys)
        latencies.append(min(time.perf_counter_ns() - asked, 2**32 - 1))
        if found != batch:
            raise SystemExit(f"{found} of {batch} entities came")

    for _ in range(WARM_CALLS):
        call()
    del latencies[:]
    start, spent = time.perf_counter(), time.process_time()
    while time.perf_counter() < start + float(seconds):
        call()
    passed, spent = time.perf_counter() - start, time.process_time() - spent
    pathlib.Path(file).write_bytes(latencies.tobytes())
    print(passed, spent)


if __name__ == "__main__":
    sys.exit(main())
