"""Requests for offers and the offers made, between messages and the domain."""

import math
from dataclasses import dataclass
from datetime import datetime

from voucher_grpc.catalogue.conditions import PlaceKey
from voucher_grpc.catalogue.product import Terms
from voucher_grpc.errors import Refusal, bad_field
from voucher_grpc.money import Money, tax_micros
from voucher_grpc.offers.explain import Explained
from voucher_grpc.offers.explanation import DEFAULT_LANGUAGE, in_words
from voucher_grpc.offers.ranking import BreakEven, Choice, EmptyReason
from voucher_grpc.places.location import VehicleProfile
from voucher_grpc.v1 import offer_pb2 as pb
from voucher_grpc.v1 import voucher_service_pb2 as service_pb
from voucher_grpc.wire.checks import Checks, enum_number
from voucher_grpc.wire.conditions import conditions_message, place_from_message
from voucher_grpc.wire.messages import money_message, timestamp
from voucher_grpc.wire.places import profile_from_message
from voucher_grpc.wire.products import benefit_message, validity_message
from voucher_grpc.wire.status import status_of

MAX_OFFERS = 20
DEFAULT_OFFERS = 3
MAX_REQUESTS = 500
# An answer of so many offers stays below the 4 MiB that clients take by default.
MAX_OFFERS_OF_A_BATCH = 2_000
MAX_TAG_CHARS = 64

_REASON = pb.OfferReasonCode.DESCRIPTOR
_EMPTY = service_pb.EmptyReason.DESCRIPTOR
_VERDICT = service_pb.OfferVerdict.DESCRIPTOR


@dataclass(frozen=True, slots=True)
class OffersWanted:
    """A checked request for offers; `vehicle` None where the request describes none."""

    user_id: str
    vehicle_id: str
    vehicle: VehicleProfile | None
    place: PlaceKey | None
    country_code: str
    max_offers: int
    language: str
    currency_code: str


def offers_wanted(message: service_pb.RequestOffersRequest) -> OffersWanted:
    """Check a request for offers. Raises BadInput."""
    checks = Checks()
    wanted = offers_wanted_at(checks, "", message)
    checks.done()
    return wanted


def offers_wanted_at(
    checks: Checks, at: str, message: service_pb.RequestOffersRequest
) -> OffersWanted:
    """A request for offers as a part of another message; `at` begins the names of its fields."""
    if not message.user_id and not message.vehicle_id:
        checks.wrong(
            f"{at}user_id", "is missing: send a user_id or the vehicle_id of a registered vehicle"
        )
    place, country_code = None, ""
    kind = message.place.WhichOneof("place")
    if kind == "location":
        place = place_from_message(checks, f"{at}place.location", message.place.location)
    elif kind == "area":
        country_code = checks.country(
            f"{at}place.area.country_code", message.place.area.country_code, required=True
        )
    return OffersWanted(
        user_id=checks.identifier(f"{at}user_id", message.user_id),
        vehicle_id=checks.identifier(f"{at}vehicle_id", message.vehicle_id),
        vehicle=(
            profile_from_message(checks, f"{at}vehicle", message.vehicle)
            if message.HasField("vehicle")
            else None
        ),
        place=place,
        country_code=country_code,
        max_offers=checks.number(f"{at}max_offers", message.max_offers, 0, MAX_OFFERS)
        or DEFAULT_OFFERS,
        language=checks.language(f"{at}language", message.language),
        currency_code=checks.currency(f"{at}currency_code", message.currency_code),
    )


def batch_wanted(message: service_pb.BatchRequestOffersRequest) -> list[OffersWanted | Refusal]:
    """Each request checked, or why it is refused. Raises BadInput for what all of them break."""
    checks = Checks()
    checks.bounded("requests", message.requests, MAX_REQUESTS, 1)
    checks.done()
    wanted = [_wanted_or_refused(request) for request in message.requests]
    offers = sum(want.max_offers for want in wanted if isinstance(want, OffersWanted))
    if offers > MAX_OFFERS_OF_A_BATCH:
        raise bad_field(
            "requests",
            f"must ask for at most {MAX_OFFERS_OF_A_BATCH:,} offers together, asks for {offers:,}",
        )
    return wanted


def _wanted_or_refused(message: service_pb.RequestOffersRequest) -> OffersWanted | Refusal:
    try:
        return offers_wanted(message)
    except Refusal as refusal:
        return refusal


def stream_wanted(message: service_pb.StreamOffersRequest) -> OffersWanted | Refusal:
    """The request of a message of a stream, or why it is refused."""
    checks = Checks()
    checks.identifier("tag", message.tag, required=True)
    wanted = offers_wanted_at(checks, "request.", message.request)
    try:
        checks.done()
    except Refusal as refusal:
        return refusal
    return wanted


def fill_result(
    message: service_pb.OffersResult, result: service_pb.RequestOffersResponse | Refusal
) -> None:
    """Fill what became of one request."""
    if isinstance(result, Refusal):
        message.status.CopyFrom(status_of(result))
    else:
        message.response.CopyFrom(result)


def offer_part(terms: Terms, revision: int) -> pb.Offer:
    """The part of an offer that is the same for every user (see `RevisionParts`)."""
    price = terms.price
    tax = Money(tax_micros(price.micros, terms.tax_rate_basis_points), price.currency_code)
    return pb.Offer(
        product_id=terms.product_id,
        product_revision=revision,
        display_name=terms.display_name,
        description=terms.description,
        price=money_message(price),
        tax_rate_basis_points=terms.tax_rate_basis_points,
        tax=money_message(tax),
        benefit=benefit_message(terms.benefit, price.currency_code),
        conditions=conditions_message(terms.conditions),
        validity=validity_message(terms.validity),
    )


def fill_offer(
    message: pb.Offer,
    part: pb.Offer,
    choice: Choice,
    offer_id: str,
    expire_time: datetime,
    language: str = DEFAULT_LANGUAGE,
) -> None:
    """Fill an offer that stands in its answer."""
    currency = choice.product.terms.price.currency_code
    message.CopyFrom(part)
    message.offer_id = offer_id
    message.expire_time.CopyFrom(timestamp(expire_time))
    message.recommended = choice.recommended
    if choice.expected_saving_micros is not None:
        saving = Money(choice.expected_saving_micros, currency)
        message.expected_saving.CopyFrom(money_message(saving))
    if choice.break_even is not None:
        message.break_even.CopyFrom(_break_even_message(choice.break_even))
    for reason in choice.reasons:
        filled = message.reasons.add(
            code=enum_number(_REASON, reason.code),
            text=in_words(reason, currency, language),
        )
        for name, value in reason.figures.items():
            filled.figures.add(name=name, value=value)


def _break_even_message(break_even: BreakEven) -> pb.BreakEven:
    return pb.BreakEven(energy_wh=break_even.energy_wh, sessions=break_even.sessions)


def empty_reason_number(reason: EmptyReason | None) -> int:
    """Why there is no offer, as the proto has it."""
    return enum_number(_EMPTY, reason)


def fill_explanation(message: service_pb.OfferExplanation, explained: Explained) -> None:
    """Fill an explanation that stands in its answer."""
    product, worth = explained.product, explained.worth
    currency = product.terms.price.currency_code
    message.product_id = product.product_id
    message.product_revision = product.revision
    message.verdict = enum_number(_VERDICT, explained.verdict)  # type: ignore[assignment]
    if worth is None or explained.adjusted_saving is None:
        return
    message.hours_share = worth.hours_share
    message.places_share = worth.places_share
    message.covered_energy_wh = round(worth.covered_energy_wh)
    if not math.isnan(worth.expected_saving):
        message.harm_probability = worth.harm_probability
        for field, amount in (
            (message.expected_saving, worth.expected_saving),
            (message.adjusted_saving, explained.adjusted_saving),
        ):
            field.CopyFrom(money_message(Money(round(amount), currency)))
