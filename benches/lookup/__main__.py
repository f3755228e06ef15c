"""Lookups by key side by side: Tidegate, embedded and on Redis, PostgreSQL with the same tables, Feast, and Redis itself.

    python benches/lookup
    python benches/lookup --seconds 10 --binary target/release/tidegate
    python benches/lookup --parts single,batch --histograms

Needs Python 3.11, rustc, PostgreSQL's server and pgbench, redis-server and redis-benchmark, and a release build of Tidegate;
Feast, psycopg and asyncpg it installs into a venv of its own. Five views, each of 100,000 entities with ten double features.

- `single`: pgbench with prepared statements, one lookup at a time from 1, 16 and 64 connections, ten in a pipeline from 8, and
  100 by `IN`; next to the ceiling, a server that answers everything with the same bytes, and to redis-benchmark.
- `batch`: 1, 10 and 100 entities by `= ANY($1)`, by a compiled client and by Python's; Feast's SDK and feature server.
- `service`: the same over the five views at once: a feature service, or a join of five tables.
- `latency`: one lookup at a time from one connection of the compiled client, and a bare GET by the same.
- `join`: single lookups while the base join of as_of.py runs on the same gateway, again and again, its columns summed up
  (`beside`) or its rows stored (`stored`), next to the same ones before it.

Each figure is the median of three runs after one that warms up; clients and servers share the machine, and the servers'
processor time for a lookup, of one entity, includes the system's. Of Feast's SDK it is the calling process's own.
"""

import argparse
import contextlib
import functools
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import venv

import clients
import figures
import servers

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))
import as_of  # noqa: E402, a neighbour of this folder

WORK = HERE.parent.parent / "target" / "bench-lookup"
DRIVERS = ["psycopg[binary]==3.*", "asyncpg", "numpy", "pyarrow"]
FEAST = ["feast[redis]==0.67.0"]
PARTS = ["single", "batch", "service", "latency", "join"]
BATCHES = [1, 10, 100]

# What pgbench asks, from how many connections, and how many lookups a transaction of it is.
SHAPES = [("single", 1, 1), ("single", 16, 1), ("single", 64, 1)]
SHAPES += [("pipeline", 8, clients.PIPELINE), ("in", 1, clients.BATCH), ("in", 8, clients.BATCH)]


class Bench:
    """One sitting: its settings, its programs, and the table."""

    def __init__(self, arguments, folder):
        self.seconds = arguments.seconds
        self.binary = arguments.binary
        self.parts = arguments.parts
        self.join_rows = arguments.join_rows
        self.folder = folder
        self.python, self.feast = installed_python()
        self.client, self.ceiling = compiled("client", folder), compiled("ceiling", folder)
        self.table = figures.Table(arguments.histograms)

    def row(self, server, client, shape, connections, lookups, run, processor):
        figure = figures.measure(run, lookups, processor, self.seconds)
        self.table.add(server, client, shape, connections, lookups, figure)

    def ask(self, program, kind, server, shape, connections, batch, text):
        """A row of the compiled client, or of one in Python."""
        address = f"127.0.0.1:{server.port}"
        run = clients.asking(program, kind, address, connections, batch, self.folder, text)
        name = "compiled" if program == [self.client] else kind
        try:
            self.row(server.name, name, shape, connections, batch, run, server.processor)
        except clients.Refused as refused:
            self.table.add_failed(server.name, name, shape, connections, refused)

    def pgbench(self, server, shapes=SHAPES):
        for script, connections, lookups in shapes:
            run = clients.pgbench(server.port, script, connections, self.folder)
            self.row(server.name, "pgbench", script, connections, lookups, run, server.processor)

    def all_of(self, server):
        """Every part that a server of PostgreSQL's protocol is asked."""
        if "single" in self.parts:
            self.pgbench(server)
        if "batch" in self.parts:
            self.batches(server, "any", clients.ANY)
        if "service" in self.parts:
            self.batches(server, "service", clients.JOIN if server.name == "postgresql" else clients.SERVICE)

    def batches(self, server, shape, text):
        for batch in BATCHES:
            for connections in (1, 8):
                self.ask([self.client], "array", server, f"{shape} {batch}", connections, batch, text)
        for kind in ("psycopg", "asyncpg") if self.python else ():
            for batch in BATCHES:
                self.ask([self.python, str(HERE / "drivers.py")], kind, server, f"{shape} {batch}", 1, batch, text)

    def bare_redis(self, server):
        for connections, pipeline in ((1, 1), (16, 1), (64, 1), (8, clients.PIPELINE), (16, 16)):
            run = clients.redis_benchmark(server.port, connections, pipeline)
            shape = "get" if pipeline == 1 else f"get x {pipeline}"
            self.row("redis", "redis-benchmark", shape, connections, 1, run, server.processor)

    def beside_a_join(self, server):
        """Lookups before a join runs, and while one does: again and again, until they are done."""
        shape = dict(as_of.BASE)
        for size in ("history", "labels", "entities"):
            shape[size] = max(1, round(shape[size] * self.join_rows))
        data = as_of.WORK / f"base-{self.join_rows:g}"
        if not (data / "labels.parquet").exists():
            if not self.python:
                print("join: skipped, its data needs numpy and pyarrow", flush=True)
                return
            command = [self.python, as_of.__file__, "--engine", "data", "--rows", str(self.join_rows)]
            subprocess.run(command, check=True)
        as_of.load_tidegate(Statements(server.port), shape, data)
        for name in ("idle", "beside", "stored"):
            with joining(server.port, shape, name):
                for connections in (1, 16):
                    run = clients.pgbench(server.port, "single", connections, self.folder)
                    self.row(server.name, "pgbench", name, connections, 1, run, server.processor if name == "idle" else None)

    def ask_feast(self):
        if not self.feast:
            return
        drivers = [self.python, str(HERE / "drivers.py")]
        repository = self.folder / "feast"
        with servers.redis(self.folder, "redis-of-feast") as store:
            load = [*drivers, "feast-load", repository, 1, 0, servers.ENTITIES, 1, "none", store.port]
            subprocess.run([str(part) for part in load], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            shapes = [("any", "batch", servers.VIEWS[:1]), ("service", "service", servers.VIEWS)]
            shapes = [(shape, views) for shape, part, views in shapes if part in self.parts]
            for shape, views in shapes:
                for batch in BATCHES:
                    run = clients.asking(drivers, "feast", repository, 1, batch, self.folder, ",".join(views))
                    self.row("feast sdk", "feast", f"{shape} {batch}", 1, batch, run, None)
            with servers.feast_server(self.python, repository) as server:
                for shape, views in shapes:
                    names = ", ".join(f'"{view}:{feature}"' for view in views for feature in servers.FEATURES)
                    body = f'{{"features": [{names}], "full_feature_names": true, "entities": {{"k": [$1]}}}}'
                    for batch in BATCHES:
                        for connections in (1, 8):
                            text = f"/get-online-features {body}"
                            self.ask([self.client], "http", server, f"{shape} {batch}", connections, batch, text)


class Statements:
    """What `as_of` runs its statements on."""

    def __init__(self, port):
        self.execute = functools.partial(servers.psql, port)


@contextlib.contextmanager
def joining(port, shape, what):
    """Joins that run meanwhile, one after another; none where `what` is `idle`."""
    if what == "idle":
        yield
        return
    join = as_of.tidegate_query(shape)
    statements = [f"SELECT count(*), {', '.join(f'sum(v0_f{number})' for number in range(10))} FROM ({join}) AS joined"]
    if what == "stored":
        statements = ["DROP TABLE IF EXISTS result", f"CREATE TABLE result AS {join}"]
    done = threading.Event()
    took, failed = [], []

    def loop():
        while not done.is_set():
            start = time.perf_counter()
            try:
                for statement in statements:
                    servers.psql(port, statement)
            except subprocess.CalledProcessError as error:
                failed.append(error)
                return
            took.append(time.perf_counter() - start)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failed:
        raise SystemExit("the join failed while lookups were asked")
    print(f"    {len(took)} joins ran meanwhile, {sum(took) / len(took):.2f} s each", flush=True)


def compiled(name, folder):
    program = folder / name
    subprocess.run(["rustc", "-O", "--edition", "2024", "-o", program, HERE / f"{name}.rs"], check=True)
    return str(program)


def installed_python():
    """The Python of a venv that has the other clients, or none, and whether Feast is among them."""
    home = WORK / "venv"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*install, *DRIVERS]).returncode:
        print("psycopg, asyncpg and Feast: skipped, they could not be installed", flush=True)
        return None, False
    if subprocess.run([*install, *FEAST]).returncode:
        print("Feast: skipped, it could not be installed", flush=True)
        return str(python), False
    return str(python), True


def parts(text):
    chosen = text.split(",")
    if unknown := set(chosen) - set(PARTS):
        raise argparse.ArgumentTypeError(f"unknown part {unknown.pop()}: there are {', '.join(PARTS)}")
    return chosen


def main():
    parser = argparse.ArgumentParser(
        prog="lookup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=5, help="of each run [default: 5]")
    parser.add_argument("--binary", default=str(HERE.parent.parent / "target" / "release" / "tidegate"))
    parser.add_argument("--parts", type=parts, default=PARTS, help=f"some of {','.join(PARTS)} [default: all]")
    parser.add_argument("--histograms", action="store_true", help="print the latencies' distribution under each row")
    parser.add_argument("--join-rows", type=float, default=1.0, help="the share of the join's full size [default: 1]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        bench = Bench(arguments, folder)
        try:
            every_server(bench)
        finally:
            # What was measured before something failed is worth its ratios, too.
            figures.print_targets(bench.table)


def every_server(bench):
    """One server after another, so that none disturbs another's figures."""
    if "single" in bench.parts:
        with servers.ceiling(bench.ceiling) as server:
            bench.pgbench(server, [shape for shape in SHAPES if shape[0] != "in"])
    if {"single", "batch", "service"} & set(bench.parts):
        with servers.postgres(bench.folder) as server:
            bench.all_of(server)
    with servers.tidegate(bench.folder, bench.binary, "tidegate embedded") as server:
        bench.all_of(server)
        if "join" in bench.parts:
            bench.beside_a_join(server)
    with servers.redis(bench.folder, "redis") as store:
        on_redis(bench, store)
    if {"batch", "service"} & set(bench.parts):
        bench.ask_feast()


def on_redis(bench, store):
    url = f"redis://127.0.0.1:{store.port}"
    with servers.tidegate(bench.folder, bench.binary, "tidegate redis", "--redis", url) as server:
        servers.load_redis(store.port)
        bench.all_of(server)
        if "latency" in bench.parts:
            bench.ask([bench.client], "key", server, "single", 1, 1, clients.KEY)
            bench.ask([bench.client], "redis", store, "get", 1, 1, "key:$1")
        if "join" in bench.parts:
            bench.beside_a_join(server)
    if "single" in bench.parts:
        bench.bare_redis(store)


if __name__ == "__main__":
    sys.exit(main())
