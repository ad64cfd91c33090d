"""The whole run: which server is measured with what, in which order."""

import asyncio
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks import direct, servers
from benchmarks.load import (
    BATCH_REQUEST_OFFERS,
    NAMES,
    PURCHASE_PASS,
    REQUEST_OFFERS,
    USERS_A_BATCH,
    Samples,
    client,
)
from benchmarks.measure import Bench, Figures, Target
from benchmarks.prices import prices_per_s
from benchmarks.processes import Child, RunFailed, memory_mb
from benchmarks.turns import Sizes, Turns
from benchmarks.world import HOT_PRODUCT, LARGE_STOCK, Priced, options, priced
from voucher_grpc.store.driver import connect

Results = dict[str, Any]

# Callers of the write path without gRPC: many, since nothing else stands in the way.
WRITE_CALLERS = 256
SQL_BATCHES = (1, 32, 128)
_LOADS = (1, 4, 16, 64, 256)
# Callers of batches: few, since each asks for many users.
BATCH_CALLERS = 2
# With more, plain's answers to RequestOffers come after their deadline.
PLAIN_MOST_PRODUCTS = 1_000


@dataclass(slots=True)
class Run(Turns):
    """What all steps share."""

    url: str
    echo: Target
    service: Target
    plain: Target
    reads: Target

    def compared(self, rpc: str) -> list[Target]:
        """The echo, the service, the service without its rules, and plain where it can answer in
        time."""
        late = rpc == REQUEST_OFFERS and self.sizes.products > PLAIN_MOST_PRODUCTS
        return [self.echo, self.service, self.reads, *([] if late else [self.plain])]


def measure_all(url: str, sizes: Sizes) -> Results:
    """Measure everything. Raises RunFailed where a figure would not be one."""
    facts = asyncio.run(servers.database_facts(url))
    passes_before = asyncio.run(_passes(url))
    with ExitStack() as stack:
        run = _start(stack, url, sizes, facts["postmaster_pid"])
        results: Results = {"environment": _environment(sizes, facts["version"])}
        results["plain"], results["echo"], results["reads"] = {}, {}, {}
        _measure_rpc(run, REQUEST_OFFERS, results)
        _measure_batch(run, results)
        _measure_rpc(run, PURCHASE_PASS, results)
        _measure_hot(run, results)
        results["memory_mb"] = round(memory_mb(run.service.child.pid))
    results["prices_per_s"] = prices_per_s()
    direct_passes = _measure_direct(run, results)
    written = asyncio.run(_passes(url)) - passes_before
    expected = run.bench.acknowledged + direct_passes
    if written != expected:
        raise RunFailed(f"{expected} purchases were acknowledged, {written} passes are new")
    results["purchases"] = {"acknowledged": expected, "new_rows": written}
    return results


def _start(stack: ExitStack, url: str, sizes: Sizes, postmaster_pid: int) -> Run:
    """Start the client and the servers; the echo answers what the service answers."""
    products = priced(sizes.products)
    load = stack.enter_context(Child("client", client, products))

    def target(name: str, work: Callable[..., None], argument: Any) -> Target:
        child = stack.enter_context(Child(name, work, argument))
        return Target(
            name,
            child,
            child.receive(),
            sizes.users,
            uses_postgres=name != "echo",
            writes=name != "reads",
        )

    service = target("service", servers.service, url)
    plain = target("plain", servers.plain, url)
    answers = load.ask(Samples(service.port, sizes.users))
    echo = target("echo", servers.echo, answers)
    reads = target("reads", servers.reads, (url, answers))
    load.ask(Samples(reads.port, sizes.users))
    console = Console(stderr=True)
    lengths = ", ".join(f"{rpc} {len(answer)} B" for rpc, answer in answers.items())
    run = Run(sizes, Bench(load, postmaster_pid), console, url, echo, service, plain, reads)
    run.say(f"{sizes.users} users, {sizes.products} products; usual answers: {lengths}")
    return run


def _measure_rpc(run: Run, rpc: str, results: Results) -> None:
    """Top rates of all three, tails at half of them, batches against load."""
    name = NAMES[rpc]
    top = run.alternate({t.name: partial(run.round, t, rpc) for t in run.compared(rpc)})
    run.say(f"{rpc}: " + ", ".join(f"{n} {f.calls_per_s:.0f}/s" for n, f in top.items()))
    half = run.alternate(
        {
            t.name: partial(run.round, t, rpc, rate_per_s=top[t.name].calls_per_s / 2)
            for t in (run.echo, run.service)
        },
        run.sizes.few_rounds,
    )
    run.say(f"{rpc} at half: " + ", ".join(f"{n} p99 {f.p99_ms:.1f} ms" for n, f in half.items()))
    results[name] = {
        **top["service"].as_dict(),
        **_ratios(top),
        **(_plain_ratio(top) if rpc == PURCHASE_PASS else {}),
        "half_p50_ms": round(half["service"].p50_ms, 4),
        "half_p99_ms": round(half["service"].p99_ms, 4),
        "half_p99_ratio": round(half["service"].p99_ms / half["echo"].p99_ms, 4),
    }
    results["echo"][name] = {
        **top["echo"].as_dict(),
        "half_p50_ms": round(half["echo"].p50_ms, 4),
        "half_p99_ms": round(half["echo"].p99_ms, 4),
    }
    for other in ("plain", "reads"):
        if other in top:
            results[other][name] = top[other].as_dict()
    results[name]["idle"] = idle = _idle(run, rpc)
    if "plain" in idle:
        for figure in ("p50", "p99"):
            ratio = idle["service"][f"{figure}_ms"] / idle["plain"][f"{figure}_ms"]
            results[name][f"idle_{figure}_plain_ratio"] = round(ratio, 4)
    results[name]["batches"] = _batches(run, rpc)


def _idle(run: Run, rpc: str) -> dict[str, dict[str, float]]:
    """One caller at a time, which is how a call feels where nothing else goes on."""
    found = run.alternate(
        {t.name: partial(run.round, t, rpc, concurrency=1) for t in run.compared(rpc)},
        run.sizes.few_rounds,
    )
    return {
        n: {"p50_ms": round(f.p50_ms, 3), "p99_ms": round(f.p99_ms, 3)} for n, f in found.items()
    }


def _ratios(top: dict[str, Figures]) -> dict[str, float]:
    service, echo = top["service"], top["echo"]
    return {
        "echo_ratio": round(service.calls_per_s / echo.calls_per_s, 4),
        "cpu_ratio": round(service.cpu_ms_per_call / echo.cpu_ms_per_call, 4),
    }


def _plain_ratio(top: dict[str, Figures]) -> dict[str, float]:
    return {"plain_ratio": round(top["service"].calls_per_s / top["plain"].calls_per_s, 4)}


def _measure_batch(run: Run, results: Results) -> None:
    """One call for many users beside one call for each, on the same server."""
    top = run.alternate(
        {
            "single": partial(run.round, run.service, REQUEST_OFFERS),
            "batch": partial(
                run.round, run.service, BATCH_REQUEST_OFFERS, concurrency=BATCH_CALLERS
            ),
        },
        run.sizes.few_rounds,
    )
    single, batch = top["single"], top["batch"]
    users_per_s = batch.calls_per_s * USERS_A_BATCH
    cpu_ms_per_user = batch.cpu_ms_per_call / USERS_A_BATCH
    run.say(f"{BATCH_REQUEST_OFFERS}: {users_per_s:.0f} users/s, single {single.calls_per_s:.0f}/s")
    results["batch_request_offers"] = {
        "users_per_call": USERS_A_BATCH,
        "callers": BATCH_CALLERS,
        **batch.as_dict(),
        "users_per_s": round(users_per_s, 1),
        "cpu_ms_per_user": round(cpu_ms_per_user, 4),
        "postgres_cpu_ms_per_user": round(batch.postgres_cpu_ms_per_call / USERS_A_BATCH, 4),
        "client_cpu_ms_per_user": round(batch.client_cpu_ms_per_call / USERS_A_BATCH, 4),
        "per_user_ratio": round(cpu_ms_per_user / single.cpu_ms_per_call, 4),
        "throughput_ratio": round(single.calls_per_s / users_per_s, 4),
        "single": single.as_dict(),
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
    top = run.alternate(
        {
            t.name: partial(run.round, t, PURCHASE_PASS, hot=True)
            for t in (run.echo, run.service, run.plain)
        },
        run.sizes.few_rounds,
    )
    run.say("hot product: " + ", ".join(f"{n} {f.calls_per_s:.0f}/s" for n, f in top.items()))
    results["purchase_pass_hot"] = {
        **top["service"].as_dict(),
        **_ratios(top),
        **_plain_ratio(top),
    }
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
        "scale": sizes.scale,
        "passes": sizes.passes,
        "settings": {
            k: v for k, v in sorted(os.environ.items()) if k.endswith("_BATCH_INTERVAL_S")
        },
    }
