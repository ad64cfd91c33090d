"""The database's clock, kept between readings by the machine's monotonic one."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

# For so long a reading that says less than what is known is taken for a late one.
TRUSTED_S = 10.0


class DatabaseClock:
    """What time it is for Postgres.

    Several servers with clocks of their own agree on when an offer expires,
    because each knows its offset from the one database; it is renewed with each
    batch. A jump of the machine's wall clock does not matter. A reading may come in
    late, and then says too little: the clock is not put back by it, unless all
    readings of ten seconds say so (the database's clock was put back).
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._at = datetime.now(UTC)
        self._read_at_s = monotonic()
        self._known = False

    def now(self) -> datetime:
        """The present instant, UTC."""
        return self._at + timedelta(seconds=self._monotonic() - self._read_at_s)

    def set(self, database_time: datetime) -> None:
        """Take over a reading that has just come in."""
        aged = self._monotonic() - self._read_at_s > TRUSTED_S
        if not self._known or aged or database_time >= self.now():
            self._at, self._read_at_s = database_time, self._monotonic()
            self._known = True
