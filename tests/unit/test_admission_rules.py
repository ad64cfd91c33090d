"""When a caller is let in, in figures: what runs, what waits, how much time is left."""

import pytest

from voucher_grpc.runtime.admission import Admission, FlushTimes

# A batch of ten that took half a second: 50 ms an item and nothing for itself, so that the
# largest batch within a quarter of a second has five.
NOW = 1_000.0


def busy(size: int = 10, took_s: float = 0.5, *, chance: float = 0.5) -> Admission:
    """What has seen a batch that ended at NOW."""
    admission = Admission(256, lambda: chance)
    admission.began(size, NOW - took_s)
    admission.ended(NOW, answered=True)
    return admission


def admits(admission: Admission, before: int, remaining_s: float, now_s: float = NOW) -> bool:
    """With somebody who has waited for long, so that it is not calm for that."""
    return admission.admits(before, remaining_s, now_s, now_s - 1)


@pytest.mark.parametrize(
    ("before", "expected_s"), [(0, 0.25), (4, 0.25), (5, 0.5), (9, 0.5), (10, 0.75)]
)
def test_an_answer_comes_after_the_full_batches_before_it_and_its_own(
    before: int, expected_s: float
) -> None:
    """Its own grows behind it, to five as the last one did."""
    assert 5 == busy().largest_batch()
    assert expected_s == pytest.approx(busy().answered_in_s(before, NOW))


def test_its_own_batch_is_as_large_as_the_last_one_or_as_its_place_in_it() -> None:
    """The last one had two: the first two wait for two, the third for three."""
    admission = busy()
    admission.began(2, NOW)
    admission.ended(NOW + 0.1, answered=True)
    times = FlushTimes()
    times.add(10, 0.5)
    times.add(2, NOW + 0.1 - NOW)
    expected = [times.expected_s(size) for size in (2, 2, 3, 4)]
    found = [admission.answered_in_s(before, NOW + 0.1) for before in range(4)]
    assert expected == pytest.approx(found)
    assert expected[1] < expected[2] < expected[3]


@pytest.mark.parametrize(
    ("after_s", "rest_s"), [(0.0, 0.25), (0.1, 0.15), (0.25, 0.0), (0.4, 0.15), (1.25, 1.0)]
)
def test_the_running_batch_is_waited_for(after_s: float, rest_s: float) -> None:
    """What is left of the time it should take; one that is late, for as long again."""
    admission = busy()
    admission.began(5, NOW)
    assert rest_s + 0.25 == pytest.approx(admission.answered_in_s(0, NOW + after_s))


@pytest.mark.parametrize(("remaining_s", "admitted"), [(0.34, False), (0.37, True)])
def test_an_answer_must_come_in_seven_tenths_of_the_time(
    remaining_s: float, admitted: bool
) -> None:
    """0.25 s with nothing running."""
    assert admitted is admits(busy(), 1, remaining_s)


@pytest.mark.parametrize(("remaining_s", "admitted"), [(0.37, False), (0.70, False), (0.73, True)])
def test_the_running_batch_counts_for_who_is_let_in(remaining_s: float, admitted: bool) -> None:
    """A quarter of a second more, also for the first who waits."""
    for before in (0, 1):
        admission = busy()
        admission.began(5, NOW)
        assert admitted is admits(admission, before, remaining_s)


def test_one_is_always_taken_where_nothing_waits_and_nothing_runs() -> None:
    """It shows how things are; a second one is judged."""
    assert admits(busy(), 0, 0.0)
    assert not admits(busy(), 1, 0.0)


@pytest.mark.parametrize(("before", "admitted"), [(134, True), (141, False)])
def test_nobody_waits_for_more_than_seven_seconds(before: int, admitted: bool) -> None:
    """However much time the caller has: ten seconds' patience at most."""
    assert admitted is admits(busy(), before, 1e9)


@pytest.mark.parametrize(
    ("took_s", "waited_s", "later_s", "calm"),
    [
        (0.09, 0.0, 0.0, True),
        (0.09, 0.09, 0.0, True),
        (0.09, 0.11, 0.0, False),
        (0.11, 0.0, 0.0, False),
        (0.11, 0.0, 9.9, False),
        (0.11, 0.0, 10.1, True),
        (0.11, 0.11, 10.1, False),
    ],
)
def test_calm_is_a_tenth_of_a_second(
    took_s: float, waited_s: float, later_s: float, calm: bool
) -> None:
    """For the last batch, as long as it is recent, and for who waits."""
    admission, now = busy(1, took_s), NOW + later_s
    assert calm is admission.calm(now, now - waited_s)
    assert calm is admission.admits(300, 0.0, now, now - waited_s)


@pytest.mark.parametrize(("after_s", "calm"), [(0.09, True), (0.11, False)])
def test_a_batch_that_runs_for_longer_ends_the_calm(after_s: float, calm: bool) -> None:
    """Although all before it were quick."""
    admission = busy(1, 0.01)
    admission.began(1, NOW)
    assert calm is admission.calm(NOW + after_s, NOW + after_s)


@pytest.mark.parametrize(("left_s", "late"), [(0.24, True), (0.26, False)])
def test_a_batch_would_answer_too_late_if_it_took_longer_than_is_left(
    left_s: float, late: bool
) -> None:
    """0.25 s for five; never in calm."""
    assert late is busy().too_late(5, NOW + left_s, NOW, NOW - 1)
    assert not busy(1, 0.05).too_late(5, NOW, NOW, NOW)


def test_what_was_learned_is_forgotten_after_ten_seconds() -> None:
    """The next batch begins without a forecast; one that failed taught nothing."""
    for pause_s, kept in ((9.9, True), (10.1, False)):
        admission = busy()
        admission.began(1, NOW + pause_s)
        assert kept is (admission.largest_batch() == 5)
    admission = Admission(256)
    admission.began(10, NOW)
    admission.ended(NOW + 5, answered=False)
    assert 256 == admission.largest_batch()
    assert not admission.calm(NOW + 5, NOW + 5)


@pytest.mark.parametrize(
    ("fixed_s", "item_s", "bound", "largest"),
    [
        (0.05, 0.03, 256, 6),  # 0.20 s for items
        (0.2, 0.03, 256, 13),  # three times what it takes for itself: 0.40 s
        (0.05, 0.03, 4, 4),
        (0.05, 9.0, 256, 1),
        (9.0, 0.0, 256, 256),
    ],
)
def test_a_batch_lasts_a_quarter_of_a_second_or_thrice_what_it_takes_for_itself(
    fixed_s: float, item_s: float, bound: int, largest: int
) -> None:
    """Whichever is more, and within its bound."""
    times = FlushTimes()
    times.fixed_s, times.item_s = fixed_s, item_s
    assert largest == times.largest(bound)
    assert fixed_s + 7 * item_s == pytest.approx(times.expected_s(7))


@pytest.mark.parametrize(("size", "fixed_s"), [(7, 0.5), (8, 0.0)])
def test_batches_of_one_size_count_for_their_items_from_eight_on(size: int, fixed_s: float) -> None:
    """Smaller ones as if it were all for themselves."""
    times = FlushTimes()
    times.add(size, 0.5)
    assert fixed_s == pytest.approx(times.fixed_s)
    assert 0.5 == pytest.approx(times.expected_s(size))


def test_the_last_batches_count_most() -> None:
    """Each counts 0.85 beside the one after it."""
    times = FlushTimes()
    times.add(1, 1.0)
    times.add(1, 2.0)
    assert (0.85 * 1.0 + 2.0) / 1.85 == pytest.approx(times.expected_s(1))


def retry_s(admission: Admission, taken: int, refused: int) -> float:
    """When one comes back after so many have been taken and refused."""
    for _ in range(taken):
        admission.took()
    for _ in range(refused):
        admission.retry_after_s()
    admission.began(1, NOW)
    admission.ended(NOW, answered=True)
    return admission.retry_after_s()


@pytest.mark.parametrize(
    ("taken", "refused", "expected_s"),
    [
        (10, 20, 0.4),  # four times as many as are aimed at
        (10, 200, 0.4),  # no more than four times at once
        (10, 10, 0.2),
        (10, 5, 0.1),
        (10, 0, 0.1),
        (0, 7, 0.1),  # too few to say anything
        (0, 8, 0.4),
    ],
)
def test_the_refused_wait_longer_the_more_they_are(
    taken: int, refused: int, expected_s: float
) -> None:
    """Two are aimed at for four that are taken."""
    assert expected_s == pytest.approx(retry_s(busy(), taken, refused))


def test_the_time_to_retry_falls_again_and_has_its_bounds() -> None:
    """By three tenths at once; from a tenth of a second to five."""
    admission = busy()
    assert 0.4 == pytest.approx(retry_s(admission, 10, 20))
    assert 0.4 * 0.7 == pytest.approx(retry_s(admission, 100, 0))
    waits = [retry_s(admission, 1, 100) for _ in range(9)]
    assert 5.0 == waits[-1] == max(waits)


@pytest.mark.parametrize(("chance", "expected_s"), [(0.0, 0.2), (0.25, 0.3), (1.0, 0.6)])
def test_the_refused_come_back_spread(chance: float, expected_s: float) -> None:
    """From half of the time to one and a half."""
    assert expected_s == pytest.approx(retry_s(busy(chance=chance), 10, 20))
