"""As-of joins side by side: Tidegate, DuckDB and Polars on the same data and the same machine.

    python benches/as_of.py --shape base
    python benches/as_of.py --shape three --rows 0.01      # a hundredth of the size, to see that it runs

Needs Python 3.11 and a release build of Tidegate (`cargo build --release`); the rest it installs into a venv of its own.
Each engine runs in a process of its own, reads the same data (DuckDB and Polars from Parquet, Tidegate from its store, which
is loaded from that Parquet first), and makes a finished table of the result. Medians of five runs after one that warms up;
memory is the peak of the resident set. `receive` is the result at a client: of Tidegate as a binary COPY, of DuckDB as Arrow.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import venv

HERE = pathlib.Path(__file__).resolve().parent
WORK = HERE.parent / "target" / "bench-as-of"
PACKAGES = ["duckdb==2.0.*", "polars==2.1.*", "psycopg[binary]==3.*", "numpy", "pyarrow"]
RUNS = 5

# DuckDB with the age in the join's condition takes a time that grows with the square: of so many rows it is asked at all.
NATURAL_TTL_ROWS_MAX = 200_000
DAY = 86_400_000_000

# history rows, labels, entities, features, views, TTL in days, the share of history that one entity has, whether the history
# is clustered by OPTIMIZE FEATURE VIEW before it is asked
BASE = dict(history=10_000_000, labels=1_000_000, entities=100_000, features=10, views=1, ttl=None, hot=0.0, optimize=False)
SHAPES = {
    "base": BASE,
    "clustered": BASE | dict(optimize=True),
    "ttl": BASE | dict(ttl=30),
    "three": BASE | dict(views=3),
    "hot": BASE | dict(hot=0.5),
    "few": BASE | dict(labels=1_000, optimize=True),
    "long": BASE | dict(history=100_000_000, features=2),
}


def generate(shape, folder):
    """The history in time order, and labels in no order, over a year of seconds."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(20_260_101)
    year = 365 * DAY
    stamp = pa.timestamp("us", tz="UTC")

    def entities(rows):
        keys = random.integers(0, shape["entities"], rows)
        return np.where(random.random(rows) < shape["hot"], 0, keys)

    for view in range(shape["views"]):
        times = np.sort(random.integers(0, year, shape["history"]))
        writer = None
        for start in range(0, shape["history"], 1_000_000):
            some = times[start : start + 1_000_000]
            columns = {"k": entities(len(some)), "event_time": pa.array(some, type=stamp)}
            columns |= {f"f{number}": random.random(len(some)) for number in range(shape["features"])}
            group = pa.table(columns)
            writer = writer or pq.ParquetWriter(folder / f"history{view}.parquet", group.schema)
            writer.write_table(group)
        writer.close()
    rows = shape["labels"]
    labels = {"n": np.arange(rows), "k": entities(rows), "t": pa.array(random.integers(0, year, rows), type=stamp)}
    pq.write_table(pa.table(labels), folder / "labels.parquet")


def feature_list(shape, alias):
    return [f"{alias}.f{number}" for number in range(shape["features"])]


def checksum_sql(shape):
    """One number that is the same for the same answers."""
    columns = [f"v{view}_f{number}" for view in range(shape["views"]) for number in range(shape["features"])]
    counts = " + ".join(f"count({column})" for column in columns)
    sums = " + ".join(f"sum({column})" for column in columns)
    return f"SELECT {counts}, {sums} FROM result"


def run_duckdb(shape, folder, note, natural):
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    fields, joins = [], []
    for view in range(shape["views"]):
        features = feature_list(shape, f"v{view}")
        age = "true" if shape["ttl"] is None else f"l.t - v{view}.event_time <= INTERVAL {shape['ttl']} DAY"
        # Its quick form of a TTL judges the age after the join.
        live = "true" if natural else age
        fields += [f"CASE WHEN {live} THEN {feature} END AS {feature.replace('.', '_')}" for feature in features]
        on = f"l.k = v{view}.k AND l.t >= v{view}.event_time" + (f" AND {age}" if natural else "")
        joins.append(f"ASOF LEFT JOIN '{folder}/history{view}.parquet' v{view} ON {on}")
    query = f"SELECT l.n, l.k, l.t, {', '.join(fields)} FROM '{folder}/labels.parquet' l {' '.join(joins)}"

    def once():
        connection.execute(f"CREATE OR REPLACE TABLE result AS {query}")

    def receive():
        connection.execute(query).to_arrow_table()

    note(once, lambda: connection.execute(checksum_sql(shape)).fetchone(), None, receive)


def run_polars(shape, folder, note):
    import polars

    tolerance = None if shape["ttl"] is None else f"{shape['ttl']}d"
    result = None

    def once():
        nonlocal result
        table = polars.read_parquet(folder / "labels.parquet").sort("t")
        for view in range(shape["views"]):
            history = polars.read_parquet(folder / f"history{view}.parquet")
            history = history.rename({f"f{number}": f"v{view}_f{number}" for number in range(shape["features"])})
            table = table.join_asof(
                history, left_on="t", right_on="event_time", by="k", tolerance=tolerance, check_sortedness=False
            ).drop("event_time", strict=False)
        result = table.sort("n")

    def check():
        columns = [f"v{view}_f{number}" for view in range(shape["views"]) for number in range(shape["features"])]
        return sum(result[column].count() for column in columns), sum(result[column].sum() for column in columns)

    note(once, check)


def serve(binary, folder):
    """A gateway over a folder's store on a free port, and a connection to it."""
    import psycopg

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [binary, "serve", "--listen", f"127.0.0.1:{port}", "--data", folder / "store"]
    server = subprocess.Popen(arguments, cwd=folder, env=os.environ | {"TIDEGATE_LOG": "warn"})
    for _ in range(1200):
        try:
            return server, psycopg.connect(f"host=127.0.0.1 port={port} user=bench dbname=tidegate", autocommit=True)
        except psycopg.OperationalError:
            time.sleep(0.1)
    server.kill()
    raise SystemExit("the gateway did not start")


def stop(server, connection):
    connection.close()
    server.send_signal(signal.SIGTERM)
    server.wait(timeout=60)


def run_tidegate(shape, folder, note, binary):
    shutil.rmtree(folder / "store", ignore_errors=True)
    server, connection = serve(binary, folder)
    load_tidegate(connection, shape, folder)
    loading = peak_of(server.pid)
    # A gateway that has not loaded: the others read files that somebody else made, too.
    stop(server, connection)
    server, connection = serve(binary, folder)
    try:
        query = tidegate_query(shape)

        def once():
            connection.execute("DROP TABLE IF EXISTS result")
            connection.execute(f"CREATE TABLE result AS {query}")

        def receive():
            with connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT binary)") as copy:
                for _ in copy:
                    pass

        memory = lambda: peak_of(server.pid)
        note(once, lambda: connection.execute(checksum_sql(shape)).fetchone(), memory, receive, loading)
    finally:
        stop(server, connection)
        shutil.rmtree(folder / "store", ignore_errors=True)


def tidegate_query(shape):
    fields, joins = [], []
    for view in range(shape["views"]):
        fields += [f"{feature} AS {feature.replace('.', '_')}" for feature in feature_list(shape, f"v{view}")]
        joins.append(f"LEFT JOIN view{view} AS OF l.t AS v{view} ON v{view}.k = l.k")
    return f"SELECT l.n, l.k, l.t, {', '.join(fields)} FROM labels l {' '.join(joins)}"


def load_tidegate(connection, shape, folder):
    connection.execute("CREATE ENTITY thing KEY (k BIGINT)")
    connection.execute(f"CREATE EXTERNAL TABLE labels STORED AS PARQUET LOCATION '{folder}/labels.parquet'")
    features = ", ".join(f"f{number} DOUBLE PRECISION" for number in range(shape["features"]))
    names = ", ".join(["k", "event_time"] + [f"f{number}" for number in range(shape["features"])])
    ttl = "" if shape["ttl"] is None else f" TTL INTERVAL '{shape['ttl']} days'"
    for view in range(shape["views"]):
        connection.execute(f"CREATE EXTERNAL TABLE history{view} STORED AS PARQUET LOCATION '{folder}/history{view}.parquet'")
        connection.execute(f"CREATE FEATURE VIEW view{view} ({features}) ENTITY thing{ttl}")
        connection.execute(f"INSERT INTO view{view} ({names}) SELECT {names} FROM history{view}")
        if shape["optimize"]:
            connection.execute(f"OPTIMIZE FEATURE VIEW view{view}")


def peak_of(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def measure(once, check, memory=None, receive=None, loading=None):
    """Runs an engine and prints what was seen as a line of JSON."""

    def seconds(work):
        work()
        runs = []
        for _ in range(RUNS):
            start = time.perf_counter()
            work()
            runs.append(time.perf_counter() - start)
        return statistics.median(runs)

    seen = {"seconds": seconds(once)}
    seen["memory"] = memory() if memory else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seen["check"] = [float(part) for part in check()]
    seen["receive"] = seconds(receive) if receive else None
    seen["loading"] = loading
    print("SEEN " + json.dumps(seen))


def in_own_process(python, engine, arguments):
    command = [python, __file__, "--engine", engine, "--shape", arguments.shape, "--rows", str(arguments.rows)]
    command += ["--binary", arguments.binary]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    if done.returncode or not lines:
        raise SystemExit(f"{engine} failed")
    return json.loads(lines[0][5:])


def installed_python():
    """The Python of a venv that has the other engines."""
    home = WORK / "venv"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return str(python)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="base")
    parser.add_argument("--rows", type=float, default=1.0, help="the share of the full size [default: 1]")
    parser.add_argument("--binary", default=str(HERE.parent / "target" / "release" / "tidegate"))
    parser.add_argument("--engine", choices=["data", "duckdb", "duckdb-on", "polars", "tidegate"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = dict(SHAPES[arguments.shape])
    for size in ("history", "labels", "entities"):
        shape[size] = max(1, round(shape[size] * arguments.rows))
    folder = WORK / f"{arguments.shape}-{arguments.rows:g}"
    match arguments.engine:
        case "data":
            if not (folder / "labels.parquet").exists():
                generate(shape, folder)
        case "duckdb":
            run_duckdb(shape, folder, measure, natural=False)
        case "duckdb-on":
            run_duckdb(shape, folder, measure, natural=True)
        case "polars":
            run_polars(shape, folder, measure)
        case "tidegate":
            run_tidegate(shape, folder, measure, arguments.binary)
        case None:
            report(arguments, shape)


def report(arguments, shape):
    WORK.mkdir(parents=True, exist_ok=True)
    python = installed_python()
    subprocess.run([python, __file__, "--engine", "data", "--shape", arguments.shape, "--rows", str(arguments.rows)], check=True)
    sizes = ", ".join(f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in shape.items())
    print(f"{arguments.shape}: {sizes}; {os.cpu_count()} cores")
    print(f"{'engine':<10}{'seconds':>10}{'peak MiB':>10}{'receive s':>11}  non-NULL values, their sum")
    engines = ["tidegate", "duckdb", "polars"]
    if shape["ttl"] is not None and shape["history"] <= NATURAL_TTL_ROWS_MAX:
        engines.insert(2, "duckdb-on")
    for engine in engines:
        seen = in_own_process(python, engine, arguments)
        received = "" if seen["receive"] is None else f"{seen['receive']:.3f}"
        count, total = seen["check"]
        print(f"{engine:<10}{seen['seconds']:>10.3f}{seen['memory'] / 2**20:>10.0f}{received:>11}  {count:.0f}, {total:.3f}")
        if seen["loading"]:
            print(f"{'  loading':<20}{seen['loading'] / 2**20:>10.0f}")


if __name__ == "__main__":
    sys.exit(main())
