"""The figures by which calls are admitted, computed another way or written out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.runtime.admission import CALM_S, MAX_RETRY_S, MIN_RETRY_S, Admission, FlushTimes
from voucher_grpc.runtime.batching import Batcher


def _after(*batches: tuple[int, float], chance: float = 0.5) -> tuple[Admission, float]:
    """After batches of so many items that took so long, one after the other; and the time."""
    admission, now_s = Admission(256, lambda: chance), 0.0
    for size, took_s in batches:
        admission.began(size, now_s)
        now_s += took_s
        admission.ended(now_s, answered=True)
    return admission, now_s


@given(st.lists(st.tuples(st.integers(1, 256), st.floats(0.001, 20)), min_size=1, max_size=12))
def test_the_forecast_is_a_weighted_line_drawn_to_what_one_size_says(
    seen: list[tuple[int, float]],
) -> None:
    """By moments about the mean, not by sums of squares: a wrong sign or factor shows."""
    times = FlushTimes()
    for size, took_s in seen:
        times.add(size, took_s)
    weights = [0.85**age for age in reversed(range(len(seen)))]

    def mean(values: list[float]) -> float:
        return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)

    size_mean, took_mean_s = mean([size for size, _ in seen]), mean([took for _, took in seen])
    variance = mean([(size - size_mean) ** 2 for size, _ in seen])
    covariance = mean([(size - size_mean) * (took - took_mean_s) for size, took in seen])
    alike_s = took_mean_s / size_mean if size_mean >= 8 else 0.0
    pull = size_mean**2 / 100
    slope_s = (covariance + pull * alike_s) / (variance + pull)
    item_s = min(max(slope_s, 0.0), took_mean_s / size_mean)
    assert times.item_s == pytest.approx(item_s, abs=1e-9)
    assert times.fixed_s == pytest.approx(took_mean_s - item_s * size_mean, abs=1e-7)
    assert times.expected_s(7) == pytest.approx(times.fixed_s + 7 * times.item_s)


@pytest.mark.parametrize(
    ("batches", "largest"),
    [
        ([], 256),
        ([(10, 0.01)], 250),  # a millisecond for each: as many as fit into a quarter of a second
        ([(10, 1.0)], 2),  # a tenth of a second for each
        ([(10, 10.0)], 1),  # one takes too long, and goes all the same
        ([(1, 1.0)], 256),  # all for itself: however many, it takes as long
    ],
)
def test_a_batch_is_as_large_as_fits_into_a_quarter_of_a_second(
    batches: list[tuple[int, float]], largest: int
) -> None:
    """Who comes just after it has begun waits for two of them."""
    admission, _ = _after(*batches)
    assert largest == admission.largest_batch()


def test_a_batch_that_has_a_long_start_may_last_three_times_that() -> None:
    """Else most of the time would go into starting."""
    times = FlushTimes()
    for size in [10, 100] * 30:
        times.add(size, 0.5 + size * 0.01)
    within_s = 2 * times.fixed_s
    assert times.fixed_s > 0.125
    assert int(within_s / times.item_s) == times.largest(256)


def test_calm_ends_with_a_long_batch_or_a_long_wait_and_returns() -> None:
    """Each of the three signs alone ends it; a slow batch of long ago does not count."""
    admission, now_s = _after((1, 0.05))
    assert admission.calm(now_s, now_s)
    assert admission.calm(now_s + 0.09, now_s)
    assert not admission.calm(now_s + 0.2, now_s)

    admission.began(1, now_s)
    assert admission.calm(now_s + 0.09, now_s + 0.09)
    assert not admission.calm(now_s + 0.11, now_s + 0.11)
    admission.ended(now_s + 2 * CALM_S, answered=True)

    now_s += 2 * CALM_S
    assert not admission.calm(now_s, now_s)
    assert not admission.calm(now_s + 9.9, now_s + 9.9)
    assert admission.calm(now_s + 10.1, now_s + 10.1)


def test_an_answer_comes_after_what_runs_and_what_is_before() -> None:
    """Batches of two, a tenth of a second for each item."""
    admission, now_s = _after((10, 1.0))
    assert admission.answered_in_s(0, now_s) == pytest.approx(0.2)
    assert admission.answered_in_s(4, now_s) == pytest.approx(0.6)
    assert admission.answered_in_s(5, now_s) == pytest.approx(0.6)
    admission.began(3, now_s)
    assert admission.answered_in_s(0, now_s + 0.1) == pytest.approx(0.2 + 0.2)
    # Late by half a second: by as much again.
    assert admission.answered_in_s(0, now_s + 0.8) == pytest.approx(0.5 + 0.2)


def test_the_first_is_taken_only_where_nothing_runs() -> None:
    """Behind a batch that takes two seconds one second is too little, whoever is first."""
    admission, now_s = _after((10, 1.0))
    assert admission.admits(0, 0.001, now_s, now_s)
    admission.began(20, now_s)
    assert not admission.admits(0, 1.0, now_s + 0.2, now_s + 0.2)
    assert admission.admits(0, 4.0, now_s + 0.2, now_s + 0.2)


def test_a_caller_is_left_out_only_if_it_is_late_and_nothing_is_calm() -> None:
    """Ten items take a second."""
    admission, now_s = _after((10, 1.0))
    assert admission.too_late(10, now_s + 0.9, now_s, now_s)
    assert not admission.too_late(10, now_s + 1.1, now_s, now_s)
    quiet, now_s = _after((10, 0.05))
    assert not quiet.too_late(10, now_s + 0.01, now_s, now_s)
    assert quiet.too_late(10, now_s + 0.01, now_s, now_s - 1)


@pytest.mark.parametrize(
    ("taken", "refused", "retry_s"),
    [
        (0, 7, 0.1),  # too few to tell
        (0, 8, 0.4),  # at most four times as long at once
        (5, 5, 0.2),  # twice as many as are aimed at
        (8, 6, 0.15),
        (8, 0, 0.1),  # never below the least
    ],
)
def test_the_refused_wait_longer_the_more_they_are(
    taken: int, refused: int, retry_s: float
) -> None:
    """One refusal for every two calls that are taken is aimed at."""
    admission, now_s = _after((1, 0.01))
    for _ in range(taken):
        admission.took()
    for _ in range(refused):
        admission.retry_after_s()
    admission.began(1, now_s)
    assert admission.retry_after_s() == pytest.approx(retry_s)


def test_the_time_to_retry_shrinks_again_by_three_tenths() -> None:
    """And what was counted before is not counted twice."""
    admission, now_s = _after((1, 0.01))
    for _ in range(3):
        for _ in range(50):
            admission.retry_after_s()
        admission.began(1, now_s)
    assert admission.retry_after_s() == pytest.approx(5.0)
    for _ in range(20):
        admission.took()
    admission.began(1, now_s)
    assert admission.retry_after_s() == pytest.approx(3.5)


@pytest.mark.parametrize(("chance", "retry_s"), [(0.0, 0.2), (0.5, 0.4), (0.9, 0.56)])
def test_retries_are_spread_over_half_to_one_and_a_half_times(
    chance: float, retry_s: float
) -> None:
    """Not all come back at once."""
    admission, now_s = _after((1, 0.01), chance=chance)
    for _ in range(8):
        assert MIN_RETRY_S <= admission.retry_after_s() <= MAX_RETRY_S
    admission.began(1, now_s)
    assert admission.retry_after_s() == pytest.approx(retry_s)


def test_what_was_learned_is_forgotten_after_ten_seconds() -> None:
    """A slow hour says nothing of the next."""
    admission, now_s = _after((10, 1.0))
    admission.began(1, now_s + 9.9)
    assert 2 == admission.largest_batch()
    admission.ended(now_s + 10.0, answered=True)
    admission.began(1, now_s + 20.1)
    assert 256 == admission.largest_batch()


async def test_a_closed_batcher_says_when_to_come_again() -> None:
    """To another server, a second later; and closing twice is no error."""

    async def flush(items: object) -> list[int]:
        raise AssertionError(items)

    batcher = Batcher[int, int]("things", flush, interval_s=0.01, max_batch=4, max_waiting=8)
    await batcher.close()
    await batcher.close()
    with pytest.raises(Refusal) as caught:
        batcher.put(1)
    assert (Reason.SHUTTING_DOWN, 1.0) == (caught.value.reason, caught.value.retry_after_s)


def test_ones_own_batch_is_as_large_as_what_is_in_it() -> None:
    """After a batch of one; it grows only as far as the largest batch."""
    admission, now_s = _after((10, 1.0))
    admission.began(1, now_s)
    admission.ended(now_s, answered=False)
    expected_s = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert [admission.answered_in_s(n, now_s) for n in range(5)] == pytest.approx(expected_s)


def test_what_was_counted_is_not_counted_again() -> None:
    """After a batch has judged them, eight more are needed, and seven are too few."""
    admission, now_s = _after((1, 0.01))
    for refused, retry_s in [(8, 0.4), (7, 0.4), (1, 1.6)]:
        for _ in range(refused - 1 if refused == 8 else refused):
            admission.retry_after_s()
        if refused == 8:
            admission.took()
        admission.began(1, now_s)
        assert admission._retry_s == pytest.approx(retry_s)
