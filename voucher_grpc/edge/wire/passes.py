"""Purchases, what follows them, and passes between messages and the domain."""

from datetime import datetime
from typing import Any
from uuid import UUID

from voucher_grpc.domain.catalogue.product import Terms
from voucher_grpc.domain.offer_ids.signer import MAX_OFFER_ID_CHARS
from voucher_grpc.domain.passes.change import Cancellation, Confirmation
from voucher_grpc.domain.passes.ledger import LedgerKind
from voucher_grpc.domain.passes.purchase import PurchaseRequest
from voucher_grpc.domain.passes.refund import withdrawal_end
from voucher_grpc.domain.passes.state import ClosedAs, Pass, pass_state
from voucher_grpc.domain.personal_data import LedgerEntry
from voucher_grpc.edge.wire.checks import Checks, enum_number
from voucher_grpc.edge.wire.conditions import conditions_message
from voucher_grpc.edge.wire.messages import money_message, timestamp
from voucher_grpc.edge.wire.products import benefit_message
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.money import Money, tax_micros
from voucher_grpc.v1 import pass_pb2 as pb
from voucher_grpc.v1 import voucher_service_pb2

MAX_REFERENCE_CHARS = 128
_STATE = pb.PassState.DESCRIPTOR
_KINDS = frozenset(LedgerKind)
_KIND = voucher_service_pb2.LedgerEntryKind.DESCRIPTOR


def purchase_from_message(message: voucher_service_pb2.PurchasePassRequest) -> PurchaseRequest:
    """A purchase, checked for form. Raises BadInput."""
    checks = Checks()
    request_id = checks.uuid("request_id", message.request_id)
    offer_id = checks.identifier(
        "offer_id", message.offer_id, required=True, max_chars=MAX_OFFER_ID_CHARS
    )
    user_id = checks.identifier("user_id", message.user_id)
    vehicle_id = checks.identifier("vehicle_id", message.vehicle_id)
    reference, amount = "", Money(0, "XXX")
    kind = message.payment.WhichOneof("payment")
    if kind == "captured":
        reference, amount = _captured(checks, "payment.captured", message.payment.captured)
    elif kind == "hold":
        amount = checks.money("payment.hold.amount", message.payment.hold.amount)
    else:
        checks.wrong("payment", "is missing: set captured or hold")
    checks.done()
    return PurchaseRequest(
        request_id, offer_id, user_id, vehicle_id, reference, amount, message.validate_only
    )


def _captured(
    checks: Checks, field: str, message: voucher_service_pb2.CapturedPayment
) -> tuple[str, Money]:
    """(reference, amount)."""
    reference = checks.identifier(
        f"{field}.reference", message.reference, required=True, max_chars=MAX_REFERENCE_CHARS
    )
    return reference, checks.money(f"{field}.amount", message.amount)


def confirmation_from_message(message: voucher_service_pb2.ConfirmPurchaseRequest) -> Confirmation:
    """A confirmation, checked for form. Raises BadInput, PASS_NOT_FOUND."""
    checks = Checks()
    user_id, pass_id = checked_pass_key(checks, message)
    reference, amount = _captured(checks, "payment", message.payment)
    checks.done()
    return Confirmation(user_id, pass_uuid(pass_id), reference, amount)


def cancellation_from_message(message: voucher_service_pb2.CancelPassRequest) -> Cancellation:
    """A cancellation, checked for form. Raises BadInput, PASS_NOT_FOUND."""
    checks = Checks()
    user_id, pass_id = checked_pass_key(checks, message)
    checks.done()
    return Cancellation(user_id, pass_uuid(pass_id), message.validate_only)


def pass_key(message: Any) -> tuple[str, UUID]:
    """(user_id, pass_id), checked for form. Raises BadInput, PASS_NOT_FOUND."""
    checks = Checks()
    user_id, pass_id = checked_pass_key(checks, message)
    checks.done()
    return user_id, pass_uuid(pass_id)


def checked_pass_key(checks: Checks, message: Any) -> tuple[str, str]:
    """(user_id, pass_id as it was sent)."""
    return (
        checks.identifier("user_id", message.user_id, required=True),
        checks.identifier("pass_id", message.pass_id, required=True),
    )


def pass_uuid(pass_id: str) -> UUID:
    """Any other text names no pass."""
    try:
        return UUID(pass_id)
    except ValueError:
        raise Refusal(Reason.PASS_NOT_FOUND, "the user has no such pass") from None


def ledger_entry_message(entry: LedgerEntry) -> voucher_service_pb2.LedgerEntry:
    """An entry; of a kind that is not known here, without it."""
    message = voucher_service_pb2.LedgerEntry(
        entry_number=entry.entry_number, entry_time=timestamp(entry.entry_time)
    )
    if entry.kind in _KINDS:
        kind = enum_number(_KIND, LedgerKind(entry.kind))
        message.kind = kind  # type: ignore[assignment]
    if entry.energy_wh is not None:
        message.energy_wh = entry.energy_wh
    if entry.sessions is not None:
        message.sessions = entry.sessions
    return message


def pass_part(terms: Terms, revision: int) -> pb.Pass:
    """The part of a pass that is the same for all of a revision (see `RevisionParts`)."""
    price = terms.price
    tax = Money(tax_micros(price.micros, terms.tax_rate_basis_points), price.currency_code)
    return pb.Pass(
        product_id=terms.product_id,
        product_revision=revision,
        display_name=terms.display_name,
        price=money_message(price),
        tax_rate_basis_points=terms.tax_rate_basis_points,
        tax=money_message(tax),
        benefit=benefit_message(terms.benefit, price.currency_code),
        conditions=conditions_message(terms.conditions),
    )


def fill_pass(message: pb.Pass, part: pb.Pass, owned: Pass, terms: Terms, now: datetime) -> None:
    """Fill a pass that stands in its answer, its state judged at `now`."""
    message.CopyFrom(part)
    message.pass_id = str(owned.pass_id)
    message.user_id = owned.user_id
    message.vehicle_id = owned.vehicle_id
    message.state = enum_number(_STATE, pass_state(owned, now))  # type: ignore[assignment]
    message.time_zone = owned.time_zone
    message.request_id = str(owned.request_id)
    message.payment_reference = owned.payment_reference
    message.balance.SetInParent()
    if owned.balance.energy_wh is not None:
        message.balance.energy_wh = owned.balance.energy_wh
    if owned.balance.sessions is not None:
        message.balance.sessions = owned.balance.sessions
    if owned.reserved_energy_wh:
        message.balance.reserved_energy_wh = owned.reserved_energy_wh
    if owned.reserved_sessions:
        message.balance.reserved_sessions = owned.reserved_sessions
    _fill_times(message, owned, terms)
    if owned.refund_micros is not None:
        refund = Money(owned.refund_micros, owned.price.currency_code)
        message.refund.CopyFrom(money_message(refund))


def _fill_times(message: pb.Pass, owned: Pass, terms: Terms) -> None:
    period = owned.period
    cancelled = owned.closed_as is ClosedAs.CANCELLED
    for field, instant in (
        (message.purchase_time, owned.purchase_time),
        (message.start_time, period.start_time),
        (message.end_time, period.end_time),
        (message.first_use_before, period.first_use_before),
        (message.withdrawal_end_time, withdrawal_end(terms, owned)),
        (message.hold_expire_time, owned.hold_expire_time),
        (message.confirm_time, owned.confirm_time),
        (message.cancel_time, owned.close_time if cancelled else None),
    ):
        if instant is not None:
            field.CopyFrom(timestamp(instant))
