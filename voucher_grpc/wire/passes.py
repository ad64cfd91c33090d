"""Purchases and passes between messages and the domain."""

from datetime import datetime

from voucher_grpc.catalogue.product import Terms
from voucher_grpc.errors import Refusal
from voucher_grpc.money import Money, tax_micros
from voucher_grpc.offers.offer_id import MAX_OFFER_ID_CHARS, OfferSigner, offer_digest
from voucher_grpc.passes.purchase import Pass, Purchase
from voucher_grpc.passes.state import pass_state
from voucher_grpc.v1 import pass_pb2 as pb
from voucher_grpc.v1 import voucher_service_pb2
from voucher_grpc.wire.checks import Checks, enum_number
from voucher_grpc.wire.conditions import conditions_message
from voucher_grpc.wire.messages import money_message, timestamp
from voucher_grpc.wire.products import benefit_message

MAX_REFERENCE_CHARS = 128
_STATE = pb.PassState.DESCRIPTOR


def purchase_from_message(
    message: voucher_service_pb2.PurchasePassRequest, signer: OfferSigner, arrival_time: datetime
) -> Purchase:
    """A purchase, checked for form; an offer that is not authentic is left to be judged.

    Raises BadInput, or OFFER_INVALID where the offer_id cannot even be read and
    so names no user under whom the key could be looked up.
    """
    checks = Checks()
    request_id = checks.uuid("request_id", message.request_id)
    offer_id = checks.identifier(
        "offer_id", message.offer_id, required=True, max_chars=MAX_OFFER_ID_CHARS
    )
    user_id = checks.identifier("user_id", message.user_id)
    vehicle_id = checks.identifier("vehicle_id", message.vehicle_id)
    reference, amount = "", Money(0, "XXX")
    if message.payment.WhichOneof("payment") != "captured":
        checks.wrong("payment", "is missing: set captured")
    else:
        captured = message.payment.captured
        reference = checks.identifier(
            "payment.captured.reference",
            captured.reference,
            required=True,
            max_chars=MAX_REFERENCE_CHARS,
        )
        amount = checks.money("payment.captured.amount", captured.amount)
    checks.done()
    owner, offer = user_id, None
    try:
        read = signer.read(offer_id)
        owner = read.terms.user_id
        offer = read.terms if read.authentic else None
    except Refusal:
        if not user_id:
            raise
    return Purchase(
        user_id=owner,
        request_id=request_id,
        offer_digest=offer_digest(offer_id),
        offer=offer,
        claimed_user_id=user_id,
        vehicle_id=vehicle_id,
        payment_reference=reference,
        amount=amount,
        arrival_time=arrival_time,
        validate_only=message.validate_only,
    )


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


def fill_pass(message: pb.Pass, part: pb.Pass, owned: Pass, now: datetime) -> None:
    """Fill a pass that stands in its answer, its state judged at `now`."""
    message.CopyFrom(part)
    message.pass_id = str(owned.pass_id)
    message.user_id = owned.user_id
    message.vehicle_id = owned.vehicle_id
    message.state = enum_number(_STATE, pass_state(owned.period, now))  # type: ignore[assignment]
    message.time_zone = owned.time_zone
    message.purchase_time.CopyFrom(timestamp(owned.purchase_time))
    message.request_id = str(owned.request_id)
    message.payment_reference = owned.payment_reference
    message.balance.SetInParent()
    if owned.balance.energy_wh is not None:
        message.balance.energy_wh = owned.balance.energy_wh
    if owned.balance.sessions is not None:
        message.balance.sessions = owned.balance.sessions
    period = owned.period
    if period.start_time is not None:
        message.start_time.CopyFrom(timestamp(period.start_time))
    if period.end_time is not None:
        message.end_time.CopyFrom(timestamp(period.end_time))
    if period.first_use_before is not None:
        message.first_use_before.CopyFrom(timestamp(period.first_use_before))
