"""What a run found, as tables for people and as JSON."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Results = dict[str, Any]

_RPCS = {
    "request_offers": "RequestOffers",
    "purchase_pass": "PurchasePass",
    "purchase_pass_hot": "PurchasePass, one hot product",
}
# What is promised, beside each figure: (key of the figure, at least or at most, bound).
_GOALS = (
    ("RequestOffers, calls/s over the echo's", ("request_offers", "echo_ratio"), ">=", 0.8),
    ("PurchasePass, calls/s over the echo's", ("purchase_pass", "echo_ratio"), ">=", 0.7),
    ("PurchasePass, calls/s over plain's", ("purchase_pass", "plain_ratio"), ">=", 3.0),
    ("hot product, calls/s over the echo's", ("purchase_pass_hot", "echo_ratio"), ">=", 0.7),
    ("hot product, calls/s over plain's", ("purchase_pass_hot", "plain_ratio"), ">=", 3.0),
    (
        "write path over plain's, no gRPC",
        ("write_path", "many_products", "plain_ratio"),
        ">=",
        10.0,
    ),
    (
        "the same on the hot product",
        ("write_path", "hot_product", "plain_ratio"),
        ">=",
        10.0,
    ),
    ("RequestOffers, p99 at half over echo's", ("request_offers", "half_p99_ratio"), "<=", 2.0),
    ("PurchasePass, p99 at half over echo's", ("purchase_pass", "half_p99_ratio"), "<=", 2.0),
    ("PurchasePass idle, p50 over plain's", ("purchase_pass", "idle_p50_plain_ratio"), "<=", 1.0),
    ("PurchasePass idle, p99 over plain's", ("purchase_pass", "idle_p99_plain_ratio"), "<=", 1.0),
    (
        "CPU per user of a batch over a call's",
        ("batch_request_offers", "per_user_ratio"),
        "<=",
        0.2,
    ),
    ("10,000 products, CPU per call", ("products_10000", "cost_ratio"), "<=", 1.5),
    ("10,000 products, memory of a worker, MB", ("products_10000", "memory_mb"), "<=", 200.0),
    ("1,000,000 users, CPU per call", ("users_1000000", "cost_ratio"), "<=", 1.3),
    ("20,000,000 passes, CPU per purchase", ("passes_20000000", "cost_ratio"), "<=", 1.2),
)


def write_json(results: Results, path: Path) -> None:
    """Write all figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def show(results: Results) -> None:
    """Print the tables on standard output."""
    console = Console(width=118)
    console.print(_calls(results))
    console.print(_goals(results))
    console.print(_batches(results))
    console.print(_many_users(results))
    console.print(_idle(results))
    for name, title in _RPCS.items():
        if f"{name}_scale" in results:
            console.print(_scale(results, results[f"{name}_scale"], title))
    console.print(_direct(results))
    environment = results["environment"]
    console.print(
        "{date}, {cpus} CPUs, Python {python}, Postgres {postgres}, grpcio {grpcio}; {users} "
        "users, {products} products, {concurrency} callers, {rounds} rounds of {seconds} s".format(
            **environment
        ),
        highlight=False,
    )
    console.print(
        f"{results['purchases']['acknowledged']} purchases acknowledged, as many new passes; "
        f"service {results['memory_mb']} MB",
        highlight=False,
    )


def _calls(results: Results) -> Table:
    table = Table(title="calls (CPU in ms a call; half: paced at half of its own top rate)")
    table.add_column("")
    for name in (
        "calls/s",
        "of echo",
        "CPU",
        "of echo",
        "Postgres",
        "client",
        "p50 ms",
        "p99 ms",
        "half p99",
    ):
        table.add_column(name, justify="right")
    for key, title in _RPCS.items():
        echo = results["echo"][key]
        table.add_row(title, style="bold")
        table.add_row("  echo", *_cells(echo, echo))
        if key in results["reads"]:
            table.add_row("  reads", *_cells(results["reads"][key], echo))
        table.add_row("  service", *_cells(results[key], echo))
        if key in results["plain"]:
            table.add_row("  plain", *_cells(results["plain"][key], echo))
        else:
            table.add_row("  plain", "left out")
            table.caption = "left out: with so many products plain answers after the deadline"
        table.add_section()
    return table


def _cells(figures: dict[str, float], echo: dict[str, float]) -> list[str]:
    half = figures.get("half_p99_ms")
    return [
        f"{figures['calls_per_s']:.0f}",
        f"{figures['calls_per_s'] / echo['calls_per_s']:.2f}",
        f"{figures['cpu_ms_per_call']:.3f}",
        f"{figures['cpu_ms_per_call'] / echo['cpu_ms_per_call']:.2f}",
        f"{figures['postgres_cpu_ms_per_call']:.3f}",
        f"{figures['client_cpu_ms_per_call']:.3f}",
        f"{figures['p50_ms']:.1f}",
        f"{figures['p99_ms']:.1f}",
        "" if half is None else f"{half:.1f}",
    ]


def _goals(results: Results) -> Table:
    table = Table(title="goals")
    for name in ("what", "goal", "now", ""):
        table.add_column(name, justify="left" if name == "what" else "right")
    for title, keys, comparison, bound in _GOALS:
        if keys[0] not in results:  # measured with --scale only
            continue
        value: Any = results
        for key in keys:
            value = value[key]
        met = value >= bound if comparison == ">=" else value <= bound
        table.add_row(title, f"{comparison} {bound:g}", f"{value:.2f}", "met" if met else "not met")
    return table


def _batches(results: Results) -> Table:
    table = Table(title="batch size against load")
    for name in ("callers", "offers", "calls/s", "p50 ms", "p99 ms", "purchases", "calls/s"):
        table.add_column(name, justify="right")
    table.add_column("p50 ms", justify="right")
    table.add_column("p99 ms", justify="right")
    rows = zip(
        results["request_offers"]["batches"], results["purchase_pass"]["batches"], strict=True
    )
    for offers, purchases in rows:
        table.add_row(str(offers["callers"]), *_batch_cells(offers), *_batch_cells(purchases))
    return table


def _batch_cells(row: dict[str, float]) -> list[str]:
    return [
        f"{row['batch_size']:.1f}",
        f"{row['calls_per_s']:.0f}",
        f"{row['p50_ms']:.1f}",
        f"{row['p99_ms']:.1f}",
    ]


def _many_users(results: Results) -> Table:
    batch = results["batch_request_offers"]
    single = batch["single"]
    table = Table(title=f"a call for each user, and one for {batch['users_per_call']} (CPU in ms)")
    table.add_column("")
    for name in ("users/s", "CPU a user", "Postgres", "client", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right")
    for title, figures, users_per_s, of in (
        ("RequestOffers", single, single["calls_per_s"], "call"),
        ("BatchRequestOffers", batch, batch["users_per_s"], "user"),
    ):
        table.add_row(
            title,
            f"{users_per_s:.0f}",
            f"{figures[f'cpu_ms_per_{of}']:.3f}",
            f"{figures[f'postgres_cpu_ms_per_{of}']:.3f}",
            f"{figures[f'client_cpu_ms_per_{of}']:.3f}",
            f"{figures['p50_ms']:.1f}",
            f"{figures['p99_ms']:.1f}",
        )
    table.caption = (
        f"a user of a batch costs {batch['per_user_ratio']:.2f} of a call by CPU, "
        f"{batch['throughput_ratio']:.2f} by throughput"
    )
    return table


def _idle(results: Results) -> Table:
    table = Table(title="one caller at a time")
    for name in ("", "", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right" if name else "left")
    for rpc in ("request_offers", "purchase_pass"):
        for server, figures in results[rpc]["idle"].items():
            row = (f"{figures['p50_ms']:.2f}", f"{figures['p99_ms']:.2f}")
            table.add_row(_RPCS[rpc], server, *row)
        table.add_section()
    return table


def _scale(results: Results, worlds: list[str], title: str) -> Table:
    table = Table(title=f"{title} by size (CPU in ms a call; ratios to the first row)")
    for name in (
        "users",
        "products",
        "passes",
        "calls/s",
        "ratio",
        "CPU",
        "ratio",
        "Postgres",
        "p50 ms",
        "p99 ms",
        "worker MB",
        "data MB",
        "made s",
    ):
        table.add_column(name, justify="right")
    for figures in (results[name] for name in worlds):
        table.add_row(
            f"{figures['users']}",
            f"{figures['products']}",
            f"{figures['passes']}",
            f"{figures['calls_per_s']:.0f}",
            f"{figures['rate_ratio']:.2f}",
            f"{figures['cpu_ms_per_call']:.3f}",
            f"{figures['cost_ratio']:.2f}",
            f"{figures['postgres_cpu_ms_per_call']:.3f}",
            f"{figures['p50_ms']:.1f}",
            f"{figures['p99_ms']:.1f}",
            f"{figures['memory_mb']}",
            f"{figures['database_mb']}",
            f"{figures['make_s']}",
        )
    return table


def _direct(results: Results) -> Table:
    table = Table(title="without gRPC, a second")
    for name in ("what", "how", "reached"):
        table.add_column(name, justify="right" if name == "reached" else "left")
    for batch, rate in results["sql"]["offers_rows_per_s"].items():
        table.add_row("SQL of RequestOffers, users", f"{batch} in a statement", f"{rate:.0f}")
    for batch, rate in results["sql"]["purchases_per_s"].items():
        table.add_row("SQL of PurchasePass", f"{batch} in a transaction", f"{rate:.0f}")
    for name, title in (("many_products", "purchases"), ("hot_product", "purchases, hot product")):
        figures = results["write_path"][name]
        table.add_row(title, "batched", f"{figures['batched_per_s']:.0f}")
        table.add_row(title, "plain", f"{figures['plain_per_s']:.0f}")
    for shape, rate in results["prices_per_s"].items():
        table.add_row("prices of sessions", shape, f"{rate:.0f}")
    return table
