"""The clients that ask: pgbench, redis-benchmark, the compiled one, and those in Python."""

import array
import re
import shutil
import subprocess

from figures import Run
from servers import ENTITIES, FEATURES, SERVICE_COLUMNS, SERVICE_NAME, VIEWS, tool

PIPELINE = 10
BATCH = 100

LOOKUP = f"SELECT {', '.join(FEATURES)} FROM features WHERE k = :k;"
SCRIPTS = {
    "single": f"\\set k random(0, {ENTITIES - 1})\n{LOOKUP}\n",
    "pipeline": "\\startpipeline\n" + f"\\set k random(0, {ENTITIES - 1})\n{LOOKUP}\n" * PIPELINE + "\\endpipeline\n",
    "in": "".join(f"\\set k{n} random(0, {ENTITIES - 1})\n" for n in range(BATCH))
    + f"SELECT {', '.join(FEATURES)} FROM features WHERE k IN ({', '.join(f':k{n}' for n in range(BATCH))});\n",
}

KEY = f"SELECT {', '.join(FEATURES)} FROM features WHERE k = $1"
ANY = f"SELECT {', '.join(FEATURES)} FROM features WHERE k = ANY($1)"
JOIN = (
    f"SELECT {', '.join(f'v{n}.{feature}' for n in range(len(VIEWS)) for feature in FEATURES)} FROM {VIEWS[0]} v0 "
    + " ".join(f"LEFT JOIN {view} v{n} ON v{n}.k = v0.k" for n, view in enumerate(VIEWS) if n)
    + " WHERE v0.k = ANY($1)"
)
SERVICE = f"SELECT {', '.join(SERVICE_COLUMNS)} FROM {SERVICE_NAME} WHERE k = ANY($1)"


def pgbench(port, script, connections, folder):
    """One lookup at a time, a pipeline of them, or a batch by IN; a fifth of the latencies is kept."""

    def run(seconds):
        log = folder / "log"
        shutil.rmtree(log, ignore_errors=True)
        log.mkdir()
        path = folder / "script.sql"
        path.write_text(SCRIPTS[script])
        command = [tool("pgbench"), "-n", "-M", "prepared", "-f", str(path), "-c", str(connections), "-j", "1", "-T", str(seconds)]
        command += ["-h", "127.0.0.1", "-p", str(port), "-U", "bench", "-l", "--sampling-rate=0.2", "postgres"]
        done = subprocess.run(command, cwd=log, capture_output=True, text=True)
        rate = re.search(r"tps = ([0-9.]+)", done.stdout)
        if done.returncode or not rate:
            raise SystemExit(f"pgbench: {done.stdout}{done.stderr}")
        rate = float(rate[1])
        latencies = [int(line.split()[2]) for file in log.iterdir() for line in file.read_text().splitlines()]
        return Run(rate, rate * seconds, latencies)

    return run


def redis_benchmark(port, connections, pipeline):
    """GETs of the values that `load_redis` left. Its latencies are of whole pipelines, its calls are GETs."""

    def run(seconds):
        requests = 300_000 if connections > 1 else 30_000 * seconds
        command = ["redis-benchmark", "-p", port, "-q", "--csv", "-r", ENTITIES, "-t", "get", "-n", requests]
        command += ["-c", connections, "-P", pipeline]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
        row = next(line for line in done.stdout.splitlines() if line.startswith('"GET"'))
        rate, _, _, p50, _, p99, *_ = [float(field.strip('"')) for field in row.split(",")[1:]]
        return Run(rate, requests, quantiles=(p50 * 1000, p99 * 1000))

    return run


class Refused(Exception):
    """A client ended with an error, of which these are the last lines."""


def asking(program, kind, address, connections, batch, folder, text):
    """The compiled client, or one in Python: `program` is what is run, the rest as client.rs says."""

    def run(seconds):
        file = folder / "latencies"
        command = [*program, kind, address, connections, seconds, ENTITIES, batch, file, text]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode:
            raise Refused(" ".join(done.stderr.splitlines()[-2:]))
        passed, *spent = map(float, done.stdout.splitlines()[-1].split())
        nanos = array.array("I", file.read_bytes())
        own = spent[0] if kind == "feast" else None
        return Run(len(nanos) / passed, len(nanos), [nano / 1000 for nano in nanos], spent=own)

    return run
