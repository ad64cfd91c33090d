"""The client of `overload`: more calls than a server can answer, in a process of its own.

Each call has a deadline of one second, from when it was due. A call that is refused counts
as not OK; in a closed loop its caller waits as RetryInfo says and tries the same again.
"""

import asyncio
import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import uvloop

from benchmarks.load import CHANNELS, Requests
from benchmarks.processes import Pipe, RunFailed
from benchmarks.world import Priced
from voucher_grpc.client import call_failed

DEADLINE_S = 1.0
# Before anything is counted, so that each point shows how it goes on, not how it begins.
LEAD_S = 1.0
_PATH = "/voucher_grpc.v1.VoucherService/"
_TICK_S = 0.001


@dataclass(frozen=True, slots=True)
class Load:
    """`callers` in a closed loop, or `rate_per_s` in an open one."""

    port: int
    users: int
    rpc: str
    seconds: float
    budget: int
    callers: int = 0
    rate_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of the calls that ended in the counted time.

    `unsent` were due, but the client itself came too late; `dropped` were cancelled by the
    transport, which does so when too many wait to be taken. Rates are by second.
    """

    offered_per_s: float
    goodput_per_s: float
    refused_per_s: float
    late_per_s: float
    dropped_per_s: float
    unsent_per_s: float
    ok_p50_ms: float
    ok_p99_ms: float
    refusal_p50_ms: float
    refusal_p99_ms: float
    client_cpu: float
    ok_in_all: int


@dataclass(slots=True)
class _Book:
    from_s: float
    until_s: float
    ok_s: list[float] = field(default_factory=list)
    refusals_s: list[float] = field(default_factory=list)
    late: int = 0
    dropped: int = 0
    unsent: int = 0
    ok_in_all: int = 0

    def counts(self) -> bool:
        return self.from_s <= time.perf_counter() < self.until_s


def client(pipe: Pipe, products: Sequence[Priced]) -> None:
    """The work of the client's process: a Load, "go", what was Seen, and again."""
    uvloop.run(_client(pipe, products))


async def _client(pipe: Pipe, products: Sequence[Priced]) -> None:
    while True:
        wanted: Load = await asyncio.to_thread(pipe.recv)
        requests = Requests(wanted.users, products)
        prepared = requests.make(wanted.rpc, wanted.budget)
        gc.collect()
        gc.freeze()
        async with AsyncExitStack() as stack:
            calls: list[Any] = [
                (await _channel(stack, wanted.port)).unary_unary(_PATH + wanted.rpc)
                for _ in range(CHANNELS)
            ]
            pipe.send("ready")
            await asyncio.to_thread(pipe.recv)
            pipe.send(await _offer(wanted, calls, iter(prepared)))
        gc.unfreeze()


async def _channel(stack: AsyncExitStack, port: int) -> grpc.aio.Channel:
    local = (("grpc.use_local_subchannel_pool", 1),)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=local)
    await stack.enter_async_context(channel)
    await channel.channel_ready()
    return channel


async def _offer(wanted: Load, calls: Sequence[Any], prepared: Iterator[bytes]) -> Seen:
    cpu_s, began_s = time.process_time(), time.perf_counter()
    book = _Book(began_s + LEAD_S, began_s + LEAD_S + wanted.seconds)
    way = _open if wanted.rate_per_s else _closed
    try:
        await way(wanted, calls, prepared, book)
    except* RunFailed as failed:
        raise RunFailed(f"{failed.exceptions[0]}") from None
    took_s = time.perf_counter() - began_s
    ended = len(book.ok_s) + len(book.refusals_s) + book.late + book.unsent + book.dropped
    offered_per_s = wanted.rate_per_s or ended / wanted.seconds
    return Seen(
        offered_per_s=offered_per_s,
        goodput_per_s=len(book.ok_s) / wanted.seconds,
        refused_per_s=len(book.refusals_s) / wanted.seconds,
        late_per_s=book.late / wanted.seconds,
        dropped_per_s=book.dropped / wanted.seconds,
        unsent_per_s=book.unsent / wanted.seconds,
        ok_p50_ms=_quantile_ms(book.ok_s, 0.5),
        ok_p99_ms=_quantile_ms(book.ok_s, 0.99),
        refusal_p50_ms=_quantile_ms(book.refusals_s, 0.5),
        refusal_p99_ms=_quantile_ms(book.refusals_s, 0.99),
        client_cpu=(time.process_time() - cpu_s) / took_s,
        ok_in_all=book.ok_in_all,
    )


def _quantile_ms(times_s: list[float], share: float) -> float:
    return sorted(times_s)[int(len(times_s) * share)] * 1000 if times_s else 0.0


async def _one(call: Any, raw: bytes, due_s: float, book: _Book) -> float | None:
    """Seconds to wait if the call was refused, None if it was not. Raises RunFailed if it
    failed otherwise than by refusal or lateness."""
    clock = time.perf_counter
    timeout_s = due_s + DEADLINE_S - clock()
    if timeout_s <= 0:
        book.unsent += book.counts()
        return None
    try:
        await call(raw, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        return _failed(error, clock() - due_s, book)
    took_s = clock() - due_s
    book.ok_in_all += 1
    if took_s > DEADLINE_S:
        book.late += book.counts()
    elif book.counts():
        book.ok_s.append(took_s)
    return None


def _failed(error: grpc.aio.AioRpcError, took_s: float, book: _Book) -> float | None:
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        book.late += book.counts()
        return None
    if error.code() is grpc.StatusCode.CANCELLED:
        book.dropped += book.counts()
        return None
    failed = call_failed(error)
    if failed.retry_after_s is None or failed.reason != "OVERLOADED":
        raise RunFailed(f"a call was neither OK nor refused nor late: {failed}") from error
    if book.counts():
        book.refusals_s.append(took_s)
    return failed.retry_after_s


async def _closed(
    _wanted: Load, calls: Sequence[Any], prepared: Iterator[bytes], book: _Book
) -> None:
    clock = time.perf_counter

    async def caller(call: Any) -> None:
        for raw in prepared:
            wait_s: float | None = 0.0
            while wait_s is not None:
                if clock() >= book.until_s:
                    return
                wait_s = await _one(call, raw, clock(), book)
                if wait_s is not None:
                    await asyncio.sleep(min(wait_s, max(0.0, book.until_s - clock())))
        raise RunFailed("the client ran out of requests")

    async with asyncio.TaskGroup() as group:
        for number in range(_wanted.callers):
            group.create_task(caller(calls[number % len(calls)]))


async def _open(wanted: Load, calls: Sequence[Any], prepared: Iterator[bytes], book: _Book) -> None:
    """Calls are due on a grid of ticks, which is as fine as the loop's timer."""
    clock: Callable[[], float] = time.perf_counter
    began_s = clock()
    sent, total = 0, int(wanted.rate_per_s * (LEAD_S + wanted.seconds))
    async with asyncio.TaskGroup() as group:
        while sent < total:
            tick_s = int((clock() - began_s) / _TICK_S) * _TICK_S
            for _ in range(sent, min(total, int(tick_s * wanted.rate_per_s))):
                ticks = math.ceil((sent + 1) / wanted.rate_per_s / _TICK_S)
                due_s = began_s + ticks * _TICK_S
                group.create_task(_one(calls[sent % len(calls)], next(prepared), due_s, book))
                sent += 1
            await asyncio.sleep(max(0.0, began_s + tick_s + _TICK_S - clock()))
