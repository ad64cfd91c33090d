"""What size costs: RequestOffers with many products or users, PurchasePass after many sales.

Each world is a database of its own in the same Postgres with a service process of
its own. All are made anew, so that no pass bought earlier in the run weighs on one
of them only, and before the first service starts.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console

from benchmarks import servers
from benchmarks.history import write_history
from benchmarks.load import NAMES, PURCHASE_PASS, REQUEST_OFFERS, Samples, client
from benchmarks.measure import Bench, Figures, Target
from benchmarks.processes import Child, RunFailed, memory_mb
from benchmarks.turns import Sizes, Turns
from benchmarks.world import make_world, new_database, options, priced
from voucher_grpc.store.driver import connect

Results = dict[str, Any]

BASE = "scale_base"
# A user takes 3 kB, a million of them 4 GB with the log of their writing.
_DISK_BYTES_PER_USER = 6_000
# A pass with all that is written beside it takes 1 kB, and as much in the log.
_DISK_BYTES_PER_PASS = 2_500


@dataclass(frozen=True, slots=True)
class World:
    """A database that was filled, and what that took."""

    name: str
    users: int
    products: int
    passes: int
    url: str
    make_s: float
    database_mb: float


def refuse_full_disk(sizes: Sizes) -> None:
    """Raises RunFailed where the disk of the throw-away Postgres has too little room."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    needed = sizes.many_users * _DISK_BYTES_PER_USER if sizes.scale else 0
    needed = max(needed, sizes.passes * _DISK_BYTES_PER_PASS)
    if free < needed:
        raise RunFailed(f"{tempfile.gettempdir()} has {free / 1e9:.1f} of {needed / 1e9:.0f} GB")


def measure_scale(url: str, sizes: Sizes) -> Results:
    """The base, many products and many users, by turns. Raises RunFailed."""
    return _measure(
        sizes,
        REQUEST_OFFERS,
        _world(url, BASE, sizes.users, sizes.products),
        _world(url, f"products_{sizes.many_products}", sizes.users, sizes.many_products),
        _world(url, f"users_{sizes.many_users}", sizes.many_users, sizes.products),
    )


def measure_history(url: str, sizes: Sizes) -> Results:
    """Empty tables of purchases and full ones, by turns. Raises RunFailed."""
    return _measure(
        sizes,
        PURCHASE_PASS,
        _world(url, "passes_0", sizes.users, sizes.products),
        _world(url, f"passes_{sizes.passes}", sizes.users, sizes.products, sizes.passes),
    )


def _measure(sizes: Sizes, rpc: str, *making: Coroutine[Any, Any, World]) -> Results:
    console = Console(stderr=True)
    worlds = [asyncio.run(made) for made in making]
    base = worlds[0]
    for world in worlds:
        console.print(f"{world.name}: {world.database_mb:.0f} MB made in {world.make_s:.1f} s")
    facts = asyncio.run(servers.database_facts(base.url))
    with ExitStack() as stack:
        load = stack.enter_context(Child("client", client, priced(sizes.products)))
        turns = Turns(sizes, Bench(load, facts["postmaster_pid"]), console)
        targets = [_target(stack, world) for world in worlds]
        for target in targets:
            # One caller first: until the catalogue has been read all calls wait, and are logged.
            load.ask(Samples(target.port, target.users))
        top = turns.alternate({t.name: partial(turns.round, t, rpc) for t in targets})
        turns.say(f"{rpc}: " + ", ".join(f"{n} {f.calls_per_s:.0f}/s" for n, f in top.items()))
        memories_mb = [memory_mb(target.child.pid) for target in targets]
    results = {
        world.name: _result(world, memory, top[world.name], top[base.name])
        for world, memory in zip(worlds, memories_mb, strict=True)
    }
    return {f"{NAMES[rpc]}_scale": list(results), **results}


async def _world(cluster_url: str, name: str, users: int, products: int, passes: int = 0) -> World:
    url = await new_database(cluster_url, name)
    began_s = time.perf_counter()
    await make_world(url, users, products)
    if passes:
        await _with_history(url, passes)
    make_s = time.perf_counter() - began_s
    connection = await connect(options(url))
    try:
        size = await connection.fetchval("SELECT pg_database_size(current_database())")
    finally:
        await connection.close()
    return World(name, users, products, passes, url, make_s, size / 1e6)


async def _with_history(url: str, passes: int) -> None:
    connection = await connect(options(url))
    try:
        await write_history(connection, passes)
    finally:
        await connection.close()


def _target(stack: ExitStack, world: World) -> Target:
    child = stack.enter_context(Child(world.name, servers.service, world.url))
    return Target(world.name, child, child.receive(), world.users, uses_postgres=True)


def _result(world: World, memory: float, figures: Figures, base: Figures) -> Results:
    """`cost_ratio` is CPU per call over the base's, `rate_ratio` calls/s over the base's."""
    return {
        "users": world.users,
        "products": world.products,
        "passes": world.passes,
        **figures.as_dict(),
        "cost_ratio": round(figures.cpu_ms_per_call / base.cpu_ms_per_call, 4),
        "rate_ratio": round(figures.calls_per_s / base.calls_per_s, 4),
        "memory_mb": round(memory),
        "database_mb": round(world.database_mb),
        "make_s": round(world.make_s, 1),
    }
