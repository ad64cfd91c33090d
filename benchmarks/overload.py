"""`python -m benchmarks.overload [--quick]`: what is still answered in time when too much is asked.

Writes build/bench_overload.json and a drawing. (a) a closed loop of N, 2N and 4N callers, N
being the number at the best goodput; (b) an open loop at 1, 2 and 4 times the capacity, with
each row of the database slowed until the capacity is at most a tenth of the echo's rate. Beside
them the bare transport (echo) in an open loop at 1, 2 and 4 times its own capacity.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import asyncpg
from rich.console import Console
from rich.table import Table

from benchmarks import load, offered, servers
from benchmarks.drawing import draw_overload
from benchmarks.load import PURCHASE_PASS, REQUEST_OFFERS
from benchmarks.offered import LEAD_S, Load, Seen
from benchmarks.processes import Child, RunFailed, tree_cpu_s
from benchmarks.report import write_json
from benchmarks.world import make_world, priced
from voucher_grpc.dev.postgres import throw_away_postgres

PRODUCTS = 100
FACTORS = (1, 2, 4)
GOAL = 0.85
# The capacity is to be at most this share of the echo's rate.
_SLOWED_TO = 0.1
_RATES = ("offered", "goodput", "refused", "late", "dropped", "unsent")
_TIMES = ("ok_p50_ms", "ok_p99_ms", "refusal_p50_ms", "refusal_p99_ms")
Results = dict[str, Any]
Middle = Callable[[Iterable[Any]], Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large and how long. `callers` are tried for the best goodput.

    A closed loop goes as fast as the machine does, which changes by a fifth from one round
    to the next; so it has more rounds. Purchases are answered by three to four batches a second
    under overload: in less than three seconds one batch more or less would be what is measured.
    """

    users: int
    seconds: float
    rounds: int
    closed_rounds: int
    callers: Sequence[int]


FULL = Sizes(10_000, 4.0, 3, 10, (16, 32, 64, 128, 256))
QUICK = Sizes(2_000, 3.0, 1, 2, (128,))


@dataclass(frozen=True, slots=True)
class Point:
    """What was offered, as a factor, and what came of it; of several rounds the goodput of each."""

    name: str
    factor: float
    seen: Seen
    server_cpu: float
    rounds_per_s: tuple[float, ...] = ()

    def as_dict(self) -> Results:
        """For the JSON."""
        figures = {**asdict(self.seen), "server_cpu": self.server_cpu}
        del figures["ok_in_all"]
        rounded = {name: round(value, 3) for name, value in figures.items()}
        rounds = [round(value, 1) for value in self.rounds_per_s]
        return {"load": self.name, "factor": self.factor, **rounded, "rounds_per_s": rounds}


@dataclass(slots=True)
class Bench:
    """The client beside one server; remembers rates, so that enough requests are made."""

    client: Child
    server: Child
    port: int
    sizes: Sizes
    console: Console
    ok_in_all: int = 0
    highest_per_s: float = 4_000.0

    def measure(
        self, rpc: str, name: str, factor: float, *, callers: int = 0, rate_per_s: float = 0.0
    ) -> Point:
        """One round."""
        seconds = self.sizes.seconds
        each_s = rate_per_s or self.highest_per_s
        budget = int(each_s * (seconds + LEAD_S)) + callers + 10
        self.client.ask(
            Load(self.port, self.sizes.users, rpc, seconds, budget, callers, rate_per_s)
        )
        cpu_s = tree_cpu_s(self.server.pid)
        seen: Seen = self.client.ask("go")
        cpu_s = (tree_cpu_s(self.server.pid) - cpu_s) / (seconds + LEAD_S)
        self.ok_in_all += seen.ok_in_all
        return Point(name, factor, seen, cpu_s)

    def best_callers(self, rpc: str) -> int:
        """The number of callers with the best goodput."""
        if len(self.sizes.callers) == 1:
            return self.sizes.callers[0]
        tried = {
            n: self.measure(rpc, f"{n} callers", 1, callers=n).seen.goodput_per_s
            for n in self.sizes.callers
        }
        best = max(tried, key=lambda n: tried[n])
        self.highest_per_s = max(500.0, 2.0 * tried[best])
        return best

    def turns(
        self, measures: Sequence[Callable[[], Point]], rounds: int, middle: Middle
    ) -> list[Point]:
        """The points in turns, every other time in reverse; the middle of each figure."""
        found: list[list[Point]] = [[] for _ in measures]
        for number in range(rounds):
            order = range(len(measures)) if number % 2 == 0 else reversed(range(len(measures)))
            for index in order:
                found[index].append(measures[index]())
        return [_one_of(points, middle) for points in found]

    def say(self, title: str, points: Sequence[Point]) -> None:
        """A table."""
        self.console.print(_table(title, points))


def _one_of(points: Sequence[Point], middle: Middle) -> Point:
    figures = [asdict(point.seen) for point in points]
    seen = Seen(**{name: middle(f[name] for f in figures) for name in figures[0]})
    return replace(
        points[0],
        seen=seen,
        server_cpu=middle(p.server_cpu for p in points),
        rounds_per_s=tuple(p.seen.goodput_per_s for p in points),
    )


def closed(bench: Bench, rpc: str) -> Results:
    """(a) N, 2N and 4N callers.

    Means, so all calls of all rounds: the loads take turns, and the machine's slow minutes
    meet all alike. The median of so few and so different rounds differs by more itself than
    what is looked for.
    """
    callers = bench.best_callers(rpc)
    points = bench.turns(
        [
            partial(bench.measure, rpc, f"{callers * f} callers", f, callers=callers * f)
            for f in FACTORS
        ],
        bench.sizes.closed_rounds,
        mean,
    )
    bench.say(f"{rpc}, closed loop", points)
    return {"callers": callers, **_judged(points, 0.0)}


def opened(bench: Bench, rpc: str) -> Results:
    """Open loop at 1, 2 and 4 times what a closed loop reached at best."""
    callers, rounds = bench.best_callers(rpc), bench.sizes.rounds
    capacity_of = partial(bench.measure, rpc, "capacity", 1, callers=callers)
    again = bench.turns([capacity_of], rounds, median)
    capacity = again[0].seen.goodput_per_s
    points = bench.turns(
        [partial(bench.measure, rpc, f"{f} x", f, rate_per_s=capacity * f) for f in FACTORS],
        rounds,
        median,
    )
    bench.say(f"{rpc}, open loop, capacity {capacity:.0f}/s at {callers} callers", points)
    return {"capacity_per_s": round(capacity, 1), **_judged(points, again[0].seen.goodput_per_s)}


def _judged(points: Sequence[Point], closed_per_s: float) -> Results:
    """The ratios are of the best goodput of the same kind."""
    best_per_s = max(closed_per_s, *(p.seen.goodput_per_s for p in points))
    return {
        "best_goodput_per_s": round(best_per_s, 1),
        **{
            f"goodput_ratio_at_{p.factor}x": round(p.seen.goodput_per_s / best_per_s, 3)
            for p in points
            if p.factor > 1
        },
        "points": [point.as_dict() for point in points],
    }


def _table(title: str, points: Sequence[Point]) -> Table:
    table = Table(title=title, title_justify="left")
    heads = (
        "load",
        "offered/s",
        "goodput/s",
        "refused/s",
        "late/s",
        "dropped/s",
        "unsent/s",
        "OK p50 ms",
    )
    for head in (*heads, "p99", "refusal p50 ms", "p99", "server CPU", "client CPU"):
        table.add_column(head, justify="right")
    for point in points:
        figures = asdict(point.seen)
        whole = [f"{figures[name + '_per_s']:.0f}" for name in _RATES]
        whole += [f"{figures[name]:.0f}" for name in _TIMES]
        cpus = (f"{point.server_cpu:.2f}", f"{point.seen.client_cpu:.2f}")
        table.add_row(point.name, *whole, *cpus)
    return table


async def slow_rows(url: str, row_s: float) -> None:
    """Let the writing of each pass take so long, whatever batch it comes in."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            f"""CREATE FUNCTION slow_row() RETURNS trigger LANGUAGE plpgsql AS
                $$BEGIN PERFORM pg_sleep({row_s:.6f}); RETURN NEW; END$$;
            CREATE TRIGGER slow_row BEFORE INSERT ON passes
                FOR EACH ROW EXECUTE FUNCTION slow_row()"""
        )
    finally:
        await connection.close()


async def _passes(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM passes"))
    finally:
        await connection.close()


def measure(url: str, sizes: Sizes, console: Console) -> Results:
    """All points. Raises RunFailed where a call was neither OK nor refused nor late."""
    products = priced(PRODUCTS)
    # Offers first: after purchases each user has passes that make them dearer to determine.
    rpcs = (PURCHASE_PASS,) if sizes is QUICK else (REQUEST_OFFERS, PURCHASE_PASS)
    results: Results = {"closed": {}, "slowed": {}, "echo": {}}
    with ExitStack() as stack:
        client = stack.enter_context(Child("client", offered.client, products))
        usual = stack.enter_context(Child("usual", load.client, products))
        service = stack.enter_context(Child("service", servers.service, url))
        port: int = service.receive()
        answers = usual.ask(load.Samples(port, sizes.users))
        echo = stack.enter_context(Child("echo", servers.echo, answers))
        bare = Bench(client, echo, echo.receive(), sizes, console, highest_per_s=9_000.0)
        bench = Bench(client, service, port, sizes, console)
        for rpc in rpcs:
            results["closed"][rpc] = closed(bench, rpc)
        results["echo"][PURCHASE_PASS] = opened(bare, PURCHASE_PASS)
        echo_per_s = results["echo"][PURCHASE_PASS]["capacity_per_s"]
        row_s = 1 / (echo_per_s * _SLOWED_TO)
        asyncio.run(slow_rows(url, row_s))
        results["slowed"][PURCHASE_PASS] = slowed = opened(bench, PURCHASE_PASS)
        slowed["row_ms"] = round(row_s * 1000, 3)
        slowed["capacity_of_echo"] = round(slowed["capacity_per_s"] / echo_per_s, 3)
        if slowed["capacity_of_echo"] > _SLOWED_TO:
            raise RunFailed("the database was not slowed to a tenth of the echo")
    judged = [*results["closed"].values(), *results["slowed"].values()]
    for factor in FACTORS[1:]:
        name = f"goodput_ratio_at_{factor}x"
        results[name] = min(part[name] for part in judged)
    results["purchases"] = {"new_rows": asyncio.run(_passes(url))}
    return results


def main() -> int:
    """0 if all was measured, 1 if the run failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute, smaller sizes")
    parser.add_argument("--json", type=Path, default=Path("build/bench_overload.json"))
    arguments = parser.parse_args()
    console = Console(stderr=True, width=150)
    sizes = QUICK if arguments.quick else FULL
    try:
        with throw_away_postgres() as url:
            asyncio.run(make_world(url, sizes.users, PRODUCTS))
            results = measure(url, sizes, console)
    except RunFailed as error:
        console.print(f"The run failed: {error}", style="red", markup=False)
        return 1
    results["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(results, arguments.json)
    draw_overload(results, arguments.json.with_suffix(".png"))
    for factor in FACTORS[1:]:
        ratio = results[f"goodput_ratio_at_{factor}x"]
        met = "met" if ratio >= GOAL else "not met"
        console.print(f"goodput_ratio_at_{factor}x {ratio} (at least {GOAL}: {met})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
