"""A user's latest sessions, one by one: what a session costs does not follow from sums.

They are stored as records of 16 bytes, in order of time: the local start (s after 2000), the
length (s, 0: not known), the energy (Wh), and a number that stands for the place.
"""

import struct
from bisect import insort
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zlib import crc32
from zoneinfo import ZoneInfo

from voucher_grpc.ocpi import PlaceKey, folded

# Of a user who charges daily a month, of most all that counts.
RECENT_SESSIONS = 32
_RECORD = struct.Struct(">IIII")
_LARGEST = 2**32 - 1
_EPOCH = datetime(2000, 1, 3, tzinfo=UTC)  # a Monday
_SECOND = timedelta(seconds=1)
SECONDS_PER_WEEK = 604_800


class RecentSession(NamedTuple):
    """A session: local seconds after Monday, 2000-01-03 00:00."""

    start_s: int
    length_s: int
    energy_wh: int
    place_number: int

    @property
    def minute_of_week(self) -> int:
        """Local minutes after Monday 00:00."""
        return self.start_s % SECONDS_PER_WEEK // 60


def place_number(place: PlaceKey) -> int:
    """What stands for a place, down to the EVSE, in 32 bits."""
    return crc32(folded("\0".join(place[:4])).encode())


def with_session(
    recent: bytes,
    start: datetime,
    end: datetime | None,
    time_zone: str,
    energy_wh: int,
    place: PlaceKey,
) -> bytes:
    """The latest RECENT_SESSIONS of those before and a new one, whatever their order."""
    local = start.astimezone(ZoneInfo(time_zone)).replace(tzinfo=UTC)
    numbers = (
        (local - _EPOCH) // _SECOND,
        0 if end is None else (end - start) // _SECOND,
        energy_wh,
        place_number(place),
    )
    record = _RECORD.pack(*(min(max(0, number), _LARGEST) for number in numbers))
    size = _RECORD.size
    records = [recent[at : at + size] for at in range(0, len(recent), size)]
    insort(records, record)  # as bytes they are in order of time
    return b"".join(records[-RECENT_SESSIONS:])


def recent_sessions(recent: bytes) -> Sequence[RecentSession]:
    """The sessions, the latest last."""
    return [RecentSession(*numbers) for numbers in _RECORD.iter_unpack(recent)]
