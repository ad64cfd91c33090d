"""A batcher under load in simulated time: seconds pass in an instant, the same each time.

The event loop is a real one, and the batcher is the real one; only the clock jumps to whatever
is due next.
"""

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.runtime.batching import Batcher

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Does not wait, but lets the time pass for which it should have waited."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """What is ready now."""
        self.passed_s += timeout or 0.0
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps."""

    def __init__(self) -> None:
        self._jumping = _Selector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since the loop began."""
        return self._jumping.passed_s


def simulate(main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine in simulated time."""

    random.seed(3)  # the spread of times to retry

    async def run() -> T:
        return await main()

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(run())


@dataclass
class Store:
    """A slow database: a flush takes so much for itself and for each item, give or take."""

    fixed_s: float
    item_s: float
    noise: float = 0.0
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    done: int = 0
    batches: list[int] = field(default_factory=list)

    async def __call__(self, items: Sequence[int]) -> Sequence[int | BaseException]:
        """Take the time, answer each."""
        self.batches.append(len(items))
        factor = 1 + self.noise * self.chance.uniform(-1, 1)
        await asyncio.sleep((self.fixed_s + self.item_s * len(items)) * factor)
        self.done += len(items)
        return items

    def batcher(self, **changes: Any) -> Batcher[int, int]:
        """A batcher before it."""
        settings = {"interval_s": 0.004, "max_batch": 256, "max_waiting": 4096, **changes}
        return Batcher("simulated", self, **settings)


@dataclass
class Outcome:
    """What became of callers: seconds until an answer in time, until a refusal; the rest late."""

    ok_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    retries_s: list[float] = field(default_factory=list)
    late: int = 0


async def call(
    batcher: Batcher[int, int], deadline_s: float | None, outcome: Outcome
) -> float | None:
    """One caller, as the service has it: cancelled at its deadline. When to retry, if refused."""
    began_s = asyncio.get_running_loop().time()

    def took_s() -> float:
        return asyncio.get_running_loop().time() - began_s

    try:
        async with asyncio.timeout(deadline_s):
            await batcher.submit(0, deadline_s)
    except TimeoutError:
        outcome.late += 1
    except Refusal as refusal:
        if refusal.reason is not Reason.OVERLOADED or refusal.retry_after_s is None:
            raise
        outcome.refused_s.append(took_s())
        outcome.retries_s.append(refusal.retry_after_s)
        return refusal.retry_after_s
    else:
        outcome.ok_s.append(took_s())
    return None


async def open_loop(
    batcher: Batcher[int, int], rate_per_s: float, seconds: float, deadline_s: float | None = 1.0
) -> Outcome:
    """Callers at a rate, at random moments."""
    outcome, chance = Outcome(), random.Random(2)
    loop = asyncio.get_running_loop()
    end_s = loop.time() + seconds
    async with asyncio.TaskGroup() as group:
        while loop.time() < end_s:
            group.create_task(call(batcher, deadline_s, outcome))
            await asyncio.sleep(chance.expovariate(rate_per_s))
    return outcome


async def closed_loop(
    batcher: Batcher[int, int], callers: int, seconds: float, deadline_s: float = 1.0
) -> Outcome:
    """Callers one call after the other; who is refused waits as it was told."""
    outcome, loop = Outcome(), asyncio.get_running_loop()
    end_s = loop.time() + seconds

    async def caller() -> None:
        while loop.time() < end_s:
            retry_s = await call(batcher, deadline_s, outcome)
            if retry_s is not None:
                await asyncio.sleep(retry_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return outcome


async def burst(
    batcher: Batcher[int, int], sizes: Iterable[int], deadline_s: float | None = 1.0
) -> Outcome:
    """So many callers at once, then after a pause so many again."""
    outcome = Outcome()
    for size in sizes:
        async with asyncio.TaskGroup() as group:
            for _ in range(size):
                group.create_task(call(batcher, deadline_s, outcome))
        await asyncio.sleep(3)
    return outcome
