"""Clients that mean well, while others attack: what they are answered, and when.

Some have been connected for long, some connect for each call, and one asks for health. Each goes on
as soon as it has been answered and a short pause is over.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health_pb2

from benchmarks.load import REQUEST_OFFERS, Requests
from benchmarks.processes import Pipe
from benchmarks.world import Priced

CONNECTED, CONNECTING = 4, 2
DEADLINE_S = 10.0
_PAUSE_S, _CONNECT_PAUSE_S = 0.05, 1.0
_OFFERS = "/voucher_grpc.v1.VoucherService/RequestOffers"
_CHECK = "/grpc.health.v1.Health/Check"
_OWN = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(frozen=True, slots=True)
class Watch:
    """Call the server at a port for so long; the first figures after `lead_s`."""

    port: int
    users: int
    seconds: float
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Served:
    """Seconds that each call took, and how calls ended that were not OK."""

    took_s: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def ok_share(self) -> float:
        """Of all calls."""
        bad = self.failed.total()
        return len(self.took_s) / max(1, len(self.took_s) + bad)

    def quantile_ms(self, share: float) -> float:
        """Of the calls that were OK; those that were not count as the longest."""
        all_s = sorted(self.took_s) + [DEADLINE_S] * self.failed.total()
        return all_s[min(len(all_s) - 1, int(len(all_s) * share))] * 1000 if all_s else 0.0


def bystanders(pipe: Pipe, products: Sequence[Priced]) -> None:
    """The work of their process: a Watch, what was Served by kind of client, and again."""
    uvloop.run(_bystanders(pipe, products))


async def _bystanders(pipe: Pipe, products: Sequence[Priced]) -> None:
    while True:
        wanted: Watch = await asyncio.to_thread(pipe.recv)
        pipe.send(await _calls(wanted, Requests(wanted.users, products)))


async def _calls(wanted: Watch, requests: Requests) -> dict[str, Served]:
    raws = requests.make(REQUEST_OFFERS, 200)
    check = health_pb2.HealthCheckRequest().SerializeToString()
    end_s = time.monotonic() + wanted.seconds
    served = {"connected": Served(), "connecting": Served(), "health": Served()}
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTED):
            group.create_task(_connected(wanted, _OFFERS, raws, served["connected"], end_s))
        for _ in range(CONNECTING):
            group.create_task(_connecting(wanted, raws, served["connecting"], end_s))
        group.create_task(_connected(wanted, _CHECK, [check], served["health"], end_s))
    return served


def _channel(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_OWN)


async def _connected(
    wanted: Watch, path: str, raws: Sequence[bytes], served: Served, end_s: float
) -> None:
    async with _channel(wanted.port) as channel:
        number = 0
        while time.monotonic() < end_s:
            await _one(channel.unary_unary(path), raws[number % len(raws)], wanted, served)
            number += 1
            await asyncio.sleep(_PAUSE_S)


async def _connecting(wanted: Watch, raws: Sequence[bytes], served: Served, end_s: float) -> None:
    number = 0
    while time.monotonic() < end_s:
        async with _channel(wanted.port) as channel:
            await _one(channel.unary_unary(_OFFERS), raws[number % len(raws)], wanted, served)
        number += 1
        await asyncio.sleep(_CONNECT_PAUSE_S)


async def _one(call: Callable[..., Any], raw: bytes, wanted: Watch, served: Served) -> None:
    began_s = time.perf_counter()
    try:
        await call(raw, timeout=DEADLINE_S, metadata=wanted.metadata, wait_for_ready=True)
    except grpc.aio.AioRpcError as error:
        served.failed[error.code().name] += 1
    else:
        served.took_s.append(time.perf_counter() - began_s)
