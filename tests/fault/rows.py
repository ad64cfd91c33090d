"""The rows of a database, as the checker takes them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PassRow:
    """A row of passes."""

    user_id: str
    pass_id: str
    request_id: UUID
    offer_digest: bytes
    product_id: str
    product_revision: int
    vehicle_id: str
    price_micros: int
    currency_code: str
    payment_reference: str
    purchase_time: datetime
    start_time: datetime | None = None
    end_time: datetime | None = None
    hold_expire_time: datetime | None = None
    confirm_time: datetime | None = None
    close_time: datetime | None = None
    closed_as: str | None = None
    refund_micros: int | None = None

    @property
    def paid_time(self) -> datetime | None:
        """When it was paid; None for a hold that was not."""
        return self.confirm_time if self.hold_expire_time is not None else self.purchase_time

    @property
    def counts_until(self) -> datetime | None:
        """Until when it counts against stock and limit; None: it still does.

        A hold that was not confirmed counts to the end of its time, whenever that was noted.
        """
        if self.closed_as == "CANCELLED":
            return self.close_time
        return self.hold_expire_time if self.paid_time is None else None

    @property
    def key(self) -> tuple[str, UUID]:
        """What must be there once."""
        return self.user_id, self.request_id

    @property
    def content(self) -> tuple[bytes, str, str, int]:
        """As Purchase.content."""
        reference = self.payment_reference if self.hold_expire_time is None else ""
        return self.offer_digest, self.vehicle_id, reference, self.price_micros


@dataclass(frozen=True, slots=True)
class EntryRow:
    """A row of ledger_entries."""

    user_id: str
    pass_id: str
    entry_number: int
    kind: str
    energy_wh: int | None
    sessions: int | None


@dataclass(frozen=True, slots=True)
class EventRow:
    """A row of events."""

    user_id: str
    event_seq: int
    event_type: str
    pass_id: str
    time_s: float
    position: int | None


@dataclass(frozen=True, slots=True)
class StockRow:
    """A row of product_stock."""

    product_id: str
    stock: int | None
    sold: int
    sold_out: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """What the tables hold at `now`; references by name, with (user_id, pass_id), and the
    places that holds have in the stock by (user_id, pass_id)."""

    passes: tuple[PassRow, ...]
    entries: tuple[EntryRow, ...]
    events: tuple[EventRow, ...]
    stocks: tuple[StockRow, ...]
    references: dict[str, tuple[str, str]]
    last_event_seqs: dict[str, int]
    holds: frozenset[tuple[str, str]]
    now: datetime


_PASSES = """
SELECT user_id, pass_id::text, request_id, offer_digest, product_id, product_revision, vehicle_id,
    price_micros, currency_code, payment_reference,
    purchase_time, start_time, end_time, hold_expire_time, confirm_time, close_time, closed_as,
    refund_micros
FROM passes ORDER BY user_id, pass_id"""
_ENTRIES = """
SELECT user_id, pass_id::text, entry_number, kind, energy_wh, sessions
FROM ledger_entries ORDER BY user_id, pass_id, entry_number"""
_EVENTS = """
SELECT user_id, event_seq, event_type, pass_id::text,
    extract(epoch FROM event_time)::float8 AS time_s, position
FROM events ORDER BY position, user_id, event_seq"""
_STOCKS = "SELECT product_id, stock, sold, sold_out FROM product_stock ORDER BY product_id"
_REFERENCES = "SELECT payment_reference, user_id, pass_id::text FROM payment_references"
_HOLDS = "SELECT user_id, pass_id::text FROM holds"
_SEQUENCES = "SELECT user_id, last_event_seq FROM user_sequences"


async def read_rows(database_url: str) -> Rows:
    """All rows of one instant, straight from the database."""
    connection = await asyncpg.connect(database_url)

    async def rows(row: Callable[..., T], query: str) -> tuple[T, ...]:
        found: list[Any] = await connection.fetch(query)
        return tuple(row(**_own(dict(record))) for record in found)

    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return Rows(
                passes=await rows(PassRow, _PASSES),
                entries=await rows(EntryRow, _ENTRIES),
                events=await rows(EventRow, _EVENTS),
                stocks=await rows(StockRow, _STOCKS),
                references={
                    row["payment_reference"]: (row["user_id"], row["pass_id"])
                    for row in await connection.fetch(_REFERENCES)
                },
                last_event_seqs={
                    row["user_id"]: row["last_event_seq"]
                    for row in await connection.fetch(_SEQUENCES)
                },
                holds=frozenset(tuple(row) for row in await connection.fetch(_HOLDS)),
                now=await connection.fetchval("SELECT now()"),
            )
    finally:
        await connection.close()


def _own(values: dict[str, Any]) -> dict[str, Any]:
    """The driver's UUIDs as the standard library's, which compare and print the same."""
    return {
        name: UUID(int=value.int) if isinstance(value, UUID) else value
        for name, value in values.items()
    }
