"""Passes as they are stored, and reading them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from voucher_grpc.domain.catalogue.product import ValidityPeriod
from voucher_grpc.domain.passes.state import Balance, ClosedAs, Pass, PassWithTerms
from voucher_grpc.domain.personal_data import LedgerEntry
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.money import Money
from voucher_grpc.store import queries
from voucher_grpc.store.catalogue import RevisionCache
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import Connection

_SQL = queries.load("passes")


def pass_from_row(row: Mapping[str, Any] | asyncpg.Record) -> Pass:
    """A row of the view passes_with_balance, or one of its columns."""
    closed_as = row["closed_as"]
    return Pass(
        user_id=row["user_id"],
        pass_id=row["pass_id"],
        request_id=row["request_id"],
        offer_digest=row["offer_digest"],
        product_id=row["product_id"],
        product_revision=row["product_revision"],
        vehicle_id=row["vehicle_id"],
        price=Money(row["price_micros"], row["currency_code"]),
        payment_reference=row["payment_reference"],
        purchase_time=row["purchase_time"],
        time_zone=row["time_zone"],
        period=ValidityPeriod(row["start_time"], row["end_time"], row["first_use_before"]),
        balance=Balance(row["balance_energy_wh"], row["balance_sessions"]),
        ledger_entries=row["ledger_entries"],
        hold_expire_time=row["hold_expire_time"],
        confirm_time=row["confirm_time"],
        close_time=row["close_time"],
        closed_as=None if closed_as is None else ClosedAs(closed_as),
        refund_micros=row["refund_micros"],
        reserved_energy_wh=row.get("reserved_energy_wh", 0),
        reserved_sessions=row.get("reserved_sessions", 0),
    )


class PassStore:
    """Reads passes."""

    def __init__(self, database: Database, revisions: RevisionCache) -> None:
        self._database = database
        self._revisions = revisions

    async def get(self, user_id: str, pass_id: UUID) -> PassWithTerms:
        """A pass of a user. Raises PASS_NOT_FOUND."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_SQL["pass"], user_id, pass_id)
            if row is None:
                raise Refusal(Reason.PASS_NOT_FOUND, "the user has no such pass")
            return (await self._owned(connection, [row]))[0]

    async def page(
        self, user_id: str, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[PassWithTerms]:
        """Up to `limit` passes after (purchase_time, pass_id), the newest first."""
        time, pass_id = after or (None, None)
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_SQL["list_passes"], user_id, time, pass_id, limit)
            return await self._owned(connection, rows)

    async def _owned(
        self, connection: Connection, rows: Sequence[asyncpg.Record]
    ) -> list[PassWithTerms]:
        passes = [pass_from_row(row) for row in rows]
        terms = await self._revisions.terms(
            connection, {(p.product_id, p.product_revision) for p in passes}
        )
        return [PassWithTerms(p, terms[p.product_id, p.product_revision]) for p in passes]

    async def ledger(
        self, user_id: str, pass_id: UUID, after: int, limit: int
    ) -> Sequence[LedgerEntry]:
        """Up to `limit` entries of a pass after a number."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_SQL["ledger"], user_id, pass_id, after, limit)
        return [LedgerEntry(**row) for row in rows]
