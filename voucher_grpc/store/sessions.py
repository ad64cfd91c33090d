"""Sessions and tendencies in the store: each session counts once, in any order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from voucher_grpc.catalogue.conditions import PlaceKey
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.offers.recording import (
    Outcome,
    PlaceWeights,
    SentSession,
    SessionKey,
    add_place,
    judge_sessions,
)
from voucher_grpc.offers.tendency import Session, Tendency, add_session, empty_tendency
from voucher_grpc.store import queries
from voucher_grpc.store.database import Connection, Database
from voucher_grpc.store.knowledge import places_from_row, tendency_from_row

_SQL = queries.load("sessions")


@dataclass(frozen=True, slots=True)
class StoredTendency:
    """A tendency as kept, with its greatest places and their shares of the energy."""

    user_id: str
    tendency: Tendency
    profile_type: str
    places: Sequence[tuple[PlaceKey, float]]
    read_time: datetime


class SessionStore:
    """Records sessions and keeps tendencies."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, sent: Sequence[SentSession]) -> Sequence[Outcome | Refusal]:
        """Store what is new or corrected and add it to the tendencies, in one transaction."""
        if not sent:
            return []
        async with self._database.transaction() as connection:
            tendencies = await _lock(connection, {item.session.user_id for item in sent})
            stored = await _stored(connection, sent)
            outcomes = judge_sessions(sent, stored)
            changed = {
                item.key: item.session
                for item, outcome in zip(sent, outcomes, strict=True)
                if outcome in (Outcome.RECORDED, Outcome.CORRECTED)
            }
            if changed:
                await _write_sessions(connection, changed.values())
                # A sum cannot be trusted to give back exactly what was added, so a
                # correction rebuilds its user from all sessions.
                corrected = {
                    user_id for user_id, session_id in changed if (user_id, session_id) in stored
                }
                await _add(connection, tendencies, changed.values(), corrected)
        return outcomes

    async def get_tendency(self, user_id: str) -> StoredTendency:
        """A user's tendency. Raises USER_NOT_FOUND if nothing is known."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_SQL["tendency"], user_id)
        if row is None:
            raise Refusal(Reason.USER_NOT_FOUND, f"nothing is known of user {user_id}")
        total = row["total_weight"] or 1.0
        return StoredTendency(
            user_id,
            tendency_from_row(row),
            row["profile_type"],
            [(key, weight / total) for key, weight in places_from_row(row)],
            row["database_time"],
        )

    async def declare_preferences(self, user_id: str, profile_type: str) -> None:
        """Replace a user's declared wishes."""
        async with self._database.acquire() as connection:
            await connection.execute(_SQL["declare_preferences"], user_id, profile_type)


async def _lock(connection: Connection, user_ids: set[str]) -> dict[str, Tendency]:
    users = sorted(user_ids)
    await connection.execute(_SQL["make_tendencies"], users)
    rows = await connection.fetch(_SQL["lock_tendencies"], users)
    return {row["user_id"]: tendency_from_row(row) for row in rows}


def _session(row: asyncpg.Record) -> Session:
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


async def _stored(connection: Connection, sent: Sequence[SentSession]) -> dict[SessionKey, Session]:
    keys = sorted({item.key for item in sent})
    rows = await connection.fetch(
        _SQL["stored_sessions"], [user for user, _ in keys], [session for _, session in keys]
    )
    return {(row["user_id"], row["session_id"]): _session(row) for row in rows}


async def _write_sessions(connection: Connection, sessions: Iterable[Session]) -> None:
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


async def _add(
    connection: Connection,
    tendencies: dict[str, Tendency],
    sessions: Iterable[Session],
    rebuilt_users: set[str],
) -> None:
    """Add sessions to the sums of their users; those of `rebuilt_users` start from nothing."""
    added = [s for s in sessions if s.user_id not in rebuilt_users]
    if rebuilt_users:
        users = sorted(rebuilt_users)
        await connection.execute(_SQL["forget_places"], users)
        rows = await connection.fetch(_SQL["users_sessions"], users)
        added += [_session(row) for row in rows]
        for user in users:
            tendencies[user] = empty_tendency()
    places: dict[str, PlaceWeights] = {}
    for session in added:
        add_session(tendencies[session.user_id], session)
        add_place(places.setdefault(session.user_id, {}), session)
    await _write_tendencies(connection, {user: tendencies[user] for user in places})
    await _write_places(connection, places)


async def _write_tendencies(connection: Connection, tendencies: dict[str, Tendency]) -> None:
    await connection.execute(
        _SQL["write_tendencies"],
        list(tendencies),
        [t.sessions for t in tendencies.values()],
        [t.first_session_time for t in tendencies.values()],
        [t.last_session_time for t in tendencies.values()],
        [t.state.astype("<f8").tobytes() for t in tendencies.values()],
    )


async def _write_places(connection: Connection, places: dict[str, PlaceWeights]) -> None:
    rows = [
        (user, p.country_code, p.party_id, p.location_id, p.evse_uid, weight)
        for user, weights in sorted(places.items())
        for p, weight in sorted(weights.items())
    ]
    await connection.execute(_SQL["add_places"], *(list(c) for c in zip(*rows, strict=True)))
