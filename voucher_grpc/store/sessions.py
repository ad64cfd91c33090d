"""Sessions and tendencies in the store."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import asyncpg

from voucher_grpc.domain.personal_data import StoredTendency
from voucher_grpc.domain.tendencies.recording import (
    Cancellation,
    PlaceWeights,
    SentSession,
    SessionKey,
)
from voucher_grpc.domain.tendencies.tendency import Session, Tendency, empty_tendency
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.store import queries
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import Connection
from voucher_grpc.store.stored_places import location_key
from voucher_grpc.store.tendencies import places_from_row, tendency_from_row

_SQL = queries.load("sessions")


class TendencyStore:
    """Reads tendencies, and keeps declared wishes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_tendency(self, user_id: str) -> StoredTendency:
        """A user's tendency. Raises USER_NOT_FOUND if nothing is known."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_SQL["tendency"], user_id)
        if row is None:
            raise Refusal(Reason.USER_NOT_FOUND, f"nothing is known of user {user_id}")
        total = row["total_weight"] or 1.0
        return StoredTendency(
            user_id,
            tendency_from_row(row) or empty_tendency(),
            row["profile_type"],
            [(key, weight / total) for key, weight in places_from_row(row)],
            row["database_time"],
        )

    async def declare_preferences(self, user_id: str, profile_type: str) -> None:
        """Replace a user's declared wishes."""
        async with self._database.acquire() as connection:
            await connection.execute(_SQL["declare_preferences"], user_id, profile_type)


async def with_time_zones(
    connection: Connection, sent: Sequence[SentSession | Cancellation]
) -> Sequence[SentSession | Cancellation]:
    """With the time zones and ids of the locations, where these are known.

    Read each time: a session is stored for good with its zone.
    """
    keys = {location_key(one.session.place) for one in sent if isinstance(one, SentSession)}
    if not keys:
        return sent
    columns = (list(column) for column in zip(*sorted(keys), strict=True))
    rows = await connection.fetch(_SQL["time_zones"], *columns)
    known = {(r["country_code"], r["party_id"], r["location_id"]): r for r in rows}
    return [
        replace(item, session=_at_known_location(item.session, row))
        if isinstance(item, SentSession) and (row := known.get(location_key(item.session.place)))
        else item
        for item in sent
    ]


def _at_known_location(session: Session, row: asyncpg.Record) -> Session:
    """With the location's time zone, and its id as it is spelt there."""
    place = session.place._replace(location_id=row["spelt_id"])
    return replace(session, place=place, time_zone=row["time_zone"])


async def lock_tendencies(
    connection: Connection, user_ids: set[str]
) -> tuple[dict[str, Tendency], set[str]]:
    """(tendencies by user, users whose tendency is stored as an older version wrote it)."""
    users = sorted(user_ids)
    await connection.execute(_SQL["make_tendencies"], users)
    rows = await connection.fetch(_SQL["lock_tendencies"], users)
    known = {row["user_id"]: tendency_from_row(row) for row in rows}
    stale = {
        row["user_id"]
        for row in rows
        if (row["sessions"] and known[row["user_id"]] is None)
        or (row["first_session_time"] is not None and not row["recent"])
    }
    tendencies = {}
    for user, tendency in known.items():
        found = tendencies[user] = tendency or empty_tendency()
        found.state = found.state.copy()  # to be added to
    return tendencies, stale


def session_from_row(row: asyncpg.Record) -> Session:
    return Session(
        user_id=row["user_id"],
        session_id=row["session_id"],
        place=PlaceKey(
            row["country_code"],
            row["party_id"],
            row["location_id"],
            row["evse_uid"],
            row["connector_id"],
        ),
        time_zone=row["time_zone"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        energy_wh=row["energy_wh"],
    )


async def read_sessions(
    connection: Connection, keys: Sequence[SessionKey]
) -> dict[SessionKey, Session]:
    """Those of some sessions that are stored."""
    rows = await connection.fetch(_SQL["stored_sessions"], *_columns(keys))
    return {(row["user_id"], row["session_id"]): session_from_row(row) for row in rows}


async def read_cancelled(
    connection: Connection, keys: Sequence[SessionKey]
) -> frozenset[SessionKey]:
    """Those of some sessions that do not count."""
    rows = await connection.fetch(_SQL["cancelled_sessions"], *_columns(keys))
    return frozenset((row["user_id"], row["session_id"]) for row in rows)


async def cancel_sessions(
    connection: Connection, keys: Sequence[SessionKey]
) -> frozenset[SessionKey]:
    """From now on they do not count; those that were stored, which are deleted.

    Ids are in small letters, as `Cancellation` has them.
    """
    await connection.execute(_SQL["cancel_sessions"], *_columns(keys))
    rows = await connection.fetch(_SQL["delete_cancelled"], *_columns(keys))
    return frozenset((row["user_id"], row["session_id"]) for row in rows)


async def forget_cancelled(connection: Connection, keys: Sequence[SessionKey]) -> None:
    """They can be recorded again."""
    await connection.execute(_SQL["forget_cancelled"], *_columns(keys))


async def delete_sessions(
    connection: Connection, keys: Sequence[SessionKey]
) -> frozenset[SessionKey]:
    """Delete sessions; those that were there."""
    rows = await connection.fetch(_SQL["delete_sessions"], *_columns(keys))
    return frozenset((row["user_id"], row["session_id"]) for row in rows)


def _columns(keys: Sequence[SessionKey]) -> tuple[list[str], list[str]]:
    return [user for user, _ in keys], [session for _, session in keys]


async def forget_places(connection: Connection, user_ids: Sequence[str]) -> None:
    """Forget where the users charge; their sessions say it again."""
    await connection.execute(_SQL["forget_places"], user_ids)


async def read_all_sessions(connection: Connection, user_ids: Sequence[str]) -> list[Session]:
    """All sessions of the users."""
    rows = await connection.fetch(_SQL["users_sessions"], user_ids)
    return [session_from_row(row) for row in rows]


async def page_of_users(connection: Connection, after: str) -> set[str]:
    """The next users with sessions, after one."""
    return {row["user_id"] for row in await connection.fetch(_SQL["page_of_users"], after)}


async def write_sessions(connection: Connection, sessions: Iterable[Session]) -> None:
    """Add or replace sessions."""
    rows = [
        (
            s.user_id,
            s.session_id,
            s.place.country_code,
            s.place.party_id,
            s.place.location_id,
            s.place.evse_uid,
            s.place.connector_id,
            s.time_zone,
            s.start_time,
            s.end_time,
            s.energy_wh,
        )
        for s in sessions
    ]
    await connection.execute(_SQL["write_sessions"], *(list(c) for c in zip(*rows, strict=True)))


async def write_tendencies(connection: Connection, tendencies: dict[str, Tendency]) -> None:
    """Replace tendencies, whose rows are locked."""
    await connection.execute(
        _SQL["write_tendencies"],
        list(tendencies),
        [t.sessions for t in tendencies.values()],
        [t.first_session_time for t in tendencies.values()],
        [t.last_session_time for t in tendencies.values()],
        [t.state.astype("<f8").tobytes() for t in tendencies.values()],
        [t.forecast for t in tendencies.values()],
        [t.recent for t in tendencies.values()],
    )


async def add_places(connection: Connection, places: dict[str, PlaceWeights]) -> None:
    """Add energy weights to the users' places."""
    rows = [
        (user, p.country_code, p.party_id, p.location_id, p.evse_uid, weight)
        for user, weights in sorted(places.items())
        for p, weight in sorted(weights.items())
    ]
    if not rows:
        return
    await connection.execute(_SQL["add_places"], *(list(c) for c in zip(*rows, strict=True)))
