"""`python -m benchmarks.soak [--seconds 600]`: everything at once for a long while: is it flat?

A mixture of all that callers do (offers, purchases, holds, confirmations, cancellations, streams,
readers of events, sessions, bad input, calls that are cancelled, clients that come and go) with a
phase of overload each minute. The server's memory, descriptors, threads and tasks and its
connections to Postgres are looked at each second; a line through those of the calm phases after
a warm-up must not rise by more than a bound. What gRPC itself loses by each call that is given up
(`given_up.py`) is measured on a bare server in the same run, told beside, and taken off. Writes
build/soak.json and a drawing; the exit code is 1 if something grows, or if something is still
held when all have gone.
"""

import argparse
import asyncio
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import linear_regression, mean
from typing import Any

import asyncpg
import grpc
import psutil  # type: ignore[import-untyped]
import uvloop
from google.type.money_pb2 import Money
from rich.console import Console

from benchmarks.drawing import draw_soak
from benchmarks.given_up import cancel_soon, kept_by_call_bytes
from benchmarks.load import Requests
from benchmarks.processes import Child, Pipe, RunFailed, memory_mb
from benchmarks.report import write_json
from benchmarks.world import (
    CURRENCY,
    OFFER_KEY,
    OFFER_KEY_ID,
    Priced,
    make_world,
    place,
    priced,
    user_id,
)
from voucher_grpc.client import CallFailed, Client, call_failed
from voucher_grpc.dev.postgres import throw_away_postgres
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.server.config import read_config
from voucher_grpc.server.lifecycle import running
from voucher_grpc.server.process import prepare_process
from voucher_grpc.telemetry.logs import configure_logs
from voucher_grpc.v1 import tendency_service_pb2, voucher_service_pb2
from voucher_grpc.v1.conditions_pb2 import LocationReference

USERS, PRODUCTS = 2_000, 100
CALLERS = 6
OVERLOAD_EACH_S, OVERLOAD_S, OVERLOAD_CALLERS = 60, 8, 400
_PATH = "/voucher_grpc.v1.VoucherService/"
# What may rise from the warm-up to the end: a share of the mean, or so much.
_BOUNDS = {
    "memory_mb": (0.05, 6.0),
    "descriptors": (0.05, 4.0),
    "threads": (0.05, 2.0),
    "tasks": (0.1, 10.0),
    "database_connections": (0.05, 2.0),
}
# What the callers cancelled themselves, and what their deadlines did.
_CANCELLED = "undecided CANCELLED"
_GIVEN_UP = ("CANCELLED", "DEADLINE_EXCEEDED")
# Still held when all have gone and the streams have ended.
_AT_REST = ("calls", "streams", "offers", "purchases", "event_streams")


def service(pipe: Pipe, url: str) -> None:
    """The server: says its port, then how much it holds, as often as it is asked."""
    configure_logs("console", "error")
    prepare_process()
    uvloop.run(_service(pipe, url))


async def _service(pipe: Pipe, url: str) -> None:
    config = read_config(
        database_url=url,
        listen="127.0.0.1:0",
        metrics_listen="127.0.0.1:0",
        offer_keys=f"{OFFER_KEY_ID}:{OFFER_KEY.hex()}",
        hold_lifetime_s=20,
    )
    async with running(config) as server:
        value = server.metrics.registry.get_sample_value

        def held() -> dict[str, float]:
            found = {"tasks": float(len(asyncio.all_tasks()))}
            for kind in ("calls", "streams"):
                found[kind] = value("voucher_in_flight", {"kind": kind}) or 0.0
            for batch in ("offers", "purchases"):
                found[batch] = value("voucher_waiting", {"batch": batch}) or 0.0
            found["event_streams"] = value("voucher_event_streams") or 0.0
            return found

        pipe.send(server.port)
        with suppress(EOFError):
            while True:
                await asyncio.to_thread(pipe.recv)
                pipe.send(held())


@dataclass(frozen=True, slots=True)
class Load:
    """What the client is told."""

    port: int
    seconds: float


def client(pipe: Pipe, products: Sequence[Priced]) -> None:
    """All callers, in a process of their own; says at the end how calls ended, by kind."""
    configure_logs("console", "error")
    uvloop.run(_client(pipe, products))


async def _client(pipe: Pipe, products: Sequence[Priced]) -> None:
    wanted: Load = await asyncio.to_thread(pipe.recv)
    callers = Callers(wanted, Requests(USERS, products), products)
    await callers.run()
    pipe.send(dict(callers.ended))
    with suppress(EOFError):
        await asyncio.to_thread(pipe.recv)


class Callers:
    """Everything that callers do, each in a loop of its own until the time is over."""

    def __init__(self, wanted: Load, requests: Requests, products: Sequence[Priced]) -> None:
        self._target = f"127.0.0.1:{wanted.port}"
        self._end_s = time.monotonic() + wanted.seconds
        self._began_s = time.monotonic()
        self._requests = requests
        self._products = products
        self._chance = random.Random(1)
        self.ended: Counter[str] = Counter()

    async def run(self) -> None:
        """All of them."""
        works: list[Callable[[Client], Awaitable[None]]] = [
            *[self._buyer] * CALLERS,
            self._stream,
            self._stream,
            *[self._reader] * 3,
            self._recorder,
            self._bad,
            self._undecided,
            self._passing_by,
            self._flood,
        ]
        async with Client(self._target, timeout_s=5.0) as shared, asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(self._again(work, shared))

    async def _again(self, work: Callable[[Client], Awaitable[None]], shared: Client) -> None:
        name = work.__name__.strip("_")
        while time.monotonic() < self._end_s:
            try:
                await work(shared)
                self.ended[f"{name} OK"] += 1
            except (CallFailed, grpc.RpcError) as error:
                failed = error if isinstance(error, CallFailed) else call_failed(error)
                self.ended[f"{name} {failed.reason or failed.code.name}"] += 1
                await asyncio.sleep(failed.retry_after_s or 0.05)

    async def _buyer(self, shared: Client) -> None:
        """Offers, then a purchase or a hold; some are confirmed, some cancelled."""
        user = user_id(self._chance.randrange(USERS))
        at = place(self._chance.randrange(30))
        location = LocationReference(
            country_code=at.country_code, party_id=at.party_id, location_id=at.location_id
        )
        answer = await shared.request_offers(user_id=user, location=location)
        if not answer.offers:
            self.ended["buyer without an offer"] += 1
            return
        reference = f"payment-{uuid.uuid4()}"
        way = self._chance.randrange(4)
        bought = await shared.purchase_pass(
            answer.offers[0], payment_reference=reference if way < 2 else ""
        )
        await shared.get_pass(bought.user_id, bought.pass_id)
        if way == 2:
            await shared.confirm_purchase(bought, payment_reference=reference)
        if way == 3 and self._chance.random() < 0.5:
            await shared.cancel_pass(bought.user_id, bought.pass_id)
        await asyncio.sleep(0.02)

    async def _stream(self, shared: Client) -> None:
        """A gateway: offers for many users on one stream, which it breaks off at times."""

        async def requests() -> Any:
            for number in range(200):
                request = voucher_service_pb2.RequestOffersRequest(
                    user_id=user_id(self._chance.randrange(USERS)), currency_code=CURRENCY
                )
                yield voucher_service_pb2.StreamOffersRequest(tag=str(number), request=request)
                await asyncio.sleep(0.01)

        stream = shared.voucher.StreamOffers(requests())
        for _ in range(self._chance.choice((20, 200))):
            if await stream.read() is grpc.aio.EOF:
                break
        stream.cancel()

    async def _reader(self, shared: Client) -> None:
        """Reads events from where the stream is, for a while, then goes on elsewhere."""
        stream = shared.stream_events(follow=True, timeout_s=self._chance.uniform(2, 15))
        try:
            async for _ in stream:
                pass
        except CallFailed as failed:
            if failed.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise

    async def _recorder(self, shared: Client) -> None:
        """A charging station's sessions of a day."""
        start = datetime.now(UTC) - timedelta(hours=self._chance.uniform(2, 2_000))
        at = place(self._chance.randrange(30))
        sessions = [
            tendency_service_pb2.ChargingSession(
                session_id=str(uuid.uuid4()),
                user_id=user_id(self._chance.randrange(USERS)),
                location=LocationReference(
                    country_code=at.country_code, party_id=at.party_id, location_id=at.location_id
                ),
                start_time=timestamp(start),
                end_time=timestamp(start + timedelta(hours=1)),
                energy_wh=self._chance.randrange(5_000, 40_000),
            )
            for _ in range(20)
        ]
        await shared.record_sessions([sessions], timeout_s=10.0)
        await asyncio.sleep(0.5)

    async def _bad(self, shared: Client) -> None:
        """Bytes that are no message, offers that are none, users that nobody is."""
        async with _own_connection(self._target) as channel:
            for method in ("RequestOffers", "PurchasePass", "StreamOffers"):
                call: Any = channel.unary_unary(_PATH + method)
                with suppress(grpc.aio.AioRpcError):
                    await call(self._chance.randbytes(200), timeout=5)
        price = Money(currency_code=CURRENCY, units=1)
        with suppress(CallFailed):
            await shared.purchase_pass("no-offer", payment_reference="x", amount=price)
        await asyncio.sleep(0.05)

    async def _undecided(self, shared: Client) -> None:
        """Calls that are cancelled at any moment."""
        purchases = self._requests.make("PurchasePass", 20)
        async with _own_connection(self._target) as channel:
            call: Any = channel.unary_unary(_PATH + "PurchasePass")
            calls = [call(raw, timeout=5) for raw in purchases]
            self.ended[_CANCELLED] += await cancel_soon(calls, self._chance)
        await asyncio.sleep(0.05)

    async def _passing_by(self, shared: Client) -> None:
        """Vehicles with a connection of their own each, for one call."""
        [raw] = self._requests.make("RequestOffers", 1)
        async with _own_connection(self._target) as channel:
            call: Any = channel.unary_unary(_PATH + "RequestOffers")
            with suppress(grpc.aio.AioRpcError):
                await call(raw, timeout=5)
        await asyncio.sleep(0.02)

    async def _flood(self, shared: Client) -> None:
        """For some seconds of each minute far more than can be done."""
        if in_overload(time.monotonic() - self._began_s):
            await asyncio.gather(*(self._impatient(shared) for _ in range(OVERLOAD_CALLERS)))
        await asyncio.sleep(0.2)

    async def _impatient(self, shared: Client) -> None:
        user = user_id(self._chance.randrange(USERS))
        request = voucher_service_pb2.RequestOffersRequest(user_id=user, currency_code=CURRENCY)
        try:
            await shared.call(shared.voucher.RequestOffers, request, 1.0)
            self.ended["impatient OK"] += 1
        except CallFailed as failed:
            self.ended[f"impatient {failed.reason or failed.code.name}"] += 1


def _own_connection(target: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(target, options=(("grpc.use_local_subchannel_pool", 1),))


def in_overload(at_s: float) -> bool:
    """Whether it is the time of overload."""
    return at_s % OVERLOAD_EACH_S > OVERLOAD_EACH_S - OVERLOAD_S


async def _database_connections(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    finally:
        await connection.close()


def _sample(began_s: float, server: Child, url: str) -> dict[str, float]:
    process = psutil.Process(server.pid)
    held: dict[str, float] = server.ask("held")
    at_s = time.monotonic() - began_s
    return {
        "at_s": round(at_s, 1),
        # What a phase of overload has left behind has some seconds to go.
        "calm": float(not in_overload(at_s) and not in_overload(at_s - 10)),
        "memory_mb": round(memory_mb(server.pid), 1),
        "descriptors": float(process.num_fds()),
        "threads": float(process.num_threads()),
        "database_connections": float(asyncio.run(_database_connections(url))),
        **held,
    }


def judge(
    samples: Sequence[dict[str, float]], warm_up_s: float, lost_mb_per_s: float
) -> dict[str, Any]:
    """How much each figure rose after the warm-up, by a line through the calm samples.

    `lost_mb_per_s` is what the transport loses of the memory.
    """
    seen = [s for s in samples if s["calm"] and s["at_s"] >= warm_up_s]
    times = [s["at_s"] for s in seen]
    found: dict[str, Any] = {}
    for name, (share, least) in _BOUNDS.items():
        values = [s[name] for s in seen]
        rise = linear_regression(times, values).slope * (times[-1] - times[0])
        transport = lost_mb_per_s * (times[-1] - times[0]) if name == "memory_mb" else 0.0
        bound = max(least, share * mean(values))
        found[name] = {
            "mean": round(mean(values), 1),
            "rise": round(rise, 2),
            "of_transport": round(transport, 2),
            "bound": round(bound, 2),
            "flat": rise - transport <= bound,
        }
    return found


def soak(url: str, seconds: float, console: Console) -> dict[str, Any]:
    """Run it. Raises RunFailed."""
    with ExitStack() as stack:
        server = stack.enter_context(Child("server", service, url))
        port = server.receive()
        callers = stack.enter_context(Child("callers", client, priced(PRODUCTS)))
        callers.send(Load(port, seconds))
        began_s = time.monotonic()
        samples = []
        while time.monotonic() - began_s < seconds:
            samples.append(_sample(began_s, server, url))
            time.sleep(1)
        ended = callers.receive()
        callers.send("go")
        time.sleep(5)
        rest = _sample(began_s, server, url)
    kept_bytes = kept_by_call_bytes()
    given_up = sum(count for name, count in ended.items() if name.endswith(_GIVEN_UP))
    console.print(f"gRPC keeps {kept_bytes} bytes of each of {given_up} calls given up")
    judged = judge(samples, max(30.0, 0.2 * seconds), kept_bytes * given_up / seconds / 1e6)
    left = {name: rest[name] for name in _AT_REST if rest[name]}
    for name, figures in judged.items():
        console.print(f"{name:22} {figures}", highlight=False)
    console.print(f"ended: {ended}\nat rest: {rest}", highlight=False)
    return {
        "seconds": seconds,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "flat": all(figures["flat"] for figures in judged.values()) and not left,
        "figures": judged,
        "still_held": left,
        "given_up": {"calls": given_up, "kept_by_grpc_bytes": kept_bytes},
        "ended": ended,
        "samples": samples,
    }


def main() -> int:
    """0 if all stayed flat."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--json", type=Path, default=Path("build/soak.json"))
    arguments = parser.parse_args()
    console = Console(stderr=True, width=150)
    try:
        with throw_away_postgres() as url:
            asyncio.run(make_world(url, USERS, PRODUCTS))
            results = soak(url, arguments.seconds, console)
    except RunFailed as error:
        console.print(f"The run failed: {error}", style="red", markup=False)
        return 1
    write_json(results, arguments.json)
    draw_soak(results["samples"], tuple(_BOUNDS), arguments.json.with_suffix(".png"))
    console.print("flat" if results["flat"] else "NOT flat")
    return 0 if results["flat"] else 1


if __name__ == "__main__":
    sys.exit(main())
