"""What was measured, and how it is printed."""

import bisect
import dataclasses
import itertools
import statistics

RUNS = 3
# Upper ends of a histogram's buckets, in microseconds.
BUCKETS = [2**power for power in range(4, 20)]


@dataclasses.dataclass(frozen=True)
class Run:
    # Calls a second, and how many calls that were.
    rate: float
    calls: float
    # Latencies of calls, or of a sample of them, in microseconds; or what a client says of them.
    latencies: list = ()
    quantiles: tuple | None = None
    # The processor time that a client which is itself the store's library used.
    spent: float | None = None

    def at(self, share):
        if self.quantiles:
            return self.quantiles[share == 0.99]
        ordered = sorted(self.latencies)
        return ordered[int(share * (len(ordered) - 1))] if ordered else float("nan")


@dataclasses.dataclass(frozen=True)
class Figure:
    rate: float
    p50: float
    p99: float
    # Of a server, for one lookup, in microseconds.
    processor: float
    histogram: list


def measure(run, lookups, processor, seconds):
    """The medians of some runs after one that warms up. `run` is given its seconds."""
    run(2)
    seen, spent = [], []
    for _ in range(RUNS):
        before = processor() if processor else 0
        one = run(seconds)
        used = one.spent if one.spent is not None else (processor() - before if processor else float("nan"))
        seen.append(one)
        spent.append(used / (one.calls * lookups) * 1e6)
    middle = lambda values: statistics.median(values)
    every = list(itertools.chain.from_iterable(one.latencies for one in seen))
    return Figure(
        middle([one.rate for one in seen]),
        middle([one.at(0.5) for one in seen]),
        middle([one.at(0.99) for one in seen]),
        middle(spent),
        histogram(every),
    )


def histogram(latencies):
    """The share of each bucket that is not empty."""
    counts = [0] * (len(BUCKETS) + 1)
    for latency in latencies:
        counts[bisect.bisect_left(BUCKETS, latency)] += 1
    names = [f"<={end}" for end in BUCKETS] + [f">{BUCKETS[-1]}"]
    return [(name, count / len(latencies)) for name, count in zip(names, counts) if count]


class Table:
    """Every figure by server, client, shape and connections, printed as it comes."""

    def __init__(self, histograms):
        self.figures, self.failed = {}, []
        self.histograms = histograms
        head = f"{'server':<19}{'client':<16}{'shape':<11}{'conns':>5}{'calls/s':>10}{'lookups/s':>11}"
        print(f"{head}{'p50 us':>9}{'p99 us':>9}{'CPU us each':>12}")

    def add(self, server, client, shape, connections, lookups, figure):
        self.figures[server, client, shape, connections] = figure
        line = f"{server:<19}{client:<16}{shape:<11}{connections:>5}{figure.rate:>10,.0f}{figure.rate * lookups:>11,.0f}"
        print(f"{line}{figure.p50:>9.0f}{figure.p99:>9.0f}{figure.processor:>12.2f}", flush=True)
        if self.histograms and figure.histogram:
            shares = [f"{name}: {share:.1%}" for name, share in figure.histogram if share >= 0.0005]
            print(f"    us {', '.join(shares)}", flush=True)

    def add_failed(self, server, client, shape, connections, why):
        self.failed.append(f"{server:<19}{client:<16}{shape:<11}{connections:>5}")
        print(f"{self.failed[-1]} FAILED: {why}", flush=True)

    def ratio(self, what, above, below, field="rate"):
        """A measure of one row over that of another, `None` where one was not asked."""
        pair = [self.figures.get(key) for key in (above, below)]
        return None if None in pair else (what, getattr(pair[0], field) / getattr(pair[1], field))


def print_targets(table):
    """The ratios of the table beside what they should be."""
    print(f"\n{'target':<66}{'measured':>10}{'target':>10}")

    def line(name, value, target="", at_most=False):
        if value is None:
            return
        verdict = ""
        if target:
            met = value <= target if at_most else value >= target
            verdict = f"{'<=' if at_most else '>='} {target:g}  {'met' if met else 'MISSED'}"
        print(f"{name:<66}{value:>10.2f}   {verdict}")

    def quotient(above, below, field="rate"):
        seen = table.ratio("", above, below, field)
        return seen and seen[1]

    floors = {("single", 16): (1.25, 0.8), ("single", 64): (1.6, 1.3), ("pipeline", 8): (1.4, 1.0)}
    for (shape, connections), targets in floors.items():
        key = lambda server: (server, "pgbench", shape, connections)
        for server, target in zip(("tidegate embedded", "tidegate redis"), targets):
            line(f"{server} / postgresql, {shape} x {connections}", quotient(key(server), key("postgresql")), target)
            line(f"{server} / ceiling, {shape} x {connections} (the aim)", quotient(key(server), key("ceiling")), 0.9)
    for server, target in (("tidegate embedded", 10), ("tidegate redis", 20)):
        seen = table.figures.get((server, "pgbench", "single", 16))
        line(f"{server}, CPU us a lookup, single x 16", seen and seen.processor, target, at_most=True)
    for server in ("tidegate redis", "tidegate embedded"):
        for shape, targets in (("any", (12, 6, 5)), ("service", (None, None, None))):
            for batch in (100, 10, 1):
                name = f"{shape} {batch}"
                aims = targets if batch == 100 else (None, None, None)
                sdk, web = ("feast sdk", "feast", name, 1), ("feast server", "compiled", name, 1)
                for client, aim in (("compiled", aims[0]), ("psycopg", aims[1])):
                    line(f"{server} by {client} / feast sdk, {name}", quotient((server, client, name, 1), sdk), aim)
                line(f"p99 of feast server / {server}, {name}", quotient(web, (server, "compiled", name, 1), "p99"), aims[2])
                other = ("postgresql", "compiled", name, 1)
                line(f"{server} / postgresql by compiled, {name}", quotient((server, "compiled", name, 1), other))
    get = table.figures.get(("redis", "compiled", "get", 1))
    lookup = table.figures.get(("tidegate redis", "compiled", "single", 1))
    line("added latency over a bare GET, us at the median", get and lookup and lookup.p50 - get.p50, 60, at_most=True)
    for server in ("tidegate embedded", "tidegate redis"):
        for connections in (1, 16):
            key = lambda shape: (server, "pgbench", shape, connections)
            for shape, while_it_is, target in (("beside", "runs", 5), ("stored", "is stored", None)):
                name = f"{server}, p99 while a join {while_it_is} / idle, x {connections}"
                line(name, quotient(key(shape), key("idle"), "p99"), target, at_most=True)
    for row in table.failed:
        print(f"FAILED: {row}")
