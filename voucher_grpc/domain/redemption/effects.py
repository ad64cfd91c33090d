"""What follows from a change of a charge: entries of ledgers, balances, and events.

A ledger only grows. What is reserved is an entry of its own that is given back before what was used
is taken, so that no sum of the entries is ever below zero.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

from voucher_grpc.domain.passes.event import EventType
from voucher_grpc.domain.passes.ledger import LedgerEntry, LedgerKind
from voucher_grpc.domain.passes.state import Balance, ClosedAs, Pass
from voucher_grpc.domain.redemption.charge import Charge, ChargeStatus, PassUse


class PassEffect(NamedTuple):
    """What becomes of a pass: its entries, in their order, its new balance, and its events."""

    after: Pass
    entries: tuple[LedgerEntry, ...]
    events: tuple[EventType, ...]


_ENDED = {
    ChargeStatus.RELEASED: EventType.PASS_RELEASED,
    ChargeStatus.EXPIRED: EventType.PASS_RELEASED,
    ChargeStatus.REVERSED: EventType.PASS_REVERSED,
}


def effects(before: Charge | None, after: Charge, passes: Mapping[UUID, Pass]) -> list[PassEffect]:
    """What a charge that was `before` (None: it is new) and is `after` does to its passes."""
    was = {use.pass_id: use for use in before.uses} if before is not None else {}
    found = []
    for use in after.uses:
        owned = passes[use.pass_id]
        entries = tuple(_entries(was.get(use.pass_id, PassUse(use.pass_id)), use))
        if owned.closed_as is ClosedAs.CANCELLED:
            entries = ()  # it was paid back for what was left of it
        changed = _with(owned, entries)
        event = _event(before, after, was.get(use.pass_id), use)
        events = [] if event is None else [event]
        if changed.exhausted and not owned.exhausted:
            events.append(EventType.PASS_EXHAUSTED)
        found.append(PassEffect(changed, entries, tuple(events)))
    return found


def _event(
    before: Charge | None, after: Charge, was: PassUse | None, use: PassUse
) -> EventType | None:
    """None where nothing happens to the pass: it was neither authorized nor used."""
    if after.status is ChargeStatus.AUTHORIZED:
        return EventType.PASS_AUTHORIZED
    if after.status is ChargeStatus.CAPTURED and _taken(use):
        return EventType.PASS_CAPTURED
    if before is None or was is None:
        return None
    if before.status is ChargeStatus.AUTHORIZED:
        return _ENDED.get(after.status, EventType.PASS_RELEASED)
    return _ENDED.get(after.status) if _taken(was) else None


def _taken(use: PassUse) -> bool:
    return bool(use.energy_wh or use.sessions or use.saved_micros)


def _entries(was: PassUse, now: PassUse) -> Iterable[LedgerEntry]:
    reserved = (
        now.reserved_energy_wh - was.reserved_energy_wh,
        now.reserved_sessions - was.reserved_sessions,
    )
    taken = (_energy_of_balance(now) - _energy_of_balance(was), now.sessions - was.sessions)
    given_back = tuple(-min(0, amount) for amount in reserved)
    kept = tuple(-max(0, amount) for amount in reserved)
    for kind, (energy_wh, sessions) in (
        (LedgerKind.RELEASE, given_back),
        (LedgerKind.REVERSAL, tuple(-min(0, amount) for amount in taken)),
        (LedgerKind.RESERVATION, kept),
        (LedgerKind.CAPTURE, tuple(-max(0, amount) for amount in taken)),
    ):
        if energy_wh or sessions:
            yield LedgerEntry(kind, Balance(energy_wh or None, sessions or None))


def _energy_of_balance(use: PassUse) -> int:
    return use.energy_wh if use.of_balance else 0


def _with(owned: Pass, entries: Iterable[LedgerEntry]) -> Pass:
    energy_wh, sessions = owned.balance.energy_wh, owned.balance.sessions
    reserved_wh, reserved_sessions = owned.reserved_energy_wh, owned.reserved_sessions
    count = owned.ledger_entries
    for kind, amounts in entries:
        count += 1
        energy_wh = _plus(energy_wh, amounts.energy_wh)
        sessions = _plus(sessions, amounts.sessions)
        if kind in (LedgerKind.RESERVATION, LedgerKind.RELEASE):
            reserved_wh -= amounts.energy_wh or 0
            reserved_sessions -= amounts.sessions or 0
    return replace(
        owned,
        balance=Balance(energy_wh, sessions),
        ledger_entries=count,
        reserved_energy_wh=reserved_wh,
        reserved_sessions=reserved_sessions,
    )


def _plus(left: int | None, change: int | None) -> int | None:
    return left if change is None else (left or 0) + change
