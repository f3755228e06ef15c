"""Lookups by key side by side: Tidegate, embedded and on Redis, PostgreSQL with the same table, and Redis itself.

    python benches/lookup.py
    python benches/lookup.py --seconds 10 --binary target/release/tidegate

Needs Python 3.11, PostgreSQL's server and pgbench, redis-server and redis-benchmark, and a release build of Tidegate. 100,000
entities with ten double features. The client is pgbench with prepared statements: one lookup at a time from 1, 16 and 64
connections, ten in a pipeline from 8, and batches of 100 entities by `IN`. Each figure is the median of three runs after one
that warms up; clients and servers share the machine, and the servers' processor time for a lookup includes the system's.
"""

import argparse
import contextlib
import os
import pathlib
import pwd
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ENTITIES = 100_000
FEATURES = [f"f{number}" for number in range(10)]
RUNS = 3
PIPELINE = 10
BATCH = 100

LOOKUP = f"SELECT {', '.join(FEATURES)} FROM features WHERE k = :k;"
SCRIPTS = {
    "single": f"\\set k random(0, {ENTITIES - 1})\n{LOOKUP}\n",
    "pipeline": "\\startpipeline\n" + f"\\set k random(0, {ENTITIES - 1})\n{LOOKUP}\n" * PIPELINE + "\\endpipeline\n",
    "batch": "".join(f"\\set k{n} random(0, {ENTITIES - 1})\n" for n in range(BATCH))
    + f"SELECT {', '.join(FEATURES)} FROM features WHERE k IN ({', '.join(f':k{n}' for n in range(BATCH))});\n",
}

# What is asked, from how many connections, and how many lookups a transaction of it is.
SHAPES = [("single", 1, 1), ("single", 16, 1), ("single", 64, 1), ("pipeline", 8, PIPELINE), ("batch", 1, BATCH), ("batch", 8, BATCH)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tool(name):
    """A program of PostgreSQL, which Debian keeps out of the path."""
    places = [shutil.which(name), *sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)]
    found = next((place for place in places if place), None)
    if found is None:
        raise SystemExit(f"{name} is not installed")
    return str(found)


def psql(port, sql, user):
    command = [tool("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(port), "-U", user, "-d", "postgres"]
    subprocess.run(command, input=sql, text=True, check=True)


def wait_for(port):
    for _ in range(300):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise SystemExit("a server did not start")


def rows_as_csv(folder):
    path = folder / "rows.csv"
    with path.open("w") as file:
        for key in range(ENTITIES):
            values = ",".join(repr((key * 31 + number) / 7) for number in range(len(FEATURES)))
            file.write(f"{key},2026-01-01 00:00:00Z,{values}\n")
    path.chmod(0o644)
    return path


@contextlib.contextmanager
def postgres(folder):
    """PostgreSQL with the table and its primary key, everything in its memory, and nothing synced while it is asked."""
    data = folder / "postgres"
    user = {} if os.getuid() else {"user": "postgres"}
    if user:
        data.mkdir()
        owner = pwd.getpwnam("postgres")
        os.chown(data, owner.pw_uid, owner.pw_gid)
    subprocess.run([tool("initdb"), "-D", data, "-A", "trust", "-U", "bench"], check=True, stdout=subprocess.DEVNULL, **user)
    port = free_port()
    arguments = [tool("postgres"), "-D", data, "-p", str(port), "-c", "shared_buffers=1GB", "-k", "/tmp"]
    server = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, **user)
    try:
        wait_for(port)
        time.sleep(1)
        columns = ", ".join(f"{name} DOUBLE PRECISION" for name in FEATURES)
        psql(port, f"CREATE TABLE features (k BIGINT PRIMARY KEY, event_time TIMESTAMPTZ, {columns});", "bench")
        load(port, folder, "bench")
        psql(port, "VACUUM ANALYZE features;", "bench")
        yield port, lambda: tree_seconds(server.pid)
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def redis(folder):
    port = free_port()
    (folder / "redis").mkdir(exist_ok=True)
    arguments = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder / "redis")]
    server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield port
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def tidegate(folder, binary, name, *arguments):
    port = free_port()
    command = [binary, "serve", "--listen", f"127.0.0.1:{port}", "--data", folder / name, *arguments]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"TIDEGATE_LOG": "warn"})
    try:
        wait_for(port)
        columns = ", ".join(f"{name} DOUBLE PRECISION" for name in FEATURES)
        psql(port, f"CREATE ENTITY thing KEY (k BIGINT); CREATE FEATURE VIEW features ({columns}) ENTITY thing;", "bench")
        load(port, folder, "bench")
        yield port, lambda: tree_seconds(server.pid)
    finally:
        server.terminate()
        server.wait()


def load(port, folder, user):
    columns = ", ".join(["k", "event_time", *FEATURES])
    with rows_as_csv(folder).open() as rows:
        command = [tool("psql"), "-X", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", user, "-d", "postgres"]
        subprocess.run([*command, "-c", f"COPY features ({columns}) FROM STDIN (FORMAT csv)"], stdin=rows, check=True)


def tree_seconds(pid):
    """The processor time of a process and its children, in seconds."""
    total = 0.0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(") ", 1)[1].split()
            if int(stat.parent.name) == pid or int(fields[1]) == pid:
                total += sum(map(int, fields[11:15 if int(stat.parent.name) == pid else 13])) / os.sysconf("SC_CLK_TCK")
    return total


def pgbench(port, script, connections, seconds, folder):
    """Transactions a second, and the median and 99th percentile of their latencies in milliseconds."""
    log = folder / "log"
    shutil.rmtree(log, ignore_errors=True)
    log.mkdir()
    path = folder / "script.sql"
    path.write_text(SCRIPTS[script])
    command = [tool("pgbench"), "-n", "-M", "prepared", "-f", str(path), "-c", str(connections), "-j", "1", "-T", str(seconds)]
    command += ["-h", "127.0.0.1", "-p", str(port), "-U", "bench", "-l", "--sampling-rate=0.2", "postgres"]
    done = subprocess.run(command, cwd=log, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    rate = float(re.search(r"tps = ([0-9.]+)", done.stdout)[1])
    latencies = sorted(int(line.split()[2]) for file in log.iterdir() for line in file.read_text().splitlines())
    at = lambda share: latencies[int(share * (len(latencies) - 1))] / 1000 if latencies else float("nan")
    return rate, at(0.5), at(0.99)


def measure(name, port, processor, folder, seconds):
    for script, connections, lookups in SHAPES:
        pgbench(port, script, connections, 1, folder)
        runs = []
        for _ in range(RUNS):
            before = processor()
            rate, p50, p99 = pgbench(port, script, connections, seconds, folder)
            spent = (processor() - before) / (rate * seconds * lookups) * 1e6
            runs.append((rate, p50, p99, spent))
        rate, p50, p99, spent = map(statistics.median, zip(*runs))
        line = f"{name:<20}{script:<10}{connections:>5}{rate * lookups:>13,.0f}{p50:>9.3f}{p99:>9.3f}{spent:>12.1f}"
        print(line, flush=True)


def measure_redis(port):
    """GETs of values as long as a row of ten doubles."""
    base = ["redis-benchmark", "-p", str(port), "-q", "--csv", "-d", "100", "-r", str(ENTITIES)]
    subprocess.run([*base, "-t", "set", "-n", str(2 * ENTITIES)], stdout=subprocess.DEVNULL, check=True)
    for connections, pipeline in ((1, 1), (16, 1), (64, 1), (8, 10)):
        arguments = [*base, "-t", "get", "-n", "300000", "-c", str(connections), "-P", str(pipeline)]
        rates = [subprocess.run(arguments, capture_output=True, text=True, check=True).stdout for _ in range(RUNS)]
        rows = [line.split(",") for text in rates for line in text.splitlines() if line.startswith('"GET"')]
        rate = statistics.median(float(row[1].strip('"')) for row in rows)
        kind = "single" if pipeline == 1 else "pipeline"
        print(f"{'redis-benchmark':<20}{kind:<10}{connections:>5}{rate:>13,.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of each run [default: 5]")
    parser.add_argument("--binary", default=str(HERE.parent / "target" / "release" / "tidegate"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        print(f"{'server':<20}{'shape':<10}{'conns':>5}{'lookups/s':>13}{'p50 ms':>9}{'p99 ms':>9}{'CPU us each':>12}")
        with postgres(folder) as (port, processor):
            measure("postgresql", port, processor, folder, arguments.seconds)
        with tidegate(folder, arguments.binary, "embedded") as (port, processor):
            measure("tidegate embedded", port, processor, folder, arguments.seconds)
        with redis(folder) as store:
            with tidegate(folder, arguments.binary, "on-redis", "--redis", f"redis://127.0.0.1:{store}") as (port, processor):
                measure("tidegate redis", port, processor, folder, arguments.seconds)
            measure_redis(store)


if __name__ == "__main__":
    sys.exit(main())
