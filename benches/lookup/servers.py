"""The servers that are asked, each started with the data and stopped again."""

import contextlib
import dataclasses
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import time
import typing

ENTITIES = 100_000
FEATURES = [f"f{number}" for number in range(10)]
VIEWS = ["features", "features1", "features2", "features3", "features4"]
SERVICE_NAME = "every_feature"
SERVICE_COLUMNS = [f"v{number}_{feature}" for number in range(len(VIEWS)) for feature in FEATURES]
COLUMNS = ", ".join(f"{name} DOUBLE PRECISION" for name in FEATURES)


@dataclasses.dataclass(frozen=True)
class Server:
    name: str
    port: int
    # The processor time it has used, the system's for it included, in seconds.
    processor: typing.Callable[[], float]


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


def psql(port, sql, rows=None):
    """What a statement gives, as text without a head; `rows` is what a COPY reads."""
    command = [tool("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(port), "-U", "bench"]
    done = subprocess.run([*command, "-d", "postgres", "-c", sql], stdin=rows, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def wait_for(port, seconds=60):
    for _ in range(10 * seconds):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise SystemExit("a server did not start")


def rows_as_csv(folder):
    path = folder / "rows.csv"
    if not path.exists():
        with path.open("w") as file:
            for key in range(ENTITIES):
                values = ",".join(repr((key * 31 + number) / 7) for number in range(len(FEATURES)))
                file.write(f"{key},2026-01-01 00:00:00Z,{values}\n")
        path.chmod(0o644)
    return path


def load(port, folder):
    columns = ", ".join(["k", "event_time", *FEATURES])
    for view in VIEWS:
        with rows_as_csv(folder).open() as rows:
            psql(port, f"COPY {view} ({columns}) FROM STDIN (FORMAT csv)", rows)


@contextlib.contextmanager
def running(command, **how):
    server = subprocess.Popen([str(part) for part in command], **how)
    try:
        yield server
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def ceiling(program):
    port = free_port()
    with running([program, port]) as server:
        wait_for(port)
        yield Server("ceiling", port, lambda: tree_seconds(server.pid))


@contextlib.contextmanager
def postgres(folder):
    """PostgreSQL with the tables and their primary keys, everything in its memory, and nothing synced while it is asked."""
    data = folder / "postgres"
    user = {} if os.getuid() else {"user": "postgres"}
    if user:
        data.mkdir()
        owner = pwd.getpwnam("postgres")
        os.chown(data, owner.pw_uid, owner.pw_gid)
    subprocess.run([tool("initdb"), "-D", data, "-A", "trust", "-U", "bench"], check=True, stdout=subprocess.DEVNULL, **user)
    port = free_port()
    command = [tool("postgres"), "-D", data, "-p", port, "-c", "shared_buffers=1GB", "-k", "/tmp"]
    with running(command, stderr=subprocess.DEVNULL, **user) as server:
        wait_for(port)
        time.sleep(1)
        for view in VIEWS:
            psql(port, f"CREATE TABLE {view} (k BIGINT PRIMARY KEY, event_time TIMESTAMPTZ, {COLUMNS})")
        load(port, folder)
        psql(port, "VACUUM ANALYZE")
        yield Server("postgresql", port, lambda: tree_seconds(server.pid))


@contextlib.contextmanager
def redis(folder, name):
    port = free_port()
    (folder / name).mkdir(exist_ok=True)
    command = ["redis-server", "--port", port, "--save", "", "--appendonly", "no", "--dir", folder / name]
    with running(command, stdout=subprocess.DEVNULL) as server:
        wait_for(port)
        yield Server("redis", port, lambda: tree_seconds(server.pid))


def load_redis(port):
    """Under the keys that redis-benchmark asks for, values about as long as a row of ten doubles."""
    with socket.create_connection(("127.0.0.1", port)) as wire, wire.makefile("rb") as answers:
        for start in range(0, ENTITIES, 1000):
            value = b"x" * 100
            sets = (b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$100\r\n%s\r\n" % (key, value) for key in range(start, start + 1000))
            wire.sendall(b"".join(sets))
            for _ in range(1000):
                answers.readline()


@contextlib.contextmanager
def tidegate(folder, binary, name, *arguments):
    port = free_port()
    command = [binary, "serve", "--listen", f"127.0.0.1:{port}", "--data", folder / name.replace(" ", "-"), *arguments]
    with running(command, stdout=subprocess.DEVNULL, env=os.environ | {"TIDEGATE_LOG": "warn"}) as server:
        wait_for(port)
        psql(port, "CREATE ENTITY subject KEY (k BIGINT)")
        for view in VIEWS:
            psql(port, f"CREATE FEATURE VIEW {view} ({COLUMNS}) ENTITY subject")
        columns = [f"v{number}.{feature} AS v{number}_{feature}" for number in range(len(VIEWS)) for feature in FEATURES]
        members = [f"{view} v{number}" for number, view in enumerate(VIEWS)]
        psql(port, f"CREATE FEATURE SERVICE {SERVICE_NAME} AS SELECT {', '.join(columns)} FROM {', '.join(members)}")
        load(port, folder)
        wait_until_ready(port)
        yield Server(name, port, lambda: tree_seconds(server.pid))
        short, planned = psql(port, "SELECT lookups_short, lookups_planned FROM tidegate.online_store").strip().split("|")
        print(f"    {name}: {short} lookups by the short road, {planned} were planned", flush=True)


def wait_until_ready(port):
    """Until the online store has every row: a lookup before that reads the offline one, at another speed."""
    for _ in range(600):
        rows = psql(port, "SELECT state, lag_commits FROM tidegate.freshness").split()
        if rows == ["ready|0"] * len(VIEWS):
            return
        time.sleep(0.1)
    raise SystemExit(f"the online store was not filled: {rows}")


@contextlib.contextmanager
def feast_server(python, repository):
    """Feast's feature server, with a worker for each core, and none of them begun anew after a thousand requests."""
    port = free_port()
    feast = pathlib.Path(python).parent / "feast"
    command = [feast, "-c", repository, "serve", "-p", port, "--no-access-log", "-w", os.cpu_count()]
    command += ["--max-requests", 0, "--max-requests-jitter", 0]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with running(command, **quiet) as server:
        wait_for(port)
        time.sleep(3)
        yield Server("feast server", port, lambda: tree_seconds(server.pid))


def tree_seconds(pid):
    """The processor time of a process and its children, in seconds."""
    total = 0.0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(") ", 1)[1].split()
            if int(stat.parent.name) == pid or int(fields[1]) == pid:
                total += sum(map(int, fields[11:15 if int(stat.parent.name) == pid else 13])) / os.sysconf("SC_CLK_TCK")
    return total
