"""Before a stop calls are held until all that have arrived are taken."""

import asyncio

from tests.unit.simulated import simulate
from voucher_grpc.edge.rpc.drain_barrier import DrainBarrier


async def test_an_entrance_lets_calls_through() -> None:
    """At once, unless it is held; and again after it was."""
    drain_barrier = DrainBarrier()
    await asyncio.wait_for(drain_barrier.enter(), 60)
    await drain_barrier.hold()
    drain_barrier.open()
    await asyncio.wait_for(drain_barrier.enter(), 60)


async def test_a_held_entrance_lets_nobody_through_before_it_opens() -> None:
    """What comes in meanwhile waits, and all of it goes on together."""
    drain_barrier = DrainBarrier()
    holding = asyncio.create_task(drain_barrier.hold())
    await asyncio.sleep(0)
    calls = [asyncio.create_task(drain_barrier.enter()) for _ in range(3)]
    await holding
    assert [False] * 3 == [call.done() for call in calls]
    drain_barrier.open()
    await asyncio.wait_for(asyncio.gather(*calls), 60)


def test_holding_waits_for_those_that_still_come() -> None:
    """A call that is taken while the entrance is held was in the queue, and more may be."""

    async def run() -> None:
        drain_barrier = DrainBarrier()
        holding = asyncio.create_task(drain_barrier.hold())
        await asyncio.sleep(0)
        calls = []
        for _ in range(20):
            calls.append(asyncio.create_task(drain_barrier.enter()))
            await asyncio.sleep(0.004)
            assert not holding.done()
        await holding
        drain_barrier.open()
        await asyncio.gather(*calls)

    simulate(run)


async def test_holding_ends_though_calls_never_cease() -> None:
    """A stop is not put off for ever by a busy hour."""
    drain_barrier = DrainBarrier()
    holding = asyncio.create_task(drain_barrier.hold())
    calls = []
    async with asyncio.timeout(60):
        while not holding.done():
            calls.append(asyncio.create_task(drain_barrier.enter()))
            await asyncio.sleep(0)
    drain_barrier.open()
    await asyncio.gather(*calls)
