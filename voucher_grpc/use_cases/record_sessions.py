"""RecordSessions: each session counts once, in any order."""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet

from voucher_grpc.domain.tendencies.forecast import Parameters, forecasts
from voucher_grpc.domain.tendencies.recording import (
    Cancellation,
    Outcome,
    PlaceWeights,
    SentSession,
    SessionKey,
    add_place,
    judge_sessions,
)
from voucher_grpc.domain.tendencies.tendency import Session, Tendency, add_session, empty_tendency
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import Connection
from voucher_grpc.store.sessions import (
    add_places,
    cancel_sessions,
    delete_sessions,
    forget_cancelled,
    forget_places,
    lock_tendencies,
    page_of_users,
    read_all_sessions,
    read_cancelled,
    read_sessions,
    with_time_zones,
    write_sessions,
    write_tendencies,
)


class RecordSessions:
    """Records sessions, and adds them to the tendencies of their users."""

    def __init__(self, database: Database, parameters: Parameters) -> None:
        self._database = database
        self._parameters = parameters

    async def record(
        self, sent: Sequence[SentSession | Cancellation]
    ) -> Sequence[Outcome | Refusal]:
        """Store what is new or corrected and add it to the tendencies, in one transaction.

        The time zone is the location's own, else the one sent; without one: TIME_ZONE_UNKNOWN.
        """
        if not sent:
            return []
        async with self._database.transaction() as connection:
            placed = await with_time_zones(connection, sent)
            known = [p for p in placed if isinstance(p, Cancellation) or p.session.time_zone]
            outcomes = iter(await self._record(connection, known) if known else ())
        return [
            next(outcomes)
            if isinstance(p, Cancellation) or p.session.time_zone
            else _zone_unknown()
            for p in placed
        ]

    async def delete(self, user_id: str, session_ids: Sequence[str]) -> AbstractSet[str]:
        """Delete sessions of a user, and make the tendency anew; the ids of those that were
        there. Those that were cancelled can be recorded again too."""
        keys = [(user_id, session_id) for session_id in session_ids]
        async with self._database.transaction() as connection:
            tendencies, _ = await lock_tendencies(connection, {user_id})
            await forget_cancelled(connection, keys)
            deleted = await delete_sessions(connection, keys)
            if deleted:
                await self._add(connection, tendencies, (), {user_id})
        return {session_id for _, session_id in deleted}

    async def _record(
        self, connection: Connection, sent: Sequence[SentSession | Cancellation]
    ) -> Sequence[Outcome | Refusal]:
        tendencies, stale = await lock_tendencies(connection, {user for user, _ in _keys(sent)})
        cancelled = await read_cancelled(connection, _keys(sent))
        stored = await read_sessions(connection, _keys(sent))
        outcomes = judge_sessions(sent, stored, cancelled)
        changed = {
            item.key: item.session
            for item, outcome in zip(sent, outcomes, strict=True)
            if isinstance(item, SentSession) and outcome in (Outcome.RECORDED, Outcome.CORRECTED)
        }
        # A sum cannot be trusted to give back exactly what was added, so a
        # correction rebuilds its user from all sessions.
        rebuilt = {user for user, session_id in changed if (user, session_id) in stored}
        cancelling = [item.key for item in sent if isinstance(item, Cancellation)]
        if cancelling:
            rebuilt |= {user for user, _ in await cancel_sessions(connection, cancelling)}
        rebuilt |= stale & {user for user, _ in changed}
        if changed:
            await write_sessions(connection, changed.values())
        if changed or rebuilt:
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
            await forget_places(connection, users)
            added += await read_all_sessions(connection, users)
            for user in users:
                tendencies[user] = empty_tendency()
        places: dict[str, PlaceWeights] = {}
        for session in added:
            add_session(tendencies[session.user_id], session)
            add_place(places.setdefault(session.user_id, {}), session)
        with_sessions = {user: tendencies[user] for user in places}
        made = forecasts(self._parameters, list(with_sessions.values()))
        for tendency, forecast in zip(with_sessions.values(), made, strict=True):
            tendency.forecast = forecast
        # Of a user whose last session was deleted nothing is known any more.
        without = {user: tendencies[user] for user in rebuilt_users if user not in places}
        await write_tendencies(connection, with_sessions | without)
        await add_places(connection, places)

    async def rebuild_all(self, progress: Callable[[int], None]) -> int:
        """Rebuild every tendency from its sessions; returns how many users there are.

        A page of users at a time, each page a transaction, so that it can run
        beside a server; `progress` is called with how many are done.
        """
        done, after = 0, ""
        while True:
            async with self._database.transaction() as connection:
                users = await page_of_users(connection, after)
                if not users:
                    return done
                tendencies, _ = await lock_tendencies(connection, users)
                await self._add(connection, tendencies, (), users)
            done, after = done + len(users), max(users)
            progress(done)


def _keys(sent: Sequence[SentSession | Cancellation]) -> Sequence[SessionKey]:
    return sorted({item.key for item in sent})


def _zone_unknown() -> Refusal:
    return Refusal(Reason.TIME_ZONE_UNKNOWN, "time_zone: is missing, and the location is not known")
