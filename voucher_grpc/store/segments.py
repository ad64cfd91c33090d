"""What users of a kind charge, in the store: made from all tendencies, read with the catalogue."""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta

import asyncpg
import numpy as np

from voucher_grpc.domain.tendencies.demand import expected_demands
from voucher_grpc.domain.tendencies.segments import (
    Member,
    Segment,
    SegmentKey,
    SegmentSums,
)
from voucher_grpc.domain.tendencies.tendency import many_habits
from voucher_grpc.store import queries
from voucher_grpc.store.database import Database
from voucher_grpc.store.tendencies import tendency_from_row

_SQL = queries.load("segments")
_VERSIONS = queries.load("versions")

# Users without a session for longer say nothing of what is usual now.
_LONGEST_SILENCE = timedelta(days=90)
_LEAST_SESSIONS = 5
# The smallest ones are passed over beyond it; one takes about 2 kB.
MAX_SEGMENTS = 2_000


async def rebuild_segments(database: Database, progress: Callable[[int], None]) -> int:
    """Make the segments anew from the tendencies; returns how many there are.

    Servers take them with their next snapshot. `progress` is called with how many users
    have been read.
    """
    sums = SegmentSums()
    async for member in _members(database, progress):
        sums.add(member)
    segments = sums.segments()
    async with database.transaction() as connection:
        await connection.execute(_VERSIONS["lock"], "catalogue")
        await connection.execute(_SQL["forget_segments"])
        await connection.executemany(
            _SQL["write_segments"],
            [
                (*key, segment.users, segment.energy_kwh.tolist(), segment.hours.tolist())
                for key, segment in sorted(segments.items())
            ],
        )
        version = await connection.fetchval(_VERSIONS["bump"], "catalogue")
        await connection.execute(_VERSIONS["made_with"], version)
    return len(segments)


async def _members(database: Database, progress: Callable[[int], None]) -> AsyncIterator[Member]:
    read, after = 0, ""
    while True:
        async with database.acquire() as connection:
            rows = await connection.fetch(_SQL["page_of_members"], after)
        if not rows:
            return
        for member in _members_of(rows):
            yield member
        read, after = read + len(rows), rows[-1]["user_id"]
        progress(read)


def _members_of(rows: Sequence[asyncpg.Record]) -> list[Member]:
    now = rows[0]["database_time"]
    known = []
    for row in rows:
        tendency = tendency_from_row(row)
        if (
            tendency is not None
            and tendency.last_session_time is not None
            and tendency.sessions >= _LEAST_SESSIONS
            and now - tendency.last_session_time < _LONGEST_SILENCE
        ):
            key = SegmentKey(row["country_code"], row["vehicle_type"], row["profile_type"])
            known.append((key, tendency))
    if not known:
        return []
    some, habits = many_habits([tendency for _, tendency in known], now)
    forecasts = [known[number][1].forecast for number in some]
    energy_kwh = expected_demands(habits, [()] * len(some), forecasts).energy_kwh
    return [
        Member(known[number][0], energy_kwh[row], habits.hours[row])
        for row, number in enumerate(some)
    ]


def segment_from_row(row: asyncpg.Record) -> tuple[SegmentKey, Segment]:
    """A segment as it was last made."""
    key = SegmentKey(row["country_code"], row["vehicle_type"], row["profile_type"])
    return key, Segment(row["users"], np.array(row["energy_kwh"]), np.array(row["hours"]))
