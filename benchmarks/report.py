"""What a run found, as one table for people and as JSON."""

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
        for name, figures in (
            ("echo", echo),
            ("service", results[key]),
            ("plain", results["plain"][key]),
        ):
            table.add_row(f"  {name}", *_cells(figures, echo))
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
    return table
