"""Who is let in: nobody is refused in calm, nobody waits in vain under load."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.simulated import (
    Outcome,
    Store,
    burst,
    call,
    closed_loop,
    open_loop,
    simulate,
)
from voucher_grpc.errors import Overloaded
from voucher_grpc.runtime.admission import (
    CALM_S,
    MAX_RETRY_S,
    MIN_RETRY_S,
    PATIENCE_S,
    SHARE,
    Admission,
    FlushTimes,
)

SECONDS = 6
# Slow by the row, and by row and batch.
STORES = [(0.008, 0.005), (0.1, 0.003)]
batches = st.lists(st.tuples(st.integers(1, 256), st.floats(0.0001, 20)), min_size=1, max_size=40)


def capacity(store: Store) -> float:
    """Items a second in batches of a quarter of a second."""
    size = min(256.0, (max(0.25, 3 * store.fixed_s) - store.fixed_s) / store.item_s)
    return size / (store.fixed_s + size * store.item_s)


@given(batches, st.integers(1, 256))
def test_a_forecast_is_never_negative_and_grows_with_the_batch(
    seen: list[tuple[int, float]], size: int
) -> None:
    """Whatever was measured: a clock may jump, a batch hang."""
    times = FlushTimes()
    for items, took_s in seen:
        times.add(items, took_s)
    assert 0 <= times.expected_s(size) <= times.expected_s(size + 1)
    assert 1 <= times.largest(256) <= 256


@given(st.floats(0.001, 0.5), st.floats(0.0001, 0.01), st.lists(st.integers(1, 256), min_size=5))
def test_what_a_batch_takes_is_learned_where_sizes_differ(
    fixed_s: float, item_s: float, sizes: list[int]
) -> None:
    """Within a fifth, from batches as they come; the last ones count most."""
    times = FlushTimes()
    for size in [1, 60, 120, *sizes, 20, 200, 90, 10]:
        times.add(size, fixed_s + item_s * size)
    expected_s = fixed_s + item_s * 100
    assert times.expected_s(100) == pytest.approx(expected_s, rel=0.2)


@given(batches, st.integers(0, 4096), st.floats(0, 1e6))
def test_the_refused_are_told_a_time_within_bounds(
    seen: list[tuple[int, float]], refused: int, chance: float
) -> None:
    """However many they are, and however long that goes on."""
    admission = Admission(256, lambda: chance % 1)
    now_s = 0.0
    for size, took_s in seen:
        admission.began(size, now_s)
        now_s += took_s
        admission.ended(now_s, answered=True)
        for _ in range(refused % 50):
            assert MIN_RETRY_S <= admission.retry_after_s() <= MAX_RETRY_S


@given(batches, st.floats(0.0001, 1e5), st.integers(0, 1_000))
def test_where_nothing_waits_and_nothing_runs_one_is_always_let_in(
    seen: list[tuple[int, float]], remaining_s: float, pause_s: int
) -> None:
    """Else a slow hour would be followed by an hour in which nobody is asked."""
    admission, now_s = Admission(256), 0.0
    for size, took_s in seen:
        admission.began(size, now_s)
        now_s += took_s
        admission.ended(now_s, answered=True)
    now_s += pause_s
    assert admission.admits(0, remaining_s, now_s, now_s)


@given(st.lists(st.tuples(st.integers(1, 256), st.floats(0.0001, CALM_S * 0.99)), min_size=1))
def test_in_calm_nobody_is_refused(seen: list[tuple[int, float]]) -> None:
    """Quick batches, however many call at once and however little time they have."""
    admission, now_s = Admission(256), 0.0
    for size, took_s in seen:
        admission.began(size, now_s)
        now_s += took_s
        admission.ended(now_s, answered=True)
        assert admission.admits(4_000, 0.001, now_s, now_s)


def test_who_would_be_answered_too_late_is_refused() -> None:
    """Where batches of 50 take half a second, there are two seconds before the two-hundredth."""
    admission, now_s = Admission(256), 0.0
    for size in (40, 50, 60, 50):
        admission.began(size, now_s)
        now_s += size * 0.01
        admission.ended(now_s, answered=True)
    assert not admission.admits(200, 2.0, now_s, now_s)
    assert admission.admits(200, 4.0, now_s, now_s)
    assert admission.admits(20, 1.0, now_s, now_s)


def test_a_caller_with_all_the_time_in_the_world_waits_no_longer_than_others() -> None:
    """A queue of minutes would keep everybody else out."""
    admission = Admission(256)
    admission.began(100, 0.0)
    admission.ended(1.0, answered=True)
    many = int(PATIENCE_S * SHARE / 0.01) + 200
    assert not admission.admits(many, 1e9, 1.0, 1.0)


def test_a_batch_that_hangs_is_not_believed_to_end_soon() -> None:
    """What is late is thought to be late by as much again."""
    admission = Admission(256)
    for second in range(5):
        admission.began(10, second)
        admission.ended(second + 0.02, answered=True)
    admission.began(10, 10.0)
    assert admission.admits(5, 1.0, 10.3, 10.3)
    assert not admission.admits(5, 1.0, 11.0, 11.0)


def test_a_batch_that_failed_says_nothing_of_the_next() -> None:
    """The database was away for ten seconds; those who come after are served."""
    admission = Admission(256)
    for second in range(5):
        admission.began(10, second)
        admission.ended(second + 0.02, answered=True)
    admission.began(10, 10.0)
    admission.ended(20.0, answered=False)
    assert admission.admits(100, 1.0, 20.0, 20.0)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_what_is_taken_is_answered_and_the_rest_hears_so(
    store: tuple[float, float], factor: int, noise: float
) -> None:
    """At ten times what the database can do it does as much as at once, and few are late."""
    slow = Store(*store, noise=noise)
    outcome = simulate(lambda: open_loop(slow.batcher(), capacity(slow) * factor, SECONDS))
    assert len(outcome.ok_s) >= 0.85 * capacity(slow) * SECONDS
    # It has to learn first; and what came all at once at the beginning is late.
    assert outcome.late <= 0.1 * len(outcome.ok_s) + capacity(slow) * factor * 0.3
    if factor >= 2:
        refused_s = sorted(outcome.refused_s)
        assert refused_s[len(refused_s) * 9 // 10] < 0.01


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("callers", [1, 4, 12])
def test_the_refused_come_back_when_there_is_room(store: tuple[float, float], callers: int) -> None:
    """In a closed loop the times to retry neither flood the door nor leave the room empty."""
    slow = Store(*store, noise=0.2)
    count = int(capacity(slow) * 0.4) * callers
    outcome = simulate(lambda: closed_loop(slow.batcher(), count, SECONDS))
    assert len(outcome.ok_s) >= 0.85 * capacity(slow) * SECONDS
    assert len(outcome.refused_s) <= 4 * len(outcome.ok_s)


def test_work_of_callers_who_have_gone_is_not_done() -> None:
    """Under four times the load less than a twentieth of what is done is for nobody."""
    slow = Store(0.008, 0.005, noise=0.2)
    outcome = simulate(lambda: open_loop(slow.batcher(), 4 * capacity(slow), SECONDS))
    assert slow.done - len(outcome.ok_s) <= 0.05 * slow.done


@pytest.mark.parametrize("store", [(0.004, 0.0002), (0.05, 0.0005)])
def test_after_a_pause_a_burst_is_taken_whole(store: tuple[float, float]) -> None:
    """Some hundred vehicles that start at once are not an overload."""
    healthy = Store(*store)
    outcome = simulate(lambda: burst(healthy.batcher(), [1, 1, 1, 300, 1, 300, 500]))
    assert (1 * 4 + 300 * 2 + 500, 0, 0) == (
        len(outcome.ok_s),
        len(outcome.refused_s),
        outcome.late,
    )


def test_a_stall_is_survived_by_all_who_can_wait() -> None:
    """A database that hangs for two seconds: callers with ten seconds are all answered."""
    store, outcome = Store(0.004, 0.0005), Outcome()

    async def run() -> None:
        batcher = store.batcher()
        async with asyncio.TaskGroup() as group:
            for number in range(4_000):
                if number == 1_000:
                    store.fixed_s = 2.0
                    group.create_task(call(batcher, 10.0, outcome))
                    await asyncio.sleep(0)
                    await asyncio.sleep(0.01)
                    store.fixed_s = 0.004
                group.create_task(call(batcher, 10.0, outcome))
                await asyncio.sleep(0.002)

    simulate(run)
    assert (4_001, 0, 0) == (len(outcome.ok_s), len(outcome.refused_s), outcome.late)


def test_the_bound_of_the_queue_holds_without_a_forecast() -> None:
    """Nothing is known yet; memory is bounded all the same."""
    store = Store(5.0, 0.0)

    async def run() -> int:
        batcher = store.batcher(max_waiting=50)
        calls = [asyncio.create_task(batcher.submit(n, 60.0)) for n in range(100)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        return sum(isinstance(result, Overloaded) for result in results)

    assert 50 == simulate(run)


def test_who_goes_lets_go_of_the_place_in_the_queue_at_once() -> None:
    """A thousand who cancel in turn do not fill a queue of ten, and nothing is done for them."""
    store = Store(5.0, 0.0)

    async def run() -> tuple[int, int]:
        gone: list[str] = []
        batcher = store.batcher(max_waiting=10, on_shed=lambda _name, why: gone.append(why))
        first = asyncio.create_task(batcher.submit(0))
        await asyncio.sleep(0.1)
        for number in range(1_000):
            task = asyncio.create_task(batcher.submit(number))
            future = batcher.put(number)
            await asyncio.sleep(0)
            task.cancel()
            future.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        waiting = batcher.waiting
        await first
        assert 2_000 == gone.count("gone")
        return waiting, store.done

    assert (0, 1) == simulate(run)
