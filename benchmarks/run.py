"""The whole run: which server is measured with what, in which order."""

import asyncio
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks import direct, servers
from benchmarks.load import PURCHASE_PASS, REQUEST_OFFERS, Round, client
from benchmarks.measure import Bench, Figures, Target, medians
from benchmarks.processes import Child, RunFailed, memory_mb
from benchmarks.world import HOT_PRODUCT, LARGE_STOCK, Priced, options, priced
from voucher_grpc.store.database import connect

Results = dict[str, Any]

NAMES = {REQUEST_OFFERS: "request_offers", PURCHASE_PASS: "purchase_pass"}
# Callers of the write path without gRPC: many, since nothing else stands in the way.
WRITE_CALLERS = 256
SQL_BATCHES = (1, 32, 128)
_LOADS = (1, 4, 16, 64, 256)
_WARM_UP_PER_S = 4_000
# More calls than a round takes; a round that runs out of them ends early.
_SPARE = 1.6


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large and how long."""

    users: int
    products: int
    seconds: float
    rounds: int
    concurrency: int
    quick: bool

    @property
    def few_rounds(self) -> int:
        """For what is not among the first two goals."""
        return 1 if self.quick else min(3, self.rounds)


@dataclass(slots=True)
class Run:
    """What all steps share."""

    url: str
    sizes: Sizes
    bench: Bench
    echo: Target
    service: Target
    plain: Target
    console: Console
    rates: dict[tuple[str, str, bool, int], float] = field(default_factory=dict)

    def round(
        self,
        target: Target,
        rpc: str,
        *,
        seconds: float = 0.0,
        concurrency: int = 0,
        rate_per_s: float = 0.0,
        hot: bool = False,
    ) -> Figures:
        """One round; the first of its kind is preceded by a short one to warm up."""
        seconds, concurrency = seconds or self.sizes.seconds, concurrency or self.sizes.concurrency
        key = (target.name, rpc, hot, concurrency)
        if key not in self.rates:
            warm_s = self.sizes.seconds / 3
            warm_up = Round(
                target.name,
                target.port,
                rpc,
                warm_s,
                concurrency,
                round(warm_s * _WARM_UP_PER_S),
                0.0,
                hot,
            )
            self.rates[key] = self.bench.run(target, warm_up).calls_per_s
        budget = round((rate_per_s or self.rates[key] * _SPARE) * seconds) + concurrency
        wanted = Round(target.name, target.port, rpc, seconds, concurrency, budget, rate_per_s, hot)
        figures = self.bench.run(target, wanted)
        if not rate_per_s:
            self.rates[key] = figures.calls_per_s
        return figures

    def alternate(
        self,
        targets: Sequence[Target],
        measure: Callable[[Target], Figures],
        rounds: int = 0,
    ) -> dict[str, Figures]:
        """Medians over rounds that take turns, every other time in reverse."""
        found: dict[str, list[Figures]] = {target.name: [] for target in targets}
        for number in range(rounds or self.sizes.rounds):
            for target in targets if number % 2 == 0 else reversed(targets):
                found[target.name].append(measure(target))
        return {name: medians(figures) for name, figures in found.items()}

    def say(self, text: str) -> None:
        """A line of progress."""
        self.console.print(text, highlight=False)


def measure_all(url: str, sizes: Sizes) -> Results:
    """Measure everything. Raises RunFailed where a figure would not be one."""
    facts = asyncio.run(servers.database_facts(url))
    passes_before = asyncio.run(_passes(url))
    with ExitStack() as stack:
        run = _start(stack, url, sizes, facts["postmaster_pid"])
        results: Results = {"environment": _environment(sizes, facts["version"])}
        results["plain"], results["echo"] = {}, {}
        for rpc in (REQUEST_OFFERS, PURCHASE_PASS):
            _measure_rpc(run, rpc, results)
        _measure_hot(run, results)
        results["memory_mb"] = round(memory_mb(run.service.child.pid))
    direct_passes = _measure_direct(run, results)
    written = asyncio.run(_passes(url)) - passes_before
    expected = run.bench.acknowledged + direct_passes
    if written != expected:
        raise RunFailed(f"{expected} purchases were acknowledged, {written} passes are new")
    results["purchases"] = {"acknowledged": expected, "new_rows": written}
    return results


def _start(stack: ExitStack, url: str, sizes: Sizes, postmaster_pid: int) -> Run:
    """Start the client and the three servers; the echo answers what the service answers."""
    products = priced(sizes.products)
    load = stack.enter_context(Child("client", client, sizes.users, products))
    service = _target(stack, "service", servers.service, url)
    plain = _target(stack, "plain", servers.plain, url)
    answers = load.ask(service.port)
    echo = _target(stack, "echo", servers.echo, answers)
    console = Console(stderr=True)
    lengths = ", ".join(f"{rpc} {len(answer)} B" for rpc, answer in answers.items())
    run = Run(url, sizes, Bench(load, postmaster_pid), echo, service, plain, console)
    run.say(f"{sizes.users} users, {sizes.products} products; usual answers: {lengths}")
    return run


def _target(stack: ExitStack, name: str, work: Callable[..., None], argument: Any) -> Target:
    child = stack.enter_context(Child(name, work, argument))
    return Target(name, child, child.receive(), uses_postgres=name != "echo")


def _measure_rpc(run: Run, rpc: str, results: Results) -> None:
    """Top rates of all three, tails at half of them, batches against load."""
    name, all_three = NAMES[rpc], (run.echo, run.service, run.plain)
    top = run.alternate(all_three, lambda target: run.round(target, rpc))
    run.say(f"{rpc}: " + ", ".join(f"{n} {f.calls_per_s:.0f}/s" for n, f in top.items()))
    halves = {target.name: top[target.name].calls_per_s / 2 for target in all_three}
    half = run.alternate(
        (run.echo, run.service),
        lambda target: run.round(target, rpc, rate_per_s=halves[target.name]),
        run.sizes.few_rounds,
    )
    run.say(f"{rpc} at half: " + ", ".join(f"{n} p99 {f.p99_ms:.1f} ms" for n, f in half.items()))
    ratios = _ratios(top)
    if rpc == REQUEST_OFFERS:
        del ratios["plain_ratio"]
    results[name] = {
        **top["service"].as_dict(),
        **ratios,
        "half_p50_ms": round(half["service"].p50_ms, 4),
        "half_p99_ms": round(half["service"].p99_ms, 4),
        "half_p99_ratio": round(half["service"].p99_ms / half["echo"].p99_ms, 4),
    }
    results["echo"][name] = {
        **top["echo"].as_dict(),
        "half_p50_ms": round(half["echo"].p50_ms, 4),
        "half_p99_ms": round(half["echo"].p99_ms, 4),
    }
    results["plain"][name] = top["plain"].as_dict()
    results[name]["batches"] = _batches(run, rpc)


def _ratios(top: dict[str, Figures]) -> dict[str, float]:
    service, echo, plain = top["service"], top["echo"], top["plain"]
    return {
        "echo_ratio": round(service.calls_per_s / echo.calls_per_s, 4),
        "cpu_ratio": round(service.cpu_ms_per_call / echo.cpu_ms_per_call, 4),
        "plain_ratio": round(service.calls_per_s / plain.calls_per_s, 4),
    }


def _batches(run: Run, rpc: str) -> list[dict[str, float]]:
    """Mean size of a batch against the number of callers."""
    name = "offers" if rpc == REQUEST_OFFERS else "purchases"
    seconds = run.sizes.seconds / 2
    rows = []
    for callers in _LOADS:
        before = run.service.child.ask(name)
        figures = run.round(run.service, rpc, seconds=seconds, concurrency=callers)
        after = run.service.child.ask(name)
        rows.append(
            {
                "callers": callers,
                "batch_size": round((after[1] - before[1]) / (after[0] - before[0]), 2),
                "calls_per_s": round(figures.calls_per_s, 1),
                "p50_ms": round(figures.p50_ms, 3),
                "p99_ms": round(figures.p99_ms, 3),
            }
        )
    return rows


def _measure_hot(run: Run, results: Results) -> None:
    """All buy one product whose stock is limited."""
    all_three = (run.echo, run.service, run.plain)
    top = run.alternate(
        all_three,
        lambda target: run.round(target, PURCHASE_PASS, hot=True),
        run.sizes.few_rounds,
    )
    run.say("hot product: " + ", ".join(f"{n} {f.calls_per_s:.0f}/s" for n, f in top.items()))
    results["purchase_pass_hot"] = {**top["service"].as_dict(), **_ratios(top)}
    results["plain"]["purchase_pass_hot"] = top["plain"].as_dict()
    results["echo"]["purchase_pass_hot"] = top["echo"].as_dict()


def _measure_direct(run: Run, results: Results) -> int:
    """The SQL alone, and the write path without gRPC; returns the passes written."""
    sizes, url = run.sizes, run.url
    products: Sequence[Priced] = priced(sizes.products)
    hot = [product for product in products if product.product_id == HOT_PRODUCT]
    passes = 0
    results["sql"], results["write_path"] = {}, {"callers": WRITE_CALLERS}
    with Child("direct", direct.worker) as child:

        def reached(function: str, *arguments: Any, seconds: float) -> float:
            nonlocal passes
            rounds: list[direct.Reached] = [
                child.ask((function, url, sizes.users, *arguments, seconds))
                for _ in range(sizes.few_rounds)
            ]
            passes += sum(r.passes for r in rounds)
            return round(median(r.per_s for r in rounds), 1)

        half_s = sizes.seconds / 2
        results["sql"]["offers_rows_per_s"] = {
            str(n): reached("sql_knowledge", n, seconds=half_s) for n in SQL_BATCHES
        }
        results["sql"]["purchases_per_s"] = {
            str(n): reached("sql_purchases", products, n, seconds=half_s) for n in SQL_BATCHES
        }
        for name, sold in (("many_products", products), ("hot_product", hot)):
            batched, plain = (
                reached(way, sold, WRITE_CALLERS, seconds=sizes.seconds)
                for way in ("write_batched", "write_plain")
            )
            results["write_path"][name] = {
                "batched_per_s": batched,
                "plain_per_s": plain,
                "plain_ratio": round(batched / plain, 2),
            }
            run.say(f"write path, {name}: batched {batched:.0f}/s, plain {plain:.0f}/s")
    return passes


async def _passes(url: str) -> int:
    connection = await connect(options(url))
    try:
        sold = await connection.fetchval("SELECT max(sold) FROM product_stock")
        assert sold < LARGE_STOCK
        return int(await connection.fetchval("SELECT count(*) FROM passes"))
    finally:
        await connection.close()


def _environment(sizes: Sizes, postgres_version: str) -> Results:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "postgres": postgres_version,
        **{name: version(name) for name in ("grpcio", "protobuf", "asyncpg", "uvloop", "numpy")},
        "users": sizes.users,
        "products": sizes.products,
        "seconds": sizes.seconds,
        "rounds": sizes.rounds,
        "concurrency": sizes.concurrency,
        "quick": sizes.quick,
        "settings": {k: v for k, v in sorted(os.environ.items()) if k.endswith("_PACE_S")},
    }
