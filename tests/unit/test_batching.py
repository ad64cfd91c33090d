"""Paced batches: who waits together, who hears what, and what is never lost."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from tests.unit.simulated import simulate
from voucher_grpc.errors import Overloaded, Reason, Refusal
from voucher_grpc.runtime.batching import Batcher

LONG_S, NEVER = 0.05, 10_000


class Flusher:
    """Doubles numbers and remembers its batches; holds them back while `breaker` is shut."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.breaker = asyncio.Event()
        self.breaker.set()
        self.fail: Exception | None = None

    async def __call__(self, items: Sequence[int]) -> Sequence[int | BaseException]:
        self.batches.append(list(items))
        await self.breaker.wait()
        if self.fail is not None:
            raise self.fail
        return [ValueError(str(n)) if n < 0 else 2 * n for n in items]

    async def until(self, done: Callable[[], bool]) -> None:
        """Let others run until something is so."""
        async with asyncio.timeout(60):
            while not done():  # noqa: ASYNC110
                await asyncio.sleep(0)


def batcher(
    flusher: Flusher, interval_s: float = 0, max_batch: int = NEVER, max_waiting: int = NEVER
) -> Batcher[int, int]:
    return Batcher(
        "test", flusher, interval_s=interval_s, max_batch=max_batch, max_waiting=max_waiting
    )


def passed_s() -> float:
    """Since a simulation began."""
    return asyncio.get_running_loop().time()


def test_an_idle_batcher_flushes_at_once() -> None:
    """Without waiting for the pace."""

    async def run() -> tuple[int, float]:
        return await batcher(Flusher(), interval_s=30).submit(7), passed_s()

    assert (14, 0.0) == simulate(run)


def test_after_a_large_batch_the_pace_gathers() -> None:
    """What arrives within the pace goes together, and not before it has passed."""

    async def run() -> float:
        flusher = Flusher()
        paced = batcher(flusher, interval_s=LONG_S)
        large = list(range(9))
        await asyncio.gather(*(paced.submit(n) for n in large))
        assert 0.0 == passed_s()
        assert [2, 4, 6] == await asyncio.gather(*(paced.submit(n) for n in (1, 2, 3)))
        assert [large, [1, 2, 3]] == flusher.batches
        return passed_s()

    assert LONG_S == pytest.approx(simulate(run))


def test_a_caller_alone_never_waits_for_the_pace() -> None:
    """One after the other, as fast as without batches."""

    async def run() -> float:
        flusher = Flusher()
        paced = batcher(flusher, interval_s=30)
        for n in range(5):
            await paced.submit(n)
        assert [[n] for n in range(5)] == flusher.batches
        return passed_s()

    assert 0.0 == simulate(run)


async def test_what_arrives_during_a_flush_goes_with_the_next() -> None:
    """One flush is under way at a time."""
    flusher = Flusher()
    flusher.breaker.clear()
    plain = batcher(flusher)
    first = asyncio.create_task(plain.submit(1))
    await flusher.until(lambda: flusher.batches == [[1]])
    rest = [asyncio.create_task(plain.submit(n)) for n in (2, 3)]
    await asyncio.sleep(0)
    assert [[1]] == flusher.batches
    flusher.breaker.set()
    assert [2, 4, 6] == await asyncio.gather(first, *rest)
    assert [[1], [2, 3]] == flusher.batches


def test_a_full_batch_does_not_wait_for_the_pace() -> None:
    """And no batch is greater than the bound."""

    async def run() -> float:
        flusher = Flusher()
        bounded = batcher(flusher, interval_s=30, max_batch=2)
        await bounded.submit(0)
        await asyncio.gather(*(bounded.submit(n) for n in (1, 2, 3, 4)))
        assert [[0], [1, 2], [3, 4]] == flusher.batches
        return passed_s()

    assert 0.0 == simulate(run)


async def test_results_reach_their_own_callers() -> None:
    """In any number of batches."""
    bounded = batcher(Flusher(), max_batch=7)
    numbers = list(range(100))
    assert [2 * n for n in numbers] == await asyncio.gather(*(bounded.submit(n) for n in numbers))


async def test_a_full_queue_is_overloaded() -> None:
    """At the bound, with a hint when to try again; those who wait are served."""
    flusher = Flusher()
    flusher.breaker.clear()
    bounded = batcher(flusher, max_waiting=2)
    first = asyncio.create_task(bounded.submit(0))
    await flusher.until(lambda: flusher.batches == [[0]])
    waiting = [asyncio.create_task(bounded.submit(n)) for n in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await bounded.submit(3)
    assert (Reason.OVERLOADED, True) == (refused.value.reason, bool(refused.value.retry_after_s))
    flusher.breaker.set()
    assert [0, 2, 4] == await asyncio.gather(first, *waiting)


def test_who_has_gone_before_the_flush_is_dropped() -> None:
    """The others of the batch are served."""

    async def run() -> None:
        flusher = Flusher()
        paced = batcher(flusher, interval_s=LONG_S)
        await paced.submit(0)
        tasks = [asyncio.create_task(paced.submit(n)) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [[0], [1, 3]] == flusher.batches
        assert (2, 6) == (results[0], results[2])
        assert isinstance(results[1], asyncio.CancelledError)

    simulate(run)


def test_when_all_have_gone_nothing_is_flushed_and_the_next_is_served() -> None:
    """An empty batch is no batch."""

    async def run() -> None:
        flusher = Flusher()
        paced = batcher(flusher, interval_s=LONG_S)
        await paced.submit(0)
        gone = asyncio.create_task(paced.submit(1))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(2 * LONG_S)
        assert 4 == await paced.submit(2)
        assert [[0], [2]] == flusher.batches

    simulate(run)


async def test_who_goes_during_the_flush_does_not_end_the_batch() -> None:
    """A caller's deadline ends its waiting, not the others' purchase."""
    flusher = Flusher()
    flusher.breaker.clear()
    paced = batcher(flusher, interval_s=LONG_S)
    tasks = [asyncio.create_task(paced.submit(n)) for n in (1, 2)]
    await flusher.until(lambda: flusher.batches == [[1, 2]])
    tasks[0].cancel()
    await asyncio.sleep(0)
    flusher.breaker.set()
    assert 4 == await tasks[1]


async def test_an_exception_among_the_results_reaches_only_its_caller() -> None:
    """A poisoned one does not sink its neighbours."""
    plain = batcher(Flusher())
    tasks = [plain.submit(n) for n in (1, -2, 3)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert (2, "-2", 6) == (results[0], str(results[1]), results[2])


async def test_a_failing_flush_reaches_all_and_the_next_batch_is_tried() -> None:
    """No caller waits for ever."""
    flusher = Flusher()
    flusher.fail = OSError("away")
    plain = batcher(flusher)
    failed = await asyncio.gather(*(plain.submit(n) for n in (1, 2)), return_exceptions=True)
    assert ["away", "away"] == [str(error) for error in failed]
    flusher.fail = None
    assert 6 == await plain.submit(3)


async def test_a_flush_that_answers_too_little_leaves_nobody_waiting() -> None:
    """A fault of ours is heard by all, not waited for by some."""

    async def lossy(items: Sequence[int]) -> Sequence[int | BaseException]:
        return list(items)[:-1]

    plain: Batcher[int, int] = Batcher("lossy", lossy, interval_s=0, max_batch=9, max_waiting=9)
    async with asyncio.timeout(60):
        results = await asyncio.gather(*(plain.submit(n) for n in (1, 2)), return_exceptions=True)
    assert all(isinstance(result, Exception) for result in results)


async def test_closing_finishes_what_waits_and_takes_nothing_new() -> None:
    """Then SHUTTING_DOWN, which says to retry elsewhere."""
    flusher = Flusher()
    flusher.breaker.clear()
    paced = batcher(flusher, interval_s=LONG_S, max_batch=2)
    tasks = [asyncio.create_task(paced.submit(n)) for n in range(5)]
    await flusher.until(lambda: bool(flusher.batches))
    closing = asyncio.create_task(paced.close())
    await asyncio.sleep(0)
    with pytest.raises(Refusal) as refused:
        await paced.submit(9)
    assert Reason.SHUTTING_DOWN is refused.value.reason
    flusher.breaker.set()
    await closing
    assert [0, 2, 4, 6, 8] == await asyncio.gather(*tasks)


async def test_the_size_of_each_batch_is_told() -> None:
    """For the metrics."""
    told: list[tuple[str, int]] = []
    plain: Batcher[int, int] = Batcher(
        "named",
        Flusher(),
        interval_s=0,
        max_batch=2,
        max_waiting=9,
        on_batch=lambda name, size: told.append((name, size)),
    )
    await asyncio.gather(*(plain.submit(n) for n in range(3)))
    assert [("named", 2), ("named", 1)] == told
