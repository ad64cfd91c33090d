"""The database's clock, kept between readings by the machine's monotonic one."""

import time
from datetime import UTC, datetime, timedelta


class DatabaseClock:
    """What time it is for Postgres.

    Several servers with clocks of their own agree on when an offer expires,
    because each knows its offset from the one database; it is renewed with each
    batch. A jump of the machine's wall clock does not matter.
    """

    def __init__(self) -> None:
        self._at = datetime.now(UTC)
        self._monotonic_s = time.monotonic()

    def now(self) -> datetime:
        """The present instant, UTC."""
        return self._at + timedelta(seconds=time.monotonic() - self._monotonic_s)

    def set(self, database_time: datetime) -> None:
        """Take over a reading that has just come in."""
        self._at = database_time
        self._monotonic_s = time.monotonic()
