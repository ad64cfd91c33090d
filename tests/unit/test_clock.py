"""The database's clock between its readings."""

from datetime import UTC, datetime, timedelta

from voucher_grpc.runtime.clock import TRUSTED_S, DatabaseClock

START = datetime(2001, 1, 1, tzinfo=UTC)


class Monotonic:
    """A monotonic clock that a test moves on."""

    at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_the_first_reading_counts_whatever_the_machine_thinks() -> None:
    """Its wall clock may be off by years."""
    clock = DatabaseClock(Monotonic())
    clock.set(START)
    assert START == clock.now()


def test_it_goes_on_between_readings() -> None:
    """By the monotonic clock."""
    monotonic = Monotonic()
    clock = DatabaseClock(monotonic)
    clock.set(START)
    monotonic.at_s += 2.5
    assert after(2.5) == clock.now()


def test_a_reading_that_was_long_on_its_way_does_not_put_it_back() -> None:
    """A server that was frozen with the answer unread would else sell what has expired."""
    monotonic = Monotonic()
    clock = DatabaseClock(monotonic)
    clock.set(START)
    monotonic.at_s += 5
    clock.set(after(1))  # asked four seconds ago
    assert after(5) == clock.now()
    clock.set(after(5.2))  # the one before had come in a little late itself
    assert after(5.2) == clock.now()


def test_a_clock_that_was_put_back_is_followed_in_the_end() -> None:
    """Another server after a failover, or an operator."""
    monotonic = Monotonic()
    clock = DatabaseClock(monotonic)
    clock.set(START)
    monotonic.at_s += TRUSTED_S + 1
    clock.set(after(-60))
    assert after(-60) == clock.now()
