"""Sessions and tendencies in the store: each session counts once, in any order."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import asyncpg

from voucher_grpc.domain.personal_data import StoredTendency
from voucher_grpc.domain.tendencies.forecast import Parameters, forecasts
from voucher_grpc.domain.tendencies.recording import (
    Outcome,
    PlaceWeights,
    SentSession,
    SessionKey,
    add_place,
    judge_sessions,
)
from voucher_grpc.domain.tendencies.tendency import Session, Tendency, add_session, empty_tendency
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.store import queries
from voucher_grpc.store.database import Connection, Database
from voucher_grpc.store.places import location_key
from voucher_grpc.store.tendencies import places_from_row, tendency_from_row

_SQL = queries.load("sessions")


class SessionStore:
    """Records sessions and keeps tendencies."""

    def __init__(self, database: Database, parameters: Parameters) -> None:
        self._database = database
        self._parameters = parameters

    async def record(self, sent: Sequence[SentSession]) -> Sequence[Outcome | Refusal]:
        """Store what is new or corrected and add it to the tendencies, in one transaction.

        The time zone is the location's own, else the one sent; without one: TIME_ZONE_UNKNOWN.
        """
        if not sent:
            return []
        async with self._database.transaction() as connection:
            placed = await _placed(connection, sent)
            known = [item for item in placed if item.session.time_zone]
            outcomes = iter(await self._record(connection, known) if known else ())
        return [next(outcomes) if p.session.time_zone else _zone_unknown() for p in placed]

    async def _record(
        self, connection: Connection, sent: Sequence[SentSession]
    ) -> Sequence[Outcome | Refusal]:
        tendencies, stale = await _lock(connection, {item.session.user_id for item in sent})
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
            rebuilt = corrected | (stale & {user_id for user_id, _ in changed})
            await self._add(connection, tendencies, changed.values(), rebuilt)
        return outcomes

    async def _add(
        self,
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
            added += [session_from_row(row) for row in rows]
            for user in users:
                tendencies[user] = empty_tendency()
        places: dict[str, PlaceWeights] = {}
        for session in added:
            add_session(tendencies[session.user_id], session)
            add_place(places.setdefault(session.user_id, {}), session)
        changed = {user: tendencies[user] for user in places}
        made = forecasts(self._parameters, list(changed.values()))
        for tendency, forecast in zip(changed.values(), made, strict=True):
            tendency.forecast = forecast
        await _write_tendencies(connection, changed)
        await _write_places(connection, places)

    async def rebuild_all(self, progress: Callable[[int], None]) -> int:
        """Rebuild every tendency from its sessions; returns how many users there are.

        A page of users at a time, each page a transaction, so that it can run
        beside a server; `progress` hears how many are done.
        """
        done, after = 0, ""
        while True:
            async with self._database.transaction() as connection:
                rows = await connection.fetch(_SQL["page_of_users"], after)
                users = {row["user_id"] for row in rows}
                if not users:
                    return done
                tendencies, _ = await _lock(connection, users)
                await self._add(connection, tendencies, (), users)
            done, after = done + len(users), max(users)
            progress(done)

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


async def _placed(connection: Connection, sent: Sequence[SentSession]) -> Sequence[SentSession]:
    """With the time zones of the locations, where these are known.

    Read each time: a session is stored for good with its zone.
    """
    keys = sorted({location_key(item.session.place) for item in sent})
    rows = await connection.fetch(_SQL["time_zones"], *(list(c) for c in zip(*keys, strict=True)))
    zones = {(r["country_code"], r["party_id"], r["location_id"]): r["time_zone"] for r in rows}
    return [
        replace(item, session=replace(item.session, time_zone=zone))
        if (zone := zones.get(location_key(item.session.place)))
        else item
        for item in sent
    ]


def _zone_unknown() -> Refusal:
    return Refusal(Reason.TIME_ZONE_UNKNOWN, "time_zone: is missing, and the location is not known")


async def _lock(connection: Connection, user_ids: set[str]) -> tuple[dict[str, Tendency], set[str]]:
    """(tendencies by user, users whose tendency is kept in another layout)."""
    users = sorted(user_ids)
    await connection.execute(_SQL["make_tendencies"], users)
    rows = await connection.fetch(_SQL["lock_tendencies"], users)
    known = {row["user_id"]: tendency_from_row(row) for row in rows}
    stale = {row["user_id"] for row in rows if row["sessions"] and known[row["user_id"]] is None}
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


async def _stored(connection: Connection, sent: Sequence[SentSession]) -> dict[SessionKey, Session]:
    keys = sorted({item.key for item in sent})
    rows = await connection.fetch(
        _SQL["stored_sessions"], [user for user, _ in keys], [session for _, session in keys]
    )
    return {(row["user_id"], row["session_id"]): session_from_row(row) for row in rows}


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


async def _write_tendencies(connection: Connection, tendencies: dict[str, Tendency]) -> None:
    await connection.execute(
        _SQL["write_tendencies"],
        list(tendencies),
        [t.sessions for t in tendencies.values()],
        [t.first_session_time for t in tendencies.values()],
        [t.last_session_time for t in tendencies.values()],
        [t.state.astype("<f8").tobytes() for t in tendencies.values()],
        [t.forecast for t in tendencies.values()],
    )


async def _write_places(connection: Connection, places: dict[str, PlaceWeights]) -> None:
    rows = [
        (user, p.country_code, p.party_id, p.location_id, p.evse_uid, weight)
        for user, weights in sorted(places.items())
        for p, weight in sorted(weights.items())
    ]
    if not rows:
        return
    await connection.execute(_SQL["add_places"], *(list(c) for c in zip(*rows, strict=True)))
