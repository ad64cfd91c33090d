"""`python -m benchmarks [--quick] [--scale]`: measure, print tables, write build/bench.json."""

import argparse
import asyncio
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.load import USERS_A_BATCH
from benchmarks.processes import RunFailed
from benchmarks.report import show, write_json
from benchmarks.run import measure_all
from benchmarks.scale import measure_history, measure_scale, refuse_full_disk
from benchmarks.turns import Sizes
from benchmarks.world import make_world
from voucher_grpc.dev.postgres import throw_away_postgres


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, smaller sizes")
    parser.add_argument(
        "--scale",
        action="store_true",
        help="also 10000 products and a million users (quick 100000): minutes, 6 GB of disk",
    )
    parser.add_argument(
        "--passes",
        type=int,
        default=0,
        help="also purchases after so many sales (20 million: ten minutes, 50 GB of disk)",
    )
    parser.add_argument("--users", type=int, help="users with history (10000, quick 2000)")
    parser.add_argument("--products", type=int, help="products on sale (100)")
    parser.add_argument("--seconds", type=float, help="length of a round (3, quick 0.8)")
    parser.add_argument("--rounds", type=int, help="rounds of each server (5, quick 2)")
    parser.add_argument("--concurrency", type=int, help="callers (64)")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where to")
    arguments = parser.parse_args()
    if arguments.users is not None and arguments.users < USERS_A_BATCH:
        parser.error(f"--users must be at least {USERS_A_BATCH}: so many are in a batch")
    return arguments


def _sizes(arguments: argparse.Namespace) -> Sizes:
    quick: bool = arguments.quick
    return Sizes(
        users=arguments.users or (2_000 if quick else 10_000),
        products=arguments.products or 100,
        seconds=arguments.seconds or (0.8 if quick else 3.0),
        rounds=arguments.rounds or (2 if quick else 5),
        concurrency=arguments.concurrency or 64,
        quick=quick,
        scale=arguments.scale,
        passes=arguments.passes,
    )


def main() -> int:
    """0 if all was measured, 1 if a call was not OK or the rows do not add up."""
    arguments = _arguments()
    sizes = _sizes(arguments)
    try:
        refuse_full_disk(sizes)
        with throw_away_postgres() as url:
            asyncio.run(make_world(url, sizes.users, sizes.products))
            results = measure_all(url, sizes)
            if sizes.scale:
                results |= measure_scale(url, sizes)
            if sizes.passes:
                results |= measure_history(url, sizes)
    except RunFailed as error:
        Console(stderr=True).print(f"The run failed: {error}", style="red", markup=False)
        return 1
    write_json(results, arguments.json)
    show(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
