"""Charges as they are stored, what a batch of them reads under its locks, and what it writes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from voucher_grpc.domain.passes.event import EventType
from voucher_grpc.domain.passes.ledger import LedgerKind
from voucher_grpc.domain.passes.state import Pass
from voucher_grpc.domain.pricing.document import tariff_from_document, tariff_to_text
from voucher_grpc.domain.redemption.charge import (
    Bill,
    Charge,
    ChargeStatus,
    PassUse,
    Requested,
)
from voucher_grpc.errors import Refusal
from voucher_grpc.money import Money
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.steps import finished
from voucher_grpc.store import queries
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import Connection
from voucher_grpc.store.pass_locks import Key, WriteMismatch, number_event
from voucher_grpc.store.passes import pass_from_row

_SQL = queries.load("charges")


@dataclass(frozen=True, slots=True)
class Entry:
    """A ledger entry; None where it does not change that measure."""

    pass_id: UUID
    number: int
    kind: LedgerKind
    energy_wh: int | None
    sessions: int | None


@dataclass(slots=True)
class ChargeWrites:
    """What a batch writes: charges by key, and for each user what follows from them."""

    charges: dict[Key, Charge] = field(default_factory=dict)
    entries: list[tuple[str, Entry]] = field(default_factory=list)
    events: list[tuple[str, EventType, UUID]] = field(default_factory=list)
    passes: dict[Key, Pass] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChargeLookups:
    """What a batch looks up: charges by key, and by (user_id, CDR, session), both as they are
    compared."""

    keys: Sequence[Key]
    cdrs: Sequence[tuple[str, str, str]]


async def due_users(connection: Connection, limit: int) -> list[str]:
    """The user of each charge whose reservation is over and was not given back."""
    return [row["user_id"] for row in await connection.fetch(_SQL["due"], limit)]


async def read_charges(
    connection: Connection, asked: ChargeLookups, users: Sequence[str], now: datetime
) -> dict[Key, Charge]:
    """The charges that a batch asks for, with those of its users whose reservation is over."""
    keys = [*asked.keys, *((user_id, _NO_CHARGE) for user_id in users)]
    rows = await connection.fetch(
        _SQL["charges"],
        [user_id for user_id, _ in keys],
        [charge_id for _, charge_id in keys],
        [user_id for user_id, _, _ in asked.cdrs],
        [cdr for _, cdr, _ in asked.cdrs],
        [session for _, _, session in asked.cdrs],
        now,
    )
    found = {(row["user_id"], row["charge_id"]): row for row in rows}
    return await _with_uses(connection, found)


_NO_CHARGE = UUID(int=0)


async def _with_uses(
    connection: Connection, found: Mapping[Key, asyncpg.Record]
) -> dict[Key, Charge]:
    if not found:
        return {}
    rows = await connection.fetch(
        _SQL["uses"],
        [user_id for user_id, _ in found],
        [charge_id for _, charge_id in found],
    )
    uses: dict[Key, list[PassUse]] = {}
    for user_id, charge_id, *values in rows:
        uses.setdefault((user_id, charge_id), []).append(PassUse(*values))
    return {key: _charge(row, uses.get(key, ())) for key, row in found.items()}


def _charge(row: asyncpg.Record, uses: Iterable[PassUse]) -> Charge:
    place = ("country_code", "party_id", "location_id", "evse_uid", "connector_id")
    requested = ("requested_energy_wh", "requested_duration_s", "requested_cost_micros")
    return Charge(
        user_id=row["user_id"],
        charge_id=row["charge_id"],
        status=ChargeStatus(row["status"]),
        content=row["content"],
        place=PlaceKey(*(row[name] for name in place)),
        tariff=tariff_from_document(json.loads(row["tariff"])),
        time_zone=row["time_zone"],
        tax_basis_points=row["tax_basis_points"],
        authorize_time=row["authorize_time"],
        expire_time=row["expire_time"],
        requested=Requested(*(row[name] for name in requested)),
        pay_as_you_go=row["pay_as_you_go"],
        named_pass=row["named_pass"],
        uses=tuple(uses),
        session_id=row["session_id"],
        cdr_id=row["cdr_id"],
        capture_content=row["capture_content"],
        bill=None if row["bill"] is None else _bill_from_document(row["bill"]),
        condition=row["condition"],
    )


def _bill_from_document(document: Mapping[str, Any]) -> Bill:
    cost = document["operator_cost"]
    return Bill(
        start_time=datetime.fromisoformat(document["start_time"]),
        end_time=datetime.fromisoformat(document["end_time"]),
        energy_wh=document["energy_wh"],
        total=tuple(document["total"]),
        pay_as_you_go=tuple(document["pay_as_you_go"]),
        operator_cost=None if cost is None else Money(*cost),
        remarks=tuple((code, text) for code, text in document["remarks"]),
    )


def _bill_document(bill: Bill) -> dict[str, Any]:
    cost = bill.operator_cost
    return {
        "start_time": bill.start_time.isoformat(),
        "end_time": bill.end_time.isoformat(),
        "energy_wh": bill.energy_wh,
        "total": bill.total,
        "pay_as_you_go": bill.pay_as_you_go,
        "operator_cost": None if cost is None else [cost.micros, cost.currency_code],
        "remarks": bill.remarks,
    }


async def read_user_passes(
    connection: Connection, users: Sequence[str], since: datetime
) -> dict[str, list[Pass]]:
    """By user the passes that a charge can be used with which began at `since` or later."""
    rows = await connection.fetch(_SQL["passes"], users, since)
    found: dict[str, list[Pass]] = {}
    for one in await _with_balances(connection, rows):
        found.setdefault(one.user_id, []).append(one)
    return found


async def passes_in_use(connection: Connection, keys: Sequence[Key]) -> frozenset[Key]:
    """Those of the passes of which a part is reserved for charges."""
    if not keys:
        return frozenset()
    rows = await connection.fetch(
        _SQL["reserved"],
        [user_id for user_id, _ in keys],
        [pass_id for _, pass_id in keys],
    )
    return frozenset((row["user_id"], row["pass_id"]) for row in rows)


async def read_passes_by_key(connection: Connection, keys: Sequence[Key]) -> list[Pass]:
    """The passes under these keys, whatever has become of them."""
    users, pass_ids = [user_id for user_id, _ in keys], [pass_id for _, pass_id in keys]
    rows = await connection.fetch(_SQL["known_passes"], users, pass_ids)
    return await _with_balances(connection, rows)


async def _with_balances(connection: Connection, rows: Sequence[asyncpg.Record]) -> list[Pass]:
    if not rows:
        return []
    sums = await connection.fetch(
        _SQL["balances"], [row["user_id"] for row in rows], [row["pass_id"] for row in rows]
    )
    balances = {(row["user_id"], row["pass_id"]): row for row in sums}
    return [
        pass_from_row(
            {**dict(row), **dict(balances.get((row["user_id"], row["pass_id"]), _NOTHING))}
        )
        for row in rows
    ]


_NOTHING = {"balance_energy_wh": None, "balance_sessions": None, "ledger_entries": 0}


async def write_charges(
    connection: Connection, written: ChargeWrites, sequences: dict[str, int], now: datetime
) -> None:
    """Write what a batch has decided; raises WriteMismatch, and so rolls back, if less was
    written."""
    charges = list(written.charges.values())
    if not charges:
        return
    uses = [(charge, number, use) for charge in charges for number, use in enumerate(charge.uses)]
    row = await connection.fetchrow(
        _SQL["write"],
        [c.user_id for c in charges],
        [c.charge_id for c in charges],
        [c.status.value for c in charges],
        [c.content for c in charges],
        [c.place.country_code for c in charges],
        [c.place.party_id for c in charges],
        [c.place.location_id for c in charges],
        [c.place.evse_uid for c in charges],
        [c.place.connector_id for c in charges],
        [finished(tariff_to_text(c.tariff)) for c in charges],
        [c.time_zone for c in charges],
        [c.tax_basis_points for c in charges],
        [c.authorize_time for c in charges],
        [c.expire_time for c in charges],
        [c.requested.energy_wh for c in charges],
        [c.requested.duration_s for c in charges],
        [c.requested.cost_micros for c in charges],
        [c.pay_as_you_go for c in charges],
        [c.named_pass for c in charges],
        [c.session_id for c in charges],
        [c.cdr_id for c in charges],
        [c.capture_content for c in charges],
        [None if c.bill is None else _bill_document(c.bill) for c in charges],
        [c.user_id for c, _, _ in uses],
        [c.charge_id for c, _, _ in uses],
        [use.pass_id for _, _, use in uses],
        [number for _, number, _ in uses],
        [use.reserved_energy_wh for _, _, use in uses],
        [use.reserved_sessions for _, _, use in uses],
        [use.energy_wh for _, _, use in uses],
        [use.sessions for _, _, use in uses],
        [use.saved_micros for _, _, use in uses],
        [use.of_balance for _, _, use in uses],
        [user_id for user_id, _ in written.entries],
        [entry.pass_id for _, entry in written.entries],
        [entry.number for _, entry in written.entries],
        [entry.kind.value for _, entry in written.entries],
        [entry.energy_wh for _, entry in written.entries],
        [entry.sessions for _, entry in written.entries],
        now,
        [user_id for user_id, _, _ in written.events],
        [number_event(sequences, user_id) for user_id, _, _ in written.events],
        [kind.value for _, kind, _ in written.events],
        [pass_id for _, _, pass_id in written.events],
        [p.user_id for p in written.passes.values()],
        [p.pass_id for p in written.passes.values()],
        [p.period.start_time for p in written.passes.values()],
        [p.period.end_time for p in written.passes.values()],
        [c.condition for c in charges],
        [p.left_energy_wh for p in written.passes.values()],
        [p.left_sessions for p in written.passes.values()],
    )
    users = len({user_id for user_id, _, _ in written.events})
    expected = (len(charges), users, len(written.passes))
    if row is None or tuple(row) != expected:
        raise WriteMismatch(f"wrote {row}, expected {expected}")


class ChargeStore:
    """Reads charges."""

    def __init__(self, database: Database, not_found: Refusal) -> None:
        self._database = database
        self._not_found = not_found

    async def get(self, user_id: str, charge_id: UUID) -> Charge:
        """A charge of a user. Raises CHARGE_NOT_FOUND."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_SQL["charge"], user_id, charge_id)
            if row is None:
                raise self._not_found
            return (await _with_uses(connection, {(user_id, charge_id): row}))[user_id, charge_id]

    async def page(
        self, user_id: str, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[Charge]:
        """Up to `limit` charges after (authorize_time, charge_id), the newest first."""
        time, charge_id = after or (None, None)
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_SQL["list_charges"], user_id, time, charge_id, limit)
            found = {(row["user_id"], row["charge_id"]): row for row in rows}
            return list((await _with_uses(connection, found)).values())
