"""`python -m benchmarks.catalogue_changes [--quick]`: what calls notice of changed tariffs.

Beside 2,000 large tariffs one is changed each second by UpsertTariffs, while RequestOffers is
called at a fixed rate and health is checked. Rounds with and without changes alternate. Prints
a table, writes build/catalogue_changes.json.
"""

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table

from benchmarks.load import REQUEST_OFFERS, Requests
from benchmarks.processes import Child, RunFailed
from benchmarks.report import write_json
from benchmarks.servers import service
from benchmarks.world import (
    COUNTRY,
    CURRENCY,
    LOCATIONS,
    PARTIES,
    ZONE,
    make_world,
    options,
    place,
    priced,
)
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.dev.postgres import throw_away_postgres
from voucher_grpc.domain.catalogue.conditions import Restrictions
from voucher_grpc.domain.places.location import Connector, Evse, Location
from voucher_grpc.domain.pricing.tariff import Dimension, PriceComponent, Tariff, TariffElement
from voucher_grpc.edge.wire.tariffs import tariff_message
from voucher_grpc.ocpi import PowerType
from voucher_grpc.runtime.event_loop_share import EventLoopShare
from voucher_grpc.store.database import Database
from voucher_grpc.store.location_cache import LocationCache
from voucher_grpc.store.places import PlaceStore
from voucher_grpc.v1 import location_service_pb2 as pb
from voucher_grpc.v1 import voucher_service_pb2

USERS, PRODUCTS = 2_000, 100
# As large as they may be, 8 kB as a message; of eight parties, since one may have 400 of them.
ELEMENTS, COMPONENTS = 50, 10
TARIFFS_OF_A_PARTY = 250
TARIFF_PARTIES = (*PARTIES, "DDD", "EEE", "FFF", "GGG", "HHH")
_WRITTEN_AT_ONCE = 50
_CALLS_PER_S = 50
_WARM_CALLS = 300
_HEALTH_INTERVAL_S, _CHANGE_INTERVAL_S = 0.05, 1.0
_DEADLINE_S = 10.0
# Who probes health waits for so long in many places; the kubelet's default is a second.
_LATE_S = 1.0


def large_tariff(party: str, number: int, revision: int = 0) -> Tariff:
    """All its components differ, and so do those of two tariffs and of two revisions."""
    prices = itertools.count(1_000_000 + 1_000 * (number + 1) + 499 * revision)
    return Tariff(
        COUNTRY,
        party,
        f"large-{number:04d}",
        CURRENCY,
        tuple(
            TariffElement(
                tuple(
                    PriceComponent(dimension, next(prices), Fraction(1, 4))
                    for dimension in itertools.islice(itertools.cycle(Dimension), COMPONENTS)
                ),
                Restrictions(start_minute=28 * element, end_minute=28 * element + 28),
            )
            for element in range(ELEMENTS)
        ),
    )


def priced_location(number: int) -> Location:
    """One of the world's locations, with a large tariff of its party."""
    key = place(number)
    connector = Connector(
        "1", "IEC_62196_T2_COMBO", PowerType.DC, 150_000, (f"large-{number:04d}",)
    )
    return Location(
        key.country_code,
        key.party_id,
        key.location_id,
        ZONE,
        evses=(Evse("E1", (connector,)), Evse("E2", (connector,))),
    )


async def make_large_world(url: str, tariffs_of_a_party: int) -> None:
    """The world with large tariffs, which its locations have."""
    await make_world(url, USERS, PRODUCTS)
    async with Database.open(options(url)) as database:
        store = PlaceStore(database, LocationCache(), EventLoopShare())
        for party in TARIFF_PARTIES:
            for start in range(0, tariffs_of_a_party, _WRITTEN_AT_ONCE):
                numbers = range(start, min(start + _WRITTEN_AT_ONCE, tariffs_of_a_party))
                if await store.upsert_tariffs([large_tariff(party, n) for n in numbers]):
                    raise RunFailed("the tariffs are beyond the bound of their party")
        await store.upsert_locations([priced_location(number) for number in range(LOCATIONS)])


@dataclass(slots=True)
class Heard:
    """What the calls of a round took, in seconds from when they were due."""

    offers_s: list[float] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)
    changes_s: list[float] = field(default_factory=list)


@asynccontextmanager
async def repeated(
    interval_s: float, call: Callable[[], Awaitable[Any]], took_s: list[float]
) -> AsyncIterator[None]:
    """Call at each interval, whether the last one has been answered or not."""
    ended = asyncio.Event()

    async def one(due_s: float) -> None:
        await call()
        took_s.append(time.perf_counter() - due_s)

    async def begin(group: asyncio.TaskGroup) -> None:
        began_s = time.perf_counter()
        for number in itertools.count():
            due_s = began_s + number * interval_s
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            if ended.is_set():
                return
            group.create_task(one(due_s))

    async with asyncio.TaskGroup() as group:
        group.create_task(begin(group))
        yield
        ended.set()


class Bench:
    """Calls one server, with changes or without."""

    def __init__(self, client: Client, channel: grpc.aio.Channel) -> None:
        self._client = client
        self._offers: Any = channel.unary_unary(
            f"/voucher_grpc.v1.VoucherService/{REQUEST_OFFERS}",
            response_deserializer=voucher_service_pb2.RequestOffersResponse.FromString,
        )
        self._health: Any = health_pb2_grpc.HealthStub(channel)
        self._requests = Requests(USERS, priced(PRODUCTS))
        self._changes = _changes()

    async def warm(self) -> None:
        """Ask for offers one after the other, so that what is made once is there."""
        for request in self._requests.make(REQUEST_OFFERS, _WARM_CALLS):
            await self._ask(request)

    async def round(self, seconds: float, *, changing: bool) -> Heard:
        """Call for so long. Raises grpc.RpcError if a call is not OK."""
        heard = Heard()
        waiting = iter(self._requests.make(REQUEST_OFFERS, round(seconds * _CALLS_PER_S * 1.5)))
        async with (
            repeated(1 / _CALLS_PER_S, lambda: self._ask(next(waiting)), heard.offers_s),
            repeated(_HEALTH_INTERVAL_S, self._check, heard.health_s),
        ):
            if changing:
                async with repeated(_CHANGE_INTERVAL_S, self._change, heard.changes_s):
                    await asyncio.sleep(seconds)
            else:
                await asyncio.sleep(seconds)
        return heard

    async def _ask(self, request: bytes) -> None:
        answer = await self._offers(request, timeout=_DEADLINE_S)
        if not answer.offers:
            raise RunFailed("a request was answered without offers")

    async def _check(self) -> None:
        await self._health.Check(health_pb2.HealthCheckRequest(), timeout=_DEADLINE_S)

    async def _change(self) -> None:
        request = pb.UpsertTariffsRequest(tariffs=[next(self._changes)])
        answer = await self._client.call(self._client.location.UpsertTariffs, request)
        if answer.results[0].code:
            raise RunFailed(f"a change was refused: {answer.results[0].message}")


def _changes() -> Iterator[pb.Tariff]:
    """The tariffs of the locations in turn, each time with other prices."""
    for revision in itertools.count(1):
        for number in range(LOCATIONS):
            yield tariff_message(large_tariff(place(number).party_id, number, revision))


def percentile_ms(took_s: Sequence[float], share: float) -> float:
    """A percentile in ms."""
    ordered = sorted(took_s)
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)


def _figures(heard: Heard) -> dict[str, float]:
    return {
        "offers": len(heard.offers_s),
        "offers_p50_ms": percentile_ms(heard.offers_s, 0.5),
        "offers_p99_ms": percentile_ms(heard.offers_s, 0.99),
        "offers_slowest_ms": percentile_ms(heard.offers_s, 1),
        "health_p99_ms": percentile_ms(heard.health_s, 0.99),
        "health_slowest_ms": percentile_ms(heard.health_s, 1),
        "health_late": sum(took_s > _LATE_S for took_s in heard.health_s),
        "changes": len(heard.changes_s),
        "change_p50_ms": percentile_ms(heard.changes_s, 0.5) if heard.changes_s else 0.0,
    }


async def measure(port: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Alternating rounds; the median of each figure, the worst of those of health."""
    target = f"127.0.0.1:{port}"
    found: dict[str, list[dict[str, float]]] = {"without changes": [], "with changes": []}
    async with Client(target) as client, grpc.aio.insecure_channel(target) as channel:
        bench = Bench(client, channel)
        await bench.warm()
        for _ in range(rounds):
            for name, changing in (("without changes", False), ("with changes", True)):
                found[name].append(_figures(await bench.round(seconds, changing=changing)))
    worst = ("health_late", "health_slowest_ms", "offers_slowest_ms")
    return {
        name: {
            figure: (max if figure in worst else median)(one[figure] for one in figures)
            for figure in figures[0]
        }
        for name, figures in found.items()
    }


def _show(results: dict[str, Any]) -> None:
    table = Table(title=f"{results['tariffs']} tariffs of {results['tariff_bytes']} bytes")
    columns = (
        *("offers_p50_ms", "offers_p99_ms", "offers_slowest_ms", "health_p99_ms"),
        *("health_slowest_ms", "health_late", "changes", "change_p50_ms"),
    )
    table.add_column("")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name, figures in results["rounds"].items():
        table.add_row(name, *(f"{figures[column]:g}" for column in columns))
    console = Console(width=118)
    console.print(table)
    console.print(
        f"p99 of RequestOffers with changes over without: {results['p99_ratio']};"
        f" the server started in {results['start_s']} s",
        highlight=False,
    )


def main() -> int:
    """0 if the 99th percentile with changes is at most twice that without, and no check late."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.catalogue_changes", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="a fifth of the tariffs, less long")
    parser.add_argument(
        "--json", type=Path, default=Path("build/catalogue_changes.json"), help="where to"
    )
    arguments = parser.parse_args()
    of_a_party = TARIFFS_OF_A_PARTY // 5 if arguments.quick else TARIFFS_OF_A_PARTY
    rounds, seconds = (2, 5.0) if arguments.quick else (5, 20.0)
    found: dict[str, Any] = {}
    try:
        with throw_away_postgres() as url:
            asyncio.run(make_large_world(url, of_a_party))
            began_s = time.perf_counter()
            with Child("service", service, url, {"slow_call_s": "60"}) as server:
                port = server.receive()
                start_s = time.perf_counter() - began_s
                found = asyncio.run(measure(port, rounds, seconds))
    except* (RunFailed, CallFailed, grpc.RpcError) as failed:
        error = failed.exceptions[0]
        Console(stderr=True).print(f"The run failed: {error}", style="red", markup=False)
    if not found:
        return 1
    without, changing = found["without changes"], found["with changes"]
    results = {
        "tariffs": of_a_party * len(TARIFF_PARTIES),
        "tariff_bytes": tariff_message(large_tariff("AAA", 0)).ByteSize(),
        "start_s": round(start_s, 1),
        "rounds": found,
        "p99_ratio": round(changing["offers_p99_ms"] / without["offers_p99_ms"], 2),
    }
    write_json(results, arguments.json)
    _show(results)
    late = without["health_late"] + changing["health_late"]
    return 1 if results["p99_ratio"] > 2 or late else 0


if __name__ == "__main__":
    sys.exit(main())
