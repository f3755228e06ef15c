"""How soon a write that one gateway acknowledged is seen through another on the same Redis.

    python benches/visibility.py
    python benches/visibility.py --writes 5000 --binary target/release/tidegate

Needs psycopg 3, redis-server, and a release build of Tidegate. Two gateways on one store and one Redis; one after another, a row
is written through the first, and from its acknowledgement on looked up through the second until it is there. Each figure has the
lookup's own round trip in it, of which the last line is a measure: lookups of a row that has been there for long.
"""

import argparse
import contextlib
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import psycopg

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE / "lookup"))
import servers  # noqa: E402, a neighbour of this file

WARM_WRITES = 100


@contextlib.contextmanager
def gateway(binary, data, redis):
    port = servers.free_port()
    command = [binary, "serve", "--listen", f"127.0.0.1:{port}", "--data", data, "--redis", redis]
    with servers.running(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        servers.wait_for(port)
        with psycopg.connect(f"host=127.0.0.1 port={port} user=bench dbname=postgres", autocommit=True) as connection:
            yield connection


def looked_up(reader, key):
    row = reader.execute("SELECT amount FROM seen WHERE k = %s", (key,), prepare=True).fetchone()
    return row and row[0]


def measured(writer, reader, writes):
    """Of each write: how long it took, how long after its end it was seen, and by which lookup, in seconds and from 1."""
    took, seen, lookups = [], [], []
    for number in range(writes + WARM_WRITES):
        begun = time.perf_counter()
        writer.execute("INSERT INTO seen (k, amount) VALUES (1, %s)", (number,), prepare=True)
        acknowledged, asked = time.perf_counter(), 1
        while looked_up(reader, 1) != number:
            asked += 1
        if number >= WARM_WRITES:
            took.append(acknowledged - begun)
            seen.append(time.perf_counter() - acknowledged)
            lookups.append(asked)
    return took, seen, lookups


def show(what, seconds):
    ordered = sorted(seconds)
    at = {"median": statistics.median(ordered), "p99": ordered[len(ordered) * 99 // 100], "max": ordered[-1]}
    print(f"{what:42}" + "".join(f"  {name} {value * 1000:8.3f} ms" for name, value in at.items()), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writes", type=int, default=1000, help="how many [default: 1000]")
    parser.add_argument("--binary", default=str(HERE.parent / "target" / "release" / "tidegate"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        url = f"redis://127.0.0.1:{stack.enter_context(servers.redis(folder, 'redis')).port}"
        writer = stack.enter_context(gateway(arguments.binary, folder / "store", url))
        writer.execute("CREATE ENTITY subject KEY (k BIGINT)")
        writer.execute("CREATE FEATURE VIEW seen (amount BIGINT) ENTITY subject")
        reader = stack.enter_context(gateway(arguments.binary, folder / "store", url))
        reader.execute("SET tidegate.online_fallback = offline")
        took, seen, lookups = measured(writer, reader, arguments.writes)
        writer.execute("INSERT INTO seen (k, amount) VALUES (2, 0)")
        idle = []
        for _ in range(arguments.writes):
            asked = time.perf_counter()
            looked_up(reader, 2)
            idle.append(time.perf_counter() - asked)
        show("written and acknowledged", took)
        show("from then until seen through the other", seen)
        show("a lookup of what has long been there", idle)
        first = sum(count == 1 for count in lookups)
        print(f"{first} of {len(lookups)} were seen by the first lookup, all by the {max(lookups)}.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
