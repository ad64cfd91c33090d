"""Where the time of a call goes, and under which ids lines are written."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context

from voucher_grpc.runtime.batching import Batcher
from voucher_grpc.telemetry import work
from voucher_grpc.telemetry.logs import with_ids
from voucher_grpc.telemetry.work import Batch, Call

FLUSH_S = 0.02


async def _flush(items: Sequence[int]) -> Sequence[int]:
    current_call = work.current()
    assert current_call is not None
    began_s = time.perf_counter()
    await asyncio.sleep(FLUSH_S)
    current_call.statement("named", "SELECT 1", time.perf_counter() - began_s, None)
    return items


def alone(test: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Run a test in a context of its own, so that its work ends with it."""

    @functools.wraps(test)
    async def run() -> None:
        async def body() -> None:
            await test()

        await asyncio.create_task(body(), context=copy_context())

    return run


def call(request_id: str = "") -> Call:
    """A call that is under way in this context."""
    made = Call(lambda: request_id)
    work.begin(made)
    return made


@alone
async def test_a_call_of_many_batches_has_the_time_of_all_of_them() -> None:
    """And no part twice: what it waited, was flushed and the rest are the whole."""
    current_call = call()
    batcher: Batcher[int, int] = Batcher("test", _flush, interval_s=0, max_batch=2, max_waiting=9)
    began_s = time.perf_counter()
    await asyncio.gather(*(batcher.put(n) for n in range(5)))
    took_s = time.perf_counter() - began_s
    went = current_call.where_time_went(took_s)
    assert (3, 1, 3) == (went["batches"], went["batch_size"], went["statements"])
    assert took_s >= went["flush_s"] >= went["sql_s"] >= 3 * FLUSH_S * 0.9
    assert abs(took_s - went["waited_s"] - went["flush_s"] - went["rest_s"]) < 1e-5


@alone
async def test_the_time_of_a_shared_batch_is_each_callers() -> None:
    """Each of them waited for all of it."""
    batcher: Batcher[int, int] = Batcher("test", _flush, interval_s=0, max_batch=9, max_waiting=9)
    calls = [call() for _ in range(3)]
    coming = []
    for number, one in enumerate(calls):
        work.begin(one)
        coming.append(batcher.put(number))
    await asyncio.gather(*coming)
    went = [one.where_time_went(1.0) for one in calls]
    assert [3, 3, 3] == [w["batch_size"] for w in went]
    assert went[0]["flush_s"] == went[1]["flush_s"] == went[2]["flush_s"] >= FLUSH_S * 0.9


def test_a_request_id_is_made_once_and_only_if_it_is_asked_for() -> None:
    """Most calls log nothing."""
    made: list[str] = []

    def make() -> str:
        made.append("id")
        return f"id-{len(made)}"

    current_call = Call(make)
    current_call.ended("OK", None, 1.0)
    current_call.where_time_went(1.0)
    assert [] == made
    assert ["id-1", "id-1"] == [current_call.request_id, current_call.request_id]


@alone
async def test_a_line_carries_the_ids_of_the_work_under_way() -> None:
    """A call's own; of a batch the first sixteen; none where nobody called."""
    line = {"event": "store_error"}
    calls = [call(f"call-{number}") for number in range(20)]
    work.begin(calls[3])
    assert {**line, "request_id": "call-3"} == with_ids(None, "", dict(line))
    assert {"request_id": "told"} == with_ids(None, "", {"request_id": "told"})
    work.begin(Batch("test", [*calls, None]))
    assert [c.request_id for c in calls[:16]] == with_ids(None, "", dict(line))["request_ids"]
    work.begin(None)
    assert line == with_ids(None, "", dict(line))
