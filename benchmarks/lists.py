"""`python -m benchmarks.lists [--quick]`: what others notice of lists at their limits.

For each list RPC some callers ask for the largest pages in a closed loop, while another caller
asks for offers and for health at a steady pace; rounds with and without the load take turns.
No credentials, so no rates: the load is what many callers could make at most. The
server's memory is looked at before, during and after. Beside it, on a server of its own, the
longest time for which one call keeps the event loop, in CPU time, which does not depend on
what else the machine does. Prints a table, writes build/lists.json.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import grpc
import uvloop
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from rich.console import Console
from rich.table import Table

from benchmarks import servers
from benchmarks.load import Requests
from benchmarks.processes import Child, Pipe, RunFailed, memory_mb
from benchmarks.report import write_json
from benchmarks.world import CURRENCY, make_world, priced
from voucher_grpc.dev.postgres import throw_away_postgres
from voucher_grpc.server.process import prepare_process
from voucher_grpc.telemetry.logs import configure_logs
from voucher_grpc.v1 import catalogue_service_pb2 as catalogue_pb
from voucher_grpc.v1 import conditions_pb2 as conditions_pb
from voucher_grpc.v1 import location_service_pb2 as location_pb
from voucher_grpc.v1 import user_service_pb2 as user_pb
from voucher_grpc.v1 import voucher_service_pb2 as voucher_pb

USERS, PRODUCTS = 1_000, 100
# Who asks for large pages, and how often the other caller asks for each of its two.
CALLERS, PACE_PER_S = 4, 50.0
LARGE_LOCATIONS, SMALL_LOCATIONS, LARGE_TARIFFS, LARGE_PRODUCTS = 12, 3_000, 150, 200
ROWS = 1_000
_LARGE, _SMALL, _USER = "BIG", "SML", "collector"
_DEADLINE_S = 120.0
# A server that has just read a large catalogue refuses offers for a while.
_WARM_CALLS = 50
_HEALTH = "/grpc.health.v1.Health/Check"
_OFFERS = "/voucher_grpc.v1.VoucherService/RequestOffers"


@dataclass(frozen=True, slots=True)
class Case:
    """A list at its limits."""

    name: str
    path: str
    request: bytes


def _case(name: str, service: str, request: Message) -> Case:
    rpc = name.partition(",")[0]
    path = f"/voucher_grpc.v1.{service}/{rpc}"
    return Case(name, path, request.SerializeToString())


def cases() -> list[Case]:
    """All lists, and the largest single location."""
    asked = voucher_pb.RequestOffersRequest(user_id="user-0000001", currency_code=CURRENCY)
    return [
        _case(
            "ListLocations, large",
            "LocationService",
            location_pb.ListLocationsRequest(country_code="NO", party_id=_LARGE, page_size=ROWS),
        ),
        _case(
            "ListLocations, small",
            "LocationService",
            location_pb.ListLocationsRequest(country_code="NO", party_id=_SMALL, page_size=ROWS),
        ),
        _case(
            "GetLocation",
            "LocationService",
            location_pb.GetLocationRequest(
                country_code="NO", party_id=_LARGE, location_id=_location_id(0)
            ),
        ),
        _case(
            "ListTariffs",
            "LocationService",
            location_pb.ListTariffsRequest(country_code="XX", page_size=ROWS),
        ),
        _case(
            "ListProducts",
            "CatalogueService",
            catalogue_pb.ListProductsRequest(show_retired=True, page_size=ROWS),
        ),
        _case(
            "ListPasses",
            "VoucherService",
            voucher_pb.ListPassesRequest(user_id=_USER, page_size=ROWS),
        ),
        _case(
            "ExplainOffers",
            "VoucherService",
            voucher_pb.ExplainOffersRequest(request=asked, page_size=ROWS),
        ),
        _case(
            "ListVehicles",
            "UserService",
            user_pb.ListVehiclesRequest(user_id=_USER, page_size=ROWS),
        ),
        _case(
            "ExportUser", "UserService", user_pb.ExportUserRequest(user_id=_USER, page_size=ROWS)
        ),
        _case(
            "UpsertLocations",
            "LocationService",
            location_pb.UpsertLocationsRequest(locations=[large_location("again")]),
        ),
    ]


def _location_id(number: int) -> str:
    return f"location-{number:06}"


def large_location(location_id: str) -> location_pb.Location:
    """One of 0.93 MB, near the largest message that is taken."""
    connectors = [
        location_pb.Connector(
            connector_id=f"{number:036}",
            standard="IEC_62196_T2",
            power_type=conditions_pb.POWER_TYPE_DC,
            max_power_w=22_000,
            tariff_ids=[f"{number:030}"],
        )
        for number in range(20)
    ]
    return location_pb.Location(
        country_code="NO",
        party_id=_LARGE,
        location_id=location_id,
        time_zone="Europe/Oslo",
        evses=[
            location_pb.Evse(evse_uid=f"{number:036}", connectors=connectors)
            for number in range(500)
        ],
    )


def large_tariff(number: int) -> location_pb.Tariff:
    """One with as many elements and prices as there may be."""
    component = location_pb.PriceComponent(
        dimension=location_pb.PRICE_DIMENSION_ENERGY,
        price_micros=123_456_789,
        vat_basis_points=2_500,
        step_size=1_000,
    )
    restrictions = conditions_pb.Restrictions(
        start_time="22:00", end_time="06:00", min_energy_wh=1_000, max_energy_wh=100_000
    )
    element = location_pb.TariffElement(
        price_components=[component] * 10, restrictions=restrictions
    )
    return location_pb.Tariff(
        country_code="XX",  # no user's: offers do not value it
        party_id=_LARGE,
        tariff_id=f"tariff-{number:06}",
        currency_code="XTS",
        elements=[element] * 50,
    )


async def fill(url: str, port: int) -> None:
    """Rows at the limits: places through the server, the rest straight into the tables."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        upsert: Any = channel.unary_unary(
            "/voucher_grpc.v1.LocationService/UpsertLocations",
            location_pb.UpsertLocationsRequest.SerializeToString,
        )
        for number in range(LARGE_LOCATIONS):
            one = large_location(_location_id(number))
            await upsert(location_pb.UpsertLocationsRequest(locations=[one]))
        for first in range(0, SMALL_LOCATIONS, 500):
            many = [_small_location(first + number) for number in range(500)]
            await upsert(location_pb.UpsertLocationsRequest(locations=many))
        tariffs: Any = channel.unary_unary(
            "/voucher_grpc.v1.LocationService/UpsertTariffs",
            location_pb.UpsertTariffsRequest.SerializeToString,
        )
        for first in range(0, LARGE_TARIFFS, 50):
            some = [large_tariff(first + number) for number in range(50)]
            await tariffs(location_pb.UpsertTariffsRequest(tariffs=some))
    await _fill_tables(url)


def _small_location(number: int) -> location_pb.Location:
    connector = location_pb.Connector(connector_id="1", standard="IEC_62196_T2")
    return location_pb.Location(
        country_code="NO",
        party_id=_SMALL,
        location_id=_location_id(number),
        time_zone="Europe/Oslo",
        name="A place by the road",
        evses=[location_pb.Evse(evse_uid=str(n), connectors=[connector]) for n in range(4)],
    )


async def _fill_tables(url: str) -> None:
    """Retired products with long conditions, and a user with passes and vehicles."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            """
            WITH large AS (
                SELECT 'zz-large-' || lpad(n::text, 4, '0') AS product_id
                FROM generate_series(1, $1::int) n
            ), terms AS (
                SELECT jsonb_set(r.terms, '{conditions}', jsonb_build_object('locations', (
                    SELECT jsonb_agg(jsonb_build_object(
                        'country_code', 'NO', 'party_id', 'OSL',
                        'location_id', lpad(k::text, 36, '0')))
                    FROM generate_series(1, 200) k))) AS terms
                FROM product_revisions r LIMIT 1
            ), product AS (
                INSERT INTO products (product_id, revision, state, etag)
                SELECT product_id, 1, 'RETIRED', 'benchmark' FROM large
            ), stock AS (
                INSERT INTO product_stock (product_id) SELECT product_id FROM large
            )
            INSERT INTO product_revisions (product_id, revision, terms, create_time, created_by)
            SELECT product_id, 1, terms || jsonb_build_object('product_id', product_id), now(),
                'benchmark'
            FROM large, terms
            """.replace("$1", str(LARGE_PRODUCTS))
        )
        await connection.execute(
            """
            INSERT INTO passes (
                user_id, pass_id, request_id, offer_digest, product_id, product_revision,
                vehicle_id, price_micros, currency_code, payment_reference, purchase_time,
                time_zone, start_time, end_time
            )
            SELECT $2, gen_random_uuid(), gen_random_uuid(), sha256(n::text::bytea),
                'zz-large-' || lpad((n % $1 + 1)::text, 4, '0'), 1, '', 1000000, 'EUR',
                'payment-' || n, now(), 'Europe/Oslo', now(), now() + interval '30 days'
            FROM generate_series(1, 1000) n
            """.replace("$1", str(LARGE_PRODUCTS)).replace("$2", f"'{_USER}'")
        )
        await connection.execute(
            """
            INSERT INTO vehicles (vehicle_id, user_id, profile, create_time)
            SELECT 'collected-' || n, $1,
                '{"type": "CAR", "connector_standards": ["IEC_62196_T2"]}', now()
            FROM generate_series(1, 1000) n
            """.replace("$1", f"'{_USER}'")
        )
    finally:
        await connection.close()


@dataclass(frozen=True, slots=True)
class Ask:
    """What the loading process is told: a list, or the end of it."""

    case: Case
    port: int


def loading(pipe: Pipe) -> None:
    """Callers that ask for one list again and again, in a process of their own."""
    uvloop.run(_loading(pipe))


async def _loading(pipe: Pipe) -> None:
    with suppress(EOFError):
        while True:
            asked: Ask = await asyncio.to_thread(pipe.recv)
            ended, sizes = asyncio.Event(), list[int]()
            async with asyncio.TaskGroup() as group:
                for _ in range(CALLERS):
                    group.create_task(_ask(asked, ended, sizes))
                await asyncio.to_thread(pipe.recv)
                ended.set()
            pipe.send(sizes)


async def _ask(asked: Ask, ended: asyncio.Event, sizes: list[int]) -> None:
    own = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{asked.port}", options=own) as channel:
        call: Any = channel.unary_unary(asked.case.path)
        while not ended.is_set():
            sizes.append(len(await call(asked.case.request, timeout=_DEADLINE_S)))


class Other:
    """The caller that should not notice."""

    def __init__(self, port: int, requests: Sequence[bytes], seconds: float) -> None:
        self._port = port
        self._requests = requests
        self._seconds = seconds
        self.failed = 0

    async def run(self) -> dict[str, float]:
        """The p99 of its calls for offers and for health, ms."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            health = health_pb2.HealthCheckRequest().SerializeToString()
            offers, checks = await asyncio.gather(
                self._paced(channel.unary_unary(_OFFERS), self._requests),
                self._paced(channel.unary_unary(_HEALTH), [health]),
            )
        return {"offers_p99_ms": _p99_ms(offers), "health_p99_ms": _p99_ms(checks)}

    async def warm_up(self) -> None:
        """Until offers are answered: the server reads the catalogue with the first one."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            call: Any = channel.unary_unary(_OFFERS)
            answered = 0
            while answered < _WARM_CALLS:
                try:
                    await call(self._requests[0], timeout=_DEADLINE_S)
                    answered += 1
                except grpc.aio.AioRpcError:
                    answered = 0

    async def _paced(self, call: Any, requests: Sequence[bytes]) -> list[float]:
        """How long each took from when it was due, s."""
        took_s: list[float] = []
        began_s = time.perf_counter()

        async def one(number: int, due_s: float) -> None:
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            try:
                await call(requests[number % len(requests)], timeout=_DEADLINE_S)
                took_s.append(time.perf_counter() - due_s)
            except grpc.aio.AioRpcError:
                self.failed += 1

        async with asyncio.TaskGroup() as group:
            for number in range(int(self._seconds * PACE_PER_S)):
                group.create_task(one(number, began_s + number / PACE_PER_S))
        return took_s


def _p99_ms(took_s: Sequence[float]) -> float:
    if not took_s:
        raise RunFailed("none of the other caller's calls went well")
    return sorted(took_s)[int(len(took_s) * 0.99)] * 1000


def watched(pipe: Pipe, url: str) -> None:
    """A server that says, when asked, for how long at most it was kept from its event loop, s."""
    configure_logs("console", "error")
    prepare_process()
    longest_s = 0.0
    run_one = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        nonlocal longest_s
        began_s = time.thread_time()
        run_one(handle)
        longest_s = max(longest_s, time.thread_time() - began_s)

    def answer() -> float:
        nonlocal longest_s
        longest_s, told_s = 0.0, longest_s
        return told_s

    asyncio.Handle._run = timed  # type: ignore[method-assign,assignment]
    asyncio.run(servers.serve(pipe, url, {}, lambda _server, _question: answer()))


def longest_turns(url: str, chosen: Sequence[Case]) -> list[float]:
    """For each case the longest time that two calls keep the event loop in one piece, CPU ms."""

    async def measured(server: Child, port: int) -> list[float]:
        options = [("grpc.max_receive_message_length", -1)]
        target, found = f"127.0.0.1:{port}", []
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            for case in chosen:
                call: Any = channel.unary_unary(case.path)
                await call(case.request, timeout=_DEADLINE_S)
                server.ask("begin")
                for _ in range(2):
                    await call(case.request, timeout=_DEADLINE_S)
                found.append(server.ask("longest") * 1000)
        return found

    with Child("watched", watched, url) as server:
        return asyncio.run(measured(server, server.receive()))


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of a case: medians over the rounds; memory is the server's, MB.

    `longest_turn_ms` is CPU time; `failed` are the other caller's calls that were refused.
    """

    name: str
    pages_per_s: float
    page_bytes: int
    memory_before_mb: float
    memory_peak_mb: float
    memory_after_mb: float
    offers_p99_ms: float
    offers_p99_loaded_ms: float
    health_p99_ms: float
    health_p99_loaded_ms: float
    longest_turn_ms: float
    failed: int


class Bench:
    """A server, and those who call it."""

    def __init__(self, server: Child, load: Child, port: int, seconds: float) -> None:
        self._server = server
        self._load = load
        self._port = port
        requests = Requests(USERS, priced(PRODUCTS)).make("RequestOffers", 500)
        self._other = Other(port, requests, seconds)
        self._seconds = seconds

    def warm_up(self) -> None:
        """Wait until the server and both processes have all they keep."""
        asyncio.run(self._other.warm_up())
        self.measure(cases()[0], 1)

    def measure(self, case: Case, rounds: int, longest_turn_ms: float = 0.0) -> Seen:
        """Rounds without and with the load, in turns."""
        before_mb, failed = memory_mb(self._server.pid), self._other.failed
        calm, loaded, peaks_mb, sizes = [], [], [before_mb], list[int]()
        for _ in range(rounds):
            calm.append(asyncio.run(self._other.run()))
            self._load.send(Ask(case, self._port))
            loaded.append(asyncio.run(self._watched(peaks_mb)))
            sizes += self._load.ask("end")
        time.sleep(3)
        return Seen(
            name=case.name,
            pages_per_s=len(sizes) / rounds / self._seconds,
            page_bytes=max(sizes),
            memory_before_mb=before_mb,
            memory_peak_mb=max(peaks_mb),
            memory_after_mb=memory_mb(self._server.pid),
            offers_p99_ms=median(r["offers_p99_ms"] for r in calm),
            offers_p99_loaded_ms=median(r["offers_p99_ms"] for r in loaded),
            health_p99_ms=median(r["health_p99_ms"] for r in calm),
            health_p99_loaded_ms=median(r["health_p99_ms"] for r in loaded),
            longest_turn_ms=longest_turn_ms,
            failed=self._other.failed - failed,
        )

    async def _watched(self, peaks_mb: list[float]) -> dict[str, float]:
        async def look() -> None:
            while True:
                peaks_mb.append(memory_mb(self._server.pid))
                await asyncio.sleep(0.05)

        looking = asyncio.create_task(look())
        try:
            return await self._other.run()
        finally:
            looking.cancel()


def run(url: str, *, quick: bool, only: str) -> list[Seen]:
    """All cases. Raises RunFailed."""
    seconds, rounds = (2.0, 2) if quick else (4.0, 5)
    asyncio.run(make_world(url, USERS, PRODUCTS))
    with ExitStack() as stack:
        server = stack.enter_context(Child("service", servers.service, url))
        port = server.receive()
        asyncio.run(fill(url, port))
        load = stack.enter_context(Child("load", loading))
        bench = Bench(server, load, port, seconds)
        chosen = [case for case in cases() if only in case.name]
        bench.warm_up()
        turns_ms = longest_turns(url, chosen)
        return [
            bench.measure(case, rounds, turn_ms)
            for case, turn_ms in zip(chosen, turns_ms, strict=True)
        ]


def _show(seen: Sequence[Seen]) -> None:
    table = Table(title=f"lists at their limits, {CALLERS} callers; p99 without -> with them")
    headings = (
        "list",
        "pages/s",
        "page, kB",
        "memory, MB",
        "offers, ms",
        "health, ms",
        "turn, ms",
        "failed",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "list" else "right")
    for one in seen:
        memory = (one.memory_before_mb, one.memory_peak_mb, one.memory_after_mb)
        table.add_row(
            one.name,
            f"{one.pages_per_s:.1f}",
            f"{one.page_bytes / 1000:.0f}",
            " -> ".join(f"{mb:.0f}" for mb in memory),
            f"{one.offers_p99_ms:.1f} -> {one.offers_p99_loaded_ms:.1f}",
            f"{one.health_p99_ms:.1f} -> {one.health_p99_loaded_ms:.1f}",
            f"{one.longest_turn_ms:.1f}",
            str(one.failed),
        )
    Console(width=110).print(table)


def main() -> int:
    """0 if the run could be made."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lists", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds of each")
    parser.add_argument("--only", default="", help="lists with this in their name")
    parser.add_argument("--json", type=Path, default=Path("build/lists.json"), help="where to")
    arguments = parser.parse_args()
    try:
        with throw_away_postgres() as url:
            seen = run(url, quick=arguments.quick, only=arguments.only)
    except RunFailed as error:
        Console(stderr=True).print(f"The run failed: {error}", style="red", markup=False)
        return 1
    results = {"at": datetime.now(UTC).isoformat(), "lists": [asdict(one) for one in seen]}
    write_json(results, arguments.json)
    _show(seen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
