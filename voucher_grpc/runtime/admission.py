"""Whether a call that comes now would be answered in time, judged by what recent batches took.

What waits behind a slow database is useless once its caller has gone. So a
caller whose answer would come too late is refused at once, with the time after which to
try again, and what is taken is answered.

A batch is thought to take so much for itself and so much for each item; both are
learned from the last batches, and forgotten when nothing has been flushed for a while.
While batches are quick and no call has waited long, none is refused: after a
pause a burst is taken whole. No I/O here, and the time is passed in.
"""

import random
from collections.abc import Callable

# As long as batches and waits are shorter than this there is no overload.
CALM_S = 0.1
# An answer must be expected within this share of the caller's time: a forecast errs, and the
# answer has a way to go.
SHARE = 0.7
# A batch is made no longer than this if it can be, since a call that comes just after it has
# begun waits for two of them.
BATCH_S = 0.25
# A batch may last this many times what it takes for itself, else little gets done.
_LEAST_FILLED = 3
# Callers with more time than this, or with no deadline, count as having so much: a queue of
# minutes serves no caller.
PATIENCE_S = 10.0
MIN_RETRY_S, MAX_RETRY_S = 0.1, 5.0
# So many refusals for each call that is taken are aimed at by the time to retry: enough that
# there are always calls that ask for admission, and few enough to cost little.
_REFUSED_PER_ADMITTED = 0.5
_FORGET_AFTER_S = 10.0
# What a batch counts beside the one after it.
_DECAY = 0.85
# Batches smaller than this do not show what an item costs.
_FEW = 8


class FlushTimes:
    """How long a batch of so many items takes, after the last ones: a line, fitted with decay."""

    def __init__(self) -> None:
        self._weight = self._sizes = self._times_s = self._squares = self._products = 0.0
        self.fixed_s = self.item_s = 0.0

    def add(self, size: int, took_s: float) -> None:
        """One more batch."""
        self._weight = self._weight * _DECAY + 1
        self._sizes = self._sizes * _DECAY + size
        self._times_s = self._times_s * _DECAY + took_s
        self._squares = self._squares * _DECAY + size * size
        self._products = self._products * _DECAY + size * took_s
        size_mean, mean_s = self._sizes / self._weight, self._times_s / self._weight
        variance = max(0.0, self._squares / self._weight - size_mean * size_mean)
        covariance = self._products / self._weight - size_mean * mean_s
        # Batches of one size say nothing of what an item costs. Large ones then count as if
        # it were all for their items, small ones as if it were all for themselves.
        prior_s = mean_s / size_mean if size_mean >= _FEW else 0.0
        pull = (0.1 * size_mean) ** 2
        slope_s = (covariance + pull * prior_s) / (variance + pull)
        self.item_s = min(max(slope_s, 0.0), mean_s / size_mean)
        self.fixed_s = mean_s - self.item_s * size_mean

    def expected_s(self, size: int) -> float:
        """How long a batch of so many is thought to take."""
        return self.fixed_s + self.item_s * size

    def largest(self, bound: int) -> int:
        """Most items of a batch that is not too long, 1 to `bound`."""
        if self.item_s * bound < 1e-9:
            return bound
        within_s = max(BATCH_S, _LEAST_FILLED * self.fixed_s) - self.fixed_s
        return max(1, min(bound, int(within_s / self.item_s)))


class Admission:
    """Decides for the batcher, which reports each batch that begins and ends."""

    def __init__(self, max_batch: int, chance: Callable[[], float] = random.random) -> None:
        self._max_batch = max_batch
        self._chance = chance
        self._times = FlushTimes()
        self._began_s = 0.0
        self._running = 0  # items of the running batch
        self._last_size, self._last_took_s, self._last_end_s = 0, 0.0, 0.0
        self._taken = self._refused = 0
        self._retry_s = MIN_RETRY_S

    def began(self, size: int, now_s: float) -> None:
        """A batch begins."""
        if now_s - self._last_end_s > _FORGET_AFTER_S:
            self._times, self._retry_s = FlushTimes(), MIN_RETRY_S
            self._last_took_s = 0.0
        self._began_s, self._running = now_s, size
        self._pace_retries()

    def ended(self, now_s: float, *, answered: bool) -> None:
        """The batch that began has ended. One that failed does not say how long others take."""
        took_s = now_s - self._began_s
        if answered:
            self._times.add(self._running, took_s)
        self._last_size, self._last_took_s, self._last_end_s = self._running, took_s, now_s
        self._running = 0

    def largest_batch(self) -> int:
        """Most items that the next batch should have."""
        return self._times.largest(self._max_batch)

    def calm(self, now_s: float, oldest_s: float) -> bool:
        """Whether nothing speaks of overload; `oldest_s` is since when somebody waits."""
        if self._running and now_s - self._began_s > CALM_S:
            return False
        recent = now_s - self._last_end_s <= _FORGET_AFTER_S
        return now_s - oldest_s <= CALM_S and not (recent and self._last_took_s > CALM_S)

    def admits(self, before: int, remaining_s: float, now_s: float, oldest_s: float) -> bool:
        """Whether an item with so many before it would be answered in the time that it has.

        Where nothing waits and nothing runs one is always taken: it shows how things are.
        """
        patience_s = min(remaining_s, PATIENCE_S) * SHARE
        return (
            (before == 0 and not self._running)
            or self.calm(now_s, oldest_s)
            or self.answered_in_s(before, now_s) <= patience_s
        )

    def took(self) -> None:
        """An item has been admitted."""
        self._taken += 1

    def answered_in_s(self, before: int, now_s: float) -> float:
        """When the answer is to be expected: after what runs, the full batches before, its own."""
        largest = self.largest_batch()
        full, place = divmod(before, largest)
        # Its own batch grows behind it, as the last one did.
        own = min(largest, max(place + 1, self._last_size))
        times = self._times
        return self._rest_s(now_s) + full * times.expected_s(largest) + times.expected_s(own)

    def _rest_s(self, now_s: float) -> float:
        """How much longer the running batch takes; one that is late is thought to be late by as
        much again."""
        if not self._running:
            return 0.0
        return abs(self._times.expected_s(self._running) - (now_s - self._began_s))

    def too_late(self, size: int, until_s: float, now_s: float, oldest_s: float) -> bool:
        """Whether a batch of so many that begins now would answer this caller too late."""
        late = now_s + self._times.expected_s(size) > until_s
        return late and not self.calm(now_s, oldest_s)

    def retry_after_s(self) -> float:
        """When a refused caller may retry: spread, so that not all come at once."""
        self._refused += 1
        spread_s = self._retry_s * (0.5 + self._chance())
        return min(max(spread_s, MIN_RETRY_S), MAX_RETRY_S)

    def _pace_retries(self) -> None:
        """Let the refused wait longer while there are many of them, and shorter while few."""
        if self._taken + self._refused < _FEW:
            return
        crowd = self._refused / max(1, self._taken) / _REFUSED_PER_ADMITTED
        step = min(max(crowd, 0.7), 4.0)
        self._retry_s = min(max(self._retry_s * step, MIN_RETRY_S), MAX_RETRY_S)
        self._taken = self._refused = 0
