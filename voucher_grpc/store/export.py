"""ExportUser: everything stored about a user, a page at a time.

The sections come in the order of `Section`, each in the order of its key. What
other calls show too is read as they read it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID

from voucher_grpc.domain.passes.event import Event
from voucher_grpc.domain.personal_data import (
    EventCount,
    LedgerEntry,
    PaymentReference,
    PlaceShare,
    Value,
)
from voucher_grpc.domain.tendencies.recording import Cancellation
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.store import queries
from voucher_grpc.store.charges import ChargeStore
from voucher_grpc.store.database import Database
from voucher_grpc.store.passes import PassStore
from voucher_grpc.store.sessions import TendencyStore, session_from_row
from voucher_grpc.store.tokens import TokenStore
from voucher_grpc.store.users import UserStore

_SQL = queries.load("export")


class Section(StrEnum):
    """What is exported, in this order; each is one table."""

    USER = "user"
    VEHICLES = "vehicles"
    TENDENCY = "tendency"
    PLACES = "places"
    SESSIONS = "sessions"
    CANCELLED_SESSIONS = "cancelled_sessions"
    PASSES = "passes"
    LEDGER_ENTRIES = "ledger_entries"
    TOKENS = "tokens"
    CHARGES = "charges"
    EVENTS = "events"
    PAYMENT_REFERENCES = "payment_references"
    EVENT_COUNT = "event_count"


# A value with its key in its section: as many visible ASCII texts as KEY_PARTS says.
Kept: TypeAlias = tuple[Sequence[str], Value]
KEY_PARTS: Mapping[Section, int] = {
    **dict.fromkeys(Section, 1),
    Section.PLACES: 4,
    Section.PASSES: 2,
    Section.LEDGER_ENTRIES: 2,
    Section.CHARGES: 2,
}


class ExportStore:
    """Reads everything stored about a user, section by section."""

    def __init__(
        self,
        database: Database,
        users: UserStore,
        sessions: TendencyStore,
        passes: PassStore,
        charges: ChargeStore,
        tokens: TokenStore,
    ) -> None:
        self._database = database
        self._users = users
        self._sessions = sessions
        self._passes = passes
        self._charges = charges
        self._tokens = tokens
        self._read: Mapping[
            Section, Callable[[str, Sequence[str] | None, int], Awaitable[Sequence[Kept]]]
        ] = {
            Section.USER: self._user,
            Section.VEHICLES: self._vehicles,
            Section.TENDENCY: self._tendency,
            Section.PLACES: self._places,
            Section.SESSIONS: self._charging_sessions,
            Section.CANCELLED_SESSIONS: self._cancelled_sessions,
            Section.PASSES: self._owned_passes,
            Section.LEDGER_ENTRIES: self._ledger_entries,
            Section.TOKENS: self._user_tokens,
            Section.CHARGES: self._user_charges,
            Section.EVENTS: self._events,
            Section.PAYMENT_REFERENCES: self._payment_references,
            Section.EVENT_COUNT: self._event_count,
        }

    async def read(
        self, user_id: str, section: Section, after: Sequence[str] | None, limit: int
    ) -> Sequence[Kept]:
        """Up to `limit` of a section, after a key that this method gave; None: from its start."""
        return await self._read[section](user_id, after, limit)

    async def _user(self, user_id: str, after: Sequence[str] | None, _limit: int) -> Sequence[Kept]:
        if after is not None:
            return []
        try:
            return [((user_id,), await self._users.get(user_id))]
        except Refusal as refusal:
            return _nothing(refusal)

    async def _vehicles(
        self, user_id: str, after: Sequence[str] | None, limit: int
    ) -> Sequence[Kept]:
        [last] = after or ("",)
        vehicles = await self._users.list_vehicles(user_id, last, limit)
        return [((vehicle.vehicle_id,), vehicle) for vehicle in vehicles]

    async def _tendency(
        self, user_id: str, after: Sequence[str] | None, _limit: int
    ) -> Sequence[Kept]:
        if after is not None:
            return []
        try:
            return [((user_id,), await self._sessions.get_tendency(user_id))]
        except Refusal as refusal:
            return _nothing(refusal)

    async def _places(
        self, user_id: str, after: Sequence[str] | None, limit: int
    ) -> Sequence[Kept]:
        last = after or ("", "", "", "")
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_SQL["places"], user_id, *last, limit)
        found: list[Kept] = []
        for *key, share in rows:
            found.append((key, PlaceShare(PlaceKey(*key), share)))
        return found

    async def _charging_sessions(
        self, user_id: str, after: Sequence[str] | None, limit: int
    ) -> Sequence[Kept]:
        [last] = after or ("",)
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_SQL["sessions"], user_id, last, limit)
        return [((row["session_id"],), session_from_row(row)) for row in rows]

    async def _cancelled_sessions(
        self, user_id: str, after: Sequence[str] | None, limit: int
    ) -> Sequence[Kept]:
        [last] = after or ("",)
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_SQL["cancelled_sessions"], user_id, last, limit)
        return [((row["session_id"],), Cancellation(user_id, row["session_id"])) for row in rows]

    async def _owned_passes(
        self, user_id: str, after: Sequence[str] | None, limit: int
    ) -> Sequence[Kept]:
        last = None
        if after is not None:
            time, pass_id = after
            last = datetime.fromisoformat(time), UUID(pass_id)
        passes = await self._passes.page(user_id, last, limit)
        return [((p.owned.purchase_time.isoformat(), str(p.owned.pass_id)), p) for p in passes]

    async def _ledger_entries(
        self, user_id: str, after: Sequence[str] | None, limit: int
    ) -> Sequence[Kept]:
        last = after or ("", "")
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_SQL["ledger_entries"], user_id, *last, limit)
        entries = [LedgerEntry(**row) for row in rows]
        return [((entry.pass_id, f"{entry.entry_number:010}"), entry) for entry in entries]

    async def _user_tokens(
        self, user_id: str, after: Sequence[str] | None, limit: int
    ) -> Sequence[Kept]:
        [last] = after or ("",)
        tokens = await self._tokens.page(user_id, last, limit)
        return [((token.key.compared,), token) for token in tokens]

    async def _user_charges(
        self, user_id: str, after: Sequence[str] | None, limit: int
    ) -> Sequence[Kept]:
        last = None
        if after is not None:
            time, charge_id = after
            last = datetime.fromisoformat(time), UUID(charge_id)
        charges = await self._charges.page(user_id, last, limit)
        return [((c.authorize_time.isoformat(), str(c.charge_id)), c) for c in charges]

    async def _events(
        self, user_id: str, after: Sequence[str] | None, limit: int
    ) -> Sequence[Kept]:
        [last] = after or ("",)
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_SQL["events"], user_id, last, limit)
        events = [Event(**row) for row in rows]
        return [((f"{event.event_seq:019}",), event) for event in events]

    async def _payment_references(
        self, user_id: str, after: Sequence[str] | None, limit: int
    ) -> Sequence[Kept]:
        [last] = after or ("",)
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_SQL["payment_references"], user_id, last, limit)
        return [((row["payment_reference"],), PaymentReference(**row)) for row in rows]

    async def _event_count(
        self, user_id: str, after: Sequence[str] | None, _limit: int
    ) -> Sequence[Kept]:
        if after is not None:
            return []
        async with self._database.acquire() as connection:
            count = await connection.fetchval(_SQL["user_sequences"], user_id)
        return [] if count is None else [((user_id,), EventCount(count))]


def _nothing(refusal: Refusal) -> Sequence[Kept]:
    """No record is an empty section here."""
    if refusal.reason is not Reason.USER_NOT_FOUND:
        raise refusal
    return []
